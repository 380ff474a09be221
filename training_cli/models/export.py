"""From a training run to what others use: a model bundle, or the network in a format of another ecosystem.

The bundle says by itself what it is (``bundle.json``): what the run knows is taken from the run, the numbers of
patients and the reference curve from the cohort's store, the metrics from ``evaluate``; only what no file can know
(disease, treatment, sites, licence ...) comes from the card, a TOML file.
"""

from __future__ import annotations

import datetime
import importlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from CNNSurvivalLib.bundle import Bundle, load_bundle, save_bundle
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError, existing
from CNNSurvivalLib.files import atomic_write, ensure_output_folder
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS, MONTH_DAYS, kaplan_meier, months_text
from CNNSurvivalLib.image_text import encode_images
from CNNSurvivalLib.network import CROP_PX, GREY_SCALE, import_torch, network_from_weights
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

from ..cohort.store import REJECTED_FILE, Store, preprocessing_info
from ..training.runs import MAX_SLICES, Run, load_run, patient_survival, risk_at
from .model_card import CARD_FILE, model_card

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

TOLERANCE = 1e-5  # by how much an exported network's hazards may differ from the built-in engine's
FILE_NAMES = {"onnx": "model.onnx", "safetensors": "model.safetensors", "torchscript": "model.torchscript.pt"}
PACKAGES = {
    "onnx": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("safetensors",),
    "torchscript": ("torch",),
}
FORMATS = ("bundle", *FILE_NAMES)

# The card: texts that must be there, texts and lists that may be, and the texts of a cohort.
REQUIRED_TEXTS = ("disease", "treatment", "ct", "endpoint", "time_origin", "contours", "licence")
OPTIONAL_TEXTS = ("external_validation", "calibration", "reference_label", "created")
OPTIONAL_LISTS = ("out_of_scope", "limitations", "citation", "changes")
COHORT_TEXTS = ("name", "sites", "dates", "source", "licence")
COHORT_OPTIONAL = ("use", "exclusions")
TEST = "test"
STAGES = {"pretrain": ("pretraining", "pretraining of the whole network"),
          "finetune": ("finetuning", "fine-tuning of the last layer")}  # fmt: skip

OUT_OF_SCOPE = ["Other diseases than the one above", "MR, PET, cone-beam CT", "Contours of anything but the primary "
                "tumour", "Children"]  # fmt: skip
CITATION = [
    "Zhang Y, et al. CNN-based survival model for pancreatic ductal adenocarcinoma in medical imaging. "
    "BMC Med Imaging 2020;20:11. doi 10.1186/s12880-020-0418-1"
]


# --- The bundle -------------------------------------------------------------------------------------------------------


def export_bundle(
    run: Run,
    reference_store: Store,
    metrics_rows: Iterable[dict],
    card: dict,
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
    """Write a run as a bundle with its MODEL_CARD.md; returns the bundle as loaded back.

    reference_store: the patients (a store, or a part of one) whose Kaplan-Meier curve and predicted risks are shown
    beside a prediction, as a rule those of the training. metrics_rows: rows of metrics.csv (metric, horizon_days,
    value, ci_low, ci_high) and, if a row has it, cohort (default: ``metrics_cohort``, or the name of the card's test
    cohort); rows without a value are left out. card: as ``read_card`` gives it. test_store: the patients that the
    metrics come from, for their number. training_stores: stores of the trainings, for the number of patients that
    were left out of each, where the card does not give it (the reference store need not be repeated). calibration:
    the table of ``metrics.calibration`` at 18 months.

    Raises UsageError for a card that lacks something, for a store that was cut in another way than the run's, and
    for an output folder that holds another model.
    """
    card = check_card(card)
    if not reference_store.patient_ids:
        raise UsageError(f"None of the patients asked for is in the store '{reference_store.folder}'.")
    _check_same_slices(run, reference_store, test_store)
    _check_other_model(output, name)
    with threadpool_limits(limits=1, user_api="blas"):  # the same numbers to the last bit on any number of cores
        info = _bundle_info(
            run, [reference_store, *training_stores], list(metrics_rows), card, test_store, metrics_cohort,
            calibration, max_slices,
        )  # fmt: skip
    changes = card.get("changes", [f"{version}: first version"])
    created = card.get("created", datetime.date.today().isoformat())
    info = {"name": name, "title": title, "version": version, "changes": changes, "created": created, **info}
    bundle = save_bundle(ensure_output_folder(output), info, run.weights)
    with atomic_write(bundle.folder / CARD_FILE) as stream:
        stream.write(model_card(bundle.info))
    return bundle


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
        "card": _card_info(run, reference_store, card, cohorts, metrics, test_store, calibration, risk_time),
        "training": _training_info(run.info),
    }


