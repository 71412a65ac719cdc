"""What a latent that is a distribution can say beyond a mask: how sure it is, and whether a slice is like the others.

All functions take arrays and give arrays. Probabilities are those of a mask decoder, whose target is the occupancy of
a pixel: 0.3 is right where, over many such pixels, three tenths of the area are pancreas.

References
----------
Guo et al., *On Calibration of Modern Neural Networks*, 2017, arXiv:1706.04599 (reliability, ECE, temperature).
Depeweg et al., *Decomposition of Uncertainty in Bayesian Deep Learning*, 2018, arXiv:1710.07283 (the two entropies).
Baur et al., *Autoencoders for Unsupervised Anomaly Segmentation in Brain MR Images*, 2021, arXiv:2004.03271.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import rankdata
from torch import nn

from vaelib.engine.errors import InputError
from vaelib.latent import decode, encode
from vaelib.metrics import per_patient
from vaelib.vae import VAE

EPS = 1e-6  # probabilities are kept this far from 0 and 1 where a logarithm is taken


class Drawn(NamedTuple):
    """What several draws of z say of each pixel, all (N, 1, H, W).

    Attributes
    ----------
    probability, variance : ndarray
        Mean and variance over the draws.
    entropy : ndarray
        Of the mean probability, in nats: all that is uncertain.
    information : ndarray
        Entropy less the mean entropy of the single draws: the part that comes from not knowing z, in nats.
    """

    probability: np.ndarray
    variance: np.ndarray
    entropy: np.ndarray
    information: np.ndarray


def entropy(p: np.ndarray) -> np.ndarray:
    """Compute the entropy of a pixel that is pancreas with probability `p`, in nats."""
    p = np.clip(p, EPS, 1 - EPS)
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


def draw_latents(vae: VAE, images: np.ndarray, draws: int = 32, seed: int = 0) -> Iterator[np.ndarray]:
    """Go through `draws` samples of q(z|x), (N, latent) each; the k-th is the same for any number of draws."""
    mu, logvar = encode(vae, images)
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield mu + np.exp(logvar / 2) * rng.standard_normal(mu.shape, dtype=np.float32)


def sample_masks(vae: VAE, mask: nn.Module, images: np.ndarray, draws: int = 32, seed: int = 0) -> Drawn:
    """Decode `draws` samples z ~ q(z|x) of each slice, and say what they have in common.

    Parameters
    ----------
    vae, mask : nn.Module
        A `VAE` and its `MaskDecoder`.
    images : ndarray, (N, 1, H, W)
    draws, seed : int

    Raises
    ------
    InputError
        Fewer than two draws, which have no variance.
    """
    if draws < 2:
        raise InputError(f"sample_masks: draws={draws} gives no variance; take 2 or more, 32 do well")
    total, square, single = (np.zeros(images.shape) for _ in range(3))
    for z in draw_latents(vae, images, draws, seed):
        p = decode(mask, z)
        total, square, single = total + p, square + np.square(p, dtype=float), single + entropy(p)
    mean = total / draws
    variance, whole = np.maximum(square / draws - mean**2, 0), entropy(mean)
    parts = (mean, variance, whole, np.maximum(whole - single / draws, 0))
    return Drawn(*(a.astype(np.float32) for a in parts))


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: mean prediction and observed share in each bin that holds pixels, and their count."""

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: the distance between the two, weighted by the count (Guo et al. 2017)."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.count))


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = 10) -> Reliability:
    """Compare what was predicted with what is there, in `bins` equal bins of the prediction.

    Parameters
    ----------
    probability, truth : ndarray of one shape
        Truth is 0 or 1, or an occupancy between.

    Raises
    ------
    InputError
        The shapes differ, or there is no pixel.
    """
    p, t = np.ravel(probability).astype(float), np.ravel(truth).astype(float)
    if p.shape != t.shape or not len(p):
        raise InputError(f"reliability: {np.shape(probability)} predictions for {np.shape(truth)} truths; "
                         "pass one truth for each prediction, and at least one")  # fmt: skip
    place = np.minimum((p * bins).astype(int), bins - 1)
    count, sums, hits = (np.bincount(place, w, bins) for w in (None, p, t))
    there = count > 0
    return Reliability(sums[there] / count[there], hits[there] / count[there], count[there])


