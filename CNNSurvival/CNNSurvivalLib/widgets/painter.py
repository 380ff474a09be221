"""No box of the panel: draws the curve with Qt, as survival_curve.png of the box Export."""

import qt

from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY
from CNNSurvivalLib.report.page import RED, draw_curve
from CNNSurvivalLib.report.pdf import BOLD

WIDTH, HEIGHT = 1600, 1000


class Painter:
    """Takes the drawing commands of ``pdf.Page``; sizes are pixels."""

    def __init__(self, painter) -> None:
        self._painter = painter

    def text(self, x, y, text, size=9.0, font="", color=(0, 0, 0), align="left") -> None:
        face = qt.QFont("Helvetica")
        face.setPixelSize(int(round(size)))
        face.setBold(font == BOLD)
        self._painter.setFont(face)
        self._painter.setPen(_color(color))
        width = qt.QFontMetrics(face).horizontalAdvance(text)  # Qt 5.11 and newer; Qt 6 has no width() here
        x -= {"left": 0, "right": width, "center": width / 2}[align]
        self._painter.drawText(int(x), int(y), text)

    def polyline(self, points, color=(0, 0, 0), width=1.0, dash=()) -> None:
        pen = qt.QPen(_color(color))
        pen.setWidthF(width)
        pen.setCapStyle(qt.Qt.FlatCap)
        if dash:
            pen.setStyle(qt.Qt.DashLine)
        self._painter.setPen(pen)
        for (x0, y0), (x1, y1) in zip(points[:-1], points[1:]):
            self._painter.drawLine(qt.QLineF(float(x0), float(y0), float(x1), float(y1)))

    def polygon(self, points, color) -> None:
        path = qt.QPainterPath()
        path.moveTo(float(points[0][0]), float(points[0][1]))
        for x, y in points[1:]:
            path.lineTo(float(x), float(y))
        self._painter.fillPath(path, qt.QBrush(_color(color)))


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


def _color(color):
    return qt.QColor(*(int(round(255 * value)) for value in color))
