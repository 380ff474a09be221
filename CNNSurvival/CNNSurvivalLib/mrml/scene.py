"""MRML in, MRML out: the only file of the library that knows Slicer's scene.

In: ``ct_and_mask`` takes a volume node and a segment to arrays on the CT's grid. It works on copies, so that
neither the user's nodes nor their scene change: nothing is converted inside the segmentation, no transform is
hardened, no temporary node is made.

Out: ``write_result`` leaves a prediction in the scene as tables, a chart and a record, which are saved with it.

It needs MRML classes only, no application: the scene comes from the nodes, so the same code runs in Slicer,
in Slicer without a window, and on the slicer-core package.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import NamedTuple, Optional

import numpy as np

from ..errors import Cancelled, CNNSurvivalError
from ..hazards import MONTH_DAYS
from ..prediction import RESEARCH_USE_ONLY, Prediction, from_record, predict, to_record

# --- CT and mask ----------------------------------------------------------------------------------------------


def ct_and_mask(volume_node, segmentation_node, segment_id) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """(hu [k, j, i], mask uint8 [k, j, i] of 0 and 1, ijk_to_ras 4 x 4 in world RAS mm, warnings).

    volume_node: vtkMRMLScalarVolumeNode; segmentation_node: vtkMRMLSegmentationNode of any representation;
    segment_id: the segment's ID. hu is the volume's own memory, not a copy: read it only. Both nodes may be under
    transforms, the segmentation's non-linear if need be. The mask is sampled at the CT's voxel centres (nearest
    neighbour), as Slicer does when it exports a segment.

    Raises CNNSurvivalError for what is missing, empty, of the wrong kind, or does not overlap.
    """
    import vtk

    hu = _voxels(volume_node)
    segment = _segment(segmentation_node, segment_id)
    ijk_to_world, warnings = _ijk_to_world(volume_node)
    ct_grid = _grid_of(volume_node)
    # World coordinates are left out of it: what counts is where the segment lies relative to the CT.
    to_ct = vtk.vtkGeneralTransform()
    parents = [node.GetParentTransformNode() for node in (segmentation_node, volume_node)]
    _slicer().vtkMRMLTransformNode.GetTransformBetweenNodes(parents[0], parents[1], to_ct)
    labelmap, label, to_ct = _labelmap(segmentation_node, segment_id, segment, ct_grid, to_ct)
    mask, outside = _mask_on_grid(labelmap, label, to_ct, ct_grid, hu.shape, segment.GetName())
    if outside > 0:
        warnings.append(
            f"{outside:.0%} of the segment '{segment.GetName()}' lies outside the CT '{volume_node.GetName()}' "
            "and was left out."
            if outside >= 0.005
            else f"A small part of the segment '{segment.GetName()}' lies outside the CT and was left out."
        )
    return hu, mask, ijk_to_world, warnings


def predict_nodes(
    volume_node, segmentation_node, segment_id, bundle, engine=None, progress=None, **options
) -> Prediction:
    """``prediction.predict`` on nodes; options (min_roi_px, max_slices, horizons_months) are passed on.

    Changes nothing in the scene.
    """
    if progress is not None:
        progress("Reading CT and segment", 0.0)
    hu, mask, ijk_to_ras, warnings = ct_and_mask(volume_node, segmentation_node, segment_id)
    return predict(hu, mask, ijk_to_ras, bundle, engine, input_warnings=tuple(warnings), progress=progress, **options)


def grid_of(volume_node) -> tuple[tuple, np.ndarray]:
    """(shape [k, j, i], ijk_to_ras 4 x 4 in world RAS mm) of a volume."""
    return volume_node.GetImageData().GetDimensions()[::-1], _ijk_to_world(volume_node)[0]


def segment_time(segmentation_node, segment_id) -> int:
    """When a segment's content was last changed, in VTK's count of this session; 0 where there is none."""
    segment = _segments(segmentation_node).get(segment_id)
    if segment is None:
        return 0
    source = segmentation_node.GetSegmentation().GetSourceRepresentationName()
    content = segment.GetRepresentation(source)
    return content.GetMTime() if content is not None else segment.GetMTime()


def patient_name(volume_node) -> Optional[str]:
    """The name of the patient in the subject hierarchy above the volume; None where there is none."""
    hierarchy = _hierarchy(volume_node.GetScene())
    item = hierarchy.GetItemByDataNode(volume_node) if hierarchy is not None else 0
    while item and item != hierarchy.GetSceneItemID():
        if hierarchy.GetItemLevel(item) == "Patient":
            return hierarchy.GetItemName(item) or None
        item = hierarchy.GetItemParent(item)
    return None


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
    segments = _segments(segmentation_node)
    if not segments:
        raise CNNSurvivalError(f"The segmentation '{name}' has no segments; draw the tumour, or choose another.")
    if segment_id not in segments:
        names = ", ".join(f"'{segment.GetName()}'" for segment in segments.values())
        wrong = f"has no segment with the ID '{segment_id}'" if segment_id else "has several segments, none is selected"
        if not segment_id and len(segments) == 1:
            wrong = "has a segment, but it is not selected"
        raise CNNSurvivalError(f"The segmentation '{name}' {wrong}; choose one of: {names}.")
    return segments[segment_id]


def _segments(segmentation_node) -> dict:
    """Segment ID -> vtkSegment, in the order in which Slicer lists them."""
    segmentation = segmentation_node.GetSegmentation() if segmentation_node is not None else None
    if segmentation is None:
        return {}
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return {segment_id: segmentation.GetSegment(segment_id) for segment_id in ids}


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
    grid = _slicer().vtkOrientedImageData()
    grid.SetGeometryFromImageToWorldMatrix(matrix)
    grid.SetExtent(*[int(limit) for pair in ranges_ijk for limit in pair])
    return grid


def _labelmap(segmentation_node, segment_id, segment, ct_grid, to_ct):
    """(vtkOrientedImageData, label value, transform from its RAS to the CT's) of one segment.

    A labelmap is returned as it is, perhaps shared with other segments. Anything else (closed surface, contours)
    is moved to the CT and rasterised there, on a copy.
    """
    slicer = _slicer()
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
    from vtk.util.numpy_support import vtk_to_numpy

    slicer = _slicer()
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
    for k, plane in enumerate(vtk_to_numpy(scalars).reshape(labelmap.GetDimensions()[::-1])):
        j, i = np.nonzero(plane == label)
        if i.size == 0:
            continue
        index = np.stack([i, j, np.full_like(i, k)], axis=1) + first
        ijk = to_ijk(index)
        low, high = np.minimum(low, ijk.min(axis=0)), np.maximum(high, ijk.max(axis=0))
        total += len(ijk)
        outside += int(np.any((ijk < -0.5 - 1e-6) | (ijk > np.array(shape[::-1]) - 0.5 + 1e-6), axis=1).sum())
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


def _slicer():
    import slicer

    return slicer


# --- A good first guess ---------------------------------------------------------------------------------------

# What segments of tumours are called, best first; the first that fits gives the score. Words are matched in
# "<name> <terminology type>" after "_" and "-" became spaces and CamelCase was split, in lower case.
_TUMOUR_WORDS = (
    r"\bgtv ?p(rim\w*)?\d*\b|\bprimary\b.*(tumou?r|neoplasm)|(tumou?r|neoplasm).*\bprimary\b",
    r"\bgtv(?! ?n(od\w*)?\d*\b)",
    r"tumou?r|neoplas|cancer|carcinom|malignan|\bpdac\b|\bnsclc\b",
    r"lesion",
    r"\bmass\b|nodule|metasta",
    r"\bgtv|\bitv",
    r"\bctv",
)
# What holds such a word and is not the tumour: "Lungs-GTV" is what is left of the lungs, "peritumoral" a rim.
_NOT_TUMOUR = re.compile(
    r"\b(lungs?|heart|liver|pancreas|body|brain|kidneys?)\b.{0,12}\b(minus|without|excluding|sub)\b"
    r"|\b(lungs?|heart|liver|pancreas|body|brain|kidneys?)\W*( [lr]t?| left| right)?\W*-\W*([gicp]tv)"
    r"|\b(non|no|peri)\W?tumou?r|\bring\b|\bmargin\b|\bptv"
)


def guess_volume(scene):
    """The CT to begin with: one that a segmentation with a tumour refers to, else the first image; None if none."""
    volumes = [
        node
        for node in _nodes(scene, "vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and not node.GetHideFromEditors()
        and not node.GetAttribute(_ATTRIBUTE + "role")  # a map of ours
    ]
    return max(volumes, key=lambda volume: _best_score(_segmentations_of(scene, volume)), default=None)


def studies(scene) -> list[tuple]:
    """(CT or None, segmentation or None) of every case in the scene: a pair per segmentation, and the CTs without."""
    volumes = [
        node
        for node in _nodes(scene, "vtkMRMLScalarVolumeNode")
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetAttribute(_ATTRIBUTE + "role")
    ]
    pairs = []
    for segmentation in _nodes(scene, "vtkMRMLSegmentationNode"):
        own = [volume for volume in volumes if refers_to(segmentation, volume)]
        near = [volume for volume in volumes if segmentation in _in_same_study(volume, [segmentation])]
        alone = volumes if len(volumes) == 1 else []
        pairs.append((next(iter([*own, *near, *alone]), None), segmentation))
    drawn_on = {volume.GetID() for volume, _segmentation in pairs if volume is not None}
    return [*pairs, *((volume, None) for volume in volumes if volume.GetID() not in drawn_on)]


def guess_segmentation(scene, volume_node):
    """The segmentation to begin with: one that refers to the CT, else one in its study, else one with a tumour.

    Among equals, the one with the most tumour-like segment. None where there is no segmentation.
    """
    everything = _nodes(scene, "vtkMRMLSegmentationNode")
    for candidates in (_segmentations_of(scene, volume_node), _in_same_study(volume_node, everything), everything):
        if candidates:
            return max(candidates, key=lambda node: _best_score([node]))
    return None


def guess_segment(segmentation_node) -> str:
    """The ID of the segment that is most likely the tumour; "" where none looks like one.

    By name and terminology ("GTVp", "Tumour", "Neoplasm, Primary", "Mass", ...). A lone segment that nobody named
    is taken, too; an organ never is.
    """
    segments = _segments(segmentation_node)
    scores = {segment_id: _tumour_score(segment) for segment_id, segment in segments.items()}
    best = max(scores, key=scores.get, default="")
    if best and scores[best] > 0:
        return best
    if len(segments) == 1 and re.fullmatch(r"(segment|label|roi|mask)?[ _]*\d*", _text_of(segments[best])[0]):
        return best
    return ""


def refers_to(segmentation_node, volume_node) -> bool:
    """Whether the segmentation says that it was drawn on this volume."""
    role = _slicer().vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return volume_node is not None and segmentation_node.GetNodeReferenceID(role) == volume_node.GetID()


def _nodes(scene, class_name) -> list:
    if scene is None:
        return []
    return [scene.GetNthNodeByClass(n, class_name) for n in range(scene.GetNumberOfNodesByClass(class_name))]


def _segmentations_of(scene, volume_node) -> list:
    return [node for node in _nodes(scene, "vtkMRMLSegmentationNode") if refers_to(node, volume_node)]


def _in_same_study(volume_node, segmentation_nodes) -> list:
    hierarchy = _hierarchy(volume_node.GetScene()) if volume_node is not None else None
    if hierarchy is None:
        return []
    study = _parent_item(hierarchy, volume_node)
    if study in (None, hierarchy.GetSceneItemID()):
        return []
    return [node for node in segmentation_nodes if _parent_item(hierarchy, node) == study]


def _best_score(segmentation_nodes) -> int:
    """0 where there is no segmentation, 1 where there is one, more the likelier it holds a tumour."""
    scores = [_tumour_score(segment) for node in segmentation_nodes for segment in _segments(node).values()]
    return 1 + max(scores, default=0) if segmentation_nodes else 0


def _tumour_score(segment) -> int:
    name, terminology = _text_of(segment)
    if _NOT_TUMOUR.search(name):
        return 0
    for rank, words in enumerate(_TUMOUR_WORDS):
        if re.search(words, f"{name} {terminology}".replace("-", " ")):
            return len(_TUMOUR_WORDS) - rank
    return 0


def _text_of(segment) -> tuple[str, str]:
    """(name, terminology type) in lower case, CamelCase and underscores taken apart."""
    import vtk

    tag = vtk.reference("")
    segment.GetTag(_slicer().vtkSegment.GetTerminologyEntryTagName(), tag)
    # "<context>~<category>~<type>~<type modifier>~...", each "<scheme>^<code>^<meaning>"
    kind = (str(tag).split("~") + ["", "", ""])[2].split("^")[-1]
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", segment.GetName() or "").replace("_", " ")
    return name.lower(), kind.lower()


# --- The result as nodes --------------------------------------------------------------------------------------


class Result(NamedTuple):
    """The nodes that one prediction leaves in the scene."""

    curve: object  # vtkMRMLTableNode: months, survival, its spread over slices
    slices: object  # vtkMRMLTableNode: the slices used, best first
    summary: object  # vtkMRMLTableNode: what people ask for, as text
    reference: object  # vtkMRMLTableNode: the reference cohort's Kaplan-Meier curve
    survival_series: object  # vtkMRMLPlotSeriesNode, and so the next three
    low_series: object
    high_series: object
    reference_series: object
    chart: object  # vtkMRMLPlotChartNode
    record: object  # vtkMRMLTextNode: prediction.to_record and the inputs, as JSON


_CLASSES = Result(*["vtkMRMLTableNode"] * 4, *["vtkMRMLPlotSeriesNode"] * 4, "vtkMRMLPlotChartNode", "vtkMRMLTextNode")
_ATTRIBUTE = "CNNSurvival."
_VOLUME, _SEGMENTATION = _ATTRIBUTE + "volume", _ATTRIBUTE + "segmentation"  # node reference roles
_MONTHS, _SURVIVAL = "Months", "Survival"
_LOW, _HIGH = "10th percentile of slices", "90th percentile of slices"


def write_result(scene, prediction: Prediction, volume_node, segmentation_node, segment_id) -> Result:
    """Leave the prediction in the scene as nodes, in a folder beside the CT in the subject hierarchy.

    A former result for the same volume, segmentation and segment is updated in place; no other node is touched.
    Raises Cancelled where the inputs have left the scene in the meantime.
    """
    segment = _segments(segmentation_node).get(segment_id)
    if segment is None or volume_node.GetScene() is not scene or segmentation_node.GetScene() is not scene:
        raise Cancelled("The CT or the segment was removed while the prediction ran.")
    label = f"{volume_node.GetName()} {segment.GetName()}"
    tables, record = _tables(prediction), _record(prediction, volume_node, segmentation_node, segment_id, segment)
    former = _find(scene, volume_node, segmentation_node, segment_id)
    nodes = []
    for role, class_name, old in zip(Result._fields, _CLASSES, former):
        node = old or scene.AddNewNodeByClass(class_name)
        node.SetAttribute(_ATTRIBUTE + "role", role)
        node.SetAttribute(_ATTRIBUTE + "segmentID", segment_id)
        node.SetAttribute(_ATTRIBUTE + "bundle", prediction.bundle.id)
        node.SetAttribute(_ATTRIBUTE + "sha256", prediction.bundle.sha256)
        node.SetNodeReferenceID(_VOLUME, volume_node.GetID())
        node.SetNodeReferenceID(_SEGMENTATION, segmentation_node.GetID())
        nodes.append(node)
    result = Result(*nodes)
    _name(result, label, segment.GetName())
    for role, table in tables.items():
        _fill_table(getattr(result, role), table)
    _fill_series(result)
    _fill_chart(result, label, prediction)
    result.record.SetText(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False))
    _style(result, former)
    _place(scene, volume_node, result, former, f"CNNSurvival results: {segment.GetName()}")
    return result


def find_result(scene, volume_node, segmentation_node, segment_id) -> Optional[Result]:
    """The nodes of the last prediction for these inputs; None where there is none, or some were deleted."""
    if scene is None or volume_node is None or segmentation_node is None or not segment_id:
        return None
    found = _find(scene, volume_node, segmentation_node, segment_id)
    return found if all(node is not None for node in found) else None


def all_results(scene) -> list[Result]:
    """Every whole result in the scene, in the order in which they were made."""
    found = []
    for record in _nodes(scene, "vtkMRMLTextNode"):
        if record.GetAttribute(_ATTRIBUTE + "role") == "record":
            inputs = [record.GetNodeReference(role) for role in (_VOLUME, _SEGMENTATION)]
            found.append(find_result(scene, *inputs, record.GetAttribute(_ATTRIBUTE + "segmentID")))
    return [result for result in found if result is not None]


def label_of(result: Result) -> str:
    """What people call a result: the CT's and the segment's names."""
    inputs = read_record(result).get("inputs", {})
    return f"{inputs.get('volume', '?')} {inputs.get('segment', '?')}"


def read_prediction(result: Result, bundles) -> Optional[Prediction]:
    """The prediction behind a result, to be taken up again; None where its model is not among the bundles."""
    record = read_record(result)
    for bundle in bundles:
        prediction = from_record(record, bundle)
        if prediction is not None:
            return prediction
    return None


def read_record(result: Result) -> dict:
    """What ``write_result`` recorded (prediction.to_record and the inputs); {} where the text is damaged."""
    try:
        record = json.loads(result.record.GetText() or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _find(scene, volume_node, segmentation_node, segment_id) -> Result:
    """The result's nodes, None for those that are not in the scene."""
    wanted = {_VOLUME: volume_node.GetID(), _SEGMENTATION: segmentation_node.GetID()}
    found = {}
    for class_name in dict.fromkeys(_CLASSES):
        for node in _nodes(scene, class_name):
            if node.GetAttribute(_ATTRIBUTE + "segmentID") == segment_id and all(
                node.GetNodeReferenceID(role) == node_id for role, node_id in wanted.items()
            ):
                found.setdefault((node.GetAttribute(_ATTRIBUTE + "role"), class_name), node)
    return Result(*[found.get(key) for key in zip(Result._fields, _CLASSES)])


def _tables(prediction: Prediction) -> dict:
    """role -> [(column name, values)], rounded for people; full precision is in the record."""
    p, s = prediction, prediction.slices
    months, survival = _steps(*p.bundle.population.kaplan_meier, p.time_days[-1])
    axis = "KJI"[s.axis]
    risk_months = p.bundle.risk_time_days / MONTH_DAYS
    return {
        "curve": [
            (_MONTHS, np.round(p.time_days / MONTH_DAYS, 2)),
            (_SURVIVAL, np.round(p.survival, 4)),
            (_LOW, np.round(p.survival_low, 4)),
            (_HIGH, np.round(p.survival_high, 4)),
        ],
        "slices": [
            ("Rank", np.arange(1, len(s) + 1)),
            (f"Slice ({axis})", s.slice_index),
            (f"{risk_months:.0f}-month risk (%)", np.round(100 * p.slice_risk, 1)),
            ("Area (mm2)", np.rint(s.area_mm2).astype(int)),
            ("Mean grey level", np.rint(s.mean_intensity).astype(int)),
            ("Used", p.used.astype(int)),
            *((f"{name} (mm)", np.round(column, 1)) for name, column in zip("RAS", s.center_ras.T)),
        ],
        "summary": [("Result", [row[0] for row in p.summary]), ("Value", [row[1] for row in p.summary])],
        "reference": [(_MONTHS, months), (_SURVIVAL, survival)],
    }


def _steps(time_days, survival, end_days) -> tuple[np.ndarray, np.ndarray]:
    """A Kaplan-Meier curve as a line with corners, (months, S), up to end_days."""
    time_days, survival = np.asarray(time_days, float), np.asarray(survival, float)
    inside = time_days <= end_days
    times, values = np.repeat(time_days[inside], 2)[1:], np.repeat(survival[inside], 2)[:-1]
    if not np.all(inside):  # the cohort was followed beyond the curve's end
        times, values = np.append(times, end_days), np.append(values, values[-1])
    return np.round(times / MONTH_DAYS, 2), np.round(values, 4)


def _record(prediction, volume_node, segmentation_node, segment_id, segment) -> dict:
    inputs = {
        "volume": volume_node.GetName(),
        "segmentation": segmentation_node.GetName(),
        "segment": segment.GetName(),
        "segment_id": segment_id,
    }
    return {**to_record(prediction), "inputs": inputs}


def _name(result: Result, label: str, segment_name: str) -> None:
    names = Result(
        curve=f"{label}: survival curve",
        slices=f"{label}: slices",
        summary=f"{label}: summary",
        reference=f"{label}: reference cohort",
        # The series' names are the chart's legend, which covers the curves if they are long.
        survival_series=f"{segment_name}: survival",
        low_series=f"{segment_name}: 10% of slices",
        high_series=f"{segment_name}: 90% of slices",
        reference_series="Reference cohort",
        chart=f"{label}: survival chart",
        record=f"{label}: prediction record",
    )
    for node, name in zip(result, names):
        node.SetName(name)


def _fill_table(node, columns) -> None:
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    table = vtk.vtkTable()
    for name, values in columns:
        if isinstance(values, np.ndarray):
            kind = vtk.VTK_INT if np.issubdtype(values.dtype, np.integer) else vtk.VTK_DOUBLE
            dtype = np.intc if kind == vtk.VTK_INT else np.double
            column = numpy_to_vtk(np.ascontiguousarray(values, dtype), deep=True, array_type=kind)
        else:
            column = vtk.vtkStringArray()
            for value in values:
                column.InsertNextValue(value)
        column.SetName(name)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)


