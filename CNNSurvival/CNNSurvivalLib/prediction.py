"""One patient's prediction: slices, hazards, survival curve, its spread, its summaries and where they come from."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass, replace
from typing import Callable, Optional, Tuple

import numpy as np
import scipy

from . import __version__
from .bundle import Bundle
from .engines import create_engine
from .errors import CNNSurvivalError
from .hazards import MONTH_DAYS, median_survival, restricted_mean_survival, survival_at, survival_function
from .slices import RankedSlices, extract_slices

HORIZONS_MONTHS = (6, 12, 18, 24, 36)
SPREAD_PERCENTILES = (10, 90)
FEW_SLICES = 3  # a curve from fewer gets a warning
WIDE_SPREAD = 0.4  # so does one whose slices differ by more than this in S at the risk time
RESEARCH_USE_ONLY = "Research use only. Not for diagnosis, prognosis or treatment decisions."

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one tumour. n slices used, m intervals, days throughout.

    slices: the slices used, best first. hazards [n, m], slice_survival [n, m + 1]: each slice's own.
    time_days [m + 1]: the interval edges from 0. survival [m + 1]: the patient's S, the mean of the slice curves.
    survival_low, survival_high [m + 1]: 10th and 90th percentile over slices, which is how far the slices agree
    and not a confidence interval.
    horizon_survival [5]: S at horizons_months; NaN beyond the last interval.
    risk: 1 - S at the bundle's risk time (18 months), slice_risk [n]: the same per slice.
    risk_percentile: percent of the reference cohort with a lower risk.
    median_survival_days: None where S stays above 0.5. rmst_days: mean days lived up to rmst_horizon_days.
    """

    bundle: Bundle
    slices: RankedSlices
    hazards: np.ndarray
    slice_survival: np.ndarray
    time_days: np.ndarray
    survival: np.ndarray
    survival_low: np.ndarray
    survival_high: np.ndarray
    horizons_months: Tuple[int, ...]
    horizon_survival: np.ndarray
    risk: float
    slice_risk: np.ndarray
    risk_percentile: float
    median_survival_days: Optional[float]
    rmst_days: float
    rmst_horizon_days: float
    warnings: Tuple[str, ...]
    provenance: dict

    @property
    def sentence(self) -> str:
        """The result in one line of plain language."""
        months = self.bundle.risk_time_days / MONTH_DAYS
        return (
            f"The model expects {1 - self.risk:.0%} of patients with such a tumour to be alive at {months:g} months; "
            f"its risk is higher than that of {self.risk_percentile:.0f}% of the reference cohort "
            f"({self.bundle.reference_label})."
        )

    @property
    def summary(self) -> list[tuple[str, str]]:
        """(label, text) rows for a small table."""
        rows = [
            (f"Survival at {months} months", _percent(value))
            for months, value in zip(self.horizons_months, self.horizon_survival)
        ]
        horizon = self.rmst_horizon_days / MONTH_DAYS
        return [
            *rows,
            ("Median survival", median_text(self)),
            (f"Mean survival within {horizon:.0f} months", f"{self.rmst_days / MONTH_DAYS:.1f} months"),
            ("Risk percentile in reference cohort", f"{self.risk_percentile:.0f}%"),
            ("Slices used", f"{len(self.slices)} of {self.slices.roi_slices} with tumour"),
            ("Model", self.bundle.id),
        ]


