"""What is known of public collections: which contours, which structure, which clinical table (collections.toml)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from CNNSurvivalLib.errors import UsageError

from ..toml_file import FilledText, OptionalText, Table, checked, read_toml

SHIPPED = Path(__file__).with_name("collections.toml")
PATTERNS = ("segment", "description", "prefer", "centre")


class Collection(Table):
    """One table of collections.toml, which says what each key means."""

    about: OptionalText = None
    segment: OptionalText = None
    analysis: OptionalText = None
    description: OptionalText = None
    prefer: OptionalText = None
    centre: OptionalText = None
    clinical: OptionalText = None
    contours: Annotated[dict[str, FilledText], Field(description="a table of patient = 'SeriesInstanceUID'")] = {}


def collection_id(name: str) -> str:
    """The id that the index uses: "NSCLC-Radiomics" is nsclc_radiomics."""
    return re.sub(r"[-\s]+", "_", name.strip().lower())


def known_collection(name: str, file=None) -> Collection:
    """What is known of a collection; nothing for one that no file names.

    Parameters
    ----------
    name : str
        As people or the index write it.
    file : str or Path, optional
        A file like collections.toml, whose tables go before the shipped ones.

    Raises
    ------
    UsageError
        For a file that is missing or has mistakes.
    """
    for path in (file, SHIPPED):
        tables = read_collections(path) if path else {}
        if collection_id(name) in tables:
            return tables[collection_id(name)]
    return Collection()


def read_collections(path) -> dict[str, Collection]:
    """The tables of a file by the ids of their collections."""
    path, _, content = read_toml(path, "file of collections")
    what = f"file of collections '{path}'"
    _check_tables(content, what)
    tables = {collection_id(name): checked(Collection, table, f"{what}, [collection.{name}]")
              for name, table in content["collection"].items()}  # fmt: skip
    for name, table in tables.items():
        for key in PATTERNS:
            _check_pattern(getattr(table, key), key, f"{what}, [collection.{name}]")
    return tables


def _check_tables(content: dict, what: str) -> None:
    tables = content.get("collection")
    if set(content) != {"collection"} or not isinstance(tables, dict) \
            or not all(isinstance(table, dict) for table in tables.values()):  # fmt: skip
        raise UsageError(f"The {what} must hold tables [collection.NAME] and nothing else.")


def _check_pattern(pattern: str | None, key: str, what: str) -> None:
    try:
        groups = re.compile(pattern or "").groups
    except re.error as error:
        raise UsageError(f"In the {what}, '{key}' is no regular expression ({error}).") from None
    if key == "centre" and pattern and not groups:
        raise UsageError(f"In the {what}, 'centre' needs a group in brackets around what names the centre.")
