"""The synthetic abdomen: a portal-venous CT of patients who never were, written as DICOM.

>>> make_cohort("data/synthetic")  # 48 patients, about 1.1 GB
>>> make_cohort("data/synthetic_whole", patients=24, whole=True)  # from the lungs to the pelvis, as much
"""

from vaelib.phantom.body import HU
from vaelib.phantom.cohort import Patient, make_cohort, make_patient
from vaelib.phantom.shapes import LABEL, LABELS

__all__ = ["HU", "LABEL", "LABELS", "Patient", "make_cohort", "make_patient"]