def predict(
    hu,
    mask,
    ijk_to_ras,
    bundle: Bundle,
    engine=None,
    *,
    min_roi_px: Optional[int] = None,
    max_slices: Optional[int] = None,
    input_warnings=(),
    progress: Optional[Progress] = None,
) -> Prediction:
    """Predict survival from a CT and a tumour mask.

    hu, mask [k, j, i] and ijk_to_ras as in ``slices.extract_slices``. engine: from ``engines.create_engine``; None
    takes the built-in one. min_roi_px and max_slices override the bundle's. input_warnings: what whoever read the
    input has to say, put before our own. progress(step, fraction) is told each step, and may raise Cancelled.

    Raises CNNSurvivalError as extract_slices does, and for min_roi_px or max_slices below 1.
    """
    report = progress or (lambda step, fraction: None)
    preprocessing = bundle.preprocessing
    if min_roi_px is not None:
        preprocessing = replace(preprocessing, min_roi_px=_at_least_one(min_roi_px, "minimum ROI area (--min-roi)"))
    count = bundle.max_slices if max_slices is None else _at_least_one(max_slices, "number of slices (--max-slices)")
    engine = engine or create_engine("numpy", bundle)
    report("Cutting slices", 0.0)
    slices = extract_slices(hu, mask, ijk_to_ras, preprocessing).best(count)
    report("Running the network", 0.2)
    hazards = engine.hazards(slices.images, lambda fraction: report("Running the network", 0.2 + 0.75 * fraction))
    report("Drawing the curve", 0.95)
    provenance = _provenance(bundle, engine, preprocessing, count)
    return aggregate(bundle, slices, hazards, provenance, tuple(input_warnings))


def aggregate(bundle: Bundle, slices: RankedSlices, hazards, provenance: dict, input_warnings=()) -> Prediction:
    """The patient's prediction from the hazards [n, m] of its n slices: the mean of the slice curves (SPEC)."""
    edges, risk_time = bundle.edges_days, bundle.risk_time_days
    slice_survival = survival_function(hazards)
    survival = slice_survival.mean(axis=0)
    low, high = np.percentile(slice_survival, SPREAD_PERCENTILES, axis=0)
    risk = float(1 - survival_at(survival, edges, risk_time))
    slice_risk = 1 - survival_at(slice_survival, edges, risk_time)
    warnings = (*input_warnings, *slices.warnings, *_warnings(bundle, slices, slice_risk, provenance))
    return Prediction(
        bundle=bundle,
        slices=slices,
        hazards=np.asarray(hazards, dtype=np.float64),
        slice_survival=slice_survival,
        time_days=edges,
        survival=survival,
        survival_low=low,
        survival_high=high,
        horizons_months=HORIZONS_MONTHS,
        horizon_survival=survival_at(survival, edges, np.array(HORIZONS_MONTHS) * MONTH_DAYS),
        risk=risk,
        slice_risk=slice_risk,
        risk_percentile=bundle.risk_percentile(risk),
        median_survival_days=median_survival(survival, edges),
        rmst_days=restricted_mean_survival(survival, edges),
        rmst_horizon_days=float(edges[-1]),
        warnings=tuple(dict.fromkeys(warnings)),
        provenance=provenance,
    )


# --- Tables: the same for CSV files and MRML nodes -----------------------------------------------------------


def curve_table(prediction: Prediction) -> tuple[list[str], list[list]]:
    """(header, rows): S at each interval edge, its spread over slices, and the reference cohort's Kaplan-Meier."""
    header = ["time_days", "time_months", "survival", "survival_p10", "survival_p90", "reference_survival"]
    p = prediction
    reference = reference_survival_at(p.bundle, p.time_days)
    columns = (p.time_days, p.time_days / MONTH_DAYS, p.survival, p.survival_low, p.survival_high, reference)
    return header, _rows(columns)


def horizon_table(prediction: Prediction) -> tuple[list[str], list[list]]:
    """(header, rows): S at 6, 12, 18, 24 and 36 months, its spread over slices, and the reference cohort's."""
    header = ["horizon_months", "time_days", "survival", "survival_p10", "survival_p90", "reference_survival"]
    p = prediction
    days = np.array(p.horizons_months) * MONTH_DAYS
    low, high = (survival_at(curve, p.time_days, days) for curve in (p.survival_low, p.survival_high))
    columns = (p.horizons_months, days, p.horizon_survival, low, high, reference_survival_at(p.bundle, days))
    return header, _rows(columns)


def slice_table(prediction: Prediction) -> tuple[list[str], list[list]]:
    """(header, rows): the slices used in rank order; slice_index counts from 0 along the CT array's sliced axis."""
    header = ["rank", "slice_index", "center_r_mm", "center_a_mm", "center_s_mm", "area_px", "area_mm2",
              "mean_intensity", "area_rank", "intensity_rank", "risk"]  # fmt: skip
    s = prediction.slices
    columns = (np.arange(1, len(s) + 1), s.slice_index, *s.center_ras.T, s.area_px, s.area_mm2, s.mean_intensity,
               s.area_rank, s.intensity_rank, prediction.slice_risk)  # fmt: skip
    return header, _rows(columns)


