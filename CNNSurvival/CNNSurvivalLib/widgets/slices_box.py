"""The tab Slices: the slices that the network was given, to look at, to jump to and to leave out."""

import qt
import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.views import is_shown, shows_slice
from CNNSurvivalLib.report.pictures import thumbnail
from CNNSurvivalLib.report.tables import slice_texts
from CNNSurvivalLib.widgets.tables import bar, fill, fitHeight

BAR = (44, 140, 170, 110)  # red, green, blue, opacity: text on it is legible in light and dark styles
LEFT_OUT = (128, 128, 128, 60)


class SlicesSection:
    """The table of slices.

    onUsedChanged(list of bool): called when the user ticked or unticked one. onProblem(text): for what cannot be.
    """

    def __init__(self, ui, onUsedChanged, onProblem) -> None:
        self.ui = ui
        self._onUsedChanged = onUsedChanged
        self._onProblem = onProblem
        self._prediction = None
        self._filling = False
        self._text = ui.slicesLabel.text
        table = ui.slicesTable
        table.verticalHeader().hide()
        table.setVerticalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
        table.horizontalHeader().setHighlightSections(False)
        table.horizontalHeader().connect("sectionResized(int,int,int)", self._onSectionResized)
        table.connect("cellChanged(int,int)", self._onCellChanged)
        table.connect("currentCellChanged(int,int,int,int)", self._onCurrentCellChanged)
        table.connect("cellClicked(int,int)", self._onCellClicked)
        ui.useAllButton.connect("clicked(bool)", self._onUseAllButton)

    def show(self, prediction) -> None:
        """Fill the table; prediction None hides it."""
        ui = self.ui
        ui.slicesTable.visible = ui.useAllButton.visible = prediction is not None
        ui.slicesLabel.text = self._words(prediction)
        same = self._prediction is not None and prediction is not None and prediction.same_slices(self._prediction)
        self._prediction = prediction
        if prediction is None:
            return
        self._filling = True
        if not same:  # else the pictures stay, and the table stays scrolled to where it is
            self._fill(prediction)
        for row, cells in enumerate(slice_texts(prediction)[1]):
            ui.slicesTable.item(row, len(cells) - 1).setText(cells[-1])  # the risk follows what is known of the patient
        for row, used in enumerate(prediction.used):
            ui.slicesTable.item(row, 0).setCheckState(qt.Qt.Checked if used else qt.Qt.Unchecked)
        ui.useAllButton.enabled = not all(prediction.used)
        self._filling = False
        self._drawBars()

    def _onSectionResized(self, column, before, width) -> None:
        if column == self.ui.slicesTable.columnCount - 1:
            self._drawBars(width)  # the table itself does not know it yet

    def _drawBars(self, width=None) -> None:
        """The risks as bars, beside the numbers. width: of their column."""
        table = self.ui.slicesTable
        if self._prediction is None or table.rowCount != len(self._prediction.slices):
            return
        before, self._filling = self._filling, True
        column = table.columnCount - 1
        width = table.columnWidth(column) if width is None else width
        for row, (risk, used) in enumerate(zip(self._prediction.slice_risk, self._prediction.used)):
            color = qt.QColor(*(BAR if used else LEFT_OUT))
            if table.item(row, column) is None:  # the table is being filled
                break
            table.item(row, column).setBackground(bar(risk, color, width))
        self._filling = before

    def _words(self, prediction) -> str:
        if prediction is None:
            return _("After a prediction: the slices that the model saw.")
        counts = _("{used} of {slices} slices with tumour are used.").format(
            used=prediction.slices_used, slices=prediction.slices.roi_slices
        )
        return f"{counts} {self._text}"

    def _fill(self, prediction) -> None:
        table, header, rows = self.ui.slicesTable, *slice_texts(prediction)
        table.clearContents()
        fill(table, header, rows)
        plain = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        for row in range(len(rows)):
            for column in range(len(header)):
                table.item(row, column).setFlags(plain)
            table.item(row, 0).setFlags(plain | qt.Qt.ItemIsUserCheckable)
            # The colour of the chosen row would cover the bar.
            table.item(row, len(header) - 1).setFlags(qt.Qt.ItemIsEnabled)
            pixmap = qt.QPixmap()
            pixmap.loadFromData(qt.QByteArray(thumbnail(prediction.slices.images[row])))
            table.item(row, 0).setIcon(qt.QIcon(pixmap))
            table.item(row, 0).setToolTip(_("What the network saw; untick it to leave it out of the curve."))
        table.resizeRowsToContents()
        table.setColumnWidth(0, table.iconSize.width() + 52)  # check box, picture and rank
        for column in range(1, len(header)):
            last = column == len(header) - 1
            mode = qt.QHeaderView.Stretch if last else qt.QHeaderView.ResizeToContents
            table.horizontalHeader().setSectionResizeMode(column, mode)
        fitHeight(table)

    # --- What the user does

    def _onCellChanged(self, row, column) -> None:
        if self._filling or column != 0:
            return
        table = self.ui.slicesTable
        used = [table.item(n, 0).checkState() == qt.Qt.Checked for n in range(table.rowCount)]
        if not any(used):  # a curve needs at least one slice
            self.show(self._prediction)
            self._onProblem(_("A curve needs at least one slice."))
        elif used != list(self._prediction.used):
            self._onUsedChanged(used)

    def _onUseAllButton(self, checked=False) -> None:
        self._onUsedChanged([True] * self.ui.slicesTable.rowCount)

    def _onCurrentCellChanged(self, row, column, formerRow, formerColumn) -> None:
        if not self._filling and row != formerRow:
            self._jump(row)

    def _onCellClicked(self, row, column) -> None:
        self._jump(row)

    def showVolume(self, volume) -> None:
        """The CT in the slice views, where none of them shows it."""
        if not is_shown(slicer.mrmlScene, volume):
            slicer.util.setSliceViewerLayers(background=volume, fit=True)

    def showBest(self) -> None:
        """All slice views to the best slice, where none of them shows one of the slices."""
        if self._prediction is not None and not shows_slice(slicer.mrmlScene, self._prediction.slices):
            self._jump(0)

    def _jump(self, row) -> None:
        """All slice views to the middle of the tumour on that slice, marked with the crosshair."""
        if self._prediction is None or not 0 <= row < len(self._prediction.slices):
            return
        r, a, s = (float(value) for value in self._prediction.slices.center_ras[row])
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, r, a, s, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair:
            crosshair.SetCrosshairRAS(r, a, s)
            if crosshair.GetCrosshairMode() == crosshair.NoCrosshair:
                crosshair.SetCrosshairMode(crosshair.ShowBasic)
