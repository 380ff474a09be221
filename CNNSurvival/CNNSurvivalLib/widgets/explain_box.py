"""The tab Explain: the map of what raises and lowers the risk, over the CT."""

import slicer

from CNNSurvivalLib.mrml.explanation import find_explanation


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
        ui.explainButton.connect("clicked(bool)", self.onExplainButton)
        ui.showExplanationCheckBox.connect("toggled(bool)", self.onShowToggled)

    def show(self) -> None:
        volume, result = self._inputs()
        self.ui.explainButton.enabled = result is not None and self._prediction() is not None
        self.ui.showExplanationCheckBox.enabled = self._explanation() is not None

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
            self._runner.showStatus(found[1])
            self.ui.showExplanationCheckBox.enabled = True
            self.ui.showExplanationCheckBox.checked = True
            self.onShowToggled(True)

    def onShowToggled(self, shown) -> None:
        node = self._explanation()
        if node is not None:
            self._logic.showExplanation(node if shown else None)

    def _explanation(self):
        _volume, result = self._inputs()
        return find_explanation(slicer.mrmlScene, result) if result else None
