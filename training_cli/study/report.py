"""The report of a study: what ``reproduce`` found, beside what the paper has."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import ensure_output_folder
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS
from CNNSurvivalLib.io.read import read_case

from ..cohort.store import Store
from ..evaluation import metrics
from ..figures import study as report_figures
from ..training.runs import patient_survival, risk_column
from . import held_out
from .fetch import facts_of
from .html import Figure, Report, Section, Table, write_report
from .pipeline import FINETUNE, TEST, Outcome, StudyWorkspace, network_predictions

# Zhang et al. 2020, Table 1 and text: concordance and IPA at 18 months on 30 patients with PDAC
PAPER = {"radiomics": (0.491, -0.0380), "outputs": (0.603, 0.0440), "network": (0.651, 0.1181)}
PAPER_COUNTS = {"patients": 422, "slices": 5479, "kept": 2500}
TITLES = {
    "radiomics": "Model 1: PyRadiomics + LASSO-Cox",
    "outputs": "Model 2: the network's outputs + LASSO-Cox",
    "volume": "Tumour volume alone, Cox",
    "clinical": "Age and stage, Cox",
}
NAMES = {"concordance": "Concordance", "ipa": "IPA"}


def write(outcome: Outcome, folder) -> Path:
    """Write the report of a study; returns the path of report.html."""
    folder = ensure_output_folder(folder)
    figures = ensure_output_folder(folder / "figures")
    study = outcome.workspace.study
    content = Report(
        study=study.title,
        summary=_summary(outcome),
        sections=[
            _comparison(outcome, figures),
            *_held_out(outcome),
            _cohorts(outcome),
            _choosing(outcome),
            _training(outcome, figures),
            _risk_groups(outcome, figures),
            _examples(outcome, figures),
            _selected(outcome),
        ],
        configuration=study.text,
        provenance=_provenance(outcome),
    )
    return write_report(content, folder)


# --- Sections ---------------------------------------------------------------------------------------------------------


def _summary(outcome: Outcome) -> list[str]:
    place, test = outcome.workspace, outcome.workspace.finetuning_part(TEST)
    sentences = [
        f"Trained on {place.study.pretrain.label} ({len(place.pretrain_store.patients)} patients), fine-tuned on "
        f"{len(place.finetuning_part(FINETUNE).patients)} and tested on {len(test.patients)} patients of "
        f"{place.study.finetuning.label}, {int(test.event.sum())} of whom died.",
    ]
    for network in place.study.networks:
        sentences.append(f"{network.title}: {_in_words(outcome, network.id)}.")
    if "volume" in outcome.predictions:
        sentences.append(f"Tumour volume alone: {_in_words(outcome, 'volume')}.")
        sentences += [_against_volume(outcome, network.id, network.title) for network in place.study.networks]
    sentences += _ipa_cautions(outcome)[:1]
    few = metrics.what_few_can_show(test.time, test.event, seed=place.study.seed)
    sentences += [few] if few else []
    sentences += _held_out_in_words(outcome)
    preferred = next(n for n in place.study.networks if n.id == outcome.preferred)
    sentences.append(f"Cross-validation on the training patients prefers: {preferred.title}.")
    return sentences


def _comparison(outcome: Outcome, figures: Path) -> Section:
    place = outcome.workspace
    test = place.finetuning_part(TEST)
    rows = [_comparison_row(outcome, name) for name in _models(outcome)]
    header = ["Model", "Concordance", "95 % low", "95 % high", "IPA", "95 % low", "95 % high", "Concordance (paper)",
              "IPA (paper)"]  # fmt: skip
    note = (f"{len(test.patients)} test patients, {int(test.event.sum())} deaths, at {place.horizon:g} days. "
            f"{place.study.bootstrap} resamples of the patients. The paper's numbers are of 30 patients with "
            "pancreatic cancer, from another hospital.")  # fmt: skip
    few = metrics.small_sample(test.time, test.event, [place.horizon])
    items: list = [*([few] if few else []), Table("Models on the test patients", header, rows, note, "table1_models")]
    for name, neutral, word in (("concordance", 0.5, "chance"), ("ipa", 0.0, "one risk for everybody")):
        values = [(_title(outcome, m), *_triple(outcome, m, name)) for m in _models(outcome)]
        path = report_figures.interval_plot(values, figures / f"{name}.png", NAMES[name], neutral, word)
        caption = f"{NAMES[name]} on the test patients with 95 % intervals; what leaves the axis has an arrow."
        if name == "ipa":
            caption = " ".join([caption, *_ipa_cautions(outcome)[:1]])
        items.append(Figure(NAMES[name], path, caption))
    items.append(_table("All metrics on the test patients", outcome.metrics, "metrics_test"))
    items += [" ".join(outcome.notes)] if outcome.notes else []
    if len(outcome.differences):
        items.append(_table("Differences from tumour volume alone, on the same patients", outcome.differences,
                            "differences_from_volume"))  # fmt: skip
    return Section("The paper's Table 1, and ours", items)


def _held_out(outcome: Outcome) -> list[Section]:
    """Each centre predicted from the others."""
    if outcome.held_out is None:
        return []
    place, table = outcome.workspace, outcome.held_out
    column, store = place.study.finetuning.hold_out, place.finetuning_store
    words = [
        f"Every model is fitted on the patients of all values of '{column}' but one, and predicts that one. Values "
        f"with fewer than {held_out.FEW_PATIENTS} patients are held out together as '{held_out.OTHERS}'. Patients "
        "of both parts are used; nothing was chosen by it. Concordance compares patients of the same group alone; its "
        "mean is weighted by the groups' patients."
    ]
    groups = held_out.centres(store, column)
    for group in np.unique(groups):
        inside = groups == group
        few = metrics.what_few_can_show(store.time[inside], store.event[inside], seed=place.study.seed)
        words += [f"{group}: {few}"] if few else []
    return [Section(f"Each {column} held out", [*words, _table(f"Each {column} held out", table, "held_out")])]


def _held_out_in_words(outcome: Outcome) -> list[str]:
    """A sentence for each network, and for volume."""
    if outcome.held_out is None:
        return []
    table, column = outcome.held_out, outcome.workspace.study.finetuning.hold_out
    means = table[table["group"] == held_out.WITHIN].set_index("model")
    sentences = []
    for network in outcome.workspace.study.networks:
        row = means.loc[network.id]
        text = f"Each {column} held out, compared within it: {network.title}, concordance {_shown(row)}"
        difference = f"{network.id} minus volume"
        if difference in means.index:
            text += f"; less that of tumour volume alone {_shown(means.loc[difference])}"
        sentences.append(f"{text}, {int(row['patients'])} patients.")
    return sentences


def _shown(row) -> str:
    return f"{row['concordance']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"


def _cohorts(outcome: Outcome) -> Section:
    place = outcome.workspace
    header = ["Cohort", "Patients", "With a usable slice", "Deaths among these", "Slices", "Usable slices", "Kept",
              "Patients of the kept"]  # fmt: skip
    rows = [["The paper's cohort 1", PAPER_COUNTS["patients"], None, None, PAPER_COUNTS["slices"], None,
             PAPER_COUNTS["kept"], None]]  # fmt: skip
    trained = outcome.runs[place.study.networks[0].id][0].info["cohort"]
    for label, store, kept in ((place.study.pretrain.label, place.pretrain_store, trained),
                               (place.study.finetuning.label, place.finetuning_store, None)):  # fmt: skip
        counts = store.info["counts"]
        rows.append([label, counts["patients"], len(store.patients), int(store.event.sum()), counts["slices"],
                     len(store.slices), kept and kept["slices_kept"], kept and kept["patients_kept"]])  # fmt: skip
    split = place.split.groupby("part")["usable"].agg(["size", "sum"])
    parts = []
    for part, label in ((FINETUNE, "to fine-tune on"), (TEST, "to test")):
        store = place.finetuning_part(part)
        parts.append([label, int(split.loc[part, "size"]), int(split.loc[part, "sum"]), int(store.event.sum())])
    reasons = [
        [label, reason, count]
        for label, store in ((place.study.pretrain.label, place.pretrain_store),
                             (place.study.finetuning.label, place.finetuning_store))
        for reason, count in _reasons(store).items()
    ]  # fmt: skip
    return Section("Patients and slices", [
        *_downloaded(place),
        Table("Cohorts", header, rows, "Slices: after the slice step.", "cohorts"),
        Table("The fine-tuning cohort's two parts", ["Part", "Patients", "Usable", "Deaths among these"], parts,
              "Split once by patient, stratified by death, before anybody was excluded.", "split"),
        Table("Excluded patients", ["Cohort", "Reason", "Patients"], reasons, "", "excluded"),
    ])  # fmt: skip


def _downloaded(place: StudyWorkspace) -> list:
    """From the collections to the patients with images and follow-up."""
    facts = facts_of(place.study)
    if not facts:
        return []
    header = ["Cohort", "Collection", "With a chosen contour", "Left a choice", "With follow-up", "Deaths",
              "Follow-up from", "Days count from"]  # fmt: skip
    keys = ("name", "collection", "patients", "ambiguous", "followed", "deaths", "clinical_table", "time_origin")
    rows = [[each[key] for key in keys] for each in facts]
    note = "Who was chosen and why is in selection.csv of each cohort's folder, who has no follow-up in "
    note += "without_follow_up.csv. Who died is followed to death, who lived to the last follow-up."
    centres = [[each["name"], *centre] for each in facts for centre in each["centres"]]
    return [
        Table("From the collections to the cohorts", header, rows, note, "collections"),
        Table("Centres", ["Cohort", "Centre", "Patients", "Deaths"], centres, "As read from the UIDs of the CT, which "
              "number who submitted it; empty where the collection has no such numbers.", "centres"),
    ]  # fmt: skip


def _choosing(outcome: Outcome) -> Section:
    items: list = ["What follows was measured on training patients alone; nothing of the test patients was used."]
    if len(outcome.crossvalidation):
        folds = outcome.workspace.study.crossvalidation.folds
        items.append(_table(f"Pretraining, {folds}-fold cross-validation", outcome.crossvalidation,
                            "crossvalidation_pretraining"))  # fmt: skip
    items.append(_table("Fine-tuning, cross-validated on the patients to fine-tune on",
                        outcome.finetune_crossvalidation, "crossvalidation_finetuning"))  # fmt: skip
    items.append(_table("Largest ROI area alone on the training patients", _area_alone(outcome), "area_alone"))
    return Section("Choosing, on the training patients", items)


def _training(outcome: Outcome, figures: Path) -> Section:
    networks = outcome.workspace.study.networks
    items: list = []
    for stage, title in enumerate(("Pretraining", "Fine-tuning")):
        losses = {network.title: outcome.runs[network.id][stage].info["losses"] for network in networks}
        path = report_figures.learning_curves(losses, figures / f"learning_{title.lower()}.png")
        items.append(Figure(f"{title}: learning curves", path, "Mean loss of each epoch, on the slices learned from; "
                            "in pretraining with dropout."))  # fmt: skip
    rows = [[network.title, title, departure] for network in networks
            for run, title in zip(outcome.runs[network.id], ("pretraining", "fine-tuning"))
            for departure in run.info["departures"] or ["none"]]  # fmt: skip
    items.append(Table("Departures from the paper", ["Network", "Stage", "Departure"], rows, "", "departures"))
    return Section("Training", items)


def _risk_groups(outcome: Outcome, figures: Path) -> Section:
    place, items = outcome.workspace, []
    for network in place.study.networks:
        tuned = outcome.runs[network.id][1]
        column = risk_column(place.horizon)
        own = network_predictions(tuned, place.finetuning_part(FINETUNE), [place.horizon], place.max_slices)
        table, cut = outcome.predictions[network.id], float(own[column].median())
        time, event, risk = table["time_days"].to_numpy(float), table["event"].to_numpy() == 1, table[column].to_numpy()
        path = report_figures.kaplan_meier_by_risk(time, event, risk, cut, figures / f"risk_groups_{network.id}.png")
        items.append(Figure(f"{network.title}: survival by predicted risk", path, "Test patients, cut at the median "
                            "risk of the patients that it was fine-tuned on."))  # fmt: skip
        items += _calibration(place, network, time, event, risk, figures)
    return Section("Risk groups and calibration", items)


def _calibration(workspace: StudyWorkspace, network, time, event, risk, figures: Path) -> list:
    """Calibration and net benefit of one network on the test patients."""
    horizon, resampled = workspace.horizon, {"bootstrap": workspace.study.bootstrap, "seed": workspace.study.seed}
    table = metrics.calibration(time, event, risk, horizon, groups=3)
    curve = metrics.calibration_curve(time, event, risk, horizon, **resampled)
    benefit = metrics.decision_curve(time, event, risk, horizon, **resampled)
    path = report_figures.calibration_plot(table, horizon, figures / f"calibration_{network.id}.png", curve, risk)
    decision = report_figures.decision_curve_plot(benefit, horizon, figures / f"decision_curve_{network.id}.png")
    return [
        Figure(f"{network.title}: calibration", path, f"Test patients, in thirds and as a smooth curve, at {horizon:g} "
               "days."),
        _table(f"{network.title}: calibration", table, f"calibration_{network.id}"),
        Figure(f"{network.title}: net benefit", decision, "Test patients. At a threshold of 20 %, one would treat five "
               "patients to reach one who would die."),
    ]  # fmt: skip


def _examples(outcome: Outcome, figures: Path) -> Section:
    """The paper's Figures 2 to 5; they show single patients, so they stay with the data."""
    place, items = outcome.workspace, []
    rows, labels = [], []
    for label, store in ((place.study.pretrain.label, place.pretrain_store), (place.study.finetuning.label,
                         place.finetuning_part(FINETUNE))):  # fmt: skip
        best = store.best_rows(5)
        rows += list(best)
        labels += [f"{label}\n{store.slices.loc[row, 'area_px']} px" for row in best]
    images = np.stack([*place.pretrain_store.images[rows[:5]], *place.finetuning_store.images[rows[5:]]])
    path = report_figures.example_inputs(images, labels, figures / "example_inputs.png")
    items.append(Figure("Examples of the input", path, "The best-ranked slices of each cohort (the paper's Figure 2)."))
    small = _too_small(place, figures)
    if small is not None:
        items.append(Figure("A tumour too small to use", small, "The paper's Figure 3."))
    pair = _survival_pair(outcome, figures)
    if pair is not None:
        items.append(Figure("One who died and one who lived", pair, "Test patients (the paper's Figures 4 and 5), "
                            f"predicted by the preferred network, '{outcome.preferred}'."))  # fmt: skip
    return Section("Examples", items)


