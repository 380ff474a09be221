"""How fast it is, as ratios of two things run in turn on the same machine with the same number of threads.

    make benchmark                                        everything; about half an hour on two cores
    python Testing/benchmarks/run.py [NAME ...] [--store STORE] [--cohort FOLDER] [--repeats N] [--quick]

Each row is the median over repeats of time(ours) / time(theirs), measured one after the other, or the inverse where
"times faster" is asked for. --store: a store made by `cnn-survival prepare` of a real cohort, for the rows of training
(without it a made-up one is used). --cohort: a folder with manifest.csv, for `prepare` and radiomics. Results go to
results.md and results.json beside this file. Nothing here is a test: no limit on a time is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "CNNSurvival"), str(ROOT), str(ROOT / "Testing" / "helpers")]
THREADS = os.cpu_count() or 1


class Options(NamedTuple):
    store: Path | None
    cohort: Path | None
    repeats: int
    quick: bool
    folder: Path  # for what is made on the way


class Row(NamedTuple):
    what: str
    against: str
    target: str
    reached: float | None
    unit: str
    note: str = ""


ROWS: dict[str, Callable[[Options], list[Row]]] = {}


def row(function):
    ROWS[function.__name__] = function
    return function


def ratio(ours: Callable, theirs: Callable, repeats: int) -> float:
    """Median of time(ours) / time(theirs), run in turn; the first pair is not counted, it warms caches."""
    ratios = []
    for number in range(repeats + 1):
        one, other = seconds(ours), seconds(theirs)
        if number:
            ratios.append(one / other)
    return statistics.median(ratios)


def seconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def tumour_ct(shape, slices: int, radius_mm: float = 25.0, spacing=(3.0, 0.8, 0.8)):
    """(hu int16, mask uint8, ijk_to_ras): an egg of tissue over a number of planes of a CT of that shape."""
    from CNNSurvivalLib.slices import axial_geometry

    hu = np.full(shape, -800, dtype=np.int16)
    mask = np.zeros(shape, dtype=np.uint8)
    middle = shape[0] // 2
    y, x = np.ogrid[: shape[1], : shape[2]]
    plane = np.hypot(y - shape[1] / 2, x - shape[2] / 2) * spacing[1]
    random = np.random.default_rng(0)
    for k in range(middle - slices // 2, middle - slices // 2 + slices):
        inside = plane < radius_mm * (1 - 0.5 * abs(k - middle) / slices)
        mask[k][inside] = 1
        hu[k][inside] = random.integers(0, 80, inside.sum())
    return hu, mask, axial_geometry(spacing)


# --- From files to curve ---------------------------------------------------------------------------------------------

_BARE = """
import sys, SimpleITK as sitk
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
reader.Execute()
"""


@row
def dicom_case(options: Options) -> list[Row]:
    """Of the processes' time on the cores, so that other work on the machine counts less."""
    real = Path(os.environ.get("CNNSURVIVAL_SHARED", ROOT.parent / "shared")) / "data" / "dicom" / "chest-ct-rtstruct"
    rows = [_whole_predict(options, *_made_up_dicom(options), "made up, mask as NRRD")]
    if real.is_dir() and not options.quick:
        mask = ["--mask", str(real / "rtstruct.dcm"), "--segment", "GTVp"]
        rows.append(_whole_predict(options, real, mask, "a chest CT with its RTSTRUCT, 105 slices"))
    return rows


def _made_up_dicom(options: Options) -> tuple[Path, list[str]]:
    """(folder of the CT, options that name the mask)."""
    import SimpleITK as sitk

    import dicom_maker

    hu, mask, _geometry = tumour_ct((20 if options.quick else 105, 512, 512), 17, spacing=dicom_maker.SPACING)
    dicom_maker.write_ct(options.folder / "ct", hu)
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(dicom_maker.SPACING[::-1])
    image.SetOrigin(dicom_maker.ORIGIN)
    sitk.WriteImage(image, str(options.folder / "mask.nrrd"))
    return options.folder / "ct", ["--mask", str(options.folder / "mask.nrrd")]


