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
from .image_text import decode_images, encode_images
from .slices import RankedSlices, extract_slices

HORIZONS_MONTHS = (6, 12, 18, 24, 36)
SPREAD_PERCENTILES = (10, 90)
FEW_SLICES = 3  # a curve from fewer gets a warning
WIDE_SPREAD = 0.4  # so does one whose slices differ by more than this in S at the risk time
COARSE = 1.7  # so does a CT whose pixels or slices are so many times as large as those that the model was trained on
RESEARCH_USE_ONLY = "Research use only. Not for diagnosis, prognosis or treatment decisions."

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one tumour. n slices used, m intervals, days throughout.

    slices: the slices that the network saw, best first. hazards [n, m], slice_survival [n, m + 1]: each slice's own.
    used: bool [n], the slices that the curve is made of: all, unless the user left some out.
    time_days [m + 1]: the interval edges from 0. survival [m + 1]: the patient's S, the mean of the slice curves.
    survival_low, survival_high [m + 1]: 10th and 90th percentile over slices, which is how far the slices agree
    and not a confidence interval.
    horizon_survival [h]: S at horizons_months; NaN beyond the last interval.
    risk: 1 - S at the bundle's risk time (18 months), slice_risk [n]: the same per slice.
    risk_percentile: percent of the reference cohort with a lower risk.
    median_survival_days: None where S stays above 0.5. rmst_days: mean days lived up to rmst_horizon_days.
    input_warnings: those of the warnings that came with the input.
    """

    bundle: Bundle
    slices: RankedSlices
    hazards: np.ndarray
    slice_survival: np.ndarray
    used: np.ndarray
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
    input_warnings: Tuple[str, ...]
    provenance: dict

    @property
    def slices_used(self) -> int:
        return int(self.used.sum())

    def same_slices(self, other: Prediction) -> bool:
        """Whether both are of the same slices and weights; they may use different ones of them."""
        return self.bundle.sha256 == other.bundle.sha256 and np.array_equal(self.slices.images, other.slices.images)

    def thumbnail(self, rank: int) -> bytes:
        """The slice with that rank, from 0, as a PGM picture of the part that holds the tumour."""
        image = self.slices.images[rank]
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        middle = len(image) // 2
        reach = max([abs(index - middle) for index in (*rows[[0, -1]], *columns[[0, -1]])] if rows.size else [16]) + 4
        part = image[max(middle - reach, 0) : middle + reach, max(middle - reach, 0) : middle + reach]
        return b"P5 %d %d 255\n" % part.shape[::-1] + part.tobytes()

    def slice_rows(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of the slices in rank order, as text for people; the array axis is named by its letter."""
        s = self.slices
        months = self.bundle.risk_time_days / MONTH_DAYS
        header = ["Rank", f"Slice ({'KJI'[s.axis]})", "Area (mm2)", "Grey level", f"{months:.0f}-month risk"]
        rows = [
            [str(rank + 1), str(s.slice_index[rank]), f"{s.area_mm2[rank]:.0f}", f"{s.mean_intensity[rank]:.0f}",
             f"{self.slice_risk[rank]:.0%}"]
            for rank in range(len(s))
        ]  # fmt: skip
        return header, rows

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
            ("Slices used", f"{self.slices_used} of {self.slices.roi_slices} with tumour"),
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
    horizons_months=HORIZONS_MONTHS,
    input_warnings=(),
    progress: Optional[Progress] = None,
) -> Prediction:
    """Predict survival from a CT and a tumour mask.

    hu, mask [k, j, i] and ijk_to_ras as in ``slices.extract_slices``. engine: from ``engines.create_engine``; None
    takes the built-in one. min_roi_px and max_slices override the bundle's. horizons_months: when S is asked for.
    input_warnings: what whoever read the input has to say, put before our own. progress(step, fraction) is told each
    step, and may raise Cancelled.

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
    return aggregate(bundle, slices, hazards, provenance, tuple(input_warnings), horizons_months=horizons_months)


def aggregate(
    bundle: Bundle,
    slices: RankedSlices,
    hazards,
    provenance: dict,
    input_warnings=(),
    used=None,
    horizons_months=HORIZONS_MONTHS,
) -> Prediction:
    """The patient's prediction from the hazards [n, m] of its n slices: the mean of the slice curves (SPEC).

    used: bool [n], which slices to make the curve of; None for all. Raises CNNSurvivalError if there is none of them.
    """
    edges, risk_time = bundle.edges_days, bundle.risk_time_days
    used = np.ones(len(slices), dtype=bool) if used is None else np.asarray(used, dtype=bool)
    if not used.any():
        raise CNNSurvivalError("All slices are left out; tick at least one.")
    slice_survival = survival_function(hazards)
    survival = slice_survival[used].mean(axis=0)
    low, high = np.percentile(slice_survival[used], SPREAD_PERCENTILES, axis=0)
    risk = float(1 - survival_at(survival, edges, risk_time))
    slice_risk = 1 - survival_at(slice_survival, edges, risk_time)
    warnings = (*input_warnings, *slices.warnings, *_warnings(bundle, slices, slice_risk, used, provenance))
    return Prediction(
        bundle=bundle,
        slices=slices,
        hazards=np.asarray(hazards, dtype=np.float64),
        slice_survival=slice_survival,
        used=used,
        time_days=edges,
        survival=survival,
        survival_low=low,
        survival_high=high,
        horizons_months=tuple(horizons_months),
        horizon_survival=survival_at(survival, edges, np.array(horizons_months) * MONTH_DAYS),
        risk=risk,
        slice_risk=slice_risk,
        risk_percentile=bundle.risk_percentile(risk),
        median_survival_days=median_survival(survival, edges),
        rmst_days=restricted_mean_survival(survival, edges),
        rmst_horizon_days=float(edges[-1]),
        warnings=tuple(dict.fromkeys(warnings)),
        input_warnings=tuple(input_warnings),
        provenance=provenance,
    )


def revise(prediction: Prediction, used=None, horizons_months=None) -> Prediction:
    """The same prediction with other slices left out, or for other horizons; the network need not run again.

    Raises CNNSurvivalError if no slice is used.
    """
    p = prediction
    return aggregate(
        p.bundle, p.slices, p.hazards, p.provenance, p.input_warnings, p.used if used is None else used,
        p.horizons_months if horizons_months is None else horizons_months,
    )  # fmt: skip


def parse_horizons(text: str) -> tuple:
    """Months from text such as "6, 12, 18": rising, each once. Raises CNNSurvivalError for anything else."""
    try:
        months = sorted({float(part) for part in text.replace(";", ",").split(",") if part.strip()})
    except ValueError:
        months = []
    if not months or not all(0 < month <= 600 for month in months) or len(months) > 12:
        raise CNNSurvivalError(f"'{text}' is not a list of months; write up to 12 numbers, such as 6, 12, 18.")
    return tuple(int(month) if month == int(month) else month for month in months)


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
    """(header, rows): the slices in rank order; slice_index counts from 0 along the CT array's sliced axis, and used is
    0 for those that the user left out of the curve."""
    header = ["rank", "slice_index", "center_r_mm", "center_a_mm", "center_s_mm", "area_px", "area_mm2",
              "mean_intensity", "area_rank", "intensity_rank", "risk", "used"]  # fmt: skip
    s = prediction.slices
    columns = (np.arange(1, len(s) + 1), s.slice_index, *s.center_ras.T, s.area_px, s.area_mm2, s.mean_intensity,
               s.area_rank, s.intensity_rank, prediction.slice_risk, prediction.used.astype(int))  # fmt: skip
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
        "n_slices": p.slices_used,
        "n_slices_with_roi": p.slices.roi_slices,
        "warnings": list(p.warnings),
        "curve": _records(curve_table(p)),
        "horizons": _records(horizon_table(p)),
        "slices": [
            {**record, "hazards": p.hazards[i].tolist()} for i, record in enumerate(_records(slice_table(p)))
        ],
        "provenance": p.provenance,
    }


# --- A prediction that can be taken up again ------------------------------------------------------------------

_SLICE_ARRAYS = (
    "slice_index", "center_ras", "pixel_to_ras", "area_px", "area_mm2", "mean_intensity", "area_rank", "intensity_rank",
)  # fmt: skip


def to_record(prediction: Prediction) -> dict:
    """``to_dict`` and all else that ``from_record`` needs: the slices with their pixels, as text."""
    p, s = prediction, prediction.slices
    state = {name: getattr(s, name).tolist() for name in _SLICE_ARRAYS}
    state.update(
        images=encode_images(s.images), axis=s.axis, roi_slices=s.roi_slices, slice_warnings=list(s.warnings),
        pixel_spacing_mm=list(s.pixel_spacing_mm), slice_spacing_mm=s.slice_spacing_mm, hazards=p.hazards.tolist(),
        used=p.used.tolist(), horizons_months=list(p.horizons_months), input_warnings=list(p.input_warnings),
    )  # fmt: skip
    return {**to_dict(p), "state": state}


def from_record(record: dict, bundle: Bundle) -> Optional[Prediction]:
    """The prediction that ``to_record`` wrote; None where the record is damaged or of other weights."""
    try:
        if record["provenance"]["model_weights_sha256"] != bundle.sha256:
            return None
        state = record["state"]
        images = decode_images(state["images"], bundle.preprocessing.crop_px, limit=len(state["slice_index"]))
        slices = RankedSlices(
            images=images,
            axis=int(state["axis"]),
            roi_slices=int(state["roi_slices"]),
            warnings=tuple(state["slice_warnings"]),
            pixel_spacing_mm=tuple(state["pixel_spacing_mm"]),
            slice_spacing_mm=float(state["slice_spacing_mm"]),
            **{name: np.array(state[name]) for name in _SLICE_ARRAYS},
        )
        hazards = np.array(state["hazards"], dtype=np.float64).reshape(len(images), -1)
        return aggregate(
            bundle, slices, hazards, record["provenance"], tuple(state["input_warnings"]), state["used"],
            state["horizons_months"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, CNNSurvivalError):
        return None


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


def _warnings(bundle: Bundle, slices: RankedSlices, slice_risk: np.ndarray, used: np.ndarray, provenance: dict):
    count = int(used.sum())
    if count < len(slices):
        yield f"{len(slices) - count} of {len(slices)} slices were left out of the curve by the user."
    if count < FEW_SLICES:
        yield f"The curve rests on {count} slice{'s' if count > 1 else ''} only."
    yield from _unlike_training(bundle, slices)
    low, high = np.percentile(slice_risk[used], SPREAD_PERCENTILES)
    if high - low > WIDE_SPREAD:
        yield f"The slices disagree: their risks reach from {low:.0%} to {high:.0%} (10th to 90th percentile)."
    trained, used = bundle.preprocessing.min_roi_px, provenance["parameters"]["min_roi_px"]
    if used < trained and slices.area_px.min() < trained:
        yield (
            f"Slices with fewer than {trained} tumour pixels were used (minimum {used}); "
            "the model was trained on larger ones."
        )


def _unlike_training(bundle: Bundle, slices: RankedSlices):
    """Where the input is not what the model learned from; the ranges are those of its training patients."""
    values = {"largest_area_px": slices.area_px.max(), "mean_intensity": slices.mean_intensity.mean()}
    words = {
        "largest_area_px": ("The tumour's largest slice has", "pixels"),
        "mean_intensity": ("The tumour's mean grey level is", "(of 0 to 255)"),
    }
    for name, (low, high) in bundle.input_ranges.items():
        if name in words and not low <= values[name] <= high:
            begin, unit = words[name]
            yield f"{begin} {values[name]:.0f} {unit}; 98% of the training patients had {low:.0f} to {high:.0f}."
    wanted = bundle.preprocessing
    pixel = max(slices.pixel_spacing_mm)
    if wanted.pixel_size_mm and pixel > COARSE * wanted.pixel_size_mm:
        yield f"The CT's pixels are {pixel:.1f} mm wide; the model was trained on {wanted.pixel_size_mm:g} mm."
    if wanted.slice_step_mm and slices.slice_spacing_mm > COARSE * wanted.slice_step_mm:
        yield (
            f"The CT's slices lie {slices.slice_spacing_mm:.1f} mm apart; the model was trained on slices "
            f"{wanted.slice_step_mm:g} mm apart."
        )


def _provenance(bundle: Bundle, engine, preprocessing, max_slices: int) -> dict:
    packages = {"numpy": np.__version__, "scipy": scipy.__version__}
    if engine.name == "torch":
        packages["torch"] = str(sys.modules["torch"].__version__)
    return {
        "software": f"CNNSurvival {__version__}",
        "model": bundle.id,
        "model_title": bundle.title,
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
