import numpy as np
import pytest
import torch

from vaelib import latent
from vaelib.vae import VAE, MaskDecoder


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return VAE(32, channels=2, latent=6)


def test_encoding_is_mu_and_does_not_depend_on_the_batch(vae):
    x = np.random.default_rng(0).random((10, 1, 32, 32), dtype=np.float32)
    mu, logvar = latent.encode(vae, x)
    small, _ = latent.encode(vae, x, batch_size=3)
    assert mu.shape == logvar.shape == (10, 6)
    np.testing.assert_allclose(mu, small, atol=1e-6)
    np.testing.assert_array_equal(mu, latent.encode(vae, x)[0])


def test_decoding_gives_grey_values_and_probabilities(vae):
    z = latent.sample(5, 6, seed=1)
    for decoder in (vae.decoder, MaskDecoder(32, channels=2, latent=6)):
        out = latent.decode(decoder, z, batch_size=2)
        assert out.shape == (5, 1, 32, 32) and out.min() >= 0 and out.max() <= 1


def test_copies_are_the_original_first_and_pair_with_their_masks(vae):
    x = torch.rand(4, 1, 32, 32)
    z, m = latent.encode_copies(vae, x, (x > 0.5).float(), copies=3)
    assert z.shape == (12, 6) and m.shape == (12, 1, 32, 32)
    np.testing.assert_array_equal(z[:4], latent.encode(vae, x)[0])
    assert torch.equal(m[:4], (x > 0.5).float()) and not torch.equal(m[4:8], m[:4])


def test_traversal_and_interpolation_meet_their_ends():
    a, b = latent.sample(2, 6, seed=0)
    path = latent.interpolate(a, b, 5)
    np.testing.assert_allclose(path[[0, -1]], [a, b], atol=1e-6)
    np.testing.assert_allclose(path[2], (a + b) / 2, atol=1e-6)
    walk = latent.traverse(a, b, [-1, 0, 1])
    np.testing.assert_allclose(walk[2] - walk[1], b, atol=1e-6)


def test_samples_follow_the_prior_and_their_seed():
    z = latent.sample(4000, 6, seed=3)
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    np.testing.assert_array_equal(z, latent.sample(4000, 6, seed=3))


def test_pca_finds_the_direction_that_varies():
    rng = np.random.default_rng(0)
    mu = 0.1 * rng.standard_normal((200, 6)) + np.outer(rng.standard_normal(200), [0, 0, 3, 0, 0, 0])
    assert abs(latent.pca(mu, 2).components_[0, 2]) > 0.99


def test_active_units_are_those_that_respond():
    mu = np.zeros((50, 4))
    mu[:, 1] = np.linspace(-1, 1, 50)
    assert latent.active_units(mu).tolist() == [False, True, False, False]
