"""One network, several populations: pretrained on one cohort, adapted to others, each judged on patients held out.

    WORK/stores/pretrain, stores/<population>
    WORK/runs/pretrain                       the network that ships
    WORK/runs/crossvalidation/<seed>-<fold>  networks of the cross-validation of the pretraining cohort
    WORK/populations/<population>/           comparison.csv (ways to fine-tune), held_out.csv, metrics.csv, by_group.csv
    WORK/models/<network>                    the bundle, with its card
    WORK/report/                             report.html

Every stage keeps its result and is not done again. Of each population, what is reported was predicted by networks,
last layers, shifts and terms that had not seen the patient: by cross-validation for the pretraining cohort, else by
holding out each value of ``hold_out`` (a hospital) or each fold. What ships is then fitted on all of its patients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from CNNSurvivalLib.bundle import Bundle
from CNNSurvivalLib.files import ensure_output_folder, write_csv
from CNNSurvivalLib.populations import Population

from ..cohort.splits import stratified_folds
from ..cohort.store import Store
from ..cohort.tables import read_own_csv
from ..evaluation import baselines, finetuning, metrics
from ..models import populations, sanity
from ..models.bundle import export_populations
from ..models.card import read_card
from ..models.populations import Scores
from ..progress import working
from ..training import last_layer
from ..training import train as training
from ..training.runs import Run, patients_sha256, risk_column
from .config import PopulationCohort, TransferStudy
from .fetch import with_facts
from .workspace import Log, Workspace, settings_of

GROUP_COLUMNS = ("model", "group", "patients", "deaths", "concordance", "ipa")
METRIC_COLUMNS = ("predictor", "name", "horizon_days", "value", "ci_low", "ci_high")
AREA = "largest area"


@dataclass(frozen=True)
class TransferWorkspace(Workspace):
    """A study with populations and where its results lie."""

    study: TransferStudy

    def store_of(self, population: PopulationCohort) -> Store:
        return self.pretrain_store if population.pretraining else self.store(population.name)

    @property
    def settings(self) -> training.Settings:
        return settings_of(self.study, training.PAPER, self.study.network.pretrain)

    @property
    def finetune_settings(self) -> training.Settings:
        return settings_of(self.study, training.FINETUNE)


@dataclass(frozen=True)
class Fitted:
    """A population as it ships, and how it was judged.

    entry: of bundle.json. risk: [patients], the image's, held out. metrics: rows METRIC_COLUMNS. by_group: a row for
    each model and held-out group. comparison: ways to fine-tune, None for the pretraining cohort. seeds: a row for each
    seed of the cross-validation, of the pretraining cohort. coverage: of the interval, by group of risk.
    """

    cohort: PopulationCohort
    entry: dict
    held_out: Scores
    risk: np.ndarray
    metrics: pd.DataFrame
    by_group: pd.DataFrame
    comparison: pd.DataFrame | None
    seeds: pd.DataFrame | None
    coverage: pd.DataFrame
    notes: tuple[str, ...] = ()  # where metrics are undefined


@dataclass(frozen=True)
class TransferOutcome:
    """What the study found: the report is made of it."""

    workspace: TransferWorkspace
    run: Run
    populations: list[Fitted]
    bundle: Bundle


def transfer(study: TransferStudy, folder, jobs: int = 1, log: Log = print) -> TransferOutcome:
    """Work a study through, or continue it; raises UsageError and CNNSurvivalError with one sentence."""
    workspace = TransferWorkspace(study, ensure_output_folder(folder), jobs, log)
    card = with_facts(read_card(study.card_path), study)
    _prepare(workspace)
    log(f"Training '{study.network.id}'")
    run = training.pretrain(
        workspace.pretrain_store, workspace.folder / "runs" / "pretrain", workspace.settings, tell=log
    )
    networks = _crossvalidate(workspace)
    variance = _network_variance(workspace, networks)
    fitted = [_fit(workspace, run, networks, variance, population) for population in study.population]
    default = next(population.name for population in study.population if population.default)
    bundle = export_populations(
        run,
        workspace.pretrain_store,
        [each.entry for each in fitted],
        default,
        card,
        study.network.id,
        study.network.title,
        study.network.version,
        workspace.folder / "models" / study.network.id,
        sanity=_sanity(workspace, run, fitted),
        stores={population.name: workspace.store_of(population) for population in study.population},
        max_slices=workspace.max_slices,
    )
    return TransferOutcome(workspace, run, fitted, bundle)


# --- Stages -----------------------------------------------------------------------------------------------------------


def _prepare(workspace: TransferWorkspace) -> None:
    study = workspace.study
    workspace.prepare("pretrain", study.pretrain)
    for population in study.population:
        if not population.pretraining:
            workspace.prepare(population.name, population)


def _folds(workspace: TransferWorkspace, seed: int) -> np.ndarray:
    return stratified_folds(workspace.pretrain_store.event, workspace.study.crossvalidation.folds, seed)


def _crossvalidate(workspace: TransferWorkspace) -> dict[tuple[int, int], Run]:
    """(seed, fold) -> the network that was trained without that fold."""
    store, networks = workspace.pretrain_store, {}
    ids, plan = np.array(store.patient_ids), workspace.study.crossvalidation
    for seed in plan.seeds:
        fold_of = _folds(workspace, seed)
        for fold in range(plan.folds):
            workspace.log(f"Cross-validation, seed {seed}, fold {fold + 1} of {plan.folds}")
            folder = workspace.folder / "runs" / "crossvalidation" / f"{seed}-{fold}"
            settings = replace(workspace.settings, seed=seed + 1000 * (fold + 1))
            networks[seed, fold] = training.pretrain(
                store.part(ids[fold_of != fold]), folder, settings, tell=lambda text: None
            )
    return networks


def _network_variance(workspace: TransferWorkspace, networks) -> float:
    """From the scores that the networks of the first seed give patients that none of them has learned from."""
    others = [workspace.store_of(each) for each in workspace.study.population if not each.pretraining]
    if not others:
        return 0.0
    first = workspace.study.crossvalidation.seeds[0]
    found = []
    for (seed, _fold), run in networks.items():
        if seed == first:
            cohorts = [populations.cohort_scores(run.weights, each, run.edges_days, workspace.max_slices)
                       for each in others]  # fmt: skip
            found.append([populations.score_values(each, workspace.horizon) for each in cohorts])
    # Cohort by cohort: a shift common to a cohort belongs to the population's own.
    sizes = [len(values) for values in found[0]]
    variances = [populations.variance_between_networks([values[k] for values in found]) for k in range(len(others))]
    return float(np.average(variances, weights=sizes))


def _fit(workspace: TransferWorkspace, run: Run, networks, variance: float, population: PopulationCohort) -> Fitted:
    """One population: what of it was held out, its metrics, and the entry of the bundle."""
    workspace.log(f"Population '{population.name}'")
    store = workspace.store_of(population)
    values = populations.covariate_values(store.patients, population.covariates)
    seeds = comparison = without = None
    if population.pretraining:
        held_out, groups, seeds = _held_out_of_pretraining(workspace, networks)
        layer: dict = {"offset": populations.fit_shift(held_out)}
    else:
        comparison = finetuning.compare(run, store, workspace.finetune_settings, max_slices=workspace.max_slices,
                                        horizon_days=workspace.horizon)  # fmt: skip
        groups = _groups(workspace, population, store)
        held_out, without, layer = _adapted(workspace, run, store, population, comparison, groups)
    area = np.log(store.patients["largest_area_px"].to_numpy(float))
    risks = populations.compared_risks(held_out, values, groups, workspace.horizon, {AREA: area}, without)
    by_group = _by_group(workspace, population, store, run, risks, groups)
    notes: list[str] = []
    rows = _pooled(workspace, held_out, risks, notes.append)
    for note in notes:
        workspace.log(note)
    rows += _within_groups(workspace, held_out, {**risks, AREA: area}, groups)  # a rank needs no fit
    sites = groups if population.hold_out is not None else None
    interval, coverage = _interval(workspace, held_out, variance, sites)
    table = pd.DataFrame(rows)[list(METRIC_COLUMNS)]
    entry = _entry(workspace, population, store, held_out, values, layer, interval, rows)
    folder = ensure_output_folder(workspace.folder / "populations" / population.name)
    for name, each in (("metrics", table), ("by_group", by_group), ("coverage", coverage), ("comparison", comparison),
                       ("seeds", seeds)):  # fmt: skip
        if each is not None:
            write_csv(folder / f"{name}.csv", tuple(each), _cells(each))
    _write_held_out(folder / "held_out.csv", workspace, held_out, risks["image"], store, groups)
    return Fitted(population, entry, held_out, risks["image"], table, by_group, comparison, seeds, coverage,
                  tuple(notes))  # fmt: skip


def _sanity(workspace: TransferWorkspace, run: Run, fitted: list[Fitted]) -> list[dict]:
    """What a radiologist would try first, on tumours of every population; written to WORK/sanity.csv."""
    count = workspace.study.sanity_tumours
    if not count:
        return []
    workspace.log("Trying growth, contours and turns")
    rows = []
    for each in fitted:
        weights = Population(each.entry).adapted(run.weights)
        model = sanity.Model(weights, run.edges_days, run.preprocessing, workspace.max_slices)
        rows += sanity.check(model, sanity.store_tumours(workspace.store_of(each.cohort).patients, count))
    write_csv(workspace.folder / "sanity.csv", tuple(rows[0]), [list(row.values()) for row in rows])
    return sanity.card_rows(rows)


# --- Held out ---------------------------------------------------------------------------------------------------------


def _held_out_of_pretraining(workspace: TransferWorkspace, networks):
    """(scores of the first seed, its folds, a row of metrics for each seed)."""
    store, plan = workspace.pretrain_store, workspace.study.crossvalidation
    ids, rows, first = np.array(store.patient_ids), [], None
    for seed in plan.seeds:
        fold_of = _folds(workspace, seed)
        each = {}
        for fold in range(plan.folds):
            run, part = networks[seed, fold], store.part(ids[fold_of == fold])
            each[fold] = populations.cohort_scores(run.weights, part, run.edges_days, workspace.max_slices)
        scores = populations.joined(each, fold_of)
        first = scores if first is None else first
        rows.append({"seed": seed, **_summary(workspace, scores, fold_of)})
    return first, _folds(workspace, plan.seeds[0]), pd.DataFrame(rows)


def _summary(workspace: TransferWorkspace, scores: Scores, fold_of: np.ndarray) -> dict:
    risk = populations.risk_of(scores, workspace.horizon)
    inside = [metrics.concordance(scores.time[m], scores.event[m], risk[m])
              for m in (fold_of == fold for fold in np.unique(fold_of))]  # fmt: skip
    return {
        "concordance": metrics.concordance(scores.time, scores.event, risk),
        "concordance_within_folds": float(np.nanmean(inside)),
        "ipa": metrics.ipa(scores.time, scores.event, risk, workspace.horizon),
    }


def _groups(workspace: TransferWorkspace, population: PopulationCohort, store: Store) -> np.ndarray:
    """The hospital of each patient, or a fold."""
    if population.hold_out is not None:
        return store.patients[population.hold_out].astype(str).to_numpy()
    return stratified_folds(store.event, workspace.study.crossvalidation.folds, workspace.study.seed)


def _adapted(workspace, parent: Run, store: Store, population: PopulationCohort, comparison, groups):
    """(scores of each group by a last layer fitted on the others, group -> scores of all by the layer fitted without
    it, the entry's layer fitted on all)."""
    features = last_layer.cohort_features(parent.weights, store, parent.edges_days, workspace.max_slices)
    ids, without = np.array(store.patient_ids), {}
    for group in np.unique(groups):
        others = groups != group
        # How much to learn is chosen without the group, too.
        learn = _learn(workspace, population, parent, store.part(ids[others]))
        workspace.log(f"  without {group}: {learn}")
        weights = last_layer.fit(parent.weights, features.part(others), learn, workspace.study.seed).weights
        without[group] = populations.cohort_scores(weights, store, parent.edges_days, workspace.max_slices)
    held_out = populations.joined({group: each.part(groups == group) for group, each in without.items()}, groups)
    learn = population.learn if population.learn != "auto" else _chosen(comparison)
    workspace.log(f"  of all patients: {learn}")
    layer = _layer(parent.weights, last_layer.fit(parent.weights, features, learn, workspace.study.seed))
    return held_out, without, layer


def _learn(workspace, population: PopulationCohort, parent: Run, store: Store) -> str:
    """How much these patients' deaths allow to learn."""
    if population.learn != "auto":
        return population.learn
    return _chosen(finetuning.compare(parent, store, workspace.finetune_settings, finetuning.CHOOSABLE,
                                      max_slices=workspace.max_slices, horizon_days=workspace.horizon))  # fmt: skip


def _chosen(comparison: pd.DataFrame) -> str:
    learn = comparison.loc[comparison["chosen"] == 1, "learn"].iloc[0]
    return "shift" if learn == "none" else learn  # another population has another level, shown or not


def _layer(weights: dict, fitted: last_layer.Fit) -> dict:
    """The entry's offset, or its own last layer."""
    before, after = weights["output.bias"].astype(float), fitted.weights["output.bias"].astype(float)
    if np.array_equal(weights["output.weight"], fitted.weights["output.weight"]):
        return {"offset": (after - before).tolist()}
    weight = fitted.weights["output.weight"].astype(float)
    return {"last_layer": {"weight": weight.tolist(), "bias": after.tolist()}}


def _by_group(workspace, population, store: Store, run: Run, risks: dict, groups) -> pd.DataFrame:
    """Concordance and IPA of every model within each group, each fitted on the other groups. risks: by model."""
    if population.baselines:
        risks = {**risks, **_baselines(workspace, population, store, run, groups)}
    rows = []
    for name, risk in risks.items():
        within = []
        for group in np.unique(groups):
            known = (groups == group) & np.isfinite(risk)
            if known.any():
                within.append(_group_row(workspace, store, name, str(group), risk, known))
        rows += within if population.hold_out is not None else []
        known = np.isfinite(risk)
        if known.any():
            rows.append(_group_row(workspace, store, name, "all", risk, known))
            weights = [row["patients"] for row in within]
            inside = [row["concordance"] for row in within]
            mean = float(np.average(inside, weights=weights)) if np.all(np.isfinite(inside)) else np.nan
            rows.append({**rows[-1], "group": "mean within groups", "concordance": mean, "ipa": np.nan})
    return pd.DataFrame(rows, columns=GROUP_COLUMNS)


def _pairs(risks: dict) -> list[tuple[str, str]]:
    """Which models are compared with which."""
    both = "image and clinical"
    return [("image", AREA), *((both, other) for other in ("image", "clinical") if both in risks)]


def _pooled(workspace, held_out: Scores, risks: dict, tell: Log) -> list[dict]:
    """Concordance and IPA of all patients together, and paired differences."""
    outcome, study = (held_out.time, held_out.event), workspace.study
    with metrics.warnings_told(tell), working("Scoring"):
        found = {name: metrics.score_predictions(*outcome, {workspace.horizon: risk}, study.bootstrap, study.seed)
                 for name, risk in risks.items()}  # fmt: skip
        for one, other in _pairs(risks):
            found[f"{one} minus {other}"] = metrics.difference(
                *outcome, risks[one], risks[other], workspace.horizon, study.bootstrap, study.seed
            )
    kept = [(name, row) for name, rows in found.items() for row in rows if row["metric"] in ("concordance", "ipa")]
    columns = ("horizon_days", "value", "ci_low", "ci_high")
    return [{"name": row["metric"], "predictor": name, **{key: row[key] for key in columns}} for name, row in kept]


def _within_groups(workspace, held_out: Scores, orders: dict, groups) -> list[dict]:
    """Concordance within groups, which no level of a group or a network can move: image, area, both with covariates.

    Resampled within the groups. The mean over groups is weighted by their patients. orders: what ranks the patients,
    by model.
    """
    found = {name: _mean_concordance(workspace, held_out, order, groups) for name, order in orders.items()}
    rows = [_interval_row(workspace, f"{name}, within groups", *one) for name, one in found.items()]
    for one, other in _pairs(orders):
        point, spread = (found[one][k] - found[other][k] for k in (0, 1))
        rows.append(_interval_row(workspace, f"{one} minus {other}, within groups", point, spread))
    return rows


def _mean_concordance(workspace, scores: Scores, order: np.ndarray, groups) -> tuple[float, np.ndarray]:
    """(mean over groups, the same in each resample)."""
    points, spreads, weights = [], [], []
    for number, group in enumerate(np.unique(groups)):
        inside = groups == group
        outcome = scores.time[inside], scores.event[inside], np.asarray(order)[inside]
        counts = metrics.resamples(int(inside.sum()), workspace.study.bootstrap, workspace.study.seed + number)
        points.append(metrics.concordance(*outcome))
        spreads.append(metrics.concordance_of_resamples(*outcome, counts))
        weights.append(inside.sum())
    return float(np.average(points, weights=weights)), np.average(spreads, axis=0, weights=weights)


def _interval_row(workspace, predictor: str, point: float, spread: np.ndarray) -> dict:
    known = spread[np.isfinite(spread)]
    low, high = (None, None) if not len(known) else (float(v) for v in np.percentile(known, [2.5, 97.5]))
    return {"name": "concordance", "predictor": predictor, "horizon_days": workspace.horizon, "value": point,
            "ci_low": low, "ci_high": high}  # fmt: skip


def _group_row(workspace, store: Store, model: str, group: str, risk, known) -> dict:
    time, event = store.time[known], store.event[known]
    return {
        "model": model, "group": group, "patients": int(known.sum()), "deaths": int(event.sum()),
        "concordance": metrics.concordance(time, event, risk[known]),
        "ipa": metrics.ipa(time, event, risk[known], workspace.horizon),
    }  # fmt: skip


def _baselines(workspace, population, store: Store, run: Run, groups) -> dict[str, np.ndarray]:
    """The paper's models 1 and 2 and others, fitted on the other groups: name -> risk, NaN where not predicted."""
    ids, column = np.array(store.patient_ids), risk_column(workspace.horizon)
    risks = {name: np.full(len(ids), np.nan) for name in population.baselines}
    for group in np.unique(groups):
        folder = workspace.folder / "populations" / population.name / f"baselines-{group}"
        inside = groups == group
        if not (folder / "baselines.json").is_file():
            baselines.run(store.part(ids[~inside]), store.part(ids[inside]), folder, network=run,
                          models=population.baselines, horizons=[workspace.horizon], seed=workspace.study.seed,
                          jobs=workspace.jobs, max_slices=workspace.max_slices, tell=workspace.log)  # fmt: skip
        for name in population.baselines:
            path = folder / f"predictions_{name}.csv"
            if path.is_file():
                table = read_own_csv(path, dtype={"patient_id": str}).set_index("patient_id")
                risks[name][inside] = table[column].reindex(ids[inside]).to_numpy(float)
    return {f"{name} (baseline)": risk for name, risk in risks.items() if np.isfinite(risk).any()}


# --- The entry --------------------------------------------------------------------------------------------------------


def _interval(workspace, held_out: Scores, variance: float, sites) -> tuple[dict | None, pd.DataFrame]:
    """(the interval, None where it does not cover what it says; its coverage in groups by predicted risk).

    sites: the hospital of each patient, where there are several; their levels differ by more than chance.
    """
    here = held_out.shifted(populations.fit_shift(held_out))
    resamples = min(populations.RESAMPLES, max(20, workspace.study.bootstrap))
    between = 0.0 if sites is None else populations.variance_between_sites(here, sites, max(10, resamples // 4))
    interval = populations.fit_interval(here, variance, resamples=resamples, seed=workspace.study.seed,
                                        site_variance=between)  # fmt: skip
    halves = populations.split_half_coverage(here, 10, max(10, resamples // 4), workspace.study.seed)
    rows = populations.group_coverage(here, interval, workspace.horizon)
    covered = sum(row["covered"] for row in rows)
    interval["split_half_coverage"], interval["groups_covered"] = halves, f"{covered} of {len(rows)}"
    kept = halves >= interval["level"] - 0.03 and covered >= len(rows) - 1
    return (interval if kept else None), pd.DataFrame(rows).assign(split_half=halves, shown=int(kept))


def _entry(workspace, population, store: Store, held_out: Scores, values, layer, interval, rows) -> dict:
    """The population as it ships: fitted on all of its patients."""
    # What a new patient's risk is compared with: risks of patients that had not been learned from.
    reference = held_out.shifted(populations.fit_shift(held_out))
    # Terms beside risks that were held out: beside risks the model was fitted to a covariate would seem to add less.
    terms = populations.fit_terms(reference, values) if values else []
    covariates = [populations.covariate_entry(populations.KNOWN_COVARIATES[name]) for name in population.covariates]
    label = f"{len(store.patients)} patients of {population.label}"
    ages = values.get("age_years")
    named = _shipped_metrics(population, rows)
    return {
        "name": population.name,
        "title": population.title,
        **layer,
        "patients": len(store.patients),
        "events": int(store.event.sum()),
        "patients_sha256": patients_sha256(store.patient_ids),
        "reference_cohort": populations.reference_cohort(reference, label, workspace.horizon),
        "ranges": populations.patient_ranges(store, workspace.max_slices, ages),
        "covariates": covariates,
        "terms": terms,
        "interval": interval,
        "metrics": named,
    }


def _shipped_metrics(population: PopulationCohort, rows: list[dict]) -> list[dict]:
    """The scores that a bundle tells: concordance within groups and IPA, the image's first.

    Pooled over hospitals or networks concordance compares their levels, which is not what a patient is ranked by.
    """
    within = ", within groups"
    kept = [row for row in rows if row["name"] != "concordance" or row["predictor"].endswith(within)]
    kept = [{**row, "predictor": row["predictor"].removesuffix(within)} for row in kept if row["value"] is not None]
    where = "within hospitals" if population.hold_out is not None else "within folds"
    return [
        {**row, "cohort": f"{population.label}, held out, {where}: {row['predictor']}"}
        for row in sorted(kept, key=lambda row: (row["predictor"] != "image", row["name"]))
    ]


# --- Tables -----------------------------------------------------------------------------------------------------------


def _write_held_out(path: Path, workspace, held_out: Scores, risk: np.ndarray, store: Store, groups) -> None:
    columns = ("patient_id", "time_days", "event", "group", risk_column(workspace.horizon), "largest_area_px")
    area = store.patients["largest_area_px"].tolist()
    rows = zip(held_out.patient_ids, held_out.time.tolist(), held_out.event.astype(int).tolist(), map(str, groups),
               risk.tolist(), area)  # fmt: skip
    write_csv(path, columns, rows)


def _cells(table: pd.DataFrame) -> list[list]:
    return [[None if pd.isna(value) else value for value in row] for row in table.itertuples(index=False)]
