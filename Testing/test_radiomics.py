"""PyRadiomics' features of a cohort: known values, the same whatever the jobs, kept, and no bad case stops the rest."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from CNNSurvivalLib.errors import CNNSurvivalError
from cohort_maker import make_images, make_store
from training_cli.cohort import radiomics
from training_cli.cohort.store import open_store

pytest.importorskip("radiomics")

FILTERS = {"original", "gradient", "square", "squareroot", "logarithm", "exponential", "lbp-2D", "log-sigma-2-0-mm-3D"}
WAVELETS = {f"wavelet-{a}{b}{c}" for a in "LH" for b in "LH" for c in "LH"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A store of four patients whose images exist."""
    folder = tmp_path_factory.mktemp("radiomics")
    make_images(folder / "images", 4)
    store = open_store(make_store(folder / "store", patients=4, slices=1))
    paths = {kind: [str(folder / "images" / f"s{k:03d}_{end}.nrrd") for k in range(4)]
             for kind, end in (("image", "ct"), ("mask", "mask"))}  # fmt: skip
    return replace(store, patients=store.patients.assign(**paths))


@pytest.fixture(scope="module")
def features(cohort, tmp_path_factory):
    """(table, cache) of the first two patients."""
    cache = tmp_path_factory.mktemp("cache") / "features.csv"
    return radiomics.cohort_features(cohort.part(cohort.patient_ids[:2]), cache), cache


def test_the_count_is_what_the_module_says(features):
    table, _ = features
    assert table.shape == (2, 1502)
    assert np.isfinite(table.to_numpy(float)).all()
    classes = Counter(tuple(name.split("_")[:2]) for name in table)
    assert {image for image, _ in classes} == FILTERS | WAVELETS
    assert classes.pop(("original", "shape")) == 14
    per_image = {"firstorder": 18, "glcm": 24, "glrlm": 16, "glszm": 16, "gldm": 14, "ngtdm": 5}
    assert classes == {(image, kind): n for image in FILTERS | WAVELETS for kind, n in per_image.items()}


def test_values_are_those_of_the_voxels(tmp_path):
    """On a grid that is already 1 mm nothing is resampled, and the simple features can be counted by hand."""
    import SimpleITK as sitk

    random = np.random.default_rng(0)
    z, y, x = np.mgrid[:24, :24, :24] - 11.5
    mask = np.sqrt(x**2 + y**2 + z**2) < 8
    hu = random.integers(-50, 100, mask.shape).astype(np.int16)
    paths = [tmp_path / "ct.nrrd", tmp_path / "mask.nrrd"]
    for path, array in zip(paths, (hu, mask.astype(np.uint8))):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    found = radiomics.case_features(*paths)
    inside = hu[mask].astype(float)
    assert found["original_shape_VoxelVolume"] == mask.sum()
    assert found["original_firstorder_Mean"] == pytest.approx(inside.mean())
    assert found["original_firstorder_Maximum"] == inside.max()
    assert found["original_firstorder_90Percentile"] == pytest.approx(np.percentile(inside, 90))
    bins = np.floor(inside / 25)  # PyRadiomics' bins begin at a multiple of the width
    shares = np.unique(bins, return_counts=True)[1] / len(bins)
    assert found["original_firstorder_Entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())


def test_a_run_that_was_stopped_goes_on_to_the_same_table(cohort, features, tmp_path, monkeypatch):
    first, cache = features
    copy = tmp_path / "features.csv"
    copy.write_bytes(cache.read_bytes())
    asked = []
    real = radiomics.case_features
    monkeypatch.setattr(radiomics, "case_features", lambda *case: asked.append(case) or real(*case))
    table = radiomics.cohort_features(cohort.part(cohort.patient_ids[:3]), copy)
    assert len(asked) == 1 and list(table.index) == cohort.patient_ids[:3]
    pd.testing.assert_frame_equal(table.iloc[:2], first, check_exact=True)  # to the last digit
    assert copy.read_text().startswith(cache.read_text())
    asked.clear()
    radiomics.cohort_features(cohort.part(cohort.patient_ids[:3]), copy)
    assert asked == []


def test_several_jobs_give_the_same(cohort, features, tmp_path):
    first, _ = features
    table = radiomics.cohort_features(cohort.part(cohort.patient_ids[:2]), tmp_path / "features.csv", jobs=2)
    pd.testing.assert_frame_equal(table, first, check_exact=True)


def test_the_largest_tumours_come_first_and_the_cache_is_in_the_patients_order(cohort, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(radiomics, "case_features", lambda image, *more: asked.append(image) or {"a": len(asked)})
    table = radiomics.cohort_features(cohort, tmp_path / "features.csv")
    volumes = cohort.patients.set_index("image")["volume_cc"]
    assert list(volumes[asked]) == sorted(volumes, reverse=True) and list(table.index) == cohort.patient_ids
    kept = [line.split(",")[0] for line in (tmp_path / "features.csv").read_text().splitlines()[1:]]
    assert kept == cohort.patient_ids


def test_a_bad_case_is_named_and_stops_nobody(cohort, features, tmp_path):
    first, cache = features
    (tmp_path / "features.csv").write_bytes(cache.read_bytes())
    lost = cohort.part(cohort.patient_ids[:3])
    lost.patients.loc["m002", "mask"] = "nowhere.nrrd"
    said = []
    table = radiomics.cohort_features(lost, tmp_path / "features.csv", log=said.append)
    assert list(table.index) == ["m000", "m001"]
    assert len(said) == 1 and said[0].startswith("m002: ") and "nowhere.nrrd" in said[0]


def test_a_cohort_without_any_usable_case_is_an_empty_table(cohort, tmp_path):
    lost = replace(cohort, patients=cohort.patients.assign(image="nowhere.nrrd"))
    for _ in range(2):
        assert radiomics.cohort_features(lost, tmp_path / "features.csv", log=lambda text: None).empty


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(CNNSurvivalError, match="nowhere"):
        radiomics.case_features(tmp_path / "nowhere.nrrd", tmp_path / "nowhere.nrrd")
