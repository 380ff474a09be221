"""A bundle for a site's own patients: a new population, its hazards shifted to fit their follow-up.

The network stays as it is. What is fitted on the site's patients is a shift (one number, or one per interval), terms of
covariates if they are asked for, and the interval; what it gives patients that were left out is found by
cross-validation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from CNNSurvivalLib.bundle import INFO_FILE, Bundle, load_bundle, save_bundle
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import atomic_write, ensure_output_folder

from ..cohort.splits import stratified_folds
from ..cohort.store import Store
from ..evaluation.metrics import concordance, ipa
from ..progress import working
from ..training.runs import Run, check_not_learned_from, check_same_preprocessing, load_network, patients_sha256
from . import populations as fitting
from .model_card import CARD_FILE

KINDS = ("shift", "offsets")
FEWEST_DEATHS = 10


@dataclass(frozen=True)
class Recalibration:
    """What was fitted, and what it gives patients that were left out of the fit.

    name: the population's, in ``bundle``. kind: of KINDS. patients, deaths: how many it was fitted on.
    shift: mean of what is added to the logits.
    before, after: {"concordance", "ipa"} of the bundle's population that was started from, and of the new one,
    cross-validated; concordance is the mean over the folds, within each.
    """

    bundle: Bundle
    name: str
    kind: str
    patients: int
    deaths: int
    shift: float
    before: dict
    after: dict


def recalibrate(
    model,
    store: Store,
    output,
    name: str,
    title: str,
    *,
    kind: str | None = None,
    covariates: Sequence[str] = (),
    default: bool = False,
    few: bool = False,
    also_trained_on: bool = False,
    folds: int = 5,
    resamples: int = fitting.RESAMPLES,
    seed: int = 2020,
) -> Recalibration:
    """Add a population to a bundle, fitted on a site's own patients.

    Parameters
    ----------
    model : str or Path
        A bundle's folder, or the id of one that ships. The new population starts from its default one.
    store : Store
        The patients; their slices cut as the bundle's.
    output : path
        The new bundle's folder, of format version 2.
    name, title : str
        The population's, as in bundle.json.
    kind : str, optional
        One of KINDS; otherwise the one with the smaller cross-validated loss.
    covariates : sequence of str
        Columns of the store's patients.csv, of ``populations.KNOWN_COVARIATES``, that get a term.
    default : bool
        Whether the new population becomes the bundle's default.
    few : bool
        Whether fewer than FEWEST_DEATHS deaths will do.
    also_trained_on : bool
        Whether patients that the network learned from will do.
    folds, resamples, seed : int
        Of the cross-validation, and of the interval.

    Raises
    ------
    UsageError
        For too few deaths, a population or covariate that cannot be, another model in ``output``, slices that were cut
        in another way, and patients that the network learned from.
    """
    run = load_network(model)
    if run.bundle is None:
        raise UsageError(f"'{model}' is a training, not a bundle; make one of it with 'cnn-survival export'.")
    bundle = run.bundle
    new_version = f"{bundle.info['version']}-{name}"
    _check(run, store, name, new_version, output, few, also_trained_on)
    values = _covariates(store, covariates)
    # One thread: the same numbers to the last bit on any number of cores.
    with threadpool_limits(limits=1, user_api="blas"), working("Choosing and judging what to refit"):
        scores = fitting.cohort_scores(bundle.network_weights, store, bundle.edges_days, bundle.max_slices)
        judged = {each: _crossvalidated(scores, each, values, folds, seed, bundle.risk_time_days)
                  for each in (["none", kind] if kind else ["none", *KINDS])}  # fmt: skip
        chosen = min((each for each in judged if each != "none"), key=lambda each: judged[each]["loss"])
        offset = _fit(scores, chosen)
        entry = _entry(bundle, store, scores.shifted(offset), offset, name, title, values, resamples, seed)
    entry["metrics"] = _metric_rows(judged[chosen], title, bundle.risk_time_days)
    entry["recalibration"] = {
        "from": bundle.population.name, "kind": chosen, "patients": len(store.patient_ids),
        "deaths": int(store.event.sum()), "before": judged["none"], "after": judged[chosen],
    }  # fmt: skip
    info = _with_population(bundle, entry, new_version, default)
    saved = save_bundle(ensure_output_folder(output), info, bundle.weights)
    with atomic_write(saved.folder / CARD_FILE) as stream:
        stream.write(_card(bundle, entry, new_version))
    return Recalibration(
        saved, name, chosen, len(store.patient_ids), int(store.event.sum()), float(np.mean(offset)), judged["none"],
        judged[chosen],
    )  # fmt: skip


def described(found: Recalibration) -> list[str]:
    """The outcome as lines for the terminal."""
    population = found.bundle.for_population(found.name).population
    lines = [
        f"Population '{population.name}' ({population.title}): fitted on {found.patients} patients, {found.deaths} of "
        f"whom died; {found.kind}, on average {found.shift:+.3f} on the logit of the hazards.",
        "On patients left out of the fit (cross-validated), before and after:",
        *(f"  {label:<12} {_text(found.before[key])}  {_text(found.after[key])}"
          for key, label in (("concordance", "Concordance"), ("ipa", "IPA"))),
    ]  # fmt: skip
    if found.deaths < FEWEST_DEATHS:
        lines.append(f"With fewer than {FEWEST_DEATHS} deaths this may be worse than the model as it was.")
    return [*lines, f"The bundle {found.bundle.id} is in '{found.bundle.folder}'."]


def _text(value) -> str:
    return "-" if value is None else f"{value:.3f}"


# --- Fitting ----------------------------------------------------------------------------------------------------------


def _fit(scores: fitting.Scores, kind: str):
    """What is added to the logits: a number, or one per interval [m]."""
    return {"none": lambda _: 0.0, "shift": fitting.fit_shift, "offsets": fitting.fit_offsets}[kind](scores)


def _crossvalidated(scores: fitting.Scores, kind: str, values: dict, folds: int, seed: int, horizon: float) -> dict:
    """{"loss", "concordance", "ipa"}, each patient predicted by a fit on the other folds; "none": as it is."""
    folds = min(folds, int(scores.event.sum()), int((~scores.event).sum()))
    if folds < 2:
        return {"loss": 0.0, "concordance": None, "ipa": None}
    fold_of, risks, total, within = stratified_folds(scores.event, folds, seed), np.empty(len(scores.time)), 0.0, []
    for fold in range(folds):
        held_out = fold_of == fold
        moved = _moved(scores, kind, {} if kind == "none" else values, held_out)
        risks[held_out] = fitting.risk_of(moved, horizon)
        total += fitting.loss(moved)
        within.append(concordance(moved.time, moved.event, risks[held_out]))
    inside = [value for value in within if np.isfinite(value)]
    score = ipa(scores.time, scores.event, risks, horizon)
    return {
        "loss": total / len(scores.time),
        "concordance": float(np.mean(inside)) if inside else None,
        "ipa": float(score) if np.isfinite(score) else None,
    }


def _moved(scores: fitting.Scores, kind: str, values: dict, held_out: np.ndarray) -> fitting.Scores:
    """The held-out patients, their logits moved by a fit on the others."""
    others, part = scores.part(~held_out), scores.part(held_out)
    offset = _fit(others, kind)
    part = part.shifted(offset)
    if not values:
        return part
    terms = fitting.fit_terms(others.shifted(offset), {name: column[~held_out] for name, column in values.items()})
    given = {name: column[held_out] for name, column in values.items()}
    return part.shifted(fitting.terms_shift(terms, given, len(part.time))[:, None, None])


# --- The bundle -------------------------------------------------------------------------------------------------------


def _entry(bundle, store, scores, offset, name, title, values, resamples, seed) -> dict:
    """The population as bundle.json has it. scores: of the new population, of the image alone."""
    base = bundle.population.info
    label = f"{len(store.patient_ids)} patients, {int(store.event.sum())} deaths: {title}"
    variance = (base.get("interval") or {}).get("network_variance", 0.0)
    before = np.asarray(base.get("offset", 0.0), dtype=np.float64)
    entry = {
        "name": name,
        "title": title,
        "offset": (before + offset).tolist(),
        "reference_cohort": fitting.reference_cohort(scores, label, bundle.risk_time_days),
        "ranges": fitting.patient_ranges(store, bundle.max_slices, values.get("age_years")),
        "interval": fitting.fit_interval(scores, variance, resamples=resamples, seed=seed),
        "patients_sha256": patients_sha256(store.patient_ids),
    }
    if values:
        entry["covariates"] = [fitting.covariate_entry(fitting.KNOWN_COVARIATES[each]) for each in values]
        entry["terms"] = fitting.fit_terms(scores, values)
    return {**entry, "last_layer": base["last_layer"]} if base.get("last_layer") else entry


def _metric_rows(judged: dict, title: str, horizon: float) -> list[dict]:
    return [
        {"name": key, "cohort": f"{title}, cross-validated", "value": judged[key], "ci_low": None, "ci_high": None,
         "horizon_days": horizon}
        for key in ("concordance", "ipa") if judged[key] is not None
    ]  # fmt: skip


def _with_population(bundle: Bundle, entry: dict, version: str, default: bool) -> dict:
    """bundle.json of version 2 with the new population, without what ``save_bundle`` fills in."""
    left_out = ("format", "format_version", "weights_sha256", "reference_cohort", "input_ranges")
    first = bundle.for_population(None).population.name
    change = f"{version}: population '{entry['name']}' added, calibrated on {entry['reference_cohort']['label']}"
    return {
        **{key: value for key, value in bundle.info.items() if key not in left_out},
        "version": version,
        "changes": [change, *bundle.info["changes"]],
        "populations": [*(dict(each.info) for each in bundle.populations), entry],
        "default_population": entry["name"] if default else first,
    }


def _card(bundle: Bundle, entry: dict, version: str) -> str:
    """The bundle's card with a chapter about the new population."""
    about = entry["recalibration"]
    rows = [f"| {label} | {_text(about['before'][key])} | {_text(about['after'][key])} |"
            for key, label in (("concordance", "Concordance"), ("ipa", "IPA"))]  # fmt: skip
    names = ", ".join(covariate["name"] for covariate in entry.get("covariates", [])) or "none"
    lines = [
        f"## Added in version {version}: {_one_line(entry['title'])}",
        f"Population `{entry['name']}`, calibrated on {about['patients']} patients, {about['deaths']} of whom died "
        f"({about['kind']}, started from the population `{about['from']}`). Covariates: {names}. The rest of this card "
        "is about the model before that.",
        "\n".join(["| On patients left out of the fit | before | after |", "| --- | --- | --- |", *rows]),
    ]
    return "\n\n".join([bundle.card_text.rstrip(), *lines]) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


