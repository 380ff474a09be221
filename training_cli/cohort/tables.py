"""Tables of patients as the command line reads them: the library's reader, and Excel files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from CNNSurvivalLib.errors import UsageError, existing
from CNNSurvivalLib.files import unescape_csv
from CNNSurvivalLib.io import tables
from CNNSurvivalLib.io.case import Case
from CNNSurvivalLib.io.manifest import manifest_cases
from CNNSurvivalLib.io.tables import Table

if TYPE_CHECKING:
    import pandas as pd


def read_table(path, what: str) -> Table:
    """A table as text: CSV as ``io.tables`` reads it, or Excel's .xlsx where openpyxl is installed.

    Raises UsageError for what is no table.
    """
    path = existing(path, what)
    return _read_excel(path, what) if path.suffix.lower() == ".xlsx" else tables.read_table(path, what)


def read_own_csv(path, **options) -> pd.DataFrame:
    """``pandas.read_csv`` of a table that ``write_csv`` wrote: its texts, ids above all, as they were before."""
    import pandas as pd

    table = pd.read_csv(path, **options)
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: table[name].map(unescape_csv, na_action="ignore") for name in texts})


def read_manifest(path) -> list[Case]:
    """``io.manifest.read_manifest``, from .xlsx, too."""
    return manifest_cases(read_table(path, "manifest"))


def one_row_each(table: Table, id_column: str = "patient_id") -> list[str]:
    """The patients' ids. Raises UsageError for a row without one, or a patient with two rows."""
    ids = [row[table.need(id_column)] for row in table.rows]
    if "" in ids:
        raise UsageError(f"Row {ids.index('') + 1} of the {table.what} '{table.path}' has no {id_column}; fill it in.")
    twice = next((patient for patient in ids if ids.count(patient) > 1), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        raise UsageError(
            f"The {table.what} '{table.path}' lists the patient '{twice}' more than once; keep one row for each."
        )
    return ids


def where(table: Table, conditions: dict) -> Table:
    """The rows whose columns have these values. Raises UsageError for an unknown column, or if no row has them."""
    columns = {table.need(name): str(value) for name, value in conditions.items()}
    rows = [row for row in table.rows if all(row[name] == value for name, value in columns.items())]
    if not rows:
        text = ", ".join(f"{column} = {value}" for column, value in conditions.items())
        raise UsageError(f"No row of the table '{table.path}' has {text}.")
    return replace(table, rows=rows)


def _read_excel(path, what: str) -> Table:
    import pandas as pd

    try:
        cells = pd.read_excel(path, dtype=str, keep_default_na=False).map(str.strip)
    except ImportError as error:
        raise UsageError(f"The {what} '{path}' is an Excel file, which needs openpyxl; save it as CSV.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"The {what} '{path}' cannot be read ({error}); save it as CSV.") from error
    return tables.make_table(path, what, [str(name).strip() for name in cells], cells.to_dict("records"))
