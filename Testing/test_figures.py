"""Every picture with what is hard to draw: long names, extreme values, few patients, medians that are not reached.

No text leaves the canvas or runs through another one, and no legend lies over data.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from bundle_maker import bundle_info_2, population_info, random_weights
from canvas_check import check_texts
from CNNSurvivalLib import prediction as pr
from CNNSurvivalLib.bundle import save_bundle
from CNNSurvivalLib.hazards import exponential_edges
from CNNSurvivalLib.report import page
from CNNSurvivalLib.slices import axial_geometry
from figure_checks import check_figure, shown_texts
from training_cli.evaluation import metrics
from training_cli.figures import study as figures
from training_cli.figures import survival

LONG = "A network trained as in the paper and then fine-tuned on 1234 patients of several hospitals in two countries"
WORD = "a_name_without_any_space_such_as_nsclc-radiotherapy-balanced-2026-11-24-final"
EDGES = exponential_edges()
FEW = pd.DataFrame({
    "group": [1, 2, 3], "patients": [12345, 5, 5], "mean_predicted": [0.0, 0.5, 1.0], "observed": [0.0, np.nan, 1.0],
    "ci_low": [np.nan, np.nan, 0.6], "ci_high": [0.4, np.nan, 1.0],
})  # fmt: skip
CURVE = pd.DataFrame({"predicted": [0.1, 0.9], "observed": [0.0, 1.0], "ci_low": [0.0, 0.2], "ci_high": [0.9, 7.0]})


def followed(patients, last_days=2000.0, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(1, last_days, patients), random.random(patients) < 0.5, random.random(patients)


def benefit(lowest):
    threshold = np.linspace(0.01, 0.99, 50)
    return pd.DataFrame({"threshold": threshold, "treat_all": np.linspace(0.5, -40, 50), "ci_low": lowest,
                         "net_benefit": np.linspace(0.4, lowest, 50), "ci_high": 0.5})  # fmt: skip


def slices(count):
    return np.random.default_rng(0).integers(0, 255, (count, 140, 140)).astype(np.uint8)


def pair(died_scale, died, lived_scale, lived, **more):
    return lambda path: figures.survival_pair(
        EDGES, np.exp(-EDGES / died_scale), died, np.exp(-EDGES / lived_scale), lived, path, **more
    )


def intervals(*rows, **more):
    return lambda path: figures.interval_plot(rows, path, **more)


def ipa(*rows):
    return intervals(*rows, quantity="IPA", neutral=0.0, neutral_label="one risk for everybody")


DRAWN = {
    "learning, long names": lambda path: figures.learning_curves({LONG: [3, 2, 1], LONG + "2": [2], WORD: [9e9]}, path),
    "learning, one run": lambda path: figures.learning_curves({"paper": np.linspace(2.4, 2.1, 300)}, path),
    "inputs, long names": lambda path: figures.example_inputs(
        slices(12), [f"{LONG}\n{n} px" for n in range(6)] + [f"{WORD}\n19600 px"] * 6, path
    ),
    "inputs, one": lambda path: figures.example_inputs(slices(1), ["slice 1"], path),
    "too small": lambda path: figures.too_small_roi(np.zeros((40, 50)), np.eye(40, 50), 1_234_567, 25_000_000, path),
    "pair": pair(400, 233, 1500, 2600),
    "pair, certain": pair(40, 1, 1e9, 1e5, horizon_days=1e9),
    "pair, the other way round": pair(1e9, 2300, 30, 1),
    "risk groups, medians not reached": lambda path: figures.kaplan_meier_by_risk(
        np.linspace(100, 3000, 90), np.arange(90) % 30 == 0, np.linspace(0, 1, 90), 0.5, path
    ),
    "risk groups, three patients": lambda path: figures.kaplan_meier_by_risk(
        [3, 9, 15], [0, 0, 1], [0.1, 0.2, 0.9], 0.5, path
    ),
    "risk groups, a century": lambda path: figures.kaplan_meier_by_risk(*followed(12345, 40_000), 0.5, path),
    "calibration, few": lambda path: figures.calibration_plot(FEW, 547.875, path, CURVE, np.linspace(0, 1, 5)),
    "calibration, everybody at one risk": lambda path: figures.calibration_plot(
        FEW, 12_345.678, path, risk=np.full(12_345, 0.5)
    ),
    "decision, harm": lambda path: figures.decision_curve_plot(benefit(-50.0), 547.875, path),
    "decision, 15 patients": lambda path: figures.decision_curve_plot(
        metrics.decision_curve(*followed(15), 547.875, bootstrap=20), 547.875, path
    ),
    "intervals": intervals(("CNN", 0.47, 0.34, 0.61), ("volume", 0.66, None, None), ("stage", None, None, None),
                           paper={"CNN": 0.6}),
    "intervals, long names": intervals((LONG, 0.5, 0.4, 0.6), (WORD, 0.5, 0.0, 1.0), paper={WORD: 0.6}),
    "intervals, far out": ipa(("CNN", -13.97, -1234.567, 0.5), (LONG, -0.00011, -2.5, 0.3), ("a", None, None, None)),
    "intervals, very far out": ipa(("m", -123456.789, -1234567.891, 0.5)),
    "intervals, none measured": ipa(("m", None, None, None)),
}  # fmt: skip


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws one of DRAWN and gives the figure, which is written as well."""
    kept, save = [], figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure) or save(figure, path))

    def draw(name):
        path = DRAWN[name](tmp_path / "figure.png")
        assert path.stat().st_size < figures.MAX_BYTES
        return kept[-1]

    return draw


