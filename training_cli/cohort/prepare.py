"""From a cohort's images and follow-up to a store (see ``store``): every patient's masked slices, ranked.

Each case is cut on its own, by joblib on this machine or by a Dask cluster, and kept as a part file until all are
done; what is finished is not done again unless its input changed. The parts are then put together one by one, so
memory does not grow with the cohort, and the store is the same byte for byte whoever did the work.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from CNNSurvivalLib import __version__
from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import atomic_write, ensure_output_folder, write_csv, write_json
from CNNSurvivalLib.io.archive import unpacked
from CNNSurvivalLib.io.case import Case
from CNNSurvivalLib.io.dicom import read_dataset
from CNNSurvivalLib.io.dicom_ct import HEADER, is_ct_slice
from CNNSurvivalLib.io.manifest import manifest_cases
from CNNSurvivalLib.io.read import read_case
from CNNSurvivalLib.io.tables import Table
from CNNSurvivalLib.slices import Preprocessing, RankedSlices, extract_slices, percentile_rank_score

from ..progress import progress, working
from ..workers import dask_client
from .clinical import EVENT, ID, TIME, follow_up
from .contour_file import REFERENCES, referenced_series
from .store import (
    FORMAT,
    FORMAT_VERSION,
    IMAGES_FILE,
    PATIENT_COLUMNS,
    PATIENTS_FILE,
    REJECTED_FILE,
    SLICE_COLUMNS,
    SLICES_FILE,
    Store,
    open_store,
)
from .store_files import STORE_FILE, differences, preprocessing_info
from .tables import one_row_each, read_table, where

PARTS = ".parts"
PART_COLUMNS = ("slice_index", "area_px", "area_mm2", "mean_intensity")  # a value per slice
PAPER_SLICES = 2500  # what the paper keeps of a cohort


def prepare(
    source,
    output,
    preprocessing: Preprocessing = Preprocessing(),
    clinical=None,
    where: dict | None = None,
    segment: str | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    columns: dict | None = None,
    keep_parts: bool = False,
    log: Callable[[str], None] = print,
) -> Store:
    """Make a store.

    source: a manifest (``io.manifest``; patient_id is needed here), or a folder of DICOM files. clinical: the table of
    ``clinical.read_clinical`` (default: the manifest itself), with the names of its columns in ``columns``. where:
    column -> value, chooses rows of both. segment: a regular expression that chooses among the structures of an
    RTSTRUCT or SEG where the manifest names none. scheduler: a Dask scheduler's address.

    Raises UsageError for tables that must be changed, CNNSurvivalError if no patient has a usable slice.
    """
    source = Path(source)
    _check_free(output, preprocessing)
    if source.is_dir() and clinical is None:
        raise UsageError(f"'{source}' is a folder of images; give the patients' follow-up with --clinical.")
    manifest = None if source.is_dir() else read_table(source, "manifest")
    table = manifest if clinical is None else read_table(clinical, "clinical table")
    outcomes = follow_up(table, **(columns or {}))
    cases, problems = read_cases(manifest, where or {}, segment) if manifest else find_dicom_cases(source, segment)
    outcomes = _chosen_outcomes(outcomes, table, where or {})
    output = ensure_output_folder(output)
    parts = ensure_output_folder(output / PARTS)
    known = [case for case in cases if case.patient_id in outcomes.index]
    finished = _cut_all(known, preprocessing, parts, jobs, scheduler)
    rejected = problems + _unmatched(cases, problems, outcomes)
    with working("Writing the store"):
        store = _merge(output, known, finished, outcomes, preprocessing, rejected)
    if not keep_parts:
        shutil.rmtree(parts, ignore_errors=True)
    for label, number in store.info["counts"].items():
        log(f"{label.replace('_', ' ')}: {number}")
    return store


def _check_free(output, preprocessing: Preprocessing) -> None:
    """Raise UsageError if the folder holds a store that was cut in another way: trainings may rest on it."""
    try:
        cut = json.loads((Path(output) / STORE_FILE).read_text(encoding="utf-8"))["preprocessing"]
        different = differences(cut, preprocessing_info(preprocessing))
    except (OSError, ValueError, KeyError, TypeError):  # no store, or a damaged one, which is made again
        return
    if different:
        raise UsageError(
            f"'{output}' holds a store that was cut in another way ({'; '.join(different)}); choose another folder, or "
            "delete it."
        )


# --- The cases --------------------------------------------------------------------------------------------------------


def read_cases(manifest: Table, conditions: dict, segment: str | None) -> tuple[list[Case], list[tuple[str, str]]]:
    """(cases, (patient_id, reason) of those that name no image or mask) of a manifest's rows."""
    manifest.need(ID)
    chosen = where(manifest, conditions)
    one_row_each(chosen)
    found = manifest_cases(chosen)
    problems = [(case.patient_id, case.problem) for case in found if case.problem]
    cases = [case for case in found if not case.problem]
    if segment:
        cases = [case if case.segment else replace(case, segment=_choose_segment(case.mask_path, segment))
                 for case in cases]  # fmt: skip
    return cases, problems


