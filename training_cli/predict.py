"""``cnn-survival predict``: one case to a folder of results, or a manifest of cases to one table."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from CNNSurvivalLib.batch import STOPPED as NOT_DONE
from CNNSurvivalLib.batch import Outcome, attempt, carried_columns, predict_and_read, write_tables
from CNNSurvivalLib.bundle import Bundle, load_bundle
from CNNSurvivalLib.engines import Engine, create_engine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.explanation import occlusion_maps, on_ct_grid
from CNNSurvivalLib.files import ensure_output_folder
from CNNSurvivalLib.io.case import Case, duplicate_warnings, with_folder_names
from CNNSurvivalLib.io.read import TumourImage, ct_files, dicom_segment, find_segments
from CNNSurvivalLib.io.tables import number
from CNNSurvivalLib.lesions import ALL, taken
from CNNSurvivalLib.network import import_torch
from CNNSurvivalLib.prediction import HORIZONS_MONTHS, Prediction
from CNNSurvivalLib.report.case_folder import REPORT_FILE, write_case_folder
from CNNSurvivalLib.report.dicom.folder import FOLDER, NAMES, Objects, Tumour, make_objects, placed
from CNNSurvivalLib.report.dicom.study import Study, read_study
from CNNSurvivalLib.report.page import report_pdf

from .figures.survival import survival_png
from .workers import dask_client, default_jobs

WORKER_DIED = "A worker process died (out of memory?); try again with fewer --jobs."
MADE_BY = b"CNNSurvival"  # in each PDF (its producer) and DICOM file (its manufacturer) that this software writes


@dataclass(frozen=True)
class Settings:
    """How to predict: the model's folder, the engine's name and device, and what overrides the model's own choices.

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
    device: str | None = None


class BatchResult(NamedTuple):
    """How many cases were predicted, failed, and were not reached as the run was stopped."""

    done: int
    failed: int
    not_done: int
    stopped: bool


def predict_to_folder(case: Case, output, settings: Settings, title=None) -> Prediction:
    """Predict one case and write its files to output: those of ``case_folder.write_case_folder``.

    Each file is replaced as a whole. report.pdf and the DICOM objects of an earlier run, which may be of another
    patient, go where this run makes none; whatever is not of this software is left alone. When the case fails, nothing
    is written, and a folder that was made for it is removed again.
    """
    bundle, engine = _model(settings)
    with _output_folder(output) as folder:
        done = _predict(case, bundle, engine, settings)
        _write_case(done, case, folder, title, settings)
    return done.prediction


def segment_cases(case: Case, wanted: Sequence[str]) -> list[Case]:
    """The case once for each segment that the names and patterns choose."""
    names = find_segments(case.mask_path, wanted)
    cases = [replace(case, segment=name, patient_id="case-1", number=n) for n, name in enumerate(names, 1)]
    return with_folder_names(cases, by="segment")


def predict_cases(
    cases: list[Case], output, settings: Settings, jobs: int | None = 1, details: bool = False,
    log: Callable[[str], None] = print, scheduler: str | None = None, carry: Sequence[str] | None = None,
) -> BatchResult:  # fmt: skip
    """Predict cases and write predictions.csv, curves.csv and failures.csv to output.

    All are in the cases' order and the same bytes whatever ``jobs`` and ``scheduler`` are, and all are written even if
    they have no rows, so that none of an earlier run stays behind. After Ctrl-C or SIGTERM (a cluster's time limit)
    what is done is written, and the cases that were not reached are listed as failures.

    Parameters
    ----------
    cases, output, settings
        The cases, the folder of results, how to predict.
    jobs
        How many processes; each holds one case at a time. None: ``workers.default_jobs``, and one where the network
        runs on a GPU.
    details
        Whether to write each case's own files into output/<patient_id>, or output/<segment> for several segments of
        one case.
    log
        Gets a line for the user where something is wrong.
    scheduler
        The address of a Dask scheduler, whose workers do it in place of processes here; they see the same folders.
    carry
        Columns of the manifest for predictions.csv; None: ``batch.carried_columns`` chooses.

    Raises
    ------
    UsageError
        For a column that the manifest does not have, and where no scheduler answers.
    """
    columns = carried_columns(cases, carry, log)
    bundle, engine = _model(settings)  # what is wrong with it is wrong with every case
    bundle.population.read(settings.covariates)
    notes = duplicate_warnings(cases)
    for note in (*dict.fromkeys(notes.values()), *_unreadable_times(cases)):
        log(f"Warning: {note}")
    if jobs is None:
        jobs = 1 if getattr(engine, "device", "cpu") != "cpu" else default_jobs(len(cases))
    with _output_folder(output) as folder:
        run, own = uuid4().hex, folder if details else None
        tasks = [_Task(case, settings, run, notes.get(case.number), own) for case in cases]
        with _stopped_by_sigterm():
            outcomes, stopped = _run(tasks, min(jobs, len(cases)), scheduler, log)
            with _uninterrupted():
                failed = write_tables(folder, outcomes, columns, settings.horizons_months)
    not_done = sum(outcome.reason == NOT_DONE for outcome in outcomes)
    return BatchResult(len(cases) - failed, failed - not_done, not_done, stopped)


