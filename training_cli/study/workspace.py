"""What every study works in: its configuration, the folder of its results, and the cohorts prepared there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..cohort import prepare
from ..cohort.store import Store, open_store
from ..cohort.store_files import STORE_FILE
from ..training import train
from .config import Cohort, Departures, Study, TransferStudy

Log = Callable[[str], None]


def settings_of(study: Study | TransferStudy, paper: train.Settings, *departures: Departures) -> train.Settings:
    """The paper's settings with the study's seed and what departs from them, the last word counting."""
    given = {name: value for each in departures for name, value in each.given.items()}
    return replace(paper, **{"seed": study.seed, **given})


@dataclass(frozen=True)
class Workspace:
    """A study and where its results lie. jobs: processes. log: is called with each line of progress."""

    study: Study | TransferStudy
    folder: Path
    jobs: int
    log: Log

    @cached_property
    def pretrain_store(self) -> Store:
        return self.store("pretrain")

    @property
    def horizon(self) -> float:
        """The first of the horizons, in days: where networks are compared and chosen."""
        return float(self.study.horizons_days[0])

    @property
    def max_slices(self) -> int:
        return self.study.data.max_slices

    def store(self, name: str) -> Store:
        return open_store(self.folder / "stores" / name)

    def prepare(self, name: str, cohort: Cohort) -> None:
        """Cut the slices of a cohort into the store of that name, unless that has been done."""
        folder = self.folder / "stores" / name
        if (folder / STORE_FILE).is_file():
            return
        study = self.study
        self.log(f"Preparing {cohort.label}")
        prepare.prepare(
            study.manifest_of(cohort), folder, study.data.preprocessing, jobs=self.jobs, where=cohort.where,
            log=self.log, clinical=study.clinical_of(cohort),
        )  # fmt: skip
