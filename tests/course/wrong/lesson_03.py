"""Typical wrong answers to the exercises of notebook 03, and words of the hint that each must get."""

import math

import torch

from vaelib import losses, training
from vaelib.vae import VAE


def elbo(x, recon, mu, logvar, variance, half=0.5, constant=1, weight=1.0, kl=losses.kl):
    """The negative ELBO with one thing or another left out."""
    error = half * (x - recon).square().flatten(1).sum(1).mean() / variance
    return error + constant * x[0].numel() / 2 * math.log(2 * math.pi * variance) + weight * kl(mu, logvar)


def matrix(encoder, size, keep=0):
    with torch.no_grad():
        b = encoder(torch.zeros(1, 1, size, size))[0]
        return (encoder(torch.eye(size * size).reshape(-1, 1, size, size)) - (1 - keep) * b).T, b


def run(x, x_val, beta, epochs, seed=True, names=("recon", "kl"), part="val"):
    if seed:
        torch.manual_seed(0)
    vae = VAE(size=32, channels=4, latent=8, start=x.mean().item())
    last = training.fit(vae, training.vae_step(beta), [x], val=[x_val], epochs=epochs)[-1]
    return tuple(last[f"{part}/{name}"] for name in names)


WRONG = {
    "03.1": [
        ((lambda mu, logvar, noise: mu + logvar.exp() * noise,), "exp(logvar) is the variance"),
        ((lambda mu, logvar, noise: mu + logvar * noise,), "a logarithm"),
        ((lambda mu, logvar, noise: (logvar / 2).exp() * noise,), "the mean is missing"),
        ((lambda mu, logvar, noise: (mu + (logvar / 2).exp() * noise).detach(),), "no gradient"),
        ((lambda mu, logvar, noise: mu.detach() + (logvar / 2).exp() * noise,), "is one of them detached"),
        ((lambda mu, logvar, noise: torch.normal(mu, (logvar / 2).exp()),), "the noise that is handed in"),
    ],
    "03.2": [
        ((lambda *a: elbo(*a, constant=0),), "the constant is missing"),
        ((lambda *a: elbo(*a, weight=0),), "the KL is missing"),
        ((lambda *a: elbo(*a, half=1),), "the half is missing"),
        ((lambda *a: elbo(*a, weight=a[-1]),), "the KL has weight 1"),
        ((lambda *a: 6 * elbo(*a),), "summed over the batch"),
    ],
    "03.3": [
        ((lambda encoder, size: matrix(encoder, size, keep=1),), "still holds b"),
        ((lambda encoder, size: (matrix(encoder, size)[0].T, matrix(encoder, size)[1]),), "W is transposed"),
        ((lambda encoder, size: matrix(encoder, size)[0],), "two tensors"),
        ((lambda encoder, size: (matrix(encoder, size)[0], torch.zeros(3)),), "an image of zeros"),
    ],
    "03.4": [
        ((lambda x, x_val, beta, epochs: run(x, x_val, 0.01, epochs),), "does it reach vae_step"),
        ((lambda x, x_val, beta, epochs: run(x, x_val, beta, epochs, names=("kl", "recon")),), "comes first"),
        ((lambda x, x_val, beta, epochs: run(x, x_val, beta, epochs, names=("recon", "total")),), "val/kl"),
        ((lambda x, x_val, beta, epochs: run(x, x_val, beta, epochs, seed=False),), "torch.manual_seed"),
    ],
}
