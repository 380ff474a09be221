"""The tab Compare: another result's curve in the same chart."""

import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.comparison import write_comparison
from CNNSurvivalLib.mrml.results import all_results, label_of


class CompareSection:
    """Chooses another result to compare with. current(): the result that is shown, or None; showChart(chart)."""

    def __init__(self, ui, showChart, current) -> None:
        self.ui = ui
        self._showChart = showChart
        self._current = current
        self._others = []
        self._filling = False
        ui.compareComboBox.connect("currentIndexChanged(int)", self._onSelected)

    def show(self) -> None:
        """List the other results of the scene."""
        result = self._current()
        everything = all_results(slicer.mrmlScene) if result else []
        others = [other for other in everything if other.record is not result.record]
        self._filling = True
        self.ui.compareComboBox.clear()
        self.ui.compareComboBox.addItem(_("nothing") if others else _("nothing yet; predict another segment or study"))
        for other in others:
            self.ui.compareComboBox.addItem(label_of(other))
        self.ui.compareComboBox.enabled = bool(others)
        self._others = others
        self._filling = False

    def _onSelected(self, index) -> None:
        result = self._current()
        if self._filling or result is None:
            return
        if 1 <= index <= len(self._others):
            self._showChart(write_comparison(slicer.mrmlScene, result, self._others[index - 1]))
        else:
            self._showChart(result.chart)