def find_dicom_cases(root: Path, segment: str | None) -> tuple[list[Case], list[tuple[str, str]]]:
    """Pairs each RTSTRUCT or SEG below a folder with the CT series that it refers to, by PatientID.

    Returns (cases in the order of PatientID, (PatientID, reason) of patients without one clear pair).
    """
    series, contours = {}, []
    paths = sorted(p for p in root.rglob("*") if p.is_file())
    for path in progress(paths, len(paths), "Reading DICOM headers", "file"):
        with contextlib.suppress(Exception):  # whatever is no DICOM file is not ours
            header = read_dataset(path, stop_before_pixels=True, specific_tags=[
                *HEADER, "PatientID", "ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence",
                *REFERENCES.values(),
            ])  # fmt: skip
            if is_ct_slice(path, header):
                series.setdefault((str(header.PatientID), str(header.SeriesInstanceUID)), path.parent)
            elif header.Modality in REFERENCES:
                contours.append((str(header.PatientID), path, referenced_series(header)))
    if not contours:
        raise UsageError(f"The folder '{root}' holds no RTSTRUCT or SEG; give the folder with CT series and contours.")
    cases, problems = [], []
    for patient in sorted({p for p, _ in series} | {p for p, _, _ in contours}):
        own_series = {uid: folder for (p, uid), folder in series.items() if p == patient}
        own = [(path, uid) for p, path, uid in contours if p == patient]
        found, reason = _one_pair(patient, own_series, own, segment)
        if reason:
            problems.append((patient, reason))
        else:
            cases.append(found)
    return cases, problems


def _one_pair(patient: str, series: dict, contours: list, segment: str | None):
    """(the patient's case, None), or (None, why not)."""
    if not contours:
        return None, "There is no RTSTRUCT or SEG for this patient."
    if not series:
        return None, "There is no CT series for this patient."
    if segment:
        contours = [(path, uid) for path, uid in contours if _choose_segment(path, segment)]
        if not contours:
            return None, f"No structure of this patient matches '{segment}'."
    matching = [(path, uid) for path, uid in contours if uid in series]
    if not matching and len(series) == 1:
        matching = [(path, next(iter(series))) for path, _ in contours]  # for what names no series, if it is clear
    if len(matching) != 1:
        return None, f"{len(matching)} contours refer to a CT series of this patient; put the case into a manifest."
    path, uid = matching[0]
    name = _choose_segment(path, segment) if segment else None
    return Case(image=str(series[uid]), mask=str(path), patient_id=patient, segment=name, series_uid=uid), None


def _choose_segment(path: Path, pattern: str) -> str | None:
    """The first structure of a contour file whose name matches; None if none does, or if the file has no names."""
    with contextlib.suppress(CNNSurvivalError), unpacked([path]) as (place,):
        files = [file for file in sorted(place.rglob("*")) if file.is_file()] if place.is_dir() else [place]
        for file in files:
            with contextlib.suppress(Exception):
                header = read_dataset(file, stop_before_pixels=True)
                items = getattr(header, REFERENCES[header.Modality])
                for item in items:
                    name = str(getattr(item, "ROIName", None) or getattr(item, "SegmentLabel", ""))
                    if re.search(pattern, name, re.IGNORECASE):
                        return name
    return None


def _chosen_outcomes(outcomes: pd.DataFrame, table: Table, conditions: dict) -> pd.DataFrame:
    """The follow-up of the rows that the conditions choose; those on columns that the table lacks do not count."""
    known = {column: value for column, value in conditions.items() if table.column(column)}
    kept = {id(row) for row in where(table, known).rows}
    return outcomes[[id(row) in kept for row in table.rows]]


def _unmatched(cases, problems, outcomes: pd.DataFrame) -> list[tuple[str, str]]:
    """Patients with images alone or follow-up alone."""
    with_images = {case.patient_id for case in cases} | {patient for patient, _ in problems}
    alone = [(case.patient_id, "The patient has images but no row in the clinical table.")
             for case in cases if case.patient_id not in outcomes.index]  # fmt: skip
    return alone + [(patient, "The patient is in the clinical table but has no images.")
                    for patient in outcomes.index if patient not in with_images]  # fmt: skip


# --- One case ---------------------------------------------------------------------------------------------------------


