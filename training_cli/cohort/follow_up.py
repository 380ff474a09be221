"""Follow-up from published clinical tables: whose columns mean what is declared in clinical_tables.toml.

The rule: who died is followed to the day of death, who lives to the last day on which that was known. The larger of
both is wrong: sources list "last follow-ups" later than the death.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from CNNSurvivalLib.errors import UsageError, existing
from CNNSurvivalLib.files import write_csv
from CNNSurvivalLib.io import tables

from ..toml_file import FilledText, Text, checked, read_toml
from ..toml_file import Table as TomlTable
from .clinical import EVENT, ID, TIME
from .collections import collection_id
from .selection import SELECTION_FILE
from .tables import read_own_csv, read_table

MAPPINGS_FILE = Path(__file__).with_name("clinical_tables.toml")
DAYS_PER_YEAR = 365.25
ORIGIN = "time_origin"
FOLLOW_UP_FILE, WITHOUT_FILE = "follow_up.csv", "without_follow_up.csv"
MISSING = {"", "na", "n/a", "nan", "none", "null", "nat", "<na>", "'--", "--", "not reported", "not available",
           "not applicable", "unknown", "not allowed to collect"}  # fmt: skip
ENDINGS = (".parquet", ".csv", ".tsv", ".txt", ".xlsx")
MAX_COLUMNS_SHOWN = 40

Names = Annotated[list[FilledText], Field(description="a list of texts in quotes")]


class Mapping(TomlTable):
    """What the columns of one kind of clinical table mean: a [[clinical]]; clinical_tables.toml explains it."""

    name: Text
    id: Names
    event: Names
    dead: Names
    alive: Names
    time_origin: Text
    collections: Names = []
    time: Names = []
    time_dead: Names = []
    time_alive: Names = []
    time_origin_column: Names = []
    covariates: dict[str, list[FilledText]] = Field({}, description="a table of lists of texts in quotes")

    @property
    def times(self) -> list[list[str]]:
        """Names of the columns of which one each is needed: for the dead, for the living."""
        return [self.time or self.time_dead, self.time or self.time_alive]

    def fits(self, table: tables.Table) -> bool:
        """Whether the table has a column for each of patient, event and time."""
        return all(_columns(table, names) for names in (self.id, self.event, *self.times))


class _File(TomlTable):
    clinical: list[Mapping] = Field(min_length=1, description="tables, [[clinical]] each")


@dataclass(frozen=True)
class FollowUp:
    """Follow-up of a cohort.

    table: patient_id, time_days, event, covariates, time_origin, a row for each patient with follow-up. missing:
    (patient_id, why) of the others. source: the kind of table. path: the table.
    """

    table: pd.DataFrame
    missing: list[tuple[str, str]]
    source: str
    path: Path

    @property
    def time_origin(self) -> str:
        """The days that survival counts from; several where the table says so for each patient."""
        return "; ".join(sorted(self.table[ORIGIN].unique()))


def read_mappings(own: Path | None = None) -> list[Mapping]:
    """The declared kinds of clinical tables; those of a file of the user's own come first. Raises UsageError."""
    found = []
    for path in filter(None, (own, MAPPINGS_FILE)):
        path, _, content = read_toml(path, "mapping")
        found += checked(_File, content, f"mapping '{path}'").clinical
    wrong = next((each.name for each in found if not all([each.id, each.event, *each.times])), None)
    if wrong is not None:
        raise UsageError(f"The mapping '{wrong}' needs columns for id, event, and time (or time_dead and time_alive).")
    return found


