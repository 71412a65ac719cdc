"""What a latent that is a distribution can say beyond a mask: how sure it is, and whether a slice is like the others.

All functions take arrays and give arrays. Probabilities are those of a mask decoder, whose target is the occupancy of
a pixel: 0.3 is right where, over many such pixels, three tenths of the area are pancreas.

References
----------
Guo et al., *On Calibration of Modern Neural Networks*, 2017, arXiv:1706.04599 (reliability, ECE, temperature).
Depeweg et al., *Decomposition of Uncertainty in Bayesian Deep Learning*, 2018, arXiv:1710.07283 (the two entropies).
Baur et al., *Autoencoders for Unsupervised Anomaly Segmentation in Brain MR Images*, 2021, arXiv:2004.03271.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import label
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression

from vaelib.engine.errors import InputError
from vaelib.latent import decode, encode

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
        Entropy less the mean entropy of the single draws: the part that comes of not knowing z, in nats.
    """

    probability: np.ndarray
    variance: np.ndarray
    entropy: np.ndarray
    information: np.ndarray


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy of a pixel that is pancreas with probability `p`, in nats."""
    p = np.clip(p, EPS, 1 - EPS)
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


def draw_latents(vae, images, draws: int = 32, seed: int = 0):
    """Go through `draws` samples of q(z|x), (N, latent) each; the k-th is the same for any number of draws."""
    mu, logvar = encode(vae, images)
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield mu + np.exp(logvar / 2) * rng.standard_normal(mu.shape, dtype=np.float32)


def sample_masks(vae, mask, images, draws: int = 32, seed: int = 0) -> Drawn:
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
    variance, all_of_it = np.maximum(square / draws - mean**2, 0), entropy(mean)
    parts = (mean, variance, all_of_it, np.maximum(all_of_it - single / draws, 0))
    return Drawn(*(a.astype(np.float32) for a in parts))


class Reliability(NamedTuple):
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


def cross_entropy(probability, truth) -> float:
    """Mean negative log likelihood of a pixel, in nats: lower is better, and it cannot be gamed by a constant."""
    p = np.clip(probability, EPS, 1 - EPS)
    return float(-(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean())


def calibrate(probability, truth, method: str = "temperature") -> Callable[[np.ndarray], np.ndarray]:
    """Learn on validation patients how to correct probabilities; returns the correction.

    Parameters
    ----------
    probability, truth : ndarray of one shape
    method : {"temperature", "isotonic"}
        Divide the logits by one number, the attribute `temperature` of what is returned; or any function that rises.
    """
    if method == "isotonic":
        rising = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(np.ravel(probability), np.ravel(truth))
        return lambda p: rising.predict(np.ravel(p)).reshape(np.shape(p)).astype(np.float32)
    if method != "temperature":
        raise InputError(f"calibrate: no method {method!r}; choose temperature or isotonic")
    logits = logit(np.clip(np.ravel(probability).astype(float), EPS, 1 - EPS))
    flat = np.ravel(truth)
    best = minimize_scalar(lambda a: cross_entropy(expit(logits * np.exp(-a)), flat), bounds=(-2, 3), method="bounded")
    temperature = float(np.exp(best.x))

    def correct(p):
        return expit(logit(np.clip(p, EPS, 1 - EPS)) / temperature).astype(np.float32)

    correct.temperature = temperature
    return correct


def relative(uncertainty: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Uncertainty of a whole slice, (N,): summed over its pixels, for each pixel of pancreas that is expected there."""
    axes = tuple(range(1, np.ndim(probability)))
    return uncertainty.sum(axes) / np.maximum(probability.sum(axes), EPS)


