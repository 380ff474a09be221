"""The tumour as Segmentation (PS3.3, A.51), where it was not one before."""

from __future__ import annotations

import numpy as np

from .instance import finished, new_uid, series_options
from .planes import plane_options
from .study import Study


def segmentation(study: Study, images: tuple, mask: np.ndarray, ijk_to_lps: np.ndarray, label: str):
    """The object, with one segment. Needs highdicom.

    Parameters
    ----------
    study : Study
    images : tuple of pydicom.Dataset
        The CT's, from ``study.images_on_grid`` for this grid.
    mask : ndarray of uint8, shape [k, j, i]
    ijk_to_lps : ndarray, shape [4, 4]
    label : str
        The segment's name.

    Returns
    -------
    highdicom.seg.Segmentation
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    label = label.strip()[:64] or "Tumour"
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type="MANUAL",  # drawn by whom or by what is not known here; it came as a contour
        tracking_uid=new_uid(),
        tracking_id=label,
    )
    dataset = hd.seg.Segmentation(
        pixel_array=mask[planes] != 0,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        content_label="TUMOUR",
        **plane_options(images, ijk_to_lps, planes),
        **series_options(9103),
    )
    dataset.BurnedInAnnotation = "NO"
    dataset.ContentQualification = "RESEARCH"
    return finished(dataset, study, "CNN Survival: tumour")
