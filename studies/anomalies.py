"""Are staged anomalies found by what the VAE cannot draw, or by where it puts them? Beside principal components."""

from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.decomposition import PCA

from studies.only_intervals import over_patients
from vaelib import metrics, recipes, uncertainty
from vaelib.phantom.anomalies import ANOMALIES, stack_staged

COMPONENTS = recipes.RECIPE["latent"]  # as many numbers as the latent has


def linear(train, components: int = COMPONENTS) -> PCA:
    """Principal components of the training pictures."""
    return PCA(components, svd_solver="randomized", random_state=0).fit(train.images.reshape(len(train.images), -1))


def odd_by_pca(pca: PCA, images: np.ndarray) -> uncertainty.Anomaly:
    """The scores of `uncertainty.anomaly` from principal components: reconstruction, distance in the code, the sum."""
    flat = images.reshape(len(images), -1)
    code = pca.transform(flat)
    pixels = np.square(pca.inverse_transform(code) - flat).reshape(images.shape)
    recon = pixels.sum((1, 2, 3)) / (2 * recipes.RECIPE["beta"])
    distance = 0.5 * (code**2 / pca.explained_variance_).sum(1)
    return uncertainty.Anomaly(recon, distance, recon + distance, pixels)


def scores(score: Callable[[np.ndarray], uncertainty.Anomaly], images, val) -> dict[str, np.ndarray]:
    """All scores of slices, in standard deviations of those of normal validation slices."""
    these, normal = score(images), score(val.images)
    by = {k: uncertainty.z_score(getattr(these, k), getattr(normal, k)) for k in ("recon", "kl", "bound")}
    return by | {"peak": uncertainty.peak(these.pixels, normal.pixels)}


def separation(pairs, rows) -> float:
    """AUROC of some rows of (normal, odd) scores, the mean over the pairs of several seeds."""
    return np.mean([uncertainty.auroc(normal[rows], odd[rows]) for normal, odd in pairs])


def separation_where(pairs, where, rows) -> float:
    """The same, of those of the rows alone where something changed."""
    return separation(pairs, rows[where[rows]])


def worst(score: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """The highest score among each patient's slices, (patients,)."""
    return np.array([score[r].max() for r in metrics.per_patient(patient).values()])


def compare(pairs, changed, patient) -> dict:
    """How one score of several seeds, (normal, odd) each, tells altered slices and patients from unaltered ones."""
    by_patient = [tuple(worst(s, patient) for s in pair) for pair in pairs]
    return {
        "slices": over_patients(partial(separation_where, pairs, changed), patient),
        "patients": over_patients(partial(separation, by_patient), np.array([*metrics.per_patient(patient)])),
        "higher": float(np.mean([(odd > normal)[changed].mean() for normal, odd in pairs])),
    }


def measure_anomalies(runs, train, val, test, shards, level: int) -> dict:
    """AUROC of every score for each anomaly: altered slices against themselves unaltered, patients by their worst."""
    scorers = {
        "VAE": [partial(uncertainty.anomaly, r["vae"]) for r in runs],
        "PCA": [partial(odd_by_pca, linear(train))],
    }
    normal = {kind: [scores(f, test.images, val) for f in many] for kind, many in scorers.items()}
    patients, out = [*metrics.per_patient(test.patient)], {}
    for anomaly in ANOMALIES:
        images, changed = stack_staged(anomaly, patients, shards, level)
        out[anomaly] = {"slices": int(changed.sum()), "of": len(changed)}
        for kind, many in scorers.items():
            odd = [scores(f, images, val) for f in many]
            out[anomaly][kind] = {
                key: compare([(a[key], b[key]) for a, b in zip(normal[kind], odd, strict=True)], changed, test.patient)
                for key in odd[0]
            }
    return out
