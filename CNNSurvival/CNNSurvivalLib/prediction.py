"""One patient's prediction: from a CT and a tumour mask to the survival curve, its spread, warnings and provenance.

Texts and tables of a prediction are made in ``report``; ``record`` writes it so that it can be restored.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Callable, Mapping, Optional, Tuple

import numpy as np
import scipy

from . import __version__
from .bundle import Bundle
from .engines import check_population, create_engine
from .errors import CNNSurvivalError
from .hazards import MONTH_DAYS, median_survival, restricted_mean_survival, survival_at, survival_function
from .lesions import ALL, Lesions, choose_lesions, warnings_of
from .populations import Population, outside_ranges, patient_score, shifted
from .slices import RankedSlices, check_is_ct, checked_inputs, extract_slices

HORIZONS_MONTHS = (6, 12, 18, 24, 36)
SPREAD_PERCENTILES = (10, 90)
FEW_SLICES = 3  # a curve from fewer gets a warning
WIDE_SPREAD = 0.4  # so does one whose slices differ by more than this in S at the risk time
COARSE = 1.7  # so does a CT whose pixels or slice distances are more than this times those of the training
RESEARCH_USE_ONLY = "Research use only. Not for diagnosis, prognosis or treatment decisions."

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Prediction:
    """What the model predicts for one tumour, of n slices and m intervals.

    Attributes
    ----------
    bundle : Bundle
        The model, for the population that the patient was said to belong to.
    slices : RankedSlices
        The slices that the network was given, best first.
    hazards : ndarray of float64, shape [n, m]
        The hazards of each slice, of the image alone.
    slice_survival : ndarray of float64, shape [n, m + 1]
        The survival curve of each slice, at ``time_days``, with the covariates.
    used : ndarray of bool, shape [n]
        The slices that the curve is made of: all, unless the user left some out.
    time_days : ndarray of float64, shape [m + 1]
        The interval edges in days, from 0.
    survival : ndarray of float64, shape [m + 1]
        The patient's S at ``time_days``: the mean of the curves of the used slices.
    survival_low, survival_high : ndarray of float64, shape [m + 1]
        10th and 90th percentile over the used slices. They say how far the slices agree; they are no confidence
        interval.
    interval_low, interval_high : ndarray of float64, shape [m + 1], or None
        The interval of S at the level of ``bundle.population.interval_level``: how well S is known for patients like
        this one, given how many patients the population was calibrated on. None where the population has none.
    covariates : dict
        Name -> number of what was entered beside the image; {} for the image alone.
    horizons_months : tuple of float
        When S was asked for.
    horizon_survival : ndarray of float64, shape [horizons]
        S at ``horizons_months``; NaN after the last interval.
    risk : float
        1 - S at the bundle's risk time, ``bundle.risk_time_days``; 18 months in the bundles that ship.
    slice_risk : ndarray of float64, shape [n]
        The same for each slice.
    risk_percentile : float
        Percent of the reference cohort with a lower risk, by the image alone: the cohort's risks are the image's, too.
    median_survival_days : float or None
        None where S stays above 0.5.
    rmst_days, rmst_horizon_days : float
        Mean days lived up to the horizon (restricted mean survival time), and that horizon.
    outside : tuple of str
        Sentences about what lies outside of what the population's patients had; empty where nothing does.
    warnings : tuple of str
        Sentences for the user, all of them, those of ``outside`` first.
    input_warnings : tuple of str
        Those of the warnings that came with the input, and those on its lesions.
    provenance : dict
        Software, model, engine and parameters, as plain values for JSON.
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
    interval_low: Optional[np.ndarray]
    interval_high: Optional[np.ndarray]
    covariates: dict
    horizons_months: Tuple[int, ...]
    horizon_survival: np.ndarray
    risk: float
    slice_risk: np.ndarray
    risk_percentile: float
    median_survival_days: Optional[float]
    rmst_days: float
    rmst_horizon_days: float
    outside: Tuple[str, ...]
    warnings: Tuple[str, ...]
    input_warnings: Tuple[str, ...]
    provenance: dict

    @property
    def slices_used(self) -> int:
        return int(self.used.sum())

    @property
    def population(self) -> Population:
        return self.bundle.population

    @property
    def inside_training_range(self) -> bool:
        """Whether size, grey level and age are as those of the population's patients."""
        return not self.outside

    @property
    def volume_cc(self) -> Optional[float]:
        """The volume of the whole contour; None in records of earlier versions."""
        return self.slices.volume_cc

    @property
    def largest_area_mm2(self) -> float:
        """The area of the largest slice."""
        return float(self.slices.area_mm2.max())

    def same_slices(self, other: Prediction) -> bool:
        """Whether both were made from the same slices with the same weights; they may use different slices of them."""
        return self.bundle.sha256 == other.bundle.sha256 and np.array_equal(self.slices.images, other.slices.images)


