"""The losses, each reduced the same way: summed over an image, averaged over the batch.

Only when reconstruction and KL are reduced alike does `beta` mean what the literature says it means.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vaelib.vae import VAEOutput


class VAELoss(NamedTuple):
    """Named parts of the loss, scalars in nats per image: ``total = recon + beta * kl``."""

    total: Tensor
    recon: Tensor
    kl: Tensor
    beta: float


def l2(recon: Tensor, x: Tensor) -> Tensor:
    """Sum half the squared error over each image, and average over the batch.

    This is the negative log likelihood of a Gaussian with unit variance, less its constant. The half
    belongs to it: without it, `beta` is silently halved.

    Parameters
    ----------
    recon, x : Tensor, (N, C, H, W)
    """
    return 0.5 * (recon - x).square().flatten(1).sum(1).mean()


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Compute the KL divergence from q(z|x) = N(mu, exp(logvar)) to the prior N(0, 1), in nats.

    Summed over the latent's units and averaged over the batch (Kingma & Welling 2014, appendix B).

    Parameters
    ----------
    mu, logvar : Tensor, (N, latent)
    """
    return kl_per_unit(mu, logvar).sum()


def kl_per_unit(mu: Tensor, logvar: Tensor) -> Tensor:
    """Measure the same divergence for each unit of the latent, averaged over the batch: (latent,)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(0)


def beta_at(progress: float, beta: float, warmup: float = 0.2) -> float:
    """Compute the weight of the KL term when a share `progress` (0 to 1) of training is done.

    It rises in a straight line from 0 to `beta` over the first `warmup` of training, so that the latent
    is put to use before it is made to pay (Bowman et al. 2016, arXiv:1511.06349).
    """
    return beta * min(1.0, progress / warmup) if warmup else beta


def vae_loss(out: VAEOutput, x: Tensor, beta: float = 1.0) -> VAELoss:
    """Compute the negative evidence lower bound with a weight on its KL term (beta-VAE, Higgins et al. 2017).

    With ``beta=1`` the decoder's noise has unit variance. Grey values lie in [0, 1], where the true noise
    is nearer to 0.1, so `beta` near 0.01 is the honest setting: ``beta`` *is* the variance of that noise.
    The first term is a sum over pixels and the second a sum over units: at twice the side `beta` must be four
    times as large to weigh the same.
    """
    recon, divergence = l2(out.recon, x), kl(out.mu, out.logvar)
    return VAELoss(recon + beta * divergence, recon, divergence, beta)


def mask_loss(logits: Tensor, mask: Tensor, pos_weight: float = 1.0) -> Tensor:
    """Sum the binary cross-entropy from logits over each image, and average over the batch.

    Parameters
    ----------
    logits : Tensor, (N, 1, H, W)
    mask : Tensor, (N, 1, H, W)
        Truth in [0, 1]. An occupancy (the share of a coarse pixel that is pancreas) is a valid target:
        the loss is then least where the prediction *is* the occupancy.
    pos_weight : float
        Weight of the pancreas pixels. Above 1 it raises every predicted probability, from p to
        ``w p / (w p + 1 - p)``; a lower threshold does the same without touching the training.
    """
    weight = None if pos_weight == 1 else torch.tensor(pos_weight, device=logits.device)
    loss = F.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight, reduction="none")
    return loss.flatten(1).sum(1).mean()
