"""The report as Encapsulated PDF (PS3.3, A.45.1)."""

from __future__ import annotations

from .instance import REPORT, Origin, new_instance
from .study import Study

ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
IMAGING_MEASUREMENT_REPORT = ("126000", "DCM", "Imaging Measurement Report")


def encapsulated_pdf(study: Study, origin: Origin, pdf: bytes, named: bool):
    """The object.

    Parameters
    ----------
    study : Study
    origin : Origin
    pdf : bytes
        The file.
    named : bool
        Whether the patient's name is printed on the page.

    Returns
    -------
    pydicom.Dataset
    """
    from pydicom import Dataset

    dataset = new_instance(study, origin, ENCAPSULATED_PDF, "DOC", REPORT)
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = ""
    dataset.BurnedInAnnotation = "YES" if named else "NO"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.ContentQualification = "RESEARCH"
    dataset.SourceInstanceSequence = study.references
    dataset.DocumentTitle = f"Predicted survival, {origin.model}, {origin.population}, {origin.tumour}"
    concept = Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = IMAGING_MEASUREMENT_REPORT
    dataset.ConceptNameCodeSequence = [concept]
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(pdf)
    dataset.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return dataset
