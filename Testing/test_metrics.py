"""Metrics equal those of R (riskRegression, survival, timeROC, rms), scikit-survival, SurvivalEVAL, dcurves and
statsmodels, and closed forms. Values of programs that are not installed stand here as numbers, with the version."""

import numpy as np
import pandas as pd
import pytest

from CNNSurvivalLib.errors import CNNSurvivalError
from training_cli.cli import main
from training_cli.evaluation import calibration, metrics

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
        for name in ("ipa", "brier", "auc", "uno_concordance", "integrated_auc", "oe_ratio"):
            assert found[name][number] == pytest.approx(getattr(metrics, name)(*own, 400.0), abs=1e-12), name
        for name in ("calibration_intercept", "calibration_slope"):
            assert found[name][number] == pytest.approx(getattr(metrics, name)(*own, 400.0), abs=1e-6), name
        assert set(found) == set(metrics.METRICS)


def test_the_smooth_curve_of_a_resample_is_that_of_the_patients_that_it_holds():
    """With the knots of all patients, so where the spline is a line (few distinct risks)."""
    time, event, _ = cohort(60)
    risk = np.random.default_rng(0).choice([0.2, 0.4, 0.7], 60)
    counts = metrics.resamples(60, 5, seed=2)
    found = metrics._errors(time, event, risk, 400.0, counts)
    for number, row in enumerate(counts.astype(int)):
        expected = metrics.calibration_errors(*(np.repeat(x, row) for x in (time, event, risk)), 400.0)
        for name, value in expected.items():
            assert found[name][number] == pytest.approx(value, abs=1e-7)


def test_quantiles_of_repeated_values_are_numpys():
    random = np.random.default_rng(0)
    values, counts = random.random((20, 9)), random.integers(0, 4, (20, 9))
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        expected = [np.quantile(np.repeat(v, c), share) for v, c in zip(values, counts)]
        np.testing.assert_allclose(calibration.weighted_quantile(values, counts, share), expected)


def test_many_patients_and_resamples_are_worked_through_in_blocks(monkeypatch):
    time, event, risk = cohort(50)
    counts = metrics.resamples(50, 9, seed=1)
    whole = metrics._all(time, event, risk, 365.0, counts)
    monkeypatch.setattr(metrics, "CELLS", 120)
    for name, values in metrics._all(time, event, risk, 365.0, counts).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-9)


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
    rows = metrics.difference(time, event, risk, risk, 365.0, bootstrap=50)
    assert [row["metric"] for row in rows] == list(metrics.METRICS)
    for row in rows:
        assert row["value"] == row["ci_low"] == row["ci_high"] == 0


def test_differences_are_paired():
    """Of two models that differ by a shift alone, the difference in O/E varies far less than either does."""
    time, event, risk = cohort(80)
    other = np.clip(risk * 0.9, 0, 1)
    found = {row["metric"]: row for row in metrics.difference(time, event, risk, other, 365.0, bootstrap=200)}
    assert found["concordance"]["value"] == found["concordance"]["ci_high"] == 0
    alone = metrics.score_predictions(time, event, {365.0: risk}, bootstrap=200)
    width = {row["metric"]: row["ci_high"] - row["ci_low"] for row in alone}
    row = found["oe_ratio"]
    assert row["value"] == pytest.approx(
        metrics.oe_ratio(time, event, risk, 365.0) - metrics.oe_ratio(time, event, other, 365.0)
    )
    assert row["ci_high"] - row["ci_low"] < width["oe_ratio"] / 3


def test_what_is_undefined_is_said_to_be():
    time, event = np.array([100.0, 900.0, 950.0]), np.array([False, True, True])
    said = []
    with metrics.warnings_told(said.append):
        rows = metrics.score_predictions(time, event, {400.0: np.array([0.1, 0.2, 0.3])}, bootstrap=5)
    assert "auc at 400 days is not defined for these patients." in said
    assert {row["metric"]: row["value"] for row in rows}["auc"] is None
    with pytest.raises(CNNSurvivalError, match="Nobody was followed beyond the horizon of 1000 days"):
        metrics.score_predictions(time, event, {1000.0: np.array([0.1, 0.2, 0.3])}, bootstrap=5)


