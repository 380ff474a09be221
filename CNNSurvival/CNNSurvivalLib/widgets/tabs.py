"""The tabs below the answer. Slicer's panel is as high as the page that is shown."""

import qt
from slicer.i18n import tr as _

from CNNSurvivalLib.widgets.result_box import scrollTo


class Tabs:
    """A row of tabs above pages of the panel.

    A QTabWidget would be as high as the highest of its pages, and leave the others with a gap below them.
    """

    def __init__(self, ui) -> None:
        self._pages = (ui.slicesTab, ui.explainTab, ui.compareTab, ui.exportTab, ui.batchTab, ui.modelTab)
        self._needing = (ui.explainTab, ui.compareTab, ui.exportTab)  # closed until there is a result
        titles = (_("S&lices"), _("Expla&in"), _("Comp&are"), _("E&xport"), _("&Batch"), _("M&odel"))
        tips = (
            _("The slices that the model saw."),
            _("Where the tumour raises or lowers the risk."),
            _("Another curve of this scene in the same chart."),
            _("The result as files."),
            _("Many patients at once."),
            _("Who the model learned from, and settings that are seldom changed."),
        )
        self.bar = qt.QTabBar()
        self.bar.drawBase = False
        self.bar.usesScrollButtons = True
        self.bar.accessibleName = _("Slices, explanation, comparison, export, batch, model")
        for index, (title, tip) in enumerate(zip(titles, tips)):
            self.bar.addTab(title)
            self.bar.setTabToolTip(index, tip)
        self._frame = frame = ui.moreFrame
        self._timer = qt.QTimer(frame)  # once the page has its place
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", lambda: scrollTo(self._frame, self.bar))
        around = frame.parentWidget().layout()
        around.insertWidget(around.indexOf(frame), self.bar)
        qt.QWidget.setTabOrder(ui.showChartButton, self.bar)
        self.bar.connect("currentChanged(int)", self._onChanged)
        self.bar.connect("tabBarClicked(int)", lambda index: self._timer.start(0))
        self._onChanged(0)

    def show(self, predicted: bool) -> None:
        """predicted: whether there is a result."""
        for page in self._needing:
            self.bar.setTabEnabled(self._pages.index(page), predicted)
        if not predicted and self._pages[self.bar.currentIndex] in self._needing:
            self.bar.currentIndex = 0

    def _onChanged(self, current) -> None:
        for index, page in enumerate(self._pages):
            page.visible = index == current
        if self.bar.hasFocus():  # by the keyboard
            self._timer.start(0)
