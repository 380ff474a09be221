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
from CNNSurvivalLib.hazards import kaplan_meier

METRICS = ("concordance", "ipa", "brier", "auc")
COLUMNS = ("metric", "horizon_days", "value", "ci_low", "ci_high")


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
    the higher risk; equal risks count half. NaN if there is no such pair."""
    time, event, risk = _arrays(time, event, risk)
    return float(_concordance(time, event, risk, _once(time))[0])


def brier(time, event, risk, horizon: float) -> float:
    """Weighted mean of (died by the horizon - risk) ** 2; NaN where the weights are undefined."""
    time, event, risk = _arrays(time, event, risk)
    return float(_brier(time, event, risk, horizon, _once(time))[0])


def brier_null(time, event, horizon: float) -> float:
    """The Brier score of the Kaplan-Meier estimate as everybody's risk."""
    time, event, _ = _arrays(time, event, np.zeros(len(time)))
    return float(_brier_null(time, event, horizon, _once(time))[0])


def ipa(time, event, risk, horizon: float) -> float:
    """Index of prediction accuracy, 1 - brier / brier_null: negative for a model that is worse than none."""
    return 1 - brier(time, event, risk, horizon) / brier_null(time, event, horizon)


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
    (MetricWarning) says so. Raises CNNSurvivalError for empty arrays or a horizon beyond the last follow-up.
    """
    rows = []
    for horizon, risk in risks.items():
        times, events, values = _arrays(time, event, risk)
        if not 0 < horizon < times.max():
            raise CNNSurvivalError(
                f"Nobody was followed to the horizon of {horizon:g} days (the longest follow-up is {times.max():g} "
                "days); choose an earlier one."
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
    log-log scale); NaN where the group's follow-up ends before the horizon.
    """
    from lifelines import KaplanMeierFitter

    time, event, risk = _arrays(time, event, risk)
    rows = []
    for number, members in enumerate(np.array_split(np.argsort(risk, kind="stable"), groups), 1):
        if not len(members):
            continue
        observed, low, high = np.nan, np.nan, np.nan
        if time[members].max() >= horizon:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a group without deaths has no interval, and it says so at length
                fitted = KaplanMeierFitter().fit(time[members], event[members], timeline=[0.0, float(horizon)])
            observed = 1 - float(fitted.survival_function_.iloc[-1, 0])
            high, low = (1 - float(value) for value in fitted.confidence_interval_.iloc[-1])
        rows.append((number, len(members), float(risk[members].mean()), observed, low, high))
    return pd.DataFrame(rows, columns=["group", "patients", "mean_predicted", "observed", "ci_low", "ci_high"])


def resamples(patients: int, number: int, seed: int) -> np.ndarray:
    """How often each patient is in each bootstrap sample: float64 [number, patients], rows sum to ``patients``."""
    drawn = np.random.default_rng(seed).integers(0, patients, (number, patients))
    return np.array([np.bincount(row, minlength=patients) for row in drawn], dtype=np.float64).reshape(-1, patients)


# --- For many resamples at once: counts [b, n] -> [b] -----------------------------------------------------------------


def _all(time, event, risk, horizon, counts) -> dict[str, np.ndarray]:
    score, null = _brier(time, event, risk, horizon, counts), _brier_null(time, event, horizon, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = np.where(null > 0, 1 - score / null, np.nan)
    return {
        "concordance": _concordance(time, event, risk, counts),
        "ipa": accuracy,
        "brier": score,
        "auc": _auc(time, event, risk, horizon, counts),
    }


def _concordance(time, event, risk, counts) -> np.ndarray:
    # Who is known to die before whom; of a death and a censoring on the same day, the death comes first.
    first = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    return _share(counts, (first * _wins(risk, risk)) @ counts.T, first @ counts.T)


def _auc(time, event, risk, horizon, counts) -> np.ndarray:
    case, control = event & (time <= horizon), time > horizon
    if not case.any() or not control.any():
        return np.full(len(counts), np.nan)
    # The controls share one weight, 1 / G(horizon), which cancels.
    cases = counts[:, case] * _weights(time, event, horizon, counts)[:, case]
    controls = counts[:, control]
    return _share(cases, _wins(risk[case], risk[control]) @ controls.T, np.ones((case.sum(), 1)) * controls.sum(1))


def _share(counts, numerator, denominator) -> np.ndarray:
    """sum over i of counts[b, i] * numerator[i, b], by the same with the denominator."""
    top, bottom = (np.einsum("bi,ib->b", counts, x) for x in (numerator, denominator))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def _wins(one, other) -> np.ndarray:
    """1 where one's risk is higher, 0.5 where equal; [n, m]."""
    return (one[:, None] > other) + 0.5 * (one[:, None] == other)


def _brier(time, event, risk, horizon, counts) -> np.ndarray:
    died = event & (time <= horizon)
    residual = (died - risk) ** 2  # [n], or [b, n] if each resample has its own risk
    return (counts * _weights(time, event, horizon, counts) * residual).sum(axis=1) / counts.sum(axis=1)


def _brier_null(time, event, horizon, counts) -> np.ndarray:
    risk = np.array([1 - _kaplan_meier_at(time, event, horizon, c) for c in counts])
    return _brier(time, event, risk[:, None], horizon, counts)


def _kaplan_meier_at(time, event, horizon, counts) -> float:
    copies = counts.astype(int)
    times, survival = kaplan_meier(np.repeat(time, copies), np.repeat(event, copies))
    return float(np.append(1.0, survival)[np.searchsorted(times, horizon, side="right")])


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
    times, position = np.unique(time, return_inverse=True)
    belongs = np.zeros((len(time), len(times)))
    belongs[np.arange(len(time)), position] = 1.0
    censored, died = counts @ (belongs * ~event[:, None]), counts @ (belongs * event[:, None])
    at_risk = np.cumsum((censored + died)[:, ::-1], axis=1)[:, ::-1] - died
    with np.errstate(divide="ignore", invalid="ignore"):
        return times, np.cumprod(np.where(at_risk > 0, 1 - censored / at_risk, 1.0), axis=1)


# --- Inside -----------------------------------------------------------------------------------------------------------


def _arrays(time, event, risk) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    time, risk = np.asarray(time, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    event = np.asarray(event).astype(bool)
    if not len(time) or time.shape != event.shape or time.shape != risk.shape:
        raise CNNSurvivalError("Times, events and risks must be lists of the same length, with one patient or more.")
    return time, event, risk


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
