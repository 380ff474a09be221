"""Fitting a population: how far its hazards lie from the network's, what age and stage add, and the uncertainty.

What is fitted is added to the logits of the hazards of all of a patient's slices: a shift is one number, or one per
interval; covariates add one number per patient. The patient's curve is the mean of the slice curves, as in
``CNNSurvivalLib.prediction``. Fits maximise the likelihood of
the discrete hazards of that curve (Gensheimer & Narasimhan 2019, PeerJ 7:e6257).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.hazards import (
    EIGHTEEN_MONTHS_DAYS,
    hazards_from_logits,
    kaplan_meier,
    survival_at,
    survival_function,
    survival_targets,
)
from CNNSurvivalLib.populations import Covariate, patient_score

from ..cohort.store import Store
from ..training.last_layer import OFFSET_SD, TREND_SD
from ..training.runs import MAX_SLICES
from .bundle import monthly_kaplan_meier
from .covariates import KNOWN_COVARIATES

# The prior of a coefficient, per standard deviation of its covariate: normal with this standard deviation.
PRIOR_SD = 0.5
RESAMPLES = 200
# Fewer deaths than this cannot carry a covariate.
FEW_DEATHS = 10
_TINY = 1e-12


@dataclass(frozen=True)
class Scores:
    """What a network says of a cohort's patients, and their follow-up.

    Attributes
    ----------
    patient_ids : list of str
    logits : float64 [patients, slices, m]
        Of the hazards; where a patient has fewer slices than others, what is there is not used.
    used : float64 [patients, slices]
        1 divided by the patient's number of slices for the patient's slices, else 0.
    time, event : float64, bool [patients]
    edges : float64 [m + 1]
        Days.
    """

    patient_ids: list
    logits: np.ndarray
    used: np.ndarray
    time: np.ndarray
    event: np.ndarray
    edges: np.ndarray

    def part(self, rows) -> Scores:
        """These patients alone; rows: indices, repeated ones count repeatedly."""
        rows = np.arange(len(self.time))[rows]
        ids = [self.patient_ids[row] for row in rows]
        return replace(self, patient_ids=ids, logits=self.logits[rows], used=self.used[rows], time=self.time[rows],
                       event=self.event[rows])  # fmt: skip

    def shifted(self, shift) -> Scores:
        """The same with numbers added to the logits: one, one per interval [m], or one per patient [patients, 1, 1]."""
        return replace(self, logits=self.logits + shift)


def cohort_scores(weights: dict, store: Store, edges, max_slices: int | None = MAX_SLICES) -> Scores:
    """Run a network on a store.

    Parameters
    ----------
    weights : dict
        As in ``CNNSurvivalLib.network.weight_shapes``.
    store : Store
    edges : array [m + 1], days
    max_slices : int or None
        Of each patient's best slices.
    """
    engine = NumpyEngine(weights)
    each = [
        engine.logits(engine.features(store.images[store.rows(patient, max_slices)])).astype(np.float64)
        for patient in store.patient_ids
    ]
    return scores_of(store.patient_ids, each, store.time, store.event, edges)


def scores_of(patient_ids: Sequence[str], logits: Sequence[np.ndarray], time, event, edges) -> Scores:
    """Scores from each patient's logits [slices, m]."""
    most = max(len(rows) for rows in logits)
    padded = np.stack([np.pad(rows, ((0, most - len(rows)), (0, 0)), mode="edge") for rows in logits])
    used = np.stack([(np.arange(most) < len(rows)) / len(rows) for rows in logits])
    return Scores(list(patient_ids), padded, used, np.asarray(time, float), np.asarray(event, bool), np.asarray(edges))


def joined(parts: Mapping, group_of: np.ndarray) -> Scores:
    """One Scores of several. parts: group -> the scores of its patients; group_of: [patients], the group of each."""
    rows = {group: iter(range(len(part.time))) for group, part in parts.items()}
    order = [(parts[group], next(rows[group])) for group in group_of]
    logits = [part.logits[row][part.used[row] > 0] for part, row in order]
    ids, time, event = zip(*((part.patient_ids[row], part.time[row], part.event[row]) for part, row in order))
    return scores_of(ids, logits, time, event, order[0][0].edges)


