"""Many cases: the same rows and tables whether the command line, Slicer's panel or Slicer without a window does it.

predictions.csv has a row for each case that was predicted, curves.csv its curve, failures.csv the reason for each that
was not; all are in the order of the cases, and all are written even if they have no rows, so that none of an earlier
run stays behind.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Callable, Iterable, Mapping, NamedTuple, Optional, Sequence

from .engines import create_engine
from .errors import Cancelled, CNNSurvivalError, UsageError
from .files import ensure_output_folder, write_csv
from .hazards import EIGHTEEN_MONTHS_DAYS, MONTH_DAYS, survival_at
from .io.case import Case, duplicate_warnings
from .io.manifest import read_manifest
from .io.patient_folder import folder_cases
from .io.read import TumourImage, read_case
from .populations import COVARIATE_NAMES
from .prediction import Prediction, predict
from .report.text import covariates_text, interval_at, interval_curve_at, plain

PREDICTIONS_HEADER = [
    "patient_id", "n_slices", "risk_18m", "survival_6m", "survival_12m", "survival_18m", "survival_24m",
    "survival_36m", "median_survival_days", "rmst_days", "risk_percentile", "warnings", "population",
    "inside_training_range", "volume_cc", "largest_area_mm2", "survival_18m_ci_low", "survival_18m_ci_high",
    "covariates", "model", "weights_sha256",
]  # fmt: skip
# Behind these, where the cases have them
FOLLOW_UP = ("time_days", "event")
FAILURES_HEADER = ["patient_id", "image", "mask", "reason"]
CURVES_HEADER = ["patient_id", "time_days", "survival", "survival_ci_low", "survival_ci_high"]
# Columns of a manifest whose names, in letters alone, say that they name the patient or are free text
_NAMES_PATIENT = re.compile(
    r"^(patients?|persons?|subjects?|full|first|middle|last|fore|given|family|maiden|sur)*names?$|"
    r"^(vor|nach|familien|geburts)?name$|^(patient(en)?|person|subject)$|initials|^nom(bre|e)?$|pr[eé]nom|cognome|"
    r"apellido|naam$|nazwisko|birth|geburt|geboorte|naissance|nacimiento|nascita|^geb(dat|datum)?$|^dob$|address|adresse|"
    r"street|stra(ss|ß)e|^zip$|^(post|zip)(al)?code$|^plz$|postleitzahl|phone|telefon|^tel$|mobile|mail|^ssn$|"
    r"socialsecurity|insurance|versicher|passport|accession|^mrn$|medicalrecord|recordid|^nhs|"
    r"hospital(id|no|nr|number)|otherpatientid|^pat(ient(en)?)?(nr|nummer|no|num|number|id)$|fall(nr|nummer|id)|"
    r"instanceuid|studyuid|physician|doctor|arzt|comment|komment|bemerkung|remark|freetext|freitext"
)
_SHORT_NUMBER = re.compile(r"[+-]?\d{1,3}([.,]\d+)?")  # no postal code, number of a patient, or date
MOST_VALUES, LONGEST_VALUE = 20, 30  # of a column of words that is carried
STOPPED = "Not done: the run was stopped before."
OUTSIDE = "OUTSIDE"  # the training range, in the table on the screen


class Outcome(NamedTuple):
    """The outcome of one case: its row of predictions.csv (the values of PREDICTIONS_HEADER), or why there is none.

    curve: its rows of curves.csv, without the patient.
    """

    case: Case
    values: Optional[list]
    reason: Optional[str]
    curve: Sequence[list] = ()


# --- Where cases come from ------------------------------------------------------------------------------------


def cases_of(source: str, path=None, scene=None) -> list[Case]:
    """The cases of a "manifest", a "folder" or the "scene"; raises UsageError where there are none."""
    if source == "scene":
        from .mrml.scene_cases import scene_cases

        return scene_cases(scene)
    if not str(path or "").strip():
        raise UsageError(f"No {source} is given; choose one.")
    return read_manifest(path) if source == "manifest" else folder_cases(path)


def predict_source(source: str, path, folder, bundle, on_row: Callable, progress=None, scene=None, **options) -> str:
    """Predict all cases of a source into predictions.csv and failures.csv in a folder, for the panel.

    source, path, scene: as for ``cases_of``. on_row(shown(outcome)): called for each. options: as for ``predict_case``.
    Returns a sentence that says what was done.
    """
    from .mrml.inputs import words_of_the_panel

    def predict_one(case: Case, inside) -> Prediction:
        with words_of_the_panel():
            return predict_case(case, bundle, progress=inside, **options)

    cases = cases_of(source, path, scene)
    notes: list[str] = []
    columns = carried_columns(cases, log=notes.append)
    outcomes, stopped = run_batch(cases, predict_one, lambda outcome: on_row(shown(outcome)), progress)
    write_tables(folder, outcomes, columns)
    return " ".join([sentence(outcomes, stopped, folder), *notes])


# --- One case -------------------------------------------------------------------------------------------------


def load_case(case: Case, force: bool = False) -> TumourImage:
    """The CT and mask of a case, from its files or from its nodes. Raises CNNSurvivalError for what has a problem.

    force: an image of another DICOM modality than CT is read, with a warning.
    """
    if case.problem:
        raise CNNSurvivalError(case.problem)
    if case.nodes is not None:
        from .mrml.scene_cases import read_nodes

        return read_nodes(case.nodes)
    return read_case(case.image_path, case.mask_path, case.segment, case.series_uid, force)


def predict_case(case: Case, bundle, engine=None, progress=None, **options) -> Prediction:
    """The prediction of a case; as ``predict_and_read``."""
    return predict_and_read(case, bundle, engine, progress, **options)[0]


def predict_and_read(case: Case, bundle, engine=None, progress=None, **options) -> tuple[Prediction, TumourImage]:
    """(the prediction of a case with its own population and covariates, the CT and the mask that it was made from).

    options: as for ``prediction.predict``. The bundle's population and ``covariates`` are those of cases that do not
    name their own.
    """
    if progress is not None:
        progress("Reading CT and mask", 0.0)
    bundle, engine = for_case(case, bundle, engine)
    options["covariates"], notes = covariates_of(case, bundle, options.get("covariates"))
    tumour = load_case(case, options.get("force", False))
    prediction = predict(
        tumour.hu, tumour.mask, tumour.ijk_to_ras, bundle, engine, input_warnings=(*tumour.warnings, *notes),
        progress=progress, **options,
    )  # fmt: skip
    return prediction, tumour


def for_case(case: Case, bundle, engine=None) -> tuple:
    """(bundle, engine) for the population that the case names; those given where it names none."""
    if case.population in (None, bundle.population.name):
        return bundle, engine
    bundle = bundle.for_population(case.population)
    return bundle, None if engine is None else create_engine(engine.name, bundle, getattr(engine, "device", None))


def covariates_of(case: Case, bundle, others: Optional[Mapping] = None) -> tuple[dict, tuple[str, ...]]:
    """(what is known of a case beside the image: name -> number, warnings); the case's own before ``others``.

    An impossible value of the case's table is left out with a warning, as the image can be predicted without it; one
    of ``others``, which a person has just entered, raises UsageError.
    """
    population = bundle.population
    known, notes = population.read(others or {}), []
    for each in population.covariates:
        own = {name: value for name, value in case.covariates.items() if each.is_called(name)}
        try:
            known.update(population.read(own))
        except UsageError as error:
            notes.append(f"{error} It was left out.")
            known.pop(each.name, None)  # nor does the value for all cases stand in for it
    return known, tuple(notes)


def attempt(case: Case, predict_one: Callable, note: Optional[str] = None) -> Outcome:
    """predict_one() -> Prediction, as an outcome: whatever goes wrong becomes the reason. Cancelled is passed on."""
    try:
        prediction = predict_one()
        return Outcome(case, prediction_row(case.patient_id, prediction, note), None, curve_rows(prediction))
    except CNNSurvivalError as error:
        return Outcome(case, None, str(error))
    except Cancelled:
        raise
    except Exception as error:  # a fault of ours, or no memory: this case's, not the batch's
        return Outcome(case, None, f"Unexpected error ({type(error).__name__}: {error}).")


# --- Many cases -----------------------------------------------------------------------------------------------


def run_batch(
    cases: list, predict_one: Callable, on_outcome: Optional[Callable] = None, progress: Optional[Callable] = None
) -> tuple[list[Outcome], bool]:
    """(an outcome per case, whether the run was stopped). predict_one(case, progress) -> Prediction.

    progress(step, fraction) of the whole may raise Cancelled: what is done then is kept, the rest is listed as not
    done. on_outcome(outcome): told of each as it comes.
    """
    report = progress or (lambda step, fraction: None)
    notes = duplicate_warnings(cases)
    outcomes: list[Outcome] = []
    try:
        for number, case in enumerate(cases):

            def inside(step: str, fraction: float, number=number) -> None:
                report(f"{number + 1} of {len(cases)}: {step}", (number + fraction) / len(cases))

            inside("Reading", 0.0)
            one = partial(predict_one, case, inside)
            outcomes.append(attempt(case, one, notes.get(case.number)))
            if on_outcome is not None:
                on_outcome(outcomes[-1])
    except Cancelled:
        return [*outcomes, *(Outcome(case, None, STOPPED) for case in cases[len(outcomes) :])], True
    return outcomes, False


# --- Tables ---------------------------------------------------------------------------------------------------


def write_tables(
    folder, outcomes: Iterable[Outcome], columns: Sequence[str] = (), horizons_months: Sequence[float] = ()
) -> int:
    """Write predictions.csv, curves.csv and failures.csv; returns the number of failures.

    columns: those of the manifest that predictions.csv gets behind its own, see ``carried_columns``. horizons_months:
    for each that is not among its own columns it gets a column survival_<months>m behind these. Where the cases
    have follow-up, predictions.csv has it, too, so that ``cnn-survival evaluate`` can score it. Where a patient has
    rows for several segments, all tables say which; where two cases have the same patient and segment, curves.csv says
    by ``row`` which one of the source it is.
    """
    outcomes = list(outcomes)
    folder = ensure_output_folder(folder)
    done = [outcome for outcome in outcomes if outcome.values is not None]
    failed = [outcome for outcome in outcomes if outcome.values is None]
    cases = [outcome.case for outcome in outcomes]
    several = ["segment"] if _several_segments(cases) else []
    again = ["number"] if duplicate_warnings(cases) else []
    carried = [*(name for name in FOLLOW_UP if any(getattr(case, name) for case in cases)), *several]
    others = {name: month for month in horizons_months if (name := f"survival_{month:g}m") not in PREDICTIONS_HEADER}
    header = _behind([*PREDICTIONS_HEADER, *others, *carried], columns)
    rows = [[*o.values, *(_survival_at(o, month) for month in others.values()), *_of(o.case, carried),
             *(o.case.covariates.get(name, "") for name in columns)] for o in done]  # fmt: skip
    write_csv(folder / "predictions.csv", header, rows)
    curves = [[o.case.patient_id, *point, *_of(o.case, several + again)] for o in done for point in o.curve]
    write_csv(folder / "curves.csv", [*CURVES_HEADER, *several, *("row" for _ in again)], curves)
    failures = [[*_of(o.case, ("patient_id", "image", "mask")), o.reason, *_of(o.case, several)] for o in failed]
    write_csv(folder / "failures.csv", [*FAILURES_HEADER, *several], failures)
    return len(failed)


def _survival_at(outcome: Outcome, month: float) -> Optional[float]:
    """S at a month, from the case's curve; None beyond its last interval."""
    days, survival = zip(*(point[:2] for point in outcome.curve))
    return plain(survival_at(survival, days, month * MONTH_DAYS))


