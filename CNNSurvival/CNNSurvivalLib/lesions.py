"""Several lesions in one mask: how many there are, and whether all or only the largest are predicted from.

The model learned from one primary tumour per patient, as it was contoured: a contour in several pieces was taken whole.
So ``all`` is the default, and is what the scores of the models were measured with. A mask of connected voxels is one
lesion; what else is one lesion, and what is none:

- Voxels that touch at a face, an edge or a corner (26-connectivity) are connected. Contours are drawn slice by slice:
  from one slice to the next a thin part is often shifted by a pixel, and would fall apart with faces alone. Of the 593
  contours that the models learned from, 207 have several pieces by faces, 145 by corners.
- Pieces nearer than ``GAP_MM``, or than one slice that was skipped, are parts of one lesion: a contour is often missing
  on a slice, or leaves out a vessel or some air.
- Pieces below ``SPECK_CC`` are specks, not lesions: a ball of 6 mm, below which a nodule needs no follow-up
  (Fleischner Society 2017: 100 mm3). They come from rounding at the rim, and from clicks by accident.

By these rules 3 of the 295 lung contours hold several lesions, and 58 of the 298 of head and neck (51 of these large
enough to predict from). With the largest alone their 18-month risk differs by 0.016 and 0.006 on average, at most by
0.035 (lung-head-neck 2.0).
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Tuple

import numpy as np

from .errors import UsageError
from .slices import bounding_box

ALL, LARGEST = "all", "largest"
CHOICES = (ALL, LARGEST)
GAP_MM = 5.0
SPECK_CC = 0.1
_SHOWN = 6  # volumes in a sentence


class Lesions(NamedTuple):
    """What a mask holds.

    Attributes
    ----------
    volumes_cc : tuple of float
        Of each lesion, the largest first; one at least.
    specks : int
        How many pieces are too small to be a lesion.
    center_ras : tuple of float
        The centre of the largest lesion, RAS mm.
    """

    volumes_cc: Tuple[float, ...]
    specks: int
    center_ras: Tuple[float, float, float]


def choose_lesions(mask: np.ndarray, ijk_to_ras: np.ndarray, choice: str = ALL) -> tuple[np.ndarray, Lesions]:
    """The part of a mask that the prediction is made from.

    Parameters
    ----------
    mask : numpy.ndarray [k, j, i]
        bool or integer, non-zero inside the tumour.
    ijk_to_ras : numpy.ndarray [4, 4]
        Takes (i, j, k, 1) to RAS mm.
    choice : {"all", "largest"}
        ``largest`` drops the other lesions and the specks.

    Returns
    -------
    mask : numpy.ndarray [k, j, i]
        The one that was given where nothing is dropped; else a new one. Its content is the same as before for ``all``.
    lesions : Lesions
        What the mask that was given holds.

    Raises
    ------
    UsageError
        For another choice.
    CNNSurvivalError
        For an empty mask.
    """
    if choice not in CHOICES:
        raise UsageError(f"'{choice}' is no choice of lesions; give {' or '.join(CHOICES)}.")
    box = bounding_box(mask)  # only this part is labelled: a whole CT takes seconds and, as int32, 600 MB
    inside = mask[box] != 0
    if is_one_piece(inside):
        return mask, Lesions((_cc(np.count_nonzero(inside), ijk_to_ras),), 0, _center(inside, box, ijk_to_ras))
    pieces, count = _pieces(inside)
    voxels = np.bincount(pieces[inside], minlength=count + 1)
    lesion_of = _lesion_of(pieces, voxels, ijk_to_ras)
    sizes = np.bincount(lesion_of, weights=voxels)[1:]  # in voxels, of lesions 1, 2, ...
    largest = (lesion_of == 1 + np.argmax(sizes))[pieces]
    volumes = tuple(_cc(float(size), ijk_to_ras) for size in sorted(sizes, reverse=True))
    found = Lesions(volumes, int(np.count_nonzero(lesion_of[1:] == 0)), _center(largest, box, ijk_to_ras))
    if choice == ALL:
        return mask, found
    kept = np.zeros(mask.shape, dtype=np.uint8)
    kept[box] = largest
    return kept, found


def taken(mask: np.ndarray, ijk_to_ras: np.ndarray, parameters: Mapping) -> np.ndarray:
    """The part of a mask that a prediction was made from, by ``provenance["parameters"]`` of that prediction.

    Parameters
    ----------
    mask, ijk_to_ras
        As for ``choose_lesions``.
    parameters : mapping
        Those of older predictions do not name a choice: all was taken.

    Returns
    -------
    numpy.ndarray [k, j, i]
        The mask that was given where nothing is dropped.
    """
    choice = parameters.get("lesions", ALL)
    return mask if choice == ALL else choose_lesions(mask, ijk_to_ras, choice)[0]


def warnings_of(lesions: Lesions, choice: str) -> tuple[str, ...]:
    """Sentences for the user: which lesions there are and which were taken. () for one lesion that was taken whole."""
    count, warnings = len(lesions.volumes_cc), []
    if count > 1:
        several = (
            f"The contour holds {count} separate lesions of {_volumes(lesions.volumes_cc)} cc, the largest at "
            f"{_place(lesions.center_ras)}"
        )
        warnings.append(
            f"{several}; all were taken, as one tumour. The model learned from one primary tumour: where the others "
            "are metastases, nodes or other findings, take the largest only."
            if choice == ALL
            else f"{several}; only the largest was taken."
        )
    if choice == LARGEST and lesions.specks:
        what = "speck" if lesions.specks == 1 else "specks"
        were = "was" if lesions.specks == 1 else "were"
        warnings.append(f"{lesions.specks} {what} of less than {SPECK_CC:g} cc beside the tumour {were} left out.")
    return tuple(warnings)


def matters(provenance: dict, choice: str) -> bool:
    """Whether a prediction with this provenance would be another one with this choice."""
    before = provenance.get("parameters", {}).get("lesions", ALL)
    found = provenance.get("lesions", {})  # not in records of earlier versions
    several = len(found.get("volumes_cc", ())) > 1 or found.get("specks", 0) > 0
    return before != choice and (several or not found)


def is_one_piece(inside: np.ndarray) -> bool:
    """Whether all voxels of a mask are connected, also over edges and corners.

    Most tumours are, and to see it takes less time than to import what finds several pieces.

    Parameters
    ----------
    inside : numpy.ndarray of bool [k, j, i]
    """
    size = inside.shape[2] + 2
    ends = np.diff(np.pad(inside, ((0, 0), (0, 1), (1, 1))).view(np.int8), axis=2)
    # The runs of voxels along i, in order: those of one line, then those of the next.
    line = np.flatnonzero(ends == 1) // (size - 1)
    first, last = (np.flatnonzero(ends == value) % (size - 1) for value in (1, -1))
    last = last - 1
    lines = inside.shape[1] + 1  # of a plane; the added one is empty, so that planes are apart
    links = [_touching(line * size + first, line * size + last, line + ahead, first, last, size)
             for ahead in (1, lines - 1, lines, lines + 1)]  # fmt: skip
    one, other = (np.concatenate(ends) for ends in zip(*links))
    lowest = np.arange(len(first))  # the first run that each is known to be connected with
    while True:
        least = np.minimum(lowest[one], lowest[other])
        found = lowest.copy()
        np.minimum.at(found, lowest[one], least)
        np.minimum.at(found, lowest[other], least)
        found = found[found]
        if np.array_equal(found, lowest):
            return not lowest.any()
        lowest = found


def _touching(starts, stops, line, first, last, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(runs, those that they touch in the line that is given for each). starts and stops: line * size + place of all
    runs, in order."""
    low = np.searchsorted(stops, line * size + first - 1, "left")
    count = np.maximum(np.searchsorted(starts, line * size + last + 1, "right") - low, 0)
    before = np.cumsum(count) - count
    return np.repeat(np.arange(len(count)), count), np.arange(count.sum()) + np.repeat(low - before, count)


