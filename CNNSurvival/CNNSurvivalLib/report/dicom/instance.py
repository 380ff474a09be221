"""What all objects have in common: identity, series, equipment, the CT's patient and study; and their files."""

from __future__ import annotations

import datetime
import io
import re
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

from ... import __version__
from ...prediction import Prediction
from .study import Study

MANUFACTURER, MODEL_NAME = "CNNSurvival", "CNNSurvival"
SERIAL_NUMBER = "1"  # software has none, but SEG and Parametric Map must state one
DEVICE_UID = "2.25.248129076398152461013580429875416330217"  # of this software as an observer, the same in each report
SCHEME = "99CNNSURVIVAL"  # of the project's own codes
RESEARCH_SERIES = "research use only"


class Series(NamedTuple):
    """What an object is called, and the number of its series."""

    title: str
    number: int


REPORT, CURVE, TUMOUR = Series("report", 9101), Series("curve", 9102), Series("tumour", 9103)
MAP, NUMBERS = Series("risk map", 9104), Series("numbers", 9105)


@dataclass(frozen=True)
class Origin:
    """What an object was made by, and of what, so that one found alone can be traced.

    Attributes
    ----------
    tumour : str
        The segment's name.
    model : str
        The model's name and version.
    weights : str
        SHA-256 of the network's weights.
    population : str
        Name of the population that the prediction is for.
    """

    tumour: str
    model: str
    weights: str
    population: str

    @classmethod
    def of(cls, prediction: Prediction, tumour: str) -> Origin:
        """The origin of a prediction's objects."""
        bundle = prediction.bundle
        return cls(as_text(tumour) or "Tumour", as_text(bundle.id), bundle.sha256, as_text(prediction.population.name))

    @property
    def software_versions(self) -> list[str]:
        """Versions of software, model and weights: values of SoftwareVersions, each of 64 characters or fewer."""
        # The weights' 64 characters are not last, where a file may put a space behind them.
        return [__version__, self.weights, f"model {self.model}"[:64], f"population {self.population}"[:64]]

    @property
    def description(self) -> str:
        """Tumour and population, for a text of 64 characters."""
        return f"{self.tumour}; {self.population}"[:64]


def as_text(text: str) -> str:
    """The text as one value of at most 64 characters: a backslash would begin another."""
    return re.sub(r"[\\\x00-\x1f]", " ", text).strip()[:64]


def new_uid() -> str:
    """A UID under 2.25, which everybody may make (PS3.5, B.2)."""
    import uuid

    return f"2.25.{uuid.uuid4().int}"


def new_instance(study: Study, origin: Origin, sop_class: str, modality: str, series: Series):
    """A dataset with the modules Patient, Study, Series, Equipment and SOP Common; a series of its own.

    Parameters
    ----------
    study : Study
    origin : Origin
    sop_class : str
        UID of the kind of object.
    modality : str
    series : Series
    """
    from pydicom import Dataset

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, new_uid()
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = modality, new_uid(), series.number
    dataset.InstanceNumber = 1
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    return finished(dataset, study, origin, series)


def finished(dataset, study: Study, origin: Origin, series: Series):
    """The dataset with the CT's patient and study, dates, versions and the series' description; also highdicom's."""
    for element in study.about:
        dataset.add(deepcopy(element))
    now = _now(study.about.get("TimezoneOffsetFromUTC"))
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    for name in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, name + "Date", date)
        setattr(dataset, name + "Time", time)
    dataset.SoftwareVersions = origin.software_versions
    before, after = f"CNN Survival {series.title}: ", f" ({RESEARCH_SERIES})"
    dataset.SeriesDescription = before + origin.tumour[: 64 - len(before) - len(after)] + after
    return dataset


def _now(offset):
    """The time in the zone that the CT's times are of, such as "+0900"; the computer's where the CT names none."""
    if not offset:
        return datetime.datetime.now()
    minutes = 60 * int(offset[1:3]) + int(offset[3:])
    zone = datetime.timezone(datetime.timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    return datetime.datetime.now(zone)


def series_options(series: Series) -> dict:
    """What highdicom's constructors take of series and equipment."""
    return {
        "series_instance_uid": new_uid(), "series_number": series.number, "sop_instance_uid": new_uid(),
        "instance_number": 1, "manufacturer": MANUFACTURER, "manufacturer_model_name": MODEL_NAME,
        "software_versions": __version__, "device_serial_number": SERIAL_NUMBER,
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
