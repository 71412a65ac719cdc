"""What is kept is made anew when any part of its recipe, its data, or a network that it reads has changed."""

from types import SimpleNamespace

import numpy as np
import pytest

from studies import sizes, volumes
from vaelib.cohort import Slices
from vaelib.vae import VAE, MaskDecoder


def other(value):
    """A value of the same kind that is not the same."""
    return not value if isinstance(value, bool) else value + 1


def slices(seed=0, side=32):
    rng, shape = np.random.default_rng(seed), (6, 1, side, side)
    images, masks = (rng.random(shape, np.float32) for _ in range(2))
    return Slices(images, masks, np.repeat(["a", "b"], 3), np.tile(np.linspace(0, 1, 3), 2))


@pytest.fixture
def lab():
    made = SimpleNamespace(train=slices(0), val=slices(1), test=slices(2), level=6, shards=None, parts={})
    made.at = lambda level: made
    return made


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What has been trained, by stubs that give untrained networks, each other than all before."""
    names = []

    def stub(name, module, function, networks):
        monkeypatch.setattr(module, function, lambda *args, **how: names.append(name) or networks())

    def vae():
        return VAE(32, channels=2, latent=2)

    def mask():
        return MaskDecoder(32, channels=2, latent=2)

    stub("recurrent", volumes, "train_recurrent", lambda: (mask(), []))
    stub("solid", volumes, "train_cubes", lambda: {"vae": vae(), "mask": mask()})
    stub("three", volumes._equal, "three_slices", mask)
    for name in ("cubes_as_slices", "slices_as_cubes"):
        stub(name, volumes._equal, name, lambda: {"vae": vae(), "mask": mask()})
    stub("cell", sizes, "trained", lambda: {"vae": vae(), "mask": mask(), "scores": {"grey": 0.5}})
    for module in (volumes, sizes):
        monkeypatch.setattr(module, "models_folder", lambda: tmp_path)
    return names


def kept_until(make, made, change, wanted):
    """Make twice, of which once is enough; and anew after a change."""
    make()
    made.clear()
    make()
    assert made == []
    change()
    make()
    assert made == wanted
    make()
    assert made == wanted


@pytest.mark.parametrize("constant", ["COPIES", "MASK_EPOCHS"])
def test_the_recurrent_decoder_by_each_part_of_its_recipe(constant, lab, made, monkeypatch):
    vae = VAE(32, channels=2, latent=2)

    def change():
        monkeypatch.setattr(volumes, constant, other(getattr(volumes, constant)))

    kept_until(lambda: volumes.recurrent(lab, 0, vae), made, change, ["recurrent"])


def test_the_recurrent_decoder_by_the_weights_of_the_vae_whose_latents_it_learned(lab, made):
    vae = VAE(32, channels=2, latent=2)

    def change():
        vae.encoder.mu.bias.data += 1e-6

    kept_until(lambda: volumes.recurrent(lab, 0, vae), made, change, ["recurrent"])


@pytest.mark.parametrize("part", volumes.CUBE)
def test_cubes_by_each_part_of_their_recipe(part, lab, made, monkeypatch):
    def change():
        monkeypatch.setitem(volumes.CUBE, part, other(volumes.CUBE[part]))

    kept_until(lambda: volumes.solid(lab, 0), made, change, ["solid"])


@pytest.mark.parametrize("part", ["copies", "mask_epochs"])
def test_three_slices_by_each_part_of_their_recipe(part, lab, made, monkeypatch):
    vae = VAE(32, channels=2, latent=2)

    def change():
        monkeypatch.setitem(volumes.recipes.RECIPE, part, other(volumes.recipes.RECIPE[part]))

    kept_until(lambda: volumes.three(lab, 0, vae), made, change, ["three"])


SWAPPED = [(volumes.AS_SLICES, volumes.CUBE, part) for part in ("latent", "channels")]
SWAPPED += [(volumes.AS_SLICES, volumes.recipes.RECIPE, part) for part in ("beta", "epochs", "copies", "mask_epochs")]
SWAPPED += [(volumes.AS_CUBES, volumes.CUBE, part) for part in ("beta", "epochs", "mask_epochs")]
SWAPPED += [(volumes.AS_CUBES, volumes.recipes.RECIPE, "latent")]


@pytest.mark.parametrize(("name", "recipe", "part"), SWAPPED)
def test_a_row_with_the_recipe_of_another_by_each_part_of_both(name, recipe, part, lab, made, monkeypatch):
    def change():
        monkeypatch.setitem(recipe, part, other(recipe[part]))

    wanted = ["cubes_as_slices" if name == volumes.AS_SLICES else "slices_as_cubes"]
    kept_until(lambda: volumes.swapped(name, lab, 0), made, change, wanted)


@pytest.mark.parametrize("constant", ["BETA", "GRID", "FOR_VAE"])
def test_a_cell_of_the_sizes_by_each_constant(constant, lab, made, monkeypatch):
    def change():
        value = getattr(sizes, constant)
        monkeypatch.setattr(sizes, constant, value * 2)

    kept_until(lambda: sizes.cell((6, "spatial", 1024), lab, 0.1), made, change, ["cell"])


def test_a_cell_of_the_sizes_by_the_images_that_it_is_to_see(lab, made):
    asked = {"VAE": 64, "mask": 64}

    def change():
        asked["mask"] = 128

    kept_until(lambda: sizes.cell((6, "spatial", 1024), lab, 0.1, images=asked), made, change, ["cell"])


@pytest.mark.parametrize("part", ["images", "masks", "patient"])
def test_all_of_them_by_their_data(part, lab, made):
    def make():
        volumes.solid(lab, 0)
        sizes.cell((6, "spatial", 1024), lab, 0.1)

    def change():
        changed = getattr(lab.train, part).copy()
        changed[0] = changed[-1]
        lab.train = lab.train._replace(**{part: changed})

    kept_until(make, made, change, ["solid", "cell"])


def test_a_cell_of_the_sizes_by_the_patients_that_it_is_scored_on(lab, made):
    def change():
        lab.test = slices(3)

    kept_until(lambda: sizes.cell((6, "spatial", 1024), lab, 0.1), made, change, ["cell"])


def test_a_damaged_file_is_named_and_made_anew(lab, made, tmp_path):
    volumes.solid(lab, 0)
    path = volumes.place(volumes.CUBES, 0)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=path.name):
        volumes.solid(lab, 0)
    assert made == ["solid", "solid"] and path.is_relative_to(tmp_path)
