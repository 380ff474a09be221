"""Training: learns, resumes after a kill to the same weights, and does the same on two processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from CNNSurvivalLib.bundle import load_bundle, shipped_models_folder
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.network import weight_shapes
from cohort_maker import make_store
from training_cli.cli import main
from training_cli.cohort.store import open_store
from training_cli.cohort.store_files import preprocessing_info

pytest.importorskip("torch")
pytest.importorskip("lightning")

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--epochs", "3", "--best-slices", "24", "--batch", "8"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("cohort") / "store", patients=12, slices=2)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """An uninterrupted short pretraining."""
    folder = tmp_path_factory.mktemp("run") / "pretrain"
    assert main(["pretrain", str(store), "--output", str(folder), *SHORT]) == 0
    return folder


def weights(folder):
    with np.load(folder / "model.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def command(*arguments, launcher=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "CNNSurvival"), str(ROOT)])}
    line = [sys.executable, *launcher, "-m", "training_cli", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_says_how_it_came_about(run, store):
    info = json.loads((run / "run.json").read_text())
    assert info["cohort"]["patients"] == 12 and info["cohort"]["slices_kept"] == 24
    assert info["store"]["patients"] == open_store(store).patient_ids
    assert info["epochs_done"] == 3 and len(info["losses"]) == 3
    assert "epochs = 3 (paper: 50)" in info["departures"]
    assert {name: value.shape for name, value in weights(run).items()} == weight_shapes()
    assert (run / "losses.csv").read_text().splitlines()[0] == "epoch,mean_loss"
    assert not (run / "checkpoint.npz").exists()


def test_a_finished_run_is_not_run_again(run, store, capsys):
    before = (run / "model.npz").stat().st_mtime_ns
    assert main(["pretrain", str(store), "--output", str(run), *SHORT]) == 0
    assert (run / "model.npz").stat().st_mtime_ns == before
    assert main(["pretrain", str(store), "--output", str(run), "--epochs", "4"]) == 2
    assert "holds a training with other settings (settings" in capsys.readouterr().err


def test_killed_and_started_again_it_ends_with_the_same_weights(run, store, tmp_path):
    arguments = ["pretrain", store, "--output", tmp_path / "killed", *SHORT]
    process = command(*arguments)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint.npz").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "run.json").exists()
    assert main(list(map(str, arguments))) == 0
    expected, found = weights(run), weights(tmp_path / "killed")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert (tmp_path / "killed" / "run.json").read_text() == (run / "run.json").read_text()


def test_two_processes_do_what_one_does(store, tmp_path):
    """Dropout off, as the processes draw different numbers for it. Two steps of the optimiser."""
    options = ["--epochs", "2", "--best-slices", "7", "--batch", "8", "--dropout", "0", "--accelerator", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = command("pretrain", store, "--output", tmp_path / "two", "--devices", "2", *options, launcher=launcher)
    assert main(["pretrain", str(store), "--output", str(tmp_path / "one"), *options]) == 0
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert output.count("epoch 2 of 2") == 1
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=2e-5, rtol=1e-4, err_msg=name)
    losses = [json.loads((tmp_path / name / "run.json").read_text())["losses"] for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_fine_tuning_changes_the_last_layer_alone_and_learns(run, store, tmp_path, capsys):
    folder = tmp_path / "finetune"
    assert main(["finetune", str(run), str(store), "--output", str(folder), "--learn", "free"]) == 0
    before, after = weights(run), weights(folder)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["output.weight", "output.bias"]
    assert sum(before[name].size for name in changed) == 627
    info = json.loads((folder / "run.json").read_text())
    assert info["epochs_done"] == 20 and info["losses"][-1] < info["losses"][0]
    assert info["parent"]["kind"] == "pretrain"


def test_a_shipped_bundle_can_be_fine_tuned(store, tmp_path):
    """On slices that are cut as its own were: the store says so here."""
    bundle = load_bundle(shipped_models_folder() / "lung-head-neck")
    own = tmp_path / "store"
    shutil.copytree(store, own)
    info = json.loads((own / "store.json").read_text())
    info["preprocessing"] = preprocessing_info(bundle.preprocessing)
    (own / "store.json").write_text(json.dumps(info))
    tuned = tmp_path / "tuned"
    free = ["--learn", "free", "--epochs", "3"]
    assert main(["finetune", str(bundle.folder), str(own), "--output", str(tuned), *free]) == 0
    found = weights(tuned)
    changed = {name for name in bundle.weights if not np.array_equal(found[name], bundle.weights[name])}
    assert changed == {"output.weight", "output.bias"}
    kept = json.loads((tuned / "run.json").read_text())["parent"]["cohort"]
    assert kept["patients"] == bundle.info["cohorts"][0]["patients"]


def test_how_much_is_learned_is_chosen_and_said(run, tmp_path, capsys):
    other = make_store(tmp_path / "store", patients=30, slices=2, seed=5)
    renamed = other / "patients.csv"
    for path in (renamed, other / "slices.csv"):
        path.write_text(path.read_text().replace("\nm", "\nn"))
    folder = tmp_path / "auto"
    assert main(["finetune", str(run), str(other), "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    for words in ("Cross-validated on these patients", "none", "shift", "offsets", "last-layer", "free", "<- chosen"):
        assert words in out
    assert "converged" in out and "loss per patient" in out
    info = json.loads((folder / "run.json").read_text())
    assert info["learn"] == "auto" and info["learned"] in ("none", "shift", "offsets", "last-layer")
    assert (folder / "comparison.csv").is_file() and len(info["comparison"]) == 5
    assert main(["finetune", str(run), str(other), "--output", str(tmp_path / "s"), "--learn", "shift"]) == 0
    moved = weights(tmp_path / "s")["output.bias"] - weights(run)["output.bias"]
    assert np.ptp(moved) < 1e-6 and not (tmp_path / "s" / "comparison.csv").exists()
    capsys.readouterr()
    assert main(["finetune", str(run), str(other), "--output", str(tmp_path / "x"), "--epochs", "3"]) == 2
    assert "--epochs goes with --learn free" in capsys.readouterr().err


def test_patients_that_were_learned_from_are_not_scored_silently(run, store, tmp_path, capsys):
    """A run knows them by name, its parents' too; so does what was fine-tuned on others from it."""
    tuned = tmp_path / "tuned"
    assert main(["finetune", str(run), str(store), "--output", str(tmp_path / "auto")]) == 2
    assert "learned from 12 of the 12 patients" in capsys.readouterr().err and not (tmp_path / "auto").exists()
    other = make_store(tmp_path / "store", patients=14, slices=2, seed=5)
    for path in (other / "patients.csv", other / "slices.csv"):
        path.write_text(path.read_text().replace("\nm00", "\nn00"))
    assert main(["finetune", str(run), str(other), "--output", str(tuned), "--learn", "shift"]) == 0
    known = ((run, store, "12 of the 12"), (tuned, store, "12 of the 12"), (run, other, "2 of the 14"))
    for model, cohort, count in known:
        call = ["evaluate", "--model", str(model), "--store", str(cohort), "--bootstrap", "0"]
        capsys.readouterr()
        assert main([*call, "--output", str(tmp_path / "refused")]) == 2
        error = capsys.readouterr().err
        assert f"learned from {count} patients" in error and "--also-trained-on" in error
        assert len(error.strip().splitlines()) == 1 and not (tmp_path / "refused").exists()
    assert main([*call, "--also-trained-on", "--output", str(tmp_path / "asked")]) == 0
    assert main([*call, "--population", "here", "--also-trained-on", "--output", str(tmp_path / "no")]) == 2
    assert "has no populations" in capsys.readouterr().err


