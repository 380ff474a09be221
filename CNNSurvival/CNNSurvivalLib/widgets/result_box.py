"""The box Result: the sentence, the curve, the table and the warnings."""

import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.results import read_record
from CNNSurvivalLib.report.text import answer
from CNNSurvivalLib.widgets.curve_view import CurveView
from CNNSurvivalLib.widgets.marks import frameStyle, showWarningIcon
from CNNSurvivalLib.widgets.tables import fitHeight


class ResultSection:
    """Shows a result of the scene, and whether it is still that of the inputs."""

    def __init__(self, ui) -> None:
        self.ui = ui
        self._predictedFrom = {}  # record node's ID -> when the segment was last changed before
        self._timer = qt.QTimer(ui.resultCollapsibleButton)
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", lambda: scrollTo(ui.resultCollapsibleButton))
        self.curve = CurveView()
        ui.curveFrame.layout().addWidget(self.curve)
        table = ui.summaryTable
        table.verticalHeader().hide()
        rows = table.verticalHeader()
        rows.setMinimumSectionSize(1)
        rows.setDefaultSectionSize(qt.QFontMetrics(table.font).height() + 3)
        rows.setSectionResizeMode(qt.QHeaderView.Fixed)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        table.horizontalHeader().setHighlightSections(False)
        for label in (ui.outsideIconLabel, ui.staleIconLabel, ui.warningsIconLabel):
            showWarningIcon(label)
        for frame in (ui.staleFrame, ui.warningsFrame):
            frame.styleSheet = frameStyle(frame.objectName)

    def predicted(self, result, segmentTime: int) -> None:
        """The result was made just now, of the segment as it was at this time."""
        self._predictedFrom[result.record.GetID()] = segmentTime
        self._timer.start(0)  # once the box has its place

    def forget(self) -> None:
        """The scene is closed; nodes of the next one may have the same IDs."""
        self._predictedFrom.clear()

    def show(self, result, prediction, segmentTime: int, current: bool) -> None:
        """result None hides the box. prediction: the result's, None where its model is not in the list.

        current: whether it was made with the chosen model and population.
        """
        ui = self.ui
        ui.resultCollapsibleButton.visible = result is not None
        if result is None:
            return
        record = read_record(result)
        self._showSentence(record)
        self.curve.show_prediction(prediction, ui.sentenceLabel.text)
        ui.curveFrame.visible = prediction is not None
        self._showTable(record)
        warnings = record.get("warnings", [])
        ui.warningsLabel.text = "\n".join(_("Warning: {text}").format(text=text) for text in warnings)
        ui.warningsFrame.visible = bool(warnings)
        ui.staleLabel.text = self._stale(result, segmentTime, current)
        ui.staleLabel.visible = ui.staleFrame.visible = bool(ui.staleLabel.text)

    def _showSentence(self, record) -> None:
        outside = record.get("inside_training_range") is False
        frame = self.ui.sentenceFrame
        self.ui.sentenceLabel.text = record.get("sentence", "")
        frame.styleSheet = frameStyle(frame.objectName, 3) if outside else ""
        margin = 4 if outside else 0
        frame.layout().setContentsMargins(margin, margin, margin, margin)
        self.ui.outsideIconLabel.visible = outside

    def _showTable(self, record) -> None:
        table = self.ui.summaryTable
        header, rows, facts = answer(record)
        table.setColumnCount(len(header))
        table.setHorizontalHeaderLabels(header)
        table.setRowCount(len(rows))
        for row, cells in enumerate(rows):
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                item.setTextAlignment(int(qt.Qt.AlignCenter))
                if column == 1:
                    font = qt.QFont(table.font)
                    font.setBold(True)
                    item.setFont(font)
                table.setItem(row, column, item)
        fitHeight(table)
        self.ui.factsLabel.text = "\n".join(facts)

    def _stale(self, result, segmentTime: int, current: bool) -> str:
        """Why the result is no longer that of the inputs; "" where it is."""
        before = self._predictedFrom.get(result.record.GetID())
        if before is not None and before != segmentTime:
            return _("The segment has changed since; predict again.")
        if current:
            return ""
        return _("This result is of another model or population, or of another choice of lesions; predict again.")


def scrollTo(widget) -> None:
    """Scroll the panel until the widget is seen whole, or from its beginning where it is too high for that."""
    area = widget.parentWidget()
    while area is not None and not area.inherits("QScrollArea"):
        area = area.parentWidget()
    if area is None or not widget.isVisible():
        return
    area.widget().layout().activate()
    top = widget.mapTo(area.widget(), qt.QPoint(0, 0)).y()
    bar = area.verticalScrollBar()
    lowest = min(top, top + widget.height - area.viewport().height)
    bar.value = min(max(bar.value, lowest), top)
