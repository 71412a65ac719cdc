"""Typical wrong answers to the exercises of notebook 02, and words of the hint that each must get."""

import numpy as np


def sweep(occupancy, truth, enlarge, thresholds, twice=2, swap=False, first=False):
    """The best Dice, or an IoU, or the first threshold, or the two the wrong way round."""
    large = enlarge(occupancy, truth.shape[-1])
    both = [np.sum((large >= t) & truth) for t in thresholds]
    either = [np.sum((large >= t) | truth) if twice == 1 else np.sum(large >= t) + truth.sum() for t in thresholds]
    dice = [twice * b / e for b, e in zip(both, either, strict=True)]
    best = 0 if first else int(np.argmax(dice))
    return (thresholds[best], dice[best]) if swap else (dice[best], thresholds[best])


WRONG = {
    "02.1": [
        ((lambda image: image[::2, ::2],), "go unseen"),
        ((lambda image: (image[::2, ::2] + image[1::2, 1::2]) / 2,), "it has four"),
        ((lambda image: image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2],), "the sum"),
        ((lambda image: (image[::2] + image[1::2]) / 2,), "half of each side"),
        ((lambda image: image.reshape(4, 8, 4).mean(axis=2),), "not those of the blocks"),
    ],
    "02.2": [
        ((lambda hu, mask, low, high: hu[mask].std(),), "divide by the width"),
        ((lambda hu, mask, low, high: ((hu[mask] - low) / (high - low)).std(),), "clipped"),
        ((lambda hu, mask, low, high: np.clip((hu - low) / (high - low), 0, 1).std(),), "use the mask"),
    ],
    "02.3": [
        ((lambda o, t: (~(o >= t).any((1, 2))).sum(),), "nothing to lose"),
        ((lambda o, t: ((o > 0).any((1, 2)) & ~(o > t).any((1, 2))).sum(),), ">=, not >"),
        ((lambda o, t: (o >= t).any((1, 2)).sum(),), "the others are asked for"),
        ((lambda o, t: ((o > 0) & (o < t)).any((1, 2)),), "one number"),
    ],
    "02.4": [
        ((lambda o, truth, enlarge, thresholds: sweep(o, truth, enlarge, thresholds, twice=1),), "the IoU"),
        ((lambda o, truth, enlarge, thresholds: sweep(o, truth, enlarge, thresholds, swap=True),), "comes first"),
        ((lambda o, truth, enlarge, thresholds: sweep(o, truth, enlarge, thresholds, first=True),), "can be had"),
        ((lambda o, truth, enlarge, thresholds: sweep(o, truth, enlarge, thresholds)[0],), "two numbers"),
    ],
}
