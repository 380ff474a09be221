"""Names and sizes from files, as messages show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Names in a message: the letters that are shown of each, and the names that are shown of a list.
SHOWN_LETTERS, SHOWN_NAMES = 64, 40


def one_line(text, most: int = SHOWN_LETTERS) -> str:
    """A name from a file as a message shows it: on one line, without what turns or hides letters, and not endless."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def name_list(names: Sequence[str], separator: str = ", ") -> str:
    """Names for a message; of very many the first ones."""
    more = len(names) - SHOWN_NAMES
    return separator.join(names[:SHOWN_NAMES]) + (f"{separator}and {more} more" if more > 0 else "")


def size_text(size: Iterable[int]) -> str:
    """(512, 512, 100) as "512 x 512 x 100"."""
    return " x ".join(str(n) for n in size)
