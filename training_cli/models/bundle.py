"""From a finished run to a bundle: a folder that ``predict`` and the Slicer module take, with its MODEL_CARD.md.

bundle.json describes the model: settings and losses come from the run, numbers of patients and the reference curve from
the cohort's store, metrics from ``evaluate``. What no file can know (disease, treatment, sites, licence ...) comes from
the card, a TOML file.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from CNNSurvivalLib.bundle import Bundle, save_bundle
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import UsageError, existing
from CNNSurvivalLib.files import atomic_write, ensure_output_folder
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS, MONTH_DAYS, kaplan_meier
from CNNSurvivalLib.image_text import encode_images
from CNNSurvivalLib.network import GREY_SCALE

from ..cohort.store import REJECTED_FILE, Store
from ..cohort.store_files import preprocessing_info
from ..training.runs import (
    MAX_SLICES,
    Run,
    check_same_preprocessing,
    patient_survival,
    patients_sha256,
    risk_at,
    stages,
)
from .card import TEST, Card, CohortTexts, card_info, number
from .model_card import CARD_FILE, model_card
from .self_test import self_test_images

METRIC_KEYS = ("name", "cohort", "value", "ci_low", "ci_high", "horizon_days")
# The kind of a training -> its cohort in the card, and what the cohort was used for.
STAGES = {"pretrain": ("pretraining", "pretraining of the whole network"),
          "finetune": ("finetuning", "fine-tuning of the last layer")}  # fmt: skip


def export_bundle(
    run: Run,
    reference_store: Store,
    metrics_rows: Iterable[dict],
    card: Card,
    name: str,
    title: str,
    version: str,
    output,
    *,
    test_store: Store | None = None,
    training_stores: Sequence[Store] = (),
    metrics_cohort: str | None = None,
    calibration: pd.DataFrame | None = None,
    max_slices: int = MAX_SLICES,
) -> Bundle:
    """Write a run as a bundle with its MODEL_CARD.md.

    Parameters
    ----------
    run : Run
    reference_store : Store
        The patients (a store, or a part of one) whose Kaplan-Meier curve and predicted risks are shown beside a
        prediction, as a rule those of the training.
    metrics_rows : iterable of dict
        Rows of metrics.csv (metric, horizon_days in days, value, ci_low, ci_high) and, if a row has it, cohort. Rows
        without a value are left out.
    card : Card
    name, title, version : str
        The model's short name, the name that people read, and its version.
    output : str or Path
        The bundle's folder.
    test_store : Store, optional
        The patients that the metrics come from, for their number.
    training_stores : sequence of Store
        Stores of the trainings, for the number of patients that were left out of each, where the card does not give
        it (the reference store need not be repeated).
    metrics_cohort : str, optional
        The cohort of rows that do not name one; default: the card's test cohort.
    calibration : DataFrame, optional
        The table of ``metrics.calibration`` at 18 months.
    max_slices : int
        Slices per patient for the patient's curve.

    Returns
    -------
    Bundle
        As loaded back.

    Raises
    ------
    UsageError
        For a card that lacks a cohort, for a store that was cut in another way than the run's, and for an output
        folder that holds another model.
    """
    if not reference_store.patient_ids:
        raise UsageError(f"None of the patients asked for is in the store '{reference_store.folder}'.")
    for store in filter(None, (reference_store, test_store)):
        check_same_preprocessing(run, store)
    check_other_model(output, name)
    with threadpool_limits(limits=1, user_api="blas"):  # the same numbers to the last bit on any number of cores
        info = _bundle_info(
            run, [reference_store, *training_stores], list(metrics_rows), card, test_store, metrics_cohort,
            calibration, max_slices,
        )  # fmt: skip
    return _save(output, run, card, name, title, version, info)


def export_populations(
    run: Run,
    pretrain_store: Store,
    entries: Sequence[dict],
    default: str,
    card: Card,
    name: str,
    title: str,
    version: str,
    output,
    *,
    stores: Mapping[str, Store],
    sanity: Sequence[dict] = (),
    max_slices: int = MAX_SLICES,
) -> Bundle:
    """Write a run and its populations as a bundle of format version 2, with its MODEL_CARD.md.

    Parameters
    ----------
    run : Run
    pretrain_store : Store
        The cohort that the run was trained on.
    entries : sequence of dict
        ``populations`` of bundle.json.
    default : str
        The name of the population that is used unless another is chosen.
    card : Card
        Has a cohort for "pretraining", and one under the name of each other population.
    stores : mapping
        Name of the population -> its patients.
    sanity : sequence of dict
        Rows for the card: what a radiologist would try (``models.sanity``).

    The others are as in ``export_bundle``, and so are the errors.
    """
    for store in (pretrain_store, *stores.values()):
        check_same_preprocessing(run, store)
    check_other_model(output, name)
    with threadpool_limits(limits=1, user_api="blas"):
        info = _bundle_info(run, [pretrain_store], [], card, None, None, None, max_slices)
    del info["reference_cohort"], info["input_ranges"]
    info["cohorts"] = [*info["cohorts"], *_population_cohorts(card, stores, pretrain_store, max_slices)]
    info["metrics"] = [{key: row.get(key) for key in METRIC_KEYS} for entry in entries for row in entry["metrics"]]
    texts = card_info(card, [], None, None, False)
    limits = [text for text in texts["limitations"] if text != "How well it predicts was not measured"]
    info["card"] = {**texts, "limitations": limits}
    populations = {"populations": list(entries), "default_population": default, "sanity": list(sanity)}
    return _save(output, run, card, name, title, version, {**info, **populations})


def _save(output, run: Run, card: Card, name: str, title: str, version: str, info: dict) -> Bundle:
    """Write the bundle and its card; as loaded back."""
    changes = card.changes or [f"{version}: first version"]
    created = card.created or datetime.date.today().isoformat()
    head = {"name": name, "title": title, "version": version, "changes": changes, "created": created}
    bundle = save_bundle(ensure_output_folder(output), {**head, **info}, run.weights)
    with atomic_write(bundle.folder / CARD_FILE) as stream:
        stream.write(model_card(bundle.info))
    return bundle


def _population_cohorts(card: Card, stores: Mapping[str, Store], pretrain_store: Store, max_slices: int) -> list[dict]:
    """The cohorts of the populations that are not that of the pretraining."""
    cohorts = []
    for name, store in stores.items():
        if store.sha256 == pretrain_store.sha256:
            continue
        use = f"calibration of the population '{name}', and its test, each fold or hospital held out in turn"
        cohorts.append(_whole_cohort(card.cohort(name), use, store, max_slices))
    return cohorts


def _whole_cohort(texts: CohortTexts, use: str, store: Store, max_slices: int) -> dict:
    """A cohort of the bundle of which each patient's best slices were scored. use: where the card does not say it."""
    return {
        "name": texts.name,
        "use": texts.use or use,
        "patients": len(store.patients),
        "events": int(store.event.sum()),
        "slices": sum(len(store.rows(patient, max_slices)) for patient in store.patient_ids),
        **texts.origin,
        "exclusions": texts.exclusions or _excluded(store) or "None",
    }


