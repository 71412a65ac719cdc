"""How far a scan lies from those that a VAE has learned from: a word of doubt before a mask is believed.

A slice is told by its latent: a vector as it is, of a latent that keeps its places the mean and the spread of each
number over them. A scan's score is the logarithm of the mean squared Mahalanobis distance of its slices from those of
the training patients. Its limit comes from validation patients, as the score that one more patient like them exceeds
one time in twenty if scores are normal: few patients, a wide margin (Student's t, for a prediction).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

ALARMS = 0.05  # of scans like the validation patients'


def pooled(mu: np.ndarray) -> np.ndarray:
    """Tell slices by latents (S, D), or (S, D, g, g) by mean and spread over the places: (S, D) or (S, 2 D)."""
    return mu if mu.ndim == 2 else np.concatenate([mu.mean((2, 3)), mu.std((2, 3))], 1)


def learn(train: Sequence[np.ndarray], val: Sequence[np.ndarray]) -> dict[str, Any]:
    """Learn what is typical from the pooled latents of patients, each (S, D); JSON can hold it.

    Returns
    -------
    dict
        ``centre`` and ``precision`` of the slices, and the ``limit`` of a scan; infinite with one validation patient.
    """
    from scipy.stats import t  # these take a second to import
    from sklearn.covariance import LedoitWolf

    of_slices = LedoitWolf().fit(np.concatenate(train))
    like = {"centre": of_slices.location_.tolist(), "precision": of_slices.precision_.tolist()}
    scores = np.array([score(codes, like) for codes in val])
    n, limit = len(scores), float("inf")
    if n > 1:
        limit = float(scores.mean() + t.ppf(1 - ALARMS, n - 1) * scores.std(ddof=1) * np.sqrt(1 + 1 / n))
    return like | {"limit": limit if np.isfinite(limit) else None}


def score(codes: np.ndarray, like: dict[str, Any]) -> float:
    """Score a scan by the pooled latents of its slices, (S, D): the higher, the less typical."""
    away = codes - np.asarray(like["centre"])
    return float(np.log(np.einsum("ni,ij,nj->n", away, np.asarray(like["precision"]), away).mean()))


def doubt(codes: np.ndarray, like: dict[str, Any] | None) -> list[str]:
    """Say in words that a scan is not typical; nothing if it is, or where a checkpoint does not know."""
    if not like or like["limit"] is None or (found := score(codes, like)) <= like["limit"]:
        return []
    said = f"unlike the scans that the network learned from (score {found:.2f}, and one in twenty of their like exceeds"
    return [f"{said} {like['limit']:.2f}); a mask of such a scan is not to be believed unseen"]
