"""The contestants: networks that turn slices into a pancreas, each trained on the same patients for as many passes.

=========================  ======================================================================================
VAE, detached              the method of this series: a latent vector, and a mask decoder that leaves it alone
supervised bottleneck      the same layers joined: nothing detached, no unsupervised objective
U-Net                      MONAI's, of as many parameters
U-Net, skips cut           the same, its skip connections carrying zeros
U-Net, three slices        the same, given the slices below and above as well
U-Net, jittered            the same as the U-Net, its grey values changed at random while it learns
spatial VAE, detached      a residual VAE whose latent keeps its place, and a decoder of three slices' latents;
                           it reads jittered slices and reconstructs those that they were made of
=========================  ======================================================================================

References
----------
Ronneberger, Fischer & Brox, *U-Net*, 2015, arXiv:1505.04597; Kerfoot et al., *Left-Ventricle Quantification Using
Residual U-Net*, 2018, doi 10.1007/978-3-030-12029-0_40, which MONAI's follows.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn

from vaelib import recipes
from vaelib.cohort import Slices
from vaelib.latent import decode, encode
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE, neighbours
from vaelib.training import Step, augment, fit, jitter, mask_step, vae_step
from vaelib.vae import Supervised


class Cut(nn.Module):
    """A skip connection that is there and carries nothing: zeros in place of what it would have handed across."""

    def __init__(self, submodule: nn.Module):
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + what `submodule` gives, H, W)."""
        return torch.cat([torch.zeros_like(x), self.submodule(x)], 1)


