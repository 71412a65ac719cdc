import numpy as np
import pytest
import torch

from studies import _equal, volumes
from vaelib.cohort import Slices
from vaelib.latent import encode
from vaelib.training import augment
from vaelib.vae import VAE

RECIPE = {"beta": 0.01, "epochs": 1, "mask_epochs": 1, "copies": 2}


@pytest.fixture
def train():
    rng = np.random.default_rng(0)
    images, masks = rng.random((2, 50, 1, 32, 32), np.float32)
    return Slices(
        images, (masks > 0.9).astype(np.float32), np.repeat(["a", "b"], 25), np.tile(np.linspace(0, 1, 25), 2)
    )


def test_a_cube_moved_in_its_plane_is_moved_as_its_slices_are_all_alike():
    cube = torch.rand(2, 1, 5, 32, 32)
    torch.manual_seed(0)
    moved, again = _equal.in_plane(cube, cube)
    torch.manual_seed(0)
    slices = augment(cube[:, 0], cube[:, 0])[0]  # (2, 5, 32, 32): the levels are its channels
    assert torch.equal(moved[:, 0], slices) and torch.equal(again, moved) and moved.shape == cube.shape


def test_three_slices_are_joined_for_prediction_as_they_were_in_training(train, monkeypatch):
    vae, seen = VAE(32, channels=2, latent=3), []
    monkeypatch.setattr(
        _equal.recipes, "train_on_codes", lambda mask, code, s, **how: seen.append(code(torch.tensor(s.images)))
    )
    mask = _equal.three_slices(vae, train, copies=1, mask_epochs=1, seed=0)
    z = encode(vae, train.images)[0]
    assert seen[0].shape == (50, 9) and np.allclose(seen[0][7], z[[6, 7, 8]].ravel(), atol=1e-6)
    assert np.allclose(seen[0][25], z[[25, 25, 26]].ravel(), atol=1e-6)  # nothing comes from the patient below
    with torch.no_grad():
        answer = torch.sigmoid(mask.eval()(torch.tensor(seen[0])))
    assert np.allclose(_equal.predict_three(vae, mask, train), answer, atol=1e-5)


def test_recipes_are_swapped_and_shapes_are_not(train):
    cube = _equal.cubes_as_slices(train, channels=2, latent=5, seed=0, recipe=RECIPE)
    flat = _equal.slices_as_cubes(train, latent=3, seed=0, recipe=RECIPE)
    assert cube["vae"].config == cube["mask"].config == {"size": 32, "channels": 2, "latent": 5, "dims": 3}
    assert flat["vae"].config["dims"] == 2 and flat["mask"].config["latent"] == 3


@pytest.mark.parametrize("part", ["values of all seeds", "first seed alone"])
def test_a_gap_is_between_what_both_rows_have(part):
    rows = {"a": [[0.5, 0.7], [0.7, 0.9]], "b": [[0.1, 0.3]]}
    rows["b"] += [[0.2, 0.2]] if part == "values of all seeds" else []
    arms = {n: {"dice": {"values": np.mean(v, 0).tolist(), "seeds": np.mean(v, 1)}} for n, v in rows.items()}
    found = volumes.gap("dice", arms, rows, "a", "b")
    wanted = np.mean(np.mean(rows["a"][: len(rows["b"])], 0) - np.mean(rows["b"], 0))
    assert found["mean"] == pytest.approx(wanted) and found["seeds"] == len(rows["b"])