@pytest.mark.parametrize("name", DRAWN)
def test_no_text_leaves_a_figure_of_a_study_and_no_legend_hides_data(drawn, name):
    check_figure(drawn(name))


def test_an_interval_that_leaves_its_axis_has_an_arrow_and_its_numbers(drawn):
    figure = drawn("intervals, far out")
    axes = figure.axes[0]
    assert axes.get_xlim()[0] > -20, "one wide interval does not hide what the others are"
    assert "<" in [line.get_marker() for line in axes.lines if len(line.get_xdata())]
    words = [text for text, _ in shown_texts(figure)]
    assert "\u221213.970 (\u22121234.567 to 0.500)" in words and "0.000 (\u22122.500 to 0.300)" in words


# --- One patient ------------------------------------------------------------------------------------------------------


def flat(found, level, low, high):
    curve = np.linspace(1, level, len(found.survival))
    return replace(
        found, survival=curve, survival_low=curve * 0.98, survival_high=np.minimum(1, curve * 1.02),
        interval_low=np.linspace(1, low, len(curve)), interval_high=np.linspace(1, high, len(curve)),
        median_survival_days=None if level > 0.5 else 300.0,
    )  # fmt: skip


@pytest.fixture
def patients(sphere, tmp_path):
    """Predictions: usual; of a model with long names; median not reached; nearly certain to live; to die."""
    bundles = []
    for name, texts in (("usual", {}), ("long", {"title": LONG})):
        info = bundle_info_2(populations=[population_info("here", **texts)]) if texts else bundle_info_2()
        if texts:
            info["populations"][0]["reference_cohort"]["label"] = f"{LONG}; {WORD}"
        bundles.append(save_bundle(tmp_path / name, info, random_weights()))
    usual, long = (pr.predict(*sphere(), axial_geometry((3.0, 1.0, 1.0)), bundle) for bundle in bundles)
    return [usual, long, *(flat(one, *ends) for one in (usual, long)
                           for ends in ((0.7, 0.3, 0.95), (0.999, 0.99, 1.0), (0.001, 0.0, 0.01)))]  # fmt: skip


def test_no_text_leaves_the_survival_curve_and_none_lies_on_another(patients):
    for prediction in patients:
        picture = survival.picture(prediction, LONG)
        check_texts(picture)
        words = " ".join(text.words for text in picture.texts)
        legend = [text for text in picture.texts if "of the slices" in text.words]
        assert legend and all(text.top > survival.BOTTOM for text in legend)  # where it hides nothing
        assert ("Median: not reached within" in words) == (prediction.median_survival_days is None)


class Canvas(page.Page):
    """Keeps where each text lies."""

    def __init__(self):
        super().__init__()
        self.boxes = []

    def text(self, x, y, text, size=9.0, font="F1", color=(0, 0, 0), align="left"):
        width = self.text_width(text, size, font)
        left = x - {"left": 0, "right": width, "center": width / 2}[align]
        self.boxes.append((text, left, left + width, y - 0.75 * size, y + 0.2 * size))


@pytest.mark.parametrize(
    "width, height, more",
    [(320, 235, {}), (1560, 940, {"scale": 3.2}), (440, 180, {"legend_below": True})],
    ids=["report", "exported picture", "panel"],
)
def test_no_text_leaves_the_curve_of_report_and_panel(patients, width, height, more):
    for prediction in patients:
        canvas = Canvas()
        page.draw_curve(canvas, prediction, 0, 0, width, height, **more)
        assert len(canvas.boxes) > 10
        for text, left, right, top, bottom in canvas.boxes:
            assert left >= 0 and right <= width and top >= 0 and bottom <= height, text
