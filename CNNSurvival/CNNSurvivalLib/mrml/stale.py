"""Whether a result of the scene is still that of the inputs, and why not."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..lesions import LARGEST, matters
from .inputs import SEGMENT_SHA256, content_time, segment_checksum


class Wanted(NamedTuple):
    """What a prediction would be made of now."""

    bundle: object  # Bundle for the chosen population; None where no model can be used
    lesions: str
    min_roi_px: int
    max_slices: int
    segment: Optional[str]  # ``segment_checksum``; None where no mask can be made


def why_stale(record: dict, wanted: Wanted) -> str:
    """Why a result is no longer that of the inputs, in one or several sentences; "" where it is.

    Parameters
    ----------
    record : dict
        From ``results.read_record``. What a record of an earlier version does not hold counts as unchanged.
    wanted : Wanted
    """
    provenance = record.get("provenance", {})
    reasons = [*_segment(provenance, wanted), *(_model(record, wanted) or _settings(record, wanted))]
    return " ".join([*reasons, "Predict again."]) if reasons else ""


def _segment(provenance: dict, wanted: Wanted) -> list[str]:
    before = provenance.get(SEGMENT_SHA256)
    return ["The segment has changed since."] if before is not None and before != wanted.segment else []


def _model(record: dict, wanted: Wanted) -> list[str]:
    provenance, bundle = record.get("provenance", {}), wanted.bundle
    if bundle is None:
        return ["No model is chosen that can be used."]
    made = (provenance.get("model"), provenance.get("model_weights_sha256"))
    if made != (bundle.id, bundle.sha256):
        title = provenance.get("model_title") or made[0]
        before, chosen = (title, bundle.title) if title != bundle.title else (made[0], bundle.id)
        same = " with other weights" if before == chosen else ""
        return [f"Made with the model '{before}'; chosen is '{chosen}'{same}."]
    # Records of versions before 0.2 name no population: their models had one.
    before = provenance.get("population") or bundle.for_population(None).population.name
    if before != bundle.population.name:
        title = record.get("population", {}).get("title") or before
        return [f"Made for '{title}'; chosen is '{bundle.population.title}'."]
    return []


def _settings(record: dict, wanted: Wanted) -> list[str]:
    provenance, reasons = record.get("provenance", {}), []
    parameters = provenance.get("parameters", {})
    if matters(provenance, wanted.lesions):
        of = "the largest lesion" if wanted.lesions != LARGEST else "all lesions"
        now = "the largest one" if wanted.lesions == LARGEST else "all"
        reasons.append(f"Made of {of}; chosen is {now}.")
    minimum, most = parameters.get("min_roi_px"), parameters.get("max_slices")
    if minimum is not None and minimum != wanted.min_roi_px:
        reasons.append(f"Made with a minimum ROI area of {minimum} px; chosen is {wanted.min_roi_px} px.")
    if most is not None and _count(record, most) != _count(record, wanted.max_slices):
        reasons.append(f"Made with at most {most} slices; chosen are {wanted.max_slices}.")
    return reasons


def _count(record: dict, most: int) -> int:
    """The limit on the number of slices, or the number that there are where it limits nothing."""
    there = len(record.get("state", {}).get("slice_index", ()))
    cut = record.get("provenance", {}).get("parameters", {}).get("max_slices", most)
    return min(most, there) if there < cut else most


class SegmentNow:
    """The checksum of the chosen segment, made anew only where its content may have changed."""

    def __init__(self) -> None:
        self._time = None
        self._checksum = None

    def checksum(self, volume_node, segmentation_node, segment_id) -> Optional[str]:
        """``segment_checksum``."""
        time = content_time(volume_node, segmentation_node, segment_id)
        if time != self._time:
            self._time = time
            self._checksum = segment_checksum(volume_node, segmentation_node, segment_id)
        return self._checksum
