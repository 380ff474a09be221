"""All objects of a prediction, as files in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ...files import atomic_write, ensure_output_folder
from ...io.quiet import without_warnings
from ...prediction import Prediction
from .encapsulated_pdf import encapsulated_pdf
from .instance import encoded
from .parametric_map import parametric_map
from .planes import to_lps
from .secondary_capture import secondary_capture
from .segmentation import segmentation
from .structured_report import structured_report
from .study import Study, images_on_grid

FOLDER = "dicom"  # below that of the other results
REPORT, CURVE, NUMBERS, TUMOUR, MAP = "report.dcm", "curve.dcm", "numbers.dcm", "tumour.dcm", "map.dcm"
NO_HIGHDICOM = (
    "The tumour, the numbers and the map were not written as DICOM: they need the Python package 'highdicom', which is "
    "not installed here (Slicer has it from 5.12 on)."
)
NOT_IN_PLACE = (
    "The tumour, the numbers and the map were not written as DICOM: the CT does not lie where its DICOM files say, or "
    "these say too little of where it lies; take away the CT's transform, or load it from DICOM again."
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


class Written(NamedTuple):
    """The files, and sentences that say what was left out and why."""

    paths: Sequence[Path]
    notes: Sequence[str]


def write_dicom(
    prediction: Prediction,
    study: Study,
    tumour: Tumour,
    folder,
    *,
    report: bytes,
    curve: bytes,
    named: bool = False,
    risk_map: Optional[np.ndarray] = None,
) -> Written:
    """Write report.dcm and curve.dcm and, where highdicom is at hand, numbers.dcm, tumour.dcm and map.dcm.

    Each is a series of its own in the CT's study. All are made before the first is written; older ones of these names
    are replaced, or removed where there is no new one, as it would be of another prediction.

    Parameters
    ----------
    prediction : Prediction
    study : Study
        Of the CT.
    tumour : Tumour
    folder : path-like
        Made where it does not exist.
    report : bytes
        The report, a PDF file.
    curve : bytes
        The picture of the curve, a PNG file without the patient's name.
    named : bool
        Whether the report shows the patient's name.
    risk_map : ndarray of float32, shape [k, j, i], optional
        From ``explanation.on_ct_grid``.

    Returns
    -------
    Written

    Raises
    ------
    CNNSurvivalError
        Where a file cannot be written.
    """
    title = f"Predicted survival, {prediction.bundle.id}"[:1024]
    with without_warnings():  # pydicom's and highdicom's, of what the source says
        objects = {REPORT: encapsulated_pdf(study, report, title, named), CURVE: secondary_capture(study, curve)}
        more, notes = _with_places(prediction, study, tumour, risk_map)
        files = {name: encoded(dataset) for name, dataset in {**objects, **more}.items()}
    folder = ensure_output_folder(folder)
    for name, content in files.items():
        with atomic_write(folder / name, "wb") as stream:
            stream.write(content)
    for name in (REPORT, CURVE, NUMBERS, TUMOUR, MAP):
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    return Written([folder / name for name in files], notes)


def _with_places(prediction: Prediction, study: Study, tumour: Tumour, risk_map) -> tuple[dict, list[str]]:
    """(file name -> object for those that say where something is, what was left out and why)."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        return {}, [NO_HIGHDICOM]
    matrix = to_lps(tumour.ijk_to_ras)
    images = images_on_grid(study, matrix, tumour.mask.shape)
    if not images:
        return {}, [NOT_IN_PLACE]
    objects, seg, number = {}, tumour.segmentation, tumour.segment_number
    if seg is None:
        objects[TUMOUR], number = segmentation(study, images, tumour.mask, matrix, tumour.name), 1
        seg = objects[TUMOUR]
    objects[NUMBERS] = structured_report(study, prediction, tumour.name, seg, number)
    if risk_map is None:
        return objects, []
    if not risk_map.any():
        return objects, [EMPTY_MAP]
    objects[MAP] = parametric_map(study, images, risk_map, matrix)
    return objects, []
