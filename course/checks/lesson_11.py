"""Checks of the exercises to notebook 11, More than a mask."""

import numpy as np
from scipy.ndimage import center_of_mass, label
from scipy.spatial.distance import mahalanobis

from course.checks import Answer, attempt, expect
from vaelib.metrics import dice
from vaelib.uncertainty import entropy

FAR = np.float32(0.999999)  # as sure as a decoder in 32 bits ever is


def exercise_1(draw: Answer) -> None:
    """The deviation is exp(logvar / 2), for logvar is the logarithm of the variance; that of the noise is 1."""
    rng = np.random.default_rng(0)
    mu, logvar = np.full((20_000, 2), 3.0), np.log(np.tile([0.25, 4.0], (20_000, 1)))  # deviations of 0.5 and 2
    noise = rng.standard_normal(mu.shape)
    once, wide = (np.asarray(attempt(draw, mu, logvar, noise, width), float) for width in (1, 3))
    expect(once.shape == mu.shape, f"a number for each of mu is asked for, and it returns the shape {once.shape}")
    expect(np.allclose(once.mean(0), 3, atol=0.1), f"the draws lie about {once.mean():.1f}, and mu is 3")
    found = once.std(0)
    expect(not np.allclose(found, (0.25, 4), rtol=0.05), "its deviation is the variance: the square root is missing")
    expect(np.allclose(found, (0.5, 2), rtol=0.05),
           f"deviations of 0.5 and 2 were asked for, {found[0]:.2f} and {found[1]:.2f} were drawn")  # fmt: skip
    grown = (wide.std(0) / found).mean()
    expect(not np.isclose(grown, 3**0.5, rtol=0.05), "it widens the variance three times, not the deviation")
    expect(
        np.allclose(wide.mean(0), 3, atol=0.2), "with width 3 the draws lie elsewhere: widen the noise, and leave mu"
    )
    expect(np.isclose(grown, 3, rtol=0.05), f"with width 3 the deviation is {grown:.1f} times as large")
    expect(np.allclose(once, mu + np.exp(logvar / 2) * noise), "it draws noise of its own; use that which it is given")


def exercise_2(distance: Answer) -> None:
    """Subtract the mean of the codes; then d @ P @ d for each row d, where P is the inverse of their covariance."""
    rng = np.random.default_rng(0)
    codes = rng.normal(0, 1, (500, 3)) @ np.array([[3.0, 0, 0], [2, 1, 0], [0, 1, 0.2]]) + (5, 0, -2)
    z, mean = rng.normal(0, 3, (7, 3)), codes.mean(0)
    covariance = np.cov(codes.T)
    wanted = np.array([mahalanobis(one, mean, np.linalg.inv(covariance)) ** 2 for one in z])
    found = np.asarray(attempt(distance, z.copy(), codes.copy()), float)
    expect(
        found.shape == (7,), f"one distance for each of 7 codes is asked for, and it returns the shape {found.shape}"
    )
    expect(not np.allclose(found, np.sqrt(wanted)), "it is the root of what is asked for: leave the square")
    away = z - mean
    for wrong, hint in (
        (np.einsum("ni,ij,nj->n", away, covariance, away), "the covariance is not inverted yet"),
        (
            np.einsum("ni,ij,nj->n", z, np.linalg.inv(covariance), z),
            "it measures from 0, not from the mean of the codes",
        ),
        (np.square(away / codes.std(0)).sum(1), "it takes units to be independent; the covariance says they are not"),
        (np.square(away).sum(1), "it is the plain distance, in which each direction counts alike"),
    ):
        expect(not np.allclose(found, wrong, rtol=0.01), hint)
    expect(np.allclose(found, wanted, rtol=0.01), f"the first should be {wanted[0]:.1f}, and it is {found[0]:.1f}")


def exercise_3(information: Answer) -> None:
    """`uncertainty.entropy(p)` gives the entropy of each pixel. Average before it once, and after it once."""
    rng = np.random.default_rng(0)
    p = np.clip(rng.normal([[0.1], [0.5], [0.8]], 0.1, (4, 3, 6)), 0.01, 0.99)
    found = np.asarray(attempt(information, p.copy()), float)
    expect(found.shape == (3, 6), f"one number a pixel is asked for, (3, 6), and it returns the shape {found.shape}")
    of_mean, mean_of = entropy(p.mean(0)), entropy(p).mean(0)
    for wrong, hint in (
        (of_mean, "it is the entropy of the mean, all that is uncertain; take away the mean entropy of the draws"),
        (mean_of, "it is the mean entropy of the draws, the part that knowing z would not remove"),
        (mean_of - of_mean, "the sign is wrong: knowing z cannot make a pixel less certain on average"),
        (p.var(0), "it is the variance of the draws, not a difference of entropies"),
    ):
        expect(not np.allclose(found, wrong), hint)
    expect(np.allclose(found, of_mean - mean_of, atol=1e-6), "it is not the entropy of the mean less the mean entropy")
    sure = np.asarray(attempt(information, np.tile(FAR, (4, 1))), float)
    expect(np.allclose(sure, 0, atol=1e-4), "where all draws agree there is no information in z, and it finds some")


def disc(row: float, column: float, radius: float) -> np.ndarray:
    """Make a disc in a mask of 64 x 64 pixels."""
    y, x = np.indices((64, 64))
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def exercise_4(halfway: Answer) -> None:
    """Move both distance maps until the centres meet halfway; then average, then cut at 0."""
    small, large, wanted = disc(14, 16, 5), disc(40, 44, 9), disc(27, 30, 7)
    found = np.asarray(attempt(halfway, small.copy(), large.copy()))
    expect(found.shape == (64, 64) and found.dtype == bool, "a mask of bool is asked for, of the shape of the two")
    expect(found.any(), "nothing is left: outlines that lie apart have no inside in common; bring them together first")
    expect(found.sum() < 2000, "more than half of the picture is inside: distances are positive within, and cut at 0")
    expect(label(found)[1] == 1, "it is in two pieces: are the distances averaged, or the masks joined?")
    off = np.hypot(*np.subtract(center_of_mass(found), (27, 30)))
    expect(off < 1.5, f"its centre lies {off:.0f} pixels from the middle between the two centres")
    expect(dice(found, wanted) > 0.93,
           f"between discs of 5 and 9 one of 7 is due, with 149 pixels; here are {found.sum()}")  # fmt: skip
    bar = disc(30, 30, 12) & (np.abs(np.indices((64, 64))[0] - 30) < 4)
    same = np.asarray(attempt(halfway, bar.copy(), bar.copy()))
    expect(dice(same, bar) > 0.93, "halfway between a mask and itself should lie that mask")