def test_without_resamples_there_are_no_intervals_and_no_words(recwarn):
    time, event, risk = cohort(40)
    rows = metrics.score_predictions(time, event, {365.0: risk, 500.0: risk}, bootstrap=0)
    rows += [metrics.integrated_brier_row(time, event, {365.0: risk, 500.0: risk}, bootstrap=0)]
    rows += metrics.difference(time, event, risk, 1 - risk, 365.0, bootstrap=0)
    assert all(row["value"] is not None and row["ci_low"] is row["ci_high"] is None for row in rows)
    for curve in (metrics.calibration_curve, metrics.decision_curve, metrics.auc_curve):
        assert curve(time, event, risk, 365.0, bootstrap=0)["ci_low"].isna().all()
    assert not recwarn.list


def test_what_is_undefined_in_resamples_is_said_once_for_each_metric():
    time, event, risk = cohort(8, seed=3)
    said = []
    with metrics.warnings_told(said.append):
        metrics.score_predictions(time, event, {200.0: risk, 300.0: risk}, bootstrap=60)
    names = [text.split()[0] for text in said]
    assert said and len(set(names)) == len(names)
    both = ("of 60 resamples at 200 days, ", "of 60 resamples at 300 days, which")
    assert any(all(words in text for words in both) for text in said)


def test_a_study_of_many_models_says_it_once_for_each_metric():
    said = []
    with metrics.warnings_told(said.append):
        for patients in (8, 9, 10):
            time, event, risk = cohort(patients, seed=3)
            metrics.score_predictions(time, event, {200.0: risk}, bootstrap=60)
            metrics.difference(time, event, risk, 1 - risk, 200.0, bootstrap=60)
    names = [text.split(" is not defined")[0] for text in said]
    assert said and len(set(names)) == len(names)
    for name in ("ipa", "The difference in ipa"):
        assert any(text.startswith(f"{name} is not defined in up to ") and "of 60 resamples" in text for text in said)


@pytest.mark.parametrize(
    "low, high, deaths, words",
    [
        (-0.1, 0.1, 7, "(7 deaths)"),
        (-2.5, 0.3, 40, "(an interval 2.8 wide)"),
        (-13.9, 0.1, 7, "(7 deaths, an interval 14.0 wide)"),
        (None, None, 19, "(19 deaths)"),
        (None, None, None, None),
        (-0.1, 0.3, 20, None),
    ],
)
def test_an_ipa_that_its_patients_cannot_carry_is_said_to_be_one(low, high, deaths, words):
    said = metrics.ipa_caution(low, high, deaths)
    assert said is None if words is None else words in said and "Collins et al. 2016" in said


def test_evaluate_says_that_few_patients_cannot_carry_an_ipa(tmp_path):
    from training_cli.evaluation.evaluate import evaluate

    for patients, expected in ((15, True), (400, False)):
        time, event, risk = cohort(patients)
        table = pd.DataFrame({"patient_id": [f"p{n}" for n in range(patients)], "time_days": time,
                              "event": event.astype(int), "risk_365": risk})  # fmt: skip
        said = []
        evaluate(table, [365.0], tmp_path / str(patients), bootstrap=50, tell=said.append)
        assert any("Collins et al. 2016" in text for text in said) is expected


def test_few_deaths_are_said_to_be_few():
    time, event, _ = cohort(60)
    deaths = int((event & (time <= 100)).sum())
    assert f"({deaths} by 100 days)" in metrics.small_sample(time, event, [100.0, 1000.0])
    assert metrics.small_sample(time, event, [1000.0]) is None
    days = np.arange(1.0, 31)
    assert metrics.small_sample(days, np.ones(30), [19.5]) and not metrics.small_sample(days, np.ones(30), [20.0])


def test_an_interval_needs_half_of_the_resamples():
    spread = np.arange(10.0)
    for missing, given in ((0, True), (5, True), (6, False), (10, False)):
        values = np.where(np.arange(10) < missing, np.nan, spread)
        low, high = metrics._intervals(values[:, None])
        assert np.isfinite([low[0], high[0]]).all() == given
        if given:
            assert (low[0], high[0]) == tuple(np.percentile(spread[missing:], [2.5, 97.5]))


