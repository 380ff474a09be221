"""CT and mask from files: NRRD, NIfTI, MetaImage, DICOM series, DICOM SEG, RTSTRUCT.

SimpleITK reads pixels (GDCM those of DICOM), pydicom DICOM headers, highdicom SEG frames. Slicer ships the first two,
so a batch in Slicer reads the same files; only DICOM SEG and multi-frame CT need the third. What is added here is
what they leave to the caller: which series, which segment, whether the two belong together, and one sentence for
each thing that can be wrong. No message holds a name or number of the patient; of a series it gives the UID and
the description.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk

from ..errors import CNNSurvivalError, UsageError
from . import rtstruct

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# DICOM objects that are no images to predict from, and may lie beside them.
NOT_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "PR", "SR", "KO", "REG", "FID", "RWV", "DOC"}
HEADER = [
    "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID", "Modality", "ImageType",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns",
    "SamplesPerPixel", "NumberOfFrames",
]  # fmt: skip
# A slice this part of the spacing off its place is still in place: positions are often written with one decimal.
OFF_PLACE = 0.1
# Names in a message: so much of each, and so many of a list.
SHOWN_LETTERS, SHOWN_NAMES = 64, 40
# More than any CT has (2048 slices of 1024 x 1024): a file that declares more is damaged, or made to fill the memory.
MAX_VOXELS = 2**31
# What gzip can do at best is 1032 : 1.
MAX_COMPRESSION = 1100
# A NRRD header line longer than this must be a key:=value: ITK's reader writes others that it cannot parse into a
# buffer of fixed size, and crashes.
MAX_NRRD_FIELD = 400
# The libraries' time for a segmentation grows with the square of its segments, or 4 ms for each; anatomy has some 200.
MAX_SEGMENTS, MAX_NRRD_LINES = 1000, 20_000
# Where slices are missing, a series is filled up to at most so many times its number.
MOST_MISSING = 5
# Grids whose corners are this part of a voxel apart are the same (NIfTI keeps single precision).
SAME_GRID_VOXELS = 0.05


@dataclass(frozen=True)
class Case:
    """What a prediction starts from.

    hu: CT, [k, j, i]. mask: uint8, same shape, 1 inside the tumour. ijk_to_ras: 4 x 4, (i, j, k, 1) to RAS mm.
    warnings: sentences for the user. segment_name: name or label of the segment that the mask is.
    """

    hu: np.ndarray
    mask: np.ndarray
    ijk_to_ras: np.ndarray
    warnings: tuple[str, ...]
    segment_name: str


def _highdicom():
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise CNNSurvivalError(
            "DICOM SEG and multi-frame CT need the Python package 'highdicom', which is not installed here; install "
            "it, or save the segmentation as .seg.nrrd or a label image."
        ) from error
    return highdicom


class _Volume(NamedTuple):
    """array [k, j, i]; ijk_to_lps 4 x 4; UIDs where it came from DICOM."""

    array: np.ndarray
    ijk_to_lps: np.ndarray
    warnings: tuple[str, ...] = ()
    series_uid: str | None = None
    frame_uid: str | None = None


class _Mask(NamedTuple):
    """array uint8 on the CT's grid."""

    array: np.ndarray
    name: str
    warnings: tuple[str, ...] = ()


def read_case(image, mask, segment: str | None = None, series_uid: str | None = None) -> Case:
    """Read a CT and the mask of its tumour, brought onto the CT's grid.

    image: NRRD, NIfTI or MetaImage file, or a folder with a DICOM series (or one file of it). Several CT series in
    a folder are told apart by ``series_uid``. DICOM slices are placed by their true positions: a tilted gantry gives
    a sheared ``ijk_to_ras``; slices that are missing or unequally spaced are interpolated (linearly, between true
    positions) onto an even spacing, with a warning that says where.

    mask: label image, ``.seg.nrrd``, DICOM SEG or RTSTRUCT; for the latter two a folder that holds just one will do.
    ``segment`` is a name (exact, else without regard to case and surrounding spaces) or a label; it may be left out
    where there is only one. A mask on another grid is resampled by nearest neighbour, with a warning.

    Raises CNNSurvivalError, with one sentence, for whatever cannot be read or does not belong together; UsageError,
    its subclass, where another path, name or choice would do.
    """
    image, mask = Path(image), Path(mask)
    for what, path in (("CT", image), ("mask", mask)):
        if not path.exists():
            raise UsageError(f"There is no {what} at {path}; check the path.")
    ct = _read_ct(image, series_uid)
    _check_geometry("CT", image, ct.ijk_to_lps)
    found = _read_mask(mask, segment, ct)
    if not found.array.any():
        raise CNNSurvivalError(
            f"No voxel of the CT lies inside segment '{_shown(found.name)}' of {mask}: it is smaller than a voxel; "
            "check the contour."
        )
    return Case(
        hu=ct.array,
        mask=found.array,
        ijk_to_ras=LPS_TO_RAS @ ct.ijk_to_lps,
        warnings=(*ct.warnings, *_non_finite_warning(ct.array), *found.warnings),
        segment_name=found.name,
    )


# --- Reading quietly ----------------------------------------------------------------------------------------


