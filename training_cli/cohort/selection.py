"""Which contour and which CT of each patient: rules on the index's rows, and on what the contours say of themselves.

Contours first: which CT one was drawn on, only the contour itself says. So ``plan`` chooses contours by the index
alone, and ``choose`` a pair for each patient once they are here. What the rules cannot decide is marked as ambiguous,
with the reason and the candidates.
"""

from __future__ import annotations

import re
from collections.abc import Collection as Names
from dataclasses import dataclass, field

import pandas as pd

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.files import write_csv

from .collections import Collection
from .contour_file import Contour

CONTOURS = ("RTSTRUCT", "SEG")  # the first that a patient has is taken
SELECTION_FILE = "selection.csv"
SELECTION_COLUMNS = ("patient_id", "centre", "image", "mask", "series_uid", "segment", "lesion", "ct_candidates",
                     "ambiguous", "reason")  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """One patient's candidates, rows of the index. lesion: its number as the description gives it, or "". doubts:
    what made the choice of the contour ambiguous."""

    patient_id: str
    contours: pd.DataFrame
    ct: pd.DataFrame  # all of the contours' study
    lesion: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is known before anything is fetched. without: patients who have no such contour in a study with a CT."""

    collection: str
    known: Collection
    patients: list[Patient] = field(default_factory=list)
    without: list[str] = field(default_factory=list)

    @property
    def contours(self) -> pd.DataFrame:
        return pd.concat([patient.contours for patient in self.patients], ignore_index=True)

    @property
    def ct(self) -> pd.DataFrame:
        """All CT that may be needed; fewer are, once the contours have been read."""
        return pd.concat([patient.ct for patient in self.patients], ignore_index=True)


@dataclass(frozen=True)
class Choice:
    """One patient's pair. contour, ct: rows of the index, None where there is no pair. candidates: the CT series that
    the same lesion is drawn on. reason: why this one, or why none."""

    patient: Patient
    contour: pd.Series | None
    ct: pd.Series | None
    segment: str
    candidates: tuple[str, ...]
    doubts: tuple[str, ...]
    reason: str


def plan(rows: pd.DataFrame, collection: str, known: Collection, patients: int | None = None,
         without: Names[str] = ()) -> Plan:  # fmt: skip
    """Choose the contours of each patient, offline.

    Parameters
    ----------
    rows : pandas.DataFrame
        As ``idc_index.read_index`` gives it.
    collection : str
    known : Collection
        Its rules.
    patients : int, optional
        Only the first ones in the order of their ids.
    without : collection of str
        Patients to leave out.

    Raises
    ------
    UsageError
        If no patient has such a contour, or ``without`` or ``known.contours`` names one who is not there.
    """
    everybody = set(rows["PatientID"].astype(str))
    unknown = sorted((set(without) | set(known.contours)) - everybody)
    if unknown:
        raise UsageError(f"The collection '{collection}' has no patient '{unknown[0]}'; check the id.")
    found, left = [], []
    for patient_id, own in rows.groupby("PatientID", sort=True):
        if str(patient_id) in without:
            continue
        patient = _candidates(str(patient_id), own, known)
        if patient is None:
            left.append(str(patient_id))
        else:
            found.append(patient)
    if not found:
        raise UsageError(f"The collection '{collection}' has no patient with a CT and an RTSTRUCT or SEG.")
    return Plan(collection, known, found[:patients], left)


def _candidates(patient_id: str, own: pd.DataFrame, known: Collection) -> Patient | None:
    analysis = own["analysis_result_id"]
    ct = own[(own["Modality"] == "CT") & analysis.isna()]
    contours = own[own["Modality"].isin(CONTOURS) & own["StudyInstanceUID"].isin(ct["StudyInstanceUID"])]
    if patient_id in known.contours:
        contours = contours[contours["SeriesInstanceUID"] == known.contours[patient_id]]
        if contours.empty:
            raise UsageError(f"The contour '{known.contours[patient_id]}' that is named for patient '{patient_id}' is "
                             "not in the index, or its study has no CT.")  # fmt: skip
    else:
        right = contours["analysis_result_id"]
        contours = contours[right.isna() if known.analysis is None else right == known.analysis]
        pattern = known.description or ""
        contours = contours[[re.search(pattern, text) is not None for text in contours["SeriesDescription"]]]
    if contours.empty:
        return None
    # RTSTRUCT sorts before SEG.
    contours = contours.sort_values(["Modality", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID"])
    first = contours.iloc[0]
    contours = contours[(contours["Modality"] == first["Modality"])
                        & (contours["StudyInstanceUID"] == first["StudyInstanceUID"])]  # fmt: skip
    contours, lesion, doubts = _primary(contours, known, named=patient_id in known.contours)
    ct = ct[ct["StudyInstanceUID"] == first["StudyInstanceUID"]].sort_values("SeriesInstanceUID")
    return Patient(patient_id, contours, ct, lesion, doubts)


def _primary(contours: pd.DataFrame, known: Collection, named: bool) -> tuple[pd.DataFrame, str, tuple[str, ...]]:
    """(those of the lesion with the lowest number, the number, doubts)."""
    if not (known.description and re.compile(known.description).groups):
        return contours, "", ()
    found = [re.search(known.description, text) for text in contours["SeriesDescription"]]
    numbers = [int(match.group(1)) if match else 0 for match in found]
    lowest = min(numbers)
    chosen = contours[[number == lowest for number in numbers]]
    if named:
        return chosen, str(lowest or ""), ()
    doubts = []
    if len(set(numbers)) > 1:
        listed = ", ".join(str(number) for number in sorted(set(numbers)))
        doubts.append(f"lesions {listed} are drawn, and which is the primary tumour is not said; {lowest} is taken")
    odd = [text for text in chosen["SeriesDescription"].unique() if not text.endswith(f" - {lowest}")]
    if lowest != 1 and len(set(numbers)) == 1:
        doubts.append(f"the only lesion on a CT has the number {lowest}")
    elif odd:
        doubts.append(f"the contour is called '{odd[0]}'")
    return chosen, str(lowest), tuple(doubts)


def choose(patient: Patient, read: dict[str, Contour], known: Collection) -> Choice:
    """One pair of contour and CT.

    Of several CT series that the lesion is drawn on: those that ``known.prefer`` matches; of several left, the one
    with most slices, then the lowest UID, which is marked as ambiguous.

    Parameters
    ----------
    patient : Patient
    read : dict
        SeriesInstanceUID of a contour -> what its file says.
    known : Collection
    """
    pairs, empty = [], 0
    by_uid = {row["SeriesInstanceUID"]: row for _, row in patient.ct.iterrows()}
    for _, contour in patient.contours.iterrows():
        said = read[contour["SeriesInstanceUID"]]
        empty += said.segment is None
        uid = said.ct_uid or (next(iter(by_uid)) if len(by_uid) == 1 else None)
        if said.segment is not None and uid in by_uid:
            pairs.append((contour, by_uid[uid], said.segment))
    if not pairs:
        pattern = known.segment or "."
        reason = (f"No contour has a structure that matches '{pattern}'." if empty == len(patient.contours)
                  else "The contour refers to no CT series of its study.")  # fmt: skip
        return Choice(patient, None, None, "", (), patient.doubts, reason)
    candidates = tuple(dict.fromkeys(_describe(ct) for _, ct, _ in pairs))
    liked = [pair for pair in pairs if known.prefer and re.search(known.prefer, pair[1]["SeriesDescription"])]
    left = sorted(liked or pairs, key=lambda pair: (-int(pair[1]["instanceCount"]), pair[1]["SeriesInstanceUID"],
                                                    pair[0]["SeriesInstanceUID"]))  # fmt: skip
    contour, ct, segment = left[0]
    doubts, reason = _why(pairs, liked, left)
    return Choice(patient, contour, ct, segment, candidates, (*patient.doubts, *doubts), reason)


def _why(pairs: list, liked: list, left: list) -> tuple[list[str], str]:
    series = len({ct["SeriesInstanceUID"] for _, ct, _ in left})
    doubts = []
    if series > 1:
        kind = "of the preferred phase" if liked else "whose descriptions do not tell the phase"
        doubts.append(f"{series} CT series {kind} have this contour; the one with most slices is taken")
    if len(left) > series:
        doubts.append("several contours are drawn on the same CT; the one with the lowest UID is taken")
    drawn = len({ct["SeriesInstanceUID"] for _, ct, _ in pairs})
    if drawn == 1:
        return doubts, "The only CT that this lesion is drawn on."
    return (
        doubts,
        f"Of {drawn} CT series, the preferred phase." if liked and series == 1 else f"One of {drawn} CT series.",
    )


def _describe(ct: pd.Series) -> str:
    return f"{ct['SeriesInstanceUID']} ({ct['SeriesDescription'] or 'no description'}, {ct['instanceCount']} slices)"


def centre(choice: Choice, known: Collection) -> str:
    """What ``known.centre`` finds in the UID of the CT; "" where nothing."""
    match = re.search(known.centre, choice.ct["SeriesInstanceUID"]) if known.centre and choice.ct is not None else None
    return match.group(1) if match else ""


def write_selection(path, choices: list[Choice], known: Collection) -> None:
    """Write selection.csv: a row per patient, a manifest that says why. Rows without a pair have no image."""
    rows = []
    for choice in choices:
        paired = choice.ct is not None
        uid = choice.ct["SeriesInstanceUID"] if paired else ""
        mask = f"series/{choice.contour['SeriesInstanceUID']}" if paired else ""
        reason = " ".join([choice.reason, *(f"Ambiguous: {doubt}." for doubt in choice.doubts)])
        rows.append([
            choice.patient.patient_id, centre(choice, known), f"series/{uid}" if paired else "", mask, uid,
            choice.segment, choice.patient.lesion, " | ".join(choice.candidates), int(bool(choice.doubts)), reason,
        ])  # fmt: skip
    write_csv(path, SELECTION_COLUMNS, rows)
