"""The panel in Qt 6, as far as PySide6 shows it: Slicer 5.12 and newer may have Qt 6, older ones Qt 5.15."""

import importlib
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
try:
    import qt6
except ImportError as error:  # no PySide6, or a library of the system that it needs
    pytest.skip(f"needs PySide6 (pip install PySide6-Essentials): {error}", allow_module_level=True)

from CNNSurvivalLib.bundle import default_bundle_folder, installed_bundles, load_bundle
from CNNSurvivalLib.prediction import predict
from CNNSurvivalLib.slices import axial_geometry

MODULE = Path(__file__).resolve().parents[1] / "CNNSurvival"
SPECIAL = {"buddy"}  # what the loader of .ui files takes care of itself


@pytest.fixture(scope="module", autouse=True)
def application():
    application = qt6.QtWidgets.QApplication.instance() or qt6.QtWidgets.QApplication([])
    yield application
    application.closeAllWindows()


@pytest.fixture
def widget(monkeypatch):
    """The module's panel with its sections, and no parameter node."""
    monkeypatch.syspath_prepend(str(MODULE))
    qt6.install(monkeypatch, MODULE / "Resources")
    import CNNSurvival

    class Panel(CNNSurvival.CNNSurvivalWidget):
        def initializeParameterNode(self):
            pass

    panel = Panel()
    panel.setup()
    yield panel
    for name in [name for name in sys.modules if name == "CNNSurvival" or name.startswith("CNNSurvivalLib.widgets")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def prediction():
    k, j, i = np.indices((24, 100, 110))
    mask = np.sqrt((3 * (k - 12)) ** 2 + (j - 50) ** 2 + (i - 55) ** 2) < 20
    hu = np.where(mask, 30, -850) + np.random.default_rng(0).normal(0, 15, mask.shape)
    return predict(hu.astype(np.int16), mask, axial_geometry((3, 1, 1)), load_bundle(default_bundle_folder()))


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.ui")), ids=lambda path: path.name)
def test_every_property_of_the_ui_is_one_of_qt_6(path):
    _top, widgets = qt6.load(path)
    elements = [e for e in ElementTree.parse(path).getroot().iter("widget") if e.get("class").startswith("Q")]
    assert elements
    for element in elements:
        meta = getattr(widgets, element.get("name")).metaObject()
        names = {each.get("name") for each in element.findall("property") if each.get("stdset") != "0"} - SPECIAL
        assert [name for name in names if meta.indexOfProperty(name) < 0] == [], element.get("name")


def test_every_section_of_the_panel_is_built(widget):
    for path in (MODULE / "CNNSurvivalLib" / "widgets").glob("*.py"):
        importlib.import_module(f"CNNSurvivalLib.widgets.{path.stem}")
    assert widget.ui.modelComboBox.count == len(installed_bundles())
    assert widget.ui.populationComboBox.count == len(load_bundle(default_bundle_folder()).populations)
    assert "Concordance" in widget.ui.modelInfoLabel.text


def test_the_sections_show_a_prediction(widget, prediction):
    widget.slices.show(prediction)
    assert widget.ui.slicesTable.rowCount == len(prediction.used)
    assert not widget.ui.slicesTable.item(0, 0).icon().isNull()
    widget.patient.show(prediction.bundle, None, prediction)
    assert set(widget.patient._edits) == {covariate.name for covariate in prediction.population.covariates} != set()
    widget.batch._addRow(["P", "0.5", "12", "inside", "done"])
    assert widget.ui.batchTable.rowCount == 1
    for source in range(widget.ui.batchSourceComboBox.count):
        widget.ui.batchSourceComboBox.setCurrentIndex(source)
    widget.models.onCardButton()


def test_work_shows_its_progress(widget):
    texts = []

    def work(progress):
        progress("Step", 0.5)
        texts.append((widget.ui.predictButton.text, widget.ui.progressBar.value))
        return "done"

    before = widget.ui.predictButton.text
    assert widget.runner.click(widget.ui.predictButton, work) == "done"
    assert texts == [("Cance&l", 50)] and widget.ui.predictButton.text == before


def test_the_picture_of_the_curve(widget, prediction):
    from CNNSurvivalLib.widgets.painter import HEIGHT, WIDTH, curve_png

    content = curve_png(prediction)
    image = qt6.QtGui.QImage.fromData(content)
    assert (image.width(), image.height()) == (WIDTH, HEIGHT)
    colours = {image.pixel(x, y) for x in range(0, WIDTH, 7) for y in range(0, HEIGHT, 7)}
    assert len(colours) > 10
