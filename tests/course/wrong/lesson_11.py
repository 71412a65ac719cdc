"""Typical wrong answers to the exercises of notebook 11, and words that their hints contain."""

import numpy as np
from scipy.ndimage import center_of_mass, shift
from scipy.ndimage import distance_transform_edt as edt

from vaelib.uncertainty import entropy


def deep(mask):
    return edt(mask) - edt(~mask)


def to_the_first(a, b):
    by = np.subtract(center_of_mass(a), center_of_mass(b))
    return deep(a) + shift(deep(b), by, order=1, mode="nearest") > 0


def squared(z, codes, of=np.linalg.inv, mean=True):
    away = z - codes.mean(0) * mean
    return np.einsum("ni,ij,nj->n", away, of(np.cov(codes.T)), away)


WRONG = {
    "11.1": [
        ((lambda mu, logvar, noise, width=1: mu + width * np.exp(logvar) * noise,), "the square root is missing"),
        ((lambda mu, logvar, noise, width=1: mu + np.exp(logvar / 2) * noise * width**0.5,), "not the deviation"),
        ((lambda mu, logvar, noise, width=1: mu + np.exp(logvar / 2) * noise,), "with width 3"),
        ((lambda mu, logvar, noise, width=1: width * (mu + np.exp(logvar / 2) * noise),), "leave mu"),
    ],
    "11.2": [
        ((lambda z, codes: np.sqrt(squared(z, codes)),), "leave the square"),
        ((lambda z, codes: squared(z, codes, of=np.asarray),), "not inverted"),
        ((lambda z, codes: squared(z, codes, mean=False),), "from 0"),
        ((lambda z, codes: np.square((z - codes.mean(0)) / codes.std(0)).sum(1),), "independent"),
    ],
    "11.3": [
        ((lambda p: entropy(p.mean(0)),), "all that is uncertain"),
        ((lambda p: entropy(p).mean(0),), "would not remove"),
        ((lambda p: entropy(p).mean(0) - entropy(p.mean(0)),), "the sign is wrong"),
        ((lambda p: entropy(p.mean(0)) - entropy(p),), "one number a pixel"),
    ],
    "11.4": [
        ((lambda a, b: (deep(a) + deep(b)) / 2 > 0,), "bring them together first"),
        ((lambda a, b: a | b,), "in two pieces"),
        ((to_the_first,), "from the middle"),
        ((lambda a, b: -deep(a) - deep(b) > 0,), "positive within"),
    ],
}
