"""The survival curve of one patient as a picture.

Slicer's panel and the report draw the same curve: CNNSurvivalLib.report.page.draw_curve.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple

import numpy as np

from CNNSurvivalLib.hazards import MONTH_DAYS, months_text, step_curve
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY, SPREAD_PERCENTILES, Prediction
from CNNSurvivalLib.report.page import OUTSIDE
from CNNSurvivalLib.report.pictures import tumour_window
from CNNSurvivalLib.report.tables import horizon_table
from CNNSurvivalLib.report.text import covariates_text, median_text, sentence, size_text

from .canvas import BOLD, REGULAR, Canvas

INK, ACCENT, BAND, GREY, FAINT = "#22313f", "#0b6e8a", "#9fd0dc", "#7b858d", "#e4e8ea"
ALERT, CAUTION = "#b3261e", "#a4510b"
OUTSIDE_BAND = "#ecc9a8"
SPREAD = "#5f8f9c"
# Points. The curve stands from LEFT to RIGHT and TOP to BOTTOM, the panel with slices and numbers beside it.
WIDTH, HEIGHT = 828, 548
LEFT, RIGHT, TOP, BOTTOM = 54.6, 523.3, 108.4, 420.8
PANEL_LEFT, PANEL_RIGHT = 556.4, 808.1
TOP_SHARE = 1.02  # S at TOP
SHOWN_SLICES = 4
SCALE_BAR_MM = 20
DASHED, DOTTED = (4.0, 3.0), (1.0, 1.5)
LEGEND_TOP = BOTTOM + 42
LEGEND_SIZE, LEGEND_STEP, LEGEND_SIGN = 8.8, 12.6, 26.0  # size of the text, one line to the next, width of the sign


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
    return picture(prediction, title).png()


def picture(prediction: Prediction, title: str | None = None) -> Canvas:
    """The drawing of ``survival_png``."""
    canvas = Canvas(WIDTH, HEIGHT)
    _draw_curve(canvas, prediction)
    _draw_slices(canvas, prediction)
    _draw_table(canvas, prediction)
    _draw_words(canvas, prediction, title or "Predicted survival")
    return canvas


# --- The curve --------------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """Where the curve is drawn. end: the last month."""

    end: float

    def at(self, months, share) -> np.ndarray:
        """Points [n, 2] of months and S; either may be one number."""
        x = LEFT + (RIGHT - LEFT) * np.asarray(months, dtype=np.float64) / self.end
        y = BOTTOM - (BOTTOM - TOP) * np.asarray(share, dtype=np.float64) / TOP_SHARE
        return np.stack(np.broadcast_arrays(x, y), axis=-1)


class _Row(NamedTuple):
    """A line of the legend. sign: "line", "band" or "diamond"."""

    text: str
    sign: str
    color: str
    width: float = 0.0
    dash: tuple = ()


def _draw_curve(canvas: Canvas, p: Prediction) -> None:
    months = p.time_days / MONTH_DAYS
    frame = _Frame(float(months[-1]))
    inside = p.inside_training_range
    label = "This tumour (mean over its slices)" if inside else "This tumour: outside what the model learned from"
    curve = _Row(label, "line", _color(p), 2.6, () if inside else (10.4, 3.9))
    days, share = step_curve(*p.bundle.population.kaplan_meier, p.time_days[-1])
    cohort = _Row(f"Kaplan-Meier: {p.bundle.population.reference_label}", "line", GREY, 1.4)
    reference = frame.at(days / MONTH_DAYS, share)
    bands = _draw_bands(canvas, p, frame)
    _draw_axes(canvas, frame)
    canvas.polyline(reference, cohort.color, cohort.width)
    for spread in (p.survival_low, p.survival_high) if p.interval_low is not None else ():
        canvas.polyline(frame.at(months, spread), SPREAD, 1.0, DOTTED)
    canvas.polyline(frame.at(months, p.survival), curve.color, curve.width, curve.dash)
    median = _mark_median(canvas, p, frame)
    limits = (p.survival_low, p.survival_high) if p.interval_low is None else (p.interval_low, p.interval_high)
    lines = [reference, *(frame.at(months, values) for values in (p.survival, *limits))]
    _mark_risk_time(canvas, p, frame, lines)
    _draw_legend(canvas, [curve, *bands, cohort, *median])


def _color(p: Prediction) -> str:
    """Of the patient's curve: a warning where the case is outside of what the model learned from."""
    return ACCENT if p.inside_training_range else CAUTION