def _bundle_info(run, stores, metrics_rows, card, test_store, metrics_cohort, calibration, max_slices) -> dict:
    """stores: the reference store, then others of the trainings."""
    reference_store = stores[0]
    risk_time = float(min(EIGHTEEN_MONTHS_DAYS, run.edges_days[-1]))
    images = self_test_images()
    cohorts = _cohorts(run, stores, card, test_store, max_slices)
    metrics = _metrics(metrics_rows, metrics_cohort or (cohorts[-1]["name"] if test_store is not None else None))
    risk = risk_at(patient_survival(run.weights, reference_store, max_slices), run.edges_days, risk_time)
    return {
        "network": {"architecture": "zhang2020", "output": "hazard_logits", "input_scale": GREY_SCALE},
        "intervals": {"edges_days": run.edges_days.tolist()},
        "preprocessing": {
            **preprocessing_info(run.preprocessing),
            "ranking": "mean_percentile_rank_area_intensity",
        },
        "aggregation": {"method": "mean_survival", "max_slices": max_slices, "risk_time_days": risk_time},
        "cohorts": cohorts,
        "metrics": metrics,
        "reference_cohort": {
            "label": _reference_label(run, reference_store, card),
            "kaplan_meier": monthly_kaplan_meier(reference_store.time, reference_store.event, run.edges_days),
            "risk_quantiles": np.percentile(risk, np.arange(101)).tolist(),
        },
        "input_ranges": _input_ranges(stores, max_slices),
        "self_test": {
            "images": encode_images(images),
            "hazards": NumpyEngine(run.weights).hazards(images).tolist(),
        },
        "card": card_info(
            card,
            metrics,
            cohorts[-1] if test_store is not None else None,
            None if calibration is None else (calibration, risk_time),
            any(same_cohort(stage, reference_store) for stage in stages(run.info)),
        ),
        "training": _training_info(run.info),
    }


