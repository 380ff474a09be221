"""How good predicted risks are, by patient: concordance, Brier score, IPA, AUC, calibration, with intervals.

The conventions are those of the R packages survival and riskRegression, as in the paper. A patient's weight makes up
for the censored: 1 / G(T-) for a death at T before the horizon t, 1 / G(t) for who is still at risk then, 0 for who
was censored before; G is the Kaplan-Meier estimate of not being censored, of the patients evaluated. Means are over
all patients.

    concordance   Harrell et al. 1982; Zhang et al. 2020, Eq. 2
    brier         Graf et al. 1999, Gerds & Schumacher 2006
    ipa           1 - Brier / Brier of the Kaplan-Meier curve for everybody; Kattan & Gerds 2018
    auc           cumulative cases, dynamic controls; Uno et al. 2007, Blanche et al. 2013

Times are in days. ``risk`` is the probability of death by the horizon; higher is worse. Intervals are the 2.5th and
97.5th percentile over resampled patients. Everything is computed for all resamples at once: a resample is a row of
counts, how often each patient was drawn.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from CNNSurvivalLib.errors import CNNSurvivalError

METRICS = ("concordance", "ipa", "brier", "auc")
COLUMNS = ("metric", "horizon_days", "value", "ci_low", "ci_high")
ROUNDING = 1e-9
BLOCK = 1000  # patients whose pairs are held in memory at once


class MetricWarning(UserWarning):
    """A metric is undefined, or is so in some resamples."""


@contextlib.contextmanager
def warnings_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block, MetricWarnings are told, each text once, and not shown by Python."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MetricWarning)
        yield
    for text in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, MetricWarning)):
        tell(text)


def concordance(time, event, risk) -> float:
    """Harrell's concordance index: of the pairs in which one is known to die first, the share in which this one has
    the higher risk; equal risks count half. NaN if there is no such pair.

    time [n], days; event [n], 1 or True = died; risk [n]. This and all functions below raise CNNSurvivalError for
    arrays of different lengths or without patients, events that are neither 0 nor 1, and values that are not finite.
    """
    time, event, risk = _arrays(time, event, risk)
    return float(_concordance(time, event, risk, _once(time))[0])


def brier(time, event, risk, horizon: float) -> float:
    """Weighted mean of (died by the horizon - risk) ** 2; NaN if the last patient was censored before the horizon, as
    nothing is known then of those who lived on."""
    time, event, risk = _arrays(time, event, risk)
    return float(_brier(time, event, risk, horizon, _once(time))[0])


def brier_null(time, event, horizon: float) -> float:
    """The Brier score of the Kaplan-Meier estimate as everybody's risk."""
    time, event, _ = _arrays(time, event, np.zeros(len(time)))
    return float(_brier_null(time, event, horizon, _once(time))[0])


def ipa(time, event, risk, horizon: float) -> float:
    """Index of prediction accuracy, 1 - brier / brier_null: negative for a model that is worse than none; NaN if
    nobody died by the horizon, or everybody."""
    time, event, risk = _arrays(time, event, risk)
    return float(_ipa(time, event, risk, horizon, _once(time))[0])


def auc(time, event, risk, horizon: float) -> float:
    """Of pairs of one who died by the horizon and one at risk after it, the share ranked right; NaN without pairs."""
    time, event, risk = _arrays(time, event, risk)
    return float(_auc(time, event, risk, horizon, _once(time))[0])


