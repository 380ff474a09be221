"""``cnn-survival``: the command line.

Each command is a file in ``commands`` with a function ``add_<command>(commands)`` that declares its options and sets
``run``, a function of the parsed options that returns the exit code. What is slow to import (SimpleITK, pandas,
matplotlib, torch) is imported by ``run``, so that --help and --version answer at once.
"""

from __future__ import annotations

import argparse
import sys
import traceback

from CNNSurvivalLib import __version__
from CNNSurvivalLib.errors import CNNSurvivalError, exit_code

from .commands.baselines import add_baselines
from .commands.crossvalidate import add_crossvalidate
from .commands.download import add_download
from .commands.evaluate import add_evaluate
from .commands.export import add_export
from .commands.finetune import add_finetune
from .commands.models import add_models
from .commands.predict import add_predict
from .commands.prepare import add_prepare
from .commands.pretrain import add_pretrain
from .commands.recalibrate import add_recalibrate
from .commands.reproduce import add_reproduce
from .options import DONE, STOPPED, UNUSABLE_INPUT

COMMANDS = (
    add_predict,
    add_models,
    add_download,
    add_prepare,
    add_pretrain,
    add_finetune,
    add_crossvalidate,
    add_baselines,
    add_evaluate,
    add_export,
    add_recalibrate,
    add_reproduce,
)


def main(argv: list[str] | None = None) -> int:
    """Run a command line (default: this process's own); returns the exit code and never raises for a user's mistake."""
    options = None
    try:
        options = _parser().parse_args(argv)
        return options.run(options)
    except SystemExit as done:  # argparse has printed its message
        return done.code if isinstance(done.code, int) else DONE
    except CNNSurvivalError as error:
        return _fail(options, str(error), exit_code(error))
    except KeyboardInterrupt:
        return _fail(options, "Stopped.", STOPPED)
    except BrokenPipeError:
        return DONE  # the reader of our output has closed it
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
