"""The configuration of a study: one TOML file that ``reproduce`` works through.

    title, seed, horizons_days, bootstrap
    card         the texts of the model card, a TOML file beside this one (see ``models.card``)
    baselines    which of radiomics, outputs, volume, clinical to compare with
    [[cohort]]   name, collection (at Imaging Data Commons), clinical, mapping, rules, without, patients: a cohort to
                 download
    [data]       manifest (relative to this file, or to --data), clinical, slice_step_mm, pixel_size_mm, hu_window,
                 min_roi_px, max_slices
    [pretrain]   label, cohort (the name of a [[cohort]]), where (column = value, chooses rows of the manifest)
    [finetuning] label, cohort, where, finetune_patients or finetune_share, hold_out
    [[network]]  id, title, version, pretrain and finetune (settings of training that are not the paper's), learn,
                 crossvalidate (false, true, or settings that differ once more), pretrained_only (export that, too),
                 pretrained_title
    [crossvalidation]  folds, finetune_folds, at_epochs

A configuration with [[population]] tables is of a second kind: one network that serves several populations. title,
seed, horizons_days, bootstrap, card, [data] and [pretrain] are the same; the others are

    sanity_tumours     how many tumours of each cohort are tried grown, shrunk, shaken and turned
    [network]          one table: id, title, version, pretrain
    [crossvalidation]  folds, seeds (the cross-validation of the pretraining cohort is repeated with each)
    [[population]]     name, title, label, cohort, where, pretraining, default, manifest, hold_out, learn, covariates,
                       baselines

A table or key that is not listed here is refused, so that a typing error is not a silent default. docs/formats.md has
the types and defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from CNNSurvivalLib.errors import UsageError, existing
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS
from CNNSurvivalLib.slices import Preprocessing

from ..models.covariates import KNOWN_COVARIATES
from ..options import BASELINES
from ..toml_file import (
    Number,
    OptionalText,
    Switch,
    Table,
    Text,
    WholeNumber,
    WholeNumberOr0,
    checked,
    read_toml,
)
from ..training.runs import MAX_SLICES


def _rising(values: list[float]) -> list[float]:
    if len(values) != 2 or not values[0] < values[1]:
        raise ValueError
    return values


def _known_baseline(name: str) -> str:
    if name not in BASELINES:
        raise ValueError
    return name


PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fold = Annotated[int, Field(ge=2, description="a whole number, 2 or more")]
Condition = dict[str, str | int | float]
MANIFEST_FILE = "manifest.csv"  # of a [[cohort]], in its folder


class PublicCohort(Table):
    """A cohort to download. name: its folder below the data folder. collection: its id at Imaging Data Commons.
    clinical: a table of follow-up in place of the collection's own. mapping: what its columns mean, where
    ``cohort/clinical_tables.toml`` does not say it. rules: which contours, where ``cohort/collections.toml`` is not to
    decide. without: patients to leave out. patients: only the first ones."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$", description="a name of letters, digits, - and _")]
    collection: Text
    clinical: OptionalText = None
    mapping: OptionalText = None
    rules: OptionalText = None
    without: Annotated[list[Text], Field(description="a list of texts in quotes")] = []
    patients: WholeNumber | None = Field(None, description="a whole number, 1 or more")


class Data(Table):
    """Where the images are, and how slices are cut from them. manifest: not of cohorts that are downloaded."""

    manifest: OptionalText = None
    clinical: OptionalText = None
    slice_step_mm: PositiveNumber | None = Field(None, description="a number of mm above 0")
    pixel_size_mm: PositiveNumber | Literal["native"] = Field(1.0, description='a number of mm above 0, or "native"')
    hu_window: Annotated[list[Number], AfterValidator(_rising)] = Field(
        [-160.0, 240.0], description="two rising numbers, [low, high] in HU"
    )
    min_roi_px: WholeNumber = 250
    max_slices: WholeNumber = MAX_SLICES

    @property
    def preprocessing(self) -> Preprocessing:
        size = None if self.pixel_size_mm == "native" else self.pixel_size_mm
        low, high = map(float, self.hu_window)
        return Preprocessing((low, high), size, min_roi_px=self.min_roi_px, slice_step_mm=self.slice_step_mm)


class Cohort(Table):
    """Rows of a manifest: that of [data], or of a [[cohort]]. where: column -> value."""

    label: Text
    cohort: OptionalText = None
    where: Condition = Field({}, description='a table of columns and their values, such as { cohort = "a" }')


class FinetuningCohort(Cohort):
    """The cohort to fine-tune and to test on. finetune_patients or finetune_share: how many of it to fine-tune on.
    hold_out: a column (centre) whose values are also held out in turn."""

    finetune_patients: WholeNumber | None = Field(None, description="a whole number, 1 or more")
    finetune_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="a number between 0 and 1")
    hold_out: OptionalText = None

    def finetune_count(self, patients: int) -> int:
        """How many of so many patients to fine-tune on."""
        if self.finetune_patients is not None:
            return self.finetune_patients
        return round(self.finetune_share * patients)


