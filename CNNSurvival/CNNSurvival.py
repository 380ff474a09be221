import importlib.util
import os
import sys
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

from CNNSurvivalLib.errors import CNNSurvivalError

#
# CNNSurvival
#


class CNNSurvival(ScriptedLoadableModule):
    """Survival after a CT and a tumour contour. Research use only."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("CNN Survival")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        self.parent.dependencies = ["Plots", "Segmentations", "SubjectHierarchy", "Tables"]
        self.parent.contributors = ["CNNSurvival contributors"]
        self.parent.helpText = _("""
Predicts a survival curve from a CT and a tumour segment with a small convolutional neural network.
Nothing is installed and nothing leaves this computer. Research use only - not for clinical decisions.
The weights of the models that ship are CC BY-NC 3.0: non-commercial research only.
See more in the <a href="https://github.com/CNNSurvival/SlicerCNNSurvival">documentation</a>.
""")
        self.parent.acknowledgementText = _("""
The network follows Zhang et al., BMC Medical Imaging 20:11 (2020); its survival likelihood Gensheimer and
Narasimhan, PeerJ 7:e6257 (2019).
""")
        # The Sample Data module can be imported once Slicer has started.
        slicer.app.connect("startupCompleted()", registerSampleData)

    def setup(self):
        """Add "Predict survival" to the context menu of the Data module."""
        folder = os.path.join(os.path.dirname(__file__), "SubjectHierarchyPlugins")
        plugin = slicer.qSlicerSubjectHierarchyScriptedPlugin(None)
        plugin.setPythonSource(os.path.join(folder, "CNNSurvivalSubjectHierarchyPlugin.py"))


def registerSampleData() -> None:
    from CNNSurvivalLib.widgets.sample_data import register

    register(os.path.join(os.path.dirname(__file__), "Resources", "Icons", "CNNSurvival.png"))


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
    population - Which of the model's populations the patient belongs to; empty for its default.
    force - Whether to predict from an image that does not look like a CT.
    lesions - "all", or the "largest" alone where the segment holds several lesions.
    minimumRoi - Slices with fewer tumour pixels are not used.
    maximumSlices - At most this many of the best slices are used.
    horizons - The months at which S(t) is shown, with commas between.
    """

    volume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    segmentId: str
    modelId: str
    population: str
    force: bool
    lesions: str = "all"
    minimumRoi: Annotated[int, WithinRange(1, 1000000)] = 250
    maximumSlices: Annotated[int, WithinRange(1, 10000)] = 20
    horizons: str = "6, 12, 18, 24, 36"


#
# CNNSurvivalWidget
#


class CNNSurvivalWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It shows the parameter node and the result nodes of its inputs, and computes nothing.

    The CT, the tumour and the settings of a prediction are here, the rest in CNNSurvivalLib/widgets. The library is
    imported inside functions: it brings scipy, which would slow Slicer's start.
    """

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._updating = False  # while the code fills the panel, its signals do not come from the user
        self._guessedFor = ""  # ID of the CT for which the tumour was last looked for
        self._shown = (None, None)  # the record that is shown, as text, and its prediction

    # --- Life of the panel

    def setup(self) -> None:
        from CNNSurvivalLib.mrml import guesses
        from CNNSurvivalLib.mrml.stale import SegmentNow
        from CNNSurvivalLib.widgets.batch_box import BatchSection
        from CNNSurvivalLib.widgets.compare_box import CompareSection
        from CNNSurvivalLib.widgets.explain_box import ExplainSection
        from CNNSurvivalLib.widgets.export_box import ExportSection
        from CNNSurvivalLib.widgets.gui_connection import GuiConnection
        from CNNSurvivalLib.widgets.inputs_box import InputsBox
        from CNNSurvivalLib.widgets.keyboard import reachAll
        from CNNSurvivalLib.widgets.model_box import ModelSection
        from CNNSurvivalLib.widgets.patient_box import PatientSection
        from CNNSurvivalLib.widgets.plot_button import PlotButton
        from CNNSurvivalLib.widgets.result_box import ResultSection
        from CNNSurvivalLib.widgets.runner import Runner
        from CNNSurvivalLib.widgets.slices_box import SlicesSection
        from CNNSurvivalLib.widgets.tabs import Tabs
        from CNNSurvivalLib.widgets.tumour_box import TumourSection

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CNNSurvival.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)

        self.guesses = guesses
        self.segmentNow = SegmentNow()
        self.logic = CNNSurvivalLogic()
        self.connection = GuiConnection(self.ui, self._onParametersChanged)
        self.runner = Runner(self.ui, self._onParametersChanged)
        self.models = ModelSection(self.ui, self.logic, self._onModelSelected, self._onPopulationSelected)
        self.patient = PatientSection(self.ui, self._onPatientChanged, self.runner.showStatus)
        self.inputs = InputsBox(self.ui.inputsCollapsibleButton, lambda: self._parameterNode)
        self.tumour = TumourSection(self.ui, self.resourcePath("UI/Tumour.ui"), self._onDrawn, self.inputs.fold)
        self.result = ResultSection(self.ui)
        self.plot = PlotButton(self.ui.showChartButton, self._result)
        self.slices = SlicesSection(self.ui, self._onUsedChanged, self.runner.showStatus)
        self.compare = CompareSection(self.ui, self.plot.show, self._result)
        shown = (self._prediction, self._volumeAndResult)
        self.explain = ExplainSection(self.ui, self.logic, self.runner, self._engineOf, *shown)
        self.export = ExportSection(self.ui, self.logic, self.runner, *shown)
        self.batch = BatchSection(self.ui, self.logic, self.runner, lambda: self.models.bundle, self._options)

        self.tabs = Tabs(self.ui)
        reachAll(self.ui)

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeAddedEvent, self.onNodeAdded)
        self.ui.segmentSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onSegmentationSelected)
        self.ui.segmentSelector.connect("currentSegmentChanged(QString)", self.onSegmentSelected)
        self.ui.sampleButton.connect("clicked(bool)", self.onSampleButton)
        self.ui.predictButton.connect("clicked(bool)", self.onPredictButton)
        self.ui.horizonsLineEdit.connect("editingFinished()", self.onHorizonsEdited)

        self.initializeParameterNode()

    def cleanup(self) -> None:
        if self.logic:  # else setup failed
            self.runner.cancel()
            self.tumour.cleanup()
            self.plot.release()
            self.setParameterNode(None)
        self.removeObservers()

    def enter(self) -> None:
        self.initializeParameterNode()
        self.tumour.enter()

    def exit(self) -> None:
        """The panel stays connected, and work under way continues."""
        self.tumour.leave()

    def onReload(self) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "CNNSurvivalLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event) -> None:
        self.runner.cancel()
        self.setParameterNode(None)
        self.plot.closeScene()
        self.explain.closeScene()
        self.tumour.closeScene()
        self.patient.forget()

    def onSceneEndClose(self, caller, event) -> None:
        self.runner.showStatus("")
        if self.parent.isEntered:
            self.enter()

    def onSceneEndImport(self, caller, event) -> None:
        if self._parameterNode:
            self.setParameterNode(None)  # fill the widgets anew: they heard of nodes that had not been imported yet
            self.initializeParameterNode()
            self.tumour.afterImport()
            if self._result():
                self.inputs.fold()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(self, caller, event, node) -> None:
        isInput = node.IsA("vtkMRMLSegmentationNode") or node.IsA("vtkMRMLScalarVolumeNode")
        if self.parent.isEntered and isInput and not slicer.mrmlScene.IsBatchProcessing():
            # Voxels, segments and the reference to the CT are added after the node itself.
            qt.QTimer.singleShot(0, self._guess)

    def initializeParameterNode(self) -> None:
        self.setParameterNode(self.logic.getParameterNode())
        self._guess()

    def setParameterNode(self, inputParameterNode: Optional[CNNSurvivalParameterNode]) -> None:
        self._parameterNode = self.connection.connect(inputParameterNode)
        if self._parameterNode:
            self._guessedFor = self._id(self._parameterNode.volume)
        if self.logic:
            self._onParametersChanged()

    # --- Inputs

    def _guess(self) -> None:
        """Choose what is not chosen yet."""
        p = self._parameterNode
        if not p or self.runner.running:
            return
        with slicer.util.NodeModify(p):
            if self.models.select(p.modelId, p.population):
                p.population = self.models.bundle.population.name
            elif self.models.bundles and self.models.select(self.models.bundles[0].id):
                self._setModel(self.models.bundle)
            if not p.volume:
                p.volume = self.guesses.guess_volume(slicer.mrmlScene)
            if not p.segmentation:
                self._guessTumour()
            elif not self._segmentExists():
                p.segmentId = self.guesses.guess_segment(p.segmentation)
        self._showSampleButton()

    def _guessTumour(self) -> None:
        p = self._parameterNode
        p.segmentation, p.segmentId = self.guesses.guess_tumour(slicer.mrmlScene, p.volume)

    def _showSampleButton(self) -> None:
        nothing = not self._parameterNode.volume and self.guesses.guess_volume(slicer.mrmlScene) is None
        self.ui.sampleButton.visible = nothing

    def _guessForAnotherVolume(self) -> None:
        """Where the user chose another CT: the tumour that was drawn on it."""
        p = self._parameterNode
        volumeId, self._guessedFor = self._guessedFor, self._id(p.volume)
        if not p.volume or volumeId == self._guessedFor:
            return
        p.force = False  # it was meant for one image
        if not p.segmentation or not self.guesses.refers_to(p.segmentation, p.volume):
            self._guessTumour()
        if self.parent.isEntered:
            self.slices.showVolume(p.volume)

    def _segmentExists(self) -> bool:
        p = self._parameterNode
        return bool(p.segmentation and p.segmentId and p.segmentation.GetSegmentation().GetSegment(p.segmentId))

    def onSegmentationSelected(self, node) -> None:
        if self._updating or not self._parameterNode:
            return
        with slicer.util.NodeModify(self._parameterNode):
            self._parameterNode.segmentation = node
            self._parameterNode.segmentId = self.guesses.guess_segment(node)

    def onSegmentSelected(self, segmentId) -> None:
        p = self._parameterNode
        # While the segmentation changes, the selector reports a segment of the new one before the new one itself.
        if self._updating or not p or self.ui.segmentSelector.currentNodeID() != self._id(p.segmentation):
            return
        removed = p.segmentId and not self._segmentExists()  # then the selector takes the first one that is left
        p.segmentId = self.guesses.guess_segment(p.segmentation) if removed else segmentId

    def openWith(self, node, segmentId="") -> None:
        """Choose this CT or segmentation, and what belongs to it, as inputs; called by the context menu."""
        volume, segmentation, guessed = self.guesses.inputs_of(node)
        p = self._parameterNode  # the module was entered before
        with slicer.util.NodeModify(p):
            self._guessedFor = self._id(volume)  # the tumour need not be looked for
            p.force = p.force and volume is p.volume
            p.volume, p.segmentation, p.segmentId = volume, segmentation, segmentId or guessed
        if volume:
            self.slices.showVolume(volume)

    def onSampleButton(self, checked=False) -> None:
        with slicer.util.tryWithErrorDisplay(_("The sample case could not be made."), waitCursor=True):
            self.logic.loadSample()

    def _onModelSelected(self, bundle) -> None:
        if not self._updating and self._parameterNode:
            self._setModel(bundle)
            self._checkCanPredict()

    def _onPopulationSelected(self, name) -> None:
        if not self._updating and self._parameterNode:
            self._parameterNode.population = name

    def _setModel(self, bundle) -> None:
        if bundle:
            with slicer.util.NodeModify(self._parameterNode):
                self._parameterNode.modelId = bundle.id
                self._parameterNode.population = bundle.population.name
                self._parameterNode.minimumRoi = bundle.preprocessing.min_roi_px
                self._parameterNode.maximumSlices = bundle.max_slices

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
            p = self._parameterNode
            self.runner.statusIsAbout((self._id(p.volume), self._id(p.segmentation), p.segmentId) if p else None)
            self.tumour.show(p)
            self._checkCanPredict()
            self._showResult()
        finally:
            self._updating = False

    def _onDrawn(self) -> None:
        self.runner.statusIsAbout("what was drawn before")
        self._onParametersChanged()

    def _showInputs(self) -> None:
        p = self._parameterNode
        self.ui.segmentSelector.setCurrentNode(p.segmentation)
        if p.segmentation:
            self.ui.segmentSelector.setCurrentSegmentID(p.segmentId)
        self.models.select(p.modelId, p.population)
        self.patient.show(self.models.bundle, p.volume, self._currentPrediction())
        self._showSampleButton()

    def _checkCanPredict(self) -> None:
        from CNNSurvivalLib.widgets.predict_button import showWhetherReady

        if self.runner.running:
            return
        p = self._parameterNode
        showWhetherReady(self.ui, p, bool(p and self._segmentExists()), self.models.bundle)

    def _showResult(self) -> None:
        result = self._result()
        prediction, stale = self._prediction(), self._stale(result)
        self.inputs.show(result is not None)
        self.tabs.show(result is not None)
        self.slices.show(prediction)
        self.explain.show(stale)
        for section in (self.compare, self.export):
            section.show()
        self.result.show(result, prediction, stale)

    def _result(self):
        from CNNSurvivalLib.mrml.results import find_result

        p = self._parameterNode
        return find_result(slicer.mrmlScene, p.volume, p.segmentation, p.segmentId) if p else None

    def _volumeAndResult(self) -> tuple:
        return (self._parameterNode.volume if self._parameterNode else None), self._result()

    def _prediction(self):
        """The prediction that is shown, from its record; None where there is none, or its model is not in the list."""
        from CNNSurvivalLib.mrml.results import read_prediction

        result = self._result()
        text = result.record.GetText() if result else None
        if text is None or self._shown[0] != text:
            found = read_prediction(result, self.models.bundles) if result else None
            self._shown = (text, found)
        return self._shown[1]

    def _currentPrediction(self):
        """The prediction that is shown, where it is of the chosen model and population; else None."""
        prediction = self._prediction()
        return prediction if self.models.made(prediction) else None

    def _stale(self, result) -> str:
        """Why the result (or None) is no longer that of the inputs; "" where it is."""
        from CNNSurvivalLib.mrml.results import read_record
        from CNNSurvivalLib.mrml.stale import Wanted, why_stale

        if result is None:
            return ""
        p = self._parameterNode
        segment = self.segmentNow.checksum(p.volume, p.segmentation, p.segmentId)
        wanted = Wanted(self.models.bundle, p.lesions, p.minimumRoi, p.maximumSlices, segment)
        return why_stale(read_record(result), wanted)

    # --- Predict, and what can be changed afterwards

    def _options(self) -> dict:
        """The panel's settings other than the inputs, as CNNSurvivalLogic.process takes them."""
        p = self._parameterNode
        return {
            "minimumRoi": p.minimumRoi,
            "maximumSlices": p.maximumSlices,
            "horizons": p.horizons,
            "engine": self._engineOf(self.models.bundle),
            "lesions": p.lesions,
            "force": p.force,
        }

    def _engineOf(self, bundle):
        return self.logic.engine(self.models.engineName, bundle)

    def onPredictButton(self, checked=False) -> None:
        if not self._parameterNode or not (self.runner.running or self.models.licenceAcknowledged()):
            return
        result = self.runner.click(self.ui.predictButton, self._predict)
        if result is not None:
            self.result.predicted()
            self.inputs.fold()
            self._onParametersChanged()
            self.slices.showVolume(self._parameterNode.volume)
            self.slices.showBest()

    def _predict(self, progress):
        p = self._parameterNode
        inputs = (p.volume, p.segmentation, p.segmentId, self.models.bundle)
        return self.logic.process(*inputs, progress=progress, covariates=self.patient.values, **self._options())

    def onHorizonsEdited(self) -> None:
        if self._parameterNode and self._prediction() is not None:
            self._revise(horizons=self._parameterNode.horizons)

    def _onPatientChanged(self) -> None:
        if self._parameterNode and self._currentPrediction() is not None:
            self._revise(covariates=self.patient.values)

    def _onUsedChanged(self, used) -> None:
        self._revise(used=used)

    def _revise(self, **changes) -> None:
        p = self._parameterNode
        try:
            self.logic.revise(self._prediction(), p.volume, p.segmentation, p.segmentId, **changes)
            self.runner.showStatus("")
        except CNNSurvivalError as error:
            self.runner.showStatus(str(error))
        self._onParametersChanged()

    @staticmethod
    def _id(node) -> str:
        return node.GetID() if node else ""


