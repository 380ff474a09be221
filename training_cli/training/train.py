"""Training: the paper's pretraining of the whole network and its fine-tuning of the last layer.

Zhang et al. 2020: the 2,500 best slices of the first cohort, Adam with a learning rate of 1e-4, 50 epochs, no
augmentation; then, on the second cohort, 20 epochs in which all but the last layer's 627 values are frozen. Batches
of 32. Everything else in ``Settings`` is a departure, off by default.

Lightning Fabric runs the loop on CPU or GPU, on one device or several (DDP). Every random number comes from the seed,
the epoch and the step, so a run that was killed continues from its last epoch to the same weights.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.fabric import Fabric

from CNNSurvivalLib import __version__
from CNNSurvivalLib import network as net
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import atomic_write, ensure_output_folder, write_csv
from CNNSurvivalLib.hazards import exponential_edges, hazards_from_logits, survival_targets

from ..cohort.store import Store
from ..cohort.store_files import preprocessing_info
from ..progress import progress
from .roi_crop import find_windows, training_logits
from .runs import CHECKPOINT_FILE, LOSSES_FILE, RUN_FILE, Run, check_same_preprocessing, load_run, save_run

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults are the paper's; what is below ``seed`` departs from it.

    best_slices: the slices kept by the cohort ranking (None: all). balanced: an epoch draws this number of slices of
    every patient, at random, in place of all slices once (0: off). augment: random flips and quarter turns, and grey
    levels times 0.9 to 1.1. dropout: the paper's 0.5. weight_decay: decoupled (AdamW). marginal_start: the output
    biases start at the cohort's marginal hazards. average_from: the weights are averaged over the epochs from this
    one on (0: off). recalibrate: batch norm's running statistics are measured anew, without dropout, at the end.
    dropout_from: dropout after the blocks from this one (1 to 3) on; the paper's is after all. shared_output: the
    last layer has one row of weights for all intervals, and a bias for each (proportional odds). hidden_bias: the
    hidden layer's biases start evenly spread from 0 to this, so that some units stay active for every tumour (None:
    PyTorch's start). output_start: the last layer's weights start from PyTorch's times this. growth: weight of a
    penalty on an eighth of the slices, each shown in two sizes: how much higher the logits of the smaller are, on
    average over the intervals. refit_biases: at the end the output biases are fitted to all slices, every patient
    counted alike, without dropout.
    """

    epochs: int = 50
    batch: int = 32
    learning_rate: float = 1e-4
    best_slices: int | None = 2500
    seed: int = 2020
    balanced: int = 0
    augment: bool = False
    dropout: float = net.DROPOUT
    weight_decay: float = 0.0
    marginal_start: bool = False
    average_from: int = 0
    recalibrate: bool = False
    dropout_from: int = 1
    shared_output: bool = False
    hidden_bias: float | None = None
    output_start: float = 1.0
    growth: float = 0.0
    refit_biases: bool = False

    def departures(self, paper: Settings) -> list[str]:
        """What is not as in the paper, as words for the report."""
        return [
            f"{f.name} = {getattr(self, f.name)} (paper: {getattr(paper, f.name)})"
            for f in fields(self)
            if f.name != "seed" and getattr(self, f.name) != getattr(paper, f.name)
        ]


# What the penalty on growth compares: tumours of these widths in pixels (of 250 to 12,000 px in area, if they were
# square), reached by so much stretching at most, with the same ones wider by these factors.
WIDTHS, STRETCH, GROWTH = (16, 110), 3.0, (1.1, 1.5)

PAPER = Settings()
FINETUNE = Settings(epochs=20, best_slices=None)


@dataclass(frozen=True)
class Devices:
    """Where to train; Lightning Fabric's options. Under torchrun or SLURM the processes are theirs."""

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    tensorboard: bool = False


@dataclass(frozen=True)
class Examples:
    """The slices to train on, each with what its patient shows of each interval.

    images: uint8 [n, 140, 140]. survived, died: float32 [n, m]. owners: patient_id of each.
    """

    images: np.ndarray
    survived: np.ndarray
    died: np.ndarray
    owners: np.ndarray


def training_examples(store: Store, edges: np.ndarray, best_slices: int | None) -> Examples:
    """The store's best slices. Raises UsageError where no patient of the store has died."""
    if not store.event.any():
        raise UsageError(f"None of the patients of '{store.folder}' died; hazards cannot be learned from them.")
    rows = np.sort(store.best_rows(best_slices))
    owners = store.slices.loc[rows, "patient_id"].to_numpy()
    survived, died = survival_targets(store.time, store.event, edges)
    number = store.patients.index.get_indexer(owners)
    images = np.ascontiguousarray(store.images[rows])
    return Examples(images, survived[number].astype(np.float32), died[number].astype(np.float32), owners)


