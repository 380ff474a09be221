"""``cnn-survival predict``."""

from __future__ import annotations

import sys
from pathlib import Path

from CNNSurvivalLib.engines import ENGINES
from CNNSurvivalLib.io.segments import is_pattern
from CNNSurvivalLib.lesions import ALL, CHOICES

from ..options import DONE, SOME_FAILED, STOPPED, add_command, months, named_value, print_table, whole_number

PREDICT_DESCRIPTION = """\
Predict survival from a CT and a tumour contour.

One case:   cnn-survival predict --image CT --mask MASK --output FOLDER
Many cases: cnn-survival predict --manifest cases.csv --output FOLDER
            cnn-survival predict --folder PATIENTS --output FOLDER

For one case FOLDER gets prediction.json (everything), survival_curve.csv and survival_curve.png (the curve),
horizons.csv (survival at some months), slices.csv (which CT slices were used) and, with --report, report.pdf; with
--dicom, the folder dicom. For many, or several segments of one case, it gets predictions.csv (a row per case),
curves.csv (the curve of each) and failures.csv (the cases that could not be predicted, and why). Ctrl-C (or SIGTERM,
as clusters send it) stops a batch; what is done until then is in these tables.

A model serves one or more populations of patients ('cnn-survival models' lists them). Say to which the patient belongs;
where you do not, the model's default is taken, and the output names it. Age, stage and the like are optional; with none
the prediction is that of the image alone.
"""
SHORTCUTS = {"age": "age_years", "n_stage": "n_stage", "hpv": "hpv"}  # option -> the covariate's name


def add_predict(commands) -> None:
    summary = "predict survival from a CT and a tumour contour"
    command = add_command(commands, "predict", _run_predict, summary, PREDICT_DESCRIPTION)
    case = command.add_argument_group("one case")
    case.add_argument("--image", type=Path, metavar="CT", help="the CT: a NRRD, NIfTI or MetaImage file, or a folder "
                      "with a DICOM series, also as a ZIP archive")  # fmt: skip
    case.add_argument("--mask", type=Path, metavar="MASK", help="the tumour's contour: a label image, a DICOM SEG, an "
                      "RTSTRUCT, or a folder or ZIP archive that holds one of these two")  # fmt: skip
    case.add_argument("--segment", metavar="NAME", action="append", help="which segment, structure or label is the "
                      "tumour; needed if the mask has several (leave it out to see their names). Given several times, "
                      "or as a pattern such as 'GTV*': a row of predictions.csv for each")  # fmt: skip
    case.add_argument("--series-uid", metavar="UID", help="which CT, by its SeriesInstanceUID; needed if the folder "
                      "has several (leave it out to see them)")  # fmt: skip
    many = command.add_argument_group("many cases")
    many.add_argument("--manifest", type=Path, metavar="CSV", help="a table with the columns image and mask (paths "
                      "relative to the table) and, if needed, segment, series_uid, patient_id, population and "
                      "covariates such as age_years and n_stage; time_days and event are carried into predictions.csv, "
                      "so that 'cnn-survival evaluate' can score it")  # fmt: skip
    many.add_argument("--folder", type=Path, metavar="PATIENTS", help="in place of a manifest, a folder with a "
                      "sub-folder for each patient, or with pairs of files such as p1_ct.nrrd and "
                      "p1_mask.nrrd")  # fmt: skip
    many.add_argument("--carry", metavar="COLUMN,COLUMN", help="which other columns of the manifest are carried into "
                      "predictions.csv, or 'none' (default: those that cannot well name the patient: "
                      "numbers below 1000 and a few short words, such as a column Site)")  # fmt: skip
    many.add_argument("--jobs", type=whole_number, metavar="N", help="how many cases at once (default: one for each "
                      "core, as long as each finds 2 GB of free memory; 1 on a GPU)")  # fmt: skip
    many.add_argument("--backend", choices=("local", "dask"), default="local", help="who does it: this machine (local, "
                      "default) or a Dask cluster")  # fmt: skip
    many.add_argument("--scheduler", metavar="ADDRESS", help="with --backend dask: the scheduler, such as "
                      "tcp://host:8786; its workers must see the same folders")  # fmt: skip
    many.add_argument("--details", action="store_true", help="also write the files of a single case for every case, "
                      "into FOLDER/<patient_id>")  # fmt: skip
    _add_patient_options(command.add_argument_group("the patient (with --manifest: of rows that do not say)"))
    model = command.add_argument_group("model")
    model.add_argument("--model", metavar="MODEL", help="the model: its folder, or the id of one that ships with this "
                       "software (see 'cnn-survival models'); default: the model marked there")  # fmt: skip
    model.add_argument("--engine", choices=ENGINES, default="numpy", help="what computes the network: numpy (built in) "
                       "or torch (needs PyTorch, uses a GPU if there is one); both give the same curve")  # fmt: skip
    model.add_argument("--device", metavar="DEVICE", help="with --engine torch: where it runs, such as cpu or cuda:0 "
                       "(default: a GPU if there is one)")  # fmt: skip
    model.add_argument("--min-roi", type=whole_number, metavar="PX", help="use slices with at least PX tumour "
                       "pixels at the model's pixel size (default: the model's, usually 250)")  # fmt: skip
    model.add_argument("--max-slices", type=whole_number, metavar="N", help="use at most N slices, the best "
                       "ranked (default: the model's, usually 20)")  # fmt: skip
    command.add_argument("--lesions", choices=CHOICES, default=ALL, help="what is taken where the mask holds several "
                         "separate lesions: all as one tumour (default), or the largest alone; a warning says how many "
                         "there are")  # fmt: skip
    command.add_argument("--horizons", type=months, default=None, metavar="MONTHS,MONTHS", help="when survival is "
                         "wanted, in months (default: 6,12,18,24,36); for many cases predictions.csv gets a column "
                         "survival_<months>m for each")  # fmt: skip
    command.add_argument("--report", action="store_true", help="also write report.pdf, the result on one page (for "
                         "many cases with --details)")  # fmt: skip
    command.add_argument("--dicom", action="store_true", help="also write the result as DICOM objects that join the "
                         "CT's study, into FOLDER/dicom: report, curve, numbers (SR), tumour (SEG) and a map of what "
                         "the risk rests on; the CT must be DICOM (for many cases with --details). They hold the "
                         "patient's name and birth date as the CT does, and the report shows the name")  # fmt: skip
    command.add_argument("--force", action="store_true", help="predict from an image that is no CT all the same; the "
                         "result means nothing unless its values are Hounsfield units")  # fmt: skip
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the results go; made if "
                         "it does not exist. Older results are replaced; a report.pdf and DICOM objects of an earlier "
                         "run go where this one makes none")  # fmt: skip


