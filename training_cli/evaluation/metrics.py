"""How good predicted risks are, by patient: ranking, calibration, overall error, benefit, with intervals.

The conventions are those of the R packages survival and riskRegression, as in the paper. A patient's weight makes up
for the censored: 1 / G(T-) for a death at T before the horizon t, 1 / G(t) for who is still at risk then, 0 for who
was censored before; G is the Kaplan-Meier estimate of not being censored, of the patients evaluated. Means are over
all patients.

    concordance             Harrell et al. 1982; Zhang et al. 2020, Eq. 2
    uno_concordance         the same, deaths before the horizon alone, weighted by 1 / G(T-)^2; Uno et al. 2011
    auc                     cumulative cases, dynamic controls; Uno et al. 2007, Blanche et al. 2013
    integrated_auc          AUC(t) up to the horizon, averaged over the deaths; Lambert & Chevret 2016
    brier                   Graf et al. 1999, Gerds & Schumacher 2006
    ipa                     1 - Brier / Brier of the Kaplan-Meier curve for everybody; Kattan & Gerds 2018
    oe_ratio                observed (Kaplan-Meier) over mean predicted risk
    calibration_intercept,  of a binomial regression with the same weights and the complementary log-log link, see
    calibration_slope       ``calibration``
    ici, e50, e90           mean, median and 90th percentile of |observed - predicted|, observed from a smooth curve;
                            Austin, Harrell & van Klaveren 2020
    net benefit             Vickers & Elkin 2006, Vickers et al. 2008, for the censored

Times are in days. ``risk`` is the probability of death by the horizon; higher is worse. Intervals are the 2.5th and
97.5th percentile over resampled patients. Everything is computed for all resamples at once: a resample is a row of
counts, how often each patient was drawn. The functions here raise CNNSurvivalError for arrays of different lengths or
without patients, events that are neither 0 nor 1, and values that are not finite.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from CNNSurvivalLib.errors import CNNSurvivalError

from .calibration import recalibration, smooth_calibration, weighted_quantile

METRICS = (
    "concordance", "ipa", "brier", "auc", "uno_concordance", "integrated_auc", "oe_ratio", "calibration_intercept",
    "calibration_slope", "ici", "e50", "e90",
)  # fmt: skip
COLUMNS = ("metric", "horizon_days", "value", "ci_low", "ci_high")
FEW_DEATHS = 20  # by the horizon: fewer can carry neither calibration nor IPA
# Half of the way from no information (0) to perfect prediction (1): an IPA whose interval is wider says neither. Our
# convention; the number of deaths is Collins'.
WIDE_IPA = 0.5
RECOMMENDED = "at least 100 deaths are recommended (Collins et al. 2016, Stat Med 35:214)"
ROUNDING = 1e-9
BLOCK = 1000  # patients whose pairs are held in memory at once
CELLS = 1_000_000  # resamples times patients that are held in memory at once
AUC_TIMES = 12  # of integrated_auc: evenly spaced up to the horizon
CURVE_POINTS = 60  # of a smooth calibration curve
THRESHOLDS = np.arange(1, 100) / 100  # of a decision curve


class MetricWarning(UserWarning):
    """A metric is undefined, or is so in some resamples. name: the metric's; left_out, resampled: of the horizon at
    which it is undefined in most resamples; 0 where it is undefined in the patients themselves."""

    def __init__(self, text: str, name: str = "", left_out: int = 0, resampled: int = 0) -> None:
        super().__init__(text)
        self.name, self.left_out, self.resampled = name, left_out, resampled


@contextlib.contextmanager
def warnings_told(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block, MetricWarnings are told, once for each metric, and not shown by Python."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MetricWarning)
        yield
    found: dict[tuple, list[MetricWarning]] = {}
    for message in (w.message for w in caught):
        if isinstance(message, MetricWarning):
            found.setdefault((message.name or str(message), message.left_out > 0), []).append(message)
    for same in found.values():
        tell(_in_one(same))


def _in_one(warned: list[MetricWarning]) -> str:
    """One sentence for what was warned of one metric, of several models or at several times."""
    texts = list(dict.fromkeys(map(str, warned)))
    if len(texts) == 1:
        return texts[0]
    worst, scores = max(warned, key=lambda each: each.left_out), f"{len(warned)} of the scores"
    if not worst.left_out:
        return f"{worst.name} is not defined for these patients in {scores}."
    return (f"{worst.name} is not defined in up to {worst.left_out} of {worst.resampled} resamples ({scores}); these "
            "are left out.")  # fmt: skip


def concordance(time, event, risk) -> float:
    """Harrell's concordance index.

    Parameters
    ----------
    time : array_like, shape (n,)
        Follow-up in days.
    event : array_like, shape (n,)
        1 or True where it ended with death.
    risk : array_like, shape (n,)
        Any score; higher is worse.

    Returns
    -------
    float
        Of the pairs in which one is known to die first, the share in which this one has the higher risk; equal risks
        count half. NaN if there is no such pair.
    """
    time, event, risk = _arrays(time, event, risk)
    return float(_concordance(time, event, risk, _once(time))[0])


def uno_concordance(time, event, risk, horizon: float) -> float:
    """Uno's concordance index: as ``concordance``, of pairs whose first death is before the horizon, each weighted by
    1 / G(T-)^2, so that the value does not depend on how patients were censored. NaN if there is no such pair."""
    time, event, risk = _arrays(time, event, risk)
    return float(_uno(time, event, risk, horizon, _once(time))[0])


def concordance_of_resamples(time, event, risk, counts) -> np.ndarray:
    """Harrell's concordance in each of b resamples, [b]; counts [b, n] as ``resamples`` gives them."""
    time, event, risk = _arrays(time, event, risk)
    return _concordance(time, event, risk, counts)


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


