"""The figures of a study's report, small PNGs in the manner of ``figures``: no window, no global state.

Each function writes its figure to ``path`` and returns it. The same input gives the same bytes. No figure is larger
than 60 kB. None takes a patient's name.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import atomic_write
from CNNSurvivalLib.hazards import EIGHTEEN_MONTHS_DAYS, MONTH_DAYS, kaplan_meier, months_text, survival_at
from CNNSurvivalLib.network import CROP_PX

from .survival import ACCENT, ALERT, BAND, CAUTION, FAINT, GREY, INK

MAX_BYTES = 60_000
RESOLUTIONS = (150, 130, 110, 90, 75, 60, 45)  # dots per inch, the first that is small enough
COLOURS = (ACCENT, CAUTION, "#5b4b8a", "#4d7c3a", ALERT, GREY)
SHOWN_IMAGES = 10
WINDOW_HU = (-160, 240)
MINUS = "\u2212"
# An interval that ends so many interquartile ranges outside of all values of a plot leaves its axis, with an arrow.
FAR_OUT = 10


def learning_curves(losses: Mapping[str, Sequence[float]], path) -> Path:
    """Mean loss by epoch. losses: the run's label -> its mean loss per epoch. A run of one epoch is a dot."""
    labels = [textwrap.fill(label, 80) for label in losses]
    figure, axes = _figure(7.2, 4 + 0.2 * sum(label.count("\n") + 1 for label in labels))
    for colour, label, values in zip(_colours(len(losses)), labels, losses.values()):
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, color=colour, lw=1.8, marker="o" if len(values) == 1 else None, label=label)
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Mean negative log-likelihood per slice")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_above(figure, axes)
    return _save(figure, path)


def example_inputs(images: np.ndarray, labels: Sequence[str], path) -> Path:
    """What the network sees. images: uint8 [n, 140, 140], the first 10 are shown; labels: a short text for each."""
    images, labels = np.asarray(images)[:SHOWN_IMAGES], labels[:SHOWN_IMAGES]
    if len(images) == 0:
        raise CNNSurvivalError("There is no slice to show; give at least one.")
    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    labels = [_lines_of(label, 21, 5) for label in labels]
    title = 0.1 + 0.13 * max(label.count("\n") + 1 for label in labels)  # inches above each image
    figure = _blank_figure(1.55 * columns, (1.5 + title) * rows)
    for number, (image, label) in enumerate(zip(images, labels)):
        axes = figure.add_subplot(rows, columns, number + 1)
        # 32 grey levels: no eye sees the difference, and noise takes half the space.
        axes.imshow(image // 8 * 8, cmap="gray", vmin=0, vmax=248, interpolation="nearest")
        _bare(axes)
        axes.set_title(label, fontsize=8, color=INK, pad=3, parse_math=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - title / ((1.5 + title) * rows), 0.04, title / 1.5)
    return _save(figure, path)


def too_small_roi(image: np.ndarray, mask: np.ndarray, area_px: int, limit_px: int, path) -> Path:
    """A slice whose contour is too small to use: the CT with the contour, and what the network would have seen.

    image: [rows, columns], HU, or grey levels 0..255 if uint8; mask: the same shape, not 0 inside the contour. Shown is
    the neighbourhood of the contour, at most 140 x 140 pixels.
    """
    window = _window_around(np.asarray(mask) != 0)
    image, mask = np.asarray(image)[window], np.asarray(mask)[window] != 0
    low, high = (0, 255) if image.dtype == np.uint8 else WINDOW_HU
    figure = _blank_figure(6.4, 3.5)
    for number, (picture, title) in enumerate((
        (image, "CT with the contour"), (np.where(mask, image, low), "Masked, as for the network"),
    )):  # fmt: skip
        axes = figure.add_subplot(1, 2, number + 1)
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        if number == 0 and mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=["#ffb000"], linewidths=1.2)
        _bare(axes)
        axes.set_title(title, fontsize=9.5, color=INK)
    text = f"{area_px} pixels inside the contour; at least {limit_px} are needed"
    figure.text(0.5, 0.035, text, fontsize=9.5, color=INK, ha="center")
    figure.subplots_adjust(0.01, 0.09, 0.99, 0.92, 0.03)
    return _save(figure, path)


