"""The comparisons: LASSO-Cox finds what matters and only uses training patients; PyRadiomics' features."""

import json

import numpy as np
import pandas as pd
import pytest

from cohort_maker import make_images, make_store

pytest.importorskip("sksurv")

from training_cli import baselines, metrics
from training_cli.cli import main
from training_cli.store import open_store


def features(n=120, noise=150, seed=0):
    """One feature that matters among many that do not; times and events."""
    random = np.random.default_rng(seed)
    x = pd.DataFrame(random.normal(size=(n, noise))).add_prefix("noise_")
    x["matters"] = random.normal(size=n)
    x["constant"] = 3.0
    time = random.exponential(600 * np.exp(-1.2 * x["matters"]))
    limit = random.uniform(100, 2500, n)
    return x, np.minimum(time, limit), time <= limit


def test_lasso_cox_keeps_what_matters_and_ranks_new_patients():
    x, time, event = features()
    model = baselines.fit_lasso_cox(x[:80], time[:80], event[:80])
    assert max(model.coefficients, key=lambda name: abs(model.coefficients[name])) == "matters"
    assert model.coefficients["matters"] > 0 and len(model.coefficients) < 40
    risk = model.risk(x[80:], 500.0)
    assert ((risk >= 0) & (risk <= 1)).all() and metrics.concordance(time[80:], event[80:], risk) > 0.65
    assert (model.risk(x[80:], 900.0) >= risk).all()


def test_noise_alone_gives_chance():
    x, time, event = features()
    noise = x.drop(columns="matters")
    model = baselines.fit_lasso_cox(noise[:80], time[:80], event[:80])
    assert abs(metrics.concordance(time[80:], event[80:], model.risk(noise[80:], 500.0)) - 0.5) < 0.2


def test_cox_is_scikit_survivals_and_lifelines():
    lifelines = pytest.importorskip("lifelines")
    x, time, event = features()
    model = baselines.fit_cox(x[["matters"]], time, event)
    table = pd.DataFrame({"x": (x["matters"] - x["matters"].mean()) / x["matters"].std(ddof=0), "t": time, "e": event})
    fitted = lifelines.CoxPHFitter().fit(table, "t", "e")
    assert model.coefficients["matters"] == pytest.approx(fitted.params_["x"], abs=2e-3)
    at = 1 - fitted.predict_survival_function(table[["x"]], times=[400.0]).to_numpy()[0]
    np.testing.assert_allclose(model.risk(x, 400.0), at, atol=0.02)  # lifelines interpolates between deaths


def test_a_model_without_features_gives_everybody_the_kaplan_meier_risk():
    x, time, event = features(noise=2)
    model = baselines.fit_lasso_cox(x, time, event)
    empty = baselines.CoxModel([], {}, 1.0, model.medians, None, model.curve)
    risk = empty.risk(x, 500.0)
    assert len(set(risk)) == 1 and metrics.ipa(time, event, risk, 500.0) == pytest.approx(0, abs=1e-12)


def test_missing_values_and_stages():
    patients = pd.DataFrame({"age_years": [60, None, 70], "t_stage": ["T2a", "T1", "pT3"], "m_stage": ["M0"] * 3,
                             "n_stage": ["?", "", "unknown"]})  # fmt: skip
    found = baselines.clinical_features(patients)
    assert list(found) == ["age_years", "t_stage", "m_stage"] and list(found["t_stage"]) == [2, 1, 3]


def test_the_command_writes_predictions_and_what_was_selected(tmp_path, capsys):
    store = make_store(tmp_path / "store", patients=40, slices=1, signal=1.5)
    patients = open_store(store).patient_ids
    split = pd.DataFrame({"patient_id": patients, "part": ["finetune"] * 25 + ["test"] * 15})
    split.to_csv(tmp_path / "split.csv", index=False)
    parts = []
    for name, part in (("train", "finetune"), ("test", "test")):
        parts += [f"--{name}", str(store), f"--{name}-patients", str(tmp_path / "split.csv"), f"--{name}-part", part]
    out = tmp_path / "out"
    assert main(["baselines", *parts, "--models", "volume,clinical,outputs", "--output", str(out)]) == 0
    assert "'outputs' is left out" in capsys.readouterr().out
    table = pd.read_csv(out / "predictions_volume.csv")
    assert list(table["patient_id"]) == patients[25:] and "risk_547.875" in table
    assert json.loads((out / "baselines.json").read_text())["volume"]["patients"] == 25
    assert set(pd.read_csv(out / "selected_features.csv")["model"]) == {"volume", "clinical"}
    assert main(["evaluate", "--predictions", str(out / "predictions_volume.csv"), "--output", str(out)]) == 0


def test_radiomics_features_and_their_cache(tmp_path, monkeypatch):
    pytest.importorskip("radiomics", reason="PyRadiomics (extra 'radiomics') is not installed")
    from training_cli import radiomics

    monkeypatch.setattr(radiomics, "IMAGE_TYPES", {"Original": {}, "Square": {}})
    data = make_images(tmp_path / "data", 4)
    assert main(["prepare", str(data / "manifest.csv"), "--output", str(tmp_path / "store")]) == 3
    store = open_store(tmp_path / "store")
    found = radiomics.cohort_features(store, tmp_path / "features.csv")
    assert found.shape == (3, 14 + 2 * 93)
    volume = found["original_shape_VoxelVolume"] / 1000
    np.testing.assert_allclose(volume, store.patients["volume_cc"], rtol=0.1)  # resampled to 1 mm
    monkeypatch.setattr(radiomics, "case_features", None)  # nothing is computed twice
    pd.testing.assert_frame_equal(radiomics.cohort_features(store, tmp_path / "features.csv"), found)
