"""Figures, drawn with matplotlib's file backend: no window, no global state."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from CNNSurvivalLib.files import atomic_write
from CNNSurvivalLib.hazards import MONTH_DAYS
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY, SPREAD_PERCENTILES, Prediction, horizon_table, median_text

INK, ACCENT, BAND, GREY, FAINT = "#22313f", "#0b6e8a", "#9fd0dc", "#8a939b", "#e4e8ea"
SHOWN_SLICES = 4
ZOOM_MARGIN_PX = 6


def survival_figure(prediction: Prediction, path, title: str | None = None) -> None:
    """Draw the patient's survival curve as a PNG.

    The curve with its spread over slices, the reference cohort's Kaplan-Meier curve behind it, the risk time
    marked; beside it the best slices as the network saw them and a table of S. ``title`` is drawn as it is: give
    no patient's name. Raises CNNSurvivalError where the file cannot be written.
    """
    figure = Figure(figsize=(11, 6.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        2, 2, width_ratios=(2.15, 1), height_ratios=(1.08, 1), left=0.07, right=0.975, top=0.83, bottom=0.155,
        wspace=0.13, hspace=0.24,
    )  # fmt: skip
    _draw_curve(figure.add_subplot(grid[:, 0]), prediction)
    _draw_slices(figure, grid[0, 1], prediction)
    _draw_table(figure.add_subplot(grid[1, 1]), prediction)
    _draw_words(figure, prediction, title or "Predicted survival")
    with atomic_write(path, "wb") as stream:
        # No metadata: the same prediction gives the same file.
        figure.savefig(stream, format="png", metadata={"Software": None})


def _draw_curve(axes, p: Prediction) -> None:
    months = p.time_days / MONTH_DAYS
    reference_days, reference = p.bundle.kaplan_meier
    axes.step(reference_days / MONTH_DAYS, reference, where="post", color=GREY, lw=1.3,
              label=f"Kaplan-Meier: {p.bundle.reference_label}")  # fmt: skip
    low, high = SPREAD_PERCENTILES
    axes.fill_between(months, p.survival_low, p.survival_high, color=BAND, alpha=0.6, lw=0,
                      label=f"{low}-{high}% of the {len(p.slices)} slice curves (no confidence interval)")  # fmt: skip
    axes.plot(months, p.survival, color=ACCENT, lw=2.4, label="This tumour: mean of its slice curves")
    _mark_risk_time(axes, p)
    axes.set(xlim=(0, months[-1]), ylim=(0, 1.02), xlabel="Months", ylabel="Probability of survival S(t)")
    axes.set_xticks(np.arange(0, months[-1] + 1, 12))
    axes.set_yticks(np.linspace(0, 1, 6), [f"{value:.0%}" for value in np.linspace(0, 1, 6)])
    axes.grid(color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, length=0)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper right", frameon=True, framealpha=0.92, edgecolor="none",
                fontsize=8.5)  # fmt: skip


def _mark_risk_time(axes, p: Prediction) -> None:
    month, value = p.bundle.risk_time_days / MONTH_DAYS, 1 - p.risk
    axes.plot([month, month, 0], [0, value, value], color=ACCENT, lw=1, ls=(0, (4, 3)))
    axes.plot(month, value, "o", color=ACCENT, ms=6, mec="white", mew=1.2)
    axes.annotate(f"{value:.0%} at {month:g} months", (month, value), xytext=(-9, -9), textcoords="offset points",
                  color=ACCENT, fontsize=10, fontweight="bold", va="top", ha="right")  # fmt: skip


def _draw_slices(figure, cell, p: Prediction) -> None:
    """The best slices, all cut to the window that holds the widest of them."""
    shown = p.slices.best(SHOWN_SLICES)
    inner = cell.subgridspec(2, 2, wspace=0.06, hspace=0.22)
    rows, columns = np.nonzero(shown.images.any(axis=0))
    size = shown.images.shape[1]
    half = max(size // 2 - min(rows.min(), columns.min()), max(rows.max(), columns.max()) - size // 2) + ZOOM_MARGIN_PX
    window = slice(max(size // 2 - half, 0), min(size // 2 + half, size))
    for number in range(SHOWN_SLICES):
        axes = figure.add_subplot(inner[number // 2, number % 2])
        axes.set_axis_off()
        if number < len(shown):
            axes.imshow(shown.images[number][window, window], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(f"{number + 1}. slice {shown.slice_index[number]}: {shown.area_mm2[number] / 100:.1f} cm²",
                           fontsize=7.5, color=INK, pad=3)  # fmt: skip


def _draw_table(axes, p: Prediction) -> None:
    axes.set_axis_off()
    header, rows = horizon_table(p)
    cells = [[f"{r['horizon_months']} months", _percent(r["survival"]), _spread(r), _percent(r["reference_survival"])]
             for r in (dict(zip(header, row)) for row in rows)]  # fmt: skip
    table = axes.table(
        [["", "S(t)", "slices", "cohort"], *cells], cellLoc="center", bbox=(0, 0.34, 1, 0.66), edges="horizontal"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor(FAINT)
        cell.set_text_props(color=GREY if row == 0 or column > 1 else INK, weight="bold" if column == 1 else "normal")
    horizon = p.rmst_horizon_days / MONTH_DAYS
    lines = (
        f"Median survival: {median_text(p)}",
        f"Mean within {horizon:.0f} months: {p.rmst_days / MONTH_DAYS:.1f} months",
        f"Slices used: {len(p.slices)} of {p.slices.roi_slices} with tumour",
    )
    axes.text(0, 0.25, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8.5, color=INK, linespacing=1.55)


def _draw_words(figure, p: Prediction, title: str) -> None:
    figure.text(0.07, 0.948, _shortened(title, 90), fontsize=15, fontweight="bold", color=INK)
    figure.text(0.07, 0.928, textwrap.fill(p.sentence, 112), fontsize=9.2, color=INK, va="top", linespacing=1.4)
    figure.text(0.708, 0.862, "What the network saw, best-ranked first", fontsize=8.5, color=GREY)
    if p.warnings:
        more = f" (and {len(p.warnings) - 1} more)" if len(p.warnings) > 1 else ""
        figure.text(0.07, 0.062, _shortened(f"Warning: {p.warnings[0]}", 165 - len(more)) + more, fontsize=8,
                    color="#a4510b")  # fmt: skip
    figure.text(0.07, 0.025, RESEARCH_USE_ONLY, fontsize=8.5, fontweight="bold", color="#b3261e")
    figure.text(0.975, 0.025, f"Model {p.bundle.id} · {p.provenance['software']}", fontsize=8, color=GREY, ha="right")


def _spread(row: dict) -> str:
    if row["survival"] is None:
        return ""
    return f"{row['survival_p10'] * 100:.0f}-{row['survival_p90']:.0%}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
