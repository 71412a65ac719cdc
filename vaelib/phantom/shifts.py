"""Staged domain shifts: a test patient of the synthetic cohort, scanned in a way that no training patient was.

The anatomy, and so the truth, stays the patient's own. Where the scan itself would differ, the phantom is scanned
anew; where only the picture would, its HU are changed at full size, before the window and the area averages. All of
it comes from the cohort's seed.

Strengths are set so that something is left to see at 64 x 64, where a pixel is 5 to 8 mm wide and a plausible fault
of a fine picture would be averaged away. They are those of a bad day, not of an average one: no kernel in use is as
soft as the blur, and of the noise, 12 to 20 HU are left at 64 x 64, where the cohort's own scanners leave 2 to 3.
A patient twice as large makes the scanner widen its field of view, so that in the picture he is larger by a few
hundredths, up to a sixth where that is as wide as it goes.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from vaelib import __version__
from vaelib.cohort import Slices
from vaelib.cohorts.layout import PATIENT
from vaelib.engine.checkpoints import kept
from vaelib.engine.errors import InputError
from vaelib.engine.shards import keys_of, open_case
from vaelib.engine.workers import map_in_processes
from vaelib.levels import FULL, downscale, window
from vaelib.phantom import make_patient
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.scanner import Scanner, noise, plan

SIZE = 2**FULL  # of the scans that are made anew, as in the cohort
VERSION = 1  # raise when what `shifted` makes changes
LOW_DOSE = Scanner("", "", "VERY SOFT", 40, 0.15, 0)  # noise in HU, and the coarse grain of a very soft kernel
FWHM = 8.0  # mm, of the blur in plane
OFFSET = 30.0  # HU
OTHER = Scanner("Phantom Planner", "CT4", "VERY SOFT", 24, 0.16, 0)
VIEW = 1.35  # times the usual field of view
LARGER = 2 ** (1 / 3)  # times every length: twice the volume
LOST = 4  # one slice in so many
SHIFTS = {
    "noise": f"Noise of {LOW_DOSE.noise} HU with the coarse grain of a very soft kernel, added at full size",
    "kernel blur": f"Each slice blurred by a Gaussian of {FWHM:g} mm full width at half maximum, at full size",
    "contrast phase": "The same patient before contrast medium: soft tissues all lie between 30 and 60 HU",
    "HU offset": f"{OFFSET:g} HU added to every voxel: a scanner that is out of calibration",
    "another scanner": f"A scanner that no training patient met: {OTHER.noise} HU of coarse noise, flat table top",
    "field of view": f"Reconstructed over a field of view {VIEW:g} times as wide: the body is smaller in the picture",
    "twice as large": f"The patient has twice the volume (every length times {LARGER:.2f}), and more noise",
    "missing slice": f"One slice in {LOST} is lost, from the scan and from the truth: neighbours lie further apart",
}
RESCANNED = {  # by what `make_patient` is told
    "contrast phase": {"enhanced": False},
    "another scanner": {"scanner": OTHER},
    "field of view": {"view": VIEW},
    "twice as large": {"scale": LARGER},
}


def shifted(name: str, patient: str, shards: str | Path, level: int = 6, *, seed: int = 2026):
    """One patient under one shift.

    Parameters
    ----------
    name : str
        A key of `SHIFTS`, or "none" for the patient as he is in the cache.
    patient : str
        "PANCREAS_0005": the number says which patient is scanned anew.
    shards : path
        The cache of the synthetic cohort, as `prepare` returns it.
    level : int
        Images of 2^level pixels a side.
    seed : int
        Of the cohort.

    Returns
    -------
    (images, masks) : ndarray, (S, h, w) float32
        Windowed to [0, 1], and occupancies. S and the pixel size are those of the scan under the shift.

    Raises
    ------
    InputError
        There is no such shift, or the patient is not one of the synthetic cohort of this seed.
    """
    if name != "none" and name not in SHIFTS:
        raise InputError(f"{name!r}: no such shift; choose from {', '.join(SHIFTS)}, or none")
    case = open_case(shards, patient, level)
    number = _number(patient, shards, case.meta, seed)
    if name in ("none", "missing slice"):
        kept = np.arange(len(case.images)) % LOST != 2 if name != "none" else slice(None)
        return case.images[kept].astype(np.float32), case.masks[kept].astype(np.float32)
    scan = make_patient(seed, number, size=SIZE, **RESCANNED.get(name, {}))
    hu = changed(name, scan.hu, scan.spacing[2], np.random.default_rng([seed, number, 2]))
    images = downscale(window(hu, *case.meta["window"]), level)
    return images.astype(np.float16).astype(np.float32), downscale(scan.mask, level)  # rounded as in the cache


def _number(patient: str, shards, meta: dict, seed: int) -> int:
    """The patient's number, once it is sure that the phantom draws this patient under it."""
    match = PATIENT.match(patient)
    if meta["layout"] != "synthetic" or not match:
        raise InputError(f"{Path(shards) / patient}: was not drawn by the phantom, so it cannot be scanned again; "
                         "shifts are staged on the synthetic cohort alone")  # fmt: skip
    number = int(match[1])
    drawn = plan(Anatomy(seed, number), np.random.default_rng([seed, number, 1]), SIZE).spacing
    if not np.allclose(drawn, meta["spacing"][::-1]):
        raise InputError(f"{Path(shards) / patient}: is not patient {number} of seed {seed}, by its spacing "
                         f"{meta['spacing']} mm; give the seed that SYNTHETIC.md names")  # fmt: skip
    return number


