"""Scoring predicted risks of a cohort, ours or anyone's: metrics with intervals, and calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from CNNSurvivalLib.api import find_models
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import ensure_output_folder, unescape_csv, write_csv
from CNNSurvivalLib.hazards import MONTH_DAYS
from CNNSurvivalLib.io.tables import number

from ..cohort.clinical import EVENT, ID, TIME, follow_up, read_clinical
from ..cohort.store import Store
from ..cohort.tables import one_row_each, read_table
from ..progress import working
from ..training.runs import (
    check_same_preprocessing,
    learned_from,
    network_for,
    patient_survival,
    patients_sha256,
    risk_at,
    risk_column,
)
from . import metrics
from .calibration import d_calibration, survival_at_end

RISK, SURVIVAL = "risk_", "survival_"
METRICS_FILE, PREDICTIONS_FILE = "metrics.csv", "predictions.csv"
CALIBRATION_PICTURE, DECISION_PICTURE = "calibration.png", "decision_curve.png"
ENOUGH_TIMES = 5  # with risks at fewer times, S between them is too coarse for D-calibration


def evaluate(
    predictions: pd.DataFrame, horizons: Sequence[float], output, bootstrap: int = 1000, seed: int = 2020,
    tell: Callable[[str], None] = print, permutations: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Score a table of predictions and write the results.

    Parameters
    ----------
    predictions : DataFrame
        Of ``read_predictions``: patient_id, time_days, event, risk_<days> of the horizons. Risks at further times
        serve D-calibration.
    horizons : sequence of float
        Days.
    output : path-like
        Folder; gets metrics.csv, calibration_<days>.csv, calibration_curve.csv, auc_curve.csv, decision_curve.csv,
        d_calibration.csv (with risks at 5 or more times), and the pictures of the first horizon.
    bootstrap : int
        Resamples for the intervals; 0: none.
    seed : int
        Of resamples and permutations.
    tell : callable
        Gets the warnings.
    permutations : int
        Adds the concordance of as many random assignments of risks to patients, and its p.

    Returns
    -------
    DataFrame
        metrics.csv: the metrics at each horizon; the Brier score integrated from the first to the last horizon, if
        there are several; what D-calibration and permutations give.

    Raises
    ------
    CNNSurvivalError
        If nobody died, or a horizon lies beyond the last follow-up.
    """
    time, event = predictions["time_days"].to_numpy(float), predictions["event"].to_numpy() == 1
    if not event.any():
        raise CNNSurvivalError("None of the patients died; predictions cannot be scored on them.")
    risks = {float(days): predictions[risk_column(days)].to_numpy(float) for days in horizons}
    with metrics.warnings_told(tell), working(f"Scoring with {bootstrap} resamples"):
        rows = metrics.score_predictions(time, event, risks, bootstrap, seed)
        if len(risks) > 1:
            rows.append(metrics.integrated_brier_row(time, event, risks, bootstrap, seed))
    few = metrics.small_sample(time, event, list(risks))
    if few:
        tell(few)
    for row in rows:
        wide = metrics.ipa_caution(row["ci_low"], row["ci_high"]) if row["metric"] == "ipa" else None
        if wide:
            tell(f"At {row['horizon_days']:g} days: {wide[0].lower()}{wide[1:]}")
    if permutations:
        with working(f"Shuffling outcomes {permutations} times"):
            rows += permutation_rows(time, event, risks, permutations, seed)
    output = ensure_output_folder(output)
    rows += _write_d_calibration(predictions, output)
    with working(f"Curves with {bootstrap} resamples"):
        _write_curves(time, event, risks, output, bootstrap, seed)
    found = pd.DataFrame(rows, columns=metrics.COLUMNS).astype(dict.fromkeys(metrics.COLUMNS[1:], float))
    write_csv(output / METRICS_FILE, metrics.COLUMNS, _cells(found))
    return found


