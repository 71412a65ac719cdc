import numpy as np
import pytest
import torch

from vaelib import latent, training
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


def test_copies_are_the_original_first_and_pair_with_their_masks():
    x = torch.rand(4, 1, 32, 32)
    first, *moved = training.copies_of(x, (x > 0.5).float(), copies=3)
    assert torch.equal(first[0], x) and torch.equal(first[1], (x > 0.5).float()) and len(moved) == 2
    assert all(image.shape == mask.shape == x.shape for image, mask in moved)
    assert not torch.equal(moved[0][1], first[1]) and not torch.equal(moved[0][1], moved[1][1])


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


# --- the latent as a prior of shapes: codes that are drawn, and paths -------------------------------------------------


def test_a_fitted_normal_has_the_mean_and_covariance_of_its_codes():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3, 5))  # rank 3: a flat cloud stays flat
    codes = rng.normal(size=(4000, 3)) @ mix + np.arange(5)
    drawn = latent.sample_fitted(codes, 20_000)
    assert drawn.shape == (20_000, 5) and drawn.dtype == np.float32
    assert drawn.mean(0) == pytest.approx(codes.mean(0), abs=0.1)
    assert np.cov(drawn.T) == pytest.approx(np.cov(codes.T), abs=0.25)
    assert np.linalg.svd(drawn - drawn.mean(0), compute_uv=False)[3] < 0.1
    assert np.array_equal(drawn[:3], latent.sample_fitted(codes, 20_000)[:3]) and not np.array_equal(
        drawn, latent.sample_fitted(codes, 20_000, 1)
    )


def test_an_arc_begins_and_ends_where_it_should():
    a, b = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    path = latent.slerp(a, 3 * b, 9)
    assert path.shape == (9, 64) and path.dtype == np.float32
    assert path[0] == pytest.approx(a, abs=1e-5) and path[-1] == pytest.approx(3 * b, abs=1e-4)
    long = np.linalg.norm(path, axis=1)
    assert long == pytest.approx(np.linspace(long[0], long[-1], 9), rel=1e-4), "its length passes evenly over"


def test_an_arc_turns_by_equal_angles_where_a_line_cuts_short():
    a, b = np.eye(2, dtype=np.float32)
    path = latent.slerp(a, b, 4)
    assert np.degrees(np.arctan2(path[:, 1], path[:, 0])) == pytest.approx([0, 30, 60, 90], abs=1e-3)
    assert np.linalg.norm(path, axis=1) == pytest.approx(1, rel=1e-6) and np.linalg.norm((a + b) / 2) < 0.71


@pytest.mark.parametrize("b", [(2.0, 0.0), (-1.0, 0.0), (0.0, 0.0)], ids=["same way", "opposite", "origin"])
def test_where_there_is_no_arc_the_path_is_straight(b):
    a, b = np.array([1, 0], np.float32), np.array(b, np.float32)
    assert latent.slerp(a, b, 5) == pytest.approx(np.linspace(a, b, 5), abs=1e-6)
