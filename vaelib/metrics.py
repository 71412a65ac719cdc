"""Honest evaluation: per patient, in 3D, with an interval, beside baselines and a ceiling."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from vaelib.cohort import Slices
from vaelib.engine import finite
from vaelib.engine.errors import InputError
from vaelib.engine.rows import Rows
from vaelib.engine.shards import masks_of, meta_of
from vaelib.levels import FULL

THRESHOLDS = np.arange(0.02, 0.97, 0.02)  # of the prediction
TRUTH = 0.2  # a coarse pixel counts as pancreas from this occupancy on, as in the original


def _batch(prediction: np.ndarray, truth: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    if prediction.shape != truth.shape:
        raise InputError(f"prediction {prediction.shape} and truth {truth.shape} are on different grids; "
                         "put the prediction on the truth's grid first (`to_scan`)")  # fmt: skip
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != bool and (odd := mask[(mask != 0) & (mask != 1)]).size:
            raise InputError(f"{name}: holds {odd[0]:g}, and a mask has 0 and 1 alone; compare with a threshold first")
    return tuple(torch.as_tensor(np.ascontiguousarray(a, dtype=np.float32))[None, None] for a in (prediction, truth))


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two binary masks of one patient, (S, H, W): 1 where both are empty, 0 where one is."""
    from monai.metrics import compute_dice  # here, as below: MONAI takes seconds to import

    return compute_dice(*_batch(prediction, truth), ignore_empty=False).item()


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two binary masks of one patient, (S, H, W); ``dice / (2 - dice)``."""
    from monai.metrics import compute_iou

    return compute_iou(*_batch(prediction, truth), ignore_empty=False).item()


def hd95(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """95th percentile of the distances between two surfaces, in mm.

    Parameters
    ----------
    prediction, truth : ndarray, (S, H, W)
    spacing : (dz, dy, dx) in mm

    Returns
    -------
    float
        0 where both masks are empty, infinite where only one is: there is no surface to measure to.
    """
    pair = _batch(prediction, truth)
    if not prediction.any() or not truth.any():
        return 0.0 if prediction.any() == truth.any() else float("inf")
    from monai.metrics import compute_hausdorff_distance

    with warnings.catch_warnings():  # MONAI calls a function of its own by an argument that it has deprecated
        warnings.simplefilter("ignore", FutureWarning)
        return compute_hausdorff_distance(*pair, percentile=95, spacing=list(spacing)).item()


class Interval(NamedTuple):
    """A mean over patients with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap(values, draws: int = 10_000, seed: int = 0) -> Interval:
    """Mean of per-patient values with its 95% interval, resampling patients (Efron's percentile bootstrap).

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


def per_patient(stack_patient: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each patient in a stack: ``{"PANCREAS_0001": array([0, 1, ...]), ...}``."""
    return {str(p): np.flatnonzero(stack_patient == p) for p in dict.fromkeys(stack_patient)}


