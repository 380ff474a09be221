"""Several lesions in one mask: counted, told, and the largest taken alone where that is wanted."""

import json

import numpy as np
import pytest
from scipy import ndimage

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.lesions import ALL, LARGEST, choose_lesions, is_one_piece, matters, warnings_of
from CNNSurvivalLib.prediction import predict
from CNNSurvivalLib.record import from_record, to_record
from CNNSurvivalLib.report.tables import to_dict
from CNNSurvivalLib.slices import axial_geometry

SHAPE, SPACING = (24, 100, 120), (3.0, 1.0, 1.0)  # [k, j, i], mm
GEOMETRY = axial_geometry(SPACING)


def ball(center, radius, shape=SHAPE):
    """A ball by its centre [k, j, i] in voxels and its radius in mm."""
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = sum((step * (axis - at)) ** 2 for step, axis, at in zip(SPACING, grid, center))
    return (distance <= radius**2).astype(np.uint8)


def of(mask, choice=LARGEST):
    return choose_lesions(mask, GEOMETRY, choice)


def test_one_connected_tumour_is_taken_as_it_is():
    tumour = ball((12, 50, 30), 20)
    for choice in (ALL, LARGEST):
        mask, found = of(tumour, choice)
        assert mask is tumour and len(found.volumes_cc) == 1 and warnings_of(found, choice) == ()
    assert found.volumes_cc[0] == pytest.approx(tumour.sum() * 3 / 1000)
    assert found.center_ras == pytest.approx((-30, -50, 36))


def test_one_piece_is_told_as_scipy_tells_it():
    random, told = np.random.default_rng(0), set()
    for _ in range(3000):
        inside = random.random(random.integers(1, 6, 3)) < random.choice([0.1, 0.3, 0.5, 0.8])
        if inside.any():
            one = ndimage.label(inside, np.ones((3, 3, 3)))[1] == 1
            assert is_one_piece(inside) == one, inside
            told.add(one)
    assert told == {True, False}


def test_all_or_the_largest_of_three():
    lesions = [ball((12, 50, 30), 18), ball((6, 30, 90), 10), ball((18, 80, 100), 7)]
    together = sum(lesions)
    mask, found = of(together, ALL)
    assert mask is together
    assert found.volumes_cc == pytest.approx([lesion.sum() * 3 / 1000 for lesion in lesions])
    (sentence,) = warnings_of(found, ALL)
    which = "3 separate lesions of 24.1, 4.3 and 1.5 cc, the largest at L 30, P 50, S 36 mm; "
    assert which + "all were taken" in sentence
    before = together.copy()
    mask, found = of(together)
    np.testing.assert_array_equal(mask, lesions[0])
    np.testing.assert_array_equal(together, before)
    (sentence,) = warnings_of(found, LARGEST)
    assert which + "only the largest was taken" in sentence


def test_the_geometry_decides_which_is_the_largest_and_where():
    """Stored in another order, with i running to superior: the same lesion, volume and place."""
    together = ball((12, 50, 30), 18) + ball((6, 30, 90), 10)
    turned = np.ascontiguousarray(together.transpose(1, 2, 0))  # [j, i, k] of before
    geometry = np.zeros((4, 4))
    geometry[:, :3], geometry[:, 3] = GEOMETRY[:, [2, 0, 1]], GEOMETRY[:, 3]
    first, second = of(together)[1], choose_lesions(turned, geometry, LARGEST)[1]
    assert second.volumes_cc == pytest.approx(first.volumes_cc)
    assert second.center_ras == pytest.approx(first.center_ras)


def test_contours_that_skip_slices_are_one_lesion():
    tumour = ball((12, 50, 60), 20)
    tumour[1::2] = 0  # every second slice was contoured
    mask, found = of(tumour)
    assert len(found.volumes_cc) == 1 and found.specks == 0
    np.testing.assert_array_equal(mask, tumour)
    tumour[8:13] = 0  # five slices in a row, 18 mm
    assert len(of(tumour)[1].volumes_cc) == 2


