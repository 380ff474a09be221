"""A mask from a DICOM SEG. highdicom decodes its frames; they are put together here."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .dicom import BIG_ENDIAN, decoding, import_highdicom, read_dataset, reference_warning
from .grid import MAX_VOXELS, OFF_PLACE, Volume, plane_normal
from .quiet import reading
from .segments import MAX_SEGMENTS, Segments, choose, too_many_segments

# The code of a LABELMAP's background
BACKGROUND = ("125040", "DCM")


def list_seg(path: Path) -> Segments:
    """The segments of a DICOM SEG."""
    with reading("mask", path):
        header = read_dataset(path, stop_before_pixels=True, specific_tags=["SegmentSequence"])
        if len(header.SegmentSequence) > MAX_SEGMENTS:
            raise too_many_segments(path)
        items = [item for item in header.SegmentSequence if not _is_background(item)]
        return Segments(
            kind="segment",
            names=[str(item.SegmentLabel) for item in items],
            numbers=[int(item.SegmentNumber) for item in items],
            ids=[str(item.get("TrackingID") or "") for item in items],
        )


def read_seg(path: Path, segment: str | None, ct: Volume) -> tuple[Volume, str]:
    """(mask, name of the segment) on the SEG's own grid."""
    segments = list_seg(path)
    with reading("mask", path):
        seg = import_highdicom().seg.Segmentation.from_dataset(_little_endian(read_dataset(path)), copy=False)
        series = [str(item.get("SeriesInstanceUID", "")) for item in seg.get("ReferencedSeriesSequence", [])]
        frame_uid = str(seg.get("FrameOfReferenceUID", "") or "")
    chosen = choose(path, segments, segment)
    name, number = segments.names[chosen], segments.numbers[chosen]
    notes = reference_warning("SEG", path, series, [frame_uid], ct)
    with reading("mask", path):
        with decoding("mask", path):
            frames = _seg_frames(seg, number)
        if not frames:
            return Volume(np.zeros((1, 1, 1), np.uint8), np.eye(4)), name
        array, matrix = _stack_frames(frames)
    return Volume(array, matrix, notes), name


def _is_background(item) -> bool:
    """Whether an item of the SegmentSequence is what a LABELMAP says of its background: no segment."""
    kinds = item.get("SegmentedPropertyTypeCodeSequence") or []
    background = any((kind.get("CodeValue"), kind.get("CodingSchemeDesignator")) == BACKGROUND for kind in kinds)
    return int(item.SegmentNumber) == 0 or background


def _little_endian(dataset):
    """The dataset; one in big endian, which highdicom does not take, written anew in little endian."""
    from pydicom import __version__, dcmread, dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian

    if dataset.file_meta.TransferSyntaxUID != BIG_ENDIAN:
        return dataset
    for _ in dataset.iterall():  # what was not decoded yet would be written as it was read
        pass
    if dataset["PixelData"].VR == "OW":  # words of two bytes, whatever a pixel has
        dataset.PixelData = np.frombuffer(dataset.PixelData, ">u2").astype("<u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    written = BytesIO()
    if __version__.startswith("2."):
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dcmwrite(written, dataset, write_like_original=False)
    else:
        dcmwrite(written, dataset, little_endian=True, implicit_vr=False, force_encoding=True)
    written.seek(0)
    return dcmread(written)


class _Frame(NamedTuple):
    pixels: np.ndarray  # uint8 [row, column]
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray  # between columns, between rows
    thickness: float


def _seg_frames(seg, number: int) -> list[_Frame]:
    """The frames of one segment that hold any of it, wherever each lies."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    frames = []
    for k, own in enumerate(seg.PerFrameFunctionalGroupsSequence):

        def group(name: str, own=own):
            return (own if name in own else shared)[name][0]

        if seg.SegmentationType == "LABELMAP":
            pixels = seg.get_stored_frame(k + 1) == number
        elif group("SegmentIdentificationSequence").ReferencedSegmentNumber != number:
            continue
        elif seg.SegmentationType == "FRACTIONAL":
            pixels = seg.get_stored_frame(k + 1) >= 0.5 * seg.MaximumFractionalValue
        else:
            pixels = seg.get_stored_frame(k + 1) > 0
        if not pixels.any():
            continue
        measures = group("PixelMeasuresSequence")
        frames.append(
            _Frame(
                pixels.astype(np.uint8),
                np.array(group("PlanePositionSequence").ImagePositionPatient, dtype=np.float64),
                np.array(group("PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64),
                np.array(measures.PixelSpacing, dtype=np.float64)[::-1],
                float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0),
            )
        )
    return frames


def _stack_frames(frames: Sequence[_Frame]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [k, j, i], ijk_to_lps) of SEG frames, which leave out empty slices and may be unequally spaced.

    The stack's spacing is the smallest gap; a plane takes the frame that lies nearest, within half of that.
    """
    normal = plane_normal(frames[0].orientation)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    places = np.array([frame.position @ normal for frame in frames])
    gaps = np.diff(places)
    gaps = gaps[gaps > 0.01]
    step = float(gaps.min()) if len(gaps) else frames[0].thickness or 1.0
    index = (places - places[0]) / step
    if len(gaps) and np.abs(index - np.rint(index)).max() > OFF_PLACE:
        # Unequal gaps: finer planes, each frame as thick as the space up to half-way to its neighbours.
        return _stack_uneven(frames, places, normal, float(np.median(gaps)))
    index = np.rint(index).astype(int)
    _check_planes(index[-1] + 1, frames[0])
    array = np.zeros((index[-1] + 1, *frames[0].pixels.shape), dtype=np.uint8)
    for k, frame in zip(index, frames):
        array[k] |= frame.pixels
    shift = frames[-1].position - frames[0].position
    return array, _frame_matrix(frames[0], shift / index[-1] if index[-1] else normal * step)


def _stack_uneven(frames, places, normal, usual: float) -> tuple[np.ndarray, np.ndarray]:
    step = 0.25 * float(np.diff(places)[np.diff(places) > 0.01].min())
    _check_planes((places[-1] - places[0] + usual) / step, frames[0])
    planes = np.arange(places[0] - usual / 2, places[-1] + usual / 2, step)
    nearest = np.abs(planes[:, np.newaxis] - places).argmin(axis=1)
    near = np.abs(planes - places[nearest]) <= 0.75 * usual
    array = np.zeros((len(planes), *frames[0].pixels.shape), dtype=np.uint8)
    for k in np.flatnonzero(near):
        array[k] = frames[nearest[k]].pixels
    matrix = _frame_matrix(frames[0], normal * step)
    matrix[:3, 3] += normal * (planes[0] - places[0])
    return array, matrix


def _check_planes(count: float, frame: _Frame) -> None:
    """Raises ValueError where frames far apart would make a stack that no memory holds."""
    if not count * frame.pixels.size <= MAX_VOXELS:
        raise ValueError(f"{count:.0f} planes between the outermost frames")


def _frame_matrix(frame: _Frame, step: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 0] = frame.orientation[:3] * frame.spacing[0]
    matrix[:3, 1] = frame.orientation[3:] * frame.spacing[1]
    matrix[:3, 2] = step
    matrix[:3, 3] = frame.position
    return matrix
