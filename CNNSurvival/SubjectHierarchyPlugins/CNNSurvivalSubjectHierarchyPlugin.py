"""The context menu of the Data module: "Predict survival" on a CT, on a segmentation and on one of its segments."""

import qt
import slicer
from slicer.i18n import tr as _

from SubjectHierarchyPlugins import AbstractScriptedSubjectHierarchyPlugin


class CNNSurvivalSubjectHierarchyPlugin(AbstractScriptedSubjectHierarchyPlugin):
    """It owns no items. What it does not define is as in the abstract plugin.

    It is made when Slicer starts, so it imports nothing of the library.
    """

    filePath = __file__  # Slicer's convention

    def __init__(self, scriptedPlugin):
        scriptedPlugin.name = "CNNSurvival"
        AbstractScriptedSubjectHierarchyPlugin.__init__(self, scriptedPlugin)
        self.predictAction = qt.QAction(_("Predict survival..."), scriptedPlugin)
        self.predictAction.objectName = "CNNSurvivalPredictAction"
        self.predictAction.connect("triggered()", self.onPredict)

    def canAddNodeToSubjectHierarchy(self, node, parentItemID):
        return 0.0

    def canOwnSubjectHierarchyItem(self, itemID):
        return 0.0

    def roleForPlugin(self):
        return "N/A"

    def itemContextMenuActions(self):
        return [self.predictAction]

    def showContextMenuActionsForItem(self, itemID):
        self.predictAction.visible = self._input(itemID) is not None

    def onPredict(self):
        found = self._input(slicer.qSlicerSubjectHierarchyPluginHandler.instance().currentItem())
        if found:
            self.scriptedPlugin.switchToModule("CNNSurvival")
            slicer.modules.cnnsurvival.widgetRepresentation().self().openWith(*found)

    @staticmethod
    def _input(itemID):
        """(CT or segmentation, segment ID or "") of an item; None for what cannot be predicted from."""
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        if not itemID or hierarchy is None:
            return None
        node = hierarchy.GetItemDataNode(itemID)
        segmentId = hierarchy.GetItemAttribute(itemID, slicer.vtkMRMLSegmentationNode.GetSegmentIDAttributeName())
        if segmentId:  # a segment has an item below its segmentation's, and no node of its own
            node = hierarchy.GetItemDataNode(hierarchy.GetItemParent(itemID))
        if node is None or node.GetAttribute("CNNSurvival.role"):  # a map of ours
            return None
        if node.IsA("vtkMRMLSegmentationNode"):
            return node, segmentId
        modality = hierarchy.GetItemAttribute(itemID, "DICOM.Modality")
        isCt = node.GetClassName() == "vtkMRMLScalarVolumeNode" and modality in ("", "CT")
        return (node, "") if isCt else None
