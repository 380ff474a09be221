"""Which of the segments, structures or labels of a mask is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import CNNSurvivalError, UsageError
from .texts import name_list, one_line

# The libraries' time for a segmentation grows with the square of its segments, or 4 ms for each; anatomy has some 200.
MAX_SEGMENTS = 1000


def choose(path: Path, kind: str, names: Sequence[str], numbers: Sequence[int], segment: str | None) -> int:
    """Which of the named and numbered segments (or structures) is meant; its place in the list."""
    if not names:
        raise CNNSurvivalError(f"The mask {path} holds no {kind}s; draw the tumour first.")
    existing = name_list([
        f"'{one_line(name)}'" if not name.isdigit() or name != str(number) else name
        for name, number in zip(names, numbers)
    ])  # fmt: skip
    if segment is None:
        if len(names) == 1:
            return 0
        raise UsageError(f"The mask {path} holds {len(names)} {kind}s; choose one with --segment: {existing}.")
    segment = str(segment)
    matches = [k for k, name in enumerate(names) if name == segment]
    matches = matches or [k for k, name in enumerate(names) if _folded(name) == _folded(segment)]
    matches = matches or [k for k, number in enumerate(numbers) if str(number) == segment.strip()]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UsageError(f"The mask {path} has no {kind} '{one_line(segment)}'; it has {existing}.")
    raise UsageError(
        f"The mask {path} has {len(matches)} {kind}s that '{one_line(segment)}' can mean; rename them, or choose "
        f"another: {existing}."
    )


def _folded(name: str) -> str:
    return one_line(name, len(name) + 1).casefold()


def too_many_segments(path: Path) -> CNNSurvivalError:
    """The error for a file with more segments than MAX_SEGMENTS."""
    return CNNSurvivalError(
        f"The file {path} describes more than {MAX_SEGMENTS} segments; save the tumour's segment in a file of its own."
    )
