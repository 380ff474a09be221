"""Made-up cohorts for the tests: stores, and images on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from CNNSurvivalLib.slices import Preprocessing, percentile_rank_score
from training_cli import store as layout


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
            radius = 20 + 7 * size - 2 * rank
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
        "preprocessing": layout.preprocessing_info(Preprocessing()),
        "images_sha256": hashlib.sha256((folder / layout.IMAGES_FILE).read_bytes()).hexdigest(),
        "counts": {"patients": patients, "patients_usable": patients, "slices": len(images)},
    }
    (folder / layout.STORE_FILE).write_text(json.dumps(info), encoding="utf-8")
    return folder
