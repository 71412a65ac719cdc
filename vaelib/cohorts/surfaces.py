"""Distances between the surfaces of two masks, in mm."""

from collections.abc import Sequence

import numpy as np

from vaelib.engine.errors import InputError


def two_masks(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take two masks as bool; InputError if they are of two shapes, or hold anything but 0 and 1."""
    if prediction.shape != truth.shape:
        raise InputError(f"prediction {prediction.shape} and truth {truth.shape} are on different grids; "
                         "put the prediction on the truth's grid first (`to_scan`)")  # fmt: skip
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != bool and (odd := mask[(mask != 0) & (mask != 1)]).size:
            raise InputError(f"{name}: holds {odd[0]:g}, and a mask has 0 and 1 alone; compare with a threshold first")
    return prediction.astype(bool, copy=False), truth.astype(bool, copy=False)


def hd95(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """Measure the 95th percentile of the distances between the surfaces of two masks, in mm.

    From the middle of each surface voxel to the nearest of the other mask; the larger of the two directions. A voxel
    is of the surface if one of its six faces is free.

    Parameters
    ----------
    prediction, truth : ndarray, (S, H, W)
    spacing : (dz, dy, dx) in mm

    Returns
    -------
    float
        0 where both masks are empty, infinite where only one is: there is no surface to measure to.
    """
    ways = _surface_distances(prediction, truth, spacing)
    return float(max(way[0] if len(way) == 1 else np.quantile(way, np.float32(0.95)) for way in ways))


def surface_dice(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance: float = 2.0) -> float:
    """Compute the share of both surfaces that lies within `tolerance` mm of the other (Nikolov et al. 2021).

    Surfaces are those of `hd95`; 1 where both masks are empty, 0 where one is. doi 10.2196/26151.
    """
    return float(np.mean(np.concatenate(_surface_distances(prediction, truth, spacing)) <= tolerance))


def _surface_distances(prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> list[np.ndarray]:
    """Measure in mm from each surface voxel to the nearest of the other mask, both ways; see `hd95` for empty masks."""
    from scipy.ndimage import binary_erosion, find_objects
    from scipy.spatial import KDTree

    p, t = two_masks(prediction, truth)
    if not p.any() or not t.any():
        return [np.array([0.0 if p.any() == t.any() else np.inf])]
    box = find_objects(p | t, max_label=1)[0]  # the smallest that holds both: around it there is nothing to look at
    surfaces = [np.argwhere(m & ~binary_erosion(m)) * spacing for m in (p[box], t[box])]  # (voxels, 3) in mm
    return [KDTree(b).query(a)[0].astype(np.float32) for a, b in (surfaces, surfaces[::-1])]
