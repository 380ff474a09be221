"""The tab Export: the result as files."""

import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.inputs import patient_name


class ExportSection:
    """Chooses folder and files. prediction(): the one that is shown, or None; inputs(): its CT and result."""

    def __init__(self, ui, logic, runner, prediction, inputs) -> None:
        self.ui = ui
        self._logic = logic
        self._runner = runner
        self._prediction = prediction
        self._inputs = inputs
        ui.exportDirectoryButton.directory = qt.QDir.homePath()
        ui.exportButton.connect("clicked(bool)", self.onExportButton)

    def show(self) -> None:
        self.ui.exportButton.enabled = self._prediction() is not None

    def onExportButton(self, checked=False) -> None:
        volume, result = self._inputs()
        prediction = self._prediction()
        if result is None or prediction is None:
            return
        folder = self.ui.exportDirectoryButton.directory
        patient = patient_name(volume) if self.ui.patientNameCheckBox.checked else None
        scene = self.ui.sceneCheckBox.checked
        paths = self._runner.click(
            self.ui.exportButton,
            lambda progress: self._logic.export(volume, result, prediction, folder, patient, scene, progress),
        )
        if paths is not None:
            names = ", ".join(path.name for path in paths)
            self._runner.showStatus(_("Written to '{folder}': {names}.").format(folder=folder, names=names))
