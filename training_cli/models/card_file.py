"""The card's file for a new bundle: written for the user to complete, with what is known of the network already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from CNNSurvivalLib.errors import UsageError, existing
from CNNSurvivalLib.files import atomic_write, ensure_output_folder

from ..cohort.store import Store
from ..toml_file import keys_in_words
from ..training.runs import Run, stages
from .bundle import STAGES, same_cohort
from .card import TEST, Card, read_card

# What the user is asked, in this order.
TEXTS = {
    "disease": "The disease of your patients, such as: Pancreatic ductal adenocarcinoma",
    "treatment": "How they were treated",
    "ct": "Which CT: of what, phase, with contrast or without, for diagnosis or for planning",
    "endpoint": "What counts as the event, such as: Death from any cause",
    "time_origin": "The day that follow-up counts from, such as: Date of the CT",
    "contours": "What is contoured, and by whom",
}
COHORT_TEXTS = {
    "name": "The name of the cohort; it stands beside every prediction, as in: 49 patients of NAME",
    "sites": "Hospitals, city, country",
    "dates": "When these patients were scanned or treated",
    "source": "A publication, an archive, or: own patients, not public",
    "licence": "The licence of these data",
}
LICENCE = "What others may do with the weights"


def complete_card(path: Path, run: Run, store: Store, test: bool, title: str) -> Card:
    """The card of a new bundle, from the user's file; where there is none, it is written for the user to complete.

    Parameters
    ----------
    path : Path
        The card. A file that is there is never written over.
    run : Run
        What becomes a bundle. Texts that hold for it as well are taken from the bundle that it was fine-tuned from.
    store : Store
        The patients that are shown beside a prediction.
    test : bool
        Whether there is a test cohort.
    title : str
        The bundle's, for the head of the file.

    Raises
    ------
    UsageError
        After the file was written, with all that is to be filled in; and as ``read_card``.
    """
    cohorts = [STAGES[stage["kind"]][0] for stage in stages(run.info) if "bundle_cohort" not in stage]
    cohorts += [TEST] if test else []
    if path.exists():
        return read_card(path, cohorts)
    lines, missing = _head(title), []
    _add_texts(lines, missing, run)
    if not any(same_cohort(stage, store) for stage in stages(run.info)):
        lines += [f"# The {len(store.patients)} patients of the store are not those that the network was trained on: "
                  "who are they? {patients} stands for their number.", 'reference_label = ""', ""]  # fmt: skip
        missing.append(("reference_label",))
    _add_cohorts(lines, missing, run, cohorts)
    with atomic_write(path) as stream:
        stream.write("\n".join(lines))
    raise UsageError(
        f"A bundle needs texts that no file holds, so '{path}' was written for them; fill in {keys_in_words(missing)}, "
        "and give the command again."
    )


def card_path(card: Path | None, output: Path) -> Path:
    """The user's card or, where none is named, OUTPUT-card.toml beside the output folder; its folder is there.

    Raises UsageError for a card in a folder that does not exist.
    """
    if card is not None:
        existing(card.parent, "folder of the card")
        return card
    return ensure_output_folder(output.parent) / f"{output.name}-card.toml"


def _head(title: str) -> list[str]:
    return [
        f"# The model card of {_one_line(title)}: what no file can know.",
        '# Fill in every "" ("not known" is an answer, too), correct what is filled in, and give the command again.',
        "# More that may be written here: cnn-survival export --help",
        "",
    ]


def _add_texts(lines: list[str], missing: list[tuple], run: Run) -> None:
    """The texts about the whole model. Another model's are shown; only its licence and citations hold for this one."""
    parent, texts = _parent(run)
    for name, question in TEXTS.items():
        lines += [f"# {question}", *_shown(parent, texts.get(name)), f'{name} = ""', ""]
        missing.append((name,))
    if "licence" not in texts:
        lines += [f"# {LICENCE}", 'licence = ""', ""]
        missing.append(("licence",))
        return
    lines += [f"# {LICENCE}. The weights come from {parent}: its licence holds for them, too",
              f"licence = {_quoted(texts['licence'])}"]  # fmt: skip
    if "non_commercial" in texts:
        lines.append(f"non_commercial = {'true' if texts['non_commercial'] else 'false'}")
    lines += [f"citation = {json.dumps(texts.get('citation', []), ensure_ascii=False, indent=2)}", ""]


def _add_cohorts(lines: list[str], missing: list[tuple], run: Run, cohorts: Sequence[str]) -> None:
    """A table for each cohort: the pretraining's filled in from the bundle that the network is of, the others empty."""
    first = stages(run.info)[0]
    if "bundle_cohort" in first and STAGES[first["kind"]][0] not in cohorts:
        known = first["bundle_cohort"]
        lines += [f"# From {_parent(run)[0]}", f"[cohorts.{STAGES[first['kind']][0]}]"]
        lines += [*(f"{name} = {_quoted(known.get(name, 'not known'))}" for name in COHORT_TEXTS), ""]
    for role in dict.fromkeys(cohorts):
        lines.append(f"[cohorts.{role}]")
        for name, question in COHORT_TEXTS.items():
            lines += [f"# {question}", f'{name} = ""']
            missing.append(("cohorts", role, name))
        lines.append("")


def _parent(run: Run) -> tuple[str, dict]:
    """(id, card) of the bundle that the network comes from last; ("", {}) if it comes from none."""
    for stage in reversed(stages(run.info)):
        if "bundle_card" in stage:
            return stage["bundle_id"], stage["bundle_card"]
    return "", {}


def _shown(parent: str, text: str | None) -> list[str]:
    return [f"# {parent} says: {_one_line(text)}"] if text else []


def _quoted(text: str) -> str:
    """A text in TOML, whose basic strings are JSON's."""
    return json.dumps(str(text), ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
