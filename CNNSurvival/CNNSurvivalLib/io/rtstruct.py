"""A mask from a DICOM RTSTRUCT: its contours are read here, and drawn on the CT's grid in ``contours``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import CNNSurvivalError
from .contours import rasterise
from .dicom import read_dataset, reference_warning
from .grid import Mask, Volume
from .quiet import reading
from .segments import Segments, choose
from .texts import one_line

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# No patient reaches further from the origin than this; what does is damaged.
MAX_PLACE_MM = 1e4


def read_rtstruct(path: Path, segment: str | None, ct: Volume) -> Mask:
    """The mask of one structure, drawn on the CT's grid."""
    with reading("mask", path):
        dataset = read_dataset(path)
        found = _structures(dataset)
        series, frames = _rtstruct_references(dataset)
    chosen = choose(path, found, segment)
    name, number = found.names[chosen], found.numbers[chosen]
    shown = one_line(name)
    with reading("mask", path):
        contours = closed_contours(dataset, number)
    if not contours:
        raise CNNSurvivalError(
            f"Structure '{shown}' of {path} has no closed contours; draw it, or choose another with --segment."
        )
    notes = reference_warning("RTSTRUCT", path, series, frames, ct)
    outside = sum(not _reaches(points, ct) for points in contours)
    if outside == len(contours):
        raise CNNSurvivalError(
            f"Structure '{shown}' of {path} lies entirely outside the CT; check that the two belong together."
        )
    if outside:
        notes += (f"{outside} of the {len(contours)} contours of '{shown}' lie outside the CT and were left out.",)
    with reading("mask", path):
        array, more = rasterise(contours, ct.array.shape, ct.ijk_to_lps)
    return Mask(array, name, (*notes, *more))


def list_structures(path: Path) -> Segments:
    """The ROIs of an RTSTRUCT."""
    with reading("mask", path):
        return _structures(read_dataset(path, specific_tags=["StructureSetROISequence"]))


def _structures(dataset) -> Segments:
    items = dataset.get("StructureSetROISequence") or []
    return Segments(
        kind="structure",
        names=[str(item.get("ROIName", "")) for item in items],
        numbers=[int(item.ROINumber) for item in items],
        ids=[""] * len(items),
    )


def closed_contours(dataset, number: int) -> list[np.ndarray]:
    """The contours, LPS mm, each [n, 3], of one ROI; POINT and open ones and those of two points are left out."""
    closed = []
    for roi in dataset.get("ROIContourSequence") or []:
        if int(roi.ReferencedROINumber) != number:
            continue
        for item in roi.get("ContourSequence") or []:
            points = np.array(item.get("ContourData") or [], dtype=np.float64)
            whole = points.size >= 9 and points.size % 3 == 0 and np.all(np.abs(points) < MAX_PLACE_MM)
            if whole and item.get("ContourGeometricType") in CLOSED:
                closed.append(points.reshape(-1, 3))
    return closed


def _rtstruct_references(dataset) -> tuple[list[str], list[str]]:
    """(series, frames of reference) that the contours refer to."""
    series, frames = [], [dataset.get("FrameOfReferenceUID")]
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        frames.append(frame.get("FrameOfReferenceUID"))
        for study in frame.get("RTReferencedStudySequence") or []:
            series += [item.get("SeriesInstanceUID") for item in study.get("RTReferencedSeriesSequence") or []]
    for roi in dataset.get("StructureSetROISequence") or []:
        frames.append(roi.get("ReferencedFrameOfReferenceUID"))
    return [str(uid) for uid in series if uid], [str(uid) for uid in frames if uid]


def _reaches(points: np.ndarray, ct: Volume) -> bool:
    """Whether a contour's bounding box, in voxels, meets the CT's."""
    to_index = np.linalg.inv(ct.ijk_to_lps)
    index = points @ to_index[:3, :3].T + to_index[:3, 3]
    size = np.array(ct.array.shape)[::-1]
    return bool(np.all(index.max(axis=0) > -0.5) and np.all(index.min(axis=0) < size - 0.5))
