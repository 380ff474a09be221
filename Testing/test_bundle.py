"""Bundles: what is saved is loaded; each fault of a bundle gives one sentence."""

import json
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest

from bundle_maker import bundle_info, random_weights
from CNNSurvivalLib import bundle as bd
from CNNSurvivalLib.bundle_schema import SCHEMA, SCHEMA_1
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.image_text import decode_images, encode_images
from CNNSurvivalLib.slices import Preprocessing


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle.folder, tmp_path / "bundle")


def edit(folder, path, value):
    """Set (or with value ... delete) one field of bundle.json."""
    file = folder / "bundle.json"
    info = json.loads(file.read_text(encoding="utf-8"))
    *parents, last = path.split(".")
    at = info
    for key in parents:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    file.write_text(json.dumps(info), encoding="utf-8")


def refused(folder):
    with pytest.raises(CNNSurvivalError) as error:
        bd.load_bundle(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_what_is_saved_is_loaded(tmp_path):
    weights, info = random_weights(), bundle_info()
    bundle = bd.save_bundle(tmp_path / "new", info, weights)
    assert all(np.array_equal(bundle.weights[name], weights[name]) for name in weights)
    assert bundle.id == "random-1.0" and bundle.title == info["title"] and bundle.max_slices == 20
    assert bundle.edges_days.tolist() == info["intervals"]["edges_days"]
    assert bundle.preprocessing == Preprocessing()
    assert Preprocessing.from_dict(json.loads(json.dumps(asdict(bundle.preprocessing)))) == bundle.preprocessing
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["bundle.json", "weights.npz"]


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in "ab":
        bd.save_bundle(tmp_path / name, bundle_info(), random_weights())
    for file in ("bundle.json", "weights.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_bundle_that_would_not_load_is_not_written(tmp_path):
    with pytest.raises(CNNSurvivalError, match="'title' is not a title"):
        bd.save_bundle(tmp_path / "bad", bundle_info(title=""), random_weights())
    weights = random_weights()
    weights["hidden.bias"] = weights["hidden.bias"][:-1]
    with pytest.raises(CNNSurvivalError, match="'hidden.bias'"):
        bd.save_bundle(tmp_path / "bad", bundle_info(), weights)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("path", sorted(SCHEMA))
def test_each_field_is_needed(folder, path):
    edit(folder, path, ...)
    assert f"the field '{path}' is missing" in refused(folder)


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("format", "onnx", "another kind"),
        ("format_version", 3, "format version 3"),
        ("name", "../../etc", "'name'"),
        ("intervals.edges_days", [0, 10, 10], "intervals.edges_days"),
        ("intervals.edges_days", [5, 10, 20], "begin with 0"),
        ("intervals.edges_days", [0, 600, 900], "output.weight|self_test"),
        ("preprocessing.hu_window", [240, -160], "hu_window"),
        ("preprocessing.crop_px", 128, "crop_px"),
        ("preprocessing.min_roi_px", True, "min_roi_px"),
        ("aggregation.risk_time_days", 1e5, "risk_time_days"),
        ("aggregation.max_slices", 2.5, "max_slices"),
        ("reference_cohort.kaplan_meier.survival", [1, 0.2, 0.5, 0.1], "Kaplan-Meier"),
        ("reference_cohort.kaplan_meier.survival", [1, 0.2], "Kaplan-Meier"),
        ("reference_cohort.risk_quantiles", [0.5, 0.1], "risk_quantiles"),
        ("self_test.images", "AAAA", "self_test.images"),
        ("self_test.images", "not base64!", "self_test.images"),
        ("weights_sha256", "0" * 64, "SHA-256 differs"),
        ("metrics", [{"name": "concordance"}], "metrics"),
        ("cohorts", [], "cohorts"),
    ],
)
def test_fields_must_mean_something(folder, path, value, message):
    edit(folder, path, value)
    with pytest.raises(CNNSurvivalError, match=message):
        bd.load_bundle(folder)


def test_missing_and_damaged_files_are_named(folder, tmp_path):
    assert "not a model folder" in refused(tmp_path)
    content = (folder / "weights.npz").read_bytes()
    (folder / "weights.npz").write_bytes(content[:-1] + b"x")
    assert "SHA-256 differs" in refused(folder)
    (folder / "weights.npz").unlink()
    assert "weights.npz is missing" in refused(folder)
    (folder / "bundle.json").write_text('{"format": ')
    assert "bundle.json is damaged" in refused(folder)
    (folder / "bundle.json").write_bytes(b"\xff\xfe\x00")
    assert "bundle.json is damaged" in refused(folder)
    (folder / "bundle.json").write_text("[" * 100_000)
    assert "bundle.json is damaged" in refused(folder)


