"""The configuration of a study: one TOML file that ``reproduce`` works through.

    title, seed, horizons_days, bootstrap
    [data]       manifest (relative to this file, or to --data), clinical, slice_step_mm, pixel_size_mm, hu_window,
                 min_roi_px, max_slices
    card         the texts of the model card, a TOML file beside this one (see ``export.check_card``)
    baselines    which of radiomics, outputs, volume, clinical to compare with
    [pretrain]   label, where (column = value, chooses rows of the manifest)
    [second]     label, where, finetune_patients
    [[network]]  id, title, version, pretrain and finetune (fields of ``training.Settings`` that are not the paper's),
                 crossvalidate (false, true, or fields that differ once more), pretrained_only (export that, too)
    [crossvalidation]  folds, finetune_folds, at_epochs

A table or key that is not listed here is refused, so that a typing error is not a silent default.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from CNNSurvivalLib.errors import UsageError, existing
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS
from CNNSurvivalLib.slices import Preprocessing

from ..options import BASELINES
from ..training.runs import MAX_SLICES

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


@dataclass(frozen=True)
class Data:
    """Where the images are, and how slices are cut from them."""

    manifest: str
    clinical: str | None = None
    slice_step_mm: float | None = None
    pixel_size_mm: float | str | None = 1.0
    hu_window: list = field(default_factory=lambda: [-160.0, 240.0])
    min_roi_px: int = 250
    max_slices: int = MAX_SLICES

    @property
    def preprocessing(self) -> Preprocessing:
        size = None if self.pixel_size_mm == "native" else self.pixel_size_mm
        low, high = map(float, self.hu_window)
        return Preprocessing((low, high), size, min_roi_px=self.min_roi_px, slice_step_mm=self.slice_step_mm)


@dataclass(frozen=True)
class Cohort:
    """Rows of the manifest. where: column -> value. finetune_patients: how many of the second cohort to train on."""

    label: str
    where: dict = field(default_factory=dict)
    finetune_patients: int | None = None


@dataclass(frozen=True)
class Network:
    """A way to train. pretrain, finetune: fields of ``training.Settings`` that differ from the paper's;
    best_slices = "all" keeps them all. crossvalidate: whether to, or the fields that differ once more there.
    """

    id: str
    title: str
    pretrain: dict = field(default_factory=dict)
    finetune: dict = field(default_factory=dict)
    crossvalidate: dict | bool = False
    version: str = "1.0"
    pretrained_only: bool = False


@dataclass(frozen=True)
class CrossValidation:
    """folds: of the pretraining cohort. finetune_folds: of the patients to fine-tune on."""

    folds: int = 5
    finetune_folds: int = 5
    at_epochs: list = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """A configuration, checked. path: the file; folder: where the data lie (--data, or beside the file)."""

    path: Path
    folder: Path
    text: str
    title: str
    card: str
    data: Data
    pretrain: Cohort
    second: Cohort
    networks: list[Network]
    crossvalidation: CrossValidation = CrossValidation()
    baselines: list = field(default_factory=lambda: ["radiomics", "outputs", "volume", "clinical"])
    seed: int = 2020
    horizons_days: list = field(default_factory=lambda: [EIGHTEEN_MONTHS_DAYS])
    bootstrap: int = 1000

    @property
    def manifest(self) -> Path:
        return existing(self.folder / self.data.manifest, "manifest")

    @property
    def clinical(self) -> Path | None:
        return existing(self.folder / self.data.clinical, "clinical table") if self.data.clinical else None


def read_study(path, data_folder=None) -> Study:
    """Read a configuration. Raises UsageError for a missing file, bad TOML, or a key that is missing or unknown."""
    path = existing(path, "configuration")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"The configuration '{path}' cannot be read ({error}); mend the file.") from error
    content["networks"] = content.pop("network", [])
    for name, kind in (("data", Data), ("pretrain", Cohort), ("second", Cohort), ("crossvalidation", CrossValidation)):
        if name in content:
            content[name] = _fill(kind, content[name], f"[{name}]", path)
    content["networks"] = [_fill(Network, one, "[[network]]", path) for one in content["networks"]]
    folder = Path(data_folder) if data_folder is not None else path.parent
    study = _fill(Study, {**content, "path": path, "folder": folder, "text": text}, "the file", path)
    _check(study, path)
    return study


def _fill(kind, values, where: str, path: Path):
    if not isinstance(values, dict):
        raise UsageError(f"In the configuration '{path}', {where} must be a table.")
    known = {f.name: f for f in fields(kind)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise UsageError(f"The configuration '{path}' has an unknown key '{unknown[0]}' in {where}; known are: "
                         f"{', '.join(n for n in known if n not in ('path', 'folder', 'text'))}.")  # fmt: skip
    try:
        return kind(**values)
    except TypeError as error:
        missing = str(error).rsplit(":", 1)[-1].strip()
        raise UsageError(f"The configuration '{path}' lacks {missing} in {where}.") from error


def _check(study: Study, path: Path) -> None:
    ids = [network.id for network in study.networks]
    if not ids or len(set(ids)) < len(ids):
        raise UsageError(f"The configuration '{path}' needs at least one [[network]], each with an id of its own.")
    unknown = [name for name in study.baselines if name not in BASELINES]
    if unknown:
        raise UsageError(f"The configuration '{path}' names the baseline '{unknown[0]}'; there are: "
                         f"{', '.join(BASELINES)}.")  # fmt: skip
    if study.second.finetune_patients is None:
        raise UsageError(f"The configuration '{path}' lacks 'finetune_patients' in [second].")
