"""The report: the result on one page, with curve, table, slices, warnings, model and provenance."""

from __future__ import annotations

import datetime
from typing import Optional

import numpy as np

from ..files import atomic_write
from ..hazards import MONTH_DAYS, step_curve
from ..prediction import RESEARCH_USE_ONLY, Prediction
from .pdf import A4, BOLD, REGULAR, Page, text_width, wrapped
from .pictures import tumour_window
from .tables import horizon_table
from .text import sentence, summary

INK, GREY, FAINT = (0.12, 0.19, 0.25), (0.45, 0.48, 0.52), (0.86, 0.88, 0.9)
BLUE, BAND, RED = (0.03, 0.44, 0.55), (0.77, 0.88, 0.92), (0.7, 0.12, 0.12)
LEFT, RIGHT = 42.0, A4[0] - 42.0
SHOWN_SLICES = 6
MOST_WARNING_LINES = 12
# Nodes of a scene have other keys than files; see prediction.json.
INPUT_LABELS = {"volume": "CT", "image": "CT", "segmentation": "Segmentation", "mask": "Segmentation",
                "segment": "Segment"}  # fmt: skip


def write_report(
    prediction: Prediction, path, inputs: Optional[dict] = None, patient: Optional[str] = None, when: str = ""
) -> None:
    """Write the report as PDF. Needs neither Qt nor Slicer.

    Parameters
    ----------
    prediction : Prediction
    path : path-like
        The file, which is replaced as a whole.
    inputs : dict, optional
        What the prediction was made of, printed: "volume" or "image", "segmentation" or "mask", "segment" -> its name.
    patient : str, optional
        The patient's name, printed where it is given. It is not taken from anywhere else.
    when : str
        The date to print; today where it is empty.

    Raises
    ------
    CNNSurvivalError
        Where the file cannot be written.
    """
    page = Page()
    y = _head(page, prediction, inputs or {}, patient, when or datetime.date.today().isoformat())
    draw_curve(page, prediction, LEFT, y + 4, 320, 235)
    _table(page, prediction, LEFT + 345, y + 14)
    y = _slices(page, prediction, y + 262)
    y = _warnings(page, prediction, y + 14)
    y = _model(page, prediction, y + 8)
    _provenance(page, prediction, y + 8)
    page.text(LEFT, A4[1] - 30, RESEARCH_USE_ONLY, 9, BOLD, RED)
    with atomic_write(path, "wb") as stream:
        stream.write(page.to_bytes(f"Predicted survival, {prediction.bundle.id}"))


# --- The curve, on a page or on a picture ---------------------------------------------------------------------


def draw_curve(canvas, p: Prediction, x: float, y: float, width: float, height: float, scale: float = 1.0) -> None:
    """S(t) with its spread over slices and the reference cohort's Kaplan-Meier curve.

    canvas: a ``pdf.Page``, or another object with its text, polyline and polygon. x, y: the top left corner. scale: of
    texts and lines.
    """
    size = 8 * scale
    left, top, right, bottom = x + 3.6 * size, y + size, x + width - size, y + height - 3.4 * size
    end = float(p.time_days[-1]) / MONTH_DAYS

    def at(months, survival) -> np.ndarray:
        months, survival = np.broadcast_arrays(np.asarray(months, float), np.asarray(survival, float))
        return np.stack([left + (right - left) * months / end, bottom - (bottom - top) * survival], axis=-1)

    months = p.time_days / MONTH_DAYS
    band = np.concatenate([at(months, p.survival_low), at(months, p.survival_high)[::-1]])
    canvas.polygon(band, BAND)
    for part in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        canvas.polyline(at([0, end], part), FAINT, 0.5 * scale)
        canvas.text(left - 0.5 * size, at(0, part)[1] + 0.35 * size, f"{part:.0%}", size, REGULAR, INK, "right")
    step = next(step for step in (6, 12, 24, 48, 120) if end / step <= 8)
    for month in np.arange(0, end + 1e-6, step):
        canvas.polyline(at(month, [0, 1]), FAINT, 0.5 * scale)
        canvas.text(at(month, 0)[0], bottom + 1.4 * size, f"{month:g}", size, REGULAR, INK, "center")
    canvas.text((left + right) / 2, bottom + 2.9 * size, "Months", size, REGULAR, INK, "center")
    days, survival = step_curve(*p.bundle.population.kaplan_meier, p.time_days[-1])
    canvas.polyline(at(days / MONTH_DAYS, survival), GREY, 1.0 * scale)
    canvas.polyline(at(months, p.survival), BLUE, 2.0 * scale)
    risk_month = p.bundle.risk_time_days / MONTH_DAYS
    mark = at(risk_month, 1 - p.risk)
    canvas.polyline([at(risk_month, 0), mark, at(0, 1 - p.risk)], BLUE, 0.6 * scale, (3 * scale, 2 * scale))
    canvas.text(
        at(risk_month, 0)[0] + 0.5 * size, bottom - 0.6 * size, f"{1 - p.risk:.0%} alive at {risk_month:g} months",
        size, BOLD, BLUE,
    )  # fmt: skip
    _legend(canvas, p, right, top, size, scale)