def with_weights(folder, content):
    """Put other weights in, with their right SHA-256."""
    import hashlib

    (folder / "weights.npz").write_bytes(content)
    edit(folder, "weights_sha256", hashlib.sha256(content).hexdigest())


def test_weights_of_another_network_are_refused(folder):
    weights = random_weights()
    for change, message in (
        ({"hidden.weight": weights["hidden.weight"].T}, "'hidden.weight'"),
        ({"hidden.bias": weights["hidden.bias"].astype(np.float64)}, "'hidden.bias'"),
        ({"hidden.bias": np.full(32, np.nan, np.float32)}, "NaN"),
        ({"norm3.running_var": -weights["norm3.running_var"]}, "negative variance"),
        ({"extra": weights["hidden.bias"]}, "'extra'"),
    ):
        with_weights(folder, bd._npz({**weights, **change}))
        assert message in refused(folder)


def test_pickles_and_archives_that_unpack_to_gigabytes_are_refused(folder, tmp_path):
    np.savez(tmp_path / "pickle.npz", **{"hidden.bias": np.array([{"a": 1}], dtype=object)})
    with_weights(folder, (tmp_path / "pickle.npz").read_bytes())
    assert "weights.npz is damaged" in refused(folder)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hidden.bias.npy", bytes(50_000_000))
    with_weights(folder, (tmp_path / "bomb.npz").read_bytes())
    assert "unpack to more" in refused(folder)
    with_weights(folder, b"PK not a zip file")
    assert "weights.npz is damaged" in refused(folder)


def test_broken_bundles_are_found_with_their_reason(folder):
    good = shutil.copytree(folder, folder.parent / "good")
    edit(folder, "title", 5)
    (folder.parent / "unrelated").mkdir()
    found = bd.find_bundles([folder.parent, folder.parent / "absent"])
    assert [(path, bundle is not None) for path, bundle, _ in found] == [(folder, False), (good, True)]
    assert "'title'" in found[0][2]


def test_risk_percentile_runs_through_the_reference_risks(tiny_bundle):
    percentile = tiny_bundle.population.risk_percentile
    assert [percentile(r) for r in (0.0, 0.1, 0.5, 0.9, 1.0)] == pytest.approx([0, 0, 50, 100, 100])


def test_the_default_bundle_is_the_first_of_those_installed(tiny_bundle):
    found = bd.installed_bundles([tiny_bundle.folder])
    assert found[0][0] == bd.default_bundle_folder() and tiny_bundle.folder in [path for path, _, _ in found]
    assert len(found) == len(bd.find_bundles([bd.shipped_models_folder()])) + 1


def test_a_users_mistake_is_no_value_error():
    """A clause for damaged numbers or text must not catch our own sentences."""
    assert not issubclass(CNNSurvivalError, ValueError)


def test_shipped_bundles_load_and_pass_their_own_test():
    found = bd.find_bundles([bd.shipped_models_folder()])
    assert found and bd.default_bundle_folder() in [path for path, _, _ in found]
    for path, bundle, error in found:
        assert error is None, f"{path}: {error}"
        images, expected = bundle.self_test
        np.testing.assert_allclose(NumpyEngine(bundle.weights).hazards(images), expected, rtol=0, atol=1e-5)


# --- The limits of each field -----------------------------------------------------------------------------------------


def edited(info, path, value):
    """A copy of the info with one field set."""
    info = json.loads(json.dumps(info))
    *parents, last = path.split(".")
    at = info
    for key in parents:
        at = at[key]
    at[last] = value
    return info


def accepts(path, value):
    """Whether the field's own check takes the value."""
    check, _ = {**SCHEMA, **SCHEMA_1}[path]
    return check(value)