def _selected(outcome: Outcome) -> Section:
    table = pd.read_csv(outcome.baselines / "selected_features.csv")
    facts = pd.read_json(outcome.baselines / "baselines.json", orient="index").rename_axis("model").reset_index()
    return Section("The comparisons", [
        "Fitted on the patients that the network is fine-tuned on; the penalty was chosen among them by "
        "cross-validation.",
        _table("Models", facts, "baselines"),
        _table("Selected features", table, "selected_features"),
    ])  # fmt: skip


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _models(outcome: Outcome) -> list[str]:
    """The order of the paper's Table 1: models 1 and 2, the networks, then the simpler ones."""
    ids = [network.id for network in outcome.workspace.study.networks]
    networks = [name for one in ids for name in (one, f"{one}-pretrained")]
    order = ["radiomics", "outputs", *networks, "volume", "clinical"]
    return [name for name in order if name in outcome.predictions]


def _title(outcome: Outcome, name: str) -> str:
    if name in TITLES:
        return TITLES[name]
    network = next(n for n in outcome.workspace.study.networks if name in (n.id, f"{n.id}-pretrained"))
    return f"Model 3: {network.title_of(name)}"


def _triple(outcome: Outcome, model: str, metric: str) -> tuple:
    found = outcome.metrics[
        (outcome.metrics["model"] == model) & (outcome.metrics["metric"] == metric)
        & (outcome.metrics["horizon_days"] == outcome.workspace.horizon)
    ]  # fmt: skip
    values = found.iloc[0][["value", "ci_low", "ci_high"]]
    return tuple(None if pd.isna(value) else float(value) for value in values)


