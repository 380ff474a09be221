"""The report: the result on one page, with curve, table, slices, warnings, model and provenance."""

from __future__ import annotations

import datetime
from typing import NamedTuple, Optional

import numpy as np

from ..files import atomic_write
from ..hazards import MONTH_DAYS, months_text, step_curve
from ..prediction import RESEARCH_USE_ONLY, Prediction
from .pdf import A4, BOLD, REGULAR, Page, wrapped
from .pictures import tumour_window
from .tables import horizon_table
from .text import sentence, summary

INK, GREY, FAINT = (0.12, 0.19, 0.25), (0.45, 0.48, 0.52), (0.86, 0.88, 0.9)
RED = (0.7, 0.12, 0.12)
LEFT, RIGHT = 42.0, A4[0] - 42.0
SHOWN_SLICES = 6
MOST_WARNING_LINES = 12
BELOW_WARNINGS = 205.0  # points that the model, the provenance and the last line need
OUTSIDE = "Outside what the model learned from"


class Look(NamedTuple):
    """The colours of a curve, each (red, green, blue) from 0 to 1."""

    ink: tuple
    reference: tuple
    grid: tuple
    curve: tuple
    band: tuple
    spread: tuple
    caution: tuple  # the curve, and the banner, of a case outside of what the model learned from
    caution_band: tuple
    on_caution: tuple  # text on the banner
    paper: tuple  # the background


ON_LIGHT = Look(INK, GREY, FAINT, (0.03, 0.44, 0.55), (0.77, 0.88, 0.92), (0.37, 0.56, 0.61), (0.64, 0.32, 0.04),
                (0.96, 0.88, 0.79), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))  # fmt: skip
ON_DARK = Look((0.9, 0.92, 0.94), (0.66, 0.68, 0.7), (0.3, 0.31, 0.33), (0.36, 0.8, 0.92), (0.12, 0.3, 0.36),
               (0.5, 0.7, 0.75), (1.0, 0.66, 0.3), (0.34, 0.23, 0.12), (0.1, 0.08, 0.05), (0.0, 0.0, 0.0))  # fmt: skip
# Nodes of a scene have other keys than files; see prediction.json.
INPUT_LABELS = {"volume": "CT", "image": "CT", "segmentation": "Segmentation", "mask": "Segmentation",
                "segment": "Segment"}  # fmt: skip


def write_report(
    prediction: Prediction, path, inputs: Optional[dict] = None, patient: Optional[str] = None, when: str = ""
) -> None:
    """Write the report as PDF: ``report_pdf`` into a file, which is replaced as a whole.

    Raises
    ------
    CNNSurvivalError
        Where the file cannot be written.
    """
    content = report_pdf(prediction, inputs, patient, when)
    with atomic_write(path, "wb") as stream:
        stream.write(content)


def report_pdf(
    prediction: Prediction, inputs: Optional[dict] = None, patient: Optional[str] = None, when: str = ""
) -> bytes:
    """The report as the bytes of a PDF file. Needs neither Qt nor Slicer.

    Parameters
    ----------
    prediction : Prediction
    inputs : dict, optional
        What the prediction was made of, printed: "volume" or "image", "segmentation" or "mask", "segment" -> its name.
    patient : str, optional
        The patient's name, printed where it is given. It is not taken from anywhere else.
    when : str
        The date to print; today where it is empty.
    """
    page = Page()
    y = _head(page, prediction, inputs or {}, patient, when or datetime.date.today().isoformat())
    draw_curve(page, prediction, LEFT, y + 4, 320, 235)
    bottom = _table(page, prediction, LEFT + 345, y + 14)
    y = _slices(page, prediction, max(y + 262, bottom + 16))
    y = _warnings(page, prediction, y + 14)
    y = _model(page, prediction, y + 8)
    _provenance(page, prediction, y + 8)
    page.text(LEFT, A4[1] - 30, RESEARCH_USE_ONLY, 9, BOLD, RED)
    return page.to_bytes(f"Predicted survival, {prediction.bundle.id}")


# --- The curve, on a page or on a picture ---------------------------------------------------------------------


