"""Who lived how long: the follow-up of patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.io.tables import Table, number

from .tables import one_row_each, read_table

ID, TIME, EVENT = "patient_id", "time_days", "event"
EVENT_WORDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "alive": 0, "dead": 1, "no": 0, "yes": 1}


def read_clinical(
    path, id_column: str = ID, time_column: str = TIME, event_column: str = EVENT, what: str = "clinical table"
) -> pd.DataFrame:
    """Follow-up of patients, indexed by patient_id: time_days (float, days), event (1 = died), further columns.

    Further columns become numbers where all their cells are. Raises UsageError, naming the patient, for a missing
    column, a patient without an id or listed twice, a time that is no number or negative, an event that is not 0 or 1.
    """
    return follow_up(read_table(path, what), id_column, time_column, event_column)


def follow_up(table: Table, id_column: str = ID, time_column: str = TIME, event_column: str = EVENT) -> pd.DataFrame:
    """``read_clinical`` of a table that was read already."""
    advice = {
        "clinical table": " Rename its columns, or name them with --id-column, --time-column and --event-column.",
        "manifest": " Rename its columns, name them with --id-column, --time-column and --event-column, or give the "
        "follow-up with --clinical.",
        "table of predictions": " Rename its columns, or give the follow-up with --clinical.",
    }.get(table.what, "")
    columns = [table.need(name, advice) for name in (id_column, time_column, event_column)]
    ids = one_row_each(table, columns[0])
    place = f"{table.what} '{table.path}'"
    times = [_time(place, patient, row[columns[1]]) for patient, row in zip(ids, table.rows)]
    events = [_event(place, patient, row[columns[2]]) for patient, row in zip(ids, table.rows)]
    others = pd.DataFrame(
        [[row[name] for name in table.columns if name not in columns] for row in table.rows],
        columns=[name for name in table.columns if name not in columns], dtype=str,
    ).apply(_numbers_if_all)  # fmt: skip
    found = pd.concat([pd.DataFrame({TIME: times, EVENT: events}), others], axis=1)
    return found.set_index(pd.Index(ids, name=ID))


def _time(place: str, patient: str, text: str) -> float:
    value = number(text)
    if not np.isfinite(value) or value < 0:
        raise UsageError(
            f"In the {place} the patient '{patient}' has the time '{text}'; it must be a number of days, 0 or more."
        )
    return value


def _event(place: str, patient: str, text: str) -> int:
    try:
        return EVENT_WORDS[text.casefold()]
    except KeyError:
        raise UsageError(
            f"In the {place} the patient '{patient}' has the event '{text}'; it must be 1 (died) or 0 (censored)."
        ) from None


def _numbers_if_all(column: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(column.where(column != ""), errors="coerce")
    return numbers if (numbers.notna() | (column == "")).all() and numbers.notna().any() else column
