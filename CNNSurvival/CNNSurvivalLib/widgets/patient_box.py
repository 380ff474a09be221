"""The box Patient: what is known of the patient beside the image. Everything is optional."""

import qt
import slicer
from slicer.i18n import tr as _

from CNNSurvivalLib.errors import UsageError
from CNNSurvivalLib.mrml.inputs import patient_age

AGE = "age_years"  # the covariate that DICOM knows


class PatientSection:
    """A row for each covariate of the population.

    onChanged(): called when the user changed a value. onProblem(text): called for a value that cannot be.
    """

    def __init__(self, ui, onChanged, onProblem) -> None:
        self.ui = ui
        self._onChanged = onChanged
        self._onProblem = onProblem
        self._covariates = ()
        self._edits = {}  # name of a covariate -> its QLineEdit or QComboBox
        self._rows = None  # the widget that holds them
        self._texts = {}  # name -> what was entered
        self._volumeId = ""  # of the CT whose patient this is
        self._dicomAge = None
        self._filling = False

    @property
    def values(self) -> dict:
        """Name -> text of what is known."""
        texts = {covariate.name: self._text(covariate) for covariate in self._covariates}
        return {name: text for name, text in texts.items() if text}

    def forget(self) -> None:
        """Forget the patient; nodes of the next scene may have the same IDs."""
        self._volumeId, self._dicomAge, self._texts = "", None, {}

    def show(self, bundle, volume, prediction) -> None:
        """Rows for the bundle's population, filled from the prediction; from DICOM where that is None and the CT new.

        prediction: the one that is shown, where it was made for this population; else None.
        """
        population = bundle.population if bundle else None
        covariates = population.covariates if population else ()
        volumeId = volume.GetID() if volume else ""
        if volumeId != self._volumeId:
            self._volumeId, self._dicomAge = volumeId, patient_age(volume, getattr(slicer, "dicomDatabase", None))
            self._texts = {AGE: self._dicomAge} if self._dicomAge else {}
        if prediction is not None:
            self._texts.update({c.name: text_of(c, prediction.covariates.get(c.name)) for c in covariates})
        if covariates != self._covariates:
            self._build(covariates)
        self._fill()

    def _text(self, covariate) -> str:
        """What was entered, "" for unknown. A value from elsewhere that the population does not take is unknown."""
        text = self._texts.get(covariate.name, "")
        try:
            return text if covariate.parse(text) is not None else ""
        except UsageError:
            return ""

    # --- Rows

    def _build(self, covariates) -> None:
        box = self.ui.patientCollapsibleButton
        if self._rows is not None:
            box.layout().removeWidget(self._rows)
            self._rows.setParent(None)
            self._rows.deleteLater()
        self._covariates, self._edits, self._rows = covariates, {}, qt.QWidget()
        layout = qt.QGridLayout(self._rows)
        layout.setContentsMargins(0, 0, 0, 0)
        for number, covariate in enumerate(covariates):
            edit = self._choices(covariate) if covariate.choices is not None else self._number(covariate)
            label = qt.QLabel(_("{covariate}:").format(covariate=covariate.label[:1].upper() + covariate.label[1:]))
            label.setBuddy(edit)
            row, side = divmod(number, 2)  # two beside each other
            layout.addWidget(label, row, 2 * side)
            layout.addWidget(edit, row, 2 * side + 1)
            layout.setColumnStretch(2 * side + 1, 1)
            self._edits[covariate.name] = edit
        box.layout().addWidget(self._rows)
        before = self.ui.populationComboBox
        for edit in self._edits.values():  # only now: they are in the window
            qt.QWidget.setTabOrder(before, edit)
            before = edit
        box.visible = bool(covariates)

    def _choices(self, covariate):
        edit = qt.QComboBox()
        edit.addItem(_("unknown"))
        for text in covariate.choices:
            edit.addItem(text)
        edit.toolTip = _("The patient's {covariate}, if it is known.").format(covariate=covariate.label)
        texts = ["", *covariate.choices]
        edit.connect("currentIndexChanged(int)", lambda index: self._onEdited(covariate, texts[index]))
        return edit

    def _number(self, covariate):
        edit = qt.QLineEdit()
        edit.placeholderText = _("unknown")
        edit.clearButtonEnabled = True
        edit.toolTip = _("The patient's {covariate}, if it is known; {low} to {high} {unit}.").format(
            covariate=covariate.label, low=f"{covariate.low:g}", high=f"{covariate.high:g}", unit=covariate.unit
        )
        edit.connect("editingFinished()", lambda: self._onEdited(covariate, edit.text))
        edit.connect("textChanged(QString)", lambda text: text or self._onEdited(covariate, ""))
        return edit

    def _fill(self) -> None:
        self._filling = True
        for covariate in self._covariates:
            text, edit = self._text(covariate), self._edits[covariate.name]
            if covariate.choices is not None:
                shown = covariate.shown(covariate.parse(text)) if text else ""
                edit.setCurrentIndex(["", *covariate.choices].index(shown))
            elif edit.text != text:
                edit.setText(text)
        fromDicom = bool(self._dicomAge and self.values.get(AGE) == self._dicomAge)
        text = _("The age is from the CT's DICOM header; clear it to leave it out.") if fromDicom else ""
        self.ui.patientLabel.text = text
        self.ui.patientLabel.visible = fromDicom
        self._filling = False

    def _onEdited(self, covariate, text) -> None:
        if self._filling or text.strip() == self._text(covariate):
            return
        try:
            self._texts[covariate.name] = text.strip() if covariate.parse(text) is not None else ""
        except UsageError as error:
            self._fill()
            self._onProblem(str(error))
            return
        self._fill()
        self._onChanged()


def text_of(covariate, value) -> str:
    """A covariate's number as it is entered: "63", "N2"; "" for None."""
    if value is None:
        return ""
    return f"{value:g}" if covariate.choices is None else covariate.shown(value)
