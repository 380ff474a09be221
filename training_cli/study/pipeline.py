"""The paper's whole study from one configuration: slices, training, comparisons, metrics, bundles, report.

Every stage keeps its result in the work folder and is not done again if it is there, so a study that was stopped
continues. What is chosen (epochs, settings, the preferred network) is chosen on the training patients; the test
patients are used in one stage, ``_test``, after everything else is fixed.

    WORK/stores/pretrain, stores/finetuning
                                           the cohorts' slices
    WORK/split.csv                         who of the fine-tuning cohort is fine-tuned on, who is tested
    WORK/runs/<network>/pretrain, finetune
    WORK/crossvalidation/                  choosing, on training patients alone
    WORK/baselines/                        LASSO-Cox models, volume, clinical
    WORK/test/                             predictions and metrics of every model on the test patients
    WORK/held_out/                         each value of finetuning.hold_out (a centre) predicted from the others
    WORK/models/                           the bundles, each with its model card
    WORK/report/                           report.html, tables, figures
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from CNNSurvivalLib.files import ensure_output_folder, write_csv, write_json

from ..cohort.clinical import read_clinical
from ..cohort.splits import split_patients
from ..cohort.store import Store
from ..cohort.tables import read_own_csv, read_table
from ..evaluation import baselines, crossvalidation, finetuning, metrics
from ..models.bundle import export_bundle
from ..models.card import Card, read_card
from ..progress import progress
from ..training import train as training
from ..training.runs import RUN_FILE, Run, load_run, patient_survival, risk_at, risk_column
from . import held_out
from .config import Network, Study
from .fetch import with_facts
from .workspace import Log, Workspace, settings_of

FINETUNE, TEST = "finetune", "test"
SPLIT_COLUMNS = ("patient_id", "part", "usable")
METRIC_COLUMNS = ("model", "metric", "horizon_days", "value", "ci_low", "ci_high")
DIFFERENCE_COLUMNS = ("model", "against", "metric", "horizon_days", "value", "ci_low", "ci_high")


@dataclass(frozen=True)
class StudyWorkspace(Workspace):
    """A study of one fine-tuning cohort and where its results lie."""

    study: Study

    @cached_property
    def finetuning_store(self) -> Store:
        return self.store("finetuning")

    @cached_property
    def split(self) -> pd.DataFrame:
        return read_own_csv(self.folder / "split.csv", dtype={"patient_id": str})

    def finetuning_part(self, part: str) -> Store:
        """The usable patients of one part of the fine-tuning cohort."""
        chosen = self.split[(self.split["part"] == part) & (self.split["usable"] == 1)]
        return self.finetuning_store.part(chosen["patient_id"])


@dataclass(frozen=True)
class Outcome:
    """What a study found; the report is made of it.

    runs: network id -> (pretrained, fine-tuned). metrics, differences: of the test patients. predictions: model name
    -> a row per test patient. preferred: the network that cross-validation chose. held_out: every model within each
    centre, fitted on the others (``held_out.COLUMNS``); None without ``hold_out``.
    """

    workspace: StudyWorkspace
    runs: dict[str, tuple[Run, Run]]
    crossvalidation: pd.DataFrame
    finetune_crossvalidation: pd.DataFrame
    preferred: str
    predictions: dict[str, pd.DataFrame]
    metrics: pd.DataFrame
    differences: pd.DataFrame
    baselines: Path
    notes: tuple[str, ...] = ()  # where metrics of the test patients are undefined
    held_out: pd.DataFrame | None = None


def reproduce(study: Study, folder, jobs: int = 1, log: Log = print) -> Outcome:
    """Work a study through, or continue it; raises UsageError and CNNSurvivalError with one sentence."""
    workspace = StudyWorkspace(study, ensure_output_folder(folder), jobs, log)
    _check(workspace)
    _prepare(workspace)
    _split(workspace)
    runs = {network.id: _train(workspace, network) for network in study.networks}
    chosen = _crossvalidate(workspace)
    chosen_after = _crossvalidate_finetuning(workspace, runs)
    preferred = _preferred(workspace, chosen, chosen_after)
    fitted = _baselines(workspace, runs)
    predictions = _predictions(workspace, runs, fitted)
    scores, differences, notes = _test(workspace, predictions)
    centres = _hold_out(workspace, runs)
    outcome = Outcome(
        workspace, runs, chosen, chosen_after, preferred, predictions, scores, differences, fitted, notes, centres
    )
    _export(outcome)
    return outcome


# --- Stages -----------------------------------------------------------------------------------------------------------


def _check(workspace: StudyWorkspace) -> None:
    """What would otherwise be found wrong hours later."""
    study = workspace.study
    for cohort in (study.pretrain, study.finetuning):
        table = study.clinical_of(cohort) or study.manifest_of(cohort)
    if study.finetuning.hold_out is not None:
        read_table(table, "manifest").need(study.finetuning.hold_out)
    read_card(study.card_path)


def _prepare(workspace: StudyWorkspace) -> None:
    """Cut the slices of both cohorts."""
    study = workspace.study
    for name, cohort in (("pretrain", study.pretrain), ("finetuning", study.finetuning)):
        workspace.prepare(name, cohort)


def _split(workspace: StudyWorkspace) -> None:
    """Split the whole fine-tuning cohort, those without a usable slice included, as the paper counts its patients."""
    path = workspace.folder / "split.csv"
    if path.is_file():
        return
    study, usable = workspace.study, set(workspace.finetuning_store.patient_ids)
    table = finetuning_table(study)
    count = study.finetuning.finetune_count(len(table))
    first, rest = split_patients(table.index, table["event"], count, study.seed)
    rows = [(p, part, int(p in usable)) for part, ids in ((FINETUNE, first), (TEST, rest)) for p in ids]
    write_csv(path, SPLIT_COLUMNS, rows)


def finetuning_table(study: Study) -> pd.DataFrame:
    """The clinical table of the fine-tuning cohort: time_days and event by patient_id, in the table's order."""
    table = read_clinical(study.clinical_of(study.finetuning) or study.manifest_of(study.finetuning))
    for column, value in study.finetuning.where.items():
        table = table[table[column].astype(str) == str(value)]
    return table


