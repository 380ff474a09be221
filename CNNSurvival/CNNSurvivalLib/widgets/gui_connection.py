"""No box of the panel: the connection of its widgets with the parameter node."""

import vtk

NAME = "SlicerParameterName"  # the property of a widget that names its parameter
# Priorities of VTK, below those of the observers with which the wrapper keeps its values. Among equals VTK calls the
# one that was added first last, and the widgets would be given the former value of the first parameter.
WIDGETS, PANEL = -1.0, -2.0


class GuiConnection:
    """Widgets that show parameters and change them, as Slicer's ``connectGui`` makes them, and without a leak.

    Before Slicer 5.12 ``connectGui`` returns no tag, and ``disconnectGui`` leaves an observer of the node behind, which
    keeps the node's wrapper alive. So the observers are noted here while Slicer adds them.
    """

    def __init__(self, ui, onChanged) -> None:
        """ui: widgets, of which those that name a parameter are connected.

        onChanged(caller, event): called when a parameter has changed, after the widgets.
        """
        self._widgets = {widget.property(NAME): widget for widget in vars(ui).values() if widget.property(NAME)}
        self._onChanged = onChanged
        self._parameters = None
        self._tag = None
        self._observers = []

    def connect(self, parameters):
        """The parameter node wrapper that is connected: this one, the one before if of the same node; or None."""
        before = self._parameters
        if before and parameters and before.parameterNode is parameters.parameterNode:
            return before
        self._disconnect()
        self._parameters = parameters
        if parameters:
            parameters.AddObserver = self._addObserver  # hides the method of the class
            try:
                self._tag = parameters.connectParametersToGui(self._widgets)
            finally:
                del parameters.AddObserver
            self._addObserver(vtk.vtkCommand.ModifiedEvent, self._onChanged, PANEL)
        return parameters

    def _disconnect(self) -> None:
        if self._parameters:
            self._parameters.disconnectGui(self._tag)
            for tag in self._observers:
                self._parameters.RemoveObserver(tag)
        self._observers = []

    def _addObserver(self, event, callback, priority=WIDGETS) -> int:
        tag = self._parameters.parameterNode.AddObserver(event, callback, priority)
        self._observers.append(tag)
        return tag