@contextmanager
def _reading(what: str, path: Path) -> Iterator[None]:
    """Turns whatever a reader raises into one sentence, and keeps what readers mutter off the terminal."""
    itk_was_loud = sitk.ProcessObject.GetGlobalWarningDisplay()
    logger = logging.getLogger("pydicom")
    level = logger.level
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _hushed():
            warnings.simplefilter("ignore")
            yield
    except (CNNSurvivalError, MemoryError):
        raise
    except Exception as error:
        if "allocat" in str(error):  # what ITK says where there is no memory
            raise MemoryError from error
        raise CNNSurvivalError(
            f"The {what} {path} cannot be read: it is damaged, incomplete, or of a kind unknown here; give NRRD, "
            f"NIfTI, MetaImage or DICOM{' (SEG or RTSTRUCT)' if what == 'mask' else ''}."
        ) from error
    finally:
        logger.setLevel(level)
        sitk.ProcessObject.SetGlobalWarningDisplay(itk_was_loud)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps off the terminal what the C libraries print there by themselves (MetaImage and NIfTI do)."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _is_dicom(what: str, path: Path) -> bool:
    if not path.is_file():  # a pipe or a device: whoever opens it waits
        raise UsageError(f"The {what} {path} is neither a file nor a folder; give one of these.")
    with _reading(what, path), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_image(what: str, path: Path) -> sitk.Image:
    with _reading(what, path):
        _check_declared_size(what, path)
        image = sitk.ReadImage(str(path))
        _check_nifti_length(path, image)
        if "complex" in image.GetPixelIDTypeAsString():
            raise CNNSurvivalError(f"The {what} {path} has complex numbers for voxels; give Hounsfield units.")
    return image


def _check_declared_size(what: str, path: Path) -> None:
    """Raises CNNSurvivalError for an image that claims to be larger than any, or than its file can hold."""
    with path.open("rb") as file:
        nrrd = file.read(4) == b"NRRD"
    if nrrd:
        size = _nrrd_size(what, path)
    else:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = [reader.GetNumberOfComponents(), *reader.GetSize()]
    with_data = path.suffix.lower() not in (".nhdr", ".mhd", ".hdr")
    voxels = math.prod(size)
    if voxels > MAX_VOXELS or (with_data and voxels > MAX_COMPRESSION * path.stat().st_size):
        raise CNNSurvivalError(f"The {what} {path} says that it has {voxels:.2g} voxels, which it cannot hold; it is "
                               "damaged.")  # fmt: skip


def _nrrd_size(what: str, path: Path) -> list[int]:
    """The sizes in a NRRD header. Raises ValueError for a header that would crash ITK's reader, CNNSurvivalError for
    one that would keep it busy for minutes, or whose data lie in no file."""
    size: list = []
    with path.open("rb") as file:
        for number, line in enumerate(iter(file.readline, b"")):
            if not line.strip(b"\r\n"):
                break
            if number > MAX_NRRD_LINES:
                raise _too_many_segments(path)
            field, _, value = line.partition(b": ")
            if len(line) > MAX_NRRD_FIELD and b":=" not in field and not line.startswith(b"#"):
                raise ValueError("a header line too long")
            name = field.replace(b" ", b"").lower()
            if name == b"sizes":
                size = [int(part) for part in value.split()]
            if name == b"datafile" and not value.startswith(b"LIST") and b"%" not in value:
                if not (path.parent / os.fsdecode(value.strip())).is_file():
                    raise CNNSurvivalError(f"The data of the {what} {path} are missing; its header names another file.")
    return size


def _check_nifti_length(path: Path, image: sitk.Image) -> None:
    """Raises EOFError where a NIfTI file is cut off: ITK fills up with zeros and says nothing."""
    if not image.HasMetaDataKey("bitpix") or path.suffix.lower() not in (".nii", ".gz"):
        return
    voxels = np.prod([max(1, int(float(image.GetMetaData(f"dim[{n}]")))) for n in range(1, 8)], dtype=np.int64)
    expected = int(voxels) * int(image.GetMetaData("bitpix")) // 8
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as file:  # raises, too, where the compressed data are damaged
            length = sum(len(part) for part in iter(lambda: file.read(1 << 24), b""))
    else:
        length = path.stat().st_size
    if length < expected:
        raise EOFError(f"{length} bytes instead of {expected}")