def _fill_series(result: Result) -> None:
    columns = (_SURVIVAL, _LOW, _HIGH, _SURVIVAL)
    tables = (result.curve, result.curve, result.curve, result.reference)
    for node, table, column in zip(_series(result), tables, columns):
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetXColumnName(_MONTHS)
        node.SetYColumnName(column)


def _series(result: Result) -> tuple:
    return result.survival_series, result.low_series, result.high_series, result.reference_series


def _fill_chart(result: Result, label: str, prediction: Prediction) -> None:
    chart = result.chart
    for node in (result.reference_series, result.low_series, result.high_series, result.survival_series):
        if not chart.HasPlotSeriesNodeID(node.GetID()):
            chart.AddAndObservePlotSeriesNodeID(node.GetID())
    chart.SetTitle(f"{label}: predicted survival")
    result.reference_series.SetDescription(prediction.bundle.population.reference_label)
    chart.SetXAxisRange(0, float(np.ceil(prediction.time_days[-1] / MONTH_DAYS / 6) * 6))


def _style(result: Result, former: Result) -> None:
    """How new nodes look; those that the user may have restyled keep their looks."""
    if former.chart is None:
        _axes(result.chart, result.chart.GetXAxisRange()[1])
    blue, grey = (0.12, 0.36, 0.68), (0.55, 0.55, 0.55)
    looks = ((blue, 3, "Solid"), (blue, 1, "Dash"), (blue, 1, "Dash"), (grey, 2, "Solid"))
    for node, old, (color, width, line) in zip(_series(result), _series(former), looks):
        if old is None:
            node.SetPlotType(node.PlotTypeScatter)
            node.SetMarkerStyle(node.MarkerStyleNone)
            node.SetLineStyle(node.GetLineStyleFromString(line.lower()))
            node.SetLineWidth(width)
            node.SetColor(*color)


