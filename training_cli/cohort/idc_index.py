"""The table of all series of NCI Imaging Data Commons, which the package idc-index-data brings along: no network."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pandas as pd

from CNNSurvivalLib.errors import UsageError, existing

from ..options import install_command

VARIABLE = "CNNSURVIVAL_IDC_INDEX"
BYTES_PER_MB = 1_000_000
# What is read: the index has a million rows and more columns than are needed.
COLUMNS = (
    "collection_id", "analysis_result_id", "PatientID", "StudyInstanceUID", "StudyDate", "SeriesInstanceUID",
    "SeriesDescription", "Modality", "instanceCount", "license_short_name", "series_aws_url", "series_size_MB",
)  # fmt: skip


def read_index(collection: str, path=None) -> pd.DataFrame:
    """The rows of one collection.

    Parameters
    ----------
    collection : str
        Its id, such as nsclc_radiomics.
    path : str or Path, optional
        A parquet file with the columns of idc-index-data, for a mirror that is older or newer than the installed
        index. Default: the file that the environment variable CNNSURVIVAL_IDC_INDEX names, else the installed one.

    Returns
    -------
    pandas.DataFrame
        A row per series: COLUMNS, and ``bytes``, the sum of its files' sizes. ``series_size_MB`` is that sum / 1e6,
        exactly.

    Raises
    ------
    UsageError
        For an index that is missing or cannot be read, and a collection that it does not have.
    """
    file = _file(path)
    try:
        rows = pd.read_parquet(file, columns=list(COLUMNS), filters=[("collection_id", "==", collection)])
    except Exception as error:  # pyarrow's many
        raise UsageError(f"The index '{file}' cannot be read ({error}); it must be the parquet file of "
                         "idc-index-data, or one with the same columns.") from error  # fmt: skip
    if rows.empty:
        names = pd.read_parquet(file, columns=["collection_id"])["collection_id"].unique()
        near = sorted(name for name in names if collection.split("_")[0] in name)
        hint = f"; did you mean {', '.join(near[:5])}?" if near else "."
        raise UsageError(f"Imaging Data Commons has no collection '{collection}'{hint}")
    rows["bytes"] = (rows["series_size_MB"] * BYTES_PER_MB).round().astype("int64")
    rows["SeriesDescription"] = rows["SeriesDescription"].fillna("").astype(str)
    return rows.reset_index(drop=True)


def idc_version() -> str | None:
    """The version of Imaging Data Commons that the installed index is of, such as "v25"; None without one."""
    try:
        return "v" + metadata.version("idc-index-data").split(".")[0]
    except metadata.PackageNotFoundError:
        return None


def _file(path) -> Path:
    given = path or os.environ.get(VARIABLE)
    if given:
        return existing(given, "index")
    try:
        import idc_index_data
    except ImportError as error:
        raise UsageError(f"idc-index is not installed here; run {install_command('download')}.") from error
    return Path(idc_index_data.IDC_INDEX_PARQUET_FILEPATH)