class Departures(Table):
    """Settings of a training that are not the paper's; the fields are those of ``training.train.Settings``.

    best_slices = "all" keeps all slices.
    """

    epochs: WholeNumber | None = Field(None, description="a whole number, 1 or more")
    batch: WholeNumber | None = Field(None, description="a whole number, 1 or more")
    learning_rate: PositiveNumber | None = Field(None, description="a number above 0")
    best_slices: WholeNumber | Literal["all"] | None = Field(None, description='a whole number, 1 or more, or "all"')
    seed: WholeNumberOr0 | None = Field(None, description="a whole number, 0 or more")
    balanced: WholeNumberOr0 | None = Field(None, description="a whole number, 0 or more")
    augment: bool | None = Field(None, description="true or false")
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="a number from 0 up to, but not, 1")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="a number, 0 or more"
    )
    marginal_start: bool | None = Field(None, description="true or false")
    average_from: WholeNumberOr0 | None = Field(None, description="a whole number, 0 or more")
    recalibrate: bool | None = Field(None, description="true or false")
    dropout_from: Literal[1, 2, 3] | None = Field(None, description="1, 2 or 3")
    shared_output: bool | None = Field(None, description="true or false")
    hidden_bias: Number | None = Field(None, description="a number")
    output_start: PositiveNumber | None = Field(None, description="a number above 0")
    growth: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(None, description="a number, 0 or more")
    refit_biases: bool | None = Field(None, description="true or false")

    @property
    def given(self) -> dict:
        """The settings that the file names, as ``Settings`` takes them."""
        values = self.model_dump(exclude_unset=True)
        return {name: None if value == "all" else value for name, value in values.items()}


def _switch_or_table(value):
    """false: no cross-validation; true: one with the settings as they are."""
    return ({} if value else None) if isinstance(value, bool) else value


class Network(Table):
    """A way to train. crossvalidate: None, or what differs from ``pretrain`` in the cross-validation. learn: how much
    fine-tuning learns ("free": the paper's way, with the settings of ``finetune``)."""

    id: Text
    title: Text
    pretrain: Departures = Field(Departures(), description="a table of settings")
    finetune: Departures = Field(Departures(), description="a table of settings")
    crossvalidate: Annotated[Departures | None, BeforeValidator(_switch_or_table)] = Field(
        None, description="true, false or a table of settings"
    )
    learn: Literal["free", "auto", "none", "shift", "offsets", "last-layer"] = Field(
        "free", description='"free", "auto", "none", "shift", "offsets" or "last-layer"'
    )
    version: Text = "1.0"
    pretrained_only: Switch = False
    pretrained_title: OptionalText = None

    def title_of(self, name: str) -> str:
        """The title of the network (name: its id), or of the one before fine-tuning."""
        return self.title if name == self.id else self.pretrained_title or f"{self.title}, before fine-tuning"


class CrossValidation(Table):
    """folds: of the pretraining cohort. finetune_folds: of the patients to fine-tune on."""

    folds: Fold = 5
    finetune_folds: Fold = 5
    at_epochs: list[WholeNumber] = Field([], description="a list of whole numbers, 1 or more each")


class PopulationCohort(Cohort):
    """A population of the bundle. name, title: as in the bundle. pretraining: whether it is the cohort of [pretrain];
    its own predictions then come from the cross-validation. manifest: its own, relative to the data folder.
    hold_out: the column whose values are held out in turn (hospitals); default: folds by patient.
    """

    name: Text
    title: Text
    pretraining: Switch = False
    default: Switch = False
    manifest: OptionalText = None
    hold_out: OptionalText = None
    learn: Literal["auto", "none", "shift", "offsets", "last-layer"] = "auto"
    covariates: list[Text] = Field([], description="a list of names of columns")
    baselines: list[Annotated[str, AfterValidator(_known_baseline)]] = Field(
        [], description=f"a list of some of {', '.join(BASELINES)}"
    )


class TransferCrossValidation(Table):
    """folds: of the pretraining cohort and of populations without hold_out. seeds: how often the first is repeated."""

    folds: Fold = 5
    seeds: list[WholeNumberOr0] = Field([2020], min_length=1, description="a list of whole numbers")


class AnyStudyFile(Table):
    """What a study's file holds, of whatever kind it is."""

    title: Text
    card: Text
    data: Data = Field(description="a table, [data]")
    pretrain: Cohort = Field(description="a table, [pretrain]")
    seed: WholeNumberOr0 = 2020
    horizons_days: list[PositiveNumber] = Field(
        [EIGHTEEN_MONTHS_DAYS], min_length=1, description="a list of numbers of days above 0"
    )
    bootstrap: WholeNumberOr0 = 1000
    cohort: list[PublicCohort] = Field([], description="tables, [[cohort]] each")


class TransferFile(AnyStudyFile):
    """A study of one network and several populations, with [[population]] tables."""

    network: Network = Field(description="a table, [network]")
    population: list[PopulationCohort] = Field(min_length=1, description="tables, [[population]] each")
    sanity_tumours: WholeNumberOr0 = 0  # of each cohort, to try growth, contours and turns on
    crossvalidation: TransferCrossValidation = Field(
        TransferCrossValidation(), description="a table, [crossvalidation]"
    )


