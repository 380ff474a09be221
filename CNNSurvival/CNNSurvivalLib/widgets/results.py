"""What is done with a result: compared, explained, exported."""

import qt
import slicer
from slicer.i18n import tr as _


class CompareSection:
    """Another result's curve beside the one that is shown. current(): the result that is shown, or None."""

    def __init__(self, ui, logic, current) -> None:
        self.ui = ui
        self._logic = logic
        self._current = current
        self._others = []
        self._filling = False
        ui.compareComboBox.connect("currentIndexChanged(int)", self._onSelected)

    def show(self) -> None:
        """List the other results of the scene."""
        result = self._current()
        everything = self._logic.scene.all_results(slicer.mrmlScene) if result else []
        others = [other for other in everything if other.record is not result.record]
        self._filling = True
        self.ui.compareComboBox.clear()
        self.ui.compareComboBox.addItem(_("nothing") if others else _("nothing yet; predict another segment or study"))
        for other in others:
            self.ui.compareComboBox.addItem(self._logic.scene.label_of(other))
        self.ui.compareComboBox.enabled = bool(others)
        self._others = others
        self._filling = False

    def _onSelected(self, index) -> None:
        result = self._current()
        if self._filling or result is None:
            return
        if 1 <= index <= len(self._others):
            self._logic.showChart(self._logic.scene.write_comparison(slicer.mrmlScene, result, self._others[index - 1]))
        else:
            self._logic.showChart(result.chart)


class ExplainSection:
    """The map of what raises and lowers the risk. prediction(): what is shown, or None; inputs(): its CT and result."""

    def __init__(self, ui, logic, runner, engine, prediction, inputs) -> None:
        self.ui = ui
        self._logic = logic
        self._runner = runner
        self._engine = engine
        self._prediction = prediction
        self._inputs = inputs
        ui.explainButton.connect("clicked(bool)", self.onExplainButton)
        ui.showExplanationCheckBox.connect("toggled(bool)", self.onShowToggled)

    def show(self) -> None:
        volume, result = self._inputs()
        self.ui.explainCollapsibleButton.visible = result is not None and self._prediction() is not None
        self.ui.showExplanationCheckBox.enabled = self._explanation() is not None

    def onExplainButton(self, checked=False) -> None:
        volume, result = self._inputs()
        prediction = self._prediction()
        if result is None or prediction is None:
            return
        found = self._runner.click(
            self.ui.explainButton,
            lambda progress: self._logic.explain(volume, result, prediction, self._engine(), progress),
        )
        if found is not None:
            self._runner.showStatus(found[1])
            self.ui.showExplanationCheckBox.enabled = True
            self.ui.showExplanationCheckBox.checked = True
            self.onShowToggled(True)

    def onShowToggled(self, shown) -> None:
        node = self._explanation()
        if node is not None:
            self._logic.showExplanation(node if shown else None)

    def _explanation(self):
        _volume, result = self._inputs()
        return self._logic.scene.find_explanation(slicer.mrmlScene, result) if result else None


class ExportSection:
    """The result as files. prediction(): what is shown, or None; inputs(): its CT and result."""

    def __init__(self, ui, logic, runner, prediction, inputs) -> None:
        self.ui = ui
        self._logic = logic
        self._runner = runner
        self._prediction = prediction
        self._inputs = inputs
        ui.exportDirectoryButton.directory = qt.QDir.homePath()
        ui.exportButton.connect("clicked(bool)", self.onExportButton)

    def show(self) -> None:
        self.ui.exportCollapsibleButton.visible = self._inputs()[1] is not None
        self.ui.exportButton.enabled = self._prediction() is not None

    def onExportButton(self, checked=False) -> None:
        volume, result = self._inputs()
        prediction = self._prediction()
        if result is None or prediction is None:
            return
        folder = self.ui.exportDirectoryButton.directory
        patient = self._logic.scene.patient_name(volume) if self.ui.patientNameCheckBox.checked else None
        scene = self.ui.sceneCheckBox.checked
        paths = self._runner.click(
            self.ui.exportButton,
            lambda progress: self._logic.export(volume, result, prediction, folder, patient, scene, progress),
        )
        if paths is not None:
            names = ", ".join(path.name for path in paths)
            self._runner.showStatus(_("Written to '{folder}': {names}.").format(folder=folder, names=names))


class BatchSection:
    """Many patients. bundle(), options(): the chosen model, and what else the panel says."""

    SCENE, MANIFEST, FOLDER = range(3)

    def __init__(self, ui, logic, runner, bundle, options) -> None:
        self.ui = ui
        self._logic = logic
        self._runner = runner
        self._bundle = bundle
        self._options = options
        ui.batchTable.setColumnCount(4)
        ui.batchTable.setHorizontalHeaderLabels([_("Patient"), _("18-month risk"), _("Median"), _("Outcome")])
        ui.batchTable.horizontalHeader().setStretchLastSection(True)
        ui.batchTable.verticalHeader().hide()
        ui.batchDirectoryButton.directory = qt.QDir.homePath()
        ui.batchSourceComboBox.connect("currentIndexChanged(int)", self._onSourceChanged)
        ui.batchButton.connect("clicked(bool)", self.onBatchButton)
        self._onSourceChanged(0)

    def _onSourceChanged(self, index) -> None:
        edit = self.ui.batchPathLineEdit
        edit.enabled = index != self.SCENE
        edit.filters = edit.Files if index == self.MANIFEST else edit.Dirs

    def onBatchButton(self, checked=False) -> None:
        bundle = self._bundle()
        if bundle is None and not self._runner.running:
            self._runner.showStatus(_("Choose a model that can be used."))
            return
        self._runner.click(self.ui.batchButton, self._run)

    def _run(self, progress):
        source = ("scene", "manifest", "folder")[self.ui.batchSourceComboBox.currentIndex]
        self.ui.batchTable.setRowCount(0)
        done = self._logic.batch(
            source, self.ui.batchPathLineEdit.currentPath, self.ui.batchDirectoryButton.directory, self._bundle(),
            self._options(), self._addRow, progress,
        )  # fmt: skip
        self._runner.showStatus(done)
        return done

    def _addRow(self, cells) -> None:
        table = self.ui.batchTable
        row = table.rowCount
        table.setRowCount(row + 1)
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            table.setItem(row, column, item)
        table.scrollToBottom()
