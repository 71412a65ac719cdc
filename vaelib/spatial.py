"""A stronger cascade: residual blocks, and a latent that may keep its place in the picture.

The encoder halves each side as that of `vaelib.vae` does (kernel 4, stride 2, padding 1), and puts a residual
block after each step. The decoders enlarge by repeating pixels and then convolve (Odena, Dumoulin & Olah,
*Deconvolution and Checkerboard Artifacts*, Distill 2016, doi 10.23915/distill.00003), or, to be compared, by
transposed convolutions. The latent is a vector, or a small image of vectors (latent, grid, grid) in which each
number still knows where in the slice it came from (as in Rombach et al. 2022, arXiv:2112.10752).

References
----------
He et al., *Identity Mappings in Deep Residual Networks*, 2016, arXiv:1603.05027; Wu & He, *Group Normalization*,
2018, arXiv:1803.08494.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vaelib.engine.errors import InputError
from vaelib.vae import BASE, VAE, log_odds, widths

WIDEST = 128  # channels at which the cascade stops doubling
GRID = 8  # side of the spatial latent of `build`
BETA = 1e-3  # at 64 x 64; the error is a sum over pixels, so to weigh the same elsewhere it goes with their number


class Residual(nn.Module):
    """Two 3 x 3 convolutions, each after normalization and SiLU, added to what came in; at first they add a bias."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip
        nn.init.zeros_(self.body[-1].get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        """Add to features (N, width, H, W) what the convolutions make of them."""
        return x + self.body(x)


def norm(width: int) -> nn.GroupNorm:
    """Normalize in up to eight groups of channels: unlike batch normalization, the same in training and in use."""
    return nn.GroupNorm(math.gcd(8, width), width)


def widths_to(grid: int, size: int, channels: int) -> list[int]:
    """List the channels after each halving from `size` to `grid` (to 4 where `grid` is 1, for a vector).

    Raises
    ------
    InputError
        If `size` is no power of two from 32 to 512, or `grid` is not 1 or a power of two from 4 to ``size / 2``.
    """
    all_the_way = widths(size, channels)
    if grid != 1 and (grid < BASE or grid > size // 2 or grid & (grid - 1)):
        raise InputError(f"grid={grid} does not fit size={size}: use 1 for a vector, or a power of two from {BASE} to "
                         f"{size // 2}")  # fmt: skip
    return [min(w, WIDEST) for w in all_the_way[: (size // max(grid, BASE)).bit_length() - 1]]


class ResidualEncoder(nn.Module):
    """The encoder: from an image to `mu` and `logvar`.

    Parameters
    ----------
    size, channels : int
        As in `vaelib.vae.Encoder`.
    latent : int
        Numbers of the vector, or at each place of the grid.
    grid : int
        1 for a vector (N, latent); else the side of a spatial latent (N, latent, grid, grid).
    recompute : bool
        As in `ResidualDecoder`.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 16, grid: int = 8, recompute: bool = False):
        super().__init__()
        layers, width, self.recompute = [], 1, recompute
        for w in widths_to(grid, size, channels):  # 64 => 32 => 16 => 8
            layers += [nn.Conv2d(width, w, kernel_size=4, stride=2, padding=1), Residual(w)]
            width = w
        flat = [nn.Flatten(), nn.Linear(width * BASE**2, 2 * latent)]
        head = flat if grid == 1 else [nn.Conv2d(width, 2 * latent, 1)]
        self.cascade = nn.Sequential(*layers, norm(width), nn.SiLU(), *head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images (N, 1, H, W) in [0, 1] to `mu` and `logvar`, each (N, latent) or (N, latent, grid, grid)."""
        for first in range(0, len(self.cascade), 2):  # a halving and its residual block
            x = run_stage(self.cascade[first : first + 2], x, self.recompute and self.training)
        mu, logvar = x.chunk(2, 1)
        return mu, logvar.clamp(-20, 10)


class ResidualDecoder(nn.Module):
    """The decoder: from a latent to the logits of an image.

    Parameters
    ----------
    size, channels, latent, grid
        As in `ResidualEncoder`.
    start : float
        The value of every pixel before training; see `vaelib.vae.Decoder`.
    blocks : int
        Residual blocks at the size of the grid, where each sees far for little cost.
    upsample : {"nearest", "transposed"}
        Repeat pixels and convolve, or a transposed convolution (kernel 3, stride 2, whose footprints overlap
        unevenly: that is the checkerboard).
    recompute : bool
        Keep no activations while training but compute them again on the way back (Chen et al. 2016,
        arXiv:1604.06174): less memory, about a third more time.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 16, grid: int = 8, start: float = 0.5,
                 blocks: int = 1, upsample: str = "nearest", recompute: bool = False):  # fmt: skip
        super().__init__()
        down, self.recompute = widths_to(grid, size, channels), recompute
        if grid == 1:
            head = [nn.Linear(latent, down[-1] * BASE**2), nn.Unflatten(1, (down[-1], BASE, BASE))]
        else:
            head = [nn.Conv2d(latent, down[-1], 3, padding=1)]
        stages = [nn.Sequential(*head, *(Residual(down[-1]) for _ in range(blocks)))]
        for w_in, w_out in zip(down[::-1], down[-2::-1], strict=False):  # 8 => 16 => 32
            stages.append(nn.Sequential(*doubling(w_in, w_out, upsample), Residual(w_out)))
        stages.append(nn.Sequential(norm(down[0]), nn.SiLU(), *doubling(down[0], 1, upsample)))  # 32 => 64
        nn.init.constant_(stages[-1][-1].get_parameter("bias"), log_odds(start))
        self.stages = nn.Sequential(*stages)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents (N, latent) or (N, latent, grid, grid) to logits (N, 1, H, W)."""
        for stage in self.stages:
            z = run_stage(stage, z, self.recompute and self.training)
        return z


def run_stage(stage: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """Compute ``stage(x)``; with `recompute` keep nothing of it, and compute it again on the way back."""
    return checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False) if recompute else stage(x)


def doubling(w_in: int, w_out: int, upsample: str) -> list[nn.Module]:
    """Make the layers that double each side; the last of them has a bias."""
    if upsample == "transposed":
        return [nn.ConvTranspose2d(w_in, w_out, 3, stride=2, padding=1, output_padding=1)]
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(w_in, w_out, 3, padding=1)]


class ResidualVAE(VAE):
    """`VAE` with the residual cascade on both sides; parameters are those of `ResidualDecoder`."""

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 16, grid: int = 8, start: float = 0.5,
                 upsample: str = "nearest", recompute: bool = False):  # fmt: skip
        nn.Module.__init__(self)
        self.config = dict(size=size, channels=channels, latent=latent, grid=grid, upsample=upsample)
        self.encoder = ResidualEncoder(size, channels, latent, grid, recompute)
        self.decoder = ResidualDecoder(size, channels, latent, grid, start, 1, upsample, recompute)


class ResidualMaskDecoder(ResidualDecoder):
    """The mask decoder: from the latents of a slice, and of its neighbours, to pancreas logits.

    They are detached, as in `MaskDecoder`.

    Parameters
    ----------
    reach : int
        Neighbours on each side: its input has ``(2 * reach + 1) * latent`` channels.
    prevalence : float
        Expected share of pancreas pixels.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 16, grid: int = 8, reach: int = 0,
                 blocks: int = 2, prevalence: float = 0.01):  # fmt: skip
        super().__init__(size, channels, (2 * reach + 1) * latent, grid, prevalence, blocks)
        self.config = dict(size=size, channels=channels, latent=latent, grid=grid, reach=reach, blocks=blocks)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents to logits (N, 1, H, W); no gradient flows back into `z`.

        Parameters
        ----------
        z : Tensor, (N, (2 * reach + 1) * latent) or (N, (2 * reach + 1) * latent, grid, grid)
            As `neighbours` puts them together.
        """
        return super().forward(z.detach())


def neighbours(z: Tensor, patient: Sequence[str] | np.ndarray, reach: int) -> Tensor:
    """Put each slice beside those below and above it, in the channels; the outermost stand in for none.

    Parameters
    ----------
    z : Tensor, (N, C, ...)
        Latents, or images, of whole patients in order.
    patient : sequence, (N,)
        The owner of each slice: no one's neighbour belongs to someone else.

    Returns
    -------
    Tensor, (N, (2 * reach + 1) * C, ...)
    """
    ends: dict[str, list[int]] = {}  # first and last slice of each patient
    for i, name in enumerate(patient):
        ends.setdefault(name, [i, i])[1] = i
    low, high = (torch.tensor([ends[name][end] for name in patient]) for end in (0, 1))
    at = torch.arange(len(z))
    return torch.cat([z[(at + k).clamp(low, high)] for k in range(-reach, reach + 1)], 1)


def build(kind: str, size: int, numbers: int, start: float = 0.5, wide: int = 1, **options: Any) -> VAE:
    """Make an untrained VAE with `numbers` in its latent, about equally many weights at any size.

    Parameters
    ----------
    kind : {"plain", "vector", "spatial"}
        The cascade of `vaelib.vae` with a vector as its latent; the residual one with a vector; or with a grid of 8 x 8
        whose numbers keep their place.
    size : int
        Side of a slice in pixels.
    numbers : int
        In the latent, all together.
    start : float
        See `vaelib.vae.Decoder`.
    wide : int
        Times as many channels.
    **options
        `upsample` and `recompute`, as in `ResidualDecoder`.
    """
    if kind == "plain":
        return VAE(size, wide * 1024 // size, numbers, start=start)
    grid = GRID if kind == "spatial" else 1
    return ResidualVAE(size, wide * max(2, 512 // size), numbers // grid**2, grid, start, **options)


def checkerboard(images: Tensor) -> float:
    """Measure how much stronger the finest patterns are than others nearly as fine: 1 is no checkerboard.

    A pattern that repeats every second pixel lies, in the Fourier transform, exactly at the highest frequency of the
    rows, of the columns, or of both. The power there is held against the median of the highest quarter.
    Give it errors (reconstructions less their originals) rather than reconstructions: these may be so smooth that there
    is nothing else to hold it against, while the errors have the noise of the scan in them.

    Parameters
    ----------
    images : Tensor, (N, 1, H, W)
        H and W even.
    """
    window = [torch.hann_window(side, periodic=False) for side in images.shape[-2:]]  # so that borders are no edges
    centred = (images - images.mean((-2, -1), keepdim=True)) * window[0][:, None] * window[1]
    power = torch.fft.fft2(centred.double()).abs().square().mean((0, 1))
    rows, columns = (side // 2 for side in power.shape)
    fine = power[rows - rows // 4 : rows + rows // 4 + 1, columns - columns // 4 : columns + columns // 4 + 1]
    peaks = torch.stack([power[rows, columns], power[rows, 0], power[0, columns]])
    return float(peaks.mean() / fine.median())