def test_digests_name_patients_without_their_ids():
    from training_cli.training import runs

    digests = runs.patients_sha256(["b", "a", "a"])
    assert digests == sorted(digests) and len(digests) == 2 and all(len(each) == 16 for each in digests)
    assert "ca978112ca1bbdca" in digests  # SHA-256 of "a", FIPS 180-2


def test_fine_tuning_on_features_is_fine_tuning_through_the_network(run, store, tmp_path):
    """The plain way: all but the last layer frozen, in evaluation mode, each slice through the whole network."""
    import torch

    from CNNSurvivalLib import network as net
    from training_cli.training import runs
    from training_cli.training import train as training

    settings = training.Settings(epochs=2, batch=8, best_slices=None)
    cohort = open_store(store)
    parent = runs.load_run(run)
    found = training.finetune(parent, cohort, tmp_path / "fast", settings, tell=lambda text: None)
    examples = training.training_examples(cohort, parent.edges_days, None)
    network = net.network_from_weights(parent.weights)
    optimiser = torch.optim.Adam(network.output.parameters(), lr=settings.learning_rate)
    for epoch in range(2):
        for batch in torch.from_numpy(training.epoch_order(examples, settings, epoch)).split(8):
            logits = network(net.network_input(examples.images[batch.numpy()]))
            survived, died = (torch.from_numpy(x[batch.numpy()]) for x in (examples.survived, examples.died))
            optimiser.zero_grad()
            net.negative_log_likelihood(logits, survived, died).mean().backward()
            optimiser.step()
    for name, value in net.network_weights(network).items():
        np.testing.assert_allclose(found.weights[name], value, atol=2e-6, err_msg=name)