def _input_ranges(stores: list[Store], max_slices: int) -> dict:
    """1st and 99th percentile over the patients of the trainings: outside, the model has hardly seen the like."""
    largest = np.concatenate([store.patients["largest_area_px"].to_numpy(float) for store in stores])
    intensity = np.concatenate([
        [store.slices.loc[store.rows(patient, max_slices), "mean_intensity"].mean() for patient in store.patient_ids]
        for store in stores
    ])  # fmt: skip
    values = {"largest_area_px": largest, "mean_intensity": intensity}
    return {name: np.percentile(value, (1, 99)).tolist() for name, value in values.items()}


def _stages(run_info: dict) -> list[dict]:
    """run.json of every training that led to these weights, the first one first."""
    earlier = run_info.get("parent")
    return [*(_stages(earlier) if earlier else []), run_info]


def _cohorts(run: Run, stores: list[Store], card: dict, test_store: Store | None, max_slices: int) -> list[dict]:
    cohorts = []
    for stage in _stages(run.info):
        key, use = STAGES[stage["kind"]]
        texts, counts = _cohort_texts(card, key), stage["cohort"]
        excluded = next((_excluded(store) for store in stores if _same_cohort(stage, store)), None)
        kept = f"Of {counts['slices']} usable slices {counts['slices_kept']} were learned from, of " \
               f"{counts['patients_kept']} patients"  # fmt: skip
        cohorts.append({
            "name": texts["name"],
            "use": texts.get("use", use),
            "patients": counts["patients"],
            "events": counts["deaths"],
            "slices": counts["slices_kept"],
            **{name: texts[name] for name in ("sites", "dates", "source", "licence")},
            "exclusions": ". ".join(filter(None, [texts.get("exclusions", excluded), kept])),
        })  # fmt: skip
    if test_store is not None:
        texts = _cohort_texts(card, TEST)
        cohorts.append({
            "name": texts["name"],
            "use": texts.get("use", "test; not used for training"),
            "patients": len(test_store.patients),
            "events": int(test_store.event.sum()),
            "slices": sum(len(test_store.rows(patient, max_slices)) for patient in test_store.patient_ids),
            **{name: texts[name] for name in ("sites", "dates", "source", "licence")},
            "exclusions": texts.get("exclusions", _excluded(test_store) or "None"),
        })  # fmt: skip
    return cohorts


def _excluded(store: Store) -> str | None:
    """How many of the cohort are not in the store; None where the store is a part or does not say."""
    path = store.folder / REJECTED_FILE
    whole = len(store.slices) == len(store.images)
    if not whole or not path.is_file():
        return None
    rejected = pd.read_csv(path, dtype=str)["patient_id"].nunique()
    return f"{rejected} further patients were excluded: no usable slice, no image or no follow-up"


def _same_cohort(stage: dict, store: Store) -> bool:
    return stage["store"]["sha256"] == store.sha256 and set(stage["store"]["patients"]) == set(store.patient_ids)


def _reference_label(run: Run, store: Store, card: dict) -> str:
    """The card's words ({patients} stands for their number), or the name of the training cohort that they are."""
    count = len(store.patients)
    if "reference_label" in card:
        return card["reference_label"].replace("{patients}", str(count))
    for stage in reversed(_stages(run.info)):
        if _same_cohort(stage, store):
            key = STAGES[stage["kind"]][0]
            return f"{count} patients of {_cohort_texts(card, key)['name']}"
    raise UsageError(
        f"The {count} patients of the store '{store.folder}' are not those that the network was trained on; say in "
        "the card's reference_label who they are, or give the training cohort (with --patients and --part)."
    )


def _metrics(rows: list[dict], cohort: str | None) -> list[dict]:
    """metrics.csv's rows as bundle.json has them; those whose value is undefined are left out."""
    metrics = []
    for row in rows:
        value, low, high, horizon = (_number(row.get(key)) for key in ("value", "ci_low", "ci_high", "horizon_days"))
        if value is None:
            continue
        label = row.get("cohort") or cohort
        if not label:
            raise UsageError("The metrics do not say of which patients they are; name them with --metrics-cohort.")
        metrics.append({"name": row["metric"], "cohort": label, "value": value, "ci_low": low, "ci_high": high,
                        "horizon_days": horizon})  # fmt: skip
    return metrics


