"""The map over the CT in the slice views, and what was there before."""

from __future__ import annotations

from .explanation import is_map, record_of
from .nodes import nodes_of
from .results import predicted_from

OPACITY = 0.6
TITLE = "Risk (% points)"  # of the legend: red, above 0, raises it


class MapOverlay:
    """Puts a map into the foreground of the slice views, and gives back the foreground that the user had.

    While a map is shown, its segment is drawn as an outline: a fill would change the map's colours.
    """

    def __init__(self) -> None:
        self._before: dict = {}  # ID of a composite node -> (ID of its foreground or None, opacity)
        self._filled = None  # (display node of the segmentation, segment ID, fill, outline) before a map was shown

    def shown(self, scene):
        """The map that a slice view shows; None where none does."""
        maps = (scene.GetNodeByID(view.GetForegroundVolumeID() or "") for view in _views(scene))
        return next((node for node in maps if is_map(node)), None)

    def show(self, scene, node) -> None:
        """Show a map (``write_explanation``), as foreground of every slice view."""
        for view in _views(scene):
            if not is_map(scene.GetNodeByID(view.GetForegroundVolumeID() or "")):
                self._before[view.GetID()] = (view.GetForegroundVolumeID(), view.GetForegroundOpacity())
                view.SetForegroundOpacity(OPACITY)
            view.SetForegroundVolumeID(node.GetID())
        self._fill_again()
        self._outline(node)
        self._show_legend(node)

    def hide(self, scene) -> None:
        """Take maps and their legends out of the views; a foreground that is no map stays."""
        for view in _views(scene):
            if is_map(scene.GetNodeByID(view.GetForegroundVolumeID() or "")):
                former, opacity = self._before.get(view.GetID(), (None, view.GetForegroundOpacity()))
                there = former is not None and scene.GetNodeByID(former) is not None
                view.SetForegroundVolumeID(former if there else None)
                view.SetForegroundOpacity(opacity)
        for legend in nodes_of(scene, "vtkMRMLColorLegendDisplayNode"):
            if is_map(legend.GetDisplayableNode()):
                legend.SetVisibility(False)
        self._before.clear()
        self._fill_again()

    def forget(self) -> None:
        """The scene is closed; nodes of the next one may have the same IDs."""
        self._before.clear()
        self._filled = None

    @staticmethod
    def _show_legend(node) -> None:
        """What the colours mean, in the slice views that show the map."""
        import slicer

        if node.GetDisplayNode() is not None:
            legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node.GetDisplayNode())
            if legend is None:  # without Slicer's module Colors
                return
            legend.SetTitleText(TITLE)
            legend.SetLabelFormat("%+.1f")
            legend.SetNumberOfLabels(3)
            legend.SetSize(0.07, 0.3)  # of the view
            legend.SetPosition(0.98, 0.8)
            for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
                text.SetFontFamilyToArial()
                text.SetFontSize(12)
            legend.SetVisibility(True)
            legend.Modified()  # the views do not hear of the fonts

    def _outline(self, node) -> None:
        record = record_of(node)
        _volume, segmentation, segment_id = predicted_from(record) if record is not None else (None, None, None)
        display = segmentation.GetDisplayNode() if segmentation is not None else None
        if display is None:
            return
        before = (display.GetSegmentVisibility2DFill(segment_id), display.GetSegmentVisibility2DOutline(segment_id))
        self._filled = (display, segment_id, *before)
        display.SetSegmentVisibility2DFill(segment_id, False)
        display.SetSegmentVisibility2DOutline(segment_id, True)

    def _fill_again(self) -> None:
        """The segment as it was drawn before, unless the user has changed that."""
        if self._filled is not None:
            display, segment_id, fill, outline = self._filled
            if not display.GetSegmentVisibility2DFill(segment_id):
                display.SetSegmentVisibility2DFill(segment_id, fill)
                display.SetSegmentVisibility2DOutline(segment_id, outline)
        self._filled = None


def _views(scene) -> list:
    return nodes_of(scene, "vtkMRMLSliceCompositeNode")
