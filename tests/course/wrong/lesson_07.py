"""Typical wrong answers to the exercises of notebook 07, and words of the hint that each must get."""

import numpy as np
import torch

from vaelib import training
from vaelib.engine import memory
from vaelib.spatial import BETA, ResidualVAE


def _one_too_many(vae, side, room):
    batch, step = 1, training.vae_step(BETA)
    while memory.step_bytes(vae, step, [torch.empty(batch, 1, side, side, device="meta")]) <= room:
        batch *= 2
    return batch


def _uncut(kernel, stride, size, padding):
    counts = np.zeros((size - 1) * stride + kernel, int)
    for k in range(size):
        counts[k * stride : k * stride + kernel] += 1
    return counts


def _evenly(kernel, stride, size, padding):
    return np.full((size - 1) * stride + kernel - 2 * padding, kernel // stride)


WRONG = {
    "07.1": [((_one_too_many,), "need more than the room"), ((lambda vae, side, room: 1,), "would as well")],
    "07.2": [((_uncut,), "padding cuts off"), ((_evenly,), "the counts are")],
    "07.3": [
        ((lambda side, reduction: BETA * side / 64,), "four times the pixels"),
        ((lambda side, reduction: BETA * (side / 64) ** 2,), "the latent dies"),
    ],
    "07.4": [
        ((lambda side, numbers, grid: ResidualVAE(side, 2, numbers, grid),), "numbers on"),
        ((lambda side, numbers, grid: ResidualVAE(side, 2, numbers, 1),), "latent with a grid"),
    ],
}