def _card_info(run, reference, card, cohorts, metrics, test_store, calibration, risk_time) -> dict:
    if test_store is None:
        validation = "None"
    else:
        test = cohorts[-1]
        validation = f"One cohort, {test['name']}: {test['patients']} patients, {test['events']} deaths"
    calibrated = [card.get("calibration")]
    if calibration is not None:
        calibrated.append(calibration_sentence(calibration, risk_time))
    trained_on_reference = any(_same_cohort(stage, reference) for stage in _stages(run.info))
    own = ["The reference risks are those of patients it was trained on"] if trained_on_reference else []
    return {
        "intended_use": RESEARCH_USE_ONLY,
        **{name: card[name] for name in REQUIRED_TEXTS},
        "external_validation": card.get("external_validation", validation),
        "calibration": " ".join(filter(None, calibrated)) or "Not assessed",
        "out_of_scope": card.get("out_of_scope", OUT_OF_SCOPE),
        "limitations": [*performance_limits(metrics), *card.get("limitations", []), *own],
        "citation": [*CITATION, *(text for text in card.get("citation", []) if text not in CITATION)],
    }


def performance_limits(metrics: list[dict]) -> list[str]:
    """What the metrics (as in bundle.json) forbid to claim: a sentence for each of concordance and IPA whose interval
    reaches what no information would give, or for there being none."""
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
        low, high = _number(row["ci_low"]), _number(row["ci_high"])
        interval = "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"
        observed = _number(row["observed"])
        groups.append(f"{row['mean_predicted']:.0%} against "
                      + ("an unknown share" if observed is None else f"{observed:.0%}{interval}"))  # fmt: skip
    return (
        f"Predicted against observed deaths by {months_text(horizon_days)} (95 % interval), in {len(groups)} groups of "
        f"rising predicted risk: {'; '.join(groups)}."
    )


def _training_info(run_info: dict) -> dict:
    """The run without its patients and what bundle.json says elsewhere; the trainings before it under "parent"."""
    left_out = ("edges_days", "preprocessing", "store", "parent")
    info = {name: value for name, value in run_info.items() if name not in left_out}
    info["store_sha256"] = run_info["store"]["sha256"]
    if run_info.get("parent"):
        info["parent"] = _training_info(run_info["parent"])
    return info


def self_test_images() -> np.ndarray:
    """Three made-up slices, uint8 [3, 140, 140]: smooth blobs of different size, place and brightness."""
    y, x = np.mgrid[:CROP_PX, :CROP_PX] - (CROP_PX - 1) / 2
    blobs = []
    for radius, dx, dy, grey in ((12, 0, 0, 150), (25, 8, -5, 120), (45, -4, 6, 180)):
        angle = np.arctan2(y - dy, x - dx)
        edge = radius * (1 + 0.15 * np.sin(5 * angle) + 0.1 * np.cos(3 * angle))
        inside = np.hypot(y - dy, x - dx) < edge
        blobs.append(np.where(inside, np.clip(grey + 40 * np.sin(x / 6) * np.cos(y / 9), 1, 255), 0))
    return np.array(blobs).astype(np.uint8)


def monthly_kaplan_meier(time_days, event, edges) -> dict:
    """The cohort's curve on a monthly grid: no single patient's time can be read from it.

    Ends with the last edge or the longest follow-up, whichever comes first.
    """
    times, survival = kaplan_meier(time_days, event)
    grid = np.arange(0, min(edges[-1], np.max(time_days)), MONTH_DAYS)
    values = np.append(1.0, survival)[np.searchsorted(times, grid, side="right")]
    return {"time_days": grid.tolist(), "survival": values.tolist()}


# --- The card ---------------------------------------------------------------------------------------------------------


def read_card(path) -> dict:
    """The card (TOML), checked. Raises UsageError for a file that is none or lacks something."""
    path = existing(path, "card")
    try:
        card = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"The card '{path}' cannot be read ({error}); it must be a TOML file.") from error
    return check_card(card)


def check_card(card: dict) -> dict:
    """The card as it is. Raises UsageError for the first field that is missing, empty, unknown or of another kind."""
    known = (*REQUIRED_TEXTS, *OPTIONAL_TEXTS, *OPTIONAL_LISTS, "cohorts")
    _check_texts(card, "the card", REQUIRED_TEXTS, known)
    for name in OPTIONAL_LISTS:
        if name in card and not (isinstance(card[name], list) and all(_is_text(item) for item in card[name])):
            raise UsageError(f"In the card '{name}' must be a list of texts.")
    cohorts = card.get("cohorts", {})
    roles = (*(key for key, _ in STAGES.values()), TEST)
    if not isinstance(cohorts, dict) or not all(isinstance(cohort, dict) for cohort in cohorts.values()):
        raise UsageError(f"In the card the cohorts must be tables such as [cohorts.{roles[0]}].")
    for role, cohort in cohorts.items():
        if role not in roles:
            raise UsageError(f"The card has a cohort '{role}'; it may have: {', '.join(roles)}.")
        _check_texts(cohort, f"the card's cohort '{role}'", COHORT_TEXTS, (*COHORT_TEXTS, *COHORT_OPTIONAL))
    return card