@pytest.mark.parametrize(
    "path, least, most, step",
    [
        ("preprocessing.pixel_size_mm", 0.05, 20, 0.01),
        ("preprocessing.slice_step_mm", 0.05, 100, 0.01),
        ("preprocessing.min_roi_px", 1, 1_000_000, 1),
        ("aggregation.max_slices", 1, 10_000, 1),
        ("aggregation.risk_time_days", 1, 1_000_000, 0.5),
    ],
)
def test_numbers_within_their_limits(path, least, most, step):
    assert accepts(path, least) and accepts(path, most)
    assert not accepts(path, least - step) and not accepts(path, most + step)
    for value in (True, "1", [1], float("nan"), float("inf")):
        assert not accepts(path, value)


@pytest.mark.parametrize(
    "path, good, bad",
    [
        ("intervals.edges_days", [[0, 1], [0, 1e6]], [[0], [0, 0], [1, 0], [-1, 5], [0, 1_000_001], "01", [0, True]]),
        ("preprocessing.hu_window", [[-160, 240], [-1e5, 1e5]], [[-100_001, 0], [0, 100_001], [0, 0], [0, 1, 2], [5]]),
        ("preprocessing.pixel_size_mm", [None], ["1"]),
        ("reference_cohort.kaplan_meier.time_days", [[0, 1e6]], [[0, 0], [0, 1_000_001], [0]]),
        ("reference_cohort.kaplan_meier.survival", [[1, 0], [1, 1]], [[1], [1, 1.01], [1, -0.01], None]),
        ("reference_cohort.risk_quantiles", [[0, 1], [0.5, 0.5]], [[0.5, 0.4], [0, 1.01], [-0.01, 1], [0.5], {}]),
        ("self_test.hazards", [[[0.5]], [[0, 1], [1, 0]]], [[], [[]], [[1.01]], [[-0.01]], [0.5]]),
        ("weights_sha256", ["0" * 64], ["0" * 63, "0" * 65, "G" * 64, None, 5]),
        ("changes", [[], ["a"]], ["a", [" "], [1], None]),
        ("cohorts", [], [[], None, ["a"]]),
        ("metrics", [[]], [None, [None]]),
    ],
)
def test_lists_within_their_limits(path, good, bad):
    assert all(accepts(path, value) for value in good)
    assert not any(accepts(path, value) for value in bad)


@pytest.mark.parametrize("key", ["name", "use", "sites", "dates", "source", "licence", "exclusions"])
def test_cohorts_need_their_texts(key):
    (cohort, *_) = bundle_info()["cohorts"]
    assert accepts("cohorts", [cohort])
    assert not accepts("cohorts", [{**cohort, key: " "}]) and not accepts("cohorts", [{**cohort, key: 5}])


@pytest.mark.parametrize("key", ["patients", "events", "slices"])
def test_cohorts_need_their_counts(key):
    (cohort, *_) = bundle_info()["cohorts"]
    assert accepts("cohorts", [{**cohort, key: 0}])
    assert not any(accepts("cohorts", [{**cohort, key: value}]) for value in (-1, 2.5, "3", None))


def test_the_parts_must_fit_together(folder):
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    last = info["intervals"]["edges_days"][-1]
    bd._check_fields(edited(info, "aggregation.risk_time_days", last), folder)
    with pytest.raises(CNNSurvivalError, match="'aggregation.risk_time_days' lies beyond the last interval"):
        bd._check_fields(edited(info, "aggregation.risk_time_days", last + 0.5), folder)
    hazards = info["self_test"]["hazards"]
    short = [row[:-1] for row in hazards]
    for wrong in (hazards[:-1], [*hazards, hazards[0]], short, [*hazards[:-1], short[0]]):
        with pytest.raises(CNNSurvivalError, match="'self_test.hazards' does not match"):
            bd._check_fields(edited(info, "self_test.hazards", wrong), folder)


def test_variances_may_be_zero_but_not_negative_in_any_layer(folder):
    weights = random_weights()
    for layer in range(1, 7):
        name = f"norm{layer}.running_var"
        with_weights(folder, bd._npz({**weights, name: np.zeros_like(weights[name])}))
        assert bd.load_bundle(folder).weights[name].max() == 0
        with_weights(folder, bd._npz({**weights, name: np.full_like(weights[name], -1)}))
        assert f"'{name}' hold a negative variance" in refused(folder)


def test_files_up_to_their_limit_are_read(tmp_path):
    path = tmp_path / "bundle.json"
    path.write_bytes(b"x" * 100)
    assert bd._read_file(path, 100) == b"x" * 100
    with pytest.raises(CNNSurvivalError, match="its bundle.json is too large"):
        bd._read_file(path, 99)


