"""No box of the panel: draws the curve with Qt, in the panel and as survival_curve.png of Export."""

import qt

from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY
from CNNSurvivalLib.report.page import ON_DARK, ON_LIGHT, RED, draw_curve
from CNNSurvivalLib.report.pdf import BOLD

WIDTH, HEIGHT = 1600, 1000


class Painter:
    """Takes the drawing commands of ``pdf.Page``; sizes are pixels. family: of the font."""

    def __init__(self, painter, family="Helvetica") -> None:
        self._painter = painter
        self._family = family

    def text(self, x, y, text, size=9.0, font="", color=(0, 0, 0), align="left") -> None:
        self._painter.setFont(self._face(size, font))
        self._painter.setPen(_color(color))
        width = self.text_width(text, size, font)
        x -= {"left": 0, "right": width, "center": width / 2}[align]
        self._painter.drawText(int(x), int(y), text)

    def text_width(self, text, size=9.0, font="") -> int:
        metrics = qt.QFontMetrics(self._face(size, font))
        # Qt 5.11 and newer, as Slicer's DICOMBrowser asks; Qt 6 has no width().
        return metrics.horizontalAdvance(text) if hasattr(metrics, "horizontalAdvance") else metrics.width(text)

    def polyline(self, points, color=(0, 0, 0), width=1.0, dash=()) -> None:
        pen = qt.QPen(_color(color))
        pen.setWidthF(width)
        pen.setCapStyle(qt.Qt.FlatCap)
        if dash:
            pen.setDashPattern([float(length / width) for length in dash])  # Qt counts in widths of the line
        # One path, so that dashes go on from one part of the line to the next.
        self._painter.strokePath(_path(points), pen)

    def polygon(self, points, color) -> None:
        self._painter.fillPath(_path(points), qt.QBrush(_color(color)))

    def _face(self, size, font):
        face = qt.QFont(self._family)
        face.setPixelSize(int(round(size)))
        face.setBold(font == BOLD)
        return face


def paint_curve(widget, prediction) -> None:
    """Draw the curve on a widget, in colours for its style. To be called while the widget paints itself."""
    palette = widget.palette
    dark = palette.color(qt.QPalette.Window).lightness() < palette.color(qt.QPalette.WindowText).lightness()
    size = qt.QFontInfo(widget.font).pixelSize()
    painter = qt.QPainter(widget)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    canvas = Painter(painter, widget.font.family())
    window = palette.color(qt.QPalette.Window)
    look = (ON_DARK if dark else ON_LIGHT)._replace(paper=(window.redF(), window.greenF(), window.blueF()))
    place = (0, 0, widget.width, widget.height)
    draw_curve(canvas, prediction, *place, scale=0.85 * size / 8, look=look, legend_below=True)
    painter.end()


def curve_png(prediction) -> bytes:
    """The picture of the curve, as the bytes of a PNG file."""
    image = qt.QImage(WIDTH, HEIGHT, qt.QImage.Format_RGB32)
    image.fill(qt.Qt.white)
    painter = qt.QPainter(image)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    canvas = Painter(painter)
    draw_curve(canvas, prediction, 20, 20, WIDTH - 40, HEIGHT - 60, scale=3.2)
    canvas.text(30, HEIGHT - 20, f"{RESEARCH_USE_ONLY} {prediction.bundle.id}", 24, BOLD, RED)
    painter.end()
    data = qt.QByteArray()
    buffer = qt.QBuffer(data)
    buffer.open(qt.QIODevice.WriteOnly)
    image.save(buffer, "PNG")
    buffer.close()
    return bytes(data.data())


def _path(points):
    path = qt.QPainterPath()
    path.moveTo(float(points[0][0]), float(points[0][1]))
    for x, y in points[1:]:
        path.lineTo(float(x), float(y))
    return path


def _color(color):
    return qt.QColor(*(int(round(255 * value)) for value in color))
