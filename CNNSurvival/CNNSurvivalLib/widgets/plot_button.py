"""The button "Show in a plot view": the chart beside the slice views, and back to the layout from before."""

import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.layout import ChartLayout


class PlotButton:
    """current(): the result that is shown, or None."""

    def __init__(self, button, current) -> None:
        self._button = button
        self._current = current
        self._layout = ChartLayout()
        self._text = button.text
        button.connect("clicked(bool)", self.onClicked)
        self._manager = slicer.app.layoutManager()  # None without a window
        if self._manager is not None:
            self._manager.connect("layoutChanged(int)", self._onLayoutChanged)

    def release(self) -> None:
        """The panel is taken down."""
        if self._manager is not None:
            self._manager.disconnect("layoutChanged(int)", self._onLayoutChanged)

    def closeScene(self) -> None:
        """The scene is about to be closed: the plot view would be empty."""
        self._layout.go_back(slicer.mrmlScene)
        self._showText()

    def show(self, chart) -> None:
        """Show that chart."""
        self._layout.show(slicer.mrmlScene, chart, slicer.modules.plots.logic())
        self._showText()

    def onClicked(self, checked=False) -> None:
        result = self._current()
        if self._layout.can_go_back(slicer.mrmlScene):
            self._layout.go_back(slicer.mrmlScene)
        elif result is not None:
            self.show(result.chart)
        self._showText()

    def _onLayoutChanged(self, layout) -> None:
        self._showText()

    def _showText(self) -> None:
        back = self._layout.can_go_back(slicer.mrmlScene)
        self._button.text = _("Hide the plo&t view") if back else self._text
