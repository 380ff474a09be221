"""What a contour file (RTSTRUCT, SEG) says of itself: the structures that it names, and the CT that it was drawn on."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.io.dicom import read_dataset

REFERENCES = {"RTSTRUCT": "StructureSetROISequence", "SEG": "SegmentSequence"}


class Contour(NamedTuple):
    """segment: the first structure that matches and is not empty, None if there is none. ct_uid: the CT's
    SeriesInstanceUID, None if the file does not say."""

    segment: str | None
    ct_uid: str | None


def read_contour(path: Path, pattern: str) -> Contour:
    """Read one file.

    Raises CNNSurvivalError for what is no RTSTRUCT or SEG.
    """
    try:
        header = read_dataset(path, stop_before_pixels=True)
        names = structure_names(header)
    except Exception as error:  # pydicom's many
        raise CNNSurvivalError(f"The contour '{path}' cannot be read ({error}); delete its folder and give the same "
                               "command again.") from error  # fmt: skip
    found = next((name for number, name in names if re.search(pattern, name, re.IGNORECASE)
                  and _is_drawn(header, number)), None)  # fmt: skip
    return Contour(found, referenced_series(header))


def structure_names(header) -> list[tuple[object, str]]:
    """(number, name) of each structure of an RTSTRUCT or SEG."""
    if header.Modality == "SEG":
        return [(item.SegmentNumber, str(item.SegmentLabel)) for item in header.SegmentSequence]
    return [(item.ROINumber, str(item.get("ROIName", ""))) for item in header.StructureSetROISequence]


def referenced_series(header) -> str | None:
    """The SeriesInstanceUID of the CT that a contour refers to; None where it names none."""
    with contextlib.suppress(AttributeError, IndexError):
        if header.Modality == "SEG":
            return str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
        study = header.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        return str(study.RTReferencedSeriesSequence[0].SeriesInstanceUID)
    return None


def _is_drawn(header, number) -> bool:
    """Whether an RTSTRUCT has points for a structure; a SEG's segments are taken as drawn."""
    if header.Modality == "SEG":
        return True
    drawn = [item for item in header.get("ROIContourSequence", []) if item.get("ReferencedROINumber") == number]
    return any(item.get("ContourSequence") for item in drawn)
