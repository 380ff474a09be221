"""Models by path or by the id of one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from .bundle import Bundle, default_bundle_folder, find_bundles, load_bundle, shipped_models_folder
from .errors import UsageError


def load_model(model: str | Path | None = None) -> Bundle:
    """Read and check a model.

    Parameters
    ----------
    model : str or path-like, optional
        A model's folder, or the id of a shipped model: "lung-head-neck", or with its version "lung-head-neck-2.0".
        The default is the model that ships as the default.

    Returns
    -------
    Bundle
        The trained model: weights, intervals, preprocessing, reference cohort, card.

    Raises
    ------
    UsageError
        If there is no such folder and no shipped model with this id.
    CNNSurvivalError
        If the model is damaged or of another kind.
    """
    return load_bundle(find_model(model))


def find_model(model: str | Path | None = None) -> Path:
    """The folder of a model.

    Parameters
    ----------
    model : str or path-like, optional
        As in `load_model`.

    Returns
    -------
    pathlib.Path
        The folder with ``bundle.json`` and ``weights.npz``. Its content is not checked.

    Raises
    ------
    UsageError
        If there is no such folder and no shipped model with this id.
    """
    if model is None:
        return default_bundle_folder()
    if Path(model).is_dir():
        return Path(model)
    shipped = find_models()
    for folder, bundle, _ in shipped:
        if bundle is not None and str(model) in (bundle.id, folder.name):
            return folder
    ids = ", ".join(folder.name for folder, bundle, _ in shipped if bundle is not None) or "none"
    raise UsageError(
        f"There is no model '{model}': it is neither a folder nor the id of a model that ships with this software "
        f"({ids})."
    )


def find_models(folders: Iterable[str | Path] = ()) -> list[tuple[Path, Bundle | None, str | None]]:
    """The models that ship, and those in the given folders.

    Parameters
    ----------
    folders : iterable of str or path-like, optional
        Where else to look: in each folder itself and one level down.

    Returns
    -------
    list of (pathlib.Path, Bundle or None, str or None)
        For each model its folder, the model, and None; or, for a model that cannot be used, its folder, None, and one
        sentence that says what is wrong with it.
    """
    return find_bundles([shipped_models_folder(), *folders])
