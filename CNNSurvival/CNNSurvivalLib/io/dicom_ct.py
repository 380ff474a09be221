"""A CT from DICOM: a series of slices in single files, or one multi-frame file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CNNSurvivalError, NotACT, UsageError
from .dicom import check_lengths, decoding, import_highdicom, read_dataset
from .grid import OFF_PLACE, Volume, plane_normal
from .images import ImageArray
from .quiet import reading
from .texts import name_list, one_line

# DICOM objects that are no images to predict from, and may lie beside them.
NOT_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTRECORD", "PR", "SR", "KO", "REG", "FID", "RWV", "DOC"}
# CT Image Storage, and its enhanced and legacy enhanced kinds
CT_CLASSES = {f"1.2.840.10008.5.1.4.1.1.2{kind}" for kind in ("", ".1", ".2")}
HEADER = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "FrameOfReferenceUID", "Modality",
    "ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns",
    "SamplesPerPixel", "NumberOfFrames", "SeriesNumber",
]  # fmt: skip
# Where slices are missing, a series is filled up to at most this many times its number.
MOST_MISSING = 5


def read_series_in_folder(folder: Path, series_uid: str | None, force: bool = False) -> Volume:
    """The CT series of a folder, or the one with that UID. Another modality is refused, or a warning with ``force``."""
    return _read_series(folder, _headers(folder), one_line(series_uid) if series_uid else None, force)


def read_series_of_file(path: Path, series_uid: str | None, force: bool = False) -> Volume:
    """A file stands for its series: that of the same folder, or the one it holds (enhanced CT)."""
    with reading("CT", path):
        header = _header(path, read_dataset(path, specific_tags=HEADER, stop_before_pixels=True))
    if header.modality in NOT_IMAGES:
        raise CNNSurvivalError(f"The file {path} is a DICOM {header.modality}, not a CT; give the CT's folder.")
    uid = one_line(series_uid) if series_uid else header.series_uid
    return _read_series(path.parent, _headers(path.parent), uid, force)


def series_files(folder: Path, series_uid: str | None) -> list[Path]:
    """The files that ``read_series_in_folder`` reads; raises as it does where there are none, or several series."""
    series, unfit = _by_series(_headers(folder))
    chosen = _choose_series(folder, series, unfit, one_line(series_uid) if series_uid else None)
    return [header.path for header in chosen]


def series_of(path: Path) -> str:
    """The SeriesInstanceUID of a file; "" where it has none."""
    with reading("CT", path):
        return one_line(read_dataset(path, specific_tags=["SeriesInstanceUID"]).get("SeriesInstanceUID") or "")


def is_ct_slice(path: Path, dataset) -> bool:
    """Whether a DICOM file, read with the tags of HEADER, is a slice of a CT (or a multi-frame CT)."""
    header = _header(path, dataset)
    return header.modality == "CT" and not header.unfit


class _Header(NamedTuple):
    """One DICOM image file. spacing: mm between columns, between rows. frames > 1: an enhanced, multi-frame image."""

    path: Path
    sop_class: str
    uid: str
    series_uid: str
    description: str
    number: str
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
    def unfit(self) -> str:
        """What the file is, where it is no slice to predict from; else ""."""
        from pydicom.uid import UID

        kind = one_line(UID(self.sop_class).name)
        if self.modality in NOT_IMAGES:
            return f"of modality {self.modality}"
        if self.localizer:
            return "a localizer"
        if "Secondary Capture" in kind or (self.modality == "CT" and self.sop_class not in {"", *CT_CLASSES}):
            return f"of the kind '{kind}'"
        if 0 in self.size:
            return "not an image"
        if self.samples != 1:
            return "a colour image"
        if self.frames == 1 and (self.position is None or self.orientation is None or self.spacing is None):
            return "an image without position, orientation or pixel spacing"
        return ""


def _headers(folder: Path) -> list[_Header]:
    """The DICOM files in the folder and below; others are passed over."""
    found = {}
    with reading("CT", folder):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            try:
                dataset = read_dataset(path, specific_tags=HEADER, stop_before_pixels=True)
                header = _header(path, dataset)
            except Exception:  # not DICOM, or broken: a missing slice shows by its place
                continue
            found.setdefault(header.uid, header)  # a copy of a file is not another slice
    return list(found.values())


def _header(path: Path, dataset) -> _Header:
    def numbers(name: str, count: int) -> np.ndarray | None:
        value = dataset.get(name)
        array = None if value is None else np.array(value, dtype=np.float64)
        return array if array is not None and array.shape == (count,) and np.all(np.isfinite(array)) else None

    spacing = numbers("PixelSpacing", 2)
    return _Header(
        path=path,
        sop_class=one_line(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or ""),
        uid=str(dataset.get("SOPInstanceUID") or path),
        series_uid=one_line(dataset.get("SeriesInstanceUID", "") or ""),
        description=one_line(dataset.get("SeriesDescription", "") or ""),
        number=one_line(dataset.get("SeriesNumber", "") or ""),
        frame_uid=one_line(dataset.get("FrameOfReferenceUID", "") or ""),
        modality=one_line(dataset.get("Modality", ""), 16),
        localizer=any("LOCALIZER" in str(part).upper() for part in dataset.get("ImageType") or []),
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        spacing=None if spacing is None or np.any(spacing <= 0) else spacing[::-1],
        thickness=float(dataset.get("SliceThickness") or 0),
        size=(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        frames=int(dataset.get("NumberOfFrames") or 1),
    )


def _read_series(folder: Path, headers: Sequence[_Header], series_uid: str | None, force: bool) -> Volume:
    series, unfit = _by_series(headers)
    chosen = _choose_series(folder, series, unfit, series_uid)
    _check_nameless(folder, chosen)
    modality = chosen[0].modality
    if modality not in ("", "CT") and not force:
        raise NotACT(f"The series in {folder} is of modality {modality}, not CT.")
    notes = [] if modality == "CT" else [
        f"The series is of modality {modality or 'unknown'}, not CT; the model was trained on Hounsfield units, so the "
        "result means nothing for other images."
    ]  # fmt: skip
    if any(header.frames > 1 for header in chosen):
        array, ijk_to_lps, more = _read_multiframe(chosen, folder)
    else:
        array, ijk_to_lps, more = _read_slices(chosen, folder)
    return Volume(array, ijk_to_lps, (*notes, *more), chosen[0].series_uid or None, chosen[0].frame_uid or None)


def _by_series(headers: Sequence[_Header]) -> tuple[dict, dict]:
    """(images by their series' UID, what is no image by its series' UID)."""
    series: dict = {}
    unfit: dict = {}
    for header in headers:
        (unfit if header.unfit else series).setdefault(header.series_uid, []).append(header)
    return series, unfit


def _check_nameless(folder: Path, headers: Sequence[_Header]) -> None:
    """Raises CNNSurvivalError where slices without a SeriesInstanceUID differ in what a series has in common."""
    if headers[0].series_uid:
        return
    if len({(header.modality, header.description, header.frame_uid, header.number) for header in headers}) > 1:
        raise CNNSurvivalError(
            f"The folder {folder} holds slices of several series without a SeriesInstanceUID; give a folder with "
            "only one of them."
        )


def _choose_series(folder: Path, series: dict, unfit: dict, series_uid: str | None) -> list[_Header]:
    """series_uid: "" for the series without UID; None where none is asked for."""
    if series_uid is not None and series_uid in series:
        return series[series_uid]
    if series_uid is not None and series_uid in unfit:
        held = f"; the CT series of the folder are {_list_series(series)}" if series else "; give the CT's folder"
        asked = _described(series_uid, unfit[series_uid]).removeprefix("a series ")
        raise UsageError(f"The series {asked} in {folder} is not a CT{held}.")
    if not series:
        held = f" What it holds: {_list_series(unfit)}." if unfit else ""
        raise CNNSurvivalError(
            f"The folder {folder} holds no DICOM CT slices; give the folder with the CT series, or a NRRD, NIfTI or "
            f"MetaImage file.{held}"
        )
    if series_uid is not None:
        raise UsageError(
            f"The folder {folder} holds no series {series_uid or 'without UID'}; it holds {_list_series(series)}."
        )
    candidates = {uid: s for uid, s in series.items() if s[0].modality == "CT"} or series
    if len(candidates) > 1:
        raise UsageError(
            f"The folder {folder} holds {len(candidates)} {next(iter(candidates.values()))[0].modality} series; choose "
            f"one with --series-uid: {_list_series(candidates)}."
        )
    return next(iter(candidates.values()))


def _list_series(series: dict) -> str:
    ordered = sorted(series.items(), key=lambda item: -len(item[1]))
    return name_list([_described(uid, headers) for uid, headers in ordered], "; ")


def _described(uid: str, headers: Sequence[_Header]) -> str:
    """1.2.3 (12 slices, 'Chest'), or what the series is where it has no slices."""
    count = sum(header.frames for header in headers)
    what = headers[0].unfit or f"{count} {'slice' if count == 1 else 'slices'}"
    about = f", '{headers[0].description}'" if headers[0].description else ""
    return f"{uid or 'a series without UID'} ({what}{about})"


def _read_multiframe(headers: Sequence[_Header], folder: Path):
    """(array, ijk_to_lps, warnings) of an enhanced CT: one file with all slices."""
    if len(headers) > 1:
        raise CNNSurvivalError(
            f"The series in {folder} consists of {len(headers)} multi-frame files; give a folder with only the one "
            "that holds the CT."
        )
    with reading("CT", headers[0].path), decoding("CT", headers[0].path):
        volume = (
            import_highdicom()
            .imread(headers[0].path)
            .get_volume(
                dtype=np.float32,
                apply_modality_transform=True,
                apply_voi_transform=False,
                allow_missing_positions=False,
            )
        )
        matrix = np.array(volume.affine)[:, [2, 1, 0, 3]]  # highdicom counts [k, j, i]
        return _compact(np.asarray(volume.array)), matrix, ()


def _read_slices(headers: Sequence[_Header], folder: Path):
    """(array, ijk_to_lps, warnings) of slices in single files."""
    headers, notes = _of_one_kind(headers)
    normal = plane_normal(headers[0].orientation)
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
    import SimpleITK as sitk

    stack = np.empty((len(headers), *headers[0].size[::-1]), np.int16)
    for k, header in enumerate(headers):
        with reading("CT slice", header.path):
            check_lengths(header.path)
            with decoding("CT slice", header.path):
                plane = np.asarray(ImageArray(sitk.ReadImage(str(header.path), imageIO="GDCMImageIO")))
            plane = plane.reshape(header.size[::-1])
            kind = np.result_type(stack.dtype, np.int16 if _fits_int16(plane) else plane.dtype)
            stack = stack.astype(kind, copy=False)
            stack[k] = plane
    return stack


def _compact(array: np.ndarray) -> np.ndarray:
    """As int16 where that loses nothing (nearly every CT), else as it is."""
    return array.astype(np.int16, copy=False) if _fits_int16(array) else array


def _fits_int16(array: np.ndarray) -> bool:
    whole_numbers = np.issubdtype(array.dtype, np.integer)
    if array.dtype == np.int16:
        return True
    if not (whole_numbers or np.all(np.isfinite(array))) or array.min() < -32768 or array.max() > 32767:
        return False
    return whole_numbers or np.array_equal(array.astype(np.int16), array)


def _interpolated(array: np.ndarray, places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Planes at the wanted places, linear between those at ``places``."""
    result = np.empty((len(wanted), *array.shape[1:]), dtype=array.dtype)
    upper = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    for k, (place, above) in enumerate(zip(wanted, upper)):
        part = float(np.clip((place - places[above - 1]) / (places[above] - places[above - 1]), 0, 1))
        plane = (1 - part) * array[above - 1] + part * array[above]
        result[k] = np.rint(plane) if np.issubdtype(array.dtype, np.integer) else plane
    return result
