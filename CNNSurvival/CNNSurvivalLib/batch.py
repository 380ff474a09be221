"""Many cases: the same rows and tables whether the command line, Slicer's panel or Slicer without a window does it.

predictions.csv has a row for each case that was predicted, failures.csv the reason for each that was not; both are in
the order of the cases, and both are written even if they have no rows, so that none of an earlier run stays behind.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, NamedTuple, Optional

from .errors import Cancelled, CNNSurvivalError, UsageError, existing
from .files import ensure_output_folder, write_csv
from .io.manifest import ManifestRow, duplicate_warnings, read_manifest, with_folder_names
from .prediction import Prediction, predict

PREDICTIONS_HEADER = [
    "patient_id", "n_slices", "risk_18m", "survival_6m", "survival_12m", "survival_18m", "survival_24m",
    "survival_36m", "median_survival_days", "rmst_days", "risk_percentile", "warnings",
]  # fmt: skip
FAILURES_HEADER = ["patient_id", "image", "mask", "reason"]
EIGHTEEN_MONTHS = 18
STOPPED = "Not done: the run was stopped before."
# What tells a mask from a CT in a file name
_MASK_WORDS = re.compile(r"(^|[^a-z])(mask|label|labels|seg|segmentation|roi|gtvp?|tumou?r|contours?)([^a-z]|$)", re.I)
_CT_WORDS = re.compile(r"(^|[^a-z])(ct|image|img|volume|scan)([^a-z]|$)", re.I)
_IMAGES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")


class Outcome(NamedTuple):
    """What became of one case: its row of predictions.csv, or why there is none."""

    row: object  # ManifestRow, or whatever has patient_id, image and mask
    values: Optional[list]
    reason: Optional[str]


def predict_row(row: ManifestRow, bundle, engine, **options) -> tuple[Prediction, dict]:
    """(prediction, what was given) of one row of a manifest; options as for ``prediction.predict``."""
    from .io.read import read_case

    if row.problem:
        raise CNNSurvivalError(row.problem)
    image, mask = existing(row.image_path, "image"), existing(row.mask_path, "mask")
    case = read_case(image, mask, row.segment, None)
    prediction = predict(
        case.hu, case.mask, case.ijk_to_ras, bundle, engine, input_warnings=case.warnings, **options
    )  # fmt: skip
    return prediction, {"image": str(image), "mask": str(mask), "segment": case.segment_name}


def attempt(row, predict_one: Callable, note: Optional[str] = None) -> Outcome:
    """predict_one() -> Prediction, as an outcome: whatever goes wrong becomes the reason. Cancelled is passed on."""
    try:
        return Outcome(row, prediction_row(row.patient_id, predict_one(), note), None)
    except CNNSurvivalError as error:
        return Outcome(row, None, str(error))
    except Cancelled:
        raise
    except Exception as error:  # a fault of ours, or no memory: this case's, not the batch's
        return Outcome(row, None, f"Unexpected error ({type(error).__name__}: {error}).")


def run_batch(
    rows: list, predict_one: Callable, on_outcome: Optional[Callable] = None, progress: Optional[Callable] = None
) -> tuple[list[Outcome], bool]:
    """(an outcome per row, whether the run was stopped). predict_one(row, progress) -> Prediction.

    progress(step, fraction) of the whole may raise Cancelled: what is done then is kept, the rest is listed as not
    done. on_outcome(outcome): told of each as it comes.
    """
    report = progress or (lambda step, fraction: None)
    notes = duplicate_warnings(rows)
    outcomes: list[Outcome] = []
    try:
        for number, row in enumerate(rows):

            def inside(step: str, fraction: float, number=number) -> None:
                report(f"{number + 1} of {len(rows)}: {step}", (number + fraction) / len(rows))

            inside("Reading", 0.0)
            one = partial(predict_one, row, inside)
            outcomes.append(attempt(row, one, notes.get(row.number)))
            if on_outcome is not None:
                on_outcome(outcomes[-1])
    except Cancelled:
        return [*outcomes, *(Outcome(row, None, STOPPED) for row in rows[len(outcomes) :])], True
    return outcomes, False


def write_tables(folder, outcomes: Iterable[Outcome]) -> int:
    """Write predictions.csv and failures.csv; returns the number of failures."""
    outcomes = list(outcomes)
    folder = ensure_output_folder(folder)
    write_csv(folder / "predictions.csv", PREDICTIONS_HEADER, [o.values for o in outcomes if o.values is not None])
    failures = [[o.row.patient_id, o.row.image, o.row.mask, o.reason] for o in outcomes if o.values is None]
    write_csv(folder / "failures.csv", FAILURES_HEADER, failures)
    return len(failures)


def prediction_row(patient_id: str, p: Prediction, note: Optional[str] = None) -> list:
    """A row of predictions.csv; always at the months of its header, whatever the prediction's own horizons are."""
    from .hazards import MONTH_DAYS, survival_at

    months = (6, 12, 18, 24, 36)
    survival = {month: _known(survival_at(p.survival, p.time_days, month * MONTH_DAYS)) for month in months}
    at_18 = survival[EIGHTEEN_MONTHS]
    return [
        patient_id,
        p.slices_used,
        None if at_18 is None else 1 - at_18,
        *survival.values(),
        p.median_survival_days,
        p.rmst_days,
        p.risk_percentile,
        " | ".join([*([note] if note else []), *p.warnings]),
    ]


