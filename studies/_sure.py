"""How sure predictions are, and whether they know of errors: what the studies of uncertainty measure alike.

Predictions and truth are of a region's pixels, (N, pixels); statistics are means over the predictions of several seeds.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from vaelib import uncertainty
from vaelib.cohort import Slices


def possible(train: Slices) -> np.ndarray:
    """Find the pixels where some training patient has pancreas, (H, W) bool: the rest would flatter any calibration."""
    return (train.masks[:] > 0).any(0)[0]


def inside(maps: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Take the pixels of a region out of maps (N, 1, H, W): (N, pixels)."""
    return maps[:, 0][:, region]


def ece(predictions: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray | slice) -> float:
    """Average the calibration error of some rows over the predictions of several seeds."""
    return np.mean([uncertainty.reliability(p[rows], truth[rows]).ece for p in predictions])


def nats(predictions: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray) -> float:
    """Average the cross-entropy of a slice's region over rows and seeds."""
    return truth.shape[1] * np.mean([uncertainty.cross_entropy(p[rows], truth[rows]) for p in predictions])


def rank_correlation(slices: Sequence[tuple], rows: np.ndarray) -> float:
    """Correlate uncertainty and risk of the slices that have a mask by rank (Spearman); the mean over seeds."""
    return np.mean([spearmanr(u[rows][there[rows]], risk[rows][there[rows]])[0] for u, risk, there in slices])


def area(slices: Sequence[tuple], rows: np.ndarray) -> float:
    """Compute the area under the risk-coverage curve of the slices that have a mask; the mean over seeds."""
    return np.mean(
        [uncertainty.risk_coverage(u[rows][there[rows]], risk[rows][there[rows]]).mean() for u, risk, there in slices]
    )


def mean_risk(slices: Sequence[tuple], rows: np.ndarray) -> float:
    """Compute the area of an order that knows nothing: the mean risk."""
    return np.mean([risk[rows][there[rows]].mean() for _, risk, there in slices])
