"""Good first guesses: which volume is the CT, which segmentation belongs to it, which segment is the tumour."""

from __future__ import annotations

import re

from .inputs import lies_on_grid
from .nodes import ATTRIBUTE, drawn_on, hierarchy_of, nodes_of, parent_item, segments_of

_NODE = r"(n[d]?|ln|lns|nod|node|nodes|nodal|lymph\w*|lk) ?[lr]?\d*"  # GTVn, GTV-N1, GTV_LN, GTV nodal
_GTV = r"\b[iz]?gtv"  # with iGTV (all phases of breathing) and zGTV (TG-263: not for the treatment itself)
_OWN_GTV = r"(?<!\bn )(?<!nodal )(?<!node )" + _GTV  # nGTV, "Nodal GTV"
# What segments of tumours are called, best first; the first that fits gives the score. Words are matched in
# "<name> <terminology type>" after "_" and "-" became spaces and CamelCase was split, in lower case. Names of
# RTSTRUCTs follow AAPM TG-263 (GTVp, GTVn), DAHANCA (GTV-T, GTV-N) or number them (GTV-1); TotalSegmentator, nnU-Net
# and MONAI name segments as their labels are named (lung_nodules, liver_tumor, cancer, hepatic tumor).
_TUMOUR_WORDS = (
    _GTV + r" ?(p|t|pt|prim\w*|tumou?r)\d*\b|\bprimary\b.*(tumou?r|neoplasm)|(tumou?r|neoplasm).*\bprimary\b",
    _OWN_GTV + r"( ?0*1)?\b(?! ?(" + _NODE + r"|met\w*|0*[02-9]|\d\d+)\b)",
    _OWN_GTV + r"(?! ?\d* ?(" + _NODE + r"|met\w*)\b)",
    r"(?<!secondary )(tumou?r|tumeur|neoplas|cancer|carcinom|karzinom|malignan|\bpdac\b|\bnsclc\b)(?!.*\bsecondary\b)",
    r"lesion",
    r"\bmass\b|nodule",
    r"metasta|\bsecondary\b.*neoplas|neoplas.*\bsecondary\b",
    _GTV + r"|\bitv",
    r"\bctv",
)
# Names with such a word that are not the tumour: "Lungs-GTV" is the rest of the lungs, "peritumoral" a rim, "GTV+5mm"
# and "PTV" have a margin, a bed is what an operation left.
_ORGAN = r"\b(lungs?|heart|liver|pancreas|body|brain|kidneys?|esophagus|oesophagus|bowel|patient|external)"
_NOT_TUMOUR = re.compile(
    _ORGAN + r"\b.{0,12}\b(minus|without|excluding|excl|sub|not)\b"
    r"|" + _ORGAN + r"[^-]{0,12}-\W*[iz]? ?[gicp]tv"
    r"|\b(non|no|not|peri)\W?tumou?r|\bring\b|\bmargin\b|\bptv|tumou?r (bed|cavity)|\bshell\b"
    r"|[gci]tv\w* ?\+|\bprv\b|\bavoid"
)


def guess_volume(scene):
    """The CT to begin with: one that a segmentation with a tumour refers to, else the first image; None if none."""
    volumes = [node for node in _images(scene) if not node.GetHideFromEditors()]
    return max(volumes, key=lambda volume: _best_score(_segmentations_of(scene, volume)), default=None)


def studies(scene) -> list[tuple]:
    """(CT or None, segmentation or None) of every case in the scene: a pair per segmentation, and the CTs without."""
    volumes = _images(scene)
    pairs = []
    for segmentation in nodes_of(scene, "vtkMRMLSegmentationNode"):
        own = [volume for volume in volumes if refers_to(segmentation, volume)]
        near = [volume for volume in volumes if segmentation in _in_same_study(volume, [segmentation])]
        pairs.append((next(iter([*own, *near, *_fitting(segmentation, volumes)]), None), segmentation))
    used = {volume.GetID() for volume, _segmentation in pairs if volume is not None}
    return [*pairs, *((volume, None) for volume in volumes if volume.GetID() not in used)]


def guess_segmentation(scene, volume_node):
    """The segmentation of a CT: one that refers to it, else one in its study, else one that can only be of this CT.

    The last are those that refer to no image of the scene, where this CT is the only one, or the only one on whose
    voxels they lie. Another CT's tumour is never taken. Among equals, the one with the most tumour-like segment.
    Without a CT (None) any. None where there is none.
    """
    everything = nodes_of(scene, "vtkMRMLSegmentationNode")
    if volume_node is None:
        candidates = everything
    else:
        near = [node for node in _in_same_study(volume_node, everything) if drawn_on(node) is None]
        candidates = _segmentations_of(scene, volume_node) or near or _strays_of(scene, volume_node, everything)
    return max(candidates, key=lambda node: _best_score([node]), default=None)