def _train(workspace: StudyWorkspace, network: Network) -> tuple[Run, Run]:
    folder = workspace.folder / "runs" / network.id
    workspace.log(f"Training '{network.id}'")
    settings = settings_of(workspace.study, training.PAPER, network.pretrain)
    pretrained = training.pretrain(workspace.pretrain_store, folder / "pretrain", settings, tell=workspace.log)
    store, settings = workspace.finetuning_part(FINETUNE), _finetune_settings(workspace, network)
    folder = folder / "finetune"
    learn = _learn_so_far(network, folder) or _learn(workspace, network, pretrained, store)
    return pretrained, finetuning.finetune(
        pretrained, store, folder, learn, settings, workspace.max_slices, workspace.log
    )


def _finetune_settings(workspace: StudyWorkspace, network: Network) -> training.Settings:
    return settings_of(workspace.study, training.FINETUNE, network.finetune)


def _tuned_on(workspace: StudyWorkspace, network: Network, parent: Run, store: Store) -> dict:
    """The weights of a network that is fine-tuned on these patients; how much to learn is chosen on them, too."""
    learn, settings = _learn(workspace, network, parent, store), _finetune_settings(workspace, network)
    return finetuning.tuned_weights(parent, store, learn, settings, workspace.max_slices)


def _learn_so_far(network: Network, folder: Path) -> str | None:
    """What was chosen to be learned, where it was chosen and learned before; the comparison takes a while."""
    done = network.learn == finetuning.AUTO and (folder / RUN_FILE).is_file()
    return load_run(folder).info.get("learn") if done else None


def _learn(workspace: StudyWorkspace, network: Network, parent: Run, store: Store) -> str:
    settings = _finetune_settings(workspace, network)
    return finetuning.kind_for_others(parent, store, network.learn, settings, workspace.max_slices, workspace.horizon)


