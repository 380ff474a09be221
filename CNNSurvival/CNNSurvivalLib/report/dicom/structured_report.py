"""The numbers as Comprehensive 3D SR, after the template TID 1500 (PS3.16, Measurement Report).

There are no standard codes for a predicted survival: those here are of the project's own scheme.
"""

from __future__ import annotations

import numpy as np

from ...hazards import MONTH_DAYS
from ...prediction import RESEARCH_USE_ONLY, Prediction
from ..tables import horizon_table
from ..text import covariates_text, sentence
from .instance import (
    DEVICE_UID,
    MANUFACTURER,
    MODEL_NAME,
    NUMBERS,
    SCHEME,
    Origin,
    as_text,
    finished,
    new_uid,
    series_options,
)
from .study import Study

_COMMENT = ("121106", "DCM", "Comment")
_PERCENT, _MONTH = ("%", "UCUM", "percent"), ("mo", "UCUM", "month")


def structured_report(study: Study, origin: Origin, prediction: Prediction, segmentation, segment_number: int):
    """The object. Needs highdicom.

    Parameters
    ----------
    study : Study
    origin : Origin
    prediction : Prediction
    segmentation : pydicom.Dataset or None
        The Segmentation of the tumour. Without one the report refers to the CT as a whole.
    segment_number : int
        Which of its segments the tumour is.

    Returns
    -------
    highdicom.sr.Comprehensive3DSR
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=DEVICE_UID, name=MODEL_NAME, manufacturer_name=MANUFACTURER, model_name=MODEL_NAME
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    groups = _groups(study, origin, prediction, segmentation, segment_number)
    for text in _comments(prediction):
        groups[0][0].ContentSequence.append(
            hd.sr.TextContentItem(hd.sr.CodedConcept(*_COMMENT), text, relationship_type="CONTAINS")
        )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("77477000", "SCT", "Computed tomography"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = [*study.images, *([] if segmentation is None else [segmentation])]
    dataset = hd.sr.Comprehensive3DSR(evidence=evidence, content=report, is_complete=True, **series_options(NUMBERS))
    dataset.CodingSchemeIdentificationSequence = [_scheme()]
    return finished(dataset, study, origin, NUMBERS)


def _groups(study: Study, origin: Origin, p: Prediction, segmentation, number: int) -> list:
    """What the network computed, and what was counted from the contour: a group each, of the same tumour."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    common = {"tracking_identifier": _tracking(origin, segmentation, number), "finding_type": codes.SCT.Neoplasm}
    kind = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    if segmentation is None:
        kind = hd.sr.MeasurementsAndQualitativeEvaluations
        common["source_images"] = [
            hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in study.images
        ]
    else:
        drawn_on = segmentation.get("ReferencedSeriesSequence") or study.images
        common["referenced_segment"] = hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=number,
            source_series=hd.sr.SourceSeriesForSegmentation(drawn_on[0].SeriesInstanceUID),
        )
    groups = [kind(measurements=_predicted(p), algorithm_id=_algorithm(p), **common)]
    if p.volume_cc is not None:
        volume = _measurement("118565006", "Volume", p.volume_cc, ("cm3", "UCUM", "cubic centimeter"), "SCT")
        groups.append(kind(measurements=[volume], **common))
    return groups


def _tracking(origin: Origin, segmentation, number: int):
    """The identifier and UID of the tumour: those of the segment, so that both are known to mean one lesion."""
    import highdicom as hd

    segments = [] if segmentation is None else segmentation.SegmentSequence
    own = next((item for item in segments if item.SegmentNumber == number), {})
    identifier = as_text(str(own.get("TrackingID") or "")) or origin.tumour
    return hd.sr.TrackingIdentifier(str(own.get("TrackingUID") or "") or new_uid(), identifier)


def _measurement(code: str, meaning: str, value: float, unit: tuple, scheme: str = SCHEME, properties=None):
    import highdicom as hd

    return hd.sr.Measurement(
        hd.sr.CodedConcept(code, scheme, meaning), round(float(value), 1), hd.sr.CodedConcept(*unit),
        properties=properties,
    )  # fmt: skip


def _predicted(p: Prediction) -> list:
    """S at each horizon with its interval, median, percentile and mean survival."""
    header, rows = horizon_table(p)
    found = []
    for row in (dict(zip(header, values)) for values in rows):
        if row["survival"] is None:  # after the model's last interval
            continue
        months, survival = f"{row['horizon_months']:g}", 100 * row["survival"]
        meaning = f"Predicted probability to be alive at {months} months"
        interval = _uncertainty(survival, row["survival_ci_low"], row["survival_ci_high"])
        found.append(_measurement(f"S{months.replace('.', '_')}M", meaning, survival, _PERCENT, properties=interval))
    if p.median_survival_days is not None:
        median = p.median_survival_days / MONTH_DAYS
        found.append(_measurement("MEDIAN", "Predicted median survival", median, _MONTH))
    within = f"{p.rmst_horizon_days / MONTH_DAYS:.0f}"
    mean = p.rmst_days / MONTH_DAYS
    found.append(_measurement(f"RMST{within}M", f"Predicted mean survival within {within} months", mean, _MONTH))
    percentile = "Percentile of the risk in the reference cohort"  # which the algorithm's parameters name
    found.append(_measurement("PERCENTILE", percentile, p.risk_percentile, _PERCENT))
    return found


def _uncertainty(survival: float, low, high):
    """The interval (parts of 1) as what may be added to a value in percent, and subtracted; None without interval."""
    import highdicom as hd

    if low is None:
        return None
    properties = hd.sr.MeasurementProperties(
        upper_measurement_uncertainty=round(round(100 * high, 1) - round(survival, 1), 1),
        lower_measurement_uncertainty=round(round(survival, 1) - round(100 * low, 1), 1),
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
        f"reference cohort: {p.population.reference_label}",
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
