"""What holds for every input, tried on inputs that hypothesis draws.

In a normal run a few of each; CNNSURVIVAL_FUZZ=full tries a hundred times as many.
"""

import itertools
import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bundle_maker import bundle_info, random_weights
from CNNSurvivalLib.bundle import load_bundle, save_bundle
from CNNSurvivalLib.engines import NumpyEngine, TorchEngine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import escape_csv, unescape_csv
from CNNSurvivalLib.hazards import (
    hazards_from_logits,
    median_survival,
    restricted_mean_survival,
    survival_at,
    survival_function,
)
from CNNSurvivalLib.slices import Preprocessing, axial_geometry, extract_slices

MORE = 100 if os.environ.get("CNNSURVIVAL_FUZZ") == "full" else 1
ORDERS = list(itertools.permutations(range(3)))
PREPROCESSING = Preprocessing(min_roi_px=4)


def examples(count):
    return settings(max_examples=count * MORE, deadline=None, derandomize=MORE == 1, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


@st.composite
def cases(draw):
    """(hu int16, mask bool, spacing z, y, x): a ragged tumour that does not touch the volume's border."""
    shape = [draw(st.integers(4, 9)), draw(st.integers(12, 30)), draw(st.integers(12, 30))]
    pixel = st.one_of(st.sampled_from([0.5, 0.75, 0.8, 0.9765625, 1.0, 1.25, 1.5, 2.0]), st.floats(0.4, 2.5))
    spacing = (draw(st.floats(0.5, 6)), draw(pixel), draw(pixel))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    ball = sum((g - random.uniform(-0.2, 0.2)) ** 2 for g in grid) < random.uniform(0.2, 0.7)
    mask = np.zeros(shape, bool)
    inner = (slice(1, -1), slice(2, -2), slice(2, -2))
    mask[inner] = (ball & (random.random(shape) < random.choice([0.6, 0.95, 1.0])))[inner]
    return random.integers(-1000, 1500, shape).astype(np.int16), mask, spacing


def cut(hu, mask, geometry, preprocessing=PREPROCESSING):
    """The slices, or None where there is nothing to cut."""
    try:
        return extract_slices(hu, mask, geometry, preprocessing)
    except CNNSurvivalError:
        return None


def assert_same_slices(a, b):
    assert (a is None) == (b is None)
    if a is not None:
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.area_px, b.area_px)
        np.testing.assert_array_equal(a.mean_intensity, b.mean_intensity)


# --- Slices ---------------------------------------------------------------------------------------------------------


@examples(40)
@given(cases(), st.sampled_from(ORDERS), st.tuples(*[st.booleans()] * 3))
def test_slices_do_not_depend_on_how_the_anatomy_is_stored(case, order, flips):
    hu, mask, spacing = case
    geometry = axial_geometry(spacing)
    backwards = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    matrix = np.eye(4)
    for axis in range(3):
        column = geometry[:3, 2 - order[axis]] * (-1 if flips[axis] else 1)
        matrix[:3, 2 - axis] = column
        matrix[:3, 3] -= column * (hu.shape[order[axis]] - 1) if flips[axis] else 0
    stored = [array.transpose(order)[backwards] for array in (hu, mask)]
    a, b = cut(hu, mask, geometry), cut(*stored, matrix)
    assert_same_slices(a, b)
    if a is not None:
        np.testing.assert_allclose(a.center_ras, b.center_ras, atol=1e-6)
    assert_same_slices(b, cut(*map(np.ascontiguousarray, stored), matrix))


@examples(40)
@given(cases(), st.tuples(*[st.tuples(st.integers(0, 40), st.integers(0, 40))] * 3), st.integers(-1000, 1000))
def test_slices_do_not_depend_on_where_the_tumour_lies_in_how_large_a_volume(case, padding, value):
    hu, mask, spacing = case
    geometry = axial_geometry(spacing)
    moved = cut(np.pad(hu, padding, constant_values=value), np.pad(mask, padding), geometry)
    a = cut(hu, mask, geometry)
    assert_same_slices(a, moved)
    if a is not None:
        np.testing.assert_array_equal(a.slice_index + padding[0][0], moved.slice_index)


@examples(40)
@given(cases(), st.integers(0, 2**32 - 1))
def test_voxels_more_than_a_pixel_outside_the_contour_do_not_matter(case, seed):
    """Next to it they do where the CT is resampled: a pixel is interpolated between its four neighbours."""
    from scipy.ndimage import binary_dilation

    hu, mask, spacing = case
    near = binary_dilation(mask, np.ones((1, 3, 3)))
    other = np.where(near, hu, np.random.default_rng(seed).integers(-32768, 32767, hu.shape)).astype(np.int16)
    assert_same_slices(cut(hu, mask, axial_geometry(spacing)), cut(other, mask, axial_geometry(spacing)))


