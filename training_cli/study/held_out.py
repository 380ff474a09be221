"""Each value of a column (a centre) predicted by models that were fitted on the patients of the others.

WORK/held_out/predictions.csv        a row per patient and model
WORK/held_out/metrics.csv            COLUMNS
WORK/held_out/baselines-<number>/    the comparisons, fitted without that group
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.files import ensure_output_folder, write_csv

from ..cohort.store import Store
from ..cohort.tables import read_own_csv
from ..evaluation import baselines, metrics
from ..training.runs import Run, patient_survival, risk_at, risk_column
from .workspace import Workspace

COLUMNS = ("model", "group", "patients", "deaths", "concordance", "ci_low", "ci_high", "ipa")
FEW_PATIENTS = 5  # centres with fewer are held out together
OTHERS, WITHIN = "others", "mean within groups"


def hold_out(
    workspace: Workspace,
    column: str,
    store: Store,
    parents: Mapping[str, Run],
    fits: Mapping[str, Callable[[Store], dict]],
) -> pd.DataFrame | None:
    """Concordance and IPA of every model within each group; None where there is only one group.

    column: what the groups are. store: all usable patients. parents: network -> before fine-tuning. fits: network ->
    what fine-tunes it on a part of the store. Intervals are 95 %, by resampling patients within each group.
    """
    folder = ensure_output_folder(workspace.folder / "held_out")
    groups = centres(store, column)
    names = np.unique(groups)
    if len(names) < 2:
        workspace.log(f"All patients are of the same group, '{names[0]}'; none is held out.")
        return None
    path = folder / "predictions.csv"
    if not path.is_file():
        parts = [_predicted(workspace, store, groups, number, parents, fits) for number in range(len(names))]
        table = pd.concat(parts)
        write_csv(path, tuple(table), table.itertuples(index=False))
    table = read_own_csv(path, dtype={"patient_id": str, "group": str})
    rows = _scored(workspace, table)
    found = pd.DataFrame(rows, columns=COLUMNS)
    cells = [[None if pd.isna(value) else value for value in row] for row in found.itertuples(index=False)]
    write_csv(folder / "metrics.csv", COLUMNS, cells)
    return found


def centres(store: Store, column: str) -> np.ndarray:
    """The group of each patient, text [patients]: the column's value, OTHERS for values with few patients."""
    if column not in store.patients:
        raise UsageError(f"The patients have no column '{column}' to hold out; the manifest must have it.")
    values = store.patients[column].astype(str)
    return values.where(values.map(values.value_counts()) >= FEW_PATIENTS, OTHERS).to_numpy()


def _predicted(workspace: Workspace, store: Store, groups, number: int, parents, fits) -> pd.DataFrame:
    """Risks of one group's patients: patient_id, time_days, event, group, model, risk_<days>."""
    ids, group = np.array(store.patient_ids), np.unique(groups)[number]
    inside = groups == group
    train, test = store.part(ids[~inside]), store.part(ids[inside])
    workspace.log(f"  {group}: {inside.sum()} patients, fitted on {(~inside).sum()}")
    column = risk_column(workspace.horizon)
    risks: dict[str, pd.Series] = {}
    tuned = {name: replace(parent, weights=fits[name](train)) for name, parent in parents.items()}
    for name, parent in parents.items():
        for model, run in ((name, tuned[name]), (f"{name}-pretrained", parent)):
            survival = patient_survival(run.weights, test, workspace.max_slices)
            risks[model] = pd.Series(risk_at(survival, run.edges_days, workspace.horizon), test.patient_ids)
    folder = workspace.folder / "held_out" / f"baselines-{number}"
    if not (folder / "baselines.json").is_file():
        _with_known_features(workspace, folder)
        baselines.run(train, test, folder, network=next(iter(tuned.values())), models=workspace.study.baselines,
                      horizons=[workspace.horizon], seed=workspace.study.seed, jobs=workspace.jobs,
                      max_slices=workspace.max_slices, tell=workspace.log)  # fmt: skip
    for name in workspace.study.baselines:
        path = folder / f"predictions_{name}.csv"
        if path.is_file():
            risks[name] = read_own_csv(path, dtype={"patient_id": str}).set_index("patient_id")[column]
    outcome = pd.DataFrame(
        {"patient_id": test.patient_ids, "time_days": test.time, "event": test.event.astype(int), "group": group}
    )
    each = [outcome.assign(model=model, **{column: risk.reindex(test.patient_ids).to_numpy(float)})
            for model, risk in risks.items()]  # fmt: skip
    return pd.concat(each).dropna()


