"""A picture to draw on, by Pillow: it is loaded in a tenth of the time that matplotlib needs."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from CNNSurvivalLib.errors import CNNSurvivalError

REGULAR, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"
DPI = 150
PX = DPI / 72  # pixels per point
FINE = 4  # shapes are drawn so many times finer, then averaged: smooth edges
ANCHORS = {"left": "ls", "center": "ms", "right": "rs"}


class Text(NamedTuple):
    """A text that was drawn, and the box of its ink in points."""

    words: str
    left: float
    top: float
    right: float
    bottom: float


class Canvas:
    """x to the right and y downwards from the top left corner, in points, as on ``CNNSurvivalLib.report.pdf.Page``.

    Colours are names such as "#22313f". ``texts`` are those drawn so far.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.texts: list[Text] = []
        self._image = Image.new("RGB", (round(width * PX), round(height * PX)), "white")
        self._draw = ImageDraw.Draw(self._image)

    def text(self, x, y, text: str, size=9.0, font=REGULAR, color="black", align="left") -> None:
        """y is the baseline. align: "left", "right" or "center" of x."""
        text = _plain(text)
        place, about = (x * PX, y * PX), {"font": _font(font, size), "anchor": ANCHORS[align]}
        self._draw.text(place, text, fill=color, **about)
        self.texts.append(Text(text, *(value / PX for value in self._draw.textbbox(place, text, **about))))

    def text_width(self, text: str, size=9.0, font=REGULAR) -> float:
        """How wide ``text`` draws it, in points."""
        return _font(font, size).getlength(_plain(text)) / PX

    def polyline(self, points, color, width=1.0, dash=()) -> None:
        """points: [n, 2] of x, y. dash: lengths drawn and left out, in turn."""
        points = np.asarray(points, dtype=np.float64)
        mask, offset = _mask(points, width)
        pen, thick = ImageDraw.Draw(mask), max(1, round(width * PX * FINE))
        for part in _dashes(points, dash) if dash else [points]:
            pen.line(_flat(part, offset), fill=255, width=thick, joint="curve")
        self._image.paste(color, offset, mask.reduce(FINE))

    def polygon(self, points, color, opacity=1.0) -> None:
        """Filled, without an outline."""
        points = np.asarray(points, dtype=np.float64)
        mask, offset = _mask(points, 0)
        ImageDraw.Draw(mask).polygon(_flat(points, offset), fill=round(255 * opacity))
        self._image.paste(color, offset, mask.reduce(FINE))

    def box(self, left, top, right, bottom, color, opacity=1.0) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color, opacity)

    def image(self, x, y, width, height, pixels: np.ndarray) -> None:
        """uint8 [rows, columns], grey, each pixel a block; x, y is the top left corner."""
        corner, size = (round(x * PX), round(y * PX)), (round(width * PX), round(height * PX))
        grey = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
        self._image.paste(grey.resize(size, Image.Resampling.NEAREST).convert("RGB"), corner)

    def png(self) -> bytes:
        """The picture as a file; the same drawing gives the same bytes."""
        return _png(np.asarray(self._image))


def _mask(points: np.ndarray, width: float) -> tuple[Image.Image, tuple[int, int]]:
    """(an empty mask, finer than the picture, that holds a line through the points; the pixel of its corner)."""
    margin = width * PX / 2 + 2
    left, top = np.floor(points.min(axis=0) * PX - margin).astype(int).tolist()
    right, bottom = np.ceil(points.max(axis=0) * PX + margin).astype(int).tolist()
    return Image.new("L", ((right - left) * FINE, (bottom - top) * FINE)), (left, top)


def _flat(points: np.ndarray, offset: tuple[int, int]) -> list[tuple[float, float]]:
    """In pixels of the mask with its corner at the offset; Pillow's whole numbers are the middles of pixels."""
    return [tuple(point) for point in ((points * PX - offset) * FINE - 0.5).tolist()]


def _dashes(points: np.ndarray, dash: tuple) -> list[np.ndarray]:
    """The parts of a line that are drawn."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    drawn, left_out = dash
    parts = []
    for start in np.arange(0, along[-1], drawn + left_out):
        end = min(start + drawn, along[-1])
        at = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
        parts.append(np.stack([np.interp(at, along, column) for column in points.T], axis=1))
    return parts


def _png(pixels: np.ndarray) -> bytes:
    """uint8 [rows, columns, 3] as a PNG file (ISO 15948). Pillow's own writer first loads those of other formats."""
    rows, columns, _ = pixels.shape
    lines = pixels.reshape(rows, columns * 3)
    above = np.concatenate([np.zeros_like(lines[:1]), lines[:-1]])
    filtered = np.concatenate([np.full((rows, 1), 2, np.uint8), lines - above], axis=1)  # 2: each less the one above
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    resolution = struct.pack(">IIB", *[round(DPI / 0.0254)] * 2, 1)
    chunks = ((b"IHDR", header), (b"pHYs", resolution), (b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


@cache
def _font(name: str, size: float) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, of the files that come with matplotlib, which need not be loaded for it."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise CNNSurvivalError("The picture needs the fonts of the Python package matplotlib; install it.")
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), round(size * PX), layout_engine=ImageFont.Layout.BASIC)
