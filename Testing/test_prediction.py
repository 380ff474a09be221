"""From CT and mask to the numbers that a user reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from CNNSurvivalLib import prediction as pr
from CNNSurvivalLib.bundle import load_bundle
from CNNSurvivalLib.engines import create_engine
from CNNSurvivalLib.errors import Cancelled, CNNSurvivalError
from CNNSurvivalLib.record import from_record, to_record
from CNNSurvivalLib.report.pictures import thumbnail, tumour_window
from CNNSurvivalLib.report.tables import curve_table, horizon_table, slice_table, to_dict
from CNNSurvivalLib.report.text import parse_horizons, sentence, summary
from CNNSurvivalLib.slices import axial_geometry

GEOMETRY = axial_geometry((3.0, 1.0, 1.0))


@pytest.fixture
def prediction(sphere, tiny_bundle):
    return pr.predict(*sphere(), GEOMETRY, tiny_bundle)


def test_the_curve_is_the_mean_of_the_slice_curves(prediction, tiny_bundle):
    pytest.importorskip("torch")
    p = prediction
    hazards = create_engine("torch", tiny_bundle).hazards(p.slices.images)
    curves = np.cumprod(np.hstack([np.ones((len(hazards), 1)), 1 - hazards]), axis=1)
    np.testing.assert_allclose(p.survival, curves.mean(axis=0), atol=1e-5)
    assert p.risk == pytest.approx(1 - curves[:, 10].mean(), abs=1e-5)  # edge 10 is 18 months
    np.testing.assert_allclose(p.slice_risk, 1 - curves[:, 10], atol=1e-5)
    assert p.survival[0] == 1 and np.all(np.diff(p.survival) <= 0) and p.survival[-1] >= 0
    assert np.all(p.survival_low <= p.survival_high)


def test_horizons_median_and_mean_follow_from_the_curve(prediction):
    p = prediction
    days = np.array([6, 12, 18, 24, 36]) * 30.4375
    np.testing.assert_allclose(p.horizon_survival, np.interp(days, p.time_days, p.survival))
    assert 1 - p.horizon_survival[2] == pytest.approx(p.risk)
    if p.median_survival_days is not None:
        assert np.interp(p.median_survival_days, p.time_days, p.survival) == pytest.approx(0.5)
    assert p.rmst_days == pytest.approx(np.trapezoid(p.survival, p.time_days) if hasattr(np, "trapezoid")
                                        else np.trapz(p.survival, p.time_days))  # fmt: skip


def test_at_most_the_bundles_number_of_slices_is_used(sphere, tiny_bundle):
    hu, mask = sphere(shape=(61, 90, 90), spacing=(1, 1, 1), radius_mm=24)
    p = pr.predict(hu, mask, axial_geometry((1, 1, 1)), tiny_bundle)
    assert len(p.slices) == 20 and p.slices.roi_slices > 40
    assert len(pr.predict(hu, mask, axial_geometry((1, 1, 1)), tiny_bundle, max_slices=5).slices) == 5


def test_tables_hold_the_curve_the_horizons_and_the_slices(prediction):
    header, rows = curve_table(prediction)
    assert header[0] == "time_days" and len(rows) == 20 and rows[0][:5] == [0, 0, 1, 1, 1]
    np.testing.assert_allclose([row[2] for row in rows], prediction.survival)
    header, rows = horizon_table(prediction)
    assert [row[0] for row in rows] == [6, 12, 18, 24, 36]
    assert rows[2][5] == 0.7  # the test bundle's Kaplan-Meier curve between 400 and 900 days
    header, rows = slice_table(prediction)
    assert header[:2] == ["rank", "slice_index"] and [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0][header.index("risk")] == pytest.approx(prediction.slice_risk[0])


def test_json_is_complete_and_the_same_each_time(sphere, tiny_bundle):
    texts = [json.dumps(to_dict(pr.predict(*sphere(), GEOMETRY, tiny_bundle)), allow_nan=False) for _ in range(2)]
    assert texts[0] == texts[1]
    content = json.loads(texts[0])
    assert content["provenance"]["model"] == "random-1.0"
    assert content["provenance"]["model_weights_sha256"] == tiny_bundle.sha256
    assert content["provenance"]["parameters"]["hu_window"] == [-160, 240]
    assert content["notice"].startswith("Research use only")
    assert len(content["slices"]) == content["n_slices"] and len(content["slices"][0]["hazards"]) == 19


def test_words_say_what_the_numbers_say(prediction):
    p = prediction
    assert f"{1 - p.risk:.0%} of patients" in sentence(p) and "18 months" in sentence(p)
    assert "100 invented patients" in sentence(p)
    labels = dict(summary(p))
    assert labels["Survival at 18 months"] == f"{1 - p.risk:.0%}"
    assert labels["Slices used"] == f"{len(p.slices)} of {p.slices.roi_slices} with tumour"


def test_horizons_beyond_the_model_are_not_invented(tmp_path, sphere):
    from bundle_maker import bundle_info, random_weights
    from CNNSurvivalLib.bundle import save_bundle

    bundle = save_bundle(tmp_path / "b", bundle_info(edges=[0, 200, 400, 600]), random_weights(3))
    p = pr.predict(*sphere(), GEOMETRY, bundle)
    assert dict(summary(p))["Survival at 24 months"] == "beyond the model's horizon"
    assert to_dict(p)["survival_at_months"]["36"] is None


def test_median_not_reached_is_said_so(tmp_path, sphere):
    from bundle_maker import bundle_info, random_weights
    from CNNSurvivalLib.bundle import save_bundle

    weights = random_weights()
    weights["output.bias"] -= 20
    p = pr.predict(*sphere(), GEOMETRY, save_bundle(tmp_path / "b", bundle_info(weights), weights))
    assert p.median_survival_days is None and dict(summary(p))["Median survival"] == "not reached within 78 months"


def test_warnings_of_input_slices_and_curve_come_together(sphere, tiny_bundle):
    hu, mask = sphere(radius_mm=9.5)
    p = pr.predict(hu, mask, GEOMETRY, tiny_bundle, input_warnings=["A slice is missing."], min_roi_px=200)
    assert p.warnings[0] == "A slice is missing."
    assert any("slices only" in w or "slice only" in w or "fewer than 250" in w for w in p.warnings)
    few = pr.predict(*sphere(), GEOMETRY, tiny_bundle, max_slices=1)
    assert "The curve rests on 1 slice only." in few.warnings


def test_progress_can_cancel(sphere, tiny_bundle):
    steps = []
    pr.predict(*sphere(), GEOMETRY, tiny_bundle, progress=lambda step, fraction: steps.append((step, fraction)))
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] < 1
    assert "Running the network" in dict(steps)

    def stop(step, fraction):
        if fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        pr.predict(*sphere(), GEOMETRY, tiny_bundle, progress=stop)


@pytest.mark.parametrize("option", ["min_roi_px", "max_slices"])
def test_options_below_one_are_refused(sphere, tiny_bundle, option):
    with pytest.raises(CNNSurvivalError, match="is 0; give 1 or more"):
        pr.predict(*sphere(), GEOMETRY, tiny_bundle, **{option: 0})


# --- Revised and restored -----------------------------------------------------------------------------


def test_slices_that_are_left_out_do_not_count(prediction):
    used = np.ones(len(prediction.slices), dtype=bool)
    used[0] = False
    revised = pr.revise(prediction, used)
    np.testing.assert_allclose(revised.survival, prediction.slice_survival[1:].mean(axis=0))
    assert any(f"1 of {len(used)} slices were left out" in text for text in revised.warnings)
    assert to_dict(revised)["n_slices"] == len(used) - 1
    header, rows = slice_table(revised)
    assert [row[header.index("used")] for row in rows] == [0] + [1] * (len(used) - 1)
    again = pr.revise(revised, np.ones(len(used), dtype=bool))
    np.testing.assert_array_equal(again.survival, prediction.survival)
    assert again.warnings == prediction.warnings
    with pytest.raises(CNNSurvivalError, match="tick at least one"):
        pr.revise(prediction, np.zeros(len(used), dtype=bool))


def test_other_horizons(prediction):
    revised = pr.revise(prediction, horizons_months=parse_horizons("24; 3,6.5"))
    assert revised.horizons_months == (3, 6.5, 24)
    days = np.array([3, 6.5, 24]) * 30.4375
    np.testing.assert_allclose(revised.horizon_survival, np.interp(days, revised.time_days, revised.survival))
    assert summary(revised)[1][0] == "Survival at 6.5 months"
    np.testing.assert_array_equal(revised.survival, prediction.survival)


@pytest.mark.parametrize("text", ["", "soon", "-3", "6, nan", "0", "1e9", ",".join(map(str, range(1, 20)))])
def test_horizons_that_are_none(text):
    with pytest.raises(CNNSurvivalError, match="not a list of months"):
        parse_horizons(text)


def test_a_record_brings_the_prediction_back(prediction, tiny_bundle):
    used = np.arange(len(prediction.slices)) != 1
    revised = pr.revise(prediction, used, (6, 18))
    record = json.loads(json.dumps(to_record(revised), allow_nan=False))
    back = from_record(record, tiny_bundle)
    assert json.loads(json.dumps(to_dict(back))) == json.loads(json.dumps(to_dict(revised)))
    assert back.same_slices(prediction)
    np.testing.assert_allclose(back.slices.pixel_to_ras, prediction.slices.pixel_to_ras)


def test_a_record_of_an_earlier_version_is_restored():
    """Slicer scenes keep records. This one was written by version 0.1.0 for the model that was its default."""
    path = Path(__file__).parent / "data" / "record_0.1.0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    back = from_record(record, load_bundle(path.parent / "nsclc-balanced"))
    assert back is not None
    assert back.used.tolist() == [True, False, True] and back.horizons_months == (6, 18)
    assert json.loads(json.dumps(to_record(back)["state"])) == record["state"]
    restored = json.loads(json.dumps(to_dict(back)))
    assert {*restored, "state", "inputs"} >= set(record), "later versions say more, and all that was said before"
    for key in ("n_slices", "n_slices_with_roi", "provenance"):
        assert restored[key] == record[key]
    # Later versions mark what lies outside of the training range in the sentence, and name whose range it is.
    assert restored["sentence"].endswith(record["sentence"]) and len(restored["warnings"]) == len(record["warnings"])
    assert restored["risk"] == pytest.approx(record["risk"], rel=1e-12)
    for table in ("curve", "horizons", "slices"):
        assert len(restored[table]) == len(record[table])
        for row, expected in zip(restored[table], record[table]):
            assert list(row)[: len(expected)] == list(expected) or "hazards" in row
            keys = [key for key in expected if key != "hazards"]  # they are in the state
            found, wanted = (np.array([each[key] for key in keys], dtype=float) for each in (row, expected))
            np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("path, value", [
    (("state", "images"), "no images"), (("state", "hazards"), []), (("state",), None),
    (("provenance", "model_weights_sha256"), "0" * 64), (("state", "used"), [False]),
])  # fmt: skip
def test_a_record_that_is_damaged_or_of_another_model_is_none(prediction, tiny_bundle, path, value):
    record = json.loads(json.dumps(to_record(prediction)))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert from_record(record, tiny_bundle) is None


def test_unlike_the_training_there_is_a_warning(sphere, tiny_bundle):
    from dataclasses import replace

    info = {**tiny_bundle.info, "input_ranges": {"largest_area_px": [1, 99], "mean_intensity": [0, 255]}}
    hu, mask = sphere()
    p = pr.predict(hu, mask, axial_geometry((6.0, 2.0, 2.0)), replace(tiny_bundle, info=info))
    words = " ".join(p.warnings)
    assert "98% of the patients of '100 invented patients' had 1 to 99" in words and "grey level" not in words
    assert "pixels are 2.0 mm wide" in words


def test_thumbnails_are_pictures(prediction):
    for rank in range(len(prediction.slices)):
        magic, width, height, most, pixels = thumbnail(prediction.slices.images[rank]).split(maxsplit=4)
        assert magic == b"P5" and most == b"255" and len(pixels) <= int(width) * int(height)


def test_pictures_hold_the_tumour_with_a_margin():
    image = np.zeros((140, 140), np.uint8)
    image[60:83, 65:72] = 9
    assert tumour_window(image) == slice(70 - 17, 70 + 17)  # the last row is 82: 13 from the middle, 4 more
    image[50, 70] = 1
    assert tumour_window(image) == slice(46, 94)  # the first row is 50: 20 from the middle, 4 more
    both = np.stack([image, np.zeros_like(image)])
    both[1, 0, 139] = 1
    assert tumour_window(both) == slice(0, 140)
    assert tumour_window(np.zeros_like(image)) == slice(0, 140)
    assert thumbnail(image) == b"P5 48 48 255\n" + image[46:94, 46:94].tobytes()


def test_an_image_that_is_no_ct_is_refused_unless_forced(sphere, tiny_bundle):
    """The same check for files and for scenes: both come through here."""
    hu, mask = sphere()
    with pytest.raises(CNNSurvivalError, match="neither air nor fat.*--force"):
        pr.predict(hu.astype(int) + 2000, mask, GEOMETRY, tiny_bundle)
    forced = pr.predict(hu.astype(int) + 2000, mask, GEOMETRY, tiny_bundle, force=True)
    assert any("Hounsfield" in text for text in forced.warnings)
    with pytest.raises(CNNSurvivalError):
        pr.predict(np.maximum(hu, -50), mask, GEOMETRY, tiny_bundle)
    assert pr.predict(np.maximum(hu, -51), mask, GEOMETRY, tiny_bundle).inside_training_range


def test_the_percentile_is_that_of_the_image_alone(sphere, tmp_path):
    """The reference cohort's risks are of images: what is entered beside one does not move the patient among them."""
    from bundle_maker import bundle_info_2, random_weights
    from CNNSurvivalLib.bundle import save_bundle
    from CNNSurvivalLib.report.text import sentence

    bundle = save_bundle(tmp_path / "bundle", bundle_info_2(), random_weights())
    hu, mask = sphere()
    image = pr.predict(hu, mask, axial_geometry((3.0, 1.0, 1.0)), bundle)
    both = pr.revise(image, covariates={"age_years": 85})
    assert both.risk > image.risk and both.risk_percentile == pytest.approx(image.risk_percentile, abs=1e-9)
    assert "by the image alone, its risk is higher" in sentence(both) and "alone" not in sentence(image)


