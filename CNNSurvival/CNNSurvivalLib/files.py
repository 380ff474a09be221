"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Iterable, Iterator, Sequence

from .errors import CNNSurvivalError

# A spreadsheet takes a cell that begins with = + - @ (or their wide twins), maybe after white space that it drops, for
# a formula and may run it. Where it separates cells by semicolons or tabs, one also begins within what is one to us.
_FORMULA = re.compile(r"""(^|[;\t\r\n]"?)('*)(?=[=+\-@＝＋－＠\t\r\n])""")
_ESCAPED = re.compile(r"""(^|[;\t\r\n]"?)'('*)(?=[=+\-@＝＋－＠\t\r\n])""")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@contextlib.contextmanager
def atomic_write(path, mode: str = "w", newline: str | None = "", to_disk: bool = True) -> Iterator:
    """Open a temporary sibling of ``path`` for writing; rename it to ``path`` when the block succeeds.

    ``mode`` is "w" (UTF-8 text) or "wb". Without ``to_disk`` the file may be damaged by a power cut (not by the end of
    this process): for what its reader checks and can make again. An exception inside the block removes the temporary
    file and leaves an older ``path`` as it was. Raises CNNSurvivalError where the file system refuses.
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": newline}
    try:
        handle, temporary = tempfile.mkstemp(prefix="." + path.name + ".", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        # mkstemp makes files that only their owner reads; results are made like any other new file.
        os.chmod(temporary, 0o666 & ~_umask())
        with os.fdopen(handle, mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            if to_disk:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise


def write_csv(path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a CSV file (UTF-8, RFC 4180); floats in full precision, None as an empty cell.

    Text that a spreadsheet would take for a formula is escaped; numbers are not, whether numbers or their text.
    """
    with atomic_write(path) as stream:
        writer = csv.writer(stream)
        writer.writerow([_cell(name) for name in header])
        for row in rows:
            writer.writerow([_cell(value) for value in row])


def escape_csv(text: str) -> str:
    """The text with an apostrophe before whatever a spreadsheet would run; "-5" and other plain numbers stay."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'\2", text)


def unescape_csv(text: str) -> str:
    """The text that ``escape_csv`` was given, for what reads our own tables."""
    return _ESCAPED.sub(r"\1\2", text)


def write_json(path, content) -> None:
    """Write ``content`` as JSON (UTF-8, indented, no NaN or infinity)."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as stream:
        stream.write(text + "\n")


def ensure_output_folder(path) -> Path:
    """Return ``path`` as a folder that exists and takes files; raise CNNSurvivalError otherwise."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CNNSurvivalError(
            f"The output folder '{path}' cannot be written ({error.strerror or error}); choose another folder "
            "or change its permissions."
        ) from error
    return path


def _cannot_write(path: Path, error: OSError) -> CNNSurvivalError:
    return CNNSurvivalError(
        f"The file '{path}' cannot be written ({error.strerror or error}); choose another folder, "
        "free some space or change its permissions."
    )


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escape_csv(value)
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return str(value)
    return repr(value.item() if hasattr(value, "item") else value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