def _unreadable_times(cases: list[Case]) -> list[str]:
    """A sentence where follow-up is carried that ``evaluate`` will refuse."""
    wrong = [case for case in cases if case.time_days and not 0 <= number(case.time_days) < math.inf]
    if not wrong:
        return []
    several = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return [f"'{wrong[0].time_days}' (time_days of {wrong[0].patient_id}{several}) is no number of days, 0 or more; it "
            "is carried as it is, and evaluate will refuse it."]  # fmt: skip


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


def _write_case(done: _Done, case: Case, folder: Path, patient: str | None, settings: Settings) -> None:
    """Write the folder of a case; ``case`` has the paths as the user gave them, ``patient`` is its id in a batch."""
    prediction = done.prediction
    title = f"{patient}, {case.segment}" if patient and case.segment else patient
    # Without the folders, whose names may be the patient's.
    given = {"image": case.image_path.name, "mask": case.mask_path.name, "segment": done.tumour.segment_name}
    picture = survival_png(prediction, title)
    _remove_older(folder, settings)
    with contextlib.ExitStack() as stack:
        if done.study is not None:
            # No title, which may name the patient: only what is DICOM's own does.
            objects = _objects(done, picture if title is None else survival_png(prediction), settings)
            stack.enter_context(placed(objects, folder / FOLDER))  # where the other files fail, these go again
        write_case_folder(prediction, folder, given, patient=patient, patient_id=patient, picture=lambda: picture,
                          report=settings.report)  # fmt: skip


def _remove_older(folder: Path, settings: Settings) -> None:
    """Remove what an earlier run left and this one does not replace: report.pdf, the DICOM objects. Only our own."""
    objects = folder / FOLDER
    older = [] if settings.report else [folder / REPORT_FILE]
    older += [] if settings.dicom else [objects / name for name in NAMES]
    for path in older:
        try:
            if path.is_file() and MADE_BY in path.read_bytes():
                path.unlink()
                if path.parent == objects and not any(objects.iterdir()):
                    objects.rmdir()
        except OSError as error:
            raise CNNSurvivalError(
                f"'{path}' is of an earlier run and cannot be removed ({error.strerror or error}); choose another "
                "folder."
            ) from error


def _objects(done: _Done, picture: bytes, settings: Settings) -> Objects:
    prediction, read, study = done.prediction, done.tumour, done.study
    engine = done.engine
    if prediction.population.name != engine.population:  # that of the case's own
        engine = create_engine(settings.engine, prediction.bundle, settings.device)
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
    mask = taken(read.mask, read.ijk_to_ras, done.prediction.provenance["parameters"])
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


class _Task(NamedTuple):
    """A case to predict. run: the same for all of one run. note: a warning for its row. details: the folder that gets
    the case's own, where that is wanted.
    """

    case: Case
    settings: Settings
    run: str
    note: str | None
    details: Path | None


def _run(tasks: list[_Task], jobs: int, scheduler: str | None, log) -> tuple[list[Outcome], bool]:
    """(an outcome per task in their order, whether the user stopped it)."""
    from tqdm import tqdm  # here, as its import takes a while

    found: dict[int, Outcome] = {}
    stopped = False
    with tqdm(total=len(tasks), desc="Predicting", unit="case", file=sys.stderr) as bar:

        def take(number: int, outcome: Outcome) -> None:
            if number in found:
                return
            found[number] = outcome
            if outcome.reason is not None:
                bar.clear()
                log(f"{outcome.case.patient_id}: {outcome.reason}")
            bar.update()

        try:
            if scheduler is not None:
                _on_dask(tasks, scheduler, take)
            elif jobs > 1:
                _in_processes(tasks, jobs, take)
            else:
                for number, task in enumerate(tasks):
                    take(number, _one(task))
        except KeyboardInterrupt:
            stopped = True
            # The pool broke as the signal came: these were not reached.
            found = {number: outcome for number, outcome in found.items() if outcome.reason != WORKER_DIED}
    return [found.get(n) or Outcome(task.case, None, NOT_DONE) for n, task in enumerate(tasks)], stopped


