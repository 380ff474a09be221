"""Where voxels lie: volumes in LPS mm, and bringing a mask onto the CT's grid."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CNNSurvivalError
from .texts import size_text

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A slice this part of the spacing off its place is still in place: positions are often written with one decimal.
OFF_PLACE = 0.1
# More than any CT has (2048 slices of 1024 x 1024): a file that declares more is damaged, or made to fill the memory.
MAX_VOXELS = 2**31
# Grids whose corners are this part of a voxel apart are the same (NIfTI keeps single precision).
SAME_GRID_VOXELS = 0.05


class Volume(NamedTuple):
    """array [k, j, i]; ijk_to_lps 4 x 4; UIDs where it came from DICOM."""

    array: np.ndarray
    ijk_to_lps: np.ndarray
    warnings: tuple[str, ...] = ()
    series_uid: str | None = None
    frame_uid: str | None = None


class Mask(NamedTuple):
    """array uint8 on the CT's grid."""

    array: np.ndarray
    name: str
    warnings: tuple[str, ...] = ()


def check_geometry(what: str, path: Path, matrix: np.ndarray) -> None:
    """Raises CNNSurvivalError where voxels have no size, or none that a scanner has: nothing can be computed there."""
    steps = matrix[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    sane = np.all(np.isfinite(matrix)) and np.all(np.abs(matrix) < 1e6) and np.all((lengths > 1e-3) & (lengths < 1e3))
    if not sane or abs(np.linalg.det(steps / lengths)) < 1e-3:
        raise CNNSurvivalError(
            f"The geometry of the {what} {path} (spacing, directions or origin) makes no sense; export it again."
        )


def plane_normal(orientation: np.ndarray) -> np.ndarray:
    """The unit normal of a slice from its ImageOrientationPatient."""
    normal = np.cross(orientation[:3], orientation[3:])
    length = np.linalg.norm(normal)
    if length < 0.5:
        raise CNNSurvivalError("The orientation in the CT's DICOM headers is no orientation; export the CT again.")
    return normal / length


def onto_grid(path: Path, volume: Volume, ct: Volume) -> tuple[np.ndarray, tuple[str, ...]]:
    """(the mask, uint8, on the CT's grid, warnings)."""
    if volume.array.shape == ct.array.shape and _corner_distance(volume, ct) < SAME_GRID_VOXELS:
        return volume.array, ()
    array = resample_nearest(volume.array, volume.ijk_to_lps, ct.array.shape, ct.ijk_to_lps)
    if not array.any() and not _boxes_meet(volume, ct):
        raise CNNSurvivalError(
            f"The tumour in the mask {path} lies entirely outside the CT; check that the two belong together."
        )
    notes = ()
    if not _is_part_of(volume, ct):
        notes += (
            f"The mask's grid ({size_text(volume.array.shape[::-1])} voxels) is not the CT's "
            f"({size_text(ct.array.shape[::-1])}): {_difference(volume, ct)}; the mask was resampled by nearest "
            "neighbour.",
        )
    lost = _part_outside(volume, ct)
    if lost > 0.001:
        notes += (f"{lost:.0%} of the mask lies outside the CT and was left out.",)
    return array, notes


def _difference(volume: Volume, ct: Volume) -> str:
    """What sets the mask's grid apart from the CT's, besides its size, and by how much."""
    parts = []
    lengths = [np.linalg.norm(each.ijk_to_lps[:3, :3], axis=0) for each in (volume, ct)]
    if not np.allclose(*lengths, rtol=1e-4):
        spacings = [size_text(f"{value:.5g}" for value in each) for each in lengths]
        parts.append(f"spacing {spacings[0]} mm instead of {spacings[1]} mm")
    axes = [each.ijk_to_lps[:3, :3] / length for each, length in zip((volume, ct), lengths)]
    angle = float(np.degrees(np.arccos(np.clip(np.sum(axes[0] * axes[1], axis=0), -1, 1)).max()))
    if angle > 0.02:
        parts.append(f"axes turned by up to {angle:.3g} degrees")
    shift = volume.ijk_to_lps[:3, 3] - ct.ijk_to_lps[:3, 3]
    if np.abs(shift / lengths[1]).max() > SAME_GRID_VOXELS:
        each = ", ".join(f"{value:.3g}" for value in shift)
        parts.append(f"origin {np.linalg.norm(shift):.3g} mm away ({each} mm in L, P, S)")
    if not parts:
        parts.append(f"its corners lie up to {_corner_distance(volume, ct):.2g} voxels away")
    return ", ".join(parts)


def _corner_distance(volume: Volume, ct: Volume) -> float:
    """Largest distance of the corners of the mask's grid from those of the CT's, in voxels."""
    return float(np.abs(_in_ct(volume, ct, _corners(np.array(volume.array.shape)[::-1] - 1)) - _corners(
        np.array(ct.array.shape)[::-1] - 1)).max())  # fmt: skip


def _corners(last) -> np.ndarray:
    return np.array(np.meshgrid(*[[0, n] for n in last], indexing="ij")).reshape(3, -1).T


def _in_ct(volume: Volume, ct: Volume, index: np.ndarray) -> np.ndarray:
    """Positions [n, 3] (i, j, k) of the mask's grid, on the CT's."""
    matrix = np.linalg.inv(ct.ijk_to_lps) @ volume.ijk_to_lps
    return index @ matrix[:3, :3].T + matrix[:3, 3]


def _is_part_of(volume: Volume, ct: Volume) -> bool:
    """Whether the mask's voxels are voxels of the CT (a crop of it, or stored the other way round): nothing is lost."""
    corners = _in_ct(volume, ct, _corners(np.array(volume.array.shape)[::-1] - 1))
    steps = (np.linalg.inv(ct.ijk_to_lps) @ volume.ijk_to_lps)[:3, :3]
    permutation = np.abs(np.rint(steps))
    whole = np.all(permutation.sum(axis=0) == 1) and np.all(permutation.sum(axis=1) == 1)
    return bool(whole and np.abs(corners - np.rint(corners)).max() < SAME_GRID_VOXELS)


def _tumour_index(volume: Volume) -> np.ndarray:
    return np.argwhere(volume.array)[:, ::-1].astype(np.float64)


def _boxes_meet(volume: Volume, ct: Volume) -> bool:
    return _part_outside(volume, ct) < 1


def _part_outside(volume: Volume, ct: Volume) -> float:
    """Part of the mask's tumour voxels whose centres lie outside the CT."""
    index = _in_ct(volume, ct, _tumour_index(volume))
    inside = np.all((index > -0.5) & (index < np.array(ct.array.shape)[::-1] - 0.5), axis=1)
    return 1 - float(inside.mean())


def resample_nearest(mask: np.ndarray, mask_to_lps: np.ndarray, shape, ijk_to_lps: np.ndarray) -> np.ndarray:
    """The mask [k, j, i] on the grid of that shape [k, j, i], by nearest voxel; uint8, 0 outside the mask's grid."""
    result = np.zeros(shape, dtype=np.uint8)
    hit = np.nonzero(mask)
    if not len(hit[0]):
        return result
    corners = np.array([[axis.min() - 0.5, axis.max() + 0.5] for axis in hit[::-1]])
    corners = np.array(np.meshgrid(*corners)).reshape(3, -1)
    to_target = np.linalg.inv(ijk_to_lps) @ mask_to_lps
    corners = to_target[:3, :3] @ corners + to_target[:3, 3:]
    low = np.maximum(np.floor(corners.min(axis=1)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=1)) + 1, np.array(shape)[::-1]).astype(int)
    if np.any(high <= low):
        return result
    to_mask = np.linalg.inv(to_target)
    i, j = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    size = np.array(mask.shape)[::-1, np.newaxis, np.newaxis]
    for k in range(low[2], high[2]):  # slice by slice, so that no array of positions is as large as the volume
        position = np.tensordot(to_mask[:3, :3], np.stack([i, j, np.full_like(i, k)]), axes=1)
        nearest = np.floor(position + to_mask[:3, 3][:, np.newaxis, np.newaxis] + 0.5 + 1e-6).astype(int)
        valid = np.all((nearest >= 0) & (nearest < size), axis=0)
        x, y, z = nearest[:, valid]
        plane = result[k, low[1] : high[1], low[0] : high[0]]
        plane[valid] = mask[z, y, x] != 0
    return result
