"""CT and mask from files: NRRD, NIfTI, MetaImage, DICOM series, DICOM SEG, RTSTRUCT.

SimpleITK reads pixels (GDCM those of DICOM), pydicom DICOM headers, highdicom SEG frames. Slicer ships the first two,
so a batch in Slicer reads the same files; only DICOM SEG and multi-frame CT need the third, which Slicer ships since
5.12. This folder adds what they leave to the caller: the choice of series and segment, the check whether the two belong
together, and one sentence for each thing that can be wrong. No message holds a name or number of the patient; of a
series it gives the UID and the description.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CNNSurvivalError, UsageError, existing
from .archive import unpacked
from .dicom import is_dicom, modality_of, read_dataset
from .dicom_ct import read_series_in_folder, read_series_of_file, series_files, series_of
from .dicom_seg import list_seg, read_seg
from .grid import LPS_TO_RAS, Mask, Volume, check_geometry, onto_grid
from .images import read_ct_image
from .label_images import list_labels, read_labels
from .rtstruct import list_structures, read_rtstruct
from .segments import choose, matching
from .texts import name_list, one_line


@dataclass(frozen=True)
class TumourImage:
    """A CT and the tumour in it, read: what a prediction starts from.

    hu: CT, [k, j, i]. mask: uint8, same shape, 1 inside the tumour. ijk_to_ras: 4 x 4, (i, j, k, 1) to RAS mm.
    warnings: sentences for the user. segment_name: name or label of the segment that the mask is.
    """

    hu: np.ndarray
    mask: np.ndarray
    ijk_to_ras: np.ndarray
    warnings: tuple[str, ...]
    segment_name: str


def read_case(
    image, mask, segment: str | None = None, series_uid: str | None = None, force: bool = False
) -> TumourImage:
    """Read a CT and the mask of its tumour, brought onto the CT's grid.

    image: NRRD, NIfTI or MetaImage file, or a folder with a DICOM series (or one file of it, or the folder as a ZIP
    archive). Several CT series in a folder are told apart by ``series_uid``. DICOM slices are placed by their true
    positions: a tilted gantry gives a sheared ``ijk_to_ras``; slices that are missing or unequally spaced are
    interpolated (linearly, between true positions) onto an even spacing, with a warning that says where.

    mask: label image, ``.seg.nrrd``, DICOM SEG or RTSTRUCT; for the latter two a folder that holds just one will do,
    or such a folder as a ZIP archive.
    ``segment`` is a name (exact, else without regard to case and surrounding spaces) or a label; it may be left out
    where there is only one. A mask on another grid is resampled by nearest neighbour, with a warning.

    force: a DICOM series of another modality than CT is read, with a warning; otherwise it is refused.

    Raises CNNSurvivalError, with one sentence, for whatever cannot be read or does not belong together; UsageError,
    its subclass, where another path, name or choice would do.
    """
    image, mask = existing(image, "CT"), existing(mask, "mask")
    with unpacked([image, mask]) as (image_folder, mask_folder):
        return _read(image_folder, mask_folder, segment, series_uid, force)


def find_segments(mask, wanted: Sequence[str]) -> list[str]:
    """The segments of a mask that names and patterns choose, each as ``read_case`` takes it.

    Parameters
    ----------
    mask
        The mask, as for ``read_case``.
    wanted
        Names, numbers or ids as ``read_case`` takes them, or patterns such as "GTV*", without regard to case.

    Raises
    ------
    UsageError
        Where one of them chooses none, or a name could mean several.
    """
    with unpacked([existing(mask, "mask")]) as (folder,):
        path, kind = _mask_file(folder)
        list_them = {"RTSTRUCT": list_structures, "SEG": list_seg, "labels": list_labels}[kind]
        return matching(path, list_them(path), wanted)


@contextmanager
def ct_files(image, series_uid: str | None = None) -> Iterator[list[Path]]:
    """The DICOM files of a CT that ``read_case`` takes; those of a ZIP archive are there until the block ends.

    Raises UsageError for a CT that is not DICOM.
    """
    image = existing(image, "CT")
    with unpacked([image]) as (folder,):
        if folder.is_dir():
            yield series_files(folder, series_uid)
        elif is_dicom("CT", folder):
            yield series_files(folder.parent, series_uid or series_of(folder))
        else:
            raise UsageError(
                f"The CT {image} is not DICOM, so there is no study that DICOM objects could join; leave out --dicom."
            )


def dicom_segment(mask, segment: str | None):
    """(header of the DICOM SEG, number of the segment) for a mask that ``read_case`` takes; None for other masks."""
    with unpacked([existing(mask, "mask")]) as (folder,):
        path, kind = _mask_file(folder)
        if kind != "SEG":
            return None
        segments = list_seg(path)
        number = segments.numbers[choose(path, segments, segment)]
        return read_dataset(path, stop_before_pixels=True), number


def same_segment(path, segment: str, mask: np.ndarray, ijk_to_ras: np.ndarray):
    """(header, number of the segment) where a DICOM SEG's segment is just this mask [k, j, i] on a CT; else None."""
    path, ct = Path(path), Volume(mask, LPS_TO_RAS @ ijk_to_ras)
    try:
        volume, _name = read_seg(path, segment, ct)
        array, _notes = onto_grid(path, volume, ct)
    except CNNSurvivalError:
        return None
    return dicom_segment(path, segment) if np.array_equal(array != 0, mask != 0) else None


