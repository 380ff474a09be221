"""The survival curve of one patient as a picture, drawn by matplotlib's file backend: no window, no global state.

Slicer's panel draws the same curve with Qt: CNNSurvivalLib.report.page.draw_curve on widgets/painter.py.
"""

from __future__ import annotations

import io
import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from CNNSurvivalLib.files import atomic_write
from CNNSurvivalLib.hazards import MONTH_DAYS
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY, SPREAD_PERCENTILES, Prediction
from CNNSurvivalLib.report.pictures import tumour_window
from CNNSurvivalLib.report.tables import horizon_table
from CNNSurvivalLib.report.text import median_text, sentence

INK, ACCENT, BAND, GREY, FAINT = "#22313f", "#0b6e8a", "#9fd0dc", "#7b858d", "#e4e8ea"
ALERT, CAUTION = "#b3261e", "#a4510b"
LEFT, RIGHT, PANEL_LEFT, PANEL_RIGHT = 0.066, 0.632, 0.672, 0.976  # the curve, and the panel beside it
SHOWN_SLICES = 4
SCALE_BAR_MM = 20


def survival_figure(prediction: Prediction, path, title: str | None = None) -> None:
    """Write ``survival_png`` to a file. Raises CNNSurvivalError where the file cannot be written."""
    content = survival_png(prediction, title)
    with atomic_write(path, "wb") as stream:
        stream.write(content)


