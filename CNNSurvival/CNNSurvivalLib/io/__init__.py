"""Files in: images, DICOM, masks, tables of cases. May import SimpleITK and pydicom, inside functions."""
