"""Honest evaluation: per patient, in 3D, with an interval, beside baselines and a ceiling."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from vaelib.cohorts.surfaces import hd95 as hd95
from vaelib.cohorts.surfaces import surface_dice as surface_dice
from vaelib.cohorts.surfaces import two_masks
from vaelib.dicom.millimetres import enlarge as enlarge
from vaelib.engine.errors import InputError
from vaelib.engine.rows import Rows

if TYPE_CHECKING:  # torch, SciPy and the cache are imported where they are needed, so that this file comes at once
    from vaelib.cohort import Slices

Array: TypeAlias = np.ndarray | Rows
THRESHOLDS = np.arange(0.02, 0.97, 0.02)  # of the prediction
TRUTH = 0.2  # a coarse pixel counts as pancreas from this occupancy on, as in the original


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Compute Dice, ``2 |P and T| / (|P| + |T|)``, of two binary masks of one patient.

    Parameters
    ----------
    prediction, truth : ndarray, (S, H, W)
        Or of any other one shape.

    Returns
    -------
    float
        1 where both masks are empty, 0 where one is.
    """
    p, t = two_masks(prediction, truth)
    total = np.count_nonzero(p) + np.count_nonzero(t)
    return float(2 * np.count_nonzero(p & t) / total) if total else 1.0


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Compute intersection over union, ``|P and T| / |P or T|``, of two binary masks; it is ``dice / (2 - dice)``."""
    twice = dice(prediction, truth)
    return twice / (2 - twice)


class Interval(NamedTuple):
    """A mean over patients with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: ArrayLike, draws: int = 10_000, seed: int = 0) -> Interval:
    """Average per-patient values, with a 95% interval by resampling patients (Efron's percentile bootstrap).

    Infinite values (HD95 of an empty prediction) stay infinite in the mean: they are not dropped. NaN, and infinities
    of both signs, have no mean: InputError.
    """
    values = np.asarray(values, dtype=float)
    mean = sum(values.tolist()) if len(values) else np.nan
    if np.isnan(mean):
        odd = np.flatnonzero(~np.isfinite(values)).tolist()
        raise InputError(f"no mean of {len(values)} values, of which {odd} (from 0) are not finite; score them anew")
    if np.isinf(mean):
        return Interval(mean, *(np.nan, np.inf) if mean > 0 else (-np.inf, np.nan))
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    return Interval(float(values.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975])))


def verdict(interval: dict[str, float]) -> str:
    """Say who wins by the interval of a paired difference: "ahead", "behind", or "level" where it includes zero."""
    return "ahead" if interval["low"] > 0 else "behind" if interval["high"] < 0 else "level"


def per_patient(patient: np.ndarray) -> dict[str, np.ndarray]:
    """Find the rows of each patient: ``{"PANCREAS_0001": array([0, 1, ...]), ...}``."""
    return {str(p): np.flatnonzero(patient == p) for p in dict.fromkeys(patient)}


def sweep(probability: Array, truth: Array, patient: np.ndarray, thresholds: ArrayLike) -> np.ndarray:
    """Compute the 3D Dice of each patient at each threshold of the *prediction*; the truth does not move.

    The Dice of a threshold needs but two counts, of pixels at or above it: all of them, and those of the truth. Both
    are looked up in sorted probabilities, so that fifty thresholds cost little more than one.

    Parameters
    ----------
    probability : ndarray or Rows, (N, 1, H, W)
    truth : ndarray or Rows, (N, 1, H, W)
        Of bool; one patient at a time is read.
    patient : ndarray, (N,)
    thresholds : ndarray, (T,)

    Returns
    -------
    ndarray, (patients, T)

    Raises
    ------
    NotFinite
        If a prediction has NaN or Inf in it, which no threshold would reach: it names the patient and the slices.
    """
    rows = per_patient(patient)
    out = np.empty((len(rows), np.size(thresholds)))
    for i, (name, r) in enumerate(rows.items()):
        p, t = probability[r], truth[r]
        _refuse_nan(p, name)
        cuts = np.asarray(thresholds, p.dtype if p.dtype.kind == "f" else float)  # as ``p >= 0.7`` takes them
        above = p >= cuts.min()  # the rest, nearly all of a patient, need not be sorted
        positive, everything = np.sort(p[t & above]), np.sort(p[above])
        hits = len(positive) - np.searchsorted(positive, cuts)
        predicted = len(everything) - np.searchsorted(everything, cuts)
        total = predicted + t.sum()
        out[i] = np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)
    return out