# --- Referees ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def gbsg():
    """The 686 women of the German breast cancer study, with the 5-year risks of a model of the Rotterdam cohort.

    R's tutorial of McLernon et al. 2023 (Ann Intern Med 176:105; Prediction_performance_survival,
    03_predsurv_extended.md, R 4.3) has this model's scores. Its coefficients are lifelines' (0.30.3, Efron) on the
    tutorial's development data, its cumulative hazard at 5 years is Breslow's.
    """
    x, y = pytest.importorskip("sksurv.datasets").load_gbsg2()
    nodes = np.minimum(x["pnodes"].to_numpy(float), 19)
    at_0, at_1, at_9 = (np.clip(nodes - knot, 0, None) ** 3 for knot in (0, 1, 9))
    spline, size = (at_0 - at_1 * 9 / 8 + at_9 / 8) / 81, x["tsize"].to_numpy(float)
    columns = [(size > 20) & (size <= 50), size > 50, nodes, spline, x["tgrade"].astype(str) == "III"]
    predictor = np.column_stack(columns) @ [0.341842, 0.573555, 0.303965, -0.811167, 0.361710]
    return y["time"], y["cens"], 1 - np.exp(-0.218341 * np.exp(predictor))


def test_the_scores_that_r_publishes(gbsg):
    """survival (concordance, Uno's), timeROC, riskRegression, rms and stdca, to the digits that the tutorial prints."""
    time, event, risk = gbsg
    last = 5 * 365.25  # the tutorial ends follow-up at 5 years
    time, event = np.minimum(time, last), event & (time <= last)
    assert metrics.concordance(time, event, risk) == pytest.approx(0.652, abs=6e-4)
    assert metrics.uno_concordance(time, event, risk, last) == pytest.approx(0.635, abs=6e-4)
    assert metrics.auc(time, event, risk, 4.99 * 365.25) == pytest.approx(0.677, abs=6e-4)
    assert metrics.brier(time, event, risk, 4.99 * 365.25) == pytest.approx(0.225, abs=6e-4)
    assert metrics.ipa(time, event, risk, 4.99 * 365.25) == pytest.approx(0.101, abs=6e-4)
    just_before = last - 0.1
    assert metrics.oe_ratio(time, event, risk, just_before) == pytest.approx(1.017, abs=1e-3)
    errors = metrics.calibration_errors(time, event, risk, just_before)
    assert [round(errors[name], 2) for name in ("ici", "e50", "e90")] == [0.03, 0.03, 0.07]
    benefit = metrics.decision_curve(time, event, risk, just_before, [0.23], bootstrap=0)
    assert benefit["net_benefit"][0] == pytest.approx(0.362, abs=6e-4)
    assert benefit["treat_all"][0] == pytest.approx(0.362, abs=6e-4)


HORIZON = 1822.6
THRESHOLDS = [0.2, 0.4, 0.6, 0.8]


def without_ties(gbsg):
    """SurvivalEVAL uses Efron's rule for ties, we use Breslow's; where there are none the two are the same."""
    time, event, risk = gbsg
    return time + np.arange(len(time)) / 1000, event, risk


def curves_of(risk):
    """S at five times with the shape of an exponential curve."""
    times = np.arange(1, 6) * 500.0
    return times, (1 - risk)[:, None] ** (times / HORIZON)


def test_calibration_errors_are_survivalevals(gbsg):
    data = without_ties(gbsg)
    found = metrics.calibration_errors(*data, HORIZON)
    curve = metrics.calibration_curve(*data, HORIZON, bootstrap=0)
    # SurvivalEVAL 0.9.0, integrated_calibration_index; its curve at the 1st and 99th percentile
    assert found["ici"] == pytest.approx(0.02773709, abs=1e-7)
    assert found["e50"] == pytest.approx(0.02212725, abs=1e-7)
    assert found["e90"] == pytest.approx(0.0635750983, abs=1e-7)
    np.testing.assert_allclose(curve["observed"].iloc[[0, -1]], [0.31751712, 0.93989033], atol=1e-7)
    # With the ties of the data as they are, Breslow's rule moves them by less than this.
    tied = metrics.calibration_errors(*gbsg, HORIZON)
    assert all(tied[name] == pytest.approx(found[name], abs=5e-4) for name in found)


def test_calibration_errors_are_survivalevals_where_it_is_installed(gbsg):
    module = "SurvivalEVAL.evaluations.calibration.single_time.integrated_calibration_index"
    measure = pytest.importorskip(module).integrated_calibration_index
    time, event, risk = without_ties(gbsg)
    for horizon in (700.0, HORIZON):
        expected = measure(risk, time, event, horizon)
        found = metrics.calibration_errors(time, event, risk, horizon)
        for name, value in found.items():
            assert value == pytest.approx(float(expected[name.upper()]), abs=1e-7)