def _known(value) -> Optional[float]:
    """The number; None for NaN, which stands for beyond the model's horizon."""
    return None if math.isnan(value) else float(value)


# --- Where cases come from ------------------------------------------------------------------------------------


class SceneCase(NamedTuple):
    """A patient of a scene. image, mask: names of the CT and of the segmentation; problem: why it cannot be done."""

    number: int
    patient_id: str
    image: str
    mask: str
    volume: object
    segmentation: object
    segment_id: str
    problem: Optional[str]


def scene_cases(scene) -> list[SceneCase]:
    """Every segmentation of the scene with the CT that it was drawn on and its tumour; a case per segmentation.

    CTs without a segmentation are listed with that as their problem. patient_id is the name of the CT.
    """
    from .mrml import scene as mrml

    cases = []
    for volume, segmentation in mrml.studies(scene):
        problem, segment_id = None, ""
        if segmentation is None:
            problem = f"The CT '{volume.GetName()}' has no segmentation; load or draw one on it."
        elif volume is None:
            problem = f"The segmentation '{segmentation.GetName()}' has no CT; load the one that it was drawn on."
        else:
            segment_id = mrml.guess_segment(segmentation)
            if not segment_id:
                problem = f"No segment of '{segmentation.GetName()}' is called a tumour; rename the one that is."
        names = [node.GetName() if node is not None else "" for node in (volume, segmentation)]
        cases.append(
            SceneCase(len(cases) + 1, names[0] or names[1], *names, volume, segmentation, segment_id, problem)
        )
    if not cases:
        raise UsageError("The scene holds no CT; load patients, or choose a manifest or a folder.")
    return cases


def folder_cases(folder) -> list[ManifestRow]:
    """A row for each patient of a folder: its sub-folders, or the pairs of files in it.

    A sub-folder holds a CT and a mask: two image files of which one is called a mask (mask, seg, label, GTV, tumour,
    ...), or DICOM files with an RTSTRUCT or SEG among them. In a folder of files, a CT and a mask belong together
    when their names differ in such a word alone. What does not fit is a row with a problem. Raises UsageError for a
    folder that is none, or holds nothing of the kind.
    """
    folder = existing(folder, "folder")
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not a folder; choose one with a sub-folder for each patient.")
    rows = [_subfolder_row(path, folder) for path in sorted(folder.iterdir()) if path.is_dir()]
    rows += _pairs(folder)
    if not rows:
        raise UsageError(f"The folder '{folder}' holds no patients: no sub-folders, no NRRD, NIfTI or MetaImage files.")
    numbered = [row._replace(number=number) for number, row in enumerate(rows, 1)]
    return with_folder_names(numbered)


