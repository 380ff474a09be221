"""``make demo``: a made-up patient, and a prediction for it from DICOM files to a report."""
