"""Choosing among settings on the training cohort alone: cross-validation by patient.

Every patient is predicted by networks that have not seen this patient, at chosen epochs of their training, so one
cross-validation also shows how long to train. The test cohort is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from CNNSurvivalLib.files import ensure_output_folder, write_csv, write_json
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS, exponential_edges

from ..cohort.splits import fitting_folds, stratified_folds
from ..cohort.store import Store
from ..cohort.tables import read_own_csv
from ..progress import working
from ..training.runs import MAX_SLICES, Run, patient_survival, risk_at, risk_column
from ..training.train import PAPER, Settings, pretrain
from .metrics import score_predictions, warnings_told

PREDICTIONS_FILE, METRICS_FILE, SETTINGS_FILE = "predictions.csv", "metrics.csv", "settings.json"
METRIC_COLUMNS = ("epoch", "metric", "horizon_days", "value", "ci_low", "ci_high")


def crossvalidate(
    store: Store,
    output,
    settings: Settings,
    folds: int = 5,
    at_epochs: Sequence[int] = (),
    max_slices: int = MAX_SLICES,
    horizon_days: float = EIGHTEEN_MONTHS_DAYS,
    bootstrap: int = 1000,
    log: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Cross-validate pretraining with these settings.

    Parameters
    ----------
    store : Store
        The training cohort.
    output : str or Path
        Gets a folder per fold (finished folds are not trained again), predictions.csv (patient_id, time_days, event,
        fold, epoch, risk_<days>), metrics.csv and settings.json.
    settings : Settings
        ``best_slices`` counts the whole cohort's slices; each fold keeps its share.
    folds : int
    at_epochs : sequence of int
        When to predict besides the last epoch.
    max_slices : int
        Slices per patient for the patient's curve.
    horizon_days : float
        When to score.
    bootstrap : int
        Resamples for the intervals.
    log : callable
        Gets a line of text for each step and warning.

    Returns
    -------
    DataFrame
        Metrics per epoch, columns METRIC_COLUMNS.
    """
    output = ensure_output_folder(output)
    fold_of = stratified_folds(store.event, folds, settings.seed)
    epochs = sorted({*(epoch for epoch in at_epochs if epoch < settings.epochs), settings.epochs})
    parts = []
    for fold in range(folds):
        log(f"fold {fold + 1} of {folds}")
        held_out = fold_of == fold
        parts.append(_run_fold(store, held_out, output / f"fold-{fold + 1}", settings, epochs, max_slices,
                               horizon_days, log).assign(fold=fold + 1))  # fmt: skip
    predictions = pd.concat(parts, ignore_index=True)
    risk = risk_column(horizon_days)
    columns = ("patient_id", "time_days", "event", "fold", "epoch", risk)
    write_csv(output / PREDICTIONS_FILE, columns, predictions[list(columns)].itertuples(index=False))
    rows = []
    with warnings_told(log), working(f"Scoring with {bootstrap} resamples"):
        for epoch, found in predictions.groupby("epoch"):
            time, event = found["time_days"].to_numpy(float), found["event"].to_numpy() == 1
            scores = score_predictions(time, event, {horizon_days: found[risk].to_numpy()}, bootstrap, settings.seed)
            rows += [{"epoch": int(epoch), **row} for row in scores]
    table = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    write_csv(output / METRICS_FILE, METRIC_COLUMNS, table.itertuples(index=False))
    write_json(
        output / SETTINGS_FILE, {"folds": folds, "max_slices": max_slices, "departures": settings.departures(PAPER)}
    )
    return table


def _run_fold(store: Store, held_out, folder: Path, settings, epochs, max_slices, horizon_days, log) -> pd.DataFrame:
    """Predictions for the held-out patients at each of the epochs; kept in the folder, so that none is made twice."""
    ids = np.array(store.patient_ids)
    train, test = store.part(ids[~held_out]), store.part(ids[held_out])
    if settings.best_slices is not None:
        share = len(train.slices) / len(store.slices)
        settings = Settings(**{**vars(settings), "best_slices": max(1, round(settings.best_slices * share))})
    edges = exponential_edges()

    def predict(weights: dict) -> pd.DataFrame:
        risk = risk_at(patient_survival(weights, test, max_slices), edges, horizon_days)
        return pd.DataFrame({"patient_id": test.patient_ids, "time_days": test.time, "event": test.event.astype(int),
                             risk_column(horizon_days): risk})  # fmt: skip

    def after_epoch(epoch: int, weights: Callable[[], dict]) -> None:
        if epoch in epochs[:-1]:
            found = predict(weights())
            write_csv(folder / f"epoch-{epoch}.csv", tuple(found), found.itertuples(index=False))

    run = pretrain(train, folder, settings, edges, tell=log, after_epoch=after_epoch)
    at = [read_own_csv(folder / f"epoch-{epoch}.csv", dtype={"patient_id": str}) for epoch in epochs[:-1]]
    return pd.concat([f.assign(epoch=e) for f, e in zip([*at, predict(run.weights)], epochs)], ignore_index=True)


def crossvalidate_finetuning(
    parent: Run, store: Store, fit: Callable[[Store], dict], folds: int, seed: int, max_slices: int, horizon_days: float
) -> pd.DataFrame:
    """Each patient's risk before fine-tuning and after fine-tuning on the others: columns before, after; by patient.

    fit: gives the weights fine-tuned on a store's patients.
    """
    fold_of, ids = fitting_folds(store.event, folds, seed), np.array(store.patient_ids)
    before = risk_at(patient_survival(parent.weights, store, max_slices), parent.edges_days, horizon_days)
    after = np.empty(len(ids))
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        survival = patient_survival(fit(store.part(ids[~held_out])), store.part(ids[held_out]), max_slices)
        after[held_out] = risk_at(survival, parent.edges_days, horizon_days)
    return pd.DataFrame({"before": before, "after": after}, index=pd.Index(ids, name="patient_id"))
