"""Fine-tuning that learns as much as the deaths allow: each kind of ``training.last_layer`` compared by
cross-validation on the training patients, and the simplest kind chosen that is not shown to be worse than the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.files import ensure_output_folder, write_csv
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS, hazards_from_logits, survival_at, survival_function

from ..cohort.splits import stratified_folds
from ..cohort.store import Store
from ..progress import progress
from ..training import last_layer, train
from ..training.runs import MAX_SLICES, Run, check_not_learned_from, check_same_preprocessing, save_run
from .metrics import concordance, ipa

AUTO = "auto"
CHOICE_FILE = "comparison.csv"
COMPARISON_COLUMNS = ("learn", "loss", "loss_error", "concordance", "ipa", "chosen")
# From the least to the most that is learned; "free" is the paper's, compared but never chosen by itself.
CHOOSABLE = ("none", "shift", "offsets", "last-layer")


def finetune(
    parent: Run,
    store: Store,
    output,
    learn: str = AUTO,
    settings: train.Settings = train.FINETUNE,
    max_slices: int = MAX_SLICES,
    log: Callable[[str], None] = print,
    also_trained_on: bool = False,
) -> Run:
    """Adapt the last layer of a trained network to another cohort.

    Parameters
    ----------
    parent : Run
        A run, or a shipped bundle opened as one.
    store : Store
        The cohort; its slices cut as the parent's.
    output : path
        Gets the run and, with "auto", comparison.csv.
    learn : str
        "auto", or one of ``last_layer.KINDS``. "free" is the paper's way and takes ``settings``.
    settings : Settings
        Of "free"; of the others only the seed.
    also_trained_on : bool
        Whether "auto" may compare the ways on patients that the parent learned from.

    Raises
    ------
    UsageError
        If "auto" would compare on patients that the parent learned from, the store's slices were cut in another way,
        ``output`` holds another run, or ``learn`` is unknown.
    CNNSurvivalError
        If nobody died.
    """
    if learn not in (AUTO, *last_layer.KINDS):
        known = ", ".join((AUTO, *last_layer.KINDS))
        raise UsageError(f"There is no way '{learn}' to fine-tune; choose among {known}.")
    if learn == "free":
        return train.finetune(parent, store, output, settings, log)
    check_same_preprocessing(parent, store)
    if learn == AUTO and not also_trained_on:
        check_not_learned_from(parent, store)
    output = ensure_output_folder(output)
    plan = {**train.plan_of("finetune", store, settings, parent.edges_days), "parent": parent.info, "learn": learn,
            "departures": [f"learn = {learn} (paper: free)"]}  # fmt: skip
    finished = train.finished_run(output, plan)
    if finished is not None:
        return finished
    table = None
    if learn == AUTO:
        table = compare(parent, store, settings, max_slices=max_slices)
        write_csv(output / CHOICE_FILE, COMPARISON_COLUMNS, table[list(COMPARISON_COLUMNS)].itertuples(index=False))
        for line in described(table):
            log(line)
        learn = table.loc[table["chosen"] == 1, "learn"].iloc[0]
    features = last_layer.cohort_features(parent.weights, store, parent.edges_days, max_slices)
    found = last_layer.fit(parent.weights, features, learn, settings.seed)
    log(_said(found, last_layer.loss(parent.weights, features)))
    outcome = train.outcome_of(len(features.values), features.patients, [found.loss], store)
    info = {**plan, **outcome, "learned": learn, "converged": found.converged,
            "reach": found.reach, "comparison": None if table is None else table.to_dict("records")}  # fmt: skip
    return save_run(output, info, found.weights)


def kind_for_others(
    parent: Run, store: Store, learn: str, settings: train.Settings, max_slices: int, horizon_days: float
) -> str:
    """``learn``; in place of "auto" what a comparison chooses for patients of another disease than the parent's.

    At least the level is learned, as another disease has another, shown or not; it alone where the ways cannot be
    compared, which takes two deaths and two survivors.
    """
    if learn != AUTO:
        return learn
    if min(int(store.event.sum()), int((~store.event).sum())) < 2:
        return "shift"
    table = compare(parent, store, settings, CHOOSABLE, max_slices=max_slices, horizon_days=horizon_days)
    chosen = table.loc[table["chosen"] == 1, "learn"].iloc[0]
    return "shift" if chosen == "none" else chosen


def tuned_weights(parent: Run, store: Store, learn: str, settings: train.Settings, max_slices: int) -> dict:
    """The weights that ``finetune`` gives for one of ``last_layer.KINDS``, without a folder."""
    if learn == "free":
        return train.fit_last_layer(parent, store, settings)[0]
    features = last_layer.cohort_features(parent.weights, store, parent.edges_days, max_slices)
    return last_layer.fit(parent.weights, features, learn, settings.seed).weights


def compare(
    parent: Run,
    store: Store,
    settings: train.Settings = train.FINETUNE,
    kinds: Sequence[str] = last_layer.KINDS,
    folds: int = 5,
    repeats: int = 2,
    max_slices: int = MAX_SLICES,
    horizon_days: float = EIGHTEEN_MONTHS_DAYS,
) -> pd.DataFrame:
    """What each kind gives patients that it has not learned from; a row per kind.

    Columns: COMPARISON_COLUMNS. loss: mean negative log-likelihood per patient. loss_error: standard error of its
    difference to the best. concordance: mean over folds, within each. All are means over ``repeats`` divisions into
    folds. chosen: 1 for the simplest of CHOOSABLE whose loss is within one standard error of the best of them and whose
    concordance is no lower than the parent's.
    """
    features = last_layer.cohort_features(parent.weights, store, parent.edges_days, max_slices)
    folds = min(folds, int(store.event.sum()), int((~store.event).sum()))
    if folds < 2:
        raise UsageError("Too few deaths to compare ways of fine-tuning; choose one with --learn, such as shift.")
    divisions = [stratified_folds(store.event, folds, settings.seed + number) for number in range(repeats)]
    found = {kind: [_crossvalidated(parent, store, features, kind, fold_of, settings, horizon_days)
                    for fold_of in divisions]
             for kind in progress(kinds, len(kinds), "Comparing how much to learn", "way")}  # fmt: skip
    losses = {kind: np.mean([each[0] for each in found[kind]], axis=0) for kind in kinds}
    best = min((kind for kind in kinds if kind in CHOOSABLE), key=lambda kind: losses[kind].mean())
    rows = [
        {
            "learn": kind,
            "loss": float(losses[kind].mean()),
            "loss_error": float((losses[kind] - losses[best]).std(ddof=1) / np.sqrt(len(losses[kind]))),
            "concordance": float(np.mean([each[1] for each in found[kind]])),
            "ipa": float(np.mean([each[2] for each in found[kind]])),
        }
        for kind in kinds
    ]
    table = pd.DataFrame(rows)
    ranked = table["concordance"] >= table["concordance"].iloc[0] - 0.005 if kinds[0] == "none" else True
    close = table["loss"] <= losses[best].mean() + table["loss_error"]
    fits = table["learn"].isin(CHOOSABLE) & close & ranked
    # Where only kinds that rank worse fit as well, the order is kept and the level alone is learned.
    chosen = fits.idxmax() if fits.any() else table.index[table["learn"] == "shift"][0]
    return table.assign(chosen=(table.index == chosen).astype(int))


def _crossvalidated(parent: Run, store: Store, features, kind, fold_of, settings, horizon_days):
    """(each patient's loss, concordance within folds, IPA), each patient predicted by a fit on the other folds."""
    losses, risks, within = np.empty(features.patients), np.empty(features.patients), []
    ids = np.array(store.patient_ids)
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        if kind == "free":
            weights = train.fit_last_layer(parent, store.part(ids[~held_out]), settings)[0]
        else:
            weights = last_layer.fit(parent.weights, features.part(~held_out), kind, settings.seed).weights
        part = features.part(held_out)
        losses[held_out], risks[held_out] = _judged(weights, part, parent.edges_days, horizon_days)
        inside = concordance(store.time[held_out], store.event[held_out], risks[held_out])
        if np.isfinite(inside):
            within.append(inside)
    return losses, float(np.mean(within)), ipa(store.time, store.event, risks, horizon_days)


def _judged(weights: dict, part, edges, horizon_days: float) -> tuple[np.ndarray, np.ndarray]:
    """(loss, risk at the horizon) of each patient, the mean over slices."""
    logits = last_layer.logits_of(weights, part)
    risk = 1 - survival_at(survival_function(hazards_from_logits(logits)), edges, horizon_days)
    of_patients = np.bincount(part.owner, part.weight * risk, minlength=part.patients)
    return last_layer.patient_losses(part, logits), of_patients


def described(table: pd.DataFrame) -> list[str]:
    """The comparison as lines for the terminal."""
    lines = ["Cross-validated on these patients: loss per patient, concordance, IPA at 18 months"]
    for row in table.itertuples():
        mark = "  <- chosen" if row.chosen else ""
        lines.append(f"  {row.learn:<11} {row.loss:.4f}  {row.concordance:.3f}  {row.ipa:+.3f}{mark}")
    return lines


def _said(found: last_layer.Fit, before: float) -> str:
    steps = "converged" if found.converged else f"NOT converged within {last_layer.MAX_STEPS} steps"
    reach = "" if found.reach is None else f", reach {found.reach:g}"
    return f"{found.kind}{reach}: loss per patient {before:.4f} before, {found.loss:.4f} after; {steps}"