def _check_texts(table: dict, what: str, required: tuple, known: tuple) -> None:
    for name in required:
        if name not in table:
            raise UsageError(f"In {what} '{name}' is missing; write it, or \"not known\".")
    for name, value in table.items():
        if name not in known:
            raise UsageError(f"In {what} '{name}' is unknown; it may have: {', '.join(known)}.")
        if name not in (*OPTIONAL_LISTS, "cohorts") and not _is_text(value):
            raise UsageError(f"In {what} '{name}' must be a text in quotes, and not empty.")


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _cohort_texts(card: dict, role: str) -> dict:
    try:
        return card["cohorts"][role]
    except KeyError:
        raise UsageError(
            f"The card says nothing of the {role} cohort; add [cohorts.{role}] with {', '.join(COHORT_TEXTS)}."
        ) from None


def read_metrics(path) -> list[dict]:
    """The rows of a metrics.csv of ``cnn-survival evaluate``; an empty cell becomes None. Raises UsageError."""
    path = existing(path, "metrics file")
    table = _read_csv(path, "metrics file", ("metric", "horizon_days", "value", "ci_low", "ci_high"))
    rows = table.to_dict("records")
    return [{name: None if pd.isna(value) else value for name, value in row.items()} for row in rows]


def read_calibration(path) -> pd.DataFrame:
    """A calibration table of ``cnn-survival evaluate``. Raises UsageError for a file that is none."""
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


# --- Other formats ----------------------------------------------------------------------------------------------------


class Exported(NamedTuple):
    """path: the file. difference: the largest difference of any hazard from the built-in engine's."""

    path: Path
    difference: float


def load_model(folder) -> Run | Bundle:
    """A bundle, or a finished run, whichever the folder holds."""
    if (Path(folder) / "bundle.json").is_file():
        return load_bundle(folder)
    return load_run(folder)


def export_network(model: Run | Bundle, file_format: str, output) -> Exported:
    """Write the network into the folder ``output`` as onnx, safetensors or torchscript (FILE_NAMES).

    onnx and torchscript: input "slices", float32 [n, 1, 140, 140], grey levels 0..255, 0 outside the contour; output
    "hazards", float32 [n, m]; any n. safetensors: the arrays under the names of ``weight_shapes``. What one must know
    to use them is in the file: ONNX metadata_props, safetensors metadata "info" (JSON), TorchScript's extra file
    "info.json".

    The content is read back by onnxruntime, safetensors.numpy or torch.jit before it is written. Raises
    CNNSurvivalError where a package is missing or the hazards are not those of the built-in engine to 1e-5.
    """
    _need_packages(file_format)
    to_bytes, read_back = _WRITERS[file_format]
    content = to_bytes(model.weights, network_facts(model))
    difference = largest_difference(read_back(content), model.weights)
    if not difference <= TOLERANCE:
        raise CNNSurvivalError(
            f"The {file_format} file was not written: its hazards differ from the network's by {difference:.2g}, more "
            f"than {TOLERANCE:g}; update {PACKAGES[file_format][-1]}, or choose another format."
        )
    path = ensure_output_folder(output) / FILE_NAMES[file_format]
    with atomic_write(path, "wb") as stream:
        stream.write(content)
    return Exported(path, difference)


def network_facts(model: Run | Bundle) -> dict:
    """What one must know to use the network, as texts (numbers and lists as JSON)."""
    facts = {
        "what": "CNNSurvival network (Zhang et al. 2020, doi 10.1186/s12880-020-0418-1)",
        "intended_use": RESEARCH_USE_ONLY,
        "input": f"slices: [n, 1, {CROP_PX}, {CROP_PX}], grey levels 0..255, 0 outside the contour",
        "input_scale": "onnx, torchscript: none (inside). safetensors: multiply the grey levels by 1/255",
        "output": "onnx, torchscript: hazards, [n, m]. safetensors: logits; the hazard is their sigmoid",
        "survival": "S(edge k) = product of (1 - hazard j) over j < k; a patient's S is the mean over slices",
        "edges_days": json.dumps(model.edges_days.tolist()),
        "preprocessing": json.dumps(preprocessing_info(model.preprocessing)),
    }
    if isinstance(model, Bundle):
        card = model.info["card"]
        facts |= {"model": model.id, "title": model.name, "weights_sha256": model.sha256, "licence": card["licence"],
                  "disease": card["disease"]}  # fmt: skip
    return facts


