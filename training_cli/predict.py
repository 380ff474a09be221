"""``cnn-survival predict``: one case to a folder of results, or a manifest of cases to one table."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from CNNSurvivalLib.batch import STOPPED as NOT_DONE
from CNNSurvivalLib.batch import Outcome, attempt, predict_and_read, write_tables
from CNNSurvivalLib.bundle import Bundle, load_bundle
from CNNSurvivalLib.engines import Engine, create_engine
from CNNSurvivalLib.explanation import occlusion_maps, on_ct_grid
from CNNSurvivalLib.files import ensure_output_folder
from CNNSurvivalLib.io.case import Case, duplicate_warnings, with_folder_names
from CNNSurvivalLib.io.read import TumourImage, ct_files, dicom_segment, find_segments
from CNNSurvivalLib.lesions import ALL, choose_lesions
from CNNSurvivalLib.prediction import HORIZONS_MONTHS, Prediction
from CNNSurvivalLib.report.case_folder import write_case_folder
from CNNSurvivalLib.report.dicom.folder import FOLDER, Objects, Tumour, make_objects, placed
from CNNSurvivalLib.report.dicom.study import Study, read_study
from CNNSurvivalLib.report.page import report_pdf

from .figures.survival import survival_png


@dataclass(frozen=True)
class Settings:
    """How to predict: the model's folder, the engine's name, and what overrides the model's own choices.

    population and covariates (name -> text) are those of cases that do not name their own. force: images that are no
    CT are predicted, too. report: cases get a report.pdf. lesions: what is taken of several lesions in one mask.
    """

    model: Path
    engine: str = "numpy"
    min_roi_px: int | None = None
    max_slices: int | None = None
    population: str | None = None
    covariates: Mapping = field(default_factory=dict)
    force: bool = False
    horizons_months: tuple = HORIZONS_MONTHS
    report: bool = False
    lesions: str = ALL
    dicom: bool = False


class BatchResult(NamedTuple):
    done: int
    failed: int
    stopped: bool


def predict_to_folder(case: Case, output, settings: Settings, title=None) -> Prediction:
    """Predict one case and write its files to output: those of ``case_folder.write_case_folder``.

    Each file is replaced as a whole; others in the folder are left alone. When the case fails, nothing is written,
    and a folder that was made for it is removed again.
    """
    bundle, engine = _model(settings)
    with _output_folder(output) as folder:
        done = _predict(case, bundle, engine, settings)
        _write_case(done, folder, title, settings)
    return done.prediction


def segment_cases(case: Case, wanted: Sequence[str]) -> list[Case]:
    """The case once for each segment that the names and patterns choose."""
    names = find_segments(case.mask_path, wanted)
    cases = [replace(case, segment=name, patient_id="case-1", number=n) for n, name in enumerate(names, 1)]
    return with_folder_names(cases, by="segment")


def predict_cases(
    cases: list[Case], output, settings: Settings, jobs: int = 1, details: bool = False,
    log: Callable[[str], None] = print,
) -> BatchResult:  # fmt: skip
    """Predict cases and write predictions.csv and failures.csv to output.

    Both are in the cases' order whatever ``jobs`` is, and both are written even if they have no rows, so that none of
    an earlier run stays behind. Each process holds one case at a time. ``details`` writes each case's own files into
    output/<patient_id>, or output/<segment> for several segments of one case. ``log`` gets a line for the user where
    something is wrong. After an interrupt what is done is written, and the cases that were not reached are listed as
    failures.
    """
    bundle, _ = _model(settings)  # what is wrong with it is wrong with every case
    bundle.population.read(settings.covariates)
    notes = duplicate_warnings(cases)
    for note in dict.fromkeys(notes.values()):
        log(f"Warning: {note}")
    with _output_folder(output) as folder:
        outcomes, stopped = _run(cases, settings, notes, folder if details else None, jobs, log)
        failed = write_tables(folder, outcomes)
    return BatchResult(len(cases) - failed, failed, stopped)


# --- One case -------------------------------------------------------------------------------------------------


class _Done(NamedTuple):
    """A predicted case. study: that of its CT, where DICOM objects are wanted."""

    case: Case
    prediction: Prediction
    tumour: TumourImage
    study: Study | None
    engine: Engine


def _predict(case: Case, bundle: Bundle, engine, settings: Settings) -> _Done:
    study = _study(case) if settings.dicom else None
    prediction, tumour = predict_and_read(
        case, bundle, engine, min_roi_px=settings.min_roi_px, max_slices=settings.max_slices,
        covariates=settings.covariates, force=settings.force, lesions=settings.lesions,
        horizons_months=settings.horizons_months,
    )  # fmt: skip
    return _Done(case, prediction, tumour, study, engine)


def _study(case: Case) -> Study:
    with ct_files(case.image_path, case.series_uid) as files:
        return read_study(files)


def _write_case(done: _Done, folder: Path, title: str | None, settings: Settings) -> None:
    case, prediction = done.case, done.prediction
    given = {"image": str(case.image_path), "mask": str(case.mask_path), "segment": done.tumour.segment_name}
    picture = survival_png(prediction, title)
    with contextlib.ExitStack() as stack:
        if done.study is not None:
            # No title, which may name the patient: only what is DICOM's own does.
            objects = _objects(done, picture if title is None else survival_png(prediction))
            stack.enter_context(placed(objects, folder / FOLDER))  # where the other files fail, these go again
        write_case_folder(prediction, folder, given, patient=title, picture=lambda: picture, report=settings.report)


def _objects(done: _Done, picture: bytes) -> Objects:
    prediction, read, study = done.prediction, done.tumour, done.study
    engine = done.engine
    if prediction.population.name != engine.population:  # that of the case's own
        engine = create_engine(engine.name, prediction.bundle)
    maps = occlusion_maps(prediction, engine)
    objects = make_objects(
        prediction, study, _tumour(done), curve=picture, named=bool(study.patient),
        report=report_pdf(prediction, {"segment": read.segment_name}, study.patient),
        risk_map=on_ct_grid(maps, prediction, read.hu.shape, read.ijk_to_ras),
    )  # fmt: skip
    for note in objects.notes:
        print(f"Warning: {note}", file=sys.stderr)
    return objects


def _tumour(done: _Done) -> Tumour:
    """The tumour, and the DICOM SEG that it comes from, where that is just it and belongs to the CT's study."""
    read, given = done.tumour, done.case
    chosen = done.prediction.provenance["parameters"]["lesions"]
    mask, _lesions = choose_lesions(read.mask, read.ijk_to_ras, chosen)
    found = dicom_segment(given.mask_path, given.segment) if mask is read.mask else None
    if found is None or found[0].get("StudyInstanceUID") != done.study.about.StudyInstanceUID:
        return Tumour(mask, read.ijk_to_ras, read.segment_name)
    return Tumour(mask, read.ijk_to_ras, read.segment_name, *found)