def permutation_rows(time, event, risks: dict[float, np.ndarray], permutations: int, seed: int) -> list[dict]:
    """Rows of metrics.csv for each horizon: ``concordance_shuffled`` (mean and 95 % range of the concordance of
    outcomes that were shuffled among the patients) and ``concordance_p`` (one-sided)."""
    rows = []
    for days, risk in risks.items():
        null, p = metrics.permutation_test(time, event, risk, permutations, seed)
        low, high = np.percentile(null, [2.5, 97.5])
        rows.append(("concordance_shuffled", days, float(null.mean()), float(low), float(high)))
        rows.append(("concordance_p", days, p, None, None))
    return [dict(zip(metrics.COLUMNS, row)) for row in rows]


def _write_curves(time, event, risks: dict[float, np.ndarray], output, bootstrap: int, seed: int) -> None:
    """The tables of calibration, AUC and net benefit, and the pictures of the first horizon."""
    from ..figures.study import calibration_plot, decision_curve_plot

    curves: dict[str, list] = {"calibration_curve": [], "auc_curve": [], "decision_curve": []}
    for place, (days, risk) in enumerate(risks.items()):
        table = metrics.calibration(time, event, risk, days)
        write_csv(output / f"calibration_{_text(days)}.csv", tuple(table), _cells(table))
        for name, rows in curves.items():
            curve = getattr(metrics, name)(time, event, risk, days, bootstrap=bootstrap, seed=seed)
            rows.append(curve.assign(horizon_days=days))
        if place == 0:
            calibration_plot(table, days, output / CALIBRATION_PICTURE, curves["calibration_curve"][0], risk)
            decision_curve_plot(curves["decision_curve"][0], days, output / DECISION_PICTURE)
    for name, rows in curves.items():
        whole = pd.concat(rows, ignore_index=True)
        whole = whole[["horizon_days", *whole.columns.drop("horizon_days")]]
        write_csv(output / f"{name}.csv", tuple(whole), _cells(whole))


def _write_d_calibration(predictions: pd.DataFrame, output) -> list[dict]:
    """d_calibration.csv, and its row of metrics.csv, if the table says S at enough times."""
    columns = {_days(name): name for name in predictions if name.startswith(RISK) and _days(name) is not None}
    times = sorted(columns)
    if len(times) < ENOUGH_TIMES:
        return []
    survival = 1 - predictions[[columns[days] for days in times]].to_numpy(float)
    at_end, died = survival_at_end(times, survival, predictions["time_days"], predictions["event"] == 1)
    _, p, patients = d_calibration(at_end, died)
    edges = np.linspace(1, 0, len(patients) + 1)
    rows = zip(edges[:-1], edges[1:], patients, [len(predictions) / len(patients)] * len(patients))
    write_csv(output / "d_calibration.csv", ("survival_to", "survival_from", "patients", "expected"),
              [[float(value) for value in row] for row in rows])  # fmt: skip
    return [dict(zip(metrics.COLUMNS, ("d_calibration_p", float(times[-1]), p, None, None)))]


