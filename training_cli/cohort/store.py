"""A cohort on disk, ready to train on: the masked slices of every patient, and the follow-up.

A store is a folder:

    slices.npy      uint8 [n, 140, 140]: every usable slice, patient by patient, each patient's best slice first
    slices.csv      a row per slice, in the order of slices.npy (SLICE_COLUMNS)
    patients.csv    a row per patient with a usable slice (PATIENT_COLUMNS, then the clinical table's own columns)
    rejected.csv    patient_id, reason: patients without a usable slice, an image or follow-up
    store.json      format, how the slices were cut (Preprocessing), counts, and the SHA-256 of slices.npy

store.json is written last: a folder without it is not a store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.slices import Preprocessing, percentile_rank_score

from .store_files import STORE_FILE, check_store
from .tables import read_own_csv

FORMAT = "cnn-survival-store"
FORMAT_VERSION = 1
IMAGES_FILE, SLICES_FILE, PATIENTS_FILE, REJECTED_FILE = "slices.npy", "slices.csv", "patients.csv", "rejected.csv"

# patient_rank: 1 = the patient's best slice. cohort_rank: 1 = the best of the cohort (the mean of the
# percentile ranks of area and mean intensity; ties in the order of the rows). slice_index: along the axis of the
# image as it is stored. mean_intensity: grey level 0..255 inside the ROI.
SLICE_COLUMNS = (
    "patient_id", "slice_index", "area_px", "area_mm2", "mean_intensity", "patient_rank", "cohort_score",
    "cohort_rank", "time_days", "event",
)  # fmt: skip
# volume_cc: the whole mask's. roi_slices: slices (after the slice step) that hold any ROI; usable_slices: those with
# min_roi_px or more. image, mask, segment: what they were cut from.
PATIENT_COLUMNS = (
    "patient_id", "time_days", "event", "volume_cc", "largest_area_px", "roi_slices", "usable_slices", "image", "mask",
    "segment",
)  # fmt: skip


@dataclass(frozen=True)
class Store:
    """An opened store, or a part of its patients.

    images: uint8 [n, crop, crop], memory-mapped; the whole store's also where this is a part. slices: a row per
    slice of these patients, its index the row in ``images``. patients: a row per patient, indexed by patient_id.
    """

    folder: Path
    info: dict
    images: np.ndarray
    slices: pd.DataFrame
    patients: pd.DataFrame

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.info["preprocessing"])

    @property
    def sha256(self) -> str:
        """Of slices.npy."""
        return self.info["images_sha256"]

    @property
    def time(self) -> np.ndarray:
        """Follow-up in days, float64 [patients], in the order of ``patients``."""
        return self.patients["time_days"].to_numpy(np.float64)

    @property
    def event(self) -> np.ndarray:
        """Whether the patient died, bool [patients]."""
        return self.patients["event"].to_numpy() == 1

    @property
    def patient_ids(self) -> list[str]:
        return list(self.patients.index)

    @property
    def rejected(self) -> pd.DataFrame:
        """The patients of the cohort that are not in the store: columns patient_id, reason."""
        return read_own_csv(self.folder / REJECTED_FILE, dtype=str)

    @cached_property
    def _rows(self) -> dict:
        return {key: np.asarray(rows) for key, rows in self.slices.groupby("patient_id", sort=False).groups.items()}

    def rows(self, patient_id: str, count: int | None = None) -> np.ndarray:
        """Rows of ``images`` of a patient's slices, best first; at most ``count``."""
        return self._rows[patient_id][:count]

    def best_rows(self, count: int | None) -> np.ndarray:
        """Rows of ``images`` of these patients' ``count`` best slices (None: all), by the cohort ranking."""
        area, intensity = self.slices["area_px"].to_numpy(), self.slices["mean_intensity"].to_numpy()
        order = np.argsort(-percentile_rank_score(area, intensity)[0], kind="stable")[:count]
        return self.slices.index.to_numpy()[order]

    def part(self, patient_ids) -> Store:
        """The same store with these patients alone, in the store's order. Raises UsageError for an unknown one."""
        wanted = {str(patient) for patient in patient_ids}
        unknown = sorted(wanted - set(self.patients.index))
        if unknown:
            raise UsageError(f"The store '{self.folder}' has no patient '{unknown[0]}'.")
        keep_patients = self.patients.index.isin(wanted)
        keep_slices = self.slices["patient_id"].isin(wanted)
        return replace(self, slices=self.slices[keep_slices], patients=self.patients[keep_patients])


def open_store(folder) -> Store:
    """Open a store. Raises UsageError for a folder that is not a store, CNNSurvivalError for a damaged one."""
    folder = check_store(folder)
    try:
        info = json.loads((folder / STORE_FILE).read_text(encoding="utf-8"))
        images = np.load(folder / IMAGES_FILE, mmap_mode="r", allow_pickle=False)
        slices = read_own_csv(folder / SLICES_FILE, dtype={"patient_id": str})
        patients = read_own_csv(folder / PATIENTS_FILE, dtype={"patient_id": str, "segment": str})
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise CNNSurvivalError(f"The store '{folder}' cannot be read ({error}); make it again.") from error
    if not isinstance(info, dict):
        raise CNNSurvivalError(f"The store '{folder}' is damaged ({STORE_FILE} is not a JSON object); make it again.")
    if info.get("format") != FORMAT or info.get("format_version") != FORMAT_VERSION:
        raise CNNSurvivalError(f"The store '{folder}' was made by another version of this software; make it again.")
    missing = [name for name in ("preprocessing", "images_sha256") if name not in info]
    missing += [name for name in SLICE_COLUMNS if name not in slices]
    missing += [name for name in PATIENT_COLUMNS if name not in patients]
    if missing:
        raise CNNSurvivalError(f"The store '{folder}' is damaged ('{missing[0]}' is missing); make it again.")
    if len(slices) != len(images) or images.dtype != np.uint8 or images.ndim != 3:
        raise CNNSurvivalError(f"The store '{folder}' is damaged (its table and its images differ); make it again.")
    return Store(folder, info, images, slices, patients.set_index("patient_id"))
