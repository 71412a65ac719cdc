"""Scan patients of the synthetic cohort once more, with something changed, and keep the result beside the shards."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vaelib import __version__
from vaelib.cohorts.layout import PATIENT
from vaelib.engine.errors import InputError
from vaelib.engine.shards import Shard, keys_of, open_case
from vaelib.engine.workers import map_in_processes
from vaelib.levels import FULL, downscale, window
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.scanner import plan

Names = Sequence[str]  # of patients
SIZE = 2**FULL  # of the scans that are made anew, as in the cohort
VERSION = 2  # raise when what is made here, or by `shifts` or `anomalies`, changes


def open_drawn(patient: str, shards: str | Path, level: int, seed: int) -> tuple[Shard, int]:
    """Open a patient of the synthetic cohort, and tell the number under which the phantom draws them.

    Raises
    ------
    InputError
        The cache lacks the patient, or holds another than the phantom draws from this seed.
    """
    case, match = open_case(shards, patient, level), PATIENT.match(patient)
    if case.meta["layout"] != "synthetic" or not match:
        what = "was not drawn by the phantom, so it cannot be scanned again"
        raise InputError(f"{Path(shards) / patient}: {what}; use the synthetic cohort")
    number, spacing = int(match[1]), case.meta["spacing"]
    drawn = plan(Anatomy(seed, number), np.random.default_rng([seed, number, 1]), SIZE).spacing
    if not np.allclose(drawn, spacing[::-1]):
        what = f"is not patient {number} of seed {seed}, by its spacing {spacing} mm"
        raise InputError(f"{Path(shards) / patient}: {what}; give the seed that SYNTHETIC.md names")
    return case, number


def images_of(hu: np.ndarray, case: Shard, level: int) -> np.ndarray:
    """Bring a scan (S, H, W) in HU to the images (S, h, w) that the cache would have of it, rounded as they are."""
    return downscale(window(hu, *case.meta["window"]), level).astype(np.float16).astype(np.float32)


def keep_staged(
    work: Callable, name: str, patients: Names, shards: Path, level: int, seed: int, workers: int | None, about: str
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Stage one change in several patients, in processes; or read what was kept beside the shards the last time.

    Parameters
    ----------
    work : callable
        Called as ``work(name, patient, shards=, level=, seed=)``; returns images and one array more.
    name : str
        Of the change.
    about : str
        What the change is, so that another one is not taken for it.

    Returns
    -------
    images : ndarray, (N, h, w) float32
    others : ndarray, (N, ...)
    counts : list of int
        Slices of each patient.
    """
    from vaelib.engine.checkpoints import kept  # with PyTorch, which the processes do without

    made_by = {"version": [VERSION, __version__], "about": [name, about], "level": level, "seed": seed}
    made_by |= {"patients": list(patients), "shards": list(keys_of(shards, patients).values())}
    few = hashlib.sha256(" ".join(patients).encode()).hexdigest()[:8]

    def make() -> dict:
        job = partial(work, name, shards=shards, level=level, seed=seed)
        images, others = zip(*map_in_processes(job, patients, workers=workers, desc=name, unit="patient"), strict=True)
        both = {"images": np.concatenate(images).astype(np.float16), "others": np.concatenate(others)}
        return both | {"counts": [len(array) for array in images]}

    made = kept(shards.parent / "staged" / f"{name.replace(' ', '-')}_{level}_{few}.safetensors", made_by, make)
    return made["images"].astype(np.float32), made["others"], made["counts"]
