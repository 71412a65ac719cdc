"""A patient as a whole: as a sequence of slices for a recurrent mask decoder, or as a cube for 3D convolutions.

The 2D model decodes each slice as if it were alone. `SequenceDecoder` reads the latents of a patient's slices from
the lowest to the highest and back, and decodes each slice from its own latent and from what both readings know at
that place. `to_cube` brings a scan of any number of slices to the cube that the models of `vaelib.vae` take with
``dims=3``, and `from_cube` puts what they say back onto the slices.

References
----------
Cho et al., *Learning Phrase Representations using RNN Encoder-Decoder*, 2014, arXiv:1406.1078; Schuster & Paliwal,
*Bidirectional Recurrent Neural Networks*, 1997, doi 10.1109/78.650093.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence, unpack_sequence

from vaelib.cohort import Slices
from vaelib.engine.errors import InputError
from vaelib.engine.rows import mean
from vaelib.latent import decode, encode
from vaelib.losses import mask_loss
from vaelib.metrics import per_patient
from vaelib.training import augment, fit
from vaelib.vae import VAE, Decoder, MaskDecoder, widths


class SequenceDecoder(nn.Module):
    """The recurrent mask decoder: from the latents of all slices of a patient to pancreas logits.

    They are detached, as in `MaskDecoder`.

    A bidirectional GRU reads the latents in order; what it knows at a slice is added to the latent of that slice,
    and the sum goes through the cascade of `Decoder`. The addition begins at zero, so that before training the
    neighbours have no say.

    Parameters
    ----------
    size, channels, latent : int
        As in `vaelib.vae.Decoder`.
    hidden : int
        Numbers that each of the two readings carries from slice to slice.
    prevalence : float
        Expected share of pancreas pixels, as in `vaelib.vae.MaskDecoder`.
    """

    def __init__(self, size: int = 64, channels: int = 16, latent: int = 64, hidden: int = 64,
                 prevalence: float = 0.01):  # fmt: skip
        super().__init__()
        self.config = dict(size=size, channels=channels, latent=latent, hidden=hidden)
        self.gru = nn.GRU(latent, hidden, bidirectional=True)
        self.join = nn.Linear(2 * hidden, latent)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)
        self.decoder = Decoder(size, channels, latent, start=prevalence)

    def context(self, z: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Add to each latent (N, latent) what its neighbours know; see `forward`."""
        counts = [len(z)] if counts is None else list(counts)
        if sum(counts) != len(z):
            raise InputError(f"{len(z)} latents for patients of {counts} slices, {sum(counts)} in all: pass every "
                             "slice of each patient, and how many each has")  # fmt: skip
        z = z.detach()
        read, _ = self.gru(pack_sequence(z.split(counts), enforce_sorted=False))  # nothing crosses a border
        return z + self.join(torch.cat(unpack_sequence(read)))

    def forward(self, z: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Decode latents to logits; no gradient flows back into `z`.

        Parameters
        ----------
        z : Tensor, (N, latent)
            The slices of one or several whole patients, each from inferior to superior.
        counts : sequence of int, optional
            Slices of each patient; their sum is N. All belong to one patient where it is left out.

        Returns
        -------
        Tensor, (N, 1, H, W)

        Raises
        ------
        InputError
            If the counts do not add up to the latents.
        """
        return self.decoder(self.context(z, counts))


def receptive_field(size: int) -> int:
    """Count the pixels that a number of the smallest map of `Encoder` sees along each axis: 22 at 32, 46 at 64.

    Each layer of kernel 4 and stride 2 adds three of its own pixels, and these double from layer to layer.
    """
    return 1 + 3 * (2 ** len(widths(size, 1)) - 1)


def to_cube(volume: Tensor, size: int) -> Tensor:
    """Resample the slices of a scan, so that there are as many of them as pixels a side.

    The extent of the scan along z, whatever it is in mm, is stretched linearly over `size` slices: the first and the
    last slice stay where they are. In the plane nothing changes.

    Parameters
    ----------
    volume : Tensor, (..., S, size, size)
        Images or occupancy, from inferior to superior.

    Returns
    -------
    Tensor, (..., size, size, size)

    Raises
    ------
    InputError
        If the slices are not `size` pixels a side, or fewer than `receptive_field` sees: the cube would then be mostly
        interpolation, and the slices that one number of its smallest map sees would hold what far fewer slices know.
    """
    slices, needed = volume.shape[-3], receptive_field(size)
    if volume.shape[-2:] != (size, size):
        raise InputError(f"slices of {tuple(volume.shape[-2:])} pixels do not fit a cube of {size}: take the level of "
                         f"{size} pixels a side")  # fmt: skip
    if slices < needed:
        fits = [n for n in (32, 64, 128, 256, 512) if receptive_field(n) <= slices]
        instead = f"size={fits[-1]} (needs {receptive_field(fits[-1])})" if fits else "the 2D model (dims=2)"
        raise InputError(f"the volume has {slices} slices and a cube of {size} needs {needed}, the receptive field of "
                         f"its encoder: what would fit is {instead}")  # fmt: skip
    return resample(volume, size)


def from_cube(cube: Tensor, slices: int) -> Tensor:
    """Put a cube (..., size, size, size) back onto the slices it was made of: (..., slices, size, size)."""
    return resample(cube, slices)


def resample(volume: Tensor, slices: int) -> Tensor:
    """Interpolate along z to so many slices, both ends in their places: (..., S, H, W) to (..., slices, H, W)."""
    flat = volume.flatten(-2).transpose(-1, -2)  # (..., H * W, S)
    lead = flat.shape[:-1]
    moved = F.interpolate(flat.reshape(1, -1, flat.shape[-1]), size=slices, mode="linear", align_corners=True)
    return moved.reshape(*lead, slices).transpose(-1, -2).unflatten(-1, volume.shape[-2:])


def patient_tensors(slices: Slices) -> list[list[Tensor]]:
    """Take images and masks apart by patient, (1, S, H, W) each: what `augment` moves as one."""
    rows = per_patient(slices.patient).values()
    return [[torch.from_numpy(a[r]).transpose(0, 1) for a in (slices.images, slices.masks)] for r in rows]


def smooth(probability: np.ndarray, patient: np.ndarray, sigma: float = 1) -> np.ndarray:
    """Smooth probabilities (N, 1, H, W) along z within each patient, by a Gaussian of `sigma` slices."""
    out = np.empty_like(probability)
    for rows in per_patient(patient).values():
        out[rows] = gaussian_filter1d(probability[rows], sigma, axis=0, mode="constant")
    return out


def sequences(vae: VAE, slices: Slices, copies: int = 1, seed: int = 0) -> list[Tensor]:
    """Encode patients as they are and `copies` - 1 times moved: latents, masks and counts, padded with zeros.

    Returns
    -------
    z : Tensor, (copies * P, S, latent)
    masks : Tensor, (copies * P, S, 1, H, W)
    counts : Tensor of int, (copies * P,)
    """
    generator, z, masks = torch.Generator().manual_seed(seed), [], []
    for copy in range(copies):
        for x, m in patient_tensors(slices):
            x, m = augment(x, m, generator=generator) if copy else (x, m)
            z.append(torch.from_numpy(encode(vae, x.transpose(0, 1))[0]))  # (S, latent)
            masks.append(m.transpose(0, 1))
    counts = torch.tensor([len(one) for one in z])
    return [pad_sequence(z, batch_first=True), pad_sequence(masks, batch_first=True), counts]


def sequence_step(model: nn.Module, batch: Sequence[Tensor], progress: float) -> dict[str, Tensor]:
    """Compute the loss of a `SequenceDecoder` on a batch of `sequences`; what was padded is left out."""
    z, masks, counts = batch
    there = torch.arange(z.shape[1], device=z.device) < counts[:, None]  # (P, S)
    return {"total": mask_loss(model(z[there], counts.tolist()), masks[there])}


def train_recurrent(
    vae: VAE, train: Slices, val: Slices, *, copies: int = 8, mask_epochs: int = 4, seed: int = 0
) -> tuple[SequenceDecoder, list[dict]]:
    """Train a `SequenceDecoder` on the latents of a VAE that stays as it is, two patients a step.

    As many passes over augmented copies as `recipes.train_mask` makes; all slices of a patient are moved alike.

    Returns
    -------
    SequenceDecoder
    list of dict
        Its history; see `training.fit`.
    """
    torch.manual_seed(seed)
    size, latent = vae.config["size"], vae.config["latent"]
    net = SequenceDecoder(size, latent=latent, prevalence=mean(train.masks))
    data, held_out = sequences(vae, train, copies, seed), sequences(vae, val)
    return net, fit(net, sequence_step, data, val=held_out, epochs=mask_epochs, batch_size=2, seed=seed, label="GRU")


class Recurrent(NamedTuple):
    """The recurrent method: a VAE, and a `SequenceDecoder` that reads its latents patient by patient."""

    vae: VAE
    mask: SequenceDecoder

    @torch.no_grad()
    def predict(self, slices: Slices) -> np.ndarray:
        """Predict probabilities (N, 1, H, W) for the slices of whole patients."""
        z, out = torch.from_numpy(encode(self.vae, slices.images)[0]), np.empty(slices.images.shape, np.float32)
        for rows in per_patient(slices.patient).values():
            out[rows] = decode(self.mask.decoder, self.mask.context(z[rows]))
        return out


def cubes(slices: Slices) -> list[Tensor]:
    """Bring every patient to a cube: images and masks, (P, 1, size, size, size) each."""
    size = slices.images.shape[-1]
    pairs = [[to_cube(a, size) for a in pair] for pair in patient_tensors(slices)]
    return [torch.stack(a) for a in zip(*pairs, strict=True)]


class Cubes(NamedTuple):
    """The volumetric method: a VAE and a mask decoder with ``dims=3``, which take a scan as a cube."""

    vae: VAE
    mask: MaskDecoder

    def predict(self, slices: Slices) -> np.ndarray:
        """Predict probabilities (N, 1, H, W) for the slices of whole patients."""
        z = encode(self.vae, cubes(slices)[0], 4)[0]  # (P, latent)
        found = torch.from_numpy(decode(self.mask, z, 4))  # (P, 1, size, size, size)
        out = np.empty(slices.images.shape, np.float32)
        for rows, cube in zip(per_patient(slices.patient).values(), found, strict=True):
            out[rows, 0] = from_cube(cube, len(rows))[0].numpy()
        return out
