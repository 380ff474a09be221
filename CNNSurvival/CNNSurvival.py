import logging
import sys
import time
import traceback
from typing import Annotated, Optional

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from CNNSurvivalLib.errors import Cancelled, CNNSurvivalError
from CNNSurvivalLib.selftest import SelfTest

#
# CNNSurvival
#


class CNNSurvival(ScriptedLoadableModule):
    """Survival after a CT and a tumour contour. Research use only."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("CNN Survival")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        self.parent.dependencies = ["Plots", "Segmentations", "Tables"]
        self.parent.contributors = ["CNNSurvival contributors"]
        self.parent.helpText = _("""
Predicts a survival curve from a CT and a tumour segment with a small convolutional neural network.
Nothing is installed and nothing leaves this computer. Research use only - not for clinical decisions.
See more in the <a href="https://github.com/CNNSurvival/SlicerCNNSurvival">documentation</a>.
""")
        self.parent.acknowledgementText = _("""
The network follows Zhang et al., BMC Medical Imaging 20:11 (2020); its survival likelihood Gensheimer and
Narasimhan, PeerJ 7:e6257 (2019).
""")


#
# CNNSurvivalParameterNode
#


@parameterNodeWrapper
class CNNSurvivalParameterNode:
    """
    What the user chose; saved with the scene.

    volume - The CT.
    segmentation, segmentId - The tumour.
    modelId - The model's name and version, as in Bundle.id; empty for the one that comes as default.
    minimumRoi - Slices with fewer tumour pixels are not used.
    maximumSlices - Only so many of the best slices are used.
    """

    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    segmentId: str
    modelId: str
    minimumRoi: Annotated[int, WithinRange(1, 1000000)] = 250
    maximumSlices: Annotated[int, WithinRange(1, 10000)] = 20


#
# CNNSurvivalWidget
#


class CNNSurvivalWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It shows the parameter node and the result nodes of its inputs, and computes nothing."""

    # A second click within this time is the end of a double click on Predict, not a wish to cancel.
    DOUBLE_CLICK_SECONDS = 0.5

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._updating = False  # while the panel is filled, its signals are not the user's
        self._guessedFor = ""  # ID of the CT for which the tumour was last looked for
        self._models = []
        self._running = False
        self._cancelRequested = False
        self._startedAt = 0.0

    # --- Life of the panel

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CNNSurvival.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.logic = CNNSurvivalLogic()
        self._fillModels()
        for table in (self.ui.summaryTable, self.ui.slicesTable):
            table.verticalHeader().hide()
            table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        self.ui.summaryTable.horizontalHeader().setStretchLastSection(True)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAddedEvent, self.onNodeAdded)
        self.ui.segmentSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onSegmentationSelected)
        self.ui.segmentSelector.connect("currentSegmentChanged(QString)", self.onSegmentSelected)
        self.ui.modelComboBox.connect("currentIndexChanged(int)", self.onModelSelected)
        self.ui.predictButton.connect("clicked(bool)", self.onPredictButton)
        self.ui.showChartButton.connect("clicked(bool)", self.onShowChartButton)

        self.initializeParameterNode()

    def cleanup(self) -> None:
        self._cancelRequested = True
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        self.initializeParameterNode()

    def exit(self) -> None:
        # The panel is filled again when the user comes back; a prediction under way goes on.
        if not self._running:
            self.setParameterNode(None)

    def onReload(self) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "CNNSurvivalLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        self._cancelRequested = True
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event) -> None:
        self._showStatus("")
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event) -> None:
        if self._parameterNode:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(self, caller, event, node) -> None:
        isInput = node.IsA("vtkMRMLSegmentationNode") or node.IsA("vtkMRMLScalarVolumeNode")
        if self._parameterNode and isInput and not slicer.mrmlScene.IsBatchProcessing():
            # Voxels, segments and the reference to the CT are added after the node itself.
            qt.QTimer.singleShot(0, self._guess)

    def initializeParameterNode(self) -> None:
        self.setParameterNode(self.logic.getParameterNode())
        self._guess()

    def setParameterNode(self, inputParameterNode: Optional[CNNSurvivalParameterNode]) -> None:
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._guessedFor = self._id(self._parameterNode.volume)
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersChanged)
        self._onParametersChanged()

    # --- Inputs

    def _guess(self) -> None:
        """Choose what is not chosen yet."""
        p = self._parameterNode
        if not p or self._running:
            return
        with slicer.util.NodeModify(p):
            if p.modelId not in self._modelIds():
                self._setModel(next((bundle for _folder, bundle, _problem in self._models if bundle), None))
            if not p.volume:
                p.volume = self.logic.scene.guess_volume(slicer.mrmlScene)
            if not p.segmentation:
                self._guessTumour()
            elif not self._segmentExists():
                p.segmentId = self.logic.scene.guess_segment(p.segmentation)

    def _guessTumour(self) -> None:
        p = self._parameterNode
        p.segmentation = self.logic.scene.guess_segmentation(slicer.mrmlScene, p.volume)
        p.segmentId = self.logic.scene.guess_segment(p.segmentation)

    def _guessForAnotherVolume(self) -> None:
        """Where the user chose another CT: the tumour that was drawn on it."""
        p = self._parameterNode
        volumeId, self._guessedFor = self._guessedFor, self._id(p.volume)
        if not p.volume or volumeId == self._guessedFor:
            return
        if not p.segmentation or not self.logic.scene.refers_to(p.segmentation, p.volume):
            self._guessTumour()

    def _segmentExists(self) -> bool:
        p = self._parameterNode
        return bool(p.segmentation and p.segmentId and p.segmentation.GetSegmentation().GetSegment(p.segmentId))

    def onSegmentationSelected(self, node) -> None:
        if self._updating or not self._parameterNode:
            return
        with slicer.util.NodeModify(self._parameterNode):
            self._parameterNode.segmentation = node
            self._parameterNode.segmentId = self.logic.scene.guess_segment(node)

    def onSegmentSelected(self, segmentId) -> None:
        p = self._parameterNode
        # While the segmentation changes, the selector reports a segment of the new one before the new one itself.
        if self._updating or not p or self.ui.segmentSelector.currentNodeID() != self._id(p.segmentation):
            return
        removed = p.segmentId and not self._segmentExists()  # then the selector takes the first one that is left
        p.segmentId = self.logic.scene.guess_segment(p.segmentation) if removed else segmentId

    def onModelSelected(self, index) -> None:
        if not self._updating and self._parameterNode:
            self._setModel(self._bundle())
            self._checkCanPredict()

    def _setModel(self, bundle) -> None:
        if bundle:
            with slicer.util.NodeModify(self._parameterNode):
                self._parameterNode.modelId = bundle.id
                self._parameterNode.minimumRoi = bundle.preprocessing.min_roi_px
                self._parameterNode.maximumSlices = bundle.max_slices

    def _modelIds(self) -> list:
        return [bundle.id if bundle else None for _folder, bundle, _problem in self._models]

    def _fillModels(self) -> None:
        self._models = self.logic.models()
        self._updating = True
        self.ui.modelComboBox.clear()
        for folder, bundle, problem in self._models:
            text = bundle.name if bundle else _("{name} (cannot be used)").format(name=folder.name)
            self.ui.modelComboBox.addItem(text)
            tip = problem or _("Reference cohort: {cohort}").format(cohort=bundle.reference_label)
            self.ui.modelComboBox.setItemData(self.ui.modelComboBox.count - 1, tip, qt.Qt.ToolTipRole)
        self._updating = False

    def _bundle(self):
        index = self.ui.modelComboBox.currentIndex
        return self._models[index][1] if 0 <= index < len(self._models) else None

    # --- From the parameter node to the panel

    def _onParametersChanged(self, caller=None, event=None) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            if self._parameterNode:
                with slicer.util.NodeModify(self._parameterNode):
                    self._guessForAnotherVolume()
                self._showInputs()
            self._checkCanPredict()
            self._showResult()
        finally:
            self._updating = False

    def _showInputs(self) -> None:
        p = self._parameterNode
        self.ui.segmentSelector.setCurrentNode(p.segmentation)
        if p.segmentation:
            self.ui.segmentSelector.setCurrentSegmentID(p.segmentId)
        if p.modelId in self._modelIds():
            self.ui.modelComboBox.setCurrentIndex(self._modelIds().index(p.modelId))

    def _checkCanPredict(self) -> None:
        index = self.ui.modelComboBox.currentIndex
        problem = self._models[index][2] if 0 <= index < len(self._models) else _("No model is installed.")
        self.ui.modelProblemLabel.text = problem or ""
        self.ui.modelProblemLabel.visible = bool(problem)
        if self._running:
            return
        p = self._parameterNode
        missing = [
            text
            for text, present in (
                (_("a CT volume"), p and p.volume),
                (_("a segmentation"), p and p.segmentation),
                (_("the tumour's segment"), p and self._segmentExists()),
                (_("a model that can be used"), self._bundle()),
            )
            if not present
        ]
        self.ui.predictButton.enabled = not missing
        self.ui.predictButton.toolTip = (
            _("First choose {missing}.").format(missing=", ".join(missing))
            if missing
            else _("Predict the survival curve of a patient with this tumour.")
        )

    def _showResult(self) -> None:
        result = self._result()
        self.ui.resultCollapsibleButton.visible = result is not None
        if result is None:
            return
        record = self.logic.scene.read_record(result)
        warnings = [_("Warning: {text}").format(text=text) for text in record.get("warnings", [])]
        self.ui.sentenceLabel.text = record.get("sentence", "")
        self.ui.warningsLabel.text = "\n".join(warnings)
        self.ui.warningsLabel.visible = bool(warnings)
        self.ui.summaryTable.setMRMLTableNode(result.summary)
        self.ui.slicesTable.setMRMLTableNode(result.slices)

    def _result(self):
        p = self._parameterNode
        return self.logic.scene.find_result(slicer.mrmlScene, p.volume, p.segmentation, p.segmentId) if p else None

    def _showStatus(self, text: str) -> None:
        self.ui.statusLabel.text = text
        self.ui.statusLabel.visible = bool(text)

    # --- Predict and Cancel

    def onPredictButton(self, checked=False) -> None:
        if not self._running:
            self._predict()
        elif time.monotonic() - self._startedAt > self.DOUBLE_CLICK_SECONDS:
            self._cancelRequested = True
            self.ui.predictButton.enabled = False

    def onShowChartButton(self, checked=False) -> None:
        result = self._result()
        if result:
            self.logic.showChart(result)

    def _predict(self) -> None:
        p = self._parameterNode
        self._setRunning(True)
        message, details = "", None
        try:
            result = self.logic.process(
                p.volume, p.segmentation, p.segmentId, self._bundle(), minimumRoi=p.minimumRoi,
                maximumSlices=p.maximumSlices, progress=self._onProgress,
            )  # fmt: skip
            self.logic.showChart(result)
        except Cancelled:
            self._showStatus(_("Cancelled. The scene is as it was."))
        except CNNSurvivalError as error:
            message = str(error)
        except Exception as error:
            logging.exception("Prediction failed")
            message = _("The prediction failed because of an error in the software: {error}").format(error=error)
            details = traceback.format_exc()
        finally:
            self._setRunning(False)
        if message:
            self._showStatus(message)
            more = {"detailedText": details} if details else {}
            slicer.util.errorDisplay(message, textFormat=qt.Qt.PlainText, **more)

    def _setRunning(self, running: bool) -> None:
        self._running, self._cancelRequested, self._startedAt = running, False, time.monotonic()
        self.ui.predictButton.text = _("Cance&l") if running else _("&Predict survival")
        for widget in (self.ui.inputsCollapsibleButton, self.ui.advancedCollapsibleButton):
            widget.enabled = not running
        self.ui.progressBar.visible = running
        if running:
            self._showStatus("")
            self.ui.predictButton.toolTip = _("Stop, and leave the scene as it was.")
        else:
            self._onParametersChanged()

    def _onProgress(self, step: str, fraction: float) -> None:
        self.ui.progressBar.value = int(100 * fraction)
        self.ui.progressBar.format = step + " (%p%)"
        slicer.app.processEvents()
        if self._cancelRequested:
            raise Cancelled

    @staticmethod
    def _id(node) -> str:
        return node.GetID() if node else ""


