"""What the panel exports: a report on one page, a picture, tables; the tables are the command line's."""

import csv
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest

from bundle_maker import bundle_info_2, population_info, random_weights
from canvas_check import check_texts
from CNNSurvivalLib import prediction as pr
from CNNSurvivalLib.bundle import save_bundle
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.report.case_folder import free_path, write_case_folder
from CNNSurvivalLib.report.page import write_report
from CNNSurvivalLib.report.pdf import BOLD, Page, text_width, wrapped
from CNNSurvivalLib.report.pictures import tumour_window
from CNNSurvivalLib.report.tables import curve_table, slice_table
from CNNSurvivalLib.slices import axial_geometry

INPUTS = {"volume": "CT chest", "segmentation": "Contours", "segment": "GTVp"}


@pytest.fixture
def prediction(sphere, tiny_bundle):
    return pr.predict(*sphere(), axial_geometry((3.0, 1.0, 1.0)), tiny_bundle)


def text_of(content):
    """All text of a PDF that we wrote."""
    streams = re.findall(rb"stream\n(.*?)\nendstream", content, re.S)
    page = zlib.decompress(streams[0]).decode("latin-1")
    strings = re.findall(r"\(((?:\\.|[^\\()])*)\) Tj", page)
    return " ".join(re.sub(r"\\(.)", r"\1", text) for text in strings)


def report(prediction, path, **options):
    write_report(prediction, path, INPUTS, when="2026-01-01", **options)
    return path.read_bytes()


def test_the_report_says_what_a_radiologist_asks(prediction, tmp_path):
    text = text_of(report(prediction, tmp_path / "report.pdf"))
    for words in ("Research use only", "CT: CT chest", "Segment: GTVp", "18 months", "Median survival", "Warnings",
                  prediction.bundle.id, "Reference cohort", prediction.bundle.sha256[:16], "2026-01-01"):  # fmt: skip
        assert words in text, words
    assert f"{prediction.horizon_survival[2]:.0%}" in text


def test_the_patient_is_named_only_if_that_is_asked_for(prediction, tmp_path):
    assert "Doe" not in text_of(report(prediction, tmp_path / "a.pdf"))
    assert "Patient: Doe^Jane" in text_of(report(prediction, tmp_path / "b.pdf", patient="Doe^Jane"))


def test_it_is_one_page_that_other_software_reads(prediction, tmp_path):
    from dataclasses import replace

    many = replace(prediction, warnings=tuple(f"Warning {n} " + "of many words " * 20 for n in range(50)))
    content = report(many, tmp_path / "report.pdf", patient="\u80bf \u202e(x)\\\n" * 60)
    assert content.startswith(b"%PDF-1.4") and content.rstrip().endswith(b"%%EOF")
    assert "more; prediction.json has them all" in text_of(content)
    places = [int(line) for line in re.findall(rb"(\d{10}) 00000 n", content)]
    assert all(content[place:].startswith(b"%d 0 obj" % number) for number, place in enumerate(places, 1))
    lowest = min(float(y) for y in re.findall(r"[\d.]+ ([\d.]+) Tm", zlib.decompress(
        re.findall(rb"stream\n(.*?)\nendstream", content, re.S)[0]).decode("latin-1")))  # fmt: skip
    assert lowest >= 29, "nothing runs off the page"
    pypdf = pytest.importorskip("pypdf", reason="the page is also read by pypdf, where that is installed")
    assert len(pypdf.PdfReader(tmp_path / "report.pdf").pages) == 1


def test_the_same_prediction_gives_the_same_bytes(prediction, tmp_path):
    assert report(prediction, tmp_path / "a.pdf") == report(prediction, tmp_path / "b.pdf")


def test_lines_are_as_wide_as_they_may_be():
    assert text_width("AVA", 10) == pytest.approx(20.01)  # 667 three times
    assert text_width("W", 10, BOLD) == pytest.approx(9.44)
    lines = wrapped("word " * 40 + "x" * 300, 100, 9)
    assert all(text_width(line, 9) <= 100 for line in lines)
    assert "".join(lines).replace(" ", "") == "word" * 40 + "x" * 300
    assert wrapped("", 100, 9) == [""]


def test_pictures_keep_their_pixels():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    page = Page()
    page.image(10, 10, 40, 30, pixels)
    streams = re.findall(rb"stream\n(.*?)\nendstream", page.to_bytes("x"), re.S)
    assert zlib.decompress(streams[1]) == pixels.tobytes()


