"""``cnn-survival``: the command line.

Each command is a function ``add_<command>(commands)`` that declares its options and sets ``run``, a function of the
parsed options that returns the exit code. New commands are added to COMMANDS. What is slow to import (SimpleITK,
matplotlib, torch) is imported by ``run``, so that --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from CNNSurvivalLib import __version__
from CNNSurvivalLib.engines import ENGINES
from CNNSurvivalLib.errors import CNNSurvivalError

from .errors import UsageError

# Exit codes
DONE, UNUSABLE_INPUT, USAGE_ERROR, SOME_FAILED, STOPPED = 0, 1, 2, 3, 130

EXIT_CODES = """\
exit codes:
  0  done
  1  the input was found but cannot be used; the message says why
  2  the command must be changed: a missing file, an unknown name, a choice to make
  3  a manifest was worked through and some cases failed; failures.csv lists them
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command line (default: this process's own); returns the exit code and never raises for a user's mistake."""
    options = None
    try:
        options = _parser().parse_args(argv)
        return options.run(options)
    except SystemExit as done:  # argparse has said what it had to say
        return done.code if isinstance(done.code, int) else DONE
    except CNNSurvivalError as error:
        return _fail(options, str(error), USAGE_ERROR if isinstance(error, UsageError) else UNUSABLE_INPUT)
    except KeyboardInterrupt:
        return _fail(options, "Stopped.", STOPPED)
    except BrokenPipeError:
        return DONE  # whoever read our output had enough
    except MemoryError:
        return _fail(options, "There is not enough memory for this case.", UNUSABLE_INPUT)
    except Exception as error:
        text = f"Unexpected error ({type(error).__name__}: {error}); run again with --debug and report what it prints."
        return _fail(options, text, UNUSABLE_INPUT)


def _fail(options, text: str, code: int) -> int:
    if getattr(options, "debug", False):
        traceback.print_exc()
    print(f"Error: {text}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnn-survival",
        description="Survival curves from a CT and the contour of a tumour, with the CNN of Zhang et al. 2020. "
        "Research use only: not for diagnosis, prognosis or treatment decisions.",
    )
    parser.add_argument("--version", action="version", version=f"cnn-survival {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def _add_command(commands, name: str, run, summary: str, description: str, epilog: str | None = None):
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="show where in the program an error arose")
    command.set_defaults(run=run, parser=command)
    return command


# --- predict --------------------------------------------------------------------------------------------------

PREDICT_DESCRIPTION = """\
Predict survival from a CT and a tumour contour.

One case:   cnn-survival predict --image CT --mask MASK --output FOLDER
Many cases: cnn-survival predict --manifest cases.csv --output FOLDER

For one case FOLDER gets prediction.json (everything), survival_curve.csv and survival_curve.png (the curve), and
slices.csv (which CT slices were used). For many it gets predictions.csv (a row per case) and failures.csv (the cases
that could not be predicted, and why).
"""


def add_predict(commands) -> None:
    summary = "predict survival from a CT and a tumour contour"
    command = _add_command(commands, "predict", _run_predict, summary, PREDICT_DESCRIPTION, EXIT_CODES)
    case = command.add_argument_group("one case")
    case.add_argument("--image", type=Path, metavar="CT", help="the CT: a NRRD, NIfTI or MetaImage file, or a folder "
                      "with a DICOM series")  # fmt: skip
    case.add_argument("--mask", type=Path, metavar="MASK", help="the tumour's contour: a label image, a DICOM SEG, an "
                      "RTSTRUCT, or a folder that holds one of these two")  # fmt: skip
    case.add_argument("--segment", metavar="NAME", help="which segment, structure or label is the tumour; needed if "
                      "the mask has several (leave it out to see their names)")  # fmt: skip
    case.add_argument("--series-uid", metavar="UID", help="which CT, by its SeriesInstanceUID; needed if the folder "
                      "has several (leave it out to see them)")  # fmt: skip
    many = command.add_argument_group("many cases")
    many.add_argument("--manifest", type=Path, metavar="CSV", help="a table with the columns image and mask (paths "
                      "relative to the table) and, if you like, segment and patient_id; other columns are "
                      "ignored")  # fmt: skip
    many.add_argument("--jobs", type=_whole_number, default=1, metavar="N", help="how many cases at once (default 1); "
                      "each takes the memory of one CT")  # fmt: skip
    many.add_argument("--details", action="store_true", help="also write the files of a single case for every case, "
                      "into FOLDER/<patient_id>")  # fmt: skip
    model = command.add_argument_group("model")
    model.add_argument("--model", metavar="MODEL", help="the model: its folder, or the id of one that ships with this "
                       "software (see 'cnn-survival models'); default: the model marked there")  # fmt: skip
    model.add_argument("--engine", choices=ENGINES, default="numpy", help="what computes the network: numpy (built in) "
                       "or torch (needs PyTorch, uses a GPU if there is one); both give the same curve")  # fmt: skip
    model.add_argument("--min-roi", type=_whole_number, metavar="PX", help="use slices with at least so many tumour "
                       "pixels at the model's pixel size (default: the model's, usually 250)")  # fmt: skip
    model.add_argument("--max-slices", type=_whole_number, metavar="N", help="use at most so many slices, the best "
                       "ranked (default: the model's, usually 20)")  # fmt: skip
    command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the results go; made if "
                         "it does not exist, older results of the same name are replaced")  # fmt: skip


def _run_predict(options) -> int:
    _check_predict_options(options)
    from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

    from . import predict

    settings = predict.Settings(predict.find_model(options.model), options.engine, options.min_roi, options.max_slices)
    if options.manifest is not None:
        return _run_manifest(options, settings)
    prediction = predict.predict_case(
        options.image, options.mask, options.output, settings, options.segment, options.series_uid
    )
    for text in prediction.warnings:
        print(f"Warning: {text}", file=sys.stderr)
    _print_table(prediction.summary)
    print(f"\n{prediction.sentence}\nResults are in '{options.output}'. {RESEARCH_USE_ONLY}")
    return DONE


def _check_predict_options(options) -> None:
    one_case = [name for name in ("image", "mask", "segment", "series_uid") if getattr(options, name) is not None]
    if options.manifest is None:
        missing = [f"--{name}" for name in ("image", "mask") if getattr(options, name) is None]
        if missing:
            options.parser.error(f"give {' and '.join(missing)} (one case), or --manifest (many cases)")
        if options.details or options.jobs != 1:
            options.parser.error("--details and --jobs go with --manifest")
    elif one_case:
        options.parser.error(
            f"--{one_case[0].replace('_', '-')} does not go with --manifest, which names its own cases"
        )


def _run_manifest(options, settings) -> int:
    from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

    from . import predict

    result = predict.predict_manifest(
        options.manifest, options.output, settings, options.jobs, options.details,
        tell=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    print(f"{result.done} of {result.done + result.failed} cases predicted; results are in '{options.output}'.")
    if result.failed:
        print(f"{result.failed} failed; 'failures.csv' there says why.")
    print(RESEARCH_USE_ONLY)
    return STOPPED if result.stopped else SOME_FAILED if result.failed else DONE


# --- models ---------------------------------------------------------------------------------------------------


def add_models(commands) -> None:
    _add_command(
        commands, "models", _run_models, "list the models that ship with this software",
        "List the models that ship with this software. The one marked with * is used unless --model says otherwise.",
    )  # fmt: skip


def _run_models(options) -> int:
    from CNNSurvivalLib.bundle import default_bundle_folder, find_bundles, shipped_models_folder

    default = default_bundle_folder()
    for folder, bundle, problem in find_bundles([shipped_models_folder()]):
        mark = "*" if folder == default else " "
        if bundle is None:
            print(f"{mark} {folder.name}: {problem}")
            continue
        print(f"{mark} {bundle.id}: {bundle.name}")
        for label, key in (("disease", "disease"), ("treatment", "treatment"), ("CT", "ct"), ("licence", "licence")):
            print(f"      {label}: {bundle.info['card'][key]}")
    return DONE


# --- Inside ---------------------------------------------------------------------------------------------------


def _whole_number(text: str) -> int:
    """For argparse: 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 1 or more")
    return int(text)


def _print_table(rows: list[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"{label:<{width}}  {text}")


COMMANDS = (add_predict, add_models)