def _legend(canvas, p: Prediction, right, top, size, scale) -> None:
    rows = [
        (BLUE, 2.0, f"this tumour, mean of {p.slices_used} slices"),
        (BAND, 5.0, "10-90% of the slices: agreement, not confidence"),
        (GREY, 1.0, "Kaplan-Meier of the reference cohort"),
    ]
    left = right - max(text_width(text, size) for *_look, text in rows) - 2.5 * size
    for number, (color, width, text) in enumerate(rows):
        y = top + (1.2 + 1.4 * number) * size
        canvas.polyline([(left, y - 0.3 * size), (left + 1.8 * size, y - 0.3 * size)], color, width * scale)
        canvas.text(left + 2.3 * size, y, text, size, REGULAR, INK)


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
    lines = wrapped(text, RIGHT - LEFT, size, font)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][:-3] + "..."]
    for line in lines:
        page.text(LEFT, y, line, size, font, color)
        y += 1.3 * size
    return y


def _table(page: Page, p: Prediction, x: float, y: float) -> None:
    header, rows = horizon_table(p)
    columns = (x, x + 78, x + 122, x + 166)
    for at, text, align in zip(columns, ("alive at", "", "its slices", "cohort"), ("left", *["right"] * 3)):
        page.text(at, y, text, 8, REGULAR, GREY, align)
    for row in rows[:8]:
        cell = dict(zip(header, row))
        y += 15
        page.polyline([(x, y - 10.5), (columns[-1], y - 10.5)], FAINT, 0.5)
        page.text(columns[0], y, f"{cell['horizon_months']:g} months", 8.5, REGULAR, INK)
        page.text(columns[1], y, _percent(cell["survival"]), 9.5, BOLD, INK, "right")
        spread = "" if cell["survival_p10"] is None else f"{cell['survival_p10']:.0%}-{cell['survival_p90']:.0%}"
        page.text(columns[2], y, spread, 8.5, REGULAR, GREY, "right")
        page.text(columns[3], y, _percent(cell["reference_survival"]), 8.5, REGULAR, GREY, "right")
    y += 8
    for label, text in summary(p)[len(p.horizons_months) : -1]:
        for line, font in ((label, REGULAR), (text, BOLD)):
            y += 12.5
            page.text(x, y, line, 8.5, font, GREY if font == REGULAR else INK)


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
    shown = 0
    for warning in p.warnings:
        more = wrapped(f"- {warning}", RIGHT - LEFT, 8.5)
        if len(lines) + len(more) > MOST_WARNING_LINES:
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
    page.text(LEFT, y, f"Model: {p.bundle.title} ({p.bundle.id})"[:110], 9.5, BOLD, INK)
    y += 13
    for fact in p.bundle.facts[:7]:
        y = _paragraph(page, fact, y, 8.5, INK, most=2)
    return _paragraph(page, f"Reference cohort: {p.bundle.population.reference_label}", y, 8.5, INK, most=2)


def _provenance(page: Page, p: Prediction, y: float) -> None:
    known = p.provenance
    parameters = ", ".join(f"{name} {value}" for name, value in known["parameters"].items())
    weights = known["model_weights_sha256"][:16]
    text = f"{known['software']}; weights SHA-256 {weights}...; {known['engine']}; {parameters}."
    _paragraph(page, text, y, 7, GREY, most=3)