def carried_columns(
    cases: Sequence[Case], wanted: Optional[Sequence[str]] = None, log: Optional[Callable[[str], None]] = None
) -> list[str]:
    """The columns of the manifest that predictions.csv gets, in the manifest's order and spelling.

    The ``wanted`` ones; without these, of the columns that have no meaning of their own (``io.manifest.COLUMNS``, and
    population) those that cannot well name the patient, see ``_may_name``. log(text) is told what is carried and what
    is not. Paths are never among them, as they may name the patient, too. Raises UsageError for a wanted column that
    the manifest does not have.
    """
    known = list(cases[0].covariates) if cases else []  # the same for each row of a manifest
    if wanted is not None:
        folded = {name.casefold(): name for name in known}
        absent = next((name for name in wanted if name.casefold() not in folded), None)
        if absent is not None:
            others = ", ".join(known) or "none"
            raise UsageError(f"The manifest has no column '{absent}' to carry; its columns beside ours are: {others}.")
        chosen = {name.casefold() for name in wanted}
        return [name for name in known if name.casefold() in chosen]
    known = [name for name in known if name.casefold() != "population"]
    left_out = [name for name in known if _may_name(name, cases)]
    carried = [name for name in known if name not in left_out]
    if log is not None and carried:
        log(f"Carried into predictions.csv: {', '.join(carried)}.")
    if log is not None and left_out:
        log(f"Not carried into predictions.csv, as it may name the patient: {', '.join(left_out)}.")
    return carried