def test_images_as_text_come_back_and_nothing_else_does():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5)).astype(np.uint8)
    text = encode_images(images)
    np.testing.assert_array_equal(decode_images(text, 5), images)
    np.testing.assert_array_equal(decode_images(text, 5, limit=3), images)
    for size, limit in ((5, 2), (4, 64), (7, 64)):
        with pytest.raises(ValueError, match="not a whole number of images"):
            decode_images(text, size, limit=limit)
    with pytest.raises(ValueError, match="not a whole number of images"):
        decode_images(encode_images(np.zeros((0, 5, 5), np.uint8)), 5)
    with pytest.raises(ValueError):
        decode_images(text + "!", 5)
    many = np.zeros((65, 5, 5), np.uint8)
    assert len(decode_images(encode_images(many[:64]), 5)) == 64
    with pytest.raises(ValueError, match="not a whole number of images"):
        decode_images(encode_images(many), 5)


def test_facts_name_the_training_cohorts_and_the_metrics():
    (cohort, *_) = bundle_info()["cohorts"]
    trained = {**cohort, "name": "A", "use": "pretraining", "patients": 7, "events": 3}
    cohorts = [trained, {**cohort, "name": "B", "use": "test"}]
    metrics = [
        {"name": "brier", "cohort": "B", "value": 0.9, "ci_low": 0.1, "ci_high": 0.95},
        {"name": "concordance", "cohort": "B", "value": 0.684, "ci_low": 0.41, "ci_high": 0.888},
        {"name": "ipa", "cohort": "B", "value": 0.129, "ci_low": None, "ci_high": 0.3},
    ]
    card = {**bundle_info()["card"], "disease": "NSCLC"}
    info = {**bundle_info(), "format_version": 1, "cohorts": cohorts, "metrics": metrics, "card": card}
    facts = bd.Bundle(None, info, {}).facts
    assert facts == [
        "Disease: NSCLC",
        "Trained on: A, 7 patients, 3 deaths",
        "Concordance: 0.68 (0.41 to 0.89) on B",
        "IPA: 0.13 on B",
        "Licence: none",
    ]
    assert bd.Bundle(None, {**info, "metrics": metrics[:1]}, {}).facts == [*facts[:2], facts[-1]]


@pytest.mark.parametrize(
    "licence, stated, forbids",
    [
        ("CC BY-NC 3.0", None, True),
        ("Non-commercial research only", None, True),
        ("Apache-2.0", None, False),
        ("CC BY 4.0", None, False),
        ("as the hospital says", True, True),
        ("CC BY-NC 3.0, and ours by contract", False, False),
    ],
)
def test_whether_the_licence_forbids_commercial_use(tmp_path, licence, stated, forbids):
    card = {**bundle_info()["card"], "licence": licence}
    if stated is not None:
        card["non_commercial"] = stated
    bundle = bd.save_bundle(tmp_path / "b", {**bundle_info(), "card": card}, random_weights())
    assert bundle.non_commercial is forbids
    assert bundle.licence_notice == (f"Licence of the model 'random-1.0': {licence}." if forbids else "")


def test_the_models_that_ship_say_that_they_are_for_non_commercial_use():
    for folder, bundle, _problem in bd.installed_bundles():
        assert bundle.info["card"]["non_commercial"] is True and bundle.non_commercial
        assert bundle.licence in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_card_is_the_file_or_else_the_texts(tiny_bundle, folder):
    bundle = bd.load_bundle(folder)
    assert f"**intended use**: {bundle.info['card']['intended_use']}" in bundle.card_text
    assert "limitations" not in bundle.card_text  # a list, for the file
    (folder / "MODEL_CARD.md").write_text("# Card\n" + "x" * 200_000, encoding="utf-8")
    assert bundle.card_text.startswith("# Card") and len(bundle.card_text) == 200_000


def test_a_bundle_cannot_be_changed(tiny_bundle):
    with pytest.raises(AttributeError):
        tiny_bundle.info = {}


def test_the_models_lie_in_the_wheel_where_there_is_no_module(monkeypatch, tmp_path):
    (tmp_path / "site" / "CNNSurvivalLib").mkdir(parents=True)
    monkeypatch.setattr(bd, "__file__", str(tmp_path / "site" / "CNNSurvivalLib" / "bundle.py"))
    assert bd.shipped_models_folder() == (tmp_path / "site" / "CNNSurvivalLib").resolve() / "Models"
