"""One page of PDF with text, lines, areas and grey pictures, as the report needs them.

Slicer brings no library that writes PDF without a window.

The format is ISO 32000-1. Text is in the standard fonts Helvetica and Helvetica-Bold, which every viewer has; their
widths are those of Adobe's font metrics. The same drawing gives the same bytes.
"""

from __future__ import annotations

import zlib

import numpy as np

A4 = (595.0, 842.0)  # points, width and height
REGULAR, BOLD = "F1", "F2"
# Widths of the characters from space to ~, in thousandths of the font size
_WIDTHS = {
    REGULAR: (
        "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 "
        "556 278 278 584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 "
        "722 667 611 722 667 944 667 667 611 278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 "
        "500 222 833 556 556 556 556 333 500 278 556 500 722 500 500 500 334 260 334 584 "
    ),
    BOLD: (
        "278 333 474 556 556 889 722 238 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 "
        "556 333 333 584 584 584 611 975 722 722 722 722 667 611 778 722 278 556 722 611 833 722 778 667 778 "
        "722 667 611 722 667 944 667 667 611 333 278 333 584 556 333 556 611 556 611 556 333 611 611 278 278 "
        "556 278 889 611 611 611 611 389 556 333 611 556 778 556 556 500 389 280 389 584 "
    ),
}
_WIDTH = {font: [int(width) for width in widths.split()] for font, widths in _WIDTHS.items()}
_OTHER_WIDTH = 600  # a character beyond ~: never wider in these fonts than a capital


def text_width(text: str, size: float, font: str = REGULAR) -> float:
    """Width in points."""
    widths = _WIDTH[font]
    codes = [ord(character) - 32 for character in text]
    return sum(widths[c] if 0 <= c < len(widths) else _OTHER_WIDTH for c in codes) * size / 1000


def wrapped(text: str, width: float, size: float, font: str = REGULAR) -> list[str]:
    """The text in lines of at most that width; a word that is too long is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size, font) <= width:
            lines[-1] = longer
            continue
        lines += [] if lines[-1] else [lines.pop()]
        if lines[-1]:
            lines.append("")
        while text_width(word, size, font) > width and len(word) > 1:
            fit = next(n for n in range(len(word), 0, -1) if n == 1 or text_width(word[:n], size, font) <= width)
            lines[-1], word = word[:fit], word[fit:]
            lines.append("")
        lines[-1] = word
    return lines


class Page:
    """A page to draw on; x to the right and y downwards from the top left corner, in points. Colours are (r, g, b),
    0 to 1."""

    def __init__(self, size: tuple = A4):
        self.width, self.height = size
        self._content: list = []
        self._images: list = []

    def text(self, x, y, text: str, size=9.0, font=REGULAR, color=(0, 0, 0), align="left") -> None:
        """y is the baseline. align: "left", "right" or "center" of x."""
        shift = {"left": 0, "right": 1, "center": 0.5}[align] * text_width(text, size, font)
        place = f"1 0 0 1 {x - shift:.2f} {self._y(y)} Tm"
        self._add(f"BT {_rgb(color)} rg /{font} {size:.2f} Tf {place} {_string(text)} Tj ET")

    def text_width(self, text: str, size=9.0, font=REGULAR) -> float:
        """How wide ``text`` draws it."""
        return text_width(text, size, font)

    def polyline(self, points, color=(0, 0, 0), width=1.0, dash=()) -> None:
        """points: [n, 2] of x, y."""
        style = " ".join(f"{length:g}" for length in dash)
        self._add(f"q {_rgb(color)} RG {width:g} w [{style}] 0 d 1 j {self._path(points)} S Q")

    def polygon(self, points, color) -> None:
        """Filled, without an outline."""
        self._add(f"{_rgb(color)} rg {self._path(points)} h f")

    def image(self, x, y, width, height, pixels: np.ndarray) -> None:
        """uint8 [rows, columns], grey; x, y is the top left corner."""
        self._images.append(np.ascontiguousarray(pixels, np.uint8))
        self._add(
            f"q {width:.2f} 0 0 {height:.2f} {x:.2f} {self._y(y + height)} cm /I{len(self._images)} Do Q"
        )  # fmt: skip

    def to_bytes(self, title: str) -> bytes:
        """The PDF file."""
        resources = "<< /Font << /F1 4 0 R /F2 5 0 R >> /XObject << {} >> >>".format(
            " ".join(f"/I{n} {6 + n} 0 R" for n in range(1, len(self._images) + 1))
        )
        size = f"[0 0 {self.width:g} {self.height:g}]"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox {size} /Contents 6 0 R /Resources "
        font = "<< /Type /Font /Subtype /Type1 /BaseFont /{} /Encoding /WinAnsiEncoding >>"
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            (page + resources + " >>").encode("ascii"),
            font.format("Helvetica").encode("ascii"),
            font.format("Helvetica-Bold").encode("ascii"),
            _stream("", "\n".join(self._content).encode("latin-1")),
            *(_stream(_image_entries(image), image.tobytes()) for image in self._images),
        ]
        information = f"<< /Title {_string(title)} /Producer (CNNSurvival) >>".encode("latin-1")
        return _file([*objects, information])

    def _add(self, command: str) -> None:
        self._content.append(command)

    def _y(self, y) -> str:
        return f"{self.height - y:.2f}"

    def _path(self, points) -> str:
        steps = [f"{x:.2f} {self._y(y)}" for x, y in np.asarray(points, dtype=np.float64)]
        return " ".join(f"{step} {'l' if number else 'm'}" for number, step in enumerate(steps))


def _rgb(color) -> str:
    return " ".join(f"{value:.3g}" for value in color)


def _string(text: str) -> str:
    """A PDF string in Windows' Latin alphabet; other characters become question marks."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    encoded = plain.encode("cp1252", errors="replace").decode("latin-1")
    return "(" + "".join("\\" + c if c in "\\()" else c for c in encoded) + ")"


def _image_entries(image: np.ndarray) -> str:
    rows, columns = image.shape
    return (f"/Type /XObject /Subtype /Image /Width {columns} /Height {rows} /ColorSpace /DeviceGray "
            "/BitsPerComponent 8 ")  # fmt: skip


def _stream(entries: str, content: bytes) -> bytes:
    packed = zlib.compress(content, 9)
    head = f"<< {entries}/Filter /FlateDecode /Length {len(packed)} >>\nstream\n".encode("ascii")
    return head + packed + b"\nendstream"


def _file(objects: list) -> bytes:
    """The objects, numbered from 1, with their table of places; the first is the catalogue, the last the title."""
    content, places = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n".encode("ascii") + body + b"\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    count = len(objects) + 1
    return content + (
        f"xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n<< /Size {count} /Root 1 0 R /Info {count - 1} 0 R >>\n"
        f"startxref\n{len(content)}\n%%EOF\n"
    ).encode("ascii")