def _comparison_row(outcome: Outcome, name: str) -> list:
    first = outcome.workspace.study.networks[0].id
    paper = PAPER.get("network" if name == first else name, (None, None))
    return [_title(outcome, name), *_triple(outcome, name, "concordance"), *_triple(outcome, name, "ipa"), *paper]


def _in_words(outcome: Outcome, name: str) -> str:
    parts = []
    for metric, form in (("concordance", "{:.3f}"), ("ipa", "{:.1%}")):
        value, low, high = (("not defined" if v is None else form.format(v)) for v in _triple(outcome, name, metric))
        parts.append(f"{NAMES[metric]} {value} (95 % interval {low} to {high})")
    return ", ".join(parts) + (", which so few patients cannot carry" if _ipa_caution(outcome, name) else "")


def _ipa_cautions(outcome: Outcome) -> list[str]:
    return [caution for caution in (_ipa_caution(outcome, name) for name in _models(outcome)) if caution]


def _ipa_caution(outcome: Outcome, name: str) -> str | None:
    """The sentence beside a model's IPA where the test patients cannot carry it."""
    test, horizon = outcome.workspace.finetuning_part(TEST), outcome.workspace.horizon
    deaths = int((test.event.astype(bool) & (test.time <= horizon)).sum())
    return metrics.ipa_caution(*_triple(outcome, name, "ipa")[1:], deaths)


