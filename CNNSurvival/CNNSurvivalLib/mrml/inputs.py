"""CT and mask from nodes: a volume node and a segment as arrays on the CT's grid.

Works on copies: nothing is converted inside the segmentation, no transform is hardened, no temporary node is made, so
that neither the user's nodes nor their scene change.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import replace
from typing import Optional

import numpy as np

from ..errors import Cancelled, CNNSurvivalError, NotACT
from ..prediction import Prediction, predict
from ..slices import bounding_box
from .nodes import drawn_on, hierarchy_of, segments_of

SEGMENT_SHA256 = "segment_sha256"  # of the provenance: ``mask_checksum`` of the whole segment, on the CT's grid


def ct_and_mask(volume_node, segmentation_node, segment_id) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """A CT and a tumour mask as arrays on the CT's grid.

    Parameters
    ----------
    volume_node : vtkMRMLScalarVolumeNode
        May be under a linear transform without shear.
    segmentation_node : vtkMRMLSegmentationNode
        Of any representation; may be under any transform.
    segment_id : str

    Returns
    -------
    hu : ndarray, shape [k, j, i]
        The volume's own memory, not a copy: only read it.
    mask : ndarray of uint8, shape [k, j, i]
        0 and 1, sampled at the CT's voxel centres (nearest neighbour), as Slicer does when it exports a segment.
    ijk_to_ras : ndarray of float64, shape [4, 4]
        In world RAS mm.
    warnings : list of str

    Raises
    ------
    CNNSurvivalError
        For nodes that are missing, empty or of the wrong kind, and for a segment that lies outside the CT.
    """
    import slicer
    import vtk

    hu = _voxels(volume_node)
    segment = _segment(segmentation_node, segment_id)
    ijk_to_world, warnings = _ijk_to_world(volume_node)
    ct_grid = _grid_of(volume_node)
    # Not by way of world coordinates: only the place of the segment relative to the CT matters.
    to_ct = vtk.vtkGeneralTransform()
    parents = [node.GetParentTransformNode() for node in (segmentation_node, volume_node)]
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(parents[0], parents[1], to_ct)
    labelmap, label, to_ct = _labelmap(segmentation_node, segment_id, segment, ct_grid, to_ct)
    mask, outside = _mask_on_grid(labelmap, label, to_ct, ct_grid, hu.shape, segment.GetName())
    if outside > 0:
        warnings.append(
            f"{outside:.0%} of the segment '{segment.GetName()}' lies outside the CT '{volume_node.GetName()}' "
            "and was left out."
            if outside >= 0.005
            else f"A small part of the segment '{segment.GetName()}' lies outside the CT and was left out."
        )
    source = drawn_on(segmentation_node)
    if source is not None and source is not volume_node:
        warnings.insert(
            0,
            f"The segmentation '{segmentation_node.GetName()}' was drawn on '{source.GetName()}', not on "
            f"'{volume_node.GetName()}'.",
        )
    return hu, mask, ijk_to_world, warnings


def predict_nodes(
    volume_node, segmentation_node, segment_id, bundle, engine=None, progress=None, **options
) -> Prediction:
    """``prediction.predict`` on nodes; options (covariates, force, min_roi_px, ...) are passed on.

    Changes nothing in the scene. The provenance also holds ``SEGMENT_SHA256``, the checksum of the mask.
    """
    inputs = [node for node in (volume_node, segmentation_node) if node is not None]
    scenes = [node.GetScene() for node in inputs]
    if progress is not None:
        progress("Reading CT and segment", 0.0)
    if [node.GetScene() for node in inputs] != scenes:
        raise Cancelled("The CT or the segmentation was removed before it was read.")
    hu, mask, ijk_to_ras, warnings = ct_and_mask(volume_node, segmentation_node, segment_id)
    checksum = mask_checksum(mask)
    prediction = predict(
        hu, mask, ijk_to_ras, bundle, engine, input_warnings=tuple(warnings), progress=progress, **options
    )
    return replace(prediction, provenance={**prediction.provenance, SEGMENT_SHA256: checksum})


def mask_checksum(mask: np.ndarray) -> str:
    """SHA-256, as hexadecimal text, of a mask [k, j, i]: of its shape, and where and what its voxels are."""
    box = bounding_box(mask)
    place = repr((tuple(map(int, mask.shape)), [(part.start, part.stop) for part in box]))
    return hashlib.sha256(place.encode("ascii") + np.packbits(mask[box] != 0).tobytes()).hexdigest()


def segment_checksum(volume_node, segmentation_node, segment_id) -> Optional[str]:
    """``mask_checksum`` of a segment on the CT's grid as it is now; None where no mask can be made of it."""
    try:
        return mask_checksum(ct_and_mask(volume_node, segmentation_node, segment_id)[1])
    except CNNSurvivalError:
        return None


