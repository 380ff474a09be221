"""Intervals, targets, likelihood and survival: against nnet-survival's own numbers and closed forms."""

import json

import numpy as np
import pytest

from CNNSurvivalLib import hazards as hz

CASES = ("exponential_quantile", "equal_width")


@pytest.fixture(params=CASES)
def case(request, shared_data):
    with open(shared_data("reference/nnet_survival_reference.json"), encoding="utf-8") as stream:
        values = json.load(stream)["cases"][request.param]
    return {name: np.array(value, dtype=float) for name, value in values.items()}


def test_targets_equal_nnet_survival(case):
    survived, died = hz.survival_targets(case["time_days"], case["event"], case["breaks_days"])
    np.testing.assert_array_equal(survived, case["survived"])
    np.testing.assert_array_equal(died, case["failed"])


def test_likelihood_equals_nnet_survival(case):
    hazard = 1 - case["conditional_survival"]
    logits = np.log(hazard) - np.log1p(-hazard)
    loss = hz.negative_log_likelihood(logits, case["survived"], case["failed"])
    np.testing.assert_allclose(loss, case["loss_per_patient"], rtol=0, atol=1e-6)


def test_survival_at_18_months_equals_nnet_survival(case):
    survival = hz.survival_function(1 - case["conditional_survival"])
    value = hz.survival_at(survival, case["breaks_days"], 547.875)
    np.testing.assert_allclose(value, case["survival_at_547_875"], rtol=0, atol=1e-6)


def test_pytorch_likelihood_is_the_same(case):
    torch = pytest.importorskip("torch")
    from CNNSurvivalLib.network import negative_log_likelihood

    logits = np.random.default_rng(0).normal(0, 3, case["survived"].shape)
    expected = hz.negative_log_likelihood(logits, case["survived"], case["failed"])
    tensors = [torch.from_numpy(x) for x in (logits, case["survived"], case["failed"])]
    np.testing.assert_allclose(negative_log_likelihood(*tensors).numpy(), expected, rtol=1e-12)


def test_default_edges_are_those_of_the_specification():
    edges = hz.exponential_edges()
    assert len(edges) == 20 and edges[0] == 0
    assert edges[10] == pytest.approx(547.875, abs=1e-9)
    assert edges[-1] == pytest.approx(2367.876, abs=1e-3)


@pytest.mark.parametrize("edges", [[1, 2, 3], [0, 5, 5], [0, 2, 1], [0], [0, np.nan], [0, np.inf], [[0, 1]]])
def test_edges_that_are_not_edges_are_refused(edges):
    with pytest.raises(ValueError, match="interval edges"):
        hz.check_edges(edges)


@pytest.mark.parametrize(
    "time, event, message",
    [([-1], [1], "negative"), ([np.nan], [0], "finite"), ([5], [2], "0 .*or 1"), ([5, 6], [1], "length")],
)
def test_impossible_follow_up_is_refused(time, event, message):
    with pytest.raises(ValueError, match=message):
        hz.survival_targets(time, event, [0, 10, 20])


def test_constant_hazard_gives_the_geometric_curve_and_its_closed_forms():
    edges = np.arange(0, 110, 10.0)
    survival = hz.survival_function(np.full(10, 0.2))
    np.testing.assert_allclose(survival, 0.8 ** np.arange(11))
    # S(30) = 0.512, S(40) = 0.4096: a half lies 0.012 / 0.1024 of the way
    assert hz.median_survival(survival, edges) == pytest.approx(30 + 10 * 0.012 / 0.1024)
    trapezoids = 10 * (0.5 + sum(0.8**k for k in range(1, 10)) + 0.5 * 0.8**10)
    assert hz.restricted_mean_survival(survival, edges) == pytest.approx(trapezoids)
    assert hz.restricted_mean_survival(survival, edges, 5) == pytest.approx(5 * (1 + 0.9) / 2)


def test_survival_within_an_interval_is_linear_and_starts_at_one():
    survival = hz.survival_function([[0.5, 0.5], [0.1, 0.0]])
    value = hz.survival_at(survival, [0, 10, 30], [0, 5, 10, 20, 30])
    np.testing.assert_allclose(value, [[1, 0.75, 0.5, 0.375, 0.25], [1, 0.95, 0.9, 0.9, 0.9]])


def test_beyond_the_last_interval_the_model_says_nothing():
    survival = hz.survival_function([0.5, 0.5])
    assert np.isnan(hz.survival_at(survival, [0, 10, 30], 31))
    with pytest.raises(ValueError, match="negative"):
        hz.survival_at(survival, [0, 10, 30], -1)
    with pytest.raises(ValueError, match="horizon"):
        hz.restricted_mean_survival(survival, [0, 10, 30], 31)


def test_median_is_none_where_survival_stays_above_half():
    assert hz.median_survival([1, 0.8, 0.51], [0, 10, 20]) is None
    assert hz.median_survival([1, 0.5, 0.4], [0, 10, 20]) == 10


