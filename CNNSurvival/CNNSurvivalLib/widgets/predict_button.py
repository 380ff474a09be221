"""The button Predict: whether it can be pressed, and what is missing where not."""

from slicer.i18n import tr as _


def showWhetherReady(ui, parameters, hasSegment, bundle) -> None:
    """Enable the button where the inputs are chosen, and say below it which are not. parameters may be None."""
    missing = [
        text
        for text, present in (
            (_("a CT volume"), parameters and parameters.volume),
            (_("a segmentation, or draw a new tumour"), parameters and parameters.segmentation),
            (_("the tumour's segment"), hasSegment or not (parameters and parameters.segmentation)),
            (_("a model that can be used"), bundle),
        )
        if not present
    ]
    first = _("First choose {missing}.").format(missing=", ".join(missing)) if missing else ""
    ui.predictButton.enabled = not missing
    ui.predictButton.toolTip = first or _("Predict the survival curve of a patient with this tumour.")
    ui.missingLabel.text = first
    ui.missingLabel.visible = bool(missing)
