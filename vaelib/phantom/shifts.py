"""Staged domain shifts: a test patient of the synthetic cohort, scanned in a way that no training patient was.

The anatomy, and so the truth, stays the patient's own. Where the scan itself would differ, the phantom is scanned
anew; where only the picture would, its HU are changed at full size, before the window and the area averages. All of
it comes from the cohort's seed.

Strengths are set so that something is left to see at 64 x 64, where a pixel is 5 to 8 mm wide and a plausible fault
of a fine picture would be averaged away. They are those of a bad day, not of an average one: no kernel in use is as
soft as the blur, and of the noise, 12 to 20 HU are left at 64 x 64, where the cohort's own scanners leave 2 to 3.
A patient twice as large makes the scanner widen its field of view, so that in the picture they are larger by a few
hundredths, up to a sixth where that is as wide as it goes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from vaelib.cohort import Slices
from vaelib.engine.errors import InputError
from vaelib.levels import downscale
from vaelib.phantom import rescan
from vaelib.phantom.cohort import make_patient
from vaelib.phantom.rescan import Names
from vaelib.phantom.scanner import Scanner, noise

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
RESCANNED: dict[str, dict[str, Any]] = {  # by what `make_patient` is told
    "contrast phase": {"enhanced": False},
    "another scanner": {"scanner": OTHER},
    "field of view": {"view": VIEW},
    "twice as large": {"scale": LARGER},
}


def shifted(
    name: str, patient: str, shards: str | Path, level: int = 6, *, seed: int = 2026
) -> tuple[np.ndarray, np.ndarray]:
    """Show one patient under one shift.

    Parameters
    ----------
    name : str
        A key of `SHIFTS`, or "none" for the patient as in the cache.
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
    case, number = rescan.open_drawn(patient, shards, level, seed)
    if name in ("none", "missing slice"):
        left = np.arange(len(case.images)) % LOST != 2 if name != "none" else slice(None)
        return case.images[left].astype(np.float32), np.asarray(case.masks)[left].astype(np.float32)
    scan = make_patient(seed, number, size=rescan.SIZE, **RESCANNED.get(name, {}))
    hu = changed(name, scan.hu, scan.spacing[2], np.random.default_rng([seed, number, 2]))
    return rescan.images_of(hu, case, level), downscale(scan.mask, level)


def changed(name: str, hu: np.ndarray, pixel: float, rng: np.random.Generator) -> np.ndarray:
    """Change HU (S, H, W) by noise, blur or offset; under any other shift they stay. `pixel` is in mm."""
    if name == "noise":
        grain = (noise(rng, LOW_DOSE, hu.shape[1:], pixel) for _ in hu)
        return np.stack([s + LOW_DOSE.noise * g for s, g in zip(hu, grain, strict=True)]).astype(np.float32)
    if name == "kernel blur":
        sigma = FWHM / np.sqrt(8 * np.log(2)) / pixel
        return gaussian_filter(hu.astype(np.float32), (0, sigma, sigma), mode="nearest")
    return hu + np.float32(OFFSET) if name == "HU offset" else hu


def stack_shifted(
    name: str, patients: Names, shards: str | Path, level: int = 6, *, seed: int = 2026, workers: int | None = None
) -> Slices:
    """Show several patients under one shift, one after the other, as `cohort.load_slices` has them without.

    What took long is kept beside the shards and read from there the next time. A slice's position is its place among
    the slices that are left.

    Raises
    ------
    InputError
        From `shifted`.
    """
    about = SHIFTS.get(name, "")
    images, masks, counts = rescan.keep_staged(shifted, name, patients, Path(shards), level, seed, workers, about)
    position = np.concatenate([np.linspace(0, 1, n) for n in counts])
    return Slices(images[:, None], masks[:, None], np.repeat(np.asarray(patients), counts), position)
