"""How much to learn from few deaths: a trained network's last layer on another cohort, all before it frozen.

From the least to the most that is learned:

    none        the parent as it is
    shift       one number, added to the output of every interval: the parent's ranking, another level of risk
    offsets     a number for each interval: a shift, a trend over the intervals, and what is left
    last-layer  all of the last layer, drawn towards the parent's; how strongly is chosen by cross-validation
    free        the paper's: all 627 values, unpenalised, for a number of epochs (``train.fit_last_layer``)

All but the last are convex problems on each slice's 32 features, patients counted alike, and are solved to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.hazards import hazards_from_logits, negative_log_likelihood, survival_targets

from ..cohort.splits import stratified_folds
from ..cohort.store import Store
from .runs import MAX_SLICES

KINDS = ("none", "shift", "offsets", "last-layer", "free")
# Priors on the logit scale: of an interval's own offset around the common shift and trend, and of the trend, by which
# the last interval differs from the middle one (the hazards of one disease fall over time, those of another do not).
OFFSET_SD, TREND_SD = 0.3, 1.0
# How far a feature's weight may move, as the standard deviation of what it then adds to a logit; 0: not at all.
REACHES = (0.0, 0.03, 0.1, 0.3, 1.0)
MAX_STEPS = 500


@dataclass(frozen=True)
class Features:
    """The frozen network's features of a cohort's slices, and what the patients show.

    values: float64 [n, 32]. owner: int [n], the patient of each slice. weight: [n], sums to 1 for each patient.
    survived, died: float64 [patients, m]. event: bool [patients].
    """

    values: np.ndarray
    owner: np.ndarray
    weight: np.ndarray
    survived: np.ndarray
    died: np.ndarray
    event: np.ndarray

    @property
    def patients(self) -> int:
        return len(self.event)

    def part(self, keep: np.ndarray) -> Features:
        """The patients where keep [patients] is True."""
        slices = keep[self.owner]
        number = np.cumsum(keep) - 1
        return Features(self.values[slices], number[self.owner[slices]], self.weight[slices], self.survived[keep],
                        self.died[keep], self.event[keep])  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """A fitted last layer.

    weights: the network's, the last layer replaced. loss: mean negative log-likelihood per patient, without the
    penalty. converged: whether the problem was solved to the end. reach: of "last-layer", the chosen one.
    """

    kind: str
    weights: dict
    loss: float
    converged: bool
    reach: float | None = None


def cohort_features(weights: dict, store: Store, edges, max_slices: int | None = MAX_SLICES) -> Features:
    """Run the frozen part of a network on the best slices of a store's patients.

    Raises CNNSurvivalError where nobody died.
    """
    if not store.event.any():
        raise CNNSurvivalError(f"None of the patients of '{store.folder}' died; nothing can be learned from them.")
    engine = NumpyEngine(weights)
    each = [engine.features(store.images[store.rows(patient, max_slices)]) for patient in store.patient_ids]
    counts = np.array([len(rows) for rows in each])
    survived, died = survival_targets(store.time, store.event, edges)
    owner = np.repeat(np.arange(len(each)), counts)
    return Features(np.concatenate(each).astype(np.float64), owner, 1.0 / counts[owner], survived, died, store.event)


def fit(weights: dict, features: Features, kind: str, seed: int = 2020, reach: float | None = None) -> Fit:
    """Fit one kind but "free".

    reach: of "last-layer"; None chooses among REACHES by 5-fold cross-validation within these patients.
    """
    if kind == "none":
        return Fit(kind, dict(weights), loss(weights, features), True)
    if kind == "last-layer":
        reach = best_reach(weights, features, seed) if reach is None else reach
        solution, converged = _solve(weights, features, reach)
        return Fit(kind, solution, loss(solution, features), converged, reach)
    solution, converged = _solve(weights, features, 0.0, intervals=kind == "offsets")
    return Fit(kind, solution, loss(solution, features), converged)


def logits_of(weights: dict, features: Features) -> np.ndarray:
    """The last layer's output for each slice, [n, m]."""
    return features.values @ weights["output.weight"].T.astype(np.float64) + weights["output.bias"]


