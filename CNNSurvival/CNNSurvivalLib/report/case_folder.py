"""The folder of results of one case: report, picture, tables and everything as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Optional

from ..files import atomic_write, ensure_output_folder, write_csv, write_json
from ..prediction import Prediction
from .page import write_report
from .tables import curve_table, horizon_table, slice_table, to_dict

REPORT_FILE = "report.pdf"
TABLES = {"survival_curve.csv": curve_table, "horizons.csv": horizon_table, "slices.csv": slice_table}


def write_case_folder(
    prediction: Prediction,
    folder,
    inputs: Optional[dict] = None,
    *,
    patient: Optional[str] = None,
    patient_id: Optional[str] = None,
    picture: Optional[Callable[[], bytes]] = None,
    report: bool = True,
) -> list[Path]:
    """Write report.pdf, survival_curve.png, survival_curve.csv, horizons.csv, slices.csv and prediction.json.

    Each file is replaced as a whole; other files in the folder are left alone. prediction.json is written last: where
    it is, the other files are there, too.

    Parameters
    ----------
    prediction : Prediction
    folder : path-like
        Made where it does not exist.
    inputs : dict, optional
        What the prediction was made of: "volume", "segmentation" and "segment", or "image", "mask" and "segment" ->
        names. It goes into prediction.json and the report.
    patient : str, optional
        The patient's name. It goes into the report and nowhere else.
    patient_id : str, optional
        Who the patient is in a batch, as predictions.csv says it. It goes into prediction.json.
    picture : callable, optional
        picture() gives the bytes of survival_curve.png. The file is not written where this is not given.
    report : bool
        Whether to write report.pdf.

    Returns
    -------
    list of Path
        The files that were written, in the order named above.

    Raises
    ------
    CNNSurvivalError
        Where the folder or a file cannot be written.
    """
    folder = ensure_output_folder(folder)
    paths = []
    if report:
        paths.append(folder / REPORT_FILE)
        write_report(prediction, paths[-1], inputs, patient)
    if picture is not None:
        paths.append(folder / "survival_curve.png")
        content = picture()
        with atomic_write(paths[-1], "wb") as stream:
            stream.write(content)
    for name, table in TABLES.items():
        paths.append(folder / name)
        write_csv(paths[-1], *table(prediction))
    paths.append(folder / "prediction.json")
    write_json(paths[-1], {"patient_id": patient_id, **to_dict(prediction), "input": inputs or {}})
    return paths


def free_folder(folder, label: str) -> Path:
    """A folder below ``folder`` that is not there yet, named after the case: no other patient's files are overwritten.

    It is not made. label: any text, such as the names of the CT and the segment.
    """
    name = re.sub(r"[^\w.-]+", "_", label).strip("._")[:80] or "case"
    path, number = Path(folder) / name, 2
    while path.exists():
        path = Path(folder) / f"{name}-{number}"
        number += 1
    return path


def free_path(folder, name: str) -> Path:
    """folder/name, with a number where that file exists already, so that it is not overwritten."""
    path, number = Path(folder) / name, 2
    while path.exists():
        path = Path(folder) / f"{Path(name).stem}-{number}{Path(name).suffix}"
        number += 1
    return path
