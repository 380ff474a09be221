"""The tab Batch: many patients, of the scene, a table or a folder."""

import ctk
import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.batch import OUTSIDE
from CNNSurvivalLib.widgets.licence import acknowledged
from CNNSurvivalLib.widgets.result_box import scrollTo
from CNNSurvivalLib.widgets.tables import fitHeight

MOST_ROWS = 15  # more of them scroll inside the table
MARK = 3  # the column that says whether the patient is inside the training range


class BatchSection:
    """Starts the batch and lists its patients. bundle(), options(): the chosen model and the other options."""

    SCENE, MANIFEST, FOLDER = range(3)

    def __init__(self, ui, logic, runner, bundle, options) -> None:
        self.ui = ui
        self._logic = logic
        self._runner = runner
        self._bundle = bundle
        self._options = options
        titles = [_("Patient"), _("18-month risk"), _("Median"), _("Training range"), _("Outcome")]
        ui.batchTable.setColumnCount(len(titles))
        ui.batchTable.setHorizontalHeaderLabels(titles)
        ui.batchTable.horizontalHeader().setStretchLastSection(True)
        for column in range(len(titles) - 1):
            ui.batchTable.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        ui.batchTable.verticalHeader().hide()
        ui.batchTable.visible = False  # until there are rows
        ui.batchDirectoryButton.directory = qt.QDir.homePath()
        ui.batchSourceComboBox.connect("currentIndexChanged(int)", self._onSourceChanged)
        ui.batchButton.connect("clicked(bool)", self.onBatchButton)
        self._onSourceChanged(0)

    def _onSourceChanged(self, index) -> None:
        edit = self.ui.batchPathLineEdit
        edit.enabled = index != self.SCENE
        edit.filters = ctk.ctkPathLineEdit.Files if index == self.MANIFEST else ctk.ctkPathLineEdit.Dirs

    def onBatchButton(self, checked=False) -> None:
        bundle = self._bundle()
        if bundle is None and not self._runner.running:
            self._runner.showStatus(_("Choose a model that can be used."))
            return
        if not self._runner.running and not acknowledged(bundle):
            return
        self._runner.click(self.ui.batchButton, self._run)

    def _run(self, progress):
        source = ("scene", "manifest", "folder")[self.ui.batchSourceComboBox.currentIndex]
        self.ui.batchTable.setRowCount(0)
        self.ui.batchTable.visible = True
        done = self._logic.batch(
            source, self.ui.batchPathLineEdit.currentPath, self.ui.batchDirectoryButton.directory, self._bundle(),
            self._options(), self._addRow, progress,
        )  # fmt: skip
        self._runner.showStatus(done)
        scrollTo(self.ui.batchTable)
        return done

    def _addRow(self, cells) -> None:
        table = self.ui.batchTable
        row = table.rowCount
        table.setRowCount(row + 1)
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            if cells[MARK] == OUTSIDE and column == MARK:
                item.setIcon(table.style().standardIcon(qt.QStyle.SP_MessageBoxWarning))
            table.setItem(row, column, item)
        fitHeight(table, MOST_ROWS)
        table.scrollToBottom()
