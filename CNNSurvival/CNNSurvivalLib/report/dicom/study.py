"""What the objects take from the CT's DICOM files: patient, study, and the images that they refer to.

Names, numbers and UIDs are copied as they are, so that an archive joins the objects to the same patient and study. A
date, a time, a sex or an age that is none (some de-identified files have such) is left out; what the standard requires
and the source lacks is there and empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import CNNSurvivalError
from ...io.dicom import read_dataset
from ...io.grid import OFF_PLACE
from ...io.quiet import without_warnings

UTF_8 = "ISO_IR 192"
# DICOM PS3.3, types 1 and 2 of the modules Patient (C.7.1.1) and General Study (C.7.2.1)
REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
# What of these modules, of Patient Study (C.7.2.2) and of Clinical Trial (C.7.1.3, C.7.2.3) is copied where there.
# Comments, other names and further physicians are not: the study has them, and nothing is joined by them.
OPTIONAL = (
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "OtherPatientIDsSequence",
    "PatientBirthTime", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "TimezoneOffsetFromUTC", "StudyDescription", "IssuerOfAccessionNumberSequence", "ProcedureCodeSequence",
    "PatientAge", "PatientSize", "PatientWeight",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)  # fmt: skip
# What is the same in all files of one series of one patient
_SHARED = {
    "PatientID": "patients",
    "PatientName": "patients",
    "StudyInstanceUID": "studies",
    "SeriesInstanceUID": "series",
}
IDENTIFYING = ("PatientName", "PatientID", "StudyInstanceUID", "StudyID", "AccessionNumber")
_IMAGE = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "ImageType", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "BodyPartExamined", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
_MONTH, _DAY = r"(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
# How values of these kinds look (PS3.5, 6.2), and how long the others may be
_FORMATS = {
    "DA": rf"\d{{4}}{_MONTH}{_DAY}",
    "TM": r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?",
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9_ ]{1,16}",
    "DS": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
}
_LENGTHS = {"LO": 64, "SH": 16, "DS": 16, "LT": 10240}
_TIME_ZONE = r"[+-](0\d|1[0-4])[0-5]\d"
_SEXES = ("M", "F", "O")


@dataclass(frozen=True)
class Study:
    """The study of a CT.

    Attributes
    ----------
    about : pydicom.Dataset
        Patient and study, as every object of the study has them; texts are in UTF-8.
    images : tuple of pydicom.Dataset
        The headers of the CT's instances, each with ``about``: one per slice, or one that has all slices.
    """

    about: object
    images: tuple

    @property
    def frame_uid(self) -> str:
        """The frame of reference in which positions are given; "" where the CT names none, or several."""
        uids = {str(image.get("FrameOfReferenceUID") or "") for image in self.images}
        return uids.pop() if len(uids) == 1 else ""

    @property
    def patient(self) -> str:
        """Name and number of the patient for a page, such as "Muster, Erika (4711)"; "" where the CT has neither.

        Of a name in several alphabets, the first.
        """
        parts = str(self.about.PatientName).split("=")[0].split("^")
        name, number = ", ".join(part.strip() for part in parts if part.strip()), str(self.about.PatientID).strip()
        return f"{name} ({number})" if name and number else name or number

    @property
    def references(self) -> list:
        """The CT's instances, as items of a sequence that refers to them."""
        return [reference_to(image) for image in self.images]


def read_study(files: Iterable) -> Study:
    """The study of a CT.

    Parameters
    ----------
    files : sequence of path-like
        The files of the CT's series.

    Returns
    -------
    Study

    Raises
    ------
    CNNSurvivalError
        Where the files do not say to which study and series they belong, are of several patients, studies or
        series, or cannot be read.
    """
    wanted = [*REQUIRED, *OPTIONAL, *_IMAGE]
    with without_warnings():  # pydicom's, of dates and names that are none
        headers = [_header(path, wanted) for path in files]
        if not headers or not all(_has_uids(header) for header in headers):
            raise CNNSurvivalError(
                "The CT's DICOM files do not say to which study and series they belong, so nothing can join them; "
                "export the CT again."
            )
        for keyword, many in _SHARED.items():
            if len({str(header.get(keyword) or "") for header in headers}) > 1:
                raise CNNSurvivalError(
                    f"The CT's DICOM files are of several {many} ({keyword} is not the same in all), so no DICOM "
                    "objects are made of it: they could reach the wrong patient; export the CT again."
                )
        about = _about(headers[0])
        return Study(about, tuple(_image(header, about) for header in headers))