def _whole_predict(options: Options, ct: Path, mask: list[str], note: str) -> Row:
    predict = ["-m", "training_cli", "predict", "--image", str(ct), *mask, "--output", str(options.folder / "out")]
    # Compiled once, as the modules of an installed package are.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONPYCACHEPREFIX": str(options.folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def core_seconds(arguments) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, env=environment, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    core_seconds(predict)  # compiles
    pairs = [(core_seconds(predict), core_seconds(["-c", _BARE, str(ct)])) for _ in range(options.repeats)]
    reached = statistics.median(ours / theirs for ours, theirs in pairs)
    return Row("predict, one DICOM case, the whole command", "SimpleITK reading the series, a process of its own",
               "at most 3", reached, "of its time on the cores", note)  # fmt: skip


# --- From click to curve ----------------------------------------------------------------------------------------------

_COLD = """
import sys, numpy as np
sys.path[:0] = [{library!r}]
hu, mask = (np.load({folder!r} + name, mmap_mode="r") for name in ("/hu.npy", "/mask.npy"))
from CNNSurvivalLib.bundle import default_bundle_folder, load_bundle
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.prediction import predict
from CNNSurvivalLib.slices import axial_geometry
bundle = load_bundle(default_bundle_folder())
engine = create_engine({engine!r}, bundle{device})
predict(hu, mask, axial_geometry((3.0, 0.8, 0.8)), bundle, engine, max_slices=40)
"""


@row
def click_to_curve(options: Options) -> list[Row]:
    from CNNSurvivalLib.bundle import default_bundle_folder, load_bundle
    from CNNSurvivalLib.engines import create_engine
    from CNNSurvivalLib.prediction import predict

    hu, mask, geometry = tumour_ct((300, 512, 512), 40)
    for name, array in (("hu", hu), ("mask", mask)):
        np.save(options.folder / f"{name}.npy", array)
    scripts = [
        _COLD.format(library=str(ROOT / "CNNSurvival"), folder=str(options.folder), engine=engine, device=device)
        for engine, device in (("numpy", ""), ("torch", ", 'cpu'"))
    ]
    runs = [lambda script=script: subprocess.run([sys.executable, "-c", script], check=True) for script in scripts]
    cold = ratio(*runs, options.repeats)
    bundle = load_bundle(default_bundle_folder())
    engines = [create_engine("numpy", bundle), create_engine("torch", bundle, "cpu")]
    warm = [lambda engine=engine: predict(hu, mask, geometry, bundle, engine, max_slices=40) for engine in engines]
    images = predict(hu, mask, geometry, bundle, engines[0], max_slices=40).slices.images
    forward = ratio(warm[0], lambda: engines[1].hazards(images), options.repeats)
    case = "40-slice tumour in 512 x 512 x 300"
    return [
        Row(f"click to curve, cold: new process, import, bundle, slices, {case}", "the same with plain PyTorch",
            "at most 0.35", cold, "of its time"),
        Row("the same, warm", "plain PyTorch's warm forward alone", "at most 0.5", forward, "of its time"),
    ]  # fmt: skip


@row
def slices(options: Options) -> list[Row]:
    from CNNSurvivalLib.slices import Preprocessing, extract_slices

    hu, mask, geometry = tumour_ct((600, 512, 512), 60, spacing=(1.0, 0.8, 0.8))

    def ours():
        return extract_slices(hu, mask, geometry, Preprocessing())

    def theirs():
        planes = np.flatnonzero(mask.any(axis=(1, 2)))
        flat = mask[planes].any(axis=0)
        rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
        box = hu[planes[0] : planes[-1] + 1, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return np.rint(np.clip((box - -160.0) / 400 * 255, 0, 255)).astype(np.uint8)

    reached = ratio(ours, theirs, options.repeats)
    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1] / hu.nbytes
    tracemalloc.stop()
    return [
        Row("slices from 512 x 512 x 600, 60-slice tumour", "one pass over the mask (mask.any) and one windowing of "
            "the ROI's box", "at most 1.5", reached, "of its time"),
        Row("the same, extra memory", "the CT's", "under 0.05", peak, "of its memory"),
    ]  # fmt: skip