# --- Curves and likelihood --------------------------------------------------------------------------------------------


def survival_of(scores: Scores) -> np.ndarray:
    """The patients' S at the edges, [patients, m + 1]."""
    return np.einsum("pse,ps->pe", survival_function(hazards_from_logits(scores.logits)), scores.used)


def risk_of(scores: Scores, horizon_days: float = EIGHTEEN_MONTHS_DAYS) -> np.ndarray:
    """1 - S at a time, [patients]."""
    return 1 - survival_at(survival_of(scores), scores.edges, horizon_days)


def score_values(scores: Scores, horizon_days: float = EIGHTEEN_MONTHS_DAYS) -> np.ndarray:
    """``CNNSurvivalLib.populations.patient_score`` of each patient."""
    return np.array([patient_score(1 - risk) for risk in risk_of(scores, horizon_days)])


def loss(scores: Scores) -> float:
    """Negative log-likelihood of the patients' curves, summed over patients."""
    survival = survival_of(scores)
    hazard = np.clip(1 - survival[:, 1:] / np.maximum(survival[:, :-1], _TINY), _TINY, 1 - _TINY)
    survived, died = survival_targets(scores.time, scores.event, scores.edges)
    return -float(np.sum(died * np.log(hazard) + survived * np.log1p(-hazard)))


def fit_shift(scores: Scores) -> float:
    """The number that, added to all logits, makes the outcomes most likely.

    Raises CNNSurvivalError where nobody died: the data then ask for no risk at all.
    """
    _check_deaths(scores)
    return float(_minimise(lambda x: loss(scores.shifted(x[0])), 1)[0])


def fit_offsets(scores: Scores) -> np.ndarray:
    """A shift for each interval, [m]: a common one, a trend, and what is left (priors as in ``last_layer``)."""
    _check_deaths(scores)
    intervals = scores.logits.shape[2]
    trend = np.linspace(-1, 1, intervals)

    def penalised(x):
        prior = x[1] ** 2 / TREND_SD**2 + np.sum(x[2:] ** 2) / OFFSET_SD**2
        return loss(scores.shifted(x[0] + x[1] * trend + x[2:])) + prior / 2

    x = _minimise(penalised, 2 + intervals)
    return x[0] + x[1] * trend + x[2:]


def fit_line(scores: Scores, values: np.ndarray) -> np.ndarray:
    """(a, b) of logit + a + b (value - mean of the values): a recalibration with a slope."""
    centred = values - values.mean()
    return _minimise(lambda x: loss(scores.shifted((x[0] + x[1] * centred)[:, None, None])), 2)


def fit_term(scores: Scores, values: Mapping[str, np.ndarray]) -> dict:
    """A term of covariates beside the image, on the patients of whom all of them are known.

    The level of these patients is fitted, too, and left out: who has a value known (such as HPV) may differ from the
    others, and the level is the population's own. So the term is 0 for the mean of those known.

    Parameters
    ----------
    scores : Scores
        Already those of the population.
    values : mapping
        Name -> float [patients], NaN where unknown.

    Returns
    -------
    dict
        intercept, coefficients (per unit of the covariate), means and covariance (of the coefficients, in their
        order), patients, events: an entry of ``terms`` in bundle.json. With fewer than FEW_DEATHS deaths it adds
        nothing.
    """
    names = list(values)
    matrix = np.column_stack([values[name] for name in names])
    known = np.isfinite(matrix).all(axis=1)
    part, matrix = scores.part(known), matrix[known]
    if part.event.sum() < FEW_DEATHS:
        return _nothing(names, known, part)
    mean, sd = matrix.mean(axis=0), matrix.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    standard = (matrix - mean) / sd

    def penalised(x):
        return loss(part.shifted((x[0] + standard @ x[1:])[:, None, None])) + np.sum(x[1:] ** 2) / (2 * PRIOR_SD**2)

    x = _minimise(penalised, 1 + len(names))
    coefficients = x[1:] / sd
    covariance = np.linalg.inv(_hessian(penalised, x))[1:, 1:] / np.outer(sd, sd)
    return {
        "intercept": float(-coefficients @ mean),
        "coefficients": {name: float(value) for name, value in zip(names, coefficients)},
        "means": {name: float(value) for name, value in zip(names, mean)},
        "covariance": covariance.tolist(),
        "patients": int(known.sum()),
        "events": int(part.event.sum()),
    }


