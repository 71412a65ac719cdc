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


def _groups(p, edges):
    return [(p >= low) & (p < high) for low, high in zip(edges[:-1], edges[1:], strict=True)]


def _what_is_said(p, truth, edges):
    return [p[g].mean() for g in _groups(p, edges)]


def _of_all_pixels(p, truth, edges):
    return [(truth & g).mean() for g in _groups(p, edges)]


def _the_other_way(p, truth, edges):
    return [(truth & g).sum() / truth.sum() for g in _groups(p, edges)]


def _all_above(p, truth, edges):
    return [truth[p >= low].mean() for low in edges[:-1]]


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
    "05.3": [
        ((_what_is_said,), "what the decoder *says*"),
        ((_of_all_pixels,), "divides by all pixels"),
        ((_the_other_way,), "the other way"),
        ((_all_above,), "ends at the next edge"),
    ],
    "05.4": [
        ((_fitted_on_held_out,), "must not be seen"),
        ((_mean_over_pixels,), "mean over pixels"),
        ((_not_halved,), "takes half of it"),
    ],
}
