"""The paper's whole study from one configuration: slices, training, comparisons, metrics, bundles, report.

Every stage keeps its result in the work folder and is not done again if it is there, so a study that was stopped goes
on. What is chosen (epochs, settings, the preferred network) is chosen on the training patients; the test patients are
looked at in one stage, ``_test``, after everything else is fixed.

    WORK/stores/pretrain, stores/second    the cohorts' slices
    WORK/split.csv                         who of the second cohort is fine-tuned on, who is tested
    WORK/runs/<network>/pretrain, finetune
    WORK/crossvalidation/                  choosing, on training patients alone
    WORK/baselines/                        LASSO-Cox models, volume, clinical
    WORK/test/                             predictions and metrics of every model on the test patients
    WORK/models/                           the bundles, each with its model card
    WORK/report/                           report.html, tables, figures
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.files import ensure_output_folder, write_csv, write_json

from ..cohort import prepare
from ..cohort.clinical import read_clinical
from ..cohort.splits import split_patients
from ..cohort.store import STORE_FILE, Store, open_store
from ..evaluation import baselines, crossvalidation, metrics
from ..models import export
from ..training import train as training
from ..training.runs import Run, patient_survival, risk_at, risk_column
from .config import Network, Study

Tell = Callable[[str], None]
FINETUNE, TEST = "finetune", "test"
SPLIT_COLUMNS = ("patient_id", "part", "usable")
METRIC_COLUMNS = ("model", "metric", "horizon_days", "value", "ci_low", "ci_high")
DIFFERENCE_COLUMNS = ("model", "against", "metric", "horizon_days", "value", "ci_low", "ci_high")


@dataclass(frozen=True)
class Workplace:
    """A study and where its results lie."""

    study: Study
    folder: Path
    jobs: int
    tell: Tell

    @cached_property
    def pretrain_store(self) -> Store:
        return open_store(self.folder / "stores" / "pretrain")

    @cached_property
    def second_store(self) -> Store:
        return open_store(self.folder / "stores" / "second")

    @cached_property
    def split(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "split.csv", dtype={"patient_id": str})

    def second_part(self, part: str) -> Store:
        """The usable patients of one part of the second cohort."""
        chosen = self.split[(self.split["part"] == part) & (self.split["usable"] == 1)]
        return self.second_store.part(chosen["patient_id"])

    @property
    def horizon(self) -> float:
        """The first of the horizons: where networks are compared and chosen."""
        return float(self.study.horizons_days[0])

    @property
    def max_slices(self) -> int:
        return self.study.data.max_slices


@dataclass(frozen=True)
class Outcome:
    """What a study found; the report is made of it.

    runs: network id -> (pretrained, fine-tuned). metrics, differences: of the test patients. predictions: model name
    -> a row per test patient. preferred: the network that cross-validation chose.
    """

    workplace: Workplace
    runs: dict[str, tuple[Run, Run]]
    crossvalidation: pd.DataFrame
    finetune_crossvalidation: pd.DataFrame
    preferred: str
    predictions: dict[str, pd.DataFrame]
    metrics: pd.DataFrame
    differences: pd.DataFrame
    baselines: Path


def reproduce(study: Study, folder, jobs: int = 1, tell: Tell = print) -> Outcome:
    """Work a study through, or go on with it; raises UsageError and CNNSurvivalError with one sentence."""
    place = Workplace(study, ensure_output_folder(folder), jobs, tell)
    _check(place)
    _prepare(place)
    _split(place)
    runs = {network.id: _train(place, network) for network in study.networks}
    chosen = _crossvalidate(place)
    chosen_after = _crossvalidate_finetuning(place, runs)
    preferred = _preferred(place, chosen, chosen_after)
    fitted = _baselines(place, runs)
    predictions = _predictions(place, runs, fitted)
    scores, differences = _test(place, predictions)
    outcome = Outcome(place, runs, chosen, chosen_after, preferred, predictions, scores, differences, fitted)
    _export(outcome)
    return outcome


# --- Stages -----------------------------------------------------------------------------------------------------------


def _check(place: Workplace) -> None:
    """What would otherwise be found wrong hours later."""
    for network in place.study.networks:
        for paper, departures in ((training.PAPER, network.pretrain), (training.FINETUNE, network.finetune)):
            _settings(place, paper, departures)
    _ = place.study.manifest, place.study.clinical
    export.read_card(place.study.path.parent / place.study.card)


def _prepare(place: Workplace) -> None:
    """Cut the slices of both cohorts."""
    study = place.study
    for name, cohort in (("pretrain", study.pretrain), ("second", study.second)):
        store = place.folder / "stores" / name
        if (store / STORE_FILE).is_file():
            continue
        place.tell(f"Preparing {cohort.label}")
        prepare.prepare(
            study.manifest, store, study.data.preprocessing, clinical=study.clinical, where=cohort.where,
            jobs=place.jobs, log=place.tell,
        )  # fmt: skip


def _split(place: Workplace) -> None:
    """Split the whole second cohort, with those who turn out to have no usable slice, as the paper's numbers are."""
    path = place.folder / "split.csv"
    if path.is_file():
        return
    study, usable = place.study, set(place.second_store.patient_ids)
    table = second_cohort_table(study)
    first, rest = split_patients(table.index, table["event"], study.second.finetune_patients, study.seed)
    rows = [(p, part, int(p in usable)) for part, ids in ((FINETUNE, first), (TEST, rest)) for p in ids]
    write_csv(path, SPLIT_COLUMNS, rows)


