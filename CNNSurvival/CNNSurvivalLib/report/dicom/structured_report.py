"""The numbers as Comprehensive 3D SR, after the template TID 1500 (PS3.16, Measurement Report).

There are no standard codes for a predicted survival: those here are of the project's own scheme.
"""

from __future__ import annotations

import numpy as np

from ...hazards import MONTH_DAYS
from ...prediction import RESEARCH_USE_ONLY, Prediction
from ..tables import horizon_table
from ..text import covariates_text, sentence
from .instance import MANUFACTURER, MODEL_NAME, SERIAL_NUMBER, finished, new_uid, series_options
from .study import Study

SCHEME = "99CNNSURVIVAL"
_COMMENT = ("121106", "DCM", "Comment")
_PERCENT, _MONTH = ("%", "UCUM", "percent"), ("mo", "UCUM", "month")


def structured_report(study: Study, prediction: Prediction, segment_name: str, segmentation, segment_number: int):
    """The object. Needs highdicom.

    Parameters
    ----------
    study : Study
    prediction : Prediction
    segment_name : str
        The tumour's name, by which later reports can be told to be on the same one.
    segmentation : pydicom.Dataset
        The Segmentation of the tumour.
    segment_number : int
        Which of its segments the tumour is.

    Returns
    -------
    highdicom.sr.Comprehensive3DSR
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=new_uid(), name=MODEL_NAME, manufacturer_name=MANUFACTURER, model_name=MODEL_NAME,
        serial_number=SERIAL_NUMBER,
    )  # fmt: skip
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(new_uid(), segment_name.strip()[:64] or "Tumour"),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=segment_number,
            source_series=hd.sr.SourceSeriesForSegmentation(study.images[0].SeriesInstanceUID),
        ),
        finding_type=codes.SCT.Neoplasm,
        measurements=_measurements(prediction),
    )
    for text in _comments(prediction):
        group[0].ContentSequence.append(
            hd.sr.TextContentItem(hd.sr.CodedConcept(*_COMMENT), text, relationship_type="CONTAINS")
        )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("77477000", "SCT", "Computed tomography"),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    dataset = hd.sr.Comprehensive3DSR(
        evidence=[*study.images, segmentation], content=report, is_complete=True, **series_options(9105)
    )
    dataset.CodingSchemeIdentificationSequence = [_scheme()]
    return finished(dataset, study, "CNN Survival: numbers")


def _measurements(p: Prediction) -> list:
    """S at each horizon with its interval, median, percentile, mean survival and volume; each says what computed it."""
    import highdicom as hd

    algorithm = _algorithm(p)

    def measurement(code: str, meaning: str, value: float, unit: tuple, scheme: str = SCHEME, properties=None):
        return hd.sr.Measurement(
            hd.sr.CodedConcept(code, scheme, meaning), round(value, 4), hd.sr.CodedConcept(*unit),
            algorithm_id=algorithm, properties=properties,
        )  # fmt: skip

    header, rows = horizon_table(p)
    found = []
    for row in (dict(zip(header, values)) for values in rows):
        if row["survival"] is None:  # after the model's last interval
            continue
        months, survival = f"{row['horizon_months']:g}", 100 * row["survival"]
        meaning = f"Predicted probability to be alive at {months} months"
        interval = _uncertainty(survival, row["survival_ci_low"], row["survival_ci_high"])
        found.append(measurement(f"S{months.replace('.', '_')}M", meaning, survival, _PERCENT, properties=interval))
    if p.median_survival_days is not None:
        median = p.median_survival_days / MONTH_DAYS
        found.append(measurement("MEDIAN", "Predicted median survival", median, _MONTH))
    within = f"{p.rmst_horizon_days / MONTH_DAYS:.0f}"
    mean = p.rmst_days / MONTH_DAYS
    found.append(measurement("RMST", f"Predicted mean survival within {within} months", mean, _MONTH))
    percentile = float(p.risk_percentile)
    found.append(measurement("PERCENTILE", "Percentile of the risk in the reference cohort", percentile, _PERCENT))
    if p.volume_cc is not None:
        volume = ("118565006", "Volume", float(p.volume_cc), ("cm3", "UCUM", "cubic centimeter"))
        found.append(measurement(*volume, scheme="SCT"))
    return found


def _uncertainty(survival: float, low, high):
    """The interval (parts of 1) as what may be added to a value in percent, and subtracted; None without interval."""
    import highdicom as hd

    if low is None:
        return None
    properties = hd.sr.MeasurementProperties(
        upper_measurement_uncertainty=round(100 * high - survival, 4),
        lower_measurement_uncertainty=round(survival - 100 * low, 4),
    )
    for item in properties:  # highdicom gives them no unit
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [hd.sr.CodedConcept(*_PERCENT)]
    return properties


def _algorithm(p: Prediction):
    import highdicom as hd

    known = p.provenance
    parameters = [
        f"weights SHA-256: {known['model_weights_sha256']}",
        f"software: {known['software']}; engine: {known['engine']}",
        f"population: {p.population.title} ({p.population.name})",
        *(f"{name}: {value}" for name, value in known["parameters"].items()),
    ]
    name, version = str(p.bundle.info.get("name") or p.bundle.id), str(p.bundle.info.get("version") or "not stated")
    return hd.sr.AlgorithmIdentification(name=name, version=version, parameters=parameters)


def _comments(p: Prediction):
    """What a reader has to know beside the numbers."""
    yield RESEARCH_USE_ONLY
    yield sentence(p)
    if p.median_survival_days is None:
        yield f"The median survival is not reached within {p.time_days[-1] / MONTH_DAYS:.0f} months."
    late = [f"{m:g}" for m, s in zip(p.horizons_months, p.horizon_survival) if np.isnan(s)]
    if late:
        yield f"No probability is given at {', '.join(late)} months, which is beyond the model's horizon."
    if p.population.interval_level is not None:
        level = f"{p.population.interval_level:.0%}"
        yield f"The uncertainty of a probability is the {level} interval of this average for patients such as this one."
    if p.covariates:
        yield f"Entered beside the image: {covariates_text(p)}."
    yield f"Reference cohort: {p.population.reference_label}."
    for warning in p.warnings:
        yield f"Warning: {warning}"


def _scheme():
    from pydicom import Dataset

    item = Dataset()
    item.CodingSchemeDesignator, item.CodingSchemeName = SCHEME, "CNNSurvival"
    item.CodingSchemeResponsibleOrganization = "CNNSurvival"
    return item