def survival_png(prediction: Prediction, title: str | None = None) -> bytes:
    """The patient's survival curve as the bytes of a PNG file.

    The curve with its spread over slices, the reference cohort's Kaplan-Meier curve behind it, the risk time and the
    median marked; beside it the best slices as the network saw them and a table of S.

    Parameters
    ----------
    prediction : Prediction
    title : str, optional
        Drawn as it is: give no patient's name.
    """
    figure = Figure(figsize=(11.5, 6.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    _draw_curve(figure.add_axes((LEFT, 0.165, RIGHT - LEFT, 0.665)), prediction)
    _draw_slices(figure, prediction)
    _draw_table(figure.add_axes((PANEL_LEFT, 0.165, PANEL_RIGHT - PANEL_LEFT, 0.225)), prediction)
    _draw_words(figure, prediction, title or "Predicted survival")
    stream = io.BytesIO()
    # No metadata: the same prediction gives the same file.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw_curve(axes, p: Prediction) -> None:
    months = p.time_days / MONTH_DAYS
    reference_days, reference = p.bundle.population.kaplan_meier
    low, high = SPREAD_PERCENTILES
    lines = [
        *axes.plot(months, p.survival, color=ACCENT, lw=2.6, zorder=4, label="This tumour (mean over its slices)"),
        axes.fill_between(months, p.survival_low, p.survival_high, color=BAND, alpha=0.6, lw=0, zorder=2,
                          label=f"{low}-{high}% of its {len(p.slices)} slices: agreement, not confidence"),
        *axes.step(reference_days / MONTH_DAYS, reference, where="post", color=GREY, lw=1.4, zorder=3,
                   label=textwrap.fill(f"Kaplan-Meier: {p.bundle.population.reference_label}", 52)),
        *_mark_median(axes, p),
    ]  # fmt: skip
    _mark_risk_time(axes, p)
    axes.set_xlim(0, months[-1])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Months", color=INK)
    axes.set_ylabel("Probability of being alive, S(t)", color=INK)
    axes.set_xticks(np.arange(0, months[-1] + 1, 12 if months[-1] > 36 else 6))
    axes.set_yticks(np.linspace(0, 1, 6), [f"{value:.0%}" for value in np.linspace(0, 1, 6)])
    axes.grid(color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.legend(handles=lines, loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=8.8,
                labelcolor=INK, borderaxespad=0.2)  # fmt: skip


def _mark_risk_time(axes, p: Prediction) -> None:
    """S at the risk time. The text stands where the falling curve does not pass: right above it, or at the bottom."""
    month, value = p.bundle.risk_time_days / MONTH_DAYS, 1 - p.risk
    axes.plot([month, month, 0], [0, value, value], color=ACCENT, lw=1, ls=(0, (4, 3)), zorder=3)
    axes.plot(month, value, "o", color=ACCENT, ms=7, mec="white", mew=1.4, zorder=6)
    above = value < 0.62  # higher up is the legend
    axes.annotate(
        f"{value:.0%} alive at {month:g} months", (month, value if above else 0.03),
        xytext=(11, 9) if above else (6, 0), textcoords="offset points", color=ACCENT, fontsize=11, fontweight="bold",
        va="bottom", ha="left", zorder=7,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "edgecolor": "none"},
    )  # fmt: skip


def _mark_median(axes, p: Prediction) -> list:
    """The median's mark, for the legend; none where S stays above 0.5."""
    if p.median_survival_days is None:
        return []
    month = p.median_survival_days / MONTH_DAYS
    return axes.plot(month, 0.5, "D", color="white", ms=6, mec=INK, mew=1.3, zorder=5, lw=0,
                     label=f"Half have died: {month:.1f} months (median)")  # fmt: skip


def _draw_slices(figure, p: Prediction) -> None:
    """The best slices, all cut to the window that holds the widest of their tumours, so that they are to one scale."""
    shown = p.slices.best(SHOWN_SLICES)
    window = tumour_window(shown.images)
    half = (window.stop - window.start) // 2
    for number, (image, place) in enumerate(zip(shown.images, _places(figure))):
        axes = figure.add_axes(place)
        axes.imshow(image[window, window], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.03, 0.97, f"{shown.area_mm2[number] / 100:.1f} cm²", transform=axes.transAxes, color="white",
                  fontsize=9 if number == 0 else 7, va="top")  # fmt: skip
        pixel = p.bundle.preprocessing.pixel_size_mm
        if number == 0 and pixel and SCALE_BAR_MM / pixel < half:
            end, bottom = 2 * half - 4, 2 * half - 4
            axes.plot([end - SCALE_BAR_MM / pixel, end], [bottom, bottom], color="white", lw=2, solid_capstyle="butt")
            axes.text(end, bottom - 2, f"{SCALE_BAR_MM} mm", color="white", fontsize=7.5, ha="right", va="bottom")


def _places(figure) -> list[tuple[float, float, float, float]]:
    """Figure coordinates of the slices: the best large, the others below one another beside it."""
    width, height = figure.get_size_inches()
    gap = 0.07  # inches
    large = ((PANEL_RIGHT - PANEL_LEFT) * width - gap / 3) * 3 / 4
    small = (large - 2 * gap) / 3
    top, left = 0.83 * height, PANEL_LEFT * width
    inches = [(left, top - large, large, large)]
    inches += [(left + large + gap, top - small - n * (small + gap), small, small) for n in range(SHOWN_SLICES - 1)]
    return [(x / width, y / height, w / width, h / height) for x, y, w, h in inches]


def _draw_table(axes, p: Prediction) -> None:
    axes.set_axis_off()
    header, rows = horizon_table(p)
    cells = [[f"{r['horizon_months']} months", _percent(r["survival"]), _spread(r), _percent(r["reference_survival"])]
             for r in (dict(zip(header, row)) for row in rows)]  # fmt: skip
    table = axes.table(
        [["alive at", "this tumour", "its slices", "cohort"], *cells], cellLoc="center", edges="horizontal",
        bbox=(0, 0, 1, 1), colWidths=(0.27, 0.23, 0.27, 0.23),
    )  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor(FAINT)
        cell.set_text_props(
            color=INK if row and column < 2 else GREY, weight="bold" if row and column == 1 else "normal"
        )


def _draw_words(figure, p: Prediction, title: str) -> None:
    figure.text(LEFT, 0.945, _shortened(title, 60), fontsize=16, fontweight="bold", color=INK)
    figure.text(LEFT, 0.925, textwrap.fill(sentence(p), 140), fontsize=9.5, color=INK, va="top", linespacing=1.35)
    saw = f"What the network saw: {len(p.slices)} slices, the best first"
    figure.text(PANEL_LEFT, 0.842, saw, fontsize=9.5, color=INK)
    horizon = p.rmst_horizon_days / MONTH_DAYS
    facts = f"Median: {median_text(p)}; mean within {horizon:.0f} months: {p.rmst_days / MONTH_DAYS:.1f} months"
    figure.text(PANEL_LEFT, 0.125, facts, fontsize=8.3, color=INK)
    if p.warnings:
        more = f" (and {len(p.warnings) - 1} more)" if len(p.warnings) > 1 else ""
        text = _shortened(f"Warning: {p.warnings[0]}", 165 - len(more)) + more
        figure.text(LEFT, 0.062, text, fontsize=8.2, color=CAUTION)
    figure.text(LEFT, 0.025, RESEARCH_USE_ONLY, fontsize=8.8, fontweight="bold", color=ALERT)
    figure.text(
        PANEL_RIGHT, 0.025, f"Model {p.bundle.id} · {p.provenance['software']}", fontsize=8, color=GREY, ha="right"
    )


def _spread(row: dict) -> str:
    if row["survival"] is None:
        return ""
    return f"{row['survival_p10'] * 100:.0f}-{row['survival_p90']:.0%}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
