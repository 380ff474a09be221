"""What in the tumour raises or lowers the risk: occlusion sensitivity (Zeiler & Fergus 2014, ECCV, section 4.2).

One patch of a slice after another is hidden from the network, by setting it to 0, which is the network's value for
"outside the tumour". The risk of the whole slice minus the risk with the patch hidden is what the patch adds: positive
where this part of the tumour raises the risk. A pixel's value is the mean over the patches that hide it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

from .engines import check_population
from .errors import CNNSurvivalError
from .hazards import survival_at, survival_function
from .prediction import Prediction

PATCH_PX, STRIDE_PX = 14, 7  # at 1 mm pixels about a sixth of an average tumour; each pixel is hidden four times


@dataclass(frozen=True)
class OcclusionMaps:
    """What each pixel adds to the risk of its slice.

    Attributes
    ----------
    values : ndarray of float32, shape [n, crop, crop]
        By how much the risk (1 - S at the bundle's risk time, 0 to 1) falls when the pixel is hidden; 0 outside the
        tumour. In the prediction's rank order.
    patch_px, stride_px : int
        Edge of the square that was hidden, and its steps, in pixels.
    """

    values: np.ndarray
    patch_px: int
    stride_px: int

    @property
    def sentence(self) -> str:
        """The result in one line."""
        low, high = 100 * float(self.values.min()), 100 * float(self.values.max())
        if high - low < 0.05:
            return "Hiding a part of the tumour changes nothing: the network gives all slices like these the same risk."
        return (
            f"Parts of the tumour lower the risk by up to {-low:.1f}, others raise it by {high:.1f} percentage points."
        )


def occlusion_maps(
    prediction: Prediction,
    engine,
    patch_px: int = PATCH_PX,
    stride_px: int = STRIDE_PX,
    progress: Optional[Callable[[str, float], None]] = None,
) -> OcclusionMaps:
    """A map for every slice of the prediction.

    Parameters
    ----------
    prediction : Prediction
    engine : Engine
        From ``engines.create_engine``, of the prediction's bundle.
    patch_px, stride_px : int
        Edge of the square that is hidden, and its steps, in pixels.
    progress : callable, optional
        progress(step, fraction) may raise Cancelled.

    Returns
    -------
    OcclusionMaps

    Raises
    ------
    CNNSurvivalError
        For a patch or a stride below 1, a stride that leaves pixels out, and an engine of another population.
    """
    if not 1 <= stride_px <= patch_px:
        raise CNNSurvivalError(f"The patch is {patch_px} and its stride {stride_px} pixels; give 1 <= stride <= patch.")
    check_population(engine, prediction.bundle)
    report = progress or (lambda step, fraction: None)
    values = []
    for number, image in enumerate(prediction.slices.images):

        def inside(fraction: float, number=number) -> None:
            report("Hiding patches", (number + fraction) / len(prediction.slices))

        values.append(_slice_map(image, prediction, engine, patch_px, stride_px, inside))
    return OcclusionMaps(np.array(values, dtype=np.float32), patch_px, stride_px)


def _slice_map(image, prediction: Prediction, engine, patch_px, stride_px, progress) -> np.ndarray:
    patches = _patches(image, patch_px, stride_px)
    bundle = prediction.bundle
    curves = survival_function(engine.hazards_without(image, patches, progress))
    risk = 1 - survival_at(curves, bundle.edges_days, bundle.risk_time_days)
    total, count = np.zeros(image.shape), np.zeros(image.shape)
    for patch, value in zip(patches, risk[0] - risk[1:]):
        total[patch] += value
        count[patch] += 1
    return np.where(image > 0, total / np.maximum(count, 1), 0)


def _patches(image: np.ndarray, patch_px: int, stride_px: int) -> list:
    """(rows, columns) of the patches that hide any of the tumour; every tumour pixel is in at least one."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    if rows.size == 0:
        return []
    starts = [range(max(int(hit[0]) - patch_px + stride_px, 0), int(hit[-1]) + 1, stride_px) for hit in (rows, columns)]
    patches = [(slice(top, top + patch_px), slice(left, left + patch_px)) for top in starts[0] for left in starts[1]]
    return [patch for patch in patches if image[patch].any()]


def on_ct_grid(maps: OcclusionMaps, prediction: Prediction, shape, ijk_to_ras) -> np.ndarray:
    """The maps on the grid of the CT.

    A map is drawn on the plane of its slice and, where not every plane was used, on those nearest to it, so that the
    picture has no gaps.

    Parameters
    ----------
    maps : OcclusionMaps
    prediction : Prediction
        The one that the maps were made of.
    shape : tuple of int
        Of the CT, [k, j, i].
    ijk_to_ras : array_like, shape [4, 4]
        Of the CT: takes (i, j, k, 1) to RAS mm.

    Returns
    -------
    ndarray of float32, shape [k, j, i]
        Percentage points of risk; 0 outside the tumour.
    """
    from scipy.ndimage import map_coordinates

    grid, slices = np.zeros(shape, dtype=np.float32), prediction.slices
    planes = _nearest_used(slices.slice_index, shape[slices.axis])
    others = [axis for axis in range(3) if axis != slices.axis]
    for plane, rank in planes.items():
        to_pixel = np.linalg.pinv(slices.pixel_to_ras[rank][:, :2])
        # On its own plane: what lies between planes is drawn as if it lay there.
        index = np.empty((shape[others[0]], shape[others[1]], 3))
        index[..., slices.axis] = slices.slice_index[rank]
        index[..., others[0]] = np.arange(shape[others[0]])[:, np.newaxis]
        index[..., others[1]] = np.arange(shape[others[1]])
        ras = index[..., ::-1] @ np.asarray(ijk_to_ras)[:3, :3].T + np.asarray(ijk_to_ras)[:3, 3]
        pixels = (ras - slices.pixel_to_ras[rank][:, 2]) @ to_pixel.T
        drawn = map_coordinates(100 * maps.values[rank], np.moveaxis(pixels, -1, 0), order=1, mode="constant")
        grid[tuple(plane if axis == slices.axis else slice(None) for axis in range(3))] = drawn
    return grid


def _nearest_used(used: np.ndarray, count: int) -> dict:
    """Plane -> rank of the slice nearest to it, within half the step between slices."""
    gaps = np.diff(np.sort(used))
    reach = (int(gaps.min()) if gaps.size else 1) / 2
    planes = {}
    for plane in range(count):
        rank = int(np.argmin(np.abs(used - plane)))
        if abs(int(used[rank]) - plane) <= reach:
            planes[plane] = rank
    return planes
