"""The same input gives the same bytes, whatever the machine is busy with; and nothing is said by the way."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import hostile_maker as maker
from CNNSurvivalLib.bundle import load_bundle
from CNNSurvivalLib.prediction import predict
from CNNSurvivalLib.report.tables import to_dict

PREDICT = """
import json, sys
import numpy as np
from CNNSurvivalLib import bundle, engines, errors, files, hazards, network, prediction, slices
from CNNSurvivalLib.report import tables
hu, mask = np.load(sys.argv[2]), np.load(sys.argv[3])
model = bundle.load_bundle(sys.argv[1])
found = prediction.predict(hu, mask, slices.axial_geometry((3.0, 0.8, 0.8)), model)
files.write_json(sys.argv[4], tables.to_dict(found))
"""


@pytest.fixture
def case(sphere, tiny_bundle, tmp_path):
    """A folder with hu.npy and mask.npy, of a tumour large enough to be worth several threads."""
    hu, mask = sphere(shape=(24, 150, 150), spacing=(3.0, 0.8, 0.8), radius_mm=33)
    np.save(tmp_path / "hu.npy", hu)
    np.save(tmp_path / "mask.npy", mask)
    return tmp_path


def library(case, bundle, name, *options, threads=1):
    """prediction.json's bytes from a process of its own, and what it printed."""
    variables = {f"{kind}_NUM_THREADS": str(threads) for kind in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")}
    paths = [str(part) for part in (bundle.folder, case / "hu.npy", case / "mask.npy", case / name)]
    done = subprocess.run([sys.executable, *options, "-c", PREDICT, *paths], capture_output=True, text=True,
                          env={**maker.environment(), **variables}, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (case / name).read_bytes(), done.stdout + done.stderr


def test_one_and_two_threads_give_the_same_bytes(case, tiny_bundle):
    one = library(case, tiny_bundle, "one.json", threads=1)[0]
    assert library(case, tiny_bundle, "two.json", threads=2)[0] == one
    assert library(case, tiny_bundle, "again.json", threads=1)[0] == one


def test_no_warning_is_given(case, tiny_bundle):
    """Import of the whole library and a prediction under python -W error, and in development mode."""
    assert library(case, tiny_bundle, "dev.json", "-X", "dev", "-W", "error")[1] == ""


def test_the_order_of_predictions_does_not_matter(case, tiny_bundle):
    """No state is left behind by another case."""
    from CNNSurvivalLib.slices import axial_geometry

    hu, mask = np.load(case / "hu.npy"), np.load(case / "mask.npy")
    geometry = axial_geometry((3.0, 0.8, 0.8))
    before = hu.copy(), mask.copy()
    first = json.dumps(to_dict(predict(hu, mask, geometry, tiny_bundle)))
    predict(np.roll(hu, 3, axis=2), np.roll(mask, 3, axis=2), geometry, tiny_bundle, max_slices=1, min_roi_px=1)
    assert json.dumps(to_dict(predict(hu, mask, geometry, load_bundle(tiny_bundle.folder)))) == first
    assert np.array_equal(hu, before[0]) and np.array_equal(mask, before[1])


@pytest.mark.skipif(os.environ.get("CNNSURVIVAL_FUZZ") != "full", reason="takes 10 s; CNNSURVIVAL_FUZZ=full")
def test_the_command_gives_the_same_files_on_one_and_two_threads(tmp_path):
    for name in ("SimpleITK", "pydicom", "highdicom", "skimage", "matplotlib"):
        pytest.importorskip(name)
    case = maker.make_targets(tmp_path / "case")
    outputs = []
    for threads in (1, 2):
        output = tmp_path / f"{threads}"
        command = ["predict", "--image", case / "ct.nrrd", "--mask", case / "mask.seg.nrrd", "--model", case / "bundle",
                   "--output", output]  # fmt: skip
        variables = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
                     "PYTHONHASHSEED": str(threads)}  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "training_cli", *map(str, command)], capture_output=True,
                              text=True, env={**maker.environment(), **variables}, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        outputs.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert outputs[0] == outputs[1] and len(outputs[0]) == 4


def test_training_twice_with_one_seed_gives_the_same_weights(tmp_path):
    for name in ("torch", "lightning", "pandas"):
        pytest.importorskip(name)
    from cohort_maker import make_store
    from training_cli.cli import main

    make_store(tmp_path / "store", patients=6, slices=2)
    options = ["--epochs", "2", "--best-slices", "10", "--batch", "4", "--augment", "--accelerator", "cpu"]
    for name, seed in (("a", "7"), ("b", "7")):
        output = str(tmp_path / name)
        assert main(["pretrain", str(tmp_path / "store"), "--output", output, *options, "--seed", seed]) == 0
    assert (tmp_path / "a" / "model.npz").read_bytes() == (tmp_path / "b" / "model.npz").read_bytes()
    assert (tmp_path / "a" / "run.json").read_text() == (tmp_path / "b" / "run.json").read_text()
