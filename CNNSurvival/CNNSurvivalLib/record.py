"""A prediction written so that it can be restored: Slicer's scene keeps it this way.

A restored prediction can be revised, explained and exported; the network does not run again.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from .bundle import Bundle
from .errors import CNNSurvivalError
from .image_text import decode_images, encode_images
from .prediction import Prediction, aggregate
from .slices import RankedSlices

_SLICE_ARRAYS = (
    "slice_index", "center_ras", "pixel_to_ras", "area_px", "area_mm2", "mean_intensity", "area_rank", "intensity_rank",
)  # fmt: skip


def to_record(prediction: Prediction) -> dict:
    """What ``from_record`` needs to restore a prediction, as plain values for JSON.

    Returns
    -------
    dict
        ``provenance`` as in the prediction; ``state``: the slices with their pixels, hazards and the user's choices.
    """
    p, s = prediction, prediction.slices
    state = {name: getattr(s, name).tolist() for name in _SLICE_ARRAYS}
    state.update(
        images=encode_images(s.images), axis=s.axis, roi_slices=s.roi_slices, slice_warnings=list(s.warnings),
        pixel_spacing_mm=list(s.pixel_spacing_mm), slice_spacing_mm=s.slice_spacing_mm, hazards=p.hazards.tolist(),
        used=p.used.tolist(), horizons_months=list(p.horizons_months), input_warnings=list(p.input_warnings),
    )  # fmt: skip
    # Not in records of version 0.1: written where there is something to write.
    state.update({name: value for name, value in (("volume_cc", s.volume_cc), ("covariates", p.covariates)) if value})
    return {"provenance": p.provenance, "state": state}


def from_record(record: dict, bundle: Bundle) -> Optional[Prediction]:
    """The prediction that ``to_record`` was given.

    Parameters
    ----------
    record : dict
        From ``to_record``; other keys are ignored.
    bundle : Bundle
        The model that made the prediction.

    Returns
    -------
    Prediction or None
        None where the record is damaged, or was made with other weights.
    """
    try:
        if record["provenance"]["model_weights_sha256"] != bundle.sha256:
            return None
        # Records of versions before 0.2 name no population: their bundles had one.
        bundle = bundle.for_population(record["provenance"].get("population"))
        state = record["state"]
        images = decode_images(state["images"], bundle.preprocessing.crop_px, limit=len(state["slice_index"]))
        slices = RankedSlices(
            images=images,
            axis=int(state["axis"]),
            roi_slices=int(state["roi_slices"]),
            warnings=tuple(state["slice_warnings"]),
            pixel_spacing_mm=tuple(state["pixel_spacing_mm"]),
            slice_spacing_mm=float(state["slice_spacing_mm"]),
            volume_cc=state.get("volume_cc"),
            **{name: np.array(state[name]) for name in _SLICE_ARRAYS},
        )
        hazards = np.array(state["hazards"], dtype=np.float64).reshape(len(images), -1)
        return aggregate(
            bundle=bundle,
            slices=slices,
            hazards=hazards,
            provenance=record["provenance"],
            input_warnings=tuple(state["input_warnings"]),
            used=state["used"],
            horizons_months=state["horizons_months"],
            covariates=state.get("covariates"),
        )
    except (KeyError, TypeError, ValueError, IndexError, CNNSurvivalError):
        return None