@row
def occlusion(options: Options) -> list[Row]:
    import torch

    from CNNSurvivalLib.bundle import default_bundle_folder, load_bundle
    from CNNSurvivalLib.engines import create_engine
    from CNNSurvivalLib.explanation import PATCH_PX, STRIDE_PX, _patches, occlusion_maps
    from CNNSurvivalLib.network import network_from_weights, network_input
    from CNNSurvivalLib.prediction import predict

    bundle = load_bundle(default_bundle_folder())
    engine = create_engine("numpy", bundle)
    prediction = predict(*tumour_ct((40, 256, 256), 20), bundle, engine, max_slices=1)
    network, image = network_from_weights(bundle.weights), prediction.slices.images[0]

    def theirs():
        with torch.inference_mode():
            for patch in _patches(image, PATCH_PX, STRIDE_PX):
                hidden = image.copy()
                hidden[patch] = 0
                network(network_input(hidden[np.newaxis]))

    reached = 1 / ratio(lambda: occlusion_maps(prediction, engine), theirs, options.repeats)
    return [Row("occlusion map, one slice", "plain PyTorch, one forward pass per patch", "at least 3", reached,
                "times faster")]  # fmt: skip


# --- Training ---------------------------------------------------------------------------------------------------------


def training_store(options: Options):
    from cohort_maker import make_store
    from training_cli.cohort.store import open_store

    if options.store is not None:
        return open_store(options.store)
    return open_store(make_store(options.folder / "store", patients=120, slices=15))


def bare_epoch(examples, batches, losses: list, learning_rate=1e-4, network=None) -> None:
    """An epoch over tensors in memory, the way one writes it in PyTorch; dropout off."""
    import torch

    from CNNSurvivalLib import network as net

    images = torch.from_numpy(examples.images)
    survived, died = torch.from_numpy(examples.survived), torch.from_numpy(examples.died)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    network.train()
    for batch in batches:
        rows = torch.from_numpy(batch)
        logits = network(images[rows].unsqueeze(1).float() * net.GREY_SCALE)
        loss = net.negative_log_likelihood(logits, survived[rows], died[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))


def _without_dropout(network):
    import torch

    for module in network.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
    return network


