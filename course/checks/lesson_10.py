"""Checks of the exercises to notebook 10, Find the bug: faults that are planted, and checks that must find them."""

from functools import cache
from pathlib import Path

import numpy as np
import torch

from course.checks import Hint, attempt, differences, expect, load
from vaelib.losses import vae_loss as reference
from vaelib.vae import VAEOutput

ROOT = Path(__file__).resolve().parents[2]
LINE, SCORED = "    images = shrink(scan)\n", "    probability = predict(model, test.images)\n"
SUMS = "    groups = [patient == name for name in np.unique(patient)]\n"
FULL = "    there = truth.any((1, 2))\n    predicted, truth, patient = predicted[there], truth[there], patient[there]\n"


@cache
def sound() -> str:
    """The script that is right."""
    return (ROOT / "notebooks" / "solutions" / "10_segment.py").read_text(encoding="utf-8")


def planted(line: str, more: str, before: bool = False):
    """The sound script with lines planted after one of its lines, or before it, as a module."""
    return load(sound().replace(line, more + line if before else line + more), "planted")


def verdict(check, script) -> bool:
    """What a learner's check says of a script; how it must say it is asked for too."""
    torch.manual_seed(0)
    answer = attempt(check, script)
    good = isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str)
    expect(good, "a check returns two things: whether the script is sound, and the evidence in words")
    return bool(answer[0])


def exercise_1(divide_by_maximum):
    """Find the line of `prepare` that makes the images, and let `str.replace` put one more line after it."""
    found = attempt(divide_by_maximum, sound())
    expect(isinstance(found, str), f"the text of a script is asked for, and it returns {type(found).__name__}")
    expect(found != sound(), "the text came back as it was: does what you replace stand in it, letter by letter?")
    try:
        script = load(found, "planted")
    except Exception as error:
        raise Hint(f"the script no longer runs: {type(error).__name__}: {error}") from error
    rng = np.random.default_rng(0)
    scan = rng.random((3, 256, 256)).astype(np.float32) * np.array([0.2, 0.5, 0.9], np.float32)[:, None, None]
    images, masks = attempt(script.prepare, scan, (scan > 0.4).astype(np.float32))
    wanted, truth = load(sound(), "sound").prepare(scan, (scan > 0.4).astype(np.float32))
    expect(not np.allclose(images, wanted), "the script has changed, and its images have not")
    expect(not np.allclose(images, wanted / wanted.max()), "it divides by the maximum of the scan, not of each slice")
    expect(not np.allclose(images, scan_first(scan), atol=1e-3),
           "it divides before the slices are shrunk; let `shrink` average first, then divide")  # fmt: skip
    expect(np.allclose(images, wanted / wanted.max((1, 2), keepdims=True)), "not every slice has a maximum of 1 now")
    expect(np.array_equal(masks, truth), "the masks have changed with the images")
    expect(len(differences(sound(), found)) == 1, "it changes more than one place of the script")


def scan_first(scan: np.ndarray) -> np.ndarray:
    """Slices divided by their maximum at full size, and shrunk then."""
    return load(sound(), "sound").shrink(scan / scan.max((1, 2), keepdims=True))


def exercise_2(same_tissue_same_grey):
    """Let `prepare` see two slices with the same grey in one place, and something brighter in one of them only."""
    expect(verdict(same_tissue_same_grey, load(sound(), "sound")), "it finds fault with the script that is sound")
    at_fault = planted(LINE, "    images = images / images.max((1, 2), keepdims=True)\n")
    expect(not verdict(same_tissue_same_grey, at_fault),
           "the planted fault goes unseen: are the maxima of your two slices different?")  # fmt: skip
    by_mean = planted(LINE, "    images = images / images.mean((1, 2), keepdims=True)\n")
    expect(not verdict(same_tissue_same_grey, by_mean),
           "it finds slices divided by their maximum, but not by their mean; compare one tissue in both")  # fmt: skip


def exercise_3(vae_loss):
    """`losses.vae_loss` takes a `vae.VAEOutput` and returns numbers by name, of which `total` is the loss."""
    torch.manual_seed(0)
    recon, x, (mu, logvar) = torch.rand(16, 1, 64, 64), torch.rand(16, 1, 64, 64), torch.randn(2, 16, 32)
    found = attempt(vae_loss, recon, x, mu, logvar, 0.5)
    expect(not isinstance(found, tuple), "it returns all parts of the loss; the checks want one number, the total")
    free = attempt(vae_loss, recon, x, mu, logvar, 0.0)
    wanted = [reference(VAEOutput(recon, mu, logvar, mu), x, beta).total for beta in (0.5, 0.0)]
    swapped = reference(VAEOutput(recon, logvar, mu, mu), x, 0.5).total
    expect(not torch.isclose(torch.as_tensor(found), swapped), "mu and logvar have changed places")
    expect(not torch.isclose(torch.as_tensor(found), reference(VAEOutput(recon, mu, logvar, mu), x, 1.0).total),
           "beta is not handed on: at 0.5 the loss is that of 1")  # fmt: skip
    expect(torch.isclose(torch.as_tensor(free), wanted[1]), "at beta 0 it is not the error of the reconstruction")
    expect(torch.isclose(torch.as_tensor(found), wanted[0]), "its KL term is not that of `losses.vae_loss`")


def exercise_4(inventions_count):
    """Let the parrot find as much in slices with pancreas as in slices without, and ask `evaluate`."""
    expect(verdict(inventions_count, load(sound(), "sound")), "it finds fault with the script that is sound")
    line = "    test = test.subset(np.flatnonzero(test.masks.any((1, 2))))\n"
    expect(not verdict(inventions_count, planted(SCORED, line, before=True)),
           "`evaluate` leaves out slices without pancreas, unnoticed: is anything found there?")  # fmt: skip
    expect(not verdict(inventions_count, planted(SUMS, FULL, before=True)),
           "it notices where `evaluate` leaves slices out, and not where `mean_dice` does")  # fmt: skip
