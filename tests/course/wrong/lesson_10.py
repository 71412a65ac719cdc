"""Typical wrong answers to the exercises of notebook 10, and words that their hints contain."""

from unittest.mock import Mock

import numpy as np

from vaelib import losses, vae

LINE = "    images = shrink(scan)\n"


def greys(scan):
    """A check by two slices: is their last pixel of one grey?"""

    def check(script):
        grey = script.prepare(scan, np.zeros_like(scan))[0][:, -1, -1]
        return abs(grey[0] - grey[1]) < 1e-3, f"{grey}"

    return check


def maximum_is_one(script):
    images = script.prepare(np.full((2, 256, 256), 0.4, np.float32), np.zeros((2, 256, 256), np.float32))[0]
    return images.max() < 1, f"the maximum is {images.max():.2f}"


def loss(recon, x, mu, logvar, beta):
    return losses.vae_loss(vae.VAEOutput(recon, mu, logvar, mu), x, beta)


def scored_directly(script):
    truth = np.zeros((4, 8, 8), bool)
    truth[:2, :4] = True
    dice = script.mean_dice(np.repeat(truth[:1], 4, 0), truth, np.array(list("aaaa")))
    return dice < 0.9, f"Dice {dice:.2f}"


def nothing_invented(script):
    images = np.zeros((4, 64, 64), np.float32)
    images[:2, :32] = 0.9
    data = script.SliceDataset(images, (images > 0.5).astype(np.float32), np.array(list("aaaa")))
    dice = script.evaluate(Mock(side_effect=lambda x: (x, x, None, None)), data, data)["dice"]
    return dice > 0.9, f"Dice {dice:.2f}"


WRONG = {
    "10.1": [
        ((lambda text: text.replace("images = shrink(image)", "images = 1"),), "came back as it was"),
        ((lambda text: text.replace(LINE, LINE + "    images = images / images.max()\n"),), "not of each slice"),
        ((lambda text: text.replace(LINE, LINE + "images = images / 2\n"),), "no longer runs"),
        (
            (lambda text: text.replace(LINE, "    images = shrink(scan / scan.max((1, 2), keepdims=True))\n"),),
            "average first",
        ),
    ],
    "10.2": [
        ((greys(np.full((2, 256, 256), 0.4, np.float32)),), "planted fault goes unseen"),
        ((maximum_is_one,), "not by their mean"),
        ((lambda script: True,), "returns two things"),
        ((lambda script: (False, "always wrong"),), "finds fault with the script that is sound"),
    ],
    "10.3": [
        ((loss,), "one number, the total"),
        ((lambda recon, x, mu, logvar, beta: loss(recon, x, mu, logvar, 1.0).total,), "beta is not handed on"),
        ((lambda recon, x, mu, logvar, beta: loss(recon, x, logvar, mu, beta).total,), "changed places"),
    ],
    "10.4": [
        ((scored_directly,), "unnoticed"),
        ((nothing_invented,), "unnoticed"),
        ((lambda script: (True, "always right"),), "unnoticed"),
    ],
}