def _pieces(inside: np.ndarray) -> tuple[np.ndarray, int]:
    """(int32 labels 1, 2, ... of the connected pieces, how many)."""
    from scipy import ndimage  # here, as its import takes a while

    return ndimage.label(inside, structure=np.ones((3, 3, 3)), output=np.int32)


def _lesion_of(pieces: np.ndarray, voxels: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    """[pieces + 1]: to which lesion (1, 2, ...) each piece belongs; 0 for specks, and for what is no piece."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    big = np.flatnonzero(_cc(voxels, ijk_to_ras) >= SPECK_CC)
    if big.size == 0:
        big = np.array([np.argmax(voxels)])  # all are small: the largest is the tumour that was meant
    near = _near_pairs(pieces, big, ijk_to_ras)
    links = coo_matrix((np.ones(len(near)), np.array(near, dtype=int).reshape(-1, 2).T), shape=(big.size, big.size))
    result = np.zeros(len(voxels), dtype=int)
    result[big] = 1 + connected_components(links, directed=False)[1]
    return result


def _near_pairs(pieces: np.ndarray, wanted: np.ndarray, ijk_to_ras: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of positions in ``wanted`` whose pieces are near enough to be parts of one lesion."""
    from scipy import ndimage
    from scipy.spatial import cKDTree

    steps = ijk_to_ras[:3, :3]
    # From voxel centre to voxel centre: across one slice that was skipped it is twice the distance of slices.
    gap = max(GAP_MM, 2 * float(np.linalg.norm(steps, axis=0).max())) + 1e-3
    boxes = ndimage.find_objects(pieces)
    rims = [_rim(pieces[boxes[each - 1]] == each, boxes[each - 1], steps) for each in wanted]
    trees = [cKDTree(rim) for rim in rims]
    pairs = []
    for a, rim in enumerate(rims):
        low, high = rim.min(axis=0) - gap, rim.max(axis=0) + gap
        for b in range(a + 1, len(rims)):
            close = rims[b][np.all((rims[b] >= low) & (rims[b] <= high), axis=1)]
            if len(close) and np.isfinite(trees[a].query(close, distance_upper_bound=gap)[0]).any():
                pairs.append((a, b))
    return pairs


def _rim(piece: np.ndarray, box: tuple, steps: np.ndarray) -> np.ndarray:
    """Where the outer voxels of a piece lie, mm [n, 3], up to a shift that all pieces share."""
    from scipy import ndimage

    rim = piece & ~ndimage.binary_erosion(piece)
    kji = np.argwhere(rim) + [each.start for each in box]
    return kji[:, ::-1] @ steps.T


def _center(inside: np.ndarray, box: tuple, ijk_to_ras: np.ndarray) -> Tuple[float, float, float]:
    """The mean place of the voxels, RAS mm."""
    kji = np.array([_mean_index(inside, axis) + part.start for axis, part in enumerate(box)])
    ras = ijk_to_ras[:3, :3] @ kji[::-1] + ijk_to_ras[:3, 3]
    return tuple(float(value) for value in ras)


def _mean_index(inside: np.ndarray, axis: int) -> float:
    others = tuple(each for each in range(3) if each != axis)
    return float(np.average(np.arange(inside.shape[axis]), weights=np.count_nonzero(inside, axis=others)))


def _cc(voxels, ijk_to_ras: np.ndarray):
    return voxels * float(abs(np.linalg.det(ijk_to_ras[:3, :3]))) / 1000


def _volumes(volumes_cc: Tuple[float, ...]) -> str:
    texts = [f"{volume:.1f}" if volume >= 0.95 else f"{volume:.2f}" for volume in volumes_cc[:_SHOWN]]
    if len(volumes_cc) > _SHOWN:
        return ", ".join(texts) + ", ..."
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def _place(ras: Tuple[float, float, float]) -> str:
    """As Slicer shows it: R 45, P 10, S 120 mm."""
    return ", ".join(f"{pair[value < 0]} {abs(value):.0f}" for pair, value in zip(("RL", "AP", "SI"), ras)) + " mm"
