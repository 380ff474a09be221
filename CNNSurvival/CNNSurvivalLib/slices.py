"""From a CT and a tumour mask to ranked, masked slices: what the network sees.

The steps for one slice: find the mask's bounding box; take the axial planes in it; resample each in-plane to
the model's pixel size; map Hounsfield units (HU) to 0..255; set everything outside the mask to 0; cut out
140 x 140 pixels around the region of interest (ROI); rank by ROI area and mean intensity.

"Axial" is anatomical. The array may be stored in any order: ``ijk_to_ras`` says where its voxels lie, and
the array axis nearest to superior-inferior is the one that is sliced. Images come out in radiological
order: rows from anterior to posterior, columns from the patient's right to left, slices from inferior to
superior. Only the mask's bounding box is resampled; a coarse sample of the whole CT is read to see whether it
is one. No array of the volume's size is made.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .errors import CNNSurvivalError, NotACT

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Box = Tuple[slice, ...]

# Planes tilted against the axial plane by up to this angle are taken for axial: across a 60 mm tumour they
# leave it by about 5 mm to either side, less than two of the 3 mm slices of the paper's first cohort.
MAX_OBLIQUE_DEGREES = 10.0
# Pixel sizes closer than this to the model's are not resampled (DICOM writes 0.976562 for 0.9765625).
PIXEL_SIZE_TOLERANCE = 1e-3
# Sample positions are whole multiples of this part of a CT pixel: interpolation is then exact for whole HU, and no
# rounding error depends on where the tumour lies or which way the volume is stored.
POSITION_STEP = 2.0**-16
# Hounsfield units: air is -1000, fat about -100. A volume with nothing below this holds neither.
NO_FAT_NO_AIR_HU = -50.0


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its slices; part of its bundle.

    Parameters
    ----------
    hu_window : tuple of float
        The two HU that become grey 0 and 255; linear between, clipped outside.
    pixel_size_mm : float or None
        In-plane pixel size after resampling, mm; None keeps the CT's own.
    crop_px : int
        Width and height of a slice, pixels.
    min_roi_px : int
        Slices whose ROI has fewer pixels (at the model's pixel size) are not used.
    slice_step_mm : float or None
        On thinner slices only every n-th is used, n = step / spacing rounded; None uses all.
    """

    hu_window: Tuple[float, float] = (-160.0, 240.0)
    pixel_size_mm: Optional[float] = 1.0
    crop_px: int = 140
    min_roi_px: int = 250
    slice_step_mm: Optional[float] = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The settings as bundle.json, a store and a run hold them.

        Parameters
        ----------
        values : mapping
            Has a key for every field; other keys are ignored.

        Raises
        ------
        KeyError
            Where a field is missing.
        """
        own = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{**own, "hu_window": tuple(own["hu_window"])})


@dataclass(frozen=True)
class RankedSlices:
    """The slices of one tumour, best first. All arrays have one row per slice, in rank order.

    Attributes
    ----------
    images : numpy.ndarray
        uint8 [n, crop, crop], rows anterior to posterior, columns patient's right to left, 0 outside the ROI.
    axis : int
        The array axis (0, 1 or 2 of [k, j, i]) that was sliced.
    slice_index : numpy.ndarray
        int [n], index along that axis.
    center_ras : numpy.ndarray
        float [n, 3], centre of the ROI's bounding box on the slice, RAS mm.
    pixel_to_ras : numpy.ndarray
        float [n, 3, 3], takes (row, column, 1) of an image to RAS mm, of pixel centres.
    area_px : numpy.ndarray
        int [n], ROI pixels at the model's pixel size.
    area_mm2 : numpy.ndarray
        float [n], the same in mm2.
    mean_intensity : numpy.ndarray
        float [n], mean grey level inside the ROI, 0..255.
    area_rank, intensity_rank : numpy.ndarray
        float [n], percentile ranks in (0, 1] among this tumour's usable slices, 1 = largest or brightest; slices are
        ordered by their mean.
    warnings : tuple of str
        Sentences for the user.
    roi_slices : int
        How many slices hold any ROI at all.
    pixel_spacing_mm : tuple of float
        (rows, columns) of the CT as it is stored, mm.
    slice_spacing_mm : float
        Distance between the CT's axial planes, mm.
    volume_cc : float or None
        Of the whole mask, its voxels counted; None where not known (records of earlier versions).
    """

    images: np.ndarray
    axis: int
    slice_index: np.ndarray
    center_ras: np.ndarray
    pixel_to_ras: np.ndarray
    area_px: np.ndarray
    area_mm2: np.ndarray
    mean_intensity: np.ndarray
    area_rank: np.ndarray
    intensity_rank: np.ndarray
    warnings: Tuple[str, ...]
    roi_slices: int
    pixel_spacing_mm: Tuple[float, float]
    slice_spacing_mm: float
    volume_cc: Optional[float] = None

    def __len__(self) -> int:
        return len(self.images)

    def best(self, count: int) -> RankedSlices:
        """The first slices.

        Parameters
        ----------
        count : int
            How many; all, if there are fewer.

        Returns
        -------
        RankedSlices
        """
        names = ("images", "slice_index", "center_ras", "pixel_to_ras", "area_px", "area_mm2", "mean_intensity",
                 "area_rank", "intensity_rank")  # fmt: skip
        return replace(self, **{name: getattr(self, name)[:count] for name in names})


def axial_geometry(spacing_zyx: Sequence[float], origin_ras: ArrayLike = (0.0, 0.0, 0.0)) -> np.ndarray:
    """The geometry of an array [z, y, x] stored as axial DICOM is: x to the left, y to posterior, z up.

    Parameters
    ----------
    spacing_zyx : sequence of float
        Voxel size along z, y and x, mm.
    origin_ras : sequence of float, optional
        The place of voxel [0, 0, 0], RAS mm.

    Returns
    -------
    numpy.ndarray
        float64 [4, 4], takes (i, j, k, 1) = (x, y, z, 1) to RAS mm.
    """
    dz, dy, dx = (float(value) for value in spacing_zyx)
    matrix = np.diag([-dx, -dy, dz, 1.0])
    matrix[:3, 3] = origin_ras
    return matrix


def extract_slices(
    hu: ArrayLike, mask: ArrayLike, ijk_to_ras: ArrayLike, preprocessing: Preprocessing = Preprocessing()
) -> RankedSlices:
    """Cut and rank the masked slices of one tumour.

    Parameters
    ----------
    hu : array-like [k, j, i]
        CT in Hounsfield units, any real type.
    mask : array-like [k, j, i]
        bool or integer, non-zero inside the tumour.
    ijk_to_ras : array-like [4, 4]
        Takes (i, j, k, 1) to RAS mm; any storage order, flips and tilt.
    preprocessing : Preprocessing, optional
        How the slices are to be cut; a bundle's ``preprocessing``.

    Returns
    -------
    RankedSlices
        Every usable slice, best first.

    Raises
    ------
    CNNSurvivalError
        For arrays that are not 3D or differ in shape, an empty mask, a matrix that is no geometry, NaN or infinite
        voxels at the tumour, and where no slice has ``min_roi_px`` ROI pixels.
    """
    hu, mask, ijk_to_ras = checked_inputs(hu, mask, ijk_to_ras)
    axes = _Axes.of(ijk_to_ras)
    hu_view, mask_view = axes.view(hu), axes.view(mask)
    tight = bounding_box(mask)
    box = axes.view_box(tight, mask.shape)
    planes = _stepped_planes(box, axes.slice_spacing, preprocessing.slice_step_mm)
    scale = _scale(axes.pixel_spacing, preprocessing.pixel_size_mm)
    roi_boxes = zip(planes, _plane_boxes(mask_view, box, planes))
    cuts = [_cut_plane(hu_view, mask_view, plane, at, scale, preprocessing) for plane, at in roi_boxes if at]
    cuts = [cut for cut in cuts if cut.area_px > 0]
    usable = [cut for cut in cuts if cut.area_px >= preprocessing.min_roi_px]
    if not usable:
        raise _too_small(cuts, preprocessing)
    warnings = _warnings(hu, axes, usable, preprocessing)
    volume_cc = np.count_nonzero(mask[tight]) * abs(np.linalg.det(axes.ijk_to_ras[:3, :3])) / 1000
    ranked = _ranked(usable, axes, hu.shape, scale, warnings, roi_slices=len(cuts))
    return replace(ranked, volume_cc=float(volume_cc))


def checked_inputs(hu: ArrayLike, mask: ArrayLike, ijk_to_ras: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as arrays, once they have been found to fit one another. The voxels themselves are not looked at.

    Parameters
    ----------
    hu, mask : array-like [k, j, i]
    ijk_to_ras : array-like [4, 4]

    Returns
    -------
    hu, mask, ijk_to_ras : numpy.ndarray

    Raises
    ------
    CNNSurvivalError
        For arrays that are not 3D or differ in shape, and a matrix that is no geometry.
    """
    hu, mask, ijk_to_ras = np.asarray(hu), np.asarray(mask), np.asarray(ijk_to_ras, dtype=np.float64)
    _check_arrays(hu, mask)
    _Axes.of(ijk_to_ras)
    return hu, mask, ijk_to_ras


