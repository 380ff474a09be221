"""Inputs to break: one small case in every format, ways to damage its files, and a worker that reads the damaged ones.

The worker is a process of its own with a limit on its memory, so that a crash, a hang or a greedy reader is seen as
such and does not take the tests with it.

    python hostile_maker.py FOLDER FIRST

reads the damaged files that FOLDER/cases.json lists, from the one with the index FIRST on; ``run_worker`` starts it
and watches it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 4 << 30  # of address space; the libraries alone take 2
HANG_SECONDS = 10 if os.environ.get("CNNSURVIVAL_FUZZ") == "full" else 30  # the short run may share its machine
SHAPE = (7, 48, 48)  # z, y, x: 21 x 38 x 38 mm
RADIUS_MM = 14.0
NAMES = {
    "weights": "bundle/weights.npz", "bundle": "bundle/bundle.json", "nrrd": "ct.nrrd", "raw-nrrd": "raw.nrrd",
    "seg-nrrd": "mask.seg.nrrd", "ct": "ct/0004.dcm", "seg": "seg.dcm", "rtstruct": "structures.dcm",
}  # fmt: skip
TARGETS = tuple(NAMES)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """(hu int16, mask uint8): a ball in lung, on the grid of ``phantom`` but smaller."""
    from training_cli.demo.phantom import SPACING

    z, y, x = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * d for n, d in zip(SHAPE, SPACING)], indexing="ij")
    mask = (z**2 + y**2 + x**2 < RADIUS_MM**2).astype(np.uint8)
    noise = np.random.default_rng(0).integers(-3, 4, SHAPE)
    return (np.where(mask, 40 + x, -850) + noise).astype(np.int16), mask


def dicom(hu: np.ndarray, mask: np.ndarray) -> tuple[list, object, object]:
    """(CT slices, SEG, RTSTRUCT), pydicom datasets, written by the phantom's own writers."""
    from training_cli.demo import phantom

    uids = phantom._uids(1)
    slices = [phantom._ct_slice(plane, k, uids) for k, plane in enumerate(hu)]
    structures = {phantom.TUMOUR: mask.astype(np.float32), phantom.HEART: np.roll(mask, 3, axis=2).astype(np.float32)}
    contours = phantom._structure_set(slices, structures, uids)
    for structure in contours.ROIContourSequence:  # a tenth of the vertices, so that every byte can be tried
        for contour in structure.ContourSequence:
            points = np.array(contour.ContourData).reshape(-1, 3)[::10]
            contour.ContourData, contour.NumberOfContourPoints = points.ravel().tolist(), len(points)
    return slices, phantom._segmentation(slices, structures, uids), contours


def write_nrrd(path: Path, array: np.ndarray, compressed=True, facts=None) -> Path:
    import SimpleITK as sitk

    from training_cli.demo.phantom import _position

    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 0.8, 3.0))
    image.SetOrigin(_position(0))
    for key, value in (facts or {}).items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


