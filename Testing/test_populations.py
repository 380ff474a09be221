"""Populations: shifts of the hazards, covariates, uncertainty; and their fits, on patients whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bundle_maker import bundle_info, bundle_info_2, population_info, random_weights
from CNNSurvivalLib.bundle import load_bundle, save_bundle
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.hazards import exponential_edges, hazards_from_logits, survival_function
from CNNSurvivalLib.populations import Population, outside_ranges, patient_score, shifted

EDGES = exponential_edges()


def population(**changes):
    return Population(population_info(**changes))


# --- In a bundle ------------------------------------------------------------------------------------------------------


def test_a_bundle_holds_several_populations_the_default_first(tmp_path):
    bundle = save_bundle(tmp_path / "b", bundle_info_2(default="there"), random_weights())
    assert bundle.info["format_version"] == 2
    assert [each.name for each in bundle.populations] == ["there", "here"]
    assert bundle.population.name == "there"
    here = bundle.for_population("here")
    assert here.population.title == "Patients from here" and bundle.for_population(None).population.name == "there"
    with pytest.raises(UsageError, match="no population 'elsewhere'; it has: there, here"):
        bundle.for_population("elsewhere")


def test_one_network_gives_each_population_its_own_hazards(tmp_path):
    bundle = save_bundle(tmp_path / "b", bundle_info_2(), random_weights())
    images, as_trained = bundle.self_test
    here, there = (create_engine("numpy", bundle.for_population(name)).hazards(images) for name in ("here", "there"))
    assert here == pytest.approx(as_trained, abs=1e-6)
    moved = np.log(there / (1 - there)) - np.log(here / (1 - here))
    assert moved == pytest.approx(np.tile(np.linspace(-1.5, -0.5, 19), (len(images), 1)), abs=1e-4)


def test_an_engine_of_another_population_is_refused(tmp_path, sphere):
    from CNNSurvivalLib.explanation import occlusion_maps
    from CNNSurvivalLib.prediction import predict
    from CNNSurvivalLib.slices import axial_geometry

    bundle = save_bundle(tmp_path / "b", bundle_info_2(), random_weights())
    here, there = (bundle.for_population(name) for name in ("here", "there"))
    engine, image = create_engine("numpy", here), (*sphere(), axial_geometry((3.0, 1.0, 1.0)))
    assert engine.population == "here"
    expected = predict(*image, here)
    np.testing.assert_array_equal(predict(*image, here, engine).survival, expected.survival)
    words = "created for the population 'here', and the prediction is for 'there'"
    with pytest.raises(CNNSurvivalError, match=words):
        predict(*image, there, engine)
    with pytest.raises(CNNSurvivalError, match=words):
        occlusion_maps(predict(*image, there), engine)
    engine.population = None  # an engine that does not say whose it is
    np.testing.assert_array_equal(predict(*image, here, engine).survival, expected.survival)


def test_a_bundle_of_version_1_has_one_population_and_the_same_weights(tmp_path):
    bundle = save_bundle(tmp_path / "b", bundle_info(), random_weights())
    assert bundle.info["format_version"] == 1 and len(bundle.populations) == 1
    assert bundle.population.reference_label == "100 invented patients" and not bundle.population.covariates
    assert all(bundle.network_weights[name] is bundle.weights[name] for name in bundle.weights)


def terms_of(*sets):
    """A term for each of these sets of covariates."""
    return [{"intercept": 0.0, "coefficients": dict.fromkeys(names, 0.1)} for names in sets]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"default_population": "none"}, "'default_population' is none of the populations"),
        ({"populations": []}, "field 'populations' is not a list of populations"),
        ({"populations": [population_info(), population_info()]}, "two populations have the same name"),
        ({"populations": [population_info(title="")]}, "is not a list of populations"),
        ({"populations": [population_info(offset=[1.0, 2.0])]}, "'offset' is not one number or 19"),
        ({"populations": [population_info(last_layer={"weight": [[1.0]], "bias": [0.0]})]}, "not of shape"),
        *(
            ({"populations": [population_info(terms=terms_of(*sets))]}, "one term for each set of its covariates")
            for sets in (
                [],
                [["age_years"], ["n_stage"]],
                [["age_years"], ["n_stage"], ["n_stage"]],
                [["age_years"], ["n_stage"], ["age_years", "hpv"]],
            )
        ),
        ({"populations": [population_info(interval={"level": 2})]}, "is not a list of populations"),
        ({"populations": [population_info(ranges={"age_years": [90, 40]})]}, "is not a list of populations"),
    ],
)
def test_a_bundle_with_a_wrong_population_is_refused(tmp_path, changes, words):
    with pytest.raises(CNNSurvivalError, match=words):
        save_bundle(tmp_path / "b", {**bundle_info_2(), **changes}, random_weights())
    with pytest.raises(CNNSurvivalError):
        load_bundle(tmp_path / "b")


def test_a_bundle_shows_the_scores_of_its_population(tmp_path):
    def score(cohort, value):
        return [{"name": "concordance", "cohort": cohort, "value": value, "ci_low": 0.5, "ci_high": 0.7}]

    entries = [population_info(metrics=score("here", 0.6)), population_info("there", "Patients from there")]
    bundle = save_bundle(tmp_path / "b", bundle_info_2(entries, metrics=score("all", 0.55)), random_weights())
    assert bundle.facts[-2] == "Concordance: 0.60 (0.50 to 0.70) on here"
    assert bundle.for_population("there").facts[-2] == "Concordance: 0.55 (0.50 to 0.70) on all"


# --- Applying ---------------------------------------------------------------------------------------------------------


def test_no_shift_gives_the_same_hazards_to_the_bit():
    hazards = np.random.default_rng(1).random((5, 19))
    assert np.array_equal(shifted(hazards, 0.0), hazards)
    assert population().covariate_shift({}) == 0.0


def test_a_shift_multiplies_the_odds():
    moved = shifted(np.array([0.2, 0.5]), math.log(2))
    assert moved / (1 - moved) == pytest.approx([0.5, 2.0], rel=1e-12)
    assert np.all(np.isfinite(shifted(np.array([0.0, 1.0]), 3.0)))


def test_an_offset_moves_the_output_biases_and_nothing_else():
    weights = random_weights()
    offset = np.linspace(-1, 1, 19)
    adapted = population(offset=offset.tolist()).adapted(weights)
    assert adapted["output.bias"] == pytest.approx(weights["output.bias"] + offset, abs=1e-6)
    assert all(adapted[name] is weights[name] for name in weights if name != "output.bias")
    assert population().adapted(weights)["output.bias"] is weights["output.bias"]


def test_a_population_may_have_a_last_layer_of_its_own():
    layer = {"weight": np.full((19, 32), 0.5).tolist(), "bias": [0.25] * 19}
    adapted = population(last_layer=layer).adapted(random_weights())
    assert np.all(adapted["output.weight"] == 0.5) and np.all(adapted["output.bias"] == 0.25)
    assert adapted["output.weight"].dtype == np.float32


@pytest.mark.parametrize(
    "values, shift",
    [
        ({"age_years": 70}, 0.1),
        ({"N_Stage": "n2", "other": "x"}, 0.2),
        ({"age_years": "070Y", "n_stage": "2"}, 0.26),
        ({"age_years": "", "n_stage": "unknown"}, 0.0),
        ({"age_years": None}, 0.0),
    ],
)
def test_what_is_missing_is_left_out(values, shift):
    here = population()
    assert here.covariate_shift(here.read(values)) == pytest.approx(shift, abs=1e-12)


@pytest.mark.parametrize("text", ["N2", "n2", "2", "2.0", 2, 2.0, "N2b", "2c", " N2 "])
def test_ways_to_write_a_stage(text):
    assert population().read({"n_stage": text}) == {"n_stage": 2.0}


@pytest.mark.parametrize("text, value", [("-", 0), ("+", 1), ("neg", 0), ("Positive", 1), ("1", 1), ("0.0", 0)])
def test_ways_to_write_hpv(text, value):
    hpv = {"name": "hpv", "label": "HPV", "choices": {"negative": 0, "positive": 1}}
    terms = [{"intercept": 0.0, "coefficients": {"hpv": -0.5}}]
    assert population(covariates=[hpv], terms=terms).read({"HPV": text}) == {"hpv": value}


@pytest.mark.parametrize("text", ["NX", "nx", "X", "", None, float("nan"), "unknown"])
def test_an_unknown_stage_is_none(text):
    assert population().read({"n_stage": text}) == {}


@pytest.mark.parametrize(
    "values",
    [{"age": 63, "N": "1"}, {"AGE_years": "063Y", "Clinical.N.Stage": "1"}, {"age_years": "", "age": 63, "n_stage": 1}],
)
def test_a_covariate_goes_by_several_names(values):
    assert population().read(values) == {"age_years": 63.0, "n_stage": 1.0}
    assert all(population().takes(name) for name in values) and not population().takes("hpv")


@pytest.mark.parametrize(
    "values, words",
    [
        ({"age_years": "old"}, "age 'old' is not a number from 18 to 110 years"),
        ({"age_years": 7}, "from 18 to 110"),
        ({"n_stage": "N5"}, "one of N0, N1, N2, N3"),
    ],
)
def test_an_impossible_value_is_refused(values, words):
    with pytest.raises(UsageError, match=words):
        population().read(values)


def test_a_set_of_covariates_without_a_term_is_refused():
    with pytest.raises(CNNSurvivalError, match="no term for age_years"):
        population(terms=[]).covariate_shift({"age_years": 60.0})


def test_shown_values():
    age, stage = population().covariates
    assert age.shown(63) == "63 years" and stage.shown(2) == "N2"


def test_the_standard_error_is_that_of_a_line():
    # var a + 2 cov d + var b d^2 with d = 0.5, and the networks' variance
    assert population().shift_error(-0.5) == pytest.approx(math.sqrt(0.04 + 0.01 + 0.0225 + 0.01), rel=1e-12)
    assert population(interval=None).interval_level is None


def test_a_score_orders_as_the_risk():
    scores = [patient_score(s) for s in (1.0, 0.9, 0.5, 0.1, 0.0)]
    assert all(a < b for a, b in zip(scores, scores[1:])) and np.all(np.isfinite(scores))


def test_values_beyond_the_population_are_named():
    found = outside_ranges(population(), {"largest_area_px": 6000, "age_years": 60, "unknown": 1})
    assert found == ["The tumour's largest slice has 6000 pixels; 98% of the patients of 'Patients from here' had 260 "
                     "to 5000."]  # fmt: skip


def test_a_decimal_comma_is_understood():
    age = population().covariates[0]
    assert age.parse("63,5") == age.parse("63.5") == 63.5
    for text in ("6,3,5", "1,063", "63,", ",5"):
        with pytest.raises(UsageError, match="not a number"):
            age.parse(text)


# --- Fitting ----------------------------------------------------------------------------------------------------------

pytest.importorskip("pandas")
pytest.importorskip("sklearn")
fitting = pytest.importorskip("training_cli.models.populations")


def folds(scores):
    from training_cli.cohort.splits import stratified_folds

    return stratified_folds(scores.event, 5, 2020)


def cohort(patients=400, shift=0.7, age_effect=0.04, n_effect=0.0, seed=3, slices=3, slope=1.0):
    """(Scores of a network that is off by ``shift``, covariates): outcomes drawn from the truth, censored at random."""
    random = np.random.default_rng(seed)
    score = random.normal(0, 0.6, patients)
    age, n = random.normal(68, 9, patients), random.integers(0, 4, patients).astype(float)
    logits = np.full((patients, slices, 19), -2.6) + score[:, None, None]
    truth = logits[:, 0] + (slope - 1) * score[:, None] + shift
    truth = truth + (age_effect * (age - 68) + n_effect * (n - 1.5))[:, None]
    dies = random.random((patients, 19)) < hazards_from_logits(truth)
    interval = np.where(dies.any(axis=1), dies.argmax(axis=1), 19)
    inside = random.random(patients)
    edges = np.append(EDGES, EDGES[-1] * 1.5)
    time = edges[interval] + inside * (edges[interval + 1] - edges[interval])
    censored = random.uniform(200, 4000, patients)
    event = (time <= censored) & (interval < 19)
    ids = [f"p{k}" for k in range(patients)]
    found = fitting.scores_of(ids, list(logits), np.minimum(time, censored), event, EDGES)
    return found, {"age_years": age, "n_stage": n}


def test_the_curve_is_the_mean_over_a_patients_own_slices():
    logits = [np.random.default_rng(k).normal(-2, 1, (k, 19)) for k in (1, 4)]
    scores = fitting.scores_of(["a", "b"], logits, [100, 900], [1, 0], EDGES)
    for found, rows in zip(fitting.survival_of(scores), logits):
        assert found == pytest.approx(survival_function(hazards_from_logits(rows)).mean(axis=0), abs=1e-12)


def test_the_shift_is_recovered():
    scores, _ = cohort(age_effect=0.0)
    assert fitting.fit_shift(scores) == pytest.approx(0.7, abs=0.2)
    assert abs(fitting.fit_shift(scores.shifted(fitting.fit_shift(scores)))) < 1e-3


def test_offsets_follow_hazards_that_differ_by_interval():
    scores, _ = cohort(patients=1500, shift=np.linspace(-0.5, 0.9, 19), age_effect=0.0)
    assert fitting.fit_offsets(scores) == pytest.approx(np.linspace(-0.5, 0.9, 19), abs=0.6)
    assert np.corrcoef(fitting.fit_offsets(scores), np.arange(19))[0, 1] > 0.9


def test_covariates_are_recovered_and_noise_is_not_invented():
    scores, values = cohort(patients=800, shift=0.0)
    term = fitting.fit_term(scores, values)
    assert term["coefficients"]["age_years"] == pytest.approx(0.04, abs=0.012)
    assert abs(term["coefficients"]["n_stage"]) < 0.12
    assert len(fitting.fit_terms(scores, values)) == 3


def test_leaving_a_covariate_out_does_not_bias_the_mean_risk():
    """Whatever is known, the patients' mean predicted risk is the observed one: missing values need no guess."""
    scores, values = cohort(patients=800, n_effect=0.4, seed=9)
    here = scores.shifted(fitting.fit_shift(scores))
    expected = fitting.risk_of(here).mean()
    for term in fitting.fit_terms(here, values):
        moved = here.shifted(fitting.term_shift(term, values)[:, None, None])
        assert fitting.risk_of(moved).mean() == pytest.approx(expected, abs=0.02)


