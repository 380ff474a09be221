"""Mistakes that another command line would cure; the library has them, as Slicer's batch needs them, too."""

from CNNSurvivalLib.errors import UsageError, existing

__all__ = ["UsageError", "existing"]
