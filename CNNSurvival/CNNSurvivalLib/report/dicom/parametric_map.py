"""The map of what raises and lowers the risk as Parametric Map (PS3.3, A.75)."""

from __future__ import annotations

import numpy as np

from .instance import finished, series_options
from .planes import plane_options
from .study import Study


def parametric_map(study: Study, images: tuple, values: np.ndarray, ijk_to_lps: np.ndarray):
    """The object. Needs highdicom.

    Parameters
    ----------
    study : Study
    images : tuple of pydicom.Dataset
        The CT's, from ``study.images_on_grid`` for this grid.
    values : ndarray of float32, shape [k, j, i]
        From ``explanation.on_ct_grid``: percentage points of risk, not 0 everywhere.
    ijk_to_lps : ndarray, shape [4, 4]

    Returns
    -------
    highdicom.pm.ParametricMap
    """
    import highdicom as hd

    planes = np.flatnonzero(values.any(axis=(1, 2)))
    largest = float(np.abs(values).max())
    percent = hd.sr.CodedConcept("%", "UCUM", "percent")
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="RISK",
        lut_explanation="Percentage points by which hiding the place lowers the risk",
        unit=percent,
        value_range=(-largest, largest),
        slope=1,
        intercept=0,
    )
    dataset = hd.pm.ParametricMap(
        pixel_array=np.ascontiguousarray(values[planes], np.float32),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        **_window(2 * largest),
        content_label="RISK",
        content_description="What the predicted risk rests on (occlusion)",
        content_qualification="RESEARCH",
        **plane_options(images, ijk_to_lps, planes),
        **series_options(9104),
    )
    dataset.Laterality, dataset.BurnedInAnnotation = "", "NO"
    return finished(dataset, study, "CNN Survival: what the risk rests on")


def _window(width: float) -> dict:
    """The window about 0, by the name that the installed highdicom takes it (another from 0.28 on)."""
    import inspect

    import highdicom as hd

    needed = inspect.signature(hd.pm.ParametricMap.__init__).parameters.get("window_center")
    if needed is not None and needed.default is inspect.Parameter.empty:
        return {"window_center": 0.0, "window_width": width}
    return {"voi_lut_transformations": [hd.VOILUTTransformation(window_center=0.0, window_width=width)]}
