"""Checks of the exercises to notebook 07."""

import numpy as np
import torch
from torch.nn import functional as F

from course.checks import Answer, attempt, expect, number
from vaelib import training
from vaelib.engine import memory
from vaelib.spatial import BETA, ResidualVAE


def exercise_1(largest_batch: Answer) -> None:
    """`memory.step_bytes(vae, step, [images])` counts the bytes of a step; images on the device "meta" hold no numbers.

    Begin with a batch of 1, and double it as long as twice as many still fit into the room.
    """
    vae, step, side = ResidualVAE(64, channels=8), training.vae_step(1e-3), 64
    need = {n: memory.step_bytes(vae, step, [torch.empty(n, 1, side, side, device="meta")]) for n in (1, 2, 4, 8, 16)}
    for n in (2, 8):
        room = (need[n] + need[2 * n]) // 2  # between a batch that fits and one that does not
        found = number(largest_batch, vae, side, room)
        expect(found > 0 and 2 ** (int(found).bit_length() - 1) == found, f"{found} is not a power of two")
        expect(found <= n, f"{found} images need more than the room in a small test; {n} is the most that fits")
        expect(found == n, f"{found} images fit in a small test, but {n} would as well")


def exercise_2(painted: Answer) -> None:
    """Each of `size` inputs paints `kernel` neighbouring pixels, and begins `stride` pixels after the one before it.

    The first begins `padding` pixels left of the picture, which cuts off what lies outside of it.
    """
    for kernel, stride, size, padding in ((3, 2, 6, 1), (4, 2, 6, 1), (2, 2, 3, 0), (5, 3, 4, 1)):
        counts = np.asarray(attempt(painted, kernel, stride, size, padding))
        ones = torch.ones(1, 1, kernel)
        wanted = F.conv_transpose1d(torch.ones(1, 1, size), ones, stride=stride, padding=padding)[0, 0].int().numpy()
        case = f"kernel {kernel}, stride {stride}, {size} inputs and padding {padding}"
        expect(counts.ndim == 1, f"one count for each pixel of a row is wanted, and this has the shape {counts.shape}")
        longer = len(counts) == len(wanted) + 2 * padding and padding
        expect(not longer, f"{2 * padding} pixels too many: the padding cuts off as many at each end")
        expect(len(counts) == len(wanted), f"{case} give {len(wanted)} pixels, and not {len(counts)}")
        expect(np.array_equal(counts, wanted), f"with {case} the counts are {wanted}, and you say {counts}")


def exercise_3(beta_for: Answer) -> None:
    """What matters is the ratio of the two terms, for each pixel. Twice the pixels, twice the sum; the KL stays.

    A mean over the pixels is the sum divided by their number; divide `beta` by the same.
    """
    for side in (512, 128, 64):
        pixels = side**2
        summed, averaged = (number(beta_for, side, reduction) for reduction in ("sum", "mean"))
        wanted = BETA * pixels / 64**2
        by_side = side != 64 and np.isclose(summed, BETA * side / 64)
        expect(not by_side, "twice the side are four times the pixels")
        expect(np.isclose(summed, wanted), f"for a sum at {side} it is {wanted:.3g}, and you say {summed:.3g}")
        unchanged = np.isclose(averaged, summed)
        expect(not unchanged, "the averaged loss has the same beta as the summed one: so the latent dies")
        expect(np.isclose(averaged, wanted / pixels), f"for a mean at {side} it is {wanted / pixels:.3g}, "
                                                      f"and you say {averaged:.3g}")  # fmt: skip


def exercise_4(on_grid: Answer) -> None:
    """`ResidualVAE(side, channels=2, latent=..., grid=...)`: `latent` counts the numbers at *each place* of the grid.

    A grid of 8 x 8 has 64 places.
    """
    for side, numbers, grid in ((64, 256, 8), (64, 256, 16), (128, 64, 4)):
        vae = attempt(on_grid, side, numbers, grid)
        expect(isinstance(vae, ResidualVAE), f"a ResidualVAE is wanted, and this is {type(vae).__name__}")
        with torch.no_grad():
            mu = vae.encoder(torch.zeros(1, 1, side, side))[0]
        expect(mu.ndim == 4, f"a latent with a grid is wanted, and this one has the shape {tuple(mu.shape[1:])}")
        expect(mu.shape[-1] == grid, f"the grid should be {grid} x {grid}, and is {mu.shape[-1]} x {mu.shape[-1]}")
        expect(
            mu.numel() == numbers, f"{numbers} numbers on {grid} x {grid} places are wanted, and these are {mu.numel()}"
        )
        expect(
            vae.config["channels"] == 2,
            f"2 channels in the first layer are wanted, and these are {vae.config['channels']}",
        )
