"""The model card, made from bundle.json: what a clinician must know before looking at a prediction.

The order is a clinician's, and TRIPOD+AI's: what it is for, of whom and of what it speaks, who it learned from, how
good it is, what it must not be used for; the technical part comes last.
"""

from __future__ import annotations

import re

import numpy as np

from CNNSurvivalLib.hazards import MONTH_DAYS

CARD_FILE = "MODEL_CARD.md"
SHOWN_MONTHS = (6, 12, 18, 24, 36, 48, 60)
SHOWN_PERCENTILES = (5, 25, 50, 75, 95)
METRIC_NAMES = {
    "concordance": "Concordance",
    "ipa": "IPA (index of prediction accuracy)",
    "brier": "Brier score",
    "auc": "AUC (time-dependent)",
    "integrated_brier": "Integrated Brier score",
    "uno_concordance": "Concordance (Uno)",
    "integrated_auc": "AUC, averaged over time",
    "oe_ratio": "Observed / expected deaths",
    "calibration_intercept": "Calibration intercept",
    "calibration_slope": "Calibration slope",
    "ici": "ICI (integrated calibration index)",
    "e50": "E50",
    "e90": "E90",
    "d_calibration_p": "D-calibration, p",
    "concordance_shuffled": "Concordance, outcomes shuffled",
    "concordance_p": "Concordance, p against shuffled outcomes",
}
METRIC_MEANINGS = {
    "concordance": "how often, of two patients, the one with the higher predicted risk dies first: 0.5 is chance, 1 is "
    "perfect",
    "ipa": "how much smaller the squared error is than with one risk for everybody: 0 is no better than that, negative "
    "is worse, 1 is perfect",
    "brier": "the mean squared error of the predicted risk: 0 is perfect",
    "auc": "how often one who dies by then has a higher risk than one who lives longer: 0.5 is chance, 1 is perfect",
    "integrated_brier": "the Brier score averaged over time: 0 is perfect",
    "uno_concordance": "concordance up to the horizon, weighted so that it does not depend on the pattern of censoring",
    "integrated_auc": "the AUC at times up to the horizon, averaged over the deaths",
    "oe_ratio": "1 is perfect; above 1, risks are too low on the whole",
    "calibration_intercept": "0 is perfect; above 0, risks are too low on the whole",
    "calibration_slope": "1 is perfect; below 1, risks are too extreme, above 1 too much alike",
    "ici": "the mean distance between predicted and observed risk: 0 is perfect",
    "e50": "the median of these distances",
    "e90": "the distance that 90 % of the patients do not exceed",
    "d_calibration_p": "a small p speaks against the curves' calibration over time; a large one does not prove it",
    "concordance_shuffled": "what chance alone gives, with its 95 % range",
    "concordance_p": "how often chance alone ranks the patients as well as this",
}


def model_card(info: dict) -> str:
    """The card as Markdown (GitHub's), from the content of a valid bundle.json."""
    card = info["card"]
    parts = [
        f"# {_text(info['title'])}\n\nModel `{info['name']}`, version {info['version']}, {_text(info['created'])}",
        f"> **{_text(card['intended_use'])}**",
        "## What it is for\n\n" + _about(info),
        "## Who it learned from and was tried on\n\n" + _cohorts(info["cohorts"]),
        "## How good it is\n\n" + _performance(info),
        "## Do not use it for\n\n" + _list(card["out_of_scope"]),
        "## What to keep in mind\n\n" + _list(card["limitations"]),
        "## The cohort shown beside a prediction\n\n" + _reference(info),
        "## What goes in and what comes out\n\n" + _input_output(info),
        "## How it was trained\n\n" + _training(info["training"]),
        "## Licence\n\n" + _text(card["licence"]),
        "## Citation\n\n" + _list(card["citation"]),
        "## Versions\n\n" + _list(info["changes"]) + f"\n\nSHA-256 of the weights: `{info['weights_sha256']}`",
    ]
    return "\n\n".join(parts) + "\n"


def months_text(days: float) -> str:
    """547.875 -> "18 months"; 100 -> "3.3 months"."""
    months = days / MONTH_DAYS
    return f"{round(months)} months" if abs(months - round(months)) < 0.005 else f"{months:.1f} months"


def _about(info: dict) -> str:
    card, last = info["card"], info["intervals"]["edges_days"][-1]
    rows = [
        ("Disease", card["disease"]),
        ("Treatment", card["treatment"]),
        ("CT", card["ct"]),
        ("Endpoint", card["endpoint"]),
        ("Time counts from", card["time_origin"]),
        ("Longest horizon", f"{months_text(last)} ({last:.0f} days)"),
        ("Contours", card["contours"]),
    ]
    return _table(("", ""), [(f"**{label}**", _text(text)) for label, text in rows])


def _cohorts(cohorts: list[dict]) -> str:
    numbers = [
        (_text(c["name"]), _text(c["use"]), c["patients"], c["events"], c["slices"], _text(c["licence"]))
        for c in cohorts
    ]
    table = _table(("Cohort", "Used for", "Patients", "Deaths", "Slices", "Licence of the data"), numbers)
    details = []
    for c in cohorts:
        facts = (("Sites", "sites"), ("Dates", "dates"), ("Source", "source"), ("Exclusions", "exclusions"))
        details.append(f"**{_text(c['name'])}** ({_text(c['use'])})\n\n"
                       + _list([f"{label}: {c[key]}" for label, key in facts]))  # fmt: skip
    return "\n\n".join([table, *details])


