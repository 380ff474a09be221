"""``cnn-survival predict --manifest`` for Slicer without a window, on a cluster node for one:

    Slicer --no-main-window --no-splash --python-script CNNSurvivalLib/headless.py --manifest cases.csv --output DIR

Gives the same files (predictions.csv, curves.csv, failures.csv) and exit codes: 0 done, 1 the input cannot be used, 2
the command must be changed, 3 some cases failed. Needs nothing but what Slicer ships; before Slicer 5.12 DICOM SEG
needs highdicom besides. The module need not be on Slicer's module path: this file finds its library by its own place.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments=None) -> int:
    """Work through the cases; returns the exit code."""
    from CNNSurvivalLib.errors import DONE, USAGE_ERROR, CNNSurvivalError, exit_code

    try:
        options = _parser().parse_args(arguments)
    except SystemExit as error:  # argparse has said what is wrong
        return DONE if not error.code else USAGE_ERROR
    try:
        return _run(options)
    except CNNSurvivalError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        return exit_code(error)


def _run(options) -> int:
    from CNNSurvivalLib.api import load_model
    from CNNSurvivalLib.batch import carried_columns, cases_of, predict_case, run_batch, sentence, write_tables
    from CNNSurvivalLib.engines import create_engine
    from CNNSurvivalLib.errors import DONE, SOME_FAILED
    from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

    bundle = load_model(options.model).for_population(options.population)
    bundle.population.read(dict(options.covariate))  # what is wrong with a value is wrong with every case
    if bundle.licence_notice:
        print(bundle.licence_notice, file=sys.stderr, flush=True)
    engine = create_engine("numpy", bundle)
    cases = cases_of("manifest", options.manifest) if options.manifest else cases_of("folder", options.folder)
    columns = carried_columns(cases, log=lambda text: print(text, file=sys.stderr, flush=True))
    changes = {"min_roi_px": options.min_roi, "max_slices": options.max_slices, "lesions": options.lesions,
               "force": options.force, "covariates": dict(options.covariate)}  # fmt: skip

    def log(outcome) -> None:
        print(f"{outcome.case.patient_id}: {outcome.reason or 'predicted'}", flush=True)

    outcomes, stopped = run_batch(
        cases, lambda case, progress: predict_case(case, bundle, engine, progress, **changes), log
    )
    failed = write_tables(options.output, outcomes, columns)
    default = "" if options.population else " (the model's default)"
    print(f"Population: {bundle.population.title}{default}", flush=True)
    print(f"{sentence(outcomes, stopped, options.output)}\n{RESEARCH_USE_ONLY}", flush=True)
    return SOME_FAILED if failed else DONE


def _parser() -> argparse.ArgumentParser:
    from CNNSurvivalLib.lesions import ALL, CHOICES

    parser = argparse.ArgumentParser(prog="headless.py", description="Predict survival for many patients in Slicer.")
    cases = parser.add_mutually_exclusive_group(required=True)
    cases.add_argument("--manifest", metavar="CSV", help="a table with the columns image and mask and, if needed, "
                       "segment, series_uid, patient_id, population, time_days, event and covariates; paths "
                       "relative to it")  # fmt: skip
    cases.add_argument("--folder", metavar="FOLDER", help="a folder with a sub-folder for each patient, or with pairs "
                       "of files")  # fmt: skip
    parser.add_argument("--output", required=True, metavar="FOLDER", help="gets predictions.csv, curves.csv, "
                        "failures.csv")  # fmt: skip
    parser.add_argument("--model", metavar="MODEL", help="a model's folder, or the id of one that ships (default: the "
                        "model that ships as the default)")  # fmt: skip
    parser.add_argument("--min-roi", type=_whole_number, metavar="PX", help="as in cnn-survival predict")
    parser.add_argument("--max-slices", type=_whole_number, metavar="N", help="as in cnn-survival predict")
    parser.add_argument("--lesions", choices=CHOICES, default=ALL, help="as in cnn-survival predict")
    parser.add_argument("--population", metavar="NAME", help="as in cnn-survival predict")
    parser.add_argument("--covariate", type=_named_value, action="append", default=[], metavar="NAME=VALUE",
                        help="as in cnn-survival predict")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="as in cnn-survival predict")
    return parser


def _whole_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 1 or more")
    return int(text)


def _named_value(text: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE, such as age_years=63")
    return name, value


def _find_library() -> None:
    here = Path(globals().get("__file__") or sys.argv[0]).resolve()
    sys.path.insert(0, str(here.parents[1]))


def _leave(status: int) -> None:
    """End Slicer, or the interpreter where there is no Slicer, with this exit code."""
    try:
        import slicer
    except ImportError:
        sys.exit(status)
    if getattr(slicer, "app", None) is None:  # slicer-core, which is no application
        sys.exit(status)
    slicer.util.exit(status)


if __name__ == "__main__":
    _find_library()
    _leave(main(sys.argv[1:]))
