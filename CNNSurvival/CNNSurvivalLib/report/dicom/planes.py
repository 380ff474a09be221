"""Planes of the CT's grid, as highdicom's constructors take them."""

from __future__ import annotations

from copy import deepcopy

import numpy as np

from ...io.grid import LPS_TO_RAS
from .study import image_at, own_position, reference_to

# How planes are derived from their images: as highdicom says it
SEGMENTATION, QUANTIFICATION = ("113076", "DCM", "Segmentation"), ("112187", "DCM", "Unspecified method of calculation")
_SOURCE = ("121322", "DCM", "Source image for image processing operation")  # CID 7202


def to_lps(ijk_to_ras) -> np.ndarray:
    """ijk_to_lps, 4 x 4, from ijk_to_ras."""
    return LPS_TO_RAS @ np.asarray(ijk_to_ras, dtype=np.float64)


def plane_options(images: tuple, ijk_to_lps: np.ndarray, planes) -> dict:
    """Where the planes lie, and of which images they are made.

    Parameters
    ----------
    images : tuple of pydicom.Dataset
        From ``study.images_on_grid``.
    ijk_to_lps : ndarray, shape [4, 4]
    planes : sequence of int
        Values of k.

    Returns
    -------
    dict
        ``source_images``, ``pixel_measures``, ``plane_orientation`` and ``plane_positions``.
    """
    import highdicom as hd

    spacing, axes, between = _measures(ijk_to_lps)
    places = [ijk_to_lps[:3, 3] + int(k) * ijk_to_lps[:3, 2] for k in planes]
    return {
        "source_images": [_comparable(image) for image in _sources(images, places)],
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=(float(spacing[1]), float(spacing[0])),
            slice_thickness=between,
            spacing_between_slices=between,
        ),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", [*axes[:, 0], *axes[:, 1]]),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", own_position(images, place)) for place in places],
    }


def finished_frames(dataset, images: tuple, ijk_to_lps: np.ndarray, derivation: tuple) -> None:
    """Put in what highdicom leaves out of a multi-frame object: thickness, creator, and some planes' images.

    It takes the distances from the images where these have any, and names the image of no plane where a single plane
    has none (the CT lacks a slice there).
    """
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if not measures.get("SliceThickness"):
        measures.SliceThickness = f"{_measures(ijk_to_lps)[2]:.10g}"
    dataset.ContentCreatorName, dataset.BurnedInAnnotation = "", "NO"
    frames = dataset.PerFrameFunctionalGroupsSequence
    if not any(own.get("DerivationImageSequence") for own in frames):
        for own in frames:
            place = np.array(own.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
            own.DerivationImageSequence = _derivation(image_at(images, place), derivation)


def _derivation(found, derivation: tuple) -> list:
    import highdicom as hd
    from pydicom import Dataset

    if found is None:
        return []
    image, number = found
    source = reference_to(image)
    if number is not None:
        source.ReferencedFrameNumber = number
    source.SpatialLocationsPreserved = "YES"
    source.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept(*_SOURCE)]
    item = Dataset()
    item.SourceImageSequence, item.DerivationCodeSequence = [source], [hd.sr.CodedConcept(*derivation)]
    return [item]


def _measures(ijk_to_lps: np.ndarray) -> tuple:
    """(distance of columns, rows and planes along the axes, the axes as columns, distance of planes across them)."""
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    axes = ijk_to_lps[:3, :3] / spacing
    return spacing, axes, abs(float(np.cross(axes[:, 0], axes[:, 1]) @ ijk_to_lps[:3, 2]))


def _sources(images: tuple, places) -> list:
    """The images of just these planes; all where some planes are of no image, or one image has all."""
    found = [image_at(images, place) for place in places]
    return list(images) if None in found or len(images) == 1 else [image for image, _number in found]


def _comparable(image):
    """The image; the places of a multi-frame one as highdicom before 0.28 needs them, to compare with others."""
    import highdicom as hd

    if "PerFrameFunctionalGroupsSequence" not in image:
        return image
    image = deepcopy(image)
    for own in image.PerFrameFunctionalGroupsSequence:
        if "PlanePositionSequence" in own:
            own.PlanePositionSequence = hd.PlanePositionSequence.from_sequence(own.PlanePositionSequence)
    return image