def test_fine_tuning_refuses_slices_that_were_cut_in_another_way(run, store, tmp_path):
    from training_cli.training import runs
    from training_cli.training import train as training

    other = open_store(store)
    other.info["preprocessing"]["slice_step_mm"] = 5.0
    with pytest.raises(UsageError, match=r"\(slice_step_mm 5.0, not None\); prepare .* --like ") as raised:
        training.finetune(runs.load_run(run), other, tmp_path / "no")
    assert str(run) in str(raised.value)


def test_fine_tuning_refuses_before_pytorch_is_loaded(store, tmp_path):
    """The store was cut with the paper's settings, the network that ships with others."""
    lines = ["import sys", "from training_cli.cli import main",
             f"code = main(['finetune', 'lung-head-neck', {str(store)!r}, '--output', {str(tmp_path / 'no')!r}])",
             "print(code, 'torch' in sys.modules)"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "CNNSurvival"), str(ROOT)])}
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == "2 False"
    assert "(slice_step_mm None, not 3.0)" in found.stderr and "prepare ... --like lung-head-neck'" in found.stderr
    assert not (tmp_path / "no").exists()


def test_departures_do_what_they_say(store):
    from training_cli.training import train as training

    cohort = open_store(store)
    examples = training.training_examples(cohort, np.array([0.0, 300.0, 600.0, 1200.0]), None)
    settings = training.Settings(balanced=3)
    drawn = examples.owners[training.epoch_order(examples, settings, 0)]
    assert len(drawn) == 36 and all(np.count_nonzero(drawn == owner) == 3 for owner in cohort.patient_ids)
    images = training.augmented(examples.images, np.random.default_rng(0))
    assert images.shape == examples.images.shape and not np.array_equal(images, examples.images)
    for before, after in zip(examples.images, images):
        assert np.count_nonzero(after) == np.count_nonzero(before)
    once = training.Settings()
    assert sorted(training.epoch_order(examples, once, 4)) == list(range(len(examples.images)))
    assert once.departures(training.PAPER) == []


