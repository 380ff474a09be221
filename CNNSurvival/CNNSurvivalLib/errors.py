"""The exceptions that callers of the library have to know, and the exit codes of the programs that meet them."""

from pathlib import Path

# Exit codes of the command line and of headless.py
DONE, UNUSABLE_INPUT, USAGE_ERROR, SOME_FAILED, STOPPED = 0, 1, 2, 3, 130


class CNNSurvivalError(Exception):
    """A mistake in what the user gave.

    ``str(error)`` is one sentence that says what is wrong with which input and what to do about it.
    Panels and command lines show it as it is, without a traceback.
    """


class UsageError(CNNSurvivalError):
    """The command itself must be changed: a file that is not there, an unknown model, a table without its columns.

    The command line exits 2 for it, as for a wrong option, and 1 for any other CNNSurvivalError.
    """


class NotACT(CNNSurvivalError):
    """The image does not look like a CT. ``problem`` says why, without what to do, which differs between programs."""

    ADVICE = " Choose the CT, or use --force to predict all the same."

    def __init__(self, problem: str) -> None:
        # The reader of archives makes an error again from its whole text, in which it corrects the path.
        self.problem = problem[: -len(self.ADVICE)] if problem.endswith(self.ADVICE) else problem
        super().__init__(self.problem + self.ADVICE)


def exit_code(error: CNNSurvivalError) -> int:
    """The exit code for an error that ends a program."""
    return USAGE_ERROR if isinstance(error, UsageError) else UNUSABLE_INPUT


def existing(path, what: str) -> Path:
    """The path, if something is there; UsageError otherwise."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"The {what} '{path}' does not exist; check the path.")
    return path


class Cancelled(Exception):
    """Raised by a progress callback to stop a prediction. Files and nodes then stay as they were."""