def _with_known_features(workspace: Workspace, folder: Path) -> None:
    """PyRadiomics' features of all patients, where they were computed before: they depend on the image alone."""
    known = workspace.folder / "baselines" / "features.csv"
    if known.is_file():
        shutil.copyfile(known, ensure_output_folder(folder) / known.name)


def _scored(workspace: Workspace, table: pd.DataFrame) -> list[dict]:
    column, found = risk_column(workspace.horizon), {}
    for model, own in table.groupby("model", sort=False):
        found[model] = [_Group(workspace, part, part[column].to_numpy(), number)
                        for number, (_, part) in enumerate(own.groupby("group"))]  # fmt: skip
    rows = [row for model, groups in found.items() for row in (*(each.row(model) for each in groups),
                                                             _mean(model, groups))]  # fmt: skip
    volume = found.get("volume")
    for model, groups in found.items():
        if volume and model != "volume" and [g.patients for g in groups] == [g.patients for g in volume]:
            rows.append(_mean(f"{model} minus volume", groups, volume))
    return rows


class _Group:
    """The concordance of one model in one group, and in resamples of the group's patients."""

    def __init__(self, workspace: Workspace, part: pd.DataFrame, risk: np.ndarray, number: int):
        time, event = part["time_days"].to_numpy(float), part["event"].to_numpy() == 1
        study = workspace.study
        self.name, self.patients, self.deaths = str(part["group"].iloc[0]), len(part), int(event.sum())
        self.concordance, self.ipa = metrics.concordance(time, event, risk), np.nan
        if time.max() > workspace.horizon:
            self.ipa = metrics.ipa(time, event, risk, workspace.horizon)
        # The same resamples for every model, so that differences are paired.
        counts = metrics.resamples(len(part), study.bootstrap, study.seed + number)
        self.spread = metrics.concordance_of_resamples(time, event, risk, counts)

    def row(self, model: str) -> dict:
        return _row(model, self.name, [self], self.concordance, self.spread, self.ipa)


def _mean(model: str, groups: list[_Group], minus: list[_Group] | None = None) -> dict:
    """The mean over groups that have a concordance, weighted by their patients; of a difference where there is one."""
    known = [k for k, group in enumerate(groups) if np.isfinite(group.concordance)]
    if not known:
        return _row(model, WITHIN, groups, np.nan, np.array([]), np.nan)
    weights = [groups[k].patients for k in known]
    values = np.array([groups[k].concordance - (minus[k].concordance if minus else 0) for k in known])
    spreads = np.array([groups[k].spread - (minus[k].spread if minus else 0) for k in known])
    return _row(model, WITHIN, groups, float(np.average(values, weights=weights)),
                np.average(spreads, axis=0, weights=weights), np.nan)  # fmt: skip


def _row(model: str, name: str, groups: list[_Group], value: float, spread: np.ndarray, ipa: float) -> dict:
    usable = spread[np.isfinite(spread)]
    low, high = np.percentile(usable, [2.5, 97.5]) if len(usable) else (np.nan, np.nan)
    return {"model": model, "group": name, "patients": sum(g.patients for g in groups),
            "deaths": sum(g.deaths for g in groups), "concordance": value, "ci_low": low, "ci_high": high,
            "ipa": ipa}  # fmt: skip
