"""Every contestant trains on whole patients and answers for every slice of them; its score can be had again."""

from functools import partial

import numpy as np
import pytest
import torch

from studies import against, board
from vaelib import rivals
from vaelib.cohort import Slices
from vaelib.engine.checkpoints import load, save

SHORT = {"latent": 4, "beta": 0.01, "epochs": 1, "copies": 1, "mask_epochs": 1}
RECIPE = rivals.SPATIAL | {"latent": 2, "grid": 8, "epochs": 1, "passes": 1, "blocks": 1, "channels": 4}


def patients(*names, slices=5):
    """A stack of 32 x 32 slices with a bright square where the mask is."""
    rng, n = np.random.default_rng(0), slices * len(names)
    images, masks = rng.random((n, 1, 32, 32), np.float32) * 0.1, np.zeros((n, 1, 32, 32), np.float32)
    masks[:, :, 10:16, 12:20] = 1
    return Slices(images + masks * 0.8, masks, np.repeat(names, slices), np.tile(np.linspace(0, 1, slices), len(names)))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(rivals, "PASSES", 2)
    monkeypatch.setitem(rivals.ARMS, "spatial VAE, detached", partial(rivals.spatial, recipe=RECIPE))
    monkeypatch.setattr(
        rivals.pipeline, "RECIPE", {"latent": 4, "beta": 0.01, "epochs": 1, "copies": 1, "mask_epochs": 1}
    )


@pytest.mark.parametrize("name", list(rivals.ARMS))
def test_a_contestant_answers_for_every_slice(name, tmp_path):
    train, val = patients("a", "b"), patients("c")
    networks = rivals.ARMS[name](train, val, 0)
    p = rivals.predict(networks, val)
    assert p.shape == val.masks.shape and 0 <= p.min() <= p.max() <= 1
    save(tmp_path / "net.safetensors", networks, half=True)
    again = load(tmp_path / "net.safetensors")[0]
    assert rivals.parameters(again) == rivals.parameters(networks)
    np.testing.assert_allclose(rivals.predict(again, val), p, atol=0.02)  # half precision


def test_the_same_seed_gives_the_same_network():
    train, val = patients("a", "b"), patients("c")
    one, two, other = (rivals.ARMS["U-Net"](train, val, seed) for seed in (0, 0, 1))
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
    _, first = against.contestant("U-Net", train, val, 0, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    written = path.stat().st_mtime_ns
    assert against.contestant("U-Net", train, val, 0, tmp_path)[1] == first
    assert path.stat().st_mtime_ns == written
    _, second = against.contestant("U-Net", patients("a", "d"), val, 0, tmp_path)
    assert second["data"] != first["data"]


def test_scores_are_summed_up_over_patients_and_not_over_seeds():
    values = np.array([[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]])
    made = against.summary(values)
    assert made["mean"] == pytest.approx(0.5) and made["low"] >= 0.3 and made["high"] <= 0.7
    assert list(made["seeds"]) == pytest.approx([0.4, 0.6]) and list(made["values"]) == pytest.approx([0.3, 0.5, 0.7])
    assert against.paired(values, values)["low"] == 0


def test_a_section_takes_the_place_of_the_old_one_and_leaves_the_others(tmp_path):
    file = tmp_path / "results.json"
    assert board.get("one", file) == {}
    board.put("one", {"a": np.float32(0.123456)}, file)
    board.put("two", {"b": [np.int64(3), float("inf")]}, file)
    board.put("one", {"a": np.array([0.5])}, file)
    assert board.get("one", file) == {"a": [0.5]} and board.get("two", file) == {"b": [3, None]}
