"""CNNSurvivalLib: from a CT and a tumour mask to a survival curve.

The library that the Slicer module and the command line share. What is listed in ``__all__`` is its public interface,
and can be imported from here:

>>> from CNNSurvivalLib import load_model, predict, read_case
>>> case = read_case("ct.nrrd", "tumour.seg.nrrd")                           # doctest: +SKIP
>>> prediction = predict(case.hu, case.mask, case.ijk_to_ras, load_model())  # doctest: +SKIP

Importing the package loads none of its modules: a name is looked up when it is first used (PEP 562), so that Slicer
starts no slower. At file scope the modules import numpy, scipy and the standard library; what else a function needs
is imported inside it.

The modules in the order in which data flow: ``slices`` (CT and mask to ranked slices), ``engines`` (slices to hazards),
``hazards`` (hazards to survival), ``prediction`` (all of it for one patient), ``explanation`` (what the risk rests on).
``bundle`` is the trained model on disk, ``network`` its definition in PyTorch. ``io`` reads files, ``mrml`` Slicer's
scene, ``report`` writes the report, ``widgets`` are parts of the panel.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

__all__ = [
    "Bundle",
    "CNNSurvivalError",
    "Cancelled",
    "Engine",
    "OcclusionMaps",
    "Population",
    "Prediction",
    "Preprocessing",
    "RankedSlices",
    "TumourImage",
    "UsageError",
    "__version__",
    "axial_geometry",
    "create_engine",
    "extract_slices",
    "find_model",
    "find_models",
    "load_model",
    "median_survival",
    "occlusion_maps",
    "predict",
    "read_case",
    "restricted_mean_survival",
    "revise",
    "save_bundle",
    "survival_at",
    "survival_function",
    "to_dict",
]

# Where each public name is defined.
_MODULES = {
    "Bundle": "bundle",
    "CNNSurvivalError": "errors",
    "Cancelled": "errors",
    "Engine": "engines",
    "OcclusionMaps": "explanation",
    "Population": "populations",
    "Prediction": "prediction",
    "Preprocessing": "slices",
    "RankedSlices": "slices",
    "TumourImage": "io.read",
    "UsageError": "errors",
    "axial_geometry": "slices",
    "create_engine": "engines",
    "extract_slices": "slices",
    "find_model": "api",
    "find_models": "api",
    "load_model": "api",
    "median_survival": "hazards",
    "occlusion_maps": "explanation",
    "predict": "prediction",
    "read_case": "io.read",
    "restricted_mean_survival": "hazards",
    "revise": "prediction",
    "save_bundle": "bundle",
    "survival_at": "hazards",
    "survival_function": "hazards",
    "to_dict": "report.tables",
}

if TYPE_CHECKING:  # the same once more, for type checkers and editors; a test compares the two
    from .api import find_model, find_models, load_model
    from .bundle import Bundle, save_bundle
    from .engines import Engine, create_engine
    from .errors import Cancelled, CNNSurvivalError, UsageError
    from .explanation import OcclusionMaps, occlusion_maps
    from .hazards import median_survival, restricted_mean_survival, survival_at, survival_function
    from .io.read import TumourImage, read_case
    from .populations import Population
    from .prediction import Prediction, predict, revise
    from .report.tables import to_dict
    from .slices import Preprocessing, RankedSlices, axial_geometry, extract_slices


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
