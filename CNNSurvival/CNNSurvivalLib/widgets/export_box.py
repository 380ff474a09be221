"""The tab Export: the result as files, and as DICOM objects in the CT's own study."""

import os

import qt
import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.dicom import why_no_dicom
from CNNSurvivalLib.mrml.inputs import patient_name
from CNNSurvivalLib.mrml.results import label_of
from CNNSurvivalLib.report.case_folder import free_folder
from CNNSurvivalLib.report.dicom.folder import FOLDER


class ExportSection:
    """Chooses folder and files. prediction(): the one that is shown, or None; inputs(): its CT and result."""

    def __init__(self, ui, logic, runner, prediction, inputs) -> None:
        self.ui = ui
        self._logic = logic
        self._runner = runner
        self._prediction = prediction
        self._inputs = inputs
        ui.exportDirectoryButton.directory = qt.QDir.homePath()
        ui.dicomCheckBox.connect("toggled(bool)", self._showDatabase)
        ui.exportButton.connect("clicked(bool)", self.onExportButton)

    def show(self) -> None:
        self.ui.exportButton.enabled = self._prediction() is not None
        self._showDicom()

    def _showDicom(self) -> None:
        """Whether the result can join the CT's study, and why not."""
        volume, result = self._inputs()
        why = why_no_dicom(volume, slicer.dicomDatabase) if result is not None else ""
        box = self.ui.dicomCheckBox
        box.enabled = not why
        box.text = _("DICOM: not possible, {why}").format(why=why) if why else _("DICOM, in the stud&y of the CT")
        self._showDatabase()

    def _showDatabase(self, checked=False) -> None:
        self.ui.dicomDatabaseCheckBox.enabled = self._asDicom()

    def onExportButton(self, checked=False) -> None:
        volume, result = self._inputs()
        prediction = self._prediction()
        if result is None or prediction is None:
            return
        folder = str(free_folder(self.ui.exportDirectoryButton.directory, label_of(result)))
        patient = patient_name(volume) if self.ui.patientNameCheckBox.checked else None
        done = self._runner.click(
            self.ui.exportButton, lambda progress: self._export(volume, result, prediction, folder, patient, progress)
        )
        if done is not None:
            paths, notes = done
            names = ", ".join(path.name for path in paths)
            text = _("Written to '{folder}': {names}.").format(folder=folder, names=names)
            if self._intoDatabase():
                text += " " + _("The DICOM objects are in Slicer's DICOM database, too; the DICOM module sends them.")
            self._runner.showStatus(" ".join([text, *notes]))

    def _asDicom(self) -> bool:
        return self.ui.dicomCheckBox.enabled and self.ui.dicomCheckBox.checked

    def _intoDatabase(self) -> bool:
        return self._asDicom() and self.ui.dicomDatabaseCheckBox.checked

    def _export(self, volume, result, prediction, folder, patient, progress) -> tuple:
        """(paths, sentences on what was left out). Where DICOM cannot be done, nothing is written."""
        scene, paths = self.ui.sceneCheckBox.checked, []

        def others():
            paths.extend(self._logic.export(volume, result, prediction, folder, patient, scene, progress))

        if not self._asDicom():
            others()
            return paths, []
        below = os.path.join(folder, FOLDER)
        done = self._logic.exportDicom(volume, result, prediction, below, self._intoDatabase(), progress, others)
        return [*paths, *done.paths], done.notes