def _refuse_nan(probability: np.ndarray, patient: str) -> None:
    from vaelib.engine.finite import refuse

    refuse(probability, f"{patient}: the prediction", "slices")


def best_threshold(probability: Array, truth: Array, patient: np.ndarray) -> float:
    """Find the threshold with the best mean Dice over patients. Choose it on validation patients, never on test."""
    return float(THRESHOLDS[sweep(probability, truth, patient, THRESHOLDS).mean(0).argmax()])


def choose(probability: Array, slices: Slices) -> float:
    """Find the threshold that is best on (validation) slices, which may come from disk; see `best_threshold`."""
    return best_threshold(probability, _truth_of(slices), slices.patient)


def dice_per_patient(probability: Array, threshold: float, slices: Slices) -> np.ndarray:
    """Compute the 3D Dice of each patient, (patients,), from probabilities (N, 1, H, W) of the slices."""
    return sweep(probability, _truth_of(slices), slices.patient, [threshold])[:, 0]


def _truth_of(slices: Slices) -> Array:
    """Say which pixels of slices are pancreas, (N, 1, H, W) bool; of those on disk, when they are asked for."""
    return slices.computed(lambda rows: slices.masks[rows] >= TRUTH)


def atlas(train: Slices, bins: int = 24) -> Callable[[np.ndarray], np.ndarray]:
    """Make the mean-shape baseline: how often each pixel was pancreas, at each relative height of the scan.

    It never looks at the test image. Whatever a model scores beyond it, it has learned from the picture.

    Parameters
    ----------
    train : Slices
        Of training patients only.
    bins : int
        Heights kept between the lowest and the highest slice.

    Returns
    -------
    callable
        From relative positions (N,) to probabilities (N, 1, H, W).
    """
    heights = np.linspace(0, 1, bins)
    owners, total = per_patient(train.patient).values(), np.zeros(1, np.float32)
    for rows in owners:
        position, masks = train.position[rows], train.masks[rows]
        at = np.searchsorted(position, heights).clip(1, len(rows) - 1)
        low, high = position[at - 1], position[at]
        w = ((heights - low) / (high - low))[:, None, None, None].astype(np.float32)
        total = total + ((1 - w) * masks[at - 1] + w * masks[at])
    mean = total / np.float32(len(owners))  # (bins, 1, H, W)
    return lambda position: mean[np.rint(np.asarray(position) * (bins - 1)).astype(int)]


def truth_at(shards: str | Path, patient: str, level: int) -> np.ndarray:
    """Read the mask that predictions are held against, (S, h, w) bool: the mask itself at full size, else `TRUTH`.

    Warns
    -----
    UserWarning
        No pixel of a patient's mask is left: whoever finds nothing there has a Dice of 1.
    """
    from vaelib.engine.shards import masks_of
    from vaelib.levels import FULL

    share = np.asarray(masks_of(shards, patient, level))
    truth = share >= (0.5 if level == FULL else TRUTH)
    if share.any() and not truth.any():
        warnings.warn(f"{patient}: its mask vanishes at {2**level} x {2**level}: there, none is Dice 1", stacklevel=2)
    return truth


def spacing_at(shards: str | Path, patient: str, level: int) -> tuple[float, float, float]:
    """Read the size of a voxel at a level, (dz, dy, dx) in mm: slices keep their distance, pixels grow."""
    from vaelib.engine.shards import meta_of
    from vaelib.levels import FULL

    dx, dy, dz = meta_of(shards, patient)["spacing"]
    return dz, dy * 2 ** (FULL - level), dx * 2 ** (FULL - level)


Maps = Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]  # (S, h, w) by patient, or such pairs one by one
Scores = dict[str, dict[str, list[float]]]  # by side and metric, one value a patient


