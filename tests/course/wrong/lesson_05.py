"""Typical wrong answers to the exercises of notebook 05, and words of the hint that each must get."""

import numpy as np
from sklearn.decomposition import PCA

from vaelib import metrics


def _by_slice(found, truth, patient):
    shared, held = (found & truth).sum((1, 2, 3)), found.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    dices = np.where(held > 0, 2 * shared / np.maximum(held, 1), 1)
    return [dices[rows].mean() for rows in metrics.per_patient(patient).values()]


def _iou(found, truth, patient):
    return [metrics.iou(found[r][:, 0], truth[r][:, 0]) for r in metrics.per_patient(patient).values()]


def _as_if_all_true(p, thresholds):
    return np.array([2 * (p >= t).sum() / ((p >= t).sum() + p.sum()) for t in thresholds])


def _error(fit, held_out, components, reduce):
    rows = held_out.reshape(len(held_out), -1)
    pca = PCA(components).fit(fit.reshape(len(fit), -1))
    return reduce((pca.inverse_transform(pca.transform(rows)) - rows) ** 2)


def _fitted_on_held_out(train, held_out, components):
    return _error(held_out, held_out, components, lambda square: 0.5 * square.sum(1).mean())


def _mean_over_pixels(train, held_out, components):
    return _error(train, held_out, components, lambda square: 0.5 * square.mean())


def _not_halved(train, held_out, components):
    return _error(train, held_out, components, lambda square: square.sum(1).mean())


WRONG = {
    "05.1": [((lambda t, w: t / (t + w * (1 - t)),), "it goes down"), ((lambda t, w: w * t,), "between 0 and 1")],
    "05.2": [((_by_slice,), "mean over slices"), ((_iou,), "intersection over the union")],
    "05.3": [((_as_if_all_true,), "only with its p"), ((lambda p, thresholds: thresholds / 2,), "truths drawn from p")],
    "05.4": [
        ((_fitted_on_held_out,), "must not be seen"),
        ((_mean_over_pixels,), "mean over pixels"),
        ((_not_halved,), "takes half of it"),
    ],
}