def cut_case(case: Case, preprocessing: Preprocessing, part: Path) -> None:
    """Cut one case and write its part file, unless the file is there and its input has not changed since."""
    with contextlib.suppress(OSError):
        fingerprint = _fingerprint(case, preprocessing)
        if part.is_file() and _read_part(part).facts["fingerprint"] == fingerprint:
            return
    facts: dict = {"fingerprint": None, "reason": None, "roi_slices": 0, "warnings": []}
    slices: RankedSlices | None = None
    try:
        for name, path in (("image", case.image_path), ("mask", case.mask_path)):
            if not path.exists():
                raise CNNSurvivalError(f"The {name} '{path.name}' does not exist.")
        facts["fingerprint"] = _fingerprint(case, preprocessing)
        slices = _cut(case, preprocessing, facts)
    except CNNSurvivalError as error:
        facts["reason"] = str(error)
    except Exception as error:  # a fault of ours, or no memory: this case's, not the cohort's
        facts["reason"] = f"Unexpected error ({type(error).__name__}: {error})."
    arrays = {} if slices is None else {name: getattr(slices, name) for name in ("images", *PART_COLUMNS)}
    with atomic_write(part, "wb", to_disk=False) as stream:  # what a power cut damages is cut anew: see _read_part
        np.savez(stream, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)


def _cut(case: Case, preprocessing: Preprocessing, facts: dict) -> RankedSlices:
    found = read_case(str(case.image_path), str(case.mask_path), case.segment, case.series_uid)
    facts["segment"] = found.segment_name
    voxel_mm3 = abs(np.linalg.det(found.ijk_to_ras[:3, :3]))
    facts["volume_cc"] = float(np.count_nonzero(found.mask) * voxel_mm3 / 1000)
    arguments = (found.hu, found.mask, found.ijk_to_ras)
    try:
        slices = extract_slices(*arguments, preprocessing)
    except CNNSurvivalError:
        with contextlib.suppress(CNNSurvivalError):  # the small slices count among the cohort's
            facts["roi_slices"] = extract_slices(*arguments, replace(preprocessing, min_roi_px=1)).roi_slices
        raise
    facts["roi_slices"], facts["warnings"] = slices.roi_slices, [*found.warnings, *slices.warnings]
    return slices


def _fingerprint(case: Case, preprocessing: Preprocessing) -> str:
    """What a part depends on: the files' sizes and times, and how slices are cut."""
    files = []
    for path in (case.image_path, case.mask_path):
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files += [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in inside]
    given = {"patient_id": case.patient_id, "image": str(case.image_path), "mask": str(case.mask_path),
             "segment": case.segment, "series_uid": case.series_uid}  # fmt: skip
    text = json.dumps([given, files, preprocessing_info(preprocessing), __version__])
    return hashlib.sha256(text.encode()).hexdigest()


class _Part(NamedTuple):
    """A part without its images. facts: no fingerprint where the part is not whole. table: a column per entry."""

    facts: dict
    table: dict


def _read_part(part: Path, images: bool = True) -> _Part:
    """Without ``images`` these are not read, and so not checked."""
    try:
        with part.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            # All of it, as the archive checks what is read.
            content = {name: arrays[name] for name in arrays.files if images or name != "images"}
        facts = json.loads(content.pop("facts").tobytes())
        content.pop("images", None)
        return _Part(facts, content)
    except (OSError, ValueError, KeyError, EOFError, AttributeError, NotImplementedError, RuntimeError, zlib.error,
            zipfile.BadZipFile):  # fmt: skip
        return _Part({"fingerprint": None}, {})


def _part_path(parts: Path, case: Case) -> Path:
    return parts / f"{hashlib.sha256(case.patient_id.encode()).hexdigest()[:24]}.npz"


def _cut_all(cases, preprocessing, parts: Path, jobs: int, scheduler: str | None) -> list[Path]:
    paths = [_part_path(parts, case) for case in cases]
    work = _on_dask(cases, preprocessing, paths, scheduler) if scheduler else _on_joblib(
        cases, preprocessing, paths, jobs
    )  # fmt: skip
    for _ in progress(work, len(cases), "Cutting slices"):
        pass
    return paths


def _on_joblib(cases, preprocessing, paths, jobs: int) -> Iterator:
    from joblib import Parallel, delayed

    tasks = (delayed(cut_case)(case, preprocessing, path) for case, path in zip(cases, paths))
    return Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)


def _on_dask(cases, preprocessing, paths, scheduler: str) -> Iterator:
    """The workers must see the same folders under the same names."""
    with dask_client(scheduler) as client:
        from distributed import as_completed

        absolute = [path.resolve() for path in paths]
        here = [replace(case, folder=Path.cwd() / (case.folder or "")) for case in cases]
        futures = client.map(cut_case, here, [preprocessing] * len(cases), absolute, pure=False)
        for future in as_completed(futures):
            yield future.result()


# --- The store --------------------------------------------------------------------------------------------------------