def second_cohort_table(study: Study) -> pd.DataFrame:
    """The clinical table of the second cohort: time_days and event by patient_id, in the table's order."""
    table = read_clinical(study.clinical or study.manifest)
    for column, value in study.second.where.items():
        table = table[table[column].astype(str) == str(value)]
    return table


def _train(place: Workplace, network: Network) -> tuple[Run, Run]:
    folder = place.folder / "runs" / network.id
    place.tell(f"Training '{network.id}'")
    settings = _settings(place, training.PAPER, network.pretrain)
    pretrained = training.pretrain(place.pretrain_store, folder / "pretrain", settings, tell=place.tell)
    tuned = training.finetune(
        pretrained, place.second_part(FINETUNE), folder / "finetune", _finetune_settings(place, network), place.tell
    )
    return pretrained, tuned


def _finetune_settings(place: Workplace, network: Network) -> training.Settings:
    return _settings(place, training.FINETUNE, network.finetune)


def _settings(place: Workplace, paper: training.Settings, departures: dict) -> training.Settings:
    """The paper's settings with the study's seed and a network's departures. Raises UsageError for an unknown one."""
    known = [f.name for f in fields(training.Settings)]
    unknown = [name for name in departures if name not in known]
    if unknown:
        raise UsageError(f"'{unknown[0]}' is not a setting of training; known are: {', '.join(known)}.")
    values = {name: None if value == "all" else value for name, value in departures.items()}
    return replace(paper, **{"seed": place.study.seed, **values})


def _crossvalidate(place: Workplace) -> pd.DataFrame:
    """Pretraining settings on the pretraining cohort: columns network, epoch, metric, horizon_days, value, ..."""
    tables = []
    plan = place.study.crossvalidation
    for network in place.study.networks:
        if network.crossvalidate is False:
            continue
        more = network.crossvalidate if isinstance(network.crossvalidate, dict) else {}
        settings = _settings(place, training.PAPER, {**network.pretrain, **more})
        place.tell(f"Cross-validating '{network.id}'")
        table = crossvalidation.crossvalidate(
            place.pretrain_store, place.folder / "crossvalidation" / network.id, settings, plan.folds, plan.at_epochs,
            place.max_slices, place.horizon, place.study.bootstrap, place.tell,
        )  # fmt: skip
        tables.append(table.assign(network=network.id))
    columns = ["network", *crossvalidation.METRIC_COLUMNS]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def _crossvalidate_finetuning(place: Workplace, runs) -> pd.DataFrame:
    """Fine-tuning on the patients to fine-tune on: columns network, fine_tuned, metric, horizon_days, value, ..."""
    path = place.folder / "crossvalidation" / "finetuning.csv"
    columns = ("network", "fine_tuned", "metric", "horizon_days", "value", "ci_low", "ci_high")
    if path.is_file():
        return pd.read_csv(path)
    store, rows = place.second_part(FINETUNE), []
    for network in place.study.networks:
        place.tell(f"Cross-validating the fine-tuning of '{network.id}'")
        risks = crossvalidation.crossvalidate_finetuning(
            runs[network.id][0], store, _finetune_settings(place, network), place.study.crossvalidation.finetune_folds,
            place.max_slices, place.horizon,
        )  # fmt: skip
        for name, fine_tuned in (("before", "no"), ("after", "yes")):
            for row in _score(place, store.time, store.event, {place.horizon: risks[name].to_numpy()}):
                rows.append({"network": network.id, "fine_tuned": fine_tuned, **row})
    table = pd.DataFrame(rows, columns=columns)
    ensure_output_folder(path.parent)
    write_csv(path, columns, table.itertuples(index=False))
    return table


def _preferred(place: Workplace, chosen: pd.DataFrame, chosen_after: pd.DataFrame) -> str:
    """The network with the highest cross-validated concordance: of pretraining, where all networks have it, else of
    fine-tuning."""
    names = [network.id for network in place.study.networks]
    last = chosen.sort_values("epoch").groupby(["network", "metric"], sort=False).tail(1)
    table = last if set(names) <= set(last["network"]) else chosen_after[chosen_after["fine_tuned"] == "yes"]
    found = table[table["metric"] == "concordance"].set_index("network")["value"]
    preferred = max(names, key=lambda name: found[name])
    write_json(place.folder / "crossvalidation" / "preferred.json", {"network": preferred})
    return preferred


