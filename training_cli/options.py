"""What the commands of the command line share: exit codes, how a command is declared, checks of numbers."""

from __future__ import annotations

import argparse
import math

from CNNSurvivalLib.errors import DONE, SOME_FAILED, STOPPED, UNUSABLE_INPUT, USAGE_ERROR

__all__ = ["DONE", "SOME_FAILED", "STOPPED", "UNUSABLE_INPUT", "USAGE_ERROR"]

# The models that a network is compared with. Here, as the parser needs them before the packages that fit them.
BASELINES = ("radiomics", "outputs", "volume", "clinical")

EXIT_CODES = """\
exit codes:
  0  done
  1  the input was found but cannot be used; the message says why
  2  the command must be changed: a missing file, an unknown name, a choice to make
  3  a table of cases was worked through and some failed; the output lists them
"""


def usual_jobs() -> int:
    """Cases at once where the user says nothing: the cores that this process may use."""
    from joblib import cpu_count

    return cpu_count()


def install_command(extra: str) -> str:
    """How to install what an extra of this package needs. It is on no public index."""
    return f"'pip install \".[{extra}]\"' in the folder of the source code"


def add_command(commands, name: str, run, summary: str, description: str, epilog: str | None = EXIT_CODES):
    """Declare a command and return its parser; ``run`` takes the parsed options and returns the exit code."""
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


def whole_number(text: str) -> int:
    """For argparse: 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 1 or more")
    return int(text)


def count(text: str) -> int:
    """For argparse: 0 or more."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 0 or more")
    return int(text)


def any_number(text: str) -> float:
    """For argparse: a finite number."""
    return _number(text, lambda value: True, "a number")


def positive(text: str) -> float:
    """For argparse: a number above 0."""
    return _number(text, lambda value: value > 0, "a number above 0")


def not_negative(text: str) -> float:
    """For argparse: 0 or a number above it."""
    return _number(text, lambda value: value >= 0, "0 or a number above it")


def fraction(text: str) -> float:
    """For argparse: from 0 up to, but not, 1."""
    return _number(text, lambda value: 0 <= value < 1, "a number from 0 up to (but not) 1")


def days(text: str) -> list[float]:
    """For argparse: numbers of days, separated by commas."""
    return [positive(part.strip()) for part in text.split(",")]


def months(text: str) -> tuple:
    """For argparse: numbers of months, separated by commas."""
    from CNNSurvivalLib.errors import CNNSurvivalError
    from CNNSurvivalLib.report.text import parse_horizons

    try:
        return parse_horizons(text)
    except CNNSurvivalError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def named_value(text: str) -> tuple[str, str]:
    """For argparse: NAME=VALUE."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE, such as age_years=63")
    return name, value


def _number(text: str, fits, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not fits(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}")
    return value


def print_table(rows: list[tuple[str, str]]) -> None:
    """Print labels and texts in two columns."""
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"{label:<{width}}  {text}")