def test_extreme_logits_stay_finite():
    logits = np.array([[-800.0, 800.0]])
    assert np.array_equal(hz.hazards_from_logits(logits), [[0, 1]])
    assert hz.negative_log_likelihood(logits, np.array([[0, 1.0]]), np.array([[1.0, 0]])) == pytest.approx(1600)


def test_kaplan_meier_of_a_textbook_case():
    # 6-mercaptopurine arm of Freireich et al. 1963, in weeks; S at 6, 7, 10, 13, 16, 22, 23 as commonly printed
    time = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    event = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    times, survival = hz.kaplan_meier(time, event)
    np.testing.assert_array_equal(times, [6, 7, 10, 13, 16, 22, 23])
    np.testing.assert_allclose(survival, [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], atol=5e-4)


def test_a_step_curve_has_two_corners_a_step():
    days, survival = [0, 100, 250], [1, 0.8, 0.5]
    corners = hz.step_curve(days, survival, 400)
    assert np.array_equal(corners, [[0, 100, 100, 250, 250], [1, 1, 0.8, 0.8, 0.5]]), "it ends where the cohort does"
    corners = hz.step_curve(days, survival, 200)
    assert np.array_equal(corners, [[0, 100, 100, 200], [1, 1, 0.8, 0.8]]), "it goes up to the end that is asked for"
    at = hz.step_survival_at(days, survival, [0, 99.9, 100, 249, 250, 250.1])
    np.testing.assert_array_equal(at, [1, 1, 0.8, 0.8, 0.5, np.nan])


# --- By hand, without the reference's files ---------------------------------------------------------------------------


def test_targets_by_hand():
    """Edges 0, 10, 30, 60: deaths in, at and after intervals; censorings before, at and after a midpoint."""
    time = [0, 5, 10, 29, 60, 70, 0, 4, 5, 20, 19, 45, 61]
    event = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    survived, died = hz.survival_targets(time, event, [0, 10, 30, 60])
    assert survived.tolist() == [
        [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1],
        [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1],
    ]  # fmt: skip
    assert died[:4].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]] and died[4:].sum() == 0


def test_likelihood_by_hand():
    """Hazards 0.2 and 0.5: -ln(0.8), -ln(0.8 * 0.5) for a death in the second interval, one row per patient."""
    logits = np.log([[0.25, 1.0]] * 3)
    survived, died = np.array([[1, 0], [1, 0], [0, 0]]), np.array([[0, 0], [0, 1], [1, 0]])
    loss = hz.negative_log_likelihood(logits, survived, died)
    np.testing.assert_allclose(loss, -np.log([0.8, 0.8 * 0.5, 0.2]))


def test_limits_of_what_is_accepted():
    np.testing.assert_array_equal(hz.check_edges([0, 0.5]), [0, 0.5])  # one interval, shorter than a day
    np.testing.assert_array_equal(hz.survival_function([0.0, 1.0]), [1, 1, 0])
    for hazards in ([-0.01], [1.01], [np.nan]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            hz.survival_function(hazards)
    with pytest.raises(ValueError, match="negative"):
        hz.survival_targets([-0.5], [1], [0, 10])
    assert str(hz.exponential_edges()[0]) == "0.0"  # no negative zero in a bundle


def test_median_at_the_edges_of_the_curve():
    assert hz.median_survival([0.5, 0.4], [0, 10]) == 0
    assert hz.median_survival([1, 0.5, 0.5, 0.2], [0, 10, 20, 30]) == 10


def test_restricted_mean_to_any_horizon():
    survival, edges = [1, 0.8, 0.4, 0.2], [0, 10, 30, 60]
    assert hz.restricted_mean_survival(survival, edges, 0) == 0
    assert hz.restricted_mean_survival(survival, edges, 0.5) == pytest.approx(0.5 * (1 + 0.99) / 2)
    assert hz.restricted_mean_survival(survival, edges, 30) == pytest.approx(9 + 12)
    assert hz.restricted_mean_survival(survival, edges, 45) == pytest.approx(9 + 12 + 15 * (0.4 + 0.3) / 2)
    assert hz.restricted_mean_survival(survival, edges) == pytest.approx(9 + 12 + 9)
    for horizon in (-1, 60.5):
        with pytest.raises(ValueError, match="between 0 and the last interval's end, 60 days"):
            hz.restricted_mean_survival(survival, edges, horizon)


@pytest.mark.parametrize(
    "days, text",
    [(547.875, "18 months"), (100, "3.3 months"), (30.4375, "1 months"), (30.4375 * 18.004, "18 months"),
     (30.4375 * 18.006, "18.0 months"), (30.4375 * 17.996, "18 months"), (30.4375 * 2.5, "2.5 months")],
)  # fmt: skip
def test_days_as_months_for_people(days, text):
    assert hz.months_text(days) == text
