"""The public cohorts of a study: downloaded, joined with their follow-up, each with a manifest for ``prepare``.

DATA/<cohort>/series, selection.csv, clinical    from ``cohort.download``
DATA/<cohort>/follow_up.csv                      of the patients whose contour was chosen
DATA/<cohort>/without_follow_up.csv              the others, and why
DATA/<cohort>/manifest.csv                       images and follow-up
DATA/<cohort>/cohort.json                        what the report and the card say of it
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from CNNSurvivalLib.errors import CNNSurvivalError, existing
from CNNSurvivalLib.files import ensure_output_folder, write_json

from ..cohort import download
from ..cohort.clinical import EVENT, ID
from ..cohort.follow_up import FollowUp, chosen_patients, write_follow_up, write_table
from ..cohort.selection import SELECTION_FILE
from ..models.card import Card, read_card
from .config import MANIFEST_FILE, PublicCohort, Study, TransferStudy

FACTS_FILE = "cohort.json"
IMAGE_COLUMNS = ("image", "mask", "series_uid", "segment")
PLACEHOLDER = "{time_origin}"  # in a card's text


def fetch_cohorts(study: Study | TransferStudy, endpoint=None, index=None, log: Callable[[str], None] = print) -> None:
    """Download what is not there yet, and write the manifests. Raises UsageError and CNNSurvivalError."""
    rules = [_own_files(study, cohort)[2] for cohort in study.cohort]  # mistakes are told before hours of downloads
    if study.card_path is not None:
        read_card(study.card_path)
    for cohort, own_rules in zip(study.cohort, rules):
        folder = ensure_output_folder(study.folder / cohort.name)
        log(f"Downloading '{cohort.collection}'")
        download.fetch(cohort.collection, folder, endpoint, index, cohort.patients, cohort.without, own_rules, log)
        join(study, cohort, folder, log)


def join(study: Study | TransferStudy, cohort: PublicCohort, folder: Path, log: Callable[[str], None]) -> None:
    """Make a cohort's manifest of its selection and its clinical table."""
    found = write_follow_up(folder, cohort.collection, *_own_files(study, cohort)[:2])
    chosen = chosen_patients(folder)
    facts = _facts(cohort, chosen, found)
    write_json(folder / FACTS_FILE, facts)
    log(f"{cohort.name}: {facts['patients']} patients with a contour, {facts['followed']} of them with follow-up, "
        f"{facts['deaths']} of whom died; days count from {found.time_origin}")  # fmt: skip
    manifest = chosen[[ID, "centre", *IMAGE_COLUMNS]].merge(found.table, on=ID)
    before = _text(folder / MANIFEST_FILE)
    write_table(folder / MANIFEST_FILE, manifest)
    if before not in ("", _text(folder / MANIFEST_FILE)):
        log(f"The patients of '{cohort.name}' are not those of the last run; delete the stores and what follows "
            "from them to work with these.")  # fmt: skip


def _own_files(study: Study | TransferStudy, cohort: PublicCohort) -> list[Path | None]:
    """The files beside the configuration that a cohort names: clinical table, mapping, rules. Raises UsageError."""
    given = ((cohort.clinical, "clinical table"), (cohort.mapping, "mapping"), (cohort.rules, "rules"))
    return [None if name is None else existing(study.path.parent / name, what) for name, what in given]


def _facts(cohort: PublicCohort, chosen: pd.DataFrame, found: FollowUp) -> dict:
    followed = chosen.merge(found.table, on=ID)
    centres = followed.groupby("centre")[EVENT].agg(["size", "sum"])
    return {
        "name": cohort.name,
        "collection": cohort.collection,
        "patients": len(chosen),
        "ambiguous": int((chosen["ambiguous"] == "1").sum()),
        "followed": len(found.table),
        "deaths": int(found.table[EVENT].sum()),
        "clinical_table": found.source,
        "time_origin": found.time_origin,
        "centres": [[str(name), int(row["size"]), int(row["sum"])] for name, row in centres.iterrows()],
    }


def facts_of(study: Study | TransferStudy) -> list[dict]:
    """What ``join`` found of each downloaded cohort. Raises CNNSurvivalError for a damaged file."""
    found = []
    for cohort in study.cohort:
        path = study.folder / cohort.name / FACTS_FILE
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise CNNSurvivalError(f"'{path}' cannot be read ({error}); give the same command again.") from error
    return found


def with_facts(card: Card, study: Study | TransferStudy) -> Card:
    """The card with the day that survival counts from, and with who of the collections could be used."""
    facts = facts_of(study)
    if not facts:
        return card
    origins = "; ".join(f"{each['collection']}: {each['time_origin']}" for each in facts)
    limits = [*(card.limitations or []), *map(sentence, facts)]
    return card.model_copy(
        update={"time_origin": card.time_origin.replace(PLACEHOLDER, origins), "limitations": limits}
    )


def sentence(facts: dict) -> str:
    """Who of a collection could be used."""
    text = (f"{facts['collection']}: {facts['patients']} patients with a contour that the rule chooses, "
            f"{facts['followed']} of them with follow-up ({facts['deaths']} died; "
            f"{facts['clinical_table']})")  # fmt: skip
    if facts["ambiguous"]:
        text += f"; for {facts['ambiguous']} the rule left a choice, which {SELECTION_FILE} lists"
    if len(facts["centres"]) > 1:
        text += ". Centre, as read from the UID of the CT, which names who submitted it: "
        text += ", ".join(f"{name} ({size} patients, {deaths} died)" for name, size, deaths in facts["centres"])
    return text


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
