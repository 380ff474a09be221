"""A chart in a layout that keeps the slice views, and the way back to the layout from before."""

from __future__ import annotations

from .nodes import nodes_of


class ChartLayout:
    """Shows charts; nothing is changed before ``show`` is called."""

    def __init__(self) -> None:
        self._before = None  # (arrangement that the user had, arrangement that this class chose)

    def show(self, scene, chart, plots_logic) -> None:
        """Show the chart (vtkMRMLPlotChartNode) in a plot view beside the slice views.

        A layout that shows a plot view already stays as it is. For others Slicer's own choice is taken: conventional or
        four-up with a plot, which both hold the three slice views.

        plots_logic: vtkSlicerPlotsLogic.
        """
        shown = [view for view in nodes_of(scene, "vtkMRMLPlotViewNode") if view.IsMappedInLayout()]
        if shown:
            for view in shown[:1]:
                view.SetPlotChartNodeID(chart.GetID())
            return
        before = _arrangement(scene)
        plots_logic.ShowChartInLayout(chart)
        if _arrangement(scene) != before:
            self._before = (before, _arrangement(scene))

    def can_go_back(self, scene) -> bool:
        """Whether the layout is the one that ``show`` chose."""
        return self._before is not None and _arrangement(scene) == self._before[1]

    def go_back(self, scene) -> None:
        """The layout from before ``show``; nothing where the user has chosen another one since."""
        if self.can_go_back(scene):
            _layout(scene).SetViewArrangement(self._before[0])
        self._before = None


def _layout(scene):
    return next(iter(nodes_of(scene, "vtkMRMLLayoutNode")), None)


def _arrangement(scene):
    """The layout's number; None where the scene has none, as without a window."""
    layout = _layout(scene)
    return None if layout is None else layout.GetViewArrangement()