def _baselines(place: Workplace, runs) -> Path:
    """Fit the comparisons on the patients to fine-tune on, as the paper did, and predict the test patients."""
    folder = place.folder / "baselines"
    paper = runs[place.study.networks[0].id][1]
    place.tell("Fitting the comparisons")
    baselines.run(
        place.second_part(FINETUNE), place.second_part(TEST), folder, network=paper, models=place.study.baselines,
        horizons=place.study.horizons_days, seed=place.study.seed, jobs=place.jobs, max_slices=place.max_slices,
        tell=place.tell,
    )  # fmt: skip
    return folder


def _predictions(place: Workplace, runs, fitted: Path) -> dict[str, pd.DataFrame]:
    """Every model's risks for the test patients, by model name; written to WORK/test."""
    store = place.second_part(TEST)
    found = {}
    for name, (pretrained, tuned) in runs.items():
        found[name] = network_predictions(tuned, store, place.study.horizons_days, place.max_slices)
        found[f"{name}-pretrained"] = network_predictions(
            pretrained, store, place.study.horizons_days, place.max_slices
        )
    for name in place.study.baselines:
        path = fitted / f"predictions_{name}.csv"
        if path.is_file():
            found[name] = pd.read_csv(path, dtype={"patient_id": str})
    folder = ensure_output_folder(place.folder / TEST)
    for name, table in found.items():
        write_csv(folder / f"predictions_{name}.csv", tuple(table), table.itertuples(index=False))
    return found


def network_predictions(run: Run, store: Store, horizons, max_slices: int) -> pd.DataFrame:
    """patient_id, time_days, event and a risk column per horizon, of a store's patients."""
    survival = patient_survival(run.weights, store, max_slices)
    table = {"patient_id": store.patient_ids, "time_days": store.time, "event": store.event.astype(int)}
    risks = {risk_column(days): risk_at(survival, run.edges_days, days) for days in horizons}
    return pd.DataFrame({**table, **risks})


def _test(place: Workplace, predictions: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The one look at the test patients: metrics of every model, and how each differs from tumour volume."""
    place.tell("Scoring the test patients")
    rows, differences = [], []
    for name, table in predictions.items():
        time, event, risks = _arrays(place, table)
        rows += [{"model": name, **row} for row in _score(place, time, event, risks)]
        if name != "volume" and "volume" in predictions:
            differences += _differences(place, name, table, predictions["volume"])
    scores = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    against = pd.DataFrame(differences, columns=DIFFERENCE_COLUMNS)
    write_csv(place.folder / TEST / "metrics.csv", METRIC_COLUMNS, scores.itertuples(index=False))
    write_csv(place.folder / TEST / "differences.csv", DIFFERENCE_COLUMNS, against.itertuples(index=False))
    return scores, against


def _arrays(place: Workplace, table: pd.DataFrame):
    risks = {float(days): table[risk_column(days)].to_numpy() for days in place.study.horizons_days}
    return table["time_days"].to_numpy(float), table["event"].to_numpy() == 1, risks


def _score(place: Workplace, time, event, risks) -> list[dict]:
    with metrics.warnings_told(place.tell):
        return metrics.score_predictions(time, event, risks, place.study.bootstrap, place.study.seed)


def _differences(place: Workplace, name: str, one: pd.DataFrame, volume: pd.DataFrame) -> list[dict]:
    """Paired, so on the patients that both models predict."""
    both = one.merge(volume, on=("patient_id", "time_days", "event"), suffixes=("", "_volume"))
    risk = risk_column(place.horizon)
    time, event = both["time_days"].to_numpy(float), both["event"].to_numpy() == 1
    risks = both[risk].to_numpy(), both[f"{risk}_volume"].to_numpy()
    with metrics.warnings_told(place.tell):
        found = metrics.difference(time, event, *risks, place.horizon, place.study.bootstrap, place.study.seed)
    return [{"model": name, "against": "volume", **row} for row in found]


# --- Bundles ----------------------------------------------------------------------------------------------------------


def _export(outcome: Outcome) -> None:
    """A bundle of every network; of its pretrained state, too, where the configuration says so."""
    place = outcome.workplace
    card = export.read_card(place.study.path.parent / place.study.card)
    test = place.second_part(TEST)
    for network in place.study.networks:
        pretrained, tuned = outcome.runs[network.id]
        _export_one(outcome, network.id, network, tuned, place.second_part(FINETUNE), network.id, card, test)
        if network.pretrained_only:
            name = f"{network.id}-pretrained"
            _export_one(outcome, name, network, pretrained, place.pretrain_store, name, card, test)


def _export_one(outcome: Outcome, name: str, network: Network, run, reference, model: str, card, test) -> None:
    place = outcome.workplace
    scores = outcome.metrics[outcome.metrics["model"] == model]
    time, event, risks = _arrays(place, outcome.predictions[model])
    title = network.title if model == network.id else f"{network.title}, before fine-tuning"
    export.export_bundle(
        run, reference, scores.drop(columns="model").to_dict("records"), card, name, title, network.version,
        place.folder / "models" / name, test_store=test, training_stores=[place.pretrain_store],
        calibration=metrics.calibration(time, event, risks[place.horizon], place.horizon),
        max_slices=place.max_slices,
    )  # fmt: skip