def test_the_interval_at_a_time_is_that_of_the_tables(sphere, tmp_path, tiny_bundle):
    from bundle_maker import bundle_info_2, random_weights
    from CNNSurvivalLib.bundle import save_bundle
    from CNNSurvivalLib.report.tables import horizon_table
    from CNNSurvivalLib.report.text import interval_at

    bundle = save_bundle(tmp_path / "bundle", bundle_info_2(), random_weights())
    case = (*sphere(), GEOMETRY)
    found = pr.predict(*case, bundle, horizons_months=(18, 60, 600))
    rows = [(row[1], tuple(row[-2:])) for row in horizon_table(found)[1]]
    assert [interval_at(found, days) for days, _ in rows] == [interval for _, interval in rows]
    assert 0 < rows[0][1][0] < rows[0][1][1] < 1 and rows[2][1] == (None, None)
    none = pr.predict(*case, tiny_bundle)
    assert interval_at(none, 100.0) == (None, None) and horizon_table(none)[1][0][-2:] == [None, None]


def test_a_risk_time_between_months_is_rounded_in_words_and_pictures(sphere, tmp_path):
    from bundle_maker import bundle_info, random_weights
    from CNNSurvivalLib.bundle import save_bundle
    from CNNSurvivalLib.report.page import draw_curve
    from CNNSurvivalLib.report.pdf import Page
    from CNNSurvivalLib.report.text import sentence

    info = bundle_info()
    info["aggregation"]["risk_time_days"] = 600
    found = pr.predict(*sphere(), GEOMETRY, save_bundle(tmp_path / "bundle", info, random_weights()))
    assert "alive at 19.7 months" in sentence(found)
    texts = []

    class Canvas(Page):
        def text(self, x, y, text, *more):
            texts.append(text)

    draw_curve(Canvas(), found, 0, 0, 320, 235)
    assert sum(text.endswith("alive at 19.7 months") for text in texts) == 1
    from training_cli.figures.survival import picture

    shown = [each.words for each in picture(found).texts]
    assert sum(text.endswith("alive at 19.7 months") for text in shown) == 1


