"""Masks from image files: label images, maps of probabilities, and Slicer's .seg.nrrd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import CNNSurvivalError
from .grid import Volume
from .images import geometry_of, nifti_warning, read_image, squeezed
from .quiet import reading
from .segments import Segments, choose
from .texts import one_line

BLOCK_PLANES = 64


def list_labels(path: Path) -> Segments:
    """The segments of a .seg.nrrd, or the labels of a label image."""
    import SimpleITK as sitk

    image = read_image("mask", path)
    segments = _named(path, image)
    if segments:
        return segments[0]
    image = squeezed("mask", path, image)
    return _labels(path, _integers(path, sitk.GetArrayViewFromImage(image))[0])


def read_labels(path: Path, segment: str | None) -> tuple[Volume, str]:
    """(mask, name of the segment) on the file's own grid."""
    import SimpleITK as sitk

    image = read_image("mask", path)
    named = _named(path, image)
    if named:
        segments, places = named
        layers = _layers(path, image)
        chosen = choose(path, segments, segment)
        name, label, layer = segments.names[chosen], segments.numbers[chosen], places[chosen]
        if not 0 <= layer < len(layers):
            raise CNNSurvivalError(
                f"The mask {path} lacks the layer of segment '{one_line(name)}'; save it again in Slicer."
            )
        return Volume((layers[layer] == label).view(np.uint8), geometry_of(image)), name
    image = squeezed("mask", path, image)
    array, notes = _integers(path, sitk.GetArrayViewFromImage(image))  # of use while the image is there
    notes += nifti_warning("mask", path, image)
    labels = _labels(path, array)
    label = labels.numbers[choose(path, labels, segment)]
    return Volume((array == label).view(np.uint8), geometry_of(image), notes), str(label)


def _labels(path: Path, array: np.ndarray) -> Segments:
    # Most of a mask is 0, and unique() of all of it takes longer than reading it. In blocks, as that takes less memory.
    blocks = (array[first : first + BLOCK_PLANES] for first in range(0, len(array), BLOCK_PLANES))
    values = sorted(set().union(*(np.unique(block[block != 0]).tolist() for block in blocks)))
    if not values:
        raise CNNSurvivalError(f"The mask {path} is empty (every voxel is 0); draw the tumour.")
    return Segments("label", [str(value) for value in values], values, [""] * len(values))


def _named(path: Path, image) -> tuple[Segments, list[int]] | None:
    """(segments, the layer of each) of a .seg.nrrd; None for a plain label image."""
    with reading("mask", path):  # labels and layers that are no numbers
        segments = _slicer_segments(image)
    if not segments:
        return None
    names, labels, layers, ids = (list(column) for column in zip(*segments))
    return Segments("segment", names, labels, ids), layers


def _slicer_segments(image) -> list[tuple[str, int, int, str]]:
    """(name, label, layer, id) of the segments that a .seg.nrrd's header tells of.

    Slicer before 4.11 wrote no labels and layers: each segment had a layer of its own, of 0 and 1.
    """
    keys, segments = set(image.GetMetaDataKeys()), []
    while f"Segment{len(segments)}_Name" in keys or f"Segment{len(segments)}_ID" in keys:
        prefix = f"Segment{len(segments)}_"

        def value(key: str, default, prefix=prefix):
            return image.GetMetaData(prefix + key) if prefix + key in keys else default

        old = prefix + "Layer" not in keys
        name = value("Name", None) or value("ID", "")
        layer = len(segments) if old else int(value("Layer", 0))
        segments.append((name, int(value("LabelValue", 1)), layer, value("ID", "")))
    if all(segment[2] == k for k, segment in enumerate(segments)) and not _is_layered(image):
        segments = [(name, label, 0, own_id) for name, label, _, own_id in segments]
    return segments


def _is_layered(image) -> bool:
    return image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() > 3


def _layers(path: Path, image) -> Sequence[np.ndarray]:
    """The layers, each [k, j, i], of a .seg.nrrd: the values of a vector image, or the places on a fourth axis."""
    import SimpleITK as sitk

    array = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        if image.GetDimension() == 3:
            return np.moveaxis(array, -1, 0)
    elif image.GetDimension() == 4:
        return array
    elif image.GetDimension() == 3:
        return array[np.newaxis]
    raise CNNSurvivalError(f"The mask {path} is not a 3D segmentation; save it again in Slicer.")


def _integers(path: Path, array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as integers; a map of probabilities is cut at 0.5."""
    if np.issubdtype(array.dtype, np.integer):
        return array, ()
    if not np.all(np.isfinite(array)):
        raise CNNSurvivalError(f"The mask {path} has NaN or infinite voxels; give a label image.")
    whole = np.rint(array)
    if np.array_equal(whole, array):
        return whole.astype(np.int32), ()
    if array.min() >= 0 and array.max() <= 1:
        note = f"The mask {path} has values between 0 and 1; voxels of 0.5 or more were taken for tumour."
        return (array >= 0.5).view(np.uint8), (note,)
    raise CNNSurvivalError(
        f"The mask {path} has voxels that are no whole numbers ({array.min():g} to {array.max():g}); give a label "
        "image."
    )