# --- Pretraining ------------------------------------------------------------------------------------------------------


def pretrain(
    store: Store,
    output,
    settings: Settings = Settings(),
    edges: np.ndarray | None = None,
    devices: Devices = Devices(),
    tell: Tell = print,
    after_epoch: Callable[[int, Callable[[], dict]], None] | None = None,
) -> Run:
    """Train the whole network on a store; returns the run, at once if ``output`` holds it already.

    ``after_epoch(epoch, weights)`` is called with a function that gives the weights as they would be if training
    ended there. Raises UsageError if ``output`` holds another run, or for a cohort without deaths.
    """
    edges = exponential_edges() if edges is None else edges
    output = ensure_output_folder(output)
    plan = plan_of("pretrain", store, settings, edges)
    finished = finished_run(output, plan)
    if finished is not None:
        return finished
    examples = training_examples(store, edges, settings.best_slices)
    trainer = _Trainer(examples, settings, _start_fabric(devices, output))
    losses = trainer.resume(output, plan)
    while len(losses) < settings.epochs:
        losses.append(trainer.epoch(len(losses)))
        trainer.save(output, plan, losses)
        if trainer.fabric.is_global_zero:
            tell(f"epoch {len(losses)} of {settings.epochs}: mean loss {losses[-1]:.4f}")
        if after_epoch is not None:
            after_epoch(len(losses), trainer.final_weights)
    return trainer.finish(
        output, {**plan, **outcome_of(len(examples.images), len(set(examples.owners)), losses, store)}
    )


def seconds_per_slice(examples: Examples, settings: Settings, devices: Devices = Devices()) -> float:
    """How long this machine trains on one slice: the fastest of two epochs, after one that warms up."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(examples, settings, _start_fabric(devices, Path(folder)))
        starts = []
        for number in range(3):
            starts.append(time.perf_counter())
            trainer.epoch(number)
        starts.append(time.perf_counter())
        return float(np.diff(starts)[1:].min()) / len(epoch_order(examples, settings, 1))


class _Windowed(torch.nn.Module):
    """The network with the training pass as its forward, so that DDP sees it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *arguments):
        return training_logits(self.network, *arguments)