def test_crossvalidation_shows_what_a_covariate_adds():
    from training_cli.evaluation.metrics import concordance

    scores, values = cohort(patients=500, age_effect=0.06)
    image = fitting.crossvalidated_risks(scores, fitting.shift_only, {}, folds(scores))
    both = fitting.crossvalidated_risks(scores, fitting.shift_and_terms, values, folds(scores))
    assert concordance(scores.time, scores.event, both) > concordance(scores.time, scores.event, image) + 0.02


def test_patients_without_the_covariate_keep_the_images_risk():
    scores, values = cohort(patients=300)
    unknown = {**values, "age_years": np.where(np.arange(300) < 30, np.nan, values["age_years"])}
    del unknown["n_stage"]
    image = fitting.crossvalidated_risks(scores, fitting.shift_only, {}, folds(scores))
    both = fitting.crossvalidated_risks(scores, fitting.shift_and_terms, unknown, folds(scores))
    assert both[:30] == pytest.approx(image[:30], abs=1e-12) and not np.allclose(both[30:], image[30:])


def test_no_outcome_of_a_group_reaches_its_own_risk():
    """Where levels were fitted without a group, a shift fitted on the others' held-out scores would bring the group's
    outcomes back: those scores come from fits that have seen them."""
    scores, _ = cohort(patients=200, shift=0.0, age_effect=0.0)
    groups = np.repeat(["north", "south", "west", "east"], 50)
    north = groups == "north"

    def risks(of):
        without = {g: of.shifted(fitting.fit_shift(of.part(groups != g))) for g in np.unique(groups)}
        held_out = fitting.joined({g: each.part(groups == g) for g, each in without.items()}, groups)
        assert held_out.patient_ids == of.patient_ids
        right = fitting.crossvalidated_risks(held_out, fitting.shift_only, {}, groups, scores_without=without)
        return right, fitting.crossvalidated_risks(held_out, fitting.shift_only, {}, groups)

    all_die = replace(scores, event=scores.event | north)
    (right, wrong), (right_then, wrong_then) = risks(scores), risks(all_die)
    assert right_then[north] == pytest.approx(right[north], abs=1e-12)
    assert np.mean(wrong_then[north] - wrong[north]) < -0.02 and np.all(wrong_then[north] < wrong[north])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """40 cohorts from one truth: the 95 % interval holds it at least as often (it counts the slope's error, too, which
    is 0 here), and one of a third of its width does not."""
    hits, narrow = [], []
    for seed in range(40):
        scores, _ = cohort(patients=150, shift=0.0, age_effect=0.0, seed=100 + seed, slices=1)
        shift = fitting.fit_shift(scores)  # what ships; the truth is 0
        here = scores.shifted(shift)
        error = fitting.error_of(fitting.fit_interval(here, resamples=60, seed=seed), fitting.score_values(here))
        hits.append(np.mean(abs(shift) <= 1.96 * error))
        narrow.append(np.mean(abs(shift) <= 1.96 * error / 3))
    assert np.mean(hits) >= 0.93 and np.mean(narrow) < 0.85


