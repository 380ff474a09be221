"""Splits by patient, never by slice: stratified by event, drawn with a seed."""

from __future__ import annotations

import numpy as np

from CNNSurvivalLib.errors import UsageError, existing

from .store import Store, open_store
from .tables import read_own_csv


def split_patients(patient_ids, event, first: int, seed: int) -> tuple[list[str], list[str]]:
    """Two lists of patients, the first of ``first`` patients, both in the given order and with as many deaths in
    proportion. Raises UsageError where there are too few patients for it."""
    from sklearn.model_selection import train_test_split  # here, as its import takes a second

    patient_ids, event = np.asarray(patient_ids), np.asarray(event).astype(int)
    try:
        one, two = train_test_split(np.arange(len(event)), train_size=first, stratify=event, random_state=seed)
    except ValueError as error:
        raise UsageError(
            f"{len(event)} patients with {event.sum()} deaths cannot be split into {first} and the rest ({error})."
        ) from error
    return [str(p) for p in patient_ids[np.sort(one)]], [str(p) for p in patient_ids[np.sort(two)]]


def stratified_folds(event, folds: int, seed: int) -> np.ndarray:
    """The fold of each patient, int [n]. Raises UsageError for fewer deaths or survivors than folds."""
    from sklearn.model_selection import StratifiedKFold

    event = np.asarray(event).astype(int)
    smaller = min(event.sum(), len(event) - event.sum())
    if smaller < folds:
        raise UsageError(f"{folds} folds need as many deaths and as many survivors; there are {smaller} of one kind.")
    fold = np.empty(len(event), dtype=int)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(event, event)):
        fold[test] = number
    return fold


def fitting_folds(event, folds: int, seed: int) -> np.ndarray:
    """``stratified_folds``, as many of the folds as there are deaths and survivors; where there are fewer than 2 of one
    kind, folds by chance. int [n]."""
    event = np.asarray(event).astype(int)
    smaller = int(min(event.sum(), len(event) - event.sum()))
    if smaller >= 2:
        return stratified_folds(event, min(folds, smaller), seed)
    return np.random.default_rng(seed).permutation(len(event)) % folds


def chosen_part(store, patients=None, part: str | None = None) -> Store:
    """The store in a folder, or those of its patients that a patients file lists (see ``read_patients``).

    Patients that are listed but not in the store are left out: the store's rejected.csv has the reason. Raises
    UsageError if no patient is left.
    """
    opened = open_store(store)
    if patients is None:
        if part is not None:
            raise UsageError("A part is chosen from a patients file; give that file, too.")
        return opened
    known = set(opened.patient_ids)
    listed = [patient for patient in read_patients(patients, part) if patient in known]
    if not listed:
        raise UsageError(f"None of the patients that '{patients}' lists is in the store '{store}'.")
    return opened.part(listed)


def read_patients(path, part: str | None = None) -> list[str]:
    """The patients that a CSV file lists in its column patient_id; those whose column 'part' is ``part``, if given.

    Raises UsageError for a file without these columns or without such patients.
    """
    path = existing(path, "patients file")
    try:
        table = read_own_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UsageError(f"The patients file '{path}' cannot be read ({error}); give a CSV file.") from error
    for column in ["patient_id"] + (["part"] if part is not None else []):
        if column not in table:
            raise UsageError(f"The patients file '{path}' has no column '{column}'; it has: {', '.join(table)}.")
    chosen = table if part is None else table[table["part"] == part]
    if chosen.empty:
        raise UsageError(f"The patients file '{path}' lists no patient{f' with part {part!r}' if part else ''}.")
    return list(chosen["patient_id"])
