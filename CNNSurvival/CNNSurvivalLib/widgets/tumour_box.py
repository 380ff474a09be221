"""The box Tumour: draw or correct it here, with Slicer's own editor, and say what is taken of several lesions."""

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from CNNSurvivalLib.lesions import CHOICES
from CNNSurvivalLib.mrml.guesses import refers_to
from CNNSurvivalLib.mrml.nodes import segments_of
from CNNSurvivalLib.mrml.tumour import editor_node, has_nothing_drawn, new_tumour
from CNNSurvivalLib.widgets.marks import frameStyle, showWarningIcon

UNDO_STATES = 10  # as in the Segment Editor module
ROWS = 4  # of the editor's list of segments; more of them scroll


class TumourSection(VTKObservationMixin):
    """The editor is made when the box is first opened; it draws only while the box is open and the module is shown.

    ui: the panel's widgets; the box comes into tumourPlaceholder. uiPath: of the box itself. onDrawn(): called when the
    segmentation was changed, here or elsewhere. onNew(): called when a new tumour can be drawn.
    """

    def __init__(self, ui, uiPath, onDrawn, onNew) -> None:
        VTKObservationMixin.__init__(self)
        self._onDrawn = onDrawn
        self._onNew = onNew
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
        showWarningIcon(self.box.otherIconLabel)
        self.box.otherFrame.styleSheet = frameStyle("otherFrame")
        self.widget.connect("contentsCollapsed(bool)", self._onCollapsed)
        self.box.newTumourButton.connect("clicked(bool)", self.onNewTumour)
        self.box.useButton.connect("clicked(bool)", self.onUseButton)
        self.box.lesionsComboBox.connect("currentIndexChanged(int)", self._onLesions)

    @property
    def editor(self):
        """The qMRMLSegmentEditorWidget; None before the box was opened."""
        return self._editor

    # --- Life

    def enter(self) -> None:
        """The module is shown."""
        self._entered = True
        self._begin()

    def leave(self) -> None:
        """The module is left: no effect listens to the views or the keyboard any longer."""
        self._end()
        self._entered = False

    def afterImport(self) -> None:
        """A scene was loaded. At its end the editor takes what its hidden selectors show, and that is nothing yet."""
        self._followed = None
        qt.QTimer.singleShot(0, self._follow)

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
        if p:
            self._filling = True
            self.box.lesionsComboBox.currentIndex = CHOICES.index(p.lesions) if p.lesions in CHOICES else 0
            self._filling = False
        self._follow()

    def _showOther(self, caller=None, event=None) -> None:
        """Where the editor draws in another segment than the one that is predicted from: say so."""
        p = self._parameters
        segments = segments_of(p.segmentation) if p and self._active() else {}
        drawn = segments.get(self._editor.currentSegmentID()) if segments else None
        chosen = segments.get(p.segmentId) if segments else None
        other = drawn is not None and drawn is not chosen
        if other:
            used = _("'{name}'").format(name=chosen.GetName()) if chosen is not None else _("no segment")
            self.box.otherLabel.text = _("You draw in '{drawn}'; Predict survival uses {used}.").format(
                drawn=drawn.GetName(), used=used
            )
        self.box.otherFrame.visible = other

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
        self._onNew()

    def onUseButton(self, checked=False) -> None:
        """Predict from the segment that the editor draws in."""
        if self._parameters and self._active():
            self._parameters.segmentId = self._editor.currentSegmentID()

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
        for table in self._editor.findChildren("qMRMLSegmentsTableView"):
            height = qt.QFontMetrics(table.font).height()
            table.setMaximumHeight(int((ROWS + 2.5) * 1.4 * height))  # with its header, and a filter above
        self._effects = slicer.qSlicerSegmentEditorEffectFactory.instance()
        self._effects.connect("effectRegistered(QString)", self._editor.updateEffectList)

    def _follow(self) -> None:
        """Give the inputs to the editor; nothing changes where it has them."""
        p = self._parameters
        if not self._active() or not p:
            self._showOther()
            return
        node = editor_node(slicer.mrmlScene)
        if not self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self._showOther):
            self.removeObservers(self._showOther)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._showOther)  # another segment was chosen there
        self._editor.setMRMLSegmentEditorNode(node)
        self._editor.setSegmentationNode(p.segmentation)
        if p.segmentation:
            self._editor.setSourceVolumeNode(p.volume)
            wanted = (p.segmentation.GetID(), p.segmentId)
            if wanted != self._followed:  # else the user may have chosen another segment in the editor's list
                self._followed = wanted
                self._editor.setCurrentSegmentID(p.segmentId)
        self.box.editorFrame.visible = bool(p.volume and p.segmentation)
        self._showOther()

    def _active(self) -> bool:
        """Whether the editor may draw."""
        return self._editor is not None and self._entered and not self.widget.collapsed