def _may_name(column: str, cases: Sequence[Case]) -> bool:
    """Whether a column may name the patient: by its name, or by its values.

    The values cannot where all are numbers below 1000, or a few short words: at most half as many different ones as
    there are patients with one, MOST_VALUES, and LONGEST_VALUE letters. Nor can those of a covariate (age, stage, HPV).
    """
    if _NAMES_PATIENT.search(re.sub(r"[\W\d_]", "", column.casefold())):
        return True
    values = {case.patient_id: case.covariates[column] for case in cases if case.covariates.get(column)}
    different = {case.covariates.get(column, "") for case in cases} - {""}
    if column.strip().casefold() in COVARIATE_NAMES or all(map(_SHORT_NUMBER.fullmatch, different)):
        return False
    few = len(different) <= min(MOST_VALUES, len(values) / 2)
    return not few or max(map(len, different)) > LONGEST_VALUE


def _behind(own: list[str], columns: Sequence[str]) -> list[str]:
    """The header with the manifest's columns; one called like ours, or like a risk or S, is called manifest_..."""
    header, taken = list(own), {name.casefold() for name in own}
    for name in columns:
        # evaluate takes what begins so for ours
        while name.casefold() in taken or name.casefold().startswith(("risk_", "survival_")):
            name = f"manifest_{name}"
        header.append(name)
        taken.add(name.casefold())
    return header