def predict(
    hu,
    mask,
    ijk_to_ras,
    bundle: Bundle,
    engine=None,
    *,
    covariates: Optional[Mapping] = None,
    force: bool = False,
    min_roi_px: Optional[int] = None,
    max_slices: Optional[int] = None,
    lesions: str = ALL,
    horizons_months=HORIZONS_MONTHS,
    input_warnings=(),
    progress: Optional[Progress] = None,
) -> Prediction:
    """Predict survival from a CT and a tumour mask.

    Parameters
    ----------
    hu : array_like, shape [k, j, i]
        CT in Hounsfield units, any real type.
    mask : array_like of bool or integer, shape [k, j, i]
        Non-zero inside the tumour.
    ijk_to_ras : array_like, shape [4, 4]
        Takes (i, j, k, 1) to RAS mm.
    bundle : Bundle
        The model, from ``bundle.load_bundle``, for the patient's population (``Bundle.for_population``).
    engine : Engine, optional
        From ``engines.create_engine`` with the same bundle, for the same population; the built-in one where not given.
    covariates : mapping, optional
        Name -> text or number of what is known beside the image, such as {"age_years": 63}. Names that the population
        does not take are ignored; without any the result is that of the image alone.
    force : bool
        Whether to predict from an image that does not look like a CT.
    min_roi_px : int, optional
        Slices with fewer tumour pixels are not used; the bundle's value where not given.
    max_slices : int, optional
        At most this many of the best slices are used; the bundle's value where not given.
    lesions : {"all", "largest"}
        What is taken where the mask holds several lesions (``lesions``); a warning then says which. A connected mask is
        one lesion.
    horizons_months : sequence of float
        When S is wanted.
    input_warnings : sequence of str
        Warnings of the reader of the input. They come before those of the prediction.
    progress : callable, optional
        progress(step, fraction) is called at each step. It may raise Cancelled.

    Returns
    -------
    Prediction

    Raises
    ------
    CNNSurvivalError
        As ``slices.extract_slices``, for an image that is no CT, for min_roi_px or max_slices below 1, and for an
        engine of another population.
    UsageError
        For an impossible covariate, and for another choice of lesions.
    """
    report = progress or (lambda step, fraction: None)
    preprocessing = bundle.preprocessing
    if min_roi_px is not None:
        preprocessing = replace(preprocessing, min_roi_px=_at_least_one(min_roi_px, "minimum ROI area (--min-roi)"))
    count = bundle.max_slices if max_slices is None else _at_least_one(max_slices, "number of slices (--max-slices)")
    known = bundle.population.read(covariates or {})
    if not force:
        check_is_ct(hu)
    engine = engine or create_engine("numpy", bundle)
    check_population(engine, bundle)
    report("Cutting slices", 0.0)
    hu, mask, ijk_to_ras = checked_inputs(hu, mask, ijk_to_ras)
    mask, found = choose_lesions(mask, ijk_to_ras, lesions)
    slices = extract_slices(hu, mask, ijk_to_ras, preprocessing).best(count)
    report("Running the network", 0.2)
    hazards = engine.hazards(slices.images, lambda fraction: report("Running the network", 0.2 + 0.75 * fraction))
    report("Drawing the curve", 0.95)
    provenance = _provenance(bundle, engine, preprocessing, count, lesions, found)
    return aggregate(
        bundle=bundle,
        slices=slices,
        hazards=hazards,
        provenance=provenance,
        input_warnings=(*input_warnings, *warnings_of(found, lesions)),
        horizons_months=horizons_months,
        covariates=known,
    )