def _squeezed(what: str, path: Path, image: sitk.Image) -> sitk.Image:
    """The image in 3D, without further axes of length 1."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise CNNSurvivalError(
            f"The {what} {path} has {image.GetNumberOfComponentsPerPixel()} values per voxel (a colour image or a time "
            "series); give a single grey-level volume."
        )
    if image.GetDimension() < 3:
        raise CNNSurvivalError(f"The {what} {path} is a flat picture, not a volume; give all slices in one 3D file.")
    while image.GetDimension() > 3:
        if image.GetSize()[-1] != 1:
            raise CNNSurvivalError(
                f"The {what} {path} has {image.GetDimension()} dimensions ({_size(image.GetSize())} voxels: a time "
                "series or several volumes); give a single 3D volume."
            )
        image = image[..., 0]
    return image


def _geometry(image: sitk.Image) -> np.ndarray:
    """ijk_to_lps, 4 x 4, of the first three axes of a SimpleITK image."""
    n = image.GetDimension()
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    matrix[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    matrix[:3, 3] = np.array(image.GetOrigin())[:3]
    return matrix


def _check_geometry(what: str, path: Path, matrix: np.ndarray) -> None:
    """Raises CNNSurvivalError where voxels have no size, or none that a scanner has: nothing can be computed there."""
    steps = matrix[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    sane = np.all(np.isfinite(matrix)) and np.all(np.abs(matrix) < 1e6) and np.all((lengths > 1e-3) & (lengths < 1e3))
    if not sane or abs(np.linalg.det(steps / lengths)) < 1e-3:
        raise CNNSurvivalError(
            f"The geometry of the {what} {path} (spacing, directions or origin) makes no sense; export it again."
        )


def _shown(text, most: int = SHOWN_LETTERS) -> str:
    """A name from a file as a message shows it: on one line, without what turns or hides letters, and not endless."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    """Names for a message; of very many the first ones."""
    more = len(names) - SHOWN_NAMES
    return separator.join(names[:SHOWN_NAMES]) + (f"{separator}and {more} more" if more > 0 else "")


def _size(size: Iterable[int]) -> str:
    return " x ".join(str(n) for n in size)


def _non_finite_warning(array: np.ndarray) -> tuple[str, ...]:
    if not np.issubdtype(array.dtype, np.floating):
        return ()
    count = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in array)
    if not count:
        return ()
    return (f"The CT has {count} {'voxel' if count == 1 else 'voxels'} that are NaN or infinite, outside the contour "
            "or inside it; the file may be damaged.",)  # fmt: skip


# --- CT -----------------------------------------------------------------------------------------------------


def _read_ct(path: Path, series_uid: str | None) -> _Volume:
    if path.is_dir():
        return _read_series(path, _headers(path), series_uid)
    if _is_dicom("CT", path):
        return _read_dicom_file(path, series_uid)
    if series_uid:
        raise UsageError(f"The CT {path} is not DICOM, so it has no series to choose; leave out --series-uid.")
    image = _squeezed("CT", path, _read_image("CT", path))
    return _Volume(np.asarray(_Held(image)), _geometry(image))


class _Held:
    """An image's own voxels for NumPy, read-only, without a copy: SimpleITK's view does not keep its image alive."""

    def __init__(self, image: sitk.Image):
        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def _read_dicom_file(path: Path, series_uid: str | None) -> _Volume:
    """A file stands for its series: that of the same folder, or the one it holds (enhanced CT)."""
    with _reading("CT", path):
        header = pydicom.dcmread(path, specific_tags=HEADER, stop_before_pixels=True)
    if str(header.get("Modality")) in NOT_IMAGES:
        raise CNNSurvivalError(f"The file {path} is a DICOM {header.Modality}, not a CT; give the CT's folder.")
    uid = series_uid or str(header.get("SeriesInstanceUID", ""))
    return _read_series(path.parent, _headers(path.parent), uid)


class _Header(NamedTuple):
    """One DICOM image file. spacing: mm between columns, between rows. frames > 1: an enhanced, multi-frame image."""

    path: Path
    uid: str
    series_uid: str
    description: str
    frame_uid: str
    modality: str
    localizer: bool
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing: np.ndarray | None
    thickness: float
    size: tuple
    samples: int
    frames: int

    @property
    def is_slice(self) -> bool:
        placed = self.position is not None and self.orientation is not None and self.spacing is not None
        return self.samples == 1 and not self.localizer and (placed or self.frames > 1)


def _headers(folder: Path) -> list[_Header]:
    """The DICOM images in the folder and below; other files, and DICOM files that are no images, are passed over."""
    found = {}
    with _reading("CT", folder):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            try:
                dataset = pydicom.dcmread(path, specific_tags=HEADER, stop_before_pixels=True)
                header = _header(path, dataset)
            except Exception:  # not DICOM, or broken: a missing slice shows by its place
                continue
            if header.series_uid and header.size != (0, 0) and header.modality not in NOT_IMAGES:
                found.setdefault(header.uid, header)  # a copy of a file is not another slice
    return list(found.values())


def _header(path: Path, dataset: pydicom.Dataset) -> _Header:
    def numbers(name: str, count: int) -> np.ndarray | None:
        value = dataset.get(name)
        array = None if value is None else np.array(value, dtype=np.float64)
        return array if array is not None and array.shape == (count,) and np.all(np.isfinite(array)) else None

    spacing = numbers("PixelSpacing", 2)
    return _Header(
        path=path,
        uid=str(dataset.get("SOPInstanceUID") or path),
        series_uid=_shown(dataset.get("SeriesInstanceUID", "")),
        description=_shown(dataset.get("SeriesDescription", "") or ""),
        frame_uid=_shown(dataset.get("FrameOfReferenceUID", "") or ""),
        modality=_shown(dataset.get("Modality", ""), 16),
        localizer=any("LOCALIZER" in str(part).upper() for part in dataset.get("ImageType") or []),
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        spacing=None if spacing is None or np.any(spacing <= 0) else spacing[::-1],
        thickness=float(dataset.get("SliceThickness") or 0),
        size=(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        frames=int(dataset.get("NumberOfFrames") or 1),
    )


def _read_series(folder: Path, headers: Sequence[_Header], series_uid: str | None) -> _Volume:
    series: dict = {}
    for header in headers:
        if header.is_slice:
            series.setdefault(header.series_uid, []).append(header)
    chosen = _choose_series(folder, series, series_uid)
    modality = chosen[0].modality
    notes = [] if modality == "CT" else [
        f"The series is of modality {modality or 'unknown'}, not CT; the model was trained on Hounsfield units, so the "
        "result means nothing for other images."
    ]  # fmt: skip
    if any(header.frames > 1 for header in chosen):
        array, ijk_to_lps, more = _read_multiframe(chosen, folder)
    else:
        array, ijk_to_lps, more = _read_slices(chosen, folder)
    return _Volume(array, ijk_to_lps, (*notes, *more), chosen[0].series_uid, chosen[0].frame_uid or None)


def _choose_series(folder: Path, series: dict, series_uid: str | None) -> list[_Header]:
    if not series:
        raise CNNSurvivalError(
            f"The folder {folder} holds no DICOM CT slices; give the folder with the CT series, or a NRRD, NIfTI or "
            "MetaImage file."
        )
    if series_uid:
        if series_uid not in series:
            raise UsageError(
                f"The folder {folder} holds no series {series_uid}; it holds {_list_series(series)}."
            )
        return series[series_uid]
    candidates = {uid: s for uid, s in series.items() if s[0].modality == "CT"} or series
    if len(candidates) > 1:
        raise UsageError(
            f"The folder {folder} holds {len(candidates)} {next(iter(candidates.values()))[0].modality} series; choose "
            f"one with --series-uid: {_list_series(candidates)}."
        )
    return next(iter(candidates.values()))


def _list_series(series: dict) -> str:
    parts = []
    for uid, headers in sorted(series.items(), key=lambda item: -len(item[1])):
        count = sum(header.frames for header in headers)
        about = f", '{headers[0].description}'" if headers[0].description else ""
        parts.append(f"{uid} ({count} {'slice' if count == 1 else 'slices'}{about})")
    return _listed(parts, "; ")


def _read_multiframe(headers: Sequence[_Header], folder: Path):
    """(array, ijk_to_lps, warnings) of an enhanced CT: one file with all slices."""
    if len(headers) > 1:
        raise CNNSurvivalError(
            f"The series in {folder} consists of {len(headers)} multi-frame files; give a folder with only the one "
            "that holds the CT."
        )
    with _reading("CT", headers[0].path):
        volume = _highdicom().imread(headers[0].path).get_volume(
            dtype=np.float32, apply_modality_transform=True, apply_voi_transform=False, allow_missing_positions=False
        )
        matrix = np.array(volume.affine)[:, [2, 1, 0, 3]]  # highdicom counts [k, j, i]
        return _compact(np.asarray(volume.array)), matrix, ()


def _read_slices(headers: Sequence[_Header], folder: Path):
    """(array, ijk_to_lps, warnings) of slices in single files."""
    headers, notes = _of_one_kind(headers)
    normal = _normal(headers[0].orientation)
    headers = sorted(headers, key=lambda header: float(header.position @ normal))
    headers, more = _one_per_place(headers, normal, folder)
    notes += more
    places = np.array([header.position @ normal for header in headers])
    ijk_to_lps, even, more = _stack_geometry(headers, places, normal)
    array = _pixels(headers)
    if even is not None:
        array = _interpolated(array, places, even)
    return array, ijk_to_lps, tuple(notes + more)


def _of_one_kind(headers: Sequence[_Header]) -> tuple[list[_Header], list[str]]:
    """The slices of the commonest orientation, size and pixel spacing, and a warning if others were left out."""

    def kind(header: _Header):
        return (*np.round(header.orientation, 3) + 0.0, *np.round(header.spacing, 4), *header.size)

    counts = Counter(kind(header) for header in headers)
    common = counts.most_common(1)[0][0]
    kept = [header for header in headers if kind(header) == common]
    left_out = len(headers) - len(kept)
    if not left_out:
        return kept, []
    return kept, [
        f"{left_out} of the {len(headers)} slices of the CT series are of another orientation, size or pixel spacing "
        "than the rest and were left out."
    ]


def _normal(orientation: np.ndarray) -> np.ndarray:
    normal = np.cross(orientation[:3], orientation[3:])
    length = np.linalg.norm(normal)
    if length < 0.5:
        raise CNNSurvivalError("The orientation in the CT's DICOM headers is no orientation; export the CT again.")
    return normal / length


def _one_per_place(headers: Sequence[_Header], normal: np.ndarray, folder: Path) -> tuple[list[_Header], list[str]]:
    """The first slice at each place. As many at most places as at one are several volumes: an error."""
    kept: list = []
    for header in headers:
        if not kept or (header.position - kept[-1].position) @ normal > 0.01:
            kept.append(header)
    extra = len(headers) - len(kept)
    if extra >= 0.5 * len(kept):
        raise CNNSurvivalError(
            f"The CT series in {folder} has {len(headers)} slices at only {len(kept)} places (several phases or "
            "reconstructions in one series); give a folder with only one of them."
        )
    if not extra:
        return kept, []
    return kept, [f"{extra} slices of the CT series lie where another one lies already and were left out."]


def _stack_geometry(headers: Sequence[_Header], places: np.ndarray, normal: np.ndarray):
    """(ijk_to_lps, places of an even spacing to interpolate to or None, warnings)."""
    first, notes, even = headers[0], [], None
    matrix = np.eye(4)
    matrix[:3, 0] = first.orientation[:3] * first.spacing[0]
    matrix[:3, 1] = first.orientation[3:] * first.spacing[1]
    matrix[:3, 3] = first.position
    if len(headers) == 1:
        matrix[:3, 2] = normal * (first.thickness or 1.0)
        return matrix, None, notes
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    count = len(places)
    if np.abs(places - np.linspace(places[0], places[-1], count)).max() > OFF_PLACE * usual:
        count = int(round((places[-1] - places[0]) / usual)) + 1
        if count > MOST_MISSING * len(places):
            raise CNNSurvivalError(
                f"The slices of the CT series lie {usual:.1f} mm apart as a rule, but with gaps of up to "
                f"{gaps.max():.0f} mm; slices are missing or say a wrong position, so export the series again."
            )
        even = np.linspace(places[0], places[-1], count)
        notes.append(_uneven_warning(places, gaps, usual, (places[-1] - places[0]) / (count - 1)))
    matrix[:3, 2] = (headers[-1].position - first.position) / (count - 1)
    positions = np.array([header.position for header in headers])
    straight = first.position + np.outer((places - places[0]) / (places[-1] - places[0]), positions[-1] - positions[0])
    shift = np.linalg.norm(positions - straight - np.outer((positions - straight) @ normal, normal), axis=1).max()
    if shift > 0.5 * first.spacing.min():
        notes.append(
            f"The slices of the CT series are shifted sideways against each other by up to {shift:.1f} mm, which is "
            "not corrected; the contour may lie off the tumour."
        )
    return matrix, even, notes


def _uneven_warning(places: np.ndarray, gaps: np.ndarray, usual: float, step: float) -> str:
    multiples = np.round(gaps / usual)
    missing = np.flatnonzero(multiples > 1)
    where = [f"between {places[k]:.1f} and {places[k + 1]:.1f} mm" for k in missing]
    fitting = np.abs(gaps - np.maximum(multiples, 1) * usual).max() <= OFF_PLACE * usual
    interpolated = f"the CT was interpolated onto an even spacing of {step:.2f} mm"
    if len(missing) and fitting:
        count = int(sum(multiples[missing] - 1))
        more = f" and {len(where) - 3} more places" if len(where) > 3 else ""
        return (
            f"The CT series lacks {count} {'slice' if count == 1 else 'slices'} ({', '.join(where[:3])}{more} along "
            f"its axis); {interpolated}, and what the missing slices showed is a guess."
        )
    odd = int(np.argmax(np.abs(gaps - usual)))
    return (
        f"The slices of the CT series are unequally spaced ({gaps.min():.2f} to {gaps.max():.2f} mm, most unlike the "
        f"rest between {places[odd]:.1f} and {places[odd + 1]:.1f} mm along its axis); {interpolated}."
    )


def _pixels(headers: Sequence[_Header]) -> np.ndarray:
    """[slice, row, column] in Hounsfield units (GDCM applies each slice's rescaling)."""
    planes = []
    for header in headers:
        with _reading("CT slice", header.path):
            _check_dicom_lengths(header.path)
            plane = sitk.GetArrayFromImage(sitk.ReadImage(str(header.path), imageIO="GDCMImageIO"))
            planes.append(_compact(plane.reshape(header.size[::-1])))
    return np.stack(planes)


def _check_dicom_lengths(path: Path) -> None:
    """Raises EOFError where an element claims to reach beyond its file: GDCM reserves and fills what it claims."""
    size = path.stat().st_size
    dataset = pydicom.dcmread(path, defer_size=1024)  # larger ones are passed over, not read
    for element in dataset.values():
        length = getattr(element, "length", 0)
        if length != 0xFFFFFFFF and getattr(element, "value_tell", 0) + length > size:
            raise EOFError(f"{element.tag} is longer than the file")


def _compact(array: np.ndarray) -> np.ndarray:
    """As int16 where that loses nothing (nearly every CT), else as it is."""
    if array.dtype == np.int16 or not np.all(np.isfinite(array)):
        return array
    if array.min() < -32768 or array.max() > 32767:
        return array
    small = array.astype(np.int16)
    return small if np.array_equal(small, array) else array


def _interpolated(array: np.ndarray, places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Planes at the wanted places, linear between those at ``places``."""
    result = np.empty((len(wanted), *array.shape[1:]), dtype=array.dtype)
    upper = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    for k, (place, above) in enumerate(zip(wanted, upper)):
        part = float(np.clip((place - places[above - 1]) / (places[above] - places[above - 1]), 0, 1))
        plane = (1 - part) * array[above - 1] + part * array[above]
        result[k] = np.rint(plane) if np.issubdtype(array.dtype, np.integer) else plane
    return result


# --- Mask ---------------------------------------------------------------------------------------------------


def _read_mask(path: Path, segment: str | None, ct: _Volume) -> _Mask:
    path, kind = _mask_file(path)
    if kind == "RTSTRUCT":
        return _read_rtstruct(path, segment, ct)
    volume, name = _read_seg(path, segment, ct) if kind == "SEG" else _read_labels(path, segment)
    if not volume.array.any():
        raise CNNSurvivalError(
            f"Segment '{_shown(name)}' of {path} is empty; draw the tumour, or choose another segment."
        )
    _check_geometry("mask", path, volume.ijk_to_lps)
    array, notes = _onto_grid(path, volume, ct)
    return _Mask(array, name, (*volume.warnings, *notes))


def _mask_file(path: Path) -> tuple[Path, str]:
    """(file, "SEG", "RTSTRUCT" or "labels")."""
    if path.is_dir():
        found = [(p, _modality(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        found = [(p, kind) for p, kind in found if kind in ("SEG", "RTSTRUCT")]
        if len(found) == 1:
            return found[0]
        if not found:
            raise CNNSurvivalError(f"The folder {path} holds neither a DICOM SEG nor an RTSTRUCT; give the mask file.")
        names = _listed([f"{p.relative_to(path)} ({kind})" for p, kind in found])
        raise UsageError(f"The folder {path} holds {len(found)} masks; give the file of one: {names}.")
    if not _is_dicom("mask", path):
        return path, "labels"
    kind = _modality(path)
    if kind not in ("SEG", "RTSTRUCT"):
        raise CNNSurvivalError(
            f"The mask {path} is a DICOM file {f'of modality {kind}' if kind else 'that cannot be read'}, neither SEG "
            "nor RTSTRUCT; give one of those, or a label image."
        )
    return path, kind


def _modality(path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, specific_tags=["Modality"], stop_before_pixels=True)
            return _shown(header.get("Modality", ""), 16)
    except Exception:  # not DICOM
        return ""


def _choose(path: Path, kind: str, names: Sequence[str], numbers: Sequence[int], segment: str | None) -> int:
    """Which of the named and numbered segments (or structures) is meant; its place in the list."""
    if not names:
        raise CNNSurvivalError(f"The mask {path} holds no {kind}s; draw the tumour first.")
    existing = _listed([
        f"'{_shown(name)}'" if not name.isdigit() or name != str(number) else name
        for name, number in zip(names, numbers)
    ])  # fmt: skip
    if segment is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"The mask {path} holds {len(names)} {kind}s; choose one with --segment: {existing}.")
    segment = str(segment)
    matches = [k for k, name in enumerate(names) if name == segment]
    matches = matches or [k for k, name in enumerate(names) if _folded(name) == _folded(segment)]
    matches = matches or [k for k, number in enumerate(numbers) if str(number) == segment.strip()]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UsageError(f"The mask {path} has no {kind} '{_shown(segment)}'; it has {existing}.")
    raise UsageError(
        f"The mask {path} has {len(matches)} {kind}s that '{_shown(segment)}' can mean; rename them, or choose "
        f"another: {existing}."
    )


def _folded(name: str) -> str:
    return _shown(name, len(name) + 1).casefold()


# Label images


def _read_labels(path: Path, segment: str | None) -> tuple[_Volume, str]:
    image = _read_image("mask", path)
    with _reading("mask", path):  # labels and layers that are no numbers
        segments = _slicer_segments(image)
    if segments:
        layers = _layers(path, image)
        names, labels = [s[0] for s in segments], [s[1] for s in segments]
        chosen = _choose(path, "segment", names, labels, segment)
        name, label, layer = segments[chosen]
        if not 0 <= layer < len(layers):
            raise CNNSurvivalError(
                f"The mask {path} lacks the layer of segment '{_shown(name)}'; save it again in Slicer."
            )
        return _Volume((layers[layer] == label).view(np.uint8), _geometry(image)), name
    image = _squeezed("mask", path, image)
    array, notes = _integers(path, sitk.GetArrayViewFromImage(image))  # of use while the image is there
    # Most of a mask is 0, and a plane is quickly told to be; unique() of whole planes takes as long as reading them.
    values = sorted(set().union(*(np.unique(plane[plane != 0]).tolist() for plane in array)))
    if not values:
        raise CNNSurvivalError(f"The mask {path} is empty (every voxel is 0); draw the tumour.")
    label = values[_choose(path, "label", [str(value) for value in values], values, segment)]
    return _Volume((array == label).view(np.uint8), _geometry(image), notes), str(label)


def _slicer_segments(image: sitk.Image) -> list[tuple[str, int, int]]:
    """(name, label, layer) of the segments that a .seg.nrrd's header tells of.

    Slicer before 4.11 wrote no labels and layers: each segment had a layer of its own, of 0 and 1.
    """
    keys, segments = set(image.GetMetaDataKeys()), []
    while f"Segment{len(segments)}_Name" in keys or f"Segment{len(segments)}_ID" in keys:
        prefix = f"Segment{len(segments)}_"

        def value(key: str, default, prefix=prefix):
            return image.GetMetaData(prefix + key) if prefix + key in keys else default

        old = prefix + "Layer" not in keys
        name = value("Name", None) or value("ID", "")
        segments.append((name, int(value("LabelValue", 1)), len(segments) if old else int(value("Layer", 0))))
    if all(layer == k for k, (_, _, layer) in enumerate(segments)) and not _is_layered(image):
        segments = [(name, label, 0) for name, label, _ in segments]
    return segments


def _is_layered(image: sitk.Image) -> bool:
    return image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() > 3


def _layers(path: Path, image: sitk.Image) -> Sequence[np.ndarray]:
    """The layers, each [k, j, i], of a .seg.nrrd: the values of a vector image, or the places on a fourth axis."""
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


# DICOM SEG


def _read_seg(path: Path, segment: str | None, ct: _Volume) -> tuple[_Volume, str]:
    with _reading("mask", path):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SegmentSequence"])
        if len(header.SegmentSequence) > MAX_SEGMENTS:
            raise _too_many_segments(path)
        seg = _highdicom().seg.segread(path)
        numbers = [int(number) for number in seg.segment_numbers]
        labels = {int(item.SegmentNumber): str(item.SegmentLabel) for item in seg.SegmentSequence}
        names = [labels[number] for number in numbers]
        series = [str(item.get("SeriesInstanceUID", "")) for item in seg.get("ReferencedSeriesSequence", [])]
        frame_uid = str(seg.get("FrameOfReferenceUID", "") or "")
    chosen = _choose(path, "segment", names, numbers, segment)
    notes = _reference_warning("SEG", path, series, [frame_uid], ct)
    with _reading("mask", path):
        frames = _seg_frames(seg, numbers[chosen])
        if not frames:
            return _Volume(np.zeros((1, 1, 1), np.uint8), np.eye(4)), names[chosen]
        array, matrix = _stack_frames(frames)
    return _Volume(array, matrix, notes), names[chosen]


def _too_many_segments(path: Path) -> CNNSurvivalError:
    return CNNSurvivalError(
        f"The file {path} describes more than {MAX_SEGMENTS} segments; save the tumour's segment in a file of its own."
    )


class _Frame(NamedTuple):
    pixels: np.ndarray  # uint8 [row, column]
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray  # between columns, between rows
    thickness: float


def _seg_frames(seg, number: int) -> list[_Frame]:
    """The frames of one segment that hold any of it, wherever each lies."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    frames = []
    for k, own in enumerate(seg.PerFrameFunctionalGroupsSequence):

        def group(name: str, own=own):
            return (own if name in own else shared)[name][0]

        if seg.SegmentationType == "LABELMAP":
            pixels = seg.get_stored_frame(k + 1) == number
        elif group("SegmentIdentificationSequence").ReferencedSegmentNumber != number:
            continue
        elif seg.SegmentationType == "FRACTIONAL":
            pixels = seg.get_stored_frame(k + 1) >= 0.5 * seg.MaximumFractionalValue
        else:
            pixels = seg.get_stored_frame(k + 1) > 0
        if not pixels.any():
            continue
        measures = group("PixelMeasuresSequence")
        frames.append(
            _Frame(
                pixels.astype(np.uint8),
                np.array(group("PlanePositionSequence").ImagePositionPatient, dtype=np.float64),
                np.array(group("PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64),
                np.array(measures.PixelSpacing, dtype=np.float64)[::-1],
                float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0),
            )
        )
    return frames


def _stack_frames(frames: Sequence[_Frame]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [k, j, i], ijk_to_lps) of SEG frames, which leave out empty slices and may be unequally spaced.

    The stack's spacing is the smallest gap; a plane takes the frame that lies nearest, within half of that.
    """
    normal = _normal(frames[0].orientation)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    places = np.array([frame.position @ normal for frame in frames])
    gaps = np.diff(places)
    gaps = gaps[gaps > 0.01]
    step = float(gaps.min()) if len(gaps) else frames[0].thickness or 1.0
    index = (places - places[0]) / step
    if len(gaps) and np.abs(index - np.rint(index)).max() > OFF_PLACE:
        # Unequal gaps: finer planes, each frame as thick as the space up to half-way to its neighbours.
        return _stack_uneven(frames, places, normal, float(np.median(gaps)))
    index = np.rint(index).astype(int)
    _check_planes(index[-1] + 1, frames[0])
    array = np.zeros((index[-1] + 1, *frames[0].pixels.shape), dtype=np.uint8)
    for k, frame in zip(index, frames):
        array[k] |= frame.pixels
    shift = frames[-1].position - frames[0].position
    return array, _frame_matrix(frames[0], shift / index[-1] if index[-1] else normal * step)


def _stack_uneven(frames, places, normal, usual: float) -> tuple[np.ndarray, np.ndarray]:
    step = 0.25 * float(np.diff(places)[np.diff(places) > 0.01].min())
    _check_planes((places[-1] - places[0] + usual) / step, frames[0])
    planes = np.arange(places[0] - usual / 2, places[-1] + usual / 2, step)
    nearest = np.abs(planes[:, np.newaxis] - places).argmin(axis=1)
    near = np.abs(planes - places[nearest]) <= 0.75 * usual
    array = np.zeros((len(planes), *frames[0].pixels.shape), dtype=np.uint8)
    for k in np.flatnonzero(near):
        array[k] = frames[nearest[k]].pixels
    matrix = _frame_matrix(frames[0], normal * step)
    matrix[:3, 3] += normal * (planes[0] - places[0])
    return array, matrix


def _check_planes(count: float, frame: _Frame) -> None:
    """Raises ValueError where frames far apart would make a stack that no memory holds."""
    if not count * frame.pixels.size <= MAX_VOXELS:
        raise ValueError(f"{count:.0f} planes between the outermost frames")


def _frame_matrix(frame: _Frame, step: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 0] = frame.orientation[:3] * frame.spacing[0]
    matrix[:3, 1] = frame.orientation[3:] * frame.spacing[1]
    matrix[:3, 2] = step
    matrix[:3, 3] = frame.position
    return matrix


# RTSTRUCT


def _read_rtstruct(path: Path, segment: str | None, ct: _Volume) -> _Mask:
    with _reading("mask", path):
        dataset = pydicom.dcmread(path)
        found = rtstruct.structures(dataset)
        series, frames = _rtstruct_references(dataset)
    names, numbers = [name for name, _ in found], [number for _, number in found]
    name, number = found[_choose(path, "structure", names, numbers, segment)]
    shown = _shown(name)
    with _reading("mask", path):
        contours = rtstruct.closed_contours(dataset, number)
    if not contours:
        raise CNNSurvivalError(
            f"Structure '{shown}' of {path} has no closed contours; draw it, or choose another with --segment."
        )
    notes = _reference_warning("RTSTRUCT", path, series, frames, ct)
    outside = sum(not _reaches(points, ct) for points in contours)
    if outside == len(contours):
        raise CNNSurvivalError(
            f"Structure '{shown}' of {path} lies entirely outside the CT; check that the two belong together."
        )
    if outside:
        notes += (f"{outside} of the {len(contours)} contours of '{shown}' lie outside the CT and were left out.",)
    with _reading("mask", path):
        array, more = rtstruct.rasterise(contours, ct.array.shape, ct.ijk_to_lps)
    return _Mask(array, name, (*notes, *more))


def _rtstruct_references(dataset: pydicom.Dataset) -> tuple[list[str], list[str]]:
    """(series, frames of reference) that the contours refer to."""
    series, frames = [], [dataset.get("FrameOfReferenceUID")]
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        frames.append(frame.get("FrameOfReferenceUID"))
        for study in frame.get("RTReferencedStudySequence") or []:
            series += [item.get("SeriesInstanceUID") for item in study.get("RTReferencedSeriesSequence") or []]
    for roi in dataset.get("StructureSetROISequence") or []:
        frames.append(roi.get("ReferencedFrameOfReferenceUID"))
    return [str(uid) for uid in series if uid], [str(uid) for uid in frames if uid]


def _reaches(points: np.ndarray, ct: _Volume) -> bool:
    """Whether a contour's bounding box, in voxels, meets the CT's."""
    to_index = np.linalg.inv(ct.ijk_to_lps)
    index = points @ to_index[:3, :3].T + to_index[:3, 3]
    size = np.array(ct.array.shape)[::-1]
    return bool(np.all(index.max(axis=0) > -0.5) and np.all(index.min(axis=0) < size - 0.5))


def _reference_warning(kind: str, path: Path, series: Sequence[str], frames: Sequence[str], ct: _Volume):
    """() where the mask refers to this CT (or the CT is no DICOM), else a warning; raises where it cannot be right."""
    frames = [_shown(uid) for uid in frames if uid]
    series = [_shown(uid) for uid in series]
    if ct.series_uid is None or ct.series_uid in series:
        return ()
    if frames and ct.frame_uid and ct.frame_uid not in frames:
        other = f" and to another series ({series[0]}, not {ct.series_uid})" if series else ""
        raise CNNSurvivalError(
            f"The {kind} {path} refers to another frame of reference{other} than the CT, so its places mean nothing "
            "there; give the CT it was drawn on."
        )
    if not any(series):
        return (f"The {kind} does not say on which series it was drawn; check that it belongs to this CT.",)
    shared = " in the same frame of reference" if frames and ct.frame_uid else ""
    return (
        f"The {kind} was drawn on another series{shared} ({series[0]}); check that contour and CT show the same place.",
    )


# Onto the CT's grid


def _onto_grid(path: Path, volume: _Volume, ct: _Volume) -> tuple[np.ndarray, tuple[str, ...]]:
    """(uint8 on the CT's grid, warnings)."""
    if volume.array.shape == ct.array.shape and _corner_distance(volume, ct) < SAME_GRID_VOXELS:
        return volume.array, ()
    array = rtstruct.resample_nearest(volume.array, volume.ijk_to_lps, ct.array.shape, ct.ijk_to_lps)
    if not array.any() and not _boxes_meet(volume, ct):
        raise CNNSurvivalError(
            f"The tumour in the mask {path} lies entirely outside the CT; check that the two belong together."
        )
    notes = ()
    if not _is_part_of(volume, ct):
        notes += (
            f"The mask's grid ({_size(volume.array.shape[::-1])} voxels) is not the CT's "
            f"({_size(ct.array.shape[::-1])}); the mask was resampled by nearest neighbour.",
        )
    lost = _part_outside(volume, ct)
    if lost > 0.001:
        notes += (f"{lost:.0%} of the mask lies outside the CT and was left out.",)
    return array, notes


def _corner_distance(volume: _Volume, ct: _Volume) -> float:
    """Largest distance of the corners of the mask's grid from those of the CT's, in voxels."""
    return float(np.abs(_in_ct(volume, ct, _corners(np.array(volume.array.shape)[::-1] - 1)) - _corners(
        np.array(ct.array.shape)[::-1] - 1)).max())  # fmt: skip


def _corners(last) -> np.ndarray:
    return np.array(np.meshgrid(*[[0, n] for n in last], indexing="ij")).reshape(3, -1).T


def _in_ct(volume: _Volume, ct: _Volume, index: np.ndarray) -> np.ndarray:
    """Positions [n, 3] (i, j, k) of the mask's grid, on the CT's."""
    matrix = np.linalg.inv(ct.ijk_to_lps) @ volume.ijk_to_lps
    return index @ matrix[:3, :3].T + matrix[:3, 3]


def _is_part_of(volume: _Volume, ct: _Volume) -> bool:
    """Whether the mask's voxels are voxels of the CT (a crop of it, or stored the other way round): nothing is lost."""
    corners = _in_ct(volume, ct, _corners(np.array(volume.array.shape)[::-1] - 1))
    steps = (np.linalg.inv(ct.ijk_to_lps) @ volume.ijk_to_lps)[:3, :3]
    permutation = np.abs(np.rint(steps))
    whole = np.all(permutation.sum(axis=0) == 1) and np.all(permutation.sum(axis=1) == 1)
    return bool(whole and np.abs(corners - np.rint(corners)).max() < SAME_GRID_VOXELS)


def _tumour_index(volume: _Volume) -> np.ndarray:
    return np.argwhere(volume.array)[:, ::-1].astype(np.float64)


def _boxes_meet(volume: _Volume, ct: _Volume) -> bool:
    return _part_outside(volume, ct) < 1


def _part_outside(volume: _Volume, ct: _Volume) -> float:
    """Part of the mask's tumour voxels whose centres lie outside the CT."""
    index = _in_ct(volume, ct, _tumour_index(volume))
    inside = np.all((index > -0.5) & (index < np.array(ct.array.shape)[::-1] - 0.5), axis=1)
    return 1 - float(inside.mean())
