"""The trained model on disk: a folder with ``weights.npz`` and ``bundle.json``.

``bundle.json`` holds everything that must be known to use the weights and to question what they say; its
fields are checked against ``_SCHEMA`` below. ``weights.npz`` is read without pickle, and only if its SHA-256
is the one that ``bundle.json`` gives.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Iterable, Optional

import numpy as np

from .errors import CNNSurvivalError
from .files import atomic_write, ensure_output_folder, write_json
from .hazards import check_edges
from .network import CROP_PX, GREY_SCALE, weight_shapes
from .slices import Preprocessing

FORMAT = "cnn-survival-bundle"
FORMAT_VERSION = 1
INFO_FILE = "bundle.json"
WEIGHTS_FILE = "weights.npz"
CARD_FILE = "MODEL_CARD.md"
# The paper's network takes 0.3 MB. What is larger than this is not a bundle, and is not read.
_MAX_WEIGHTS_BYTES = 8_000_000
_MAX_INFO_BYTES = 4_000_000
_MAX_CARD_CHARACTERS = 200_000


@dataclass(frozen=True)
class Bundle:
    """A trained model, checked. ``info`` is bundle.json as it stands; ``weights`` maps names to float32 arrays."""

    folder: Path
    info: dict
    weights: dict

    @property
    def id(self) -> str:
        return f"{self.info['name']}-{self.info['version']}"

    @property
    def name(self) -> str:
        """The title that people read."""
        return self.info["title"]

    @property
    def sha256(self) -> str:
        return self.info["weights_sha256"]

    @property
    def edges_days(self) -> np.ndarray:
        return np.array(self.info["intervals"]["edges_days"], dtype=np.float64)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        values = dict(self.info["preprocessing"])
        return Preprocessing(
            hu_window=tuple(values["hu_window"]),
            pixel_size_mm=values["pixel_size_mm"],
            crop_px=values["crop_px"],
            min_roi_px=values["min_roi_px"],
            slice_step_mm=values["slice_step_mm"],
        )

    @property
    def max_slices(self) -> int:
        return self.info["aggregation"]["max_slices"]

    @property
    def risk_time_days(self) -> float:
        """The time at which risk = 1 - S is taken."""
        return float(self.info["aggregation"]["risk_time_days"])

    @property
    def kaplan_meier(self) -> tuple[np.ndarray, np.ndarray]:
        """(days, S) of the reference cohort, both [t]; the first is (0, 1)."""
        curve = self.info["reference_cohort"]["kaplan_meier"]
        return np.array(curve["time_days"], dtype=np.float64), np.array(curve["survival"], dtype=np.float64)

    @property
    def reference_label(self) -> str:
        return self.info["reference_cohort"]["label"]

    def risk_percentile(self, risk: float) -> float:
        """Percent of the reference cohort whose predicted risk is lower, 0..100, from its risk quantiles."""
        quantiles = np.array(self.info["reference_cohort"]["risk_quantiles"], dtype=np.float64)
        percent = np.linspace(0, 100, len(quantiles))
        equal = percent[quantiles == risk]
        if equal.size:  # the risk is one of the quantiles: the middle of the equal ones
            return float(equal.mean())
        return float(np.interp(risk, quantiles, percent))

    @property
    def facts(self) -> list[str]:
        """Who the model is of and how good it is, a line each, for a panel."""
        trained = [c for c in self.info["cohorts"] if "test" not in c["use"]]
        lines = [f"Disease: {self.info['card']['disease']}"]
        lines += [f"Trained on: {c['name']}, {c['patients']} patients, {c['events']} deaths" for c in trained]
        for name, label in (("concordance", "Concordance"), ("ipa", "IPA")):
            metric = next((m for m in self.info["metrics"] if m["name"] == name), None)
            if metric is not None:
                lines.append(f"{label}: {metric['value']:.2f}{_interval(metric)} on {metric['cohort']}")
        return lines

    @property
    def card_text(self) -> str:
        """The model card, Markdown: the folder's MODEL_CARD.md, or the texts of bundle.json where there is none."""
        try:
            return (self.folder / CARD_FILE).read_text(encoding="utf-8")[:_MAX_CARD_CHARACTERS]
        except (OSError, ValueError):
            card = self.info["card"]
            texts = [f"**{key.replace('_', ' ')}**: {value}" for key, value in card.items() if isinstance(value, str)]
            return "\n\n".join([f"# {self.name}", *self.facts, *texts])

    @property
    def input_ranges(self) -> dict:
        """largest_area_px and mean_intensity -> [1st, 99th percentile of the training patients]; {} if not known."""
        return self.info.get("input_ranges", {})

    @property
    def self_test(self) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [n, crop, crop], hazards [n, m]): an input made for the purpose and what the model says of it."""
        test = self.info["self_test"]
        return decode_images(test["images"], self.preprocessing.crop_px), np.array(test["hazards"], dtype=np.float64)


def shipped_models_folder() -> Path:
    """Where the bundles lie that ship with this software: beside the Slicer module, or inside the wheel."""
    here = Path(__file__).resolve().parent
    beside_module = here.parent / "Resources" / "Models"
    return beside_module if beside_module.is_dir() else here / "Models"


def default_bundle_folder() -> Path:
    """The shipped bundle that is used unless the user chooses another: the one that ``default.txt`` names."""
    folder = shipped_models_folder()
    try:
        name = (folder / "default.txt").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CNNSurvivalError(
            f"No model is installed in '{folder}'; install CNNSurvival again, or choose a model folder."
        ) from error
    return folder / name


def find_bundles(folders: Iterable) -> list[tuple[Path, Optional[Bundle], Optional[str]]]:
    """Every bundle below the folders: (its folder, the Bundle, None) or (its folder, None, what is wrong with it).

    A folder is looked at itself and one level down, in the order of names; what has no bundle.json is passed over.
    """
    found = []
    for folder in map(Path, folders):
        inside = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        for candidate in [folder, *inside]:
            if (candidate / INFO_FILE).is_file():
                try:
                    found.append((candidate, load_bundle(candidate), None))
                except CNNSurvivalError as error:
                    found.append((candidate, None, str(error)))
    return found


def load_bundle(folder) -> Bundle:
    """Read and check a bundle. Raises CNNSurvivalError with one sentence for whatever is wrong with it."""
    folder = Path(folder)
    info = _read_info(folder)
    _check_info(info, folder)
    content = _read_weights_file(folder, info)
    return Bundle(folder, info, _read_weights(content, folder, len(info["intervals"]["edges_days"]) - 1))


def save_bundle(folder, info: dict, weights: dict) -> Bundle:
    """Write a bundle; returns it as loaded back.

    ``info`` is bundle.json without ``format``, ``format_version`` and ``weights_sha256``, which are filled in.
    The weights are written first and bundle.json last, each whole or not at all: until bundle.json is there, or
    where it does not match, nothing takes the folder for a bundle. Raises CNNSurvivalError if it would not load.
    """
    folder = Path(folder)
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in weights.items()}
    content = _npz(arrays)
    info = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **info,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    _check_info(info, folder)
    _read_weights(content, folder, len(info["intervals"]["edges_days"]) - 1)
    ensure_output_folder(folder)
    with atomic_write(folder / WEIGHTS_FILE, "wb") as stream:
        stream.write(content)
    write_json(folder / INFO_FILE, info)
    return load_bundle(folder)


def encode_images(images: np.ndarray) -> str:
    """uint8 [n, crop, crop] as text for bundle.json's self_test (zlib, base64)."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(images, dtype=np.uint8).tobytes(), 9)).decode("ascii")


