"""A result as files: report, picture, tables and everything as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional

from ..files import atomic_write, ensure_output_folder, write_csv, write_json
from ..prediction import Prediction, curve_table, horizon_table, slice_table, to_dict
from .page import write_report


def export_folder(
    prediction: Prediction,
    folder,
    inputs: Optional[dict] = None,
    patient: Optional[str] = None,
    picture: Optional[Callable[[], bytes]] = None,
) -> list[Path]:
    """Write report.pdf, survival_curve.csv, horizons.csv, slices.csv and prediction.json; returns the paths.

    Each replaces a file of that name as a whole. inputs: names of volume, segmentation and segment. patient: for the
    report alone, if given. picture(): survival_curve.png's bytes. Raises CNNSurvivalError where the folder cannot be
    written to.
    """
    folder = ensure_output_folder(folder)
    tables = {"survival_curve.csv": curve_table, "horizons.csv": horizon_table, "slices.csv": slice_table}
    write_report(prediction, folder / "report.pdf", inputs, patient)
    for name, table in tables.items():
        write_csv(folder / name, *table(prediction))
    if picture is not None:
        with atomic_write(folder / "survival_curve.png", "wb") as stream:
            stream.write(picture())
    # Last: where there is a prediction.json, the other files are there, too.
    write_json(folder / "prediction.json", {**to_dict(prediction), "input": inputs or {}})
    pictures = ["survival_curve.png"] if picture is not None else []
    return [folder / name for name in ("report.pdf", *pictures, *tables, "prediction.json")]


def free_path(folder, name: str) -> Path:
    """folder/name, with a number where there is such a file already: a scene is not overwritten."""
    path, number = Path(folder) / name, 2
    while path.exists():
        path = Path(folder) / f"{Path(name).stem}-{number}{Path(name).suffix}"
        number += 1
    return path
