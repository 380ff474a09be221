"""The trained model on disk: a folder with ``weights.npz`` and ``bundle.json``.

``bundle.json`` holds everything that must be known to use the weights and to judge their predictions; its
fields are checked by ``bundle_schema.problem_of``, for the format version that it states. ``weights.npz`` is read
without pickle, and only if its SHA-256 is the one that ``bundle.json`` gives.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Iterable, Optional

import numpy as np

from .bundle_schema import problem_of
from .errors import CNNSurvivalError, UsageError
from .files import atomic_write, ensure_output_folder, write_json
from .image_text import decode_images
from .network import weight_shapes
from .populations import Population
from .slices import Preprocessing

FORMAT = "cnn-survival-bundle"
FORMAT_VERSION = 2  # of a bundle that names populations; one that names none is written as version 1
READABLE_VERSIONS = (1, 2)
INFO_FILE = "bundle.json"
WEIGHTS_FILE = "weights.npz"
CARD_FILE = "MODEL_CARD.md"
# In the licence's text of a bundle that does not say whether it forbids commercial use
_NON_COMMERCIAL = re.compile(r"\bnon-?commercial\b|\bBY-NC\b", re.IGNORECASE)
# The paper's network takes 0.3 MB. A larger file than this is not a bundle's and is not read.
_MAX_WEIGHTS_BYTES = 8_000_000
_MAX_INFO_BYTES = 4_000_000
_MAX_CARD_CHARACTERS = 200_000


@dataclass(frozen=True)
class Bundle:
    """A trained model, checked, as it is for one of its populations.

    Attributes
    ----------
    folder : Path
    info : dict
        bundle.json as it was read.
    weights : dict of str to ndarray of float32
        The arrays of weights.npz: the network's, the same for all populations.
    population_name : str
        Whom predictions are for; "" for the bundle's default.
    """

    folder: Path
    info: dict
    weights: dict
    population_name: str = ""

    @property
    def id(self) -> str:
        return f"{self.info['name']}-{self.info['version']}"

    @property
    def title(self) -> str:
        """What people call the model; ``id`` is what programs call it."""
        return self.info["title"]

    @property
    def sha256(self) -> str:
        return self.info["weights_sha256"]

    @property
    def edges_days(self) -> np.ndarray:
        return np.array(self.info["intervals"]["edges_days"], dtype=np.float64)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.from_dict(self.info["preprocessing"])

    @property
    def max_slices(self) -> int:
        return self.info["aggregation"]["max_slices"]

    @property
    def risk_time_days(self) -> float:
        """The time at which risk = 1 - S is taken."""
        return float(self.info["aggregation"]["risk_time_days"])

    @cached_property
    def populations(self) -> tuple[Population, ...]:
        """Whom the model can be used for, the default first. A bundle of format version 1 has one."""
        if self.info["format_version"] == 1:
            return (Population(_population_of_version_1(self.info)),)
        entries = sorted(self.info["populations"], key=lambda entry: entry["name"] != self.info["default_population"])
        return tuple(map(Population, entries))

    @cached_property
    def population(self) -> Population:
        """Whom predictions are for."""
        name = self.population_name or self.populations[0].name
        return next(each for each in self.populations if each.name == name)

    def for_population(self, name: Optional[str]) -> Bundle:
        """The bundle for one of its populations; None or "" for its default. Raises UsageError for an unknown name."""
        names = [each.name for each in self.populations]
        if name and name not in names:
            raise UsageError(f"The model '{self.id}' has no population '{name}'; it has: {', '.join(names)}.")
        return replace(self, population_name=name or "")

    @cached_property
    def network_weights(self) -> dict:
        """The weights for this population: name -> float32 array, the last layer adapted to it."""
        return self.population.adapted(self.weights)

    @property
    def licence(self) -> str:
        """The licence of the weights, in words."""
        return self.info["card"]["licence"]

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use: as the card says, else by the words of the licence."""
        stated = self.info["card"].get("non_commercial")
        return bool(_NON_COMMERCIAL.search(self.licence)) if stated is None else stated

    @property
    def licence_notice(self) -> str:
        """A line for the terminal where the licence forbids commercial use, else ""."""
        return f"Licence of the model '{self.id}': {self.licence}." if self.non_commercial else ""

    @property
    def facts(self) -> list[str]:
        """Disease, training cohorts, the scores of the population and the licence, a line each, for a panel."""
        trained = [c for c in self.info["cohorts"] if "test" not in c["use"]]
        lines = [f"Disease: {self.info['card']['disease']}"]
        lines += [f"Trained on: {c['name']}, {c['patients']} patients, {c['events']} deaths" for c in trained]
        scores = score_lines(self.population.metrics or self.info["metrics"])
        return [*lines, *scores, f"Licence: {self.licence}"]

    @property
    def card_text(self) -> str:
        """The model card, Markdown: the folder's MODEL_CARD.md, or the texts of bundle.json where there is none."""
        try:
            return (self.folder / CARD_FILE).read_text(encoding="utf-8")[:_MAX_CARD_CHARACTERS]
        except (OSError, ValueError):
            card = self.info["card"]
            texts = [f"**{key.replace('_', ' ')}**: {value}" for key, value in card.items() if isinstance(value, str)]
            return "\n\n".join([f"# {self.title}", *self.facts, *texts])

    @property
    def self_test(self) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [n, crop, crop], hazards [n, m]): synthetic slices and the hazards that ``weights`` give them."""
        test = self.info["self_test"]
        return decode_images(test["images"], self.preprocessing.crop_px), np.array(test["hazards"], dtype=np.float64)


def score_lines(metrics: list) -> list[str]:
    """The concordance and the IPA among metrics (dicts as in bundle.json), a line each for people."""
    lines = []
    for name, label in (("concordance", "Concordance"), ("ipa", "IPA")):
        metric = next((m for m in metrics if m["name"] == name), None)
        if metric is not None:
            lines.append(f"{label}: {metric['value']:.2f}{_interval(metric)} on {metric['cohort']}")
    return lines


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

    The folders themselves and their sub-folders are searched, sorted by name; folders without bundle.json are skipped.
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


def installed_bundles(folders: Iterable = ()) -> list[tuple[Path, Optional[Bundle], Optional[str]]]:
    """The shipped bundles and those below the folders, as ``find_bundles`` gives them; the default one first."""
    bundles = find_bundles([shipped_models_folder(), *folders])
    try:
        default = default_bundle_folder()
    except CNNSurvivalError:  # no default is named: the order of the folders is kept
        return bundles
    return sorted(bundles, key=lambda bundle: bundle[0] != default)


def load_bundle(folder) -> Bundle:
    """Read and check a bundle.

    Parameters
    ----------
    folder : path-like
        Has bundle.json and weights.npz.

    Returns
    -------
    Bundle

    Raises
    ------
    CNNSurvivalError
        For a folder that is no bundle, a damaged one, and one of another format version.
    """
    folder = Path(folder)
    info = _read_info(folder)
    _check_fields(info, folder)
    content = _read_weights_file(folder, info)
    return Bundle(folder, info, _read_weights(content, folder, len(info["intervals"]["edges_days"]) - 1))


def save_bundle(folder, info: dict, weights: dict) -> Bundle:
    """Write a bundle.

    The weights are written first and bundle.json last, each whole or not at all: without bundle.json, or where it does
    not match the weights, the folder does not load as a bundle.

    Parameters
    ----------
    folder : path-like
        Made where it does not exist.
    info : dict
        bundle.json without ``format``, ``format_version`` (1 where no populations are named) and
        ``weights_sha256``, which are filled in.
    weights : dict of str to array_like
        The arrays of weights.npz; they are written as float32.

    Returns
    -------
    Bundle
        As it is loaded back.

    Raises
    ------
    CNNSurvivalError
        Where the bundle would not load; nothing is written then.
    """
    folder = Path(folder)
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in weights.items()}
    content = _npz(arrays)
    info = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION if "populations" in info else 1,
        **info,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    _check_fields(info, folder)
    _read_weights(content, folder, len(info["intervals"]["edges_days"]) - 1)
    ensure_output_folder(folder)
    with atomic_write(folder / WEIGHTS_FILE, "wb") as stream:
        stream.write(content)
    write_json(folder / INFO_FILE, info)
    return load_bundle(folder)


# --- Reading --------------------------------------------------------------------------------------------------


def _read_info(folder: Path) -> dict:
    path = folder / INFO_FILE
    if not path.is_file():
        raise CNNSurvivalError(f"'{folder}' is not a model folder (it has no {INFO_FILE}); choose a folder that has.")
    try:
        info = json.loads(_read_file(path, _MAX_INFO_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise _broken(folder, f"its {INFO_FILE} is damaged") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise CNNSurvivalError(
            f"The model in '{folder}' is of another kind (its {INFO_FILE} does not say '{FORMAT}'); "
            "choose a CNNSurvival model."
        )
    if info.get("format_version") not in READABLE_VERSIONS:
        raise CNNSurvivalError(
            f"The model in '{folder}' has format version {info.get('format_version')!r} and this software reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; update CNNSurvival, or choose another model."
        )
    return info


def _population_of_version_1(info: dict) -> dict:
    """The one population of a bundle that names none: the reference cohort's, nothing added to the network."""
    cohort = info["reference_cohort"]
    return {
        "name": "reference-cohort",
        "title": cohort["label"],
        "reference_cohort": cohort,
        "ranges": info.get("input_ranges", {}),
        "metrics": info["metrics"],
    }


def _check_fields(info: dict, folder: Path) -> None:
    problem = problem_of(info)
    if problem is not None:
        raise _broken(folder, f"in its {INFO_FILE} {problem}")


def _read_file(path: Path, most: int) -> bytes:
    """The content of a file; its callers have checked that it is a regular file, as a pipe or device may never end."""
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
    """The arrays as an .npz whose bytes depend on the arrays alone (np.savez also writes the time of day)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(value), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name + ".npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _interval(metric: dict) -> str:
    low, high = metric.get("ci_low"), metric.get("ci_high")
    return "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"


def _broken(folder: Path, what: str) -> CNNSurvivalError:
    return CNNSurvivalError(
        f"The model in '{folder}' cannot be used: {what}; copy or download the model again, or choose another."
    )
