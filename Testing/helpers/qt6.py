"""The modules qt, ctk, slicer and vtk as far as the panel needs them to be built, over PySide6, which is Qt 6.

Slicer's Python speaks to Qt through PythonQt: properties are attributes, and signals are named by text. Both are made
here, and strict: a property or a signal that Qt 6 does not have raises AttributeError. What PythonQt itself may do
differently under Qt 6 cannot be seen here.
"""

import enum
import sys
import types
from unittest.mock import MagicMock

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

MODULES = ("qt", "ctk", "vtk", "slicer", "slicer.i18n", "slicer.parameterNodeWrapper", "slicer.ScriptedLoadableModule",
           "slicer.util")  # fmt: skip


_reading: list = []


class PythonQt:
    """Put before a class of Qt: its properties become attributes, ``connect`` takes a signal as text."""

    def __getattribute__(self, name):
        if name == "connect":  # PySide6 finds its own, whatever a class says
            return self._connect
        # While Qt reads a property, PySide6 asks here for a method of that name that would override Qt's own.
        if name[:1] != "_" and not _reading and QtCore.QObject.metaObject(self).indexOfProperty(name) >= 0:
            _reading.append(name)
            try:
                return QtCore.QObject.property(self, name)
            finally:
                _reading.pop()
        return super().__getattribute__(name)

    def __setattr__(self, name, value):
        if name[:1] == "_":
            super().__setattr__(name, value)
        elif QtCore.QObject.metaObject(self).indexOfProperty(name) < 0:
            raise AttributeError(f"{type(self).__name__} has no property '{name}' in Qt 6")
        else:
            QtCore.QObject.setProperty(self, name, value)

    def _connect(self, signal, slot):
        normalized = QtCore.QMetaObject.normalizedSignature(signal).data().decode()
        if QtCore.QObject.metaObject(self).indexOfSignal(normalized) < 0:
            raise AttributeError(f"{type(self).__name__} has no signal '{signal}' in Qt 6")
        getattr(self, normalized.split("(")[0]).connect(slot)

    def exec_(self):
        """PythonQt has it beside exec in Qt 6, too; nothing waits here."""
        return 0


class StandIn(PythonQt):
    """A widget of CTK or Slicer: any property and signal, any method, which does nothing."""

    def __getattr__(self, name):
        value = QtCore.QObject.property(self, name)
        return MagicMock() if value is None else value

    def __setattr__(self, name, value):
        QtCore.QObject.setProperty(self, name, value)

    def _connect(self, signal, slot):
        pass


class _Filters(enum.IntFlag):
    Files, Dirs = 1, 2


def _classes():
    """Name -> class or enum of Qt 6; classes with properties and signals in PythonQt's manner."""
    found = {}
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):
            value = getattr(module, name)
            made = isinstance(value, type) and issubclass(value, QtCore.QObject)
            found[name] = type(name, (PythonQt, value), {}) if made else value
    return found


QT = _classes()
STAND_INS = {
    name: type(name, (StandIn, base), {"Files": _Filters.Files, "Dirs": _Filters.Dirs})
    for name, base in {
        "ctkCollapsibleButton": QtWidgets.QWidget,
        "ctkDirectoryButton": QtWidgets.QWidget,
        "ctkPathLineEdit": QtWidgets.QWidget,
        "qMRMLTableView": QtWidgets.QTableView,
    }.items()
}


class Loader(QtUiTools.QUiLoader):
    """Makes the widgets of a .ui file; ``unknown`` are the properties that Qt 6 does not have."""

    def createWidget(self, class_name, parent=None, name=""):
        made = QT.get(class_name) or STAND_INS.setdefault(
            class_name, type(class_name, (StandIn, QtWidgets.QWidget), {})
        )
        widget = made(parent)
        widget.setObjectName(name)
        if isinstance(widget, QtWidgets.QTableView):
            widget.setHorizontalHeader(QT["QHeaderView"](QtCore.Qt.Horizontal, widget))
            widget.setVerticalHeader(QT["QHeaderView"](QtCore.Qt.Vertical, widget))
        self.made = [*getattr(self, "made", []), widget]  # else Python would forget the classes
        return widget


def load(path):
    """(the widget of a .ui file, name -> each widget in it)."""
    loader = Loader()
    top = loader.load(str(path))
    return top, types.SimpleNamespace(**{each.objectName: each for each in loader.made if each.objectName})


class _Module:
    def __init__(self, parent=None):
        self.parent = parent


class _Widget(_Module):
    def setup(self):
        self.layout = QtWidgets.QVBoxLayout()


class _Observations:
    def __init__(self):
        pass

    def addObserver(self, *arguments):
        pass

    removeObserver = removeObservers = hasObserver = addObserver


def install(monkeypatch, resources):
    """Put the modules into ``sys.modules``; the .ui files are in the folder of resources."""
    modules = {name: MagicMock() for name in MODULES}
    modules["qt"] = types.SimpleNamespace(**QT)
    modules["ctk"] = types.SimpleNamespace(**STAND_INS)
    modules["slicer.i18n"] = types.SimpleNamespace(tr=lambda text: text, translate=lambda context, text: text)
    base = modules["slicer.ScriptedLoadableModule"]
    base.ScriptedLoadableModule, base.ScriptedLoadableModuleWidget = _Module, _Widget
    base.ScriptedLoadableModuleLogic, base.ScriptedLoadableModuleTest = _Module, object
    util = modules["slicer.util"]
    util.VTKObservationMixin, util.mainWindow = _Observations, lambda: None
    loaded = []  # (widget, its widgets by name)
    util.loadUI = lambda path: loaded.append(load(path)) or loaded[-1][0]
    util.childWidgetVariables = lambda widget: next(widgets for top, widgets in loaded if top is widget)
    _Widget.resourcePath = lambda self, name: str(resources / name)
    modules["slicer"].util, modules["slicer"].dicomDatabase = util, None
    modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = lambda made: made
    modules["vtk"].calldata_type = lambda kind: lambda function: function
    for name in [name for name in sys.modules if name == "CNNSurvival" or name.startswith("CNNSurvivalLib.widgets")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