def _in_processes(tasks: list[_Task], jobs: int, take: Callable[[int, Outcome], None]) -> None:
    """take(number, outcome) of each task, as they end. After Ctrl-C those that were begun are still waited for."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import active_children, get_context

    # spawn: a fork of a process with threads (torch, ITK) may hang.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start_pool_worker)
    with _uninterrupted():  # workers take this over: no signal ends them while they start
        futures = {pool.submit(_one, task): number for number, task in enumerate(tasks)}
    try:
        for future in as_completed(futures):
            take(futures[future], _outcome(future, tasks[futures[future]]))
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):  # the second Ctrl-C waits no longer
            pool.shutdown(wait=True, cancel_futures=True)
        for future, number in futures.items():
            if future.done() and not future.cancelled() and not _worker_died(future):
                take(number, _outcome(future, tasks[number]))
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if any(map(_worker_died, futures)):
            for worker in active_children():  # the pool ends them by SIGTERM, which they ignore
                worker.kill()


def _worker_died(future) -> bool:
    from concurrent.futures.process import BrokenProcessPool

    return future.done() and not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)


def _outcome(future, task: _Task) -> Outcome:
    return Outcome(task.case, None, WORKER_DIED) if _worker_died(future) else future.result()


def _on_dask(tasks: list[_Task], scheduler: str, take: Callable[[int, Outcome], None]) -> None:
    """take(number, outcome) of each task, as they end. The workers see the same folders under the same names.

    After Ctrl-C a worker still ends the case that it is at; its folder may then be there, and its row is not.
    """
    with dask_client(scheduler) as client:
        from distributed import as_completed as as_completed_there

        futures = client.map(_one_elsewhere, tasks, [Path.cwd()] * len(tasks), pure=False)
        numbers = {future.key: number for number, future in enumerate(futures)}
        try:
            for future in as_completed_there(futures):
                take(numbers[future.key], _outcome_from_dask(future, tasks[numbers[future.key]]))
        except KeyboardInterrupt:
            client.cancel(futures)
            raise


def _outcome_from_dask(future, task: _Task) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # the worker died again and again, or lacks this software
        text = " ".join(str(error).split())
        reason = f"The Dask worker could not do it ({type(error).__name__}: {text})."
        return Outcome(task.case, None, reason)


_model_here: dict = {}  # the run of this process with its bundle and engine, so that they are loaded once
_one_at_a_time = threading.Lock()  # for Dask workers with several threads: each process holds one CT


def _start_pool_worker() -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # these are for the parent, which lets each finish its case
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    parent_process().join()  # killed: nobody waits for this one any more
    os._exit(1)


def _model(settings: Settings):
    """(bundle, engine), with one BLAS thread for this process.

    The network is so small that threads win little, and where several processes share the cores they wait for one
    another many times longer than they compute. And so a case gives the same bytes alone, in a batch, and with any
    number of jobs.
    """
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")
    bundle = load_bundle(settings.model).for_population(settings.population)
    engine = create_engine(settings.engine, bundle, settings.device)
    if settings.engine == "torch":
        import_torch().set_num_threads(1)
    return bundle, engine


def _one(task: _Task, root: Path | None = None) -> Outcome:
    """Predict one case; whatever goes wrong becomes its reason, so that the batch goes on.

    root: what the case's paths are relative to, where that is not this process's own folder.
    """
    case, settings = task.case, task.settings
    if _model_here.get("run") != task.run:
        _model_here.update(run=None, model=_model(settings))
        _model_here["run"] = task.run

    def work() -> Prediction:
        found = case if root is None else replace(case, folder=root / (case.folder or ""))
        done = _predict(found, *_model_here["model"], settings)
        if task.details is not None:
            with _output_folder(task.details / case.folder_name) as folder:
                _write_case(done, case, folder, case.patient_id, settings)
        return done.prediction

    return attempt(case, work, task.note)


def _one_elsewhere(task: _Task, root: Path) -> Outcome:
    """``_one`` on a Dask worker; root: the folder of the command, to which its paths are relative."""
    details = None if task.details is None else root / task.details
    settings = replace(task.settings, model=root / task.settings.model)
    with _one_at_a_time:
        outcome = _one(task._replace(settings=settings, details=details), root)
    if outcome.reason is None or (task.case.folder or Path()).is_absolute():
        return outcome
    return outcome._replace(reason=outcome.reason.replace(f"{root}{os.sep}", ""))  # as the manifest names the files


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM do nothing in this block, and in processes that are started in it."""
    with _handled((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, by which a cluster ends a job, is as Ctrl-C in this block."""

    def stop(_number, _frame) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGTERM,), stop):
        yield


@contextlib.contextmanager
def _handled(signals, handler) -> Iterator[None]:
    """These signals go to the handler in this block; only the main thread can say so, in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in signals]
    try:
        yield
    finally:
        for number, former in before:
            signal.signal(number, former)