def lies_on_grid(segmentation_node, volume_node) -> bool:
    """Whether the voxels of its labelmaps are voxels of this volume, as they are where both are files of one case."""
    if volume_node.GetImageData() is None:
        return False
    shape, grid = volume_node.GetImageData().GetDimensions(), np.linalg.inv(_array(_matrix(_grid_of(volume_node))))
    source = segmentation_node.GetSegmentation().GetSourceRepresentationName()
    found = [segment.GetRepresentation(source) for segment in segments_of(segmentation_node).values()]
    labelmaps = [each for each in found if each is not None and each.IsA("vtkOrientedImageData")]
    for labelmap in labelmaps:
        to_grid = grid @ _array(_matrix(labelmap))  # from voxel to voxel
        first = to_grid[:3, 3] + np.array(labelmap.GetExtent()[::2])
        last = to_grid[:3, 3] + np.array(labelmap.GetExtent()[1::2])
        same = np.allclose(to_grid[:3, :3], np.eye(3), atol=1e-3) and np.allclose(first, np.rint(first), atol=0.01)
        if not same or np.any(first < -0.5) or np.any(last > np.array(shape) - 0.5):
            return False
    return bool(labelmaps)


def grid_of(volume_node) -> tuple[tuple, np.ndarray]:
    """(shape [k, j, i], ijk_to_ras 4 x 4 in world RAS mm) of a volume."""
    return volume_node.GetImageData().GetDimensions()[::-1], _ijk_to_world(volume_node)[0]


def content_time(volume_node, segmentation_node, segment_id) -> tuple:
    """Numbers that change where the segment's mask on the CT may have changed, in VTK's count of this session.

    They also change where it has not: a labelmap may hold other segments, too. ``segment_checksum`` then says.
    """
    nodes = (volume_node, segmentation_node)
    parents = [node.GetParentTransformNode() if node is not None else None for node in nodes]
    moved = [parent.GetTransformToWorldMTime() if parent is not None else 0 for parent in parents]
    image = volume_node.GetMTime() if volume_node is not None else 0
    return (*(node.GetID() if node is not None else "" for node in nodes), segment_id, image, *moved,
            segment_time(segmentation_node, segment_id))  # fmt: skip


def segment_time(segmentation_node, segment_id) -> int:
    """When a segment's content was last changed, in VTK's count of this session; 0 where there is none."""
    segment = segments_of(segmentation_node).get(segment_id)
    if segment is None:
        return 0
    source = segmentation_node.GetSegmentation().GetSourceRepresentationName()
    content = segment.GetRepresentation(source)
    return content.GetMTime() if content is not None else segment.GetMTime()


def patient_name(volume_node) -> Optional[str]:
    """The name of the patient in the subject hierarchy above the volume; None where there is none."""
    hierarchy = hierarchy_of(volume_node.GetScene())
    item = hierarchy.GetItemByDataNode(volume_node) if hierarchy is not None else 0
    while item and item != hierarchy.GetSceneItemID():
        if hierarchy.GetItemLevel(item) == "Patient":
            return hierarchy.GetItemName(item) or None
        item = hierarchy.GetItemParent(item)
    return None


