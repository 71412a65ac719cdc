"""Checks of the exercises to notebook 00."""

import numpy as np

from course.checks import Answer, attempt, expect, number


def exercise_1(volume_ml: Answer) -> None:
    """Sum the occupancy, and multiply by the volume of a coarse pixel: 8 x 8 full-size ones, one slice high, in ml."""
    occupancy, spacing = np.zeros((3, 64, 64)), (0.7, 0.8, 2.5)
    occupancy[:, 20:25, 30:42] = [[[1.0]], [[0.5]], [[0.25]]]
    found, wanted = number(volume_ml, occupancy, spacing), occupancy.sum() * 64 * 1.4 / 1000
    expect(not np.isclose(found, wanted / 64), "a coarse pixel covers 8 x 8 of the full-size ones, whose spacing it is")
    expect(not np.isclose(found, wanted * 1000), "that is in mm³, and a ml has 1000 of them")
    expect(not np.isclose(found, wanted / 2.5), "that is an area: the slices lie spacing[2] mm apart")
    expect(found < wanted * 1.5, f"{found:.3g} ml of {wanted:.3g}: is a pixel that is half full counted as a full one?")
    expect(np.isclose(found, wanted), f"{found:.3g} ml, where it should be {wanted:.3g}")


def tube() -> np.ndarray:
    """Occupancy (20, 64, 64) of a tube from slice 5 to 14: with each slice further left (columns) and further front."""
    occupancy = np.zeros((20, 64, 64))
    for k in range(5, 15):
        occupancy[k, 40 - k : 44 - k, 10 + 2 * k : 15 + 2 * k] = 1
    return occupancy


def exercise_2(climbs: Answer) -> None:
    """The centre of each slice is the mean of its columns, weighted by the occupancy. Does it grow with the slice?"""
    right = attempt(climbs, tube())
    expect(np.ndim(right) == 0, f"True or False is wanted, and this has the shape {np.shape(right)}")
    expect(
        bool(right),
        "a tube that does climb to the left is said not to: is it the columns that you follow, and only in slices "
        "that hold pancreas? An empty one has no centre",
    )
    expect(not attempt(climbs, tube()[:, :, ::-1]), "mirrored, left for right, it still passes")
    expect(not attempt(climbs, tube()[::-1]), "upside down it still passes: the slices run from the feet to the head")
    expect(attempt(climbs, tube()[:, ::-1]), "front and back exchanged should change nothing: follow the columns")
    pale = tube() + np.where(tube().any(axis=(1, 2))[:, None, None], 1e-3, 0)
    expect(attempt(climbs, pale), "pixels that hold a thousandth of pancreas count like full ones: weight by occupancy")


def overlap(inside: np.ndarray, masks: np.ndarray) -> float:
    """Compute the Dice of two masks, by its definition."""
    return 2 * np.sum(inside & masks) / max(np.sum(inside) + np.sum(masks), 1)


def exercise_3(best_band: Answer) -> None:
    """Try every pair low < high of a grid of greys; Dice is 2 x overlap / (band + mask). Keep the best pair."""
    rng = np.random.default_rng(0)
    images, masks = rng.random((4, 32, 32)), np.zeros((4, 32, 32), bool)
    masks[:, 8:20, 10:22] = True
    images[masks] = rng.uniform(0.36, 0.54, masks.sum())
    found = attempt(best_band, images, masks)
    expect(np.shape(found) == (3,), "three numbers are wanted: low, high and their Dice")
    low, high, dice = found
    expect(low < high, f"low is {low:.2f} and high is {high:.2f}: no pixel lies in between")
    real = overlap((images >= low) & (images < high), masks)
    expect(abs(real - dice) < 5e-3, f"the band from {low:.2f} to {high:.2f} has a Dice of {real:.3f}, not {dice:.3f}")
    steps = np.arange(0, 1.01, 0.05)
    best = max(overlap((images >= a) & (images < b), masks) for a in steps for b in steps if a < b)
    expect(
        dice > best - 0.01, f"a Dice of {dice:.3f}, and a band with {best:.3f} is there: try every low with every high"
    )