def test_mistakes_are_named(run, store, tmp_path, capsys):
    assert main(["pretrain", str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert "is not a store" in capsys.readouterr().err
    assert main(["finetune", str(store), str(store), "--output", str(tmp_path / "x")]) == 2
    assert "holds no trained network" in capsys.readouterr().err
    patients = tmp_path / "patients.csv"
    patients.write_text("patient_id,part\nm001,test\n")
    call = ["finetune", str(run), str(store), "--output", str(tmp_path / "x"), "--patients", str(patients), "--part"]
    assert main([*call, "finetune"]) == 2
    assert "lists no patient with part 'finetune'" in capsys.readouterr().err
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "checkpoint.npz").write_bytes(b"no checkpoint")
    assert main(["pretrain", str(store), "--output", str(tmp_path / "broken"), *SHORT]) == 1
    assert "delete it" in capsys.readouterr().err


def test_a_cohort_without_deaths_is_refused(store, tmp_path):
    from training_cli.training import train as training

    cohort = open_store(store)
    alive = cohort.part(cohort.patients.index[cohort.patients["event"] == 0])
    with pytest.raises(CNNSurvivalError, match="died; hazards cannot be learned"):
        training.training_examples(alive, np.array([0.0, 500.0]), None)


def test_one_row_of_weights_for_all_intervals_stays_one(store, tmp_path):
    from training_cli.training import train as training

    settings = training.Settings(epochs=2, batch=8, best_slices=None, shared_output=True, hidden_bias=0.5,
                                 marginal_start=True, dropout_from=3, output_start=0.5, refit_biases=True,
                                 learning_rate=1e-3)  # fmt: skip
    run = training.pretrain(open_store(store), tmp_path / "run", settings, tell=lambda text: None)
    rows, biases = run.weights["output.weight"], run.weights["output.bias"]
    assert (rows == rows[0]).all() and len(set(biases)) > 1
    assert "dropout_from = 3 (paper: 1)" in run.info["departures"]
    assert "shared_output = True (paper: False)" in run.info["departures"]


def test_a_zoomed_tumour_is_the_same_one_in_another_size():
    from training_cli.training import train as training

    y, x = np.mgrid[:140, :140] - 69.5
    image = np.where(np.hypot(y, x) < 25, 100 + x, 0).astype(np.uint8)
    for factor in (0.6, 1.0, 1.6):
        expected = np.where(np.hypot(y, x) < 25 * factor, 100 + x / factor, 0)
        inside = np.hypot(y, x) < 25 * factor - 2
        found = training.zoomed(image, factor)
        assert abs(np.count_nonzero(found) / np.count_nonzero(expected) - 1) < 0.02
        assert np.abs(found.astype(float) - expected)[inside].max() <= 1
    assert np.array_equal(training.zoomed(image, 1.0), image)
    assert np.array_equal(training.zoomed(np.full((140, 140), 7, np.uint8), 3.0), np.full((140, 140), 7))


def test_the_penalty_on_growth_is_of_larger_tumours_that_are_safer():
    import torch

    from training_cli.training import train as training

    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-2.0, -1.0], [4.0, 4.0]])  # falls by 1.5; rises by 3
    assert float(training._safer_by_growing(logits)) == pytest.approx(1.5 / 2)
    assert float(training._safer_by_growing(-logits)) == pytest.approx(3.0 / 2)


def test_tumours_in_two_sizes_cover_the_range_and_the_second_is_larger():
    from training_cli.training import train as training

    y, x = np.mgrid[:140, :140] - 69.5
    images = np.stack([np.where(np.hypot(y, x) < 25, 100, 0).astype(np.uint8)] * 60)
    small, large = training.in_two_sizes(images, np.random.default_rng(0))
    first, second = (np.sqrt(np.count_nonzero(x, axis=(1, 2))) for x in (small, large))
    assert (second > first).all() and (second / first < 1.55).all()
    assert first.min() < 25 and first.max() > 100


def test_refitted_biases_are_of_highest_likelihood_with_patients_counted_alike(run, store):
    from CNNSurvivalLib.engines import NumpyEngine
    from CNNSurvivalLib.hazards import hazards_from_logits
    from training_cli.training import runs
    from training_cli.training import train as training

    cohort, parent = open_store(store), runs.load_run(run)
    examples = training.training_examples(cohort, parent.edges_days, None)
    twice = np.concatenate([np.arange(24), [0, 0, 0]])  # the first patient has more slices than the others
    more = training.Examples(*(getattr(examples, name)[twice] for name in ("images", "survived", "died", "owners")))
    one, two = (training.with_fitted_biases(parent.weights, x) for x in (examples, more))
    assert all(np.array_equal(one[name], parent.weights[name]) for name in one if name != "output.bias")
    hazards = hazards_from_logits(NumpyEngine(one).logits(NumpyEngine(one).features(examples.images)))
    died, survived = examples.died / 2, examples.survived / 2  # two slices of each patient
    expected = ((died + survived) * hazards).sum(0)
    # Half a death and half a survivor come to each interval.
    known = expected - died.sum(0) + hazards.mean(0) - 0.5
    assert np.abs(known).max() < 0.02
    assert np.isfinite(two["output.bias"]).all() and np.abs(two["output.bias"] - one["output.bias"]).max() < 0.05
