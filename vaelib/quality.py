"""What a mask covers in its scan, and whether it would lie better the other way round."""

import warnings
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

PANCREAS_HU = (0, 200)  # 93 +- 20 HU over Pancreas-CT; a median outside of this is no pancreas
SOFT_TISSUE_HU = (-20, 250)


class MaskCheck(NamedTuple):
    """What a mask covers: volume (ml), median HU, fraction in soft tissue, slices, whether at the edge."""

    volume_ml: float
    median_hu: float
    soft_fraction: float
    slices: int
    touches_border: bool


def check_mask(scan, mask):
    """Say what `mask` covers in `scan`, and warn where that can be no pancreas.

    A label flipped inside a right header passes every test of geometry; then its HU may give it away.
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
        return MaskCheck(0.0, float("nan"), float("nan"), 0, False)
    values = hu[inside]
    median = float(np.median(values))
    if not PANCREAS_HU[0] <= median <= PANCREAS_HU[1]:
        warnings.warn(f"median of {median:.0f} HU under the mask: no pancreas; is it flipped, or not HU?", stacklevel=2)
    soft = float(np.mean((values >= SOFT_TISSUE_HU[0]) & (values <= SOFT_TISSUE_HU[1])))
    edge = any(np.take(inside, end, axis).any() for axis in range(3) for end in (0, -1))
    volume = inside.sum() * np.prod(scan.GetSpacing()) / 1000
    return MaskCheck(float(volume), median, soft, int(inside.any((1, 2)).sum()), bool(edge))


def flips(scan, mask):
    """Score the mask as it lies, and reversed along x, y, z and their combinations.

    Returns
    -------
    dict of str to float
        By what is reversed: "" (as it lies), "x", "y", "z", "xy", ..., "xyz"; the higher, the better it lies.
    """
    raise NotImplementedError
