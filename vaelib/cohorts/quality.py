"""What a mask covers in its scan, whether it would lie better the other way round, and which scans are the same."""

import warnings
from collections import Counter, defaultdict
from itertools import combinations
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from vaelib.engine.errors import InputError

PANCREAS_HU = (0, 200)  # 93 +- 20 HU over Pancreas-CT; a median outside of this is no pancreas
SOFT_TISSUE_HU = (-20, 250)
FLIPS = {"".join(axes): tuple(map("zyx".index, axes)) for n in range(4) for axes in combinations("xyz", n)}
SHELL = (1, 9)  # pixels around a mask, in its slices: the first is skipped, being half of either tissue
MARGIN = 0.1  # of `flips`: no true placement of 30 real and 48 synthetic patients comes near to losing by this
SHARED = 0.2  # share of the smaller scan's fingerprint that makes two scans one
ACROSS, DOWN = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F  # odd and random, for hashing


class MaskCheck(NamedTuple):
    """What a mask covers: volume (ml), median HU, share of soft tissue, slices, whether at the edge, `best_flip`."""

    volume_ml: float
    median_hu: float
    soft_fraction: float
    slices: int
    touches_border: bool
    flip: str


def check_mask(scan: sitk.Image, mask: sitk.Image, pancreas: bool = True) -> MaskCheck:
    """Measure what `mask` covers in `scan`, and warn where that can be no pancreas, if it should be one.

    A label flipped inside a right header passes every test of geometry; then `flips` may give it away.
    Look at the overlay all the same.

    Parameters
    ----------
    scan, mask : sitk.Image
        HU, and 0 and 1, on one grid.

    Returns
    -------
    MaskCheck
    """
    hu, inside = sitk.GetArrayViewFromImage(scan), sitk.GetArrayFromImage(mask) > 0
    if not inside.any():
        warnings.warn("the mask is empty", stacklevel=2)
        return MaskCheck(0.0, float("nan"), float("nan"), 0, False, "")
    values = hu[inside]
    median = float(np.median(values))
    if pancreas and not PANCREAS_HU[0] <= median <= PANCREAS_HU[1]:
        warnings.warn(f"median of {median:.0f} HU under the mask: no pancreas; is it flipped, or not HU?", stacklevel=2)
    edge = any(np.take(inside, end, axis).any() for axis in range(3) for end in (0, -1))
    volume = float(inside.sum() * np.prod(scan.GetSpacing()) / 1000)
    if flip := best_flip(scan, mask, pancreas):
        warnings.warn(f"the mask would lie better reversed in {flip}: look at its overlay", stacklevel=2)
    return MaskCheck(volume, median, soft_share(values), int(inside.any((1, 2)).sum()), bool(edge), flip)


def soft_share(hu: np.ndarray) -> float:
    """Return which share of these HU are soft tissue."""
    return float(np.mean((hu >= SOFT_TISSUE_HU[0]) & (hu <= SOFT_TISSUE_HU[1])))


def flips(scan: sitk.Image, mask: sitk.Image, pancreas: bool = True) -> dict[str, float]:
    """Score the mask as it lies, and reversed along x, y, z and their combinations.

    The score is the share of soft tissue inside, times how far the HU inside differ from those in a thin shell
    outside (total variation distance of the two histograms, HU clipped to 0 and 200): a mask that lies well holds
    one tissue and ends where it ends. Soft tissue alone may not do: a mask reversed in x comes to lie in the liver.

    It compares placements of one mask in one scan, no more. On 30 real patients of Pancreas-CT (5 slices each, so
    reversed in x, y and xy) the true placement came first in all, ahead by 0.19 at least and 0.33 in the median; on
    single slices in 97%, so distrust it where a mask has few. On the synthetic cohort it leads by 0.4 at least. A mask
    that is nearly its own mirror image, is off by some mm, or belongs to another patient goes unseen.

    Parameters
    ----------
    scan, mask : sitk.Image
        HU, and 0 and 1, on one grid.
    pancreas : bool
        Whether it should be one. Of another organ, soft tissue counts where most of the mask is that as it lies, for
        lungs and bone are right to be none; how far the score can be trusted there has not been measured.

    Returns
    -------
    dict of str to float
        By what is reversed (array index i becomes n - 1 - i): "" (as it lies), "x", "y", "z", "xy", ..., "xyz"; from
        0 to 1, the higher, the better it lies.

    Raises
    ------
    InputError
        The mask is empty.
    """
    from scipy.ndimage import find_objects, maximum_filter  # takes half a second to import

    hu, array = sitk.GetArrayViewFromImage(scan), sitk.GetArrayViewFromImage(mask)
    whole = find_objects(array > 0, 1)[0]
    if whole is None:
        raise InputError("the mask is empty, so it lies nowhere; leave this case out")
    pads = (0, SHELL[1], SHELL[1])  # around it in its slices
    box = tuple(slice(max(s.start - pad, 0), s.stop + pad) for s, pad in zip(whole, pads, strict=True))
    near, far = (maximum_filter(array[box], (1, 2 * d + 1, 2 * d + 1)) > 0 for d in SHELL)
    inside, shell = array[box] > 0, far & ~near
    soft = pancreas or soft_share(hu[box][inside]) >= 0.5
    return {name: _score(np.flip(hu, axes)[box], inside, shell, soft) for name, axes in FLIPS.items()}


