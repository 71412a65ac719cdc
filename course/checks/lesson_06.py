"""Checks of the exercises to notebook 06."""

import numpy as np

from course.checks import Answer, attempt, expect, number
from vaelib import metrics


def _maps(rng, n):
    """Make a truth (n, 1, 8, 8), its patients, and two maps of probability, each bad in its own way."""
    truth = np.zeros((n, 1, 8, 8), bool)
    truth[:, :, 2:5, 2:6] = True
    noise = rng.uniform(-0.2, 0.2, (2, *truth.shape))
    return truth, np.repeat(["a", "b"], n // 2), [(0.3 * truth + 0.25 + e).astype(np.float32) for e in noise]


def exercise_1(ensemble: Answer) -> None:
    """Average the maps first, those of the validation patients and those of the test patients.

    `metrics.best_threshold(probability, truth, patient)` then chooses a threshold, on validation patients alone.
    """
    rng = np.random.default_rng(0)
    truth, patient, maps_val = _maps(rng, 8)
    _, _, maps_test = _maps(rng, 6)
    found = np.asarray(attempt(ensemble, maps_val, truth, patient, maps_test))
    mean = np.mean(maps_test, 0)
    expect(found.shape == mean.shape, f"a mask for each test slice, {mean.shape}, is wanted, and this is {found.shape}")
    expect(found.dtype == bool, f"a mask of bool is wanted, and this is {found.dtype}: compare with a threshold")
    cuts = [metrics.best_threshold(p, truth, patient) for p in maps_val]
    cut = metrics.best_threshold(np.mean(maps_val, 0), truth, patient)
    right = np.array_equal(found, mean >= cut)
    votes = np.mean([p >= c for p, c in zip(maps_test, cuts, strict=True)], 0)
    joined = np.array_equal(found, votes >= 0.5) or np.array_equal(found, votes == 1)
    expect(right or not joined, "this joins masks; average the probabilities, which know how sure they are")
    half = np.array_equal(found, mean >= 0.5)
    expect(right or not half, "the threshold is 0.5; the average needs one chosen on validation as well")
    borrowed = any(np.array_equal(found, mean >= c) for c in cuts)
    expect(right or not borrowed, "the threshold is one network's; the average needs its own")
    expect(right, f"in a test of two small maps the mask is not that of their mean, cut at {cut:.2f}")


def exercise_2(headroom: Answer) -> None:
    """`metrics.sweep(p, truth, patient, thresholds)` is the Dice of each patient at each threshold.

    Take its mean over patients: at the chosen threshold, and where it is largest.
    """
    rng = np.random.default_rng(1)
    truth, patient, (p, _) = _maps(rng, 8)
    p[4:] *= 0.7
    chosen, curve = 0.6, metrics.sweep(p, truth, patient, metrics.THRESHOLDS).mean(0)
    wanted = (metrics.sweep(p, truth, patient, [chosen]).mean(), curve.max(), metrics.THRESHOLDS[curve.argmax()])
    answer = attempt(headroom, p, truth, patient, chosen)
    expect(np.shape(answer) == (3,), "three numbers are wanted: Dice as chosen, the best Dice, and the best threshold")
    at_chosen, best, where = (float(value) for value in answer)
    expect(
        abs(at_chosen - wanted[0]) < 1e-6,
        f"at the chosen threshold Dice is {wanted[0]:.3f} here; you say {at_chosen:.3f}",
    )
    each = metrics.sweep(p, truth, patient, metrics.THRESHOLDS).max(1).mean()
    expect(
        abs(best - each) > 1e-6, "each patient has a threshold of his own here; take the best that is the same for all"
    )
    expect(abs(best - wanted[1]) < 1e-6, f"the best mean Dice is {wanted[1]:.3f} here, and you say {best:.3f}")
    expect(abs(where - wanted[2]) < 1e-6, f"it is reached at the threshold {wanted[2]:.2f}, and you say {where:.2f}")


def exercise_3(unpaired: Answer) -> None:
    """`rng.integers(0, n, (draws, n))` draws patients anew, with repetition, `draws` times.

    Draw for `a` and for `b` separately, take the mean of each draw, and of their differences the quantiles.
    """
    rng = np.random.default_rng(0)
    level = rng.normal(0.6, 0.1, 40)  # easy and difficult patients,
    a, b = level + 0.02 + rng.normal(0, 0.01, 40), level + rng.normal(0, 0.01, 40)  # and two methods
    answer = attempt(unpaired, a, b)
    expect(
        np.shape(answer) == (2,), f"two numbers, low and high, are wanted, and this has the shape {np.shape(answer)}"
    )
    low, high = (float(value) for value in answer)
    expect(low < high, f"low comes first, and this is ({low:.3f}, {high:.3f})")
    paired, half = metrics.bootstrap(a - b), 1.96 * np.sqrt((a.var() + b.var()) / 40)
    as_paired = high - low < 1.5 * (paired.high - paired.low)
    expect(not as_paired, "this is the paired interval: draw the patients of a and of b separately")
    expect(
        abs((low + high) / 2 - (a - b).mean()) < 0.3 * half, "it does not lie around the difference of the two means"
    )
    expect(
        high - low < 2.8 * half,
        "it is too wide: quantiles are those of *means* over n patients, not of single patients",
    )
    expect(
        abs((high - low) / (2 * half) - 1) < 0.15,
        f"it should be about {2 * half:.3f} wide here, and is {high - low:.3f}",
    )


def exercise_4(smallest: Answer) -> None:
    """The mean of n differences scatters with their standard deviation (``ddof=1``) over the square root of n.

    To be 1.96 such steps from zero four times out of five, a true difference has to be 1.96 + 0.84 of them.
    """
    for n, spread in ((12, 0.02), (40, 0.05)):
        differences = np.random.default_rng(n).normal(0.01, spread, n)
        step = differences.std(ddof=1) / np.sqrt(n)
        found = number(smallest, differences)
        close = lambda value: abs(found / value - 1) < 0.01  # noqa: B023, E731
        expect(
            not close(2.8 * step * np.sqrt(n)), "this is for one patient; a mean over n scatters less, by the root of n"
        )
        expect(
            not close(1.96 * step),
            "a true difference of 1.96 steps is found one time in two; four in five need 0.84 more",
        )
        expect(not close(2.8 * step * np.sqrt(1 - 1 / n)), "the spread is estimated from the same patients: ddof=1")
        expect(
            close(2.8 * step), f"for {n} patients with a spread of {spread} it is {2.8 * step:.4f}; you say {found:.4f}"
        )