def _subfolder_row(path: Path, root: Path) -> ManifestRow:
    images = _image_files(path)
    masks = [image for image in images if _is_mask(image)]
    scans = [image for image in images if not _is_mask(image)]
    others = [file for file in path.rglob("*") if file.is_file() and file not in images]
    if len(masks) == 1 and len(scans) == 1:
        return _row(path.name, scans[0], masks[0], root)
    if not scans and others:  # DICOM; the mask may be an image file beside it
        return _row(path.name, path, masks[0] if len(masks) == 1 else path, root)
    problem = f"The folder '{path.name}' holds {len(scans)} CTs and {len(masks)} masks; it needs one of each."
    return _row(path.name, path, path, root, problem)


def _pairs(folder: Path) -> list[ManifestRow]:
    found: dict = {}
    for image in _image_files(folder):
        kind = "mask" if _is_mask(image) else "image"
        words = _MASK_WORDS if kind == "mask" else _CT_WORDS
        name = words.sub(" ", _stem(image)).strip(" ._-") or _stem(image)
        found.setdefault(name, {}).setdefault(kind, []).append(image)
    rows = []
    for name, files in found.items():
        images, masks = files.get("image", []), files.get("mask", [])
        if len(images) == 1 and len(masks) == 1:
            rows.append(_row(name, images[0], masks[0], folder))
        else:
            problem = f"'{name}' has {len(images)} CTs and {len(masks)} masks; it needs one of each."
            rows.append(_row(name, *[(some or [folder])[0] for some in (images, masks)], folder, problem))
    return rows


def _image_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(_IMAGES))


def _is_mask(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd") or _MASK_WORDS.search(_stem(path)) is not None


def _stem(path: Path) -> str:
    return re.sub(r"(\.seg)?\.(nrrd|nhdr|nii|nii\.gz|mha|mhd)$", "", path.name, flags=re.I)


def _row(name: str, image: Path, mask: Path, root: Path, problem: Optional[str] = None) -> ManifestRow:
    relative = [str(path.relative_to(root)) for path in (image, mask)]
    return ManifestRow(0, name, *relative, None, root, problem, "")


# --- For the panel and for Slicer without a window -----------------------------------------------------------


def cases_of(source: str, path=None, scene=None) -> list:
    """The cases of a "manifest", a "folder" or the "scene"; raises UsageError where there are none."""
    if source == "scene":
        return scene_cases(scene)
    if not str(path or "").strip():
        raise UsageError(f"No {source} is given; choose one.")
    return read_manifest(path) if source == "manifest" else folder_cases(path)


def predict_case(case, bundle, engine, progress=None, **options) -> Prediction:
    """The prediction of a case of ``cases_of``."""
    if case.problem:
        raise CNNSurvivalError(case.problem)
    if isinstance(case, SceneCase):
        from .mrml import scene as mrml

        return mrml.predict_nodes(case.volume, case.segmentation, case.segment_id, bundle, engine, progress, **options)
    return predict_row(case, bundle, engine, progress=progress, **options)[0]


def shown(outcome: Outcome) -> list[str]:
    """[patient, 18-month risk, median, outcome] for a table on the screen."""
    if outcome.values is None:
        return [outcome.row.patient_id, "", "", outcome.reason]
    values = dict(zip(PREDICTIONS_HEADER, outcome.values))
    median = values["median_survival_days"]
    return [
        outcome.row.patient_id,
        "" if values["risk_18m"] is None else f"{values['risk_18m']:.0%}",
        "not reached" if median is None else f"{median / 30.4375:.1f} months",
        values["warnings"] or "predicted",
    ]


def sentence(outcomes: list, stopped: bool, folder) -> str:
    """What a batch did, in one line."""
    failed = sum(outcome.values is None for outcome in outcomes)
    done = f"{len(outcomes) - failed} of {len(outcomes)} cases predicted; results are in '{folder}'."
    stop = " Stopped before the end." if stopped else ""
    return done + stop + (f" {failed} failed; 'failures.csv' there says why." if failed else "")