# --- Reading --------------------------------------------------------------------------------------------------


def _read_info(folder: Path) -> dict:
    path = folder / INFO_FILE
    if not path.is_file():
        raise CNNSurvivalError(f"'{folder}' is not a model folder (it has no {INFO_FILE}); choose a folder that has.")
    try:
        info = json.loads(_read_file(path, _MAX_INFO_BYTES).decode("utf-8"))
    except CNNSurvivalError:
        raise
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested beyond sense
        raise _broken(folder, f"its {INFO_FILE} is damaged") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise CNNSurvivalError(
            f"The model in '{folder}' is of another kind (its {INFO_FILE} does not say '{FORMAT}'); "
            "choose a CNNSurvival model."
        )
    if info.get("format_version") != FORMAT_VERSION:
        raise CNNSurvivalError(
            f"The model in '{folder}' has format version {info.get('format_version')!r} and this software reads "
            f"{FORMAT_VERSION}; update CNNSurvival, or choose another model."
        )
    return info


def _read_file(path: Path, most: int) -> bytes:
    """The content of a regular file (whoever opens a pipe or a device waits, or reads without end)."""
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise CNNSurvivalError(f"'{path}' cannot be read ({error.strerror}); check its permissions.") from error
    if len(content) > most:
        raise _broken(path.parent, f"its {path.name} is too large to be one")
    return content


