"""Checks of the exercises to notebook 02."""

import numpy as np

from course.checks import Answer, attempt, expect, number
from vaelib import levels, metrics


def exercise_1(halve: Answer) -> None:
    """A block has four pixels: image[::2, ::2] is the first of each, image[1::2, ::2] the next. Average all four."""
    image = np.random.default_rng(0).random((8, 16))
    found, wanted = np.asarray(attempt(halve, image)), levels.halve(image)
    expect(found.shape == (4, 8), f"of (8, 16) pixels it makes {found.shape}: half of each side is wanted")
    corners = [image[a::2, b::2] for a in (0, 1) for b in (0, 1)]
    expect(not any(np.allclose(found, c) for c in corners), "one pixel of each block is kept: three in four go unseen")
    expect(not np.allclose(found, 4 * wanted), "that is the sum of a block: an average is a quarter of it")
    near = [(corners[0] + other) / 2 for other in corners[1:]]
    expect(not any(np.allclose(found, n) for n in near), "two pixels of each block are averaged: it has four")
    expect(np.allclose(found, wanted), "the averages are not those of the blocks of 2 x 2: which four does it take?")


def exercise_2(contrast: Answer) -> None:
    """Cut the HU under the mask out, put them through the window (subtract, divide, clip), and take their deviation."""
    rng = np.random.default_rng(0)
    hu, mask = rng.normal(-300, 200, (6, 20, 20)), np.zeros((6, 20, 20), bool)
    mask[:, 5:15, 5:15] = True
    hu[mask] = rng.normal(90, 60, mask.sum())
    for low, high in ((-500, 1300), (40, 140)):
        found = number(contrast, hu, mask, low, high)
        scaled = (hu - low) / (high - low)
        expect(not np.isclose(found, hu[mask].std()), "these are HU: divide by the width of the window")
        expect(
            not np.isclose(found, np.clip(scaled, 0, 1).std()), "that is the contrast of the whole scan: use the mask"
        )
        clipped = np.clip(scaled[mask], 0, 1).std()
        expect(
            np.isclose(clipped, scaled[mask].std()) or not np.isclose(found, scaled[mask].std()),
            "what lies beyond the window has to be clipped to 0 or 1 before the deviation is taken",
        )
        expect(
            np.isclose(found, clipped, rtol=1e-3), f"{found:.4f} for {low} to {high} HU, where {clipped:.4f} should be"
        )


def exercise_3(vanished: Answer) -> None:
    """Two questions a slice: is any pixel above 0, and does any reach the threshold? Count the yes and no."""
    occupancy = np.zeros((13, 16, 16))  # three slices stay empty
    for k, fill in enumerate((0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 0.95, 1.0), 1):
        occupancy[k, 3, 4:9] = fill
    for threshold, wanted in ((0.2, 2), (0.5, 4)):
        found = attempt(vanished, occupancy, threshold)
        expect(np.ndim(found) == 0, f"one number of slices is wanted, not the shape {np.shape(found)}")
        expect(found != wanted + 3, "slices without any pancreas are counted too: they have nothing to lose")
        expect(found != wanted + 1, f"a pixel that is just {threshold} full counts as pancreas: >=, not >")
        expect(found != 10 - wanted, "these are the slices in which it stays: the others are asked for")
        expect(found == wanted, f"{found} slices at {threshold}, where it should be {wanted}")


def ball() -> tuple[np.ndarray, np.ndarray]:
    """Make a lobed disc in four slices: its occupancy (4, 16, 16), and the mask itself (4, 128, 128)."""
    y, x = np.mgrid[:128, :128] - 63.0
    radius = 34 + 6 * np.sin(3 * np.arctan2(y, x))
    truth = np.stack([np.hypot(x, y) < radius - 3 * k for k in range(4)])
    return levels.downscale(truth, 4), truth


def repeat(maps: np.ndarray, size: int) -> np.ndarray:
    """Enlarge maps (S, h, w) by repeating each pixel."""
    factor = size // maps.shape[-1]
    return maps.repeat(factor, axis=-2).repeat(factor, axis=-1)


def exercise_4(best_dice: Answer) -> None:
    """Enlarge once, then cut at one threshold after the other, and keep the largest Dice with its threshold."""
    occupancy, truth = ball()
    thresholds = np.arange(0.1, 0.91, 0.1)
    for enlarge, name in ((metrics.enlarge, "linear"), (repeat, "repeated")):
        found = attempt(best_dice, occupancy, truth, enlarge, thresholds)
        expect(np.shape(found) == (2,), "two numbers are wanted: the best Dice and the threshold it is reached at")
        large = enlarge(occupancy, truth.shape[-1])
        dice = [2 * np.sum((large >= t) & truth) / (np.sum(large >= t) + truth.sum()) for t in thresholds]
        first, second = found
        swapped = np.isclose(second, max(dice), atol=1e-4) and not np.isclose(first, max(dice), atol=1e-4)
        expect(not swapped, "the Dice comes first, then the threshold")
        expect(first <= 1, f"a Dice of {first:.2f}: it is twice the overlap over the sum of both sizes")
        iou = max(d / (2 - d) for d in dice)
        expect(not np.isclose(first, iou, atol=1e-4), "that is the IoU: in a Dice, the overlap counts twice")
        expect(
            np.isclose(first, max(dice), atol=1e-4), f"{name}: a Dice of {first:.3f}, and {max(dice):.3f} can be had"
        )
        best = thresholds[int(np.argmax(dice))]
        expect(np.isclose(second, best), f"{name}: the best Dice is reached at {best:.1f}, not at {second:.2f}")