def _nothing(names: Sequence[str], known: np.ndarray, part: Scores) -> dict:
    return {
        "intercept": 0.0,
        "coefficients": dict.fromkeys(names, 0.0),
        "patients": int(known.sum()),
        "events": int(part.event.sum()),
    }


def _hessian(function: Callable, x: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Second derivatives by central differences."""
    size = len(x)
    steps = np.eye(size) * step
    result = np.empty((size, size))
    for i in range(size):
        for j in range(i, size):
            corners = [function(x + si * steps[i] + sj * steps[j]) * si * sj for si in (1, -1) for sj in (1, -1)]
            result[i, j] = result[j, i] = sum(corners) / (4 * step**2)
    return result


def fit_terms(scores: Scores, values: Mapping[str, np.ndarray]) -> list[dict]:
    """A term for each non-empty set of the covariates, each on all patients of whom the set is known."""
    names = list(values)
    sets = itertools.chain.from_iterable(itertools.combinations(names, k) for k in range(1, len(names) + 1))
    return [fit_term(scores, {name: values[name] for name in chosen}) for chosen in sets]


def without_image(scores: Scores, train: Scores) -> Scores:
    """The patients with the hazards of those to train on, alike for everybody: the start of a clinical model."""
    survived, died = survival_targets(train.time, train.event, train.edges)
    deaths, at_risk = died.sum(axis=0) + 0.5, survived.sum(axis=0) + 0.5
    logits = np.broadcast_to(np.log(deaths / at_risk), (len(scores.time), 1, len(deaths)))
    return replace(scores, logits=logits.copy(), used=np.ones((len(scores.time), 1)))


def term_shift(term: dict, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a term adds for each patient, [patients]; 0 for those of whom a covariate is not known."""
    total = term["intercept"] + sum(term["coefficients"][name] * values[name] for name in term["coefficients"])
    return np.where(np.isfinite(total), total, 0.0)


def terms_shift(terms: Sequence[dict], values: Mapping[str, np.ndarray], patients: int) -> np.ndarray:
    """What the term of exactly the known covariates adds for each patient, [patients]; 0 where none is known."""
    known = {name: np.isfinite(column) for name, column in values.items()}
    total = np.zeros(patients)
    for term in terms:
        exactly = np.all([known[name] == (name in term["coefficients"]) for name in values], axis=0)
        total = total + np.where(exactly, term_shift(term, values), 0.0)
    return total


# --- Uncertainty ------------------------------------------------------------------------------------------------------


def fit_interval(
    scores: Scores, network_variance: float = 0.0, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 2020,
    site_variance: float = 0.0,
) -> dict:  # fmt: skip
    """The entry ``interval`` of a population: the covariance of (shift, slope) over resamples of its patients.

    Parameters
    ----------
    scores : Scores
        Of the population, its shift applied; of patients that the network has not learned from.
    network_variance : float
        Variance of a patient's score over networks trained on other samples (``variance_between_networks``).
    site_variance : float
        Variance of the level between hospitals (``variance_between_sites``).
    """
    values = score_values(scores)
    random = np.random.default_rng(seed)
    fits = []
    while len(fits) < resamples:
        rows = random.integers(0, len(values), len(values))
        part = scores.part(rows)
        if part.event.any():
            a, b = fit_line(part, values[rows])
            fits.append((a + b * (values.mean() - values[rows].mean()), b))
    # About 0, as the scores are shifted already: what ships has slope 1, so a slope that is off counts as error.
    found = np.array(fits)
    covariance = found.T @ found / len(found)
    return {
        "method": "resampled recalibration",
        "level": level,
        "score_mean": float(values.mean()),
        "covariance": covariance.tolist(),
        "network_variance": float(network_variance),
        "site_variance": float(site_variance),
    }


def variance_between_sites(scores: Scores, sites: np.ndarray, resamples: int = 100, seed: int = 2020) -> float:
    """By how much the level of the hazards differs between sites, beyond chance: the variance of their shifts.

    Parameters
    ----------
    scores : Scores
        Of the population, its shift applied.
    sites : array [patients]

    Notes
    -----
    DerSimonian & Laird 1986, Control Clin Trials 7:177. Few sites estimate it poorly. Sites without deaths are left
    out.
    """
    shifts, errors, random = [], [], np.random.default_rng(seed)
    for site in np.unique(sites):
        part = scores.part(sites == site)
        if not part.event.any():
            continue
        again = [part.part(random.integers(0, len(part.time), len(part.time))) for _ in range(resamples)]
        shifts.append(fit_shift(part))
        errors.append(np.var([fit_shift(each) for each in again if each.event.any()]))
    if len(shifts) < 2:
        return 0.0
    shifts, weights = np.array(shifts), 1 / np.maximum(errors, 1e-6)
    q = weights @ (shifts - weights @ shifts / weights.sum()) ** 2
    excess = (q - (len(shifts) - 1)) / (weights.sum() - (weights**2).sum() / weights.sum())
    return float(max(0.0, excess))


def variance_between_networks(scores_of_networks: Sequence[np.ndarray]) -> float:
    """Variance of a patient's score that comes from the sample which the network was trained on.

    Parameters
    ----------
    scores_of_networks : sequence of float [patients]
        Scores of the same patients by the networks of k folds, each trained without one of k parts of a cohort.

    Notes
    -----
    Grouped jackknife: (k - 1) / k times the sum of squared deviations (Efron & Tibshirani 1993, ch. 11), averaged over
    patients. What moves all patients alike is left out, as the shift takes it up.
    """
    values = np.array([each - np.mean(each) for each in scores_of_networks])
    k = len(values)
    return float(((k - 1) / k * ((values - values.mean(axis=0)) ** 2).sum(axis=0)).mean())


def error_of(interval: dict, values: np.ndarray) -> np.ndarray:
    """Standard error of each patient's logit, [patients]; ``Population.shift_error`` for many."""
    distance = values - interval["score_mean"]
    (vaa, vab), (_, vbb) = interval["covariance"]
    more = interval["network_variance"] + interval.get("site_variance", 0.0)
    return np.sqrt(np.maximum(vaa + 2 * vab * distance + vbb * distance**2, 0) + more)


def split_half_coverage(
    scores: Scores, repeats: int = 20, resamples: int = 100, seed: int = 2020, level: float = 0.95
) -> float:
    """How often the recalibrations on two halves of a cohort agree within their joint interval, 0..1.

    level: of the interval, as in ``fit_interval``. If it is kept, the result is about this level: the difference of two
    independent estimates has the sum of their variances. Patients count alike.
    """
    from scipy.stats import norm

    values, inside, random = score_values(scores), [], np.random.default_rng(seed)
    for repeat in range(repeats):
        half = random.permutation(len(values)) < len(values) // 2
        if not (scores.event[half].any() and scores.event[~half].any()):
            continue
        shifts, variances = [], []
        for rows in (half, ~half):
            part = scores.part(rows)
            a, b = fit_line(part, values[rows])
            found = fit_interval(part, level=level, resamples=resamples, seed=seed + repeat)
            shifts.append(a + b * (values - values[rows].mean()))
            variances.append(error_of(found, values) ** 2)
        limit = norm.ppf((1 + level) / 2) * np.sqrt(variances[0] + variances[1])
        inside.append(np.mean(np.abs(shifts[0] - shifts[1]) <= limit))
    return float(np.mean(inside))


def group_coverage(scores: Scores, interval: dict, horizon_days: float = EIGHTEEN_MONTHS_DAYS, groups: int = 5) -> list:
    """Predicted and observed S of groups by predicted risk, one dict for each group, the lowest risk first.

    patients: their number. predicted: mean S. observed: S by Kaplan-Meier. error: standard error of ``observed``.
    model_error: standard error of ``predicted``, from the interval. covered: whether the two differ by no more than the
    interval's level allows, given both errors.
    """
    from scipy.stats import norm

    z, values = norm.ppf((1 + interval["level"]) / 2), score_values(scores, horizon_days)
    error = error_of(interval, values)
    curves = [1 - risk_of(scores.shifted((sign * error)[:, None, None]), horizon_days) for sign in (0, 1)]
    rows = []
    for members in np.array_split(np.argsort(curves[0], kind="stable"), groups):
        predicted, moved = (curve[members].mean() for curve in curves)
        observed, sampling = _km_at(scores.time[members], scores.event[members], horizon_days)
        reach = z * np.hypot(predicted - moved, sampling)
        rows.append({
            "patients": len(members), "predicted": float(predicted), "observed": observed, "error": sampling,
            "model_error": float(predicted - moved), "covered": bool(abs(predicted - observed) <= reach),
        })  # fmt: skip
    return rows


def _km_at(time, event, horizon_days: float) -> tuple[float, float]:
    """(S, Greenwood's standard error) at a time."""
    times, survival = kaplan_meier(time, event)
    before = times <= horizon_days
    value = float(survival[before][-1]) if before.any() else 1.0
    total = 0.0
    for t in times[before]:
        at_risk, deaths = np.sum(time >= t), np.sum((time == t) & event)
        total += deaths / (at_risk * max(at_risk - deaths, 1))
    return value, float(value * np.sqrt(total)) if 0 < value < 1 else float(0.5 / len(time))


# --- What improves predictions: cross-validation ----------------------------------------------------------------------


def crossvalidated_risks(
    scores: Scores,
    fit: Callable[[Scores, Mapping], Callable[[Scores, Mapping], np.ndarray]],
    values: Mapping[str, np.ndarray],
    fold_of: np.ndarray,
    horizon_days: float = EIGHTEEN_MONTHS_DAYS,
    no_image: bool = False,
    scores_without: Mapping | None = None,
) -> np.ndarray:
    """Each patient's risk by a fit on the other folds, [patients].

    fit(scores, values) returns a function that gives each patient's shift [patients] for (scores, values). fold_of: the
    fold, or the hospital, of each patient. no_image: starts from the hazards of the other folds, alike for everybody.
    scores_without: fold -> the scores of all patients by weights that were fitted without the fold, where weights were
    fitted on these patients. The others' held-out scores will not do there: they come from weights that have learned
    the fold's outcomes, and so carry its level, turned round.
    """
    risks = np.empty(len(scores.time))
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        scores = scores if scores_without is None else scores_without[fold]
        inside = {name: column[~held_out] for name, column in values.items()}
        outside = {name: column[held_out] for name, column in values.items()}
        train, part = scores.part(~held_out), scores.part(held_out)
        if no_image:
            train, part = without_image(train, train), without_image(part, train)
        shift_of = fit(train, inside)
        risks[held_out] = risk_of(part.shifted(shift_of(part, outside)[:, None, None]), horizon_days)
    return risks


def shift_only(scores: Scores, values: Mapping) -> Callable:
    """For ``crossvalidated_risks``: one shift."""
    shift = fit_shift(scores)
    return lambda part, _: np.full(len(part.time), shift)


def shift_and_terms(scores: Scores, values: Mapping) -> Callable:
    """For ``crossvalidated_risks``: one shift, then the covariates that are known of each patient."""
    shift = fit_shift(scores)
    terms = fit_terms(scores.shifted(shift), values)

    return lambda part, given: shift + terms_shift(terms, given, len(part.time))


# --- The entry of bundle.json -----------------------------------------------------------------------------------------


def reference_cohort(scores: Scores, label: str, horizon_days: float) -> dict:
    """Kaplan-Meier curve and quantiles of the predicted risk, as ``reference_cohort`` has them."""
    quantiles = np.quantile(risk_of(scores, horizon_days), np.linspace(0, 1, 101))
    return {
        "label": label,
        "kaplan_meier": monthly_kaplan_meier(scores.time, scores.event, scores.edges),
        "risk_quantiles": np.maximum.accumulate(quantiles).tolist(),
    }


def covariate_entry(covariate: Covariate) -> dict:
    """A Covariate as bundle.json has it."""
    entry = {"name": covariate.name, "label": covariate.label, "unit": covariate.unit}
    if covariate.choices is not None:
        return {**entry, "choices": dict(covariate.choices)}
    return {**entry, "low": covariate.low, "high": covariate.high}


def covariate_values(table, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a patients' table as numbers, NaN where not known; name -> float [patients].

    Columns and values may be written as ``Covariate`` says. Raises UsageError for a value that is none.
    """
    rows = table.to_dict("records")
    known = {name: [KNOWN_COVARIATES[name].value_in(row) for row in rows] for name in names}
    return {name: np.array([np.nan if v is None else v for v in found], float) for name, found in known.items()}


def predictors(values: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray] | None = None) -> dict:
    """What is compared: name -> (fit, its values, whether it goes without the image), for ``crossvalidated_risks``."""
    found = {"image": (shift_only, {}, False)}
    for name, number in (others or {}).items():
        found[name] = (shift_and_terms, {name: np.asarray(number, dtype=np.float64)}, True)
    if values:
        found["clinical"] = (shift_and_terms, values, True)
        found["image and clinical"] = (shift_and_terms, values, False)
    return found


def compared_risks(
    scores: Scores, values: Mapping[str, np.ndarray], fold_of: np.ndarray, horizon_days: float = EIGHTEEN_MONTHS_DAYS,
    others: Mapping[str, np.ndarray] | None = None, scores_without: Mapping | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Each patient's risk by image, clinical values and both, cross-validated.

    Parameters
    ----------
    scores : Scores
        Of patients that the network has not learned from.
    values : mapping
        Covariates, name -> [patients].
    fold_of : array [patients]
        The fold, or the hospital, of each patient.
    others : mapping, optional
        Name -> number per patient, a model of its own, such as the tumour's area.
    scores_without : mapping, optional
        As in ``crossvalidated_risks``.

    Returns
    -------
    dict
        "image", a key of ``others``, "clinical", "image and clinical" -> risk [patients].
    """
    return {
        name: crossvalidated_risks(scores, fit, given, fold_of, horizon_days, no_image, scores_without)
        for name, (fit, given, no_image) in predictors(values, others).items()
    }


def patient_ranges(store: Store, max_slices: int, ages: np.ndarray | None = None) -> dict:
    """The entry ``ranges`` of a population: measure -> [1st, 99th percentile] over the patients of a store.

    Measures are those of ``CNNSurvivalLib.populations.MEASURES``: the largest area, the mean grey level, the volume,
    and the age where ``ages`` are given. A store whose patients all have a single slice says nothing about volumes.
    """
    rows = [store.rows(patient, max_slices) for patient in store.patient_ids]
    largest = [store.slices.loc[some, "area_px"].max() for some in rows]
    grey = [store.slices.loc[some, "mean_intensity"].mean() for some in rows]
    measures = {"largest_area_px": largest, "mean_intensity": grey}
    if (store.patients["roi_slices"] > 1).any():
        volumes = store.patients["volume_cc"].to_numpy(np.float64)
        measures["volume_cc"] = volumes[np.isfinite(volumes)]
    if ages is not None:
        measures["age_years"] = ages[np.isfinite(ages)]
    return {name: np.percentile(each, [1, 99]).tolist() for name, each in measures.items() if len(each)}


def _check_deaths(scores: Scores) -> None:
    if not scores.event.any():
        raise CNNSurvivalError("None of the patients died; a population cannot be calibrated on them.")


def _minimise(function: Callable, size: int) -> np.ndarray:
    from scipy.optimize import minimize

    return minimize(function, np.zeros(size), method="BFGS", options={"gtol": 1e-4}).x
