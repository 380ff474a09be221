"""No box of the panel: the licence of a model's weights, acknowledged once before the first prediction with them."""

import qt
import slicer
from slicer.i18n import tr as _

SETTING = "CNNSurvival/AcknowledgedLicences"  # the texts of those that were acknowledged


def acknowledged(bundle) -> bool:
    """Whether the user may predict with the bundle (or None): asks once where its licence forbids commercial use.

    Nobody is asked in Slicer's testing mode, and where there is no window.
    """
    if bundle is None or not bundle.non_commercial or bundle.licence in acknowledgedLicences():
        return True
    if not mayAsk():
        return True
    if not slicer.util.confirmOkCancelDisplay(question(bundle), _("Licence of the model"), textFormat=qt.Qt.PlainText):
        return False
    qt.QSettings().setValue(SETTING, [*acknowledgedLicences(), bundle.licence])
    return True


def mayAsk() -> bool:
    return not slicer.app.testingEnabled() and slicer.util.mainWindow() is not None


def question(bundle) -> str:
    return _(
        "The licence of the model \"{model}\" forbids commercial use:\n\n{licence}\n\n"
        "Press OK if you use it accordingly. You are asked once for this licence."
    ).format(model=bundle.title, licence=bundle.licence)  # fmt: skip


def acknowledgedLicences() -> list:
    value = qt.QSettings().value(SETTING)
    return [value] if isinstance(value, str) else list(value or [])
