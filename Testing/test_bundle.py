"""Bundles: what is saved is loaded; each fault of a bundle gives one sentence."""

import json
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest

from bundle_maker import bundle_info, random_weights
from CNNSurvivalLib import bundle as bd
from CNNSurvivalLib.bundle_schema import SCHEMA
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.errors import CNNSurvivalError
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
        np.testing.assert_allclose(create_engine("numpy", bundle).hazards(images), expected, rtol=0, atol=1e-5)