def integrated_auc(time, event, risk, horizon: float, times: Sequence[float] | None = None) -> float:
    """AUC(t) of one score, averaged over the deaths up to the horizon.

    Parameters
    ----------
    time, event, risk : array_like, shape (n,)
    horizon : float
        Days.
    times : sequence of float, optional
        Rising; the last one is taken for the horizon. Default: 12 evenly spaced times up to the horizon.

    Returns
    -------
    float
        Mean of AUC(t), t weighted by how far the Kaplan-Meier curve falls up to it from the time before, as in
        scikit-survival's ``cumulative_dynamic_auc``. NaN without pairs.
    """
    time, event, risk = _arrays(time, event, risk)
    return float(_integrated_auc(time, event, risk, _auc_times(horizon) if times is None else times, _once(time))[0])


def oe_ratio(time, event, risk, horizon: float) -> float:
    """Observed (Kaplan-Meier) over mean predicted risk at the horizon; above 1, risks are too low on the whole."""
    time, event, risk = _arrays(time, event, risk)
    return float(_oe_ratio(time, event, risk, horizon, _once(time))[0])


def calibration_intercept(time, event, risk, horizon: float) -> float:
    """Calibration in the large at the horizon, see ``calibration.recalibration``: 0 is perfect; NaN without a fit."""
    time, event, risk = _arrays(time, event, risk)
    return float(_recalibration(time, event, risk, horizon, _once(time))[0][0])


def calibration_slope(time, event, risk, horizon: float) -> float:
    """Calibration slope at the horizon, see ``calibration.recalibration``: 1 is perfect, below 1 risks are too extreme;
    NaN without a fit."""
    time, event, risk = _arrays(time, event, risk)
    return float(_recalibration(time, event, risk, horizon, _once(time))[1][0])


def calibration_errors(time, event, risk, horizon: float) -> dict[str, float]:
    """ICI, E50 and E90: the mean, median and 90th percentile over patients of |observed - predicted| risk, observed by
    the smooth curve of ``calibration.smooth_calibration``. Keys ici, e50, e90; NaN without a fit."""
    time, event, risk = _arrays(time, event, risk)
    return {name: float(value[0]) for name, value in _errors(time, event, risk, horizon, _once(time)).items()}


