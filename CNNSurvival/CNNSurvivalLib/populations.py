"""The population that a prediction is for: its last layer, covariates and interval.

One network serves several populations (a disease and its treatment). A population changes the network's last layer:
offsets are added to its biases, one number or one per interval, or the layer is replaced (``Population.adapted``).
Covariates, such as age and stage, and the limits of the interval add one number to the logit of all hazards
(``shifted``).

A population is an entry of ``populations`` in bundle.json (``docs/formats.md``); ``bundle_schema`` checks it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Mapping, Optional

import numpy as np

from .errors import CNNSurvivalError, UsageError

# Hazards are kept this far from 0 and 1, so that their logits are finite.
_EPSILON = 1e-12
_MISSING = ("", "na", "nan", "n/a", "none", "unknown", "?")
# Other names of a covariate's column, without regard to case, and other words for its values.
_ALIASES = {
    "age_years": ("age",),
    "n_stage": ("n", "clinical.n.stage"),
    "t_stage": ("t", "clinical.t.stage"),
    "hpv": ("hpv_status",),
}
COVARIATE_NAMES = frozenset((*_ALIASES, *(alias for aliases in _ALIASES.values() for alias in aliases)))
_SPELLINGS = {"hpv": {"-": "negative", "+": "positive", "neg": "negative", "pos": "positive"}}


@dataclass(frozen=True)
class Covariate:
    """A patient's value that a population's term takes, such as age.

    name: its column in a manifest. label: for people. unit: of a number, such as "years". low, high: the numbers that
    are accepted. choices: text -> number, where only some values are possible (stages); None for a plain number.
    """

    name: str
    label: str
    unit: str
    low: float
    high: float
    choices: Optional[Mapping[str, float]] = None

    def parse(self, text) -> Optional[float]:
        """The value as a number; None where it is not known.

        Stages may be written N2, 2, 2.0, N2b or 2b (the letter is left out); NX is not known. HPV may be + or -.

        Raises
        ------
        UsageError
            For what is neither a possible value nor one of the usual words for unknown.
        """
        text = str(text if text is not None else "").strip()
        if text.casefold() in _MISSING:
            return None
        if self.choices is not None:
            plain = self._plain(text)
            if plain is None:
                return None
            for choice, value in self.choices.items():
                if plain.casefold() in (choice.casefold(), f"{value:g}"):
                    return float(value)
            raise UsageError(f"The {self.label} '{text}' is unknown; give one of {', '.join(self.choices)}.")
        try:
            # DICOM writes an age of 63 years as 063Y, and half of Europe 63.5 as 63,5
            value = float(re.sub(r"^([^.,]*),(\d{1,2})$", r"\1.\2", text.rstrip("yYjJ")))
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high:
            raise UsageError(
                f"The {self.label} '{text}' is not a number from {self.low:g} to {self.high:g} {self.unit}; correct it "
                "or leave it out."
            )
        return value

    def _plain(self, text: str) -> Optional[str]:
        """The text as ``choices`` has it, as far as its spelling goes; None for an unknown stage."""
        text = _SPELLINGS.get(self.name, {}).get(text.casefold(), text)
        text = text[:-2] if text.endswith(".0") else text
        if not self.name.endswith("_stage"):
            return text
        return None if text.upper() in ("NX", "TX", "X") else text.rstrip("abcdABCD")

    @property
    def names(self) -> tuple[str, ...]:
        """What a column or option with its value may be called, without regard to case; the first is ``name``."""
        return (self.name, *_ALIASES.get(self.name, ()))

    def is_called(self, name) -> bool:
        """Whether a column or option of that name holds its value."""
        return str(name).strip().casefold() in {known.casefold() for known in self.names}

    def value_in(self, values: Mapping) -> Optional[float]:
        """Its number among ``values`` (name -> text or number): of several names the first with a known value."""
        given = {str(name).strip().casefold(): value for name, value in values.items()}
        found = (self.parse(given.get(name.casefold())) for name in self.names)
        return next((value for value in found if value is not None), None)

    def shown(self, value: float) -> str:
        """A value for people: "63 years", "N2"."""
        if self.choices is not None:
            return next((text for text, number in self.choices.items() if number == value), f"{value:g}")
        return f"{value:g} {self.unit}".strip()


@dataclass(frozen=True)
class Population:
    """One entry of a bundle's ``populations``; ``info`` is that entry."""

    info: dict

    @property
    def name(self) -> str:
        """The short name, for ``--population``."""
        return self.info["name"]

    @property
    def title(self) -> str:
        """The name that people read, such as "Lung cancer treated by radiotherapy"."""
        return self.info["title"]

    @property
    def reference_label(self) -> str:
        """A sentence's part that names the reference cohort."""
        return self.info["reference_cohort"]["label"]

    @property
    def kaplan_meier(self) -> tuple[np.ndarray, np.ndarray]:
        """(days, S) of the reference cohort, both [t]; the first is (0, 1)."""
        curve = self.info["reference_cohort"]["kaplan_meier"]
        return np.array(curve["time_days"], dtype=np.float64), np.array(curve["survival"], dtype=np.float64)

    def risk_percentile(self, risk: float) -> float:
        """Percent of the reference cohort whose predicted risk is lower, 0..100, from its risk quantiles."""
        quantiles = np.array(self.info["reference_cohort"]["risk_quantiles"], dtype=np.float64)
        percent = np.linspace(0, 100, len(quantiles))
        equal = percent[quantiles == risk]
        if equal.size:  # the risk is one of the quantiles: the middle of the equal ones
            return float(equal.mean())
        return float(np.interp(risk, quantiles, percent))

    @property
    def ranges(self) -> dict:
        """What the population's patients had: name of a measure -> (1st, 99th percentile); {} where not known."""
        return {name: tuple(limits) for name, limits in self.info.get("ranges", {}).items()}

    @property
    def metrics(self) -> list:
        """How good the predictions were: dicts as in bundle.json."""
        return list(self.info.get("metrics", []))

    @property
    def covariates(self) -> tuple[Covariate, ...]:
        """What may be entered beside the image; () where nothing is shown to help."""
        return tuple(
            Covariate(
                name=entry["name"],
                label=entry["label"],
                unit=entry.get("unit", ""),
                low=float(entry.get("low", -math.inf)),
                high=float(entry.get("high", math.inf)),
                choices=entry.get("choices"),
            )
            for entry in self.info.get("covariates", [])
        )

    def adapted(self, weights: dict) -> dict:
        """The network's weights for this population: the last layer moved by its offsets, or replaced.

        Parameters
        ----------
        weights : dict
            Name -> float32 array, as in ``network.weight_shapes``. Not changed.
        """
        layer, offset = self.info.get("last_layer"), np.asarray(self.info.get("offset", 0.0), dtype=np.float64)
        adapted = dict(weights)
        if layer is not None:
            adapted["output.weight"] = np.array(layer["weight"], dtype=np.float32)
            adapted["output.bias"] = np.array(layer["bias"], dtype=np.float32)
        if np.any(offset):
            adapted["output.bias"] = (adapted["output.bias"].astype(np.float64) + offset).astype(np.float32)
        return adapted

    # --- Covariates

    def read(self, values: Mapping) -> dict:
        """Name -> number of the covariates that are known among ``values`` (name -> text or number).

        Names are compared without regard to case, and may be one of ``Covariate.names``; what the population does not
        know is left alone. Raises UsageError for an impossible value.
        """
        found = {each.name: each.value_in(values) for each in self.covariates}
        return {name: value for name, value in found.items() if value is not None}

    def takes(self, name: str) -> bool:
        """Whether a covariate of that name is one of this population's."""
        return any(each.is_called(name) for each in self.covariates)

    def covariate_shift(self, known: Mapping[str, float]) -> float:
        """What the known covariates add to the logit of every hazard; 0 with none.

        Each set of known covariates has a term of its own, fitted with these covariates alone,
        so what is missing needs no guess. The term is 0 for the mean of those patients: the level is the population's.
        """
        known = {name: float(value) for name, value in known.items()}
        if not known:
            return 0.0
        for term in self.info.get("terms", []):
            if set(term["coefficients"]) == set(known):
                return float(term["intercept"] + sum(term["coefficients"][name] * x for name, x in known.items()))
        raise CNNSurvivalError(
            f"The population '{self.title}' has no term for {', '.join(sorted(known))}; leave one of them out."
        )

    # --- Uncertainty

    @property
    def interval_level(self) -> Optional[float]:
        """The level of the interval, such as 0.95; None where the population has none that keeps what it says."""
        interval = self.info.get("interval")
        return float(interval["level"]) if interval else None

    def shift_error(self, score: float, known: Optional[Mapping[str, float]] = None) -> float:
        """Standard error of the logit of the hazards of a patient.

        Parameters
        ----------
        score : float
            ``patient_score``, of the image alone.
        known : mapping, optional
            The covariates that were entered.

        Notes
        -----
        The fitted model is logit(hazard) + a + b (score - mean): the variance is var a + 2 cov d + var b d^2 with
        d = score - mean, that of networks trained on other samples, that between hospitals where it is known, and that
        of the covariates' coefficients.
        """
        interval = self.info["interval"]
        distance = score - interval["score_mean"]
        (vaa, vab), (_, vbb) = interval["covariance"]
        variance = max(0.0, vaa + 2 * vab * distance + vbb * distance**2)
        variance += interval.get("network_variance", 0.0) + interval.get("site_variance", 0.0)
        return math.sqrt(variance + self._covariate_variance(known or {}))

    def _covariate_variance(self, known: Mapping[str, float]) -> float:
        """Of the term of exactly these covariates: x' V x with x counted from the means of those it was fitted on."""
        for term in self.info.get("terms", []):
            if known and set(term["coefficients"]) == set(known) and "covariance" in term:
                x = np.array([known[name] - term["means"][name] for name in term["coefficients"]])
                return float(x @ np.array(term["covariance"]) @ x)
        return 0.0


