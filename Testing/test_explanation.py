"""The occlusion map: its values follow from the network, and it lies where the tumour lies."""

import numpy as np
import pytest

from CNNSurvivalLib.bundle import default_bundle_folder, load_bundle
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.errors import Cancelled, CNNSurvivalError
from CNNSurvivalLib.explanation import OcclusionMaps, occlusion_maps, on_ct_grid
from CNNSurvivalLib.hazards import survival_at, survival_function
from CNNSurvivalLib.prediction import predict
from CNNSurvivalLib.slices import Preprocessing, axial_geometry, extract_slices


@pytest.fixture(scope="module")
def bundle():
    return load_bundle(default_bundle_folder())


def case(spacing=(3.0, 0.8, 0.8), shape=(16, 90, 100)):
    """(hu, mask, ijk_to_ras): an egg of tissue whose grey rises along its length."""
    k, j, i = np.indices(shape)
    distance = np.sqrt(((k - 8) / 6) ** 2 + ((j - 40) / 22) ** 2 + ((i - 55) / 30) ** 2)
    hu = np.where(distance < 1, 20 + 2 * (i - 55), -850) + np.random.default_rng(0).normal(0, 8, shape)
    return hu.astype(np.int16), (distance < 1).astype(np.uint8), axial_geometry(spacing, (10.0, -20.0, 30.0))


@pytest.fixture(scope="module")
def prediction(bundle):
    return predict(*case(), bundle, max_slices=3)


@pytest.fixture(scope="module")
def maps(prediction, bundle):
    return occlusion_maps(prediction, create_engine("numpy", bundle), patch_px=20, stride_px=10)


def test_a_pixel_is_the_mean_over_the_patches_that_hide_it(prediction, maps, bundle):
    """Done the slow way for one pixel: every placement of the patch on the grid that covers it, one at a time."""
    image = prediction.slices.images[0]
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    row, column = int(rows.mean()), int(columns.mean())
    engine = create_engine("numpy", bundle)

    def risk(picture):
        curve = survival_function(engine.hazards(picture[np.newaxis]))
        return float(1 - survival_at(curve, bundle.edges_days, bundle.risk_time_days)[0])

    differences = []
    for top in range(rows[0] - 10, rows[-1] + 1, 10):
        for left in range(columns[0] - 10, columns[-1] + 1, 10):
            if top <= row < top + 20 and left <= column < left + 20:
                hidden = image.copy()
                hidden[top : top + 20, left : left + 20] = 0
                differences.append(risk(image) - risk(hidden))
    assert len(differences) == 4
    assert maps.values[0, row, column] == pytest.approx(np.mean(differences), abs=1e-6)


def test_nothing_is_said_outside_the_tumour(prediction, maps):
    assert maps.values.shape == prediction.slices.images.shape
    assert np.all(maps.values[prediction.slices.images == 0] == 0)
    assert np.abs(maps.values).max() > 1e-3


def test_both_engines_agree(prediction, maps, bundle):
    pytest.importorskip("torch")
    other = occlusion_maps(prediction, create_engine("torch", bundle, "cpu"), patch_px=20, stride_px=10)
    np.testing.assert_allclose(other.values, maps.values, atol=1e-5)


def test_cancel_and_progress(prediction, bundle):
    seen = []

    def progress(step, fraction):
        seen.append(fraction)
        if fraction > 0.4:
            raise Cancelled

    with pytest.raises(Cancelled):
        occlusion_maps(prediction, create_engine("numpy", bundle), 40, 40, progress)
    assert seen == sorted(seen) and seen[-1] > 0.4
    with pytest.raises(CNNSurvivalError, match="stride"):
        occlusion_maps(prediction, create_engine("numpy", bundle), 10, 11)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
@pytest.mark.parametrize("tilt", [0.0, 7.0])
def test_pixels_go_back_to_where_they_came_from(order, flips, tilt):
    """The mask itself, sent back to the CT, is the mask, however the CT is stored."""
    hu, mask, matrix = case(spacing=(3.0, 0.8, 1.1))
    angle = np.radians(tilt)
    turn = np.eye(4)
    turn[:3, :3] = [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    matrix = turn @ matrix
    for axis in flips:
        column = 2 - axis
        matrix[:3, 3] += matrix[:3, column] * (hu.shape[axis] - 1)
        matrix[:3, column] *= -1
        hu, mask = np.flip(hu, axis), np.flip(mask, axis)
    hu, mask = hu.transpose(order), mask.transpose(order)
    matrix = matrix[:, [*(2 - order[2 - c] for c in range(3)), 3]]
    slices = extract_slices(hu, mask, matrix, Preprocessing(min_roi_px=1))
    maps = OcclusionMaps((slices.images > 0).astype(np.float32), 1, 1)
    prediction = type("Shown", (), {"slices": slices})
    drawn = on_ct_grid(maps, prediction, hu.shape, matrix) > 50
    both = (drawn & (mask > 0)).sum() * 2 / (drawn.sum() + mask.sum())
    assert both > 0.96  # within half a pixel at the rim


def test_planes_between_used_ones_are_drawn_too(bundle):
    hu, mask, matrix = case(spacing=(1.0, 0.8, 0.8))
    prediction = predict(hu, mask, matrix, bundle)  # every third plane is used
    maps = OcclusionMaps((prediction.slices.images > 0).astype(np.float32), 1, 1)
    drawn = on_ct_grid(maps, prediction, hu.shape, matrix).any(axis=(1, 2))
    used = np.sort(prediction.slices.slice_index)
    assert np.all(np.diff(used) == 3) and drawn[used[0] : used[-1] + 1].all()
    assert not drawn[: used[0] - 1].any() and not drawn[used[-1] + 2 :].any()