def percentile_rank_score(area: np.ndarray, intensity: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percentile ranks of the slices and their mean.

    Parameters
    ----------
    area : numpy.ndarray [n]
        ROI area of each slice.
    intensity : numpy.ndarray [n]
        Mean grey level of each slice.

    Returns
    -------
    score : numpy.ndarray
        float64 [n], the mean of the two ranks.
    area_rank, intensity_rank : numpy.ndarray
        float64 [n], in (0, 1], 1 = largest; equal values share their mean rank.
    """
    area_rank = _ranks(area) / len(area)
    intensity_rank = _ranks(intensity) / len(intensity)
    return (area_rank + intensity_rank) / 2, area_rank, intensity_rank


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest, ties share their mean rank: scipy.stats.rankdata, whose import takes longer than all else."""
    _values, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


# --- Geometry -----------------------------------------------------------------------------------------------


class _Axes(NamedTuple):
    """Which array axes are superior, posterior and left, and which of them run backwards."""

    order: tuple  # array axes (of [k, j, i]) that run superior, posterior, left
    flipped: tuple  # whether each of them runs the other way
    ijk_to_ras: np.ndarray
    slice_spacing: float
    pixel_spacing: np.ndarray  # rows, columns
    tilt_degrees: float

    @classmethod
    def of(cls, ijk_to_ras: np.ndarray) -> _Axes:
        if ijk_to_ras.shape != (4, 4) or not np.all(np.isfinite(ijk_to_ras)):
            raise CNNSurvivalError("The CT's geometry is not a 4 x 4 matrix of finite numbers; load the CT again.")
        steps = ijk_to_ras[:3, :3]  # column c: RAS step of one voxel along i, j, k
        spacing = np.linalg.norm(steps, axis=0)
        if not np.all(spacing > 0) or abs(np.linalg.det(steps / spacing)) < 1e-3:
            raise CNNSurvivalError("The CT's geometry is degenerate (an axis has no length); load the CT again.")
        unit = steps / spacing
        # Of the six ways to call the three columns left, posterior and superior, the one that fits best.
        column = max(itertools.permutations(range(3)), key=lambda c: sum(abs(unit[row, c[row]]) for row in range(3)))
        left, posterior, superior = column
        normal = np.cross(unit[:, left], unit[:, posterior])
        normal /= np.linalg.norm(normal)
        tilt = max(
            np.arccos(min(1.0, abs(normal[2]))),
            np.arccos(min(1.0, abs(unit[1, posterior]))),
            np.arccos(min(1.0, abs(unit[0, left]))),
        )
        return cls(
            order=(2 - superior, 2 - posterior, 2 - left),
            flipped=(unit[2, superior] < 0, unit[1, posterior] > 0, unit[0, left] > 0),
            ijk_to_ras=ijk_to_ras,
            slice_spacing=float(spacing[superior] * abs(unit[:, superior] @ normal)),
            pixel_spacing=spacing[[posterior, left]],
            tilt_degrees=float(np.degrees(tilt)),
        )

    def view(self, array: np.ndarray) -> np.ndarray:
        """The array as [superior, posterior, left], without a copy."""
        return array.transpose(self.order)[tuple(slice(None, None, -1 if f else 1) for f in self.flipped)]

    def view_box(self, box: Box, shape: Sequence[int]) -> Box:
        """A box of an array of that shape [k, j, i], as a box of its view."""
        turned = [slice(n - b.stop, n - b.start) for b, n in zip(box, shape)]
        return tuple(turned[axis] if flipped else box[axis] for axis, flipped in zip(self.order, self.flipped))

    def index(self, position: np.ndarray, shape: Sequence[int]) -> np.ndarray:  # type: ignore[override]
        """From positions [n, 3] in the view to positions [n, 3] along [k, j, i] of an array of that shape."""
        result = np.empty_like(position)
        for column, (axis, flipped) in enumerate(zip(self.order, self.flipped)):
            result[:, axis] = shape[axis] - 1 - position[:, column] if flipped else position[:, column]
        return result

    def ras(self, position: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """From positions [n, 3] in the view to RAS mm [n, 3]."""
        ijk = self.index(position.astype(np.float64), shape)[:, ::-1]
        return ijk @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box that holds every non-zero voxel of a 3D array."""
    # One pass as the array lies in memory, by its slowest axis: other ways take up to ten times as long.
    slowest = max(range(3), key=lambda axis: abs(mask.strides[axis]))
    others = [axis for axis in range(3) if axis != slowest]
    box = [slice(None)] * 3
    box[slowest] = _span(_union(mask, tuple(others)))
    shadow = _union(mask[tuple(box)], slowest)
    for place, axis in enumerate(others):
        box[axis] = _span(_union(shadow, 1 - place))
    return tuple(box)


def _span(hit: np.ndarray) -> slice:
    """From the first to the last that is True."""
    places = np.flatnonzero(hit)
    if places.size == 0:
        raise CNNSurvivalError("The segment is empty; draw the tumour, or choose the segment that holds it.")
    return slice(int(places[0]), int(places[-1]) + 1)


def _stepped_planes(box: Box, spacing: float, step_mm: Optional[float]) -> range:
    """The planes of the box to use: all, or every n-th counted from the middle one (the likely largest)."""
    start, stop = box[0].start, box[0].stop
    step = 1 if step_mm is None else max(1, int(round(step_mm / spacing)))
    return range(start + ((start + stop - 1) // 2 - start) % step, stop, step)


def _plane_boxes(mask: np.ndarray, box: Box, planes: range) -> list:
    """Per plane of the view [s, p, l] (first row, last row, first column, last column) of its ROI; None if empty."""
    inside = mask[planes.start : planes.stop : planes.step, box[1], box[2]]
    ends: list = []
    for axis in (2, 1):
        hit = _union(inside, axis)
        ends += [hit.argmax(axis=1), hit.shape[1] - 1 - hit[:, ::-1].argmax(axis=1)]
    first = np.array([box[1].start] * 2 + [box[2].start] * 2)
    boxes = (np.stack(ends, axis=1) + first).tolist()
    return [at if found else None for at, found in zip(boxes, np.any(hit, axis=1))]


def _union(mask: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """mask.any(axis), but on integers four times as fast: any() turns them into bool first."""
    if np.issubdtype(mask.dtype, np.integer):
        return np.bitwise_or.reduce(mask, axis=axis) != 0
    return np.logical_or.reduce(mask, axis=axis)


def _scale(pixel_spacing: np.ndarray, pixel_size_mm: Optional[float]) -> np.ndarray:
    """Output pixels per CT pixel along rows and columns; exactly 1 where nothing needs resampling."""
    if pixel_size_mm is None:
        return np.ones(2)
    scale = pixel_spacing / pixel_size_mm
    return np.where(np.abs(scale - 1) < PIXEL_SIZE_TOLERANCE, 1.0, scale)


# --- One plane ----------------------------------------------------------------------------------------------


class _Cut(NamedTuple):
    plane: int
    image: np.ndarray  # uint8 [crop, crop]
    center: tuple  # rows, columns in the view
    corner: tuple  # the same of the image's first pixel
    area_px: int
    mean_intensity: float
    overhang_px: int  # how many pixels the ROI is wider or higher than the crop
    lost_fraction: float  # part of the ROI outside the crop


def _cut_plane(
    hu: np.ndarray, mask: np.ndarray, plane: int, roi_box: list, scale: np.ndarray, preprocessing: Preprocessing
) -> _Cut:
    """Cut one plane of the views [s, p, l], whose ROI lies in the box (first and last row, first and last column)."""
    top, bottom, left, right = roi_box
    row_at = _sample_positions(top, bottom, scale[0])
    column_at = _sample_positions(left, right, scale[1])
    values, share = _resample(hu[plane], mask[plane], row_at, column_at)
    roi = share >= 0.5
    seen = values[roi]
    if not np.isfinite(seen).all():
        raise CNNSurvivalError(
            f"The CT has NaN or infinite voxels at the tumour (slice {plane + 1} of {len(hu)} from below); "
            "load a CT with valid Hounsfield units there."
        )
    grey = np.zeros(roi.shape, dtype=np.uint8)
    grey[roi] = seen = _window(seen, preprocessing.hu_window)
    image, first, kept, overhang = _crop(grey, roi, preprocessing.crop_px)
    return _Cut(
        plane,
        image,
        ((top + bottom) / 2, (left + right) / 2),
        (row_at[0] + first[0] / scale[0], column_at[0] + first[1] / scale[1]),
        seen.size,
        float(seen.mean()) if seen.size else 0.0,
        overhang,
        1 - kept / seen.size if seen.size else 0.0,
    )


def _sample_positions(first: int, last: int, scale: float) -> np.ndarray:
    """CT pixel positions of the output pixels that cover the CT's pixels first..last, laid around their centre.

    Anchored to the ROI and not to the volume, so a tumour gives the same slice wherever it lies. With scale 1
    they are first..last themselves.
    """
    count = math.ceil((last - first + 1) * scale - 1e-6)
    from_first = (last - first) / 2 + (np.arange(count) - (count - 1) / 2) / scale
    return first + np.rint(from_first / POSITION_STEP) * POSITION_STEP


def _resample(hu: np.ndarray, mask: np.ndarray, row_at: np.ndarray, column_at: np.ndarray) -> np.ndarray:
    """HU and the mask's share (non-zero counts as 1) at the grid of positions, linear; float64 [2, rows, columns].

    Outside the plane [rows, columns], its edge is repeated.
    """
    r0, r1, rf = _neighbours(row_at, hu.shape[0])
    c0, c1, cf = _neighbours(column_at, hu.shape[1])
    needed = slice(r0[0], r1[-1] + 1), slice(c0[0], c1[-1] + 1)
    patch = np.stack([hu[needed], mask[needed] != 0]).astype(np.float64, copy=False)
    if not rf.any() and not cf.any() and patch.shape[1:] == (len(row_at), len(column_at)):
        return patch  # CT pixels and output pixels coincide
    r0, r1, c0, c1 = r0 - r0[0], r1 - r0[0], c0 - c0[0], c1 - c0[0]
    rf = rf[:, np.newaxis]
    lines = patch.take(r0, axis=1) * (1 - rf) + patch.take(r1, axis=1) * rf
    return lines[:, :, c0] * (1 - cf) + lines[:, :, c1] * cf


def _neighbours(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels around each position, and how far it is from the first to the second.

    Where a position is a pixel, both are that pixel: so a NaN beside the ROI cannot leak in with weight 0.
    """
    position = np.minimum(np.maximum(position, 0), size - 1)
    low = np.floor(position)
    fraction = position - low  # exact: positions are multiples of POSITION_STEP
    low = low.astype(np.intp)
    return low, low + (fraction > 0), fraction


def _window(hu: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return np.rint(np.minimum(np.maximum((hu - low) / (high - low) * 255, 0), 255))


def _crop(grey: np.ndarray, roi: np.ndarray, size: int) -> tuple[np.ndarray, tuple, int, int]:
    """(uint8 [size, size] centred on the ROI's bounding box, row and column of grey that its first pixel is, ROI
    pixels in it, how many pixels the ROI is wider or higher)."""
    image = np.zeros((size, size), dtype=np.uint8)
    hits = [np.flatnonzero(np.logical_or.reduce(roi, axis=axis)) for axis in (1, 0)]
    if hits[0].size == 0:
        return image, (0, 0), 0, 0
    counts, source, target, corner = [], [], [], []
    for hit in hits:
        start, count = int(hit[0]), int(hit[-1] - hit[0] + 1)
        counts.append(count)
        offset = (size - count) // 2  # negative where the ROI is larger than the crop
        kept = min(count, size)
        source.append(slice(start - min(offset, 0), start - min(offset, 0) + kept))
        target.append(slice(max(offset, 0), max(offset, 0) + kept))
        corner.append(start - offset)
    image[tuple(target)] = grey[tuple(source)]
    return image, tuple(corner), int(np.count_nonzero(roi[tuple(source)])), max(0, max(counts) - size)


# --- All planes ---------------------------------------------------------------------------------------------


def _ranked(
    cuts: list, axes: _Axes, shape: Sequence[int], scale: np.ndarray, warnings: tuple, roi_slices: int
) -> RankedSlices:
    """Order the cuts by the mean of their two percentile ranks; ties stay in slice order, inferior first."""
    area = np.array([cut.area_px for cut in cuts])
    intensity = np.array([cut.mean_intensity for cut in cuts])
    score, area_rank, intensity_rank = percentile_rank_score(area, intensity)
    order = np.argsort(-score, kind="stable")
    position = axes.index(np.array([(cut.plane, *cut.center) for cut in cuts])[order], shape)
    corner = axes.ras(np.array([(cut.plane, *cut.corner) for cut in cuts])[order], shape)
    steps = axes.ras(np.array([[0, 0, 0], [0, 1 / scale[0], 0], [0, 0, 1 / scale[1]]]), shape)
    down, right = np.broadcast_to(steps[1:, np.newaxis] - steps[0], (2, *corner.shape))
    return RankedSlices(
        images=np.stack([cuts[i].image for i in order]),
        axis=axes.order[0],
        slice_index=np.rint(position[:, axes.order[0]]).astype(int),
        center_ras=axes.ras(np.array([(cut.plane, *cut.center) for cut in cuts])[order], shape),
        pixel_to_ras=np.stack([down, right, corner], axis=2),
        area_px=area[order],
        area_mm2=area[order] * np.prod(axes.pixel_spacing / scale),
        mean_intensity=intensity[order],
        area_rank=area_rank[order],
        intensity_rank=intensity_rank[order],
        warnings=warnings,
        roi_slices=roi_slices,
        pixel_spacing_mm=(float(axes.pixel_spacing[0]), float(axes.pixel_spacing[1])),
        slice_spacing_mm=axes.slice_spacing,
    )


# --- What can be wrong --------------------------------------------------------------------------------------


def _check_arrays(hu: np.ndarray, mask: np.ndarray) -> None:
    if hu.ndim != 3 or mask.ndim != 3:
        raise CNNSurvivalError(
            f"The CT has {hu.ndim} and the mask {mask.ndim} dimensions where 3 are needed; give a single "
            "grey-level volume (not a colour image, not a time series) and a 3D mask."
        )
    if hu.shape != mask.shape:
        raise CNNSurvivalError(
            f"The CT has {_size(hu)} voxels and the mask {_size(mask)}; bring the mask onto the CT's grid first."
        )
    if not np.issubdtype(hu.dtype, np.number) or np.iscomplexobj(hu):
        raise CNNSurvivalError(f"The CT's voxels are of type {hu.dtype}, not numbers; give Hounsfield units.")


def _size(array: np.ndarray) -> str:
    return " x ".join(str(n) for n in array.shape[::-1])


def _too_small(cuts: list, preprocessing: Preprocessing) -> CNNSurvivalError:
    largest = max((cut.area_px for cut in cuts), default=0)
    size = preprocessing.pixel_size_mm
    where = "at the CT's own pixel size" if size is None else f"at {size:g} mm pixel size"
    advice = f"lower the minimum ROI area (--min-roi) to {largest} or less, or check" if largest else "check"
    return CNNSurvivalError(
        f"No slice of the tumour has {preprocessing.min_roi_px} or more pixels inside the contour {where} (the "
        f"largest has {largest}); {advice} the contour."
    )


def _warnings(hu: np.ndarray, axes: _Axes, cuts: list, preprocessing: Preprocessing) -> tuple:
    return tuple(
        text
        for text in (
            _oblique_warning(axes),
            _not_hu_warning(hu),
            _outside_window_warning(cuts, preprocessing),
            _too_large_warning(cuts, preprocessing),
        )
        if text
    )


def _oblique_warning(axes: _Axes) -> Optional[str]:
    if axes.tilt_degrees <= MAX_OBLIQUE_DEGREES:
        return None
    return (
        f"The CT is turned by {axes.tilt_degrees:.0f} degrees against the body's axes; the slices used are those "
        "nearest to axial, but the model was trained on axial ones."
    )


def check_is_ct(hu: ArrayLike) -> None:
    """Raise NotACT for an image that holds neither fat nor air, and so is no CT in Hounsfield units.

    Parameters
    ----------
    hu : array_like, shape [k, j, i]
        A coarse sample of its voxels is looked at.
    """
    problem = _not_hu_warning(np.asarray(hu))
    if problem:
        raise NotACT(problem)


def _not_hu_warning(hu: np.ndarray) -> Optional[str]:
    """A CT that holds neither fat nor air is hardly a CT; a coarse sample of the volume tells."""
    if hu.ndim != 3:
        return None
    sample = hu[tuple(slice(None, None, max(1, n // 40)) for n in hu.shape)]
    low, high = np.fmin.reduce(sample, axis=None), np.fmax.reduce(sample, axis=None)
    if low < NO_FAT_NO_AIR_HU:
        return None
    return (
        f"The image's values ({low:g} to {high:g}) do not look like Hounsfield units: there is neither air nor fat; "
        "if this is an MR image or a rescaled CT, the result means nothing."
    )


def _outside_window_warning(cuts: list, preprocessing: Preprocessing) -> Optional[str]:
    mean = np.mean([cut.mean_intensity for cut in cuts])
    if 1 <= mean <= 254:
        return None
    low, high = preprocessing.hu_window
    return (
        f"Nearly the whole tumour lies {'below' if mean < 1 else 'above'} the model's window of {low:g} to {high:g} "
        "HU, so the network sees a flat region; check that contour and CT belong together."
    )


def _too_large_warning(cuts: list, preprocessing: Preprocessing) -> Optional[str]:
    large = [cut for cut in cuts if cut.overhang_px]
    if not large:
        return None
    size, overhang = preprocessing.crop_px, max(cut.overhang_px for cut in large)
    return (
        f"On {len(large)} of {len(cuts)} slices the tumour is larger than the {size} x {size} pixels that the model "
        f"sees, by up to {overhang} pixels; up to {max(cut.lost_fraction for cut in large):.0%} of it is cut off."
    )
