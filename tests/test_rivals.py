"""Every contestant trains on whole patients and answers for every slice of them; its score can be had again."""

import numpy as np
import pytest
import torch

from vaelib import recipes, rivals
from vaelib.cohort import Cohort, Slices
from vaelib.engine.checkpoints import load, save

SHORT = {"latent": 4, "beta": 0.01, "epochs": 1, "copies": 1, "mask_epochs": 1}
RECIPE = rivals.SPATIAL | {"latent": 2, "grid": 8, "epochs": 1, "passes": 1, "blocks": 1, "channels": 4}


def patients(*names, slices=5):
    """A stack of 32 x 32 slices with a bright square where the mask is."""
    rng, n = np.random.default_rng(0), slices * len(names)
    images, masks = rng.random((n, 1, 32, 32), np.float32) * 0.1, np.zeros((n, 1, 32, 32), np.float32)
    masks[:, :, 10:16, 12:20] = 1
    return Slices(images + masks * 0.8, masks, np.repeat(names, slices), np.tile(np.linspace(0, 1, slices), len(names)))


def lab(train, val):
    """A cohort of these slices."""
    made = Cohort(None, {}, 5)
    made.train, made.val = train, val
    return made


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(rivals, "PASSES", 2)
    spatial = rivals.Arm(lambda lab, seed: rivals.spatial(lab.train, lab.val, seed, RECIPE))
    monkeypatch.setitem(rivals.ARMS, "spatial VAE, detached", spatial)
    monkeypatch.setattr(recipes, "RECIPE", {"latent": 4, "beta": 0.01, "epochs": 1, "copies": 1, "mask_epochs": 1})


@pytest.mark.parametrize("name", list(rivals.ARMS))
def test_a_contestant_answers_for_every_slice(name, tmp_path):
    train, val = patients("a", "b"), patients("c")
    networks = rivals.ARMS[name].fit(lab(train, val), 0)
    p = rivals.predict(networks, val)
    assert p.shape == val.masks.shape and 0 <= p.min() <= p.max() <= 1
    save(tmp_path / "net.safetensors", networks, half=True)
    again = load(tmp_path / "net.safetensors")[0]
    assert rivals.parameters(again) == rivals.parameters(networks)
    np.testing.assert_allclose(rivals.predict(again, val), p, atol=0.02)  # half precision


def test_the_same_seed_gives_the_same_network():
    train, val = patients("a", "b"), patients("c")
    one, two, other = (rivals.ARMS["U-Net"].fit(lab(train, val), seed) for seed in (0, 0, 1))
    assert np.array_equal(rivals.predict(one, val), rivals.predict(two, val))
    assert not np.array_equal(rivals.predict(one, val), rivals.predict(other, val))


def test_the_encoder_learns_nothing_from_the_masks():
    train, val = patients("a", "b"), patients("c")
    moved = train._replace(masks=train.masks[:, :, ::-1].copy())
    ours, theirs = (rivals.spatial(s, val, 0, RECIPE) for s in (train, moved))
    for p, q in zip(ours["vae"].parameters(), theirs["vae"].parameters(), strict=True):
        assert torch.equal(p, q)
    assert not np.array_equal(rivals.predict(ours, val), rivals.predict(theirs, val))


def test_a_contestant_is_trained_once_and_again_when_its_slices_change(tmp_path):
    train, val = patients("a", "b"), patients("c")
    first = rivals.contestant("U-Net", lab(train, val), 0, tmp_path).meta
    (path,) = tmp_path.glob("*.safetensors")
    written = path.stat().st_mtime_ns
    assert rivals.contestant("U-Net", lab(train, val), 0, tmp_path).meta == first
    assert path.stat().st_mtime_ns == written
    rivals.contestant("U-Net", lab(patients("a", "d"), val), 0, tmp_path)
    assert path.stat().st_mtime_ns != written