def _crossvalidate(workspace: StudyWorkspace) -> pd.DataFrame:
    """Pretraining settings on the pretraining cohort: columns network, epoch, metric, horizon_days, value, ..."""
    tables = []
    plan = workspace.study.crossvalidation
    for network in workspace.study.networks:
        if network.crossvalidate is None:
            continue
        settings = settings_of(workspace.study, training.PAPER, network.pretrain, network.crossvalidate)
        workspace.log(f"Cross-validating '{network.id}'")
        table = crossvalidation.crossvalidate(
            workspace.pretrain_store, workspace.folder / "crossvalidation" / network.id, settings, plan.folds,
            plan.at_epochs, workspace.max_slices, workspace.horizon, workspace.study.bootstrap, workspace.log,
        )  # fmt: skip
        tables.append(table.assign(network=network.id))
    columns = ["network", *crossvalidation.METRIC_COLUMNS]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def _crossvalidate_finetuning(workspace: StudyWorkspace, runs) -> pd.DataFrame:
    """Fine-tuning on the patients to fine-tune on: columns network, fine_tuned, metric, horizon_days, value, ..."""
    path = workspace.folder / "crossvalidation" / "finetuning.csv"
    columns = ("network", "fine_tuned", "metric", "horizon_days", "value", "ci_low", "ci_high")
    if path.is_file():
        return read_own_csv(path)
    store, rows = workspace.finetuning_part(FINETUNE), []
    for network in workspace.study.networks:
        workspace.log(f"Cross-validating the fine-tuning of '{network.id}'")
        parent = runs[network.id][0]
        risks = crossvalidation.crossvalidate_finetuning(
            parent, store, partial(_tuned_on, workspace, network, parent),
            workspace.study.crossvalidation.finetune_folds, _finetune_settings(workspace, network).seed,
            workspace.max_slices, workspace.horizon,
        )  # fmt: skip
        with metrics.warnings_told(workspace.log):
            for name, fine_tuned in (("before", "no"), ("after", "yes")):
                for row in _score(workspace, store.time, store.event, {workspace.horizon: risks[name].to_numpy()}):
                    rows.append({"network": network.id, "fine_tuned": fine_tuned, **row})
    table = pd.DataFrame(rows, columns=columns)
    ensure_output_folder(path.parent)
    write_csv(path, columns, table.itertuples(index=False))
    return table


def _preferred(workspace: StudyWorkspace, chosen: pd.DataFrame, chosen_after: pd.DataFrame) -> str:
    """The network with the highest cross-validated concordance: of pretraining, where all networks have it, else of
    fine-tuning."""
    names = [network.id for network in workspace.study.networks]
    last = chosen.sort_values("epoch").groupby(["network", "metric"], sort=False).tail(1)
    table = last if set(names) <= set(last["network"]) else chosen_after[chosen_after["fine_tuned"] == "yes"]
    found = table[table["metric"] == "concordance"].set_index("network")["value"]
    preferred = max(names, key=lambda name: found[name])
    write_json(workspace.folder / "crossvalidation" / "preferred.json", {"network": preferred})
    return preferred


def _baselines(workspace: StudyWorkspace, runs) -> Path:
    """Fit the comparisons on the patients to fine-tune on, as the paper did, and predict the test patients."""
    folder = workspace.folder / "baselines"
    paper = runs[workspace.study.networks[0].id][1]
    workspace.log("Fitting the comparisons")
    study = workspace.study
    baselines.run(
        workspace.finetuning_part(FINETUNE), workspace.finetuning_part(TEST), folder, network=paper,
        models=study.baselines, horizons=study.horizons_days, seed=study.seed, jobs=workspace.jobs,
        max_slices=workspace.max_slices, tell=workspace.log,
    )  # fmt: skip
    return folder


def _hold_out(workspace: StudyWorkspace, runs) -> pd.DataFrame | None:
    """Each centre predicted by what the patients of the others gave. Nothing is chosen by it."""
    column = workspace.study.finetuning.hold_out
    if column is None:
        return None
    workspace.log(f"Holding out each {column}")
    parents = {network.id: runs[network.id][0] for network in workspace.study.networks}
    fits = {network.id: partial(_tuned_on, workspace, network, parents[network.id])
            for network in workspace.study.networks}  # fmt: skip
    return held_out.hold_out(workspace, column, workspace.finetuning_store, parents, fits)


def _predictions(workspace: StudyWorkspace, runs, fitted: Path) -> dict[str, pd.DataFrame]:
    """Every model's risks for the test patients, by model name; written to WORK/test."""
    store = workspace.finetuning_part(TEST)
    found = {}
    for name, (pretrained, tuned) in runs.items():
        found[name] = network_predictions(tuned, store, workspace.study.horizons_days, workspace.max_slices)
        found[f"{name}-pretrained"] = network_predictions(
            pretrained, store, workspace.study.horizons_days, workspace.max_slices
        )
    for name in workspace.study.baselines:
        path = fitted / f"predictions_{name}.csv"
        if path.is_file():
            found[name] = read_own_csv(path, dtype={"patient_id": str})
    folder = ensure_output_folder(workspace.folder / TEST)
    for name, table in found.items():
        write_csv(folder / f"predictions_{name}.csv", tuple(table), table.itertuples(index=False))
    return found


