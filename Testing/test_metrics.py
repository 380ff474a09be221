"""Metrics equal R's (riskRegression, survival), scikit-survival's and closed forms."""

import numpy as np
import pandas as pd
import pytest

from CNNSurvivalLib.errors import CNNSurvivalError
from training_cli.cli import main
from training_cli.evaluation import metrics

HORIZONS = (180.0, 365.0, 547.875, 730.0)


def cohort(n=60, seed=0):
    random = np.random.default_rng(seed)
    risk = random.uniform(0.05, 0.95, n).round(2)  # with ties
    time = np.ceil(random.exponential(600 * (1.2 - risk)))
    limit = np.ceil(random.uniform(50, 1500, n))
    return np.minimum(time, limit), time <= limit, risk


@pytest.fixture
def lung(shared_data):
    """213 patients of survival::lung with a Cox model's risks; what R says of them."""
    folder = shared_data("reference")
    table = pd.read_csv(folder / "lung_predictions.csv")
    return table, pd.read_csv(folder / "riskregression_reference.csv").set_index(["model", "time"])


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("model", ["cox", "bad"])
def test_scores_are_riskregressions(lung, model, horizon):
    table, expected = lung
    time, event = table["time"].to_numpy(float), table["event"].to_numpy() == 1
    risk = table[f"risk_cox_{horizon:g}"].to_numpy()
    risk = risk if model == "cox" else 1 - risk
    row = expected.loc[(model, horizon)]
    assert metrics.brier(time, event, risk, horizon) == pytest.approx(row["brier"], abs=1e-9)
    assert metrics.ipa(time, event, risk, horizon) == pytest.approx(row["ipa"], abs=1e-9)
    assert metrics.auc(time, event, risk, horizon) == pytest.approx(row["auc"], abs=1e-9)
    assert metrics.brier_null(time, event, horizon) == pytest.approx(expected.loc[("Null model", horizon), "brier"])


def test_concordance_is_rs(lung):
    table, _ = lung
    found = metrics.concordance(table["time"], table["event"], table["risk_cox_547.875"])
    assert found == pytest.approx(0.646705882353, abs=1e-12)


def test_concordance_is_scikit_survivals():
    measure = pytest.importorskip("sksurv.metrics").concordance_index_censored
    for seed in range(5):
        time, event, risk = cohort(seed=seed)
        assert metrics.concordance(time, event, risk) == pytest.approx(measure(event, time, risk)[0], abs=1e-12)


def test_by_hand():
    """Four patients: deaths on day 1, 2, 3 and one alive on day 4; one of six pairs is ranked wrongly, one tied."""
    time, event = [1, 2, 3, 4], [1, 1, 1, 0]
    assert metrics.concordance(time, event, [0.9, 0.4, 0.5, 0.4]) == pytest.approx((6 - 1 - 0.5) / 6)
    assert metrics.brier(time, event, [1, 1, 0, 0], 2.5) == 0
    assert metrics.brier(time, event, [0.5] * 4, 2.5) == 0.25
    assert metrics.ipa(time, event, [1, 1, 0, 0], 2.5) == 1
    assert metrics.auc(time, event, [0.9, 0.8, 0.1, 0.8], 2.5) == pytest.approx((4 - 0.5) / 4)
    survival = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert metrics.integrated_brier(time, event, survival, [0.5, 2.5]) == 0


def test_a_resample_is_scored_as_the_patients_that_it_holds():
    """The shortcut for all resamples at once against scoring each as a cohort of its own."""
    time, event, risk = cohort(40)
    counts = metrics.resamples(40, 6, seed=3)
    assert (counts.sum(axis=1) == 40).all()
    found = metrics._all(time, event, risk, 400.0, counts)
    for number, row in enumerate(counts.astype(int)):
        own = [np.repeat(x, row) for x in (time, event, risk)]
        assert found["concordance"][number] == pytest.approx(metrics.concordance(*own), abs=1e-12)
        assert found["ipa"][number] == pytest.approx(metrics.ipa(*own, 400.0), abs=1e-12)
        assert found["brier"][number] == pytest.approx(metrics.brier(*own, 400.0), abs=1e-12)
        assert found["auc"][number] == pytest.approx(metrics.auc(*own, 400.0), abs=1e-12)


def test_intervals_hold_the_value_and_follow_the_seed():
    time, event, risk = cohort(80)
    rows = metrics.score_predictions(time, event, {365.0: risk}, bootstrap=300, seed=1)
    assert [row["metric"] for row in rows] == list(metrics.METRICS)
    for row in rows:
        assert row["ci_low"] < row["value"] < row["ci_high"]
    assert rows == metrics.score_predictions(time, event, {365.0: risk}, bootstrap=300, seed=1)
    assert rows != metrics.score_predictions(time, event, {365.0: risk}, bootstrap=300, seed=2)