def find_follow_up(
    paths: Iterable[Path], collection: str, patients: Sequence[str], mappings: Sequence[Mapping]
) -> FollowUp:
    """The follow-up of a collection's patients from the table that has it for the most of them.

    Parameters
    ----------
    paths : iterable of Path
        Clinical tables: CSV, TSV, Excel, Parquet, or a folder of Parquet files that are one table.
    collection : str
        Its id at Imaging Data Commons; chooses among the mappings.
    patients : sequence of str
        Rows of others are not looked at.
    mappings : sequence of Mapping
        In the order in which they are tried.

    Raises
    ------
    UsageError
        If no table has the columns of a mapping, or none has one of the patients with follow-up; the sentence lists the
        columns that are there.
    """
    read = [_read(path) for path in paths]
    suitable = [each for each in mappings if not each.collections or collection in each.collections]
    found = []
    for table in read:
        mapping = next((each for each in suitable if each.fits(table)), None)
        if mapping is not None:
            found.append(follow_up(table, mapping, patients))
    if not found:
        raise UsageError(_nothing_fits(read, collection, suitable))
    best = max(found, key=lambda each: len(each.table))
    if best.table.empty:
        raise UsageError(f"The clinical table '{best.path}' has follow-up of none of the {len(patients)} patients of "
                         f"'{collection}'; the first reason is: {best.missing[0][1]}")  # fmt: skip
    return best


def follow_up(table: tables.Table, mapping: Mapping, patients: Sequence[str]) -> FollowUp:
    """``find_follow_up`` of a table that was read and a mapping that fits it."""
    column = _columns(table, mapping.id)[0]
    rows: dict[str, list[dict]] = {}
    for row in table.rows:
        rows.setdefault(row[column], []).append(row)
    found, missing = [], []
    for patient in patients:
        values = _Values(table, rows.get(patient, []))
        reason, time, event = _outcome(values, mapping)
        if reason:
            missing.append((patient, reason))
        else:
            found.append({ID: patient, TIME: time, EVENT: event, **_covariates(values, mapping),
                          ORIGIN: _origin(values, mapping)})  # fmt: skip
    names = [name for name in mapping.covariates if name != "age_days"]
    if "age_days" in mapping.covariates and "age_years" not in names:
        names.insert(0, "age_years")
    return FollowUp(pd.DataFrame(found, columns=[ID, TIME, EVENT, *names, ORIGIN]), missing, mapping.name, table.path)


def chosen_patients(folder: Path) -> pd.DataFrame:
    """The rows of a download's selection.csv with a CT, as text."""
    selection = read_own_csv(folder / SELECTION_FILE, dtype=str, keep_default_na=False)
    return selection[selection["image"] != ""]


def write_follow_up(
    folder: Path, collection: str, clinical: Path | None = None, mapping: Path | None = None
) -> FollowUp:
    """Follow-up of the patients that a download chose; FOLLOW_UP_FILE and WITHOUT_FILE in its folder.

    clinical: a table in place of the download's own. mapping: declarations of the user's own. Raises UsageError where
    no table has the columns of a declaration; see ``find_follow_up``.
    """
    paths = [clinical] if clinical is not None else clinical_files(folder / "clinical")
    found = find_follow_up(paths, collection_id(collection), list(chosen_patients(folder)[ID]), read_mappings(mapping))
    write_table(folder / FOLLOW_UP_FILE, found.table)
    write_csv(folder / WITHOUT_FILE, (ID, "reason"), found.missing)
    return found


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table as CSV; what is missing is an empty cell."""
    write_csv(path, tuple(table), [[None if pd.isna(v) else v for v in row] for row in table.itertuples(index=False)])


def clinical_files(folder: Path) -> list[Path]:
    """The tables in a folder: files of a known kind, and folders of Parquet files."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir())
            if path.suffix.lower() in ENDINGS or (path.is_dir() and any(path.glob("*.parquet")))]  # fmt: skip


# --- One patient ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """The rows of one patient."""

    table: tables.Table
    rows: list

    def of(self, names: Sequence[str]) -> list[str]:
        """The different known values of the first of the columns that has any."""
        for column in _columns(self.table, names):
            found = [row[column] for row in self.rows if row[column].casefold() not in MISSING]
            if found:
                return list(dict.fromkeys(found))
        return []