def _read(image: Path, mask: Path, segment: str | None, series_uid: str | None, force: bool) -> TumourImage:
    ct = _read_ct(image, series_uid, force)
    check_geometry("CT", image, ct.ijk_to_lps)
    found = _read_mask(mask, segment, ct)
    if not found.array.any():
        raise CNNSurvivalError(
            f"No voxel of the CT lies inside segment '{one_line(found.name)}' of {mask}: it is smaller than a voxel; "
            "check the contour."
        )
    return TumourImage(
        hu=ct.array,
        mask=found.array,
        ijk_to_ras=LPS_TO_RAS @ ct.ijk_to_lps,
        warnings=(*ct.warnings, *_non_finite_warning(ct.array), *found.warnings),
        segment_name=found.name,
    )


def _read_ct(path: Path, series_uid: str | None, force: bool) -> Volume:
    if path.is_dir():
        return read_series_in_folder(path, series_uid, force)
    if is_dicom("CT", path):
        return read_series_of_file(path, series_uid, force)
    if series_uid:
        raise UsageError(f"The CT {path} is not DICOM, so it has no series to choose; leave out --series-uid.")
    return read_ct_image(path)


def _read_mask(path: Path, segment: str | None, ct: Volume) -> Mask:
    path, kind = _mask_file(path)
    if kind == "RTSTRUCT":
        return read_rtstruct(path, segment, ct)
    volume, name = read_seg(path, segment, ct) if kind == "SEG" else read_labels(path, segment)
    if not volume.array.any():
        raise CNNSurvivalError(
            f"Segment '{one_line(name)}' of {path} is empty; draw the tumour, or choose another segment."
        )
    check_geometry("mask", path, volume.ijk_to_lps)
    array, notes = onto_grid(path, volume, ct)
    return Mask(array, name, (*volume.warnings, *notes))


def _mask_file(path: Path) -> tuple[Path, str]:
    """(file, "SEG", "RTSTRUCT" or "labels")."""
    if path.is_dir():
        found = [(p, modality_of(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        found = [(p, kind) for p, kind in found if kind in ("SEG", "RTSTRUCT")]
        if len(found) == 1:
            return found[0]
        if not found:
            raise CNNSurvivalError(f"The folder {path} holds neither a DICOM SEG nor an RTSTRUCT; give the mask file.")
        names = name_list([f"{p.relative_to(path)} ({kind})" for p, kind in found])
        raise UsageError(f"The folder {path} holds {len(found)} masks; give the file of one: {names}.")
    if not is_dicom("mask", path):
        return path, "labels"
    kind = modality_of(path)
    if kind not in ("SEG", "RTSTRUCT"):
        raise CNNSurvivalError(
            f"The mask {path} is a DICOM file {f'of modality {kind}' if kind else 'that cannot be read'}, neither SEG "
            "nor RTSTRUCT; give one of those, or a label image."
        )
    return path, kind


def _non_finite_warning(array: np.ndarray) -> tuple[str, ...]:
    if not np.issubdtype(array.dtype, np.floating):
        return ()
    count = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in array)
    if not count:
        return ()
    return (f"The CT has {count} {'voxel' if count == 1 else 'voxels'} that are NaN or infinite, outside the contour "
            "or inside it; the file may be damaged.",)  # fmt: skip
