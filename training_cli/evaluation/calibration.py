"""The fits behind the calibration metrics, for all resamples at once, and D-calibration.

``metrics`` has the functions for a cohort. Here a resample is a row of counts [b, n] (how often each patient was
drawn), or of weights, and every fit is done for all rows together by Newton's method.

    recalibration     observed = f(a + b * cloglog(risk)); Cox 1958, with the complementary log-log link, in which the
                      slope of a proportional-hazards model is that of its linear predictor; McLernon et al. 2023,
                      Ann Intern Med 176:105
    smooth curve      Cox regression on restricted cubic splines (3 knots) of cloglog(risk) over the whole follow-up;
                      Austin, Harrell & van Klaveren 2020, Stat Med 39:2714. Ties of deaths by Breslow's rule.
    D-calibration     Haider et al. 2020, J Mach Learn Res 21(85)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALLEST_RISK = 1e-6  # risks of 0 and 1 have no cloglog; they count as this, and 1 - this
KNOTS = (0.1, 0.5, 0.9)  # percentiles of the 3 knots; Harrell, Regression Modeling Strategies, 2nd ed., Table 2.3
STEPS, SMALLEST_STEP = 60, 1e-9
LARGEST_PREDICTOR = 3.4  # on the cloglog scale: a risk of 1 - 1e-13


def cloglog(risk) -> np.ndarray:
    """The complementary log-log transform, log(-log(1 - risk)), of risks in [0, 1]."""
    risk = np.clip(np.asarray(risk, dtype=np.float64), SMALLEST_RISK, 1 - SMALLEST_RISK)
    return np.log(-np.log1p(-risk))


def recalibration(died: np.ndarray, weights: np.ndarray, risk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Calibration intercept (with the slope fixed at 1) and calibration slope, of weighted binary outcomes.

    Parameters
    ----------
    died : ndarray of bool, shape (n,)
        Whether the patient died by the horizon; what it says of patients with weight 0 has no effect.
    weights : ndarray, shape (b, n)
        A row per resample.
    risk : ndarray, shape (n,)
        Predicted probability of death by the horizon.

    Returns
    -------
    intercept, slope : ndarray, shape (b,)
        0 and 1 for a calibrated model. The intercept is the log of the factor by which hazards are underestimated. A
        slope below 1: risks are too extreme. NaN where the fit has no solution.
    """
    x = cloglog(risk)
    intercept = _cloglog_regression(died, weights, np.ones((len(x), 1)), x)[:, 0]
    slope = _cloglog_regression(died, weights, np.column_stack([np.ones(len(x)), x]), 0.0)[:, 1]
    return intercept, slope


@dataclass(frozen=True)
class SmoothCalibration:
    """Observed risk as a smooth function of predicted risk, one function for each of b resamples.

    basis: turns risks [k] into columns [k, p]. coefficients [b, p]. cumulative_hazard [b], at the horizon, of a patient
    whose columns are 0. NaN where the fit has no solution.
    """

    basis: Callable[[np.ndarray], np.ndarray]
    coefficients: np.ndarray
    cumulative_hazard: np.ndarray

    def observed(self, risk) -> np.ndarray:
        """Observed risks [b, k] of patients with these predicted risks [k]."""
        predictor = self.coefficients @ self.basis(np.asarray(risk, dtype=np.float64)).T
        with np.errstate(over="ignore", invalid="ignore"):
            return -np.expm1(-self.cumulative_hazard[:, None] * np.exp(predictor))


def smooth_calibration(time, event, risk, horizon: float, counts: np.ndarray) -> SmoothCalibration:
    """Fit the smooth calibration curve of every resample.

    Parameters
    ----------
    time, event, risk : ndarray, shape (n,)
        Follow-up in days, whether it ended with death, predicted risk of death by the horizon.
    horizon : float
        Days.
    counts : ndarray, shape (b, n)
        How often each patient is in each resample. The knots are those of all patients, once.

    Notes
    -----
    Where the risks have too few distinct values for 3 knots the curve is linear in cloglog(risk); where they are all
    the same it is a constant.
    """
    basis = _spline_basis(risk)
    order = np.argsort(-time, kind="stable")
    sorted_time, died, drawn = time[order], event[order], counts[:, order]
    x = basis(risk[order])
    last_of_tie = np.searchsorted(-sorted_time, -sorted_time, side="right") - 1
    coefficients = _newton(lambda beta: _partial_likelihood(beta, x, died, drawn, last_of_tie), len(counts), x.shape[1])
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        at_risk = np.cumsum(drawn * np.exp(coefficients @ x.T), axis=1)[:, last_of_tie]
        steps = np.where(drawn > 0, drawn / at_risk, 0.0)[:, died & (sorted_time <= horizon)]
    return SmoothCalibration(basis, coefficients, steps.sum(axis=1))


