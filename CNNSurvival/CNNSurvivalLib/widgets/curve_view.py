"""The curve in the box Result, drawn as in the report."""

import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.widgets.painter import paint_curve


class CurveView(qt.QWidget):
    """Draws the curve of a prediction in the panel's own colours; empty where there is none."""

    def __init__(self) -> None:
        qt.QWidget.__init__(self)
        self._prediction = None
        self.accessibleName = _("Survival curve")
        self.toolTip = _("The curve of this tumour, its interval, and the reference cohort's Kaplan-Meier curve.")

    def show_prediction(self, prediction, sentence) -> None:
        """sentence: the result in words, for those who do not see the picture."""
        self._prediction = prediction
        self.accessibleDescription = sentence
        self.update()

    def paintEvent(self, event) -> None:
        if self._prediction is not None:
            paint_curve(self, self._prediction)
