"""Two made-up cohorts under real names: 12 patients of nsclc_radiomics and 12 of cptac_pda, with the UIDs, folders and
descriptions of the real index, as files of the buckets that hold them. Large tumours kill sooner, in both; those of the
pancreas all in all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from CNNSurvivalLib.report.dicom.instance import encoded, new_uid
from dicom_maker import write_ct

SHAPE = (15, 64, 64)  # z, y, x
SPACING = (3.0, 1.0, 0.9)  # mm, as dicom_maker has it
CENTRES = ("1078", "3320")
CLINICAL_BUCKET = "idc-open-metadata"
PATIENTS = 12
DAYS_OF_SMALLEST = {"nsclc_radiomics": 4000, "cptac_pda": 1500}  # the level that fine-tuning has to learn
ALIVE = -0.4  # tumours below this size: 4 of the 12 patients live to the end of their follow-up


@dataclass(frozen=True)
class World:
    """buckets: a folder for each bucket, its files as the keys are. index: the table of series, as idc-index-data's.
    sizes: patient -> from -1 (smallest) to 1."""

    buckets: Path
    index: Path
    sizes: dict[str, float]


def make_world(folder: Path, seed: int = 3) -> World:
    """Write both cohorts, their clinical tables and the index."""
    random = np.random.default_rng(seed)
    rows, sizes, outcomes = [], {}, {}
    for collection, series in (("nsclc_radiomics", _lung()), ("cptac_pda", _pancreas())):
        ranks = random.permutation(np.linspace(-1, 1, PATIENTS))
        for size, (patient, own) in zip(ranks, series.groupby("PatientID")):
            sizes[patient] = float(size)
            rows += _patient(folder / "buckets", own, float(size), random)
            days = int(DAYS_OF_SMALLEST[collection] * np.exp(-1.3 * (size + 1)) * random.uniform(0.9, 1.1))
            outcomes[collection, patient] = (days, int(size > ALIVE))
    index = folder / "index.parquet"
    pd.DataFrame(rows).to_parquet(index)
    _clinical(folder / "buckets", outcomes)
    return World(folder / "buckets", index, sizes)


# --- Rows of the real index -------------------------------------------------------------------------------------------


def _series(collection: str) -> pd.DataFrame:
    import idc_index_data

    rows = pd.read_parquet(idc_index_data.IDC_INDEX_PARQUET_FILEPATH, filters=[("collection_id", "==", collection)])
    return rows.sort_values(["PatientID", "SeriesInstanceUID"])


def _lung() -> pd.DataFrame:
    """CT, RTSTRUCT and SEG of the first patients."""
    rows = _series("nsclc_radiomics")
    rows = rows[rows["Modality"].isin(["CT", "RTSTRUCT", "SEG"]) & rows["analysis_result_id"].isna()]
    return rows[rows["PatientID"].isin(sorted(rows["PatientID"].unique())[:PATIENTS])]


def _pancreas() -> pd.DataFrame:
    """Of the first patients of two centres: an outline of the pancreas, its seed point, a CT of the same study."""
    rows = _series("cptac_pda")
    ct = rows[rows["Modality"] == "CT"]
    ct = ct.assign(centre=ct["SeriesInstanceUID"].str.extract(r"14519\.5\.2\.1\.(\d+)\.", expand=False))
    said = rows["SeriesDescription"].fillna("")
    outlines, seeds = rows[said == "Pre-Dose, PANCREAS - 1"], rows[said == "Pre-Dose, PANCREAS - 1 - SEED POINT"]
    chosen = []
    for centre in CENTRES:
        studies = ct[ct["centre"] == centre].drop_duplicates("PatientID")
        studies = studies[studies["StudyInstanceUID"].isin(outlines["StudyInstanceUID"])].head(PATIENTS // 2)
        for each in (studies, outlines, seeds):
            inside = each[each["StudyInstanceUID"].isin(studies["StudyInstanceUID"])]
            chosen.append(inside.drop_duplicates("PatientID"))
    return pd.concat(chosen).drop(columns="centre")


# --- Files ------------------------------------------------------------------------------------------------------------


def _patient(buckets: Path, series: pd.DataFrame, size: float, random) -> list[dict]:
    """Write a patient's series; returns their rows of the index, with the sizes of what was written."""
    radius = 16 + 6 * size
    z, y, x = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * d for n, d in zip(SHAPE, SPACING)], indexing="ij")
    inside = z**2 + y**2 + x**2 < radius**2
    hu = np.where(inside, random.normal(40, 25, SHAPE), random.normal(-100, 25, SHAPE)).astype(np.int16)
    frame, rows, ct = new_uid(), [], None
    for row in sorted(series.to_dict("records"), key=lambda each: each["Modality"] != "CT"):
        folder = buckets / row["aws_bucket"] / row["crdc_series_uuid"]
        about = {name: row[name] for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")}
        about["SeriesDescription"] = row["SeriesDescription"] or ""
        if row["Modality"] == "CT":
            write_ct(folder, hu, FrameOfReferenceUID=frame, **about)
            ct = row["SeriesInstanceUID"]
        else:
            folder.mkdir(parents=True)
            name = "GTV-1" if row["collection_id"] == "nsclc_radiomics" else "PANCREAS - 1"
            wanted = row["Modality"] == "RTSTRUCT"  # the SEG beside it is not to be taken
            content = encoded(_structures(about, frame, ct, name, radius)) if wanted else b"not a SEG"
            (folder / f"{new_uid()}.dcm").write_bytes(content)
        files = list(folder.iterdir())
        rows.append({**row, "instanceCount": len(files), "series_size_MB": sum(f.stat().st_size for f in files) / 1e6})
    return rows


def _structures(about: dict, frame: str, ct: str, name: str, radius: float):
    """An RTSTRUCT with the outlines of a ball, which refers to a CT series."""
    from pydicom import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import RTStructureSetStorage

    def item(**values):
        made = Dataset()
        for keyword, value in values.items():
            setattr(made, keyword, value)
        return made

    series = item(SeriesInstanceUID=ct)
    study = item(ReferencedSOPInstanceUID=about["StudyInstanceUID"], RTReferencedSeriesSequence=Sequence([series]))
    contours = []
    for k in range(SHAPE[0]):
        height = (k - (SHAPE[0] - 1) / 2) * SPACING[0]
        if abs(height) < radius:
            angle, width = np.linspace(0, 2 * np.pi, 60, endpoint=False), np.sqrt(radius**2 - height**2)
            x = -45.0 + (SHAPE[2] - 1) / 2 * SPACING[2] + width * np.cos(angle)
            y = -40.0 + (SHAPE[1] - 1) / 2 * SPACING[1] + width * np.sin(angle)
            points = np.column_stack([x, y, np.full(60, 100.0 + k * SPACING[0])])
            contours.append(item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=60,
                                 ContourData=[round(float(v), 3) for v in points.ravel()]))  # fmt: skip
    found = item(SOPClassUID=RTStructureSetStorage, SOPInstanceUID=new_uid(), Modality="RTSTRUCT",
                 StructureSetLabel=name, FrameOfReferenceUID=frame, **about)  # fmt: skip
    found.StructureSetROISequence = Sequence([item(ROINumber=1, ROIName=name, ReferencedFrameOfReferenceUID=frame,
                                                   ROIGenerationAlgorithm="MANUAL")])  # fmt: skip
    found.ROIContourSequence = Sequence([item(ReferencedROINumber=1, ContourSequence=Sequence(contours))])
    found.ReferencedFrameOfReferenceSequence = Sequence(
        [item(FrameOfReferenceUID=frame, RTReferencedStudySequence=Sequence([study]))]
    )
    return found


