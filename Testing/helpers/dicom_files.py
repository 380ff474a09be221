"""DICOM files for tests, written alike by pydicom 2 (in Slicer 5.6 to 5.10) and pydicom 3."""

import pydicom
import pytest

OLD_PYDICOM = pydicom.__version__.startswith("2.")


def save(dataset, path) -> None:
    """Write a new dataset, explicit VR little endian, as a file with preamble and file meta information."""
    if OLD_PYDICOM:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dataset.save_as(path, write_like_original=False)
    else:
        dataset.save_as(path, enforce_file_format=True)


def save_big_endian(dataset, path) -> None:
    """Write a dataset that is in memory, its words swapped already, explicit VR big endian."""
    if OLD_PYDICOM:
        dataset.is_little_endian, dataset.is_implicit_VR = False, False
        dataset.save_as(path, write_like_original=False)
    else:
        pydicom.dcmwrite(path, dataset, little_endian=False, implicit_vr=False, force_encoding=True)


def highdicom():
    """The package with its parts, which writes what pydicom alone cannot; the test is skipped without it."""
    return pytest.importorskip("highdicom", reason="needs highdicom, which writes the DICOM object of this test")
