"""What a radiologist would try on a network first: does a tumour get safer by growing, does the last voxel matter?

A network's risk by a day is computed for real tumours as they are and changed: image and mask stretched together
(their voxels made larger), the mask a voxel wider or narrower within its slice, its contour shaken by about a voxel,
the slices turned by quarters and flipped. ``check`` gives a row for each tumour, ``worst`` what is worst in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS, hazards_from_logits, survival_at, survival_function
from CNNSurvivalLib.io.read import read_case
from CNNSurvivalLib.slices import Preprocessing, RankedSlices, extract_slices

SCALES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.45, 1.6)
JITTER_VOXELS, JITTER_LENGTH = 1.0, 3.0  # how far the contour is shaken (standard deviation), and over what length
CHANGES = ("dilated", "eroded", "shaken", "turned")


@dataclass(frozen=True)
class Tumour:
    """hu: CT, [k, j, i]; mask: same shape; ijk_to_ras: 4 x 4, as ``readers.read_case`` gives them."""

    name: str
    hu: np.ndarray
    mask: np.ndarray
    ijk_to_ras: np.ndarray


@dataclass(frozen=True)
class Model:
    """What turns slices into a risk: of a run, or of a bundle.

    risk: logits of a patient's slices [n, m] -> one number; None: 1 - the mean of the slices' S at 18 months.
    """

    weights: dict
    edges_days: np.ndarray
    preprocessing: Preprocessing
    max_slices: int = 20
    risk: Callable[[np.ndarray], float] | None = None

    def risk_of(self, images: np.ndarray) -> float:
        engine = NumpyEngine(self.weights)
        logits = engine.logits(engine.features(images))
        if self.risk is not None:
            return self.risk(logits)
        survival = survival_function(hazards_from_logits(logits)).mean(axis=0)
        return 1 - float(survival_at(survival, self.edges_days, EIGHTEEN_MONTHS_DAYS))


def check(model: Model, tumours: Iterable[Tumour], scales=SCALES) -> list[dict]:
    """A row for each tumour: its risk, its size, the risk at each scale and after each change (None where no slice
    has enough pixels then), the largest fall of risk from any size to any larger one, the largest move by a change."""
    return [_row(model, tumour, scales) for tumour in tumours]


def worst(rows: list[dict]) -> dict:
    """The worst of ``check``'s rows: falls by growing and moves by each change, with the tumour's name."""
    result = {}
    for key in ("fall", *(f"move_{change}" for change in CHANGES)):
        known = [row for row in rows if row[key] is not None]
        row = max(known, key=lambda row: row[key])
        values = [row[key] for row in known]
        result[key] = {"worst": row[key], "tumour": row["name"], "median": float(np.median(values)),
                       "p95": float(np.percentile(values, 95)), "tumours": len(known)}  # fmt: skip
    return result


# What each change of ``worst`` is called in a card.
WORDS = {
    "fall": "The tumour grows, 0.6 to 1.6 times as wide: the risk falls by",
    "move_dilated": "The contour is a voxel wider: the risk moves by",
    "move_eroded": "The contour is a voxel narrower: the risk moves by",
    "move_shaken": "The contour is shaken by about a voxel: the risk moves by",
    "move_turned": "The slices are turned and flipped: the risk moves by at most",
}


def card_rows(rows: list[dict]) -> list[dict]:
    """The worst of ``check``'s rows as a bundle's card has them: change, tumours, worst, usual (95 % of tumours)."""
    return [
        {"change": WORDS[key], "tumours": found["tumours"], "worst": f"{100 * found['worst']:.1f} points",
         "usual": f"{100 * found['p95']:.1f} points"}
        for key, found in worst(rows).items()
    ]  # fmt: skip


def store_tumours(patients, count: int) -> list[Tumour]:
    """CT and mask of the first patients of a store's table, read anew from their files; those that cannot be are left
    out."""
    found = []
    for name, row in patients.head(count).iterrows():
        segment = None if row["segment"] != row["segment"] else row["segment"]
        try:
            case = read_case(row["image"], row["mask"], segment)
        except CNNSurvivalError:
            continue
        found.append(Tumour(str(name), case.hu, case.mask, case.ijk_to_ras))
    return found


def largest_fall(risks: list) -> float:
    """By how much a risk falls at most, from any of the values to any later one; 0 if none does. None is left out."""
    known = np.array([risk for risk in risks if risk is not None])
    return float((np.maximum.accumulate(known) - known).max()) if known.size else 0.0


def _row(model: Model, tumour: Tumour, scales) -> dict:
    slices = _slices(model, tumour.hu, tumour.mask, tumour.ijk_to_ras)
    if slices is None:
        raise CNNSurvivalError(f"No slice of the tumour '{tumour.name}' is large enough for the model.")
    risk = model.risk_of(slices.images)
    at_scale = [_risk(model, tumour.hu, tumour.mask, scaled(tumour.ijk_to_ras, scale)) for scale in scales]
    changed = {name: _risk(model, tumour.hu, mask, tumour.ijk_to_ras) for name, mask in _other_masks(tumour).items()}
    changed["turned"] = max((model.risk_of(images) for images in turned(slices.images)), key=lambda r: abs(r - risk))
    voxel_mm3 = abs(np.linalg.det(tumour.ijk_to_ras[:3, :3]))
    return {
        "name": tumour.name,
        "volume_cc": float(np.count_nonzero(tumour.mask) * voxel_mm3 / 1000),
        "largest_area_px": int(slices.area_px.max()),
        "risk": risk,
        **{f"risk_x{scale:g}": value for scale, value in zip(scales, at_scale)},
        "fall": largest_fall(at_scale),
        **{f"risk_{name}": changed[name] for name in CHANGES},
        **{f"move_{name}": None if changed[name] is None else abs(changed[name] - risk) for name in CHANGES},
    }


# --- Changes ----------------------------------------------------------------------------------------------------------


def scaled(ijk_to_ras: np.ndarray, factor: float) -> np.ndarray:
    """The geometry of the same voxels, each ``factor`` times as long and wide; the slices stay as far apart.

    So the slices are the same ones. Growing along the body's axis would only add slices at the ends.
    """
    result = np.array(ijk_to_ras, dtype=np.float64)
    axial = np.argmax(np.abs(result[2, :3] / np.linalg.norm(result[:3, :3], axis=0)))
    result[:3, [c for c in range(3) if c != axial]] *= factor
    return result


def turned(images: np.ndarray) -> list[np.ndarray]:
    """The slices in the seven other positions of quarter turns and flips."""
    quarters = [np.rot90(images, turns, (1, 2)) for turns in range(4)]
    return [np.ascontiguousarray(x) for x in quarters[1:] + [q[:, :, ::-1] for q in quarters]]


def _other_masks(tumour: Tumour) -> dict[str, np.ndarray]:
    """Moved within the slices, as nobody draws contours along the body."""
    axial = 2 - np.argmax(np.abs(tumour.ijk_to_ras[2, :3] / np.linalg.norm(tumour.ijk_to_ras[:3, :3], axis=0)))
    planes = np.moveaxis(tumour.mask != 0, axial, 0)
    return {name: np.moveaxis(mask, 0, axial) for name, mask in moved_contours(planes).items()}


def moved_contours(planes: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """The outlines in bool [planes, rows, columns] a voxel wider, narrower, and shaken."""
    flat = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
    noise = np.random.default_rng(seed).normal(size=planes.shape)
    noise = ndimage.gaussian_filter(noise, (0, JITTER_LENGTH, JITTER_LENGTH))
    noise *= JITTER_VOXELS / max(noise.std(), 1e-9)
    shaken = np.stack([_depth(plane) for plane in planes]) + noise > 0
    return {
        "dilated": ndimage.binary_dilation(planes, flat),
        "eroded": ndimage.binary_erosion(planes, flat),
        "shaken": shaken & planes.any(axis=(1, 2))[:, None, None],
    }


def _depth(plane: np.ndarray) -> np.ndarray:
    """How many voxels inside the outline (outside: negative), to the outline between two voxels."""
    inside, outside = ndimage.distance_transform_edt(plane), ndimage.distance_transform_edt(~plane)
    return np.where(plane, inside - 0.5, 0.5 - outside) if plane.any() else np.full(plane.shape, -np.inf)


def _risk(model: Model, hu, mask, ijk_to_ras) -> float | None:
    slices = _slices(model, hu, mask, ijk_to_ras)
    return None if slices is None else model.risk_of(slices.images)


def _slices(model: Model, hu, mask, ijk_to_ras) -> RankedSlices | None:
    try:
        return extract_slices(hu, mask, ijk_to_ras, model.preprocessing).best(model.max_slices)
    except CNNSurvivalError:  # none is large enough
        return None