# --- Checks -----------------------------------------------------------------------------------------------------------


def _check(run: Run, store: Store, name: str, version: str, output, few: bool, also_trained_on: bool) -> None:
    bundle = run.bundle
    deaths = int(store.event.sum())
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", name) is None:
        raise UsageError(
            f"'{name}' is no short name for a population; use up to 32 letters, digits, '.', '_' and '-', "
            "such as my-site."
        )
    if deaths < FEWEST_DEATHS and not few:
        raise UsageError(
            f"Only {deaths} of the {len(store.patient_ids)} patients of '{store.folder}' died; fewer than "
            f"{FEWEST_DEATHS} deaths hardly say how far a model is off, so give more patients, or --few."
        )
    if name in {each.name for each in bundle.populations}:
        raise UsageError(f"The model '{bundle.id}' has a population '{name}' already; choose another name.")
    check_same_preprocessing(run, store)
    if not also_trained_on:
        check_not_learned_from(run, store)
    _check_output(output, f"{bundle.info['name']}-{version}")


def _check_output(output, bundle_id: str) -> None:
    """Refuse to replace another model."""
    folder = Path(output)
    if not (folder / INFO_FILE).exists():
        return
    try:
        found = load_bundle(folder).id
    except CNNSurvivalError:
        found = "a damaged one"
    if found != bundle_id:
        raise UsageError(f"'{folder}' holds another model ({found}); choose another folder, or delete it.")


def _covariates(store: Store, names: Sequence[str]) -> dict[str, np.ndarray]:
    unknown = [name for name in names if name not in fitting.KNOWN_COVARIATES]
    if unknown:
        known = ", ".join(fitting.KNOWN_COVARIATES)
        raise UsageError(f"'{unknown[0]}' is no covariate that a population can take; choose among {known}.")
    values = fitting.covariate_values(store.patients, names)
    for name, column in values.items():
        deaths = int(store.event[np.isfinite(column)].sum())
        if not deaths:
            raise UsageError(f"'{name}' is known of no patient of '{store.folder}' who died; leave it out.")
    return values
