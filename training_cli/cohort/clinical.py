"""Tables of patients: the manifest of images, and who lived how long."""

from __future__ import annotations

import numpy as np
import pandas as pd

from CNNSurvivalLib.errors import UsageError, existing
from CNNSurvivalLib.io.manifest import read_cells

ID, TIME, EVENT = "patient_id", "time_days", "event"
EVENT_WORDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "alive": 0, "dead": 1, "no": 0, "yes": 1}


def read_table(path, what: str) -> pd.DataFrame:
    """A table as text: CSV (comma, semicolon or tab; UTF-8 or Windows' Latin), or Excel's .xlsx if openpyxl is there.

    Columns and cells are stripped; empty lines are left out. Raises UsageError for a table that is none.
    """
    path = existing(path, what)
    if path.is_dir():
        raise UsageError(f"The {what} '{path}' is a folder; give a CSV file.")
    if path.suffix.lower() == ".xlsx":
        return _read_excel(path, what)
    lines = [line for line in read_cells(path) if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise UsageError(f"The {what} '{path}' has no rows below its header.")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UsageError(f"The {what} '{path}' has the column '{twice}' twice.")
    cells = [[cell.strip() for cell in line[: len(header)]] + [""] * (len(header) - len(line)) for line in lines[1:]]
    return pd.DataFrame(cells, columns=header, dtype=str)


def read_clinical(
    path, id_column: str = ID, time_column: str = TIME, event_column: str = EVENT, what: str = "clinical table"
) -> pd.DataFrame:
    """Follow-up of patients, indexed by patient_id: time_days (float, days), event (1 = died), further columns.

    Further columns become numbers where all their cells are. Raises UsageError, naming the patient, for a missing
    column, a patient without an id or listed twice, a time that is no number or negative, an event that is not 0 or 1.
    """
    table = read_table(path, what)
    for column in (id_column, time_column, event_column):
        if column not in table:
            raise UsageError(
                f"The {what} '{path}' has no column '{column}'; it has: {', '.join(table)}. Rename its columns"
                + (", or name them with --id-column, --time-column and --event-column." if "clin" in what else ".")
            )
    ids = table[id_column]
    if (ids == "").any():
        row = int(np.flatnonzero(ids == "")[0]) + 1
        raise UsageError(f"Row {row} of the {what} '{path}' has no {id_column}; fill it in.")
    if ids.duplicated().any():
        raise UsageError(
            f"The {what} '{path}' lists the patient '{ids[ids.duplicated()].iloc[0]}' more than once; keep "
            "one row for each."
        )
    times = [_time(f"{what} '{path}'", patient, text) for patient, text in zip(ids, table[time_column])]
    events = [_event(f"{what} '{path}'", patient, text) for patient, text in zip(ids, table[event_column])]
    others = table.drop(columns=[id_column, time_column, event_column]).apply(_numbers_if_all)
    found = pd.concat([pd.DataFrame({TIME: times, EVENT: events}), others], axis=1)
    return found.set_index(pd.Index(ids, name=ID))


def where(table: pd.DataFrame, conditions: dict, path) -> pd.DataFrame:
    """The rows whose columns have these values. Raises UsageError for an unknown column, or if no row has them."""
    for column, value in conditions.items():
        if column not in table:
            raise UsageError(f"The table '{path}' has no column '{column}'; it has: {', '.join(table)}.")
        table = table[table[column].astype(str) == str(value)]
    if table.empty:
        conditions_text = ", ".join(f"{column} = {value}" for column, value in conditions.items())
        raise UsageError(f"No row of the table '{path}' has {conditions_text}.")
    return table


def _read_excel(path, what: str) -> pd.DataFrame:
    try:
        return pd.read_excel(path, dtype=str, keep_default_na=False).map(str.strip)
    except ImportError as error:
        raise UsageError(f"The {what} '{path}' is an Excel file, which needs openpyxl; save it as CSV.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"The {what} '{path}' cannot be read ({error}); save it as CSV.") from error


def _time(place: str, patient: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or value < 0:
        raise UsageError(
            f"In the {place} the patient '{patient}' has the time '{text}'; it must be a number of "
            "days, 0 or more."
        )
    return value


def _event(place: str, patient: str, text: str) -> int:
    try:
        return EVENT_WORDS[text.casefold()]
    except KeyError:
        raise UsageError(
            f"In the {place} the patient '{patient}' has the event '{text}'; it must be 1 (died) or 0 "
            "(censored)."
        ) from None


def _numbers_if_all(column: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(column.replace("", np.nan), errors="coerce")
    return numbers if (numbers.notna() | (column == "")).all() and numbers.notna().any() else column
