"""Checks of the exercises to notebook 03."""

import math

import torch
from torch import nn

from course.checks import Answer, attempt, expect
from vaelib.vae import Encoder


def exercise_1(sample: Answer) -> None:
    """The sample is mu + sigma x noise, and sigma is the root of the variance: exp(logvar / 2)."""
    torch.manual_seed(0)
    mu, logvar, noise = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)
    mu.requires_grad_(), logvar.requires_grad_()
    z, sigma = attempt(sample, mu, logvar, noise), torch.exp(logvar / 2)
    expect(isinstance(z, torch.Tensor) and z.shape == mu.shape, "a tensor of the shape of mu is wanted")
    expect(not torch.allclose(z, mu + logvar.exp() * noise), "exp(logvar) is the variance, and its root is sigma")
    expect(not torch.allclose(z, mu + logvar * noise), "logvar is a logarithm: sigma is exp(logvar / 2)")
    expect(not torch.allclose(z, sigma * noise), "the mean is missing: this sample lies around 0 whatever the image is")
    expect(torch.allclose(z, mu + sigma * noise), "it is not mu + sigma x noise: use the noise that is handed in")
    expect(z.requires_grad, "no gradient flows back through it: nothing of it may be detached, or left to numpy")
    slopes = torch.autograd.grad(z.sum(), (mu, logvar), allow_unused=True)
    expect(all(s is not None for s in slopes), "mu or logvar gets no gradient: is one of them detached?")


def exercise_2(negative_elbo: Answer) -> None:
    """Two terms: x given z, a Gaussian of this variance, its constant included; and the KL, whose weight is 1."""
    torch.manual_seed(0)
    x, recon, mu, logvar = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8), torch.randn(6, 5), torch.randn(6, 5)
    q, prior = torch.distributions.Normal(mu, torch.exp(logvar / 2)), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(q, prior).sum(1).mean()
    for variance in (0.5, 0.01):
        found = torch.as_tensor(attempt(negative_elbo, x, recon, mu, logvar, variance))
        expect(found.numel() == 1, f"one number is wanted, the mean over the batch, not the shape {tuple(found.shape)}")
        noise = torch.distributions.Normal(recon, math.sqrt(variance))
        nats, constant = -noise.log_prob(x).sum((1, 2, 3)).mean(), 32 * math.log(2 * math.pi * variance)
        wanted = nats + divergence
        near = lambda value: torch.isclose(found, torch.as_tensor(value), rtol=1e-3)  # noqa: B023, E731
        expect(not near(nats - constant + divergence), "the constant is missing: log(2 pi variance) / 2 for each pixel")
        expect(not near(nats), "the KL is missing")
        expect(not near(nats + variance * divergence), "the KL has weight 1 here: the variance is in the other term")
        expect(not near(nats + (nats - constant) + divergence), "the half is missing in front of the squared error")
        expect(not near(6 * wanted), "summed over the batch: sum over an image, and average over images")
        expect(
            near(wanted), f"{found.item():.2f} nats for a variance of {variance:g}, where {wanted.item():.2f} should be"
        )


def exercise_3(as_matrix: Answer) -> None:
    """The answer to an image of zeros is b. The answer to an image with a single 1 is a column of W, plus b."""
    torch.manual_seed(0)
    encoder = Encoder(size=32, channels=2, latent=3)
    encoder.cascade = nn.Sequential(*[layer for layer in encoder.cascade if not isinstance(layer, nn.ELU)])
    found = attempt(as_matrix, lambda x: encoder(x)[0], 32)
    expect(isinstance(found, tuple) and len(found) == 2, "two tensors are wanted: W and b")
    W, b = found
    expect(tuple(b.shape) == (3,), f"b has the shape {tuple(b.shape)}: a number for each unit is wanted, (3,)")
    expect(tuple(W.shape) != (1024, 3), "W is transposed: (units, pixels) is wanted, so that mu = W x + b")
    expect(tuple(W.shape) == (3, 1024), f"W has the shape {tuple(W.shape)}: (3, 1024) is wanted, units by pixels")
    x = torch.rand(5, 1, 32, 32)
    with torch.no_grad():
        zero, mu = encoder(torch.zeros(1, 1, 32, 32))[0][0], encoder(x)[0]
        expect(torch.allclose(b, zero, atol=1e-5), "b is not the answer to an image of zeros")
        many = x.flatten(1) @ (W - b[:, None]).T + b
        expect(not torch.allclose(many, mu, atol=1e-3), "each column of W still holds b: subtract it")
        expect(
            torch.allclose(x.flatten(1) @ W.T + b, mu, atol=1e-3),
            "W x + b is not what the encoder says of other images",
        )


def exercise_4(trade: Answer) -> None:
    """A new VAE each time, after torch.manual_seed(0); fit it with vae_step(beta); read the last row of the history."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    place = torch.rand(72, 2, 1, 1, generator=torch.Generator().manual_seed(0)) * 16 + 8
    blobs = torch.exp(-((x - place[:, :1]) ** 2 + (y - place[:, 1:]) ** 2) / 18)
    seen, new = blobs[:48], blobs[48:]
    torch.manual_seed(1)
    cheap, dear = (attempt(trade, seen, new, beta, 12) for beta in (1e-3, 100.0))
    for pair in (cheap, dear):
        expect(isinstance(pair, tuple | list) and len(pair) == 2, "two numbers are wanted: reconstruction error and KL")
    expect(tuple(cheap) != tuple(dear), "beta changes nothing: does it reach vae_step?")
    expect(not (cheap[0] > 2 * dear[0] and dear[1] > cheap[1]), "the reconstruction error comes first, then the KL")
    expect(
        dear[1] < 0.5 * cheap[1], f"KL {cheap[1]:.2f} at beta 0.001 and {dear[1]:.2f} at 100: is it val/kl you return?"
    )
    expect(cheap[1] >= 0 and cheap[0] > 0, "neither of the two can be below 0")
    torch.manual_seed(2)  # whoever does not seed begins elsewhere now
    again = attempt(trade, seen, new, 1e-3, 12)
    expect(
        tuple(again) == tuple(cheap),
        "called twice it answers twice: begin each run with torch.manual_seed and a new VAE",
    )
