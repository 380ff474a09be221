"""A made-up patient to try the module on: a chest CT with a tumour, made here in a second, without a download.

It looks like a chest as far as the module needs: skin, muscle, fat, ribs, spine, heart, lungs with vessels, and a
lobed tumour in the right upper lobe. It holds no data of a patient.
"""

from __future__ import annotations

import numpy as np

SHAPE = (60, 200, 240)  # [z, y, x]
SPACING_MM = (3.0, 1.5, 1.5)
_AIR, _LUNG, _FAT, _MUSCLE, _BLOOD, _BONE, _TUMOUR = -1000, -840, -95, 55, 40, 420, 35
_CENTER_MM = (105.0, 130.0, 115.0)  # of the tumour, [z, y, x] from the first voxel


def chest_ct(seed: int = 2020) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hu int16, tumour mask uint8, right lung mask uint8), each [z, y, x], of SHAPE and SPACING_MM.

    z to superior, y to posterior, x to the patient's left.
    """
    random = np.random.default_rng(seed)
    z, y, x = (index * step for index, step in zip(np.indices(SHAPE, dtype=np.float32), SPACING_MM))
    middle_y, middle_x, height = SHAPE[1] * SPACING_MM[1] / 2, SHAPE[2] * SPACING_MM[2] / 2, SHAPE[0] * SPACING_MM[0]
    up = z / height

    def ellipse(cy, cx, ry, rx):
        return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2

    body = ellipse(middle_y, middle_x, 112 - 14 * up, 160 - 26 * up)
    hu = np.full(SHAPE, _AIR, dtype=np.float32)
    hu[body < 1] = _FAT
    hu[body < 0.86] = _MUSCLE
    chest = ellipse(middle_y, middle_x, 92 - 12 * up, 128 - 24 * up)
    ribs = (np.abs(chest - 0.95) < 0.05) & (np.mod(z + 0.35 * (y - middle_y), 27) < 9)
    hu[ribs] = _BONE
    lungs = []
    for side in (-1, 1):
        lung = ellipse(middle_y - 2, middle_x + side * 62, 74 - 20 * up, 48 - 14 * up)
        lungs.append((lung < 1) & (chest < 0.9))
        hu[lungs[-1]] = _LUNG
    heart = ellipse(middle_y - 28, middle_x + 22, 42, 52) + ((up - 0.15) / 0.35) ** 2
    hu[heart < 1] = _BLOOD
    spine = ellipse(middle_y + 70, middle_x, 24, 22)
    hu[spine < 1] = _BONE * (0.55 + 0.45 * (spine[spine < 1] > 0.7))
    hu[ellipse(middle_y + 46, middle_x + 26, 12, 12) < 1] = _BLOOD  # aorta
    hu[ellipse(middle_y + 12, middle_x, 8, 9) < 1] = _AIR  # trachea
    lung = np.logical_or(*lungs) & (hu == _LUNG)
    hu[lung] += 90 * _speckle(random, (0.8, 1.2, 1.2))[lung]
    hu[lung & (_speckle(random, (1.2, 1.5, 1.5)) > 2.2)] = _BLOOD  # vessels cut across
    tumour = _tumour(z, y, x)
    hu[tumour] = _TUMOUR + 18 * _speckle(random, (1.5, 2.5, 2.5))[tumour]
    hu += random.normal(0, 14, SHAPE)
    right_lung = lungs[0] & ~tumour & (hu < -300)
    return np.clip(hu, -1024, 2000).astype(np.int16), tumour.astype(np.uint8), right_lung.astype(np.uint8)


def _tumour(z, y, x) -> np.ndarray:
    """A ball of 20 mm radius with lobes."""
    dz, dy, dx = z - _CENTER_MM[0], y - _CENTER_MM[1], x - _CENTER_MM[2]
    distance = np.sqrt(dz**2 + dy**2 + dx**2)
    azimuth, elevation = np.arctan2(dy, dx), np.arctan2(dz, np.hypot(dy, dx))
    return distance < 20 * (1 + 0.13 * np.sin(3 * azimuth + 1) * np.cos(2 * elevation) + 0.07 * np.cos(7 * azimuth))


def _speckle(random, sigma) -> np.ndarray:
    """Smooth noise with mean 0 and standard deviation 1."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(random.normal(size=SHAPE).astype(np.float32), sigma)
    return noise / noise.std()


def add_sample():
    """Put the patient into Slicer's scene; returns (volume node, segmentation node) with "Tumour" and "Right lung"."""
    import slicer
    import vtk

    hu, tumour, lung = chest_ct()
    matrix = vtk.vtkMatrix4x4()
    for axis, step in enumerate((SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0])):  # x grows to the right here
        matrix.SetElement(axis, axis, -step if axis == 0 else step)
    volume = slicer.util.addVolumeFromArray(hu, matrix, "Sample chest CT")
    volume.CreateDefaultDisplayNodes()
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(400, 40)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Sample contours")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name, mask, color in (("Tumour", tumour, (0.35, 0.8, 0.35)), ("Right lung", lung, (0.5, 0.7, 0.9))):
        segmentation.GetSegmentation().AddEmptySegment(name, name, color)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, name, volume)
    segmentation.GetDisplayNode().SetSegmentVisibility("Right lung", False)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume, segmentation
