"""The picture of the curve as Secondary Capture Image (PS3.3, A.8.1)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from .instance import CURVE, Origin, new_instance
from .study import Study

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def secondary_capture(study: Study, origin: Origin, png: bytes):
    """The object.

    Parameters
    ----------
    study : Study
    origin : Origin
    png : bytes
        The picture, as a PNG file. It must not show who the patient is.

    Returns
    -------
    pydicom.Dataset
    """
    pixels = pixels_of(png)
    dataset = new_instance(study, origin, SECONDARY_CAPTURE, "OT", CURVE)
    dataset.ConversionType = "SYN"  # drawn, not captured
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation, dataset.Laterality = "", ""
    dataset.BurnedInAnnotation = "NO"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.ContentQualification = "RESEARCH"
    dataset.DerivationDescription = f"Predicted survival after the CT, drawn as a curve: {origin.description}"
    dataset.SourceImageSequence = study.references
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB"
    return dataset


def pixels_of(png: bytes) -> np.ndarray:
    """A PNG file's pixels on white, uint8 [rows, columns, 3]."""
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory(prefix="cnn-survival-") as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(png)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
    if pixels.shape[2] == 4:
        opacity = pixels[:, :, 3:] / 255.0
        return np.rint(pixels[:, :, :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, :, :3])
