"""Public cohorts from NCI Imaging Data Commons: CT, contours and follow-up, ready for ``prepare``.

The list of series comes with the package idc-index, so the selection works offline. Only the images and the clinical
table are fetched over the network, and only without ``--dry-run``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import ensure_output_folder, write_csv

from ..options import install_command

CONTOURS = ("RTSTRUCT", "SEG")


class Known(NamedTuple):
    """A collection that this project knows. segment: what ``prepare --segment`` should look for. analysis: the
    analysis result that the contours belong to (None: the collection's own). description: a pattern that the
    contours' SeriesDescription must match."""

    about: str
    segment: str
    analysis: str | None = None
    description: str = ""


KNOWN = {
    "nsclc_radiomics": Known("non-small cell lung cancer, the paper's cohort 1", "GTV-1"),
    "nsclc_radiogenomics": Known("non-small cell lung cancer, resected", "."),
    "cptac_pda": Known("pancreatic ductal adenocarcinoma", "pancreas", "cptac_pda_tumor_annotations", r"PANCREAS - 1$"),
}


@dataclass(frozen=True)
class Selection:
    """What to download. patients: those with CT and contour; series: all that these need (idc-index's columns)."""

    collection: str
    patients: list[str]
    series: pd.DataFrame
    without: list[str]  # patients without a CT and a contour of the same study

    @property
    def gigabytes(self) -> float:
        return float(self.series["series_size_MB"].sum()) / 1000

    @property
    def licences(self) -> list[str]:
        return sorted(self.series["license_short_name"].dropna().unique())


def select(index: pd.DataFrame, collection: str, patients: int | None = None) -> Selection:
    """Choose one contour for each patient of a collection, and the CT series of its study.

    index: idc-index's table, a row per series (collection_id, analysis_result_id, PatientID, StudyInstanceUID,
    StudyDate, SeriesInstanceUID, SeriesDescription, Modality, series_size_MB, instanceCount, license_short_name).
    Contours made by others' programs (analysis results) are left out, unless KNOWN says which to take. RTSTRUCT
    goes before SEG, an earlier study before a later one. Which of several CT series the contour was drawn on, only
    the contour itself says, so all of its study are taken; ``prepare`` finds the pair. patients: how many of
    them, the first ones in the order of their ids (None: all).

    Raises UsageError for a collection that IDC does not have, or that has no such patients.
    """
    name = _id(collection)
    own = index[index["collection_id"] == name]
    if own.empty:
        near = sorted(c for c in index["collection_id"].unique() if name.split("_")[0] in c)
        hint = f"; did you mean {', '.join(near[:5])}?" if near else "."
        raise UsageError(f"Imaging Data Commons has no collection '{collection}'{hint}")
    known = KNOWN.get(name, Known("", "."))
    found, without = [], []
    for patient, series in own.groupby("PatientID", sort=True):
        chosen = _choose(series, known)
        if chosen is None:
            without.append(str(patient))
        else:
            found.append((str(patient), chosen))
    if not found:
        raise UsageError(f"The collection '{collection}' has no patient with a CT and an RTSTRUCT or SEG.")
    found = found[:patients]
    return Selection(name, [patient for patient, _ in found], pd.concat([series for _, series in found]), without)


def _choose(series: pd.DataFrame, known: Known) -> pd.DataFrame | None:
    """The contour and the CT series of one patient."""
    analysis = series["analysis_result_id"]
    right = analysis.isna() if known.analysis is None else analysis == known.analysis
    named = series["SeriesDescription"].fillna("").str.contains(known.description)
    contours = series[series["Modality"].isin(CONTOURS) & right & named]
    ct = series[(series["Modality"] == "CT") & analysis.isna()]
    contours = contours[contours["StudyInstanceUID"].isin(ct["StudyInstanceUID"])]
    if contours.empty:
        return None
    # RTSTRUCT sorts before SEG.
    contour = contours.sort_values(["Modality", "StudyDate", "SeriesInstanceUID"]).iloc[[0]]
    same_study = ct["StudyInstanceUID"] == contour["StudyInstanceUID"].iloc[0]
    return pd.concat([contour, ct[same_study].sort_values("SeriesInstanceUID")])


def summary(selection: Selection) -> list[tuple[str, str]]:
    """What would be downloaded, as (label, text) for people."""
    known = KNOWN.get(selection.collection)
    kinds = selection.series["Modality"].value_counts()
    return [
        ("collection", selection.collection + (f" ({known.about})" if known else "")),
        ("patients", f"{len(selection.patients)}" + (f" ({len(selection.without)} more have no CT with a contour)"
                                                  if selection.without else "")),
        ("series", ", ".join(f"{count} {kind}" for kind, count in kinds.items())),
        ("size", f"{selection.gigabytes:.1f} GB"),
        ("licence", ", ".join(selection.licences) or "not given"),
    ]  # fmt: skip


def open_client():
    """idc-index's client. Raises UsageError where it is not installed."""
    try:
        from idc_index import IDCClient
    except ImportError as error:
        raise UsageError(f"idc-index is not installed here; run {install_command('download')}.") from error
    return IDCClient()


def offline_index() -> pd.DataFrame:
    """The table of all series that idc-index brings along. Raises UsageError where it is not installed."""
    try:
        import idc_index_data
    except ImportError as error:
        raise UsageError(f"idc-index is not installed here; run {install_command('download')}.") from error
    return pd.read_parquet(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)


def download(selection: Selection, folder, client, log: Callable[[str], None] = print) -> Path:
    """Fetch the series, a folder each, into ``folder``/series; returns that folder, for ``prepare``.

    Series that are complete are not fetched again. Raises CNNSurvivalError if the network or the disk fails.
    """
    folder = ensure_output_folder(folder)
    sizes = selection.series.set_index("SeriesInstanceUID")["instanceCount"]
    missing = [uid for uid in sizes.index if _count(folder / "series" / uid) < sizes[uid]]
    log(f"{len(sizes) - len(missing)} of {len(sizes)} series are here already.")
    if missing:
        try:
            client.download_from_selection(
                downloadDir=str(ensure_output_folder(folder / "series")), seriesInstanceUID=missing,
                dirTemplate="%SeriesInstanceUID", show_progress_bar=True,
            )  # fmt: skip
        except Exception as error:  # s5cmd, network or disk; complete series are kept
            raise CNNSurvivalError(
                f"The download stopped ({type(error).__name__}: {error}); check the network and give the same command "
                "again to continue."
            ) from error
    incomplete = [uid for uid in sizes.index if _count(folder / "series" / uid) < sizes[uid]]
    if incomplete:
        raise CNNSurvivalError(f"{len(incomplete)} series did not arrive whole; give the same command again.")
    return folder / "series"


def download_clinical(selection: Selection, folder: Path, client) -> Path | None:
    """IDC's clinical table of the collection as clinical.csv; None where there is none.

    Its columns are the source's own; 'cnn-survival prepare' takes their names as options.
    """
    try:
        client.fetch_index("clinical_index")
        index = client.clinical_index
        names = index[index["collection_id"] == selection.collection]["short_table_name"].unique()
        tables = [client.get_clinical_table(name) for name in names]
    except Exception as error:
        raise CNNSurvivalError(f"The clinical table could not be fetched ({error}); try again later.") from error
    tables = [table for table in tables if table is not None and len(table)]
    if not tables:
        return None
    table = max(tables, key=len)
    path = folder / "clinical.csv"
    write_csv(path, tuple(table), [[None if pd.isna(v) else v for v in row] for row in table.itertuples(index=False)])
    return path


def segment_pattern(collection: str) -> str | None:
    """What ``prepare --segment`` should look for in a known collection."""
    known = KNOWN.get(_id(collection))
    return known.segment if known else None


def _id(collection: str) -> str:
    return re.sub(r"[-\s]+", "_", collection.strip().lower())


def _count(folder: Path) -> int:
    return sum(1 for path in folder.glob("*.dcm")) if folder.is_dir() else 0
