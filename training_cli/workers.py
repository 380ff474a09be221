"""Who works through many cases: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from CNNSurvivalLib.errors import UsageError

from .options import install_command

# What one process may need. At its peak a CT of 512 x 512 x 600 voxels takes 0.8 GB, as NRRD and as DICOM; 2.6 GB where
# its rescale slope is no whole number, which is rare.
CASE_BYTES = 2 * 1024**3
CGROUPS = Path("/sys/fs/cgroup")


def default_jobs(cases: int) -> int:
    """How many cases at once: one for each core, as long as each finds the memory of a large CT."""
    memory = free_memory()
    fit = cases if memory is None else memory // CASE_BYTES
    return max(1, min(cores(), cases, fit))


def cores() -> int:
    """The cores that this process may use: those it is bound to, and no more than its container is given."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [text.split() for folder in _cgroups() for text in _text(folder / "cpu.max")]
    given = [math.ceil(int(quota) / int(period)) for quota, period in limits if quota != "max"]
    return max(1, min([own, *given]))


def free_memory() -> int | None:
    """The bytes that this process may still take; None where the system does not say it (Windows)."""
    found = [int(line.split()[1]) * 1024 for text in _text(Path("/proc/meminfo")) for line in text.splitlines()
             if line.startswith("MemAvailable:")]  # fmt: skip
    if not found and hasattr(os, "sysconf"):  # macOS: half of what is built in
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    for folder in _cgroups():
        limit = next(iter(_text(folder / "memory.max")), "max").strip()
        if limit != "max":
            used = [int(line.split()[1]) for text in _text(folder / "memory.stat") for line in text.splitlines()
                    if line.startswith("anon ")]  # fmt: skip
            found.append(max(0, int(limit) - sum(used)))
    return min(found, default=None)


def _cgroups() -> list[Path]:
    """The control groups (version 2) of this process: its own and those above it, each of which may set limits."""
    own = next((line[3:] for text in _text(Path("/proc/self/cgroup")) for line in text.splitlines()
                if line.startswith("0::")), None)  # fmt: skip
    if own is None:
        return []
    folder = CGROUPS / own.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(CGROUPS))]


def _text(path: Path) -> list[str]:
    """[the file's text]; [] where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return [path.read_text()]
    return []


@contextlib.contextmanager
def dask_client(scheduler: str) -> Iterator:
    """A client of the Dask scheduler at an address, closed at the end of the block.

    Raises UsageError where Dask is not installed or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            f"Dask is not installed here; run {install_command('cluster')}, or leave out --scheduler."
        ) from error
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise UsageError(f"There is no Dask scheduler at '{scheduler}' ({error}); check the address.") from error
    with client:
        yield client
