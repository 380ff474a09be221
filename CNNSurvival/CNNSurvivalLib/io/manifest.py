"""The manifest: a table with a row for each case, which every command and the panel read in the same way."""

from __future__ import annotations

from .case import Case, with_folder_names
from .tables import Table, read_table

NEEDED = ("image", "mask")
# The columns with a meaning; every other one is a covariate.
COLUMNS = (*NEEDED, "segment", "patient_id", "series_uid", "time_days", "event")


def read_manifest(path) -> list[Case]:
    """The cases of a manifest.

    Parameters
    ----------
    path
        A CSV file with the columns image and mask, paths relative to the file, and, if it has them, segment,
        patient_id, series_uid, time_days (days) and event (1 = died, 0 = censored). Upper and lower case of these
        names do not matter. Other columns are kept as covariates; of these ``population`` says whom a patient
        belongs to.

    Returns
    -------
    list of Case
        In the order of the rows. Rows without a patient_id are called case-<number>; a row without an image or mask
        has that as its problem.

    Raises
    ------
    UsageError
        For what is no table, has no rows or lacks a column.
    """
    return manifest_cases(read_table(path, "manifest"))


def manifest_cases(table: Table) -> list[Case]:
    """The cases of a manifest that was read already."""
    for name in NEEDED:
        table.need(name)
    spelled = {name: table.column(name) for name in COLUMNS}
    others = [column for column in table.columns if column not in spelled.values()]
    cases = []
    for number, row in enumerate(table.rows, 1):
        values = {name: row[column] if column else "" for name, column in spelled.items()}
        empty = [name for name in NEEDED if not values[name]]
        case = Case(
            image=values["image"],
            mask=values["mask"],
            patient_id=values["patient_id"] or f"case-{number}",
            segment=values["segment"] or None,
            series_uid=values["series_uid"] or None,
            time_days=values["time_days"],
            event=values["event"],
            covariates={column: row[column] for column in others},
            folder=table.path.parent,
            number=number,
            problem=f"The manifest gives no {empty[0]} for this case." if empty else None,
        )
        cases.append(case)
    return with_folder_names(cases)
