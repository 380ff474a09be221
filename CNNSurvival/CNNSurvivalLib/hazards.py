"""Discrete-time survival: intervals, likelihood, survival function and its summaries.

Time is cut at ``edges`` (days, strictly increasing from 0, shape [m + 1]) into m intervals. The network's
output j is a logit; its sigmoid is the hazard of interval j, the probability of dying in it given survival
to its start. Then S(edge_k) = product over j < k of (1 - hazard_j).

Sources: Gensheimer & Narasimhan 2019, PeerJ 7:e6257 (likelihood, intervals); Zhang et al. 2020, BMC Medical
Imaging 20:11, Eq. 1. Everything here is float64 NumPy; ``network.negative_log_likelihood`` is its PyTorch twin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MONTH_DAYS = 30.4375  # a twelfth of 365.25 days
EIGHTEEN_MONTHS_DAYS = 18 * MONTH_DAYS  # 547.875, where the paper tests


def exponential_edges(n_intervals: int = 19, half_life_days: float = EIGHTEEN_MONTHS_DAYS) -> np.ndarray:
    """Interval edges for equal deaths per interval at a constant hazard.

    ``edge_k = -ln(1 - k / (n + 1)) * half_life / ln 2``, the scheme of nnet-survival's example. With the default
    half-life edge 10 is 18 months and the last edge 2367.876 days.

    Parameters
    ----------
    n_intervals : int, default 19
        Number of intervals, n.
    half_life_days : float, default 547.875
        Days after which half of the patients have died at this hazard.

    Returns
    -------
    numpy.ndarray
        float64 [n + 1], days, strictly increasing from 0.
    """
    k = np.arange(n_intervals + 1)
    return -np.log1p(-k / (n_intervals + 1)) * half_life_days / np.log(2.0) + 0.0  # + 0.0: no negative zero


def check_edges(edges: ArrayLike) -> np.ndarray:
    """Check interval edges.

    Parameters
    ----------
    edges : array-like [m + 1]
        Days.

    Returns
    -------
    numpy.ndarray
        The edges as float64 [m + 1].

    Raises
    ------
    ValueError
        Unless the edges are two or more finite numbers that increase strictly from 0.
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.isfinite(edges)):
        raise ValueError("interval edges must be a list of at least two finite numbers of days")
    if edges[0] != 0 or np.any(np.diff(edges) <= 0):
        raise ValueError("interval edges must begin with 0 and increase strictly")
    return edges


