"""Contours (of an RTSTRUCT) to a mask on a CT's grid.

Libraries that do the whole job (rt-utils, for one) round vertices to whole pixels and want every contour to name a
slice of exactly this CT, so contours between slices, contours of another series and small tumours come out wrong or
not at all. Here:

- contour points (LPS mm) become continuous positions on the CT's grid, whatever its order, flips, tilt or shear;
- the contours of one plane are joined by exclusive or, so several contours, holes and islands in holes come out
  right; holes drawn as one contour with a slit ("keyhole") do by the even-odd rule;
- a pixel belongs to the mask where its centre lies in the contour; vertices are never rounded; of centres on the
  contour those on the left and upper edge are in, those on the right and lower edge are out (docs/formats.md);
- a CT slice between two contour planes gets a shape in between (signed distances, interpolated linearly), unless
  the planes lie further apart than 1.5 times the contours' usual spacing: then the gap stays open, with a warning;
- above the first and below the last plane, a slice gets that plane's shape where it lies within half a slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .grid import resample_nearest

# Contours nearer than this are of one plane: planning systems write coordinates with one to three decimals.
SAME_PLANE_MM = 0.1
# Contour planes further apart than this many usual spacings are separate parts, not a shape to fill in.
FILLED_GAP = 1.5
# Vertices often lie exactly on pixel centres. Moved by these parts of a pixel (row, column), those on the upper left
# edge are in and those on the lower right are out whatever the rounding, so areas are not biased. The two differ, as an
# edge at 45 degrees would stay on the centres.
NUDGE_PX = (1e-6, 1.618e-6)
# The fine grid for contours oblique to the CT gets coarser rather than larger than this (30 MB; seconds).
MAX_FINE_VOXELS = 3e7


def rasterise(contours: Sequence[np.ndarray], shape, ijk_to_lps: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """(mask uint8 [k, j, i], warnings) of contours [n, 3] in LPS mm, on the grid of that shape [k, j, i].

    What lies outside the grid is cut off. The mask is empty where no voxel's centre is inside.
    """
    to_index = np.linalg.inv(ijk_to_lps)
    index = [points @ to_index[:3, :3].T + to_index[:3, 3] for points in contours]
    axis, tilt = _normal_axis(index)
    if tilt > 0.5:
        return _rasterise_oblique(contours, shape, ijk_to_lps)
    return _rasterise_aligned(index, axis, shape, ijk_to_lps)


def _normal_axis(index: Sequence[np.ndarray]) -> tuple[int, float]:
    """The grid axis (0 = i, 1 = j, 2 = k) across which the contours lie, and how many voxels one spreads along it."""
    spread = np.max([np.ptp(points, axis=0) for points in index], axis=0)
    axis = int(np.argmin(spread))
    return axis, float(spread[axis])


def _rasterise_aligned(index, axis: int, shape, ijk_to_lps, reach_mm: float | None = None):
    """Contours that lie in planes of the grid across ``axis``; reach_mm is the slice thickness for the outer planes."""
    columns = [a for a in (0, 1, 2) if a != axis]
    spacing = np.linalg.norm(ijk_to_lps[:3, columns], axis=0)
    normal = np.cross(*ijk_to_lps[:3, columns].T) / np.prod(spacing)
    step = abs(float(normal / np.linalg.norm(normal) @ ijk_to_lps[:3, axis]))
    mask = np.zeros(shape, dtype=np.uint8)
    slices = mask.transpose(2 - axis, 2 - columns[1], 2 - columns[0])  # [across, v, u], a view
    planes = _planes([(float(points[:, axis].mean()), points[:, columns]) for points in index], SAME_PLANE_MM / step)
    box = _box(planes, slices.shape[1:])
    if box is None:
        return mask, ()
    drawn = [(position, _fill(polygons, box)) for position, polygons in planes]
    spacings = np.sort(np.diff([position for position, _ in drawn]))
    usual = float(spacings[(len(spacings) - 1) // 2]) if len(spacings) else np.inf
    reach = 0.5 * min(reach_mm / step if reach_mm else 1.0, usual)
    for k in range(len(slices)):
        plane = _plane_at(k, drawn, usual, reach, SAME_PLANE_MM / step, spacing[::-1])
        if plane is not None:
            slices[k][box] = plane
    if not mask.any():  # planes closer to each other than to any slice
        for position, plane in drawn:
            k = int(np.ceil(position - 0.5))
            if 0 <= k < len(slices):
                slices[k][box] |= plane
    return mask, _gap_warning(drawn, usual, step)


def _planes(contours: list, tolerance: float) -> list:
    """(position, [polygons]) per plane, in order, from (position, polygon) per contour."""
    planes: list = []
    for position, polygon_uv in sorted(contours, key=lambda contour: contour[0]):
        if planes and position - planes[-1][0] <= tolerance:
            planes[-1][1].append(polygon_uv)
        else:
            planes.append((position, [polygon_uv]))
    return planes


def _box(planes: list, shape) -> tuple[slice, slice] | None:
    """The part [v, u] of a plane of the grid that holds all polygons, with a pixel around; None if there is none."""
    points = np.concatenate([points for _, polygons in planes for points in polygons])
    low = np.maximum(np.floor(points.min(axis=0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(points.max(axis=0)) + 2, shape[::-1]).astype(int)
    return (slice(low[1], high[1]), slice(low[0], high[0])) if np.all(high > low) else None


def _fill(polygons: list, box) -> np.ndarray:
    """uint8 [v, u] of the box: exclusive or of the polygons [n, 2] (u, v)."""
    crossings = np.zeros([part.stop - part.start + extra for part, extra in zip(box, (0, 1))], dtype=np.uint8)
    for points in polygons:
        rows, columns = (points[:, [1, 0]] - (box[0].start, box[1].start) - NUDGE_PX).T
        for edge in zip(rows, columns, np.roll(rows, -1), np.roll(columns, -1)):
            _cross(crossings, *edge)
    # Even-odd rule: a pixel is inside where an odd number of edges lie to its left.
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1]


def _cross(crossings: np.ndarray, row0: float, column0: float, row1: float, column1: float) -> None:
    """Flip, in every row that an edge crosses, the first pixel to the right of the edge."""
    low, high = sorted((row0, row1))
    rows = np.arange(max(int(np.ceil(low)), 0), min(int(np.ceil(high)), len(crossings)))
    if rows.size:
        at = column0 + (rows - row0) * (column1 - column0) / (row1 - row0)
        crossings[rows, np.clip(np.ceil(at), 0, crossings.shape[1] - 1).astype(int)] ^= 1


def _plane_at(k: int, drawn: list, usual: float, reach: float, same: float, spacing) -> np.ndarray | None:
    """The shape at slice k: a drawn plane, one between two, or none."""
    offsets = np.array([position - k for position, _ in drawn])
    nearest = int(np.argmin(np.abs(offsets)))
    if abs(offsets[nearest]) <= same:
        return drawn[nearest][1]
    above = int(np.searchsorted(offsets, 0))
    if 0 < above < len(drawn) and offsets[above] - offsets[above - 1] <= FILLED_GAP * usual:
        part = -offsets[above - 1] / (offsets[above] - offsets[above - 1])
        return _between(drawn[above - 1][1], drawn[above][1], part, spacing)
    # Half-open, so that a plane midway between two slices counts once.
    if -reach < offsets[nearest] <= reach:
        return drawn[nearest][1]
    return None


def _between(first: np.ndarray, second: np.ndarray, part: float, spacing) -> np.ndarray:
    """The shape at ``part`` (0..1) of the way from the first to the second."""
    if not first.any() or not second.any():
        return np.zeros_like(first)
    distance = (1 - part) * _signed_distance(first, spacing) + part * _signed_distance(second, spacing)
    return (distance > 0).astype(np.uint8)


def _signed_distance(shape: np.ndarray, spacing) -> np.ndarray:
    """mm to the shape's edge, positive inside."""
    from scipy.ndimage import distance_transform_edt  # here, as its import takes as long as reading a CT

    padded = np.pad(shape, 1)  # so that a shape that fills the box has an outside
    distance = distance_transform_edt(padded, spacing) - distance_transform_edt(padded == 0, spacing)
    return distance[1:-1, 1:-1]


