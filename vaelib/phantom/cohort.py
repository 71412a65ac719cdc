"""Make patients, and write a cohort of them in folders laid out as those of the Imaging Data Commons."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from vaelib import InputError, __version__
from vaelib.dicom.geometry import image_like
from vaelib.dicom.write import AXIAL, make_uid, write_ct, write_seg
from vaelib.engine import options as opt
from vaelib.engine.files import atomic_write, remove_leftovers, write_file
from vaelib.engine.workers import map_in_processes
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.paint import paint
from vaelib.phantom.scanner import SCANNERS, Painter, Scanner, scan
from vaelib.phantom.shapes import TABLES
from vaelib.phantom.whole import Whole

Numbers = Sequence[int]  # of patients, from 1
HEADERS = TABLES["header"]
NOTE = Path(__file__).with_name("SYNTHETIC.md")


class Patient(NamedTuple):
    """One synthetic scan in canonical order (slices from feet to head, rows from front to back)."""

    hu: np.ndarray  # (S, H, W) int16
    mask: np.ndarray  # (S, H, W) uint8, 1 in the pancreas
    labels: np.ndarray  # (S, H, W) uint8, an index into LABELS
    spacing: tuple[float, float, float]  # (dz, dy, dx) mm
    facts: dict[str, Any]


def make_patient(
    seed: int, number: int, *, size: int = 512, scanner: Scanner | None = None, enhanced: bool = True,
    scale: float = 1.0, view: float = 1.0, body: Anatomy | None = None, painter: Painter = paint, whole: bool = False,
) -> Patient:  # fmt: skip
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
    whole : a patient of the second cohort, from the lungs' base to the pelvis.

    Returns
    -------
    Patient. The anatomy is the same at every `size`; `facts` holds the volume (ml), the diameters drawn
    (mm), the pancreas' HU, the scanner, and more.
    """
    body = body or (Whole if whole else Anatomy)(seed, number, enhanced)
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


def _write_scan(patient: Patient, series: Path, number: int, name: str, uid: str, whole: bool) -> np.ndarray:
    """Write the scan under the patient's own kind of header; return the mask in the order of `read_ct`."""
    header, made_by, (x, y, z) = HEADERS[number % len(HEADERS)], patient.facts["scanner"], patient.facts["origin"]
    hu, mask, direction = patient.hu[::-1, ::-1], patient.mask[::-1, ::-1], AXIAL  # from head to feet, from the back
    if header.get("front"):  # then slices ascend from the feet
        hu, mask, direction = patient.hu[::-1], patient.mask, (1, 0, 0, 0, 1, 0)
        y -= (hu.shape[1] - 1) * patient.spacing[1]
    tags = TABLES["tags"] | {"StationName": made_by.station, "ConvolutionKernel": made_by.kernel}
    tags |= {"ManufacturerModelName": made_by.model} | header["tags"] | dict.fromkeys(header.get("without", ()))
    tags |= TABLES["whole"]["tags"] if whole else {}
    tags = {keyword: patient.spacing[0] if value == "distance" else value for keyword, value in tags.items()}
    where = {"origin": (0, 0, 0) if header.get("zero") else (x, y, z), "direction": direction}
    stored = hu - np.int16(tags.get("RescaleIntercept", 0))
    if whole and number % 3 == 0:  # what lies outside the round field of view
        tags["PixelPaddingValue"] = -2000 * tags.get("PixelRepresentation", 1)
        stored[:, np.hypot(*(np.indices(hu.shape[1:]) * 2 + 1 - len(hu[0]))) > len(hu[0])] = tags["PixelPaddingValue"]
    write_ct(stored, series, spacing=patient.spacing, **where, patient_id=name, uid=uid, tags=tags)
    for k, path in enumerate(sorted(series.iterdir()) if "names" in header else ()):
        path.rename(series / header["names"].format(k=k + 1, uid=make_uid(uid, f"slice {k}")))
    return mask


def _write_patient(folder: Path, seed: int, size: int, whole: bool, number: int) -> None:
    """Make one patient's folder, whole or not at all; one that is there already is kept."""
    from vaelib.volumes import read_ct

    name, uid = f"PANCREAS_{number:04d}", f"vaelib phantom {seed} {number} {size}{' whole' * whole}"
    if (folder / name).exists():
        return
    with atomic_write(folder / name, keep=Path.exists) as half:
        study = half / make_uid(uid, "study")
        series, seg = study / f"CT_{make_uid(uid, 'series')}", study / f"SEG_{make_uid(uid, 'seg series')}"
        mask = _write_scan(make_patient(seed, number, size=size, whole=whole), series, number, name, uid, whole)
        scan, file = read_ct(series), seg / f"{make_uid(uid, 'seg')}.dcm"
        write_seg(image_like(mask, scan), scan, file, uid=uid, description="Pancreas of a synthetic patient")


@opt.checked
def make_cohort(
    folder: str | Path, *, patients: int | Numbers = 48, seed: opt.Seed = 2026, workers: int | None = None,
    size: opt.Count = 512, whole: bool = False,
) -> Path:  # fmt: skip
    """Write synthetic patients as DICOM: a CT series each, and beside it the pancreas as DICOM SEG.

    The layout is `PANCREAS_0001/<study>/CT_<series>/*.dcm` and `.../SEG_<series>/<instance>.dcm`. Patients
    that are there already are kept, so an interrupted run goes on where it stopped. The same seed writes
    the same bytes, whatever the number of workers. Headers differ from patient to patient (see `tables.toml`).

    Parameters
    ----------
    folder : where to write; made if need be.
    patients : how many, or their numbers: ``(1, 3, 5, 7)``.
    seed : from which every number is drawn.
    workers : processes; by default one for each processor.
    size : pixels a side.
    whole : the second cohort, scanned from the lungs' base to the pelvis; deflated, and every third one padded.

    Returns
    -------
    Path of the folder.

    Raises
    ------
    InputError : the folder holds a cohort of another kind, seed, size or version.
    """
    if isinstance(patients, int | float):
        opt.refuse({"patients": opt.Count}, {"patients": patients})
    folder, more = Path(folder).expanduser(), ", whole scans" * whole
    note, text = folder / NOTE.name, NOTE.read_text().format(version=__version__, seed=seed, size=size, more=more)
    if note.exists() and (there := note.read_text("utf-8", "replace")) != text:
        found, wanted = (" ".join(said.rpartition("\n\n")[2].split()) for said in (there, text))
        what = f"is of another seed, size or version: {found!r}, where this would be {wanted!r}"
        raise InputError(f"{note}: {what}; remove the folder, or choose another")
    remove_leftovers(folder)
    if not note.exists():
        write_file(note, text)
    work = partial(_write_patient, folder, seed, size, whole)
    numbers = range(1, patients + 1) if isinstance(patients, int) else patients
    list(map_in_processes(work, numbers, workers=workers, desc="synthetic patients", unit="patient"))
    return folder
