"""All objects of a prediction, as files in a folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ...errors import CNNSurvivalError
from ...files import atomic_write, ensure_output_folder
from ...io.quiet import without_warnings
from ...prediction import Prediction
from .encapsulated_pdf import encapsulated_pdf
from .instance import Origin, encoded
from .parametric_map import parametric_map
from .planes import to_lps
from .secondary_capture import secondary_capture
from .segmentation import segmentation
from .structured_report import structured_report
from .study import Study, images_on_grid

FOLDER = "dicom"  # below that of the other results
REPORT, CURVE, NUMBERS, TUMOUR, MAP = "report.dcm", "curve.dcm", "numbers.dcm", "tumour.dcm", "map.dcm"
NAMES = (REPORT, CURVE, NUMBERS, TUMOUR, MAP)
HOLD_NAMES = (
    "The DICOM objects hold what the CT's files say of the patient: name, number, birth date, sex, referring "
    "physician; report.dcm shows name and number on its page."
)
NO_HIGHDICOM = (
    "The tumour, the numbers and the map were not written as DICOM: they need the Python package 'highdicom', which is "
    "not installed here (Slicer has it from 5.12 on)."
)
NOT_IN_PLACE = (
    "The tumour and the map were not written as DICOM: the CT does not lie where its DICOM files say; take away the "
    "CT's transform, or load it from DICOM again."
)
NO_PLACE = (
    "The tumour and the map were not written as DICOM: the CT's files do not all name the same frame of reference "
    "(FrameOfReferenceUID), in which the two would lie."
)
EMPTY_MAP = "The map was not written as DICOM: hiding a part of the tumour changes nothing."


@dataclass(frozen=True)
class Tumour:
    """Where the tumour is.

    Attributes
    ----------
    mask : ndarray of uint8, shape [k, j, i]
        On the CT's grid, 1 inside the tumour.
    ijk_to_ras : ndarray, shape [4, 4]
        Takes (i, j, k, 1) to RAS mm.
    name : str
        The segment's name.
    segmentation : pydicom.Dataset, optional
        The DICOM SEG that the tumour comes from; one is written where there is none.
    segment_number : int
        Which of its segments the tumour is.
    """

    mask: np.ndarray
    ijk_to_ras: np.ndarray
    name: str
    segmentation: object = None
    segment_number: int = 1


class Objects(NamedTuple):
    """The content of each file, by name, and sentences that say what was left out and why."""

    files: Mapping[str, bytes]
    notes: Sequence[str]


class Written(NamedTuple):
    """The files, and sentences that say what was left out and why."""

    paths: Sequence[Path]
    notes: Sequence[str]


def make_objects(
    prediction: Prediction,
    study: Study,
    tumour: Tumour,
    *,
    report: bytes,
    curve: bytes,
    named: bool = False,
    risk_map: Optional[np.ndarray] = None,
) -> Objects:
    """Make report.dcm and curve.dcm and, where highdicom is at hand, numbers.dcm, tumour.dcm and map.dcm.

    Each is a series of its own in the CT's study.

    Parameters
    ----------
    prediction : Prediction
    study : Study
        Of the CT.
    tumour : Tumour
    report : bytes
        The report, a PDF file.
    curve : bytes
        The picture of the curve, a PNG file without the patient's name.
    named : bool
        Whether the report shows the patient's name or number.
    risk_map : ndarray of float32, shape [k, j, i], optional
        From ``explanation.on_ct_grid``.

    Returns
    -------
    Objects
    """
    origin = Origin.of(prediction, tumour.name)
    with without_warnings():  # pydicom's and highdicom's, of what the source says
        objects = {
            REPORT: encapsulated_pdf(study, origin, report, named),
            CURVE: secondary_capture(study, origin, curve),
        }
        more, notes = _with_highdicom(prediction, study, origin, tumour, risk_map)
        return Objects({name: encoded(dataset) for name, dataset in {**objects, **more}.items()}, notes)


@contextmanager
def placed(objects: Objects, folder) -> Iterator[Written]:
    """Write objects into a folder, made where it does not exist, for as long as the block succeeds.

    They are in a temporary folder in it until the block ends. Then they take the place of older ones, and those of
    these names that have no new one go, as they would be of another prediction. The SR goes first and comes last: at
    no time does it refer to another run's segmentation. If the block fails, everything is as it was.

    Raises
    ------
    CNNSurvivalError
        Where a file cannot be written.
    """
    folder = Path(folder)
    made = not folder.exists()
    ensure_output_folder(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".new.", dir=folder) as place:
            for name, content in objects.files.items():
                with atomic_write(Path(place) / name, "wb") as stream:
                    stream.write(content)
            yield Written([folder / name for name in objects.files], objects.notes)
            _move(Path(place), folder)
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _move(place: Path, folder: Path) -> None:
    new = {path.name for path in place.iterdir()}
    try:
        for name in NAMES:
            if name == NUMBERS or name not in new:
                (folder / name).unlink(missing_ok=True)
        for name in sorted(new, key=lambda name: name == NUMBERS):
            os.replace(place / name, folder / name)
    except OSError as error:
        raise CNNSurvivalError(
            f"The DICOM files in '{folder}' cannot be replaced ({error.strerror or error}); close them in other "
            "programs, or choose another folder."
        ) from error


def write_dicom(prediction: Prediction, study: Study, tumour: Tumour, folder, **options) -> Written:
    """``make_objects`` and ``placed``, for a caller who writes nothing else beside them."""
    with placed(make_objects(prediction, study, tumour, **options), folder) as written:
        return written


def _with_highdicom(
    prediction: Prediction, study: Study, origin: Origin, tumour: Tumour, risk_map
) -> tuple[dict, list]:
    """(file name -> object for those that need highdicom, what was left out and why)."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        return {}, [NO_HIGHDICOM]
    matrix = to_lps(tumour.ijk_to_ras)
    images = images_on_grid(study, matrix, tumour.mask.shape)
    objects, seg, number = {}, tumour.segmentation, tumour.segment_number
    if seg is None and images:
        seg, number = segmentation(study, origin, images, tumour.mask, matrix), 1
        objects[TUMOUR] = seg
    objects[NUMBERS] = structured_report(study, origin, prediction, seg, number)
    if not images:
        return objects, [NOT_IN_PLACE if study.frame_uid else NO_PLACE]
    if risk_map is None:
        return objects, []
    if not risk_map.any():
        return objects, [EMPTY_MAP]
    objects[MAP] = parametric_map(study, origin, images, risk_map, matrix)
    return objects, []