def _gap_warning(drawn: list, usual: float, step: float) -> tuple[str, ...]:
    gaps = np.diff([position for position, _ in drawn])
    open_gaps = gaps[gaps > FILLED_GAP * usual]
    if not len(open_gaps):
        return ()
    return (
        f"The contours lie {usual * step:.1f} mm apart but leave {len(open_gaps)} larger "
        f"{'gap' if len(open_gaps) == 1 else 'gaps'} of up to {open_gaps.max() * step:.1f} mm; nothing is filled in "
        "there, so check whether contours are missing.",
    )


def _rasterise_oblique(contours, shape, ijk_to_lps):
    """Contours in planes that cut across the grid: drawn on a fine grid of their own, which the grid then samples."""
    centred = np.concatenate([points - points.mean(axis=0) for points in contours])
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    points = np.concatenate(contours) @ axes.T
    fine = 0.5 * float(np.linalg.norm(ijk_to_lps[:3, :3], axis=0).min())
    thickness = float(np.abs(axes[2] @ ijk_to_lps[:3, :3]).max())
    while True:
        low, high = points.min(axis=0) - 2 * fine, points.max(axis=0) + 2 * fine
        low[2], high[2] = low[2] - thickness, high[2] + thickness
        if float(np.prod((high - low) / fine + 2)) <= MAX_FINE_VOXELS:
            break
        fine *= 1.25
    fine_to_lps = np.eye(4)
    fine_to_lps[:3, :3] = axes.T * fine
    fine_to_lps[:3, 3] = axes.T @ low
    fine_shape = np.ceil((high - low) / fine).astype(int)[::-1] + 1
    index = [(contour @ axes.T - low) / fine for contour in contours]
    mask, warnings = _rasterise_aligned(index, 2, fine_shape, fine_to_lps, reach_mm=thickness)
    return resample_nearest(mask, fine_to_lps, shape, ijk_to_lps), warnings
