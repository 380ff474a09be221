"""Which of the segments, structures or labels of a mask is meant."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ..errors import CNNSurvivalError, UsageError
from .texts import name_list, one_line

# The libraries' time for a segmentation grows with the square of its segments, or 4 ms for each; anatomy has some 200.
MAX_SEGMENTS = 1000


class Segments(NamedTuple):
    """What a mask holds. kind: "segment", "structure" or "label". ids: further names, "" where there is none."""

    kind: str
    names: Sequence[str]
    numbers: Sequence[int]
    ids: Sequence[str]


def choose(path: Path, segments: Segments, segment: str | None) -> int:
    """Which of the segments is meant; its place in the list.

    By name, else by its name without regard to case and white space, else by number, else by its further id.
    """
    kind, names, numbers, ids = segments
    if not names:
        raise CNNSurvivalError(f"The mask {path} holds no {kind}s; draw the tumour first.")
    existing = _listed(names, numbers, ids)
    if segment is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"The mask {path} holds {len(names)} {kind}s; choose one with --segment: {existing}.")
    segment = str(segment)
    matches = [k for k, name in enumerate(names) if name == segment]
    matches = matches or [k for k, name in enumerate(names) if _folded(name) == _folded(segment)]
    matches = matches or [k for k, number in enumerate(numbers) if str(number) == segment.strip()]
    matches = matches or [k for k, further in enumerate(ids) if further and _folded(further) == _folded(segment)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UsageError(f"The mask {path} has no {kind} '{one_line(segment)}'; it has {existing}.")
    if len(set(numbers)) == len(numbers):
        advice = "give its number instead"
    else:
        advice = "give its id instead" if len({*ids}) == len(ids) else "rename them, or choose another"
    raise UsageError(
        f"The mask {path} has {len(matches)} {kind}s that '{one_line(segment)}' can mean; {advice}: {existing}."
    )


def matching(path: Path, segments: Segments, wanted: Sequence[str]) -> list[str]:
    """The segments that names and patterns (*, ?) choose, in the mask's order, each by a text that means it alone."""
    places: set = set()
    for text in wanted:
        if is_pattern(text) and not any(_folded(name) == _folded(text) for name in segments.names):
            pattern = _folded(text).replace("[", "[[]")
            found = [k for k, name in enumerate(segments.names) if fnmatchcase(_folded(name), pattern)]
            if not found:
                existing = _listed(*segments[1:])
                raise UsageError(
                    f"No {segments.kind} of the mask {path} matches '{one_line(text)}'; it has {existing}."
                )
            places.update(found)
        else:
            places.add(choose(path, segments, text))
    return [_key(segments, k) for k in sorted(places)]


def is_pattern(text: str) -> bool:
    """Whether a wanted segment is a pattern, which may choose several."""
    return any(sign in text for sign in "*?")


def _key(segments: Segments, place: int) -> str:
    """The name of a segment; its number or id where others have the same name."""
    names = [_folded(name) for name in segments.names]
    if names.count(names[place]) == 1:
        return segments.names[place]
    number = segments.numbers[place]
    return str(number) if list(segments.numbers).count(number) == 1 else segments.ids[place]


def _listed(names: Sequence[str], numbers: Sequence[int], ids: Sequence[str]) -> str:
    """The names; where two are the same, with what tells them apart: number: 'name' (id)."""
    if len({_folded(name) for name in names}) == len(names):
        return name_list([
            f"'{one_line(name)}'" if not name.isdigit() or name != str(number) else name
            for name, number in zip(names, numbers)
        ])  # fmt: skip
    return name_list([
        f"{number}: '{one_line(name)}'" + (f" ({one_line(further)})" if further else "")
        for name, number, further in zip(names, numbers, ids)
    ])  # fmt: skip


def _folded(name: str) -> str:
    return one_line(name, len(name) + 1).casefold()


def too_many_segments(path: Path) -> CNNSurvivalError:
    """The error for a file with more segments than MAX_SEGMENTS."""
    return CNNSurvivalError(
        f"The file {path} describes more than {MAX_SEGMENTS} segments; save the tumour's segment in a file of its own."
    )