def risk_coverage(uncertainty: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Mean risk of the k surest cases, for k = 1 ... N: it rises where uncertainty knows of the risk.

    Its mean is the area under the risk-coverage curve (Geifman & El-Yaniv 2017, arXiv:1705.08500).
    """
    order = np.argsort(uncertainty, kind="stable")
    return np.cumsum(np.asarray(risk, float)[order]) / np.arange(1, len(order) + 1)


def auroc(normal: np.ndarray, odd: np.ndarray) -> float:
    """The chance that an odd score exceeds a normal one, ties counting half; NaN where either has none."""
    if not len(normal) or not len(odd):
        return float("nan")
    ranks = rankdata(np.concatenate([normal, odd]))[len(normal) :]
    return float((ranks.sum() - len(odd) * (len(odd) + 1) / 2) / (len(odd) * len(normal)))


class Anomaly(NamedTuple):
    """Scores of slices, in nats (N,), and the squared error of each pixel, (N, 1, H, W).

    `bound` is ``recon + kl``: the negative evidence lower bound, less a constant, of a decoder whose noise has the
    variance that training gave it.
    """

    recon: np.ndarray
    kl: np.ndarray
    bound: np.ndarray
    pixels: np.ndarray


def anomaly(vae, images: np.ndarray, variance: float = 0.01) -> Anomaly:
    """How unlike the training slices each slice is: by what the VAE cannot draw, and by where it lies in the latent.

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
    """Scores in standard deviations of the scores of slices that are known to be normal, and held out from training."""
    return (np.asarray(score) - np.mean(normal)) / np.std(normal)


def peak(pixels: np.ndarray, normal: np.ndarray, side: int = 5) -> np.ndarray:
    """The most unusual spot of each slice, (N,): pixel errors averaged over a window, in units of what is usual there.

    A sum over the slice drowns a small thing in the noise of all the rest; the largest of many small sums does not.

    Parameters
    ----------
    pixels, normal : ndarray, (N, 1, H, W)
        Squared errors of the slices, and of slices that are known to be normal.
    side : int
        Of the window, in pixels.
    """
    usual = _smooth(normal, side)
    mean, spread = usual.mean(0), usual.std(0)
    return ((_smooth(pixels, side) - mean) / (spread + spread.mean())).max((1, 2, 3))


def _smooth(pixels, side):
    x = torch.as_tensor(np.asarray(pixels, np.float32))
    return torch.nn.functional.avg_pool2d(x, side, 1, side // 2, count_include_pad=True).numpy()


TOUCHING = np.ones((3, 3))  # pixels that meet at a corner belong together


def same_levels(truth: np.ndarray, levels: int = 9) -> np.ndarray:
    """Slices of a patient at equal relative heights between the lowest and the highest that hold pancreas: (levels,).

    Parameters
    ----------
    truth : ndarray of bool, (S, 1, H, W)

    Raises
    ------
    InputError
        The mask is empty.
    """
    there = np.flatnonzero(truth.any((1, 2, 3)))
    if not len(there):
        raise InputError("same_levels: the mask is empty, so nothing says which levels match; leave this patient out")
    inside = np.linspace(0, 1, levels + 2)[1:-1]  # the first and the last slice only touch the organ
    return np.rint(there[0] + inside * (there[-1] - there[0])).astype(int)


def pieces(masks: np.ndarray) -> np.ndarray:
    """How many connected pieces each mask of (N, ..., H, W) has, pixels that meet at a corner joined: (N,)."""
    flat = np.asarray(masks).reshape(len(masks), *np.shape(masks)[-2:])
    return np.array([label(m, TOUCHING)[1] for m in flat])


class UsualMasks(NamedTuple):
    """What real masks are like: the range of their areas, and the mean, precision and reach of their centres."""

    area: tuple[float, float]
    centre: np.ndarray
    precision: np.ndarray
    reach: float


def centres(masks: np.ndarray) -> np.ndarray:
    """Row and column of each mask's centre of mass, (N, 2); NaN for an empty one."""
    flat = np.asarray(masks, float).reshape(len(masks), *np.shape(masks)[-2:])
    area = np.where(flat.any((1, 2)), flat.sum((1, 2)), np.nan)
    axes = [np.arange(n) for n in flat.shape[1:]]
    return np.stack([flat.sum(2) @ axes[0] / area, flat.sum(1) @ axes[1] / area], 1)


def usual_masks(masks: np.ndarray) -> UsualMasks:
    """Learn from masks (N, 1, H, W) of training patients what is usual; empty ones are left out.

    Raises
    ------
    InputError
        Fewer than three masks hold anything: their centres have no spread in two directions.
    """
    masks = masks[masks.any((1, 2, 3))]
    if len(masks) < 3:
        raise InputError(f"real: {len(masks)} of the masks hold anything, which says nothing of how they vary; "
                         "pass those of several patients")  # fmt: skip
    area, at = masks.sum((1, 2, 3)), centres(masks)
    precision = np.linalg.inv(np.cov(at.T))
    away = at - at.mean(0)
    reach = np.quantile(np.einsum("ni,ij,nj->n", away, precision, away), 0.99)
    return UsualMasks(tuple(np.quantile(area, (0.005, 0.995)).tolist()), at.mean(0), precision, float(reach))


def plausible(masks: np.ndarray, like: UsualMasks) -> dict[str, np.ndarray]:
    """Which masks (N, 1, H, W) could be a slice of a pancreas: by four tests, and by all of them; each (N,) of bool.

    "not empty"; "one piece"; "size": an area that 99% of the real ones keep to; "place": a centre of mass no further
    from the usual place than that of 99% of the real ones, in a direction that they vary in.
    """
    area, away = masks.sum((1, 2, 3)), np.nan_to_num(centres(masks) - like.centre, nan=1e9)
    tests = {
        "not empty": area > 0,
        "one piece": pieces(masks) == 1,
        "size": (area >= like.area[0]) & (area <= like.area[1]),
        "place": np.einsum("ni,ij,nj->n", away, like.precision, away) <= like.reach,
    }
    return tests | {"all": np.logical_and.reduce([*tests.values()])}
