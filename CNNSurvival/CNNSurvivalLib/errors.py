"""The two exceptions that cross the library's borders."""


class CNNSurvivalError(ValueError):
    """A mistake in what the user gave.

    ``str(error)`` is one sentence that says what is wrong with which input and what to do about it.
    Panels and command lines show it as it is, without a traceback.
    """


class Cancelled(Exception):
    """Raised by a progress callback to stop a prediction; whoever raises it finds nothing left behind."""