# --- Clinical tables --------------------------------------------------------------------------------------------------


def _clinical(buckets: Path, outcomes: dict) -> None:
    """As Imaging Data Commons exports them: a folder of Parquet files for each table."""
    lung = [
        {"dicom_patient_id": patient, "survivaltime": days, "deadstatusevent": event, "age": str(60 + len(patient)),
         "clinicaltstage": "2", "clinicalnstage": str(number % 4), "clinicalmstage": "0"}
        for number, ((collection, patient), (days, event)) in enumerate(outcomes.items())
        if collection == "nsclc_radiomics"
    ]  # fmt: skip
    pancreas = [
        {"dicom_patient_id": patient, "demo__vital_status": "Dead" if event else "Alive",
         "demo__days_to_death": days if event else None, "diag__days_to_last_follow_up": days + 200 * event,
         "index_date": "Diagnosis", "diag__age_at_diagnosis": 20000 + 300 * number,
         "diag__ajcc_pathologic_n": f"N{number % 3}"}
        for number, ((collection, patient), (days, event)) in enumerate(outcomes.items())
        if collection == "cptac_pda"
    ]  # fmt: skip
    for name, rows in (("nsclc_radiomics_clinical", lung), ("cptac_pda_clinical", pancreas)):
        folder = buckets / CLINICAL_BUCKET / "bigquery_export" / f"idc_{_version()}_clinical" / name
        folder.mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(folder / "000000000000.parquet")


def _version() -> str:
    from importlib import metadata

    return "v" + metadata.version("idc-index-data").split(".")[0]


def files_of(world: World):
    """(bucket, key, path) of every object."""
    for root, _, names in os.walk(world.buckets):
        for name in names:
            path = Path(root) / name
            bucket, *key = path.relative_to(world.buckets).parts
            yield bucket, "/".join(key), path