#
# CNNSurvivalLogic
#


class CNNSurvivalLogic(ScriptedLoadableModuleLogic):
    """What the panel does, for scripts: ``CNNSurvivalLogic().process(volume, segmentation, segmentId)``."""

    def getParameterNode(self):
        return CNNSurvivalParameterNode(super().getParameterNode())

    def process(self, volume, segmentation, segmentId, bundle=None, minimumRoi=None, maximumSlices=None, engine=None,
                progress=None):  # fmt: skip
        """Predict, and leave the result in the scene (CNNSurvivalLib.scene.Result); works without a window.

        bundle: from CNNSurvivalLib.bundle.load_bundle, None for the default model. minimumRoi, maximumSlices: None
        for the model's own. engine: from CNNSurvivalLib.engines.create_engine, None for the built-in one.
        progress(step, fraction) may raise Cancelled. Raises CNNSurvivalError where the inputs cannot be used; then,
        and when cancelled, the scene stays as it was.
        """
        from CNNSurvivalLib.bundle import default_bundle_folder, load_bundle

        bundle = bundle or load_bundle(default_bundle_folder())
        options = {"min_roi_px": minimumRoi, "max_slices": maximumSlices}
        prediction = self.scene.predict_nodes(volume, segmentation, segmentId, bundle, engine, progress, **options)
        return self.scene.write_result(slicer.mrmlScene, prediction, volume, segmentation, segmentId)

    def showChart(self, result) -> None:
        slicer.modules.plots.logic().ShowChartInLayout(result.chart)

    def models(self) -> list:
        """[(folder, Bundle or None, what is wrong with it or None)], the default first."""
        from CNNSurvivalLib.bundle import default_bundle_folder, find_bundles, shipped_models_folder

        models = find_bundles([shipped_models_folder()])
        try:
            default = default_bundle_folder()
        except CNNSurvivalError:  # which one is the default is not said: the first will do
            return models
        return sorted(models, key=lambda model: model[0] != default)

    @property
    def scene(self):
        """CNNSurvivalLib.scene; not imported with this file, as it brings scipy, which would slow Slicer's start."""
        from CNNSurvivalLib import scene

        return scene


#
# CNNSurvivalTest
#


class CNNSurvivalTest(SelfTest, ScriptedLoadableModuleTest):
    """The tests are in CNNSurvivalLib/selftest.py."""