def _score(hu: np.ndarray, inside: np.ndarray, shell: np.ndarray, soft: bool) -> float:
    counts = [np.bincount((np.clip(hu[part], 0, 199) // 10).astype(int), minlength=20) for part in (inside, shell)]
    here, around = (count / max(count.sum(), 1) for count in counts)
    return float((soft_share(hu[inside]) if soft else 1) * np.abs(here - around).sum() / 2)


def lead(scores: dict[str, float]) -> tuple[str, float]:
    """Return the best way to reverse the mask, by its scores of `flips`, and by how much the mask as it lies leads."""
    rival = max(filter(None, scores), key=lambda name: scores[name])
    return rival, scores[""] - scores[rival]


def best_flip(scan: sitk.Image, mask: sitk.Image, pancreas: bool = True) -> str:
    """Return the axes along which the mask would lie better reversed, by `MARGIN` or more in `flips`, or ""."""
    rival, ahead = lead(flips(scan, mask, pancreas))
    return rival if -ahead >= MARGIN else ""


def fingerprint(scan: sitk.Image) -> np.ndarray:
    """Hash small windows of a scan, chosen by their content: a copy or a crop of it has the same ones.

    All 8 x 8 windows whose first pixel is soft tissue are hashed, and one in 4,096 is kept, by its hash. Names, UIDs,
    the order of slices and mirrored axes do not matter, nor does a crop along any axis. A scan that was resampled,
    reconstructed anew, compressed with loss or shifted in HU has other windows and goes unseen.

    Returns
    -------
    uint64 array, sorted
        About 20 for each slice of an abdomen. Scans of two patients share none where there is noise (in 1,128 pairs
        of the synthetic cohort), and 2% at most in real slices kept as JPEG, whose blocks repeat.
    """
    kept = [np.empty(0, np.uint64)]
    upright = sitk.DICOMOrient(scan, "LPS")  # by name: a view does not keep its image alive
    for hu in sitk.GetArrayViewFromImage(upright):
        code = hu.astype(np.int64).view(np.uint64)
        for step in (1, 2, 4):  # windows of 2, 4, then 8 pixels a side
            code = code[:, :-step] + code[:, step:] * np.uint64(pow(ACROSS, step, 1 << 64))
            code = code[:-step] + code[step:] * np.uint64(pow(DOWN, step, 1 << 64))
        first, last = hu[:-7, :-7], hu[7:, 7:]
        code = code[(first >= SOFT_TISSUE_HU[0]) & (first <= SOFT_TISSUE_HU[1]) & (first != last)]
        kept.append(code[(code * np.uint64(ACROSS)) >> np.uint64(52) == 0])
    return np.unique(np.concatenate(kept))


def twins(prints: list[np.ndarray]) -> list[tuple[int, int]]:
    """Find pairs of scans that share so much of their fingerprints that they are one; return their places."""
    owners = defaultdict(list)
    for k, codes in enumerate(prints):
        for code in codes.tolist():
            owners[code].append(k)
    shared = Counter(pair for who in owners.values() for pair in combinations(who, 2))
    return sorted(pair for pair, count in shared.items() if count >= SHARED * min(len(prints[k]) for k in pair))
