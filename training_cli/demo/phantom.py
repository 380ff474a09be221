"""A made-up patient: a chest CT with a lung tumour, as DICOM series, DICOM SEG and RTSTRUCT.

It holds no data of a patient, so it can be shipped, shown and tested on. It is drawn from formulas (ellipses, tubes,
branching trees), bent by a smooth random field, blurred and given the noise of a scanner; the same seed gives the same
files.

Positions are in mm in the patient's DICOM directions: x to the left, y to posterior, z up, 0 in the middle.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)
from scipy.ndimage import binary_fill_holes, find_objects, gaussian_filter, gaussian_filter1d, label
from skimage.measure import find_contours

from CNNSurvivalLib.files import atomic_write, ensure_output_folder
from CNNSurvivalLib.slices import axial_geometry

SHAPE = (56, 448, 448)  # z, y, x
SPACING = (3.0, 0.8, 0.8)
TUMOUR, HEART = "GTV-1", "Heart"
TUMOUR_CENTER, TUMOUR_RADIUS = (-76.0, -26.0, 36.0), 18.5  # right upper lobe
CARINA_Z = 16.0
# Hounsfield units, venous phase after contrast agent
AIR, LUNG, FAT, SKIN, MUSCLE, BLOOD, HEART_MUSCLE = -1000.0, -865.0, -102.0, 5.0, 58.0, 165.0, 98.0
CORTEX, MARROW, CARTILAGE, DISC, LIVER = 620.0, 190.0, 105.0, 80.0, 108.0
NOISE_HU = 13.0
_PIXEL = SPACING[1]
_NODES = ((-19, 2, 34, 4.5), (-22, -4, 40, 3.5), (6, -14, 24, 4), (-4, 24, 2, 5), (20, 2, 22, 3.5))  # x, y, z, radius
# Parts of a slice (rows, columns) outside which there is no body, and nothing of the mediastinum: a matter of time.
_BODY, _CENTER = (slice(56, 390), slice(None)), (slice(39, 306), slice(135, 366))
_FAR = 99.0
_SMALLEST_OUTLINE_PX = 40  # the few voxels where a structure ends are not contoured


class Phantom(NamedTuple):
    """Where ``make_phantom`` left its files."""

    ct_folder: Path
    seg_path: Path
    rtstruct_path: Path


def make_phantom(folder, seed: int = 2020) -> Phantom:
    """Write the phantom below ``folder``: ct/*.dcm, segmentation.dcm (DICOM SEG) and structures.dcm (RTSTRUCT).

    The folder is made where it is missing; files of the same names are replaced. Raises CNNSurvivalError where it
    cannot be written.
    """
    anatomy = _draw(seed)
    folder = ensure_output_folder(folder)
    ct_folder = ensure_output_folder(folder / "ct")
    uids = _uids(seed)
    slices = [_ct_slice(plane, k, uids) for k, plane in enumerate(_scanned(anatomy.hu, seed))]
    for k, dataset in enumerate(slices):
        _save(dataset, ct_folder / f"{k + 1:04d}.dcm")
    phantom = Phantom(ct_folder, folder / "segmentation.dcm", folder / "structures.dcm")
    _save(_segmentation(slices, anatomy.structures, uids), phantom.seg_path)
    _save(_structure_set(slices, anatomy.structures, uids), phantom.rtstruct_path)
    return phantom


@dataclass(frozen=True)
class _Anatomy:
    """hu float32 [z, y, x]; structures: name -> how much of each voxel it fills, float32 [z, y, x] in 0..1."""

    hu: np.ndarray
    structures: dict


def phantom_arrays(seed: int = 2020) -> tuple[np.ndarray, dict, tuple, np.ndarray]:
    """(hu int16 [z, y, x], {"GTV-1": mask, "Heart": mask} uint8, spacing in mm (z, y, x), ijk_to_ras 4 x 4)."""
    return _arrays(_draw(seed), seed)


def _arrays(anatomy: _Anatomy, seed: int) -> tuple:
    masks = {name: _mask(field) for name, field in anatomy.structures.items()}
    return _scanned(anatomy.hu, seed), masks, SPACING, axial_geometry(SPACING, _origin_ras())


def _origin_ras() -> tuple:
    """RAS of voxel [0, 0, 0]."""
    z, y, x = (-(n - 1) / 2 * step for n, step in zip(SHAPE, SPACING))
    return -x, -y, z


def _mask(field: np.ndarray) -> np.ndarray:
    return (field >= 0.5).astype(np.uint8)


# --- Drawing tools --------------------------------------------------------------------------------------------


def _axis(size: int, step: float) -> np.ndarray:
    return ((np.arange(size) - (size - 1) / 2) * step).astype(np.float32)


def _coverage(distance: np.ndarray, softness: float = _PIXEL) -> np.ndarray:
    """How much of a pixel lies inside, from the signed distance (mm, negative inside) of its centre to the outline."""
    return np.clip(0.5 - distance / softness, 0, 1)


def _ellipse(x, y, center, radii, angle: float = 0.0, power: float = 2.0) -> np.ndarray:
    """Approximate signed distance in mm to a (super)ellipse turned by ``angle`` degrees."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    dx, dy = x - center[0], y - center[1]
    u, v = np.abs(c * dx + s * dy) / radii[0], np.abs(c * dy - s * dx) / radii[1]
    if power == 2.0:
        f = np.sqrt(u * u + v * v) + 1e-6
        return (f - 1) * f / (np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2) + 1e-6)
    du, dv = u ** (power - 1), v ** (power - 1)
    total = u * du + v * dv + 1e-6
    f = total ** (1 / power)
    du, dv = du / radii[0], dv / radii[1]
    return (f - 1) * total / (f * (np.sqrt(du * du + dv * dv) + 1e-6))


def _capsule(x, y, start, end, radius) -> np.ndarray:
    """Signed distance in mm to a thick line between two points of the plane."""
    line = np.subtract(end, start)
    along = np.clip(((x - start[0]) * line[0] + (y - start[1]) * line[1]) / (line @ line), 0, 1)
    return np.hypot(x - start[0] - along * line[0], y - start[1] - along * line[1]) - radius


def _paint(image: np.ndarray, coverage, value) -> None:
    image += coverage * (value - image)


def _at(z: float, *knots) -> list[float]:
    """Values at height z between knots (z, value, value, ...), given from below upwards."""
    # Python's floats, not NumPy's: those would turn every float32 picture that they meet into float64.
    height, *columns = zip(*knots)
    return [float(np.interp(z, height, column)) for column in columns]


def _chord(radius: float, offset: float) -> float:
    """Half width of a cylinder or ball that is cut ``offset`` beside its middle; 0.01 where it is missed."""
    return float(np.sqrt(max(radius * radius - offset * offset, 1e-4)))


def _smooth_field(rng, sigma, shape) -> np.ndarray:
    """Smooth random float32 field of unit variance, with bumps of about 2 ``sigma`` voxels."""
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, truncate=2.5)
    return field / field.std()


def _bend(rng) -> list:
    """Terms (weight, heights, rows, columns) of a slowly varying shift; their outer products are its field, in mm."""
    terms = []
    for _ in range(7):
        waves = [
            np.sin(_axis(size, step) * rng.uniform(-1, 1) * top + rng.uniform(0, 2 * np.pi))
            for size, step, top in zip(SHAPE, SPACING, (0.03, 0.045, 0.045))
        ]
        terms.append((2.2, *waves))
    return terms


def _shift(terms, k: int) -> np.ndarray:
    """The shift of slice k, float32 [y, x]."""
    return sum(np.outer(weight * heights[k] * rows, columns) for weight, heights, rows, columns in terms)


# --- The patient, slice by slice ------------------------------------------------------------------------------


def _draw(seed: int) -> _Anatomy:
    rng = np.random.default_rng(seed)
    hu = np.empty(SHAPE, np.float32)
    lung, heart = np.empty(SHAPE, np.float32), np.empty(SHAPE, np.float32)
    y, x = np.meshgrid(_axis(SHAPE[1], SPACING[1]), _axis(SHAPE[2], SPACING[2]), indexing="ij")
    bend_x, bend_y = _bend(rng), _bend(rng)
    grain = _smooth_field(rng, (0.7, 1.6, 1.6), SHAPE)

    def draw(k: int) -> None:
        # Everything is drawn in bent coordinates, so nothing has the outline of a compass.
        bent = x + _shift(bend_x, k), y + _shift(bend_y, k)
        hu[k], lung[k], heart[k] = _draw_slice(*bent, x, y, (k - (SHAPE[0] - 1) / 2) * SPACING[0], grain[k])

    with ThreadPoolExecutor(max_workers=4) as pool:  # slices know nothing of one another
        list(pool.map(draw, range(SHAPE[0])))
    _draw_lung_trees(hu, lung, rng)
    tumour = _draw_tumour(hu, lung, rng)
    return _Anatomy(hu, {TUMOUR: tumour, HEART: _tidied(heart)})


def _draw_slice(x, y, straight_x, straight_y, z: float, grain) -> tuple:
    """(hu, lung coverage, heart coverage) of one slice."""
    image, lung, heart = np.full(x.shape, AIR, np.float32), np.zeros_like(x), np.zeros_like(x)
    _draw_table(image, straight_x, straight_y)
    lung[_BODY], heart[_BODY] = _draw_body(image[_BODY], x[_BODY], y[_BODY], z, grain[_BODY])
    return image, lung, heart


def _draw_body(image, x, y, z, grain) -> tuple:
    """(lung coverage, heart coverage)"""
    cage = _cage(x, y, z)
    _draw_wall(image, x, y, z, cage, grain)
    _paint(image, _coverage(cage + 5), FAT + 4 * grain)  # what is not lung inside the cage
    center = tuple(part[_CENTER] for part in (image, x, y))
    mediastinum = np.full_like(x, _FAR)
    mediastinum[_CENTER] = _mediastinum(*center[1:], z)
    lung = _lung_coverage(x, y, z, cage, mediastinum)
    _paint(image, lung, LUNG + 0.35 * (y - 10) + 14 * grain)
    _draw_fissures(image, x, y, z, lung)
    _draw_spine(*center, z, grain[_CENTER])
    _draw_ribs(image, x, y, z, cage, grain)
    heart = np.zeros_like(x)
    heart[_CENTER] = _draw_heart(*center, z, grain[_CENTER])
    _draw_sternum(*center, z, grain[_CENTER])
    _draw_vessels(*center, z)
    _draw_airways(*center, z)
    _draw_liver(image, x, y, z, cage, mediastinum, grain)
    return lung, heart


def _cage(x, y, z: float) -> np.ndarray:
    """Signed distance to the sheet in which the ribs lie."""
    rx, ry, cy = _at(z, (-84, 139, 94, -2), (0, 135, 90, 0), (50, 122, 82, 4), (84, 103, 70, 10))
    return _ellipse(x, y, (0, cy), (rx, ry), power=2.35)


def _draw_wall(image, x, y, z, cage, grain) -> None:
    rx, ry, cy = _at(z, (-84, 162, 115, -5), (10, 165, 114, -4), (84, 169, 108, 0))
    body = _ellipse(x, y, (0, cy), (rx, ry), power=2.3)
    furrow = 9 * np.exp(-((x / 16) ** 2)) * (y > 60)  # the back's midline
    body = body + furrow
    _paint(image, _coverage(body), SKIN)
    _paint(image, _coverage(body + 2.0), FAT + 5 * grain)
    angle = np.degrees(np.arctan2(np.abs(x), y))  # 0 at the spine, 180 at the sternum
    room = -body - 9 - 6 * np.sin(np.radians(angle)) ** 2  # what the skin's fat leaves
    muscle = MUSCLE + 7 * grain
    for center, width, inner, thickness in _muscles(z):
        profile = np.exp(-np.square(np.square((angle - center) / width)))
        band = np.maximum(np.abs(cage - inner - thickness / 2) - thickness / 2 * profile, -room)
        _paint(image, _coverage(np.where(profile > 0.15, band, 9)), muscle)
    _draw_scapula(image, z, cage, angle, grain)
    _paint(image, _coverage(np.maximum(np.abs(cage + 0.5) - 4.2, -room)), muscle - 12)  # between the ribs
    for side in (-1, 1):  # along the spine
        _paint(image, _coverage(_ellipse(x, y, (side * 27, 90), (21, 14), side * 12)), muscle)


def _muscles(z: float) -> list:
    """(angle, half width in degrees, distance from the cage, thickness in mm) of the chest wall's muscles."""
    (upper,) = _at(z, (-84, 0.0), (-20, 0.35), (40, 1.0), (84, 1.0))
    return [
        (146, 24, 6.0, 4 + 14 * upper),  # pectoralis major
        (128, 17, 4.5, 6.5 * upper),  # pectoralis minor, below it
        (92, 36, 4.5, 6.0),  # serratus anterior
        (66, 22, 12.0, 14 - 3 * upper),  # latissimus dorsi
        (47, 19, 5.0, 10 * upper),  # subscapularis
        (43, 21, 20.0, 11 * upper),  # infraspinatus
        (14, 22, 11.0, 5.0),  # trapezius
    ]


def _draw_scapula(image, z, cage, angle, grain) -> None:
    if z < -35:
        return
    (half,) = _at(z, (-35, 2.0), (0, 12.0), (84, 17.0))
    sheet = np.abs(cage - 17.5 - 2 * np.sin(np.radians(6 * angle)))
    thickness = 2.2 + 2.2 * np.clip((angle - 46 - half / 2) / half, 0, 1)
    blade = np.maximum(sheet - thickness, (np.abs(angle - 46) - half) * 2)
    _draw_bone(image, blade, 1.6, grain, 300)


def _draw_bone(image, distance, cortex_mm, grain, marrow=MARROW) -> None:
    _paint(image, _coverage(distance), CORTEX + 40 * grain)
    _paint(image, _coverage(distance + cortex_mm, 1.4), marrow + 28 * grain)


def _draw_ribs(image, x, y, z, cage, grain) -> None:
    """All ribs at once: bands in the cage's sheet that sink on their way from the spine to the sternum."""
    angle = np.degrees(np.arctan2(np.abs(x), y - 12))
    way = np.clip((angle - 14) / 150, 0, 1)
    height = z + 86 * way + 26 * way * (1 - way) + 2.5 * np.sign(x)
    off = np.abs((height / 24 - np.floor(height / 24)) - 0.5) * 24
    rib = (np.sqrt((off / 7.2) ** 2 + ((cage + 0.5) / 4.3) ** 2) - 1) * 4.3
    bone = np.where((angle > 16) & (angle < 142), rib, 9)
    cartilage = np.where((angle >= 142) & (angle < 166), rib, 9)
    _paint(image, _coverage(cartilage), CARTILAGE + 10 * grain)
    _draw_bone(image, bone, 1.5, grain)


def _draw_sternum(image, x, y, z, grain) -> None:
    width, height, cy = _at(z, (-84, 13, 5, -95), (20, 16, 6, -92), (62, 22, 7.5, -84), (84, 30, 8, -72))
    _draw_bone(image, _ellipse(x, y, (0, cy), (width, height), power=2.6), 1.4, grain, 130)


def _draw_spine(image, x, y, z, grain) -> None:
    """A vertebra, or the disc between two; the spinous process comes down from the one above."""
    image, x, y, grain = (part[150:] for part in (image, x, y, grain))  # the front half has none of it
    level = (z + 6) / 25 - np.floor((z + 6) / 25)  # 0..1 from one disc to the next
    body = np.maximum(_ellipse(x, y, (0, 54), (17.5, 15), power=2.4), 11.5 - np.hypot(x, (y - 78) * 1.1))
    if level < 0.2:
        _paint(image, _coverage(body), DISC + 8 * grain)
    elif level < 0.3 or level > 0.92:  # end plates
        _paint(image, _coverage(body), 430 + 60 * grain)
    else:
        _draw_bone(image, body, 1.3, grain)
    arch = np.abs(np.hypot(x, (y - 77) * 1.05) - 12.5) - 3
    for side in (-1, 1):
        reach = 40 if 0.45 < level < 0.9 else 20
        arch = np.minimum(arch, _capsule(x, y, (side * 13, 78), (side * reach, 86), 4.2))
    if 0.3 < level < 0.92:  # pedicles close the ring only at half height
        _draw_bone(image, arch, 1.8, grain, 260)
    else:
        _draw_bone(image, np.where(y > 80, arch, 9), 1.8, grain, 260)
    length = 84 + 22 * ((1.35 - level) % 1.0)
    _draw_bone(image, _capsule(x, y, (0, 90), (0, length + 4), 3.2), 1.4, grain, 260)
    canal = _ellipse(x, y, (0, 77), (9.6, 8.8))
    _paint(image, _coverage(canal), 14)
    _paint(image, _coverage(_ellipse(x, y, (0, 77), (5, 4))), 42)


def _draw_table(image, x, y) -> None:
    """The couch: a shallow shell of carbon fibre around foam."""
    top = y - 119 + 0.0016 * x**2
    shell = np.maximum(np.maximum(-top, top - 34 + 0.0028 * x**2), np.abs(x) - 205)
    _paint(image, _coverage(shell), -560)
    _paint(image, _coverage(shell + 1.6), -950)


# --- Lungs and mediastinum ------------------------------------------------------------------------------------


def _lung_coverage(x, y, z, cage, mediastinum) -> np.ndarray:
    pleura = np.maximum(cage + 6.2, -mediastinum)
    return _coverage(np.maximum(pleura, -_liver(x, y, z) - 1.5), 1.0)


def _draw_fissures(image, x, y, z, lung) -> None:
    """The oblique fissure of each lung: a faint band, because it passes a slice at a slant."""
    for side, slope in ((-1, 0.85), (1, 0.95)):
        sheet = np.abs(y - 6 - slope * z + 0.0012 * (x - side * 75) ** 2) * 0.72 - 0.5
        _paint(image, 0.13 * lung * _coverage(sheet, 2.4) * (x * side > 20), -250)


def _mediastinum(x, y, z) -> np.ndarray:
    """Signed distance to all between the lungs, with its fat."""
    spine = _ellipse(x, y, (0, 72), (25, 34), power=2.4)
    cx, cy, rx, ry = _at(
        z, (-84, 4, 8, 30, 34), (-10, 0, 4, 34, 38), (18, 2, -6, 32, 40), (40, 2, -8, 34, 42), (84, 0, 2, 34, 46)
    )  # fmt: skip
    parts = [spine, _ellipse(x, y, (cx, cy), (rx, ry))]
    fx, fw = _at(z, (-84, 6, 26), (-20, 6, 12), (30, 4, 5), (60, 2, 14), (84, 0, 30))
    parts.append(_capsule(x, y, (fx, -95), (fx / 2, -30), fw))  # fat behind the sternum
    parts.append(_ellipse(x, y, (21, 40), (17, 17)))  # around the descending aorta
    parts.append(_heart_outline(x, y, z) - 4.0)
    for side in (-1, 1):  # hila
        (size,) = _at(z, (-45, 0.1), (-12, 15), (6, 17), (26, 8), (34, 0.1))
        parts.append(_ellipse(x, y, (side * 37, 4), (size * 1.05, size * 0.9)))
    distance = parts[0]
    for part in parts[1:]:
        distance = _joined(distance, part, 9.0)
    return distance


def _joined(a, b, width) -> np.ndarray:
    """Distance to the union of two shapes with the corner between them filled."""
    overlap = np.clip(width - np.abs(a - b), 0, None)
    return np.minimum(a, b) - overlap * overlap / (4 * width)


def _heart_ellipse(z: float) -> tuple:
    """(centre, radii, angle) of the heart at height z."""
    part = _chord(1.0, (z + 66) / 60)
    cx, cy, angle = _at(z, (-84, 30, -36, 26), (-40, 20, -30, 24), (-5, 8, -24, 20))
    return (cx, cy), (66 * part, 46 * part), angle


def _heart_outline(x, y, z: float) -> np.ndarray:
    return _ellipse(x, y, *_heart_ellipse(z))


def _draw_heart(image, x, y, z, grain) -> np.ndarray:
    """Draw the chambers in their muscle; returns the coverage."""
    outline = _heart_outline(x, y, z)
    if z > -10:
        return np.zeros_like(image)
    coverage = _coverage(outline)
    _paint(image, coverage, HEART_MUSCLE + 6 * grain)
    blood = BLOOD + 5 * grain
    (lower,) = _at(z, (-84, 1.0), (-30, 0.25), (-10, 0.0))
    chambers = (
        ((48, -22), (31 * lower + 2, 19 * lower + 2), 28),  # left ventricle
        ((14, -58), (33 * lower + 9, 14), -18 + 20),  # right ventricle
        ((-24, -24), (17, 24), -8),  # right atrium
        ((14, 4), (32, 17 - 6 * lower), 4),  # left atrium
    )
    for center, radii, angle in chambers:
        _paint(image, _coverage(np.maximum(_ellipse(x, y, center, radii, angle), outline + 3.5), 2.0), blood)
    center, radii, turn = _heart_ellipse(z)
    for angle in (95, 190, 262):  # grooves in its surface: fat, with a coronary artery in it
        u, v = radii[0] * math.cos(math.radians(angle)), radii[1] * math.sin(math.radians(angle))
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        place = center[0] + c * u - s * v, center[1] + s * u + c * v
        _paint(image, _coverage(_ellipse(x, y, place, (8, 4.5), turn + angle + 90)), FAT)
        _paint(image, _coverage(_ellipse(x, y, place, (1.6, 1.6))), BLOOD + 30)
    return np.where(image > 0, coverage, 0)


def _draw_vessels(image, x, y, z) -> None:
    """Aorta, vena cava, pulmonary arteries, the vessels to head and arms, oesophagus, a few lymph nodes."""
    if z < 52:
        _vessel(image, x, y, (21 - max(0.0, (z - 20) / 5), 40), 12.5)  # descending aorta
    if -32 < z < 38:
        _vessel(image, x, y, _at(z, (-32, 2, -26), (0, -16, -34), (38, -14, -28)), 16.5)  # ascending aorta
    if 36 <= z < 49:  # the arch
        _paint(image, _coverage(_capsule(x, y, (-12, -26), (17, 30), _chord(13.5, max(0.0, z - 38)))), BLOOD)
        if 40 < z < 47:
            _paint(image, _coverage(_capsule(x, y, (24, 10), (27, 20), 1.2)), 640)  # calcified plaque
    if z >= 50:
        for low, high, radius in (((-11, -22), (-20, -12), 7.5), ((7, -9), (12, 0), 4.8), ((16, 8), (24, 14), 5.4)):
            way = (z - 50) / 34
            _vessel(image, x, y, [a + way * (b - a) for a, b in zip(low, high)], radius)
    if z > 46:  # left brachiocephalic vein
        _vessel(image, x, y, _at(z, (46, -6, -44), (84, 34, -30)), 7.0)
    if z > -34:
        _vessel(image, x, y, _at(z, (-34, -28, -14), (20, -29, -20), (84, -31, -16)), 10.0, BLOOD + 25)  # vena cava
    else:
        _vessel(image, x, y, _at(z, (-84, -26, 10), (-34, -28, -6)), 12.0, BLOOD - 15)
    if -14 < z < 12:  # pulmonary trunk and its branches
        _vessel(image, x, y, _at(z, (-14, 14, -48), (12, 17, -34)), 14.5)
    if -6 < z < 10:
        _paint(image, _coverage(_capsule(x, y, (17, -28), (-40, 2), _chord(9.5, z - 2))), BLOOD)
    if -3 < z < 13:
        _paint(image, _coverage(_capsule(x, y, (19, -30), (42, 10), _chord(9.5, z - 5))), BLOOD)
    if -30 < z < -10:  # pulmonary veins into the left atrium
        for side in (-1, 1):
            _paint(image, _coverage(_capsule(x, y, (side * 10, 6), (side * 46, -4 * side), _chord(6.5, z + 20))), BLOOD)
    _paint(image, _coverage(_ellipse(x, y, (5, 33), (8, 5.5), 10)), 48)  # oesophagus
    if 10 < z < 60:
        _paint(image, _coverage(_ellipse(x, y, (9, 33), (1.4, 0.9))), -500)  # with a little air
    _vessel(image, x, y, (-8, 36), 3.6, BLOOD - 10)  # azygos
    for nx, ny, nz, radius in _NODES:
        if abs(z - nz) < radius:
            _paint(image, _coverage(_ellipse(x, y, (nx, ny), (radius * 1.3, radius))), 62)


def _vessel(image, x, y, center, radius, value=BLOOD) -> None:
    distance = np.hypot(x - center[0], y - center[1]) - radius
    _paint(image, _coverage(distance - 1), 55)
    _paint(image, _coverage(distance), value)


def _draw_airways(image, x, y, z) -> None:
    """Trachea and main bronchi: air in a wall."""
    if z > CARINA_Z:
        widen = 5 * max(0.0, 1 - (z - CARINA_Z) / 9)
        lumens = [_ellipse(x, y, (-3, 14 - 0.08 * (z - 16)), (9.2 + widen, 9.8))]
    elif z > CARINA_Z - 34:
        way = (CARINA_Z - z) / 34
        lumens = [
            _ellipse(x, y, (-10 - 26 * min(1, way * 1.3), 15), (8.5 - 2 * way + 3 * (way < 0.3), 7.2 - 1.5 * way)),
            _ellipse(x, y, (6 + 32 * way, 16), (8.5 - 2 * way, 6.6 - 1.6 * way)),
        ]
    else:
        way = min(1.0, (CARINA_Z - 34 - z) / 40)
        lumens = [_ellipse(x, y, (side * (39 + 9 * way), 18 + 10 * way), [5.2 - 2.6 * way] * 2) for side in (-1, 1)]
    for lumen in lumens:
        _paint(image, _coverage(lumen - 1.6), 40)
        _paint(image, _coverage(lumen), AIR + 8)


def _liver(x, y, z) -> np.ndarray:
    """Signed distance to the dome of liver and diaphragm."""
    return np.sqrt(((x + 66) / 1.1) ** 2 + ((y + 2) / 1.0) ** 2 + (z + 152) ** 2) - 84


def _draw_liver(image, x, y, z, cage, mediastinum, grain) -> None:
    dome = np.maximum(_liver(x, y, z), cage + 6)
    if dome.min() < 2:
        _paint(image, _coverage(dome) * _coverage(-mediastinum), LIVER + 8 * grain)


# --- Lung vessels and bronchi ---------------------------------------------------------------------------------


def _draw_lung_trees(hu, lung, rng) -> None:
    """Two trees (arteries and veins) and the bronchi of each lung, grown to points spread over it."""
    deep = gaussian_filter(lung[:, ::4, ::4], (0.8, 1.5, 1.5)) > 0.86
    places = np.argwhere(deep).astype(np.float64) * (1, 4, 4)
    points = (places - (np.array(SHAPE) - 1) / 2) * SPACING  # z, y, x in mm
    for side in (-1, 1):
        own = points[points[:, 2] * side > 0]
        for root, count, leaf, power in (((2, 2, 40), 360, 0.66, 2.55), ((-16, 0, 42), 240, 0.64, 2.55)):
            targets = own[rng.choice(len(own), count, replace=False)] + rng.uniform(-1.5, 1.5, (count, 3))
            for start, end, radius in _tree(np.array(root) * (1, 1, side), targets, leaf, power):
                _draw_tube(hu, lung, start, end, radius, 40 + 110 * min(1, radius / 3))
        targets = own[rng.choice(len(own), 60, replace=False)]
        for start, end, radius in _tree(np.array((-4, 14, side * 38)), targets, 0.75, 3.0):
            if radius > 0.95:  # finer ones no CT shows
                _draw_tube(hu, lung, start, end, radius * 1.25 + 0.9, -60)
                _draw_tube(hu, lung, start, end, radius * 1.1, -985)


def _tree(root, targets, leaf_mm, power) -> list:
    """[(start, end, radius)] of tubes from the root to every target, thicker where more of them go on (Murray)."""
    order = np.argsort(np.linalg.norm(targets - root, axis=1))
    nodes, parents, lengths = [root.astype(float)], [-1], [0.0]
    for target in targets[order]:
        known = np.array(nodes)
        step = np.linalg.norm(known - target, axis=1)
        # Not too long a way from the root, not too much vessel: between a star and a shortest tree.
        best = int(np.argmin(step + 0.55 * np.array(lengths)))
        middle = known[best] + 0.5 * (target - known[best]) + 0.06 * step[best] * np.array([0.3, 1, -1])
        nodes += [middle, target]
        parents += [best, len(nodes) - 2]
        lengths += [lengths[best] + step[best] / 2, lengths[best] + step[best]]
    load = np.zeros(len(nodes))
    for n in range(len(nodes) - 1, 0, -1):
        load[n] = max(load[n], 1.0)
        load[parents[n]] += load[n]
    return [(nodes[p], nodes[n], leaf_mm * load[n] ** (1 / power)) for n, p in enumerate(parents) if p >= 0]


def _draw_tube(hu, where, start, end, radius, value, end_radius=None) -> None:
    """Draw a tube between two points (z, y, x in mm) where ``where`` is 1; one finer than a voxel gets fainter."""
    box, coverage = _tube(start, end, radius, radius if end_radius is None else end_radius)
    _paint(hu[box], coverage * where[box], value)


def _tube(start, end, radius: float, end_radius: float) -> tuple:
    """(box of voxels around the tube, how much of each it fills)."""
    box = _box(np.minimum(start, end) - radius - 2, np.maximum(start, end) + radius + 2)
    z, y, x = (part.astype(np.float64) for part in _grid(box))
    line = np.subtract(end, start)
    along = ((z - start[0]) * line[0] + (y - start[1]) * line[1] + (x - start[2]) * line[2]) / (line @ line)
    along = np.clip(along, 0, 1)
    # A slice is 3 mm thick: what passes through part of it shows in part.
    dz = np.maximum(np.abs(z - start[0] - along * line[0]) - 0.7, 0)
    dy, dx = y - start[1] - along * line[1], x - start[2] - along * line[2]
    distance = np.sqrt(dz * dz + dy * dy + dx * dx) - (radius + along * (end_radius - radius))
    return box, _coverage(distance, 1.1).astype(np.float32)


def _box(low, high) -> tuple:
    """The voxels between two corners (z, y, x in mm), as slices."""
    ranges = []
    for a, b, size, step in zip(low, high, SHAPE, SPACING):
        middle = (size - 1) / 2
        ranges.append(slice(max(0, int(np.floor(a / step + middle))), max(0, int(np.ceil(b / step + middle)) + 1)))
    return tuple(ranges)


def _grid(box) -> list:
    """z, y and x in mm of a box of voxels, each to be broadcast."""
    axes = [_axis(size, step)[part] for size, step, part in zip(SHAPE, SPACING, box)]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


# --- Tumour ---------------------------------------------------------------------------------------------------


def _draw_tumour(hu, lung, rng) -> np.ndarray:
    """Draw the lobulated mass with its necrotic core and spicules; returns its coverage, roots of spicules included."""
    center = np.array(TUMOUR_CENTER[::-1])
    box = _box(center - 40, center + 40)
    z, y, x = (part - c for part, c in zip(_grid(box), center))
    radius = np.sqrt(z * z + y * y + x * x) + 1e-3
    surface = TUMOUR_RADIUS * (1 + _bumps(z / radius, y / radius, x / radius, rng))
    core = _coverage(radius - surface, 1.2).astype(np.float32)
    texture = _smooth_field(rng, (1.0, 2.2, 2.2), radius.shape)
    necrosis = _coverage(radius + 1.6 * texture - 0.52 * surface, 7.0)
    whole = np.zeros(SHAPE, np.float32)
    whole[box] = core
    halo = np.clip(1 - (radius - surface) / 4.0, 0, 1) ** 2 * lung[box] * 0.3
    _paint(hu[box], halo, -150)
    _draw_spicules(hu, lung, whole, center, rng)
    _paint(hu[box], core, 64 + 9 * texture - 42 * necrosis)
    return _tidied(whole)


def _bumps(z, y, x, rng):
    """What a direction adds to the mass's radius, as a fraction: a few lobes and many small bumps."""
    total = 0.0
    for spread, height in [(1.6, 0.075)] * 8 + [(5.0, 0.032)] * 12:
        wave, phase = rng.normal(0, spread, 3), rng.uniform(0, 2 * np.pi)
        total = total + height * np.cos(wave[0] * z + wave[1] * y + wave[2] * x + phase)
    return total


def _draw_spicules(hu, lung, whole, center, rng) -> None:
    for n in range(52):
        direction = rng.normal(0, (0.6, 1, 1))
        direction /= np.linalg.norm(direction)
        base = center + direction * (TUMOUR_RADIUS - 4)
        length = rng.uniform(9, 18) if n < 46 else rng.uniform(24, 34)  # a few reach the pleura
        tip = base + direction * length + rng.normal(0, 1.8, 3)
        width = rng.uniform(1.0, 2.2)
        _draw_tube(hu, lung, base, tip, width, 15, 0.25)
        # A person's contour follows a spicule for a few mm only.
        box, root = _tube(base, base + 0.35 * (tip - base), 0.8 * width, 0.6 * width)
        np.maximum(whole[box], root, out=whole[box])


def _tidied(coverage: np.ndarray) -> np.ndarray:
    """Without holes and islands in its slices, and with an outline that runs between voxels, as a person draws it."""
    (box,) = find_objects((coverage > 0.01).astype(np.int8))
    box = (box[0], *(slice(part.start - 4, part.stop + 4) for part in box[1:]))
    result, smooth = np.zeros_like(coverage), gaussian_filter(coverage[box], (0.0, 0.9, 0.9))
    for plane in smooth:
        inside = plane >= 0.5
        filled = binary_fill_holes(inside)
        plane[filled & ~inside] = 1.0
        parts, count = label(filled)
        if count > 1:
            plane[filled & (parts != 1 + np.argmax(np.bincount(parts.ravel())[1:]))] = 0.0
        if filled.sum() < _SMALLEST_OUTLINE_PX:
            plane[:] = 0.0
    result[box] = smooth
    return result


# --- The scanner ----------------------------------------------------------------------------------------------


def _scanned(hu: np.ndarray, seed: int) -> np.ndarray:
    """int16 HU as a scanner gives them: blurred a little, with noise that is correlated over a few pixels."""
    rng = np.random.default_rng([seed, 1])
    sharp = gaussian_filter1d(gaussian_filter(hu, (0, 0.55, 0.55)), 0.35, axis=0)
    noise = rng.standard_normal(SHAPE, dtype=np.float32)
    noise = gaussian_filter1d(noise, 0.45, axis=0)
    noise = gaussian_filter(noise, (0, 0.75, 0.75)) - gaussian_filter(noise, (0, 2.6, 2.6), truncate=3)
    noise *= NOISE_HU / noise.std()
    y, x = np.meshgrid(_axis(SHAPE[1], SPACING[1]), _axis(SHAPE[2], SPACING[2]), indexing="ij")
    # More of it where the rays have passed more tissue: least at the skin, most in the middle.
    sharp += noise * (0.55 + 0.6 * np.exp(-((x / 110) ** 2) - (y / 85) ** 2)).astype(np.float32)
    return np.rint(np.clip(sharp, -1024, 3071)).astype(np.int16)


# --- DICOM ----------------------------------------------------------------------------------------------------

_DATE, _TIME = "20200101", "120000"
_PATIENT_NAME, _PATIENT_ID = "Phantom^CNNSurvival", "PHANTOM"
_INTERCEPT = -1024
_COLOURS = {TUMOUR: (230, 60, 40), HEART: (60, 150, 220)}


def _uids(seed: int):
    """A function from a name to its UID: the same for the same seed, so the files can be compared byte by byte."""
    return lambda name: generate_uid(entropy_srcs=["CNNSurvival phantom", str(seed), str(name)])


def _dataset(sop_class, sop_uid: str) -> FileDataset:
    """An empty DICOM file with the tags of patient and study."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = _PATIENT_NAME, _PATIENT_ID
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientAge = "", "O", "065Y"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = _DATE, _TIME, "1"
    dataset.StudyDescription, dataset.AccessionNumber, dataset.ReferringPhysicianName = "Chest CT (phantom)", "", ""
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = "CNNSurvival", "Phantom", "1"
    return dataset


def _ct_slice(plane: np.ndarray, k: int, uids) -> FileDataset:
    left, posterior, z = _position(k)
    ct = _dataset(CTImageStorage, uids(f"ct {k}"))
    ct.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ct.Modality, ct.StudyInstanceUID, ct.SeriesInstanceUID = "CT", uids("study"), uids("ct series")
    ct.FrameOfReferenceUID, ct.PositionReferenceIndicator = uids("frame of reference"), ""
    ct.SeriesNumber, ct.InstanceNumber, ct.AcquisitionNumber = 2, k + 1, 1
    ct.SeriesDescription, ct.BodyPartExamined, ct.PatientPosition = "Chest 3.0 mm (phantom)", "CHEST", "HFS"
    for name in ("Series", "Acquisition", "Content"):
        setattr(ct, name + "Date", _DATE)
        setattr(ct, name + "Time", _TIME)
    ct.KVP, ct.XRayTubeCurrent, ct.ConvolutionKernel, ct.ContrastBolusAgent = 120, 200, "STANDARD", "Iodine (phantom)"
    ct.SliceThickness = ct.SpacingBetweenSlices = SPACING[0]
    ct.PixelSpacing = [SPACING[1], SPACING[2]]
    ct.ImageOrientationPatient, ct.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [left, posterior, z]
    ct.SliceLocation, ct.ReconstructionDiameter = z, round(SHAPE[2] * SPACING[2], 1)
    ct.SamplesPerPixel, ct.PhotometricInterpretation = 1, "MONOCHROME2"
    ct.Rows, ct.Columns = plane.shape
    ct.BitsAllocated, ct.BitsStored, ct.HighBit, ct.PixelRepresentation = 16, 12, 11, 0
    ct.RescaleIntercept, ct.RescaleSlope, ct.RescaleType = _INTERCEPT, 1, "HU"
    ct.WindowCenter, ct.WindowWidth = 40, 400
    ct.PixelData = (plane - _INTERCEPT).astype("<u2").tobytes()
    return ct


def _position(k: int) -> tuple:
    """Image position (patient) of slice k: left, posterior, superior in mm."""
    right, anterior, superior = _origin_ras()
    return round(-right, 3), round(-anterior, 3), round(superior + k * SPACING[0], 3)


def _save(dataset, path: Path) -> None:
    with atomic_write(path, "wb") as stream:
        dataset.save_as(stream, enforce_file_format=True)


def _segmentation(slices: list, structures: dict, uids):
    """DICOM SEG with one segment per structure."""
    import highdicom as hd
    from pydicom.sr.coding import Code

    neoplasm = Code("108369006", "SCT", "Neoplasm"), Code("49755003", "SCT", "Morphologically Abnormal Structure")
    heart = Code("80891009", "SCT", "Heart"), Code("123037004", "SCT", "Anatomical Structure")
    segments = []
    for number, (name, (kind, category)) in enumerate({TUMOUR: neoplasm, HEART: heart}.items(), start=1):
        segments.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=category,
                segmented_property_type=kind,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
                tracking_uid=uids(f"tracking {name}"),
                tracking_id=name,
                display_color=hd.color.CIELabColor.from_rgb(*_COLOURS[name]),
            )
        )
    segmentation = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=np.stack([_mask(structures[name]) for name in (TUMOUR, HEART)], axis=-1),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=uids("seg series"),
        series_number=3,
        sop_instance_uid=uids("seg"),
        instance_number=1,
        manufacturer="CNNSurvival",
        manufacturer_model_name="Phantom",
        software_versions="1",
        device_serial_number="0",
        content_label="PHANTOM",
        content_description="Tumour and heart of the phantom",
        series_description="Segmentation (phantom)",
    )
    return _without_time(segmentation, uids)


def _without_time(dataset, uids):
    """Replace what highdicom takes from the clock and from chance."""
    organization = uids("dimensions")
    for element in dataset.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = organization
        elif element.VR == "DA" and element.value:
            element.value = _DATE
        elif element.VR == "TM" and element.value:
            element.value = _TIME
        elif element.VR == "DT" and element.value:
            element.value = _DATE + _TIME
    return dataset


def _structure_set(slices: list, structures: dict, uids) -> FileDataset:
    """RTSTRUCT with the same structures as closed contours that run between voxels."""
    rt = _dataset(RTStructureSetStorage, uids("rtstruct"))
    rt.Modality, rt.StudyInstanceUID, rt.SeriesInstanceUID = "RTSTRUCT", uids("study"), uids("rtstruct series")
    rt.FrameOfReferenceUID, rt.PositionReferenceIndicator = slices[0].FrameOfReferenceUID, ""
    rt.SeriesNumber, rt.InstanceNumber, rt.SeriesDescription = 4, 1, "Structures (phantom)"
    rt.StructureSetLabel, rt.StructureSetDate, rt.StructureSetTime = "PHANTOM", _DATE, _TIME
    rt.OperatorsName = ""
    rt.ReferencedFrameOfReferenceSequence = [_referenced_frame(slices)]
    rt.StructureSetROISequence = []
    rt.ROIContourSequence = []
    rt.RTROIObservationsSequence = []
    for number, (name, kind) in enumerate({TUMOUR: "GTV", HEART: "ORGAN"}.items(), start=1):
        rt.StructureSetROISequence.append(
            _tags(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=slices[0].FrameOfReferenceUID,
                ROIName=name,
                ROIGenerationAlgorithm="MANUAL",
            )  # fmt: skip
        )
        rt.ROIContourSequence.append(
            _tags(
                ROIDisplayColor=list(_COLOURS[name]),
                ReferencedROINumber=number,
                ContourSequence=list(_contours(structures[name], slices)),
            )  # fmt: skip
        )
        rt.RTROIObservationsSequence.append(
            _tags(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType=kind, ROIInterpreter="")
        )
    rt.ApprovalStatus = "UNAPPROVED"
    return rt


def _referenced_frame(slices: list) -> Dataset:
    series = _tags(
        SeriesInstanceUID=slices[0].SeriesInstanceUID,
        ContourImageSequence=[_reference_to(dataset) for dataset in slices],
    )
    study = _tags(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, as planning systems write
        ReferencedSOPInstanceUID=slices[0].StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _tags(FrameOfReferenceUID=slices[0].FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _reference_to(dataset) -> Dataset:
    return _tags(ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID=dataset.SOPInstanceUID)


def _contours(field: np.ndarray, slices: list):
    """Contour items, slice by slice: where the coverage [z, y, x] passes one half, between the voxels."""
    for plane, ct in zip(field, slices):
        left, posterior, z = (float(value) for value in ct.ImagePositionPatient)
        for line in find_contours(np.pad(plane, 1), 0.5):
            points = line[:-1] - 1  # the last is the first again; one pixel was padded
            x, y = left + points[:, 1] * SPACING[2], posterior + points[:, 0] * SPACING[1]
            data = np.stack([x, y, np.full_like(x, z)], axis=1)
            yield _tags(
                ContourImageSequence=[_reference_to(ct)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(data),
                ContourData=[f"{value:.3f}" for value in data.ravel()],
            )


def _tags(**values) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset
