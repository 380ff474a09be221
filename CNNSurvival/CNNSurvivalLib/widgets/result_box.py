"""The box Result: the sentence, the table and the warnings."""

import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.results import read_record

# A frame in orange beside the style's own colours of text and background, so that it suits light and dark styles.
OUTSIDE_STYLE = "QLabel { border: 2px solid #cc660d; padding: 4px; font-weight: bold; }"
ICON_PIXELS = 32


class ResultSection:
    """Shows a result of the scene, and whether it is still that of the inputs."""

    def __init__(self, ui) -> None:
        self.ui = ui
        self._predictedFrom = {}  # record node's ID -> when the segment was last changed before
        ui.summaryTable.verticalHeader().hide()
        ui.summaryTable.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        icon = ui.outsideIconLabel.style().standardIcon(qt.QStyle.SP_MessageBoxWarning)
        ui.outsideIconLabel.setPixmap(icon.pixmap(qt.QSize(ICON_PIXELS, ICON_PIXELS)))

    def predicted(self, result, segmentTime: int) -> None:
        """The result was made just now, of the segment as it was at this time."""
        self._predictedFrom[result.record.GetID()] = segmentTime

    def forget(self) -> None:
        """The scene is closed; nodes of the next one may have the same IDs."""
        self._predictedFrom.clear()

    def show(self, result, segmentTime: int, current: bool) -> None:
        """result None hides the box. current: whether it was made with the chosen model and population."""
        ui = self.ui
        ui.resultCollapsibleButton.visible = result is not None
        if result is None:
            return
        record = read_record(result)
        warnings = [_("Warning: {text}").format(text=text) for text in record.get("warnings", [])]
        outside = record.get("inside_training_range") is False
        ui.sentenceLabel.text = record.get("sentence", "")
        ui.sentenceLabel.styleSheet = OUTSIDE_STYLE if outside else ""
        ui.outsideIconLabel.visible = outside
        ui.warningsLabel.text = "\n".join(warnings)
        ui.warningsLabel.visible = bool(warnings)
        ui.summaryTable.setMRMLTableNode(result.summary)
        # Slicer's table fits its columns to their contents whenever the node changes: once more to the table's width.
        ui.summaryTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        stale = self._stale(result, segmentTime, current)
        ui.staleLabel.text = stale
        ui.staleLabel.visible = bool(stale)

    def _stale(self, result, segmentTime: int, current: bool) -> str:
        """Why the result is no longer that of the inputs; "" where it is."""
        before = self._predictedFrom.get(result.record.GetID())
        if before is not None and before != segmentTime:
            return _("The segment has changed since; predict again.")
        return (
            ""
            if current
            else _("This result is of another model or population, or of another choice of lesions; predict again.")
        )
