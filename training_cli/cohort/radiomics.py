"""Radiomics features of the contoured tumour for the paper's model 1, by PyRadiomics.

The paper has 1,428 features of PyRadiomics 2.0 and does not list them. Here: shape, first order, GLCM, GLRLM, GLSZM,
GLDM and NGTDM of the original image, and all but shape of its wavelet bands, gradient, square, square root, logarithm,
exponential, local binary pattern and Laplacian of Gaussian: 14 + 16 x 93 = 1,502.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError
from CNNSurvivalLib.files import write_csv
from CNNSurvivalLib.io.read import read_case

from ..options import install_command
from ..progress import progress
from .store import Store
from .tables import read_own_csv

VOXEL_MM = 1.0
SETTINGS = {
    "binWidth": 25,  # HU; PyRadiomics' default, for CT
    "resampledPixelSpacing": [VOXEL_MM] * 3,
    "interpolator": "sitkBSpline",
    "correctMask": True,
    "minimumROIDimensions": 1,
    "minimumROISize": 8,
    "force2Ddimension": 0,  # local binary patterns in axial planes
}
IMAGE_TYPES = {
    "Original": {},
    "Wavelet": {},
    "Gradient": {},
    "Square": {},
    "SquareRoot": {},
    "Logarithm": {},
    "Exponential": {},
    "LBP2D": {"binWidth": 1},  # its values are 0 to 9
    "LoG": {"sigma": [2.0]},  # mm
}
KEPT_EVERY = 8  # cases between two writes of the cache


def cohort_features(store: Store, cache, jobs: int = 1, log: Callable[[str], None] = print) -> pd.DataFrame:
    """The features of a store's patients, by patient_id; patients whose features cannot be computed are left out.

    cache: a CSV file that keeps what was computed, so that a run that was stopped continues. jobs: cases at once; the
    largest tumours come first, so that none is left for one process at the end. The features do not depend on it.
    Raises UsageError where PyRadiomics is not installed.
    """
    _check_installed()
    cache = Path(cache)
    done = _read_cache(cache)
    waiting = store.patients[~store.patients.index.isin(done.index)]
    waiting = waiting.sort_values("volume_cc", ascending=False, kind="stable")
    fresh: dict[str, dict] = {}
    found = progress(_each(waiting, jobs), len(waiting), "Radiomics")
    for number, (patient, features) in enumerate(found, 1):
        if isinstance(features, str):
            log(f"{patient}: {features}")
        else:
            fresh[patient] = features
        if number % KEPT_EVERY == 0 or number == len(waiting):
            done = _kept(cache, done, fresh, store.patient_ids)
            fresh = {}
    return done.loc[[patient for patient in store.patient_ids if patient in done.index]]


def _each(table: pd.DataFrame, jobs: int):
    """(patient, features or why there are none) of every row of a store's patients, as they are ready."""
    from joblib import Parallel, delayed, parallel_config

    segments = [s if isinstance(s, str) and s else None for s in table["segment"]]
    cases = zip(table.index, table["image"], table["mask"], segments)
    with parallel_config("loky", inner_max_num_threads=1 if jobs > 1 else None):
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(_named)(*case) for case in cases)


def _named(patient: str, image, mask, segment) -> tuple[str, dict[str, float] | str]:
    return patient, _features_or_reason(image, mask, segment)


def _kept(cache: Path, done: pd.DataFrame, fresh: dict[str, dict], order: list[str]) -> pd.DataFrame:
    """Add features to the cache: those of other stores first, then these patients, in whatever order they came."""
    done = pd.concat([done, pd.DataFrame.from_dict(fresh, orient="index")])
    here = [patient for patient in order if patient in done.index]
    done = done.loc[[*done.index.difference(here, sort=False), *here]]
    done.index.name = "patient_id"
    write_csv(cache, ["patient_id", *done.columns], done.reset_index().itertuples(index=False))
    return done


def _read_cache(cache: Path) -> pd.DataFrame:
    """The cached features to the last digit: a run that was stopped gives the same as one that was not."""
    if not cache.is_file():
        return pd.DataFrame()
    table = read_own_csv(cache, dtype={"patient_id": str}, float_precision="round_trip")
    return table.set_index("patient_id")


def case_features(image, mask, segment: str | None = None) -> dict[str, float]:
    """PyRadiomics' features of one case. Raises CNNSurvivalError for a case that cannot be read or used."""
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    logging.getLogger("radiomics").setLevel(logging.CRITICAL)
    found = read_case(image, mask, segment)
    extractor = RadiomicsFeatureExtractor(**SETTINGS)
    extractor.disableAllImageTypes()
    for name, arguments in IMAGE_TYPES.items():
        extractor.enableImageTypeByName(name, customArgs=arguments)
    extractor.enableAllFeatures()
    ct, roi = _images(found)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's about empty matrices of very small tumours
            values = extractor.execute(ct, roi)
    except ValueError as error:
        raise CNNSurvivalError(f"PyRadiomics cannot use this tumour ({error}).") from error
    return {name: float(value) for name, value in values.items() if not name.startswith("diagnostics_")}


def _images(case) -> tuple[sitk.Image, sitk.Image]:
    """CT and mask as SimpleITK images, without what lies far from the tumour."""
    inside = np.nonzero(case.mask)
    margin = 10  # voxels, for filters and interpolation
    box = tuple(slice(max(0, int(i.min()) - margin), int(i.max()) + margin + 1) for i in inside)
    spacing = np.linalg.norm(case.ijk_to_ras[:3, :3], axis=0)
    images = []
    for array in (np.asarray(case.hu[box], dtype=np.float32), np.asarray(case.mask[box], dtype=np.uint8)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(value) for value in spacing])
        images.append(image)
    return images[0], images[1]


def _features_or_reason(image, mask, segment) -> dict[str, float] | str:
    try:
        return case_features(image, mask, segment)
    except CNNSurvivalError as error:
        return str(error)
    except Exception as error:  # a fault in PyRadiomics fails this case, not the cohort
        return f"Unexpected error ({type(error).__name__}: {error})."


def _check_installed() -> None:
    try:
        import radiomics  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"PyRadiomics is not installed here; run {install_command('radiomics')}, or leave out the model "
            "'radiomics'."
        ) from error
