"""The box Result: the sentence, the curve, the table and the warnings."""

import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.results import read_record
from CNNSurvivalLib.report.text import answer
from CNNSurvivalLib.widgets.curve_view import CurveView
from CNNSurvivalLib.widgets.marks import frameStyle, showWarningIcon
from CNNSurvivalLib.widgets.tables import fill, fitHeight


class ResultSection:
    """Shows a result of the scene, and whether it is still that of the inputs."""

    def __init__(self, ui) -> None:
        self.ui = ui
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

    def predicted(self) -> None:
        """The result was made just now."""
        self._timer.start(0)  # once the box has its place

    def show(self, result, prediction, stale: str) -> None:
        """result None hides the box. prediction: the result's, None where its model is not in the list.

        stale: why it is no longer that of the inputs; "" where it is.
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
        ui.staleLabel.text = stale
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
        fill(table, header, rows)
        bold = qt.QFont(table.font)
        bold.setBold(True)
        for row in range(len(rows)):
            for column in range(len(header)):
                table.item(row, column).setTextAlignment(int(qt.Qt.AlignCenter))
            table.item(row, 1).setFont(bold)
        fitHeight(table)
        self.ui.factsLabel.text = "\n".join(facts)


def scrollTo(widget, first=None) -> None:
    """Scroll the panel until the widget is seen whole, or from its beginning where it is too high for that.

    first: what has to stay in sight above it, such as its tabs.
    """
    area = widget.parentWidget()
    while area is not None and not area.inherits("QScrollArea"):
        area = area.parentWidget()
    if area is None or not widget.isVisible():
        return
    area.widget().layout().activate()
    top = widget.mapTo(area.widget(), qt.QPoint(0, 0)).y()
    bar = area.verticalScrollBar()
    lowest = top + widget.height - area.viewport().height
    top = top if first is None else first.mapTo(area.widget(), qt.QPoint(0, 0)).y()
    lowest = min(top, lowest)
    bar.value = min(max(bar.value, lowest), top)
