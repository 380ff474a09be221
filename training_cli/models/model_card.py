"""MODEL_CARD.md, made from bundle.json: what a clinician must know before looking at a prediction.

The words and their order are in the template ``MODEL_CARD.md.j2``; here is what it must compute.
"""

from __future__ import annotations

from pathlib import Path

import jinja2
import numpy as np

from CNNSurvivalLib.hazards import MONTH_DAYS, months_text

from ..evaluation.metrics import ipa_caution
from .checklists import checklists_markdown, markdown_text

CARD_FILE = "MODEL_CARD.md"
TEMPLATE_FILE = Path(__file__).with_name("MODEL_CARD.md.j2")
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
    """The card.

    Parameters
    ----------
    info : dict
        The content of a valid bundle.json.

    Returns
    -------
    str
        Markdown (GitHub's).
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )  # no autoescape: Markdown is escaped by the filter "text"
    environment.filters.update(
        text=markdown_text, sentence=_sentence, months=months_text, percent="{:.0%}".format, interval=_interval,
        metric_name=_metric_name,
    )  # fmt: skip
    deaths = {cohort["name"]: cohort["events"] for cohort in info["cohorts"]}
    return environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8")).render(
        info,
        edges=info["intervals"]["edges_days"],
        metric_names=METRIC_NAMES,
        metric_meanings=METRIC_MEANINGS,
        explained=list(dict.fromkeys(m["name"] for m in info["metrics"] if m["name"] in METRIC_MEANINGS)),
        populations=_populations(info),
        default_population=info.get("default_population"),
        ipa_caution=_ipa_caution(info["metrics"], lambda m: deaths.get(m.get("cohort"))),
        sanity=info.get("sanity", []),
        checklists=checklists_markdown(info["card"]) if "checklists" in info["card"] else "",
        stages=_stages(info["training"]),
    )


def _ipa_caution(entries: list[dict], deaths) -> str | None:
    """The sentence below scores of which an IPA is one that its patients cannot carry. deaths: of an entry's cohort."""
    scores = [m for m in entries if m["name"] == "ipa" and " minus " not in m.get("predictor", "")]
    found = [ipa_caution(m.get("ci_low"), m.get("ci_high"), deaths(m)) for m in scores]
    return next(filter(None, found), None)


def _populations(info: dict) -> list[dict]:
    """What is shown of each population; a bundle of format version 1 has one, without a name."""
    entries = info.get("populations") or [{"title": "", "reference_cohort": info["reference_cohort"]}]
    return [
        {
            **entry,
            "label": entry["reference_cohort"]["label"],
            "alive": _alive(entry["reference_cohort"]["kaplan_meier"]),
            "risks": _risks(entry["reference_cohort"]["risk_quantiles"]),
            "scores": _scores(entry.get("metrics", [])) if "populations" in info else [],
            "ipa_caution": _ipa_caution(entry.get("metrics", []), lambda _, e=entry: e.get("events")),
        }
        for entry in entries
    ]


def _scores(metrics: list[dict]) -> list[dict]:
    """A row for each predictor: concordance and IPA with their intervals."""
    rows: dict = {}
    for metric in metrics:
        rows.setdefault(metric.get("predictor", metric["cohort"]), {})[metric["name"]] = metric
    return [
        {
            "predictor": predictor,
            **{name: f"{found[name]['value']:.3f} ({_interval(found[name])})" for name in found},
            "shown": _is_shown(predictor, found),
        }
        for predictor, found in rows.items()
    ]


def _is_shown(predictor: str, found: dict) -> str:
    """Whether a difference excludes nothing: "not shown" where its interval reaches 0."""
    if " minus " not in predictor:
        return ""
    low = found.get("concordance", {}).get("ci_low")
    return "shown" if low is not None and low > 0 else "not shown"


def _alive(curve: dict) -> list[tuple[int, float]]:
    """(month, share alive) of the reference cohort, as far as it was followed."""
    days, survival = np.array(curve["time_days"]), curve["survival"]
    months = [month for month in SHOWN_MONTHS if month * MONTH_DAYS <= days[-1]]
    return [(m, survival[np.searchsorted(days, m * MONTH_DAYS + 1e-6, side="right") - 1]) for m in months]


def _risks(quantiles: list[float]) -> list[tuple[int, float]]:
    """(percentile of the reference cohort, predicted risk)."""
    risks = np.interp(SHOWN_PERCENTILES, np.linspace(0, 100, len(quantiles)), quantiles)
    return list(zip(SHOWN_PERCENTILES, risks))


def _stages(training: dict) -> list[dict]:
    """What is shown of each training, the first one first: kind, rows of (setting, value), departures."""
    stages, stage = [], training
    while stage:
        shown = {"kind": stage.get("kind"), "rows": _settings(stage), "departures": stage.get("departures")}
        stages.insert(0, shown)
        stage = stage.get("parent")
    return stages


# Shown elsewhere in the card, or for programs only: a digest per patient says nothing to a reader.
NO_SETTINGS = ("parent", "cohort", "kind", "departures", "patients_sha256")


def _settings(stage: dict) -> list[tuple[str, object]]:
    rows = []
    for name, value in stage.items():
        if name in NO_SETTINGS:
            continue
        if name == "comparison":
            value = ", ".join(f"{row['learn']} {row['loss']:.4f}" for row in value or []) or "none"
            name = "cross-validated loss per patient"
        if name.endswith("per_epoch") or name == "losses":
            name, value = "mean loss, first and last epoch", f"{value[0]:.4f}, {value[-1]:.4f}" if value else "none"
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        rows.append((name.replace("_", " "), value))
    return rows


def _metric_name(name: str) -> str:
    return METRIC_NAMES.get(name, name[:1].upper() + name[1:])


def _interval(metric: dict) -> str:
    low, high = metric.get("ci_low"), metric.get("ci_high")
    return "not given" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _sentence(text: str) -> str:
    text = markdown_text(text)
    return text if text.endswith((".", "!", "?")) else text + "."