class StudyFile(AnyStudyFile):
    """A study of one fine-tuning cohort, with [[network]] tables."""

    finetuning: FinetuningCohort = Field(description="a table, [finetuning]")
    network: list[Network] = Field(description="tables, [[network]] each")
    crossvalidation: CrossValidation = Field(CrossValidation(), description="a table, [crossvalidation]")
    baselines: list[Annotated[str, AfterValidator(_known_baseline)]] = Field(
        list(BASELINES), description=f"a list of some of {', '.join(BASELINES)}"
    )


class _OnDisk:
    """Where a study's files lie: of a configuration with path, folder, card and data."""

    @property
    def card_path(self) -> Path:
        return self.path.parent / self.card

    def manifest_of(self, cohort: Cohort) -> Path:
        """The manifest that holds a cohort's rows. Raises UsageError where it is not there."""
        own = getattr(cohort, "manifest", None) or self.data.manifest
        return existing(self.folder / (f"{cohort.cohort}/{MANIFEST_FILE}" if cohort.cohort else own), "manifest")

    def clinical_of(self, cohort: Cohort) -> Path | None:
        """The clinical table of a cohort; None where its follow-up is in its manifest."""
        if cohort.cohort or getattr(cohort, "manifest", None) or not self.data.clinical:
            return None
        return existing(self.folder / self.data.clinical, "clinical table")


class Study(StudyFile, _OnDisk):
    """A configuration, checked. path: the file, text: as it stands; folder: where the data lie (--data, or beside the
    file)."""

    path: Path
    folder: Path
    text: str

    @property
    def networks(self) -> list[Network]:
        return self.network


class TransferStudy(TransferFile, _OnDisk):
    """A configuration with populations, checked; path, folder and text as of Study."""

    path: Path
    folder: Path
    text: str


def read_study(path, data_folder=None) -> Study | TransferStudy:
    """Read a configuration; one with [[population]] tables is a TransferStudy.

    Parameters
    ----------
    path : str or Path
        The TOML file.
    data_folder : str or Path, optional
        Where the manifest lies; default: beside the file.

    Raises
    ------
    UsageError
        For a missing file, bad TOML, and a key that is missing, unknown or of another kind than it must be.
    """
    path, text, content = read_toml(path, "configuration")
    if "second" in content:
        raise UsageError(f"The configuration '{path}' has a table [second], which is called [finetuning] now; rename "
                         "it.")  # fmt: skip
    folder = path.parent if data_folder is None else Path(data_folder)
    if "population" in content:
        found = checked(TransferFile, content, f"configuration '{path}'")
        _check_populations(found, path)
        _check_cohorts(found, [found.pretrain, *found.population], path)
        return TransferStudy(**dict(found), path=path, folder=folder, text=text)
    found = checked(StudyFile, content, f"configuration '{path}'")
    ids = [network.id for network in found.network]
    if not ids or len(set(ids)) < len(ids):
        raise UsageError(f"The configuration '{path}' needs at least one [[network]], each with an id of its own.")
    _check_cohorts(found, [found.pretrain, found.finetuning], path)
    if (found.finetuning.finetune_patients is None) == (found.finetuning.finetune_share is None):
        raise UsageError(f"The configuration '{path}' lacks 'finetune_patients' or 'finetune_share' in [finetuning], "
                         "or has both; give one.")  # fmt: skip
    return Study(**dict(found), path=path, folder=folder, text=text)


def _check_cohorts(study: AnyStudyFile, used: list[Cohort], path) -> None:
    names = [each.name for each in study.cohort]
    if len(set(names)) < len(names):
        raise UsageError(f"The configuration '{path}' has two [[cohort]] of one name; give each its own.")
    for each in used:
        if each.cohort is not None and each.cohort not in names:
            raise UsageError(f"The configuration '{path}' has no [[cohort]] with the name '{each.cohort}'; it has: "
                             f"{', '.join(names) or 'none'}.")  # fmt: skip
        if each.cohort is None and study.data.manifest is None and getattr(each, "manifest", None) is None:
            raise UsageError(f"The configuration '{path}' lacks 'manifest' in [data]; add it, or name a [[cohort]] for "
                             f"'{each.label}'.")  # fmt: skip


def _check_populations(study: TransferFile, path) -> None:
    names = [population.name for population in study.population]
    if len(set(names)) < len(names):
        raise UsageError(f"The configuration '{path}' has two populations of one name; give each its own.")
    if sum(population.default for population in study.population) != 1:
        raise UsageError(f"The configuration '{path}' needs one population with default = true.")
    unknown = [name for each in study.population for name in each.covariates if name not in KNOWN_COVARIATES]
    if unknown:
        raise UsageError(f"The configuration '{path}' names the covariate '{unknown[0]}'; known are: "
                         f"{', '.join(KNOWN_COVARIATES)}.")  # fmt: skip
