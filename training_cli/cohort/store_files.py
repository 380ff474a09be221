"""What can be told of a store without opening it, and so without pandas: commands check their arguments first."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.slices import Preprocessing

STORE_FILE = "store.json"


def check_store(folder) -> Path:
    """The folder, if it is a store's; raises UsageError otherwise."""
    folder = Path(folder)
    if not (folder / STORE_FILE).is_file():
        raise UsageError(f"'{folder}' is not a store (it has no {STORE_FILE}); make one with 'cnn-survival prepare'.")
    return folder


def preprocessing_info(preprocessing: Preprocessing) -> dict:
    """The Preprocessing as store.json holds it."""
    return {**asdict(preprocessing), "hu_window": list(preprocessing.hu_window)}


def differences(cut: dict, wanted: dict) -> list[str]:
    """What of ``preprocessing_info`` differs, as "slice_step_mm None, not 3.0"."""
    return [f"{name} {cut[name]}, not {wanted[name]}" for name in wanted if cut[name] != wanted[name]]
