"""The tab Explain: the map of what raises and lowers the risk, over the CT."""

import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.explanation import find_explanation, sentence_of
from CNNSurvivalLib.mrml.overlay import MapOverlay


class ExplainSection:
    """Makes, shows and hides the map.

    engine(bundle): what computes a model. prediction(): the one that is shown, or None; inputs(): its CT and result.
    """

    def __init__(self, ui, logic, runner, engine, prediction, inputs) -> None:
        self.ui = ui
        self._logic = logic
        self._runner = runner
        self._engine = engine
        self._prediction = prediction
        self._inputs = inputs
        self._filling = False
        self._stale = ""
        self._overlay = MapOverlay()
        ui.explainButton.connect("clicked(bool)", self.onExplainButton)
        ui.showExplanationCheckBox.connect("toggled(bool)", self.onShowToggled)

    def closeScene(self) -> None:
        """The scene is about to be closed."""
        self._overlay.forget()

    def show(self, stale: str) -> None:
        """Follow the result. A map that is not of it leaves the slice views. stale: why the result is out of date."""
        self._stale = stale
        volume, result = self._inputs()
        node, shown = self._explanation(), self._overlay.shown(slicer.mrmlScene)
        if shown is None or shown is not node:  # the user may have taken it out, but not its legend
            self._overlay.hide(slicer.mrmlScene)
        ui = self.ui
        ui.explainButton.enabled = result is not None and self._prediction() is not None
        self._filling = True
        ui.showExplanationCheckBox.enabled = node is not None
        ui.showExplanationCheckBox.checked = node is not None and shown is node
        self._filling = False
        said = sentence_of(node) if node is not None else ""
        old = _("The map is of this result, which is out of date.") if node is not None and stale else ""
        ui.explanationLabel.text = " ".join(text for text in (said, old) if text)
        ui.explanationLabel.visible = bool(ui.explanationLabel.text)

    def onExplainButton(self, checked=False) -> None:
        volume, result = self._inputs()
        prediction = self._prediction()
        if result is None or prediction is None:
            return
        found = self._runner.click(
            self.ui.explainButton,
            lambda progress: self._logic.explain(volume, result, prediction, self._engine(prediction.bundle), progress),
        )
        if found is not None:
            self._overlay.show(slicer.mrmlScene, found[0])
            self.show(self._stale)

    def onShowToggled(self, shown) -> None:
        node = self._explanation()
        if node is None or self._filling:
            return
        if shown:
            self._overlay.show(slicer.mrmlScene, node)
        else:
            self._overlay.hide(slicer.mrmlScene)

    def _explanation(self):
        _volume, result = self._inputs()
        return find_explanation(slicer.mrmlScene, result) if result else None
