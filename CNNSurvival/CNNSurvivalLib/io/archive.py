"""Zipped DICOM folders, as hospitals export them: unpacked into a temporary folder, within limits."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CNNSurvivalError

# A CT has some thousand files and 2 GB at most; what is more, is made to fill the disk.
MAX_MEMBERS = 20_000
MAX_UNPACKED = 2**32


def is_zip(path: Path) -> bool:
    """Whether a file begins as a ZIP archive does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


@contextmanager
def unpacked(paths: list[Path]) -> Iterator[list[Path]]:
    """The paths, with a temporary folder in place of each ZIP archive; an archive that is given twice gets one.

    Errors that name the folder name the archive instead. The folders are removed at the end.
    """
    archives = {path: None for path in paths if is_zip(path)}
    if not archives:
        yield paths
        return
    with tempfile.TemporaryDirectory(prefix="cnn-survival-") as root:
        for number, path in enumerate(archives):
            archives[path] = Path(root) / str(number)
            archives[path].mkdir()
            _unpack(path, archives[path])
        try:
            yield [archives.get(path, path) for path in paths]
        except CNNSurvivalError as error:
            text = str(error)
            for path, folder in archives.items():
                text = text.replace(f"folder {folder}", f"archive {path}").replace(str(folder), str(path))
            raise type(error)(text) from error


def _unpack(path: Path, folder: Path) -> None:
    """Every file of the archive into the folder, under names of our own: a name in an archive may point anywhere."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_UNPACKED:
                raise _too_large(path)
            if any(member.flag_bits & 1 for member in members):
                raise CNNSurvivalError(f"The archive {path} needs a password; unpack it, and give the folder.")
            for number, member in enumerate(members):
                name = re.sub(r"[^\w.-]", "_", re.split(r"[/\\]", member.filename)[-1], flags=re.ASCII)[-80:]
                with archive.open(member) as source, (folder / f"{number:05d}-{name}").open("wb") as target:
                    shutil.copyfileobj(source, target)  # zipfile never gives more than file_size
    except CNNSurvivalError:
        raise
    except OSError as error:
        raise CNNSurvivalError(
            f"The archive {path} cannot be unpacked ({error.strerror or error}); free some space, or unpack it and "
            "give the folder."
        ) from error
    except Exception as error:  # damaged in one of many ways, or packed in a way unknown to Python
        raise CNNSurvivalError(
            f"The archive {path} cannot be unpacked: it is damaged or packed in an unusual way; unpack it, and give "
            "the folder."
        ) from error


def _too_large(path: Path) -> CNNSurvivalError:
    return CNNSurvivalError(
        f"The archive {path} holds more than {MAX_MEMBERS} files or {MAX_UNPACKED / 2**30:g} GB; unpack it, and give "
        "the folder of the CT."
    )
