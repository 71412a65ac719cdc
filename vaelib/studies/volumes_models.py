"""How `vaelib.studies.volumes` reads patients, as sequences of latents or as cubes, and learns from them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from vaelib import metrics
from vaelib.latent import decode, encode
from vaelib.losses import mask_loss
from vaelib.models import VAE, MaskDecoder
from vaelib.sequence import SequenceDecoder, from_cube, to_cube
from vaelib.training import augment, fit, mask_step, vae_step

CUBE = {"channels": 8, "latent": 128, "beta": 0.01, "epochs": 200, "mask_epochs": 200}


def patients_of(s) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and masks of each patient of a stack, (1, S, H, W) each: what `augment` moves as one."""
    rows = metrics.per_patient(s.patient).values()
    return [tuple(torch.from_numpy(a[r]).transpose(0, 1) for a in (s.images, s.masks)) for r in rows]


def sequences(vae, s, copies: int = 1, seed: int = 0) -> list[torch.Tensor]:
    """Patients as they are and `copies` - 1 times moved, encoded: latents, masks and counts, padded with zeros.

    Returns
    -------
    z : Tensor, (copies * P, S, latent)
    masks : Tensor, (copies * P, S, 1, H, W)
    counts : Tensor of int, (copies * P,)
    """
    generator, z, masks = torch.Generator().manual_seed(seed), [], []
    for copy in range(copies):
        for x, m in patients_of(s):
            x, m = augment(x, m, generator=generator) if copy else (x, m)
            z.append(torch.from_numpy(encode(vae, x.transpose(0, 1))[0]))
            masks.append(m.transpose(0, 1))
    counts = torch.tensor([len(one) for one in z])
    return [pad_sequence(z, batch_first=True), pad_sequence(masks, batch_first=True), counts]


def sequence_step(model, batch, progress) -> dict:
    """The step of a `SequenceDecoder` on batches of `sequences`; what was padded is left out."""
    z, masks, counts = batch
    there = torch.arange(z.shape[1], device=z.device) < counts[:, None]  # (P, S)
    return {"total": mask_loss(model(z[there], counts.tolist()), masks[there])}


def train_recurrent(vae, train, val, *, copies=8, mask_epochs=4, seed=0):
    """Train a `SequenceDecoder` on the latents of a VAE that stays as it is, two patients a step.

    As many passes over augmented copies as `pipeline.train_mask` makes; all slices of a patient are moved alike.
    Returns the decoder and its history.
    """
    torch.manual_seed(seed)
    size, latent = vae.config["size"], vae.config["latent"]
    net = SequenceDecoder(size, latent=latent, prevalence=float(train.masks.mean()))
    data, held_out = sequences(vae, train, copies, seed), sequences(vae, val)
    return net, fit(net, sequence_step, data, val=held_out, epochs=mask_epochs, batch_size=2, seed=seed, label="GRU")


@torch.no_grad()
def read(net, vae, s) -> np.ndarray:
    """Probabilities (N, 1, H, W) of a `SequenceDecoder` for a stack, patient by patient."""
    net.eval()
    z, out = torch.from_numpy(encode(vae, s.images)[0]), np.empty_like(s.masks)
    for rows in metrics.per_patient(s.patient).values():
        out[rows] = torch.sigmoid(net(z[rows])).numpy()
    return out


def cubes(s) -> list[torch.Tensor]:
    """Every patient of a stack as a cube: images and masks, (P, 1, size, size, size) each."""
    size = s.images.shape[-1]
    pairs = [[to_cube(a, size) for a in pair] for pair in patients_of(s)]
    return [torch.stack(a) for a in zip(*pairs, strict=True)]


def move(x, m=None, *, shift=0.08, scale=0.12, degrees=8.0):
    """Move cubes (P, 1, D, H, W), and masks along with them, as `augment` moves slices; and along z."""
    draw = torch.rand(len(x), 6) * 2 - 1
    angle, zoom = torch.deg2rad(draw[:, 0] * degrees), 1 + draw[:, 1:3] * scale
    theta = torch.zeros(len(x), 3, 4)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * zoom[:, 0]
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() * zoom[:, 0], angle.sin() * zoom[:, 0]
    theta[:, 2, 2], theta[:, :, 3] = zoom[:, 1], draw[:, 3:] * 2 * shift
    both = x if m is None else torch.cat([x, m], 1)
    grid = F.affine_grid(theta, list(both.shape), align_corners=False)
    both = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
    return both if m is None else both.chunk(2, 1)


def train_cubes(train, *, recipe: dict = CUBE, seed: int = 0):
    """Train a VAE and its detached mask decoder on cubes, as `pipeline` does on slices: both by name."""
    torch.manual_seed(seed)
    x, m = cubes(train)
    size = {"size": x.shape[-1], "channels": recipe["channels"], "latent": recipe["latent"], "dims": 3}
    vae = VAE(**size, start=float(x.mean()))
    fit(vae, vae_step(recipe["beta"]), [x], epochs=recipe["epochs"], batch_size=4, seed=seed, augmentation=move)
    mask = MaskDecoder(**size, prevalence=float(m.mean()))
    vae.eval()

    def encoded(x, m):
        x, m = move(x, m)
        with torch.no_grad():
            return vae.encoder(x)[0], m

    passes = recipe["mask_epochs"]
    fit(mask, mask_step, [x, m], epochs=passes, batch_size=4, seed=seed, augmentation=encoded)
    return {"vae": vae, "mask": mask}


def from_cubes(vae, mask, s) -> np.ndarray:
    """Probabilities (N, 1, H, W) of a 3D model for the slices of a stack."""
    out, probability = np.empty_like(s.masks), torch.from_numpy(decode(mask, encode(vae, cubes(s)[0], 4)[0], 4))
    for rows, cube in zip(metrics.per_patient(s.patient).values(), probability, strict=True):
        out[rows, 0] = from_cube(cube, len(rows))[0].numpy()
    return out
