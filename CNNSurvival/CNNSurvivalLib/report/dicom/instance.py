"""What all objects have in common: identity, series, equipment, the CT's patient and study; and their files."""

from __future__ import annotations

import datetime
import io
from copy import deepcopy

from ... import __version__
from .study import Study

MANUFACTURER, MODEL_NAME, SERIAL_NUMBER = "CNNSurvival", "CNNSurvival", "1"
RESEARCH_SERIES = "research use only"


def new_uid() -> str:
    """A UID under 2.25, which everybody may make (PS3.5, B.2)."""
    import uuid

    return f"2.25.{uuid.uuid4().int}"


def new_instance(study: Study, sop_class: str, modality: str, title: str, number: int):
    """A dataset with the modules Patient, Study, Series, Equipment and SOP Common; a series of its own.

    Parameters
    ----------
    study : Study
    sop_class : str
        UID of the kind of object.
    modality : str
    title : str
        What the object is, at most 45 characters; goes into the series' description.
    number : int
        Of the series.
    """
    from pydicom import Dataset

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, new_uid()
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = modality, new_uid(), number
    dataset.InstanceNumber = 1
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = SERIAL_NUMBER, __version__
    return finished(dataset, study, title)


def finished(dataset, study: Study, title: str):
    """The dataset with the CT's patient and study, dates, and the series' description; also one that highdicom made."""
    for element in study.about:
        dataset.add(deepcopy(element))
    now = datetime.datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    for name in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, name + "Date", date)
        setattr(dataset, name + "Time", time)
    dataset.SeriesDescription = f"{title} ({RESEARCH_SERIES})"
    return dataset


def series_options(number: int) -> dict:
    """What highdicom's constructors take of series and equipment."""
    return {
        "series_instance_uid": new_uid(), "series_number": number, "sop_instance_uid": new_uid(), "instance_number": 1,
        "manufacturer": MANUFACTURER, "manufacturer_model_name": MODEL_NAME, "software_versions": __version__,
        "device_serial_number": SERIAL_NUMBER,
    }  # fmt: skip


def encoded(dataset) -> bytes:
    """The file of a dataset, in explicit little endian."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = io.BytesIO()
    if int(pydicom.__version__.split(".")[0]) >= 3:
        pydicom.dcmwrite(content, dataset, enforce_file_format=True)
    else:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        pydicom.dcmwrite(content, dataset, write_like_original=False)
    return content.getvalue()


def uid_of(path) -> str:
    """The SOPInstanceUID of a file of ours."""
    import pydicom

    return str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
