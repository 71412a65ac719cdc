"""What masks of an organ are like: places, pieces, distances; which are plausible; and a linear model of shape."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from vaelib.engine.errors import InputError
from vaelib.latent import sample_fitted
from vaelib.metrics import centres


def matching_slices(truth: np.ndarray, count: int = 9) -> np.ndarray:
    """Find slices at equal relative heights between the lowest and the highest that hold pancreas: (count,).

    Parameters
    ----------
    truth : ndarray of bool, (S, 1, H, W)
        The mask of one patient.

    Raises
    ------
    InputError
        The mask is empty.
    """
    filled = np.flatnonzero(truth.any((1, 2, 3)))
    if not len(filled):
        raise InputError("matching_slices: the mask is empty, so no slice matches another's; leave this patient out")
    within = np.linspace(0, 1, count + 2)[1:-1]  # the first and the last slice only touch the organ
    return np.rint(filled[0] + within * (filled[-1] - filled[0])).astype(int)


def pieces(masks: np.ndarray) -> np.ndarray:
    """Count the connected pieces of each mask of (N, ..., H, W), pixels that meet at a corner joined: (N,)."""
    flat = np.asarray(masks).reshape(len(masks), *np.shape(masks)[-2:])
    return np.array([ndimage.label(m, np.ones((3, 3)))[1] for m in flat])


class UsualMasks(NamedTuple):
    """What real masks are like: the range of their areas, and the mean, precision and reach of their centres."""

    area: tuple[float, float]
    centre: np.ndarray
    precision: np.ndarray
    reach: float

    def distance(self, masks: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance of each mask's centre from the usual one, (N,); infinite for an empty mask."""
        away = centres(masks) - self.centre
        return np.nan_to_num(np.einsum("ni,ij,nj->n", away, self.precision, away), nan=np.inf)


def usual_masks(masks: np.ndarray) -> UsualMasks:
    """Learn from masks (N, 1, H, W) of training patients what is usual; empty ones are left out.

    Raises
    ------
    InputError
        Fewer than three masks hold anything: their centres have no spread in two directions.
    """
    masks = masks[masks.any((1, 2, 3))]
    if len(masks) < 3:
        raise InputError(f"usual_masks: {len(masks)} of the masks hold anything, which says nothing of how they vary; "
                         "pass those of several patients")  # fmt: skip
    low, high = np.quantile(masks.sum((1, 2, 3)), (0.005, 0.995)).tolist()
    at = centres(masks)
    usual = UsualMasks((low, high), at.mean(0), np.linalg.inv(np.cov(at.T)), reach=0)
    return usual._replace(reach=float(np.quantile(usual.distance(masks), 0.99)))


def plausible(masks: np.ndarray, like: UsualMasks) -> dict[str, np.ndarray]:
    """Test which masks (N, 1, H, W) could be a slice of a pancreas: by four tests, and by all of them; (N,) of bool.

    "not empty"; "one piece"; "size": an area that 99% of the real ones keep to; "place": a centre of mass no further
    from the usual place than that of 99% of the real ones, in a direction that they vary in.
    """
    area, (low, high) = masks.sum((1, 2, 3)), like.area
    tests = {
        "not empty": area > 0,
        "one piece": pieces(masks) == 1,
        "size": (area >= low) & (area <= high),
        "place": like.distance(masks) <= like.reach,
    }
    return tests | {"all": np.logical_and.reduce([*tests.values()])}


def signed_distance(masks: np.ndarray) -> np.ndarray:
    """Measure how deep each pixel of masks (N, 1, H, W) lies inside, in pixels; negative outside, -inf if empty."""
    edt = ndimage.distance_transform_edt
    return np.stack([edt(m) - edt(~m) if m.any() else np.full(m.shape, -np.inf) for m in masks[:, 0]])[:, None]


def shifted(maps: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Move each of the maps (N, 1, H, W) by its row of `by` (N, 2): rows down, columns to the right."""
    return np.stack([ndimage.shift(m, (0, *b), order=1, mode="nearest") for m, b in zip(maps, by, strict=True)])


def sample_shapes(masks: np.ndarray, n: int = 1000, components: int = 64, reach: float = 5) -> np.ndarray:
    """Draw masks (n, 1, H, W) from a linear model of shape, which needs no network.

    Outlines are centred first; then their place, and their shape as the principal components of signed distances
    (Leventon et al., *Statistical shape influence in geodesic active contours*, CVPR 2000), are drawn each by itself.

    Parameters
    ----------
    masks : ndarray of bool, (N, 1, H, W)
        Of training patients, none empty.
    n, components : int
        Masks to draw, and principal components to keep.
    reach : float
        Pixels from the outline beyond which all is equally far.
    """
    from sklearn.decomposition import PCA

    at = centres(masks)
    flat = shifted(signed_distance(masks), at.mean(0) - at).clip(-reach, reach).reshape(len(masks), -1)
    pca = PCA(components, svd_solver="randomized", random_state=0).fit(flat)
    drawn = pca.inverse_transform(sample_fitted(pca.transform(flat), n)).reshape(-1, *masks.shape[1:])
    return shifted(drawn, sample_fitted(at, n, seed=1) - at.mean(0)) > 0
