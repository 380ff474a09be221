"""What the readers of DICOM CT, SEG and RTSTRUCT share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import CNNSurvivalError, UsageError
from .grid import Volume
from .quiet import reading
from .texts import one_line


def is_dicom(what: str, path: Path) -> bool:
    """Whether a file begins as DICOM files do. Raises UsageError for what is no file."""
    if not path.is_file():  # a pipe or a device: whoever opens it waits
        raise UsageError(f"The {what} {path} is neither a file nor a folder; give one of these.")
    with reading(what, path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def modality_of(path: Path) -> str:
    """The modality of a DICOM file, "" for any other file."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, specific_tags=["Modality"], stop_before_pixels=True)
            return one_line(header.get("Modality", ""), 16)
    except Exception:  # not DICOM
        return ""


def check_lengths(path: Path) -> None:
    """Raises EOFError where an element claims to reach beyond its file: GDCM reserves and fills what it claims."""
    import pydicom

    size = path.stat().st_size
    dataset = pydicom.dcmread(path, defer_size=1024)  # larger ones are passed over, not read
    for element in dataset.values():
        length = getattr(element, "length", 0)
        if length != 0xFFFFFFFF and getattr(element, "value_tell", 0) + length > size:
            raise EOFError(f"{element.tag} is longer than the file")


def import_highdicom():
    """The package highdicom. Raises CNNSurvivalError where it is not installed."""
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise CNNSurvivalError(
            "DICOM SEG and multi-frame CT need the Python package 'highdicom', which is not installed here; install "
            "it, or save the segmentation as .seg.nrrd or a label image."
        ) from error
    return highdicom


def reference_warning(kind: str, path: Path, series: Sequence[str], frames: Sequence[str], ct: Volume):
    """() where the mask refers to this CT (or the CT is no DICOM), else a warning; raises where it cannot be right."""
    frames = [one_line(uid) for uid in frames if uid]
    series = [one_line(uid) for uid in series]
    if ct.series_uid is None or ct.series_uid in series:
        return ()
    if frames and ct.frame_uid and ct.frame_uid not in frames:
        other = f" and to another series ({series[0]}, not {ct.series_uid})" if series else ""
        raise CNNSurvivalError(
            f"The {kind} {path} refers to another frame of reference{other} than the CT, so its places mean nothing "
            "there; give the CT it was drawn on."
        )
    if not any(series):
        return (f"The {kind} does not say on which series it was drawn; check that it belongs to this CT.",)
    shared = " in the same frame of reference" if frames and ct.frame_uid else ""
    return (
        f"The {kind} was drawn on another series{shared} ({series[0]}); check that contour and CT show the same place.",
    )
