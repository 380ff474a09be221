"""What bundle.json must hold: its fields, and what their values must be.

Written by hand instead of with a schema library, as nothing may be installed in Slicer.
"""

from __future__ import annotations

import math
import re
from typing import Optional

from .hazards import check_edges
from .image_text import decode_images
from .network import CROP_PX, GREY_SCALE, HIDDEN


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
    card = info.get("card")
    if isinstance(card, dict) and not _optional(_switch)(card.get("non_commercial")):
        return "the field 'card.non_commercial' is not true or false"
    own = SCHEMA_1 if info["format_version"] == 1 else SCHEMA_2
    for path, (check, what) in {**SCHEMA, **own}.items():
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
    edges = info["intervals"]["edges_days"]
    try:
        check_edges(edges)
    except ValueError as error:
        return f"the {error}"
    if info["aggregation"]["risk_time_days"] > edges[-1]:
        return "'aggregation.risk_time_days' lies beyond the last interval"
    problem = _problem_of_populations(info, len(edges) - 1)
    if problem is not None:
        return problem
    try:
        images = decode_images(info["self_test"]["images"], info["preprocessing"]["crop_px"])
    except ValueError:
        return "the field 'self_test.images' is damaged"
    hazards = info["self_test"]["hazards"]
    if len(hazards) != len(images) or any(len(row) != len(edges) - 1 for row in hazards):
        return "'self_test.hazards' does not match its images and intervals"
    return None


def _problem_of_populations(info: dict, intervals: int) -> Optional[str]:
    if info["format_version"] == 1:
        return _problem_of_curve(info["reference_cohort"]["kaplan_meier"])
    names = [entry["name"] for entry in info["populations"]]
    if len(set(names)) < len(names):
        return "two populations have the same name"
    if info["default_population"] not in names:
        return "'default_population' is none of the populations"
    for entry in info["populations"]:
        problem = _problem_of_population(entry, intervals)
        if problem is not None:
            return f"of the population '{entry['name']}' {problem}"
    return None


def _problem_of_population(entry: dict, intervals: int) -> Optional[str]:
    """Where the fields of a population do not fit together."""
    offset, layer = entry.get("offset", 0), entry.get("last_layer")
    if isinstance(offset, list) and len(offset) != intervals:
        return f"'offset' is not one number or {intervals}"
    if layer is not None:
        shape = (intervals, HIDDEN)
        if len(layer["weight"]) != shape[0] or any(len(row) != shape[1] for row in layer["weight"]):
            return f"'last_layer.weight' is not of shape {shape}"
        if len(layer["bias"]) != intervals:
            return f"'last_layer.bias' does not hold {intervals} numbers"
    for term in entry.get("terms", []):
        size = len(term["coefficients"])
        square = [len(row) for row in term.get("covariance", [])] in ([], [size] * size)
        if not square or ("covariance" in term and set(term.get("means", {})) != set(term["coefficients"])):
            return "'terms' has a covariance or means that do not fit its coefficients"
    known = {covariate["name"] for covariate in entry.get("covariates", [])}
    given = [frozenset(term["coefficients"]) for term in entry.get("terms", [])]
    # Counted, not listed: of 30 covariates there are a thousand million sets, and the file may be anybody's.
    complete = len(given) == len(set(given)) == 2 ** len(known) - 1
    if not complete or not all(names <= known for names in given):
        return "'terms' does not hold one term for each set of its covariates"
    return _problem_of_curve(entry["reference_cohort"]["kaplan_meier"])


def _problem_of_curve(km: dict) -> Optional[str]:
    survival = km["survival"]
    falls = len(survival) == len(km["time_days"]) and all(a >= b for a, b in zip(survival, survival[1:]))
    if not falls or km["time_days"][0] != 0 or survival[0] != 1:
        return "the Kaplan-Meier curve does not fall from 1 at day 0"
    return None


# --- Checks of a value: each takes it and says whether it fits -------------------------------------------------


def _number(low=-math.inf, high=math.inf, whole=False):
    def check(value):
        kind = int if whole else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high

    return check


def _text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _switch(value) -> bool:
    return isinstance(value, bool)


def _optional(check):
    return lambda value: value is None or check(value)


def _rising(low, high, strictly=False):
    """A list of numbers within the limits that never falls (or always rises)."""

    def check(value):
        if not isinstance(value, list) or len(value) < 2 or not all(map(_number(low, high), value)):
            return False
        return all(a < b if strictly else a <= b for a, b in zip(value, value[1:]))

    return check


