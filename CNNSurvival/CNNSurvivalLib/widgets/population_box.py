"""The population in the box of the inputs: to which patients this one belongs."""

import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.bundle import score_lines

SETTING = "CNNSurvival/Population/"  # and the model's ID: the population that the user chose last for it


class PopulationSection:
    """The choice of one of a model's populations. onChanged(name): called when the user chose another."""

    def __init__(self, ui, onChanged) -> None:
        self.ui = ui
        self._onChanged = onChanged
        self._model = None
        self._filling = False
        ui.populationComboBox.connect("currentIndexChanged(int)", self._onSelected)

    @property
    def bundle(self):
        """The model for the chosen population; None where the model cannot be used."""
        index = self.ui.populationComboBox.currentIndex
        if self._model is None or not 0 <= index < len(self._model.populations):
            return None
        return self._model.for_population(self._model.populations[index].name)

    def show(self, model, name: str = "") -> None:
        """List the model's populations (model None: none), and choose the named one.

        Where there is none of that name: the one that was chosen last for this model, else the model's default.
        """
        self._filling = True
        if model is not self._model:
            self._model = model
            self._fill()
        if model is not None:
            names = [each.name for each in model.populations]
            wanted = name if name in names else remembered(model)
            self.ui.populationComboBox.setCurrentIndex(names.index(wanted))
            self._showTip()
        self._filling = False

    def _fill(self) -> None:
        combo, populations = self.ui.populationComboBox, self._model.populations if self._model else ()
        combo.clear()
        for index, population in enumerate(populations):
            combo.addItem(population.title)
            combo.setItemData(index, tip(population), qt.Qt.ToolTipRole)
        combo.enabled = len(populations) > 1

    def _showTip(self) -> None:
        chosen = tip(self.bundle.population)
        self.ui.populationComboBox.toolTip = _("The patients to whom this one belongs.") + "\n" + chosen

    def _onSelected(self, index) -> None:
        if not self._filling and self.bundle is not None:
            self._showTip()
            qt.QSettings().setValue(SETTING + self._model.id, self.bundle.population.name)
            self._onChanged(self.bundle.population.name)


def remembered(model) -> str:
    """The name of the population that was chosen last for this model, else of its default."""
    name = qt.QSettings().value(SETTING + model.id)
    return name if name in [each.name for each in model.populations] else model.populations[0].name


def tip(population) -> str:
    """Who the population is, and how good predictions for it are."""
    cohort = _("Reference cohort: {label}").format(label=population.reference_label)
    return "\n".join([population.title, cohort, *score_lines(population.metrics)])
