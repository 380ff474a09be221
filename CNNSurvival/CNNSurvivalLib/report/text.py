"""A prediction in words and single numbers, and the words that a user writes: horizons in months."""

from __future__ import annotations

import numpy as np

from ..errors import CNNSurvivalError
from ..hazards import MONTH_DAYS, months_text, survival_at
from ..prediction import Prediction


def sentence(prediction: Prediction) -> str:
    """The result in one line."""
    p = prediction
    time = months_text(p.bundle.risk_time_days)
    low, high = interval_at(p, p.bundle.risk_time_days)
    level = p.population.interval_level
    interval = "" if low is None else f" ({level:.0%} interval of this average {low:.0%} to {high:.0%})"
    by = "by the image alone, " if p.covariates else ""
    given = f" ({covariates_text(p)})" if p.covariates else ""
    mark = "" if p.inside_training_range else "OUTSIDE what the model learned from. "
    # A bundle of version 1 does not name its population.
    of = "" if p.population.title == p.population.reference_label else f"{p.population.title}: "
    alive = f"{1 - p.risk:.0%}{interval} of patients with such a tumour{given} to be alive at {time}"
    higher = f"its risk is higher than that of {percentile_text(p.risk_percentile)} of the reference cohort"
    return f"{mark}{of}{'the' if of else 'The'} model expects {alive}; {by}{higher} ({p.population.reference_label})."


def interval_at(prediction: Prediction, days: float) -> tuple[float | None, float | None]:
    """(low, high) of the interval of S at a time; (None, None) where there is none or the time is after the curve."""
    low, high = interval_curve_at(prediction, days)
    return plain(low), plain(high)


def interval_curve_at(prediction: Prediction, days) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of the interval of S at times; NaN where there is none or the time is after the curve."""
    p = prediction
    if p.interval_low is None:
        return np.full(np.shape(days), np.nan), np.full(np.shape(days), np.nan)
    return survival_at(p.interval_low, p.time_days, days), survival_at(p.interval_high, p.time_days, days)


def plain(value):
    """A Python number for a NumPy one; None for NaN, which stands for what is not known."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and np.isnan(value) else value


def covariates_text(prediction: Prediction) -> str:
    """What was entered beside the image: "age 63 years, N stage N2"; "" where nothing was."""
    known = prediction.covariates
    return ", ".join(f"{c.label} {c.shown(known[c.name])}" for c in prediction.population.covariates if c.name in known)


def size_text(prediction: Prediction) -> str:
    """Volume and largest area, by which a contour is checked first: "90.3 cc, largest slice 24.1 cm2"."""
    return _size(prediction.volume_cc, prediction.largest_area_mm2)


def _size(volume_cc, largest_area_mm2) -> str:
    area = f"largest slice {largest_area_mm2 / 100:.1f} cm2"
    return area if volume_cc is None else f"{volume_cc:.1f} cc, {area}"


def summary(prediction: Prediction) -> list[tuple[str, str]]:
    """(label, text) rows for a small table: first S at each horizon, then the rest."""
    p = prediction
    rows = [
        (f"Survival at {months} months", _percent(value))
        for months, value in zip(p.horizons_months, p.horizon_survival)
    ]
    horizon = p.rmst_horizon_days / MONTH_DAYS
    return [
        *rows,
        ("Median survival", median_text(p)),
        (f"Mean survival within {horizon:.0f} months", f"{p.rmst_days / MONTH_DAYS:.1f} months"),
        ("Risk percentile in reference cohort", percentile_text(p.risk_percentile)),
        ("Tumour", size_text(p)),
        ("Population", p.population.title),
        *([("Entered beside the image", covariates_text(p))] if p.covariates else []),
        ("Inside the training range", "yes" if p.inside_training_range else "NO: see the warnings"),
        ("Slices used", f"{p.slices_used} of {p.slices.roi_slices} with tumour"),
        ("Model", p.bundle.id),
    ]


def percentile_text(percent: float) -> str:
    """ "63%"; at the ends "more than 99%" and "less than 1%", as a cohort is a sample."""
    return "more than 99%" if percent > 99 else "less than 1%" if percent < 1 else f"{percent:.0f}%"


def median_text(prediction: Prediction) -> str:
    """The median survival: "14.2 months", or that it is not reached and within what time."""
    return _median(prediction.median_survival_days, prediction.time_days[-1])


def _median(days, end_days) -> str:
    if days is None:
        return f"not reached within {end_days / MONTH_DAYS:.0f} months"
    return f"{days / MONTH_DAYS:.1f} months"


def answer(record: dict) -> tuple[list[str], list[list[str]], list[str]]:
    """The answer in the panel, from the plain values of a prediction (``tables.to_dict``).

    Returns
    -------
    header : list of str
        Of a table of S: when, this tumour, its interval or else its slices' spread, the reference cohort.
    rows : list of list of str
        A row for each horizon.
    facts : list of str
        What is not in the table: the median, and the size of the tumour.
    """
    level = record.get("interval_level")
    low, high = ("survival_p10", "survival_p90") if level is None else ("survival_ci_low", "survival_ci_high")
    header = ["Alive at", "This tumour", "Its slices" if level is None else f"{level:.0%} interval", "Cohort"]
    rows = []
    for each in record.get("horizons", []):
        spread = "" if each.get(low) is None else f"{each[low]:.0%} to {each[high]:.0%}"
        values = (each.get("survival"), each.get("reference_survival"))
        own, cohort = ("-" if value is None else f"{value:.0%}" for value in values)
        rows.append([f"{each['horizon_months']:g} months", own, spread, cohort])
    curve = record.get("curve") or [{}]
    facts = []
    if "time_days" in curve[-1]:
        facts.append(f"Median survival: {_median(record.get('median_survival_days'), curve[-1]['time_days'])}.")
    if any(row[1] == "-" for row in rows):
        facts.append("-: after the end of the model's curve.")
    if record.get("largest_area_mm2"):
        facts.append(f"Tumour: {_size(record.get('volume_cc'), record['largest_area_mm2'])}.")
    return header, rows, facts


def parse_horizons(text: str) -> tuple:
    """Months from text such as "6, 12, 18".

    Returns
    -------
    tuple of float
        Rising, each once; whole numbers are int.

    Raises
    ------
    CNNSurvivalError
        For any other text, for more than 12 months, and for months that are not above 0 and at most 600.
    """
    try:
        months = sorted({float(part) for part in text.replace(";", ",").split(",") if part.strip()})
    except ValueError:
        months = []
    if not months or not all(0 < month <= 600 for month in months) or len(months) > 12:
        raise CNNSurvivalError(f"'{text}' is not a list of months; write up to 12 numbers, such as 6, 12, 18.")
    return tuple(int(month) if month == int(month) else month for month in months)


def _percent(value: float) -> str:
    return "beyond the model's horizon" if np.isnan(value) else f"{value:.0%}"
