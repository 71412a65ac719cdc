"""Intervals that resample whole patients; they are in the library."""

from vaelib.metrics import over_patients as over_patients