def _input_ranges(stores: list[Store], max_slices: int) -> dict:
    """1st and 99th percentile over the patients of the trainings; values outside were rare in training."""
    largest = np.concatenate([store.patients["largest_area_px"].to_numpy(float) for store in stores])
    intensity = np.concatenate([
        [store.slices.loc[store.rows(patient, max_slices), "mean_intensity"].mean() for patient in store.patient_ids]
        for store in stores
    ])  # fmt: skip
    values = {"largest_area_px": largest, "mean_intensity": intensity}
    return {name: np.percentile(value, (1, 99)).tolist() for name, value in values.items()}


def _cohorts(run: Run, stores: list[Store], card: Card, test_store: Store | None, max_slices: int) -> list[dict]:
    cohorts = []
    for stage in stages(run.info):
        key, use = STAGES[stage["kind"]]
        if "bundle_cohort" in stage:
            cohorts.append({**stage["bundle_cohort"], "use": use, **_corrected(card, key)})
            continue
        texts, counts = card.cohort(key), stage["cohort"]
        excluded = next((_excluded(store) for store in stores if same_cohort(stage, store)), None)
        kept = f"Of {counts['slices']} usable slices {counts['slices_kept']} were learned from, of " \
               f"{counts['patients_kept']} patients"  # fmt: skip
        cohorts.append({
            "name": texts.name,
            "use": texts.use or use,
            "patients": counts["patients"],
            "events": counts["deaths"],
            "slices": counts["slices_kept"],
            **texts.origin,
            "exclusions": ". ".join(filter(None, [texts.exclusions or excluded, kept])),
        })  # fmt: skip
    if test_store is not None:
        cohorts.append(_whole_cohort(card.cohort(TEST), "test; not used for training", test_store, max_slices))
    return cohorts


def _corrected(card: Card, key: str) -> dict:
    """What the card says of a cohort that the bundle's parent describes, too.

    "finetuning" in the card is the last training's, not that of an earlier one.
    """
    texts = card.cohorts.pretraining if key == "pretraining" else None
    return {} if texts is None else texts.model_dump(exclude_none=True)


def _excluded(store: Store) -> str | None:
    """How many of the cohort are not in the store; None where the store is a part or does not say."""
    path = store.folder / REJECTED_FILE
    whole = len(store.slices) == len(store.images)
    if not whole or not path.is_file():
        return None
    rejected = pd.read_csv(path, dtype=str)["patient_id"].nunique()
    were = "patient was" if rejected == 1 else "patients were"
    return f"{rejected} further {were} excluded: no usable slice, no image or no follow-up"


def same_cohort(stage: dict, store: Store) -> bool:
    """Whether a training (run.json) was on exactly these patients."""
    return stage["store"]["sha256"] == store.sha256 and set(stage["store"]["patients"]) == set(store.patient_ids)


