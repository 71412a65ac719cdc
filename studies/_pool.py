"""Fresh synthetic patients: a pool to learn from, and 100 to be tested on, scanned straight to 64 x 64 pixels.

They are the phantom's, of the cohort's own seed, with numbers that no cohort has: the pool's begin at 1001, the test
patients' at 2001. No DICOM file lies in between; a test shows for three patients that what comes out is equal to what
`vaelib prepare` makes of their files. They are kept in blocks of `BLOCK`, so that an interrupted run goes on.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vaelib import __version__
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import kept
from vaelib.engine.errors import InputError
from vaelib.engine.rows import chunks
from vaelib.engine.shards import meta_of
from vaelib.engine.workers import map_in_processes
from vaelib.levels import FULL, downscale, window
from vaelib.phantom import LABEL, make_patient

POOL, TEST = range(1001, 1401), range(2001, 2101)  # numbers of patients
SEED, LEVEL, BLOCK, VERSION, LEAST = 2026, 6, 25, 1, 16
AREA = 4 ** (FULL - LEVEL)  # pixels beneath a coarse one
ARRAYS = ("images", "masks", "organs")
ORGANS = ("liver", "spleen", "kidney", "stomach", "colon", "aorta", "gallbladder", "bone")


class Drawn(NamedTuple):
    """Patients at 64 x 64, one after the other."""

    slices: Slices
    organs: np.ndarray  # (N, organs, H, W) uint8: how many of the 64 pixels beneath a coarse one are of the organ
    spacing: dict[str, tuple[float, float, float]]  # (dz, dy, dx) in mm of a voxel at 64 x 64, by patient


def refuse_others(lab: Cohort) -> None:
    """Refuse a cohort that the fresh patients do not belong to, or of too few patients: InputError names it."""
    few = len(lab.parts["train"]) < LEAST
    if few or any(meta_of(lab.shards, name)["layout"] != "synthetic" for name in lab.parts["train"]):
        what = f"has {len(lab.parts['train'])} patients to learn from" if few else "is not the synthetic cohort"
        raise InputError(f"{lab.folder}: {what}, and this study needs {LEAST} or more of the synthetic cohort; unset "
                         "VAELIB_DATA, or make the cohort with `vaelib phantom`")  # fmt: skip


def name_of(number: int) -> str:
    """Name a patient as the cohort does: "PANCREAS_2001"."""
    return f"PANCREAS_{number:04d}"


def number_of(name: str) -> int:
    """Read a patient's number from their name."""
    return int(name.rpartition("_")[2])


def draw(number: int) -> dict[str, np.ndarray]:
    """Scan one patient: images and masks (S, H, W) as the cache rounds them, organs, and the spacing in mm."""
    scan = make_patient(SEED, number)
    organs = [downscale(scan.labels == LABEL[name], LEVEL) * AREA for name in ORGANS]
    dz, dy, dx = scan.spacing
    blocks = [downscale(window(slab), LEVEL).astype(np.float16) for slab in chunks(scan.hu, 8)]
    return {
        "images": np.concatenate(blocks), "masks": downscale(scan.mask, LEVEL).astype(np.float16),
        "organs": np.stack(organs, 1).astype(np.uint8),
        "spacing": np.array([dz, dy * 2 ** (FULL - LEVEL), dx * 2 ** (FULL - LEVEL)]),
    }  # fmt: skip


def _block(start: int, workers: int | None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Scan the `BLOCK` patients from `start` on, or read them where they are kept: each number, and its arrays."""
    numbers = range(start, start + BLOCK)
    made_by = {"version": [VERSION, __version__], "seed": SEED, "numbers": list(numbers), "organs": ORGANS}

    def make() -> dict:
        found = [*map_in_processes(draw, numbers, workers=workers, desc="synthetic patients", unit="patient")]
        joined = {name: np.concatenate([one[name] for one in found]) for name in ARRAYS}
        spacing = np.stack([one["spacing"] for one in found])
        return joined | {"spacing": spacing, "counts": np.array([len(one["images"]) for one in found])}

    made = kept(models_folder() / "pool" / f"{numbers[0]}_{numbers[-1]}.safetensors", made_by, make)
    ends = np.cumsum(made["counts"])
    for number, spacing, first, last in zip(numbers, made["spacing"], ends - made["counts"], ends, strict=True):
        yield number, {name: made[name][first:last] for name in ARRAYS} | {"spacing": spacing}


def patients(numbers: Sequence[int], workers: int | None = None) -> Drawn:
    """Scan patients by their numbers, or read those that are kept; in the order of the numbers."""
    starts = sorted({(number - 1) // BLOCK * BLOCK + 1 for number in numbers})
    found = {number: one for start in starts for number, one in _block(start, workers) if number in {*numbers}}
    each = {name_of(number): found[number] for number in numbers}
    images, masks, organs = (np.concatenate([one[name] for one in each.values()]) for name in ARRAYS)
    counts = [len(one["images"]) for one in each.values()]
    images, masks = (array[:, None].astype(np.float32) for array in (images, masks))
    position = np.concatenate([np.linspace(0, 1, n) for n in counts])
    spacing = {name: (float(dz), float(dy), float(dx)) for name, one in each.items() for dz, dy, dx in [one["spacing"]]}
    return Drawn(Slices(images, masks, np.repeat([*each], counts), position), organs, spacing)