class Drawn:
    """What ``draw_curve`` draws."""

    def __init__(self):
        from CNNSurvivalLib.report.pdf import Page

        self.texts, self.lines, self.fills, self._page = {}, [], [], Page()

    def text(self, x, y, text, size=9.0, font="", color=(0, 0, 0), align="left"):
        self.texts[text] = (x, y)

    def text_width(self, text, size=9.0, font="F1"):
        return self._page.text_width(text, size, font)

    def polyline(self, points, color=(0, 0, 0), width=1.0, dash=()):
        self.lines.append((np.asarray(points), color, width, dash))

    def polygon(self, points, color):
        self.fills.append((np.asarray(points), color))


@pytest.mark.parametrize("age, outside", [(60, False), (95, True)])
def test_a_small_curve_has_its_legend_below_and_is_marked_where_outside(sphere, tmp_path, age, outside):
    from bundle_maker import bundle_info_2, random_weights
    from CNNSurvivalLib.bundle import save_bundle
    from CNNSurvivalLib.report import page

    bundle = save_bundle(tmp_path / "two", bundle_info_2(), random_weights())
    found = pr.predict(*sphere(), GEOMETRY, bundle, covariates={"age_years": age})
    assert found.inside_training_range is not outside
    for look in (page.ON_LIGHT, page.ON_DARK):
        drawn = Drawn()
        page.draw_curve(drawn, found, 0, 0, 440, 180, look=look, legend_below=True)
        (curve,) = [line for line in drawn.lines if len(line[0]) == len(found.survival) and line[2] == 2.0]
        assert curve[1] == (look.caution if outside else look.curve) and bool(curve[3]) is outside
        assert (page.OUTSIDE in drawn.texts) is outside
        axis = drawn.texts["0"][1]
        below = {text for text, (_x, y) in drawn.texts.items() if y > axis}
        assert {"reference cohort", "10-90% of the slices"} <= below and len(below) == 4
        assert max(y for _x, y in drawn.texts.values()) <= 180
        assert any(text.endswith(" months") and drawn.texts[text][1] == axis for text in drawn.texts)


