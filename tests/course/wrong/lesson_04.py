"""Typical wrong answers to the exercises of notebook 04, and words of the hint that each must get."""

import numpy as np

from vaelib import latent


def _one_too_few(mu, share):
    return (latent.pca(mu, mu.shape[1]).explained_variance_ratio_.cumsum() < share).sum()


def _raw_units(mu, start, unit, steps):
    return latent.traverse(start, np.eye(len(start))[unit], steps)


def _all_units(mu, start, unit, steps):
    return latent.traverse(start, mu.std(0), steps)


def _itself(mu, patient):
    return (patient[np.linalg.norm(mu[:, None] - mu[None], axis=2).argmin(1)] == patient).mean()


def _coordinates(mu, z, components):
    return latent.pca(mu, components).transform(z)


def _of_z(mu, z, components):
    pca = latent.pca(z, components)
    return pca.inverse_transform(pca.transform(z))


WRONG = {
    "04.1": [((_one_too_few,), "the next one is needed"), ((lambda mu, share: 3,), "hold")],
    "04.2": [((_raw_units,), "raw units"), ((_all_units,), "other units move too")],
    "04.3": [((_itself,), "its own nearest"), ((lambda mu, patient: 0.4,), "3 slices of 6")],
    "04.4": [((_coordinates,), "coordinates"), ((_of_z,), "directions are those of z")],
}