def integrated_brier(time, event, survival, times) -> float:
    """The Brier score of survival curves, S [n, k] at ``times`` [k], averaged over time by the trapezoidal rule."""
    times, survival = np.asarray(times, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    scores = [brier(time, event, 1 - survival[:, k], t) for k, t in enumerate(times)]
    return float(trapezoid(scores, times) / (times[-1] - times[0]))


def censoring_survival(time, event):
    """G(t), the Kaplan-Meier estimate of not being censored by t, as (times [k], G just after each [k])."""
    time, event, _ = _arrays(time, event, np.zeros(len(time)))
    times, after = _censoring(time, event, _once(time))
    return times, after[0]


def score_predictions(
    time, event, risks: dict[float, np.ndarray], bootstrap: int = 1000, seed: int = 2020
) -> list[dict]:
    """Rows with the keys COLUMNS: every metric at every horizon of ``risks`` (horizon in days -> [n]).

    A metric that is undefined, in the data or in most resamples, has None for what cannot be given, and a warning
    (MetricWarning) says so. Raises CNNSurvivalError for arrays that ``concordance`` refuses, or a horizon beyond the
    last follow-up.
    """
    rows = []
    for horizon, risk in risks.items():
        times, events, values = _arrays(time, event, risk)
        if not 0 < horizon < times.max():
            raise CNNSurvivalError(
                f"Nobody was followed beyond the horizon of {horizon:g} days (the longest follow-up is "
                f"{times.max():g} days); choose an earlier one."
            )
        counts = resamples(len(times), bootstrap, seed)
        point, spread = (_all(times, events, values, horizon, c) for c in (_once(times), counts))
        rows += [_row(name, horizon, float(point[name][0]), spread[name]) for name in METRICS]
    return rows


def integrated_brier_row(
    time, event, risks: dict[float, np.ndarray], bootstrap: int = 1000, seed: int = 2020
) -> dict:
    """A row with the keys COLUMNS: ``integrated_brier`` from the first to the last of the horizons, in that order."""
    horizons = sorted(risks)

    def integrated(counts):
        scores = np.array([_brier(*_arrays(time, event, risks[days]), days, counts) for days in horizons])
        return trapezoid(scores, horizons, axis=0) / (horizons[-1] - horizons[0])

    patients = len(time)
    point = integrated(np.ones((1, patients)))[0]
    return _row("integrated_brier", horizons[-1], float(point), integrated(resamples(patients, bootstrap, seed)))


def difference(time, event, risk, risk_other, horizon: float, bootstrap: int = 1000, seed: int = 2020) -> list[dict]:
    """Rows with the keys COLUMNS: concordance and IPA of ``risk`` minus those of ``risk_other``, on the same patients
    and the same resamples of them."""
    time, event, risk = _arrays(time, event, risk)
    other = np.asarray(risk_other, dtype=np.float64)
    counts = resamples(len(time), bootstrap, seed)
    rows = []
    for name in ("concordance", "ipa"):
        point, spread = (
            _all(time, event, risk, horizon, c)[name] - _all(time, event, other, horizon, c)[name]
            for c in (_once(time), counts)
        )
        rows.append(_row(name, horizon, float(point[0]), spread))
    return rows


def calibration(time, event, risk, horizon: float, groups: int = 5) -> pd.DataFrame:
    """Predicted and observed risk in groups of equal size by predicted risk, lowest first.

    Columns group, patients, mean_predicted, observed (1 - Kaplan-Meier at the horizon), ci_low, ci_high (95 %, on the
    log-log scale). observed is NaN where the last of the group was censored before the horizon; so is the interval,
    and also where nobody or everybody died, as that scale has none then.
    """
    from lifelines import KaplanMeierFitter

    time, event, risk = _arrays(time, event, risk)
    rows = []
    for number, members in enumerate(np.array_split(np.argsort(risk, kind="stable"), groups), 1):
        if not len(members):
            continue
        observed, low, high = np.nan, np.nan, np.nan
        last = time[members] == time[members].max()
        if time[members].max() >= horizon or event[members][last].all():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lifelines speaks at length of groups without deaths
                fitted = KaplanMeierFitter().fit(time[members], event[members], timeline=[0.0, float(horizon)])
            observed = 1 - float(fitted.survival_function_.iloc[-1, 0])
            if 0 < observed < 1:
                high, low = (1 - float(value) for value in fitted.confidence_interval_.iloc[-1])
        rows.append((number, len(members), float(risk[members].mean()), observed, low, high))
    return pd.DataFrame(rows, columns=["group", "patients", "mean_predicted", "observed", "ci_low", "ci_high"])


def resamples(patients: int, number: int, seed: int) -> np.ndarray:
    """How often each patient is in each bootstrap sample: float64 [number, patients], rows sum to ``patients``."""
    drawn = np.random.default_rng(seed).integers(0, patients, (number, patients))
    return np.array([np.bincount(row, minlength=patients) for row in drawn], dtype=np.float64).reshape(-1, patients)


# --- For many resamples at once: counts [b, n] -> [b] -----------------------------------------------------------------


def _all(time, event, risk, horizon, counts) -> dict[str, np.ndarray]:
    return {
        "concordance": _concordance(time, event, risk, counts),
        "ipa": _ipa(time, event, risk, horizon, counts),
        "brier": _brier(time, event, risk, horizon, counts),
        "auc": _auc(time, event, risk, horizon, counts),
    }


def _concordance(time, event, risk, counts) -> np.ndarray:
    right, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for start in range(0, len(time), BLOCK):
        one = slice(start, start + BLOCK)
        # Who is known to die before whom; of a death and a censoring on the same day, the death comes first.
        earlier = (time[one, None] < time) | ((time[one, None] == time) & ~event)
        first = event[one, None] & earlier
        right += _sum_over_pairs(counts[:, one], first * _wins(risk[one], risk), counts)
        pairs += _sum_over_pairs(counts[:, one], first, counts)
    return _ratio(right, pairs)


def _auc(time, event, risk, horizon, counts) -> np.ndarray:
    case, control = np.flatnonzero(event & (time <= horizon)), time > horizon
    # The controls share one weight, 1 / G(horizon), which cancels.
    cases, controls = (counts * _weights(time, event, horizon, counts))[:, case], counts[:, control]
    right = np.zeros(len(counts))
    for start in range(0, len(case), BLOCK):
        one = slice(start, start + BLOCK)
        right += _sum_over_pairs(cases[:, one], _wins(risk[case[one]], risk[control]), controls)
    return _ratio(right, cases.sum(axis=1) * controls.sum(axis=1))


def _sum_over_pairs(one, matrix, other) -> np.ndarray:
    """sum over i, j of one[b, i] * matrix[i, j] * other[b, j]."""
    return np.einsum("bi,ib->b", one, matrix @ other.T)


def _ratio(top, bottom) -> np.ndarray:
    """top / bottom, NaN where bottom is 0 or NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _wins(one, other) -> np.ndarray:
    """1 where one's risk is higher, 0.5 where equal; [n, m]."""
    return (one[:, None] > other) + 0.5 * (one[:, None] == other)


def _ipa(time, event, risk, horizon, counts) -> np.ndarray:
    score, null = _brier(time, event, risk, horizon, counts), _brier_null(time, event, horizon, counts)
    return 1 - _ratio(score, null)


def _brier(time, event, risk, horizon, counts) -> np.ndarray:
    """risk: [n], or [b, n] if each resample has its own."""
    weights = counts * _weights(time, event, horizon, counts)
    score = (weights * ((event & (time <= horizon)) - risk) ** 2).sum(axis=1)
    return np.where(_known(weights, counts), score / counts.sum(axis=1), np.nan)


def _brier_null(time, event, horizon, counts) -> np.ndarray:
    # The Kaplan-Meier risk is the weighted share of deaths (Satten & Datta 2001): no second estimator is needed.
    died = event & (time <= horizon)
    risk = (counts * _weights(time, event, horizon, counts))[:, died].sum(axis=1) / counts.sum(axis=1)
    # Where everybody died the rounding of 1 must not make the score of a constant risk other than 0.
    return _brier(time, event, np.where(risk > 1 - ROUNDING, 1.0, risk)[:, None], horizon, counts)


def _known(weights, counts) -> np.ndarray:
    """Whether weights [b, n] stand for all patients: they sum to less if the last one was censored too early."""
    return weights.sum(axis=1) > (1 - ROUNDING) * counts.sum(axis=1)


def _weights(time, event, horizon, counts) -> np.ndarray:
    """[b, n]: 1 / G(T-) for deaths by the horizon, 1 / G(horizon) for those at risk after it, else 0."""
    times, after = _censoring(time, event, counts)
    steps = np.concatenate([np.ones((len(counts), 1)), after], axis=1)
    just_before = steps[:, np.searchsorted(times, time, side="left")]
    at_horizon = steps[:, np.searchsorted(times, horizon, side="right")][:, None]
    died, at_risk = event & (time <= horizon), time > horizon
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(died, 1 / just_before, np.where(at_risk, 1 / at_horizon, 0.0))
    return np.where(counts > 0, weights, 0.0)


def _censoring(time, event, counts) -> tuple[np.ndarray, np.ndarray]:
    """(distinct times [k], G just after each [b, k]); a death on the day of a censoring comes before it."""
    order = np.argsort(time, kind="stable")
    times, starts = np.unique(time[order], return_index=True)
    everybody = np.add.reduceat(counts[:, order], starts, axis=1)
    censored = np.add.reduceat(counts[:, order] * ~event[order], starts, axis=1)
    at_risk = np.cumsum(everybody[:, ::-1], axis=1)[:, ::-1] - (everybody - censored)
    with np.errstate(divide="ignore", invalid="ignore"):
        return times, np.cumprod(np.where(at_risk > 0, 1 - censored / at_risk, 1.0), axis=1)


# --- Inside -----------------------------------------------------------------------------------------------------------


def _arrays(time, event, risk) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    time, risk = np.asarray(time, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    event = np.asarray(event)
    if not len(time) or time.shape != event.shape or time.shape != risk.shape:
        raise CNNSurvivalError("Times, events and risks must be lists of the same length, with one patient or more.")
    if not np.isin(event, (0, 1)).all() or not (np.isfinite(time) & (time >= 0) & np.isfinite(risk)).all():
        raise CNNSurvivalError("Times and risks must be numbers, times 0 or more, and events 1 (died) or 0 (censored).")
    return time, event.astype(bool), risk


def _once(time) -> np.ndarray:
    return np.ones((1, len(time)))


def _row(name: str, horizon: float, value: float, spread: Sequence[float]) -> dict:
    """A row of metrics.csv; the interval leaves out resamples in which the metric is undefined."""
    found = np.asarray(spread)[np.isfinite(spread)]
    low, high = (None, None)
    if 2 * len(found) >= max(len(spread), 1) and len(found):
        low, high = (float(x) for x in np.percentile(found, [2.5, 97.5]))
    if not np.isfinite(value) or (len(spread) and len(found) < len(spread)):
        what = "is not defined for these patients" if not np.isfinite(value) else (
            f"is not defined in {len(spread) - len(found)} of {len(spread)} resamples, which are left out"
        )  # fmt: skip
        warnings.warn(f"{name} at {horizon:g} days {what}.", MetricWarning, stacklevel=3)
    return dict(zip(COLUMNS, (name, float(horizon), value if np.isfinite(value) else None, low, high)))
