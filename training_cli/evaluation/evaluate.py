"""Scoring predicted risks of a cohort, ours or anyone's: metrics with intervals, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import ensure_output_folder, write_csv

from ..cohort.clinical import ID, read_clinical
from ..cohort.store import Store, preprocessing_info
from ..training.runs import load_network, patient_survival, risk_at, risk_column
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


def read_predictions(path, horizons: Sequence[float] | None) -> tuple[pd.DataFrame, list[float]]:
    """(patient_id, time_days, event, risk_<days> ..., the horizons): those asked for, or all that the table has.

    Raises UsageError, naming column or patient, for a table that ``read_clinical`` refuses, a horizon without a
    column, and a risk that is not a number from 0 to 1.
    """
    table = read_clinical(path, what="predictions").reset_index()
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


def predict_store(model, store: Store, horizons: Sequence[float], max_slices: int | None = None) -> pd.DataFrame:
    """The same table from a network (see ``load_network``), for a store's patients.

    Raises UsageError for slices that were cut in another way than the network's, a horizon beyond its last interval,
    and what is no network.
    """
    network = load_network(model)
    if preprocessing_info(network.preprocessing) != store.info["preprocessing"]:
        raise UsageError(f"The slices of '{store.folder}' were cut in another way than those of the model '{model}'; "
                         "prepare the store with the model's settings.")  # fmt: skip
    survival = patient_survival(network.weights, store, max_slices or network.max_slices)
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
    try:
        days = float(column[len(RISK) :])
    except ValueError:
        return None
    return days if np.isfinite(days) and days > 0 else None