def read_predictions(
    path,
    horizons: Sequence[float] | None,
    clinical=None,
    log: Callable[[str], None] = print,
    also_trained_on: bool = False,
) -> tuple[pd.DataFrame, list[float]]:
    """(patient_id, time_days, event, risk_<days> ..., the horizons): those asked for, or all that the table has.

    A column risk_<months>m, as ``cnn-survival predict`` writes it, is the risk at that many months of 30.4375 days, and
    a column survival_<months>m is 1 - that; the latter are taken only for horizons that are asked for. Follow-up comes
    from the table's own columns or from the table ``clinical``; patients without a row there are left out, which
    ``log`` is told.

    Raises UsageError, naming column or patient, for a table that ``read_clinical`` refuses, a horizon without a
    column, a risk that is not a number from 0 to 1, and, unless ``also_trained_on``, for patients that the model which
    the table names learned from.
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
    if not also_trained_on:
        _check_not_learned_from(table, path, log)
    chosen = list(horizons or columns)
    survival = {_days(name): name for name in table if name.startswith(SURVIVAL) and _days(name) is not None}
    columns = {**survival, **columns}
    for days in chosen:
        if days not in columns:
            known = ", ".join(map(_text, sorted(columns)))
            months = f" {_text(days)} are days; {_text(days)} months are {_text(days * MONTH_DAYS)} days."
            raise UsageError(f"The table '{path}' has no column {risk_column(days)}; it has risks at {known} days."
                             f"{months if days * MONTH_DAYS in columns else ''}")  # fmt: skip
    kept = table[[ID, "time_days", "event"]].copy()
    for days in chosen:
        name = columns[days]
        values = table[name].map(number)
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            row = table[bad].iloc[0]
            what = "risk" if name.startswith(RISK) else "survival"
            raise UsageError(f"In the table '{path}' the patient '{row[ID]}' has {name} = '{row[name]}'; a {what} is a "
                             "number from 0 to 1.")  # fmt: skip
        kept[risk_column(days)] = values if name.startswith(RISK) else 1 - values
    return kept, chosen


def _check_not_learned_from(table: pd.DataFrame, path, log: Callable[[str], None]) -> None:
    """Raise UsageError where the model that predictions.csv names learned from its patients, as far as it ships."""
    if not {"model", "weights_sha256", "population"} <= set(table):
        return  # of other software, or of an earlier version
    shipped = {bundle.sha256: folder for folder, bundle, _ in find_models() if bundle is not None}
    for (model, weights, population), rows in table.groupby(["model", "weights_sha256", "population"], sort=False):
        if weights not in shipped:
            log(f"The model '{model}' does not ship with this software, so it was not checked whether it learned from "
                "these patients.")  # fmt: skip
            continue
        known = learned_from(network_for(shipped[weights], population))
        count = sum(patients_sha256([patient])[0] in known for patient in rows[ID])
        if count:
            raise UsageError(
                f"The model '{model}' learned from patients with the ids of {count} of the {len(rows)} patients of "
                f"'{path}', and scores on those say nothing about new patients; leave them out, or, if they are "
                "others, give --also-trained-on."
            )


def _with_follow_up(path, clinical, log) -> pd.DataFrame:
    """The table of predictions, by patient_id, with time_days and event."""
    table = read_table(path, "table of predictions")
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


def predict_store(
    model, store: Store, horizons: Sequence[float], max_slices: int | None = None, population: str | None = None
) -> pd.DataFrame:
    """The same table from a network (see ``network_for``), for a store's patients, of the image alone.

    Raises UsageError for slices that were cut in another way than the network's, a horizon beyond its last interval,
    and what is no network.
    """
    network = network_for(model, population)
    check_same_preprocessing(network, store)
    survival = patient_survival(network.weights, store, max_slices or network.max_slices)
    risks = {risk_column(days): risk_at(survival, network.edges_days, days) for days in horizons}
    return pd.DataFrame({ID: store.patient_ids, "time_days": store.time, "event": store.event.astype(int), **risks})


def _text(days: float) -> str:
    return f"{days:.12g}"  # enough digits to find the column again


def _cells(table: pd.DataFrame) -> list[list]:
    """The rows, None where there is no value."""
    return [[None if pd.isna(value) else value for value in row] for row in table.itertuples(index=False)]


def _days(column: str) -> float | None:
    """547.875 of "risk_547.875", "risk_18m" and "survival_18m"; None of other columns."""
    in_months = column.endswith("m")
    if column.startswith(SURVIVAL) and not in_months:
        return None
    text = column.removeprefix(RISK).removeprefix(SURVIVAL)
    try:
        days = float(text[:-1]) * MONTH_DAYS if in_months else float(text)
    except ValueError:
        return None
    return days if np.isfinite(days) and days > 0 else None