def survival_pair(
    edges_days: np.ndarray,
    died: np.ndarray,
    died_days: float,
    lived: np.ndarray,
    lived_days: float,
    path,
    horizon_days: float = EIGHTEEN_MONTHS_DAYS,
) -> Path:
    """The curve of a patient who died and that of one who lived, each with what happened.

    died, lived: S at the edges, [m + 1]; died_days: day of death; lived_days: last day known to be alive.
    """
    figure, shared = _blank_figure(9, 3.9), None
    horizon_days = min(horizon_days, edges_days[-1])
    for number, (curve, days, end) in enumerate(((died, died_days, "who died at"), (lived, lived_days, "alive at"))):
        axes = shared = figure.add_subplot(1, 2, number + 1, sharey=shared)
        _style(axes)
        _survival_axes(axes, edges_days[-1])
        colour = ALERT if number == 0 else ACCENT
        axes.plot(np.asarray(edges_days) / MONTH_DAYS, curve, color=colour, lw=2.4, zorder=4)
        month, value = horizon_days / MONTH_DAYS, float(survival_at(curve, edges_days, horizon_days))
        axes.plot([month, month, 0], [0, value, value], color=GREY, lw=1, ls=(0, (4, 3)))
        axes.plot(month, value, "o", color=colour, ms=6, mec="white", zorder=5)
        months = np.asarray(edges_days) / MONTH_DAYS
        _beside(axes, f"S({month:.4g} months) = {value:.0%}", month, value, months, curve)
        # A time beyond the axis is marked at its end.
        at = min(days, edges_days[-1]) / MONTH_DAYS
        axes.plot(at, 0.02, "X" if number == 0 else ">", color=INK, ms=8, mec="white", zorder=6, clip_on=False)
        axes.set_title(f"A patient {end} {days / MONTH_DAYS:.1f} months", fontsize=10.5, color=INK)
        if number:
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
    figure.subplots_adjust(0.085, 0.14, 0.985, 0.92, 0.06)
    return _save(figure, path)


def log_rank_p(time_days, event, risk, cut: float) -> float | None:
    """p of the log-rank test between patients above and not above ``cut``; None where one group is empty, nobody died,
    or each death fell in a time when only one group was followed."""
    time, event, high = np.asarray(time_days, float), np.asarray(event).astype(bool), np.asarray(risk) > cut
    if high.all() or not high.any() or not event.any():
        return None
    from sksurv.compare import compare_survival
    from sksurv.util import Surv

    try:
        return float(compare_survival(Surv.from_arrays(event, time), high)[1])
    except np.linalg.LinAlgError:  # at each death all who were followed were of one group
        return None


def kaplan_meier_by_risk(time_days, event, risk, cut: float, path) -> Path:
    """Kaplan-Meier curves of the patients above and not above a cut, with log-rank test and numbers at risk.

    time_days, event, risk: [n]. cut: as a rule the median risk of the training cohort, never of these patients.
    """
    time, event, high = np.asarray(time_days, float), np.asarray(event).astype(bool), np.asarray(risk) > cut
    figure = _blank_figure(7.2, 5.5)
    axes = figure.add_axes((0.115, 0.263, 0.865, 0.58))
    _style(axes)
    _survival_axes(axes, time.max())
    groups = [(~high, "Lower risk", ACCENT), (high, "Higher risk", ALERT)]
    for members, label, colour in groups:
        if members.any():
            deaths = int(event[members].sum())
            label = f"{label}: {members.sum()} patients, {deaths} deaths"
            _step_curve(axes, time[members], event[members], colour, label)
    p = log_rank_p(time, event, risk, cut)
    title = "Log-rank test not possible" if p is None else f"Log-rank test: {p_text(p)}"
    figure.legend(*axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.1, 0.995), frameon=False,
                  fontsize=9, labelcolor=INK, title=title, title_fontsize=9, alignment="left")  # fmt: skip
    ticks = [tick for tick in axes.get_xticks() if tick <= time.max() / MONTH_DAYS]
    _numbers_at_risk(figure, axes, ticks, [(label, colour, time[members]) for members, label, colour in groups])
    return _save(figure, path)