def images_on_grid(study: Study, ijk_to_lps: np.ndarray, shape: Sequence[int]) -> tuple:
    """The CT's instances that lie on a grid, where the grid lies in the CT as its files say.

    Parameters
    ----------
    study : Study
    ijk_to_lps : ndarray, shape [4, 4]
        Takes (i, j, k, 1) to LPS mm.
    shape : sequence of int
        Of the grid, [k, j, i].

    Returns
    -------
    tuple of pydicom.Dataset
        Empty where the grid was moved, or the files say too little of where they lie. Planes between slices, where
        slices were missing, are right where they lie on the line from slice to slice.
    """
    if not study.frame_uid:
        return ()
    found = [image for image in study.images if _is_on_axes(image, ijk_to_lps, shape)]
    positions = np.array([frame[0] for frame in _frames(found)], dtype=np.float64).reshape(-1, 3)
    if not len(positions):
        return ()
    normal = np.cross(ijk_to_lps[:3, 0], ijk_to_lps[:3, 1])
    normal /= np.linalg.norm(normal)
    order = np.argsort(positions @ normal)
    places = (positions @ normal)[order]
    origins = ijk_to_lps[:3, 3] + np.arange(shape[0])[:, np.newaxis] * ijk_to_lps[:3, 2]
    on_line = np.stack([np.interp(origins @ normal, places, positions[order, axis]) for axis in range(3)], axis=1)
    pixel = float(np.linalg.norm(ijk_to_lps[:3, 0]))
    off = float(np.linalg.norm(on_line - origins, axis=1).max())
    return tuple(found) if off <= OFF_PLACE * pixel + 0.01 else ()


