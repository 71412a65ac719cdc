"""Are staged anomalies found by what the VAE cannot draw, or by where it puts them? Beside principal components.

Altered slices stand against themselves unaltered. Three seeds; intervals resample the test patients.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter
from sklearn.decomposition import PCA
from torch import nn

from studies import over_patients
from studies._contestants import contestant
from vaelib import metrics, recipes, uncertainty
from vaelib.cohort import Cohort, Slices
from vaelib.phantom.anomalies import ANOMALIES, stack_staged

SEEDS = (0, 1, 2)
COMPONENTS = int(recipes.RECIPE["latent"])  # as many numbers as the latent has


def run(lab: Cohort, seeds: Sequence[int] = SEEDS) -> dict:
    """Measure by AUROC how well every score of the VAE and of PCA finds each anomaly."""
    vaes = [contestant(recipes.DETACHED, lab, seed).networks["vae"] for seed in seeds]
    return {"seeds": list(seeds), "level": lab.level, "test": lab.parts["test"], "found": measured(vaes, lab)}


def linear(train: Slices, components: int = COMPONENTS) -> PCA:
    """Fit the principal components of the training pictures."""
    flat = train.images[:].reshape(len(train.images), -1)
    return PCA(components, svd_solver="randomized", random_state=0).fit(flat)


def odd_by_pca(pca: PCA, images: np.ndarray) -> uncertainty.Anomaly:
    """Score slices as `uncertainty.anomaly` does, by PCA: reconstruction, distance in the code, and the sum."""
    flat = images.reshape(len(images), -1)
    code = pca.transform(flat)
    pixels = np.square(pca.inverse_transform(code) - flat).reshape(images.shape)
    recon = pixels.sum((1, 2, 3)) / (2 * recipes.RECIPE["beta"])
    distance = 0.5 * (code**2 / pca.explained_variance_).sum(1)
    return uncertainty.Anomaly(recon, distance, recon + distance, pixels)


def scores(
    score: Callable[[np.ndarray], uncertainty.Anomaly], images: np.ndarray, val: Slices
) -> dict[str, np.ndarray]:
    """Give slices all their scores, in standard deviations of those of normal validation slices."""
    these, normal = score(images), score(val.images[:])
    by = {k: uncertainty.z_score(getattr(these, k), getattr(normal, k)) for k in ("recon", "kl", "bound")}
    return by | {"peak": peak(these.pixels, normal.pixels)}


def peak(pixels: np.ndarray, normal: np.ndarray, side: int = 5) -> np.ndarray:
    """Find the most unusual spot of each slice, (N,): errors averaged over a window, in units of what is usual there.

    A sum over the slice drowns a small thing in the noise of all the rest; the largest of many small sums does not.

    Parameters
    ----------
    pixels, normal : ndarray, (N, 1, H, W)
        Squared errors of the slices, and of slices that are known to be normal.
    side : int
        Of the window, in pixels.
    """
    usual, found = (
        uniform_filter(np.asarray(a, np.float32), (1, 1, side, side), mode="constant") for a in (normal, pixels)
    )
    mean, spread = usual.mean(0), usual.std(0)
    return ((found - mean) / (spread + spread.mean())).max((1, 2, 3))


def separation(pairs: Sequence[tuple], rows: np.ndarray) -> float:
    """Compute the AUROC of some rows of (normal, odd) scores, the mean over the pairs of several seeds."""
    return np.mean([uncertainty.auroc(normal[rows], odd[rows]) for normal, odd in pairs])


def separation_where(pairs: Sequence[tuple], where: np.ndarray, rows: np.ndarray) -> float:
    """Compute the same of those rows alone where something changed."""
    return separation(pairs, rows[where[rows]])


def worst(score: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Take the highest score among each patient's slices, (patients,)."""
    return np.array([score[r].max() for r in metrics.per_patient(patient).values()])


def compare(pairs: Sequence[tuple], changed: np.ndarray, patient: np.ndarray) -> dict:
    """Measure how one score, (normal, odd) of each seed, tells altered slices and patients from unaltered ones."""
    by_patient = [tuple(worst(s, patient) for s in pair) for pair in pairs]
    return {
        "slices": over_patients(partial(separation_where, pairs, changed), patient),
        "patients": over_patients(partial(separation, by_patient), np.array([*metrics.per_patient(patient)])),
        "higher": float(np.mean([(odd > normal)[changed].mean() for normal, odd in pairs])),
    }


def measured(vaes: Sequence[nn.Module], lab: Cohort) -> dict:
    """Compare altered slices with themselves unaltered, and patients by their worst, by every score and anomaly."""
    scorers = {
        "VAE": [partial(uncertainty.anomaly, vae) for vae in vaes],
        "PCA": [partial(odd_by_pca, linear(lab.train))],
    }
    test = lab.test
    normal = {kind: [scores(f, test.images[:], lab.val) for f in many] for kind, many in scorers.items()}
    patients = [*metrics.per_patient(test.patient)]
    out: dict[str, dict[str, Any]] = {}
    for anomaly in ANOMALIES:
        images, changed = stack_staged(anomaly, patients, lab.shards, lab.level)
        out[anomaly] = {"slices": int(changed.sum()), "of": len(changed)}
        for kind, many in scorers.items():
            odd = [scores(f, images, lab.val) for f in many]
            out[anomaly][kind] = {
                key: compare([(a[key], b[key]) for a, b in zip(normal[kind], odd, strict=True)], changed, test.patient)
                for key in odd[0]
            }
    return out
