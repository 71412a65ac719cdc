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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn

from vaelib import metrics, recipes
from vaelib.cohort import Cohort, Slices, fingerprint
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import kept
from vaelib.latent import copies_of, decode, encode
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE, neighbours
from vaelib.training import Step, augment, fit, jitter, mask_step, vae_step
from vaelib.vae import VAE, MaskDecoder, Supervised


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
    x = augment(x)
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


class Method:
    """Networks that answer for slices; whatever they read of them."""

    def __init__(self, networks: dict[str, nn.Module], meta: dict | None = None):
        self.networks, self.meta = networks, meta or {}

    def predict(self, slices: Slices) -> np.ndarray:
        """Probabilities (N, 1, H, W)."""
        return predict(self.networks, slices)


class Arm(NamedTuple):
    """How a contestant is trained, and how its networks answer."""

    fit: Callable[[Cohort, int], dict]
    method: Callable[[dict], Method] = Method
    made_by: Callable[[], dict] = dict


def _arm(train: Callable, made_by: Callable[[], dict] = lambda: {"passes": PASSES, "recipe": recipes.RECIPE}) -> Arm:
    return Arm(lambda lab, seed: train(lab.train, lab.val, seed), Method, made_by)


ARMS: dict[str, Arm] = {
    recipes.DETACHED: _arm(detached),
    "supervised bottleneck": _arm(partial(from_labels, _bottleneck, 1e-3)),
    "U-Net": _arm(partial(from_labels, _unet, 2e-3)),
    "U-Net, skips cut": _arm(partial(from_labels, partial(_unet, skips=False), 2e-3)),
    "U-Net, three slices": _arm(partial(from_labels, partial(_unet, inputs=3), 2e-3)),
    "U-Net, jittered": _arm(partial(from_labels, _unet, 2e-3, augmentation=_moved_and_jittered)),
    "spatial VAE, detached": _arm(spatial, lambda: {"recipe": SPATIAL}),
}


def checkpoint(name: str, seed: int, folder: Path | None = None) -> Path:
    """Where the networks of an arm are kept."""
    return (folder or models_folder() / "arms") / f"{name.replace(',', '').replace(' ', '_')}_{seed}.safetensors"


def contestant(name: str, lab: Cohort, seed: int, folder: Path | None = None) -> Method:
    """The kept method of an arm, trained where these slices and this recipe have not made it yet."""

    def make():
        began = time.process_time()
        networks = ARMS[name].fit(lab, seed)
        seconds = time.process_time() - began
        threshold = metrics.choose(ARMS[name].method(networks).predict(lab.val), lab.val)
        return networks | {"threshold": threshold, "cpu seconds": seconds, "cohort": "synthetic"}

    made_by = {"arm": name, "seed": seed, "data": fingerprint(lab.train, lab.val)} | ARMS[name].made_by()
    found = kept(checkpoint(name, seed, folder), made_by, make, half=True)
    networks = {k: v for k, v in found.items() if isinstance(v, nn.Module)}
    method = ARMS[name].method(networks)
    method.meta = {k: v for k, v in found.items() if k not in networks}
    return method


class Coded:
    """A linear or fixed code, scaled to variance 1, and a mask decoder that reads it."""

    def __init__(self, parts: dict):
        self.code, self.mean, self.deviation = parts["code"], parts["mean"], parts["deviation"]
        self.networks = {"mask": parts["mask"]}

    def scaled(self, images: np.ndarray) -> Tensor:
        """Images to scaled codes."""
        return torch.from_numpy(((self.code(images) - self.mean) / self.deviation).astype(np.float32))

    def predict(self, slices: Slices) -> np.ndarray:
        """Probabilities (N, 1, H, W)."""
        return decode(self.networks["mask"], self.scaled(slices.images))


def _pca(lab: Cohort, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.decomposition import PCA

    images = lab.train.images
    pca = PCA(recipes.RECIPE["latent"], svd_solver="randomized", random_state=seed).fit(images.reshape(len(images), -1))
    return lambda x: pca.transform(x.reshape(len(x), -1))


def _untrained(lab: Cohort, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    torch.manual_seed(seed)
    vae = VAE(lab.train.size, latent=recipes.RECIPE["latent"])
    return lambda x: encode(vae, x)[0]


def _autoencoder(lab: Cohort, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    vae, _ = recipes.train_vae(lab.train, lab.val, beta=0.0, seed=seed, **recipes.recipe("latent", "epochs"))
    return lambda x: encode(vae, x)[0]


def _from_code(code_of: Callable, lab: Cohort, seed: int) -> dict:
    code, train = code_of(lab, seed), lab.train
    pairs = copies_of(train.images, train.masks, recipes.RECIPE["copies"], seed)
    first = code(train.images)
    made = {"code": code, "mean": first.mean(0), "deviation": first.std(0) + 1e-6}
    torch.manual_seed(seed)
    made["mask"] = MaskDecoder(train.size, latent=first.shape[1], prevalence=float(train.masks.mean()))
    z = torch.cat([Coded(made).scaled(a.numpy()) for a, _ in pairs])
    masks = torch.cat([b for _, b in pairs])
    fit(made["mask"], mask_step, [z, masks], epochs=recipes.RECIPE["mask_epochs"], seed=seed)
    return made


CODES = {
    "PCA, 64 components": Arm(partial(_from_code, _pca), Coded),
    "random encoder": Arm(partial(_from_code, _untrained), Coded),
    "autoencoder, detached": Arm(partial(_from_code, _autoencoder), Coded),
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