def draw_curve(
    canvas,
    p: Prediction,
    x: float,
    y: float,
    width: float,
    height: float,
    scale: float = 1.0,
    look: Look = ON_LIGHT,
    legend_below: bool = False,
) -> None:
    """S(t) with the population's interval, its spread over slices and the reference cohort's Kaplan-Meier curve.

    Without an interval the spread is the band. A case outside of what the model learned from is dashed, in another
    colour, under a banner that says so.

    canvas: a ``pdf.Page``, or another object with its text, polyline, polygon and text_width. x, y: the top left
    corner. scale: of texts and lines. look: the colours; the background is drawn behind one text only. legend_below:
    where the picture is small, so that no curve runs through the legend.
    """
    size = 8 * scale
    head = size if p.inside_training_range else 3 * size  # room for the banner
    foot = (4.9 if legend_below else 3.4) * size
    left, top, right, bottom = x + 3.6 * size, y + head, x + width - size, y + height - foot
    end = float(p.time_days[-1]) / MONTH_DAYS

    def at(months, survival) -> np.ndarray:
        months, survival = np.broadcast_arrays(np.asarray(months, float), np.asarray(survival, float))
        return np.stack([left + (right - left) * months / end, bottom - (bottom - top) * survival], axis=-1)

    months = p.time_days / MONTH_DAYS
    color, band_color = _colors(p, look)
    limits = (p.survival_low, p.survival_high) if p.interval_low is None else (p.interval_low, p.interval_high)
    canvas.polygon(np.concatenate([at(months, limits[0]), at(months, limits[1])[::-1]]), band_color)
    for part in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        canvas.polyline(at([0, end], part), look.grid, 0.5 * scale)
        canvas.text(left - 0.5 * size, at(0, part)[1] + 0.35 * size, f"{part:.0%}", size, REGULAR, look.ink, "right")
    step = next(step for step in (6, 12, 24, 48, 120) if end / step <= 8)
    ticks = np.arange(0, end + 1e-6, step)
    for month in ticks:
        canvas.polyline(at(month, [0, 1]), look.grid, 0.5 * scale)
        if month < ticks[-1] or not legend_below:
            canvas.text(at(month, 0)[0], bottom + 1.4 * size, f"{month:g}", size, REGULAR, look.ink, "center")
    if legend_below:  # no line for the axis' title
        canvas.text(right + 0.9 * size, bottom + 1.4 * size, f"{ticks[-1]:g} months", size, REGULAR, look.ink, "right")
    else:
        canvas.text((left + right) / 2, bottom + 2.9 * size, "Months", size, REGULAR, look.ink, "center")
    days, survival = step_curve(*p.bundle.population.kaplan_meier, p.time_days[-1])
    canvas.polyline(at(days / MONTH_DAYS, survival), look.reference, 1.0 * scale)
    if p.interval_low is not None:
        for spread in (p.survival_low, p.survival_high):
            canvas.polyline(at(months, spread), look.spread, 0.7 * scale, (1.5 * scale, 1.5 * scale))
    dash = () if p.inside_training_range else (5 * scale, 2 * scale)
    canvas.polyline(at(months, p.survival), color, 2.0 * scale, dash)
    risk_month = p.bundle.risk_time_days / MONTH_DAYS
    mark = at(risk_month, 1 - p.risk)
    canvas.polyline([at(risk_month, 0), mark, at(0, 1 - p.risk)], color, 0.6 * scale, (3 * scale, 2 * scale))
    curves = [at(months, each) for each in (*limits, p.survival)] + [at(days / MONTH_DAYS, survival)]
    alive = f"{1 - p.risk:.0%} alive at {months_text(p.bundle.risk_time_days)}"
    place = at(risk_month, 0)[0] + 0.5 * size
    width = canvas.text_width(alive, size, BOLD)
    baseline = _free_baseline(curves, place, width, (bottom - 0.6 * size, mark[1] - size), size)
    _blank(canvas, place, baseline, width, size, look)
    canvas.text(place, baseline, alive, size, BOLD, color)
    if not p.inside_training_range:
        _banner(canvas, left, right, top - 0.9 * size, size, look)
    if legend_below:
        _legend_below(canvas, _legend_rows(p, scale, look, short=True), x + size, bottom + 3.1 * size, size)
    else:
        _legend(canvas, _legend_rows(p, scale, look), curves, (top, right, bottom), size)


def _colors(p: Prediction, look: Look) -> tuple:
    """(of the curve, of its band)."""
    return (look.curve, look.band) if p.inside_training_range else (look.caution, look.caution_band)


def _free_baseline(curves: list, left: float, width: float, wanted: tuple, size: float) -> float:
    """The first of the wanted baselines where a text covers no curve; else above all of them, as curves fall."""
    for baseline in wanted:
        if not _covered(curves, left, left + width, baseline - size, 1.3 * size):
            return baseline
    return min(float(np.interp(left, *curve.T)) for curve in curves) - 0.6 * size


