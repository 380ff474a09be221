"""Made-up files under the real UIDs, buckets and keys of Imaging Data Commons, and an index that fits them."""

from __future__ import annotations

import uuid
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from training_cli.cohort.idc_index import idc_version


def real_rows(collection, patients=None) -> pd.DataFrame:
    """The rows of one collection or of several in the installed index, with all its columns."""
    import idc_index_data

    filters = [("collection_id", "in", [collection] if isinstance(collection, str) else list(collection))]
    rows = pd.read_parquet(idc_index_data.IDC_INDEX_PARQUET_FILEPATH, filters=filters)
    return rows if patients is None else rows[rows["PatientID"].isin(patients)]


def publish(server, rows: pd.DataFrame, files: dict[str, list[bytes]], index: Path) -> Path:
    """Put files into the buckets, and write an index of the rows with their true numbers and sizes.

    files: SeriesInstanceUID -> the contents. Series without files are in the index alone, as they are in ``rows``.
    """
    rows = rows.copy()
    for place, row in rows.iterrows():
        contents = files.get(row["SeriesInstanceUID"])
        if contents is not None:
            bucket, series = row["series_aws_url"].split("/")[2:4]
            for number, content in enumerate(contents):
                server.put(bucket, f"{series}/{uuid.uuid5(uuid.UUID(series), str(number))}.dcm", content)
            rows.loc[place, "instanceCount"] = len(contents)
            rows.loc[place, "series_size_MB"] = sum(map(len, contents)) / 1e6
    rows.to_parquet(index)
    return index


def publish_clinical(server, table: str, frame: pd.DataFrame) -> None:
    stream = BytesIO()
    frame.to_parquet(stream)
    key = f"bigquery_export/idc_{idc_version()}_clinical/{table}/000000000000.parquet"
    server.put("idc-open-metadata", key, stream.getvalue())


def ct_files(row, hu: np.ndarray) -> list[bytes]:
    """A CT series [k, j, i] in HU under the UIDs of an index row, on the phantom's spacing."""
    return [_bytes(dataset) for dataset in _slices(row, hu)]


def rtstruct_files(row, ct_row, structures: dict[str, np.ndarray]) -> list[bytes]:
    """An RTSTRUCT that refers to the CT of ``ct_row``. structures: name -> mask [k, j, i]; an empty one is named,
    but has no contour."""
    from training_cli.demo import phantom

    some = next(iter(structures.values()))
    slices = _slices(ct_row, np.zeros(some.shape, np.int16))
    contours = phantom._structure_set(slices, {phantom.TUMOUR: some * 0.0, phantom.HEART: some * 0.0}, _uids(row))
    contours.PatientID, contours.SeriesDescription = row["PatientID"], row["SeriesDescription"] or ""
    contours.StudyInstanceUID, contours.SeriesInstanceUID = row["StudyInstanceUID"], row["SeriesInstanceUID"]
    names, drawn = contours.StructureSetROISequence, contours.ROIContourSequence
    contours.StructureSetROISequence, contours.ROIContourSequence = names[: len(structures)], drawn[: len(structures)]
    for item, shape, (name, mask) in zip(names, drawn, structures.items()):
        item.ROIName = name
        shape.ContourSequence = list(phantom._contours(mask.astype(np.float32), slices))
    return [_bytes(contours)]


def seg_files(row, ct_row, mask: np.ndarray) -> list[bytes]:
    """A DICOM SEG that refers to the CT of ``ct_row``, with the phantom's two segments."""
    from training_cli.demo import phantom

    slices = _slices(ct_row, np.zeros(mask.shape, np.int16))
    both = {phantom.TUMOUR: mask.astype(np.float32), phantom.HEART: np.roll(mask, 3, axis=2).astype(np.float32)}
    segments = phantom._segmentation(slices, both, _uids(row))
    segments.PatientID, segments.SeriesInstanceUID = row["PatientID"], row["SeriesInstanceUID"]
    segments.StudyInstanceUID = row["StudyInstanceUID"]
    return [_bytes(segments)]


def _slices(row, hu: np.ndarray) -> list:
    from training_cli.demo import phantom

    slices = [phantom._ct_slice(plane, k, _uids(row)) for k, plane in enumerate(hu)]
    for dataset in slices:
        dataset.PatientID, dataset.PatientName = row["PatientID"], row["PatientID"] + "^"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = row["StudyInstanceUID"], row["SeriesInstanceUID"]
        dataset.SeriesDescription = row["SeriesDescription"] or ""
    return slices


def _uids(row):
    from training_cli.demo import phantom

    made = phantom._uids(0)
    return lambda name: made(f"{row['SeriesInstanceUID']} {name}")


def _bytes(dataset) -> bytes:
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
