"""The texts of a model card: those that a person writes (a TOML file), and those that follow from the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pydantic import Field

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.hazards import months_text
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

from ..toml_file import OptionalText, OptionalTexts, Switch, Table, Text, checked, read_toml
from .checklists import checklists_markdown

TEST = "test"
OUT_OF_SCOPE = ["Other diseases than the one above", "MR, PET, cone-beam CT", "Contours of anything but the primary "
                "tumour", "Children"]  # fmt: skip
CITATION = [
    "Zhang Y, et al. CNN-based survival model for pancreatic ductal adenocarcinoma in medical imaging. "
    "BMC Med Imaging 2020;20:11. doi 10.1186/s12880-020-0418-1"
]


class CohortTexts(Table):
    """The texts about a cohort."""

    name: Text
    sites: Text
    dates: Text
    source: Text
    licence: Text
    use: OptionalText = None
    exclusions: OptionalText = None

    @property
    def origin(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("sites", "dates", "source", "licence")}


class Cohorts(Table):
    """The cohorts that a card may describe."""

    pretraining: CohortTexts | None = Field(None, description="a table, [cohorts.pretraining]")
    finetuning: CohortTexts | None = Field(None, description="a table, [cohorts.finetuning]")
    test: CohortTexts | None = Field(None, description="a table, [cohorts.test]")
    populations: dict[str, CohortTexts] = Field({}, description="tables such as [cohorts.populations.NAME]")


class Card(Table):
    """The card as a person writes it. {patients} in reference_label stands for the number of patients."""

    disease: Text
    treatment: Text
    ct: Text
    endpoint: Text
    time_origin: Text
    contours: Text
    licence: Text
    non_commercial: Switch | None = Field(None, description="true or false")
    external_validation: OptionalText = None
    calibration: OptionalText = None
    reference_label: OptionalText = None
    created: OptionalText = None
    out_of_scope: OptionalTexts = None
    limitations: OptionalTexts = None
    citation: OptionalTexts = None
    changes: OptionalTexts = None
    checklists: dict[str, dict[str, str]] = Field({}, description="tables such as [checklists.claim]")
    cohorts: Cohorts = Field(Cohorts(), description="tables such as [cohorts.pretraining]")

    def cohort(self, role: str) -> CohortTexts:
        """The texts about the "pretraining", "finetuning" or "test" cohort. Raises UsageError if there are none."""
        texts = getattr(self.cohorts, role, None) or self.cohorts.populations.get(role)
        if texts is None:
            required = [name for name, field in CohortTexts.model_fields.items() if field.is_required()]
            raise UsageError(
                f"The card says nothing of the {role} cohort; add [cohorts.{role}] with {', '.join(required)}."
            )
        return texts


def read_card(path, cohorts: Sequence[str] = ()) -> Card:
    """Read and check a card.

    Parameters
    ----------
    path : str or Path
    cohorts : sequence of str
        Cohorts that it must describe: "pretraining", "finetuning", "test".

    Raises
    ------
    UsageError
        For a file that is missing or not TOML, for a key that is unknown or of another kind than it must be, for all
        that is missing or empty, and for a checklist or an item of one that there is not.
    """
    path, _, content = read_toml(path, "card")
    content = _filled(content)
    described = content.setdefault("cohorts", {})
    if isinstance(described, dict):
        for role in cohorts:
            described.setdefault(role, {})  # so that what it lacks is told with all else that is missing
    card = checked(Card, content, f"card '{path}'", 'write {}, or "not known"')
    checklists_markdown({"checklists": card.checklists})  # before hours of work, and before anything is written
    return card


def _filled(content: dict) -> dict:
    """A table without the texts that are empty: those of a card that was not completed."""
    return {
        key: _filled(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if not (isinstance(value, str) and not value.strip())
    }


def card_info(
    card: Card,
    metrics: list[dict],
    test: dict | None,
    calibration: tuple[pd.DataFrame, float] | None,
    reference_is_training: bool,
) -> dict:
    """The texts of a model, as bundle.json's "card" has them.

    Parameters
    ----------
    card : Card
    metrics : list of dict
        As bundle.json has them.
    test : dict, optional
        The test cohort, as bundle.json has it.
    calibration : (DataFrame, float), optional
        The table of ``metrics.calibration`` and its horizon in days.
    reference_is_training : bool
        Whether the reference risks are those of patients that the network was trained on.
    """
    validation = "None"
    if test is not None:
        validation = f"One cohort, {test['name']}: {test['patients']} patients, {test['events']} deaths"
    calibrated = [card.calibration, None if calibration is None else calibration_sentence(*calibration)]
    own = ["The reference risks are those of patients it was trained on"] if reference_is_training else []
    texts = ("disease", "treatment", "ct", "endpoint", "time_origin", "contours", "licence")
    return {
        "intended_use": RESEARCH_USE_ONLY,
        **{name: getattr(card, name) for name in texts},
        **({} if card.non_commercial is None else {"non_commercial": card.non_commercial}),
        "external_validation": card.external_validation or validation,
        "calibration": " ".join(filter(None, calibrated)) or "Not assessed",
        "out_of_scope": OUT_OF_SCOPE if card.out_of_scope is None else card.out_of_scope,
        "limitations": [*performance_limits(metrics), *(card.limitations or []), *own],
        **({"checklists": card.checklists} if card.checklists else {}),
        "citation": [*CITATION, *(text for text in card.citation or [] if text not in CITATION)],
    }


def performance_limits(metrics: list[dict]) -> list[str]:
    """What the metrics (as in bundle.json) do not show: a sentence for each of concordance and IPA whose interval
    reaches the value without information, or one sentence if there are no metrics."""
    if not metrics:
        return ["How well it predicts was not measured"]
    limits = []
    for name, nothing, meaning in (
        ("concordance", 0.5, "It is not shown to rank patients better than chance: concordance {} in {}; chance is "
                             "0.5"),
        ("ipa", 0.0, "It is not shown to predict better than one risk for everybody: IPA {} in {}; one risk for "
                     "everybody has 0"),
    ):  # fmt: skip
        for metric in metrics:
            low = metric.get("ci_low")
            if metric["name"] == name and (low is None or low <= nothing):
                limits.append(meaning.format(_with_interval(metric) + _at(metric), metric["cohort"]))
    return limits


def calibration_sentence(table: pd.DataFrame, horizon_days: float) -> str:
    """The table of ``metrics.calibration`` (group, patients, mean_predicted, observed, ci_low, ci_high) in words."""
    groups = []
    for row in table.sort_values("group").to_dict("records"):
        low, high = number(row["ci_low"]), number(row["ci_high"])
        interval = "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"
        observed = number(row["observed"])
        groups.append(f"{row['mean_predicted']:.0%} against "
                      + ("an unknown share" if observed is None else f"{observed:.0%}{interval}"))  # fmt: skip
    return (
        f"Predicted against observed deaths by {months_text(horizon_days)} (95 % interval), in {len(groups)} groups of "
        f"rising predicted risk: {'; '.join(groups)}."
    )


def number(value) -> float | None:
    """The number; None for a missing one: None, an empty cell, NaN."""
    if value is None or value == "":
        return None
    number = float(value)
    return None if not np.isfinite(number) else number


def _with_interval(metric: dict) -> str:
    low, high = metric.get("ci_low"), metric.get("ci_high")
    return f"{metric['value']:.3f}" + ("" if low is None or high is None else f" ({low:.3f} to {high:.3f})")


def _at(metric: dict) -> str:
    return f" at {months_text(metric['horizon_days'])}" if metric.get("horizon_days") else ""
