"""TOML files that people write, checked against a pydantic model. The first mistake becomes one sentence."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from CNNSurvivalLib.errors import UsageError, existing

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

MAX_SHOWN = 60  # characters of a wrong value in a message


class Table(pydantic.BaseModel):
    """A table of a TOML file. Keys that it does not declare are refused, and so are values of another type.

    Every field needs a description that completes the sentence "'key' must be ...".
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


A_TEXT = "a text in quotes that is not empty"
A_LIST_OF_TEXTS = "a list of texts in quotes, none of them empty"
FilledText = Annotated[str, Field(pattern=r"\S")]
Text = Annotated[FilledText, Field(description=A_TEXT)]
OptionalText = Annotated[FilledText | None, Field(description=A_TEXT)]
OptionalTexts = Annotated[list[FilledText] | None, Field(description=A_LIST_OF_TEXTS)]
WholeNumber = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
WholeNumberOr0 = Annotated[int, Field(ge=0, description="a whole number, 0 or more")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Switch = Annotated[bool, Field(description="true or false")]


def read_toml(path, what: str) -> tuple[Path, str, dict]:
    """(path, text, content) of a TOML file.

    Parameters
    ----------
    path : str or Path
    what : str
        What the file is, for messages: "card", "configuration".

    Raises
    ------
    UsageError
        For a file that is missing, or that is not TOML in UTF-8.
    """
    path = existing(path, what)
    try:
        text = path.read_text(encoding="utf-8-sig")
        return path, text, tomllib.loads(text)
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"The {what} '{path}' cannot be read ({error}); it must be a TOML file.") from error


def checked(kind: type[Table], content: dict, what: str, if_missing: str = "add {}"):
    """The content as an instance of ``kind``.

    Parameters
    ----------
    kind : type of Table
    content : dict
        As ``read_toml`` gives it.
    what : str
        The file in words, such as "card 'card.toml'".
    if_missing : str
        What to do about what is missing; {} stands for "it" or "them".

    Raises
    ------
    UsageError
        With one sentence about the first mistake, or about all that is missing; unknown keys come first, as they
        often are the missing ones with a typing error.
    """
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False)
        mistakes.sort(key=lambda mistake: mistake["type"] != "extra_forbidden")
        if mistakes[0]["type"] == "missing":
            missing = [mistake["loc"] for mistake in mistakes if mistake["type"] == "missing"]
            advice = if_missing.format("it" if len(missing) == 1 else "them")
            raise UsageError(f"The {what} lacks {keys_in_words(missing)}; {advice}.") from None
        raise UsageError(_sentence(kind, mistakes[0], what)) from None


def keys_in_words(locations) -> str:
    """Keys, each a tuple such as ("cohorts", "test", "name"), as "'name', 'sites' in [cohorts.test]"."""
    places: dict[str, list[str]] = {}
    for *tables, key in locations:
        places.setdefault(_place(tables), []).append(f"'{key}'")
    return ", and ".join(", ".join(keys) + place for place, keys in places.items())


def _sentence(kind: type[Table], mistake: dict, what: str) -> str:
    *tables, key = mistake["loc"]
    if mistake["type"] == "extra_forbidden":
        allowed = ", ".join(_table_at(kind, tables).model_fields)
        return f"The {what} has an unknown key '{key}'{_place(tables)}; allowed are: {allowed}."
    *tables, key = _key_in(kind, mistake["loc"])
    wanted = _table_at(kind, tables).model_fields[key].description
    return f"In the {what}, '{key}'{_place(tables)} must be {wanted}; it is {_shown(mistake['input'])}."


def _table_at(kind: type[Table], tables) -> type[Table]:
    """The table at the end of a way such as ("network", 0, "pretrain")."""
    for key in tables:
        if isinstance(key, str):
            kind = _table_in(kind.model_fields[key].annotation)
    return kind


def _key_in(kind: type[Table], location) -> tuple:
    """The location without what lies inside a key's value, such as the place in a list of texts."""
    end = 0
    for number, key in enumerate(location, 1):
        if isinstance(key, str):
            end, kind = number, _table_in(kind.model_fields[key].annotation)
            if kind is None:
                break
    return tuple(location[:end])


def _table_in(annotation: Any) -> type[Table] | None:
    """The table that an annotation such as ``list[Network]`` or ``Cohort | None`` speaks of."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation if issubclass(annotation, Table) else None
    return next(filter(None, map(_table_in, typing.get_args(annotation))), None)


def _place(tables) -> str:
    """Where in the file, as " in [data]", " in [cohorts.test]", " in [[network]] number 2, pretrain"; "" at its top."""
    if not tables:
        return ""
    if not any(isinstance(key, int) for key in tables):
        return f" in [{'.'.join(tables)}]"
    first, *others = tables
    return f" in [[{first}]]" + "".join(f" number {key + 1}" if isinstance(key, int) else f", {key}" for key in others)


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
