"""Synthetic patients for the benchmarks, of as many slices as asked, plain and compressed."""

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from vaelib.cohorts.layout import Case
from vaelib.dicom.write import make_uid, write_ct, write_seg
from vaelib.phantom import make_patient
from vaelib.volumes import read_ct


def make(number: int, cohort: Path, *, slices: int) -> Case:
    """Write one patient in the layout of the Imaging Data Commons: a phantom, stretched to as many slices."""
    patient = make_patient(2026, 1 + number % 8)
    rows = np.linspace(0, len(patient.hu) - 1, slices).round().astype(int)
    dz, dy, dx = patient.spacing
    name, uid = f"PANCREAS_{number:04d}", f"bench {number}"
    study = cohort / name / make_uid(uid, "study")
    spacing = (dz * len(patient.hu) / slices, dy, dx)
    ct = write_ct(patient.hu[rows][::-1, ::-1], study / "CT_1", spacing=spacing, patient_id=name, uid=uid)
    mask = sitk.GetImageFromArray(np.ascontiguousarray(patient.mask[rows][::-1, ::-1]))
    mask.CopyInformation(read_ct(ct))
    return Case(name, ct, write_seg(mask, ct, study / "SEG_1" / "1.dcm", uid=uid), "synthetic")


def compressed(series: Path, folder: Path, syntax, *, first: int) -> Path:
    """The first slices of a series, with their pixels compressed without loss, by pydicom."""
    folder.mkdir(parents=True)
    for path in sorted(series.iterdir())[:first]:
        slice_ = pydicom.dcmread(path)
        slice_.compress(syntax, generate_instance_uid=False)
        slice_.save_as(folder / path.name)
    return folder
