"""Tables of text: CSV with commas, semicolons or tabs, in UTF-8 or Windows' Latin alphabet, as Excel writes them."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, existing

DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Parameters
    ----------
    path, what
        The file, and what it is to the user: "manifest", "clinical table".
    columns
        The header as it is written, without surrounding spaces; no two differ by upper and lower case alone.
    rows
        Column -> cell of each row, without surrounding spaces; rows without any text are left out.
    """

    path: Path
    what: str
    columns: list
    rows: list

    def column(self, name: str) -> str | None:
        """The column of that name as the header spells it; upper and lower case do not matter. None if absent."""
        if name in self.columns:
            return name
        return next((column for column in self.columns if column.casefold() == name.strip().casefold()), None)

    def need(self, name: str, advice: str = "") -> str:
        """``column``; raises UsageError, with the advice behind it, where the table has none of that name."""
        found = self.column(name)
        if found is None:
            raise UsageError(
                f"The {self.what} '{self.path}' has no column '{name}'; it has: {', '.join(self.columns)}.{advice}"
            )
        return found


def read_table(path, what: str) -> Table:
    """A table from a CSV file.

    Parameters
    ----------
    path
        The file.
    what
        What it is to the user, for messages: "manifest", "clinical table".

    Raises
    ------
    UsageError
        For a file that is not there or no table, has no rows, or two columns of one name.
    """
    path = existing(path, what)
    if path.is_dir():
        raise UsageError(f"The {what} '{path}' is a folder; give a CSV file.")
    lines = [line for line in _lines(path) if any(cell.strip() for cell in line)]
    if not lines:
        raise UsageError(f"The {what} '{path}' is empty; it needs a header and a row for each patient.")
    header = [name.strip() for name in lines[0]]
    rows = [{name: cell.strip() for name, cell in zip(header, line) if name} for line in lines[1:]]
    return make_table(path, what, [name for name in header if name], rows)


def make_table(path, what: str, columns: list, rows: list) -> Table:
    """The same from cells that were read elsewhere; cells that a row lacks are empty."""
    folded = [name.casefold() for name in columns]
    twice = next((name for name in columns if folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise UsageError(f"The {what} '{path}' has the column '{twice}' twice.")
    if not rows:
        raise UsageError(f"The {what} '{path}' has no rows below its header.")
    return Table(path, what, columns, [{name: row.get(name, "") for name in columns} for row in rows])


def number(text) -> float:
    """A cell as a number, also with a decimal comma ("59,42"); NaN for what is none.

    "1,234" is none, as it may be 1.234 or 1234; "0,234" can only be the former.
    """
    text = str(text).strip()
    if re.fullmatch(r"[+-]?\d+,\d+", text) and not re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text):
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return math.nan


def _lines(path: Path) -> list:
    content = path.read_bytes()
    if b"\0" in content:
        raise UsageError(f"The table '{path}' is not a text file; save it as CSV (UTF-8).")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    try:
        return [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if line]
    except csv.Error as error:
        raise UsageError(f"The table '{path}' cannot be read ({error}); save it as CSV (UTF-8).") from error