def _performance(info: dict) -> str:
    card, metrics = info["card"], info["metrics"]
    parts = [f"External validation: {_sentence(card['external_validation'])}"]
    if metrics:
        rows = [
            (
                _text(_metric_name(m["name"])),
                _text(m["cohort"]),
                months_text(m["horizon_days"]) if m.get("horizon_days") else "",
                _number(m["value"]),
                _interval(m),
            )
            for m in metrics
        ]
        parts.append(_table(("Measure", "Cohort", "At", "Value", "95 % interval"), rows))
        met = dict.fromkeys(m["name"] for m in metrics if m["name"] in METRIC_MEANINGS)
        parts.append(_list([f"{METRIC_NAMES[name]}: {METRIC_MEANINGS[name]}" for name in met]) if met else "")
    else:
        parts.append("Not measured.")
    parts.append(f"Calibration: {_sentence(card['calibration'])}")
    return "\n\n".join(filter(None, parts))


def _reference(info: dict) -> str:
    reference = info["reference_cohort"]
    days, survival = (np.array(reference["kaplan_meier"][key]) for key in ("time_days", "survival"))
    months = [m for m in SHOWN_MONTHS if m * MONTH_DAYS <= days[-1]]
    alive = [f"{survival[np.searchsorted(days, m * MONTH_DAYS + 1e-6, side='right') - 1]:.0%}" for m in months]
    risk = np.interp(SHOWN_PERCENTILES, np.linspace(0, 100, len(reference["risk_quantiles"])),
                     reference["risk_quantiles"])  # fmt: skip
    parts = [_sentence(reference["label"])]
    if months:
        parts.append(_table(("Months", *months), [("Alive (Kaplan-Meier)", *alive)]))
    horizon = months_text(info["aggregation"]["risk_time_days"])
    parts.append(_table(("Percentile of the cohort", *SHOWN_PERCENTILES),
                        [(f"Predicted risk of death by {horizon}", *(f"{value:.0%}" for value in risk))]))  # fmt: skip
    return "\n\n".join(parts)


def _input_output(info: dict) -> str:
    p, aggregation, edges = info["preprocessing"], info["aggregation"], info["intervals"]["edges_days"]
    low, high = p["hu_window"]
    pixels = "as stored" if p["pixel_size_mm"] is None else f"resampled to {p['pixel_size_mm']:g} mm"
    step = "every slice" if p["slice_step_mm"] is None else f"slices about {p['slice_step_mm']:g} mm apart"
    return _list([
        f"Axial CT slices of the tumour ({step}), pixels {pixels}, {low:g} to {high:g} HU as grey levels 0 to 255, "
        f"0 outside the contour, {p['crop_px']} x {p['crop_px']} pixels around it",
        f"Slices with fewer than {p['min_roi_px']} tumour pixels are left out",
        f"Slices are ranked by the mean of two percentile ranks, area and mean grey level; the best "
        f"{aggregation['max_slices']} are used",
        f"The network (Zhang et al. 2020) gives the hazard of death in {len(edges) - 1} intervals of time for each "
        "slice; the patient's curve S(t) is the mean over slices",
        f"Risk is 1 - S({months_text(aggregation['risk_time_days'])})",
        "Interval edges in days: " + ", ".join(f"{edge:.5g}" for edge in edges),
    ])  # fmt: skip


def _training(training: dict) -> str:
    """The settings of each training, the first one first."""
    if not training:
        return "Not recorded."
    stages, stage = [], training
    while stage:
        stages.insert(0, stage)
        stage = stage.get("parent")
    return "\n\n".join(_stage(stage) for stage in stages)


def _stage(stage: dict) -> str:
    rows = []
    for name, value in stage.items():
        if name in ("parent", "cohort", "kind", "departures"):
            continue
        if name.endswith("per_epoch") or name == "losses":
            name, value = "mean loss, first and last epoch", f"{value[0]:.4f}, {value[-1]:.4f}" if value else "none"
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        rows.append((_text(name.replace("_", " ")), _text(value)))
    title = [f"**{_text(stage['kind']).capitalize()}**"] if stage.get("kind") else []
    departures = [f"Departs from the paper: {_sentence('; '.join(stage['departures']))}"] if stage.get("departures") \
        else []  # fmt: skip
    return "\n\n".join([*title, _table(("Setting", "Value"), rows), *departures])


def _metric_name(name: str) -> str:
    return METRIC_NAMES.get(name, name[:1].upper() + name[1:])


def _interval(metric: dict) -> str:
    low, high = metric.get("ci_low"), metric.get("ci_high")
    return "not given" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _table(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _list(texts: list[str]) -> str:
    return "\n".join(f"- {_text(text)}" for text in texts) or "- None"


def _sentence(text: str) -> str:
    text = _text(text)
    return text if text.endswith((".", "!", "?")) else text + "."


def _text(value) -> str:
    """A text on one line that Markdown takes for nothing but text."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(str(value).split()))