def _read_weights_file(folder: Path, info: dict) -> bytes:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise _broken(folder, f"its {WEIGHTS_FILE} is missing")
    content = _read_file(path, _MAX_WEIGHTS_BYTES)
    if hashlib.sha256(content).hexdigest() != info["weights_sha256"]:
        raise _broken(folder, f"its {WEIGHTS_FILE} is not the file that its {INFO_FILE} describes (SHA-256 differs)")
    return content


def _read_weights(content: bytes, folder: Path, n_intervals: int) -> dict:
    expected = weight_shapes(n_intervals)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MAX_WEIGHTS_BYTES:
                raise _broken(folder, f"its {WEIGHTS_FILE} would unpack to more than a model holds")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            weights = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error,
            NotImplementedError, RuntimeError) as error:  # fmt: skip
        if isinstance(error, CNNSurvivalError):
            raise
        raise _broken(folder, f"its {WEIGHTS_FILE} is damaged") from error
    for name, shape in expected.items():
        if name not in weights or weights[name].shape != shape or weights[name].dtype != np.float32:
            raise _broken(folder, f"its weights '{name}' are missing or not float32 of shape {shape}")
        if not np.all(np.isfinite(weights[name])):
            raise _broken(folder, f"its weights '{name}' hold NaN or infinity")
    unknown = sorted(set(weights) - set(expected))
    if unknown:
        raise _broken(folder, f"its weights hold '{unknown[0]}', which the network does not have")
    for layer in range(1, 7):
        if np.any(weights[f"norm{layer}.running_var"] < 0):
            raise _broken(folder, f"its weights 'norm{layer}.running_var' hold a negative variance")
    return weights


