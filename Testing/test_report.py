"""The report that a reader opens: one file that needs nothing else, its tables, its figures."""

import base64
import csv
import html.parser

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("jinja2")

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.hazards import exponential_edges
from training_cli.evaluation import metrics
from training_cli.figures import study as figures
from training_cli.study.html import Figure, Report, Section, Table, shown_column, write_report

VOID = {"meta", "img", "br", "link"}


class Page(html.parser.HTMLParser):
    """What a browser would find: text, tags in balance, what it would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.cells, self.loads, self.ids, self.links = [], "", [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [attributes[name] for name in ("src", "href") if name in attributes and tag != "a"]
        self.links += [attributes["href"]] if tag == "a" else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        assert tag != "script" and not any(name.startswith("on") for name in attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture
def picture(tmp_path):
    return figures.learning_curves({"paper": [2.4, 2.2, 2.1]}, tmp_path / "learning_curves.png")


def made_report(picture):
    rows = [["CNN-Survival", 0.4751773, None, 99], ["Volume <cc> & more", 0.656, 0.0000321, 99]]
    table = Table("Table 1: beside the article", ["Model", "Concordance", "p", "Patients"], rows, "Looked at once.")
    return Report(
        "Lung cancer <study>",
        ["It does not beat tumour size.", "Second sentence."],
        [Section("Results", ["A paragraph.", table, Figure("Learning curves", picture, 'Loss & "epochs".')])],
        'title = "<script>alert(1)</script>"',
        [("Seed", 2020), ("SHA-256 of the store", "ab" * 32)],
    )


def test_the_html_is_whole_and_loads_nothing(tmp_path, picture):
    text = write_report(made_report(picture), tmp_path / "report").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.loads and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert base64.b64decode(page.loads[0].split(",")[1]) == picture.read_bytes()
    assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_what_the_study_says_is_shown_as_text(tmp_path, picture):
    page = Page(write_report(made_report(picture), tmp_path / "report").read_text(encoding="utf-8"))
    for words in ("Lung cancer <study>", "It does not beat tumour size.", "A paragraph.", "Looked at once.", "Research "
                  "use only", 'title = "<script>alert(1)</script>"', "ab" * 32, 'Loss & "epochs".'):  # fmt: skip
        assert words in page.text
    assert {"CNN-Survival", "0.475", "\u2013", "99", "Volume <cc> & more", "< 0.001"} <= set(page.cells)


def test_tables_keep_every_digit_in_the_csv(tmp_path, picture):
    write_report(made_report(picture), tmp_path / "report")
    with open(tmp_path / "report" / "tables" / "table_1_beside_the_article.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["Model", "Concordance", "p", "Patients"], ["CNN-Survival", "0.4751773", "", "99"],
                    ["Volume <cc> & more", "0.656", "3.21e-05", "99"]]  # fmt: skip


def test_figures_lie_beside_the_report_and_writing_again_changes_nothing(tmp_path, picture):
    folder = tmp_path / "report"
    content = made_report(picture)
    first = write_report(content, folder).read_bytes()
    inside = folder / "figures" / "learning_curves.png"
    assert inside.read_bytes() == picture.read_bytes()
    again = made_report(inside)
    assert write_report(again, folder).read_bytes() == first
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [
        "learning_curves.png", "report.html", "table_1_beside_the_article.csv",
    ]  # fmt: skip


def test_tables_and_figures_of_the_same_name_do_not_replace_one_another(tmp_path, picture):
    table = Table("Metrics", ["a"], [[1]])
    other = Table("Metrics", ["a"], [[2]])
    sections = [Section("One", [table, Figure("A", picture)]), Section("One", [other, Figure("B", picture)])]
    page = Page(write_report(Report("Study", [], sections), tmp_path).read_text(encoding="utf-8"))
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"metrics.csv", "metrics_2.csv"}
    assert (tmp_path / "tables" / "metrics_2.csv").read_text(encoding="utf-8").split() == ["a", "2"]
    assert len(list((tmp_path / "figures").iterdir())) == 2 and len(set(page.ids)) == len(page.ids)


@pytest.mark.parametrize(
    "item, words",
    [
        (Table("Metrics", ["a", "b"], [[1]]), "'Metrics' a row has 1 cells and the header 2"),
        (Figure("Curve", "missing.png"), "'missing.png' cannot be read"),
        (Figure("Curve", __file__), "is not a PNG file"),
    ],
)
def test_what_cannot_be_shown_is_named_and_no_report_is_left(tmp_path, item, words):
    with pytest.raises(CNNSurvivalError, match=words):
        write_report(Report("Study", [], [Section("Results", [item])]), tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "value, text",
    [(0.65066, "0.651"), (-0.038, "\u22120.038"), (547.875, "547.9"), (2500, "2500"), (0.0, "0.000"), (1e-7, "1.0e-07"),
     (None, "\u2013"), (float("nan"), "\u2013"), (True, "yes"), (np.int64(7), "7"), ("T2 a-b", "T2 a-b")],
)  # fmt: skip
def test_cells_are_shown_with_the_digits_that_a_reader_needs(value, text):
    assert shown_column("value", [value]) == [text]


def test_the_numbers_of_a_column_have_one_format():
    assert shown_column("ipa", [0.129, -1.1e-4, -13.97, 547.875, None, 3]) == [
        "0.129", "0.000", "\u221213.970", "547.875", "\u2013", "3",
    ]  # fmt: skip
    assert shown_column("coefficient", [3.2e-5, -1e-7]) == ["3.2e-05", "\u22121.0e-07"]
    assert shown_column("horizon_days", [365.0, 547.875]) == ["365.0", "547.9"]
    assert shown_column("concordance_p", [0.0341, 1e-9, 0.0]) == ["0.034", "< 0.001", "< 0.001"]


# --- Figures ----------------------------------------------------------------------------------------------------------


def survivors(count=60, seed=0):
    """(time, event, risk): the higher the risk, the sooner the death."""
    random = np.random.default_rng(seed)
    risk = random.random(count)
    time, limit = random.exponential(900 * np.exp(1.5 - 3 * risk)), random.uniform(300, 2500, count)
    return np.minimum(time, limit), time < limit, risk


CALIBRATION = pd.DataFrame({
    "group": [1, 2, 3], "patients": [20, 20, 20], "mean_predicted": [0.2, 0.4, 0.7], "observed": [0.25, np.nan, 0.6],
    "ci_low": [0.1, np.nan, 0.4], "ci_high": [0.4, np.nan, 0.8],
})  # fmt: skip
DRAWN = {
    "learning": lambda path: figures.learning_curves({"a": [2.4, 2.1], "b": [2.0]}, path),
    "inputs": lambda path: figures.example_inputs(noisy_slices(12), [f"slice {n}" for n in range(12)], path),
    "small": lambda path: figures.too_small_roi(*small_contour(), 113, 250, path),
    "empty": lambda path: figures.too_small_roi(np.zeros((40, 50), np.uint8), np.zeros((40, 50)), 0, 250, path),
    "pair": lambda path: figures.survival_pair(EDGES, np.exp(-EDGES / 400), 233, np.exp(-EDGES / 1500), 2600, path),
    "risk": lambda path: figures.kaplan_meier_by_risk(*survivors(), 0.5, path),
    "one_group": lambda path: figures.kaplan_meier_by_risk(*survivors(), 2, path),
    "no_deaths": lambda path: figures.kaplan_meier_by_risk([10, 20, 30], [0, 0, 0], [0.1, 0.2, 0.9], 0.5, path),
    "calibration": lambda path: figures.calibration_plot(CALIBRATION, 547.875, path),
    "smooth_calibration": lambda path: figures.calibration_plot(
        CALIBRATION, 547.875, path, metrics.calibration_curve(*survivors(), 547.875, bootstrap=20), survivors()[2]
    ),
    "calibration_at_the_edges": lambda path: figures.calibration_plot(
        CALIBRATION.assign(mean_predicted=[0.0, 0.5, 1.0], observed=[0.0, 0.5, 1.0]), 365.0, path
    ),
    "low_risks": lambda path: figures.calibration_plot(
        CALIBRATION.assign(mean_predicted=[0.03, 0.05, 0.08], observed=[0.05, 0.03, 0.05], ci_low=0.01, ci_high=0.16),
        547.875,
        path,
        risk=np.linspace(0.03, 0.08, 50),
    ),
    "decision": lambda path: figures.decision_curve_plot(
        metrics.decision_curve(*survivors(), 547.875, bootstrap=20), 547.875, path
    ),
    "decision_without_intervals": lambda path: figures.decision_curve_plot(
        metrics.decision_curve(*survivors(), 547.875, bootstrap=0), 547.875, path
    ),
    "intervals": lambda path: figures.interval_plot(
        [("CNN", 0.47, 0.34, 0.61), ("volume", 0.66, None, None), ("stage", None, None, None)], path, paper={"CNN": 0.6}
    ),
}
EDGES = exponential_edges()


def noisy_slices(count):
    y, x = np.mgrid[:140, :140] - 69.5
    noise = np.random.default_rng(0).normal(130, 25, (count, 140, 140))
    return np.where(np.hypot(x, y) < 60, np.clip(noise, 1, 255), 0).astype(np.uint8)


def small_contour():
    """A CT slice in HU with noise, and a contour of 113 pixels far from its middle."""
    y, x = np.mgrid[:512, :512]
    hu = np.random.default_rng(0).normal(0, 80, (512, 512)).astype(np.int16)
    return hu, np.hypot(y - 500, x - 20) < 6


@pytest.mark.parametrize("name", DRAWN)
def test_figures_are_small_pngs_and_the_same_each_time(tmp_path, name):
    from matplotlib.image import imread

    paths = [DRAWN[name](tmp_path / f"{number}.png") for number in (1, 2)]
    assert paths[0] == tmp_path / "1.png"
    content = paths[0].read_bytes()
    assert content == paths[1].read_bytes() and len(content) < 60_000
    pixels = imread(paths[0])
    assert min(pixels.shape[:2]) > 80 and pixels[..., :3].std() > 0.01


@pytest.mark.parametrize("name", [name for name in DRAWN if "calibration" in name or "decision" in name])
def test_texts_lie_inside_the_picture_and_the_legend_outside_the_axes(tmp_path, monkeypatch, name):
    from matplotlib.text import Text

    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    DRAWN[name](tmp_path / "1.png")
    figure = drawn[0]
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    ticks = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    not_drawn = {tick.label1 for axis in ticks for tick in axis.get_major_ticks() if not _in_view(axis, tick)}
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and text not in not_drawn:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
    legend = figure.legends[0].get_window_extent()
    assert all(not legend.overlaps(axes.get_window_extent()) for axes in figure.axes)


def _in_view(axis, tick):
    low, high = sorted(axis.get_view_interval())
    return low <= tick.get_loc() <= high


def test_log_rank_equals_lifelines_and_the_formula():
    pytest.importorskip("sksurv")
    from scipy.stats import chi2

    time, event, risk = survivors()
    high, observed, expected, variance = risk > 0.5, 0.0, 0.0, 0.0
    for day in time[event]:  # no ties
        at_risk = time >= day
        share = (at_risk & high).sum() / at_risk.sum()
        observed, expected = observed + high[time == day][0], expected + share
        variance += share * (1 - share)
    found = figures.log_rank_p(time, event, risk, 0.5)
    assert found == pytest.approx(chi2.sf((observed - expected) ** 2 / variance, 1), rel=1e-9)
    assert found == pytest.approx(1.4682330296281212e-05, rel=1e-9)  # lifelines 0.30.3, logrank_test


def test_log_rank_needs_two_groups_and_a_death():
    time, event, risk = survivors()
    assert figures.log_rank_p(time, event, risk, 1.5) is None
    assert figures.log_rank_p(time, np.zeros_like(event), risk, 0.5) is None
    assert figures.p_text(1e-9) == "p < 0.001" and figures.p_text(0.0341) == "p = 0.034"


def test_no_slice_to_show_is_said(tmp_path):
    with pytest.raises(CNNSurvivalError, match="no slice"):
        figures.example_inputs(np.zeros((0, 140, 140), np.uint8), [], tmp_path / "none.png")


@pytest.mark.parametrize("end", [0.9, 0.5, 0.3, 0.1, 0.0])
@pytest.mark.parametrize("spread", [0, 0.1, 0.4])
def test_the_text_at_the_curve_covers_no_curve(end, spread):
    """y falls on the page where S rises: 0 is S = 1, 100 is S = 0."""
    from CNNSurvivalLib.report.page import _free_baseline

    x = np.linspace(0, 200, 20)
    curve = 100 * (1 - (1 - end) * (1 - np.exp(-x / 40)))
    curves = [np.stack([x, np.clip(100 - curve + shift, 0, 100)], axis=1) for shift in (-100 * spread, 0, 100 * spread)]
    left, width, size = 50.0, 70.0, 8.0
    mark = float(np.interp(left, *curves[1].T))
    baseline = _free_baseline(curves, left, width, (100 - 0.6 * size, mark - size), size)
    inside = np.linspace(left, left + width, 500)
    for each in curves:
        y = np.interp(inside, *each.T)
        assert not np.any((y > baseline - 0.95 * size) & (y < baseline + 0.3 * size))