def _against_volume(outcome: Outcome, name: str, title: str) -> str:
    found = outcome.differences
    row = found[(found["model"] == name) & (found["metric"] == "concordance")].iloc[0]
    if row["ci_low"] > 0:
        verdict = "ranks the test patients better than tumour volume alone"
    elif row["ci_high"] < 0:
        verdict = "ranks the test patients worse than tumour volume alone"
    else:
        verdict = "is not shown to rank the test patients better or worse than tumour volume alone"
    return (f"{title} {verdict}: difference in concordance {row['value']:+.3f} ({row['ci_low']:+.3f} to "
            f"{row['ci_high']:+.3f}).")  # fmt: skip


def _area_alone(outcome: Outcome) -> pd.DataFrame:
    place, rows = outcome.workspace, []
    for label, store in ((place.study.pretrain.label, place.pretrain_store),
                         (f"{place.study.finetuning.label}, to fine-tune on",
                          place.finetuning_part(FINETUNE))):  # fmt: skip
        area = store.patients["largest_area_px"].to_numpy(float)
        rows.append((label, len(store.patients), metrics.concordance(store.time, store.event, area)))
    return pd.DataFrame(rows, columns=["Cohort", "Patients", "Concordance"])


def _reasons(store: Store) -> dict[str, int]:
    """The reasons without the numbers and names that differ from case to case."""
    numbers_and_names = r"'[^']*'|\S*[/\\]\S*|\d+(\.\d+)?"
    reasons = store.rejected["reason"].str.replace(numbers_and_names, "…", regex=True)
    return reasons.str.split(";").str[0].value_counts().to_dict()