@row
def pretraining(options: Options) -> list[Row]:
    import torch

    from CNNSurvivalLib import network as net
    from CNNSurvivalLib.hazards import exponential_edges
    from training_cli.training.train import Devices, Settings, _start_fabric, _Trainer, epoch_order, training_examples

    store = training_store(options)
    examples = training_examples(store, exponential_edges(), 2500)
    settings = Settings(dropout=0.0)
    steps = 4 if options.quick else 16
    order = epoch_order(examples, settings, 0)
    batches = np.split(order, range(32, len(order), 32))[:steps]
    losses: tuple = ([], [])

    def ours():
        losses[0].clear()
        trainer = _Trainer(examples, settings, _start_fabric(Devices("cpu"), options.folder))
        trainer.network.train()
        losses[0].extend(trainer._step(batch, 0, step) / len(batch) for step, batch in enumerate(batches))

    def theirs():
        losses[1].clear()
        torch.manual_seed(settings.seed)
        bare_epoch(examples, batches, losses[1], network=_without_dropout(net.build_network(19)))

    reached = 1 / ratio(ours, theirs, max(1, options.repeats // 2))
    apart = np.abs(np.subtract(*losses))
    note = (f"{steps} of {len(order) // 32 + 1} steps; losses {apart[0]:.0e} apart in the first, {apart[2]:.0e} in "
            f"the third, {apart[-1]:.0e} in the last step")  # fmt: skip
    what = f"pretraining epoch, {len(examples.images)} slices, dropout off"
    rows = [Row(what, "a bare PyTorch loop over tensors in memory", "at least 3", reached, "times faster", note)]
    try:
        import torchtuples
        from pycox.models import LogisticHazard
    except ImportError:
        return [*rows, Row("the same", "pycox LogisticHazard.fit", "at least 3", None, "", "pycox is not installed")]
    rows_used = np.concatenate(batches)
    images = (examples.images[rows_used][:, np.newaxis] * np.float32(net.GREY_SCALE)).astype(np.float32)
    intervals = (examples.survived + examples.died)[rows_used].sum(axis=1).astype(np.int64) - 1
    events = examples.died[rows_used].sum(axis=1).astype(np.float32)
    targets = (np.maximum(intervals, 0), events)

    def pycox():
        network = _without_dropout(net.build_network(19))
        model = LogisticHazard(network, torchtuples.optim.Adam(1e-4), duration_index=np.arange(19.0))
        model.fit(images, targets, batch_size=32, epochs=1, verbose=False)

    reached = 1 / ratio(ours, pycox, max(1, options.repeats // 2))
    return [*rows, Row("the same", "pycox LogisticHazard.fit of the same network", "at least 3", reached,
                       "times faster", f"{steps} steps")]  # fmt: skip


@row
def finetuning(options: Options) -> list[Row]:
    from CNNSurvivalLib import network as net
    from CNNSurvivalLib.bundle import default_bundle_folder
    from training_cli.training.runs import load_network
    from training_cli.training.train import FINETUNE, fit_last_layer, training_examples

    store = training_store(options)
    store = store.part(store.patient_ids[:50])
    parent = load_network(default_bundle_folder())
    examples = training_examples(store, parent.edges_days, None)
    steps = 2 if options.quick else 4
    batches = np.split(np.arange(len(examples.images)), range(32, len(examples.images), 32))

    def theirs():
        network = net.network_from_weights(parent.weights)
        bare_epoch(examples, batches[:steps], [], network=_without_dropout(network))

    reached = ratio(lambda: fit_last_layer(parent, store, FINETUNE), theirs, max(1, options.repeats // 2))
    whole = 20 * len(batches) / steps
    note = f"{len(examples.images)} slices; the bare loop's {steps} steps counted {whole:.0f} times"
    return [Row("fine-tuning, 20 epochs", "a bare PyTorch loop through the whole network", "at least 30",
                whole / reached, "times faster", note)]  # fmt: skip


# --- Preparing cohorts ------------------------------------------------------------------------------------------------


def cohort_manifest(options: Options, cases: int) -> Path:
    """A manifest of that number of cases: the first of the real cohort, or made-up ones."""
    from cohort_maker import make_images

    if options.cohort is None:
        return make_images(options.folder / f"cohort-{cases}", cases) / "manifest.csv"
    lines = (options.cohort / "manifest.csv").read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    path = options.folder / f"cohort-{cases}.csv"
    table = [lines[0]]
    for line in lines[1 : cases + 1]:
        cells = line.split(",")
        for name in ("image", "mask"):
            cells[header.index(name)] = str(options.cohort / cells[header.index(name)])
        table.append(",".join(cells))
    path.write_text("\n".join(table) + "\n", encoding="utf-8")
    return path


def _read(pair) -> None:
    import SimpleITK as sitk

    for path in pair:
        sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@row
def preparing(options: Options) -> list[Row]:
    from joblib import Parallel, delayed

    from CNNSurvivalLib.io.manifest import read_manifest
    from CNNSurvivalLib.slices import Preprocessing
    from training_cli.cohort.prepare import prepare

    def compare(manifest: Path, note: str, target: str) -> Row:
        pairs = [(row.image_path, row.mask_path) for row in read_manifest(manifest)]
        count = iter(range(10**6))

        def ours():
            prepare(manifest, manifest.parent / f"{manifest.stem}-{next(count)}", Preprocessing(slice_step_mm=3.0),
                    jobs=2, log=lambda text: None)  # fmt: skip

        def theirs():
            Parallel(2)(delayed(_read)(pair) for pair in pairs)

        reached = 1 / ratio(ours, theirs, max(1, options.repeats // 2))
        return Row("prepare, cases per second, 2 workers", "SimpleITK reading the same files, 2 workers",
                   target, reached, "of its speed", f"{len(pairs)} {note}")  # fmt: skip

    small = cohort_manifest(options, 6 if options.quick else 24)
    return [compare(_full_cts(options.folder / "full", 2 if options.quick else 16), "CTs of 512 x 512 x 150",
                    "at least 0.8"),
            compare(small, "crops of about 100 x 100 x 60 voxels, which are read in 5 ms", "at least 0.6")]  # fmt: skip


def _full_cts(folder: Path, cases: int) -> Path:
    import SimpleITK as sitk

    folder.mkdir(parents=True)
    hu, mask, _geometry = tumour_ct((150, 512, 512), 20)
    hu = hu + np.random.default_rng(0).integers(-9, 9, hu.shape).astype(np.int16)  # noise, as compression meets it
    lines = ["patient_id,image,mask,time_days,event"]
    for number in range(cases):
        for name, array in (("ct", hu), ("mask", mask)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((0.8, 0.8, 3.0))
            sitk.WriteImage(image, str(folder / f"{number}-{name}.nrrd"), useCompression=True)
        lines.append(f"p{number},{number}-ct.nrrd,{number}-mask.nrrd,{100 + number},1")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "manifest.csv"


_MEMORY = """
import resource, sys
sys.path[:0] = {paths!r}
from training_cli.cli import main
assert main({command!r}) in (0, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@row
def memory(options: Options) -> list[Row]:
    from cohort_maker import make_images, make_store

    few, many = (3, 30) if options.quick else (8, 80)
    peaks: dict = {"prepare": [], "pretrain": []}
    for cases in (few, many):
        manifest = make_images(options.folder / f"memory-{cases}", cases) / "manifest.csv"
        store = make_store(options.folder / f"memory-store-{cases}", patients=cases, slices=20)
        out = options.folder / f"memory-out-{cases}"
        peaks["prepare"].append(_peak(["prepare", str(manifest), "--output", str(out / "store")]))
        peaks["pretrain"].append(_peak([
            "pretrain", str(store), "--output", str(out / "run"), "--epochs", "1", "--best-slices", "64",
        ]))  # fmt: skip
    return [
        Row(f"{name}, peak memory at {many} cases", f"at {few} cases", "at most 1.1", after / before, "of it")
        for name, (before, after) in peaks.items()
    ]


def _peak(command: list) -> float:
    script = _MEMORY.format(paths=[str(ROOT / "CNNSurvival"), str(ROOT)], command=command)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


@row
def radiomics(options: Options) -> list[Row]:
    from CNNSurvivalLib.slices import Preprocessing
    from training_cli.cohort.prepare import prepare

    what = ("model 1's features, 2 workers", "PyRadiomics case by case in one process", "at least 1.8")
    try:
        import radiomics  # noqa: F401

        from training_cli.cohort.radiomics import case_features, cohort_features
    except ImportError:
        return [Row(*what, None, "", "PyRadiomics is not installed")]
    manifest = cohort_manifest(options, 4 if options.quick else 20)
    store = prepare(manifest, options.folder / "radiomics-store", Preprocessing(slice_step_mm=3.0), jobs=2,
                    log=lambda text: None)  # fmt: skip
    cases = list(zip(store.patients["image"], store.patients["mask"]))
    caches = iter(range(10**6))
    reached = 1 / ratio(
        lambda: cohort_features(store, options.folder / f"features-{next(caches)}.csv", jobs=2),
        lambda: [case_features(*case) for case in cases],
        1,
    )
    return [Row(*what, reached, "times faster", f"{len(cases)} cases")]


# --- Growth -----------------------------------------------------------------------------------------------------------


@row
def growth(options: Options) -> list[Row]:
    """Time against number of slices, ROI width and cohort size, as a picture; not a ratio."""
    from CNNSurvivalLib.bundle import default_bundle_folder, load_bundle
    from CNNSurvivalLib.engines import create_engine
    from CNNSurvivalLib.slices import Preprocessing
    from cohort_maker import make_images
    from training_cli.cohort.prepare import prepare

    bundle = load_bundle(default_bundle_folder())
    engine = create_engine("numpy", bundle)
    y, x = np.mgrid[:140, :140] - 69.5

    def image(width: int) -> np.ndarray:
        return np.where(np.maximum(abs(x), abs(y)) < width / 2, 120, 0).astype(np.uint8)[np.newaxis]

    widths, counts, cohorts = (10, 20, 40, 60, 80, 100, 120, 140), (1, 5, 10, 20, 40), (2, 4, 8, 16)
    engine.hazards(image(60))
    by_width = [min(seconds(lambda w=w: engine.hazards(image(w))) for _ in range(options.repeats)) for w in widths]
    stacks = [np.repeat(image(60), count, axis=0) for count in counts]
    by_count = [min(seconds(lambda s=s: engine.hazards(s)) for _ in range(options.repeats)) for s in stacks]
    by_cohort = []
    for cases in cohorts:
        manifest = make_images(options.folder / f"growth-{cases}", cases) / "manifest.csv"
        by_cohort.append(seconds(lambda m=manifest, c=cases: prepare(
            m, options.folder / f"growth-store-{c}", Preprocessing(), log=lambda text: None)))  # fmt: skip
    _plot([
        ("ROI width squared (px)", np.square(widths), by_width), ("slices", counts, by_count),
        ("cases in prepare", cohorts, by_cohort),
    ])  # fmt: skip
    fits = [np.corrcoef(a, b)[0, 1] ** 2 for a, b in (
        (np.square(widths), by_width), (counts, by_count), (cohorts, by_cohort))]  # fmt: skip
    names = ("time against ROI area", "time against number of slices", "time against cohort size")
    return [Row(name, "a straight line", "linear", fit, "R squared") for name, fit in zip(names, fits)]


def _plot(panels) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(10, 3))
    for axis, (label, at, spent) in zip(axes, panels):
        axis.plot(at, np.multiply(spent, 1000), "o-", ms=4, lw=1)
        axis.set_xlabel(label)
        axis.set_ylim(0)
    axes[0].set_ylabel("milliseconds")
    figure.tight_layout()
    figure.savefig(HERE / "growth.png", dpi=80)


# --- The table --------------------------------------------------------------------------------------------------------


def machine() -> dict:
    return {"python": platform.python_version(), "numpy": np.__version__, "processors": THREADS,
            "machine": platform.machine(), "system": platform.system(),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # fmt: skip


def table(rows: list[Row]) -> str:
    lines = ["| what | against | target | reached | |", "| --- | --- | --- | --- | --- |"]
    for r in rows:
        reached = "not measured" if r.reached is None else f"{r.reached:.2f} {r.unit}"
        lines.append(f"| {r.what} | {r.against} | {r.target} | {reached} | {r.note} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which rows: {', '.join(ROWS)} (default: all)")
    parser.add_argument("--store", type=Path, help="a store of a real cohort")
    parser.add_argument("--cohort", type=Path, help="a folder with manifest.csv and images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="smaller cases, to see that it runs")
    given = parser.parse_args()
    found: list[Row] = []
    results = HERE / "results.json"
    known = json.loads(results.read_text(encoding="utf-8"))["rows"] if given.names and results.is_file() else {}
    for name in given.names or ROWS:
        with tempfile.TemporaryDirectory() as folder:
            options = Options(given.store, given.cohort, given.repeats, given.quick, Path(folder))
            known[name] = [r._asdict() for r in ROWS[name](options)]
        print(table([Row(**r) for r in known[name]]), flush=True)
    found = [Row(**r) for name in ROWS if name in known for r in known[name]]
    results.write_text(json.dumps({"machine": machine(), "rows": known}, indent=1) + "\n", encoding="utf-8")
    (HERE / "results.md").write_text(table(found), encoding="utf-8")


if __name__ == "__main__":
    main()
