"""The survival curve of one patient as a picture, drawn by matplotlib's file backend: no window, no global state.

Slicer's panel draws the same curve with Qt: CNNSurvivalLib.report.page.draw_curve on widgets/painter.py.
"""

from __future__ import annotations

import io
import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from CNNSurvivalLib.hazards import MONTH_DAYS, months_text
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY, SPREAD_PERCENTILES, Prediction
from CNNSurvivalLib.report.page import OUTSIDE
from CNNSurvivalLib.report.pictures import tumour_window
from CNNSurvivalLib.report.tables import horizon_table
from CNNSurvivalLib.report.text import covariates_text, median_text, sentence, size_text

INK, ACCENT, BAND, GREY, FAINT = "#22313f", "#0b6e8a", "#9fd0dc", "#7b858d", "#e4e8ea"
ALERT, CAUTION = "#b3261e", "#a4510b"
OUTSIDE_BAND = "#ecc9a8"
WIDTH, HEIGHT = 11.5, 7.9  # inches
LEFT, RIGHT, PANEL_LEFT, PANEL_RIGHT = 0.066, 0.632, 0.672, 0.976  # the curve, and the panel beside it
CURVE_BOTTOM, CURVE_TOP = 2.1, HEIGHT - 1.5  # inches from the bottom; the legend lies below, where it hides nothing
RISK_TEXT_SHARE = 0.32  # of the axis' length, what the text at the risk time needs
SHOWN_SLICES = 4
SPREAD = "#5f8f9c"
SCALE_BAR_MM = 20


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
    stream = io.BytesIO()
    # No metadata: the same prediction gives the same file.
    picture(prediction, title).savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def picture(prediction: Prediction, title: str | None = None) -> Figure:
    """The figure of ``survival_png``."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    place = (LEFT, _up(CURVE_BOTTOM), RIGHT - LEFT, _up(CURVE_TOP - CURVE_BOTTOM))
    _draw_curve(figure.add_axes(place), prediction)
    _draw_slices(figure, prediction)
    _draw_table(figure.add_axes((PANEL_LEFT, _up(2.05), PANEL_RIGHT - PANEL_LEFT, _up(1.55))), prediction)
    _draw_words(figure, prediction, title or "Predicted survival")
    return figure


def _up(inches: float) -> float:
    """Inches above the figure's lower edge, as a part of its height."""
    return inches / HEIGHT


def _draw_curve(axes, p: Prediction) -> None:
    months = p.time_days / MONTH_DAYS
    reference_days, reference = p.bundle.population.kaplan_meier
    inside = p.inside_training_range
    label = "This tumour (mean over its slices)" if inside else "This tumour: outside what the model learned from"
    lines = [
        *axes.plot(months, p.survival, color=_color(p), lw=2.6, ls="-" if inside else (0, (4, 1.5)), zorder=4,
                   label=label),
        *_draw_bands(axes, p),
        *axes.step(reference_days / MONTH_DAYS, reference, where="post", color=GREY, lw=1.4, zorder=3,
                   label=_label(f"Kaplan-Meier: {p.bundle.population.reference_label}")),
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
    axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(-0.012, -0.105), ncols=2, frameon=False, fontsize=8.8,
                labelcolor=INK, borderaxespad=0.2, handlelength=1.6, columnspacing=1.4)  # fmt: skip


def _label(text: str) -> str:
    """For the legend: at most three lines."""
    return "\n".join(textwrap.wrap(text, 42, max_lines=3, placeholder=" …"))


def _color(p: Prediction) -> str:
    """Of the patient's curve: a warning where the case is outside of what the model learned from."""
    return ACCENT if p.inside_training_range else CAUTION


def _draw_bands(axes, p: Prediction) -> list:
    """The population's interval as a band and the slices' spread as a pair of lines; without interval the spread is
    the band. Returns what the legend shows."""
    months = p.time_days / MONTH_DAYS
    band = BAND if p.inside_training_range else OUTSIDE_BAND
    low, high = SPREAD_PERCENTILES
    if p.interval_low is None:
        label = f"{low}-{high}% of its {len(p.slices)} slices: agreement, not confidence"
        return [axes.fill_between(months, p.survival_low, p.survival_high, color=band, alpha=0.6, lw=0, zorder=2,
                                  label=label)]  # fmt: skip
    level = p.population.interval_level
    axes.plot(months, p.survival_high, color=SPREAD, lw=1.0, ls=(0, (1, 1.5)), zorder=2.5)
    return [
        axes.fill_between(months, p.interval_low, p.interval_high, color=band, alpha=0.6, lw=0, zorder=2,
                          label=f"{level:.0%} interval for such patients"),
        *axes.plot(months, p.survival_low, color=SPREAD, lw=1.0, ls=(0, (1, 1.5)), zorder=2.5,
                   label=f"{low}-{high}% of the slices"),
    ]  # fmt: skip


def _mark_risk_time(axes, p: Prediction) -> None:
    """S at the risk time, the text at the bottom or above all curves, where none passes."""
    month, value = p.bundle.risk_time_days / MONTH_DAYS, 1 - p.risk
    axes.plot([month, month, 0], [0, value, value], color=_color(p), lw=1, ls=(0, (4, 3)), zorder=3)
    axes.plot(month, value, "o", color=_color(p), ms=7, mec="white", mew=1.4, zorder=6)
    end = p.time_days[-1] / MONTH_DAYS
    side = -1 if month > (1 - RISK_TEXT_SHARE) * end else 1
    lowest, highest = _curves_between(p, *sorted((month, month + side * RISK_TEXT_SHARE * end)))
    axes.annotate(
        f"{value:.0%} alive at {months_text(p.bundle.risk_time_days)}",
        (month, 0.02 if lowest > 0.1 else min(highest + 0.02, 0.93)), xytext=(6 * side, 0),
        textcoords="offset points", color=_color(p), fontsize=11, fontweight="bold", va="bottom",
        ha="left" if side > 0 else "right", zorder=7,
    )  # fmt: skip


