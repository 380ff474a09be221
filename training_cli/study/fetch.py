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

from CNNSurvivalLib.errors import CNNSurvivalError, UsageError, existing
from CNNSurvivalLib.files import ensure_output_folder, write_csv, write_json

from ..cohort.clinical import EVENT, ID
from ..cohort.follow_up import FollowUp, clinical_files, find_follow_up, read_mappings
from ..models.card import Card
from .config import MANIFEST_FILE, PublicCohort, Study, TransferStudy

SELECTION_FILE, FOLLOW_UP_FILE, FACTS_FILE = "selection.csv", "follow_up.csv", "cohort.json"
WITHOUT_FILE = "without_follow_up.csv"
IMAGE_COLUMNS = ("image", "mask", "series_uid", "segment")
PLACEHOLDER = "{time_origin}"  # in a card's text


def fetch_cohorts(study: Study | TransferStudy, endpoint=None, index=None, log: Callable[[str], None] = print) -> None:
    """Download what is not there yet, and write the manifests. Raises UsageError and CNNSurvivalError."""
    from ..cohort import download

    for cohort in study.cohort:  # before hours of downloads
        for path, what in ((cohort.clinical, "clinical table"), (cohort.mapping, "mapping")):
            if path is not None:
                existing(study.path.parent / path, what)
    for cohort in study.cohort:
        folder = ensure_output_folder(study.folder / cohort.name)
        log(f"Downloading '{cohort.collection}'")
        download.fetch(cohort.collection, folder, endpoint, index, cohort.patients, log=log)
        join(study, cohort, folder, log)


def join(study: Study | TransferStudy, cohort: PublicCohort, folder: Path, log: Callable[[str], None]) -> None:
    """Make a cohort's manifest of its selection and its clinical table."""
    selection = pd.read_csv(folder / SELECTION_FILE, dtype=str, keep_default_na=False)
    chosen = selection[selection["image"] != ""]
    own = None if cohort.clinical is None else study.path.parent / cohort.clinical
    mapping = None if cohort.mapping is None else study.path.parent / cohort.mapping
    paths = [own] if own is not None else clinical_files(folder / "clinical")
    if not paths:
        raise UsageError(f"There is no clinical table for '{cohort.collection}'; name one with clinical = in the "
                         f"[[cohort]] '{cohort.name}'.")  # fmt: skip
    found = find_follow_up(paths, cohort.collection, list(chosen[ID]), read_mappings(mapping))
    _write(folder / FOLLOW_UP_FILE, found.table)
    write_csv(folder / WITHOUT_FILE, (ID, "reason"), found.missing)
    facts = _facts(cohort, selection, chosen, found)
    write_json(folder / FACTS_FILE, facts)
    log(f"{cohort.name}: {facts['patients']} patients with a contour, {facts['followed']} of them with follow-up, "
        f"{facts['deaths']} of whom died; days count from {found.time_origin}")  # fmt: skip
    kept = [ID, "centre", *IMAGE_COLUMNS]
    manifest = chosen[[name for name in kept if name in chosen]].merge(found.table, on=ID)
    before = _text(folder / MANIFEST_FILE)
    _write(folder / MANIFEST_FILE, manifest)
    if before not in ("", _text(folder / MANIFEST_FILE)):
        log(f"The patients of '{cohort.name}' are not those of the last run; delete the stores and what follows "
            "from them to work with these.")  # fmt: skip


def _facts(cohort: PublicCohort, selection: pd.DataFrame, chosen: pd.DataFrame, found: FollowUp) -> dict:
    followed = chosen.merge(found.table, on=ID)
    centres = followed.groupby("centre")[EVENT].agg(["size", "sum"]) if "centre" in followed else pd.DataFrame()
    return {
        "name": cohort.name,
        "collection": cohort.collection,
        "patients_selected": len(selection),
        "patients": len(chosen),
        "ambiguous": int(chosen["ambiguous"].isin(["1", "True", "true", "yes"]).sum()) if "ambiguous" in chosen else 0,
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


def _write(path: Path, table: pd.DataFrame) -> None:
    write_csv(path, tuple(table), [[None if pd.isna(v) else v for v in row] for row in table.itertuples(index=False)])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
