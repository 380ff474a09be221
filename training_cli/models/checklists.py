"""The reporting guidelines CLAIM 2024 and TRIPOD+AI, filled in by a model's author, as tables of a model card.

The items are in checklists.toml. A card's TOML file says where each is:

    [checklists.claim]
    22 = "What goes in and what comes out"

    [checklists.tripod_ai]
    12e = "How good it is"
    19 = ""

What is empty or not there is "not done": a checklist that leaves items out would look more complete than it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from CNNSurvivalLib.errors import UsageError

from ..toml_file import tomllib

ITEMS_FILE = Path(__file__).with_name("checklists.toml")
NOT_DONE = "not done"


@dataclass(frozen=True)
class Checklist:
    """A guideline. title; about: what it is, in a sentence; source: citation; items: number -> short name, in order."""

    title: str
    about: str
    source: str
    items: dict[str, str]


def read_checklists() -> dict[str, Checklist]:
    """The guidelines by their key in a card: claim, tripod_ai."""
    content = tomllib.loads(ITEMS_FILE.read_text(encoding="utf-8"))
    return {key: Checklist(**values) for key, values in content.items()}


def checklist_rows(checklist: Checklist, answers: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Every item of a guideline with where it is to be found.

    Parameters
    ----------
    checklist : Checklist
    answers : mapping
        Number of the item -> where it is, such as a section of the card, or why it does not apply.

    Returns
    -------
    list of (number, name, where)
        In the guideline's order; ``NOT_DONE`` for items without an answer.

    Raises
    ------
    UsageError
        For a number that the guideline does not have, and an answer that is no text.
    """
    unknown = [number for number in answers if str(number) not in checklist.items]
    if unknown:
        raise UsageError(f"{checklist.title} has no item '{unknown[0]}'; correct the number in the card.")
    wrong = [number for number, where in answers.items() if not isinstance(where, str)]
    if wrong:
        raise UsageError(f"The answer to item {wrong[0]} of {checklist.title} must be a text in quotes.")
    found = {str(number): where.strip() for number, where in answers.items()}
    return [(number, name, found.get(number) or NOT_DONE) for number, name in checklist.items.items()]


def checklist_markdown(checklist: Checklist, answers: Mapping[str, str]) -> str:
    """The filled guideline as Markdown (GitHub's): title, what it is, how many items are done, a table."""
    rows = checklist_rows(checklist, answers)
    done = sum(where != NOT_DONE for _, _, where in rows)
    lines = ["| Item | What | Where |", "| --- | --- | --- |"]
    lines += ["| " + " | ".join(map(markdown_text, row)) + " |" for row in rows]
    about = f"{checklist.about} ({checklist.source}). {done} of {len(rows)} items are answered."
    return f"### {checklist.title}\n\n{about}\n\n" + "\n".join(lines)


def checklists_markdown(card: Mapping) -> str:
    """Both guidelines, from the ``checklists`` of a card (or of bundle.json); without any, every item is not done.

    Raises UsageError for a guideline that is not known, and what ``checklist_rows`` refuses.
    """
    known, answered = read_checklists(), card.get("checklists", {})
    unknown = [key for key in answered if key not in known]
    if unknown:
        raise UsageError(f"There is no checklist '{unknown[0]}'; there are: {', '.join(known)}.")
    return "\n\n".join(checklist_markdown(one, answered.get(key, {})) for key, one in known.items())


def markdown_text(value) -> str:
    """A text on one line that Markdown takes for nothing but text."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(str(value).split()))