def p_text(p: float) -> str:
    """0.0341 -> "p = 0.034"; 0.0000001 -> "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def three_decimals(value: float) -> str:
    """-0.03 -> "\u22120.030"; -0.0001 -> "0.000"."""
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", MINUS)


def calibration_plot(
    table: pd.DataFrame, horizon_days: float, path, curve: pd.DataFrame | None = None, risk=None
) -> Path:
    """Predicted against observed risk.

    Parameters
    ----------
    table : DataFrame
        Of ``metrics.calibration``; rows without an observed risk are left out.
    horizon_days : float
    path : path-like
    curve : DataFrame, optional
        Of ``metrics.calibration_curve``: the smooth curve and its band, whose upper end may leave the axes.
    risk : array_like, shape (n,), optional
        The predicted risks, drawn as a histogram below.
    """
    table = table[table["observed"].notna()]
    top = _highest_shown(table, risk)
    figure = _blank_figure(5.4, 5.9 if risk is None else 6.6)
    figure.set_layout_engine("constrained")
    if risk is None:
        axes = lowest = figure.add_subplot()
    else:
        axes, lowest = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
        _style(lowest)
        lowest.hist(np.asarray(risk, float), bins=np.linspace(0, top, 41), color=BAND, edgecolor="white", lw=0.4)
        lowest.set_ylabel("Patients")
        lowest.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    _style(axes)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 3)), label="predicted = observed")
    if curve is not None and curve["observed"].notna().any():
        _band(axes, curve["predicted"], curve, "observed", "smooth curve (Cox, cubic splines), 95 % interval")
    _calibration_groups(axes, table, top)
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(*_percent_ticks(top))
    lowest.set_xlabel(f"Predicted risk of death by {months_text(horizon_days)}")
    axes.set_ylabel("Observed risk")
    _legend_above(figure, axes)
    return _save(figure, path)


def decision_curve_plot(table: pd.DataFrame, horizon_days: float, path) -> Path:
    """Net benefit by threshold, beside treating everybody and nobody. table: of ``metrics.decision_curve``."""
    figure, axes = _figure(6.6, 4.8)
    percent = table["threshold"]
    axes.axhline(0, color=GREY, lw=1.2, label="treat nobody")
    axes.plot(percent, table["treat_all"], color=CAUTION, lw=1.3, ls=(0, (5, 3)), zorder=4, label="treat everybody")
    _band(axes, percent, table, "net_benefit", "treat by predicted risk, 95 % interval")
    top = max(0.05, np.nanmax(table[["net_benefit", "ci_high", "treat_all"]].to_numpy(float)))
    depth = np.clip(-np.nanmin(table["net_benefit"].to_numpy(float)), 0.25 * top, top)
    axes.set_ylim(-1.06 * depth, 1.06 * top)
    axes.set_xlim(0, 1)
    axes.xaxis.set_ticks(*_percent_ticks())
    axes.set_xlabel(f"Threshold: risk of death by {months_text(horizon_days)} from which one would treat")
    axes.set_ylabel("Net benefit per patient")
    _legend_above(figure, axes)
    return _save(figure, path)


def interval_plot(
    rows: Sequence[tuple[str, float | None, float | None, float | None]],
    path,
    quantity: str = "Concordance",
    neutral: float | None = 0.5,
    neutral_label: str = "chance",
    paper: Mapping[str, float] | None = None,
) -> Path:
    """A value with its interval for each model, the first on top.

    rows: (label, value, low, high); None where one is not known. neutral: the value of no information, a line.
    paper: label -> the article's value for it, a hollow mark.
    """
    paper = dict(paper or {})
    labels = [_lines_of(label, 26, 6) for label, *_ in rows]
    most_lines = max((label.count("\n") + 1 for label in labels), default=1)
    figure = _blank_figure(8.4, 1.35 + (0.2 + 0.18 * most_lines) * len(rows))
    axes = figure.add_subplot()
    _style(axes)
    if neutral is not None:
        axes.axvline(neutral, color=GREY, lw=1, ls=(0, (4, 3)), label=f"{neutral_label} ({neutral:g})")
    places = np.arange(len(rows))[::-1]
    first, last = _shown_range([number for row in rows for number in row[1:]], neutral, paper.values())
    texts = []
    for place, (label, value, low, high) in zip(places, rows):
        if value is not None and low is not None and high is not None:
            ends = np.clip([low, high], first, last)
            axes.plot(ends, [place, place], color=BAND, lw=5, solid_capstyle="butt", zorder=3)
            for end, mark, beyond in zip(ends, "<>", (low < first, high > last)):
                axes.plot(*([end], [place]) if beyond else ([], []), mark, color=GREY, ms=8, mec="white", zorder=4)
        if value is not None:
            mark = "<" if value < first else ">" if value > last else "o"
            axes.plot(np.clip(value, first, last), place, mark, color=ACCENT, ms=7, mec="white", zorder=5)
        if label in paper:
            axes.plot(paper[label], place, "D", color="white", mec=CAUTION, mew=1.4, ms=6, zorder=4)
        texts.append(axes.annotate(_value_text(value, low, high), (1.01, place), fontsize=9, color=INK, va="center",
                                   xycoords=("axes fraction", "data")))  # fmt: skip
    if paper:
        axes.plot([], [], "D", color="white", mec=CAUTION, mew=1.4, ms=6, lw=0, label="in the article, on its patients")
    axes.plot([], [], "o", color=ACCENT, mec="white", ms=7, lw=0, label="value, 95 % interval")
    axes.set_yticks(places, labels)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.06)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(quantity)
    height = figure.get_figheight()
    bottom = 0.85 / height
    left = 0.02 + _widest(figure, axes.get_yticklabels())
    figure.subplots_adjust(left, bottom, 0.97 - _widest(figure, texts), 1 - 0.1 / height)
    figure.legend(loc="lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=INK, bbox_to_anchor=(0.5, 0))
    return _save(figure, path)


# --- Inside -----------------------------------------------------------------------------------------------------------


def _lines_of(text: str, width: int, most: int) -> str:
    """The text in lines of so many characters, the lines that it has kept; what does not fit is cut."""
    lines = [line for part in text.splitlines() or [""] for line in textwrap.wrap(part, width) or [""]]
    return "\n".join(lines if len(lines) <= most else [*lines[: most - 2], f"{lines[most - 2]} …", lines[-1]])


def _beside(axes, text: str, month: float, value: float, months: np.ndarray, curve: np.ndarray) -> None:
    """Text beside a point of a curve, on the side where the axes have room and the curve does not run through it."""
    last = months[-1]
    side = -1 if month > 0.6 * last else 1
    passed = np.interp(np.linspace(month, month + side * 0.4 * last, 50), months, curve)
    under = passed.max() > 0.92  # no room above
    height = passed.min() - 0.02 if under else passed.max() + 0.02
    axes.annotate(text, (month, height), xytext=(9 * side, 0), textcoords="offset points", fontsize=9, color=INK,
                  ha="left" if side > 0 else "right", va="top" if under else "bottom", zorder=5)  # fmt: skip


def _shown_range(numbers, neutral: float | None, paper) -> tuple[float, float]:
    """Where the axis of an interval plot may end at most: all numbers, but those far outside of most."""
    known = np.array([number for number in (*numbers, *paper, neutral) if number is not None], float)
    if not len(known):
        return -np.inf, np.inf
    low, high = np.percentile(known, [25, 75])
    reach = FAR_OUT * (high - low) or np.inf
    kept = known[(known >= low - reach) & (known <= high + reach)]
    first, last = float(kept.min()), float(kept.max())
    room = 0.06 * (last - first)  # for the arrows
    return first - room * bool(known.min() < first), last + room * bool(known.max() > last)


def _widest(figure, texts) -> float:
    """The width of the longest text as a part of the figure's."""
    renderer = figure.canvas.get_renderer()
    return max((text.get_window_extent(renderer).width for text in texts), default=0.0) / figure.bbox.width


