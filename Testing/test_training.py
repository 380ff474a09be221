"""The script that trained the first bundle: it learns, from the slices that it says, the same each time."""

import numpy as np
import pytest

from CNNSurvivalLib.bundle import save_bundle
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.hazards import exponential_edges
from CNNSurvivalLib.slices import axial_geometry, extract_slices

torch = pytest.importorskip("torch")


@pytest.fixture
def script():
    from training_cli import train_first_bundle

    return train_first_bundle


@pytest.fixture
def patients(script, sphere):
    """Eight patients: the larger the tumour, the sooner the death."""
    cohort = []
    for number, radius in enumerate((10, 12, 14, 16, 18, 20, 22, 24)):
        hu, mask = sphere(radius_mm=radius, shape=(18, 60, 60), seed=number)
        slices = extract_slices(hu, mask, axial_geometry((3.0, 1.0, 1.0)))
        cohort.append(script.Patient(2000.0 - 80 * radius, int(number % 4 != 0), slices))
    return cohort


def test_the_cohorts_best_slices_carry_their_patients_outcome(script, patients, monkeypatch):
    monkeypatch.setattr(script, "BEST_SLICES", 20)
    images, survived, died = script.training_slices(patients, exponential_edges())
    assert images.shape == (20, 140, 140) and survived.shape == died.shape == (20, 19)
    rows = {image.tobytes(): p for p in patients for image in p.slices.images}
    for image, row in zip(images, died):
        assert row.sum() == rows[image.tobytes()].event


def test_training_lowers_the_loss_and_repeats_itself(script, patients):
    images, survived, died = script.training_slices(patients, exponential_edges())
    runs = [script.pretrain(images[:24], survived[:24], died[:24], epochs=2, seed=7) for _ in range(2)]
    losses = runs[0][1]
    assert losses[1] < losses[0] and losses == runs[1][1]
    a, b = (script.net.network_weights(network) for network, _ in runs)
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_finetuning_changes_the_last_layer_only(script, patients):
    slices = [x[:16] for x in script.training_slices(patients, exponential_edges())]
    network, _ = script.pretrain(*slices, epochs=1, seed=1)
    before = script.net.network_weights(network)
    losses = script.finetune(network, *slices, seed=1)
    after = script.net.network_weights(network)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"output.weight", "output.bias"} and losses[-1] < losses[0]


def test_what_it_writes_is_a_bundle_that_says_what_it_is(script, patients, tmp_path):
    import argparse

    edges = exponential_edges()
    slices = [x[:16] for x in script.training_slices(patients, edges)]
    network, losses = script.pretrain(*slices, epochs=1, seed=1)
    engine = NumpyEngine(script.net.network_weights(network))
    risk = np.array([script.patient_risk(engine, p, edges) for p in patients])
    values = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "horizon_days": None}
    metrics = [{"name": name, "cohort": "test", **values} for name in ("concordance", "area alone")]
    options = argparse.Namespace(epochs=1, seed=1)
    info = script.bundle_info(
        edges, patients, ["no slice"], patients, [], risk, metrics, 16, (losses, losses), options, engine
    )
    bundle = save_bundle(tmp_path / "bundle", info, script.net.network_weights(network))
    assert bundle.info["cohorts"][0]["patients"] == 8 and bundle.info["cohorts"][0]["events"] == 6
    assert bundle.info["card"]["intended_use"].startswith("Research use only")
    assert bundle.risk_percentile(risk.max() + 0.01) == 100
    times, survival = bundle.kaplan_meier
    assert np.allclose(np.diff(times), 30.4375) and survival[-1] < 1
