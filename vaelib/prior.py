"""The latent as a prior of shapes: points to decode, what lies between two of them, and what a plausible mask is.

References
----------
Ghosh et al., *From Variational to Deterministic Autoencoders*, 2020, arXiv:1903.12436 (fit a density to the codes).
White, *Sampling Generative Networks*, 2016, arXiv:1609.04468 (spherical interpolation).
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import label

from vaelib.errors import InputError

TOUCHING = np.ones((3, 3))  # pixels that meet at a corner belong together


def fitted(codes: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Draw (n, D) from the normal distribution with the mean and covariance of codes (N, D)."""
    rng = np.random.default_rng(seed)
    mean, covariance = codes.mean(0), np.cov(codes.T)
    return rng.multivariate_normal(mean, covariance, size=n, method="eigh").astype(np.float32)


def slerp(a: np.ndarray, b: np.ndarray, steps: int = 8) -> np.ndarray:
    """The arc from latent `a` to latent `b` (D,), both included, its length passing evenly over: (steps, D)."""
    long = np.linalg.norm(a), np.linalg.norm(b)
    cosine = np.dot(a, b) / np.maximum(np.prod(long), 1e-12)
    angle, t = np.arccos(np.clip(cosine, -1, 1)), np.linspace(0, 1, steps)[:, None]
    if np.sin(angle) < 1e-6 or min(long) == 0:  # no plane to turn in, or no direction: the straight line
        return ((1 - t) * a + t * b).astype(np.float32)
    turned = (np.sin((1 - t) * angle) * a / long[0] + np.sin(t * angle) * b / long[1]) / np.sin(angle)
    return (turned * ((1 - t) * long[0] + t * long[1])).astype(np.float32)


def same_levels(truth: np.ndarray, levels: int = 9) -> np.ndarray:
    """Slices of a patient at equal relative heights between the lowest and the highest that hold pancreas: (levels,).

    Parameters
    ----------
    truth : ndarray of bool, (S, 1, H, W)

    Raises
    ------
    InputError
        The mask is empty.
    """
    there = np.flatnonzero(truth.any((1, 2, 3)))
    if not len(there):
        raise InputError("same_levels: the mask is empty, so nothing says which levels match; leave this patient out")
    inside = np.linspace(0, 1, levels + 2)[1:-1]  # the first and the last slice only touch the organ
    return np.rint(there[0] + inside * (there[-1] - there[0])).astype(int)


def pieces(masks: np.ndarray) -> np.ndarray:
    """How many connected pieces each mask of (N, ..., H, W) has, pixels that meet at a corner joined: (N,)."""
    flat = np.asarray(masks).reshape(len(masks), *np.shape(masks)[-2:])
    return np.array([label(m, TOUCHING)[1] for m in flat])


class Real(NamedTuple):
    """What real masks are like: the range of their areas, and the mean, precision and reach of their centres."""

    area: tuple[float, float]
    centre: np.ndarray
    precision: np.ndarray
    reach: float


def centres(masks: np.ndarray) -> np.ndarray:
    """Row and column of each mask's centre of mass, (N, 2); NaN for an empty one."""
    flat = np.asarray(masks, float).reshape(len(masks), *np.shape(masks)[-2:])
    area = np.where(flat.any((1, 2)), flat.sum((1, 2)), np.nan)
    axes = [np.arange(n) for n in flat.shape[1:]]
    return np.stack([flat.sum(2) @ axes[0] / area, flat.sum(1) @ axes[1] / area], 1)


def real(masks: np.ndarray) -> Real:
    """Learn from masks (N, 1, H, W) of training patients what is usual; empty ones are left out.

    Raises
    ------
    InputError
        Fewer than three masks hold anything: their centres have no spread in two directions.
    """
    masks = masks[masks.any((1, 2, 3))]
    if len(masks) < 3:
        raise InputError(f"real: {len(masks)} of the masks hold anything, which says nothing of how they vary; "
                         "pass those of several patients")  # fmt: skip
    area, at = masks.sum((1, 2, 3)), centres(masks)
    precision = np.linalg.inv(np.cov(at.T))
    away = at - at.mean(0)
    reach = np.quantile(np.einsum("ni,ij,nj->n", away, precision, away), 0.99)
    return Real(tuple(np.quantile(area, (0.005, 0.995)).tolist()), at.mean(0), precision, float(reach))


def plausible(masks: np.ndarray, like: Real) -> dict[str, np.ndarray]:
    """Which masks (N, 1, H, W) could be a slice of a pancreas: by four tests, and by all of them; each (N,) of bool.

    "not empty"; "one piece"; "size": an area that 99% of the real ones keep to; "place": a centre of mass no further
    from the usual place than that of 99% of the real ones, in a direction that they vary in.
    """
    area, away = masks.sum((1, 2, 3)), np.nan_to_num(centres(masks) - like.centre, nan=1e9)
    tests = {
        "not empty": area > 0,
        "one piece": pieces(masks) == 1,
        "size": (area >= like.area[0]) & (area <= like.area[1]),
        "place": np.einsum("ni,ij,nj->n", away, like.precision, away) <= like.reach,
    }
    return tests | {"all": np.logical_and.reduce([*tests.values()])}
