"""Checks of the exercises to notebook 04."""

import numpy as np

from course.checks import Answer, attempt, expect, number


def exercise_1(components_for: Answer) -> None:
    """`latent.pca(mu, D)` keeps all D components; `explained_variance_ratio_` has the share of each, largest first.

    Add them up one after the other (`cumsum`), and count how many it takes to reach the share.
    """
    rng = np.random.default_rng(0)
    mu = (rng.normal(size=(400, 6)) * [8, 4, 2, 1, 0.5, 0.25]).astype(np.float32)
    variances = np.linalg.eigvalsh(np.cov(mu.T))[::-1]
    shares = np.cumsum(variances) / variances.sum()
    for share in (0.9, 0.97, 0.99):
        found, wanted = number(components_for, mu, share), int((shares < share).sum()) + 1
        expect(found != wanted - 1, f"{found} of 6 here hold less than {share:.0%}: the next one is needed too")
        expect(found == wanted, f"{wanted} of 6 components hold {share:.0%} of a test cloud, and you say {found}")


def exercise_2(walk_unit: Answer) -> None:
    """One unit moves, all others stay. A direction with a single number other than zero does that.

    `latent.traverse(start, direction, steps)` walks along it; its length is the standard deviation of that unit.
    """
    rng = np.random.default_rng(0)
    mu = (rng.normal(size=(200, 5)) * [1, 3, 0.5, 2, 1]).astype(np.float32)
    steps, start = np.array([-2.0, 0, 1]), mu[7]
    for unit in (1, 2):
        walk = np.asarray(attempt(walk_unit, mu, start, unit, steps))
        expect(walk.shape == (3, 5), f"three steps in five units are (3, 5), and this is {walk.shape}")
        moved = walk - start
        expect(np.abs(np.delete(moved, unit, axis=1)).max() < 1e-5, "other units move too; only one should")
        expect(abs(moved[1, unit]) < 1e-5, "a step of 0 should stay where the walk starts")
        raw = np.allclose(moved[:, unit], steps, atol=1e-3)
        expect(not raw, "it walks in raw units; a step of 1 is one standard deviation of that unit")
        good = np.allclose(moved[:, unit], steps * mu[:, unit].std(), rtol=0.02)
        expect(good, "the unit moves, but not by the standard deviation of its mean over the slices")


def exercise_3(same_patient: Answer) -> None:
    """Distances between all pairs: ``np.linalg.norm(mu[:, None] - mu[None], axis=2)``, or `scipy`'s `cdist`.

    The nearest slice to each slice is itself; make that impossible (`np.fill_diagonal`) before you ask for the nearest.
    """
    mu = np.array([[0.0, 0], [0, 1], [5, 0], [5, 1.5], [0, 1.9], [9, 9]], np.float32)
    patient = np.array(["a", "a", "b", "b", "b", "a"])  # nearest others: 1, 4, 3, 2, 1, 3
    share = attempt(same_patient, mu, patient)
    expect(np.ndim(share) == 0, f"one share from 0 to 1 is wanted, and this has the shape {np.shape(share)}")
    expect(share != 1, "every slice is its own nearest neighbour here: leave it out of its own row")
    expect(0 <= share <= 1, f"a share lies between 0 and 1, and this is {share:g}")
    expect(abs(share - 3 / 6) < 1e-6, f"in a test cloud 3 slices of 6 have their nearest in their own patient, 0.50; "
                                      f"you find {share:.2f}")  # fmt: skip


def exercise_4(truncate: Answer) -> None:
    """Fit `latent.pca(mu, components)`; its `transform` leaves only so many numbers, `inverse_transform` goes back.

    Both for `z`, which may be other slices than those that the directions come from.
    """
    rng = np.random.default_rng(0)
    mu, z = ((rng.normal(size=(300, 6)) @ np.diag([5, 3, 2, 1, 0.5, 0.2]) + 4).astype(np.float32) for _ in range(2))
    z = z[:50]
    for components in (1, 3, 6):
        found = np.asarray(attempt(truncate, mu, z, components))
        coordinates = found.shape == (50, components) and components < 6
        expect(not coordinates, "these are the coordinates; come back to the space of the latent")
        expect(found.shape == z.shape, f"as many rows and units as z, {z.shape}, are wanted, and this is {found.shape}")
        axes = np.linalg.svd(mu - mu.mean(0), full_matrices=False)[2][:components]
        wanted = (z - mu.mean(0)) @ axes.T @ axes + mu.mean(0)
        own = np.linalg.svd(z - z.mean(0), full_matrices=False)[2][:components]
        by_own = (z - z.mean(0)) @ own.T @ own + z.mean(0)
        if components < 6:
            expect(not np.allclose(found, by_own, atol=1e-3), "the directions are those of z; take them from mu")
            expect(not np.allclose(found, z, atol=1e-3), f"nothing is left out; keep only {components} of 6 directions")
        expect(not np.allclose(found, wanted - mu.mean(0), atol=1e-3), "the mean is missing; it has to be added again")
        expect(np.allclose(found, wanted, atol=1e-3), f"with {components} of 6 directions it is not the nearest point")
