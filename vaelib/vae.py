"""The networks: an encoder, its transpose as decoder, the VAE, and the mask decoder that reads a detached latent.

Every network is one cascade of convolutions with kernel 4, stride 2 and padding 1, which halves each side
exactly: ``out = (in + 2 * 1 - 4) / 2 + 1 = in / 2``. The cascade runs from `size` down to 4 pixels, so `size` sets
the number of layers and no layer is ever left without a gradient. With ``dims=3`` the same classes are volumetric.

References
----------
Kingma & Welling, *Auto-Encoding Variational Bayes*, 2014, arXiv:1312.6114.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vaelib.engine.errors import InputError

BASE = 4  # side of the smallest feature map, in pixels


class VAEOutput(NamedTuple):
    """What one pass through a `VAE` gives.

    Attributes
    ----------
    recon : Tensor, (N, 1, H, W)
        Reconstruction in [0, 1].
    mu, logvar : Tensor, (N, latent)
        Mean and log variance of the approximate posterior q(z|x).
    z : Tensor, (N, latent)
        A sample from q(z|x) while training; exactly `mu` in evaluation.
    """

    recon: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor


def widths(size: int, channels: int) -> list[int]:
    """List the channels after each layer of the cascade: ``widths(64, 16) == [16, 32, 64, 128]``.

    Raises
    ------
    InputError
        If `size` is not a power of two from 32 to 512.
    """
    if size < 32 or size > 512 or size & (size - 1):
        raise InputError(f"size={size} is not a power of two from 32 to 512: use 32, 64, 128, 256 or 512")
    return [channels * 2**i for i in range((size // BASE).bit_length() - 1)]


def log_odds(mean: float) -> float:
    """Return the bias whose sigmoid is the mean of the targets; InputError where all of them are 0, or all 1."""
    if not 0 < mean < 1:
        raise InputError(f"the mean of what is to be learned is {mean:g}: images all black or all white, or masks all "
                         "empty, teach nothing; look at the cohort with `vaelib check`")  # fmt: skip
    return math.log(mean / (1 - mean))


class Encoder(nn.Module):
    """The encoder: from an image to the mean and log variance of its latent.

    Parameters
    ----------
    size : int
        Side of the input in pixels, a power of two from 32 to 512.
    channels : int
        Filters of the first layer; each further layer doubles them.
    latent : int
        Length of the latent vector z.
    dims : {2, 3}
        2 for slices (N, 1, H, W), 3 for cubes (N, 1, D, H, W).
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 64, dims: int = 2):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        layers, width = [], 1
        for w in widths(size, channels):  # 64 => 32 => 16 => 8 => 4
            layers += [conv(width, w, kernel_size=4, stride=2, padding=1), nn.ELU()]
            width = w
        self.cascade = nn.Sequential(*layers, nn.Flatten())
        self.mu = nn.Linear(width * BASE**dims, latent)
        self.logvar = nn.Linear(width * BASE**dims, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (N, 1, H, W) in [0, 1] to `mu` and `logvar`, each (N, latent)."""
        h = self.cascade(x)  # (N, width * 4 * 4)
        return self.mu(h), self.logvar(h)


class Decoder(nn.Module):
    """The decoder: from a latent to the logits of an image, the transpose of `Encoder`, layer for layer.

    `forward` returns logits, because binary cross-entropy is computed from them without loss of
    precision; a sigmoid turns them into grey values or probabilities.

    Parameters
    ----------
    size, channels, latent, dims
        As in `Encoder`.
    start : float
        The value of every pixel before training: the last bias is its log-odds. Give it the mean of the targets.
        A slice is mostly black, and from 0.5 the quickest way there is to make *all* of it black; a sigmoid that
        is driven so far has hardly any gradient left to come back by.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 64, dims: int = 2, start: float = 0.5):
        super().__init__()
        conv = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        down = widths(size, channels)
        layers = [nn.Linear(latent, down[-1] * BASE**dims), nn.Unflatten(1, (down[-1],) + (BASE,) * dims)]
        for w_in, w_out in zip(down[::-1], down[-2::-1] + [1], strict=True):  # 4 => 8 => 16 => 32 => 64
            layers += [nn.ELU(), conv(w_in, w_out, kernel_size=4, stride=2, padding=1)]
        nn.init.constant_(layers[-1].get_parameter("bias"), log_odds(start))
        self.cascade = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents (N, latent) to logits (N, 1, H, W)."""
        return self.cascade(z)


class VAE(nn.Module):
    """A variational autoencoder of CT slices (or cubes, with ``dims=3``).

    Parameters are those of `Decoder`. In training z is drawn as ``mu + exp(logvar / 2) * noise`` (the
    reparameterization trick); in evaluation z is `mu`, so that results do not depend on chance.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 64, dims: int = 2, start: float = 0.5):
        super().__init__()
        self.config: dict = dict(size=size, channels=channels, latent=latent, dims=dims)
        self.encoder: nn.Module = Encoder(**self.config)
        self.decoder: nn.Module = Decoder(**self.config, start=start)

    def forward(self, x: Tensor) -> VAEOutput:
        """Encode, sample and decode images (N, 1, H, W) in [0, 1]."""
        mu, logvar = self.encoder(x)  # each (N, latent)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu) if self.training else mu
        return VAEOutput(self.decode(z), mu, logvar, z)

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents (N, latent) to images (N, 1, H, W) in [0, 1]."""
        return torch.sigmoid(self.decoder(z))


class MaskDecoder(Decoder):
    """The mask decoder: from a latent to pancreas logits.

    The latent is detached, so that the mask never shapes the encoder.

    Parameters
    ----------
    prevalence : float
        Expected share of pancreas pixels. The last bias starts at its log-odds: the first prediction
        is then right on average, and no time goes into learning that most of a slice is background.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 64, dims: int = 2, prevalence: float = 0.01):
        super().__init__(size, channels, latent, dims, start=prevalence)
        self.config = dict(size=size, channels=channels, latent=latent, dims=dims)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents (N, latent) to logits (N, 1, H, W); no gradient flows back into `z`."""
        return self.cascade(z.detach())


class Supervised(nn.Module):
    """The same bottleneck trained with the labels: encoder and mask decoder joined, nothing detached.

    It is the control that tells what the detached latent costs: same layers, same latent, but here the
    encoder may keep what the mask needs.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 64, dims: int = 2, prevalence: float = 0.01):
        super().__init__()
        self.config = dict(size=size, channels=channels, latent=latent, dims=dims)
        self.encoder = Encoder(**self.config)
        self.decoder = MaskDecoder(**self.config, prevalence=prevalence)

    def forward(self, x: Tensor) -> Tensor:
        """Turn images (N, 1, H, W) in [0, 1] into mask logits of the same shape."""
        return self.decoder.cascade(self.encoder(x)[0])
