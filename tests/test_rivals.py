"""Every contestant trains on whole patients, in memory or not, and answers for every slice; it is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from studies._contestants import checkpoint, contestant
from studies.ladder import CODES
from vaelib import recipes, rivals
from vaelib.cohort import Cohort, Slices
from vaelib.engine.checkpoints import kept, load, save
from vaelib.engine.rows import Rows
from vaelib.latent import decode, encode
from vaelib.rivals import Cut, UNet
from vaelib.spatial import neighbours
from vaelib.training import copies_of, fit, mask_step
from vaelib.vae import VAE, MaskDecoder

SHORT = {"latent": 4, "beta": 0.01, "epochs": 1, "copies": 2, "mask_epochs": 1}
SPATIAL = {"latent": 2, "grid": 8, "epochs": 1, "passes": 1, "blocks": 1, "channels": 4}
ALL = rivals.ARMS | CODES


def patients(*names, slices=5, side=32):
    """Slices with a bright square where the mask is."""
    rng, n, unit = np.random.default_rng(0), slices * len(names), side // 32
    images, masks = rng.random((n, 1, side, side), np.float32) * 0.1, np.zeros((n, 1, side, side), np.float32)
    masks[:, :, 10 * unit : 16 * unit, 12 * unit : 20 * unit] = 1
    return Slices(images + masks * 0.8, masks, np.repeat(names, slices), np.tile(np.linspace(0, 1, slices), len(names)))


def lazily(s):
    """The same slices, read as they are asked for."""
    return s._replace(images=Rows(len(s.images), lambda r: s.images[r]), masks=Rows(len(s.masks), lambda r: s.masks[r]))


def lab_of(train, val):
    """A cohort of these slices."""
    lab = Cohort(Path(), {}, train.size.bit_length() - 1)
    lab.train, lab.val = train, val
    return lab


def tiny(name):
    """An arm that is trained in a moment."""
    arm = ALL[name]
    shorter = {key: value for key, value in (SHORT | SPATIAL).items() if key in arm.recipe}
    shorter |= SHORT if arm.recipe is recipes.RECIPE else {}
    shorter |= {"passes": 2, "network": arm.recipe["network"] | ({"latent": 4} if "latent" in arm.recipe["network"] else
                {"channels": 4})} if "network" in arm.recipe else {}  # fmt: skip
    return arm._replace(recipe=arm.recipe | shorter)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name in ALL:
        monkeypatch.setitem(rivals.ARMS if name in rivals.ARMS else CODES, name, tiny(name))


def arm_of(name):
    return (rivals.ARMS | CODES)[name]


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("name", list(ALL))
def test_a_contestant_works_at_every_level_in_memory_or_not(name, side):
    arm, train, val = arm_of(name), patients("a", "b", slices=3, side=side), patients("c", slices=3, side=side)
    here = arm.method(arm.fit(lab_of(train, val), 0))
    p = here.predict(val)
    assert p.shape == val.masks.shape and p.dtype == np.float32 and 0 <= p.min() <= p.max() <= 1
    unread = here.predict(lazily(val))
    assert isinstance(unread, Rows) and unread.shape == p.shape and unread.dtype == p.dtype
    np.testing.assert_allclose(unread[[2, 0]], p[[2, 0]], atol=1e-6)
    there = arm.method(arm.fit(lab_of(lazily(train), lazily(val)), 0))
    assert rivals.parameters(there.networks) == rivals.parameters(here.networks)
    q = there.predict(val)
    assert q.shape == p.shape and 0 <= q.min() <= q.max() <= 1


@pytest.mark.parametrize("name", list(rivals.ARMS))
def test_a_contestant_answers_for_every_slice_and_comes_back_from_its_file(name, tmp_path):
    arm, lab = arm_of(name), lab_of(patients("a", "b"), patients("c"))
    made = arm.fit(lab, 0)
    method = arm.method(made)
    p = method.predict(lab.val)
    assert p.shape == lab.val.masks.shape and 0 <= p.min() <= p.max() <= 1
    again = arm.method(kept(tmp_path / "net.safetensors", {}, lambda: made, half=True))
    assert rivals.parameters(again.networks) == rivals.parameters(method.networks) > 0
    np.testing.assert_allclose(again.predict(lab.val), p, atol=0.02)  # half precision


def predict(name, lab, seed, s):
    arm = arm_of(name)
    return arm.method(arm.fit(lab, seed)).predict(s)


def test_the_same_seed_gives_the_same_network():
    lab = lab_of(patients("a", "b"), patients("c"))
    one, two, other = (predict("U-Net", lab, seed, lab.val) for seed in (0, 0, 1))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_the_encoder_learns_nothing_from_the_masks():
    train, val = patients("a", "b"), patients("c")
    moved = train._replace(masks=train.masks[:, :, ::-1].copy())
    arm = arm_of("spatial VAE, detached")
    ours, theirs = (arm.method(arm.fit(lab_of(s, val), 0)) for s in (train, moved))
    for p, q in zip(ours.networks["vae"].parameters(), theirs.networks["vae"].parameters(), strict=True):
        assert torch.equal(p, q)
    assert not np.array_equal(ours.predict(val), theirs.predict(val))


def test_neighbours_are_those_of_the_same_patient_whatever_is_asked_for():
    s = patients("a", "b", slices=4)
    net, vae = UNet(4, inputs=3), VAE(32, channels=2, latent=4)
    wide = torch.from_numpy(s.images[:, 0])[:, None]
    expected = decode(net, neighbours(wide, s.patient, 1))
    assert np.array_equal(rivals.EndToEnd({"net": net}).predict(s), expected)
    unread = rivals.EndToEnd({"net": net}).predict(lazily(s))
    np.testing.assert_allclose(unread[[4, 3]], expected[[4, 3]], atol=1e-6)
    mask = MaskDecoder(32, channels=2, latent=4)
    z = torch.from_numpy(encode(vae, s.images)[0])
    assert np.array_equal(rivals.Detached({"vae": vae, "mask": mask}).predict(s), decode(mask, z))
    assert np.array_equal(recipes.predicted(vae, mask, s), decode(mask, z))


def test_a_code_is_scaled_and_read_by_the_decoder_of_this_series():
    """Held against the few lines that the ladder of notebook 05 began with."""
    lab, arm = lab_of(patients("a", "b"), patients("c")), arm_of("PCA, 64 components")
    train, recipe = lab.train, arm.recipe
    pca = PCA(recipe["latent"], svd_solver="randomized", random_state=0).fit(
        train.images.reshape(len(train.images), -1)
    )
    first = pca.transform(train.images.reshape(10, -1))
    mean, deviation = first.mean(0), first.std(0) + 1e-6

    def scaled(x):
        return torch.from_numpy(((pca.transform(x.reshape(len(x), -1)) - mean) / deviation).astype(np.float32))

    pairs = copies_of(train.images, train.masks, recipe["copies"], 0)
    torch.manual_seed(0)
    decoder = MaskDecoder(32, latent=recipe["latent"], prevalence=float(train.masks.mean()))
    z, m = torch.cat([scaled(a.numpy()) for a, _ in pairs]), torch.cat([b for _, b in pairs])
    fit(decoder, mask_step, [z, m], epochs=recipe["mask_epochs"], seed=0)
    assert np.array_equal(predict("PCA, 64 components", lab, 0, lab.val), decode(decoder, scaled(lab.val.images)))


def test_the_ladder_gives_every_code_the_same_decoder():
    lab = lab_of(patients("a", "b", "c"), patients("d"))
    made = [arm.fit(lab, 0) for arm in CODES.values()]
    shapes = [[p.shape for p in one["mask"].parameters()] for one in made]
    assert len(made) == 3 and shapes[0] == shapes[1] == shapes[2]


# --- kept ----------------------------------------------------------------------------------------------------------


def trainings(monkeypatch, name):
    """A list that grows by one whenever this arm is trained."""
    seen, arm = [], arm_of(name)
    monkeypatch.setitem(rivals.ARMS, name, arm._replace(train=lambda *given: seen.append(given) or arm.train(*given)))
    return seen


def test_a_contestant_is_trained_once_and_again_when_its_slices_change(tmp_path, monkeypatch):
    seen = trainings(monkeypatch, "U-Net")
    train, val = patients("a", "b"), patients("c")
    first = contestant("U-Net", lab_of(train, val), 0, tmp_path)
    path = checkpoint("U-Net", 0, tmp_path)
    assert [*tmp_path.glob("*.safetensors")] == [path]
    written, data = path.stat().st_mtime_ns, load(path)[1]["made_by"]["data"]
    again = contestant("U-Net", lab_of(train, val), 0, tmp_path)
    assert again.meta == first.meta and {"threshold", "cpu seconds"} <= {*first.meta}
    assert np.array_equal(again.predict(val), first.predict(val))
    assert path.stat().st_mtime_ns == written and len(seen) == 1
    contestant("U-Net", lab_of(patients("a", "d"), val), 0, tmp_path)
    assert load(path)[1]["made_by"]["data"] != data and len(seen) == 2


@pytest.mark.parametrize("name", list(rivals.ARMS))
def test_each_part_of_a_recipe_is_a_reason_to_train_anew(name, tmp_path):
    """What is trained does not matter here, so nothing is: only how often it was asked for."""
    lab, seen, arms = lab_of(patients("a", "b"), patients("c")), [], rivals.ARMS
    made = arm_of(name).fit(lab, 0)
    arms[name] = arm_of(name)._replace(train=lambda *given: seen.append(given) or made)
    contestant(name, lab, 0, tmp_path)
    contestant(name, lab, 0, tmp_path)
    assert len(seen) == 1
    plain = arms[name]
    for part, value in plain.recipe.items():
        other = {**value, "channels": 8} if isinstance(value, dict) else not value if value is True else value + 1
        arms[name] = plain._replace(recipe=plain.recipe | {part: other})
        before = len(seen)
        contestant(name, lab, 0, tmp_path)
        assert len(seen) == before + 1, f"{part} was changed, and nothing trained"


# --- the U-Net -----------------------------------------------------------------------------------------------------


def test_it_has_as_many_parameters_as_the_vae_and_its_mask_decoder():
    ours = rivals.parameters({"vae": VAE(), "mask": MaskDecoder()})
    assert rivals.parameters({"net": UNet()}) == pytest.approx(ours, rel=0.05)


@torch.no_grad()
def with_bottleneck_held_still(net, x):
    (bottom,) = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == 64]
    hook = bottom.register_forward_hook(lambda module, given, out: torch.ones_like(out))
    try:
        return net.eval()(x)
    finally:
        hook.remove()


def test_with_its_skips_cut_it_has_every_layer_and_no_way_around_the_bottleneck():
    whole, cut = UNet(4), UNet(4, skips=False)
    assert [p.shape for p in whole.parameters()] == [p.shape for p in cut.parameters()]
    assert sum(isinstance(m, Cut) for m in cut.modules()) == 4 and not any(isinstance(m, Cut) for m in whole.modules())
    one, other = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64)
    assert not torch.allclose(with_bottleneck_held_still(whole, one), with_bottleneck_held_still(whole, other))
    assert torch.equal(with_bottleneck_held_still(cut, one), with_bottleneck_held_still(cut, other))


def test_it_starts_near_the_prevalence_and_comes_back_from_a_file(tmp_path):
    torch.manual_seed(0)
    net, x = UNet(4, inputs=3, prevalence=0.004).eval(), torch.rand(2, 3, 64, 64)
    assert 0.002 < torch.sigmoid(net(x)).mean() < 0.008
    save(tmp_path / "net.safetensors", {"net": net})
    assert torch.equal(net(x), load(tmp_path / "net.safetensors", "net")[0]["net"](x))
