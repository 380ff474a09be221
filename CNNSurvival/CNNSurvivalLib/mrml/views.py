"""What the slice views show."""

from __future__ import annotations

import numpy as np

from ..slices import RankedSlices
from .nodes import nodes_of


def is_shown(scene, volume_node) -> bool:
    """Whether a slice view shows the volume, in the background or the foreground."""
    return any(
        volume_node.GetID() in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID())
        for view in nodes_of(scene, "vtkMRMLSliceCompositeNode")
    )


def shows_slice(scene, slices: RankedSlices) -> bool:
    """Whether a slice view in the layout lies in one of the slices, parallel to them."""
    normal = np.cross(*slices.pixel_to_ras[0][:3, :2].T)
    normal = normal / np.linalg.norm(normal)
    for view in nodes_of(scene, "vtkMRMLSliceNode"):
        to_ras = view.GetSliceToRAS()
        axis, origin = ([to_ras.GetElement(row, column) for row in range(3)] for column in (2, 3))
        parallel = abs(np.dot(normal, axis)) > 0.99
        distance = np.abs((slices.center_ras - origin) @ normal).min()
        if view.IsMappedInLayout() and parallel and distance <= slices.slice_spacing_mm / 2:
            return True
    return False
