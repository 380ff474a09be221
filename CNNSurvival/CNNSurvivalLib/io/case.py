"""A patient to predict, to cut slices from or to train on, wherever the patient comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One patient of a manifest, a folder, a Slicer scene or the command line.

    Parameters
    ----------
    image, mask
        The CT and the mask as their source names them: paths relative to ``folder``, or names of nodes.
    patient_id
        The patient; made up where the source gives none.
    segment
        Which segment, structure or label of the mask is the tumour; None where the mask has only one.
    series_uid
        Which CT of a DICOM folder, by its SeriesInstanceUID; None where there is only one.
    time_days, event
        Follow-up, as text of the table: "" where it says nothing. Who scores or trains on it checks it.
    covariates
        The table's other columns, by name, as text.
    folder
        What the paths are relative to; None for paths that are whole.
    number
        The place in the source, from 1.
    folder_name
        ``patient_id`` in letters that every file system takes, unique among the cases of a source.
    problem
        Why the case cannot be used, in one sentence; None if nothing speaks against it.
    nodes
        In a Slicer scene: the nodes (``mrml.scene_cases.SceneNodes``) to read instead of files.
    """

    image: str
    mask: str
    patient_id: str = ""
    segment: str | None = None
    series_uid: str | None = None
    time_days: str = ""
    event: str = ""
    covariates: dict = field(default_factory=dict)
    folder: Path | None = None
    number: int = 1
    folder_name: str = ""
    problem: str | None = None
    nodes: object = None

    @property
    def population(self) -> str | None:
        """Whom the table's column "population" says the patient belongs to; None where it says nothing."""
        named = (text for name, text in self.covariates.items() if name.strip().casefold() == "population")
        return str(next(named, "")).strip() or None

    @property
    def image_path(self) -> Path:
        return Path(self.image) if self.folder is None else self.folder / self.image

    @property
    def mask_path(self) -> Path:
        return Path(self.mask) if self.folder is None else self.folder / self.mask


def with_folder_names(cases: Iterable[Case], by: str = "patient_id") -> list[Case]:
    """The cases with a folder name each, made from their patient_id or another text of theirs."""
    taken: set = set()
    named = []
    for case in cases:
        name = re.sub(r"[^\w.-]+", "_", getattr(case, by) or "").strip("._") or f"case-{case.number}"
        name = next(each for each in _variants(name, case.number) if each.casefold() not in taken)
        taken.add(name.casefold())
        named.append(replace(case, folder_name=name))
    return named


def _variants(name: str, number: int) -> Iterator[str]:
    """The name, then others that say the row: an earlier patient may be called like one of them."""
    yield name
    yield f"{name}-row{number}"
    yield from (f"{name}-row{number}-{again}" for again in count(2))


def duplicate_warnings(cases: Iterable[Case]) -> dict[int, str]:
    """The number of a case -> a sentence, for cases whose patient_id occurs more than once with the same segment."""
    numbers: dict = {}
    for case in cases:
        numbers.setdefault((case.patient_id, case.segment), []).append(case.number)
    return {
        number: f"patient_id '{patient_id}' is in rows {', '.join(map(str, found))} of the manifest; each is predicted "
        "on its own."
        for (patient_id, _), found in numbers.items()
        if len(found) > 1
        for number in found
    }
