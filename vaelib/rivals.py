"""The contestants: methods that turn slices into a pancreas, each trained on the same patients for as many passes.

A `Method` has the networks that it learned, and ``predict(slices)``, whatever it reads of the slices. An `Arm` is how
one is made.

=========================  ======================================================================================
VAE, detached decoder      the method of this series: a latent vector, and a mask decoder that leaves it alone
supervised bottleneck      the same layers joined: nothing detached, no unsupervised objective
U-Net                      MONAI's, of as many parameters
U-Net, skips cut           the same, its skip connections carrying zeros
U-Net, three slices        the same, given the slices below and above as well
U-Net, jittered            the same as the U-Net, its grey values changed at random while it learns
spatial VAE, detached      a residual VAE whose latent keeps its place, and a decoder of three slices' latents;
                           it reads jittered slices and reconstructs those that they were made of
=========================  ======================================================================================

The codes of lesson 05's ladder (principal components, a random encoder, an autoencoder) are made by that study.

References
----------
Ronneberger, Fischer & Brox, *U-Net*, 2015, arXiv:1505.04597; Kerfoot et al., *Left-Ventricle Quantification Using
Residual U-Net*, 2018, doi 10.1007/978-3-030-12029-0_40, which MONAI's follows.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vaelib import detached as ours
from vaelib import recipes
from vaelib.cohort import Cohort, Slices
from vaelib.engine.rows import Rows, mean
from vaelib.latent import decode
from vaelib.recipes import RECIPE
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE
from vaelib.training import augment, fit, jitter, mask_step, moved_latents, vae_step
from vaelib.vae import Supervised

PASSES = RECIPE["epochs"] + RECIPE["copies"] * RECIPE["mask_epochs"]  # over the slices
FROM_LABELS = {"passes": PASSES, "lr": 2e-3, "jitter": False, "network": {}}
SPATIAL = ours.SPATIAL | dict(latent=8, grid=16, beta=1e-3, epochs=14, jitter=True, passes=24)


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
        from monai.networks.layers.simplelayers import SkipConnection  # here: MONAI takes seconds to import
        from monai.networks.nets import UNet as MonaiUNet

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


class Method:
    """Networks that have learned to turn slices into a pancreas.

    Attributes
    ----------
    networks : dict of str to nn.Module
    meta : dict
        What else was made with them: the threshold that is best on validation, CPU seconds, the code that is read.
    """

    def __init__(self, made: dict[str, Any]):
        self.networks = {name: value for name, value in made.items() if isinstance(value, nn.Module)}
        self.meta = {name: value for name, value in made.items() if name not in self.networks}

    def predict(self, slices: Slices) -> np.ndarray | Rows:
        """Predict probabilities (N, 1, H, W) for slices of whole patients, lazily where these are not in memory."""
        raise NotImplementedError


class EndToEnd(Method):
    """A network that reads slices, with as many neighbours as it has inputs for."""

    def predict(self, slices: Slices) -> np.ndarray | Rows:
        """Predict probabilities (N, 1, H, W), as every `Method`."""
        x = recipes.with_neighbours(self.networks["net"], slices)
        return slices.computed(lambda rows: decode(self.networks["net"], x[rows]))


class Detached(Method):
    """A VAE, and a mask decoder that reads the latents of a slice and of as many neighbours as it reaches."""

    def predict(self, slices: Slices) -> np.ndarray | Rows:
        """Predict probabilities (N, 1, H, W), as every `Method`."""
        return recipes.predicted(self.networks["vae"], self.networks["mask"], slices)


class Arm(NamedTuple):
    """How a contestant is made, by `train` from slices, a seed and a recipe, and what `method` it is then."""

    train: Callable[[Cohort, int, dict], dict]
    method: Callable[[dict], Method]
    recipe: dict

    def fit(self, lab: Cohort, seed: int) -> dict:
        """Train it on a cohort: its networks by name, and what else belongs to them, for `method`."""
        return self.train(lab, seed, self.recipe)


def detached(lab: Cohort, seed: int, recipe: dict) -> dict[str, nn.Module]:
    """Train the method of this series."""
    part = partial(recipes.recipe, of=recipe)
    vae, _ = recipes.train_vae(lab.train, lab.val, seed=seed, **part("latent", "beta", "epochs"))
    mask, _ = recipes.train_mask(vae, lab.train, lab.val, seed=seed, **part("copies", "mask_epochs"))
    return {"vae": vae, "mask": mask}


def from_labels(make: Callable[..., nn.Module], lab: Cohort, seed: int, recipe: dict) -> dict[str, nn.Module]:
    """Train a network that reads slices, and their neighbours if it has inputs for them, on the masks.

    `make` is given the side of a slice, the prevalence of the pancreas, and the options in ``recipe["network"]``.
    """
    torch.manual_seed(seed)
    net = make(lab.train.size, prevalence=mean(lab.train.masks), **recipe["network"])
    data = [recipes.with_neighbours(net, lab.train), lab.train.masks]
    how = dict(epochs=recipe["passes"], seed=seed, label=type(net).__name__)
    how |= recipes.recipe("lr", *{"batch_size"} & {*recipe}, of=recipe)
    fit(net, mask_step, data, augmentation=partial(_moved, recipe["jitter"]), **how)
    return {"net": net}


def spatial(lab: Cohort, seed: int, recipe: dict) -> dict[str, nn.Module]:
    """Train the residual VAE with a spatial latent, and the decoder that sees three slices of it, detached."""
    train, moved = lab.train, partial(_moved, recipe["jitter"])
    torch.manual_seed(seed)
    start = mean(train.images, lambda x: torch.from_numpy(x).mean())  # as torch sums it
    vae = ResidualVAE(train.size, latent=recipe["latent"], grid=recipe["grid"], start=start)
    how = dict(epochs=recipe["epochs"], seed=seed, augmentation=moved, label="VAE")
    fit(vae, vae_step(recipe["beta"]), [train.images] * 2, **how)  # no label is read

    torch.manual_seed(seed)
    shape = recipes.recipe("channels", "latent", "grid", "reach", "blocks", of=recipe)
    mask = ResidualMaskDecoder(train.size, **shape, prevalence=mean(train.masks))
    how = dict(epochs=recipe["passes"], seed=seed, augmentation=partial(moved_latents, vae, move=moved))
    fit(mask, mask_step, [recipes.with_neighbours(mask, train), train.masks], **how, label="mask decoder")
    return {"vae": vae, "mask": mask}


def _moved(jittered: bool, x: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    x, masks = augment(x, masks)
    return (jitter(x) if jittered else x), masks


_unet = partial(from_labels, lambda size, **options: UNet(**options))
_BOTTLENECK = FROM_LABELS | {"lr": 1e-3, "network": {"latent": RECIPE["latent"]}}
ARMS: dict[str, Arm] = {
    recipes.DETACHED: Arm(detached, Detached, RECIPE),
    "supervised bottleneck": Arm(partial(from_labels, Supervised), EndToEnd, _BOTTLENECK),
    "U-Net": Arm(_unet, EndToEnd, FROM_LABELS),
    "U-Net, skips cut": Arm(_unet, EndToEnd, FROM_LABELS | {"network": {"skips": False}}),
    "U-Net, three slices": Arm(_unet, EndToEnd, FROM_LABELS | {"network": {"inputs": 3}}),
    "U-Net, jittered": Arm(_unet, EndToEnd, FROM_LABELS | {"jitter": True}),
    "spatial VAE, detached": Arm(spatial, Detached, SPATIAL),
}


def parameters(networks: dict[str, nn.Module]) -> int:
    """Count the numbers that were learned, in all the networks of a contestant."""
    return sum(p.numel() for net in networks.values() for p in net.parameters())
