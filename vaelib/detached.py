"""The method of the series on slices: train a VAE, then a mask decoder on its detached latents; predict.

`vaelib.recipes` joins these with files and folders; `vaelib.two_stage` uses them twice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vaelib.cohort import Slices
from vaelib.cohorts.typical import pooled
from vaelib.engine.rows import Rows, mean
from vaelib.latent import decode, encode
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE, neighbours
from vaelib.training import augment, copies_of, fit, mask_step, moved_latents, vae_step
from vaelib.vae import VAE, MaskDecoder

SPATIAL = {"channels": 24, "blocks": 4, "reach": 1}  # of the mask decoder of a latent that keeps its places
RECIPE = {"latent": 64, "beta": 0.01, "epochs": 25, "copies": 8, "mask_epochs": 4}  # a minute or two on two cores


def recipe(*names: str, of: dict = RECIPE) -> dict:
    """Return the named parts of a recipe, as keyword arguments: ``train_mask(vae, train, val, **recipe("copies"))``."""
    return {name: of[name] for name in names}


def train_vae(
    train: Slices, val: Slices, *, latent: int = 64, grid: int = 1, beta: float = 0.01, epochs: int = 25, seed: int = 0,
    **how: Any,
) -> tuple[VAE, list[dict]]:  # fmt: skip
    """Train a VAE on slices, and return it with its history.

    With a `grid`, such as 16, it is the residual VAE whose latent keeps `latent` numbers at each of its places.
    `how` goes to `fit`: batch_size, precision, state and the like.
    """
    torch.manual_seed(seed)
    make: Any = VAE if grid == 1 else partial(ResidualVAE, grid=grid)
    vae = make(size=train.size, latent=latent, start=mean(train.images))
    how |= dict(val=[val.images], epochs=epochs, seed=seed, augmentation=augment, label="VAE")
    return vae, fit(vae, vae_step(beta), [train.images], **how)


def train_mask(
    vae: VAE, train: Slices, val: Slices, *, copies: int = 8, mask_epochs: int = 4, seed: int = 0, **how: Any
) -> tuple[nn.Module, list[dict]]:
    """Train a mask decoder on the detached latents of a VAE that stays as it is, and return it with its history.

    Of a latent that keeps its places, it reads those of the slices below and above too.
    `how` goes to `fit`, as in `train_vae`; `copies` and `mask_epochs` are explained in `train_on_codes`.
    """
    torch.manual_seed(seed)
    if isinstance(vae, ResidualVAE):
        how |= dict(epochs=copies * mask_epochs, augmentation=partial(moved_latents, vae), label="mask decoder")
        as_vae = recipe("size", "latent", "grid", of=vae.config) | SPATIAL
        wide, z = ResidualMaskDecoder(**as_vae, prevalence=mean(train.masks)), encode(vae, val.images)[0]
        how |= dict(val=[neighbours(torch.as_tensor(z), val.patient, wide.config["reach"]), val.masks], seed=seed)
        return wide, fit(wide, mask_step, [with_neighbours(wide, train), train.masks], **how)
    mask = MaskDecoder(**vae.config, prevalence=mean(train.masks))
    how |= dict(val=[encode(vae, val.images)[0], val.masks], copies=copies, mask_epochs=mask_epochs, seed=seed)
    return mask, train_on_codes(mask, lambda x: encode(vae, x)[0], train, **how)


def train_on_codes(
    mask: nn.Module, code: Callable[[Tensor], np.ndarray], train: Slices, *, copies: int, mask_epochs: int, seed: int,
    **how: Any,
) -> list[dict]:  # fmt: skip
    """Train a mask decoder in place on any code of the slices that never changes, and return its history.

    The slices are coded once as they are and ``copies - 1`` times augmented, so that the decoder then learns from
    pairs of code and mask alone, `mask_epochs` times. Slices that are not in memory are too many for that: they are
    augmented and coded anew in each of as many passes.

    Parameters
    ----------
    mask : nn.Module
        From codes (N, latent) to logits (N, 1, H, W).
    code : callable
        From images (N, 1, H, W) to codes (N, latent) float32.
    """

    def moved(x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        x, m = augment(x, m)
        return torch.as_tensor(code(x)).to(x.device), m

    run: Callable[..., list[dict]] = partial(fit, mask, mask_step, seed=seed, label="mask decoder", **how)
    if not train.in_memory:
        return run([train.images, train.masks], epochs=copies * mask_epochs, augmentation=moved)
    pairs = copies_of(train.images, train.masks, copies, seed)
    return run([np.concatenate([code(x) for x, _ in pairs]), torch.cat([m for _, m in pairs])], epochs=mask_epochs)


def rows_near(s: Slices, reach: int) -> np.ndarray:
    """Find the rows of each slice and of `reach` neighbours on each side, from the lowest up: (N, 2 * reach + 1)."""
    return neighbours(torch.arange(len(s.patient))[:, None], s.patient, reach).numpy()


def with_neighbours(net: Any, s: Slices) -> np.ndarray | Rows:
    """Put each slice between the neighbours that a network reads: (N, K, H, W)."""
    near = rows_near(s, net.config.get("reach", net.config.get("inputs", 1) // 2))
    return s.computed(lambda rows: s.images[near[rows].ravel()].reshape(-1, near.shape[1], s.size, s.size))


def predicted(vae: VAE, mask: nn.Module, s: Slices) -> np.ndarray | Rows:
    """Predict the pancreas: probabilities (N, 1, H, W), as they are asked for where the slices are not in memory."""
    near = rows_near(s, getattr(mask, "config", {}).get("reach", 0))

    def compute(rows: Any) -> np.ndarray:
        wanted, at = np.unique(near[rows], return_inverse=True)  # each slice is encoded once
        z = encode(vae, s.images[wanted])[0][at.reshape(-1, near.shape[1])]
        return decode(mask, z.reshape(len(z), -1, *z.shape[3:]))

    return s.computed(compute)


def told(vae: VAE, s: Slices) -> np.ndarray:
    """Tell slices by their latents: (N, D); see `vaelib.cohorts.typical`."""
    return pooled(encode(vae, s.images)[0])
