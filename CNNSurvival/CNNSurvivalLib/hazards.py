"""Discrete-time survival: intervals, likelihood, survival function and its summaries.

Time is cut at ``edges`` (days, strictly increasing from 0, shape [m + 1]) into m intervals. The network's
output j is a logit; its sigmoid is the hazard of interval j, the probability of dying in it given survival
to its start. Then S(edge_k) = product over j < k of (1 - hazard_j).

Sources: Gensheimer & Narasimhan 2019, PeerJ 7:e6257 (likelihood, intervals); Zhang et al. 2020, BMC Medical
Imaging 20:11, Eq. 1. Everything here is float64 NumPy; ``network.negative_log_likelihood`` is its PyTorch twin.
"""

from __future__ import annotations

import numpy as np

MONTH_DAYS = 30.4375  # a twelfth of 365.25 days
EIGHTEEN_MONTHS_DAYS = 18 * MONTH_DAYS  # 547.875, where the paper tests


def exponential_edges(n_intervals: int = 19, half_life_days: float = EIGHTEEN_MONTHS_DAYS) -> np.ndarray:
    """Interval edges in days, shape [n_intervals + 1], for equal deaths per interval at constant hazard.

    edge_k = -ln(1 - k / (n + 1)) * half_life / ln 2, the scheme of nnet-survival's example. With the default
    half-life edge 10 is 18 months and the last edge 2367.876 days.
    """
    k = np.arange(n_intervals + 1)
    return -np.log1p(-k / (n_intervals + 1)) * half_life_days / np.log(2.0) + 0.0  # + 0.0: no negative zero


def check_edges(edges) -> np.ndarray:
    """Return ``edges`` as float64 [m + 1]; raise ValueError unless they increase strictly from 0."""
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.isfinite(edges)):
        raise ValueError("interval edges must be a list of at least two finite numbers of days")
    if edges[0] != 0 or np.any(np.diff(edges) <= 0):
        raise ValueError("interval edges must begin with 0 and increase strictly")
    return edges


def survival_targets(time_days, event, edges) -> tuple[np.ndarray, np.ndarray]:
    """What each patient shows of each interval: (survived, died), two float64 arrays [n, m] of 0 and 1.

    A death in interval j survives every interval before j and dies in j. A censored patient survives each
    interval whose midpoint lies at or before the censoring time. A death at or after the last edge counts as
    surviving every interval (Gensheimer & Narasimhan 2019). Raises ValueError for negative or non-finite
    times and for events other than 0 and 1.
    """
    edges = check_edges(edges)
    time = np.atleast_1d(np.asarray(time_days, dtype=np.float64))
    event = np.atleast_1d(np.asarray(event))
    if time.ndim != 1 or event.shape != time.shape:
        raise ValueError("times and events must be two lists of the same length")
    if not np.all(np.isfinite(time)) or np.any(time < 0):
        raise ValueError("survival times must be finite and not negative")
    if not np.all((event == 0) | (event == 1)):
        raise ValueError("events must be 0 (censored) or 1 (died)")
    start, end = edges[:-1], edges[1:]
    time, dead = time[:, np.newaxis], event.astype(bool)[:, np.newaxis]
    survived = np.where(dead, time >= end, time >= (start + end) / 2)
    died = dead & (time >= start) & (time < end)
    return survived.astype(np.float64), died.astype(np.float64)


def negative_log_likelihood(logits, survived, died) -> np.ndarray:
    """Eq. 1, one value per row, shape [n]: -sum_j [died_j ln h_j + survived_j ln(1 - h_j)], h = sigmoid(logits).

    All arguments have shape [n, m]. Computed from logits with softplus, so no probability is clipped:
    -ln h = softplus(-logit) and -ln(1 - h) = softplus(logit).
    """
    logits = np.asarray(logits, dtype=np.float64)
    return np.sum(died * np.logaddexp(0, -logits) + survived * np.logaddexp(0, logits), axis=-1)


def hazards_from_logits(logits) -> np.ndarray:
    """sigmoid(logits), float64, same shape; without overflow for logits of any size."""
    logits = np.asarray(logits, dtype=np.float64)
    return np.exp(-np.logaddexp(0, -logits))


def survival_function(hazards) -> np.ndarray:
    """S at every edge, shape [..., m + 1], from hazards [..., m]; S at time 0 is exactly 1.

    Raises ValueError for hazards outside [0, 1].
    """
    hazards = np.asarray(hazards, dtype=np.float64)
    if not np.all((hazards >= 0) & (hazards <= 1)):
        raise ValueError("hazards must lie between 0 and 1")
    start = np.ones(hazards.shape[:-1] + (1,))
    return np.concatenate([start, np.cumprod(1 - hazards, axis=-1)], axis=-1)


