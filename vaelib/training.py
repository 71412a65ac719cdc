"""Training: a loop on one screen, its steps and learning rate, and what makes each image look a little different.

What makes the loop safe (the order of the data, precision, several processes, resuming, NaN, memory) is a
`vaelib.engine.run.Run`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from vaelib.engine.memory import explain_out_of_memory
from vaelib.engine.run import Data, Plan, Run, Step
from vaelib.latent import Array
from vaelib.losses import beta_at, mask_loss, vae_loss
from vaelib.vae import VAE


def augment(
    *tensors: Tensor, shift: float = 0.08, scale: float = 0.12, degrees: float = 8.0, generator: Generator | None = None
) -> tuple[Tensor, ...]:
    """Turn, scale and shift each image at random, as if the patient lay differently in the scanner.

    No flips: the liver is on the right. Labels are not needed, so the VAE may use it too. Cubes turn about their first
    axis, which is scaled on its own; they end within the body, so what moves in repeats their border.

    Parameters
    ----------
    *tensors : Tensor, (N, C, H, W) or (N, C, D, H, W)
        Images in [0, 1], and masks to be moved along with them: all channels of all tensors move alike.
    shift, scale : float
        Largest shift as a share of the image, and largest relative change of size.
    degrees : float
        Largest rotation.
    generator : Generator, optional
        Draws the random numbers in place of PyTorch's own.

    Returns
    -------
    tuple of Tensor
        As many as were given.
    """
    x = torch.cat(tensors, 1)
    n, dims = len(x), x.ndim - 2
    draw = (torch.rand(n, 2 * dims, generator=generator) * 2 - 1).to(x.device)  # (N, 1 angle, dims - 1 zooms, dims)
    angle, zoom = draw[:, 0] * math.radians(degrees), 1 + draw[:, 1:dims] * scale
    affine = torch.zeros(n, dims, dims + 1, device=x.device)
    affine[:, 0, 0] = affine[:, 1, 1] = angle.cos() * zoom[:, 0]
    affine[:, 0, 1], affine[:, 1, 0] = -angle.sin() * zoom[:, 0], angle.sin() * zoom[:, 0]
    affine[:, :, dims] = draw[:, dims:] * 2 * shift
    if dims == 3:
        affine[:, 2, 2] = zoom[:, 1]
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border" if dims == 3 else "zeros", align_corners=False)
    return moved.split([t.shape[1] for t in tensors], 1)


def jitter(x: Tensor) -> Tensor:
    """Change the grey values of each image at random, as if another scanner, or another dose, had made it.

    Contrast (0.7 to 1.2 times), brightness (0.1 up or down), a blur over 3 x 3 pixels mixed in, and noise (a standard
    deviation of up to 0.06). What lies below the window, air, stays black. It needs no labels, as `augment`.

    Parameters
    ----------
    x : Tensor, (N, C, H, W)
        In [0, 1]; all channels of an image are changed alike.
    """
    draw = torch.rand(4, len(x), 1, 1, 1, device=x.device)
    y = x + draw[0] * (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)
    y = 0.5 + (y - 0.5) * (0.7 + 0.5 * draw[1]) + 0.2 * (draw[2] - 0.5)
    y = y + 0.06 * draw[3] * torch.randn_like(x)
    return (y * (x > 0)).clamp(0, 1)


def vae_step(beta: float, warmup: float = 0.2) -> Step:
    """Make the step of a `VAE` on batches ``(x,)``: reconstruction, KL and their weighted sum.

    On batches ``(seen, x)`` it reads one and reconstructs the other (a denoising VAE, Im et al. 2017,
    arXiv:1511.06406).
    """

    def step(model: nn.Module, batch: Sequence[Tensor], progress: float) -> dict[str, Tensor | float]:
        return vae_loss(model(batch[0]), batch[-1], beta_at(progress, beta, warmup))._asdict()

    return step


def mask_step(model: nn.Module, batch: Sequence[Tensor], progress: float) -> dict[str, Tensor]:
    """Take the loss of a mask decoder on batches ``(z, mask)``, or of `Supervised` on ``(x, mask)``."""
    return {"total": mask_loss(model(batch[0]), batch[1])}


def learning_rate(progress: float, peak: float, warmup: float = 0.05) -> float:
    """Raise the learning rate in a line over the first `warmup` of training, then lower it by half a cosine to 0."""
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def fit(
    model: nn.Module,
    step: Step,
    data: Data,
    *,
    val: Data | None = None,
    augmentation: Callable[..., Sequence[Tensor]] | None = None,
    state: str | Path | None = None,
    label: str = "training",
    **plan: Any,
) -> list[dict]:
    """Train a model in place and return its history.

    Started by `torchrun` or `srun`, each process takes its share of every batch and the gradients are averaged: the
    result is that of one process with the same `batch_size`, but for what is drawn at random, which each draws itself.

    Parameters
    ----------
    model : nn.Module
    step : callable
        ``step(model, batch, progress)`` returns named scalars, each a mean over the images of the batch; the one named
        ``total`` is minimized.
    data, val : sequence of Tensor, ndarray or Rows
        Of equal length; a batch takes the same rows of each, which `Rows` read from disk as they are asked for.
    augmentation : callable, optional
        Takes the tensors of each training batch and returns what `step` is given, as `augment` does.
    state : path, optional
        Where to keep the state after each epoch, in sight of all processes. If it exists, training resumes from it.
    label : str
        What is trained, for the progress bar and for errors.
    **plan
        The fields of `vaelib.engine.run.Plan`: epochs (30), batch_size (64), lr (2e-3), patience, seed (0),
        accelerator ("auto"), precision ("32-true"), compiled (False), at_once.

    Returns
    -------
    list of dict
        A record of each epoch: its number, the last learning rate, and the mean of each named scalar, as
        ``train/total`` and ``val/total``.

    Raises
    ------
    InputError
        If `state` belongs to a run with other settings, or a step runs out of memory: it says what would fit.
    NotFinite
        At NaN or Inf in a batch, its loss or its gradients, or in validation. The model keeps the weights that it had
        before the batch, and `state` the last epoch in which all was finite.
    """
    with Run(model, data, val, Plan(**plan), state, label) as run:
        for epoch in run.epochs():  # that are left; patience ends them
            for batch in run.batches(epoch):  # in an order drawn from (seed, epoch)
                run.set_lr(learning_rate(batch.progress, run.plan.lr))
                for part in batch.parts:  # what fits at once
                    tensors = augmentation(*part.tensors) if augmentation else part.tensors
                    with explain_out_of_memory(model, step, tensors, label):
                        run.backward(step(run.model, tensors, batch.progress), part)
                run.stop_if_not_finite(batch)  # no weight has been touched yet
                run.optimizer.step()
                run.optimizer.zero_grad(set_to_none=True)
            run.close_epoch(epoch, step)  # means, validation, best weights, state
        return run.finish()


def copies_of(images: Array, masks: Array, copies: int = 8, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Pair images with masks (N, 1, H, W) as they are and, moved together, `copies` - 1 times augmented."""
    x, m = torch.as_tensor(images), torch.as_tensor(masks)
    generator = torch.Generator().manual_seed(seed)
    return [(x, m)] + [augment(x, m, generator=generator) for _ in range(copies - 1)]


@torch.no_grad()
def moved_latents(vae: VAE, x: Tensor, masks: Tensor, move: Callable = augment) -> tuple[Tensor, Tensor]:
    """Move images with their masks as one, and encode them: the augmentation of a mask decoder.

    For slices that are too many to be encoded in advance.

    Parameters
    ----------
    x, masks : Tensor, (N, K, ...)
        The K channels of `x`, a slice and its neighbours, are encoded one by one, and their latents joined.
    move : callable
        From `x` and `masks` to both of them moved.
    """
    x, masks = move(x, masks)
    z = vae.to(x.device).eval().encoder(x.flatten(0, 1)[:, None])[0]  # (N * K, latent, ...)
    return z.reshape(len(x), -1, *z.shape[2:]), masks