def _blank(canvas, left, baseline, width, size, look: Look) -> None:
    """Room for a line of text, so that no curve runs through it."""
    top, right, bottom = baseline - 0.95 * size, left + width, baseline + 0.3 * size
    canvas.polygon(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), look.paper)


def _banner(canvas, left, right, bottom, size, look: Look) -> None:
    """Above the curve, in the warning colour."""
    top = bottom - 1.7 * size
    canvas.polygon(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), look.caution)
    canvas.text((left + right) / 2, bottom - 0.5 * size, OUTSIDE, size, BOLD, look.on_caution, "center")


def _legend_rows(p: Prediction, scale: float, look: Look, short: bool = False) -> list[tuple]:
    """(colour of the text, colour, width and dash of the line, text) of what is drawn."""
    color, band = _colors(p, look)
    dotted, dash = (1.5 * scale, 1.5 * scale), () if p.inside_training_range else (5 * scale, 2 * scale)
    if p.interval_low is None:
        bands = [(look.ink, band, 5.0 * scale, (), "10-90% of the slices: agreement, not confidence")]
    else:
        bands = [(look.ink, band, 5.0 * scale, (), f"{p.population.interval_level:.0%} interval for such patients"),
                 (look.ink, look.spread, 0.7 * scale, dotted, "10-90% of the slices")]  # fmt: skip
    plural = "" if p.slices_used == 1 else "s"
    cohort = "reference cohort" if short else "Kaplan-Meier of the reference cohort"
    return [
        (look.ink, color, 2.0 * scale, dash, f"this tumour, mean of {p.slices_used} slice{plural}"),
        *bands,
        (look.ink, look.reference, 1.0 * scale, (), cohort),
    ]


def _legend(canvas, rows: list, curves: list, frame: tuple, size: float) -> None:
    """Inside the frame (top, right, bottom) at its right: at the top or at the bottom, where it covers less of the
    curves (each points [n, 2])."""
    top, right, bottom = frame
    height = (1.4 * len(rows) + 0.4) * size
    left = right - max(canvas.text_width(text, size) for *_look, text in rows) - 2.5 * size
    lower = bottom - height - 1.2 * size
    if _covered(curves, left, right, lower, height) < _covered(curves, left, right, top, height):
        top = lower
    for number, row in enumerate(rows):
        _legend_row(canvas, row, left, top + (1.2 + 1.4 * number) * size, size)


def _legend_below(canvas, rows: list, left: float, baseline: float, size: float) -> None:
    """In two columns, from the first row's baseline."""
    first = rows[::2]
    second = left + max(canvas.text_width(text, size) for *_look, text in first) + 4.5 * size
    for number, row in enumerate(rows):
        _legend_row(canvas, row, second if number % 2 else left, baseline + 1.5 * (number // 2) * size, size)


def _legend_row(canvas, row: tuple, left: float, baseline: float, size: float) -> None:
    ink, color, width, dash, text = row
    y = baseline - 0.3 * size
    canvas.polyline([(left, y), (left + 1.8 * size, y)], color, width, dash)
    canvas.text(left + 2.3 * size, baseline, text, size, REGULAR, ink)


def _covered(curves: list, left: float, right: float, top: float, height: float) -> int:
    """How much of the curves lies in a box."""
    xs = np.linspace(left, right, 50)
    ys = np.array([np.interp(xs, *curve.T) for curve in curves])
    return int(((ys > top) & (ys < top + height)).sum())


# --- The rest of the page -------------------------------------------------------------------------------------


def _head(page: Page, p: Prediction, inputs: dict, patient: Optional[str], when: str) -> float:
    page.text(LEFT, 52, "Predicted survival", 18, BOLD, INK)
    page.text(RIGHT, 52, when, 9, REGULAR, GREY, "right")
    page.text(LEFT, 68, RESEARCH_USE_ONLY, 9, BOLD, RED)
    facts = [("Patient", patient), *((label, inputs.get(key)) for key, label in INPUT_LABELS.items())]
    text = "; ".join(f"{label}: {value}" for label, value in facts if value)
    y = _paragraph(page, text, 84, 8.5, GREY, most=2) if text else 74
    return _paragraph(page, sentence(p), y + 6, 10.5, INK, most=4)


def _paragraph(page: Page, text: str, y: float, size: float, color, font=REGULAR, most: int = 99) -> float:
    """Text over the page's width from baseline y; returns the next line's baseline."""
    for line in _lines(text, RIGHT - LEFT, size, font, most):
        page.text(LEFT, y, line, size, font, color)
        y += 1.3 * size
    return y


def _lines(text: str, width: float, size: float, font, most: int) -> list[str]:
    """The text in a limited number of lines; the rest is cut."""
    lines = wrapped(text, width, size, font)
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1][:-3] + "..."]