# --- What raises and lowers the risk, over the CT -------------------------------------------------------------

_EXPLANATION = "explanation"


def write_explanation(scene, volume_node, values, result: Result):
    """Leave the map (``explain.on_ct_grid``: [k, j, i], percentage points of risk) as a volume over the CT.

    A former map of the same result is updated in place. Red raises the risk, blue lowers it; what does neither is not
    drawn. Returns the vtkMRMLScalarVolumeNode. Raises Cancelled where the CT or the result has left the scene.
    """
    if volume_node.GetScene() is not scene or result.record.GetScene() is not scene:
        raise Cancelled("The CT or the result was removed while the map was made.")
    node = _explanation_of(scene, result) or scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    node.SetName(f"{label_of(result)}: what the risk rests on")
    node.SetAttribute(_ATTRIBUTE + "role", _EXPLANATION)
    node.SetNodeReferenceID(_ATTRIBUTE + "record", result.record.GetID())
    node.SetAttribute(_ATTRIBUTE + "slices", _slices_key(result))
    _copy_geometry(volume_node, node)
    node.SetAndObserveImageData(_image(values))
    _color_explanation(scene, node, float(np.abs(values).max()))
    hierarchy = _hierarchy(scene)
    folder = _parent_item(hierarchy, result.chart) if hierarchy is not None else None
    if folder is not None and _parent_item(hierarchy, node) != folder:
        hierarchy.CreateItem(folder, node)
    return node


