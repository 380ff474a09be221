"""No box of the panel: what Slicer's own widgets need so that the keyboard and a screen reader reach them."""

import qt


def reachAll(ui) -> None:
    """The panel's selectors of nodes, folders and files."""
    for name, inner in (
        ("volumeSelector", "QComboBox"),
        ("segmentSelector", "QComboBox"),
        ("exportDirectoryButton", "QPushButton"),
        ("batchPathLineEdit", "QComboBox"),
        ("batchDirectoryButton", "QPushButton"),
    ):
        reach(getattr(ui, name + "Label"), getattr(ui, name), inner)


def reach(label, widget, inner: str) -> None:
    """Let the label's letter go to the widget that is inside another one, such as a combo box in a node selector.

    inner: the class of the inner widget. Slicer's selectors take no focus themselves, so Qt passes them over.
    """
    found = [each for each in widget.findChildren(inner) if not each.isHidden()]
    nodes = [each for each in found if each.parent().inherits("qMRMLNodeComboBox")]  # before the one for its segment
    found = [*nodes, *(each for each in found if each not in nodes)]
    if not found:
        return
    for each in found:
        if not each.accessibleName:
            each.accessibleName = label.text.replace("&", "").rstrip(":")
        if not each.toolTip:
            each.toolTip = widget.toolTip
    if widget.focusPolicy == qt.Qt.NoFocus:
        label.setBuddy(found[0])
