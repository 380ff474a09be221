"""The map of what raises and lowers the risk, as a volume over the CT; the numbers are CNNSurvivalLib.explanation's."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from ..errors import Cancelled
from .inputs import grid_of
from .nodes import ATTRIBUTE, nodes_of, put_beside
from .results import Result, label_of, read_record

_EXPLANATION = "explanation"  # the role of the map's node
_RECORD = ATTRIBUTE + "record"  # node reference role: the record of the result
_SENTENCE = ATTRIBUTE + "sentence"  # attribute


def explain(scene, volume_node, result: Result, prediction, engine=None, progress=None) -> tuple:
    """(the map of a result in the scene, a sentence on it, which the map keeps); engine None for the built-in one."""
    from ..engines import create_engine
    from ..explanation import occlusion_maps, on_ct_grid

    maps = occlusion_maps(prediction, engine or create_engine("numpy", prediction.bundle), progress=progress)
    values = on_ct_grid(maps, prediction, *grid_of(volume_node))
    return write_explanation(scene, volume_node, values, result, maps.sentence), maps.sentence


def write_explanation(scene, volume_node, values, result: Result, sentence: str = ""):
    """Leave the map in the scene, over the CT.

    A former map of the same result is updated in place. Red raises the risk, blue lowers it; the rest is transparent.

    Parameters
    ----------
    scene : vtkMRMLScene
    volume_node : vtkMRMLScalarVolumeNode
        The CT.
    values : ndarray, shape [k, j, i]
        From ``CNNSurvivalLib.explanation.on_ct_grid``: percentage points of risk.
    result : Result
    sentence : str
        What the map says, for ``sentence_of``.

    Returns
    -------
    vtkMRMLScalarVolumeNode

    Raises
    ------
    Cancelled
        Where the CT or the result has left the scene.
    """
    if volume_node.GetScene() is not scene or result.record.GetScene() is not scene:
        raise Cancelled("The CT or the result was removed while the map was made.")
    node = _explanation_of(scene, result) or scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    node.SetName(f"{label_of(result)}: what the risk rests on")
    node.SetAttribute(ATTRIBUTE + "role", _EXPLANATION)
    node.SetNodeReferenceID(_RECORD, result.record.GetID())
    node.SetAttribute(ATTRIBUTE + "slices", _slices_key(result))
    node.SetAttribute(_SENTENCE, sentence)
    _copy_geometry(volume_node, node)
    node.SetAndObserveImageData(_image(values))
    _color_explanation(scene, node, float(np.abs(values).max()))
    put_beside(scene, node, result.chart)
    return node


def find_explanation(scene, result: Result):
    """The volume that ``write_explanation`` left for this result; None where there is none.

    A map of slices that were cut before the segment or the model was changed does not count.
    """
    node = _explanation_of(scene, result)
    current = node is not None and node.GetAttribute(ATTRIBUTE + "slices") == _slices_key(result)
    return node if current else None


def is_map(node) -> bool:
    """Whether a node (or None) is a map that ``write_explanation`` left."""
    return node is not None and node.GetAttribute(ATTRIBUTE + "role") == _EXPLANATION


def sentence_of(node) -> str:
    """What a map says, in words; "" for maps of earlier versions."""
    return node.GetAttribute(_SENTENCE) or ""


def record_of(node):
    """The record (vtkMRMLTextNode) of the result that a map belongs to; None where it is gone."""
    return node.GetNodeReference(_RECORD)


def _explanation_of(scene, result: Result):
    for node in nodes_of(scene, "vtkMRMLScalarVolumeNode"):
        if node.GetNodeReferenceID(_RECORD) == result.record.GetID():
            return node
    return None


def _slices_key(result: Result) -> str:
    """A text that is different for other slices or weights."""
    record = read_record(result)
    seen = [record.get("state", {}).get("images"), record.get("provenance", {}).get("model_weights_sha256")]
    return hashlib.sha256(json.dumps(seen).encode("utf-8")).hexdigest()[:16]


def _copy_geometry(volume_node, node) -> None:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    node.SetIJKToRASMatrix(matrix)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())


def _image(values: np.ndarray):
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(*values.shape[::-1])
    scalars = numpy_to_vtk(np.ascontiguousarray(values, np.float32).ravel(), deep=True, array_type=vtk.VTK_FLOAT)
    image.GetPointData().SetScalars(scalars)
    return image


def _color_explanation(scene, node, largest: float) -> None:
    """Blue over transparent to red, symmetric about 0; the colour table belongs to the map and is saved with it."""
    largest = largest or 1.0
    colors = node.GetNodeReference(ATTRIBUTE + "colors")
    if colors is None:
        colors = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "Risk up (red) and down (blue)")
        colors.SetTypeToUser()
        colors.SetAttribute("Category", "CNNSurvival")
        colors.SetHideFromEditors(True)
        colors.SetNumberOfColors(256)
        for index in range(256):
            side = (index - 127.5) / 127.5
            strength = min(1.0, abs(side) * 1.6)
            red, green, blue = (1.0, 0.25, 0.1) if side > 0 else (0.1, 0.35, 1.0)
            colors.SetColor(index, f"{side:+.2f}", red, green, blue, strength if strength > 0.08 else 0.0)
        node.SetNodeReferenceID(ATTRIBUTE + "colors", colors.GetID())
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    if display is not None:
        display.SetAndObserveColorNodeID(colors.GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(-largest, largest)
        display.SetInterpolate(True)
