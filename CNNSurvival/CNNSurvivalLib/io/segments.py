"""Which of the segments, structures or labels of a mask is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import CNNSurvivalError, UsageError
from .texts import name_list, one_line

# The libraries' time for a segmentation grows with the square of its segments, or 4 ms for each; anatomy has some 200.
MAX_SEGMENTS = 1000


def choose(
    path: Path,
    kind: str,
    names: Sequence[str],
    numbers: Sequence[int],
    segment: str | None,
    ids: Sequence[str] | None = None,
) -> int:
    """Which of the segments (or structures, or labels) is meant; its place in the list.

    By name, else by its name without regard to case and white space, else by number, else by its further id.
    """
    if not names:
        raise CNNSurvivalError(f"The mask {path} holds no {kind}s; draw the tumour first.")
    ids = ids or [""] * len(names)
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