def test_interval_and_its_checks():
    scores, _ = cohort(patients=300, shift=0.0, age_effect=0.0)
    interval = fitting.fit_interval(scores, network_variance=0.02, resamples=80)
    values = fitting.score_values(scores)
    entry = Population({"interval": interval})
    assert [entry.shift_error(v) for v in values[:5]] == pytest.approx(fitting.error_of(interval, values[:5]))
    wrong = scores.shifted(2.0)  # a model that is far off
    assert sum(row["covered"] for row in fitting.group_coverage(scores, interval)) >= 4
    assert not any(row["covered"] for row in fitting.group_coverage(wrong, interval))
    kept, narrow = (fitting.split_half_coverage(scores, repeats=4, resamples=40, level=x) for x in (0.95, 0.5))
    assert kept > 0.8 and narrow < kept - 0.1


def test_the_variance_between_networks_is_the_jackknifes():
    values = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    # centred: (-.5, .5), (.5, -.5), (0, 0): sum of squares 0.5 for either patient, times 2 / 3
    assert fitting.variance_between_networks(values) == pytest.approx(1 / 3)
    assert fitting.variance_between_networks(values + np.array([[5.0], [0.0], [1.0]])) == pytest.approx(1 / 3)


def test_ranges_hold_the_volume_unless_every_patient_has_a_single_slice(tmp_path):
    pytest.importorskip("pandas")
    from cohort_maker import make_store
    from training_cli.cohort.store import open_store

    store = open_store(make_store(tmp_path / "several", patients=8))
    ages = np.array([np.nan, 61.0] * 4)
    ranges = fitting.patient_ranges(store, 20, ages)
    assert list(ranges) == ["largest_area_px", "mean_intensity", "volume_cc", "age_years"]
    assert ranges["volume_cc"] == np.percentile(store.patients["volume_cc"], [1, 99]).tolist()
    assert ranges["age_years"] == [61, 61]
    single = open_store(make_store(tmp_path / "single", patients=8, slices=1))
    assert list(fitting.patient_ranges(single, 20)) == ["largest_area_px", "mean_intensity"]


