"""The slices that every bundle carries with the hazards that they give, and how far another format's hazards differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.network import CROP_PX


def self_test_images() -> np.ndarray:
    """Three made-up slices, uint8 [3, 140, 140]: smooth blobs of different size, place and brightness."""
    y, x = np.mgrid[:CROP_PX, :CROP_PX] - (CROP_PX - 1) / 2
    blobs = []
    for radius, dx, dy, grey in ((12, 0, 0, 150), (25, 8, -5, 120), (45, -4, 6, 180)):
        angle = np.arctan2(y - dy, x - dx)
        edge = radius * (1 + 0.15 * np.sin(5 * angle) + 0.1 * np.cos(3 * angle))
        inside = np.hypot(y - dy, x - dx) < edge
        blobs.append(np.where(inside, np.clip(grey + 40 * np.sin(x / 6) * np.cos(y / 9), 1, 255), 0))
    return np.array(blobs).astype(np.uint8)


def largest_difference(hazards_of: Callable[[np.ndarray], np.ndarray], weights: dict) -> float:
    """The largest difference between ``hazards_of`` (a function of uint8 [n, 140, 140]) and the built-in engine.

    On the self test's slices, an empty and a full one; for several slices at once and for one.
    """
    images = np.concatenate([self_test_images(), np.zeros((1, CROP_PX, CROP_PX)), np.full((1, CROP_PX, CROP_PX), 255)])
    images = images.astype(np.uint8)
    calls = [images, *(image[np.newaxis] for image in images)]
    engine = NumpyEngine(weights)
    return float(max(np.max(np.abs(hazards_of(call) - engine.hazards(call))) for call in calls))
