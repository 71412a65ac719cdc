"""A small board of each kind, for the tests of sliders: noise as a scan, untrained decoders, a ball."""

import gzip
from base64 import b64decode

import numpy as np
import torch

from vaelib import latent, pictures
from vaelib.vae import Decoder, MaskDecoder

RNG = np.random.default_rng(0)
SCAN = RNG.integers(-200, 300, (5, 24, 32)).astype(np.int16)
MASK = np.zeros(SCAN.shape, np.uint8)
MASK[1:4, 8:14, 9:20] = 1
SOFT = (0.9 * np.roll(MASK, 3, axis=2) + 0.1 * RNG.random(SCAN.shape)).astype(np.float32)
SPACING = (2.5, 0.8, 0.8)
LATENT = 6
Z = RNG.normal(size=(9, LATENT)).astype(np.float32) * np.float32((1, 3, 2, 0.5, 1, 0.1))
torch.manual_seed(0)
MODEL = Decoder(32, 4, LATENT), MaskDecoder(32, 4, LATENT, prevalence=0.4)
TRUTH = latent.decode(MODEL[1], Z)[:, 0] >= 0.4


def browser():
    return pictures.slice_browser(SCAN, MASK, SPACING, SOFT)


def explorer(**options):
    return pictures.latent_explorer(MODEL, Z, **{"truth": TRUTH, "components": 3} | options)


def threshold():
    return pictures.threshold_explorer(SCAN, SOFT, MASK)


def turntable():
    z, y, x = np.indices((12, 20, 20)) - np.array([6, 10, 10])[:, None, None, None]
    ball = np.hypot(np.hypot(z * 2, y), x) < 6
    return pictures.turntable({"truth": pictures.mesh(ball, 0.5, (2, 1, 1)), "2D": pictures.mesh(ball, 0.5, (2, 1, 1))})


def unpacked(text):
    """The array in what `network.packed` made."""
    kind = np.dtype(f"<{text['type']}")
    planes = np.frombuffer(gzip.decompress(b64decode(text["data"])), "u1").reshape(kind.itemsize, -1)
    return planes.T.copy().view(kind)[:, 0]
