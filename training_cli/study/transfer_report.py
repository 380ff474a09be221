"""The report of a transfer study: each population with what is held out, beside tumour size and clinical values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from CNNSurvivalLib import __version__
from CNNSurvivalLib.files import ensure_output_folder
from CNNSurvivalLib.hazards import months_text

from ..evaluation import metrics
from ..figures import study as figures
from .html import Figure, Report, Section, Table, write_report
from .transfer import AREA, Fitted, TransferOutcome


def write(outcome: TransferOutcome, folder) -> Path:
    """Write the report; returns the path of report.html."""
    folder = ensure_output_folder(folder)
    pictures = ensure_output_folder(folder / "figures")
    workspace, run = outcome.workspace, outcome.run
    provenance = [
        ("Software", f"CNNSurvival {__version__}"),
        ("Seed", workspace.study.seed),
        ("Weights, SHA-256", outcome.bundle.sha256),
        ("Slices, SHA-256", workspace.pretrain_store.sha256),
    ]
    content = Report(
        study=workspace.study.title,
        summary=[_in_words(each) for each in outcome.populations],
        sections=[*[_population(workspace, each, pictures) for each in outcome.populations], _training(run)],
        configuration=workspace.study.text,
        provenance=provenance,
    )
    return write_report(content, folder)


def _in_words(fitted: Fitted) -> str:
    """One sentence: image, tumour size, both."""
    found = {(row.predictor, row.name): row for row in fitted.metrics.itertuples()}

    def shown(predictor: str, name: str) -> str:
        row = found[predictor, name]
        return f"{row.value:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})"

    against = found[f"image minus {AREA}, within groups", "concordance"]
    verdict = "better" if against.ci_low > 0 else "worse" if against.ci_high < 0 else "neither better nor worse"
    text = (
        f"{fitted.cohort.title}: {len(fitted.held_out.time)} patients, {int(fitted.held_out.event.sum())} deaths. Held "
        f"out, within groups, the image ranks them at {shown('image, within groups', 'concordance')}, the largest area "
        f"alone at {shown(f'{AREA}, within groups', 'concordance')}: shown to be {verdict} (difference "
        f"{against.value:+.3f}, {against.ci_low:+.3f} to {against.ci_high:+.3f}). IPA of the image "
        f"{shown('image', 'ipa')}"
    )
    deaths = int((fitted.held_out.event.astype(bool) & (fitted.held_out.time <= against.horizon_days)).sum())
    ipa = found["image", "ipa"]
    caution = metrics.ipa_caution(*(None if np.isnan(v) else v for v in (ipa.ci_low, ipa.ci_high)), deaths)
    if ("image and clinical", "concordance") in found:
        more = found["image and clinical minus image, within groups", "concordance"]
        helps = "which is shown to help" if more.ci_low > 0 else "which is not shown to help"
        both = shown("image and clinical, within groups", "concordance")
        text += f"; with {', '.join(fitted.cohort.covariates)} {both}, {helps}"
    return f"{text}. {caution}" if caution else text + "."


def _population(workspace, fitted: Fitted, pictures: Path) -> Section:
    name, horizon = fitted.cohort.name, months_text(workspace.horizon)
    how = "by cross-validation" if fitted.cohort.hold_out is None else f"each {fitted.cohort.hold_out} held out in turn"
    items: list = [
        _in_words(fitted),
        _table(f"{name}: scores at {horizon}, {how}", fitted.metrics, " ".join(fitted.notes)),
        _table(f"{name}: within groups", fitted.by_group),
    ]
    if fitted.comparison is not None:
        items.append(_table(f"{name}: how much to learn, cross-validated", fitted.comparison, "The chosen way is the "
                            "simplest whose loss is not shown to be worse than the best, and that ranks no worse than "
                            "the parent. 'free' is the paper's."))  # fmt: skip
    if fitted.seeds is not None:
        items.append(
            _table(
                f"{name}: by seed of the cross-validation",
                fitted.seeds,
                "As the networks are, without a shift fitted on the other folds.",
            )
        )
    shown = "It is shown." if fitted.entry["interval"] else "It is not shown, as it does not cover what it says."
    items.append(_table(f"{name}: coverage of the interval", fitted.coverage, shown))
    items.append(_calibration(workspace, fitted, pictures))
    return Section(fitted.cohort.title, items)


def _calibration(workspace, fitted: Fitted, pictures: Path) -> Figure:
    scores, study = fitted.held_out, workspace.study
    outcome = scores.time, scores.event, fitted.risk, workspace.horizon
    with metrics.warnings_told(workspace.log):
        table = metrics.calibration(*outcome, groups=5)
        curve = metrics.calibration_curve(*outcome, bootstrap=min(200, study.bootstrap), seed=study.seed)
    path = pictures / f"calibration_{fitted.cohort.name}.png"
    figures.calibration_plot(table, workspace.horizon, path, curve, fitted.risk)
    return Figure(f"{fitted.cohort.name}: calibration", path, "Risks of patients held out, in fifths and as a smooth "
                  "curve.")  # fmt: skip


def _training(run) -> Section:
    rows = [(name, str(value)) for name, value in run.info["settings"].items()]
    losses = [float(value) for value in run.info["losses"]]
    return Section("How the network was trained", [
        "Departs from the paper: " + "; ".join(run.info["departures"]) + ".",
        Table("Settings", ("setting", "value"), rows),
        Table("Mean loss of each epoch", ("epoch", "loss"), list(enumerate(losses, 1))),
    ])  # fmt: skip


def _table(title: str, table, note: str = "") -> Table:
    rows = [[None if isinstance(v, float) and np.isnan(v) else v for v in row] for row in table.itertuples(index=False)]
    return Table(title, tuple(table), rows, note)