def cross_entropy(probability: np.ndarray, truth: np.ndarray) -> float:
    """Average the negative log likelihood of the pixels, in nats: lower is better, and no constant can game it."""
    p = np.clip(probability, EPS, 1 - EPS)
    return float(-(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean())


class Calibration(NamedTuple):
    """A correction of probabilities: call it on an array. `temperature` is NaN where it is none."""

    correct: Callable[[np.ndarray], np.ndarray]
    temperature: float = float("nan")

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        """Correct probabilities of any shape, to float32."""
        return self.correct(probability).astype(np.float32)


def calibrate(probability: np.ndarray, truth: np.ndarray, method: str = "temperature") -> Calibration:
    """Learn on validation patients how to correct probabilities.

    Parameters
    ----------
    probability, truth : ndarray of one shape
    method : {"temperature", "isotonic"}
        Divide the logits by one number, the `temperature` of what is returned; or any function that rises.
    """
    p, t = np.ravel(probability), np.ravel(truth)
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # takes a second to import

        rising = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, t)
        return Calibration(lambda p: rising.predict(np.ravel(p)).reshape(np.shape(p)))
    if method != "temperature":
        raise InputError(f"calibrate: no method {method!r}; choose temperature or isotonic")
    logits = logit(np.clip(p.astype(float), EPS, 1 - EPS))
    best = minimize_scalar(lambda a: cross_entropy(expit(logits * np.exp(-a)), t), bounds=(-2, 3), method="bounded")
    temperature = float(np.exp(best.x))
    return Calibration(lambda p: expit(logit(np.clip(p, EPS, 1 - EPS)) / temperature), temperature)


def slice_uncertainty(uncertainty: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Sum the uncertainty of each slice, (N,), and divide it by the pixels of pancreas that are expected there."""
    return uncertainty.sum((1, 2, 3)) / np.maximum(probability.sum((1, 2, 3)), EPS)


def slice_risk(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute 1 - Dice of each slice (N,), and which slices have a mask to compare, found or true."""
    total = found.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return 1 - 2 * (found & truth).sum((1, 2, 3)) / np.maximum(total, 1), total > 0


def risk_coverage(uncertainty: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Average the risk of the k surest cases, for k = 1 ... N: it rises where uncertainty knows of the risk.

    Its mean is the area under the risk-coverage curve (Geifman & El-Yaniv 2017, arXiv:1705.08500).
    """
    order = np.argsort(uncertainty, kind="stable")
    return np.cumsum(np.asarray(risk, float)[order]) / np.arange(1, len(order) + 1)


def auroc(normal: np.ndarray, odd: np.ndarray) -> float:
    """Compute the chance that an odd score exceeds a normal one, ties counting half; NaN where either has none."""
    if not len(normal) or not len(odd):
        return float("nan")
    ranks = rankdata(np.concatenate([normal, odd]))[len(normal) :]
    return float((ranks.sum() - len(odd) * (len(odd) + 1) / 2) / (len(odd) * len(normal)))


def auroc_per_patient(measure: np.ndarray, wrong: np.ndarray, region: np.ndarray, patient: np.ndarray) -> list[float]:
    """Compute how well an uncertainty tells wrong pixels from right ones: one AUROC a patient.

    Parameters
    ----------
    measure, wrong : ndarray, (N, 1, H, W)
        The uncertainty of each pixel, and (bool) whether the prediction is wrong there.
    region : ndarray of bool, (H, W)
        The pixels that count.
    patient : ndarray, (N,)
    """
    u, w = measure[:, 0, region], wrong[:, 0, region]  # (N, pixels)
    return [auroc(u[r][~w[r]], u[r][w[r]]) for r in per_patient(patient).values()]


class Anomaly(NamedTuple):
    """Scores of slices, in nats (N,), and the squared error of each pixel, (N, 1, H, W).

    `bound` is ``recon + kl``: the negative evidence lower bound, less a constant, of a decoder whose noise has the
    variance that training gave it.
    """

    recon: np.ndarray
    kl: np.ndarray
    bound: np.ndarray
    pixels: np.ndarray


def anomaly(vae: VAE, images: np.ndarray, variance: float = 0.01) -> Anomaly:
    """Score how unlike the training slices each slice is: by what the VAE cannot draw, and by its place in the latent.

    Parameters
    ----------
    vae : VAE
    images : ndarray, (N, 1, H, W)
    variance : float
        Of the decoder's noise: the `beta` of the training (see `losses.vae_loss`).
    """
    mu, logvar = encode(vae, images)
    pixels = np.square(decode(vae.decoder, mu) - images)
    recon = pixels.sum((1, 2, 3)) / (2 * variance)
    kl = 0.5 * (np.square(mu) + np.exp(logvar) - 1 - logvar).sum(1)
    return Anomaly(recon, kl, recon + kl, pixels)


def z_score(score: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Express scores in standard deviations of those of slices known to be normal, held out from training."""
    return (np.asarray(score) - np.mean(normal)) / np.std(normal)