def test_the_folder_holds_what_the_command_line_writes(prediction, tmp_path):
    paths = write_case_folder(prediction, tmp_path / "out", INPUTS, picture=lambda: b"PNG")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in paths}
    assert (tmp_path / "out" / "survival_curve.png").read_bytes() == b"PNG"
    record = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert record["risk"] == prediction.risk and record["input"] == INPUTS
    for name, table in (("survival_curve.csv", curve_table), ("slices.csv", slice_table)):
        with open(tmp_path / "out" / name, newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        assert header == table(prediction)[0] and len(rows) == len(table(prediction)[1])
    assert free_path(tmp_path / "out", "report.pdf").name == "report-2.pdf"


def test_the_report_names_files_as_it_names_nodes(prediction, tmp_path):
    write_report(prediction, tmp_path / "a.pdf", {"image": "ct.nrrd", "mask": "rt.dcm", "segment": "GTVp"}, when="x")
    assert "CT: ct.nrrd; Segmentation: rt.dcm; Segment: GTVp" in text_of((tmp_path / "a.pdf").read_bytes())
    write_report(prediction, tmp_path / "b.pdf")
    assert "CT:" not in text_of((tmp_path / "b.pdf").read_bytes())


def test_report_and_picture_may_be_left_out(prediction, tmp_path):
    paths = write_case_folder(prediction, tmp_path, report=False)
    names = ["survival_curve.csv", "horizons.csv", "slices.csv", "prediction.json"]
    assert [path.name for path in paths] == names and {path.name for path in tmp_path.iterdir()} == set(names)


def test_the_report_shows_the_tumour_alone(prediction, tmp_path):
    streams = re.findall(rb"stream\n(.*?)\nendstream", report(prediction, tmp_path / "report.pdf"), re.S)
    image = prediction.slices.images[0]
    window = tumour_window(image)
    assert zlib.decompress(streams[1]) == image[window, window].tobytes()


def test_what_goes_wrong_leaves_no_json(prediction, tmp_path):
    def fails():
        raise CNNSurvivalError("no picture")

    with pytest.raises(CNNSurvivalError):
        write_case_folder(prediction, tmp_path / "out", picture=fails)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "prediction.json" not in names and "survival_curve.png" not in names
    (tmp_path / "file").write_text("x")
    with pytest.raises(CNNSurvivalError, match="cannot be written"):
        write_case_folder(prediction, tmp_path / "file")


# --- Intervals and cases outside of the training range --------------------------------------------------------

LONG = "Patients with a disease whose name is long, treated in one of several ways at many hospitals " * 2


@pytest.fixture
def shown(sphere, tmp_path):
    """(a usual case with an interval, an extreme one of a population with long names)."""
    odd = population_info("odd", LONG, ranges={"largest_area_px": [2000, 5000], "age_years": [40, 60]})
    odd["reference_cohort"]["label"] = f"298 patients of the public cohort {LONG}"
    info = bundle_info_2([population_info(), odd], title=f"A model {LONG}")
    bundle = save_bundle(tmp_path / "two", info, random_weights())
    geometry = axial_geometry((3.0, 1.0, 1.0))
    usual = pr.predict(*sphere(), geometry, bundle, covariates={"age": 63})
    given = {"covariates": {"age": 88, "n": "N2"}, "horizons_months": (3, 6, 9, 12, 18, 24, 30, 36)}
    extreme = pr.predict(*sphere(), geometry, bundle.for_population("odd"), input_warnings=[LONG] * 9, **given)
    assert usual.inside_training_range and not extreme.inside_training_range
    return usual, extreme


def test_the_report_shows_the_interval_the_size_and_what_is_outside(shown, tmp_path):
    usual, extreme = (text_of(report(p, tmp_path / f"{n}.pdf")) for n, p in enumerate(shown))
    for text in (usual, extreme):
        for words in ("95% interval for such patients", "10-90% of the slices", "33.4 cc, largest slice", "95% int."):
            assert words in text, words
    assert "Patients from here" in usual and "age 63 years" in usual and "age 88 years, N stage N2" in extreme
    assert "Outside what the model learned from" in extreme and "Outside what" not in usual


def test_no_text_leaves_the_report(shown, tmp_path, monkeypatch):
    """Also none of the lines lies on another one at the same place."""
    drawn = []
    real = Page.text

    def text(self, x, y, text, size=9.0, font="F1", color=(0, 0, 0), align="left"):
        left = x - {"left": 0, "right": 1, "center": 0.5}[align] * text_width(text, size, font)
        drawn.append((left, left + text_width(text, size, font), y, text))
        real(self, x, y, text, size, font, color, align)

    monkeypatch.setattr(Page, "text", text)
    for prediction in shown:
        drawn.clear()
        report(prediction, tmp_path / "report.pdf", patient=LONG)
        for left, right, y, words in drawn:
            assert 40 <= left and right <= 556 and 30 < y < 820, words
        for number, (left, right, y, words) in enumerate(drawn):
            for other_left, other_right, other_y, other in drawn[number + 1 :]:
                apart = right <= other_left or other_right <= left or abs(y - other_y) > 5
                assert apart or not words or not other, (words, other)


def test_no_text_leaves_the_picture(shown):
    from training_cli.figures.survival import picture

    # The third stays above one half.
    high = np.linspace(1, 0.93, len(shown[0].survival))
    healthy = replace(shown[0], survival=high, survival_low=high - 0.02, survival_high=high + 0.02,
                      interval_low=high - 0.05, interval_high=high + 0.05, risk=0.01,
                      median_survival_days=None)  # fmt: skip
    for prediction, title in zip((*shown, healthy), (None, LONG, "P\n" * 300)):
        canvas = picture(prediction, title)
        check_texts(canvas)
        words = " ".join(text.words for text in canvas.texts)
        assert ("Median: not reached" in words) == (prediction.median_survival_days is None)
        assert "months: " in words and not words.count("…") > 5
        assert "95% interval for such patients" in words and "10-90% of the slices" in words and "33.4 cc" in words
        assert ("Outside what the model learned from" in words) != prediction.inside_training_range
        assert "Entered beside the image: age" in words and "Population: Patients" in words


def test_without_an_interval_the_slices_are_the_band(prediction, tmp_path):
    text = text_of(report(prediction, tmp_path / "report.pdf"))
    assert "10-90% of the slices: agreement, not confidence" in text and "interval for such" not in text
