"""Marks of a warning: an icon beside the text, and a frame. They stand out without their colour, in every style."""

import qt

ICON_PIXELS = 22


def showWarningIcon(label) -> None:
    """The style's sign for a warning on a QLabel."""
    icon = label.style().standardIcon(qt.QStyle.SP_MessageBoxWarning)
    label.setPixmap(icon.pixmap(qt.QSize(ICON_PIXELS, ICON_PIXELS)))


def frameStyle(name: str, thick: int = 2) -> str:
    """The style sheet of the QFrame of that object name: an orange frame beside the style's own colours of text."""
    look = f"border: {thick}px solid #cc660d; border-radius: 3px; background: rgba(204, 102, 13, 30);"
    return f"#{name} {{ {look} }}"
