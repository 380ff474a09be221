"""The box Tumour: draw or correct it here, with Slicer's own editor, and say what is taken of several lesions."""

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from CNNSurvivalLib.lesions import CHOICES, matters
from CNNSurvivalLib.mrml.guesses import refers_to
from CNNSurvivalLib.mrml.tumour import editor_node, has_nothing_drawn, new_tumour

UNDO_STATES = 10  # as in the Segment Editor module


class TumourSection(VTKObservationMixin):
    """The editor is made when the box is first opened; it draws only while the box is open and the module is shown.

    ui: the panel's widgets; the box comes into tumourPlaceholder. uiPath: of the box itself. onDrawn(): called when the
    segmentation was changed, here or elsewhere.
    """

    def __init__(self, ui, uiPath, onDrawn) -> None:
        VTKObservationMixin.__init__(self)
        self._onDrawn = onDrawn
        self._parameters = None  # the panel's parameter node
        self._editor = None
        self._followed = None  # IDs of segmentation and segment that the editor was given last
        self._entered = False
        self._filling = False
        self.widget = slicer.util.loadUI(uiPath)
        self.box = slicer.util.childWidgetVariables(self.widget)
        ui.tumourPlaceholder.layout().addWidget(self.widget)
        qt.QWidget.setTabOrder(ui.segmentSelector, self.box.newTumourButton)
        qt.QWidget.setTabOrder(self.box.newTumourButton, self.box.lesionsComboBox)
        self.widget.connect("contentsCollapsed(bool)", self._onCollapsed)
        self.box.newTumourButton.connect("clicked(bool)", self.onNewTumour)
        self.box.lesionsComboBox.connect("currentIndexChanged(int)", self._onLesions)

    @property
    def editor(self):
        """The qMRMLSegmentEditorWidget; None before the box was opened."""
        return self._editor

    @staticmethod
    def made(prediction, lesions) -> bool:
        """Whether the prediction is that of this choice of lesions."""
        return not matters(prediction.provenance, lesions)

    # --- Life

    def enter(self) -> None:
        """The module is shown."""
        self._entered = True
        self._begin()

    def leave(self) -> None:
        """The module is left: no effect listens to the views or the keyboard any longer."""
        self._end()
        self._entered = False

    def closeScene(self) -> None:
        """The scene is about to be closed: let go of its nodes."""
        self._end()
        self._observe(None)
        if self._editor:
            self._editor.setSourceVolumeNode(None)  # first, as it does nothing without a segmentation
            self._editor.setSegmentationNode(None)

    def cleanup(self) -> None:
        """The panel is about to be deleted."""
        self.leave()
        self.removeObservers()
        if self._editor:
            self._effects.disconnect("effectRegistered(QString)", self._editor.updateEffectList)

    # --- From the parameter node to the box

    def show(self, parameters) -> None:
        """parameters: the panel's parameter node, or None while the panel is not connected."""
        p = self._parameters = parameters
        segmentation = p.segmentation if p else None
        self._observe(segmentation)
        self.box.newTumourButton.enabled = bool(p and p.volume)
        self.box.tumourLabel.text = self._hint(p)
        self.box.tumourLabel.visible = bool(self.box.tumourLabel.text)
        if p:
            self._filling = True
            self.box.lesionsComboBox.currentIndex = CHOICES.index(p.lesions) if p.lesions in CHOICES else 0
            self._filling = False
        self._follow()

    @staticmethod
    def _hint(p) -> str:
        if not (p and p.volume):
            return _("Choose a CT first.")
        if not p.segmentation:
            return _("No segmentation is chosen: draw a new tumour on this CT, or choose one above.")
        return ""

    def _observe(self, segmentation) -> None:
        """Hear when the segmentation is changed, by this editor or any other way."""
        kinds = slicer.vtkSegmentation
        # Drawing in a segment invokes the first, undoing it the second.
        events = (kinds.SourceRepresentationModified, kinds.SegmentModified, kinds.SegmentAdded, kinds.SegmentRemoved)
        if segmentation is not None and self.hasObserver(segmentation, events[0], self._onSegmentation):
            return
        self.removeObservers(self._onSegmentation)
        if segmentation is not None:
            for event in events:
                self.addObserver(segmentation, event, self._onSegmentation)

    def _onSegmentation(self, caller, event) -> None:
        self._onDrawn()

    # --- What the user does

    def onNewTumour(self, checked=False) -> None:
        p = self._parameters
        if not (p and p.volume):
            return
        # A second click does not make a second one.
        if not (refers_to(p.segmentation, p.volume) and has_nothing_drawn(p.segmentation, p.segmentId)):
            segmentation, segmentId = new_tumour(p.volume)
            with slicer.util.NodeModify(p):
                p.segmentation, p.segmentId = segmentation, segmentId
        self.widget.collapsed = False

    def _onLesions(self, index) -> None:
        p = self._parameters
        if p and not self._filling:
            p.lesions = CHOICES[index]

    def _onCollapsed(self, collapsed) -> None:
        if collapsed:
            self._end()
        else:
            self._begin()

    # --- The editor

    def _begin(self) -> None:
        """Let the editor draw, if the box is open."""
        if not self._entered or self.widget.collapsed:
            return
        if self._editor is None:
            self._makeEditor()
        self._editor.turnOffLightboxes()  # effects cannot draw in them
        if slicer.util.mainWindow():
            self._editor.installKeyboardShortcuts()
        self._followed = None
        self._follow()

    def _end(self) -> None:
        """Put the editor to rest: it keeps its place and its undo states."""
        if self._editor:
            self._editor.setActiveEffect(None)
            self._editor.uninstallKeyboardShortcuts()
            self._editor.removeViewObservations()

    def _makeEditor(self) -> None:
        self._editor = slicer.qMRMLSegmentEditorWidget()
        self._editor.setMaximumNumberOfUndoStates(UNDO_STATES)
        self._editor.segmentationNodeSelectorVisible = False  # the inputs above choose
        self._editor.sourceVolumeNodeSelectorVisible = False
        self._editor.switchToSegmentationsButtonVisible = False
        # First the node, then the scene, so that what is chosen by default is kept in the node.
        self._editor.setMRMLSegmentEditorNode(editor_node(slicer.mrmlScene))
        self._editor.setMRMLScene(slicer.mrmlScene)
        self.box.editorFrame.layout().addWidget(self._editor)
        self._effects = slicer.qSlicerSegmentEditorEffectFactory.instance()
        self._effects.connect("effectRegistered(QString)", self._editor.updateEffectList)

    def _follow(self) -> None:
        """Give the inputs to the editor; nothing changes where it has them."""
        p = self._parameters
        if not self._editor or not self._entered or self.widget.collapsed or not p:
            return
        self._editor.setMRMLSegmentEditorNode(editor_node(slicer.mrmlScene))
        self._editor.setSegmentationNode(p.segmentation)
        if p.segmentation:
            self._editor.setSourceVolumeNode(p.volume)
            wanted = (p.segmentation.GetID(), p.segmentId)
            if wanted != self._followed:  # else the user may have chosen another segment in the editor's list
                self._followed = wanted
                self._editor.setCurrentSegmentID(p.segmentId)
        self.box.editorFrame.visible = bool(p.volume and p.segmentation)