def _draw_axes(canvas: Canvas, frame: _Frame) -> None:
    for share in np.linspace(0, 1, 6):
        (_, y), *_rest = line = frame.at([0, frame.end], share)
        canvas.polyline(line, FAINT, 0.8)
        canvas.text(LEFT - 4, y + 3.4, f"{share:.0%}", 9.5, color=INK, align="right")
    for month in np.arange(0, frame.end + 1e-6, 12 if frame.end > 36 else 6):
        (x, _), *_rest = line = frame.at(month, [0, TOP_SHARE])
        canvas.polyline(line, FAINT, 0.8)
        canvas.text(x, BOTTOM + 11, f"{month:g}", 9.5, color=INK, align="center")
    canvas.polyline([(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], GREY, 0.8)
    canvas.text((LEFT + RIGHT) / 2, BOTTOM + 25, "Months", 10, color=INK, align="center")
    canvas.text(LEFT, TOP - 9, "Probability of being alive, S(t)", 9.5, color=INK)


def _draw_bands(canvas: Canvas, p: Prediction, frame: _Frame) -> list[_Row]:
    """The population's interval as a band; without interval the slices' spread. Returns what the legend says."""
    months = p.time_days / MONTH_DAYS
    color = BAND if p.inside_training_range else OUTSIDE_BAND
    low, high = SPREAD_PERCENTILES
    if p.interval_low is None:
        limits = p.survival_low, p.survival_high
        rows = [_Row(f"{low}-{high}% of its {len(p.slices)} slices: agreement, not confidence", "band", color)]
    else:
        limits = p.interval_low, p.interval_high
        rows = [_Row(f"{p.population.interval_level:.0%} interval for such patients", "band", color),
                _Row(f"{low}-{high}% of the slices", "line", SPREAD, 1.0, DOTTED)]  # fmt: skip
    canvas.polygon(np.concatenate([frame.at(months, limits[0]), frame.at(months, limits[1])[::-1]]), color, 0.6)
    return rows


def _mark_median(canvas: Canvas, p: Prediction, frame: _Frame) -> list[_Row]:
    """The median's mark, for the legend; none where S stays above 0.5."""
    if p.median_survival_days is None:
        return []
    month = p.median_survival_days / MONTH_DAYS
    _diamond(canvas, *frame.at(month, 0.5))
    return [_Row(f"Half have died: {month:.1f} months (median)", "diamond", INK)]


def _diamond(canvas: Canvas, x: float, y: float) -> None:
    for reach, color in ((5.1, INK), (3.3, "white")):
        canvas.polygon([(x - reach, y), (x, y - reach), (x + reach, y), (x, y + reach)], color)


def _mark_risk_time(canvas: Canvas, p: Prediction, frame: _Frame, lines: list[np.ndarray]) -> None:
    """S at the risk time; the text stands where it covers least of the lines (each points [n, 2])."""
    month, value = p.bundle.risk_time_days / MONTH_DAYS, 1 - p.risk
    x, y = frame.at(month, value)
    canvas.polyline([(x, BOTTOM), (x, y), (LEFT, y)], _color(p), 1.0, DASHED)
    turn = np.linspace(0, 2 * np.pi, 48)
    for reach, color in ((4.2, "white"), (2.9, _color(p))):
        canvas.polygon(np.stack([x + reach * np.cos(turn), y + reach * np.sin(turn)], axis=1), color)
    text = f"{value:.0%} alive at {months_text(p.bundle.risk_time_days)}"
    width = canvas.text_width(text, 11, BOLD)
    left = min(x + 11, RIGHT - width)
    places = [(left, y - 11), (left, BOTTOM - 9), (left, y + 20), (RIGHT - width, TOP + 14), (RIGHT - width, y - 11)]
    places = [place for place in places if TOP + 10 <= place[1] <= BOTTOM - 5]
    left, baseline = min(places, key=lambda at: _covered(lines, at[0] - 3, at[0] + width + 3, at[1] - 11, at[1] + 5))
    canvas.text(left, baseline, text, 11, BOLD, _color(p))


def _draw_legend(canvas: Canvas, rows: list[_Row]) -> None:
    """Below the axes, where it hides nothing, in two columns."""
    texts = [textwrap.wrap(row.text, 44, max_lines=3, placeholder=" …") for row in rows]
    half = (sum(len(text) for text in texts) + 1) // 2
    column, baseline, above = 0, LEGEND_TOP, 0
    for row, text in zip(rows, texts):
        if column == 0 and above + len(text) > half:
            column, baseline = 1, LEGEND_TOP
        left = LEFT + column * (RIGHT - LEFT) / 2
        _draw_sign(canvas, row, left, left + LEGEND_SIGN - 7, baseline - 3)
        for line in text:
            canvas.text(left + LEGEND_SIGN, baseline, line, LEGEND_SIZE, color=INK)
            baseline += LEGEND_STEP
        above += len(text)


def _covered(lines: list[np.ndarray], left: float, right: float, top: float, bottom: float) -> int:
    """How much of the lines lies in a box."""
    at = np.linspace(left, right, 50)
    heights = np.array([np.interp(at, *line.T) for line in lines])
    return int(((heights > top) & (heights < bottom)).sum())


def _draw_sign(canvas: Canvas, row: _Row, left: float, right: float, y: float) -> None:
    if row.sign == "diamond":
        _diamond(canvas, (left + right) / 2, y)
    elif row.sign == "band":
        canvas.box(left, y - 3.2, right, y + 3.2, row.color, 0.6)
    else:
        canvas.polyline([(left, y), (right, y)], row.color, row.width, row.dash)


# --- Beside it --------------------------------------------------------------------------------------------------------


def _draw_slices(canvas: Canvas, p: Prediction) -> None:
    """The best slices, all cut to the window that holds the widest of their tumours, so that they are to one scale."""
    shown = p.slices.best(SHOWN_SLICES)
    window = tumour_window(shown.images)
    canvas.text(PANEL_LEFT, TOP - 15, f"What the network saw: {len(p.slices)} slices, the best first", 9.5, color=INK)
    for number, (image, (left, top, edge)) in enumerate(zip(shown.images, _places())):
        canvas.image(left, top, edge, edge, image[window, window])
        size = 9 if number == 0 else 7
        area = f"{shown.area_mm2[number] / 100:.1f} cm²"
        canvas.text(left + 0.03 * edge, top + 0.03 * edge + size, area, size, color="white")
    pixel = p.bundle.preprocessing.pixel_size_mm
    if pixel:
        left, top, edge = _places()[0]
        _draw_scale_bar(canvas, left, top, edge, SCALE_BAR_MM / pixel / (window.stop - window.start))


def _draw_scale_bar(canvas: Canvas, left: float, top: float, edge: float, share: float) -> None:
    """In the picture's lower right corner, where the bar takes less than half of its width."""
    if share < 0.5:
        right, y = left + 0.95 * edge, top + 0.95 * edge
        canvas.polyline([(right - share * edge, y), (right, y)], "white", 2)
        canvas.text(right, y - 5, f"{SCALE_BAR_MM} mm", 7.5, color="white", align="right")


def _places() -> list[tuple[float, float, float]]:
    """(left, top, edge) of the slices: the best large, the others below one another beside it."""
    gap = 5.0
    large = (PANEL_RIGHT - PANEL_LEFT - gap / 3) * 3 / 4
    small = (large - 2 * gap) / 3
    top, beside = TOP - 10, PANEL_LEFT + large + gap
    return [(PANEL_LEFT, top, large), *((beside, top + n * (small + gap), small) for n in range(SHOWN_SLICES - 1))]


def _draw_table(canvas: Canvas, p: Prediction) -> None:
    header, found = horizon_table(p)
    level = p.population.interval_level
    kind, beside = ("p", "its slices") if level is None else ("ci", f"{level:.0%} interval")
    rows = [["alive at", "this tumour", beside, "cohort"]]
    for row in (dict(zip(header, values)) for values in found):
        rows.append([f"{row['horizon_months']} months", _percent(row["survival"]), _range(row, kind),
                     _percent(row["reference_survival"])])  # fmt: skip
    top, bottom = 305.0, 405.5
    step, width = (bottom - top) / len(rows), PANEL_RIGHT - PANEL_LEFT
    for number, cells in enumerate(rows):
        y = top + number * step
        canvas.polyline([(PANEL_LEFT, y), (PANEL_RIGHT, y)], FAINT, 1.0)
        for column, (middle, text) in enumerate(zip((0.135, 0.385, 0.635, 0.885), cells)):
            canvas.text(
                PANEL_LEFT + middle * width, y + step / 2 + 3.2, text, min(9, 0.8 * step),
                BOLD if number and column == 1 else REGULAR, INK if number and column < 2 else GREY, "center",
            )  # fmt: skip
    canvas.polyline([(PANEL_LEFT, bottom), (PANEL_RIGHT, bottom)], FAINT, 1.0)


def _draw_words(canvas: Canvas, p: Prediction, title: str) -> None:
    inside = p.inside_training_range
    width = PANEL_RIGHT - LEFT
    heading = _fitted(canvas, title, width if inside else 0.6 * WIDTH, 1, 16, BOLD)
    canvas.text(LEFT, 26.2, heading[0], 16, BOLD, INK)
    if not inside:
        left = PANEL_RIGHT - canvas.text_width(OUTSIDE, 10.5, BOLD)
        canvas.box(left - 12, 11, PANEL_RIGHT, 31, CAUTION)
        canvas.text(left - 6, 24.7, OUTSIDE, 10.5, BOLD, "white")
    for number, line in enumerate(_fitted(canvas, sentence(p), width, 3, 9.5)):
        canvas.text(LEFT, 46 + 12.4 * number, line, 9.5, color=INK)
    mean = f"mean within {p.rmst_horizon_days / MONTH_DAYS:.0f} months: {p.rmst_days / MONTH_DAYS:.1f} months"
    facts = [
        *_one_or_two(canvas, f"Median: {median_text(p)}", mean, PANEL_RIGHT - PANEL_LEFT, 8.3),
        f"Tumour: {size_text(p)}",
        f"Population: {p.population.title}",
        *([f"Entered beside the image: {covariates_text(p)}"] if p.covariates else []),
    ]
    for number, fact in enumerate(facts):
        line = _fitted(canvas, fact, PANEL_RIGHT - PANEL_LEFT, 1, 8.3)[0]
        canvas.text(PANEL_LEFT, 419 + 11.3 * number, line, 8.3, color=INK)
    if p.warnings:
        more = f" (and {len(p.warnings) - 1} more)" if len(p.warnings) > 1 else ""
        room = width - canvas.text_width(more, 8.2)
        warning = _fitted(canvas, f"Warning: {p.warnings[0]}", room, 1, 8.2)[0]
        canvas.text(LEFT, HEIGHT - 28.5, warning + more, 8.2, color=CAUTION)
    canvas.text(LEFT, HEIGHT - 12.6, RESEARCH_USE_ONLY, 8.8, BOLD, ALERT)
    model = _fitted(canvas, f"Model {p.bundle.id} · {p.provenance['software']}", 0.46 * WIDTH, 1, 8)[0]
    canvas.text(PANEL_RIGHT, HEIGHT - 12.6, model, 8, color=GREY, align="right")


def _one_or_two(canvas: Canvas, first: str, second: str, width: float, size: float) -> list[str]:
    """Both texts in one line, where they fit."""
    both = f"{first}; {second}"
    return [both] if canvas.text_width(both, size) <= width else [first, second[:1].upper() + second[1:]]


def _range(row: dict, kind: str) -> str:
    """Of the slices ("p") or the population's interval ("ci")."""
    if row["survival"] is None:
        return ""
    low, high = ("survival_p10", "survival_p90") if kind == "p" else ("survival_ci_low", "survival_ci_high")
    return f"{row[low] * 100:.0f}-{row[high]:.0%}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _fitted(canvas: Canvas, text: str, width: float, most: int, size: float, font: str = REGULAR) -> list[str]:
    """The text in a limited number of lines of a width in points; the rest is cut."""

    def wide(line: str) -> float:
        return canvas.text_width(line, size, font)

    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if wide(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    cut = len(lines) > most
    return [_cut(line, wide, width, cut and n == most - 1) for n, line in enumerate(lines[:most])]


def _cut(line: str, wide, limit: float, more: bool) -> str:
    """A line that fits, with an ellipsis where something is left out."""
    if not more and wide(line) <= limit:
        return line
    while line and wide(line + "…") > limit:
        line = line[:-1]
    return line + "…"
