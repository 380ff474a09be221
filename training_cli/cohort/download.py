"""Public cohorts from NCI Imaging Data Commons: contours, then the CT that they refer to, and the clinical table.

The list of series comes with the package idc-index-data, so the selection works offline. Only ``fetch`` uses the
network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from collections.abc import Collection as Names
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import ensure_output_folder, write_csv

from . import s5cmd
from .collections import collection_id, known_collection
from .contour_file import read_contour
from .idc_index import idc_version, read_index
from .s5cmd import Endpoint, Folder
from .selection import SELECTION_FILE, Choice, Plan, choose, plan, write_selection

CLINICAL_BUCKET = "idc-open-metadata"
CLINICAL = "s3://{bucket}/bigquery_export/idc_{version}_clinical/{table}/*"


@dataclass(frozen=True)
class Estimate:
    """What a download will take. patients: those with a CT and a contour; without: those who have none. bytes: at
    most, as the largest CT of each patient's study may be the one."""

    collection: str
    about: str
    patients: int
    without: int
    contours: int
    ambiguous: int
    bytes: int
    exact: bool
    licences: tuple[str, ...]


def make_plan(collection: str, index=None, patients: int | None = None, without: Names[str] = (),
              collections=None) -> Plan:  # fmt: skip
    """The candidates of a collection, offline. index: see ``read_index``; collections: see ``known_collection``."""
    name = collection_id(collection)
    return plan(read_index(name, index), name, known_collection(name, collections), patients, without)


def estimate(chosen: Plan) -> Estimate:
    """What fetching a plan will take."""
    largest = [int(patient.ct["bytes"].max()) for patient in chosen.patients]
    licences = pd.concat([chosen.contours, chosen.ct])["license_short_name"].dropna().unique()
    return Estimate(
        collection=chosen.collection,
        about=chosen.known.about or "",
        patients=len(chosen.patients),
        without=len(chosen.without),
        contours=len(chosen.contours),
        ambiguous=sum(bool(patient.doubts) for patient in chosen.patients),
        bytes=int(chosen.contours["bytes"].sum()) + sum(largest),
        exact=all(len(patient.ct) == 1 and len(patient.contours) == 1 for patient in chosen.patients),
        licences=tuple(sorted(licences)),
    )


def summary(numbers: Estimate) -> list[tuple[str, str]]:
    """What would be fetched, as (label, text) for people."""
    more = f" ({numbers.without} more have no CT with such a contour)" if numbers.without else ""
    size = f"{numbers.bytes / 1e9:.1f} GB"
    rows = [
        ("collection", numbers.collection + (f" ({numbers.about})" if numbers.about else "")),
        ("patients", f"{numbers.patients}{more}"),
        ("series", f"{numbers.contours} contours, and one CT for each patient"),
        ("size", size if numbers.exact else f"at most {size}; the contours say which CT of a study is needed"),
        ("licence", ", ".join(numbers.licences) or "not given"),
    ]
    if numbers.ambiguous:
        rows.append(
            ("ambiguous", f"{numbers.ambiguous} patients by the index alone; {SELECTION_FILE} says which and why")
        )
    return rows


def fetch(collection: str, folder, endpoint: Endpoint | str | None = None, index=None, patients: int | None = None,
          without: Names[str] = (), collections=None, log: Callable[[str], None] = print) -> Path:  # fmt: skip
    """Fetch a collection into a folder; the same call continues one that was interrupted.

    Parameters
    ----------
    collection : str
        Its id at Imaging Data Commons.
    folder : str or Path
        Gets series/<SeriesInstanceUID>/*.dcm, only whole series; selection.csv, a manifest that says why each contour
        and CT was chosen; and, where there is one that can be fetched, clinical/<table> and clinical.csv.
    endpoint : Endpoint or str, optional
        aws, gcs or a URL; see ``s5cmd.find_endpoint``.
    index, collections : str or Path, optional
        See ``idc_index.read_index`` and ``collections.known_collection``.
    patients : int, optional
        Only the first ones in the order of their ids.
    without : collection of str
        Patients to leave out.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError
        For a collection, patient, endpoint or index that is not there.
    CNNSurvivalError
        If the network, the bucket or the disk fails: what is wrong and what to do. What is whole is kept.
    """
    return fetch_plan(make_plan(collection, index, patients, without, collections), folder, endpoint, log)


def fetch_plan(
    chosen: Plan, folder, endpoint: Endpoint | str | None = None, log: Callable[[str], None] = print
) -> Path:
    """``fetch``, of a plan that was made before."""
    endpoint = endpoint if isinstance(endpoint, Endpoint) else s5cmd.find_endpoint(endpoint)
    s5cmd.program()
    folder = ensure_output_folder(folder)
    series = ensure_output_folder(folder / "series")
    log(f"The contours of {len(chosen.patients)} patients")
    s5cmd.fetch([_series(row) for _, row in chosen.contours.iterrows()], series, endpoint, log)
    choices = choose_pairs(chosen, series)
    write_selection(folder / SELECTION_FILE, choices, chosen.known)
    paired = [choice for choice in choices if choice.ct is not None]
    if not paired:
        raise CNNSurvivalError(f"None of the contours can be used; '{folder / SELECTION_FILE}' says why.")
    log(f"Their CT, {len(paired)} series; '{folder / SELECTION_FILE}' says why each was chosen")
    s5cmd.fetch([_series(choice.ct) for choice in paired], series, endpoint, log)
    _fetch_clinical(chosen, folder, endpoint, log)
    return folder


def choose_pairs(chosen: Plan, series: Path) -> list[Choice]:
    """A choice for each patient, from the contours that lie in ``series``."""
    read = {}
    for uid in chosen.contours["SeriesInstanceUID"]:
        file = min((series / uid).iterdir())
        read[uid] = read_contour(file, chosen.known.segment or ".")
    return [choose(patient, read, chosen.known) for patient in chosen.patients]


def _series(row: pd.Series) -> Folder:
    about = f"patient {row['PatientID']} ({row['Modality']} {row['SeriesInstanceUID']})"
    return Folder(row["SeriesInstanceUID"], row["series_aws_url"], int(row["instanceCount"]), int(row["bytes"]), about)


def _fetch_clinical(chosen: Plan, folder: Path, endpoint: Endpoint, log: Callable[[str], None]) -> None:
    """clinical/<table> and clinical.csv, or a sentence: the images can be used without."""
    table, version = chosen.known.clinical, idc_version()
    if table is None or version is None:
        why = ("this project knows no clinical table of the collection" if table is None
               else "idc-index-data, which gives the version of the table, is not installed here")  # fmt: skip
        log(f"Follow-up was not fetched: {why}; the collection's page has it.")
        return
    url = CLINICAL.format(bucket=CLINICAL_BUCKET, version=version, table=table)
    try:
        wanted = Folder(table, url, None, None, f"the clinical table {table}")
        s5cmd.fetch([wanted], folder / "clinical", endpoint, log=lambda text: None)
        frame = _read_clinical(folder / "clinical" / table)
    except CNNSurvivalError as error:
        log(f"Follow-up was not fetched. {error} The collection's page has a table, too.")
        return
    rows = [[None if pd.isna(value) else value for value in row] for row in frame.itertuples(index=False)]
    write_csv(folder / "clinical.csv", tuple(frame), rows)


def _read_clinical(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow's many
        shutil.rmtree(path, ignore_errors=True)
        raise CNNSurvivalError(f"The clinical table '{path.name}' cannot be read ({error}).") from error