def _list_of(check, least=0):
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(check, value))


def _name(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is not None


def _is(**checks):
    """An object of JSON with these keys, each fitting its check; keys that end in _ may be missing."""

    def check(value):
        if not isinstance(value, dict):
            return False
        return all(
            each(value[name.rstrip("_")]) if name.rstrip("_") in value else name.endswith("_")
            for name, each in checks.items()
        )

    return check


def _limits(value) -> bool:
    return isinstance(value, dict) and all(_rising(-1e9, 1e9)(v) and len(v) == 2 for v in value.values())


def _named_numbers(value) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(map(_number(), value.values()))


_TEXTS = _list_of(_text)
_NUMBERS = _list_of(_number())
_METRIC = _is(
    name=_text,
    cohort=_text,
    value=_number(),
    ci_low_=_optional(_number()),
    ci_high_=_optional(_number()),
    horizon_days_=_optional(_number()),
)
_COHORT = _is(
    name=_text,
    use=_text,
    patients=_number(0, whole=True),
    events=_number(0, whole=True),
    slices=_number(0, whole=True),
    sites=_text,
    dates=_text,
    source=_text,
    licence=_text,
    exclusions=_text,
)
_REFERENCE_COHORT = _is(
    label=_text,
    kaplan_meier=_is(time_days=_rising(0, 1e6, strictly=True), survival=_list_of(_number(0, 1), least=2)),
    risk_quantiles=_rising(0, 1),
)
_COVARIATE = _is(name=_name, label=_text, low_=_number(), high_=_number(), choices_=_named_numbers)
_MATRIX = _list_of(_NUMBERS, least=1)
_TERM = _is(intercept=_number(), coefficients=_named_numbers, means_=_named_numbers, covariance_=_MATRIX)
_INTERVAL = _is(
    level=_number(0.5, 0.999),
    score_mean=_number(),
    covariance=lambda v: isinstance(v, list) and len(v) == 2 and all(_NUMBERS(row) and len(row) == 2 for row in v),
    network_variance_=_number(0),
    site_variance_=_number(0),
)
_POPULATION = _is(
    name=_name,
    title=_text,
    offset_=lambda v: _number()(v) or _NUMBERS(v),
    last_layer_=_is(weight=_MATRIX, bias=_NUMBERS),
    reference_cohort=_REFERENCE_COHORT,
    ranges_=_limits,
    covariates_=_list_of(_COVARIATE),
    terms_=_list_of(_TERM),
    interval_=_optional(_INTERVAL),
    metrics_=_list_of(_METRIC),
)
# Path in bundle.json -> (check, what it must be). Fields beyond these are kept and ignored.
SCHEMA = {
    "name": (_name, "a short name of letters, digits, '.', '_' and '-'"),
    "title": (_text, "a title"),
    "version": (_name, "a version such as '1.0'"),
    "changes": (_TEXTS, "a list of what changed, newest first"),
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
    "cohorts": (_list_of(_COHORT, least=1), "a list of cohorts with their sizes, events, sites, dates and licences"),
    "metrics": (_list_of(_METRIC), "a list of metrics with name, cohort, value and interval"),
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
    "card.out_of_scope": (_TEXTS, "a list of texts"),
    "card.limitations": (_TEXTS, "a list of texts"),
    "card.licence": (_text, "a text"),
    "card.citation": (_TEXTS, "a list of texts"),
    "training": (lambda v: isinstance(v, dict), "the settings of the training run"),
}
# Of format version 1 alone, which has one population without a name, and of version 2.
SCHEMA_1 = {
    "reference_cohort.label": (_text, "a sentence that names the cohort"),
    "reference_cohort.kaplan_meier.time_days": (_rising(0, 1e6, strictly=True), "a list of days that rises from 0"),
    "reference_cohort.kaplan_meier.survival": (_list_of(_number(0, 1), least=2), "a list of probabilities"),
    "reference_cohort.risk_quantiles": (_rising(0, 1), "a rising list of risks between 0 and 1"),
}
SCHEMA_2 = {
    "default_population": (_name, "the name of a population"),
    "populations": (
        _list_of(_POPULATION, least=1),
        "a list of populations with name, title, reference cohort and what else docs/formats.md says",
    ),
}
