"""The table of cases that ``predict --manifest`` works through."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError, existing

DELIMITERS = (",", ";", "\t")


class ManifestRow(NamedTuple):
    """One case. number: its line in the manifest's table, from 1. image, mask: as the manifest has them."""

    number: int
    patient_id: str
    image: str
    mask: str
    segment: str | None
    folder: Path
    problem: str | None
    folder_name: str

    @property
    def image_path(self) -> Path:
        return self.folder / self.image

    @property
    def mask_path(self) -> Path:
        return self.folder / self.mask


def read_manifest(path) -> list[ManifestRow]:
    """The rows of a manifest: columns image, mask and, if it has them, segment and patient_id; others are ignored.

    Comma-, semicolon- or tab-separated, UTF-8 with or without a byte-order mark, or Windows' Latin alphabet, as Excel
    writes them. Rows without a patient_id are called case-<number>. Raises UsageError for a table that is none.
    """
    path = existing(path, "manifest")
    if path.is_dir():
        raise UsageError(f"The manifest '{path}' is a folder; give a CSV file.")
    table = read_cells(path)
    if not table:
        raise UsageError(f"The manifest '{path}' is empty; it needs a header with the columns image and mask.")
    header = [name.strip().casefold() for name in table[0]]
    missing = [name for name in ("image", "mask") if name not in header]
    if missing:
        raise UsageError(f"The manifest '{path}' has no column '{missing[0]}'; it has: {', '.join(header)}.")
    filled = [line for line in table[1:] if any(cell.strip() for cell in line)]
    if not filled:
        raise UsageError(f"The manifest '{path}' has no rows below its header.")
    rows = [_row(number, dict(zip(header, line)), path.parent) for number, line in enumerate(filled, 1)]
    return with_folder_names(rows)


def duplicate_warnings(rows: list[ManifestRow]) -> dict[int, str]:
    """Row number -> a sentence, for rows whose patient_id occurs more than once."""
    numbers: dict = {}
    for row in rows:
        numbers.setdefault(row.patient_id, []).append(row.number)
    return {
        number: f"patient_id '{patient_id}' is in rows {', '.join(map(str, found))} of the manifest; each is predicted "
        "on its own."
        for patient_id, found in numbers.items()
        if len(found) > 1
        for number in found
    }


def read_cells(path: Path) -> list[list[str]]:
    """The lines of a table as lists of cells. Raises UsageError for what is no text file."""
    content = path.read_bytes()
    if b"\0" in content:
        raise UsageError(f"The table '{path}' is not a text file; save it as CSV (UTF-8).")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    return [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if line]


def _row(number: int, cells: dict, folder: Path) -> ManifestRow:
    values = {name: str(cells.get(name) or "").strip() for name in ("image", "mask", "segment", "patient_id")}
    empty = [name for name in ("image", "mask") if not values[name]]
    return ManifestRow(
        number,
        values["patient_id"] or f"case-{number}",
        values["image"],
        values["mask"],
        values["segment"] or None,
        folder,
        f"The manifest gives no {empty[0]} for this case." if empty else None,
        "",
    )


def with_folder_names(rows: list[ManifestRow]) -> list[ManifestRow]:
    """The rows with a folder name each: the patient_id in characters that every file system takes, and unique."""
    taken: set = set()
    named = []
    for row in rows:
        name = re.sub(r"[^\w.-]+", "_", row.patient_id).strip("._") or f"case-{row.number}"
        name = name if name.casefold() not in taken else f"{name}-row{row.number}"
        taken.add(name.casefold())
        named.append(row._replace(folder_name=name))
    return named