def weighted_quantile(values: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    """NumPy's (linear) quantile of every row of values [b, n], each value taken counts [b, n] times; [b]."""
    order = np.argsort(values, axis=1)
    values, upto = (np.take_along_axis(a, order, axis=1) for a in (values, counts))
    upto = np.cumsum(upto, axis=1)
    place = share * (upto[:, -1] - 1)
    low, high = (
        np.take_along_axis(values, (upto > whole[:, None]).argmax(axis=1)[:, None], axis=1)[:, 0]
        for whole in (np.floor(place), np.ceil(place))
    )
    return low + (place - np.floor(place)) * (high - low)


# --- D-calibration ----------------------------------------------------------------------------------------------------


def survival_at_end(times, survival, time, event) -> tuple[np.ndarray, np.ndarray]:
    """Each patient's predicted S at the end of his follow-up, for ``d_calibration``.

    Parameters
    ----------
    times : array_like, shape (k,)
        Rising, in days, without 0.
    survival : array_like, shape (n, k)
        Predicted S at these times; S(0) = 1, and S is linear between.
    time, event : array_like, shape (n,)
        Follow-up in days, and whether it ended with death.

    Returns
    -------
    at_end : ndarray, shape (n,)
    died : ndarray of bool, shape (n,)
        Who was followed beyond the last of ``times`` counts as censored there.
    """
    times, time = np.concatenate([[0.0], times]), np.asarray(time, dtype=np.float64)
    curves = np.column_stack([np.ones(len(time)), np.asarray(survival, dtype=np.float64)])
    curves = np.minimum.accumulate(curves, axis=1)
    at_end = np.array([np.interp(t, times, curve) for t, curve in zip(time, curves)])
    return at_end, np.asarray(event).astype(bool) & (time <= times[-1])


def d_calibration(at_end, died, bins: int = 10) -> tuple[float, float, np.ndarray]:
    """Test whether S at the time of death is uniform, as it is if whole curves are calibrated (D-calibration).

    Parameters
    ----------
    at_end : array_like, shape (n,)
        Predicted S at the end of each patient's own follow-up.
    died : array_like of bool, shape (n,)
        Who is censored is spread evenly over [0, S]: had his death been seen, S would be somewhere there.
    bins : int
        Of equal width.

    Returns
    -------
    statistic, p : float
        Chi-squared with ``bins`` - 1 degrees of freedom. A small p speaks against calibration; with few deaths a large
        one says little.
    patients : ndarray, shape (bins,)
        How many are in each bin, the bin from S = 1 down (the earliest deaths) first; n / bins are expected.
    """
    at_end, died = np.asarray(at_end, dtype=np.float64), np.asarray(died).astype(bool)
    edges = np.linspace(1, 0, bins + 1)
    upper, lower = edges[:-1], edges[1:]
    inside = (at_end[:, None] >= lower) & ((at_end[:, None] < upper) | (upper == 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.clip(np.minimum(at_end[:, None], upper) - lower, 0, None) / at_end[:, None]
    spread = np.where(at_end[:, None] > 0, spread, inside)
    patients = np.where(died[:, None], inside, spread).sum(axis=0)
    expected = len(at_end) / bins
    statistic = float(((patients - expected) ** 2 / expected).sum())
    from scipy.stats import chi2  # here, as its import takes half a second

    return statistic, float(chi2.sf(statistic, bins - 1)), patients


# --- Inside -----------------------------------------------------------------------------------------------------------


def _spline_basis(risk: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Columns of the restricted cubic spline of cloglog(risk), scaled; fewer where the risks allow no more."""
    x = cloglog(risk)
    center, scale = x.mean(), x.std()
    distinct = len(np.unique(x))
    if distinct < 2 or scale < 1e-9:
        return lambda risk: np.zeros((len(risk), 0))
    knots = np.quantile(x, KNOTS)
    if distinct < 3 or np.diff(knots).min() < 1e-6 * scale:
        return lambda risk: ((cloglog(risk) - center) / scale)[:, None]

    def columns(risk: np.ndarray) -> np.ndarray:
        x = cloglog(risk)
        first, middle, last = ((np.clip(x - knot, 0, None)) ** 3 for knot in knots)
        low, mid, high = knots
        cubic = first - middle * (high - low) / (high - mid) + last * (mid - low) / (high - mid)
        return np.column_stack([x - center, cubic / (high - low) ** 2]) / scale

    return columns


def _partial_likelihood(beta, x, died, counts, last_of_tie):
    """Cox's log partial likelihood (Breslow), gradient and information of every row: [b], [b, p], [b, p, p].

    x [n, p], died [n], counts [b, n]: the longest follow-up first.
    """
    predictor = beta @ x.T
    share = counts * np.exp(predictor - predictor.max(axis=1, keepdims=True))
    at_risk = _followed(share, last_of_tie, died)
    at_risk = np.where(at_risk > 0, at_risk, 1.0)
    deaths = counts[:, died]
    value = (deaths * (predictor[:, died] - predictor.max(axis=1, keepdims=True) - np.log(at_risk))).sum(axis=1)
    means = [_followed(share * column, last_of_tie, died) / at_risk for column in x.T]
    gradient = np.stack([(deaths * (column[died] - mean)).sum(axis=1) for column, mean in zip(x.T, means)], axis=1)
    information = np.empty((len(beta), x.shape[1], x.shape[1]))
    for i, (one, mean) in enumerate(zip(x.T, means)):
        for j, (other, mean_other) in enumerate(zip(x.T, means)):
            both = _followed(share * one * other, last_of_tie, died) / at_risk
            information[:, i, j] = (deaths * (both - mean * mean_other)).sum(axis=1)
    return value, gradient, information


def _followed(values, last_of_tie, died) -> np.ndarray:
    """Sums over who is still followed at each death: values [b, n] -> [b, deaths]."""
    return np.cumsum(values, axis=1)[:, last_of_tie[died]]


def _cloglog_regression(died, weights, x, offset) -> np.ndarray:
    """Coefficients [b, p] of a binomial regression with the complementary log-log link. x [n, p], offset [n] or 0."""

    def evaluate(beta):
        predictor = np.clip(beta @ x.T + offset, -np.inf, LARGEST_PREDICTOR)
        hazard = np.exp(predictor)
        expected = -np.expm1(-hazard)
        with np.errstate(divide="ignore", invalid="ignore"):
            each = weights * np.where(died, np.log(expected), -hazard)
        value = np.where(weights > 0, each, 0.0).sum(axis=1)  # who has no weight counts nothing, however unlikely
        ratio = hazard / np.maximum(expected, np.finfo(float).tiny)
        gradient = (weights * (died - expected) * ratio) @ x
        # Fisher's scoring: the expected information.
        information = np.einsum("bn,ni,nj->bij", weights * ratio * hazard * np.exp(-hazard), x, x)
        return value, gradient, information

    return _newton(evaluate, len(weights), x.shape[1])


def _newton(evaluate, rows: int, columns: int) -> np.ndarray:
    """Maximise a concave function of every row by Newton's method, halving steps that lead down; [rows, columns].

    evaluate: beta [rows, columns] -> value [rows], gradient, information. NaN for rows without a maximum.
    """
    beta = np.zeros((rows, columns))
    if columns == 0 or rows == 0:
        return beta
    value, gradient, information = evaluate(beta)
    step = _solved(information, gradient)
    for _ in range(STEPS):
        moving = (np.abs(step) > SMALLEST_STEP).any(axis=1)  # a row stops by itself, whatever the others do
        if not moving.any():
            break
        trial = evaluate(beta + np.nan_to_num(step))
        better = moving & (trial[0] >= value - 1e-10 * (1 + np.abs(value)))
        beta[better] += step[better]
        value, gradient, information = (
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(trial, (value, gradient, information))
        )
        step = np.where(better[:, None], _solved(information, gradient), np.where(moving[:, None], step / 2, step))
    done = (np.abs(step) <= SMALLEST_STEP).all(axis=1)
    return np.where(done[:, None], beta, np.nan)


def _solved(information: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """information^-1 gradient for every row, NaN where that does not exist."""
    scale = np.sqrt(np.abs(np.einsum("bii->bi", information)))
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = information / (scale[:, :, None] * scale[:, None, :])
    good = np.isfinite(scaled).all(axis=(1, 2)) & (scale > 1e-8).all(axis=1)
    scaled = np.where(good[:, None, None], scaled, np.eye(gradient.shape[1]))
    good &= np.linalg.det(scaled) > 1e-10
    scaled = np.where(good[:, None, None], scaled, np.eye(gradient.shape[1]))
    safe = np.where(scale > 0, scale, 1.0)
    step = np.linalg.solve(scaled, (gradient / safe)[:, :, None])[:, :, 0] / safe
    return np.where(good[:, None], step, np.nan)