def _curves_between(p: Prediction, first: float, last: float) -> tuple[float, float]:
    """The lowest and the highest value of any curve or band between two months."""
    months = np.linspace(first, last, 50)
    bands = [p.survival_low, p.survival_high]
    bands += [] if p.interval_low is None else [p.interval_low, p.interval_high]
    values = [np.interp(months, p.time_days / MONTH_DAYS, curve) for curve in (p.survival, *bands)]
    days, reference = p.bundle.population.kaplan_meier
    passed = np.searchsorted(days, months * MONTH_DAYS, side="right")
    values.append(np.asarray(reference)[passed - 1])
    return float(np.min(values)), float(np.max(values))


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
    top, left = height - 1.4, PANEL_LEFT * width
    inches = [(left, top - large, large, large)]
    inches += [(left + large + gap, top - small - n * (small + gap), small, small) for n in range(SHOWN_SLICES - 1)]
    return [(x / width, y / height, w / width, h / height) for x, y, w, h in inches]


def _draw_table(axes, p: Prediction) -> None:
    axes.set_axis_off()
    header, rows = horizon_table(p)
    level = p.population.interval_level
    kind, beside = ("p", "its slices") if level is None else ("ci", f"{level:.0%} interval")
    cells = [[f"{r['horizon_months']} months", _percent(r["survival"]), _range(r, kind),
              _percent(r["reference_survival"])] for r in (dict(zip(header, row)) for row in rows)]  # fmt: skip
    table = axes.table(
        [["alive at", "this tumour", beside, "cohort"], *cells], cellLoc="center", edges="horizontal",
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
    width = PANEL_RIGHT - LEFT
    heading = _fitted(figure, title, 0.6 if not p.inside_training_range else width, 1, 16, weight="bold")
    figure.text(LEFT, 1 - _up(0.364), heading, fontsize=16, fontweight="bold", color=INK)
    if not p.inside_training_range:
        figure.text(PANEL_RIGHT, 1 - _up(0.343), f"  {OUTSIDE}  ", fontsize=10.5, fontweight="bold", color="white",
                    ha="right", bbox={"boxstyle": "square,pad=0.35", "facecolor": CAUTION, "edgecolor": "none"},
                    )  # fmt: skip
    text = _fitted(figure, sentence(p), width, 3, 9.5)
    figure.text(LEFT, 1 - _up(0.511), text, fontsize=9.5, color=INK, va="top", linespacing=1.3)
    saw = f"What the network saw: {len(p.slices)} slices, the best first"
    figure.text(PANEL_LEFT, 1 - _up(1.33), saw, fontsize=9.5, color=INK)
    horizon = p.rmst_horizon_days / MONTH_DAYS
    facts = [
        f"Median: {median_text(p)}",
        f"Mean within {horizon:.0f} months: {p.rmst_days / MONTH_DAYS:.1f} months",
        f"Tumour: {size_text(p)}",
        f"Population: {p.population.title}",
        *([f"Entered beside the image: {covariates_text(p)}"] if p.covariates else []),
    ]
    lines = [_fitted(figure, fact, PANEL_RIGHT - PANEL_LEFT, 2, 8.3) for fact in facts]
    figure.text(PANEL_LEFT, _up(1.9), "\n".join(lines), fontsize=8.3, color=INK, va="top", linespacing=1.45)
    if p.warnings:
        more = f" (and {len(p.warnings) - 1} more)" if len(p.warnings) > 1 else ""
        text = _fitted(figure, f"Warning: {p.warnings[0]}", width - 0.07, 1, 8.2) + more
        figure.text(LEFT, _up(0.4), text, fontsize=8.2, color=CAUTION)
    figure.text(LEFT, _up(0.175), RESEARCH_USE_ONLY, fontsize=8.8, fontweight="bold", color=ALERT)
    figure.text(
        PANEL_RIGHT, _up(0.175), _fitted(figure, f"Model {p.bundle.id} · {p.provenance['software']}", 0.46, 1, 8),
        fontsize=8, color=GREY, ha="right",
    )  # fmt: skip


def _range(row: dict, kind: str) -> str:
    """Of the slices ("p") or the population's interval ("ci")."""
    if row["survival"] is None:
        return ""
    low, high = ("survival_p10", "survival_p90") if kind == "p" else ("survival_ci_low", "survival_ci_high")
    return f"{row[low] * 100:.0f}-{row[high]:.0%}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _fitted(figure, text: str, width: float, most: int, size: float, weight: str = "normal") -> str:
    """The text in a limited number of lines of a part of the figure's width; the rest is cut."""
    renderer = figure.canvas.get_renderer()
    font = FontProperties(size=size, weight=weight)
    limit = width * figure.bbox.width

    def wide(line: str) -> float:
        return renderer.get_text_width_height_descent(line, font, ismath=False)[0]

    lines: list = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if wide(longer) <= limit or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    cut = len(lines) > most
    return "\n".join(_cut(line, wide, limit, cut and n == most - 1) for n, line in enumerate(lines[:most]))


def _cut(line: str, wide, limit: float, more: bool) -> str:
    """A line that fits, with an ellipsis where something is left out."""
    if not more and wide(line) <= limit:
        return line
    while line and wide(line + "…") > limit:
        line = line[:-1]
    return line + "…"
