"""Calling the file libraries: what they raise becomes one sentence, what they print does not reach the terminal."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CNNSurvivalError

# SimpleITK raises RuntimeError for everything; of those for want of memory, this is ITK's and the C++ library's text.
ITK_WITHOUT_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation")


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Whatever a library raises becomes one CNNSurvivalError; its warnings and its output are not shown."""
    import SimpleITK as sitk

    itk_was_loud = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with without_warnings(), _hushed():
            yield
    except (CNNSurvivalError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and any(text in str(error) for text in ITK_WITHOUT_MEMORY):
            raise MemoryError from error
        raise CNNSurvivalError(
            f"The {what} {path} cannot be read: it is damaged, incomplete, or of a kind unknown here; give NRRD, "
            f"NIfTI, MetaImage or DICOM{' (SEG or RTSTRUCT)' if what == 'mask' else ''}."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(itk_was_loud)


@contextmanager
def without_warnings() -> Iterator[None]:
    """pydicom and highdicom warn of values and log them; these may name the patient, and Slicer's log keeps them."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps off the terminal what the C libraries print there by themselves (MetaImage and NIfTI do)."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
