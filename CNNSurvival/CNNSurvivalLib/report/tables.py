"""A prediction as tables and as plain values, the same for CSV files, prediction.json and MRML nodes.

A table is (header, rows): names of the columns, and a list of values for each row; None where there is no value.
"""

from __future__ import annotations

import numpy as np

from ..hazards import MONTH_DAYS, step_survival_at, survival_at
from ..prediction import RESEARCH_USE_ONLY, Prediction
from .text import interval_curve_at, plain, sentence


def curve_table(prediction: Prediction) -> tuple[list[str], list[list]]:
    """(header, rows): S at each interval edge, its spread over slices, and the reference cohort's Kaplan-Meier."""
    header = ["time_days", "time_months", "survival", "survival_p10", "survival_p90", "reference_survival",
              "survival_ci_low", "survival_ci_high"]  # fmt: skip
    p = prediction
    reference = step_survival_at(*p.bundle.population.kaplan_meier, p.time_days)
    interval = interval_curve_at(p, p.time_days)
    columns = (p.time_days, p.time_days / MONTH_DAYS, p.survival, p.survival_low, p.survival_high, reference, *interval)
    return header, _rows(columns)


def horizon_table(prediction: Prediction) -> tuple[list[str], list[list]]:
    """(header, rows): S at the prediction's horizons, its spread over slices, and the reference cohort's."""
    header = ["horizon_months", "time_days", "survival", "survival_p10", "survival_p90", "reference_survival",
              "survival_ci_low", "survival_ci_high"]  # fmt: skip
    p = prediction
    days = np.array(p.horizons_months) * MONTH_DAYS
    low, high = (survival_at(curve, p.time_days, days) for curve in (p.survival_low, p.survival_high))
    reference = step_survival_at(*p.bundle.population.kaplan_meier, days)
    columns = (p.horizons_months, days, p.horizon_survival, low, high, reference, *interval_curve_at(p, days))
    return header, _rows(columns)


def slice_table(prediction: Prediction) -> tuple[list[str], list[list]]:
    """(header, rows): the slices in rank order.

    slice_index counts from 0 along the CT array's sliced axis; used is 0 for those that the user left out of the curve.
    """
    header = ["rank", "slice_index", "center_r_mm", "center_a_mm", "center_s_mm", "area_px", "area_mm2",
              "mean_intensity", "area_rank", "intensity_rank", "risk", "used"]  # fmt: skip
    s = prediction.slices
    columns = (np.arange(1, len(s) + 1), s.slice_index, *s.center_ras.T, s.area_px, s.area_mm2, s.mean_intensity,
               s.area_rank, s.intensity_rank, prediction.slice_risk, prediction.used.astype(int))  # fmt: skip
    return header, _rows(columns)


def slice_texts(prediction: Prediction) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the slices in rank order, as text for people; the array axis is named by its letter."""
    p, s = prediction, prediction.slices
    months = p.bundle.risk_time_days / MONTH_DAYS
    header = ["Rank", f"Slice ({'KJI'[s.axis]})", "Area (mm2)", "Grey level", f"{months:.0f}-month risk"]
    rows = [
        [str(rank + 1), str(s.slice_index[rank]), f"{s.area_mm2[rank]:.0f}", f"{s.mean_intensity[rank]:.0f}",
         f"{p.slice_risk[rank]:.0%}"]
        for rank in range(len(s))
    ]  # fmt: skip
    return header, rows


def to_dict(prediction: Prediction) -> dict:
    """prediction.json: everything but the pixels, as plain values for JSON; None for what is not known."""
    p = prediction
    return {
        "notice": RESEARCH_USE_ONLY,
        "sentence": sentence(p),
        "risk": p.risk,
        "risk_time_days": p.bundle.risk_time_days,
        "risk_percentile": p.risk_percentile,
        "survival_at_months": {str(m): plain(s) for m, s in zip(p.horizons_months, p.horizon_survival)},
        "median_survival_days": p.median_survival_days,
        "rmst_days": p.rmst_days,
        "rmst_horizon_days": p.rmst_horizon_days,
        "population": {"name": p.population.name, "title": p.population.title},
        "covariates": dict(p.covariates),
        "inside_training_range": p.inside_training_range,
        "volume_cc": p.volume_cc,
        "largest_area_mm2": p.largest_area_mm2,
        "interval_level": p.population.interval_level,
        "n_slices": p.slices_used,
        "n_slices_with_roi": p.slices.roi_slices,
        "warnings": list(p.warnings),
        "curve": _records(curve_table(p)),
        "horizons": _records(horizon_table(p)),
        "slices": [{**record, "hazards": p.hazards[i].tolist()} for i, record in enumerate(_records(slice_table(p)))],
        "provenance": p.provenance,
    }


def _rows(columns) -> list[list]:
    return [[plain(value) for value in row] for row in zip(*columns)]


def _records(table) -> list[dict]:
    header, rows = table
    return [dict(zip(header, row)) for row in rows]
