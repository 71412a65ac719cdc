"""DICOM and NIfTI: headers, pixels, geometry, masks in and out, and what may identify a patient."""
