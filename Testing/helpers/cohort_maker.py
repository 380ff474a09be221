"""Made-up cohorts for the tests: stores, and images on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from CNNSurvivalLib.slices import Preprocessing, percentile_rank_score
from training_cli.cohort import store as layout
from training_cli.cohort.store_files import preprocessing_info


def make_store(folder: Path, patients: int = 24, slices: int = 3, seed: int = 0, signal: float = 1.0) -> Path:
    """A store of round tumours. Large ones kill sooner: the hazard grows with exp(signal * size)."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:140, :140] - 69.5
    images, slice_rows, patient_rows = [], [], []
    for number in range(patients):
        name = f"m{number:03d}"
        size = random.uniform(-1.5, 1.5)
        time = float(np.ceil(random.exponential(700 * np.exp(-signal * size))))
        limit = random.uniform(300, 3000)
        time, event = (time, 1) if time <= limit else (float(np.ceil(limit)), 0)
        for rank in range(slices):
            radius = max(1.0, 20 + 7 * size - 2 * rank)
            inside = np.hypot(y, x * random.uniform(0.8, 1.2)) < radius
            image = np.where(inside, np.clip(random.normal(130, 25, inside.shape), 1, 255), 0).astype(np.uint8)
            images.append(image)
            area = int(inside.sum())
            slice_rows.append(
                [name, rank, area, float(area), float(image[inside].mean()), rank + 1, 0.0, 0, time, event]
            )
        area = int((images[-slices] > 0).sum())
        patient_rows.append([name, time, event, area * 0.04, area, slices, slices, "", "", "", 50 + number % 30])
    table = pd.DataFrame(slice_rows, columns=layout.SLICE_COLUMNS)
    table["cohort_score"] = percentile_rank_score(table["area_px"], table["mean_intensity"])[0]
    table["cohort_rank"] = np.argsort(np.argsort(-table["cohort_score"].to_numpy(), kind="stable")) + 1
    np.save(folder / layout.IMAGES_FILE, np.array(images))
    table.to_csv(folder / layout.SLICES_FILE, index=False)
    pd.DataFrame(patient_rows, columns=[*layout.PATIENT_COLUMNS, "age_years"]).to_csv(
        folder / layout.PATIENTS_FILE, index=False
    )
    (folder / layout.REJECTED_FILE).write_text("patient_id,reason\n", encoding="utf-8")
    info = {
        "format": layout.FORMAT,
        "format_version": layout.FORMAT_VERSION,
        "preprocessing": preprocessing_info(Preprocessing()),
        "images_sha256": hashlib.sha256((folder / layout.IMAGES_FILE).read_bytes()).hexdigest(),
        "counts": {"patients": patients, "patients_usable": patients, "slices": len(images)},
    }
    (folder / layout.STORE_FILE).write_text(json.dumps(info), encoding="utf-8")
    return folder


def make_images(folder: Path, patients: int, seed: int = 0, signal: float = 2.5, shuffled: bool = False) -> Path:
    """CTs and masks of round tumours as NRRD, and manifest.csv; two cohorts, 'first' (60 %) and 'second'.

    The hazard grows with exp(signal * size), size from -1 to 1; with ``shuffled`` outcomes it does not. The last
    patient's tumour is too small to use.
    """
    import SimpleITK as sitk

    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    z, y, x = np.mgrid[:9, :60, :60] - np.array([4, 30, 30])[:, None, None, None]
    rows, outcomes = [], []
    for number in range(patients):
        name = f"s{number:03d}"
        size = random.uniform(-1, 1)
        radius = 17 + 7 * size if number < patients - 1 else 5
        mask = (np.hypot(np.hypot(x, y), 3.0 * z) < radius).astype(np.uint8)
        hu = np.where(mask, random.normal(40, 30, mask.shape), random.normal(-700, 60, mask.shape)).astype(np.int16)
        for kind, array in (("ct", hu), ("mask", mask)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1.0, 1.0, 3.0))
            sitk.WriteImage(image, str(folder / f"{name}_{kind}.nrrd"), useCompression=True)
        time = random.exponential(500 * np.exp(-signal * size))
        limit = random.uniform(200, 2000)
        outcomes.append((int(np.ceil(min(time, limit))), int(time <= limit)))
        cohort = "first" if number < 0.6 * patients else "second"
        rows.append([name, cohort, f"{name}_ct.nrrd", f"{name}_mask.nrrd", 50 + number % 30, 1 + number % 4])
    if shuffled:
        random.shuffle(outcomes)
    table = pd.DataFrame(rows, columns=["patient_id", "cohort", "image", "mask", "age_years", "t_stage"])
    table[["time_days", "event"]] = outcomes
    table.to_csv(folder / "manifest.csv", index=False)
    return folder
