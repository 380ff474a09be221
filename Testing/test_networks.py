"""A network is a run, a bundle, or the id of a bundle that ships: every command that takes one takes all three."""

import json

import pandas as pd
import pytest

from CNNSurvivalLib.bundle import load_bundle, shipped_models_folder
from CNNSurvivalLib.errors import UsageError
from cohort_maker import make_store
from training_cli.cli import main

for package in ("torch", "lightning", "sksurv"):
    pytest.importorskip(package)

from training_cli.cohort.store import open_store  # noqa: E402
from training_cli.cohort.store_files import STORE_FILE, preprocessing_info  # noqa: E402
from training_cli.evaluation.evaluate import predict_store  # noqa: E402
from training_cli.training.runs import load_network, load_run  # noqa: E402

SHIPPED = "lung-head-neck"


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(shipped_models_folder() / SHIPPED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bundle):
    """Holds a store that was cut as the shipped network's slices were."""
    folder = tmp_path_factory.mktemp("networks")
    path = make_store(folder / "store", patients=20, slices=2) / STORE_FILE
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "preprocessing": preprocessing_info(bundle.preprocessing)}))
    return folder


@pytest.fixture(scope="module")
def tuned(folder):
    """The folder of a fine-tuning that started from the id of a shipped model."""
    command = ["finetune", SHIPPED, str(folder / "store"), "--output", str(folder / "tuned"), "--learn", "free",
               "--epochs", "2"]  # fmt: skip
    assert main([*command, "--debug"]) == 0
    return folder / "tuned"


@pytest.mark.parametrize("name", [SHIPPED, f"{SHIPPED}-2.0"])
def test_an_id_gives_the_shipped_network(bundle, name):
    network = load_network(name)
    assert network.bundle.sha256 == bundle.sha256 and network.max_slices == bundle.max_slices
    assert network.preprocessing == bundle.preprocessing
    assert list(network.edges_days) == list(bundle.edges_days)


def test_finetune_starts_from_a_shipped_network(tuned, bundle):
    run = load_run(tuned)
    changed = [name for name, value in run.weights.items() if (value != bundle.weights[name]).any()]
    assert changed == ["output.weight", "output.bias"]
    assert run.info["parent"]["kind"] == "pretrain" and run.bundle is None


def test_evaluate_predicts_the_same_with_an_id_and_with_its_folder(folder, bundle):
    store = open_store(folder / "store")
    one, other = (predict_store(model, store, [365]) for model in (SHIPPED, bundle.folder))
    pd.testing.assert_frame_equal(one, other)
    command = ["evaluate", "--model", SHIPPED, "--store", str(folder / "store"), "--bootstrap", "20"]
    assert main([*command, "--output", str(folder / "scores"), "--debug"]) == 0
    assert (folder / "scores" / "metrics.csv").is_file()


def test_baselines_takes_an_id(folder):
    patients = open_store(folder / "store").patient_ids
    pd.DataFrame({"patient_id": patients, "part": ["a", "b"] * 10}).to_csv(folder / "split.csv", index=False)
    parts = [word for part, name in (("train", "a"), ("test", "b")) for word in (
        f"--{part}", str(folder / "store"), f"--{part}-patients", str(folder / "split.csv"), f"--{part}-part", name)
    ]  # fmt: skip
    command = ["baselines", *parts, "--network", SHIPPED, "--models", "outputs", "--output", str(folder / "baselines")]
    assert main([*command, "--debug"]) == 0
    assert len(pd.read_csv(folder / "baselines" / "predictions_outputs.csv")) == 10


def test_export_takes_an_id(tmp_path, bundle):
    safetensors = pytest.importorskip("safetensors")
    assert main(["export", SHIPPED, "--format", "safetensors", "--output", str(tmp_path), "--debug"]) == 0
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["info"])["weights_sha256"] == bundle.sha256


def test_what_is_no_network_is_told(tmp_path):
    with pytest.raises(UsageError, match=f"no model 'nowhere': .*{SHIPPED}"):
        load_network("nowhere")
    with pytest.raises(UsageError, match="holds no trained network"):
        load_network(tmp_path)


@pytest.mark.parametrize("command", [
    ["finetune", SHIPPED, "store", "--part", "a"],
    ["pretrain", "store", "--part", "a"],
    ["crossvalidate", "store", "--part", "a"],
    ["evaluate", "--model", SHIPPED, "--store", "store", "--part", "a"],
])  # fmt: skip
def test_a_part_needs_a_patients_file(command, capsys):
    assert main([*command, "--output", "out"]) == 2
    assert "--part goes with --patients" in capsys.readouterr().err


def test_models_lists_folders_and_gives_everything_as_json(capsys, bundle):
    assert main(["models"]) == 0
    assert f"folder: {bundle.folder}" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    found = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    expected = {"id": bundle.id, "folder": str(bundle.folder), "default": True, "bundle": bundle.info}
    assert found[bundle.id].items() >= expected.items() and len(found[bundle.id]["populations"]) == 3
    assert sum(one["default"] for one in found.values()) == 1


@pytest.mark.parametrize("command", [
    ["finetune", SHIPPED, "plain"],
    ["evaluate", "--model", SHIPPED, "--store", "plain"],
    ["recalibrate", SHIPPED, "plain", "--name", "mine", "--title", "Mine"],
    ["baselines", "--train", "store", "--test", "plain", "--network", SHIPPED],
])  # fmt: skip
def test_a_store_that_was_cut_in_another_way_is_refused_with_the_command_that_cuts_it(
    folder, tmp_path, command, capsys, monkeypatch
):
    """All that differs is named, and prepare's option takes it all."""
    path = make_store(tmp_path / "plain", patients=20, slices=2) / STORE_FILE
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "preprocessing": {**info["preprocessing"], "min_roi_px": 100}}))
    (tmp_path / "store").symlink_to(folder / "store")
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--output", "out"]) == 2
    said = capsys.readouterr().err
    assert "(min_roi_px 100, not 250; slice_step_mm None, not 3.0)" in said
    assert f"'cnn-survival prepare ... --like {SHIPPED}'" in said and not (tmp_path / "out").exists()