@examples(30)
@given(cases())
def test_slices_are_masked_ranked_and_counted(case):
    hu, mask, spacing = case
    slices = cut(hu, mask, axial_geometry(spacing))
    if slices is None:
        return
    score = (slices.area_rank + slices.intensity_rank) / 2
    assert np.all(np.diff(score) <= 1e-12) and np.all((score > 0) & (score <= 1))
    assert np.all(np.count_nonzero(slices.images, axis=(1, 2)) <= slices.area_px)
    assert np.all(slices.area_px >= PREPROCESSING.min_roi_px) and len(slices) <= slices.roi_slices
    assert len(set(slices.slice_index.tolist())) == len(slices)
    assert all(mask[k].any() for k in slices.slice_index)


# --- Survival -------------------------------------------------------------------------------------------------------

EDGES = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=25).map(lambda steps: np.cumsum([0.0, *steps]))


@examples(100)
@given(EDGES, st.data())
def test_survival_starts_at_one_never_rises_and_stays_between_0_and_1(edges, data):
    count = len(edges) - 1
    logits = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=count, max_size=count))
    survival = survival_function(hazards_from_logits(logits))
    assert survival[0] == 1 and np.all(np.diff(survival) <= 0) and np.all((survival >= 0) & (survival <= 1))
    times = np.sort(data.draw(st.lists(st.floats(0, float(edges[-1])), min_size=2, max_size=20)))
    between = survival_at(survival, edges, times)
    assert np.all((between >= 0) & (between <= 1)) and np.all(np.diff(between) <= 1e-12)
    assert survival_at(survival, edges, 0) == 1
    mean = restricted_mean_survival(survival, edges)
    assert -1e-9 <= mean <= edges[-1] * (1 + 1e-12)
    median = median_survival(survival, edges)
    assert (median is None) == bool(survival[-1] > 0.5)
    if median is not None:
        assert abs(survival_at(survival, edges, min(median, edges[-1])) - 0.5) < 1e-6 or survival[0] <= 0.5


@examples(100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_hazards_of_0_and_1_make_a_curve(hazards):
    survival = survival_function(hazards)
    assert survival[0] == 1 and np.all(np.diff(survival) <= 0) and survival[-1] >= 0


# --- Engines --------------------------------------------------------------------------------------------------------


@examples(6)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(0, 0), (0, 60), (110, 138), (139, 139)]), st.booleans())
@example(0, (0, 139), True)
def test_engines_agree(seed, corner, full):
    """Windows at the borders, of one pixel, of the whole slice, with gaps; and an empty slice."""
    pytest.importorskip("torch")
    random = np.random.default_rng(seed)
    weights = random_weights(seed=seed % 1000)
    images = np.zeros((3, 140, 140), np.uint8)
    for image in images[:2]:
        top, left = corner
        height, width = random.integers(1, 141 - top), random.integers(1, 141 - left)
        values = random.integers(0, 256, (height, width), np.uint8)
        image[top : top + height, left : left + width] = values if full else values * (random.random() < values / 255)
    np.testing.assert_allclose(
        NumpyEngine(weights).hazards(images), TorchEngine(weights, "cpu").hazards(images), rtol=0, atol=1e-5
    )


# --- Files ----------------------------------------------------------------------------------------------------------

TEXT = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and text.isprintable())


@examples(4)
@given(seed=st.integers(0, 1000), title=TEXT, note=TEXT, edges=st.lists(st.integers(1, 400), min_size=1, max_size=30),
       limit=st.integers(1, 10_000))  # fmt: skip
def test_a_bundle_survives_a_round_trip_byte_for_byte(tmp_path_factory, seed, title, note, edges, limit):
    folder = tmp_path_factory.mktemp("round")
    edges = np.cumsum([0.0, *edges])
    weights = random_weights(len(edges) - 1, seed)
    info = bundle_info(weights, edges, title=title, changes=[note])
    info["aggregation"]["max_slices"] = limit
    first = save_bundle(folder / "first", info, weights)
    written = {key: value for key, value in first.info.items() if key not in ("format", "format_version")}
    second = save_bundle(folder / "second", written, first.weights)
    for name in ("bundle.json", "weights.npz"):
        assert (folder / "first" / name).read_bytes() == (folder / "second" / name).read_bytes()
    assert second.info == json.loads(json.dumps(first.info)) == first.info
    assert all(np.array_equal(load_bundle(folder / "second").weights[name], weights[name]) for name in weights)
    shutil.rmtree(folder)


CELL = st.text(alphabet=st.sampled_from("'=+-@;|\t\r\n,\" a1.eE٣０＝−"), max_size=8)


@examples(300)
@given(CELL)
def test_disarmed_text_comes_back_as_it_was(text):
    assert unescape_csv(escape_csv(text)) == text
