"""Checks of the exercises to notebook 08, Volumes."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, label

from course.checks import Answer, attempt, expect
from vaelib.metrics import THRESHOLDS
from vaelib.sequence import SequenceDecoder

SIGMAS = (0.5, 1, 2, 4)


def listener() -> SequenceDecoder:
    """Make a small decoder with random weights everywhere, so that each slice hears all others."""
    torch.manual_seed(0)
    net = SequenceDecoder(32, channels=2, latent=4, hidden=3)
    torch.nn.init.normal_(net.join.weight)
    return net


def exercise_1(voxel: Answer) -> None:
    """In the plane 512 pixels become `size`. Along z the first and the last slice keep their places."""
    spacing, slices, size = (0.7, 0.8, 3.0), 41, 32
    found = np.asarray(attempt(voxel, spacing, slices, size), float)
    expect(found.shape == (3,), f"three lengths are asked for, and it returns the shape {found.shape}")
    along, down, across = found
    expect(not np.isclose(across, 3.0), "the order is z, y, x here, as the axes of an array are")
    expect(np.allclose((down, across), (12.8, 11.2)),
           f"in the plane it has {down:.1f} x {across:.1f} mm; a pixel at 32 is 16 pixels of 512")  # fmt: skip
    expect(not np.isclose(along, 3 * 41 / 32), "41 slices have 40 gaps between them, and 32 have 31; count the gaps")
    expect(np.isclose(along, 3 * 40 / 31), f"along z it has {along:.2f} mm between two slices of the cube")
    expect(np.allclose(attempt(voxel, (1, 1, 2), 64, 64), (2, 8, 8)), "at another size than 32 it is wrong")


def rod() -> tuple[np.ndarray, np.ndarray]:
    """Make a mask (6, 16, 16) and its largest piece: a rod of blocks that meet at corners, beside a plate."""
    piece = np.zeros((6, 16, 16), bool)
    for k in range(6):
        piece[k, 2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = True
    mask = piece.copy()
    mask[3, 0:3, 10:16] = True
    return mask, piece


def exercise_2(largest: Answer) -> None:
    """`scipy.ndimage.label` numbers the pieces of a mask from 1; `np.bincount` counts the voxels of each number."""
    mask, piece = rod()
    given = mask.copy()
    found = np.asarray(attempt(largest, given), bool)
    expect(found.shape == mask.shape, f"it should return a mask like the one it got, {mask.shape}")
    expect(not (found & ~mask).any(), "there is more in it than in the mask: number 0 is the background, not a piece")
    expect(found.any(), "nothing is left of a mask of two pieces")
    plate = mask & ~piece
    expect((found != plate).any(),
           "a piece was cut where voxels meet at a corner: give `label` the structure np.ones((3, 3, 3))")  # fmt: skip
    by_slice = np.stack([label(m)[0] == np.bincount(label(m)[0].ravel())[1:].argmax() + 1 for m in mask])
    expect((found != by_slice).any(), "it keeps the largest piece of each slice; label the volume as a whole")
    expect((found == piece).all(), "it is not the piece with the most voxels")
    empty = np.asarray(attempt(largest, np.zeros_like(mask)), bool)
    expect(empty.shape == mask.shape and not empty.any(), "an empty mask should stay empty")


@torch.no_grad()
def exercise_3(reach: Answer) -> None:
    """Change one latent in a clone, ask `net.context` before and after, and take the norm of what differs."""
    net, z = listener(), torch.randn(12, 4)
    given, changed = z.clone(), z.clone()
    changed[3] = z[0]
    moved = (net.context(changed) - net.context(z)).norm(dim=1).numpy()
    found = attempt(reach, net, given, 3, 6)
    expect(torch.equal(given, z), "the latents that it was given are changed now; work on z.clone()")
    found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found, float)
    expect(found.shape == (6,), f"six slices were asked for, and it returns the shape {found.shape}")
    expect(
        not np.allclose(found, moved[3:9] / moved[3]), "the first should be the slice after the exchanged one, k + 1"
    )
    expect(not np.allclose(found, moved[4:10]), "divide by the change at the first slice, so that they begin with 1")
    expect(np.isclose(found[0], 1), f"it begins with {found[0]:.2f}; the nearest neighbour is the unit, 1")
    expect(np.allclose(found, moved[4:10] / moved[4], atol=1e-4),
           "the fall is another: is it the norm of the change of `net.context`, slice by slice?")  # fmt: skip


def noisy_tubes(drift: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six patients of ten slices, organs left and right by turns, never sure: probability, truth, patient."""
    rng, truth = np.random.default_rng(0), np.zeros((60, 1, 16, 12), bool)
    for n in range(60):
        top, left = round(2 + drift * (n % 10)), (1, 7)[n // 10 % 2]
        truth[n, 0, top : top + 5, left : left + 4] = True
    probability = np.clip(0.25 * truth + 0.1 + rng.normal(0, noise, truth.shape), 0, 1)
    return probability, truth, np.repeat(list("abcdef"), 10)


def scores(
    probability: np.ndarray,
    truth: np.ndarray,
    patient: np.ndarray,
    thresholds: np.ndarray = THRESHOLDS,
    apart: bool = True,
) -> dict[float, float]:
    """Find the best mean Dice over patients for each sigma; with `apart`, smoothing ends where a patient does."""
    out = {}
    for sigma in SIGMAS:
        groups = [patient == name for name in np.unique(patient)]
        soft = np.empty_like(probability)
        for rows in groups if apart else [slice(None)]:
            soft[rows] = gaussian_filter1d(probability[rows], sigma, axis=0, mode="constant")
        dices = [[2 * ((soft[g] >= t) & truth[g]).sum() / ((soft[g] >= t).sum() + truth[g].sum()) for g in groups]
                 for t in thresholds]  # fmt: skip
        out[sigma] = max(np.mean(dices, 1))
    return out


def exercise_4(best_sigma: Answer) -> None:
    """For each sigma: smooth with `sequence.smooth`, take `metrics.best_threshold`, then average `metrics.sweep`."""
    for given in (noisy_tubes(0.5, 0.16), noisy_tubes(0, 0.12)):  # organs that move from slice to slice, and straight
        found = attempt(best_sigma, *given, SIGMAS)
        expect(np.ndim(found) == 0 and float(found) in SIGMAS, f"it returns {found}; one of the sigmas is asked for")
        right, fixed, joined = (max(by, key=by.__getitem__) for by in (
            scores(*given), scores(*given, thresholds=[0.5]), scores(*given, apart=False)
        ))  # fmt: skip
        expect(found != fixed, f"it takes {found}: is the threshold chosen anew for each sigma, or left at 0.5?")
        expect(found == right or found != joined, f"it takes {found}: does it smooth from one patient into the next?")
        expect(found == right, f"it takes {found}, and another sigma has a higher mean Dice at its best threshold")
