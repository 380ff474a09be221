"""Progress of long stages on stderr: a bar on a terminal, else a line now and then, so that a log shows it as well.

A stage that is over within FIRST_S seconds says nothing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator

FIRST_S, EVERY_S, LOOK_S = 5.0, 30.0, 0.5  # the first line of a stage, the time between two, how often it is looked
_open: list[threading.Event] = []  # the blocks that are being told, the innermost last
_last = float("-inf")  # when a line was printed


def progress(items: Iterable, total: int, what: str, unit: str = "case") -> Iterator:
    """The items, while stderr is told how many are done: "Radiomics: 40 of 255 cases, 12 min"."""
    if sys.stderr.isatty():
        from tqdm import tqdm  # here, as its import takes a while

        yield from tqdm(items, total=total, desc=what, unit=unit, file=sys.stderr, leave=False, delay=FIRST_S)
        return
    state = {"done": 0}
    with _told(lambda passed: f"{what}: {state['done']} of {total} {unit}s, {passed}"):
        for item in items:
            yield item
            state["done"] += 1


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Within the block, stderr is told what is being done and for how long: "Writing the store: 35 s"."""
    with _told(lambda passed: f"{what}: {passed}"):
        yield


@contextlib.contextmanager
def _told(line) -> Iterator[None]:
    """Print line(time passed) now and then, from a thread of its own, until the block ends.

    Of blocks within one another the innermost is told, and all together no more often than every EVERY_S.
    """
    over, start = threading.Event(), time.monotonic()

    def tell() -> None:
        global _last
        while not over.wait(LOOK_S):
            now = time.monotonic()
            if _open[-1:] == [over] and now - start >= FIRST_S and now - _last >= EVERY_S:
                _last = now
                print(line(_passed(now - start)), file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    _open.append(over)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _open.remove(over)


def _passed(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
