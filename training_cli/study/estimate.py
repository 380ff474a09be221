"""What a study of public cohorts will take: patients, gigabytes, licences, hours on this machine.

The speed of training is measured here, on a few made-up slices. The other numbers are assumptions, which are said
beside the result: CPU times of one core of a server, measured in 2026 (docs/pdac.md).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.hazards import exponential_edges, survival_targets

from ..cohort import download
from ..cohort.download import Estimate
from ..training import train
from .config import Cohort, Network, PublicCohort, Study, TransferStudy
from .workspace import settings_of

GB = 1e9
NETWORK_BYTES_PER_S = 100e6 / 8  # 100 Mbit/s
CUT_S_PER_GB = 14.0  # 0.9 s for a CT of 124 slices, 65 MB
RADIOMICS_S = 6.0  # of a patient: 2.3 s for 12 ml, 15 s for 359 ml
USABLE = 0.9  # of the patients have a slice of 250 px; in NSCLC-Radiomics 377 of 422 or so
SLICES = 13  # usable ones of a patient; the paper: 5479 of 422 patients
STORE_BYTES = SLICES * 140 * 140 * 1.1
RUNS_BYTES = 0.5e9  # runs, cross-validation, report
REST_S = 900.0  # fine-tuning, scores with their resamples, pictures, bundles
DISC_PX = 22  # radius of the slices that the speed is measured on, some 1500 px


def estimate(study: Study | TransferStudy, output, jobs: int = 1, index=None) -> list[tuple[str, str]]:
    """(label, text) for people.

    Raises UsageError for a study without cohorts to download, or of another kind than ``Study``.
    """
    if not isinstance(study, Study) or not study.cohort:
        raise UsageError(f"--dry-run needs a study of [[cohort]] tables to download and a table [finetuning]; "
                         f"'{study.path}' is another.")  # fmt: skip
    sizes = {each.name: _size(study, each, index) for each in study.cohort}
    total = sum(size.bytes for size in sizes.values())
    times = _times(study, sizes, total, jobs)
    rows = [(each.name, _cohort_text(each, sizes[each.name])) for each in study.cohort]
    rows.append(("download", f"{total / GB:.1f} GB; what is there already is not fetched again"))
    rows.append(
        ("disk", _disk_text(total + sum(s.patients for s in sizes.values()) * STORE_BYTES + RUNS_BYTES, output))
    )
    rows += [(label, f"{_duration(seconds)}  {assumption}") for label, seconds, assumption in times]
    rows.append(("together", f"{_duration(sum(seconds for _, seconds, _ in times))}; each stage continues if it is "
                             "stopped"))  # fmt: skip
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > 1.2 * cores:  # this process is one of them
        rows.append(("note", f"other programs keep this machine busy now ({load:.0f} processes on {cores} cores); "
                             "without them it is faster"))  # fmt: skip
    return rows


def _size(study: Study, cohort: PublicCohort, index) -> Estimate:
    """What a cohort is before it is downloaded."""
    rules = None if cohort.rules is None else study.path.parent / cohort.rules
    plan = download.make_plan(cohort.collection, index, cohort.patients, cohort.without, rules)
    return download.estimate(plan)


def _cohort_text(cohort: PublicCohort, size: Estimate) -> str:
    most = "" if size.exact else "at most "
    return (f"{cohort.collection}: {size.patients} patients with a contour, {most}{size.bytes / GB:.1f} GB, "
            f"licence {', '.join(size.licences) or 'not given'}; how many have follow-up is known after the "
            "download")  # fmt: skip


def _disk_text(needed: float, output) -> str:
    place = next(path for path in (Path(output).absolute(), *Path(output).absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    verdict = "enough" if free > needed else "TOO LITTLE"
    return f"{needed / GB:.1f} GB in all, images included; {free / GB:.0f} GB are free at '{place}': {verdict}"


# --- Time -------------------------------------------------------------------------------------------------------------


def _times(study: Study, sizes: dict[str, Estimate], total: int, jobs: int) -> list[tuple[str, float, str]]:
    """(stage, seconds, what was assumed or measured)."""
    pretrain, tuned = (_patients(sizes, cohort) for cohort in (study.pretrain, study.finetuning))
    rows = [
        ("downloading", total / NETWORK_BYTES_PER_S, "assumed: 100 Mbit/s"),
        ("cutting slices", CUT_S_PER_GB * total / GB / jobs, f"assumed: {CUT_S_PER_GB:g} s of a core for each GB, "
                                                             f"{jobs} at once"),
    ]  # fmt: skip
    for network in study.networks:
        rows += _training_times(study, network, round(USABLE * pretrain))
    if "radiomics" in study.baselines:
        rows.append(("radiomics", RADIOMICS_S * tuned / jobs, f"assumed: {RADIOMICS_S:g} s of a core for each patient"))
    rows.append(("the rest", REST_S, "assumed: fine-tuning, scores, report, bundles"))
    return rows


def _patients(sizes: dict[str, Estimate], cohort: Cohort) -> int:
    return sizes[cohort.cohort].patients if cohort.cohort else 0


def _training_times(study: Study, network: Network, patients: int) -> list[tuple[str, float, str]]:
    settings = settings_of(study, train.PAPER, network.pretrain)
    speed = train.seconds_per_slice(_discs(), replace(settings, average_from=0))
    said = f"measured here: {1 / speed:.0f} slices a second"
    slices = _slices(settings, patients)
    rows = [(f"pretraining {network.id}", settings.epochs * slices * speed, f"{settings.epochs} epochs of {slices} "
             f"slices; {said}")]  # fmt: skip
    if network.crossvalidate is not None:
        settings = settings_of(study, train.PAPER, network.pretrain, network.crossvalidate)
        folds = study.crossvalidation.folds
        seconds = (folds - 1) * settings.epochs * _slices(settings, patients) * speed
        rows.append((f"cross-validating {network.id}", seconds, f"{folds} folds of {settings.epochs} epochs"))
    return rows


def _slices(settings: train.Settings, patients: int) -> int:
    """Of an epoch."""
    if settings.balanced:
        return settings.balanced * patients
    return min(settings.best_slices or SLICES * patients, SLICES * patients)


def _discs(patients: int = 8, slices: int = 4) -> train.Examples:
    """Slices to measure the speed on."""
    y, x = np.mgrid[:140, :140] - 69.5
    image = np.where(np.hypot(y, x) < DISC_PX, 130, 0).astype(np.uint8)
    count = patients * slices
    survived, died = survival_targets(np.full(count, 400.0), np.ones(count, bool), exponential_edges())
    owners = np.repeat([f"p{number}" for number in range(patients)], slices)
    return train.Examples(
        np.repeat(image[None], count, 0), survived.astype(np.float32), died.astype(np.float32), owners
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