def make_targets(folder: Path) -> Path:
    """Every format's files of the same case, and a bundle."""
    from bundle_maker import bundle_info, random_weights
    from CNNSurvivalLib.bundle import save_bundle
    from training_cli.demo.phantom import _save

    folder.mkdir(parents=True, exist_ok=True)
    hu, mask = arrays()
    # Mostly zeros, so that the compressed file is small and every byte of it can be tried.
    weights = {name: np.where(np.arange(w.size).reshape(w.shape) % 97 == 1, w, 0) if w.size > 999 else w
               for name, w in random_weights().items()}  # fmt: skip
    save_bundle(folder / "bundle", bundle_info(weights), weights)
    write_nrrd(folder / "ct.nrrd", hu)
    write_nrrd(folder / "raw.nrrd", hu, compressed=False)
    facts = {"Segment0_ID": "Segment_1", "Segment0_Name": "GTV", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    write_nrrd(folder / "mask.seg.nrrd", mask, facts=facts)
    slices, seg, structures = dicom(hu, mask)
    (folder / "ct").mkdir()
    for k, dataset in enumerate(slices, 1):
        _save(dataset, folder / "ct" / f"{k:04d}.dcm")
    _save(seg, folder / "seg.dcm")
    _save(structures, folder / "structures.dcm")
    return folder


# --- Damage -------------------------------------------------------------------------------------------------------


def damaged(content: bytes, how: str, number: int) -> bytes:
    """``truncate``: the first ``number`` bytes. ``corrupt``: one of eight kinds of damage, drawn from ``number``."""
    if how == "truncate":
        return content[:number]
    random = np.random.default_rng([2020, number])
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        # Half of the damage goes to the first 2 kB, where headers are.
        end = min(2048, len(data)) if random.random() < 0.5 else len(data)
        at, length = int(random.integers(0, max(1, end))), int(random.integers(1, 40))
        noise = random.integers(0, 256, length, np.uint8).tobytes()
        kind = random.integers(8)
        if kind == 0:
            data[at : at + 1] = bytes([(data[at] if data else 0) ^ (1 << int(random.integers(8)))])
        elif kind == 1:
            data[at : at + length] = noise[: len(data[at : at + length])]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = noise
        elif kind == 4:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 5:
            data[at : at + length] = b"\xff" * len(data[at : at + length])
        elif kind == 6:
            data[at:at] = data[at : at + 50 * length]
        else:  # digits: sizes and counts in text headers
            digits = [k for k in range(at, min(at + 200, len(data))) if 48 <= data[k] < 58]
            for k in digits[: length // 4 + 1]:
                data[k] = 48 + int(random.integers(10))
    return bytes(data)


# --- The worker's side --------------------------------------------------------------------------------------------


class _Reader:
    """Reads one target's case in a folder; ``read`` returns a prediction or raises."""

    def __init__(self, folder: Path, target: str):
        from CNNSurvivalLib.bundle import load_bundle

        self.folder, self.target = folder, target
        self.file = folder / NAMES[target]
        self.content, self.bundle_info = self.file.read_bytes(), (folder / NAMES["bundle"]).read_bytes()
        self.bundle = load_bundle(folder / "bundle")
        self.choose_image("corrupt")
        mask = {"seg": "seg.dcm", "rtstruct": "structures.dcm"}.get(target, "mask.seg.nrrd")
        self.mask = folder / mask
        self.segment = "GTV-1" if mask.endswith(".dcm") else None

    def restore(self) -> None:
        self.file.write_bytes(self.content)
        (self.folder / NAMES["bundle"]).write_bytes(self.bundle_info)

    def choose_image(self, how: str) -> None:
        name = {"ct": "ct", "raw-nrrd": "raw.nrrd"}.get(self.target, "ct.nrrd")
        if how == "corrupt" and self.target in ("seg", "rtstruct"):  # what they refer to may be damaged, too
            name = "ct"
        self.image = self.folder / name

    def write(self, content: bytes, number: int) -> None:
        self.file.write_bytes(content)
        if self.target == "weights" and number % 4:  # three of four get past the check of the SHA-256
            path = self.folder / "bundle" / "bundle.json"
            text = path.read_text(encoding="utf-8")
            found = f'"weights_sha256": "{hashlib.sha256(content).hexdigest()}"'
            path.write_text(re.sub('"weights_sha256": "[0-9a-f]*"', found, text), encoding="utf-8")

    def read(self):
        from CNNSurvivalLib.bundle import load_bundle
        from CNNSurvivalLib.io.read import read_case
        from CNNSurvivalLib.prediction import predict
        from CNNSurvivalLib.report.tables import to_dict

        if self.target in ("weights", "bundle"):
            bundle = load_bundle(self.folder / "bundle")
            hu, mask = arrays()
            return predict(hu, mask, np.diag([-0.8, -0.8, 3.0, 1.0]), bundle, max_slices=1)
        case = read_case(self.image, self.mask, self.segment)
        prediction = predict(case.hu, case.mask, case.ijk_to_ras, self.bundle, max_slices=1,
                             input_warnings=case.warnings)  # fmt: skip
        json.dumps(to_dict(prediction), allow_nan=False)
        return prediction


def outcome_of(read) -> str:
    """ "result", "refused", or "FAULT ..." of a function that returns a Prediction."""
    from CNNSurvivalLib.errors import CNNSurvivalError

    try:
        prediction = read()
    except CNNSurvivalError as error:
        text = str(error)
        if not text.isprintable() or not text.endswith((".", ")")) or len(text) > 2000:
            return f"FAULT not one clear sentence: {text!r}"
        return "refused"
    except MemoryError:  # the command line says so in a sentence
        return "refused"
    except BaseException as error:
        return f"FAULT {type(error).__name__}: {error!r}"
    s = prediction.survival
    if not (s[0] == 1 and np.all(np.diff(s) <= 1e-12) and np.all((s >= 0) & (s <= 1)) and 0 <= prediction.risk <= 1):
        return f"FAULT a curve that is none: {s.tolist()}"
    if not all(text.isprintable() for text in prediction.warnings):
        return f"FAULT warnings of several lines: {prediction.warnings}"
    return "result"


def limit_memory(size: int = MEMORY_BYTES) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _work(folder: Path, first: int) -> None:
    limit_memory()
    cases = json.loads((folder / "cases.json").read_text())
    reader = None
    for index in range(first, len(cases)):
        target, how, number = cases[index]
        if reader is None or reader.target != target:
            if reader is not None:
                reader.restore()
            reader = _Reader(folder, target)
            reader.read()  # whole, it must be readable; and everything is imported before the clock runs
        print(index, flush=True)
        reader.choose_image(how)
        reader.write(damaged(reader.content, how, number), number)
        print(json.dumps(outcome_of(reader.read)), flush=True)


# --- The tests' side ----------------------------------------------------------------------------------------------


class Tally(NamedTuple):
    """How many damaged files were read, how many of them were refused, and what went wrong, with its number."""

    tried: int
    refused: int
    faults: list


def environment() -> dict:
    path = os.pathsep.join([str(ROOT / "CNNSurvival"), str(ROOT), str(Path(__file__).parent)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run_worker(original: Path, folder: Path, cases: list) -> Tally:
    """Read damaged files (target, how, number) in a process of its own, started again after a crash or hang."""
    tried = refused = first = 0
    faults: list = []
    while first < len(cases):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        (folder / "cases.json").write_text(json.dumps(cases))
        command = [sys.executable, __file__, str(folder), str(first)]
        with open(folder / "stderr.txt", "wb") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment())
        index, last = None, None
        for line in _lines(process, folder):
            if line.startswith('"'):
                outcome = json.loads(line)
                tried, refused = tried + 1, refused + (outcome == "refused")
                if outcome.startswith("FAULT"):
                    faults.append((*cases[index], outcome))
                last = index
            else:
                index = int(line)
        process.stdout.close()
        if process.wait() == 0:
            break
        if index is None or index == last:
            raise RuntimeError((folder / "stderr.txt").read_text())
        said = (folder / "stderr.txt").read_text(errors="replace")[-500:]
        faults.append((*cases[index], f"FAULT the process ended with {process.returncode}: {said}"))
        tried, first = tried + 1, index + 1
    return Tally(tried, refused, faults)


def _lines(process, folder: Path):
    """The worker's lines; it is killed where none comes for long."""
    deadline = time.monotonic() + 60  # imports
    buffer = b""
    os.set_blocking(process.stdout.fileno(), False)
    while True:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            with open(folder / "stderr.txt", "a") as errors:
                errors.write(f"no answer for {HANG_SECONDS} s")
            process.kill()
            return
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            return
        deadline = time.monotonic() + HANG_SECONDS
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            yield line.decode()


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]))