def survival_at(survival, edges, time_days) -> np.ndarray:
    """S at any times, from S at the edges, linear within an interval.

    survival [..., m + 1], edges [m + 1] in days, time_days a number or [t] -> [...] or [..., t].
    Beyond the last edge the model says nothing, so the value is NaN. Raises ValueError for negative times.
    """
    survival, edges = np.asarray(survival, dtype=np.float64), check_edges(edges)
    time = np.asarray(time_days, dtype=np.float64)
    if np.any(time < 0):
        raise ValueError("survival is asked for at a negative time")
    j = np.clip(np.searchsorted(edges, time, side="right") - 1, 0, edges.size - 2)
    fraction = (time - edges[j]) / (edges[j + 1] - edges[j])
    # Written so that fraction 0 and 1 give the edges' own values to the last bit.
    value = survival[..., j] * (1 - fraction) + survival[..., j + 1] * fraction
    return np.where(time > edges[-1], np.nan, value)


def median_survival(survival, edges) -> float | None:
    """The first time in days at which S (shape [m + 1], linear within intervals) is 0.5; None if it never is."""
    survival, edges = np.asarray(survival, dtype=np.float64), check_edges(edges)
    below = np.flatnonzero(survival <= 0.5)
    if below.size == 0:
        return None
    k = below[0]
    if k == 0:
        return 0.0
    fraction = (survival[k - 1] - 0.5) / (survival[k - 1] - survival[k])
    return float(edges[k - 1] + fraction * (edges[k] - edges[k - 1]))


def restricted_mean_survival(survival, edges, horizon_days: float | None = None) -> float:
    """Mean days lived up to the horizon: the integral of S (shape [m + 1]) from 0 to it.

    Exact for S linear within intervals. The horizon is the last edge unless given; beyond the last edge it
    raises ValueError.
    """
    survival, edges = np.asarray(survival, dtype=np.float64), check_edges(edges)
    horizon = float(edges[-1] if horizon_days is None else horizon_days)
    if not 0 <= horizon <= edges[-1]:
        raise ValueError(f"the horizon must lie between 0 and the last interval's end, {edges[-1]:.0f} days")
    time = np.append(edges[edges < horizon], horizon)
    value = survival_at(survival, edges, time)
    return float(np.sum(np.diff(time) * (value[1:] + value[:-1]) / 2))


def kaplan_meier(time_days, event) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan & Meier's product-limit estimate: (times of death in days, S just after each), sorted, float64.

    At a tied time deaths come before censorings, as usual. S is 1 before the first time.
    """
    time, event = np.asarray(time_days, dtype=np.float64), np.asarray(event).astype(bool)
    deaths, count = np.unique(time[event], return_counts=True)
    at_risk = time.size - np.searchsorted(np.sort(time), deaths, side="left")
    return deaths, np.cumprod(1 - count / at_risk)


def step_curve(time_days, survival, end_days: float) -> tuple[np.ndarray, np.ndarray]:
    """A Kaplan-Meier curve as a line to draw, with a corner before and after each step.

    Parameters
    ----------
    time_days, survival : array_like, shape [t]
        Times of the steps in days, the first at 0, and S just after each.
    end_days : float
        Where the line ends. A curve that ends earlier is not continued.

    Returns
    -------
    time_days, survival : ndarray of float64, shape [corners]
    """
    time_days, survival = np.asarray(time_days, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    inside = time_days <= end_days
    times, values = np.repeat(time_days[inside], 2)[1:], np.repeat(survival[inside], 2)[:-1]
    if not np.all(inside):  # there are steps after the end: S is known up to it
        times, values = np.append(times, end_days), np.append(values, values[-1])
    return times, values


def step_survival_at(time_days, survival, at_days) -> np.ndarray:
    """S of a Kaplan-Meier curve at any times.

    Parameters
    ----------
    time_days, survival : array_like, shape [t]
        Times of the steps in days, the first at 0, and S just after each.
    at_days : array_like
        Times in days at which S is wanted, 0 or more.

    Returns
    -------
    ndarray of float64, shape of ``at_days``
        NaN after the last step.
    """
    time_days, survival = np.asarray(time_days, dtype=np.float64), np.asarray(survival, dtype=np.float64)
    at_days = np.asarray(at_days, dtype=np.float64)
    value = survival[np.searchsorted(time_days, at_days, side="right") - 1]
    return np.where(at_days > time_days[-1], np.nan, value)


def months_text(days: float) -> str:
    """547.875 -> "18 months"; 100 -> "3.3 months"."""
    months = days / MONTH_DAYS
    return f"{round(months)} months" if abs(months - round(months)) < 0.005 else f"{months:.1f} months"