def sweep(probability: np.ndarray, truth: np.ndarray, patient: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """3D Dice of each patient at each threshold of the *prediction*; the truth does not move.

    Parameters
    ----------
    probability : ndarray, (N, 1, H, W)
    truth : ndarray of bool, (N, 1, H, W)
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
    out = np.empty((len(rows), len(thresholds)))
    for i, (name, r) in enumerate(rows.items()):
        p, t = probability[r], truth[r]
        finite.refuse(p, f"{name}: the prediction", "slices")
        cuts = np.asarray(thresholds, p.dtype if p.dtype.kind == "f" else float)  # as ``p >= 0.7`` takes them
        above = p >= cuts.min()  # the rest, nearly all of a patient, need not be sorted
        positive, everything = np.sort(p[t & above]), np.sort(p[above])
        hits = len(positive) - np.searchsorted(positive, cuts)
        predicted = len(everything) - np.searchsorted(everything, cuts)
        total = predicted + t.sum()
        out[i] = np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)
    return out


def best_threshold(probability, truth, patient, thresholds=THRESHOLDS) -> float:
    """The threshold with the best mean Dice over patients. Choose it on validation patients, never on test."""
    return float(thresholds[sweep(probability, truth, patient, thresholds).mean(0).argmax()])


def atlas(train: Slices, bins: int = 24) -> Callable[[np.ndarray], np.ndarray]:
    """The mean-shape baseline: how often each pixel was pancreas, at each relative height of the scan.

    It never looks at the test image. Whatever a model scores beyond it, it has learned from the picture.

    Parameters
    ----------
    train : Stack
        Training patients only.
    bins : int
        Heights kept between the lowest and the highest slice.

    Returns
    -------
    callable
        From relative positions (N,) to probabilities (N, 1, H, W).
    """
    heights = np.linspace(0, 1, bins)
    owners, total = per_patient(train.patient).values(), 0
    for rows in owners:
        position, masks = train.position[rows], train.masks[rows]
        at = np.searchsorted(position, heights).clip(1, len(rows) - 1)
        low, high = position[at - 1], position[at]
        w = ((heights - low) / (high - low))[:, None, None, None].astype(np.float32)
        total = total + ((1 - w) * masks[at - 1] + w * masks[at])
    mean = total / np.float32(len(owners))  # (bins, 1, H, W)
    return lambda position: mean[np.rint(np.asarray(position) * (bins - 1)).astype(int)]


def enlarge(probability: np.ndarray, size: int) -> np.ndarray:
    """Interpolate maps (S, h, w) linearly to (S, size, size), pixel centres in their places."""
    p = torch.as_tensor(np.ascontiguousarray(probability, dtype=np.float32))[:, None]
    return F.interpolate(p, size=(size, size), mode="bilinear", align_corners=False)[:, 0].numpy()


def truth_at(shards, patient: str, level: int) -> np.ndarray:
    """The mask that predictions are held against, (S, h, w) bool: the mask itself at full size, else `TRUTH`."""
    return np.asarray(masks_of(shards, patient, level)) >= (0.5 if level == FULL else TRUTH)


def _pairs(probability):
    return probability.items() if isinstance(probability, Mapping) else probability


def best_thresholds(shards, probability, level: int) -> dict[str, float]:
    """The best threshold at the level of the maps and at full size, chosen on these (validation) patients.

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
    dices = {str(2**at): [] for at in (level, FULL)}
    for patient, p in _pairs(probability):
        for at in (level, FULL):
            at_size = p if at == level else enlarge(p, 2**at)
            dices[str(2**at)] += [*sweep(at_size, truth_at(shards, patient, at), np.full(len(p), patient), THRESHOLDS)]
    return {side: float(THRESHOLDS[np.mean(rows, axis=0).argmax()]) for side, rows in dices.items()}


def score(shards, probability, level: int, thresholds: dict[str, float]) -> dict:
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
    out = {str(2**at): {"dice": [], "iou": [], "hd95": []} for at in (level, FULL)}
    for patient, p in _pairs(probability):
        finite.refuse(p, f"{patient}: the prediction", "slices")
        for at in (level, FULL):
            rows, factor = out[str(2**at)], 2 ** (FULL - at)
            dx, dy, dz = meta_of(shards, patient)["spacing"]
            truth = truth_at(shards, patient, at)
            prediction = (p if at == level else enlarge(p, 2**at)) >= thresholds[str(2**at)]
            rows["dice"].append(dice(prediction, truth))
            rows["iou"].append(iou(prediction, truth))
            rows["hd95"].append(hd95(prediction, truth, (dz, dy * factor, dx * factor)))
    return out


def choose(probability: np.ndarray | Rows, slices: Slices) -> float:
    """Choose the threshold that is best on these (validation) patients."""
    return best_threshold(probability, slices.masks >= TRUTH, slices.patient)


def dice_per_patient(probability: np.ndarray | Rows, threshold: float, slices: Slices) -> np.ndarray:
    """Score probabilities (N, 1, H, W) by the 3D Dice of each patient, (patients,)."""
    return sweep(probability, slices.masks >= TRUTH, slices.patient, np.array([threshold]))[:, 0]


def summary(values: np.ndarray) -> dict:
    """Interval over patients of per-patient means over seeds (seeds, patients), and each seed's own mean."""
    means = np.mean(values, 0)
    return bootstrap(means)._asdict() | {"values": means, "seeds": np.mean(values, 1)}


def paired(ours: Sequence, theirs: Sequence) -> dict:
    """The mean difference over patients, each compared with itself, with its 95% interval; by the seeds both have."""
    n = min(len(ours), len(theirs))
    return bootstrap(np.mean(ours[:n], 0) - np.mean(theirs[:n], 0))._asdict()


def over_patients(statistic: Callable[[np.ndarray], float], patient: np.ndarray, draws: int = 300) -> dict:
    """A statistic of rows with its 95% interval: patients are drawn anew, and it is computed of all their rows."""
    rows, rng = [*per_patient(patient).values()], np.random.default_rng(0)
    again = [
        statistic(np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])) for _ in range(draws)
    ]
    low, high = np.nanquantile(again, (0.025, 0.975))
    return Interval(float(statistic(np.arange(len(patient)))), float(low), float(high))._asdict()


def verdict(interval: dict) -> str:
    """Say who wins by the interval of a paired difference: "ahead", "behind", or "level" where it includes zero."""
    return "ahead" if interval["low"] > 0 else "behind" if interval["high"] < 0 else "level"