def patient_age(volume_node, database) -> Optional[str]:
    """The patient's age in years when the CT was taken, as text, such as "63"; None where it is not known.

    Parameters
    ----------
    volume_node : vtkMRMLScalarVolumeNode
        Loaded from DICOM, else the age is not known.
    database : ctkDICOMDatabase or None
        ``slicer.dicomDatabase``. Asked for PatientAge; where there is none, for the dates of birth and of the study.
    """
    instances = ((volume_node.GetAttribute("DICOM.instanceUIDs") if volume_node else None) or "").split()
    if not instances or database is None or not database.isOpen:
        return None

    def value(tag: str) -> str:
        return (database.instanceValue(instances[0], tag) or "").strip()

    age = re.fullmatch(r"(\d{1,3})([YMWD])", value("0010,1010").upper())
    if age is not None:
        return f"{int(age[1]) // {'Y': 1, 'M': 12, 'W': 52, 'D': 365}[age[2]]}"
    dates = [re.sub(r"[.-]", "", value(tag)) for tag in ("0010,0030", "0008,0020")]
    if not all(re.fullmatch(r"\d{8}", date) for date in dates):
        return None
    born, taken = map(int, dates)  # year, month and day in this order, so the difference counts birthdays
    return f"{(taken - born) // 10000}" if taken >= born else None


@contextmanager
def words_of_the_panel():
    """Where something has to be set, the sentence names it as the panel does, not as the command line's option."""
    try:
        yield
    except NotACT as error:
        raise CNNSurvivalError(
            f"{error.problem} Choose the CT, or tick 'Predict although the image does not look like a CT' in the tab "
            "Model."
        ) from error
    except CNNSurvivalError as error:
        words = str(error).replace("(--min-roi)", "in the tab Model")
        if words == str(error):
            raise
        raise CNNSurvivalError(words) from error


def _voxels(volume_node) -> np.ndarray:
    """The volume's voxels [k, j, i], its own memory."""
    from vtk.util.numpy_support import vtk_to_numpy

    if volume_node is None:
        raise CNNSurvivalError("No CT is selected; load a CT and choose it as the CT volume.")
    name = volume_node.GetName()
    if not volume_node.IsA("vtkMRMLScalarVolumeNode"):
        raise CNNSurvivalError(
            f"'{name}' is not a single grey-level volume (it is a {volume_node.GetNodeTagName()}); choose a CT volume, "
            "and of a sequence one frame."
        )
    if volume_node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise CNNSurvivalError(f"'{name}' is a label map, not an image; choose the CT volume.")
    image = volume_node.GetImageData()
    if image is None or image.GetPointData() is None or image.GetPointData().GetScalars() is None:
        raise CNNSurvivalError(f"The volume '{name}' holds no image; load it again, or choose another CT volume.")
    if image.GetNumberOfScalarComponents() != 1:
        raise CNNSurvivalError(
            f"The volume '{name}' has {image.GetNumberOfScalarComponents()} values per voxel (a colour or 4D image); "
            "choose a CT volume, which has one."
        )
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def _segment(segmentation_node, segment_id):
    """The vtkSegment, or a CNNSurvivalError that says what is missing."""
    if segmentation_node is None:
        raise CNNSurvivalError("No segmentation is selected; load or draw one and choose the tumour's segment.")
    name = segmentation_node.GetName()
    if not segmentation_node.IsA("vtkMRMLSegmentationNode"):
        raise CNNSurvivalError(f"'{name}' is not a segmentation; import it into one, or choose a segmentation.")
    segments = segments_of(segmentation_node)
    if not segments:
        raise CNNSurvivalError(f"The segmentation '{name}' has no segments; draw the tumour, or choose another.")
    if segment_id not in segments:
        names = ", ".join(f"'{segment.GetName()}'" for segment in segments.values())
        wrong = f"has no segment with the ID '{segment_id}'" if segment_id else "has several segments, none is selected"
        if not segment_id and len(segments) == 1:
            wrong = "has a segment, but it is not selected"
        raise CNNSurvivalError(f"The segmentation '{name}' {wrong}; choose one of: {names}.")
    return segments[segment_id]