def _of(case: Case, names: Iterable[str]) -> list:
    return [getattr(case, name) for name in names]


def _several_segments(cases: Iterable[Case]) -> bool:
    """Whether a patient has cases for different segments."""
    seen: dict = {}
    return any(seen.setdefault(case.patient_id, case.segment) != case.segment for case in cases)


def prediction_row(patient_id: str, p: Prediction, note: Optional[str] = None) -> list:
    """A row of predictions.csv; always at the months of its header, whatever the prediction's own horizons are."""
    months = (6, 12, 18, 24, 36)
    survival = {month: plain(survival_at(p.survival, p.time_days, month * MONTH_DAYS)) for month in months}
    at_18 = survival[18]
    return [
        patient_id,
        p.slices_used,
        None if at_18 is None else 1 - at_18,
        *survival.values(),
        p.median_survival_days,
        p.rmst_days,
        p.risk_percentile,
        " | ".join([*([note] if note else []), *p.warnings]),
        p.population.name,
        int(p.inside_training_range),
        p.volume_cc,
        p.largest_area_mm2,
        *interval_at(p, EIGHTEEN_MONTHS_DAYS),
        covariates_text(p),
        p.bundle.id,
        p.bundle.sha256,
    ]


def curve_rows(p: Prediction) -> list[list]:
    """Its rows of curves.csv without the patient: days, S, low and high end of its interval, at each interval edge."""
    interval = interval_curve_at(p, p.time_days)
    return [[plain(value) for value in point] for point in zip(p.time_days, p.survival, *interval)]


# --- For the panel and for Slicer without a window -----------------------------------------------------------


def shown(outcome: Outcome) -> list[str]:
    """[patient, 18-month risk, median, "inside" or OUTSIDE the training range, outcome] for a table on the screen."""
    if outcome.values is None:
        return [outcome.case.patient_id, "", "", "", outcome.reason]
    values = dict(zip(PREDICTIONS_HEADER, outcome.values))
    median = values["median_survival_days"]
    return [
        outcome.case.patient_id,
        "" if values["risk_18m"] is None else f"{values['risk_18m']:.0%}",
        "not reached" if median is None else f"{median / MONTH_DAYS:.1f} months",
        "inside" if values["inside_training_range"] else OUTSIDE,
        values["warnings"] or "predicted",
    ]


def sentence(outcomes: list, stopped: bool, folder) -> str:
    """What a batch did, in one line."""
    predicted = sum(outcome.values is not None for outcome in outcomes)
    not_done = sum(outcome.reason == STOPPED for outcome in outcomes)
    failed = len(outcomes) - predicted - not_done
    done = f"{predicted} of {len(outcomes)} cases predicted; results are in '{folder}'."
    stop = f" Stopped before the end: {not_done} not done." if stopped else ""
    return done + stop + (f" {failed} failed; 'failures.csv' there says why." if failed else "")
