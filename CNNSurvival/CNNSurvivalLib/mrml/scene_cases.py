"""The patients of a Slicer scene, as cases of a batch."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import UsageError
from ..io.case import Case, with_folder_names
from ..io.read import TumourImage
from .guesses import guess_segment, studies
from .inputs import ct_and_mask


class SceneNodes(NamedTuple):
    """What a case of a scene is read from."""

    volume: object
    segmentation: object
    segment_id: str


def scene_cases(scene) -> list[Case]:
    """Every segmentation of the scene with the CT that it was drawn on and its tumour; a case per segmentation.

    CTs without a segmentation are listed with that as their problem. patient_id is the name of the CT; image and mask
    are the names of the nodes.
    """
    cases = [_case(number, *pair) for number, pair in enumerate(studies(scene), 1)]
    if not cases:
        raise UsageError("The scene holds no CT; load patients, or choose a manifest or a folder.")
    return with_folder_names(cases)


def read_nodes(nodes: SceneNodes) -> TumourImage:
    """The CT and the tumour of a case. Nothing of the scene changes; hu is the volume's own memory."""
    hu, mask, ijk_to_ras, warnings = ct_and_mask(*nodes)
    name = nodes.segmentation.GetSegmentation().GetSegment(nodes.segment_id).GetName()
    return TumourImage(hu=hu, mask=mask, ijk_to_ras=ijk_to_ras, warnings=tuple(warnings), segment_name=name)


def _case(number: int, volume, segmentation) -> Case:
    problem, segment_id = None, ""
    if segmentation is None:
        problem = f"The CT '{volume.GetName()}' has no segmentation; load or draw one on it."
    elif volume is None:
        problem = f"The segmentation '{segmentation.GetName()}' has no CT; load the one that it was drawn on."
    else:
        segment_id = guess_segment(segmentation)
        if not segment_id:
            problem = f"No segment of '{segmentation.GetName()}' is called a tumour; rename the one that is."
    names = [node.GetName() if node is not None else "" for node in (volume, segmentation)]
    return Case(
        *names, patient_id=names[0] or names[1], segment=segment_id or None, number=number, problem=problem,
        nodes=SceneNodes(volume, segmentation, segment_id),
    )  # fmt: skip
