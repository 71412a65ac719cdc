"""Make patients, and write a cohort of them in folders laid out as those of the Imaging Data Commons."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from vaelib import InputError, __version__
from vaelib.dicom.write import make_uid, write_ct, write_seg
from vaelib.engine.files import atomic_write, remove_leftovers, write_file
from vaelib.engine.workers import map_in_processes
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.paint import paint
from vaelib.phantom.scanner import SCANNERS, scan

NOTE = """# Synthetic patients

Nobody was scanned for these files. Every picture in this folder was computed by `vaelib.phantom` from one
seed, to teach with; no finding in it says anything about a person. The layout and the headers follow the
Pancreas-CT collection, and the ground truth is the mask beside each scan.

Made by vaelib {version}: seed {seed}, {size} x {size} pixels.
"""


class Patient(NamedTuple):
    """One synthetic scan in canonical order (slices from feet to head, rows from front to back)."""

    hu: np.ndarray  # (S, H, W) int16
    mask: np.ndarray  # (S, H, W) uint8, 1 in the pancreas
    labels: np.ndarray  # (S, H, W) uint8, an index into LABELS
    spacing: tuple  # (dz, dy, dx) mm
    facts: dict


def make_patient(seed, number, *, size=512, scanner=None, enhanced=True, scale=1.0, view=1.0):
    """Draw patient `number` (from 1) of the cohort `seed` and scan it with `size` x `size` pixels.

    What follows `size` is for scans that the cohort does not have: the same patient, in the same place.

    Parameters
    ----------
    seed, number, size : int
    scanner : Scanner, by default one of `SCANNERS` by the patient's number.
    enhanced : whether contrast medium was given into a vein.
    scale : every length of the patient, relative to the cohort's.
    view : the field of view, relative to the one chosen for the patient.

    Returns
    -------
    Patient. The anatomy is the same at every `size`; `facts` holds the volume (ml), the diameters drawn
    (mm), the pancreas' HU, the scanner, and more.
    """
    body = Anatomy(seed, number, enhanced)
    scanner = scanner or SCANNERS[number % len(SCANNERS)]
    rng = np.random.default_rng([seed, number, 1])
    with threadpool_limits(1):  # its matrices are small: more threads would only wait for each other
        hu, mask, labels, grid = scan(body, rng, scanner, paint, size, scale=scale, view=view)
    lengths = {name: value * scale if name.endswith("_mm") else value for name, value in body.facts.items()}
    facts = dict(
        lengths, volume_ml=float(mask.sum() * np.prod(grid.spacing) / 1000), pancreas_hu=body.hu["pancreas"],
        fat=body.fat, scanner=scanner, origin=(float(grid.x[0]), float(grid.y[-1]), float(grid.z[-1])),
    )  # fmt: skip
    return Patient(hu, mask, labels, grid.spacing, facts)


def _write_patient(folder, seed, size, number):
    """Make one patient's folder, whole or not at all; one that is there already is kept."""
    import SimpleITK as sitk

    from vaelib.volumes import read_ct

    name = f"PANCREAS_{number:04d}"
    if (folder / name).exists():
        return name
    patient = make_patient(seed, number, size=size)
    scanner, uid = patient.facts["scanner"], f"vaelib phantom {seed} {number} {size}"
    with atomic_write(folder / name, keep=Path.exists) as half:
        study = half / make_uid(uid, "study")
        ct = write_ct(
            patient.hu[::-1, ::-1], study / f"CT_{make_uid(uid, 'series')}", spacing=patient.spacing,
            origin=patient.facts["origin"], patient_id=name, uid=uid,
            tags={
                "Manufacturer": "vaelib phantom", "ManufacturerModelName": scanner.model,
                "StationName": scanner.station, "ConvolutionKernel": scanner.kernel,
                "SeriesDescription": "SYNTHETIC portal venous abdomen", "StudyDescription": "SYNTHETIC abdomen",
            },
        )  # fmt: skip
        image = read_ct(ct)
        # for this orientation read_ct keeps the stored order: from head to feet, from back to front
        mask = sitk.GetImageFromArray(np.ascontiguousarray(patient.mask[::-1, ::-1]))
        mask.CopyInformation(image)
        write_seg(
            mask, image, study / f"SEG_{make_uid(uid, 'seg series')}" / f"{make_uid(uid, 'seg')}.dcm", uid=uid,
            description="Pancreas of a synthetic patient",
        )  # fmt: skip
    return name


def make_cohort(folder, *, patients=48, seed=2026, workers=None, size=512):
    """Write synthetic patients as DICOM: a CT series each, and beside it the pancreas as DICOM SEG.

    The layout is `PANCREAS_0001/<study>/CT_<series>/*.dcm` and `.../SEG_<series>/<instance>.dcm`. Patients
    that are there already are kept, so an interrupted run goes on where it stopped. The same seed writes
    the same bytes, whatever the number of workers.

    Parameters
    ----------
    folder : where to write; made if need be.
    patients : how many, or their numbers: ``(1, 3, 5, 7)``.
    seed : from which every number is drawn.
    workers : processes; by default one for each processor.
    size : pixels a side.

    Returns
    -------
    Path of the folder.

    Raises
    ------
    InputError : the folder holds a cohort of another seed, size or version.
    """
    folder = Path(folder).expanduser()
    note, text = folder / "SYNTHETIC.md", NOTE.format(version=__version__, seed=seed, size=size)
    if note.exists() and note.read_text() != text:
        raise InputError(f"{note}: names another seed, size or version than {seed}, {size}, {__version__}; remove "
                         "the folder, or choose another")  # fmt: skip
    remove_leftovers(folder)
    if not note.exists():
        write_file(note, text)
    work = partial(_write_patient, folder, seed, size)
    numbers = range(1, patients + 1) if isinstance(patients, int) else patients
    for _ in map_in_processes(work, numbers, workers=workers, desc="synthetic patients", unit="patient"):
        pass
    return folder
