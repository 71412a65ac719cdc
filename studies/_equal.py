"""Networks for `studies.volumes` that differ from their rival in one thing less: neighbours, passes, or augmentation.

=================  ===============================================================================================
`three_slices`     a plain mask decoder that reads the vectors of a slice and of both neighbours, from the same VAE,
                   over the same moved copies and in as many passes as the 2D one
`cubes_as_slices`  the 3D networks with the passes, the moved copies and the in-plane augmentation of the 2D ones
`slices_as_cubes`  the 2D networks with the passes of the 3D ones, augmented anew in each
=================  ===============================================================================================
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vaelib import recipes
from vaelib.cohort import Slices
from vaelib.engine.rows import mean
from vaelib.latent import decode, encode
from vaelib.sequence import cubes
from vaelib.spatial import neighbours
from vaelib.training import augment, fit, mask_step, moved_latents, vae_step
from vaelib.vae import VAE, MaskDecoder

REACH = 1
EACH = 2 * REACH + 1


def three_slices(vae: VAE, train: Slices, *, copies: int, mask_epochs: int, seed: int) -> MaskDecoder:
    """Train a mask decoder on the latents of three slices, joined; the three are moved alike."""
    torch.manual_seed(seed)
    shape = vae.config | {"latent": EACH * vae.config["latent"]}
    mask = MaskDecoder(**shape, prevalence=mean(train.masks))
    around = train.images[recipes.rows_near(train, REACH)][:, :, 0]  # (N, 3, H, W)

    def code(x: Tensor) -> np.ndarray:
        return encode(vae, x.flatten(0, 1)[:, None])[0].reshape(len(x), -1)

    how = {"copies": copies, "mask_epochs": mask_epochs, "seed": seed}
    recipes.train_on_codes(mask, code, train._replace(images=around), **how)
    return mask


def predict_three(vae: VAE, mask: MaskDecoder, slices: Slices) -> np.ndarray:
    """Predict probabilities (N, 1, H, W) by a decoder of `three_slices`."""
    z = torch.from_numpy(encode(vae, slices.images)[0])
    return decode(mask, neighbours(z, slices.patient, REACH))


def in_plane(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Move cubes (N, 1, D, H, W) as `augment` moves slices, all levels of a cube alike and none along z."""
    return tuple(moved[:, None] for moved in augment(*(one[:, 0] for one in tensors)))


def cubes_as_slices(train: Slices, *, channels: int, latent: int, seed: int, recipe: dict) -> dict[str, nn.Module]:
    """Train the networks of cubes by a recipe of slices: its passes, its copies, and moves within the plane alone."""
    torch.manual_seed(seed)
    x, m = cubes(train)
    size: dict[str, Any] = {"size": x.shape[-1], "channels": channels, "latent": latent, "dims": 3}
    vae = VAE(**size, start=float(x.mean()))
    how: dict[str, Any] = {"batch_size": 4, "seed": seed}
    fit(vae, vae_step(recipe["beta"]), [x], epochs=recipe["epochs"], augmentation=in_plane, **how)
    torch.manual_seed(seed)
    mask = MaskDecoder(**size, prevalence=float(m.mean()))
    pairs = [(x, m)] + [in_plane(x, m) for _ in range(recipe["copies"] - 1)]
    z = np.concatenate([encode(vae, moved, 4)[0] for moved, _ in pairs])
    fit(mask, mask_step, [z, torch.cat([m for _, m in pairs])], epochs=recipe["mask_epochs"], **how)
    return {"vae": vae, "mask": mask}


def slices_as_cubes(train: Slices, *, latent: int, seed: int, recipe: dict) -> dict[str, nn.Module]:
    """Train the networks of slices by a recipe of cubes: its passes, over slices that are moved anew in each."""
    torch.manual_seed(seed)
    x, m = train.images, train.masks
    vae = VAE(train.size, latent=latent, start=mean(x))
    fit(vae, vae_step(recipe["beta"]), [x], epochs=recipe["epochs"], seed=seed, augmentation=augment)
    mask = MaskDecoder(**vae.config, prevalence=mean(m))
    moved = partial(moved_latents, vae)
    fit(mask, mask_step, [x, m], epochs=recipe["mask_epochs"], seed=seed, augmentation=moved)
    return {"vae": vae, "mask": mask}
