"""The model in the box of the inputs (model, card) and in the tab Model (facts, add models, engine)."""

import qt
import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.widgets.licence import acknowledged
from CNNSurvivalLib.widgets.population_box import PopulationSection

SETTING = "CNNSurvival/ModelFolders"


class ModelSection:
    """The choice of a model, of its population and of an engine.

    onChanged(bundle), onPopulationChanged(name): called when the user chose another model, another population.
    """

    def __init__(self, ui, logic, onChanged, onPopulationChanged) -> None:
        self.ui = ui
        self._logic = logic
        self._onChanged = onChanged
        self._onPopulationChanged = onPopulationChanged
        self._population = PopulationSection(ui, self._onPopulationSelected)
        self._models = []
        self._filling = False
        ui.modelComboBox.connect("currentIndexChanged(int)", self._onSelected)
        ui.cardButton.connect("clicked(bool)", self.onCardButton)
        ui.addModelsButton.connect("clicked(bool)", self.onAddModelsButton)
        ui.installTorchButton.connect("clicked(bool)", self.onInstallTorchButton)
        self.fill()
        self._showEngines()

    @property
    def bundle(self):
        """The chosen bundle, for the chosen population; None where it cannot be used."""
        return self._population.bundle

    @property
    def _model(self):
        """The chosen bundle, as it was loaded."""
        index = self.ui.modelComboBox.currentIndex
        return self._models[index][1] if 0 <= index < len(self._models) else None

    def made(self, prediction) -> bool:
        """Whether the prediction (or None) was made with the chosen model for the chosen population."""
        if prediction is None or self.bundle is None:
            return False
        made, chosen = ((b.id, b.sha256, b.population.name) for b in (prediction.bundle, self.bundle))
        return made == chosen

    def licenceAcknowledged(self) -> bool:
        """Whether the user may predict with the chosen model; asks where its licence says so."""
        return acknowledged(self.bundle)

    @property
    def bundles(self) -> list:
        """Those that can be used, each for its default population."""
        return [bundle for _folder, bundle, _problem in self._models if bundle]

    @property
    def engineName(self) -> str:
        return ("numpy", "torch")[max(self.ui.engineComboBox.currentIndex, 0)]

    def fill(self) -> None:
        self._models = self._logic.models(folders())
        self._filling = True
        self.ui.modelComboBox.clear()
        for folder, bundle, problem in self._models:
            text = bundle.title if bundle else _("{name} (cannot be used)").format(name=folder.name)
            self.ui.modelComboBox.addItem(text)
            tip = problem or f"{bundle.id}, {folder}"
            self.ui.modelComboBox.setItemData(self.ui.modelComboBox.count - 1, tip, qt.Qt.ToolTipRole)
        self._filling = False
        self.show()

    def select(self, modelId: str, population: str = "") -> bool:
        """Show the model of that ID; False where there is none. population: as for ``PopulationSection.show``."""
        ids = [bundle.id if bundle else None for _folder, bundle, _problem in self._models]
        if modelId not in ids:
            return False
        self._filling = True
        self.ui.modelComboBox.setCurrentIndex(ids.index(modelId))
        self._filling = False
        self.show(population)
        return True

    def show(self, population: str = "") -> None:
        """What the chosen model is, or what is wrong with it."""
        self._population.show(self._model, population)
        index = self.ui.modelComboBox.currentIndex
        problem = self._models[index][2] if 0 <= index < len(self._models) else _("No model is installed.")
        self.ui.modelProblemLabel.text = problem or ""
        self.ui.modelProblemLabel.visible = bool(problem)
        self.ui.modelInfoLabel.text = "\n".join(self.bundle.facts) if self.bundle else ""
        self.ui.modelInfoLabel.visible = self.bundle is not None
        self.ui.cardButton.enabled = self.bundle is not None
        tip = _("Who the model learned from, how good it is, and what it must not be used for.")
        self.ui.cardButton.toolTip = "\n".join([tip, "", *(self.bundle.facts if self.bundle else ())])

    def _onSelected(self, index) -> None:
        if not self._filling:
            self.show()
            self._onChanged(self.bundle)

    def _onPopulationSelected(self, name) -> None:
        self.show(name)
        self._onPopulationChanged(name)

    def onCardButton(self, checked=False) -> None:
        if self.bundle:
            showText(self.bundle.title, self.bundle.card_text)

    def onAddModelsButton(self, checked=False) -> None:
        folder = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Folder with models"), (folders() or [""])[-1]
        )
        if not folder:
            return
        before = len(self._models)
        qt.QSettings().setValue(SETTING, [*folders(), folder])
        chosen = (self.bundle.id, self.bundle.population.name) if self.bundle else ("",)
        self.fill()
        self.select(*chosen)
        if len(self._models) == before:
            qt.QSettings().setValue(SETTING, folders()[:-1])
            slicer.util.warningDisplay(
                _("There is no model in '{folder}': no bundle.json there or one folder below.").format(folder=folder)
            )

    # --- Engine

    def _showEngines(self) -> None:
        import importlib.util

        present = importlib.util.find_spec("torch") is not None
        self.ui.installTorchButton.visible = not present
        self.ui.engineComboBox.enabled = present
        if not present:
            self.ui.engineComboBox.currentIndex = 0

    def onInstallTorchButton(self, checked=False) -> None:
        """Through the PyTorch extension, which knows which build suits the computer, and asks before it installs."""
        try:
            import PyTorchUtils
        except ImportError:
            slicer.util.infoDisplay(_(
                "PyTorch is installed through the PyTorch extension: install that in the Extensions Manager, restart "
                "Slicer, and click here again. It is not needed: the built-in engine gives the same curve."
            ))  # fmt: skip
            return
        with slicer.util.tryWithErrorDisplay(_("PyTorch could not be installed."), waitCursor=True):
            PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True)
        self._showEngines()


def folders() -> list:
    """The folders with models that the user added."""
    value = qt.QSettings().value(SETTING)
    if not value:
        return []
    return [str(folder) for folder in ([value] if isinstance(value, str) else value)]


def showText(title: str, markdown: str) -> None:
    """Markdown in a window of its own, which is closed with Escape."""
    dialog = qt.QDialog(slicer.util.mainWindow())
    dialog.windowTitle = title
    dialog.resize(760, 820)
    layout = qt.QVBoxLayout(dialog)
    browser = qt.QTextBrowser()
    if hasattr(browser, "setMarkdown"):  # Qt 5.14 and newer
        browser.setMarkdown(markdown)
    else:
        browser.setPlainText(markdown)
    browser.openExternalLinks = True
    layout.addWidget(browser)
    buttons = qt.QDialogButtonBox(qt.QDialogButtonBox.Close)
    buttons.connect("rejected()", dialog.reject)
    layout.addWidget(buttons)
    dialog.exec_()
    dialog.deleteLater()  # else the window keeps it
