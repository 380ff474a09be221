"""The result as DICOM objects that join the study of the CT. ``folder.write_dicom`` writes them all."""
