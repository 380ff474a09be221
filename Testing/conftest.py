"""Fixtures that several test files share."""

import os
from pathlib import Path

import numpy as np
import pytest

from bundle_maker import bundle_info, random_weights
from CNNSurvivalLib.bundle import save_bundle

REPOSITORY = Path(__file__).resolve().parents[1]
# Where tests run in several processes, a file's tests run in one (--dist loadfile), so that what they share is made
# once. These files take longest: they come first, so that no process is left alone with one of them in the end.
LONGEST = ("test_reproduce.py", "test_reproduce_no_signal.py", "test_pdac.py", "test_training.py", "test_readme.py",
           "test_faults.py", "test_hostile.py")  # fmt: skip


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def shared_folder() -> Path:
    """Where the real data lie: not part of the repository, named by CNNSURVIVAL_SHARED or beside the checkout."""
    return Path(os.environ.get("CNNSURVIVAL_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture
def shared_data():
    """shared_data("data/nsclc") -> its Path; the test is skipped where the data are absent."""

    def locate(name: str) -> Path:
        path = shared_folder() / name
        if not path.exists():
            pytest.skip(f"needs {name} of the shared data (set CNNSURVIVAL_SHARED to its folder), absent here")
        return path

    return locate


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    """A valid bundle with random weights (seed 0)."""
    return save_bundle(tmp_path_factory.mktemp("bundles") / "random", bundle_info(), random_weights())


@pytest.fixture
def sphere():
    """sphere(shape, spacing, radius_mm, ...) -> (hu int16, mask uint8), a soft-tissue ball in lung, [z, y, x]."""

    def make(shape=(24, 96, 96), spacing=(3.0, 1.0, 1.0), radius_mm=20.0, center_mm=None, seed=1):
        grid = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing)]
        center = center_mm or (0.0, 0.0, 0.0)
        z, y, x = np.meshgrid(*[g - c for g, c in zip(grid, center)], indexing="ij")
        mask = (z**2 + y**2 + x**2 <= radius_mm**2).astype(np.uint8)
        noise = np.random.default_rng(seed).normal(0, 15, shape)
        hu = np.where(mask, 40 + 0.8 * x + 0.5 * y, -850) + noise
        return hu.astype(np.int16), mask

    return make