def aggregate(
    bundle: Bundle,
    slices: RankedSlices,
    hazards,
    provenance: dict,
    input_warnings=(),
    used=None,
    horizons_months=HORIZONS_MONTHS,
    covariates: Optional[Mapping] = None,
) -> Prediction:
    """The patient's prediction from the hazards of the slices: S is the mean of the slice curves.

    Parameters
    ----------
    bundle : Bundle
    slices : RankedSlices
        n slices.
    hazards : array_like, shape [n, m]
    provenance : dict
        As in ``Prediction``.
    input_warnings : sequence of str
    used : array_like of bool, shape [n], optional
        The slices that the curve is made of; all where not given.
    horizons_months : sequence of float
        When S is wanted.
    covariates : mapping, optional
        Name -> number, as ``Population.read`` gives them.

    Returns
    -------
    Prediction

    Raises
    ------
    CNNSurvivalError
        Where no slice is used.
    """
    edges, risk_time = bundle.edges_days, bundle.risk_time_days
    used = np.ones(len(slices), dtype=bool) if used is None else np.asarray(used, dtype=bool)
    if not used.any():
        raise CNNSurvivalError("All slices are left out; tick at least one.")
    hazards, covariates = np.asarray(hazards, dtype=np.float64), dict(covariates or {})
    shift = bundle.population.covariate_shift(covariates)
    slice_survival = survival_function(shifted(hazards, shift))
    survival = slice_survival[used].mean(axis=0)
    spread_low, spread_high = np.percentile(slice_survival[used], SPREAD_PERCENTILES, axis=0)
    risk = float(1 - survival_at(survival, edges, risk_time))
    slice_risk = 1 - survival_at(slice_survival, edges, risk_time)
    outside = tuple(outside_ranges(bundle.population, _measures(slices, covariates)))
    own = _warnings(bundle, slices, slice_risk, used, provenance)
    warnings = (*outside, *input_warnings, *slices.warnings, *own)
    image = survival if shift == 0 else survival_function(hazards[used]).mean(axis=0)
    image_survival = float(survival_at(image, edges, risk_time))
    interval_low, interval_high = _interval(bundle.population, hazards[used], image_survival, shift, covariates)
    return Prediction(
        bundle=bundle,
        slices=slices,
        hazards=hazards,
        slice_survival=slice_survival,
        used=used,
        time_days=edges,
        survival=survival,
        survival_low=spread_low,
        survival_high=spread_high,
        interval_low=interval_low,
        interval_high=interval_high,
        covariates=covariates,
        horizons_months=tuple(horizons_months),
        horizon_survival=survival_at(survival, edges, np.array(horizons_months) * MONTH_DAYS),
        risk=risk,
        slice_risk=slice_risk,
        risk_percentile=bundle.population.risk_percentile(1 - image_survival),
        median_survival_days=median_survival(survival, edges),
        rmst_days=restricted_mean_survival(survival, edges),
        rmst_horizon_days=float(edges[-1]),
        outside=outside,
        warnings=tuple(dict.fromkeys(warnings)),
        input_warnings=tuple(input_warnings),
        provenance=provenance,
    )


def revise(prediction: Prediction, used=None, horizons_months=None, covariates=None) -> Prediction:
    """The same prediction with other slices left out, other horizons or covariates. The network does not run again.

    Parameters
    ----------
    prediction : Prediction
    used : array_like of bool, shape [n], optional
        The slices that the curve is made of; as before where not given.
    horizons_months : sequence of float, optional
        When S is wanted; as before where not given.
    covariates : mapping, optional
        Name -> text or number; as before where not given.

    Returns
    -------
    Prediction

    Raises
    ------
    CNNSurvivalError
        Where no slice is used.
    """
    p = prediction
    return aggregate(
        bundle=p.bundle,
        slices=p.slices,
        hazards=p.hazards,
        provenance=p.provenance,
        input_warnings=p.input_warnings,
        used=p.used if used is None else used,
        horizons_months=p.horizons_months if horizons_months is None else horizons_months,
        covariates=p.covariates if covariates is None else p.population.read(covariates),
    )


