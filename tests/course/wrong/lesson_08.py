"""Typical wrong answers to the exercises of notebook 08, and words that their hints contain."""

import numpy as np
from scipy.ndimage import gaussian_filter1d, label

from vaelib import metrics, sequence


def of_each_slice(mask):
    return np.stack([np.asarray(label(m)[0] == np.bincount(label(m)[0].ravel())[1:].argmax() + 1) for m in mask])


def by_faces(mask):
    pieces, _ = label(mask)
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1


def background(mask):
    pieces, _ = label(mask, np.ones((3, 3, 3)))
    return pieces == np.bincount(pieces.ravel()).argmax()


def in_place(net, z, k, steps):
    before = net.context(z)
    z[k] = z[0]
    change = (net.context(z) - before).norm(dim=1)[k + 1 : k + 1 + steps]
    return change / change[0]


def change(net, z, k):
    other = z.clone()
    other[k] = z[0]
    return (net.context(other) - net.context(z)).norm(dim=1)


def sigma_by(smooth, choose):
    """A way to choose a sigma: by a smoothing, and by how its threshold is found."""

    def best(probability, truth, patient, sigmas):
        soft = {sigma: smooth(probability, patient, sigma) for sigma in sigmas}
        score = {s: metrics.sweep(p, truth, patient, [choose(p, truth, patient)]).mean() for s, p in soft.items()}
        return max(score, key=score.get)

    return best


WRONG = {
    "08.1": [
        ((lambda mm, n, size: (mm[2] * n / size, mm[1] * 512 / size, mm[0] * 512 / size),), "count the gaps"),
        ((lambda mm, n, size: (mm[0] * 512 / size, mm[1] * 512 / size, mm[2]),), "the order is z, y, x"),
        ((lambda mm, n, size: (mm[2] * (n - 1) / (size - 1), mm[1], mm[0]),), "16 pixels of 512"),
        ((lambda mm, n, size: (mm[2] * (n - 1) / 31, mm[1] * 16, mm[0] * 16),), "another size"),
    ],
    "08.2": [
        ((of_each_slice,), "largest piece of each slice"),
        ((by_faces,), "np.ones((3, 3, 3))"),
        ((background,), "number 0 is the background"),
    ],
    "08.3": [
        ((in_place,), "work on z.clone()"),
        ((lambda net, z, k, n: change(net, z, k)[k + 1 : k + 1 + n],), "divide by the change"),
        ((lambda net, z, k, n: change(net, z, k)[k : k + n] / change(net, z, k)[k],), "k + 1"),
    ],
    "08.4": [
        ((sigma_by(sequence.smooth, lambda *_: 0.5),), "left at 0.5"),
        ((sigma_by(lambda p, _, s: gaussian_filter1d(p, s, axis=0), metrics.best_threshold),), "into the next"),
        ((lambda p, truth, patient, sigmas: max(sigmas),), "another sigma"),
        ((lambda p, truth, patient, sigmas: 0.9,), "one of the sigmas"),
    ],
}