def _reference_label(run: Run, store: Store, card: Card) -> str:
    """The card's words ({patients} stands for their number), or the name of the training cohort that they are."""
    count = len(store.patients)
    if card.reference_label is not None:
        return card.reference_label.replace("{patients}", str(count))
    for stage in reversed(stages(run.info)):
        if same_cohort(stage, store):
            key = STAGES[stage["kind"]][0]
            return f"{count} patients of {card.cohort(key).name}"
    raise UsageError(
        f"The {count} patients of the store '{store.folder}' are not those that the network was trained on; say in "
        "the card's reference_label who they are, or give the training cohort (with --patients and --part)."
    )


def _metrics(rows: list[dict], cohort: str | None) -> list[dict]:
    """metrics.csv's rows as bundle.json has them; those whose value is undefined are left out."""
    metrics = []
    for row in rows:
        value, low, high, horizon = (number(row.get(key)) for key in ("value", "ci_low", "ci_high", "horizon_days"))
        if value is None:
            continue
        label = row.get("cohort") or cohort
        if not label:
            raise UsageError("The metrics do not say of which patients they are; name them with --metrics-cohort.")
        metrics.append({"name": row["metric"], "cohort": label, "value": value, "ci_low": low, "ci_high": high,
                        "horizon_days": horizon})  # fmt: skip
    return metrics


def _training_info(run_info: dict) -> dict:
    """The run without its patients and what bundle.json says elsewhere; the trainings before it under "parent"."""
    left_out = ("edges_days", "preprocessing", "store", "parent", "bundle_card", "bundle_cohort")
    info = {name: value for name, value in run_info.items() if name not in left_out}
    info["store_sha256"] = run_info["store"]["sha256"]
    if run_info["store"]["patients"]:  # a network from a bundle has the digests already, and no ids
        info["patients_sha256"] = patients_sha256(run_info["store"]["patients"])
    if run_info.get("parent"):
        info["parent"] = _training_info(run_info["parent"])
    return info


def monthly_kaplan_meier(time_days, event, edges) -> dict:
    """The cohort's curve on a monthly grid: no single patient's time can be read from it.

    Ends with the last edge or the longest follow-up, whichever comes first.
    """
    times, survival = kaplan_meier(time_days, event)
    grid = np.arange(0, min(edges[-1], np.max(time_days)), MONTH_DAYS)
    values = np.append(1.0, survival)[np.searchsorted(times, grid, side="right")]
    return {"time_days": grid.tolist(), "survival": values.tolist()}


def read_metrics(path) -> list[dict]:
    """The rows of a metrics.csv of ``cnn-survival evaluate``; an empty cell becomes None. Raises UsageError."""
    path = existing(path, "metrics file")
    table = _read_csv(path, "metrics file", ("metric", "horizon_days", "value", "ci_low", "ci_high"))
    rows = table.to_dict("records")
    return [{name: None if pd.isna(value) else value for name, value in row.items()} for row in rows]


def read_calibration(path) -> pd.DataFrame:
    """A calibration table of ``cnn-survival evaluate``. Raises UsageError for any other file."""
    path = existing(path, "calibration file")
    return _read_csv(path, "calibration file", ("group", "patients", "mean_predicted", "observed", "ci_low", "ci_high"))


def _read_csv(path: Path, what: str, columns: tuple) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"The {what} '{path}' cannot be read ({error}); give what 'evaluate' wrote.") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise UsageError(f"The {what} '{path}' has no column '{missing[0]}'; give what 'evaluate' wrote.")
    for name in columns:
        empty = table[name].isna().all()
        if name not in ("metric", "group") and not empty and not pd.api.types.is_numeric_dtype(table[name]):
            raise UsageError(f"In the {what} '{path}' the column '{name}' does not hold numbers only.")
    return table


# --- Inside -----------------------------------------------------------------------------------------------------------


def check_other_model(output, name: str) -> None:
    """Refuse to replace a model of another name."""
    path = Path(output) / "bundle.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("name") if path.is_file() else name
    except (OSError, ValueError, AttributeError):
        found = "an unreadable one"
    if found != name:
        raise UsageError(f"'{output}' holds another model ({found}); choose another folder, or delete it.")