def test_columns_are_read_as_the_library_reads_them():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"Age": ["63", ""], "n_stage": ["N2b", "NX"]})
    values = fitting.covariate_values(table, ["age_years", "n_stage", "hpv"])
    np.testing.assert_array_equal(values["age_years"], [63, np.nan])
    np.testing.assert_array_equal(values["n_stage"], [2, np.nan])
    assert np.isnan(values["hpv"]).all()


def test_a_cohort_without_deaths_is_refused():
    scores, _ = cohort(patients=20)
    nobody = fitting.scores_of(scores.patient_ids, list(scores.logits), scores.time, np.zeros(20), EDGES)
    for fit in (fitting.fit_shift, fitting.fit_offsets):
        with pytest.raises(CNNSurvivalError, match="None of the patients died"):
            fit(nobody)


def test_reference_cohort_is_what_a_bundle_takes():
    scores, _ = cohort(patients=100)
    entry = fitting.reference_cohort(scores, "100 patients", 547.875)
    curve = entry["kaplan_meier"]
    assert curve["time_days"][0] == 0 and curve["survival"][0] == 1
    assert np.diff(curve["time_days"]) == pytest.approx(30.4375)  # monthly: of nobody's own time
    assert not set(curve["time_days"]) & set(scores.time.tolist())
    assert len(entry["risk_quantiles"]) == 101