def integrated_brier(time, event, survival, times) -> float:
    """The Brier score of survival curves, S [n, k] at ``times`` [k], averaged over time by the trapezoidal rule."""
    times, survival = np.asarray(times, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    scores = [brier(time, event, 1 - survival[:, k], t) for k, t in enumerate(times)]
    from scipy.integrate import trapezoid

    return float(trapezoid(scores, times) / (times[-1] - times[0]))


def score_predictions(
    time, event, risks: dict[float, np.ndarray], bootstrap: int = 1000, seed: int = 2020
) -> list[dict]:
    """Every metric at every horizon.

    Parameters
    ----------
    time, event : array_like, shape (n,)
    risks : dict
        Horizon in days -> array_like, shape (n,).
    bootstrap : int
        Resamples for the intervals; 0: no intervals.
    seed : int

    Returns
    -------
    list of dict
        Rows with the keys COLUMNS. A metric that is undefined, in the data or in most resamples, has None for what
        cannot be given, and one warning (MetricWarning) for each metric says so.

    Raises
    ------
    CNNSurvivalError
        For arrays that ``concordance`` refuses, or a horizon beyond the last follow-up.
    """
    rows, undefined = [], _Undefined()
    for horizon, risk in risks.items():
        times, events, values = _arrays(time, event, risk)
        if not 0 < horizon < times.max():
            raise CNNSurvivalError(
                f"Nobody was followed beyond the horizon of {horizon:g} days (the longest follow-up is "
                f"{times.max():g} days); choose an earlier one."
            )
        counts = resamples(len(times), bootstrap, seed)
        point, spread = (_all(times, events, values, horizon, c) for c in (_once(times), counts))
        rows += [_row(name, horizon, float(point[name][0]), spread[name], undefined) for name in METRICS]
    undefined.warn()
    return rows


def integrated_brier_row(time, event, risks: dict[float, np.ndarray], bootstrap: int = 1000, seed: int = 2020) -> dict:
    """A row with the keys COLUMNS: ``integrated_brier`` from the first to the last of the horizons, in that order."""
    horizons = sorted(risks)

    def integrated(counts):
        scores = np.array([_brier(*_arrays(time, event, risks[days]), days, counts) for days in horizons])
        from scipy.integrate import trapezoid

        return trapezoid(scores, horizons, axis=0) / (horizons[-1] - horizons[0])

    point, undefined = integrated(_once(time))[0], _Undefined()
    spread = integrated(resamples(len(time), bootstrap, seed))
    row = _row("integrated_brier", horizons[-1], float(point), spread, undefined)
    undefined.warn()
    return row


def difference(time, event, risk, risk_other, horizon: float, bootstrap: int = 1000, seed: int = 2020) -> list[dict]:
    """Paired differences: every metric of ``risk`` minus that of ``risk_other``, on the same patients and the same
    resamples of them. Rows with the keys COLUMNS."""
    time, event, risk = _arrays(time, event, risk)
    _, _, other = _arrays(time, event, risk_other)
    one, two = (
        [_all(time, event, r, horizon, c) for c in (_once(time), resamples(len(time), bootstrap, seed))]
        for r in (risk, other)
    )
    undefined = _Undefined("The difference in ")
    rows = [
        _row(name, horizon, float(one[0][name][0] - two[0][name][0]), one[1][name] - two[1][name], undefined)
        for name in METRICS
    ]
    undefined.warn()
    return rows


def permutation_test(time, event, risk, permutations: int = 1000, seed: int = 2020) -> tuple[np.ndarray, float]:
    """Concordance of risks that were dealt out to the patients at random (a shuffled-outcome control).

    Parameters
    ----------
    time, event, risk : array_like, shape (n,)
    permutations : int
    seed : int

    Returns
    -------
    null : ndarray, shape (permutations,)
        Concordance under no association.
    p : float
        One-sided: (1 + how many are not below the real one) / (1 + permutations); Phipson & Smyth 2010.
    """
    time, event, risk = _arrays(time, event, risk)
    random, once = np.random.default_rng(seed), _once(time)
    null = np.array([_concordance(time, event, random.permutation(risk), once)[0] for _ in range(permutations)])
    found = _concordance(time, event, risk, once)[0]
    return null, float((1 + np.sum(null >= found - ROUNDING)) / (1 + permutations))


def small_sample(time, event, horizons: Sequence[float]) -> str | None:
    """A sentence for patients of whom too few died by a horizon to judge calibration or IPA; None if enough did."""
    time, event, _ = _arrays(time, event, np.zeros(len(time)))
    few = [(int((event & (time <= days)).sum()), days) for days in horizons]
    few = [f"{deaths} by {days:g} days" for deaths, days in few if deaths < FEW_DEATHS]
    if not few:
        return None
    return f"Too few patients died ({', '.join(few)}) to judge calibration or IPA; {RECOMMENDED}."


def ipa_caution(low: float | None, high: float | None, deaths: int | None = None) -> str | None:
    """A sentence to stand beside an IPA that its patients cannot carry; None if they can.

    low, high: its 95 % interval, None where there is none. deaths: by the horizon, or all of them where that is not
    known. They are too few below FEW_DEATHS, or where the interval is wider than WIDE_IPA.
    """
    reasons = [f"{deaths} deaths"] if deaths is not None and deaths < FEW_DEATHS else []
    if low is not None and high is not None and high - low > WIDE_IPA:
        reasons.append(f"an interval {high - low:.1f} wide")
    if not reasons:
        return None
    return f"So few patients cannot carry an IPA ({', '.join(reasons)}); {RECOMMENDED}."


def what_few_can_show(time, event, permutations: int = 2000, seed: int = 2020) -> str | None:
    """How good a ranking must be to be told from chance on these patients, as a sentence; None if none can be.

    The standard error of the concordance under chance is that of risks dealt out at random (``permutation_test``). A
    test at 5 %, two-sided, finds a concordance of 0.5 + (1.96 + 0.84) standard errors with a probability of 80 %.
    """
    risk = np.random.default_rng(seed).permutation(len(time)).astype(float)
    null = permutation_test(time, event, risk, permutations, seed)[0]
    null = null[np.isfinite(null)]
    if not len(null):
        return None
    error = float(null.std())
    needed = 0.5 + 2.8 * error
    ends = f"{max(0.0, 0.5 - 1.96 * error):.2f} to {min(1.0, 0.5 + 1.96 * error):.2f}"
    can = (f"to be told from chance with a probability of 80 %, a model needs a true concordance of about {needed:.2f}"
           if needed < 1 else "no model can be told from chance reliably")  # fmt: skip
    deaths = int(np.asarray(event).sum())
    return (f"What {len(risk)} patients with {deaths} deaths can carry: by chance alone the concordance lies within "
            f"{ends} (95 %); {can}.")  # fmt: skip


# --- Tables -----------------------------------------------------------------------------------------------------------


def calibration(time, event, risk, horizon: float, groups: int = 5) -> pd.DataFrame:
    """Predicted and observed risk in groups of equal size by predicted risk, lowest first.

    Columns group, patients, mean_predicted, observed (1 - Kaplan-Meier at the horizon), ci_low, ci_high (95 %, on the
    log-log scale). observed is NaN where the last of the group was censored before the horizon; so is the interval,
    and also where nobody or everybody died, as that scale has none then.
    """
    from sksurv.nonparametric import kaplan_meier_estimator

    time, event, risk = _arrays(time, event, risk)
    rows = []
    for number, members in enumerate(np.array_split(np.argsort(risk, kind="stable"), groups), 1):
        if not len(members):
            continue
        observed, low, high = np.nan, np.nan, np.nan
        last = time[members] == time[members].max()
        if time[members].max() >= horizon or event[members][last].all():
            with np.errstate(divide="ignore", invalid="ignore"):  # the interval, where nobody or everybody died
                days, alive, interval = kaplan_meier_estimator(event[members], time[members], conf_type="log-log")
            upto = np.searchsorted(days, horizon, side="right") - 1
            observed = 1 - float(alive[upto]) if upto >= 0 else 0.0
            if 0 < observed < 1:
                high, low = (1 - float(value) for value in interval[:, upto])
        rows.append((number, len(members), float(risk[members].mean()), observed, low, high))
    return pd.DataFrame(rows, columns=["group", "patients", "mean_predicted", "observed", "ci_low", "ci_high"])


def calibration_curve(time, event, risk, horizon: float, bootstrap: int = 1000, seed: int = 2020) -> pd.DataFrame:
    """The smooth calibration curve from which ICI, E50 and E90 are taken.

    Returns
    -------
    DataFrame
        60 rows from the 1st to the 99th percentile of the predicted risks: predicted, observed, ci_low, ci_high (95 %
        at each point, over resamples). NaN where there is no fit, or none in most resamples.
    """
    time, event, risk = _arrays(time, event, risk)
    predicted = np.linspace(*np.quantile(risk, [0.01, 0.99]), CURVE_POINTS)

    def curve(counts):
        found = smooth_calibration(time, event, risk, horizon, counts).observed(predicted)
        return {"curve": np.where(_followed_to(time, event, horizon, counts)[:, None], found, np.nan)}

    point, spread = (_in_blocks(curve, c)["curve"] for c in (_once(time), resamples(len(time), bootstrap, seed)))
    low, high = _intervals(spread)
    return pd.DataFrame({"predicted": predicted, "observed": point[0], "ci_low": low, "ci_high": high})


def auc_curve(
    time, event, risk, horizon: float, times: Sequence[float] | None = None, bootstrap: int = 1000, seed: int = 2020
) -> pd.DataFrame:
    """AUC(t) of one score: columns time_days, auc, ci_low, ci_high; times as for ``integrated_auc``. NaN where nobody
    has died yet."""
    time, event, risk = _arrays(time, event, risk)
    times = _auc_times(horizon) if times is None else np.asarray(times, dtype=np.float64)

    def curve(counts):
        return {"curve": _auc_at(time, event, risk, times, counts)}

    point, spread = (_in_blocks(curve, c)["curve"] for c in (_once(time), resamples(len(time), bootstrap, seed)))
    low, high = _intervals(spread)
    return pd.DataFrame({"time_days": times, "auc": point[0], "ci_low": low, "ci_high": high})


def decision_curve(
    time, event, risk, horizon: float, thresholds=THRESHOLDS, bootstrap: int = 1000, seed: int = 2020
) -> pd.DataFrame:
    """Net benefit of treating those whose risk reaches a threshold, beside that of treating everybody or nobody.

    Parameters
    ----------
    time, event, risk : array_like, shape (n,)
    horizon : float
        Days.
    thresholds : array_like
        Above 0 and below 1: the risk at which a patient or doctor would treat.
    bootstrap, seed : int
        As in ``score_predictions``.

    Returns
    -------
    DataFrame
        Columns threshold, net_benefit, ci_low, ci_high, treat_all, treat_none. Net benefit at the threshold p is
        P(positive) * [d - (1 - d) * p / (1 - p)], where d is the Kaplan-Meier risk at the horizon among those whose
        risk is p or more (Vickers et al. 2008). NaN where the last of them was censored before the horizon.
    """
    time, event, risk = _arrays(time, event, risk)
    thresholds = np.asarray(thresholds, dtype=np.float64)

    def curve(counts):
        known: dict[int, tuple] = {}  # the patients treated change only where a threshold passes a risk
        found = []
        for p in thresholds:
            treated = risk >= p - ROUNDING
            number = int(treated.sum())
            if number not in known:
                known[number] = _treated(time, event, treated, horizon, counts)
            found.append(_net_benefit(*known[number], p))
        return {"curve": np.stack(found, axis=1)}

    point, spread = (_in_blocks(curve, c)["curve"] for c in (_once(time), resamples(len(time), bootstrap, seed)))
    low, high = _intervals(spread)
    everybody = _treated(time, event, np.ones(len(time), dtype=bool), horizon, _once(time))
    all_of_them = [_net_benefit(*everybody, p)[0] for p in thresholds]
    return pd.DataFrame({"threshold": thresholds, "net_benefit": point[0], "ci_low": low, "ci_high": high,
                         "treat_all": all_of_them, "treat_none": 0.0})  # fmt: skip


def resamples(patients: int, number: int, seed: int) -> np.ndarray:
    """How often each patient is in each bootstrap sample: float64 [number, patients], rows sum to ``patients``."""
    drawn = np.random.default_rng(seed).integers(0, patients, (number, patients))
    return np.array([np.bincount(row, minlength=patients) for row in drawn], dtype=np.float64).reshape(-1, patients)


# --- For many resamples at once: counts [b, n] -> [b] -----------------------------------------------------------------


def _all(time, event, risk, horizon, counts) -> dict[str, np.ndarray]:
    return _in_blocks(lambda block: _all_of_block(time, event, risk, horizon, block), counts)


def _all_of_block(time, event, risk, horizon, counts) -> dict[str, np.ndarray]:
    intercept, slope = _recalibration(time, event, risk, horizon, counts)
    return {
        "concordance": _concordance(time, event, risk, counts),
        "ipa": _ipa(time, event, risk, horizon, counts),
        "brier": _brier(time, event, risk, horizon, counts),
        "auc": _auc(time, event, risk, horizon, counts),
        "uno_concordance": _uno(time, event, risk, horizon, counts),
        "integrated_auc": _integrated_auc(time, event, risk, _auc_times(horizon), counts),
        "oe_ratio": _oe_ratio(time, event, risk, horizon, counts),
        "calibration_intercept": intercept,
        "calibration_slope": slope,
        **_errors(time, event, risk, horizon, counts),
    }


def _in_blocks(function, counts) -> dict[str, np.ndarray]:
    """What the function returns for the rows of counts, a few at a time, so that memory does not grow with both."""
    rows = max(1, CELLS // counts.shape[1])
    found = [function(counts[start : start + rows]) for start in range(0, max(len(counts), 1), rows)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def _concordance(time, event, risk, counts, weights=None) -> np.ndarray:
    """weights [b, n]: of the pairs in which the patient is the one who dies first; default 1."""
    right, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    weighted = counts if weights is None else counts * weights
    for start in range(0, len(time), BLOCK):
        one = slice(start, start + BLOCK)
        # Who is known to die before whom; of a death and a censoring on the same day, the death comes first.
        earlier = (time[one, None] < time) | ((time[one, None] == time) & ~event)
        first = event[one, None] & earlier
        right += _sum_over_pairs(weighted[:, one], first * _wins(risk[one], risk), counts)
        pairs += _sum_over_pairs(weighted[:, one], first, counts)
    return _ratio(right, pairs)


def _uno(time, event, risk, horizon, counts) -> np.ndarray:
    weights = np.where(time < horizon, _death_weights(time, event, counts) ** 2, 0.0)
    return _concordance(time, event, risk, counts, weights)


def _auc(time, event, risk, horizon, counts) -> np.ndarray:
    return _auc_at(time, event, risk, [horizon], counts)[:, 0]


def _auc_at(time, event, risk, times, counts) -> np.ndarray:
    """AUC(t) at each of the times, [b, k]."""
    died = np.flatnonzero(event)
    # The controls share one weight, 1 / G(t), which cancels; that of a case does not depend on t.
    weighted = counts[:, died] * _death_weights(time, event, counts)[:, died]
    return np.stack([_auc_of(time, risk, died, weighted, days, counts) for days in times], axis=1)


def _auc_of(time, risk, died, weighted, days, counts) -> np.ndarray:
    among, control = time[died] <= days, time > days
    case, cases, controls = died[among], weighted[:, among], counts[:, control]
    right = np.zeros(len(counts))
    for start in range(0, len(case), BLOCK):
        one = slice(start, start + BLOCK)
        right += _sum_over_pairs(cases[:, one], _wins(risk[case[one]], risk[control]), controls)
    return _ratio(right, cases.sum(axis=1) * controls.sum(axis=1))


def _auc_times(horizon: float) -> np.ndarray:
    return horizon * np.arange(1, AUC_TIMES + 1) / AUC_TIMES


def _integrated_auc(time, event, risk, times, counts) -> np.ndarray:
    died = np.stack([_observed(time, event, days, counts) for days in times], axis=1)
    share = np.diff(died, axis=1, prepend=0)
    values = _auc_at(time, event, risk, times, counts)
    # Nobody has died before the first death: there is no AUC, and it has no share.
    return _ratio(np.where(share > ROUNDING, share * values, 0.0).sum(axis=1), died[:, -1])


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
    risk = _observed(time, event, horizon, counts)
    # Where everybody died the rounding of 1 must not make the score of a constant risk other than 0.
    return _brier(time, event, np.where(risk > 1 - ROUNDING, 1.0, risk)[:, None], horizon, counts)


def _observed(time, event, horizon, counts) -> np.ndarray:
    """1 - Kaplan-Meier at the horizon; NaN where the last patient was censored before, and for an empty row."""
    early = np.lexsort((~event, time))  # deaths before censorings of the same day: ties need no rule of their own
    early = early[time[early] <= horizon]
    drawn, everybody = counts[:, early], counts.sum(axis=1)
    gone, died = np.cumsum(drawn, axis=1), event[early]
    at_risk = everybody[:, None] - (gone - drawn)[:, died]
    alive = np.prod(1 - drawn[:, died] / np.where(at_risk > 0, at_risk, 1.0), axis=1)
    later = everybody - drawn.sum(axis=1)
    return np.where((everybody > 0) & ((later > 0) | (alive < ROUNDING)), 1 - alive, np.nan)


def _oe_ratio(time, event, risk, horizon, counts) -> np.ndarray:
    return _ratio(_observed(time, event, horizon, counts) * counts.sum(axis=1), counts @ risk)


def _recalibration(time, event, risk, horizon, counts) -> tuple[np.ndarray, np.ndarray]:
    weights = counts * _weights(time, event, horizon, counts)
    found = recalibration(event & (time <= horizon), weights, risk)
    return tuple(np.where(_known(weights, counts), values, np.nan) for values in found)


def _errors(time, event, risk, horizon, counts) -> dict[str, np.ndarray]:
    observed = smooth_calibration(time, event, risk, horizon, counts).observed(risk)
    errors = np.abs(observed - risk)
    found = {"ici": _ratio((counts * errors).sum(axis=1), counts.sum(axis=1))}
    found |= {name: weighted_quantile(errors, counts, share) for name, share in (("e50", 0.5), ("e90", 0.9))}
    known = _followed_to(time, event, horizon, counts)
    return {name: np.where(known, values, np.nan) for name, values in found.items()}


def _treated(time, event, positive, horizon, counts) -> tuple[np.ndarray, np.ndarray]:
    """(share of patients who are positive, observed risk among them; 0 where there are none)."""
    treated = counts * positive
    share = treated.sum(axis=1) / counts.sum(axis=1)
    return share, np.where(share > 0, _observed(time, event, horizon, treated), 0.0)


def _net_benefit(share, risk, threshold) -> np.ndarray:
    return share * (risk - (1 - risk) * threshold / (1 - threshold))


def _followed_to(time, event, horizon, counts) -> np.ndarray:
    """Whether each resample knows the state of every patient at the horizon; [b]."""
    return _known(counts * _weights(time, event, horizon, counts), counts)


def _known(weights, counts) -> np.ndarray:
    """Whether weights [b, n] stand for all patients: they sum to less if the last one was censored too early."""
    return weights.sum(axis=1) > (1 - ROUNDING) * counts.sum(axis=1)


def _weights(time, event, horizon, counts) -> np.ndarray:
    """[b, n]: 1 / G(T-) for deaths by the horizon, 1 / G(horizon) for those at risk after it, else 0."""
    times, steps = _censoring(time, event, counts)
    at_horizon = steps[:, np.searchsorted(times, horizon, side="right")][:, None]
    deaths = np.where(time <= horizon, _death_weights(time, event, counts, times, steps), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return deaths + np.where((counts > 0) & (time > horizon), 1 / at_horizon, 0.0)


def _death_weights(time, event, counts, times=None, steps=None) -> np.ndarray:
    """[b, n]: 1 / G(T-) for deaths, else 0. times, steps: of ``_censoring``, if known."""
    if times is None:
        times, steps = _censoring(time, event, counts)
    died, weights = np.flatnonzero(event), np.zeros(counts.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 1 / steps[:, np.searchsorted(times, time[died], side="left")]
    weights[:, died] = np.where(counts[:, died] > 0, found, 0.0)
    return weights


def _censoring(time, event, counts) -> tuple[np.ndarray, np.ndarray]:
    """(distinct times [k], G [b, k + 1]: at first, then just after each); a death on the day of a censoring comes
    before it."""
    order = np.argsort(time, kind="stable")
    times, starts = np.unique(time[order], return_index=True)
    everybody = np.add.reduceat(counts[:, order], starts, axis=1)
    censored = np.add.reduceat(counts[:, order] * ~event[order], starts, axis=1)
    at_risk = np.cumsum(everybody[:, ::-1], axis=1)[:, ::-1] - (everybody - censored)
    with np.errstate(divide="ignore", invalid="ignore"):
        after = np.cumprod(np.where(at_risk > 0, 1 - censored / at_risk, 1.0), axis=1)
    return times, np.concatenate([np.ones((len(counts), 1)), after], axis=1)


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


class _Undefined:
    """Collects where metrics are undefined, to say it once for each metric. subject: what its name is put after."""

    def __init__(self, subject: str = "") -> None:
        self.subject = subject
        self.here: dict[str, list[float]] = {}
        self.resampled: dict[str, list[tuple[int, int, float]]] = {}

    def note(self, name: str, horizon: float, value: float, left_out: int, resampled: int) -> None:
        if not np.isfinite(value):
            self.here.setdefault(name, []).append(f"{horizon:g}")
        elif left_out:
            self.resampled.setdefault(name, []).append((left_out, resampled, horizon))

    def warn(self) -> None:
        for name, days in self.here.items():
            text = f"{self.subject}{name} at {', '.join(days)} days is not defined for these patients."
            warnings.warn(MetricWarning(text, f"{self.subject}{name}"), stacklevel=3)
        for name, found in self.resampled.items():
            where = ", ".join(f"{left_out} of {count} resamples at {days:g} days" for left_out, count, days in found)
            text = f"{self.subject}{name} is not defined in {where}, which are left out."
            warnings.warn(MetricWarning(text, f"{self.subject}{name}", *max(found)[:2]), stacklevel=3)


def _intervals(spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5th and 97.5th percentile of every column of [b, k], of its finite values; NaN if most are not."""
    limits = np.full((2, spread.shape[1]), np.nan)
    for column, values in enumerate(spread.T):
        found = values[np.isfinite(values)]
        if len(found) and 2 * len(found) >= len(values):
            limits[:, column] = np.percentile(found, [2.5, 97.5])
    return limits[0], limits[1]


def _row(name: str, horizon: float, value: float, spread: np.ndarray, undefined: _Undefined) -> dict:
    """A row of metrics.csv; the interval leaves out resamples in which the metric is undefined."""
    low, high = (None if np.isnan(limit[0]) else float(limit[0]) for limit in _intervals(spread[:, None]))
    undefined.note(name, horizon, value, int((~np.isfinite(spread)).sum()), len(spread))
    return dict(zip(COLUMNS, (name, float(horizon), value if np.isfinite(value) else None, low, high)))