def _at_both_sizes(probability: Maps, level: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Go through the maps of each patient: at their own level, and enlarged to full size."""
    from vaelib.levels import FULL

    for patient, p in probability.items() if isinstance(probability, Mapping) else probability:
        _refuse_nan(p, patient)
        yield patient, level, p
        if level != FULL:
            yield patient, FULL, enlarge(p, 2**FULL)


def best_thresholds(shards: str | Path, probability: Maps, level: int) -> dict[str, float]:
    """Find the best threshold at the level of the maps and at full size, on these (validation) patients.

    There are two, because they answer two questions: which coarse pixels hold pancreas, and where its outline
    runs when the coarse map is put back.

    Parameters
    ----------
    shards : path
    probability : dict of str to ndarray, (S, h, w), or such pairs one by one
    level : int

    Returns
    -------
    dict
        ``{"64": 0.2, "512": 0.4}``
    """
    dices: dict[str, list[np.ndarray]] = {}
    for patient, at, p in _at_both_sizes(probability, level):
        curve = sweep(p, truth_at(shards, patient, at), np.full(len(p), patient), THRESHOLDS)[0]
        dices.setdefault(str(2**at), []).append(curve)
    return {side: float(THRESHOLDS[np.mean(curves, axis=0).argmax()]) for side, curves in dices.items()}


def score(shards: str | Path, probability: Maps, level: int, thresholds: dict[str, float]) -> Scores:
    """Score a method on whole patients: at the level it works at, and put back at full size.

    Parameters
    ----------
    shards : path
        The cache that holds the truth, as `prepare` returns it.
    probability : dict of str to ndarray, (S, h, w), or such pairs one by one
        The method's map for every slice of each patient.
    level : int
        The level of those maps.
    thresholds : dict of str to float
        Of the prediction, at each side, as `best_thresholds` gives them. The truth is fixed; see `truth_at`.

    Returns
    -------
    dict
        ``{"64": {"dice": [...], "iou": [...], "hd95": [...]}, "512": {...}}``, one value a patient, HD95 in mm.

    Raises
    ------
    NotFinite
        If a prediction has NaN or Inf in it: it names the patient and the slices.
    """
    out: Scores = {}
    for patient, at, p in _at_both_sizes(probability, level):
        masks = p >= thresholds[str(2**at)], truth_at(shards, patient, at)
        found = {"dice": dice(*masks), "iou": iou(*masks), "hd95": hd95(*masks, spacing_at(shards, patient, at))}
        for name, value in found.items():
            out.setdefault(str(2**at), {}).setdefault(name, []).append(value)
    return out


def centres(masks: np.ndarray) -> np.ndarray:
    """Find row and column of the centre of mass of each mask of (N, ..., H, W): (N, 2), NaN for an empty one."""
    from scipy.ndimage import center_of_mass

    flat = np.reshape(masks, (len(masks), *np.shape(masks)[-2:]))
    return np.array([center_of_mass(m) if m.any() else (np.nan, np.nan) for m in flat])


def consistency(mask: np.ndarray) -> dict[str, float]:
    """Measure how well the slices of a mask (S, H, W) fit each other.

    Returns
    -------
    dict
        ``neighbours``: the mean Dice of two neighbouring slices, over all pairs that are not both empty.
        ``gaps``: empty slices between the lowest and the highest that is not. ``pieces``: connected parts in 3D, voxels
        that touch by a corner being connected. ``jitter``: how far the centre of a slice lies from the middle between
        the centres of its neighbours, the mean in pixels; unlike the others it cares little for the size of a mask.
    """
    from scipy.ndimage import label

    area = mask.sum((1, 2))
    alike = [dice(*pair) for pair in zip(mask, mask[1:], strict=False) if np.any(pair)]
    filled, at = np.flatnonzero(area), centres(mask)
    off = np.linalg.norm(at[1:-1] - (at[2:] + at[:-2]) / 2, axis=1)
    off = off[np.isfinite(off)]  # where all three slices hold something
    return {
        "neighbours": float(np.mean(alike or [0.0])),
        "gaps": int(np.ptp(filled) + 1 - len(filled)) if len(filled) else 0,
        "pieces": int(label(mask, np.ones((3, 3, 3)))[1]),
        "jitter": float(off.mean()) if len(off) else 0.0,
    }
