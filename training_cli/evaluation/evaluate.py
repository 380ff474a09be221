"""Scoring predicted risks of a cohort, ours or anyone's: metrics with intervals, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from CNNSurvivalLib.bundle import INFO_FILE, load_bundle
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError, existing
from CNNSurvivalLib.files import ensure_output_folder, unescape_csv, write_csv
from CNNSurvivalLib.hazards import MONTH_DAYS

from ..cohort.clinical import EVENT, ID, TIME, follow_up, read_clinical
from ..cohort.store import Store, preprocessing_info
from ..cohort.tables import one_row_each, read_table
from ..training.runs import MAX_SLICES, load_run, patient_survival, risk_at, risk_column
from . import metrics

RISK = "risk_"
METRICS_FILE, PREDICTIONS_FILE, CALIBRATION_PICTURE = "metrics.csv", "predictions.csv", "calibration.png"


def evaluate(
    predictions: pd.DataFrame, horizons: Sequence[float], output, bootstrap: int = 1000, seed: int = 2020,
    tell: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Score a table of predictions (``read_predictions``); returns and writes metrics.csv.

    Besides the metrics at each horizon: the integrated Brier score from the first to the last horizon, if there are
    several. Also writes calibration_<days>.csv for each, and calibration.png of the first. Warnings go to ``tell``.
    Raises CNNSurvivalError if nobody died, or a horizon lies beyond the last follow-up.
    """
    from ..figures.study import calibration_plot

    time, event = predictions["time_days"].to_numpy(float), predictions["event"].to_numpy() == 1
    if not event.any():
        raise CNNSurvivalError("None of the patients died; predictions cannot be scored on them.")
    risks = {float(days): predictions[risk_column(days)].to_numpy(float) for days in horizons}
    with metrics.warnings_told(tell):
        rows = metrics.score_predictions(time, event, risks, bootstrap, seed)
        if len(risks) > 1:
            rows.append(metrics.integrated_brier_row(time, event, risks, bootstrap, seed))
    output = ensure_output_folder(output)
    for number, (days, risk) in enumerate(risks.items()):
        table = metrics.calibration(time, event, risk, days)
        write_csv(output / f"calibration_{_text(days)}.csv", tuple(table), _cells(table))
        if number == 0:
            calibration_plot(table, days, output / CALIBRATION_PICTURE)
    found = pd.DataFrame(rows, columns=metrics.COLUMNS)
    write_csv(output / METRICS_FILE, metrics.COLUMNS, _cells(found))
    return found


def read_predictions(
    path, horizons: Sequence[float] | None, clinical=None, log: Callable[[str], None] = print
) -> tuple[pd.DataFrame, list[float]]:
    """(patient_id, time_days, event, risk_<days> ..., the horizons): those asked for, or all that the table has.

    A column risk_<months>m, as ``cnn-survival predict`` writes it, is the risk at so many months of 30.4375 days.
    Follow-up comes from the table's own columns or from the table ``clinical``; patients without a row there are left
    out, which ``log`` is told.

    Raises UsageError, naming column or patient, for a table that ``read_clinical`` refuses, a horizon without a
    column, and a risk that is not a number from 0 to 1.
    """
    table = _with_follow_up(path, clinical, log).reset_index()
    named = [name for name in table if name.startswith(RISK) and _days(name) is not None]
    columns = {_days(name): name for name in named}
    if not columns:
        raise UsageError(f"The table '{path}' has no column with risks, such as {RISK}547.875; it has: "
                         f"{', '.join(table)}.")  # fmt: skip
    if len(columns) < len(named):
        twice = next(name for name in named if columns[_days(name)] != name)
        raise UsageError(f"The table '{path}' gives the risks at {_text(_days(twice))} days twice, in '{twice}' and "
                         f"'{columns[_days(twice)]}'; keep one.")  # fmt: skip
    for days in horizons or []:
        if days not in columns:
            known = ", ".join(map(_text, columns))
            raise UsageError(f"The table '{path}' has no column {risk_column(days)}; it has risks at {known} days.")
    chosen = list(horizons or columns)
    kept = table[[ID, "time_days", "event"]].copy()
    for days in chosen:
        values = pd.to_numeric(table[columns[days]], errors="coerce")
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            row = table[bad].iloc[0]
            raise UsageError(f"In the table '{path}' the patient '{row[ID]}' has {columns[days]} = "
                             f"'{row[columns[days]]}'; a risk is a number from 0 to 1.")  # fmt: skip
        kept[risk_column(days)] = values
    return kept, chosen


def _with_follow_up(path, clinical, log) -> pd.DataFrame:
    """The table of predictions, by patient_id, with time_days and event."""
    table = read_table(path, "predictions")
    id_column = table.need(ID)
    for row in table.rows:
        row[id_column] = unescape_csv(row[id_column])
    if clinical is None:
        return follow_up(table)
    ids, known = one_row_each(table), read_clinical(clinical)
    missing = [patient for patient in ids if patient not in known.index]
    if len(missing) == len(ids):
        raise UsageError(f"No patient of the predictions '{path}' has a row in the clinical table '{clinical}'; check "
                         f"the {ID} of both.")  # fmt: skip
    if missing:
        log(f"{len(missing)} of {len(ids)} patients have no row in '{clinical}' and are left out: "
            f"{', '.join(missing)}.")  # fmt: skip
    own = pd.DataFrame(table.rows, index=pd.Index(ids, name=ID), dtype=str)
    own = own.drop(columns=[name for name in own if name.casefold() in (ID, TIME, EVENT)])
    return own.join(known[[TIME, EVENT]], how="inner")


def predict_store(model, store: Store, horizons: Sequence[float], max_slices: int | None = None) -> pd.DataFrame:
    """The same table from a network, a run's or a bundle's folder, for a store's patients.

    Raises UsageError for slices that were cut in another way than the network's, a horizon beyond its last interval,
    and a folder that holds no network.
    """
    model = existing(model, "model")
    network = load_bundle(model) if (model / INFO_FILE).is_file() else load_run(model)
    if preprocessing_info(network.preprocessing) != store.info["preprocessing"]:
        raise UsageError(f"The slices of '{store.folder}' were cut in another way than those of the model '{model}'; "
                         "prepare the store with the model's settings.")  # fmt: skip
    count = max_slices or getattr(network, "max_slices", MAX_SLICES)
    survival = patient_survival(network.weights, store, count)
    risks = {risk_column(days): risk_at(survival, network.edges_days, days) for days in horizons}
    return pd.DataFrame({ID: store.patient_ids, "time_days": store.time, "event": store.event.astype(int), **risks})


def _text(days: float) -> str:
    return f"{days:.12g}"  # enough digits to find the column again


def _column(days: float) -> str:
    return f"{RISK}{_text(days)}"


def _cells(table: pd.DataFrame) -> list[list]:
    """The rows, None where there is no value."""
    return [[None if pd.isna(value) else value for value in row] for row in table.itertuples(index=False)]


def _days(column: str) -> float | None:
    """547.875 of "risk_547.875" and of "risk_18m"."""
    text = column[len(RISK) :]
    try:
        days = float(text[:-1]) * MONTH_DAYS if text.endswith("m") else float(text)
    except ValueError:
        return None
    return days if np.isfinite(days) and days > 0 else None