def _window_around(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of at most 140 x 140 pixels around the contour's centre."""
    places = np.argwhere(mask) if mask.any() else np.array([mask.shape]) // 2
    middle = (places.min(axis=0) + places.max(axis=0)) // 2
    first = [int(np.clip(m - CROP_PX // 2, 0, max(0, n - CROP_PX))) for m, n in zip(middle, mask.shape)]
    return slice(first[0], first[0] + CROP_PX), slice(first[1], first[1] + CROP_PX)


def _blank_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _figure(width: float, height: float):
    """(figure, axes) for a single plot."""
    figure = _blank_figure(width, height)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    _style(axes)
    return figure, axes


def _style(axes) -> None:
    axes.grid(color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _bare(axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _legend_above(figure, axes) -> None:
    """The legend over the axes, where it hides nothing; for a figure with constrained layout."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", frameon=False, fontsize=9,
                  labelcolor=INK, ncols=1)  # fmt: skip


def _band(axes, x, table: pd.DataFrame, column: str, label: str) -> None:
    """A line with its 95 % interval (ci_low, ci_high), if there is one."""
    low, high = (table[name].to_numpy(float) for name in ("ci_low", "ci_high"))
    if np.isfinite(low).any():
        axes.fill_between(x, low, high, color=BAND, alpha=0.45, lw=0, zorder=2)
    else:
        label = label.removesuffix(", 95 % interval")
    axes.plot(x, table[column], color=ACCENT, lw=2, zorder=3, label=label)


def _calibration_groups(axes, table: pd.DataFrame, top: float) -> None:
    """Groups of patients with their intervals and, beside each, how many patients."""
    predicted, observed = (table[name].to_numpy(float) for name in ("mean_predicted", "observed"))
    below, above = observed - table["ci_low"].to_numpy(float), table["ci_high"].to_numpy(float) - observed
    arms = np.clip(np.nan_to_num([below, above]), 0, None)
    axes.errorbar(predicted, observed, yerr=arms, fmt="o", color=INK, ms=6, mec="white", ecolor=GREY, elinewidth=1.4,
                  capsize=2.5, zorder=4, clip_on=False,
                  label="groups of patients (Kaplan-Meier), 95 % interval")  # fmt: skip
    for x, y, count in zip(predicted, observed, table["patients"]):
        side, up = (-1 if x > 0.92 * top else 1), (1 if y < 0.06 * top else -1)
        axes.annotate(f"{count:.0f}", (x, y), xytext=(6 * side, 6 * up), textcoords="offset points", fontsize=8,
                      color=INK, ha="left" if side > 0 else "right", va="bottom" if up > 0 else "top")  # fmt: skip


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _highest_shown(table: pd.DataFrame, risk=None) -> float:
    """Where both axes of a calibration plot end: 100 %, or less where all risks are low and would lie in a corner."""
    shown = [table[name].to_numpy(float) for name in ("mean_predicted", "observed", "ci_high")]
    highest = np.nanmax(np.concatenate([[0.0], *shown, [] if risk is None else np.asarray(risk, float)]))
    return next(top for top in (0.1, 0.2, 0.5, 1.0) if highest <= top or top == 1.0)


def _percent_ticks(top: float = 1.0) -> tuple[np.ndarray, list[str]]:
    values = np.linspace(0, top, 6)
    return values, [f"{value:.0%}" for value in values]


def _survival_axes(axes, last_days: float) -> None:
    months = last_days / MONTH_DAYS
    step = next(step for step in (1, 3, 6, 12, 24, 36, 60, 120, 12 * np.ceil(months / 96)) if months / step <= 9)
    axes.set_xlim(0, months)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(np.arange(0, months + 1e-9, step))
    axes.set_yticks(*_percent_ticks())
    axes.set_xlabel("Months")
    axes.set_ylabel("Probability of being alive")


def _step_curve(axes, time: np.ndarray, event: np.ndarray, colour: str, label: str) -> None:
    """The Kaplan-Meier curve to the last follow-up, with a tick at each time of censoring."""
    deaths, survival = kaplan_meier(time, event)
    days, values = np.concatenate([[0], deaths, [time.max()]]), np.concatenate([[1], survival, survival[-1:]])
    if len(deaths) == 0:
        values = np.ones(2)
    axes.step(days / MONTH_DAYS, values, where="post", color=colour, lw=2, label=label, zorder=4)
    censored = np.unique(time[~event])
    at = values[np.searchsorted(days[:-1], censored, side="right") - 1]
    axes.plot(censored / MONTH_DAYS, at, "|", color=colour, ms=7, mew=1.1, zorder=4)


def _numbers_at_risk(figure, axes, ticks: Sequence[float], groups) -> None:
    left, bottom, width, _ = axes.get_position().bounds
    last = axes.get_xlim()[1]
    figure.text(0.012, bottom - 0.138, "Patients still followed", fontsize=9, color=GREY)
    for row, (label, colour, time) in enumerate(groups):
        y = bottom - 0.183 - 0.045 * row
        figure.text(0.012, y, label.split()[0], fontsize=9, color=colour)
        for tick in ticks:
            count = int(np.sum(time >= tick * MONTH_DAYS))
            figure.text(left + width * tick / last, y, str(count), fontsize=9, color=colour, ha="center")


def _value_text(value, low, high) -> str:
    if value is None:
        return "not measured"
    text = three_decimals(value)
    return text if low is None or high is None else f"{text} ({three_decimals(low)} to {three_decimals(high)})"


def _save(figure: Figure, path) -> Path:
    """Write the figure, in 256 colours, at the finest resolution that keeps it below MAX_BYTES."""
    from PIL import Image

    path = Path(path)
    for dpi in RESOLUTIONS:
        drawn, buffer = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="raw", dpi=dpi)
        size = [int(inches * dpi) for inches in figure.get_size_inches()]
        pixels = Image.frombytes("RGBA", size, drawn.getvalue()).convert("RGB")
        # No metadata: the same input gives the same file.
        pixels.quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
        if buffer.tell() < MAX_BYTES:
            break
    with atomic_write(path, "wb") as stream:
        stream.write(buffer.getvalue())
    return path
