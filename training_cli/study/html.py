"""The report of a study: one HTML file that needs nothing else, its tables as CSV, its figures as PNG.

What it says is plain data (``Report``); this file only lays it out. The HTML has its style and its pictures inside,
no script and no link to load, so that it can be mailed, archived and printed.
"""

from __future__ import annotations

import base64
import math
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import atomic_write, ensure_output_folder, write_csv
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

REPORT_FILE, TABLES_FOLDER, FIGURES_FOLDER = "report.html", "tables", "figures"
TEMPLATE_FILE = Path(__file__).with_name("report_template.html")
MINUS = "\u2212"


@dataclass(frozen=True)
class Table:
    """A table. rows: one sequence per row, as long as ``header``; give numbers as numbers (they are rounded in the
    report, whole in the CSV) and None for what is not known. name: of its CSV file, without ending (default: made
    from the title). note: a sentence below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence]
    note: str = ""
    name: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure. path: a PNG file, under the name that it is to have in the report's folder."""

    title: str
    path: Path
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order: sentences (str, a paragraph each), tables and figures."""

    title: str
    items: Sequence[str | Table | Figure]


@dataclass(frozen=True)
class Report:
    """What a report says.

    study: its name. summary: sentences, the most important first. sections: the rest. configuration: the text of the
    configuration file. provenance: (label, value) pairs such as versions, seeds and SHA-256 sums.
    """

    study: str
    summary: Sequence[str]
    sections: Sequence[Section]
    configuration: str = ""
    provenance: Sequence[tuple[str, object]] = field(default_factory=tuple)


def write_report(content: Report, folder) -> Path:
    """Write report.html, tables/<name>.csv and figures/<name>.png into a folder; returns the path of report.html.

    report.html comes last. A figure that lies in figures/ already stays as it is. Raises CNNSurvivalError for a
    figure that is missing or no PNG, for a row that is not as long as its header, and where the folder cannot be
    written.
    """
    folder = ensure_output_folder(folder)
    names: set[str] = set()
    sections = [
        {"title": section.title, "id": _unique(_slug(section.title), names, "section-"),
         "items": [_item(item, folder, names) for item in section.items]}
        for section in content.sections
    ]  # fmt: skip
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    template = environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8"))
    html = template.render(report=content, sections=sections, warning=RESEARCH_USE_ONLY)
    with atomic_write(folder / REPORT_FILE) as stream:
        stream.write(html)
    return folder / REPORT_FILE


def shown_column(name: str, values: Sequence) -> list[str]:
    """The cells of a column as the report shows them, the numbers all in one format.

    Three decimals; one where all are 100 or more; powers of ten where all are below 0.001. In a column of p values
    (named p, or ending in _p) one that three decimals cannot show is "< 0.001".
    """
    sizes = [abs(float(value)) for value in values if _is_fraction(value) and math.isfinite(value) and value != 0]
    form = "{:.3f}"
    if sizes and min(sizes) >= 100:
        form = "{:.1f}"
    elif sizes and max(sizes) < 0.001:
        form = "{:.1e}"
    is_p = name.lower() == "p" or name.lower().endswith("_p")
    return [_shown(value, form, is_p) for value in values]


def _shown(value, form: str, is_p: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _is_number(value):
        return str(value)
    if is_p and 0 <= value < 0.001:
        return "< 0.001"
    text = form.format(value) if _is_fraction(value) else str(value)
    return text.replace("-", MINUS, 1) if value < 0 and text.strip("-0.") else text.lstrip("-")


def _is_fraction(value) -> bool:
    return _is_number(value) and not isinstance(value, numbers.Integral)


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _item(item: str | Table | Figure, folder: Path, names: set[str]) -> dict:
    if isinstance(item, str):
        return {"kind": "text", "text": item}
    if isinstance(item, Table):
        return _table(item, folder, names)
    return _figure(item, folder, names)


def _table(table: Table, folder: Path, names: set[str]) -> dict:
    for row in table.rows:
        if len(row) != len(table.header):
            raise CNNSurvivalError(
                f"In the table '{table.title}' a row has {len(row)} cells and the header {len(table.header)}."
            )
    name = _unique(table.name or _slug(table.title), names, "table-")
    path = ensure_output_folder(folder / TABLES_FOLDER) / f"{name}.csv"
    write_csv(path, table.header, [[_csv_cell(value) for value in row] for row in table.rows])
    number = [bool(table.rows) and all(_is_number(row[c]) or row[c] is None for row in table.rows)
              for c in range(len(table.header))]  # fmt: skip
    columns = [shown_column(title, [row[c] for row in table.rows]) for c, title in enumerate(table.header)]
    return {"kind": "table", "id": f"table-{name}", "table": table, "is_number": number,
            "rows": list(zip(*columns)) if table.rows else [], "file": path.relative_to(folder).as_posix()}  # fmt: skip


def _csv_cell(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figure(figure: Figure, folder: Path, names: set[str]) -> dict:
    path = Path(figure.path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CNNSurvivalError(f"The figure '{path}' cannot be read ({error.strerror}).") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise CNNSurvivalError(f"The figure '{path}' is not a PNG file.")
    name = _unique(path.stem, names, "figure-")
    target = ensure_output_folder(folder / FIGURES_FOLDER) / f"{name}.png"
    if not (target.exists() and target.samefile(path)):
        with atomic_write(target, "wb") as stream:
            stream.write(content)
    data = base64.b64encode(content).decode("ascii")
    return {"kind": "figure", "id": f"figure-{name}", "figure": figure, "data": data}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "untitled"


def _unique(name: str, names: set[str], kind: str) -> str:
    """The name, with a number if another of its kind has it."""
    number, result = 1, name
    while kind + result in names:
        number += 1
        result = f"{name}_{number}"
    names.add(kind + result)
    return result