def _merge(output: Path, cases, parts, outcomes, preprocessing, rejected) -> Store:
    """Put the parts together, a case at a time."""
    (output / STORE_FILE).unlink(missing_ok=True)  # from here on until the end, the folder is no store
    read = [_read_part(part, images=False) for part in parts]  # _write_images reads these
    facts = [part.facts for part in read]
    rejected = rejected + [(case.patient_id, f["reason"]) for case, f in zip(cases, facts) if f["reason"]]
    usable = [(case, part, f) for case, part, f in zip(cases, parts, facts) if not f["reason"]]
    write_csv(output / REJECTED_FILE, ("patient_id", "reason"), rejected)
    if not usable:
        reason = f" The first reason is: {rejected[0][1]}" if rejected else ""
        raise CNNSurvivalError(f"No patient has a usable slice; '{output / REJECTED_FILE}' says why.{reason}")
    slices = _slice_table(cases, read, outcomes)
    digest = _write_images(output / IMAGES_FILE, [part for _, part, _ in usable], len(slices), preprocessing.crop_px)
    patients = _patient_table(usable, slices, outcomes)
    write_csv(output / SLICES_FILE, SLICE_COLUMNS, slices.itertuples(index=False))
    write_csv(output / PATIENTS_FILE, tuple(patients), [[None if pd.isna(v) else v for v in row]
                                                        for row in patients.itertuples(index=False)])  # fmt: skip
    roi = sum(f["roi_slices"] for f in facts)
    write_json(output / STORE_FILE, {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "preprocessing": preprocessing_info(preprocessing),
        "images_sha256": digest,
        "counts": {
            "patients": len(cases) + len(rejected) - sum(bool(f["reason"]) for f in facts),
            "patients_usable": len(patients),
            "deaths_usable": int(patients[EVENT].sum()),
            "slices": roi,
            f"slices_of_{preprocessing.min_roi_px}_px_or_more": len(slices),
            f"slices_kept_of_the_best_{PAPER_SLICES}": min(PAPER_SLICES, len(slices)),
            "patients_kept": int(slices.loc[slices["cohort_rank"] <= PAPER_SLICES, ID].nunique()),
        },
        "warnings": {case.patient_id: f["warnings"] for case, _, f in usable if f["warnings"]},
    })  # fmt: skip
    return open_store(output)


def _slice_table(cases, parts: list[_Part], outcomes: pd.DataFrame) -> pd.DataFrame:
    usable = [(case.patient_id, part.table) for case, part in zip(cases, parts) if not part.facts["reason"]]
    counts = [len(table["slice_index"]) for _, table in usable]
    patients = np.repeat([patient for patient, _ in usable], counts)
    slices = pd.DataFrame({name: np.concatenate([table[name] for _, table in usable]) for name in PART_COLUMNS})
    slices[ID] = patients
    slices["patient_rank"] = np.concatenate([np.arange(1, count + 1) for count in counts])
    for name in (TIME, EVENT):
        slices[name] = outcomes[name].reindex(patients).to_numpy()
    slices["cohort_score"] = percentile_rank_score(slices["area_px"], slices["mean_intensity"])[0]
    order = np.argsort(-slices["cohort_score"].to_numpy(), kind="stable")
    slices.loc[order, "cohort_rank"] = np.arange(1, len(slices) + 1)
    return slices.astype({"cohort_rank": int})[list(SLICE_COLUMNS)]


def _patient_table(usable, slices: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    largest, counts = slices.groupby(ID)["area_px"].max(), slices.groupby(ID).size()
    rows = []
    for case, _, facts in usable:
        patient = case.patient_id
        named = case.segment or case.series_uid
        rows.append((patient, outcomes.loc[patient, TIME], outcomes.loc[patient, EVENT], facts["volume_cc"],
                     int(largest[patient]), facts["roi_slices"], int(counts[patient]), str(case.image_path),
                     str(case.mask_path), facts["segment"] if named else ""))  # fmt: skip
    table = pd.DataFrame(rows, columns=PATIENT_COLUMNS)
    others = outcomes.drop(columns=[c for c in outcomes if c.casefold() in PATIENT_COLUMNS])
    return table.join(others, on=ID)


def _write_images(path: Path, parts: list[Path], count: int, size: int) -> str:
    """Stream the parts' images into one .npy file; returns its SHA-256."""
    # Not into a memory map: where the disk is full, writing to one kills the process.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)})
    digest = hashlib.sha256(header.getvalue())
    with atomic_write(path, "wb") as stream:
        stream.write(header.getvalue())
        for part in parts:
            with np.load(part, allow_pickle=False) as arrays:
                own = np.ascontiguousarray(arrays["images"]).tobytes()
            stream.write(own)
            digest.update(own)
    return digest.hexdigest()