def test_intercept_and_slope_are_those_of_a_weighted_regression(gbsg):
    time, event, risk = without_ties(gbsg)
    # statsmodels 0.15.0: GLM, Binomial with CLogLog, freq_weights = the weights of the Brier score
    assert metrics.calibration_intercept(time, event, risk, HORIZON) == pytest.approx(0.059315946, abs=1e-7)
    assert metrics.calibration_slope(time, event, risk, HORIZON) == pytest.approx(0.960729576, abs=1e-7)


def test_intercept_and_slope_solve_their_equations():
    """The score equations of the weighted likelihood, solved by SciPy."""
    from scipy.optimize import minimize

    time, event, risk = cohort(70, seed=4)
    weights = metrics._weights(time, event, 365.0, np.ones((1, 70)))[0]
    died, x = event & (time <= 365), calibration.cloglog(risk)

    def loss(predictor):
        return -(weights * np.where(died, np.log(-np.expm1(-np.exp(predictor))), -np.exp(predictor))).sum()

    intercept = minimize(lambda a: loss(a[0] + x), [0.0], tol=1e-12).x[0]
    slope = minimize(lambda a: loss(a[0] + a[1] * x), [0.0, 1.0], tol=1e-12).x[1]
    assert metrics.calibration_intercept(time, event, risk, 365.0) == pytest.approx(intercept, abs=1e-4)
    assert metrics.calibration_slope(time, event, risk, 365.0) == pytest.approx(slope, abs=1e-4)


def test_a_first_step_that_leads_too_far_is_shortened():
    """Newton's method alone does not find this intercept."""
    from scipy.optimize import minimize_scalar

    random = np.random.default_rng(1443)
    count = int(random.integers(6, 25))
    risk = random.beta(0.3, 0.3, count).round(3)
    died = random.uniform(size=count) < risk ** random.uniform(0.3, 3)
    x = calibration.cloglog(risk)

    def loss(intercept):
        hazard = np.exp(intercept + x)
        return -np.where(died, np.log(-np.expm1(-hazard)), -hazard).sum()

    expected = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x
    found = calibration.recalibration(died, np.ones((1, count)), risk)[0][0]
    assert found == pytest.approx(expected, abs=1e-6)


def test_two_and_three_different_risks_have_a_curve():
    random = np.random.default_rng(0)
    for values in ([0.2, 0.6], [0.2, 0.4, 0.6]):
        risk = np.resize(values, 900)
        time, event = random.exponential(-365 / np.log1p(-risk)), random.random(900) < 0.8
        curve = calibration.smooth_calibration(time, event, risk, 365.0, np.ones((1, 900)))
        found = curve.observed(np.array(values))[0]
        for value, observed in zip(values, found):
            members = risk == value
            expected = metrics._observed(time[members], event[members], 365.0, np.ones((1, members.sum())))[0]
            assert observed == pytest.approx(expected, abs=0.03)


def test_a_model_that_is_right_is_calibrated_and_a_stretched_one_is_not():
    random = np.random.default_rng(1)
    hazard = np.exp(random.normal(0, 0.8, 6000))
    time, limit = random.exponential(1000 / hazard), random.uniform(200, 2500, 6000)
    time, event, risk = np.minimum(time, limit), time <= limit, 1 - np.exp(-0.5 * hazard)
    assert metrics.oe_ratio(time, event, risk, 500.0) == pytest.approx(1, abs=0.04)
    assert metrics.calibration_intercept(time, event, risk, 500.0) == pytest.approx(0, abs=0.05)
    assert metrics.calibration_slope(time, event, risk, 500.0) == pytest.approx(1, abs=0.05)
    assert metrics.calibration_errors(time, event, risk, 500.0)["e90"] < 0.02
    stretched = 1 - np.exp(-0.5 * hazard**2)
    assert metrics.calibration_slope(time, event, stretched, 500.0) == pytest.approx(0.5, abs=0.03)
    assert metrics.calibration_errors(time, event, stretched, 500.0)["ici"] > 0.05
    doubled = 1 - np.exp(-hazard)
    assert metrics.calibration_intercept(time, event, doubled, 500.0) == pytest.approx(-np.log(2), abs=0.05)


