"""A CT as DICOM files with the tags of a scanner, and a picture; needs pydicom 2.4 or newer and SimpleITK."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from CNNSurvivalLib.report.dicom.instance import encoded, new_uid

SPACING = (3.0, 1.0, 0.9)  # between slices, rows, columns, mm
ORIGIN = (-45.0, -40.0, 100.0)  # of the first voxel, LPS mm
ABOUT = {
    "PatientName": "Muster^Erika", "PatientID": "4711", "PatientBirthDate": "19500203", "PatientSex": "F",
    "StudyDate": "20200102", "StudyTime": "101500", "StudyID": "7", "AccessionNumber": "A7",
    "ReferringPhysicianName": "House^Gregory", "StudyDescription": "Chest", "PatientAge": "069Y",
}  # fmt: skip
# The vectors of rows, columns and slices of a grid without tilt, as parts of mm
UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def ijk_to_ras(axes=UPRIGHT) -> np.ndarray:
    """4 x 4 of the CT that ``write_ct`` writes."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(axes).T * SPACING[::-1]
    matrix[:3, 3] = ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def write_ct(folder: Path, hu: np.ndarray, charset="ISO_IR 100", without=(), left_out=(), axes=UPRIGHT, **values):
    """The files of a series [k, j, i]; returns their paths in the order of k.

    without: keywords of elements that the files lack. left_out: slices that are missing. values: other values than
    those of ABOUT; bytes are written as they are.
    """
    import pydicom
    from pydicom.uid import CTImageStorage

    folder.mkdir(parents=True, exist_ok=True)
    uids = {name: new_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras(axes)
    paths = []
    for k, plane in enumerate(hu):
        if k in left_out:
            continue
        ct = pydicom.Dataset()
        ct.SpecificCharacterSet = charset
        ct.SOPClassUID, ct.SOPInstanceUID, ct.Modality = CTImageStorage, new_uid(), "CT"
        ct.ImageType, ct.SeriesNumber, ct.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 2, k + 1
        ct.ImagePositionPatient = [round(float(v), 6) for v in matrix[:3, 3] + k * matrix[:3, 2]]
        ct.ImageOrientationPatient = [*axes[0], *axes[1]]
        ct.PixelSpacing, ct.SliceThickness = [SPACING[1], SPACING[2]], SPACING[0]
        ct.Rows, ct.Columns = plane.shape
        ct.SamplesPerPixel, ct.PhotometricInterpretation = 1, "MONOCHROME2"
        ct.BitsAllocated, ct.BitsStored, ct.HighBit, ct.PixelRepresentation = 16, 16, 15, 1
        ct.RescaleIntercept, ct.RescaleSlope, ct.PixelData = 0, 1, plane.astype("<i2").tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of values that are none
            for keyword, value in {**ABOUT, **uids, **values}.items():
                _set(ct, keyword, value)
            for keyword in without:
                if keyword in ct:
                    del ct[keyword]
            content = encoded(ct)
        paths.append(folder / f"{k:03d}.dcm")
        paths[-1].write_bytes(content)
    return paths


def _set(dataset, keyword: str, value) -> None:
    """Also a value that is none of its kind, as files from elsewhere have it."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    kind = dictionary_VR(keyword)
    if kind not in ("DA", "TM", "CS", "AS", "DS") and not isinstance(value, bytes):
        setattr(dataset, keyword, value)
        return
    content = value if isinstance(value, bytes) else value.encode("ascii")
    content += b" " * (len(content) % 2)
    tag = Tag(tag_for_keyword(keyword))
    dataset[tag] = RawDataElement(tag, kind, len(content), content, 0, False, True)


def picture(shape=(40, 61, 3)) -> tuple:
    """(a PNG file's bytes, its pixels)."""
    import tempfile

    import SimpleITK as sitk

    pixels = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=len(shape) == 3), str(path))
        return path.read_bytes(), pixels