def test_a_legend_inside_goes_where_it_covers_less_of_the_curves(sphere, tmp_path):
    from bundle_maker import bundle_info_2, random_weights
    from CNNSurvivalLib.bundle import save_bundle
    from CNNSurvivalLib.report import page

    found = pr.predict(*sphere(), GEOMETRY, save_bundle(tmp_path / "two", bundle_info_2(), random_weights()))
    legend = "Kaplan-Meier of the reference cohort"
    heights = []
    for level in (0.1, 0.95):
        flat = np.full_like(found.survival, level)
        drawn = Drawn()
        page.draw_curve(drawn, replace(found, survival=flat, interval_low=flat, interval_high=flat), 0, 0, 320, 235)
        heights.append(drawn.texts[legend][1])
    assert heights[0] < 235 / 2 < heights[1]


def test_the_answer_of_the_panel_is_that_of_the_prediction(sphere, tmp_path, tiny_bundle):
    from bundle_maker import bundle_info_2, random_weights
    from CNNSurvivalLib.bundle import save_bundle
    from CNNSurvivalLib.report.tables import to_dict
    from CNNSurvivalLib.report.text import answer, median_text, size_text

    bundle = save_bundle(tmp_path / "two", bundle_info_2(), random_weights())
    found = pr.predict(*sphere(), GEOMETRY, bundle, horizons_months=(6, 12.5, 500))
    header, rows, facts = answer(to_dict(found))
    assert header == ["Alive at", "This tumour", "95% interval", "Cohort"]
    assert [row[0] for row in rows] == ["6 months", "12.5 months", "500 months"]
    assert [row[1] for row in rows] == [f"{found.horizon_survival[0]:.0%}", f"{found.horizon_survival[1]:.0%}", "-"]
    assert rows[2][2:] == ["", "-"] and " to " in rows[0][2]
    # The "-" of 500 months, which lies after the curve's end, is explained.
    after_the_end = "-: after the end of the model's curve."
    assert facts == [f"Median survival: {median_text(found)}.", after_the_end, f"Tumour: {size_text(found)}."]
    header, rows, _facts = answer(to_dict(pr.predict(*sphere(), GEOMETRY, tiny_bundle)))
    assert header[2] == "Its slices" and " to " in rows[0][2]
    assert answer({}) == (["Alive at", "This tumour", "Its slices", "Cohort"], [], [])
