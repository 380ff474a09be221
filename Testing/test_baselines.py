"""The models that the network is compared with: they find what was planted, and equal other implementations."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.hazards import kaplan_meier
from cohort_maker import make_store
from training_cli.cli import main
from training_cli.cohort.store import open_store
from training_cli.evaluation.metrics import concordance, ipa

pytest.importorskip("sksurv")
baselines = pytest.importorskip("training_cli.evaluation.baselines")

HORIZON = 547.875


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(make_store(tmp_path_factory.mktemp("cohort") / "store", patients=80, slices=1))


@pytest.fixture
def parts(store):
    return store.part(store.patient_ids[:50]), store.part(store.patient_ids[50:])


def planted(patients=368, features=60, strength=0.8, seed=0):
    """(features, time, event): the first of the features shortens life, the others do nothing."""
    random = np.random.default_rng(seed)
    x = pd.DataFrame(random.normal(size=(patients, features))).add_prefix("f")
    time = random.exponential(900 * np.exp(-strength * x["f0"].to_numpy()))
    limit = random.uniform(300, 3000, patients)
    return x, np.ceil(np.minimum(time, limit)), time <= limit


def log_volume(store):
    return pd.DataFrame({"log_volume_cc": np.log(store.patients["volume_cc"])})


# lifelines 0.30.3, CoxPHFitter() of planted(80, 2): coefficients, log partial likelihood, and the risks of the first
# four patients at the 21st death (there are no ties)
LIFELINES = [0.9946596361725092, 0.04126224105686507], -196.40495730095134, [
    0.2441788904709361, 0.37605726139103757, 0.13755668599183413, 0.6112966070893701,
]  # fmt: skip


def test_plain_cox_equals_lifelines():
    x, time, event = planted(80, 2)
    coefficients, _, risks = LIFELINES
    ours = baselines.fit_cox(x, time, event)
    found = [ours.coefficients[name] / x[name].std(ddof=0) for name in x]
    assert found == pytest.approx(coefficients, rel=1e-3)
    at = float(np.sort(time[event])[20])  # a death: lifelines draws lines between them
    np.testing.assert_allclose(ours.risk(x.iloc[:4], at), risks, atol=2e-4)


def test_the_partial_likelihood_equals_lifelines_and_is_the_rule_for_ties():
    x, time, event = planted(80, 2)
    coefficients, likelihood, _ = LIFELINES
    found = baselines.partial_log_likelihood(time, event, x.to_numpy() @ coefficients)
    assert found == pytest.approx(likelihood, abs=1e-6)
    # Two die at once among three: each against all three.
    tied = baselines.partial_log_likelihood(np.array([1.0, 1.0, 2.0]), np.array([True, True, False]), np.zeros(3))
    assert tied == pytest.approx(-2 * np.log(3))


def test_lasso_cox_finds_the_planted_feature_and_says_how_strong_it_is():
    x, time, event = planted()
    train, test = np.arange(len(x)) < 68, np.arange(len(x)) >= 68
    model = baselines.fit_lasso_cox(x[train], time[train], event[train])
    assert max(model.coefficients, key=lambda name: abs(model.coefficients[name])) == "f0"
    risk = model.risk(x[test], HORIZON)
    assert concordance(time[test], event[test], risk) > 0.65
    # A penalty chosen by concordance, which is blind to shrinkage, ended at 0.06 here.
    assert ipa(time[test], event[test], risk, HORIZON) > 0.1


def test_the_same_seed_gives_the_same_model():
    x, time, event = planted(68)
    first, second = (baselines.fit_lasso_cox(x, time, event, seed=3) for _ in range(2))
    assert first.coefficients == second.coefficients and first.penalty == second.penalty


def test_of_noise_hardly_anything_is_kept():
    x, time, event = planted(68, 200, strength=0.0)
    kept = baselines.fit_lasso_cox(x, time, event).coefficients
    assert len(kept) < 10


def test_a_model_without_features_gives_everybody_the_cohorts_own_risk():
    x, time, event = planted(68, 3)
    model = replace(baselines.fit_lasso_cox(x, time, event), coefficients={}, pipeline=None)
    times, survival = kaplan_meier(time, event)
    expected = 1 - survival[np.searchsorted(times, HORIZON, side="right") - 1]
    np.testing.assert_allclose(model.risk(x, HORIZON), expected)
    assert np.all(model.risk(x, times[0] - 0.5) == 0)


def test_risks_rise_with_the_horizon_from_none_to_the_last_known(parts):
    train, test = parts
    model = baselines.fit_cox(log_volume(train), train.time, train.event)
    x = log_volume(test)
    risks = [model.risk(x, days) for days in (0.1, 200.0, HORIZON, 2000.0, 1e6, 1e7)]
    assert np.all(np.diff(risks, axis=0) >= 0)
    assert np.all(risks[0] == 0), "nobody has died before the first time of the training patients"
    np.testing.assert_array_equal(risks[-2], risks[-1])


def test_gaps_and_infinite_values_of_those_to_predict_are_the_training_median():
    x, time, event = planted(100)
    model = baselines.fit_lasso_cox(x, time, event)
    odd = x.iloc[:3].copy()
    odd.loc[0, "f0"], odd.loc[1, "f0"], odd.loc[2, "f0"] = np.nan, np.inf, x["f0"].median()
    plain = x.iloc[[0, 1, 2]].assign(f0=x["f0"].median())
    np.testing.assert_allclose(model.risk(odd, HORIZON), model.risk(plain, HORIZON))


def test_features_that_do_not_vary_are_left_out():
    x, time, event = planted(68, 3)
    model = baselines.fit_lasso_cox(x.assign(flat=7.0, empty=np.nan), time, event)
    assert not {"flat", "empty"} & set(model.columns)
    with pytest.raises(CNNSurvivalError, match="None of the features varies"):
        baselines.fit_lasso_cox(pd.DataFrame({"flat": np.ones(68)}), time, event)


@pytest.mark.parametrize("fit", [baselines.fit_cox, baselines.fit_lasso_cox])
def test_without_deaths_there_is_a_sentence(fit):
    x, time, event = planted(30, 3)
    with pytest.raises(CNNSurvivalError, match="needs deaths"):
        fit(x, time, np.zeros_like(event))


def test_stages_are_read_as_they_are_written():
    table = pd.DataFrame({"t_stage": ["T2a", "3", None, "1b"], "n_stage": [0, 1, 2, 3], "histology": list("abcd")})
    found = baselines.clinical_features(table)
    assert list(found) == ["t_stage", "n_stage"]
    np.testing.assert_array_equal(found["t_stage"], [2, 3, np.nan, 1])


# --- The whole --------------------------------------------------------------------------------------------------------


def test_what_is_written_is_what_evaluate_reads(parts, tmp_path):
    train, test = parts
    fitted = baselines.run(train, test, tmp_path, models=("volume", "clinical"), horizons=(365, HORIZON))
    assert list(fitted) == ["volume", "clinical"]
    table = pd.read_csv(tmp_path / "predictions_volume.csv").set_index("patient_id")
    assert list(table) == ["time_days", "event", "risk_365", "risk_547.875"]
    assert list(table.index) == test.patient_ids
    assert table["risk_547.875"].between(0, 1).all()
    # A model of one feature ranks the patients as the feature does.
    scores = table["risk_547.875"].to_numpy(), test.patients["volume_cc"].to_numpy()
    ranked = [concordance(test.time, test.event, score) for score in scores]
    assert ranked[0] == pytest.approx(ranked[1]) and ranked[0] > 0.6
    selected = pd.read_csv(tmp_path / "selected_features.csv")
    assert set(selected["model"]) == {"volume", "clinical"} and (selected["coefficient"] != 0).all()
    facts = json.loads((tmp_path / "baselines.json").read_text())
    assert facts["volume"]["patients"] == 50 and facts["volume"]["deaths"] == int(train.event.sum())


def test_what_becomes_of_those_to_predict_changes_no_prediction(parts, tmp_path):
    train, test = parts
    other = replace(test, patients=test.patients.assign(time_days=1.0, event=1))
    for name, patients in (("one", test), ("two", other)):
        baselines.run(train, patients, tmp_path / name, models=("volume",))
    one, two = (pd.read_csv(tmp_path / name / "predictions_volume.csv") for name in ("one", "two"))
    pd.testing.assert_series_equal(one["risk_547.875"], two["risk_547.875"])


def test_a_patient_cannot_be_fitted_on_and_predicted(store, tmp_path):
    with pytest.raises(UsageError, match="'m000'"):
        baselines.run(store, store, tmp_path, models=("volume",))


def test_a_column_that_one_table_lacks_is_done_without(parts, tmp_path):
    train, test = parts
    train = replace(train, patients=train.patients.assign(t_stage=1 + np.arange(50) % 4))
    said = []
    fitted = baselines.run(train, test, tmp_path, models=("clinical",), tell=said.append)
    assert fitted["clinical"].columns == ["age_years"]
    assert len(said) == 1 and "t_stage" in said[0]
    bare = replace(test, patients=test.patients.drop(columns="age_years"))
    assert baselines.run(train, bare, tmp_path, models=("clinical",), tell=said.append) == {}
    assert "left out" in said[1]


def test_the_networks_outputs_are_asked_for_where_they_are_missing(parts, tmp_path):
    said = []
    baselines.run(*parts, tmp_path, models=("outputs", "volume"), tell=said.append)
    assert len(said) == 1 and "--network" in said[0]


def test_the_command(store, tmp_path, capsys):
    split = pd.DataFrame({"patient_id": store.patient_ids, "part": ["finetune"] * 50 + ["test"] * 30})
    split.to_csv(tmp_path / "split.csv", index=False)
    part = ["--train-patients", str(tmp_path / "split.csv"), "--train-part", "finetune",
            "--test-patients", str(tmp_path / "split.csv"), "--test-part", "test"]  # fmt: skip
    where = ["--train", str(store.folder), "--test", str(store.folder), "--output", str(tmp_path / "out")]
    assert main(["baselines", *where, *part, "--models", "volume"]) == 0
    assert len(pd.read_csv(tmp_path / "out" / "predictions_volume.csv")) == 30
    assert main(["baselines", *where, "--models", "volume"]) == 2
    assert "one part" in capsys.readouterr().err
    assert main(["baselines", *where, "--models", "volum"]) == 2
    assert "'volum'" in capsys.readouterr().err
