"""Typical wrong answers to the exercises of notebook 06, and words of the hint that each must get."""

import numpy as np

from vaelib import metrics


def _vote(maps_val, truth, patient, maps_test):
    cuts = [metrics.best_threshold(p, truth, patient) for p in maps_val]
    return np.all([p >= c for p, c in zip(maps_test, cuts, strict=True)], 0)


def _at_half(maps_val, truth, patient, maps_test):
    return np.mean(maps_test, 0) >= 0.5


def _its_own_threshold(maps_val, truth, patient, maps_test):
    return np.mean(maps_test, 0) >= metrics.best_threshold(maps_val[0], truth, patient)


def _each_his_own(p, truth, patient, chosen):
    curves = metrics.sweep(p, truth, patient, metrics.THRESHOLDS)
    best = metrics.best_threshold(p, truth, patient)
    return metrics.sweep(p, truth, patient, [chosen]).mean(), curves.max(1).mean(), best


def _only_the_best(p, truth, patient, chosen):
    return metrics.sweep(p, truth, patient, metrics.THRESHOLDS).mean(0).max()


def _paired(a, b):
    return metrics.bootstrap(np.subtract(a, b))[1:]


def _of_patients(a, b):
    rng = np.random.default_rng(0)
    return np.quantile(rng.choice(a, 10_000) - rng.choice(b, 10_000), [0.025, 0.975])


WRONG = {
    "06.1": [((_vote,), "joins masks"), ((_at_half,), "0.5"), ((_its_own_threshold,), "one network's")],
    "06.2": [((_each_his_own,), "same for all"), ((_only_the_best,), "three numbers")],
    "06.3": [((_paired,), "paired interval"), ((_of_patients,), "too wide")],
    "06.4": [
        ((lambda d: 2.8 * d.std(ddof=1),), "one patient"),
        ((lambda d: 1.96 * d.std(ddof=1) / len(d) ** 0.5,), "one time in two"),
        ((lambda d: 2.8 * d.std() / len(d) ** 0.5,), "ddof=1"),
    ],
}
