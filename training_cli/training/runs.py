"""A trained network on disk, before it becomes a bundle, and its predictions for a cohort.

A run is the folder that ``pretrain`` or ``finetune`` writes:

    model.npz    the weights, float32, under the names of ``CNNSurvivalLib.network.weight_shapes``
    run.json     the training: kind, settings, edges, preprocessing, cohort, losses, versions, parent run
    losses.csv   epoch, mean_loss

and, while it is not finished, ``checkpoint.npz`` instead of the first two.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CNNSurvivalLib.api import find_model
from CNNSurvivalLib.bundle import INFO_FILE, Bundle, load_bundle, shipped_models_folder
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import atomic_write, write_csv, write_json
from CNNSurvivalLib.hazards import hazards_from_logits, survival_function
from CNNSurvivalLib.network import weight_shapes
from CNNSurvivalLib.slices import Preprocessing

from ..cohort.store_files import differences, preprocessing_info
from ..progress import progress

if TYPE_CHECKING:
    from ..cohort.store import Store

RUN_FILE, MODEL_FILE, LOSSES_FILE, CHECKPOINT_FILE = "run.json", "model.npz", "losses.csv", "checkpoint.npz"
MAX_SLICES = 20  # of a patient's best slices, for the patient's curve


def risk_column(days: float) -> str:
    """The column of a table of predictions with the risk by that day; enough digits to find it again."""
    return f"risk_{days:.12g}"


@dataclass(frozen=True)
class Run:
    """A trained network: a finished run, or a bundle as if it were one.

    info: run.json. weights: names -> float32 arrays. bundle: what the network was taken from, if it is a bundle.
    """

    folder: Path
    info: dict
    weights: dict
    bundle: Bundle | None = None

    @property
    def name(self) -> str:
        """What a user gives for it on the command line: the short id of a bundle that ships, otherwise its folder."""
        return self.folder.name if self.folder.parent == shipped_models_folder() else str(self.folder)

    @property
    def edges_days(self) -> np.ndarray:
        return np.array(self.info["edges_days"], dtype=np.float64)

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.info["preprocessing"])

    @property
    def max_slices(self) -> int:
        """How many of a patient's best slices make the patient's curve, unless the user says otherwise."""
        return MAX_SLICES if self.bundle is None else self.bundle.max_slices


def load_network(network) -> Run:
    """Open a trained network, whatever the user has of it.

    Parameters
    ----------
    network : str or Path
        The folder of a finished run, the folder of a bundle, or the id of a bundle that ships with this software.

    Raises
    ------
    UsageError
        If it is none of these.
    CNNSurvivalError
        For a damaged run or bundle.
    """
    folder = find_model(network)
    if (folder / INFO_FILE).is_file():
        return _run_of_bundle(load_bundle(folder))
    return load_run(folder)


def network_for(model, population: str | None = None) -> Run:
    """A network (see ``load_network``) with the weights of a bundle's population; None: the bundle's default.

    Raises UsageError for an unknown population, and for one of a run, which has none.
    """
    network = load_network(model)
    if network.bundle is None:
        if population:
            raise UsageError(f"'{model}' is a training and has no populations; leave out --population.")
        return network
    bundle = network.bundle.for_population(population)
    return replace(network, weights=bundle.network_weights, bundle=bundle)


def load_run(folder) -> Run:
    """Open a finished run. Raises UsageError for a folder that is not one, CNNSurvivalError for a damaged one."""
    folder = Path(folder)
    if not (folder / RUN_FILE).is_file():
        unfinished = (folder / CHECKPOINT_FILE).is_file()
        raise UsageError(
            f"The training in '{folder}' is not finished; give the same command again to continue it."
            if unfinished
            else f"'{folder}' holds no trained network (no {RUN_FILE}); make one with 'cnn-survival pretrain'."
        )
    try:
        info = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        with np.load(folder / MODEL_FILE, allow_pickle=False) as arrays:
            weights = {name: arrays[name] for name in arrays.files}
        shapes = weight_shapes(len(info["edges_days"]) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CNNSurvivalError(f"The run '{folder}' cannot be read ({error}); train it again.") from error
    if {name: array.shape for name, array in weights.items()} != shapes:
        raise CNNSurvivalError(f"The run '{folder}' is damaged ({MODEL_FILE} is not the network's); train it again.")
    return Run(folder, info, weights)


def _run_of_bundle(bundle: Bundle) -> Run:
    """A bundle in the form of a run, to be trained on. It has the number of patients, not their ids.

    Its texts go with it (bundle_id, bundle_card, and each training's bundle_cohort), for the card of what is trained
    on it.
    """
    info = _with_store(bundle.info["training"], bundle.info["cohorts"])
    cut = preprocessing_info(bundle.preprocessing)
    info |= {"edges_days": bundle.info["intervals"]["edges_days"], "preprocessing": cut}
    info |= {"bundle_id": bundle.id, "bundle_card": bundle.info["card"]}
    return Run(bundle.folder, info, bundle.weights, bundle)


def _with_store(training: dict, cohorts: list[dict]) -> dict:
    """A training of bundle.json in the form of run.json; bundles of other makers may leave fields out.

    cohorts: of bundle.json; those of the trainings come first, in their order.
    """
    cohort = cohorts[min(len(stages(training)), len(cohorts)) - 1]
    known = {"patients": cohort["patients"], "deaths": cohort["events"], "slices": cohort["slices"],
             "slices_kept": cohort["slices"], "patients_kept": cohort["patients"]}  # fmt: skip
    info = {"kind": "pretrain", "settings": {}, "departures": [], "losses": [], "cohort": known, **training,
            "bundle_cohort": cohort}  # fmt: skip
    info["store"] = {"sha256": info.pop("store_sha256", ""), "patients": []}
    if "parent" in info:
        info["parent"] = _with_store(info["parent"], cohorts)
    return info


def stages(info: dict) -> list[dict]:
    """run.json of every training that led to these weights, the first one first."""
    return [*(stages(info["parent"]) if info.get("parent") else []), info]


def save_run(folder, info: dict, weights: dict) -> Run:
    """Write a finished run; run.json comes last, so a folder that has it is whole."""
    folder = Path(folder)
    write_csv(folder / LOSSES_FILE, ("epoch", "mean_loss"), enumerate(info["losses"], 1))
    with atomic_write(folder / MODEL_FILE, "wb") as stream:
        np.savez(stream, **weights)
    write_json(folder / RUN_FILE, info)
    return Run(folder, info, weights)


def check_same_preprocessing(network: Run, store: Store) -> None:
    """Raise UsageError if a store's slices were cut in another way than those that the network learned from."""
    cut, wanted = preprocessing_info(store.preprocessing), preprocessing_info(network.preprocessing)
    different = differences(cut, wanted)
    if different:
        raise UsageError(
            f"The slices of '{store.folder}' were cut in another way than those of the network '{network.name}' "
            f"({'; '.join(different)}); prepare the store anew, with 'cnn-survival prepare ... --like "
            f"{shlex.quote(network.name)}'."
        )


def check_free(folder, **plan) -> None:
    """Raise UsageError if the folder holds a finished run whose run.json says something else than ``plan``.

    For what can be told at once; ``train.finished_run`` compares the rest.
    """
    try:
        found = dict(json.loads((Path(folder) / RUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, or a damaged one, which is told later
        return
    different = [f"{name} {found.get(name)}, not {value}" for name, value in plan.items() if found.get(name) != value]
    if different:
        raise UsageError(
            f"'{folder}' holds a training with other settings ({'; '.join(different)}); choose another folder, or "
            "delete it."
        )


# --- Who was learned from ---------------------------------------------------------------------------------------------


def patients_sha256(patient_ids: Iterable[str]) -> list[str]:
    """The first 16 hex digits of the SHA-256 of each patient_id, sorted: who was learned from, without naming them."""
    return sorted({hashlib.sha256(str(patient).encode("utf-8")).hexdigest()[:16] for patient in patient_ids})


def learned_from(run: Run) -> set[str]:
    """``patients_sha256`` of all that the network learned from: its trainings, and its population's calibration.

    Of trainings that do not say (bundles of earlier versions) it holds nobody.
    """
    found: set = set()
    stage = run.info
    while stage:
        found.update(patients_sha256(stage.get("store", {}).get("patients", ())), stage.get("patients_sha256", ()))
        stage = stage.get("parent")
    if run.bundle is not None:
        found.update(run.bundle.population.info.get("patients_sha256", ()))
    return found


def check_not_learned_from(run: Run, store: Store) -> None:
    """Raise UsageError if the network learned from patients of a store that it is to be scored on."""
    known = learned_from(run)
    count = sum(patients_sha256([patient])[0] in known for patient in store.patient_ids)
    if count:
        raise UsageError(
            f"The network '{run.folder}' learned from {count} of the {len(store.patient_ids)} patients of "
            f"'{store.folder}', so scores on them say nothing about new patients; choose others with --patients and "
            "--part, or give --also-trained-on."
        )


# --- Predictions for a cohort -----------------------------------------------------------------------------------------


def patient_survival(weights: dict, store: Store, max_slices: int | None = MAX_SLICES) -> np.ndarray:
    """S at every edge, float64 [patients, m + 1]: the mean over each patient's best slices."""
    return _per_patient(weights, store, max_slices, lambda logits: survival_function(hazards_from_logits(logits)))


def patient_outputs(weights: dict, store: Store, max_slices: int | None = MAX_SLICES) -> np.ndarray:
    """The last layer's outputs (logits), float64 [patients, m]: the mean over each patient's best slices."""
    return _per_patient(weights, store, max_slices, lambda logits: logits.astype(np.float64))


def _per_patient(weights: dict, store: Store, max_slices, of_slices) -> np.ndarray:
    engine = NumpyEngine(weights)
    patients = progress(store.patient_ids, len(store.patient_ids), "Predicting", "patient")
    return np.array([
        of_slices(engine.logits(engine.features(store.images[store.rows(patient, max_slices)]))).mean(axis=0)
        for patient in patients
    ])  # fmt: skip


def risk_at(survival: np.ndarray, edges_days: np.ndarray, horizon_days: float) -> np.ndarray:
    """Probability of death by a time, [n], from S at the edges [n, m + 1], linear inside an interval.

    Raises UsageError for a time beyond the last edge.
    """
    if not 0 < horizon_days <= edges_days[-1]:
        raise UsageError(f"The horizon {horizon_days:g} is not within the model's {edges_days[-1]:g} days.")
    return np.array([1 - np.interp(horizon_days, edges_days, curve) for curve in survival])
