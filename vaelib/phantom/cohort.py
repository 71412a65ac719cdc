"""Make patients, and write a cohort of them in folders laid out as those of the Imaging Data Commons."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from vaelib import InputError, __version__
from vaelib.dicom.geometry import image_like
from vaelib.dicom.write import make_uid, write_ct, write_seg
from vaelib.engine.files import atomic_write, remove_leftovers, write_file
from vaelib.engine.workers import map_in_processes
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.paint import paint
from vaelib.phantom.scanner import SCANNERS, Painter, Scanner, scan
from vaelib.phantom.shapes import TABLES

Numbers = Sequence[int]  # of patients, from 1
NOTE = Path(__file__).with_name("SYNTHETIC.md")


class Patient(NamedTuple):
    """One synthetic scan in canonical order (slices from feet to head, rows from front to back)."""

    hu: np.ndarray  # (S, H, W) int16
    mask: np.ndarray  # (S, H, W) uint8, 1 in the pancreas
    labels: np.ndarray  # (S, H, W) uint8, an index into LABELS
    spacing: tuple[float, float, float]  # (dz, dy, dx) mm
    facts: dict[str, Any]


def make_patient(
    seed: int,
    number: int,
    *,
    size: int = 512,
    scanner: Scanner | None = None,
    enhanced: bool = True,
    scale: float = 1.0,
    view: float = 1.0,
    body: Anatomy | None = None,
    painter: Painter = paint,
) -> Patient:
    """Draw patient `number` (from 1) of the cohort `seed` and scan them with `size` x `size` pixels.

    What follows `size` is for scans that the cohort does not have: the same patient, in the same place.

    Parameters
    ----------
    seed, number, size : int
    scanner : Scanner, by default one of `SCANNERS` by the patient's number.
    enhanced : whether contrast medium was given into a vein.
    scale : every length of the patient, relative to the cohort's.
    view : the field of view, relative to the one chosen for the patient.
    body : the patient's anatomy, where it is not as drawn.
    painter : what paints a slice of it, and returns the pancreas' mask.

    Returns
    -------
    Patient. The anatomy is the same at every `size`; `facts` holds the volume (ml), the diameters drawn
    (mm), the pancreas' HU, the scanner, and more.
    """
    body = body or Anatomy(seed, number, enhanced)
    scanner = scanner or SCANNERS[number % len(SCANNERS)]
    rng = np.random.default_rng([seed, number, 1])
    with threadpool_limits(1):  # its matrices are small: more threads would only wait for each other
        hu, mask, labels, grid = scan(body, rng, scanner, painter, size, scale, view)
    facts = {name: value * scale if name.endswith("_mm") else value for name, value in body.facts.items()}
    facts |= {
        "volume_ml": float(mask.sum() * np.prod(grid.spacing) / 1000), "pancreas_hu": body.hu["pancreas"],
        "fat": body.fat, "scanner": scanner, "origin": (float(grid.x[0]), float(grid.y[-1]), float(grid.z[-1])),
    }  # fmt: skip
    return Patient(hu, mask, labels, grid.spacing, facts)


def _write_patient(folder: Path, seed: int, size: int, number: int) -> None:
    """Make one patient's folder, whole or not at all; one that is there already is kept."""
    from vaelib.volumes import read_ct

    name, uid = f"PANCREAS_{number:04d}", f"vaelib phantom {seed} {number} {size}"
    if (folder / name).exists():
        return
    patient = make_patient(seed, number, size=size)
    scanner = patient.facts["scanner"]
    tags = {"ManufacturerModelName": scanner.model, "StationName": scanner.station, "ConvolutionKernel": scanner.kernel}
    grid = {"spacing": patient.spacing, "origin": patient.facts["origin"]}
    with atomic_write(folder / name, keep=Path.exists) as half:
        study = half / make_uid(uid, "study")
        series, seg = study / f"CT_{make_uid(uid, 'series')}", study / f"SEG_{make_uid(uid, 'seg series')}"
        write_ct(patient.hu[::-1, ::-1], series, **grid, patient_id=name, uid=uid, tags=TABLES["tags"] | tags)
        scan, file = read_ct(series), seg / f"{make_uid(uid, 'seg')}.dcm"
        # for this orientation read_ct keeps the stored order: from head to feet, from back to front
        mask = image_like(patient.mask[::-1, ::-1], scan)
        write_seg(mask, scan, file, uid=uid, description="Pancreas of a synthetic patient")


def make_cohort(
    folder: str | Path, *, patients: int | Numbers = 48, seed: int = 2026, workers: int | None = None, size: int = 512
) -> Path:
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
    note, text = folder / NOTE.name, NOTE.read_text().format(version=__version__, seed=seed, size=size)
    if note.exists() and note.read_text() != text:
        what = f"names another seed, size or version than {seed}, {size}, {__version__}"
        raise InputError(f"{note}: {what}; remove the folder, or choose another")
    remove_leftovers(folder)
    if not note.exists():
        write_file(note, text)
    work = partial(_write_patient, folder, seed, size)
    numbers = range(1, patients + 1) if isinstance(patients, int) else patients
    for _ in map_in_processes(work, numbers, workers=workers, desc="synthetic patients", unit="patient"):
        pass
    return folder