def patient_losses(features: Features, logits: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each patient, the mean over slices, [patients]."""
    each = negative_log_likelihood(logits, features.survived[features.owner], features.died[features.owner])
    return np.bincount(features.owner, features.weight * each, minlength=features.patients)


def loss(weights: dict, features: Features) -> float:
    """Mean negative log-likelihood per patient."""
    return float(patient_losses(features, logits_of(weights, features)).mean())


def best_reach(weights: dict, features: Features, seed: int, reaches: Sequence[float] = REACHES) -> float:
    """The reach with the smallest cross-validated loss; of nearly equal ones (one standard error) the smallest."""
    folds = min(5, int(features.event.sum()), int((~features.event).sum()))
    if folds < 2:
        return float(reaches[0])
    fold_of = stratified_folds(features.event, folds, seed)
    losses = np.array([_held_out_losses(weights, features, fold_of, reach) for reach in reaches])
    means = losses.mean(axis=1)
    best = int(np.argmin(means))
    # Of the difference to the best one, patient by patient: losses themselves differ far more between patients.
    error = (losses - losses[best]).std(axis=1, ddof=1) / np.sqrt(losses.shape[1])
    return float(next(reach for reach, mean, e in zip(reaches, means, error) if mean <= means[best] + e))


def _held_out_losses(weights: dict, features: Features, fold_of: np.ndarray, reach: float) -> np.ndarray:
    """Each patient's loss by a fit on the other folds."""
    losses = np.empty(features.patients)
    for fold in np.unique(fold_of):
        solution, _ = _solve(weights, features.part(fold_of != fold), reach)
        held_out = features.part(fold_of == fold)
        losses[fold_of == fold] = patient_losses(held_out, logits_of(solution, held_out))
    return losses


def _solve(weights: dict, features: Features, reach: float, intervals: bool = True) -> tuple[dict, bool]:
    """(weights, converged): a shift, with ``intervals`` an offset each, with reach > 0 also the features' weights.

    A parent with one row of weights for all intervals (proportional odds) keeps one.
    """
    matrix, bias = weights["output.weight"].astype(np.float64), weights["output.bias"].astype(np.float64)
    m, k = matrix.shape
    rows = 0 if reach == 0 else 1 if np.all(matrix == matrix[0]) else m
    spread = np.maximum(features.values.std(axis=0), 1e-6)
    values = features.values / spread  # a unit of a weight is then a unit of what it adds
    survived, died = features.survived[features.owner], features.died[features.owner]
    share = features.weight[:, None] / features.patients
    start = features.values @ matrix.T + bias

    trend_of = np.linspace(-1, 1, m) if m > 1 else np.zeros(m)

    def unpack(x):
        return x[0], x[1] * intervals, x[2 : 2 + m] * intervals, x[2 + m :].reshape(rows, k)

    def objective(x):
        shift, trend, offsets, moves = unpack(x)
        logits = start + shift + trend * trend_of + offsets
        if rows:
            logits = logits + values @ moves.T
        slope = share * (survived * hazards_from_logits(logits) - died * hazards_from_logits(-logits))
        each = share[:, 0] @ negative_log_likelihood(logits, survived, died)
        per_interval = slope.sum(axis=0)
        gradient = [
            [per_interval.sum()],
            [(per_interval @ trend_of + trend / (TREND_SD**2 * features.patients)) * intervals],
            (per_interval + offsets / (OFFSET_SD**2 * features.patients)) * intervals,
        ]
        penalty = np.sum(offsets**2) / OFFSET_SD**2 + trend**2 / TREND_SD**2
        if rows:
            of_moves = slope.T @ values if rows == m else slope.sum(axis=1)[None] @ values
            gradient.append((of_moves + moves / (reach**2 * features.patients)).ravel())
            penalty += np.sum(moves**2) / reach**2
        return each + penalty / (2 * features.patients), np.concatenate(gradient)

    options = {"maxiter": MAX_STEPS, "gtol": 1e-6, "ftol": 1e-10}
    from scipy.optimize import minimize

    found = minimize(objective, np.zeros(2 + m + rows * k), jac=True, method="L-BFGS-B", options=options)
    shift, trend, offsets, moves = unpack(found.x)
    solution = dict(weights)
    solution["output.bias"] = (bias + shift + trend * trend_of + offsets).astype(np.float32)
    if rows:
        solution["output.weight"] = (matrix + moves / spread).astype(np.float32)
    return solution, bool(found.success)