def test_risks_of_0_and_1_and_of_everybody_the_same():
    time, event, risk = cohort(60)
    extreme = np.where(risk > 0.9, 1.0, np.where(risk < 0.1, 0.0, risk))
    assert np.isfinite(metrics.calibration_slope(time, event, extreme, 365.0))
    assert np.isfinite(list(metrics.calibration_errors(time, event, extreme, 365.0).values())).all()
    same = np.full(60, 0.4)
    assert np.isnan(metrics.calibration_slope(time, event, same, 365.0))
    observed = metrics.oe_ratio(time, event, same, 365.0) * 0.4
    assert metrics.calibration_errors(time, event, same, 365.0)["ici"] == pytest.approx(abs(observed - 0.4), abs=0.02)
    split = np.where(event & (time <= 365), 0.9, 0.1)  # separates those who died: no finite slope
    assert np.isnan(metrics.calibration_slope(time, event, split, 365.0))


def test_d_calibration_is_survivalevals(gbsg):
    time, event, risk = without_ties(gbsg)
    at_end, died = calibration.survival_at_end(*curves_of(risk), time, event)
    statistic, p, patients = calibration.d_calibration(at_end, died)
    # SurvivalEVAL 0.9.0, d_calibration
    assert statistic == pytest.approx(40.46527119, abs=1e-6) and p == pytest.approx(6.25667e-06, rel=1e-4)
    expected = [27.85486735, 93.02178311, 85.58367102, 82.35939937, 67.96438854, 65.47414779, 65.35915819,
                65.15725346, 67.36520029, 65.86013088]  # fmt: skip
    np.testing.assert_allclose(patients, expected, atol=1e-4)
    # On the edges of bins, and at 0 and 1, among the dead and the censored
    at_end, died = [1.0, 0.0, 0.9, 0.35, 0.0], [1, 1, 1, 0, 0]
    statistic, p, patients = calibration.d_calibration(at_end, died)
    assert (statistic, p) == pytest.approx((13.816326530612244, 0.12901049495103076))
    np.testing.assert_allclose(patients, [2, 0, 0, 0, 0, 0, 1 / 7, 2 / 7, 2 / 7, 2 + 2 / 7])


def test_d_calibration_is_survivalevals_where_it_is_installed(gbsg):
    module = "SurvivalEVAL.evaluations.calibration.distributional.distribution_calibration"
    measure = pytest.importorskip(module).d_calibration
    time, event, risk = gbsg
    at_end, died = calibration.survival_at_end(*curves_of(risk), time, event)
    statistic, p, patients = measure(at_end, died)
    found = calibration.d_calibration(at_end, died)
    assert found[:2] == pytest.approx((statistic, p))
    np.testing.assert_allclose(found[2], patients)


def test_curves_that_are_right_are_d_calibrated_and_late_ones_are_not():
    random = np.random.default_rng(3)
    hazard = np.exp(random.normal(-6.5, 0.7, 2000))
    time, limit = random.exponential(1 / hazard), random.uniform(100, 2000, 2000)
    time, event, times = np.minimum(time, limit), time <= limit, np.arange(1, 60) * 25.0
    right = np.exp(-hazard[:, None] * times)
    late = right**0.5
    p = [calibration.d_calibration(*calibration.survival_at_end(times, s, time, event))[1] for s in (right, late)]
    assert p[0] > 0.05 and p[1] < 1e-6


def test_net_benefit_is_dcurves(gbsg):
    table = metrics.decision_curve(*without_ties(gbsg), HORIZON, THRESHOLDS, bootstrap=0)
    # dcurves 1.1.7, dca
    np.testing.assert_allclose(table["net_benefit"], [0.385603, 0.188862, 0.065274, -0.008352], atol=1e-6)
    np.testing.assert_allclose(table["treat_all"], [0.385603, 0.180804, -0.228793, -1.457587], atol=1e-6)
    assert (table["treat_none"] == 0).all()


def test_net_benefit_is_dcurves_where_it_is_installed(gbsg):
    """dcurves gives none where the last of the treated died before the horizon; we know whether each died."""
    dca = pytest.importorskip("dcurves").dca
    time, event, risk = gbsg
    data = pd.DataFrame({"time": time, "event": event.astype(int), "risk": risk})
    thresholds = np.arange(1, 100) / 100
    found = dca(data=data, outcome="event", modelnames=["risk"], thresholds=thresholds, time=1000.0,
                time_to_outcome_col="time")  # fmt: skip
    expected = found.loc[found["model"] == "risk", "net_benefit"].to_numpy(float)
    ours = metrics.decision_curve(time, event, risk, 1000.0, thresholds, bootstrap=0)["net_benefit"].to_numpy()
    known = np.isfinite(expected)
    assert known.sum() > 50
    np.testing.assert_allclose(ours[known], expected[known], atol=1e-9)


