"""Tools for the latent space: encode, decode, traverse, interpolate, sample, principal directions, active units."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from vaelib.engine import finite
from vaelib.engine.rows import Rows, chunks
from vaelib.vae import VAE

Array: TypeAlias = np.ndarray | Tensor


@torch.no_grad()
def encode(vae: VAE, images: Array | Rows, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Encode images (N, 1, H, W) to `mu` and `logvar`, each (N, latent) float32. Nothing is sampled.

    Images whose latents come out as NaN or Inf are refused by number: `NotFinite`.
    """
    vae.eval()
    device = next(vae.parameters()).device
    parts = [vae.encoder(torch.as_tensor(x).to(device)) for x in chunks(images, batch_size)]
    mu, logvar = (torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True))
    finite.refuse(mu, "latents", "images")
    return mu, logvar


@torch.no_grad()
def decode(decoder: nn.Module, z: Array, batch_size: int = 256) -> np.ndarray:
    """Decode latents (N, latent) to images or probabilities (N, 1, H, W) in [0, 1].

    `decoder` is ``vae.decoder`` for the picture, or a `MaskDecoder` for the pancreas. Latents that are NaN or
    Inf, or decode to NaN, are refused by number, `NotFinite`: no threshold would reach it, and the pancreas be gone.
    """
    decoder.eval()
    device = next(decoder.parameters()).device
    z = torch.as_tensor(z, dtype=torch.float32)
    finite.refuse(z, "latents", "rows")
    out = torch.cat([torch.sigmoid(decoder(b.to(device))).cpu() for b in z.split(batch_size)]).numpy()
    finite.refuse(out, "what the latents decode to", "rows")
    return out


def traverse(z: np.ndarray, direction: np.ndarray, steps: Sequence[float] | np.ndarray) -> np.ndarray:
    """Walk from `z` (latent,) along `direction` (latent,): one row for each of `steps`, (T, latent)."""
    return (z + np.asarray(steps)[:, None] * direction).astype(np.float32)


def interpolate(a: np.ndarray, b: np.ndarray, steps: int = 8) -> np.ndarray:
    """Go in a straight line from latent `a` to latent `b`, both included: (steps, latent)."""
    return traverse(a, b - a, np.linspace(0, 1, steps))


def sample(n: int, latent: int, seed: int = 0) -> np.ndarray:
    """Draw from the prior N(0, 1): (n, latent) float32."""
    return np.random.default_rng(seed).standard_normal((n, latent), dtype=np.float32)


def pca(mu: np.ndarray, components: int = 8) -> Any:
    """Find the principal directions of the encoded means (N, latent): scikit-learn's `PCA`, fitted."""
    from sklearn.decomposition import PCA  # takes a second to import

    return PCA(components, svd_solver="full").fit(mu)


def steps(fitted: Any) -> np.ndarray:
    """Take steps of one standard deviation along each direction of a fitted `pca`, (components, latent)."""
    return fitted.components_ * np.sqrt(fitted.explained_variance_)[:, None]


def active_units(mu: np.ndarray, threshold: float = 0.01) -> np.ndarray:
    """Find the units of the latent that respond to the input: the variance of their mean is above `threshold`.

    Parameters
    ----------
    mu : ndarray, (N, latent)

    Returns
    -------
    ndarray of bool, (latent,)

    References
    ----------
    Burda, Grosse & Salakhutdinov, *Importance Weighted Autoencoders*, 2016, arXiv:1509.00519.
    """
    return mu.var(axis=0) > threshold


def sample_fitted(codes: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Draw (n, D) from the normal distribution with the mean and covariance of codes (N, D)."""
    rng = np.random.default_rng(seed)
    mean, covariance = codes.mean(0), np.cov(codes.T)
    return rng.multivariate_normal(mean, covariance, size=n, method="eigh").astype(np.float32)


def slerp(a: np.ndarray, b: np.ndarray, steps: int = 8) -> np.ndarray:
    """Go on the arc from latent `a` to `b` (D,), both included, its length passing evenly over: (steps, D)."""
    long = np.linalg.norm(a), np.linalg.norm(b)
    cosine = np.dot(a, b) / np.maximum(np.prod(long), 1e-12)
    angle, t = np.arccos(np.clip(cosine, -1, 1)), np.linspace(0, 1, steps)[:, None]
    if np.sin(angle) < 1e-6 or min(long) == 0:  # no plane to turn in, or no direction: the straight line
        return ((1 - t) * a + t * b).astype(np.float32)
    turned = (np.sin((1 - t) * angle) * a / long[0] + np.sin(t * angle) * b / long[1]) / np.sin(angle)
    return (turned * ((1 - t) * long[0] + t * long[1])).astype(np.float32)