def test_a_model_does_not_differ_from_itself():
    time, event, risk = cohort(50)
    for row in metrics.difference(time, event, risk, risk, 365.0, bootstrap=50):
        assert row["value"] == row["ci_low"] == row["ci_high"] == 0


def test_what_is_undefined_is_said_to_be():
    time, event = np.array([100.0, 900.0, 950.0]), np.array([False, True, True])
    said = []
    with metrics.warnings_told(said.append):
        rows = metrics.score_predictions(time, event, {400.0: np.array([0.1, 0.2, 0.3])}, bootstrap=5)
    assert "auc at 400 days is not defined for these patients." in said
    assert {row["metric"]: row["value"] for row in rows}["auc"] is None
    with pytest.raises(CNNSurvivalError, match="Nobody was followed beyond the horizon of 1000 days"):
        metrics.score_predictions(time, event, {1000.0: np.array([0.1, 0.2, 0.3])}, bootstrap=5)


def test_calibration_of_risks_that_are_right():
    pytest.importorskip("lifelines")
    random = np.random.default_rng(0)
    risk = random.uniform(0.1, 0.9, 4000)
    time = np.where(random.uniform(size=4000) < risk, 100.0, 500.0)
    table = metrics.calibration(time, np.ones(4000, bool), risk, 300.0, groups=4)
    assert list(table["patients"]) == [1000] * 4
    assert np.allclose(table["mean_predicted"], table["observed"], atol=0.04)
    assert (table["ci_low"] < table["observed"]).all() and (table["observed"] < table["ci_high"]).all()


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def predictions(tmp_path):
    pytest.importorskip("lifelines")
    time, event, risk = cohort(60)
    table = pd.DataFrame({"patient_id": [f"p{k}" for k in range(60)], "time_days": time, "event": event.astype(int),
                          "risk_365": risk, "risk_547.875": np.sqrt(risk), "other": "x"})  # fmt: skip
    table.to_csv(tmp_path / "predictions.csv", index=False)
    return table, tmp_path / "predictions.csv"


def test_evaluate_scores_anyones_predictions(predictions, tmp_path):
    table, path = predictions
    out = tmp_path / "out"
    call = ["evaluate", "--predictions", str(path), "--horizons", "365,547.875", "--bootstrap", "50"]
    assert main([*call, "--output", str(out)]) == 0
    found = pd.read_csv(out / "metrics.csv")
    assert list(found) == ["metric", "horizon_days", "value", "ci_low", "ci_high"]
    assert set(found["metric"]) == {"concordance", "ipa", "brier", "auc", "integrated_brier"}
    value = found.set_index(["metric", "horizon_days"])["value"]
    expected = metrics.brier(table["time_days"], table["event"], table["risk_547.875"], 547.875)
    assert value[("brier", 547.875)] == pytest.approx(expected)
    between = metrics.brier(table["time_days"], table["event"], table["risk_365"], 365.0)
    assert value[("integrated_brier", 547.875)] == pytest.approx((expected + between) / 2)
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_csv(out / "calibration_365.csv")) == 5


@pytest.mark.parametrize(
    "column, row, value, words",
    [
        ("time_days", 3, -4, "patient 'p3' has the time '-4.0'"),
        ("event", 5, 2, "patient 'p5' has the event '2'"),
        ("risk_365", 7, 1.2, "patient 'p7' has risk_365 = '1.2'"),
        ("risk_365", 8, np.nan, "patient 'p8' has risk_365"),
        ("patient_id", 9, "p1", "lists the patient 'p1' more than once"),
    ],
)
def test_bad_tables_are_named(predictions, tmp_path, capsys, column, row, value, words):
    table, path = predictions
    table = table.astype({column: object} if column == "patient_id" else {column: float})
    table.loc[row, column] = value
    if column == "event":
        table["event"] = table["event"].astype(int)
    table.to_csv(path, index=False)
    assert main(["evaluate", "--predictions", str(path), "--output", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_horizon_without_a_column_is_named(predictions, tmp_path, capsys):
    call = ["evaluate", "--predictions", str(predictions[1]), "--horizons", "30", "--output", str(tmp_path / "out")]
    assert main(call) == 2
    assert "has no column risk_30; it has risks at 365, 547.875 days" in capsys.readouterr().err