def _table(title: str, table: pd.DataFrame, name: str) -> Table:
    rows = [[None if pd.isna(value) else value for value in row] for row in table.itertuples(index=False)]
    return Table(title, list(table), rows, "", name)


# --- Single patients --------------------------------------------------------------------------------------------------


def _too_small(place: StudyWorkspace, figures: Path) -> Path | None:
    """The largest plane of the first case that was left out for its size."""
    from ..cohort.prepare import read_cases
    from ..cohort.tables import read_table

    study = place.study
    left_out = set(place.pretrain_store.rejected["patient_id"])
    cases, _ = read_cases(read_table(study.manifest_of(study.pretrain), "manifest"), study.pretrain.where, None)
    for case in cases:
        if case.patient_id not in left_out:
            continue
        try:
            found = read_case(case.image_path, case.mask_path, case.segment, case.series_uid)
        except CNNSurvivalError:
            continue
        areas = np.count_nonzero(found.mask, axis=(1, 2))
        plane = int(areas.argmax())
        if 0 < areas[plane] < place.study.data.min_roi_px:
            return report_figures.too_small_roi(found.hu[plane], found.mask[plane], int(areas[plane]),
                                                place.study.data.min_roi_px, figures / "too_small.png")  # fmt: skip
    return None


def _survival_pair(outcome: Outcome, figures: Path) -> Path | None:
    """Of the test patients who died within 18 months and of those known to have lived longer, each one nearest to the
    median risk of its group: typical ones, not the best."""
    place, run = outcome.workspace, outcome.runs[outcome.preferred][1]
    store, table = place.finetuning_part(TEST), outcome.predictions[outcome.preferred]
    survival = patient_survival(run.weights, store, place.max_slices)
    time, event = table["time_days"].to_numpy(float), table["event"].to_numpy() == 1
    risk = table[risk_column(place.horizon)].to_numpy()
    chosen = []
    for group in (event & (time <= EIGHTEEN_MONTHS_DAYS), time > EIGHTEEN_MONTHS_DAYS):
        members = np.flatnonzero(group)
        if not len(members):
            return None
        chosen.append(members[np.argmin(np.abs(risk[members] - np.median(risk[members])))])
    died, lived = chosen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return report_figures.survival_pair(run.edges_days, survival[died], time[died], survival[lived], time[lived],
                                            figures / "survival_pair.png", place.horizon)  # fmt: skip


def _provenance(outcome: Outcome) -> list[tuple[str, str]]:
    place = outcome.workspace
    pairs = [("Seed", str(place.study.seed))]
    for name, store in (("pretraining", place.pretrain_store), ("fine-tuning", place.finetuning_store)):
        pairs.append((f"Slices of the {name} cohort, SHA-256", store.sha256))
    run = outcome.runs[place.study.networks[0].id][0]
    pairs += [(name, str(version)) for name, version in run.info["versions"].items()]
    pairs.append(("SimpleITK", sitk.Version.VersionString()))
    return pairs