@pytest.mark.parametrize(("gap", "count"), [(2, 1), (5, 1), (6, 1), (7, 2), (12, 2)])
def test_pieces_that_lie_near_are_one_lesion(gap, count):
    """From voxel centre to voxel centre, mm; 6 mm is one skipped slice here."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[8:14, 40:60, 20:40] = 1
    mask[8:14, 40:60, 39 + gap : 50 + gap] = 1
    assert len(of(mask)[1].volumes_cc) == count


def test_voxels_that_touch_at_a_corner_are_connected():
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[5:10, 20:40, 20:40] = 1
    mask[10:15, 40:60, 40:60] = 1
    taken, found = of(mask)
    assert taken is mask and len(found.volumes_cc) == 1


def test_a_speck_is_no_lesion():
    tumour, speck = ball((12, 50, 30), 18), ball((6, 30, 90), 2)
    assert 1 < speck.sum() * 3 < 100  # mm3
    together = tumour + speck
    mask, found = of(together, ALL)
    assert mask is together and found.specks == 1 and warnings_of(found, ALL) == ()
    mask, found = of(together)
    np.testing.assert_array_equal(mask, tumour)
    assert warnings_of(found, LARGEST) == ("1 speck of less than 0.1 cc beside the tumour was left out.",)


def test_where_all_is_small_the_largest_is_the_tumour():
    mask, found = of(ball((6, 30, 90), 2) + ball((12, 50, 30), 1))
    np.testing.assert_array_equal(mask, ball((6, 30, 90), 2))
    assert found.specks == 1 and len(found.volumes_cc) == 1


def test_noise_is_counted_quickly():
    noise = (np.random.default_rng(0).random(SHAPE) < 0.02).astype(np.uint8)
    mask, found = of(np.maximum(noise, ball((12, 50, 60), 20)))
    assert len(found.volumes_cc) == 1 and found.specks > 1000
    assert mask.sum() < ball((12, 50, 60), 21).sum() * 1.1


@pytest.mark.parametrize("kind", [bool, np.int16, np.float32])
def test_any_kind_of_mask(kind):
    together = (ball((12, 50, 30), 18) + ball((6, 30, 90), 10)).astype(kind)
    np.testing.assert_array_equal(of(together)[0], ball((12, 50, 30), 18))


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="'biggest' is no choice of lesions; give all or largest"):
        of(ball((12, 50, 30), 18), "biggest")
    with pytest.raises(CNNSurvivalError, match="The segment is empty"):
        of(np.zeros(SHAPE, dtype=np.uint8))


# --- In a prediction ------------------------------------------------------------------------------------------


@pytest.fixture
def two_lesions():
    """(HU, mask, mask of the larger one)."""
    larger, smaller = ball((14, 50, 30), 18), ball((8, 50, 95), 12)
    hu = np.where(larger + smaller > 0, 40, -800) + np.random.default_rng(1).normal(0, 20, SHAPE)
    return hu.astype(np.int16), larger + smaller, larger


def test_the_largest_is_predicted_as_if_it_had_been_alone(two_lesions, tiny_bundle):
    hu, mask, larger = two_lesions
    alone = predict(hu, larger, GEOMETRY, tiny_bundle)
    largest = predict(hu, mask, GEOMETRY, tiny_bundle, lesions=LARGEST)
    together = predict(hu, mask, GEOMETRY, tiny_bundle)
    np.testing.assert_array_equal(largest.survival, alone.survival)
    assert largest.volume_cc == alone.volume_cc < together.volume_cc
    assert not np.array_equal(together.survival, alone.survival)
    for prediction, words in ((largest, "only the largest was taken"), (together, "all were taken")):
        assert sum(words in text for text in prediction.warnings) == 1
    assert not any("lesions" in text for text in alone.warnings)


def test_the_choice_is_recorded_and_comes_back(two_lesions, tiny_bundle):
    hu, mask, _larger = two_lesions
    prediction = predict(hu, mask, GEOMETRY, tiny_bundle, lesions=LARGEST)
    provenance = json.loads(json.dumps(to_dict(prediction)))["provenance"]
    assert provenance["parameters"]["lesions"] == LARGEST
    assert len(provenance["lesions"]["volumes_cc"]) == 2 and provenance["lesions"]["specks"] == 0
    back = from_record(json.loads(json.dumps(to_record(prediction))), tiny_bundle)
    assert back.warnings == prediction.warnings and back.provenance == provenance
    assert matters(provenance, ALL) and not matters(provenance, LARGEST)
    one = predict(hu, _larger, GEOMETRY, tiny_bundle).provenance
    assert not matters(one, LARGEST) and not matters(one, ALL)
    assert matters({"parameters": {}}, LARGEST) and not matters({"parameters": {}}, ALL)  # of earlier versions


def test_bad_inputs_are_said_as_before(two_lesions, tiny_bundle):
    hu, mask, _larger = two_lesions
    with pytest.raises(CNNSurvivalError, match="where 3 are needed"):
        predict(hu, mask[0], GEOMETRY, tiny_bundle)
    with pytest.raises(CNNSurvivalError, match="geometry"):
        predict(hu, mask, np.full((4, 4), np.nan), tiny_bundle)


def test_predict_on_the_command_line(two_lesions, tiny_bundle, tmp_path, capsys):
    sitk = pytest.importorskip("SimpleITK")
    pytest.importorskip("threadpoolctl")
    main = pytest.importorskip("training_cli.cli").main
    paths = []
    for name, array in (("ct", two_lesions[0]), ("mask", two_lesions[1])):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        paths.append(str(tmp_path / f"{name}.nrrd"))
        sitk.WriteImage(image, paths[-1])
    curves = {}
    for choice in (ALL, LARGEST):
        out = tmp_path / choice
        arguments = ["--image", paths[0], "--mask", paths[1], "--model", str(tiny_bundle.folder)]
        assert main(["predict", *arguments, "--lesions", choice, "--output", str(out)]) == 0
        assert ("all were taken" if choice == ALL else "only the largest was taken") in capsys.readouterr().err
        written = json.loads((out / "prediction.json").read_text(encoding="utf-8"))
        assert written["provenance"]["parameters"]["lesions"] == choice
        curves[choice] = (out / "survival_curve.csv").read_text(encoding="utf-8")
    assert curves[ALL] != curves[LARGEST]
    assert main(["predict", "--image", "a", "--mask", "b", "--output", "c", "--lesions", "biggest"]) == 2


def test_headless_takes_the_choice(two_lesions, tiny_bundle, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    from CNNSurvivalLib.headless import main as headless

    for name, array in (("ct", two_lesions[0]), ("mask", two_lesions[1])):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    (tmp_path / "cases.csv").write_text("image,mask\nct.nrrd,mask.nrrd\n", encoding="utf-8")
    arguments = ["--manifest", str(tmp_path / "cases.csv"), "--model", str(tiny_bundle.folder)]
    for choice, words in ((ALL, "all were taken"), (LARGEST, "only the largest was taken")):
        assert headless([*arguments, "--output", str(tmp_path / choice), "--lesions", choice]) == 0
        assert words in (tmp_path / choice / "predictions.csv").read_text(encoding="utf-8")


def test_real_contours(shared_data):
    """A lung contour in two pieces 11 mm apart, and one in two pieces 2 mm apart."""
    sitk = pytest.importorskip("SimpleITK")
    found = {}
    for case in ("p016", "p306"):
        image = sitk.ReadImage(str(shared_data(f"data/nsclc/{case}_mask.nrrd")))
        geometry = axial_geometry(image.GetSpacing()[::-1])
        found[case] = choose_lesions(sitk.GetArrayFromImage(image), geometry)[1].volumes_cc
    assert found["p016"] == pytest.approx((95.759, 7.737))
    assert found["p306"] == pytest.approx((9.894 + 9.074,))