def to_dict(prediction: Prediction) -> dict:
    """Everything but the pixels, as plain values for JSON; what is not known is None."""
    p = prediction
    return {
        "notice": RESEARCH_USE_ONLY,
        "sentence": p.sentence,
        "risk": p.risk,
        "risk_time_days": p.bundle.risk_time_days,
        "risk_percentile": p.risk_percentile,
        "survival_at_months": {str(m): _plain(s) for m, s in zip(p.horizons_months, p.horizon_survival)},
        "median_survival_days": p.median_survival_days,
        "rmst_days": p.rmst_days,
        "rmst_horizon_days": p.rmst_horizon_days,
        "n_slices": len(p.slices),
        "n_slices_with_roi": p.slices.roi_slices,
        "warnings": list(p.warnings),
        "curve": _records(curve_table(p)),
        "horizons": _records(horizon_table(p)),
        "slices": [
            {**record, "hazards": p.hazards[i].tolist()} for i, record in enumerate(_records(slice_table(p)))
        ],
        "provenance": p.provenance,
    }


def reference_survival_at(bundle: Bundle, time_days) -> np.ndarray:
    """The reference cohort's Kaplan-Meier estimate at the given days (a step function), NaN past its end."""
    times, survival = bundle.kaplan_meier
    time_days = np.asarray(time_days, dtype=np.float64)
    value = survival[np.searchsorted(times, time_days, side="right") - 1]
    return np.where(time_days > times[-1], np.nan, value)


def median_text(prediction: Prediction) -> str:
    """The median survival for people: "14.2 months", or that it is not reached and within what time."""
    if prediction.median_survival_days is None:
        return f"not reached within {prediction.time_days[-1] / MONTH_DAYS:.0f} months"
    return f"{prediction.median_survival_days / MONTH_DAYS:.1f} months"


# --- Inside ---------------------------------------------------------------------------------------------------


def _warnings(bundle: Bundle, slices: RankedSlices, slice_risk: np.ndarray, provenance: dict):
    if len(slices) < FEW_SLICES:
        yield f"The curve rests on {len(slices)} slice{'s' if len(slices) > 1 else ''} only."
    low, high = np.percentile(slice_risk, SPREAD_PERCENTILES)
    if high - low > WIDE_SPREAD:
        yield f"The slices disagree: their risks reach from {low:.0%} to {high:.0%} (10th to 90th percentile)."
    trained, used = bundle.preprocessing.min_roi_px, provenance["parameters"]["min_roi_px"]
    if used < trained and slices.area_px.min() < trained:
        yield (
            f"Slices with fewer than {trained} tumour pixels were used (minimum {used}); "
            "the model was trained on larger ones."
        )


def _provenance(bundle: Bundle, engine, preprocessing, max_slices: int) -> dict:
    packages = {"numpy": np.__version__, "scipy": scipy.__version__}
    if engine.name == "torch":
        packages["torch"] = str(sys.modules["torch"].__version__)
    return {
        "software": f"CNNSurvival {__version__}",
        "model": bundle.id,
        "model_title": bundle.name,
        "model_weights_sha256": bundle.sha256,
        "engine": engine.description,
        "python": platform.python_version(),
        "packages": packages,
        "parameters": {**asdict(preprocessing), "max_slices": max_slices, "aggregation": "mean_survival"},
    }


def _at_least_one(value, what: str) -> int:
    if int(value) < 1:
        raise CNNSurvivalError(f"The {what} is {value}; give 1 or more.")
    return int(value)


def _rows(columns) -> list[list]:
    return [[_plain(value) for value in row] for row in zip(*columns)]


def _records(table) -> list[dict]:
    header, rows = table
    return [dict(zip(header, row)) for row in rows]


def _plain(value):
    """A Python number; None for NaN."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and np.isnan(value) else value


def _percent(value: float) -> str:
    return "beyond the model's horizon" if np.isnan(value) else f"{value:.0%}"