def largest_difference(hazards_of, weights: dict) -> float:
    """The largest difference between ``hazards_of`` (a function of uint8 [n, 140, 140]) and the built-in engine.

    On the self test's slices, an empty and a full one; for several slices at once and for one.
    """
    images = np.concatenate([self_test_images(), np.zeros((1, CROP_PX, CROP_PX)), np.full((1, CROP_PX, CROP_PX), 255)])
    images = images.astype(np.uint8)
    calls = [images, *(image[np.newaxis] for image in images)]
    engine = NumpyEngine(weights)
    return float(max(np.max(np.abs(hazards_of(call) - engine.hazards(call))) for call in calls))


def _need_packages(file_format: str) -> None:
    for package in PACKAGES[file_format]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise CNNSurvivalError(
                f"The format {file_format} needs the package {package}, which is not installed; install it with "
                f"'pip install {' '.join(PACKAGES[file_format])}'."
            ) from error


def _hazard_network(weights: dict):
    """The network from grey levels to hazards, a torch.nn.Module in evaluation mode."""
    torch = import_torch()

    class HazardNetwork(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network_from_weights(weights)

        def forward(self, slices):
            return torch.sigmoid(self.network(slices * GREY_SCALE))

    return HazardNetwork().eval()


def _network_input(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis].astype(np.float32)


def _onnx_bytes(weights: dict, facts: dict) -> bytes:
    import onnx
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own inside
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that this network does not use
        exported = torch.onnx.export(
            _hazard_network(weights), (torch.zeros(2, 1, CROP_PX, CROP_PX),), input_names=["slices"],
            output_names=["hazards"], dynamic_shapes={"slices": {0: torch.export.Dim("n", min=1)}}, dynamo=True,
            verbose=False,
        )  # fmt: skip
    model = exported.model_proto
    # The exporter notes beside every node where on this machine the Python source of it is.
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):  # fmt: skip
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _read_onnx(content: bytes):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["hazards"], {"slices": _network_input(images)})[0]


def _safetensors_bytes(weights: dict, facts: dict) -> bytes:
    import safetensors.numpy

    # All facts under one name: safetensors writes several in an order that differs from run to run.
    about = {"info": json.dumps(facts)}
    return safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in weights.items()}, about)


def _read_safetensors(content: bytes):
    import safetensors.numpy

    return NumpyEngine(safetensors.numpy.load(content)).hazards


def _torchscript_bytes(weights: dict, facts: dict) -> bytes:
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # TorchScript is on its way out, which is the reader's to know
        traced = torch.jit.trace(_hazard_network(weights), torch.zeros(2, 1, CROP_PX, CROP_PX))
        torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files={"info.json": json.dumps(facts, indent=2)})
    return _without_debug_records(buffer.getvalue())


def _without_debug_records(content: bytes) -> bytes:
    """A TorchScript archive without the records that say where on this machine the Python source is."""
    cleaned = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(cleaned, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(name), old.read(name))
    return cleaned.getvalue()


def _read_torchscript(content: bytes):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.jit.load(io.BytesIO(content), map_location="cpu")

    def hazards_of(images):
        with torch.inference_mode():
            return network(torch.from_numpy(_network_input(images))).numpy()

    return hazards_of


_WRITERS = {
    "onnx": (_onnx_bytes, _read_onnx),
    "safetensors": (_safetensors_bytes, _read_safetensors),
    "torchscript": (_torchscript_bytes, _read_torchscript),
}


# --- Inside -----------------------------------------------------------------------------------------------------------


def _check_same_slices(run: Run, *stores: Store | None) -> None:
    wanted = preprocessing_info(run.preprocessing)
    for store in filter(None, stores):
        cut = preprocessing_info(store.preprocessing)
        different = [name for name in wanted if cut[name] != wanted[name]]
        if different:
            name = different[0]
            raise UsageError(
                f"The slices of '{store.folder}' were cut with {name} = {cut[name]}, those of the run with "
                f"{wanted[name]}; give the store that was prepared as the run's was."
            )


def _check_other_model(output, name: str) -> None:
    """Refuse to replace a model of another name."""
    path = Path(output) / "bundle.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("name") if path.is_file() else name
    except (OSError, ValueError, AttributeError):
        found = "an unreadable one"
    if found != name:
        raise UsageError(f"'{output}' holds another model ({found}); choose another folder, or delete it.")


def _number(value) -> float | None:
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
