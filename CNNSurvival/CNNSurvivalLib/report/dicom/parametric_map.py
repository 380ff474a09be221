"""The map of what raises and lowers the risk as Parametric Map (PS3.3, A.75)."""

from __future__ import annotations

import numpy as np

from .instance import MAP, SCHEME, Origin, finished, series_options
from .planes import QUANTIFICATION, finished_frames, plane_options
from .study import Study

_ANYWHERE = ("38266002", "SCT", "Entire body")
# BodyPartExamined -> code (PS3.16, annex L); readers of the map ask for a region, and none is known better than this
_REGIONS = {
    "CHEST": ("816094009", "SCT", "Chest"),
    "LUNG": ("39607008", "SCT", "Lung"),
    "HEAD": ("69536005", "SCT", "Head"),
    "NECK": ("45048000", "SCT", "Neck"),
    "HEADNECK": ("774007", "SCT", "Head and Neck"),
    "ABDOMEN": ("818981001", "SCT", "Abdomen"),
}


def parametric_map(study: Study, origin: Origin, images: tuple, values: np.ndarray, ijk_to_lps: np.ndarray):
    """The object. Needs highdicom.

    Parameters
    ----------
    study : Study
    origin : Origin
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

    some = np.flatnonzero(values.any(axis=(1, 2)))
    planes = np.arange(some[0], some[-1] + 1)  # without gaps: there are readers that stack frames as they come
    largest = float(np.abs(values).max())
    percent = hd.sr.CodedConcept("%", "UCUM", "percent")
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="RISK",
        lut_explanation="Percentage points by which hiding the place lowers the risk",
        unit=percent,
        value_range=(-largest, largest),
        slope=1,
        intercept=0,
        quantity_definition=hd.sr.CodedConcept(
            "RISKMAP", SCHEME, "Percentage points of predicted risk that a place adds"
        ),
    )
    dataset = hd.pm.ParametricMap(
        pixel_array=np.ascontiguousarray(values[planes], np.float32),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        **_window(2 * largest),
        content_label="RISK",
        content_description=origin.description,
        content_qualification="RESEARCH",
        **plane_options(images, ijk_to_lps, planes),
        **series_options(MAP),
    )
    _order_along_normal(dataset)
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy(images[0])]
    finished_frames(dataset, images, ijk_to_lps, QUANTIFICATION)
    return finished(dataset, study, origin, MAP)


def _order_along_normal(dataset) -> None:
    """Put the frames in the order of their places along rows x columns; highdicom has it the other way.

    Some readers (dcmqi, by which Slicer reads such maps) stack frames in this direction whatever their places say, and
    would turn the map upside down.
    """
    frames = dataset.PerFrameFunctionalGroupsSequence
    axes = np.array(dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient)
    normal = np.cross(*axes.astype(np.float64).reshape(2, 3))
    places = [np.array(own.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64) @ normal for own in frames]
    order = np.argsort(places)
    pixels = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(len(frames), -1)
    dataset.FloatPixelData = pixels[order].tobytes()
    dataset.PerFrameFunctionalGroupsSequence = [frames[k] for k in order]
    for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        own.FrameContentSequence[0].DimensionIndexValues = [number]


def _anatomy(image):
    import highdicom as hd
    from pydicom import Dataset

    item = Dataset()
    item.FrameLaterality = "U"  # required, and neither side is meant
    region = _REGIONS.get(str(image.get("BodyPartExamined", "")), _ANYWHERE)
    item.AnatomicRegionSequence = [hd.sr.CodedConcept(*region)]
    return item


def _window(width: float) -> dict:
    """The window about 0, by the name that the installed highdicom takes it (another from 0.28 on)."""
    import inspect

    import highdicom as hd

    needed = inspect.signature(hd.pm.ParametricMap.__init__).parameters.get("window_center")
    if needed is not None and needed.default is inspect.Parameter.empty:
        return {"window_center": 0.0, "window_width": width}
    return {"voi_lut_transformations": [hd.VOILUTTransformation(window_center=0.0, window_width=width)]}