# --- Inside ---------------------------------------------------------------------------------------------------


def _warnings(bundle: Bundle, slices: RankedSlices, slice_risk: np.ndarray, used: np.ndarray, provenance: dict):
    count = int(used.sum())
    if count < len(slices):
        yield f"{len(slices) - count} of {len(slices)} slices were left out of the curve by the user."
    if count < FEW_SLICES:
        yield f"The curve rests on {count} slice{'s' if count > 1 else ''} only."
    yield from _unlike_training(bundle, slices)
    lower, upper = np.percentile(slice_risk[used], SPREAD_PERCENTILES)
    if upper - lower > WIDE_SPREAD:
        yield f"The slices disagree: their risks reach from {lower:.0%} to {upper:.0%} (10th to 90th percentile)."
    trained_px, minimum_px = bundle.preprocessing.min_roi_px, provenance["parameters"]["min_roi_px"]
    if minimum_px < trained_px and slices.area_px.min() < trained_px:
        yield (
            f"Slices with fewer than {trained_px} tumour pixels were used (minimum {minimum_px}); "
            "the model was trained on larger ones."
        )


def _measures(slices: RankedSlices, covariates: Mapping) -> dict:
    """The values that a population may have ranges for."""
    size = {"largest_area_px": float(slices.area_px.max()), "mean_intensity": float(slices.mean_intensity.mean())}
    return {**size, "volume_cc": slices.volume_cc, **covariates}


def _interval(
    population: Population, hazards: np.ndarray, image_survival: float, shift: float, covariates: Mapping
) -> tuple:
    """(low, high) of S at the edges, or (None, None): the curve with the hazards' logits moved by z standard errors.

    hazards: of the used slices, of the image alone. image_survival: their S at the risk time. The standard error is
    that of the image's score.
    """
    level = population.interval_level
    if level is None:
        return None, None
    error = population.shift_error(patient_score(image_survival), covariates)
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return tuple(survival_function(shifted(hazards, shift + sign * reach)).mean(axis=0) for sign in (1, -1))


def _unlike_training(bundle: Bundle, slices: RankedSlices):
    """Warnings where the CT is coarser than those of the training."""
    wanted = bundle.preprocessing
    pixel = max(slices.pixel_spacing_mm)
    if wanted.pixel_size_mm and pixel > COARSE * wanted.pixel_size_mm:
        yield f"The CT's pixels are {pixel:.1f} mm wide; the model was trained on {wanted.pixel_size_mm:g} mm."
    if wanted.slice_step_mm and slices.slice_spacing_mm > COARSE * wanted.slice_step_mm:
        yield (
            f"The CT's slices lie {slices.slice_spacing_mm:.1f} mm apart; the model was trained on slices "
            f"{wanted.slice_step_mm:g} mm apart."
        )


def _provenance(bundle: Bundle, engine, preprocessing, max_slices: int, lesions: str, found: Lesions) -> dict:
    packages = {"numpy": np.__version__, "scipy": scipy.__version__}
    if engine.name == "torch":
        packages["torch"] = str(sys.modules["torch"].__version__)
    return {
        "software": f"CNNSurvival {__version__}",
        "model": bundle.id,
        "model_title": bundle.title,
        "model_weights_sha256": bundle.sha256,
        "population": bundle.population.name,
        "engine": engine.description,
        "python": platform.python_version(),
        "packages": packages,
        "parameters": {
            **asdict(preprocessing),
            "max_slices": max_slices,
            "lesions": lesions,
            "aggregation": "mean_survival",
        },
        "lesions": {"volumes_cc": [round(volume, 3) for volume in found.volumes_cc], "specks": found.specks},
    }


def _at_least_one(value, what: str) -> int:
    if int(value) < 1:
        raise CNNSurvivalError(f"The {what} is {value}; give 1 or more.")
    return int(value)
