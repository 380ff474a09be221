"""The checks that a radiologist would make: the changes are what they say, the worst is found."""

import numpy as np
import pytest

from bundle_maker import random_weights
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.hazards import exponential_edges
from CNNSurvivalLib.slices import Preprocessing, axial_geometry, extract_slices
from training_cli.models import sanity


@pytest.fixture
def tumour(sphere):
    hu, mask = sphere()
    return sanity.Tumour("ball", hu, mask, axial_geometry((3.0, 1.0, 1.0)))


@pytest.fixture
def model():
    return sanity.Model(random_weights(), exponential_edges(), Preprocessing())


def test_a_row_says_how_risk_moves(model, tumour):
    row = sanity.check(model, [tumour], scales=(0.8, 1.0, 1.25))[0]
    assert row["risk_x1"] == row["risk"]
    assert row["volume_cc"] == pytest.approx(33.5, abs=0.5) and row["largest_area_px"] == pytest.approx(1257, abs=10)
    assert row["fall"] == sanity.largest_fall([row["risk_x0.8"], row["risk_x1"], row["risk_x1.25"]])
    for change in sanity.CHANGES:
        assert row[f"move_{change}"] == pytest.approx(abs(row[f"risk_{change}"] - row["risk"])) and row["risk"] > 0
    worst = sanity.worst([row, {**row, "name": "other", "fall": 0.9, "move_eroded": None}])
    assert worst["fall"]["tumour"] == "other" and worst["fall"]["worst"] == 0.9
    assert worst["move_eroded"]["tumours"] == 1


def test_the_largest_fall_is_to_any_larger_size():
    assert sanity.largest_fall([0.1, 0.4, 0.35, 0.3, 0.6]) == pytest.approx(0.1)
    assert sanity.largest_fall([0.4, None, 0.1, 0.5]) == pytest.approx(0.3)
    assert sanity.largest_fall([0.1, 0.1, 0.2]) == 0 and sanity.largest_fall([None]) == 0


def test_stretching_keeps_the_slices_and_their_distance(tumour):
    """In whatever order the volume is stored."""
    for axes in ((0, 1, 2), (2, 0, 1)):
        geometry = tumour.ijk_to_ras.copy()
        geometry[:, :3] = geometry[:, [2 - axes.index(2 - column) for column in range(3)]]
        hu, mask = tumour.hu.transpose(axes), tumour.mask.transpose(axes)
        one = extract_slices(hu, mask, geometry)
        two = extract_slices(hu, mask, sanity.scaled(geometry, 1.5))
        assert two.slice_spacing_mm == one.slice_spacing_mm == 3.0
        assert two.area_px.max() / one.area_px.max() == pytest.approx(1.5**2, rel=0.04)


def test_turned_slices_are_the_seven_other_positions():
    images = np.random.default_rng(0).integers(0, 255, (2, 140, 140), np.uint8)
    found = sanity.turned(images)
    assert len(found) == 7 == len({x.tobytes() for x in found} - {images.tobytes()})


def test_contours_move_by_a_voxel_within_their_slice(tumour):
    planes = tumour.mask != 0
    moved = sanity.moved_contours(planes)
    for mask in moved.values():
        assert not mask[~planes.any(axis=(1, 2))].any()
    radius = {name: np.sqrt(mask[12].sum() / np.pi) for name, mask in moved.items()}
    before = np.sqrt(planes[12].sum() / np.pi)
    assert radius["dilated"] - before == pytest.approx(1, abs=0.35)
    assert before - radius["eroded"] == pytest.approx(1, abs=0.35)
    changed = (moved["shaken"] ^ planes)[12]
    assert 0 < changed.sum() < planes[12].sum() / 4 and radius["shaken"] == pytest.approx(before, abs=0.5)


def test_another_reading_of_the_logits_and_tumours_that_are_too_small(model, tumour):
    model = sanity.Model(model.weights, model.edges_days, model.preprocessing, risk=lambda logits: float(len(logits)))
    row = sanity.check(model, [tumour], scales=(0.3, 0.5, 1.0))[0]
    assert row["risk"] == len(extract_slices(tumour.hu, tumour.mask, tumour.ijk_to_ras))
    assert row["risk_x0.3"] is None and row["risk_x0.5"] < row["risk"]
    tiny = sanity.Tumour("tiny", tumour.hu, tumour.mask, sanity.scaled(tumour.ijk_to_ras, 0.1))
    with pytest.raises(CNNSurvivalError, match="'tiny'"):
        sanity.check(model, [tiny])