def test_net_benefit_by_hand():
    """Ten patients, no censoring: 3 of the 4 treated die, 1 of the 6 others."""
    time, event = np.array([1, 1, 1, 9, 1, 9, 9, 9, 9, 9.0]), np.ones(10, bool)
    risk = np.array([0.5, 0.6, 0.7, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    table = metrics.decision_curve(time, event, risk, 5.0, [0.25, 0.5, 0.9], bootstrap=20)
    np.testing.assert_allclose(table["net_benefit"], [0.3 - 0.1 / 3, 0.3 - 0.1, 0])
    np.testing.assert_allclose(table["treat_all"], [0.4 - 0.6 / 3, 0.4 - 0.6, 0.4 - 0.6 * 9])
    assert (table["ci_low"] <= table["net_benefit"]).all() and (table["net_benefit"] <= table["ci_high"]).all()


def apart(time, event):
    """scikit-survival weights a death by G(T), we by G(T-); they differ where a death and a censoring share a day."""
    return time + np.where(event, 0.0, 0.5)


def test_unos_concordance_is_scikit_survivals(gbsg):
    measure = pytest.importorskip("sksurv.metrics").concordance_index_ipcw
    for time, event, risk in (gbsg, *(cohort(seed=seed) for seed in range(3))):
        time = apart(time, event)
        outcome = np.array(list(zip(event, time)), dtype=[("event", bool), ("time", float)])
        for horizon in (180.0, 400.0):
            expected = measure(outcome, outcome, risk, tau=horizon)[0]
            assert metrics.uno_concordance(time, event, risk, horizon) == pytest.approx(expected, abs=1e-12)


def test_auc_over_time_is_scikit_survivals(gbsg):
    measure = pytest.importorskip("sksurv.metrics").cumulative_dynamic_auc
    for time, event, risk in (gbsg, cohort(seed=1)):
        time, horizon = apart(time, event), 720.0
        outcome = np.array(list(zip(event, time)), dtype=[("event", bool), ("time", float)])
        times = np.arange(2, 13) * horizon / 12  # theirs must not begin before the first death
        expected, mean = measure(outcome, outcome, risk, times)
        table = metrics.auc_curve(time, event, risk, horizon, times, bootstrap=0)
        np.testing.assert_allclose(table["auc"], expected, atol=1e-12)
        assert metrics.integrated_auc(time, event, risk, horizon, times) == pytest.approx(mean, abs=1e-12)


def test_deaths_on_the_day_of_the_horizon():
    """They count as deaths by then in risks and AUC; Uno's concordance takes deaths before it."""
    time, event, risk = np.array([10.0, 20.0, 30.0]), np.array([True, True, False]), np.array([0.9, 0.1, 0.5])
    assert metrics.auc(time, event, risk, 20.0) == pytest.approx(0.5)
    assert metrics.oe_ratio(time, event, risk, 20.0) == pytest.approx((2 / 3) / 0.5)
    assert metrics.uno_concordance(time, event, risk, 20.0) == 1.0
    assert metrics.uno_concordance(time, event, risk, 20.5) == pytest.approx(2 / 3)


def test_the_smooth_curve_counts_deaths_on_the_day_of_the_horizon(gbsg):
    time, event, _ = gbsg
    day = float(np.sort(time[event])[100])
    on_it, after, before = (metrics.calibration_errors(*gbsg, at)["ici"] for at in (day, day + 0.4, day - 0.4))
    assert on_it == after != before


def test_what_nobody_saw_is_not_a_number():
    """The last of the patients, or of those treated, was censored before the horizon."""
    time, event = np.array([10.0, 20.0, 30.0, 40.0]), np.array([True, True, False, False])
    risk = np.array([0.6, 0.2, 0.7, 0.3])
    for name in ("oe_ratio", "brier", "calibration_intercept"):
        assert np.isnan(getattr(metrics, name)(time, event, risk, 50.0))
    assert np.isnan(list(metrics.calibration_errors(time, event, risk, 50.0).values())).all()
    benefit = metrics.decision_curve(time, event, risk, 35.0, [0.1, 0.5], bootstrap=0)["net_benefit"]
    assert benefit[0] == pytest.approx(0.5 - 0.5 / 9) and np.isnan(benefit[1])
    everybody_died = np.array([True, True, True, True])
    assert metrics.oe_ratio(time, everybody_died, risk, 50.0) == pytest.approx(1 / risk.mean())


def test_the_kaplan_meier_risk_is_the_weighted_share_of_deaths():
    """Satten & Datta 2001: two ways to the same number, in resamples, too."""
    time, event, _ = cohort(60)
    counts = metrics.resamples(60, 50, seed=5)
    for horizon in (5.0, 150.0, 400.0, 800.0):
        weights = counts * metrics._weights(time, event, horizon, counts)
        share = weights[:, event & (time <= horizon)].sum(axis=1) / 60
        found = metrics._observed(time, event, horizon, counts)
        known = metrics._known(weights, counts)
        np.testing.assert_allclose(found[known], share[known], atol=1e-12)
        assert np.isnan(found[~known]).all()


def test_the_end_of_a_curve():
    times, survival = [100.0, 200.0], np.array([[0.8, 0.6], [0.8, 0.6], [0.8, 0.9], [0.5, 0.2], [0.5, 0.2]])
    time, event = np.array([150.0, 200.0, 150.0, 300.0, 50.0]), np.array([1, 1, 1, 1, 0])
    at_end, died = calibration.survival_at_end(times, survival, time, event)
    np.testing.assert_allclose(at_end, [0.7, 0.6, 0.8, 0.2, 0.75])  # the third curve is kept from rising
    assert died.tolist() == [True, True, True, False, False]


def test_times_before_the_first_death_have_no_share_in_the_mean_auc():
    time, event, risk = cohort(60)
    first = time[event].min()
    late = np.array([first + 1, 300.0, 500.0])
    expected = metrics.integrated_auc(time, event, risk, 500.0, late)
    found = metrics.integrated_auc(time, event, risk, 500.0, np.concatenate([[first / 2], late]))
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_permutation_test_finds_what_is_there_and_nothing_else():
    time, event, risk = cohort(80)
    null, p = metrics.permutation_test(time, event, risk, 200)
    assert p < 0.02 and null.mean() == pytest.approx(0.5, abs=0.02)
    noise = [metrics.permutation_test(time, event, np.random.default_rng(k).random(80), 99, k)[1] for k in range(20)]
    assert 0.2 < np.mean(noise) < 0.8 and min(noise) >= 0.01
    assert p == metrics.permutation_test(time, event, risk, 200)[1]
    assert metrics.permutation_test(time, event, np.full(80, 0.3), 19)[1] == 1  # ties with chance speak for chance


def test_observed_risks_and_their_intervals_are_lifelines():
    time, event, risk = cohort(60)
    table = metrics.calibration(time, event, risk, 400.0, groups=3)
    # lifelines 0.30.3, KaplanMeierFitter
    expected = [[0.480769230769, 0.283883641837, 0.723747175154], [0.523529411765, 0.324657649604, 0.753433826255],
                [0.766233766234, 0.555313782006, 0.926225600986]]  # fmt: skip
    np.testing.assert_allclose(table[["observed", "ci_low", "ci_high"]], expected, atol=1e-9)


def test_calibration_of_risks_that_are_right():
    pytest.importorskip("sksurv")
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
    pytest.importorskip("sksurv")
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
    assert set(found["metric"]) == {*metrics.METRICS, "integrated_brier"}
    value = found.set_index(["metric", "horizon_days"])["value"]
    expected = metrics.brier(table["time_days"], table["event"], table["risk_547.875"], 547.875)
    assert value[("brier", 547.875)] == pytest.approx(expected)
    between = metrics.brier(table["time_days"], table["event"], table["risk_365"], 365.0)
    assert value[("integrated_brier", 547.875)] == pytest.approx((expected + between) / 2)
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "decision_curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_csv(out / "calibration_365.csv")) == 5
    for name, rows in (("calibration_curve", 120), ("decision_curve", 198), ("auc_curve", 24)):
        curve = pd.read_csv(out / f"{name}.csv")
        assert len(curve) == rows and set(curve["horizon_days"]) == {365.0, 547.875}
        assert curve["ci_low"].notna().sum() > rows / 2
    assert not (out / "d_calibration.csv").exists()  # S at two times says too little of a curve


def test_evaluate_gives_controls_and_d_calibration(predictions, tmp_path, capsys):
    table, path = predictions
    more = table.assign(**{f"risk_{days}": 1 - (1 - table["risk_365"]) ** (days / 365) for days in (90, 180, 730)})
    more.to_csv(path, index=False)
    out = tmp_path / "out"
    call = ["evaluate", "--predictions", str(path), "--bootstrap", "0", "--permutations", "99", "--output", str(out)]
    assert main(call) == 0
    found = pd.read_csv(out / "metrics.csv")
    value = found.set_index(["metric", "horizon_days"])
    assert value.loc[("concordance_p", 365.0), "value"] >= 0.01
    shuffled = value.loc[("concordance_shuffled", 365.0)]
    assert shuffled["ci_low"] < 0.5 < shuffled["ci_high"]
    assert 0 <= value.loc[("d_calibration_p", 730.0), "value"] <= 1
    assert pd.read_csv(out / "d_calibration.csv")["patients"].sum() == pytest.approx(len(table))
    assert found.loc[found["metric"] != "concordance_shuffled", "ci_low"].isna().all()
    printed = capsys.readouterr().out
    assert "resamples" not in printed and printed.count("Too few patients died (") == 1


def test_shuffled_voxels_keep_shapes_and_go_with_a_model(predictions, tmp_path, capsys):
    from cohort_maker import make_store
    from training_cli.cohort.store import open_store
    from training_cli.evaluation.controls import shuffled_voxels

    store = open_store(make_store(tmp_path / "store", patients=6, slices=2))
    part = store.part(store.patient_ids[:3])
    found = shuffled_voxels(part, seed=1)
    for row in part.slices.index:
        one, other = np.array(store.images[row]), found.images[row]
        assert np.array_equal(one > 0, other > 0) and np.array_equal(np.sort(one, axis=None), np.sort(other, axis=None))
        assert not np.array_equal(one, other)
    call = ["evaluate", "--predictions", str(predictions[1]), "--shuffle-voxels", "--output", str(tmp_path / "out")]
    assert main(call) == 2
    assert "--shuffle-voxels go with --model" in capsys.readouterr().err


def test_a_number_of_resamples_is_a_whole_one(predictions, tmp_path, capsys):
    call = ["evaluate", "--predictions", str(predictions[1]), "--output", str(tmp_path / "out")]
    for text in ("-1", "1.5", "many"):
        assert main([*call, f"--bootstrap={text}"]) == 2
        assert f"'{text}' is not a whole number, 0 or more" in capsys.readouterr().err


def test_a_model_is_scored_on_shuffled_voxels(tiny_bundle, tmp_path):
    from cohort_maker import make_store

    pytest.importorskip("sksurv")
    store, out = make_store(tmp_path / "store", patients=12, slices=1), tmp_path / "out"
    call = ["evaluate", "--model", str(tiny_bundle.folder), "--store", str(store), "--bootstrap", "20"]
    assert main([*call, "--shuffle-voxels", "--output", str(out)]) == 0
    own, alone, difference = (
        pd.read_csv(out / f"{name}.csv").set_index("metric")["value"]
        for name in ("metrics", "metrics_shuffled_voxels", "differences_shuffled_voxels")
    )
    assert own["brier"] - alone["brier"] == pytest.approx(difference["brier"]) and difference["brier"] != 0
    assert "d_calibration_p" in own
    predictions = pd.read_csv(out / "predictions.csv")
    assert list(predictions) == ["patient_id", "time_days", "event", "risk_547.875"]


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


def test_what_few_patients_can_show_is_kendalls_tau():
    """Without censoring the concordance is (tau + 1) / 2, and the variance of tau under chance is known (Kendall)."""
    n = 20
    sentence = metrics.what_few_can_show(np.arange(1.0, n + 1), np.ones(n, bool))
    error = np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) / 2
    needed = float(sentence.split("about ")[1].split("; ")[0].rstrip("."))
    low, high = (float(word) for word in sentence.split("within ")[1].split(" (95")[0].split(" to "))
    assert needed == pytest.approx(0.5 + 2.8 * error, abs=0.015)
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.015)
    assert "no model can be told from chance" in metrics.what_few_can_show(np.array([1.0, 2, 3]), np.ones(3, bool))
    assert metrics.what_few_can_show(np.array([1.0, 2, 3]), np.zeros(3, bool)) is None