def _ijk_to_world(volume_node) -> tuple[np.ndarray, list[str]]:
    """(4 x 4 that takes (i, j, k, 1) to world RAS, warnings)."""
    import vtk

    name = volume_node.GetName()
    local, to_world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(local)
    parent = volume_node.GetParentTransformNode()
    if parent is None:
        return _array(local), []
    if not parent.IsTransformToWorldLinear():
        raise CNNSurvivalError(
            f"The CT '{name}' is under the non-linear transform '{parent.GetName()}'; harden the transform on the CT "
            "(Transforms module), or take the CT out of it, and predict again."
        )
    parent.GetMatrixTransformToWorld(to_world)
    matrix = _array(to_world)
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if np.allclose(stretch, 1, atol=1e-3):
        return matrix @ _array(local), []
    ijk_to_world = matrix @ _array(local)
    axes = ijk_to_world[:3, :3] / np.linalg.norm(ijk_to_world[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-2:
        raise CNNSurvivalError(
            f"The transform '{parent.GetName()}' shears the CT '{name}'; harden the transform on the CT (Transforms "
            "module), or take the CT out of it, and predict again."
        )
    warning = (
        f"The transform '{parent.GetName()}' scales the CT '{name}' by up to {np.abs(stretch - 1).max():.0%}; "
        "the tumour's size is taken as it appears."
    )
    return ijk_to_world, [warning]


def _grid_of(volume_node):
    """The CT's voxel grid in its own RAS, before its transform, as vtkOrientedImageData without voxels."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return _grid(matrix, [(0, n - 1) for n in volume_node.GetImageData().GetDimensions()])


def _grid(matrix, ranges_ijk):
    import slicer

    grid = slicer.vtkOrientedImageData()
    grid.SetGeometryFromImageToWorldMatrix(matrix)
    grid.SetExtent(*[int(limit) for pair in ranges_ijk for limit in pair])
    return grid


def _labelmap(segmentation_node, segment_id, segment, ct_grid, to_ct):
    """(vtkOrientedImageData, label value, transform from its RAS to the CT's) of one segment.

    A labelmap is returned as it is; other segments may share it. Other representations (closed surface, contours) are
    moved to the CT and rasterised there, on a copy.
    """
    import slicer

    binary = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    source = segmentation_node.GetSegmentation().GetSourceRepresentationName()
    representation = segment.GetRepresentation(source)
    if representation is None or (representation.IsA("vtkPointSet") and not representation.GetNumberOfPoints()):
        raise _empty(segment.GetName())
    if source == binary:
        return representation, segment.GetLabelValue(), to_ct
    copy = slicer.vtkSegmentation()
    copy.SetSourceRepresentationName(source)
    if representation.IsA("vtkPolyData"):
        # A surface loses nothing when it moves, so only the CT's voxels limit how finely it is drawn.
        representation, to_ct = _moved(representation, to_ct), None
    single = slicer.vtkSegment()
    single.SetName(segment.GetName())
    single.AddRepresentation(source, representation)
    copy.AddSegment(single, segment_id)
    copy.SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        slicer.vtkSegmentationConverter.SerializeImageGeometry(ct_grid),
    )
    copy.CreateRepresentation(binary)
    labelmap = copy.GetSegment(segment_id).GetRepresentation(binary)
    if labelmap is None:
        raise CNNSurvivalError(
            f"The segment '{segment.GetName()}' ({source.lower()}) cannot be turned into a labelmap here; create its "
            "binary labelmap in the Segmentations module and make that the source representation."
        )
    return labelmap, copy.GetSegment(segment_id).GetLabelValue(), to_ct


def _moved(poly_data, transform):
    import vtk

    move = vtk.vtkTransformPolyDataFilter()
    move.SetInputData(poly_data)
    move.SetTransform(transform)
    move.Update()
    return move.GetOutput()


def _mask_on_grid(labelmap, label, to_ct, ct_grid, shape, name) -> tuple[np.ndarray, float]:
    """(mask uint8 [k, j, i] on the CT's grid, fraction of the segment that lies outside it)."""
    import slicer
    from vtk.util.numpy_support import vtk_to_numpy

    low, high, outside = _extent_on_grid(labelmap, label, to_ct, ct_grid, shape, name)
    low, high = np.maximum(low, 0), np.minimum(high, np.array(shape[::-1]) - 1)
    mask = np.zeros(shape, dtype=np.uint8)
    if outside < 1 and np.all(low <= high):
        box = _grid(_matrix(ct_grid), list(zip(low, high)))
        resampled = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            labelmap, box, resampled, False, False, to_ct
        )
        values = vtk_to_numpy(resampled.GetPointData().GetScalars()).reshape((high - low + 1)[::-1])
        mask[tuple(slice(a, b + 1) for a, b in zip(low[::-1], high[::-1]))] = values == label
    if outside < 1 and mask.any():
        return mask, outside
    raise CNNSurvivalError(
        f"The segment '{name}' lies entirely outside the CT; choose the CT that it was drawn on, or check their "
        "transforms."
        if outside > 0
        else f"The segment '{name}' is so thin that it misses every voxel of the CT; choose the tumour's segment."
    )


def _extent_on_grid(labelmap, label, to_ct, ct_grid, shape, name) -> tuple[np.ndarray, np.ndarray, float]:
    """(lowest ijk, highest ijk) of CT voxels that the label can reach, and the fraction of it outside the CT.

    Goes through the labelmap plane by plane, so no array of its size is made.
    """
    from vtk.util.numpy_support import vtk_to_numpy

    scalars = labelmap.GetPointData().GetScalars()
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise _empty(name)
    first = np.array(labelmap.GetExtent()[::2])
    label_to_ras, ras_to_ct = _array(_matrix(labelmap)), np.linalg.inv(_array(_matrix(ct_grid)))

    def to_ijk(index):
        points = index @ label_to_ras[:3, :3].T + label_to_ras[:3, 3]
        points = points if to_ct is None else _transformed(points, to_ct)
        return points @ ras_to_ct[:3, :3].T + ras_to_ct[:3, 3]

    low, high, total, outside = np.full(3, np.inf), np.full(3, -np.inf), 0, 0
    first_inside, last_inside = -0.5 - 1e-6, np.array(shape[::-1]) - 0.5 + 1e-6
    for k, plane in enumerate(vtk_to_numpy(scalars).reshape(labelmap.GetDimensions()[::-1])):
        j, i = np.nonzero(plane == label)
        if i.size == 0:
            continue
        index = np.stack([i, j, np.full_like(i, k)], axis=1) + first
        ijk = to_ijk(index)
        lowest, highest = ijk.min(axis=0), ijk.max(axis=0)
        low, high = np.minimum(low, lowest), np.maximum(high, highest)
        total += len(ijk)
        if (lowest < first_inside).any() or (highest > last_inside).any():  # seldom, and the count takes long
            outside += int(np.any((ijk < first_inside) | (ijk > last_inside), axis=1).sum())
    if total == 0:
        raise _empty(name)
    # From voxel centres to voxels: what one voxel of the labelmap spans (a warp may stretch it), one more to round.
    steps = to_ijk(index[:1] + np.eye(3)) - to_ijk(index[:1] + np.zeros((3, 3)))
    margin = np.abs(steps).sum(axis=0) * (1 if to_ct is None else 2) + 1
    return np.floor(low - margin).astype(int), np.ceil(high + margin).astype(int), outside / total


def _transformed(points: np.ndarray, transform) -> np.ndarray:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    before, after = vtk.vtkPoints(), vtk.vtkPoints()
    for each in (before, after):
        each.SetDataTypeToDouble()
    before.SetData(numpy_to_vtk(np.ascontiguousarray(points)))
    transform.TransformPoints(before, after)
    return vtk_to_numpy(after.GetData()).copy()


def _matrix(oriented_image):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    oriented_image.GetImageToWorldMatrix(matrix)
    return matrix


def _array(matrix) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _empty(name) -> CNNSurvivalError:
    return CNNSurvivalError(
        f"The segment '{name}' is empty; draw the tumour in it, or choose the segment that holds the tumour."
    )