def survival_targets(time_days: ArrayLike, event: ArrayLike, edges: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """What each patient shows of each interval.

    A death in interval j survives every interval before j and dies in j. A censored patient survives each interval
    whose midpoint lies at or before the censoring time. A death at or after the last edge counts as surviving every
    interval (Gensheimer & Narasimhan 2019).

    Parameters
    ----------
    time_days : array-like [n]
        Days from the time origin to death or to the end of follow-up.
    event : array-like [n]
        1 or True for a death, 0 or False for a censored patient.
    edges : array-like [m + 1]
        Interval edges, days.

    Returns
    -------
    survived : numpy.ndarray
        float64 [n, m], 1 where the patient is known to have survived the interval, else 0.
    died : numpy.ndarray
        float64 [n, m], 1 where the patient died in the interval, else 0.

    Raises
    ------
    ValueError
        For edges that `check_edges` refuses, lists of different lengths, times that are negative or not finite, and
        events other than 0 and 1.
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


def negative_log_likelihood(logits: ArrayLike, survived: np.ndarray, died: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each patient (Zhang et al. 2020, Eq. 1).

    ``-sum_j [died_j ln h_j + survived_j ln(1 - h_j)]`` with ``h = sigmoid(logits)``. Computed from logits with
    softplus, so no probability is clipped: ``-ln h = softplus(-logit)`` and ``-ln(1 - h) = softplus(logit)``.

    Parameters
    ----------
    logits : array-like [n, m]
        The network's outputs.
    survived, died : numpy.ndarray [n, m]
        From `survival_targets`.

    Returns
    -------
    numpy.ndarray
        float64 [n], one value per patient.
    """
    logits = np.asarray(logits, dtype=np.float64)
    return np.sum(died * np.logaddexp(0, -logits) + survived * np.logaddexp(0, logits), axis=-1)


def hazards_from_logits(logits: ArrayLike) -> np.ndarray:
    """The sigmoid of the network's outputs, without overflow for logits of any size.

    Parameters
    ----------
    logits : array-like
        Any shape.

    Returns
    -------
    numpy.ndarray
        float64 hazards in [0, 1], same shape.
    """
    logits = np.asarray(logits, dtype=np.float64)
    return np.exp(-np.logaddexp(0, -logits))


def survival_function(hazards: ArrayLike) -> np.ndarray:
    """Survival at every interval edge.

    Parameters
    ----------
    hazards : array-like [..., m]
        The probability of dying in each interval given survival to its start.

    Returns
    -------
    numpy.ndarray
        float64 [..., m + 1], S at the edges; S at time 0 is exactly 1.

    Raises
    ------
    ValueError
        For hazards outside [0, 1], NaN included.
    """
    hazards = np.asarray(hazards, dtype=np.float64)
    if not np.all((hazards >= 0) & (hazards <= 1)):
        raise ValueError("hazards must lie between 0 and 1")
    start = np.ones(hazards.shape[:-1] + (1,))
    return np.concatenate([start, np.cumprod(1 - hazards, axis=-1)], axis=-1)


def survival_at(survival: ArrayLike, edges: ArrayLike, time_days: ArrayLike) -> np.ndarray:
    """Survival at any times, linear within an interval.

    Parameters
    ----------
    survival : array-like [..., m + 1]
        S at the edges, from `survival_function`.
    edges : array-like [m + 1]
        Interval edges, days.
    time_days : float or array-like [t]
        Days.

    Returns
    -------
    numpy.ndarray
        float64 [...] for one time, [..., t] for t times. NaN beyond the last edge, where the model says nothing.

    Raises
    ------
    ValueError
        For negative times and for edges that `check_edges` refuses.
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


def median_survival(survival: ArrayLike, edges: ArrayLike) -> float | None:
    """The first time at which survival is 0.5.

    Parameters
    ----------
    survival : array-like [m + 1]
        S at the edges, linear within intervals.
    edges : array-like [m + 1]
        Interval edges, days.

    Returns
    -------
    float or None
        Days; None if S stays above 0.5.

    Raises
    ------
    ValueError
        For edges that `check_edges` refuses.
    """
    survival, edges = np.asarray(survival, dtype=np.float64), check_edges(edges)
    below = np.flatnonzero(survival <= 0.5)
    if below.size == 0:
        return None
    k = below[0]
    if k == 0:
        return 0.0
    fraction = (survival[k - 1] - 0.5) / (survival[k - 1] - survival[k])
    return float(edges[k - 1] + fraction * (edges[k] - edges[k - 1]))


def restricted_mean_survival(survival: ArrayLike, edges: ArrayLike, horizon_days: float | None = None) -> float:
    """The mean time lived up to a horizon: the integral of S from 0 to it, exact for S linear within intervals.

    Parameters
    ----------
    survival : array-like [m + 1]
        S at the edges.
    edges : array-like [m + 1]
        Interval edges, days.
    horizon_days : float, optional
        Days; the last edge unless given.

    Returns
    -------
    float
        Days.

    Raises
    ------
    ValueError
        For a horizon below 0 or beyond the last edge, and for edges that `check_edges` refuses.
    """
    survival, edges = np.asarray(survival, dtype=np.float64), check_edges(edges)
    horizon = float(edges[-1] if horizon_days is None else horizon_days)
    if not 0 <= horizon <= edges[-1]:
        raise ValueError(f"the horizon must lie between 0 and the last interval's end, {edges[-1]:.0f} days")
    time = np.append(edges[edges < horizon], horizon)
    value = survival_at(survival, edges, time)
    return float(np.sum(np.diff(time) * (value[1:] + value[:-1]) / 2))


def kaplan_meier(time_days: ArrayLike, event: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The Kaplan-Meier (product-limit) estimate.

    At a tied time deaths come before censorings, as usual.

    Parameters
    ----------
    time_days : array-like [n]
        Days to death or to the end of follow-up.
    event : array-like [n]
        1 or True for a death.

    Returns
    -------
    times : numpy.ndarray
        float64 [d], the distinct times of death, days, sorted.
    survival : numpy.ndarray
        float64 [d], S just after each. S is 1 before the first.
    """
    time, event = np.asarray(time_days, dtype=np.float64), np.asarray(event).astype(bool)
    deaths, count = np.unique(time[event], return_counts=True)
    at_risk = time.size - np.searchsorted(np.sort(time), deaths, side="left")
    return deaths, np.cumprod(1 - count / at_risk)


def step_curve(time_days: ArrayLike, survival: ArrayLike, end_days: float) -> tuple[np.ndarray, np.ndarray]:
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


def step_survival_at(time_days: ArrayLike, survival: ArrayLike, at_days: ArrayLike) -> np.ndarray:
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
    """Days as months for people: 547.875 gives "18 months", 100 gives "3.3 months".

    Parameters
    ----------
    days : float

    Returns
    -------
    str
    """
    months = days / MONTH_DAYS
    return f"{round(months)} months" if abs(months - round(months)) < 0.005 else f"{months:.1f} months"
