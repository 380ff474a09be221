"""Mistakes that another command line would cure."""

from pathlib import Path

from CNNSurvivalLib.errors import CNNSurvivalError


class UsageError(CNNSurvivalError):
    """The command itself must be changed: a file that is not there, an unknown model, a table without its columns.

    The command line exits 2 for it, as for a wrong option, and 1 for any other CNNSurvivalError.
    """


def existing(path, what: str) -> Path:
    """The path, if something is there; UsageError otherwise."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"The {what} '{path}' does not exist; check the path.")
    return path
