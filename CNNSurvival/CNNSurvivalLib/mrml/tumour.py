"""The tumour's segment: a new one on a CT, and what Slicer's Segment Editor needs to draw in it."""

from __future__ import annotations

from .nodes import ATTRIBUTE, nodes_of, put_beside

# As Slicer serialises it: context, category, type, type modifier, anatomic context, region, its modifier. The codes are
# those of "Segmentation category and type - DICOM master list" (DICOM CID 7150 and 7159), which every Slicer has.
NEOPLASM_PRIMARY = (
    "Segmentation category and type - DICOM master list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^86049000^Neoplasm, Primary~^^~Anatomic codes - DICOM master list~^^~^^"
)
TUMOUR = "Tumour"  # the name of the segment
_COLOR = (0.90, 0.49, 0.13)
# Our own node of the editor: two editor widgets on one node, ours and the Segment Editor module's, would both draw at
# every click.
_EDITOR_TAG = ATTRIBUTE + "SegmentEditor"


def new_tumour(volume_node) -> tuple:
    """Add a segmentation with one empty segment to draw the tumour in.

    Parameters
    ----------
    volume_node : vtkMRMLScalarVolumeNode
        The CT; the segmentation gets its grid, its transform and its place in the subject hierarchy.

    Returns
    -------
    segmentation : vtkMRMLSegmentationNode
    segment_id : str
    """
    import slicer

    scene = volume_node.GetScene()
    name = scene.GenerateUniqueName(f"{volume_node.GetName()} tumour")
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    segment_id = segmentation.GetSegmentation().AddEmptySegment(TUMOUR, TUMOUR, _COLOR)
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), NEOPLASM_PRIMARY)
    put_beside(scene, segmentation, volume_node)
    return segmentation, segment_id


def editor_node(scene):
    """The node that holds the state of the panel's segment editor; it is made where the scene has none."""
    for node in nodes_of(scene, "vtkMRMLSegmentEditorNode"):
        if node.GetSingletonTag() == _EDITOR_TAG:
            return node
    node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
    node.UnRegister(None)
    node.SetSingletonTag(_EDITOR_TAG)
    return scene.AddNode(node)


def has_nothing_drawn(segmentation_node, segment_id) -> bool:
    """Whether it is a segment in which nothing was drawn yet; False where there is no segment."""
    from .nodes import segments_of

    segment = segments_of(segmentation_node).get(segment_id)
    if segment is None:
        return False
    content = segment.GetRepresentation(segmentation_node.GetSegmentation().GetSourceRepresentationName())
    return content is None or content.GetNumberOfPoints() == 0