def _add_patient_options(group) -> None:
    group.add_argument("--population", metavar="NAME", help="to which of the model's populations the patient belongs "
                       "(default: the model's default, named in the output)")  # fmt: skip
    group.add_argument("--age", metavar="YEARS", help="short for --covariate age_years=YEARS")
    group.add_argument("--n-stage", metavar="N", help="short for --covariate n_stage=N, such as 2, N2 or N2b")
    group.add_argument("--hpv", metavar="STATUS", help="short for --covariate hpv=STATUS: positive or negative")
    group.add_argument("--covariate", type=named_value, action="append", default=[], metavar="NAME=VALUE",
                       help="what is known beside the image; may be given several times")  # fmt: skip


def covariates(options) -> dict:
    """What the options say of the patient: name -> text."""
    short = {name: getattr(options, option) for option, name in SHORTCUTS.items()}
    return {**{name: text for name, text in short.items() if text is not None}, **dict(options.covariate)}


def _run_predict(options) -> int:
    _check_predict_options(options)
    from CNNSurvivalLib.api import find_model
    from CNNSurvivalLib.bundle import load_bundle
    from CNNSurvivalLib.io.case import Case
    from CNNSurvivalLib.io.patient_folder import folder_cases
    from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY
    from CNNSurvivalLib.report.text import sentence, summary

    from .. import predict
    from ..cohort.tables import read_manifest

    settings = predict.Settings(
        find_model(options.model), options.engine, options.min_roi, options.max_slices, options.population,
        covariates(options), options.force, options.horizons or predict.HORIZONS_MONTHS, options.report,
        options.lesions,
        options.dicom,
        options.device,
    )  # fmt: skip
    bundle = load_bundle(settings.model).for_population(settings.population)
    if bundle.licence_notice:
        print(bundle.licence_notice, file=sys.stderr)
    if options.manifest is not None:
        return _run_cases(options, settings, bundle, read_manifest(options.manifest))
    if options.folder is not None:
        return _run_cases(options, settings, bundle, folder_cases(options.folder))
    if _several(options):
        case = Case(str(options.image), str(options.mask), series_uid=options.series_uid)
        return _run_cases(options, settings, bundle, predict.segment_cases(case, options.segment))
    segment = options.segment[0] if options.segment else None
    case = Case(str(options.image), str(options.mask), segment=segment, series_uid=options.series_uid)
    prediction = predict.predict_to_folder(case, options.output, settings)
    for text in prediction.warnings:
        print(f"Warning: {text}", file=sys.stderr)
    _say_names(options)
    _say_unused(settings.covariates, [prediction.population])
    print_table(summary(prediction))
    print(population_line(bundle, options.population))
    print(f"\n{sentence(prediction)}\nResults are in '{options.output}'. {RESEARCH_USE_ONLY}")
    return DONE