def _npz(arrays: dict) -> bytes:
    """The arrays as an .npz whose bytes depend on nothing but them (np.savez writes the time of day)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(value), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name + ".npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def decode_images(text: str, size: int, limit: int = 64) -> np.ndarray:
    """Undo encode_images; raises ValueError for anything else. Unpacks no more than ``limit`` images."""
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(base64.b64decode(text, validate=True), limit * size * size)
    except zlib.error as error:
        raise ValueError("not compressed images") from error
    if not data or len(data) % (size * size) or unpack.unconsumed_tail:
        raise ValueError("not a whole number of images")
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size, size)


def _interval(metric: dict) -> str:
    low, high = metric.get("ci_low"), metric.get("ci_high")
    return "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"


def _broken(folder: Path, what: str) -> CNNSurvivalError:
    return CNNSurvivalError(
        f"The model in '{folder}' cannot be used: {what}; copy or download the model again, or choose another."
    )


# --- Checking bundle.json -------------------------------------------------------------------------------------


def _number(low=-math.inf, high=math.inf, whole=False):
    def check(value):
        kind = int if whole else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high

    return check


def _text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _texts(value) -> bool:
    return isinstance(value, list) and all(_text(item) for item in value)


def _optional(check):
    return lambda value: value is None or check(value)


def _rising(low, high, strictly=False):
    """A list of numbers within the limits that never falls (or always rises)."""

    def check(value):
        if not isinstance(value, list) or len(value) < 2 or not all(map(_number(low, high), value)):
            return False
        return all(a < b if strictly else a <= b for a, b in zip(value, value[1:]))

    return check


def _metric(value) -> bool:
    """{"name", "cohort", "value", "ci_low", "ci_high"} and, where the metric has one, "horizon_days"."""
    number = _optional(_number())
    return (
        isinstance(value, dict)
        and all(_text(value.get(key)) for key in ("name", "cohort"))
        and _number()(value.get("value"))
        and all(number(value.get(key)) for key in ("ci_low", "ci_high", "horizon_days"))
    )


def _cohort(value) -> bool:
    """{"name", "use", "patients", "events", "slices", "sites", "dates", "source", "licence", "exclusions"}."""
    return (
        isinstance(value, dict)
        and all(_text(value.get(key)) for key in ("name", "use", "sites", "dates", "source", "licence", "exclusions"))
        and all(_number(0, whole=True)(value.get(key)) for key in ("patients", "events", "slices"))
    )


def _list_of(check, least=0):
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(check, value))


def _name(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value) is not None


# Path in bundle.json -> (check, what it must be). Fields beyond these are kept and ignored.
_SCHEMA = {
    "name": (_name, "a short name of letters, digits, '.', '_' and '-'"),
    "title": (_text, "a title"),
    "version": (_name, "a version such as '1.0'"),
    "changes": (_texts, "a list of what changed, newest first"),
    "created": (_text, "a date"),
    "weights_sha256": (lambda v: isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None, "a SHA-256"),
    "network.architecture": (lambda v: v == "zhang2020", "'zhang2020'"),
    "network.output": (lambda v: v == "hazard_logits", "'hazard_logits'"),
    "network.input_scale": (_number(GREY_SCALE, GREY_SCALE), f"{GREY_SCALE!r}, one grey level"),
    "intervals.edges_days": (_rising(0, 1e6, strictly=True), "a list of days that rises from 0"),
    "preprocessing.hu_window": (
        lambda v: _rising(-1e5, 1e5, strictly=True)(v) and len(v) == 2,
        "two rising numbers [low, high] in HU",
    ),
    "preprocessing.pixel_size_mm": (_optional(_number(0.05, 20)), "a number of mm, or null"),
    "preprocessing.crop_px": (lambda v: v == CROP_PX, str(CROP_PX)),
    "preprocessing.min_roi_px": (_number(1, 1e6, whole=True), "a number of pixels, 1 or more"),
    "preprocessing.slice_step_mm": (_optional(_number(0.05, 100)), "a number of mm, or null"),
    "preprocessing.ranking": (lambda v: v == "mean_percentile_rank_area_intensity", "the known ranking rule"),
    "aggregation.method": (lambda v: v == "mean_survival", "'mean_survival'"),
    "aggregation.max_slices": (_number(1, 10_000, whole=True), "a whole number, 1 or more"),
    "aggregation.risk_time_days": (_number(1, 1e6), "a number of days"),
    "cohorts": (_list_of(_cohort, least=1), "a list of cohorts with their sizes, events, sites, dates and licences"),
    "metrics": (_list_of(_metric), "a list of metrics with name, cohort, value and interval"),
    "reference_cohort.label": (_text, "a sentence that names the cohort"),
    "reference_cohort.kaplan_meier.time_days": (_rising(0, 1e6, strictly=True), "a list of days that rises from 0"),
    "reference_cohort.kaplan_meier.survival": (_list_of(_number(0, 1), least=2), "a list of probabilities"),
    "reference_cohort.risk_quantiles": (_rising(0, 1), "a rising list of risks between 0 and 1"),
    "self_test.images": (_text, "images as text"),
    "self_test.hazards": (_list_of(_list_of(_number(0, 1), least=1), least=1), "a list of hazards per image"),
    "card.intended_use": (_text, "a text"),
    "card.disease": (_text, "a text"),
    "card.treatment": (_text, "a text"),
    "card.ct": (_text, "a text"),
    "card.endpoint": (_text, "a text"),
    "card.time_origin": (_text, "a text"),
    "card.contours": (_text, "a text"),
    "card.external_validation": (_text, "a text, 'none' if there was none"),
    "card.calibration": (_text, "a text"),
    "card.out_of_scope": (_texts, "a list of texts"),
    "card.limitations": (_texts, "a list of texts"),
    "card.licence": (_text, "a text"),
    "card.citation": (_texts, "a list of texts"),
    "training": (lambda v: isinstance(v, dict), "the settings of the training run"),
}


def _check_info(info: dict, folder: Path) -> None:
    """Raise CNNSurvivalError for the first field that is missing or not what it must be."""
    for path, (check, what) in _SCHEMA.items():
        value = info
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                raise _broken(folder, f"in its {INFO_FILE} the field '{path}' is missing")
            value = value[key]
        if not check(value):
            raise _broken(folder, f"in its {INFO_FILE} the field '{path}' is not {what}")
    _check_together(info, folder)


def _check_together(info: dict, folder: Path) -> None:
    """What the fields must be to one another."""
    edges, km = info["intervals"]["edges_days"], info["reference_cohort"]["kaplan_meier"]
    try:
        check_edges(edges)
    except ValueError as error:
        raise _broken(folder, f"in its {INFO_FILE} the {error}") from error
    if info["aggregation"]["risk_time_days"] > edges[-1]:
        raise _broken(folder, f"in its {INFO_FILE} 'aggregation.risk_time_days' lies beyond the last interval")
    survival = km["survival"]
    falls = len(survival) == len(km["time_days"]) and all(a >= b for a, b in zip(survival, survival[1:]))
    if not falls or km["time_days"][0] != 0 or survival[0] != 1:
        raise _broken(folder, f"in its {INFO_FILE} the Kaplan-Meier curve does not fall from 1 at day 0")
    try:
        images = decode_images(info["self_test"]["images"], info["preprocessing"]["crop_px"])
    except ValueError as error:
        raise _broken(folder, f"in its {INFO_FILE} the field 'self_test.images' is damaged") from error
    hazards = info["self_test"]["hazards"]
    if len(hazards) != len(images) or any(len(row) != len(edges) - 1 for row in hazards):
        raise _broken(folder, f"in its {INFO_FILE} 'self_test.hazards' does not match its images and intervals")