#
# CNNSurvivalLogic
#


class CNNSurvivalLogic(ScriptedLoadableModuleLogic):
    """What the panel does, for scripts: ``CNNSurvivalLogic().process(volume, segmentation, segmentId)``.

    progress(step, fraction), wherever it is taken, may raise Cancelled; the scene then stays as it was.
    """

    def getParameterNode(self):
        return CNNSurvivalParameterNode(super().getParameterNode())

    def process(self, volume, segmentation, segmentId, bundle=None, minimumRoi=None, maximumSlices=None, engine=None,
                progress=None, horizons=None, covariates=None, force=False, lesions="all"):  # fmt: skip
        """Predict, and leave the result in the scene (CNNSurvivalLib.mrml.results.Result); works without a window.

        bundle: from CNNSurvivalLib.bundle.load_bundle, with for_population for another than its default; None for the
        default model. minimumRoi, maximumSlices: None for the model's own. engine: from
        CNNSurvivalLib.engines.create_engine with this bundle, None for the built-in one. horizons: months as text,
        "6, 12, 18". covariates: {"age_years": 63}, what is known beside the image. force: also from an image that does
        not look like a CT. lesions: "all" or "largest", where the segment holds several. Raises CNNSurvivalError where
        the inputs cannot be used; the scene then stays as it was.
        """
        from CNNSurvivalLib.bundle import default_bundle_folder, load_bundle
        from CNNSurvivalLib.mrml.inputs import predict_nodes, words_of_the_panel
        from CNNSurvivalLib.mrml.results import write_result
        from CNNSurvivalLib.report.text import parse_horizons

        bundle = bundle or load_bundle(default_bundle_folder())
        options = {"min_roi_px": minimumRoi, "max_slices": maximumSlices, "covariates": covariates}
        options.update(force=force, lesions=lesions)
        if horizons is not None:
            options["horizons_months"] = parse_horizons(horizons)
        with words_of_the_panel():
            prediction = predict_nodes(volume, segmentation, segmentId, bundle, engine, progress, **options)
        return write_result(slicer.mrmlScene, prediction, volume, segmentation, segmentId)

    def revise(self, prediction, volume, segmentation, segmentId, used=None, horizons=None, covariates=None):
        """Update the result for other slices (list of bool), horizons or covariates. The network does not run again."""
        from CNNSurvivalLib.mrml.results import write_result
        from CNNSurvivalLib.prediction import revise
        from CNNSurvivalLib.report.text import parse_horizons

        months = None if horizons is None else parse_horizons(horizons)
        revised = revise(prediction, used, months, covariates)
        return write_result(slicer.mrmlScene, revised, volume, segmentation, segmentId)

    def explain(self, volume, result, prediction, engine=None, progress=None):
        """(map of where the tumour raises or lowers the risk, a volume node beside the result; a sentence on it)."""
        from CNNSurvivalLib.mrml.explanation import explain

        return explain(slicer.mrmlScene, volume, result, prediction, engine, progress)

    def export(self, volume, result, prediction, folder, patient=None, scene=False, progress=None):
        """Write report, picture, tables and, if ``scene``, all of the scene as .mrb; returns the paths."""
        from CNNSurvivalLib.widgets.exporter import exportFiles

        return exportFiles(result, prediction, folder, patient, scene, progress)

    def exportDicom(self, volume, result, prediction, folder, database=False, progress=None, others=None):
        """Write the result as DICOM that joins the CT's study; see CNNSurvivalLib.widgets.exporter.exportDicom."""
        from CNNSurvivalLib.widgets.exporter import exportDicom

        return exportDicom(volume, result, prediction, folder, database, progress, others)

    def batch(self, source, path, folder, bundle, options, onRow, progress=None) -> str:
        """Predict all patients of the "scene", a "manifest" or a "folder", into predictions.csv and failures.csv.

        onRow(batch.shown(outcome)): called for each. Returns a sentence that says what was done.
        """
        from CNNSurvivalLib.batch import predict_source

        changes = {"min_roi_px": options["minimumRoi"], "max_slices": options["maximumSlices"],
                   "lesions": options["lesions"], "engine": options["engine"], "force": options["force"]}  # fmt: skip
        return predict_source(source, path, folder, bundle, onRow, progress, slicer.mrmlScene, **changes)

    def engine(self, name, bundle):
        from CNNSurvivalLib.engines import create_engine

        return create_engine(name, bundle) if bundle else None

    def loadSample(self):
        """(CT, segmentation): a made-up patient, made on this computer."""
        from CNNSurvivalLib.mrml.sample import add_sample

        return add_sample()

    def models(self, folders=()) -> list:
        """[(folder, Bundle or None, what is wrong with it or None)] shipped and in folders, the default first."""
        from CNNSurvivalLib.bundle import installed_bundles

        return installed_bundles(folders)


#
# CNNSurvivalTest
#


def _selfTest():
    """The class SelfTest of Testing/self_test.py.

    It is loaded by its path: a package named Testing on Slicer's shared path would collide with other extensions'.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Testing", "self_test.py")
    spec = importlib.util.spec_from_file_location("CNNSurvivalSelfTest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SelfTest


class CNNSurvivalTest(_selfTest(), ScriptedLoadableModuleTest):
    """The tests are in Testing/self_test.py."""