class _Trainer:
    """The state of a training: network, optimiser, averaged weights."""

    def __init__(self, examples: Examples, settings: Settings, fabric: Fabric):
        self.examples, self.settings, self.fabric = examples, settings, fabric
        self.windows = find_windows(examples.images)
        torch.manual_seed(settings.seed)
        network = net.build_network(examples.survived.shape[1])
        _start(network, examples, settings)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.network = network
        self.module, self.optimiser = fabric.setup(_Windowed(network), optimiser)
        self.average: dict | None = None

    def epoch(self, number: int) -> float:
        """Train for one epoch (numbered from 0); returns its mean loss."""
        order = epoch_order(self.examples, self.settings, number)
        batches = np.split(order, range(self.settings.batch, len(order), self.settings.batch))
        self.network.train()
        if self.fabric.is_global_zero:
            batches = progress(batches, len(batches), f"Epoch {number + 1}", "step")
        total = sum(self._step(batch, number, step) for step, batch in enumerate(batches))
        self._update_average(number)
        return float(self.fabric.all_reduce(torch.tensor(total), reduce_op="sum")) / len(order)

    def _step(self, batch: np.ndarray, epoch: int, step: int) -> float:
        """One step of the optimiser; returns the sum of this process's losses."""
        settings, rank, world = self.settings, self.fabric.global_rank, self.fabric.world_size
        mine = batch[rank::world]
        random = np.random.default_rng([settings.seed, epoch, step, rank])
        images, windows = self.examples.images[mine], self.windows[mine]
        if settings.augment:
            images = augmented(images, random)
        if settings.growth:
            images = np.concatenate([images, *in_two_sizes(images[: (len(images) + 7) // 8], random)])
        if settings.augment or settings.growth:
            windows = find_windows(images)
        logits = self.module(images, windows, settings.dropout, random, settings.dropout_from)
        survived, died = (
            torch.from_numpy(x[mine]).to(logits.device) for x in (self.examples.survived, self.examples.died)
        )
        loss = net.negative_log_likelihood(logits[: len(mine)], survived, died).sum()
        penalty = _safer_by_growing(logits[len(mine) :]) * settings.growth * len(mine) if settings.growth else 0
        self.optimiser.zero_grad()
        self.fabric.backward((loss + penalty) * (world / len(batch)))  # DDP takes the mean over processes
        if settings.shared_output:  # rows that start alike and are moved alike stay alike
            gradient = self.network.output.weight.grad
            gradient.copy_(gradient.mean(0, keepdim=True).expand_as(gradient))
        self.optimiser.step()
        return float(loss.detach())

    def _update_average(self, number: int) -> None:
        first = self.settings.average_from - 1
        if first < 0 or number < first:
            return
        weights = net.network_weights(self.network)
        seen = number - first
        old = self.average or weights
        self.average = {name: old[name] + (weights[name] - old[name]) / (seen + 1) for name in weights}

    def final_weights(self) -> dict:
        """The weights as they are if training ends here; training can go on."""
        weights = self.average or net.network_weights(self.network)
        if self.settings.recalibrate or self.average:  # an average of weights has no statistics of its own
            weights = recalibrated(weights, self.examples.images, self.windows, self.settings.batch)
        return with_fitted_biases(weights, self.examples) if self.settings.refit_biases else weights

    # --- Checkpoints ---

    def save(self, output: Path, plan: dict, losses: list[float]) -> None:
        """Write the state after an epoch, in one step: a kill leaves the former or this one."""
        if self.fabric.is_global_zero:
            arrays = {f"network/{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
            for name, value in (self.average or {}).items():
                arrays[f"average/{name}"] = value
            for number, state in self.optimiser.state_dict()["state"].items():
                for name, value in state.items():
                    arrays[f"optimiser/{number}/{name}"] = value.cpu().numpy()
            text = json.dumps({"plan": plan, "losses": losses})
            with atomic_write(output / CHECKPOINT_FILE, "wb") as stream:
                np.savez(stream, state=np.frombuffer(text.encode(), np.uint8), **arrays)
            write_csv(output / LOSSES_FILE, ("epoch", "mean_loss"), enumerate(losses, 1))
            self.fabric.log("mean_loss", losses[-1], step=len(losses))
        self.fabric.barrier()

    def resume(self, output: Path, plan: dict) -> list[float]:
        """Take up the state of ``save`` if there is one; returns the losses so far."""
        path = output / CHECKPOINT_FILE
        if not path.is_file():
            return []
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(arrays.pop("state").tobytes())
        except (OSError, ValueError, KeyError) as error:
            raise CNNSurvivalError(f"The checkpoint '{path}' cannot be read ({error}); delete it.") from error
        _check_same_plan(state["plan"], plan, output)
        parts: dict = {"network": {}, "average": {}, "optimiser": {}}
        for name, value in arrays.items():
            kind, rest = name.split("/", 1)
            parts[kind][rest] = value
        self.network.load_state_dict({name: torch.from_numpy(value) for name, value in parts["network"].items()})
        optimiser = self.optimiser.state_dict()
        for name, value in parts["optimiser"].items():
            number, entry = name.split("/")
            optimiser["state"].setdefault(int(number), {})[entry] = torch.from_numpy(value)
        self.optimiser.load_state_dict(optimiser)
        self.average = parts["average"] or None
        return state["losses"]

    def finish(self, output: Path, info: dict) -> Run:
        """Write the finished run and drop the checkpoint."""
        weights = self.final_weights()
        if self.fabric.is_global_zero:
            save_run(output, info, weights)
            (output / CHECKPOINT_FILE).unlink(missing_ok=True)
        self.fabric.barrier()
        return Run(output, info, weights)


def epoch_order(examples: Examples, settings: Settings, number: int) -> np.ndarray:
    """The slices of an epoch (numbered from 0) in their order, as indices into the examples."""
    random = np.random.default_rng([settings.seed, number])
    if not settings.balanced:
        return random.permutation(len(examples.images))
    mine = [np.flatnonzero(examples.owners == owner) for owner in dict.fromkeys(examples.owners)]
    drawn = [random.choice(rows, settings.balanced, replace=len(rows) < settings.balanced) for rows in mine]
    return random.permutation(np.concatenate(drawn))


def augmented(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each slice flipped or turned by quarters at random, its grey levels times 0.9 to 1.1; uint8, same shape."""
    result = np.empty_like(images)
    for number, image in enumerate(images):
        turned = np.rot90(image, random.integers(4))
        turned = turned[:, ::-1] if random.integers(2) else turned
        result[number] = np.clip(turned * random.uniform(0.9, 1.1) + 0.5, 0, 255)
    return result


def in_two_sizes(images: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The tumours in a size drawn at random, whatever their own, and the same ones larger (see WIDTHS)."""
    width = np.sqrt(np.maximum(np.count_nonzero(images, axis=(1, 2)), 1))
    first = np.clip(random.uniform(*WIDTHS, len(images)) / width, 1 / STRETCH, STRETCH)
    second = first * random.uniform(*GROWTH, len(images))
    small, large = (np.stack([zoomed(x, f) for x, f in zip(images, factors)]) for factors in (first, second))
    return small, large


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """A masked slice, uint8 [n, n], its tumour's image and outline stretched about the slice's middle; linear."""
    at = (np.arange(len(image)) - (len(image) - 1) / 2) / factor + (len(image) - 1) / 2
    low = np.floor(at).astype(int)
    share = (at - low).astype(np.float32)
    inside = np.pad(np.stack([image, image > 0]).astype(np.float32), ((0, 0), (1, 2), (1, 2)))
    low = np.clip(low + 1, 0, len(image) + 1)  # where it ends there is nothing
    rows = inside[:, low] * (1 - share[:, None]) + inside[:, low + 1] * share[:, None]
    grey, part = rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
    return np.where(part >= 0.5, np.maximum(np.rint(grey / np.maximum(part, 0.5)), 1), 0).astype(np.uint8)


def _safer_by_growing(logits):
    """By how much the smaller ones are worse; logits of ``in_two_sizes``, the smaller first."""
    small, large = logits.chunk(2)
    return (small - large).mean(1).relu().mean()


def recalibrated(weights: dict, images: np.ndarray, windows: np.ndarray, batch: int) -> dict:
    """The weights with batch norm's running statistics measured anew on the slices, without dropout.

    Dropout in front of a batch norm gives it another variance in training than in use (Li et al. 2019, "Understanding
    the disharmony between dropout and batch normalization by variance shift", CVPR).
    """
    network = net.network_from_weights(weights).train()
    norms = [getattr(network, f"norm{layer}") for layer in range(1, 7)]
    order = np.random.default_rng(0).permutation(len(images))
    with torch.no_grad():
        for step, start in enumerate(range(0, len(order), batch)):
            rows = order[start : start + batch]
            for norm in norms:
                norm.momentum = 1 / (step + 1)  # the running mean of all batches so far
            training_logits(network, images[rows], windows[rows])
    return net.network_weights(network)


def with_fitted_biases(weights: dict, examples: Examples) -> dict:
    """The weights with the output biases of highest likelihood on the slices, every patient counted alike.

    Steps of the optimiser are too few and too small to bring the biases after the features, which drift by more.
    An interval in which nobody died would have no finite bias: half a death and half a survivor are added to each.
    """
    engine = NumpyEngine(weights)
    scores = engine.logits(engine.features(examples.images)).astype(np.float64) - weights["output.bias"]
    _, patient, slices = np.unique(examples.owners, return_inverse=True, return_counts=True)
    share = 1 / slices[patient]
    scores = np.vstack([scores, np.average(scores, axis=0, weights=share)])
    died, survived = (np.vstack([x * share[:, None], np.full(x.shape[1], 0.5)])
                      for x in (examples.died, examples.survived))  # fmt: skip
    biases = weights["output.bias"].astype(np.float64)
    for _ in range(50):  # Newton's method; convex, each bias on its own
        hazards = hazards_from_logits(scores + biases)
        slope = ((died + survived) * hazards - died).sum(axis=0)
        biases -= np.clip(slope / ((died + survived) * hazards * (1 - hazards)).sum(axis=0), -1, 1)
    return {**weights, "output.bias": biases.astype(np.float32)}


def _start(network, examples: Examples, settings: Settings) -> None:
    """Where training starts, as far as the settings depart from PyTorch's own start."""
    with torch.no_grad():
        if settings.hidden_bias is not None:
            network.hidden.bias.copy_(torch.linspace(0, settings.hidden_bias, net.HIDDEN))
        if settings.shared_output:
            network.output.weight.copy_(network.output.weight[:1].expand_as(network.output.weight))
        network.output.weight.mul_(settings.output_start)
    if settings.marginal_start:
        _start_at_marginal_hazards(network, examples)


def _start_at_marginal_hazards(network, examples: Examples) -> None:
    died, survived = (x.sum(axis=0, dtype=np.float64) + 0.5 for x in (examples.died, examples.survived))
    with torch.no_grad():
        network.output.bias.copy_(torch.from_numpy(np.log(died / survived)))


# --- Fine-tuning ------------------------------------------------------------------------------------------------------


def finetune(parent: Run, store: Store, output, settings: Settings = FINETUNE, tell: Tell = print) -> Run:
    """Train the last layer on another store, all else frozen and in evaluation mode.

    As nothing before the last layer changes, each slice's 32 features are computed once. Raises UsageError if the
    store's slices were cut in another way than the parent's, or if ``output`` holds another run.
    """
    check_same_preprocessing(parent, store)
    output = ensure_output_folder(output)
    plan = {**plan_of("finetune", store, settings, parent.edges_days), "parent": parent.info}
    finished = finished_run(output, plan)
    if finished is not None:
        return finished
    weights, losses, examples = fit_last_layer(parent, store, settings)
    tell(f"last layer: mean loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last")
    return save_run(
        output, {**plan, **outcome_of(len(examples.images), len(set(examples.owners)), losses, store)}, weights
    )


def fit_last_layer(parent: Run, store: Store, settings: Settings) -> tuple[dict, list[float], Examples]:
    """(weights, mean loss per epoch, the slices learned from) of fine-tuning, without a folder."""
    examples = training_examples(store, parent.edges_days, settings.best_slices)
    features = torch.from_numpy(NumpyEngine(parent.weights).features(examples.images))
    weights, losses = _train_last_layer(parent.weights, features, examples, settings)
    return weights, losses, examples


def _train_last_layer(weights: dict, features, examples: Examples, settings: Settings) -> tuple[dict, list[float]]:
    network = net.network_from_weights(weights)
    layer = network.output
    optimiser = torch.optim.AdamW(layer.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    survived, died = torch.from_numpy(examples.survived), torch.from_numpy(examples.died)
    losses = []
    for epoch in range(settings.epochs):
        order, total = torch.from_numpy(epoch_order(examples, settings, epoch)), 0.0
        for batch in order.split(settings.batch):
            loss = net.negative_log_likelihood(layer(features[batch]), survived[batch], died[batch]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(order))
    return net.network_weights(network), losses


# --- Inside -----------------------------------------------------------------------------------------------------------


def _start_fabric(devices: Devices, output: Path) -> Fabric:
    loggers = []
    if devices.tensorboard:
        from lightning.fabric.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(output, name="tensorboard", version=""))
    strategy = "ddp" if devices.devices > 1 or devices.nodes > 1 else "auto"
    fabric = Fabric(
        accelerator=devices.accelerator,
        strategy=strategy,
        devices=devices.devices,
        num_nodes=devices.nodes,
        loggers=loggers,
    )
    fabric.launch()
    return fabric


def plan_of(kind: str, store: Store, settings: Settings, edges: np.ndarray) -> dict:
    """What decides the outcome of a run: two runs with the same plan are the same run."""
    return {
        "kind": kind,
        "settings": asdict(settings),
        "departures": settings.departures(PAPER if kind == "pretrain" else FINETUNE),
        "edges_days": edges.tolist(),
        "preprocessing": preprocessing_info(store.preprocessing),
        "store": {"sha256": store.sha256, "patients": store.patient_ids},
    }


def outcome_of(slices_kept: int, patients_kept: int, losses: list[float], store: Store) -> dict:
    """What a finished training says of itself in run.json. slices_kept, patients_kept: what it learned from."""
    return {
        "cohort": {
            "patients": len(store.patients),
            "deaths": int(store.event.sum()),
            "slices": len(store.slices),
            "slices_kept": slices_kept,
            "patients_kept": patients_kept,
        },
        "epochs_done": len(losses),
        "losses": losses,
        "versions": {
            "cnn-survival": __version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def finished_run(output: Path, plan: dict) -> Run | None:
    if not (output / RUN_FILE).is_file():
        return None
    run = load_run(output)
    _check_same_plan({name: run.info.get(name) for name in plan}, plan, output)
    return run


def _check_same_plan(found: dict, plan: dict, output: Path) -> None:
    different = [name for name in plan if found.get(name) != plan[name]]
    if different:
        raise UsageError(
            f"'{output}' holds a training with other settings ({', '.join(different)}); choose another folder, or "
            "delete it."
        )
