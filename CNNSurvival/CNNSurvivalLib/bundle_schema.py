"""What bundle.json must hold: its fields, and what their values must be.

Written by hand instead of with a schema library, as nothing may be installed in Slicer.
"""

from __future__ import annotations

import math
import re
from typing import Optional

from .hazards import check_edges
from .image_text import decode_images
from .network import CROP_PX, GREY_SCALE


def problem_of(info: dict) -> Optional[str]:
    """What is wrong with the content of a bundle.json.

    Parameters
    ----------
    info : dict
        bundle.json as read, with its ``format`` and ``format_version`` already checked.

    Returns
    -------
    str or None
        The first problem, to be put after "in its bundle.json"; None where there is none.
    """
    for path, (check, what) in SCHEMA.items():
        value = info
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return f"the field '{path}' is missing"
            value = value[key]
        if not check(value):
            return f"the field '{path}' is not {what}"
    return _problem_between(info)


def _problem_between(info: dict) -> Optional[str]:
    """Where fields that are right alone do not fit together."""
    edges, km = info["intervals"]["edges_days"], info["reference_cohort"]["kaplan_meier"]
    try:
        check_edges(edges)
    except ValueError as error:
        return f"the {error}"
    if info["aggregation"]["risk_time_days"] > edges[-1]:
        return "'aggregation.risk_time_days' lies beyond the last interval"
    survival = km["survival"]
    falls = len(survival) == len(km["time_days"]) and all(a >= b for a, b in zip(survival, survival[1:]))
    if not falls or km["time_days"][0] != 0 or survival[0] != 1:
        return "the Kaplan-Meier curve does not fall from 1 at day 0"
    try:
        images = decode_images(info["self_test"]["images"], info["preprocessing"]["crop_px"])
    except ValueError:
        return "the field 'self_test.images' is damaged"
    hazards = info["self_test"]["hazards"]
    if len(hazards) != len(images) or any(len(row) != len(edges) - 1 for row in hazards):
        return "'self_test.hazards' does not match its images and intervals"
    return None


# --- Checks of a value: each takes it and says whether it fits -------------------------------------------------


def _number(low=-math.inf, high=math.inf, whole=False):
    def check(value):
        kind = int if whole else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high

    return check


def _text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _texts(value) -> bool:
    return isinstance(value, list) and all(_text(item) for item in value)


def _optional(check):
    return lambda value: value is None or check(value)


def _rising(low, high, strictly=False):
    """A list of numbers within the limits that never falls (or always rises)."""

    def check(value):
        if not isinstance(value, list) or len(value) < 2 or not all(map(_number(low, high), value)):
            return False
        return all(a < b if strictly else a <= b for a, b in zip(value, value[1:]))

    return check


def _metric(value) -> bool:
    """{"name", "cohort", "value", "ci_low", "ci_high"} and, where the metric has one, "horizon_days"."""
    number = _optional(_number())
    return (
        isinstance(value, dict)
        and all(_text(value.get(key)) for key in ("name", "cohort"))
        and _number()(value.get("value"))
        and all(number(value.get(key)) for key in ("ci_low", "ci_high", "horizon_days"))
    )


def _cohort(value) -> bool:
    """{"name", "use", "patients", "events", "slices", "sites", "dates", "source", "licence", "exclusions"}."""
    return (
        isinstance(value, dict)
        and all(_text(value.get(key)) for key in ("name", "use", "sites", "dates", "source", "licence", "exclusions"))
        and all(_number(0, whole=True)(value.get(key)) for key in ("patients", "events", "slices"))
    )


def _list_of(check, least=0):
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(check, value))


def _name(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is not None


# Path in bundle.json -> (check, what it must be). Fields beyond these are kept and ignored.
SCHEMA = {
    "name": (_name, "a short name of letters, digits, '.', '_' and '-'"),
    "title": (_text, "a title"),
    "version": (_name, "a version such as '1.0'"),
    "changes": (_texts, "a list of what changed, newest first"),
    "created": (_text, "a date"),
    "weights_sha256": (lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None, "a SHA-256"),
    "network.architecture": (lambda v: v == "zhang2020", "'zhang2020'"),
    "network.output": (lambda v: v == "hazard_logits", "'hazard_logits'"),
    "network.input_scale": (_number(GREY_SCALE, GREY_SCALE), f"{GREY_SCALE!r}, one grey level"),
    "intervals.edges_days": (_rising(0, 1e6, strictly=True), "a list of days that rises from 0"),
    "preprocessing.hu_window": (
        lambda v: _rising(-1e5, 1e5, strictly=True)(v) and len(v) == 2,
        "two rising numbers [low, high] in HU",
    ),
    "preprocessing.pixel_size_mm": (_optional(_number(0.05, 20)), "a number of mm, or null"),
    "preprocessing.crop_px": (lambda v: v == CROP_PX, str(CROP_PX)),
    "preprocessing.min_roi_px": (_number(1, 1e6, whole=True), "a number of pixels, 1 or more"),
    "preprocessing.slice_step_mm": (_optional(_number(0.05, 100)), "a number of mm, or null"),
    "preprocessing.ranking": (lambda v: v == "mean_percentile_rank_area_intensity", "the known ranking rule"),
    "aggregation.method": (lambda v: v == "mean_survival", "'mean_survival'"),
    "aggregation.max_slices": (_number(1, 10_000, whole=True), "a whole number, 1 or more"),
    "aggregation.risk_time_days": (_number(1, 1e6), "a number of days"),
    "cohorts": (_list_of(_cohort, least=1), "a list of cohorts with their sizes, events, sites, dates and licences"),
    "metrics": (_list_of(_metric), "a list of metrics with name, cohort, value and interval"),
    "reference_cohort.label": (_text, "a sentence that names the cohort"),
    "reference_cohort.kaplan_meier.time_days": (_rising(0, 1e6, strictly=True), "a list of days that rises from 0"),
    "reference_cohort.kaplan_meier.survival": (_list_of(_number(0, 1), least=2), "a list of probabilities"),
    "reference_cohort.risk_quantiles": (_rising(0, 1), "a rising list of risks between 0 and 1"),
    "self_test.images": (_text, "images as text"),
    "self_test.hazards": (_list_of(_list_of(_number(0, 1), least=1), least=1), "a list of hazards per image"),
    "card.intended_use": (_text, "a text"),
    "card.disease": (_text, "a text"),
    "card.treatment": (_text, "a text"),
    "card.ct": (_text, "a text"),
    "card.endpoint": (_text, "a text"),
    "card.time_origin": (_text, "a text"),
    "card.contours": (_text, "a text"),
    "card.external_validation": (_text, "a text, 'none' if there was none"),
    "card.calibration": (_text, "a text"),
    "card.out_of_scope": (_texts, "a list of texts"),
    "card.limitations": (_texts, "a list of texts"),
    "card.licence": (_text, "a text"),
    "card.citation": (_texts, "a list of texts"),
    "training": (lambda v: isinstance(v, dict), "the settings of the training run"),
}