def changed(name: str, hu: np.ndarray, pixel: float, rng: np.random.Generator) -> np.ndarray:
    """HU (S, H, W) with noise, blur or offset; as they are under any other shift. `pixel` is in mm."""
    if name == "noise":
        grain = (noise(rng, LOW_DOSE, hu.shape[1:], pixel) for _ in hu)
        return np.stack([s + LOW_DOSE.noise * g for s, g in zip(hu, grain, strict=True)]).astype(np.float32)
    if name == "kernel blur":
        sigma = FWHM / np.sqrt(8 * np.log(2)) / pixel
        return gaussian_filter(hu.astype(np.float32), (0, sigma, sigma), mode="nearest")
    return hu + np.float32(OFFSET) if name == "HU offset" else hu


def stack_shifted(
    name: str,
    patients: Sequence[str],
    shards: str | Path,
    level: int = 6,
    *,
    seed: int = 2026,
    workers: int | None = None,
) -> Slices:
    """Several patients under one shift, one after the other, as `cohort.load_slices` has them without.

    What took long is kept beside the shards, in `shifts/`, and read from there the next time. A slice's position is
    its place among the slices that are left.

    Raises
    ------
    InputError
        From `shifted`.
    """
    keys = keys_of(shards, patients)
    made_by = {
        "version": [VERSION, __version__], "shift": [name, SHIFTS.get(name)], "level": level, "seed": seed,
        "patients": list(patients), "shards": [*keys.values()],
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
    path = Path(shards).parent / "shifts" / f"{name.replace(' ', '-')}_{level}_{key}.safetensors"

    def make():
        work = partial(shifted, name, shards=shards, level=level, seed=seed)
        images, masks = zip(*map_in_processes(work, patients, workers=workers, desc=name, unit="patient"), strict=True)
        counts = [len(a) for a in images]
        return {"images": np.concatenate(images).astype(np.float16), "masks": np.concatenate(masks), "counts": counts}

    found = kept(path, made_by, make)
    images, masks, counts = found["images"].astype(np.float32), found["masks"], found["counts"]
    position = np.concatenate([np.linspace(0, 1, n) for n in counts])
    return Slices(images[:, None], masks[:, None], np.repeat(np.asarray(patients), counts), position)