def _outcome(values: _Values, mapping: Mapping) -> tuple[str | None, float, int]:
    """(why there is none, days, 1 for dead and 0 for alive)."""
    if not values.rows:
        return "The clinical table has no row of this patient.", 0.0, 0
    said = values.of(mapping.event)
    meanings = {_meaning(text, mapping) for text in said}
    if not said or None in meanings:
        return f"The clinical table does not say whether this patient died ({', '.join(said) or 'empty'}).", 0.0, 0
    if len(meanings) > 1:
        return f"The rows of this patient contradict each other: {', '.join(said)}.", 0.0, 0
    dead = meanings.pop() == 1
    texts = values.of(mapping.times[0 if dead else 1])
    what = "died" if dead else "is alive"
    days = sorted({_number(text) for text in texts})
    if not days or not all(math.isfinite(each) and each >= 0 for each in days):
        return f"The patient {what}, but the time is not a number of days ({', '.join(texts) or 'empty'}).", 0.0, 0
    if dead and len(days) > 1:
        return f"The patient died on several days: {', '.join(texts)}.", 0.0, 0
    return None, days[-1], int(dead)


def _meaning(text: str, mapping: Mapping) -> int | None:
    plain = re.sub(r"\.0+$", "", text.casefold())
    known = {word.casefold(): value for words, value in ((mapping.dead, 1), (mapping.alive, 0)) for word in words}
    return known.get(plain)


def _covariates(values: _Values, mapping: Mapping) -> dict[str, str]:
    """Name -> text; "" for what is not known, or where the rows differ."""
    found = {name: values.of(names) for name, names in mapping.covariates.items()}
    plain = {name: texts[0] if len(texts) == 1 else "" for name, texts in found.items()}
    days = _number(plain.pop("age_days", ""))
    if math.isfinite(days):  # to the day, so better than whole years
        plain["age_years"] = f"{days / DAYS_PER_YEAR:.1f}"
    return plain


def _origin(values: _Values, mapping: Mapping) -> str:
    said = values.of(mapping.time_origin_column)
    return f"{said[0]}, says the table" if len(said) == 1 else mapping.time_origin


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


# --- Tables -----------------------------------------------------------------------------------------------------------


def _columns(table: tables.Table, names: Sequence[str]) -> list[str]:
    """The table's columns of these names, in the order of the names."""
    spelled: dict[str, str] = {}
    for column in table.columns:
        spelled.setdefault(_plain(column), column)
    return [spelled[_plain(name)] for name in names if _plain(name) in spelled]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _read(path: Path) -> tables.Table:
    path = existing(path, "clinical table")
    if path.is_dir() or path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    return read_table(path, "clinical table")


def _read_parquet(path: Path) -> tables.Table:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    try:
        cells = pd.concat([pd.read_parquet(file) for file in files]).astype(object)
    except (ImportError, OSError, ValueError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise UsageError(f"The clinical table '{path}' cannot be read ({error}).") from error
    cells = cells.where(cells.notna(), "").map(lambda value: str(value).strip())
    return tables.make_table(path, "clinical table", [str(name) for name in cells], cells.to_dict("records"))


def _nothing_fits(read: Sequence[tables.Table], collection: str, mappings: Sequence[Mapping]) -> str:
    wanted = " or ".join(
        f"{each.id[0]}, {each.event[0]}, {' and '.join(dict.fromkeys(names[0] for names in each.times))}"
        for each in mappings
    )
    if not read:
        return f"There is no clinical table of '{collection}'; give one with columns such as {wanted}."
    table = max(read, key=lambda each: len(each.rows))
    there = ", ".join(table.columns[:MAX_COLUMNS_SHOWN])
    more = len(table.columns) - MAX_COLUMNS_SHOWN
    there += f" and {more} more" if more > 0 else ""
    return (
        f"The clinical table '{table.path}' has no known columns of follow-up; it has: {there}. Known are such as "
        f"{wanted}; declare yours in a [[clinical]] mapping."
    )