def network_predictions(run: Run, store: Store, horizons, max_slices: int) -> pd.DataFrame:
    """patient_id, time_days, event and a risk column per horizon, of a store's patients."""
    survival = patient_survival(run.weights, store, max_slices)
    table = {"patient_id": store.patient_ids, "time_days": store.time, "event": store.event.astype(int)}
    risks = {risk_column(days): risk_at(survival, run.edges_days, days) for days in horizons}
    return pd.DataFrame({**table, **risks})


def _test(workspace: StudyWorkspace, predictions: dict[str, pd.DataFrame]):
    """The only stage that uses the test patients: (metrics of every model, how each differs from tumour volume, a
    sentence for each metric that is undefined somewhere)."""
    workspace.log("Scoring the test patients")
    rows, differences, notes = [], [], []
    with metrics.warnings_told(notes.append):
        for name, table in progress(predictions.items(), len(predictions), "Scoring", "model"):
            time, event, risks = _arrays(workspace, table)
            rows += [{"model": name, **row} for row in _score(workspace, time, event, risks)]
            if name != "volume" and "volume" in predictions:
                differences += _differences(workspace, name, table, predictions["volume"])
    for note in notes:
        workspace.log(note)
    scores = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    against = pd.DataFrame(differences, columns=DIFFERENCE_COLUMNS)
    write_csv(workspace.folder / TEST / "metrics.csv", METRIC_COLUMNS, scores.itertuples(index=False))
    write_csv(workspace.folder / TEST / "differences.csv", DIFFERENCE_COLUMNS, against.itertuples(index=False))
    return scores, against, tuple(notes)


def _arrays(workspace: StudyWorkspace, table: pd.DataFrame):
    risks = {float(days): table[risk_column(days)].to_numpy() for days in workspace.study.horizons_days}
    return table["time_days"].to_numpy(float), table["event"].to_numpy() == 1, risks


def _score(workspace: StudyWorkspace, time, event, risks) -> list[dict]:
    return metrics.score_predictions(time, event, risks, workspace.study.bootstrap, workspace.study.seed)


def _differences(workspace: StudyWorkspace, name: str, one: pd.DataFrame, volume: pd.DataFrame) -> list[dict]:
    """Paired, so on the patients that both models predict."""
    both = one.merge(volume, on=("patient_id", "time_days", "event"), suffixes=("", "_volume"))
    risk = risk_column(workspace.horizon)
    time, event, study = both["time_days"].to_numpy(float), both["event"].to_numpy() == 1, workspace.study
    risks = both[risk].to_numpy(), both[f"{risk}_volume"].to_numpy()
    found = metrics.difference(time, event, *risks, workspace.horizon, study.bootstrap, study.seed)
    return [{"model": name, "against": "volume", **row} for row in found]


# --- Bundles ----------------------------------------------------------------------------------------------------------


def _export(outcome: Outcome) -> None:
    """A bundle of every network; of its pretrained state, too, where the configuration says so."""
    workspace = outcome.workspace
    card = with_facts(read_card(workspace.study.card_path), workspace.study)
    test = workspace.finetuning_part(TEST)
    for network in workspace.study.networks:
        pretrained, tuned = outcome.runs[network.id]
        _export_one(outcome, network.id, network, tuned, workspace.finetuning_part(FINETUNE), network.id, card, test)
        if network.pretrained_only:
            name = f"{network.id}-pretrained"
            _export_one(outcome, name, network, pretrained, workspace.pretrain_store, name, card, test)


def _export_one(outcome: Outcome, name: str, network: Network, run, reference, model: str, card: Card, test) -> None:
    workspace = outcome.workspace
    scores = outcome.metrics[outcome.metrics["model"] == model]
    time, event, risks = _arrays(workspace, outcome.predictions[model])
    title = network.title_of(name)
    export_bundle(
        run, reference, scores.drop(columns="model").to_dict("records"), card, name, title, network.version,
        workspace.folder / "models" / name, test_store=test, training_stores=[workspace.pretrain_store],
        calibration=metrics.calibration(time, event, risks[workspace.horizon], workspace.horizon),
        max_slices=workspace.max_slices,
    )  # fmt: skip
