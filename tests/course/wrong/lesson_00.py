"""Typical wrong answers to the exercises of notebook 00, and words of the hint that each must get."""

import numpy as np


def centres(occupancy, axis):
    """Mean row (axis 1) or column (axis 2) of the slices that hold something."""
    held = occupancy[occupancy.any(axis=(1, 2))]
    weight = held.sum(axis=3 - axis)
    return (weight * np.arange(weight.shape[1])).sum(axis=1) / weight.sum(axis=1)


def by_empty_slices(occupancy):
    weight = occupancy.sum(axis=1)
    with np.errstate(invalid="ignore"):
        column = (weight * np.arange(64)).sum(axis=1) / weight.sum(axis=1)
    return column[-1] > column[0]


def by_any_pixel(occupancy):
    held = occupancy[occupancy.any(axis=(1, 2))]
    column = [np.nonzero(o)[1].mean() for o in held]
    return column[-1] > column[0] + 1e-9


def one_low(images, masks):
    dice = [2 * np.sum((images >= low) & masks) / np.sum((images >= low) * 1 + masks) for low in np.arange(0, 1, 0.05)]
    return 0.05 * np.argmax(dice), 1.1, max(dice)


WRONG = {
    "00.1": [
        ((lambda o, s: o.sum() * np.prod(s) / 1000,), "8 x 8 of the full-size"),
        ((lambda o, s: o.sum() * 64 * np.prod(s),), "mm³"),
        ((lambda o, s: o.sum() * 64 * s[0] * s[1] / 1000,), "an area"),
        ((lambda o, s: (o > 0).sum() * 64 * np.prod(s) / 1000,), "half full"),
        ((lambda o, s: o.sum(axis=0),), "one number"),
    ],
    "00.2": [
        ((lambda o: np.diff(centres(o, 1)).mean() > 0,), "the columns that you follow"),
        ((by_empty_slices,), "An empty one has no centre"),
        ((lambda o: True,), "mirrored"),
        ((lambda o: abs(np.diff(centres(o, 2)).mean()) > 1,), "mirrored"),
        ((by_any_pixel,), "weight by occupancy"),
    ],
    "00.3": [
        ((lambda images, masks: (0.4, 0.5),), "three numbers"),
        ((lambda images, masks: (0.5, 0.4, 0.0),), "no pixel lies in between"),
        ((lambda images, masks: (0.35, 0.55, 0.9),), "has a Dice of"),
        ((one_low,), "try every low with every high"),
    ],
}