@contextlib.contextmanager
def _output_folder(path) -> Iterator[Path]:
    """A folder that takes files; if the block fails, the folders made for it go again unless something is in them."""
    path = Path(path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    ensure_output_folder(path)
    try:
        yield path
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


# --- Many cases -----------------------------------------------------------------------------------------------


def _run(cases, settings: Settings, notes: dict, details: Path | None, jobs: int, log) -> tuple[list[Outcome], bool]:
    """(an outcome per case in the cases' order, whether the user stopped it)."""
    outcomes: list[Outcome] = []
    stopped = False
    bar = tqdm(total=len(cases), desc="Predicting", unit="case", file=sys.stderr)
    try:
        with bar, contextlib.closing(_outcomes(cases, settings, notes, details, jobs)) as running:
            for outcome in running:
                outcomes.append(outcome)
                if outcome.reason is not None:
                    bar.clear()
                    log(f"{outcome.case.patient_id}: {outcome.reason}")
                bar.update()
    except KeyboardInterrupt:
        stopped = True
    outcomes += [Outcome(case, None, NOT_DONE) for case in cases[len(outcomes) :]]
    return outcomes, stopped


def _outcomes(cases, settings: Settings, notes: dict, details: Path | None, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        _start_worker(settings)
        for case in cases:
            yield _one(case, settings, notes.get(case.number), details)
        return
    # spawn: a fork of a process with threads (torch, ITK) may hang.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start_pool_worker, (settings,))
    try:
        futures = [pool.submit(_one, case, settings, notes.get(case.number), details) for case in cases]
        for case, future in zip(cases, futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                reason = "A worker process died (out of memory?); try again with fewer --jobs."
                yield Outcome(case, None, reason)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict = {}  # the bundle and engine of this process, so that they are loaded once


def _start_pool_worker(settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets each finish its case
    _start_worker(settings)


def _start_worker(settings: Settings) -> None:
    _worker["bundle"], _worker["engine"] = _model(settings)


def _model(settings: Settings):
    """(bundle, engine), with one BLAS thread for this process.

    The network is so small that threads win little, and where several processes share the cores they wait for one
    another many times longer than they compute. And so a case gives the same bytes alone, in a batch, and with any
    number of jobs.
    """
    threadpool_limits(limits=1, user_api="blas")
    bundle = load_bundle(settings.model).for_population(settings.population)
    return bundle, create_engine(settings.engine, bundle)


def _one(case: Case, settings: Settings, note: str | None, details: Path | None) -> Outcome:
    """Predict one case; whatever goes wrong becomes its reason, so that the batch goes on."""

    def work() -> Prediction:
        done = _predict(case, **_worker, settings=settings)
        if details is not None:
            with _output_folder(details / case.folder_name) as folder:
                _write_case(done, folder, case.patient_id, settings)
        return done.prediction

    return attempt(case, work, note)