def find_explanation(scene, result: Result):
    """The volume that ``write_explanation`` left for this result; None where there is none, or it is of slices that
    were cut before the segment or the model was changed."""
    node = _explanation_of(scene, result)
    current = node is not None and node.GetAttribute(_ATTRIBUTE + "slices") == _slices_key(result)
    return node if current else None


def _explanation_of(scene, result: Result):
    for node in _nodes(scene, "vtkMRMLScalarVolumeNode"):
        if node.GetNodeReferenceID(_ATTRIBUTE + "record") == result.record.GetID():
            return node
    return None


def _slices_key(result: Result) -> str:
    """Differs where slices or weights do."""
    record = read_record(result)
    seen = [record.get("state", {}).get("images"), record.get("provenance", {}).get("model_weights_sha256")]
    return hashlib.sha256(json.dumps(seen).encode("utf-8")).hexdigest()[:16]


def _copy_geometry(volume_node, node) -> None:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())


def _image(values: np.ndarray):
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(*values.shape[::-1])
    scalars = numpy_to_vtk(np.ascontiguousarray(values, np.float32).ravel(), deep=True, array_type=vtk.VTK_FLOAT)
    image.GetPointData().SetScalars(scalars)
    return image


def _color_explanation(scene, node, largest: float) -> None:
    """Blue over transparent to red, as wide to both sides; the colours belong to the map and are saved with it."""
    largest = largest or 1.0
    colors = node.GetNodeReference(_ATTRIBUTE + "colors")
    if colors is None:
        colors = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "Risk up (red) and down (blue)")
        colors.SetTypeToUser()
        colors.SetAttribute("Category", "CNNSurvival")
        colors.SetHideFromEditors(True)
        colors.SetNumberOfColors(256)
        for index in range(256):
            side = (index - 127.5) / 127.5
            strength = min(1.0, abs(side) * 1.6)
            red, green, blue = (1.0, 0.25, 0.1) if side > 0 else (0.1, 0.35, 1.0)
            colors.SetColor(index, f"{side:+.2f}", red, green, blue, strength if strength > 0.08 else 0.0)
        node.SetNodeReferenceID(_ATTRIBUTE + "colors", colors.GetID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display is not None:
        display.SetAndObserveColorNodeID(colors.GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(-largest, largest)
        display.SetInterpolate(True)


# --- Two results in one chart ---------------------------------------------------------------------------------

_COMPARISON = _ATTRIBUTE + "comparison"
_ORANGE = (0.80, 0.40, 0.05)


def write_comparison(scene, result: Result, other: Result):
    """The chart (vtkMRMLPlotChartNode) of both results' curves and of the cohort; made anew or updated in place.

    There is one for each pair of results; it is placed beside the first.
    """
    chart = _comparison_node(scene, "vtkMRMLPlotChartNode", "chart", result, other)
    series = [
        _comparison_node(scene, "vtkMRMLPlotSeriesNode", role, result, other) for role in ("first", "second", "cohort")
    ]
    tables = (result.curve, other.curve, result.reference)
    names = (label_of(result), label_of(other), "Reference cohort")
    colors = ((0.12, 0.36, 0.68), _ORANGE, (0.55, 0.55, 0.55))
    for node, table, name, color in zip(series, tables, names, colors):
        node.SetName(name)
        node.SetAndObserveTableNodeID(table.GetID())
        node.SetXColumnName(_MONTHS)
        node.SetYColumnName(_SURVIVAL)
        node.SetPlotType(node.PlotTypeScatter)
        node.SetMarkerStyle(node.MarkerStyleNone)
        node.SetLineWidth(3 if node is not series[2] else 2)
        node.SetColor(*color)
        if not chart.HasPlotSeriesNodeID(node.GetID()):
            chart.AddAndObservePlotSeriesNodeID(node.GetID())
    chart.SetName(f"{names[0]} and {names[1]}: survival compared")
    chart.SetTitle("Predicted survival compared")
    _axes(chart, max(table.GetTable().GetValue(table.GetNumberOfRows() - 1, 0).ToDouble() for table in tables[:2]))
    hierarchy = _hierarchy(scene)
    folder = _parent_item(hierarchy, result.chart) if hierarchy is not None else None
    for node in (chart, *series):
        if folder is not None and _parent_item(hierarchy, node) != folder:
            hierarchy.CreateItem(folder, node)
    return chart


def _comparison_node(scene, class_name, role, result: Result, other: Result):
    wanted = {"first": result.record.GetID(), "second": other.record.GetID()}
    for node in _nodes(scene, class_name):
        if node.GetAttribute(_COMPARISON) == role and all(
            node.GetNodeReferenceID(_COMPARISON + name) == node_id for name, node_id in wanted.items()
        ):
            return node
    node = scene.AddNewNodeByClass(class_name)
    node.SetAttribute(_COMPARISON, role)
    for name, node_id in wanted.items():
        node.SetNodeReferenceID(_COMPARISON + name, node_id)
    return node


def _axes(chart, months: float) -> None:
    chart.SetXAxisTitle("Months")
    chart.SetYAxisTitle("Survival probability (research use only)")
    chart.SetXAxisRangeAuto(False)
    chart.SetYAxisRangeAuto(False)
    chart.SetXAxisRange(0, float(np.ceil(months / 6) * 6))
    chart.SetYAxisRange(0, 1)
    chart.SetLegendVisibility(True)
    chart.SetDescription(RESEARCH_USE_ONLY)


def _hierarchy(scene):
    return _slicer().vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene is not None else None


def _parent_item(hierarchy, node):
    """The subject hierarchy item above a node; None where the node is not in it."""
    item = hierarchy.GetItemByDataNode(node)
    parent = hierarchy.GetItemParent(item) if item != hierarchy.GetInvalidItemID() else item
    return parent if parent != hierarchy.GetInvalidItemID() else None


def _place(scene, volume_node, result: Result, former: Result, folder_name: str) -> None:
    """Put new nodes into the result's folder, beside the CT; what the user has moved stays where it is."""
    hierarchy = _hierarchy(scene)
    if hierarchy is None:
        return
    marker = _ATTRIBUTE + "folder"
    folders = [_parent_item(hierarchy, node) for node in former if node is not None]
    folder = next((item for item in folders if item and hierarchy.GetItemAttribute(item, marker)), None)
    if folder is None:
        parent = _parent_item(hierarchy, volume_node)
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID() if parent is None else parent, folder_name)
        hierarchy.SetItemAttribute(folder, marker, "1")
    for node, old in zip(result, former):
        if old is None:
            hierarchy.CreateItem(folder, node)
