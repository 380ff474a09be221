"""The progress bar and the status line: work that takes time, and Cancel on the button that began it."""

import logging
import time
import traceback

import qt
import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.errors import Cancelled, CNNSurvivalError


class Runner:
    """Runs work(progress) in the window's own thread, one piece of work at a time.

    progress(step, fraction) keeps the window responsive, and raises Cancelled once the user has asked for it.
    """

    # A second click within this time belongs to a double click and does not cancel.
    DOUBLE_CLICK_SECONDS = 0.5

    def __init__(self, ui, onEnded) -> None:
        """ui: the panel's widgets. onEnded(): called when work has ended."""
        self.ui = ui
        self._onEnded = onEnded
        self._button = None
        self._text = ""
        self._cancelRequested = False
        self._startedAt = 0.0
        self._about = None

    @property
    def running(self) -> bool:
        return self._button is not None

    def cancel(self) -> None:
        self._cancelRequested = True

    def click(self, button, work):
        """Begin the work, or cancel it if this button began it.

        Returns what work returns; None where it was cancelled or failed, and the message is then in the panel.
        """
        if self._button is None:
            return self._run(button, work)
        if self._button is button and time.monotonic() - self._startedAt > self.DOUBLE_CLICK_SECONDS:
            self.cancel()
            button.enabled = False
        return None

    def showStatus(self, text: str) -> None:
        self.ui.statusLabel.text = text
        self.ui.statusLabel.visible = bool(text)

    def statusIsAbout(self, inputs) -> None:
        """Empty the status line where it is about other inputs than these. inputs: anything that can be compared."""
        if inputs != self._about and not self.running:
            self.showStatus("")
        self._about = inputs

    def _run(self, button, work):
        self._begin(button)
        result, message, details = None, "", None
        try:
            result = work(self._progress)
        except Cancelled:
            self.showStatus(_("Cancelled. The scene is as it was."))
        except CNNSurvivalError as error:
            message = str(error)
        except Exception as error:
            logging.exception("CNNSurvival failed")
            message = _("This failed because of an error in the software: {error}").format(error=error)
            details = traceback.format_exc()
        finally:
            self._end()
        if message:
            self.showStatus(message)
            more = {"detailedText": details} if details else {}
            slicer.util.errorDisplay(message, textFormat=qt.Qt.PlainText, **more)
        return result

    def _begin(self, button) -> None:
        self._button, self._text = button, button.text
        self._cancelRequested, self._startedAt = False, time.monotonic()
        button.text = _("Cance&l")
        button.toolTip, self._toolTip = _("Stop, and leave the scene as it was."), button.toolTip
        self.ui.progressBar.value = 0
        self.ui.progressBar.format = ""
        self.ui.progressBar.visible = True
        self.showStatus("")
        self._enable()

    def _end(self) -> None:
        button, self._button = self._button, None
        button.text, button.toolTip, button.enabled = self._text, self._toolTip, True
        self.ui.progressBar.visible = False
        self._enable()
        self._onEnded()

    def _enable(self) -> None:
        """While work runs, only the button that cancels it can be pressed."""
        ui = self.ui
        for section in (ui.inputsCollapsibleButton, ui.tumourPlaceholder, ui.patientCollapsibleButton,
                        ui.resultCollapsibleButton, ui.slicesTab, ui.compareTab, ui.modelTab):  # fmt: skip
            section.enabled = not self.running
        for button in (ui.predictButton, ui.explainButton, ui.exportButton, ui.batchButton):
            button.enabled = not self.running or button is self._button

    def _progress(self, step: str, fraction: float) -> None:
        self.ui.progressBar.value = int(100 * fraction)
        self.ui.progressBar.format = step + " (%p%)"
        slicer.app.processEvents()
        if self._cancelRequested:
            raise Cancelled