class UNet(nn.Module):
    """Slices to pancreas logits, trained with the labels from end to end.

    Parameters
    ----------
    channels : int
        Filters of the first layer; each of the four that follow doubles them. 20 make about a million parameters, as
        many as the VAE and its mask decoder at 64 x 64 have together.
    inputs : int
        Channels of the input: 1, or 3 for a slice between its neighbours.
    skips : bool
        False cuts the skip connections and leaves every layer as it is.
    prevalence : float
        Expected share of pancreas pixels; see `vaelib.vae.MaskDecoder`.
    """

    def __init__(self, channels: int = 20, inputs: int = 1, skips: bool = True, prevalence: float = 0.01):
        super().__init__()
        self.config = dict(channels=channels, inputs=inputs, skips=skips)
        self.net = MonaiUNet(2, inputs, 1, [channels * 2**i for i in range(5)], [2] * 4)
        if not skips:
            for level in [m for m in self.net.modules() if isinstance(m, nn.Sequential)]:
                for name, child in level.named_children():
                    if isinstance(child, SkipConnection):
                        setattr(level, name, Cut(child.submodule))
        last = [m for m in self.net.modules() if isinstance(m, nn.ConvTranspose2d)][-1]
        nn.init.constant_(last.bias, math.log(prevalence / (1 - prevalence)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) in [0, 1] to logits (N, 1, H, W); sides divisible by 16."""
        return self.net(x)


PASSES = recipes.RECIPE["epochs"] + recipes.RECIPE["copies"] * recipes.RECIPE["mask_epochs"]  # over the slices
SPATIAL = {
    "latent": 8, "grid": 16, "beta": 1e-3, "epochs": 14, "jitter": True,
    "reach": 1, "channels": 24, "blocks": 4, "passes": 24,
}  # fmt: skip


def detached(train: Slices, val: Slices, seed: int) -> dict[str, nn.Module]:
    """The method of this series, by its recipe."""
    vae, _ = recipes.train_vae(train, val, seed=seed, **recipes.recipe("latent", "beta", "epochs"))
    mask, _ = recipes.train_mask(vae, train, val, seed=seed, **recipes.recipe("copies", "mask_epochs"))
    return {"vae": vae, "mask": mask}


def from_labels(
    make: Callable[[int, float], nn.Module], lr: float, train: Slices, val: Slices, seed: int, augmentation=augment
):
    """Any network that reads slices (and their neighbours, if it has `inputs` for them) and is trained on masks.

    `make` is given the side of a slice and the prevalence of the pancreas.
    """
    torch.manual_seed(seed)
    net = make(train.images.shape[-1], float(train.masks.mean()))
    data = [_with_neighbours(net, train), torch.from_numpy(train.masks)]
    fit(net, mask_step, data, epochs=PASSES, lr=lr, seed=seed, augmentation=augmentation, label=type(net).__name__)
    return {"net": net}


def spatial(train: Slices, val: Slices, seed: int, recipe: dict = SPATIAL) -> dict[str, nn.Module]:
    """The residual VAE with a spatial latent, and the decoder that sees three slices of it, detached."""
    vae = spatial_vae(train, seed, recipe)
    return {"vae": vae, "mask": spatial_mask(vae, train, seed, recipe)}


def spatial_vae(train: Slices, seed: int, recipe: dict = SPATIAL, step: Step | None = None) -> ResidualVAE:
    """The VAE alone; no label is read."""
    torch.manual_seed(seed)
    images = torch.from_numpy(train.images)
    vae = ResidualVAE(
        images.shape[-1], latent=recipe["latent"], grid=recipe["grid"], start=float(images.mean())
    )  # fmt: skip
    fit(
        vae, step or vae_step(recipe["beta"]), [images, images], epochs=recipe["epochs"], seed=seed, label="VAE",
        augmentation=partial(_seen_and_meant, recipe["jitter"]),
    )  # fmt: skip
    return vae


def spatial_mask(vae: ResidualVAE, train: Slices, seed: int, recipe: dict = SPATIAL, step: Step = mask_step):
    """The mask decoder of a VAE that stays as it is."""
    torch.manual_seed(seed)
    images, masks = torch.from_numpy(train.images), torch.from_numpy(train.masks)
    mask = ResidualMaskDecoder(
        images.shape[-1], recipe["channels"], recipe["latent"], recipe["grid"], recipe["reach"], recipe["blocks"],
        prevalence=float(train.masks.mean()),
    )  # fmt: skip
    fit(
        mask, step, [neighbours(images, train.patient, recipe["reach"]), masks], seed=seed, epochs=recipe["passes"],
        augmentation=partial(_moved_latents, vae, recipe["jitter"]), label="mask decoder",
    )  # fmt: skip
    return mask


def _seen_and_meant(jittered: bool, x, _):
    (x,) = augment(x)
    return (jitter(x) if jittered else x), x


@torch.no_grad()
def _moved_latents(vae, jittered, x, masks):
    """Move each slice and its neighbours (N, K, H, W) as one, and encode them one by one."""
    x, masks = augment(x, masks)
    x = jitter(x) if jittered else x
    z = vae.encoder(x.flatten(0, 1)[:, None])[0]  # (N * K, latent, grid, grid)
    return z.reshape(len(x), -1, *z.shape[2:]), masks


def _moved_and_jittered(x, masks):
    x, masks = augment(x, masks)
    return jitter(x), masks


def _with_neighbours(net: nn.Module, s: Slices) -> torch.Tensor:
    return neighbours(torch.from_numpy(s.images), s.patient, net.config.get("inputs", 1) // 2)


def _bottleneck(size: int, prevalence: float) -> Supervised:
    return Supervised(size, latent=recipes.RECIPE["latent"], prevalence=prevalence)


def _unet(size: int, prevalence: float, **options) -> UNet:
    return UNet(prevalence=prevalence, **options)


ARMS: dict[str, Callable[[Slices, Slices, int], dict[str, nn.Module]]] = {
    recipes.DETACHED: detached,
    "supervised bottleneck": partial(from_labels, _bottleneck, 1e-3),
    "U-Net": partial(from_labels, _unet, 2e-3),
    "U-Net, skips cut": partial(from_labels, partial(_unet, skips=False), 2e-3),
    "U-Net, three slices": partial(from_labels, partial(_unet, inputs=3), 2e-3),
    "U-Net, jittered": partial(from_labels, _unet, 2e-3, augmentation=_moved_and_jittered),
    "spatial VAE, detached": spatial,
}


def predict(networks: dict[str, nn.Module], s: Slices) -> np.ndarray:
    """Probabilities (N, 1, H, W) of any contestant for the slices of whole patients."""
    if "net" in networks:
        return decode(networks["net"], _with_neighbours(networks["net"], s))
    z = torch.from_numpy(encode(networks["vae"], s.images)[0])
    return decode(networks["mask"], neighbours(z, s.patient, networks["mask"].config.get("reach", 0)))


def parameters(networks: dict[str, nn.Module]) -> int:
    """Numbers that were learned, in all the networks of a contestant."""
    return sum(p.numel() for net in networks.values() for p in net.parameters())
