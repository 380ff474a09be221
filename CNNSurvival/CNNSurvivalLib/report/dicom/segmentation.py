"""The tumour as Segmentation (PS3.3, A.51), where it was not one before."""

from __future__ import annotations

import numpy as np

from .instance import TUMOUR, Origin, finished, new_uid, series_options
from .planes import SEGMENTATION, finished_frames, plane_options
from .study import Study


def segmentation(study: Study, origin: Origin, images: tuple, mask: np.ndarray, ijk_to_lps: np.ndarray):
    """The object, with one segment. Needs highdicom.

    Parameters
    ----------
    study : Study
    origin : Origin
    images : tuple of pydicom.Dataset
        The CT's, from ``study.images_on_grid`` for this grid.
    mask : ndarray of uint8, shape [k, j, i]
    ijk_to_lps : ndarray, shape [4, 4]

    Returns
    -------
    highdicom.seg.Segmentation
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=origin.tumour,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type="MANUAL",  # until below
        tracking_uid=new_uid(),
        tracking_id=origin.tumour,
    )
    dataset = hd.seg.Segmentation(
        pixel_array=mask[planes] != 0,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        content_label="TUMOUR",
        content_description=origin.description,
        **plane_options(images, ijk_to_lps, planes),
        **series_options(TUMOUR),
    )
    # By whom or by what it was drawn is not known here, and highdicom would ask for a family of algorithms.
    item = dataset.SegmentSequence[0]
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = "SEMIAUTOMATIC", "not known: the contour was given"
    dataset.ContentQualification = "RESEARCH"
    finished_frames(dataset, images, ijk_to_lps, SEGMENTATION)
    return finished(dataset, study, origin, TUMOUR)