def _table(page: Page, p: Prediction, x: float, y: float) -> float:
    """The horizons and the summary; returns the last baseline."""
    header, rows = horizon_table(p)
    columns = (x, x + 78, x + 122, x + 166)
    level = p.population.interval_level
    beside = "its slices" if level is None else f"{level:.0%} int."
    for at, text, align in zip(columns, ("alive at", "", beside, "cohort"), ("left", *["right"] * 3)):
        page.text(at, y, text, 8, REGULAR, GREY, align)
    for row in rows[:8]:
        cell = dict(zip(header, row))
        y += 15 if len(rows) <= 5 else 12
        page.polyline([(x, y - 9.5), (columns[-1], y - 9.5)], FAINT, 0.5)
        page.text(columns[0], y, f"{cell['horizon_months']:g} months", 8.5, REGULAR, INK)
        page.text(columns[1], y, _percent(cell["survival"]), 9.5, BOLD, INK, "right")
        low, high = ("survival_p10", "survival_p90") if level is None else ("survival_ci_low", "survival_ci_high")
        spread = "" if cell[low] is None else f"{cell[low]:.0%}-{cell[high]:.0%}"
        page.text(columns[2], y, spread, 8.5, REGULAR, GREY, "right")
        page.text(columns[3], y, _percent(cell["reference_survival"]), 8.5, REGULAR, GREY, "right")
    y += 8
    for label, text in summary(p)[len(p.horizons_months) : -1]:
        y += 11.5
        page.text(x, y, label, 8, REGULAR, GREY)
        for line in _lines(text, RIGHT - x, 8, BOLD, 2):
            y += 9.5
            page.text(x, y, line, 8, BOLD, INK)
    return y


def _percent(value) -> str:
    return "-" if value is None else f"{value:.0%}"


def _slices(page: Page, p: Prediction, y: float) -> float:
    count = min(SHOWN_SLICES, len(p.slices))
    page.text(LEFT, y, f"What the network saw: the best {count} of {len(p.slices)} slices", 9.5, BOLD, INK)
    edge = (RIGHT - LEFT - (SHOWN_SLICES - 1) * 8) / SHOWN_SLICES
    for rank in range(count):
        x = LEFT + rank * (edge + 8)
        window = tumour_window(p.slices.images[rank])
        page.image(x, y + 7, edge, edge, p.slices.images[rank][window, window])
        text = f"{rank + 1}: {p.slices.area_mm2[rank] / 100:.1f} cm2, risk {p.slice_risk[rank]:.0%}"
        page.text(x, y + edge + 17, text if p.used[rank] else "left out", 7, REGULAR, GREY)
    return y + edge + 24


def _warnings(page: Page, p: Prediction, y: float) -> float:
    page.text(LEFT, y, "Warnings", 9.5, BOLD, INK)
    if not p.warnings:
        page.text(LEFT, y + 13, "None.", 8.5, REGULAR, GREY)
        return y + 24
    lines: list = []
    shown, room = 0, min(MOST_WARNING_LINES, max(2, int((A4[1] - BELOW_WARNINGS - y) / 11.5)))
    for warning in p.warnings:
        more = wrapped(f"- {warning}", RIGHT - LEFT, 8.5)
        if len(lines) + len(more) > room:
            break
        lines += more
        shown += 1
    if shown < len(p.warnings):
        lines.append(f"... and {len(p.warnings) - shown} more; prediction.json has them all.")
    for line in lines:
        y += 11.5
        page.text(LEFT, y, line, 8.5, REGULAR, RED)
    return y + 12


def _model(page: Page, p: Prediction, y: float) -> float:
    y = _paragraph(page, f"Model: {p.bundle.title} ({p.bundle.id})", y, 9.5, INK, BOLD, most=1) + 0.65
    for fact in p.bundle.facts[:7]:
        y = _paragraph(page, fact, y, 8.5, INK, most=2)
    return _paragraph(page, f"Reference cohort: {p.bundle.population.reference_label}", y, 8.5, INK, most=2)


def _provenance(page: Page, p: Prediction, y: float) -> None:
    known = p.provenance
    parameters = ", ".join(f"{name} {value}" for name, value in known["parameters"].items())
    weights = known["model_weights_sha256"][:16]
    text = f"{known['software']}; weights SHA-256 {weights}...; {known['engine']}; {parameters}."
    _paragraph(page, text, y, 7, GREY, most=3)