def guess_tumour(scene, volume_node) -> tuple:
    """(segmentation or None, ID of its segment or "") to begin with for this CT."""
    segmentation = guess_segmentation(scene, volume_node)
    return segmentation, guess_segment(segmentation)


def guess_segment(segmentation_node) -> str:
    """The ID of the segment that is most likely the tumour; "" where none has such a name.

    By name and terminology ("GTVp", "Tumour", "Neoplasm, Primary", "Mass", ...). A single segment with a default name
    ("Segment_1") is taken, too; an organ never is.
    """
    segments = segments_of(segmentation_node)
    scores = {segment_id: _tumour_score(segment) for segment_id, segment in segments.items()}
    best = max(scores, key=scores.get, default="")
    if best and scores[best] > 0:
        return best
    if len(segments) == 1 and re.fullmatch(r"(segment|label|roi|mask)?[ _]*\d*", segments[best].GetName() or "", re.I):
        return best
    return ""


def inputs_of(node) -> tuple:
    """(CT or None, segmentation or None, ID of its segment or "") to predict from, where one of the two is chosen.

    Only what belongs together: what refers to it, else what is in its study, else the only one in the scene.
    """
    scene = node.GetScene()
    if node.IsA("vtkMRMLSegmentationNode"):
        volume = next((volume for volume, segmentation in studies(scene) if segmentation is node), None)
        return volume, node, guess_segment(node)
    return (node, *guess_tumour(scene, node))


def refers_to(segmentation_node, volume_node) -> bool:
    """Whether the segmentation says that it was drawn on this volume."""
    return volume_node is not None and drawn_on(segmentation_node) is volume_node


def _images(scene) -> list:
    """The volumes that may be a CT: no label map, no map of ours."""
    volumes = nodes_of(scene, "vtkMRMLScalarVolumeNode")
    return [
        node
        for node in volumes
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetAttribute(ATTRIBUTE + "role")
    ]


def _strays_of(scene, volume_node, segmentation_nodes) -> list:
    """Those that refer to no image of the scene and can only be of this volume."""
    volumes = _images(scene)
    return [node for node in segmentation_nodes if _fitting(node, volumes) == [volume_node]]


def _fitting(segmentation_node, volumes: list) -> list:
    """[the volume that a segmentation must be of which refers to none: the only one, or the only one with its voxels].

    [] where it refers to one, and where several would do.
    """
    if drawn_on(segmentation_node) is not None:
        return []
    found = volumes if len(volumes) == 1 else [each for each in volumes if lies_on_grid(segmentation_node, each)]
    return found if len(found) == 1 else []


def _segmentations_of(scene, volume_node) -> list:
    return [node for node in nodes_of(scene, "vtkMRMLSegmentationNode") if refers_to(node, volume_node)]


def _in_same_study(volume_node, segmentation_nodes) -> list:
    hierarchy = hierarchy_of(volume_node.GetScene()) if volume_node is not None else None
    if hierarchy is None:
        return []
    study = parent_item(hierarchy, volume_node)
    if study in (None, hierarchy.GetSceneItemID()):
        return []
    return [node for node in segmentation_nodes if parent_item(hierarchy, node) == study]


def _best_score(segmentation_nodes) -> int:
    """0 without a segmentation, 1 with one, more the more its segments' names suggest a tumour."""
    scores = [_tumour_score(segment) for node in segmentation_nodes for segment in segments_of(node).values()]
    return 1 + max(scores, default=0) if segmentation_nodes else 0


def tumour_score(name: str, terminology: str = "") -> int:
    """How likely a segment of this name is the tumour: 0 for not at all; more is better.

    Parameters
    ----------
    name : str
        As it is in the segmentation.
    terminology : str, optional
        The meaning of its terminology type, such as "Neoplasm, Primary".
    """
    name = re.sub(r"[_^]", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).lower()
    if _NOT_TUMOUR.search(name):
        return 0
    for rank, words in enumerate(_TUMOUR_WORDS):
        if re.search(words, f"{name} {terminology.lower()}".replace("-", " ")):
            return len(_TUMOUR_WORDS) - rank
    return 0


def _tumour_score(segment) -> int:
    return tumour_score(segment.GetName() or "", _terminology_of(segment))


def _terminology_of(segment) -> str:
    """The meaning of a segment's terminology type; "" where it has none."""
    import slicer
    import vtk

    tag = vtk.reference("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), tag)
    # "<context>~<category>~<type>~<type modifier>~...", each "<scheme>^<code>^<meaning>"
    return (str(tag).split("~") + ["", "", ""])[2].split("^")[-1]