def shifted(hazards, shift: float) -> np.ndarray:
    """Hazards with a constant added to their logits; exactly the same hazards where it is 0.

    Parameters
    ----------
    hazards : array of float, any shape
        Between 0 and 1.
    shift : float
        Above 0 raises the risk: one unit multiplies the odds of each hazard by e.
    """
    hazards = np.asarray(hazards, dtype=np.float64)
    if shift == 0:
        return hazards
    kept = np.clip(hazards, _EPSILON, 1 - _EPSILON)
    return 1 / (1 + np.exp(-(np.log(kept) - np.log1p(-kept) + shift)))


def patient_score(survival_at_risk_time: float) -> float:
    """log(-log S) at the bundle's risk time, of the image alone: a score on which shifts are nearly additive."""
    survival = min(max(float(survival_at_risk_time), _EPSILON), 1 - _EPSILON)
    return math.log(-math.log(survival))


def outside_ranges(population: Population, values: Mapping[str, float]) -> list[str]:
    """A sentence for each value beyond what 98 % of the population's patients had.

    values: measure -> number; measures are the keys of ``MEASURES``. Unknown measures are passed over.
    """
    sentences = []
    for name, (low, high) in population.ranges.items():
        value = values.get(name)
        if name in MEASURES and value is not None and not low <= value <= high:
            begin, unit = MEASURES[name]
            sentences.append(
                f"{begin} {value:.0f} {unit}; 98% of the patients of '{population.title}' had {low:.0f} to {high:.0f}."
            )
    return sentences


# measure -> (beginning of the sentence, unit)
MEASURES = {
    "largest_area_px": ("The tumour's largest slice has", "pixels"),
    "volume_cc": ("The tumour's volume is", "cc"),
    "mean_intensity": ("The tumour's mean grey level is", "(of 0 to 255)"),
    "age_years": ("The patient's age is", "years"),
}