def _check_predict_options(options) -> None:
    error = options.parser.error
    one_case = [name for name in ("image", "mask", "segment", "series_uid") if getattr(options, name) is not None]
    many = [name for name in ("manifest", "folder") if getattr(options, name) is not None]
    if len(many) == 2:
        error("--manifest and --folder do not go together; each names the cases")
    if many and one_case:
        error(f"--{one_case[0].replace('_', '-')} does not go with --{many[0]}, which names its own cases")
    missing = [f"--{name}" for name in ("image", "mask") if getattr(options, name) is None]
    if not many and missing:
        error(f"give {' and '.join(missing)} (one case), or --manifest or --folder (many cases)")
    if options.device is not None and options.engine != "torch":
        error("--device goes with --engine torch")
    _check_batch_options(options, batch=bool(many) or _several(options))


def _check_batch_options(options, batch: bool) -> None:
    error = options.parser.error
    if not batch and (options.details or options.jobs is not None or options.backend != "local"):
        error("--details, --jobs and --backend go with --manifest, --folder or several segments")
    if batch and (options.report or options.dicom) and not options.details:
        error(f"--{'report' if options.report else 'dicom'} goes with --details where there are many cases")
    if options.carry is not None and options.manifest is None:
        error("--carry goes with --manifest, which has columns to carry")
    if (options.backend == "dask") != (options.scheduler is not None):
        error("--backend dask and --scheduler go together")
    if options.backend == "dask" and options.jobs is not None:
        error("--jobs does not go with --backend dask, where the cluster decides")


def _say_names(options) -> None:
    if options.dicom:
        from CNNSurvivalLib.report.dicom.folder import HOLD_NAMES

        print(f"Note: {HOLD_NAMES}", file=sys.stderr)


def _say_unused(given: dict, populations) -> None:
    """One sentence for what was entered and is no covariate of any of these populations."""
    unused = [name for name in given if not any(each.takes(name) for each in populations)]
    if unused:
        title = populations[0].title
        known = ", ".join(each.name for each in populations[0].covariates) or "none"
        verb = "was" if len(unused) == 1 else "were"
        print(f"Warning: {', '.join(unused)} {verb} not used; the covariates of the population '{title}' are: {known}.",
              file=sys.stderr)  # fmt: skip


def population_line(bundle, asked: str | None) -> str:
    """Whom the prediction is for, for the terminal."""
    choice = "choose with --population" if len(bundle.populations) > 1 else "it has no other"
    hint = "" if asked else f" (the model's default; {choice})"
    # A bundle of version 1 has a title, its population has none.
    title = bundle.title if bundle.info["format_version"] == 1 else bundle.population.title
    return f"Population: {title}{hint}"


def _several(options) -> bool:
    """Whether --segment may mean several: given more than once, or as a pattern."""
    segments = options.segment or []
    return len(segments) > 1 or any(is_pattern(segment) for segment in segments)


def _carry(text: str | None) -> list[str] | None:
    """The names of --carry; none for 'none', None where it was not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [] if [name.casefold() for name in names] == ["none"] else names


def _run_cases(options, settings, bundle, cases) -> int:
    from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

    from .. import predict

    result = predict.predict_cases(
        cases, options.output, settings, options.jobs, options.details,
        log=lambda text: print(text, file=sys.stderr), scheduler=options.scheduler, carry=_carry(options.carry),
    )  # fmt: skip
    _say_unused(settings.covariates, [bundle.population, *bundle.populations])
    _say_names(options)
    named = any(case.population for case in cases)
    print(population_line(bundle, options.population) + (", where the manifest names none" if named else ""))
    print(f"{result.done} of {len(cases)} cases predicted; results are in '{options.output}'.")
    if result.failed:
        print(f"{result.failed} failed; 'failures.csv' there says why.")
    if result.stopped:
        print(f"Stopped before the end: {result.not_done} not done.")
    print(RESEARCH_USE_ONLY)
    return STOPPED if result.stopped else SOME_FAILED if result.failed else DONE
