"""What the files of this folder share: nodes of a scene, segments, the subject hierarchy, the marks on our nodes.

Everything here works with MRML classes alone, without an application: the scene comes from the nodes. So the same code
runs in Slicer, in Slicer without a window, and on the slicer-core package.
"""

from __future__ import annotations

ATTRIBUTE = "CNNSurvival."  # our attributes and node reference roles begin with it


def nodes_of(scene, class_name) -> list:
    """The nodes of that class and of those derived from it; none where the scene is None."""
    if scene is None:
        return []
    return [scene.GetNthNodeByClass(n, class_name) for n in range(scene.GetNumberOfNodesByClass(class_name))]


def segments_of(segmentation_node) -> dict:
    """Segment ID -> vtkSegment, in the order in which Slicer lists them."""
    segmentation = segmentation_node.GetSegmentation() if segmentation_node is not None else None
    if segmentation is None:
        return {}
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return {segment_id: segmentation.GetSegment(segment_id) for segment_id in ids}


def drawn_on(segmentation_node):
    """The volume of the scene that a segmentation says it was drawn on; None where it says none, or that is gone."""
    import slicer

    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return None if segmentation_node is None else segmentation_node.GetNodeReference(role)


def hierarchy_of(scene):
    """The scene's subject hierarchy node; None where the scene is None."""
    import slicer

    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene) if scene is not None else None


def parent_item(hierarchy, node):
    """The subject hierarchy item above a node; None where the node is not in it."""
    item = hierarchy.GetItemByDataNode(node)
    parent = hierarchy.GetItemParent(item) if item != hierarchy.GetInvalidItemID() else item
    return parent if parent != hierarchy.GetInvalidItemID() else None


def put_beside(scene, node, other) -> None:
    """Move the node to where the other is in the subject hierarchy, unless it is there or the other is not in it."""
    hierarchy = hierarchy_of(scene)
    parent = parent_item(hierarchy, other) if hierarchy is not None else None
    if parent is not None and parent_item(hierarchy, node) != parent:
        hierarchy.CreateItem(parent, node)
