"""Typical wrong answers to the exercises of notebook 01, and words of the hint that each must get."""

import numpy as np
import SimpleITK as sitk

from vaelib.cohorts import quality


def heights(positions, orientation):
    return positions @ np.cross(orientation[:3], orientation[3:])


def search(scan, mask, limit, axis=2, late=0, roll=True):
    """Shift by rolling, along whatever axis, and answer too early or too late."""
    array = sitk.GetArrayFromImage(mask)
    for pixels in range(1, array.shape[axis]):
        moved = sitk.GetImageFromArray(np.roll(array, pixels, axis=axis))
        if quality.flips(scan, moved)[""] < limit:
            return pixels + late
    return None


WRONG = {
    "01.1": [
        ((lambda stored, slope, intercept: stored * slope,), "the intercept is missing"),
        ((lambda stored, slope, intercept: stored + intercept,), "the slope is missing"),
        ((lambda stored, slope, intercept: (stored + intercept) * slope,), "the stored number alone"),
        ((lambda stored, slope, intercept: stored.mean() * slope + intercept,), "as large as the stored one"),
    ],
    "01.2": [
        ((lambda positions, orientation: np.argsort(positions[:, 2]),), "measure along the normal"),
        ((lambda positions, orientation: np.argsort(-heights(positions, orientation)),), "the order backwards"),
        ((lambda positions, orientation: np.sort(heights(positions, orientation)),), "np.argsort"),
        ((lambda positions, orientation: np.arange(len(positions)),), "by their heights"),
    ],
    "01.3": [
        ((lambda p, origin, spacing, turn: np.rint(turn @ (p - origin) / spacing),), "invert D"),
        ((lambda p, origin, spacing, turn: np.rint((p - origin) / spacing),), "the directions are missing"),
        ((lambda p, origin, spacing, turn: turn.T @ (p - origin),), "divide them by the spacing"),
        ((lambda p, origin, spacing, turn: turn.T @ (p - origin) / spacing,), "so round"),
        ((lambda p, origin, spacing, turn: np.floor(turn.T @ (p - origin) / spacing),), "cut off, not rounded"),
    ],
    "01.4": [
        ((lambda scan, mask, limit: search(scan, mask, limit, axis=1),), "you move rows"),
        ((lambda scan, mask, limit: search(scan, mask, limit, late=-1),), "the first that is below"),
        ((lambda scan, mask, limit: search(scan, mask, limit, late=1),), "are the first below"),
    ],
}