def _is_on_axes(image, ijk_to_lps: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether all slices of an instance have the grid's size, directions and pixels."""
    if (image.get("Rows"), image.get("Columns")) != tuple(shape[1:]):
        return False
    for position, orientation, spacing in _frames([image]):
        if position is None or orientation is None or spacing is None:
            return False
        axes = np.array(orientation, dtype=np.float64).reshape(2, 3).T
        # PixelSpacing is that between rows, then that between columns.
        steps = axes * np.array(spacing, dtype=np.float64)[::-1]
        # The last of a thousand pixels may be off by a tenth of a millimetre.
        if not np.allclose(ijk_to_lps[:3, :2], steps, atol=1e-4):
            return False
    return True


def own_position(images: tuple, place: np.ndarray) -> list[float]:
    """The place of the slice that begins there, as its file says it; the place itself where no slice does."""
    for position, *_ in _frames(images):
        if _begins_at(position, place):
            return [float(value) for value in position]
    return [float(value) for value in place]


def image_at(images: tuple, place: np.ndarray):
    """(the image with a slice that begins there, the number of its frame); None where there is none.

    The number is None for an image of one frame.
    """
    for image in images:
        for number, (position, *_) in enumerate(_frames([image]), 1):
            if _begins_at(position, place):
                return image, number if "PerFrameFunctionalGroupsSequence" in image else None
    return None


def _begins_at(position, place: np.ndarray) -> bool:
    return position is not None and np.linalg.norm(np.array(position, dtype=np.float64) - place) < 0.01


def _frames(images):
    """(position, orientation, pixel spacing) of each slice; None for what is not said."""
    for image in images:
        if "PerFrameFunctionalGroupsSequence" not in image:
            yield tuple(image.get(key) for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
            continue
        shared = (image.get("SharedFunctionalGroupsSequence") or [{}])[0]
        for own in image.PerFrameFunctionalGroupsSequence:
            yield (
                _in_group(own, shared, "PlanePositionSequence", "ImagePositionPatient"),
                _in_group(own, shared, "PlaneOrientationSequence", "ImageOrientationPatient"),
                _in_group(own, shared, "PixelMeasuresSequence", "PixelSpacing"),
            )


def _in_group(own, shared, group: str, keyword: str):
    items = own.get(group) or shared.get(group)
    return items[0].get(keyword) if items else None


def reference_to(image):
    """The item of a sequence that refers to an instance."""
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _header(path, wanted: list):
    from pathlib import Path

    try:
        header = read_dataset(Path(path), specific_tags=wanted, stop_before_pixels=True)
    except Exception as error:
        raise CNNSurvivalError(
            f"The CT's DICOM file {path} cannot be read; check that it is still there and whole."
        ) from error
    for keyword, other in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        if not header.get(keyword) and header.file_meta.get(other):
            setattr(header, keyword, header.file_meta.get(other))
    return header


def _has_uids(header) -> bool:
    return all(header.get(k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"))


def _about(header):
    from pydicom import Dataset

    about = Dataset()
    about.SpecificCharacterSet = UTF_8  # in which the names of every other character set can be written
    for keyword in OPTIONAL:
        element = _element(header, keyword)
        if element is not None:
            about.add(element)
    for keyword in REQUIRED:
        element = _element(header, keyword)
        if element is None:
            setattr(about, keyword, "")
        else:
            about.add(element)
    if about.get("PatientIdentityRemoved") == "YES" and not _says_how(about):
        about.DeidentificationMethod = "Not stated in the source"  # required beside it
    return about


def _says_how(about) -> bool:
    return bool(about.get("DeidentificationMethod") or about.get("DeidentificationMethodCodeSequence"))


def _image(header, about):
    from copy import deepcopy

    image = deepcopy(about)
    for keyword in _IMAGE:
        element = header[keyword] if keyword in header and header.get(keyword) is not None else None
        if element is not None:
            image.add(element)
    if "PositionReferenceIndicator" not in image:
        image.PositionReferenceIndicator = ""
    if not image.get("SliceThickness") and "PixelSpacing" in image:
        image.SliceThickness = ""
    return image


def _element(header, keyword: str):
    """The element for an object of ours, its text decoded; None where it is missing, empty or wrong."""
    from pydicom import DataElement, Sequence

    try:
        element = header[keyword] if keyword in header else None
        if element is None or element.value in (None, "", []):
            return None
        if element.VR == "SQ":
            return DataElement(element.tag, "SQ", Sequence([_copied(item) for item in element.value]))
        values = _texts(element)
    except Exception:  # a number that is none
        return None
    if keyword not in IDENTIFYING:
        values = [value[: _LENGTHS[element.VR]] for value in values] if element.VR in ("LO", "SH", "LT") else values
        if keyword == "TimezoneOffsetFromUTC" and not re.fullmatch(_TIME_ZONE, values[0].strip()):
            return None
        if not all(_fits(value, element.VR) for value in values) or (
            keyword == "PatientSex" and values[0] not in _SEXES
        ):
            return None
    return DataElement(element.tag, element.VR, values if len(values) > 1 else values[0])


def _copied(item):
    from pydicom import Dataset

    copy = Dataset()
    for element in item:
        own = _element(item, element.keyword) if element.keyword else None
        if own is not None:
            copy.add(own)
    return copy


def _texts(element) -> list:
    """The values as plain text: a name decoded by one character set must not be written by another as it was read."""
    values = element.value if element.VM > 1 else [element.value]
    return [str(value) for value in values]


def _fits(value: str, kind: str) -> bool:
    if kind in _FORMATS and not re.fullmatch(_FORMATS[kind], value.strip()):
        return False
    return kind == "PN" or len(value) <= _LENGTHS.get(kind, len(value))
