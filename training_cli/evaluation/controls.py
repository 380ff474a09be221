"""Controls: what a network predicts from an image whose grey values say nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ..cohort.store import Store
from ..progress import working
from ..training.runs import risk_column
from . import metrics
from .evaluate import predict_store


def shuffled_voxels(store: Store, seed: int = 2020) -> Store:
    """The store with the grey values of every slice shuffled among the pixels of its tumour.

    Shape, size and histogram stay; texture, and where in the tumour a value is, are lost. Pixels of grey 0 (outside
    the contour, and inside where the tissue is below the HU window) stay where they are: the two cannot be told apart
    in a store.

    Parameters
    ----------
    store : Store
        Or a part of one; only its own slices are shuffled.
    seed : int

    Returns
    -------
    Store
        With an array of its own.
    """
    random = np.random.default_rng(seed)
    images = np.zeros_like(store.images, subok=False)
    for row in store.slices.index:
        image = np.array(store.images[row])
        inside = image > 0
        image[inside] = random.permutation(image[inside])
        images[row] = image
    return replace(store, images=images)


def shuffled_voxel_scores(
    model, store: Store, predictions: pd.DataFrame, horizons: Sequence[float], bootstrap: int = 1000,
    seed: int = 2020, tell: Callable[[str], None] = print, population: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Score a network on slices whose grey values were shuffled, and compare with the slices as they are.

    Parameters
    ----------
    model : path-like
        A run or a bundle.
    store : Store
    predictions : DataFrame
        What it predicts for this store (``evaluate.predict_store``).
    horizons : sequence of float
        Days.
    bootstrap, seed : int
        As in ``metrics.score_predictions``; the seed is that of the shuffling as well.
    tell : callable
        Gets the warnings.

    Returns
    -------
    scores, differences : DataFrame
        Rows as in metrics.csv: of the shuffled slices, and of the slices as they are less that. A difference in
        concordance whose interval holds 0 does not show that the network uses more than shape and histogram.
    """
    shuffled = predict_store(model, shuffled_voxels(store, seed), list(horizons), population=population)
    time, event = shuffled["time_days"].to_numpy(float), shuffled["event"].to_numpy() == 1
    risks = {float(days): shuffled[risk_column(days)].to_numpy(float) for days in horizons}
    differences = []
    with metrics.warnings_told(tell), working(f"Scoring shuffled slices with {bootstrap} resamples"):
        scores = metrics.score_predictions(time, event, risks, bootstrap, seed)
        for days, risk in risks.items():
            own = predictions[risk_column(days)].to_numpy(float)
            differences += metrics.difference(time, event, own, risk, days, bootstrap, seed)
    return pd.DataFrame(scores, columns=metrics.COLUMNS), pd.DataFrame(differences, columns=metrics.COLUMNS)
