"""The box of the inputs: folded after a prediction, so that the answer has room; its title then says what they are."""

from slicer.i18n import tr as _

from CNNSurvivalLib.mrml.nodes import segments_of

MOST = 20  # letters of a name in the title


class InputsBox:
    """Folds and unfolds the box. parameters(): the parameter node, or None."""

    def __init__(self, box, parameters) -> None:
        self._box = box
        self._parameters = parameters
        self._predicted = False
        box.connect("contentsCollapsed(bool)", lambda collapsed: self.showTitle())

    def fold(self) -> None:
        """A prediction has been made."""
        self._box.collapsed = True

    def show(self, predicted: bool) -> None:
        """Unfold where the result that was shown is gone: there is something to choose again."""
        if self._predicted and not predicted:
            self._box.collapsed = False
        self._predicted = predicted
        self.showTitle()

    def showTitle(self) -> None:
        p = self._parameters()
        segment = segments_of(p.segmentation).get(p.segmentId) if p else None
        chosen = (p.volume, p.segmentation, segment) if p else ()
        chosen = ", ".join(shortened(node.GetName()) for node in chosen if node)
        folded = self._box.collapsed and chosen
        self._box.text = _("CT and tumour: {names}").format(names=chosen) if folded else _("CT and tumour")


def shortened(name: str) -> str:
    """Its beginning and its end."""
    half = MOST // 2
    return name if len(name) <= MOST else f"{name[: half - 1]}...{name[-half + 2 :]}"
