"""The arms of the controls: what a label may shape, what their codes are, and the loop that trains them all."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from studies import _arms
from studies._arms import ARMS, Reader, Scaled, build, labelled, train, unlabelled, with_neighbours
from vaelib.cohort import Slices
from vaelib.latent import decode
from vaelib.rivals import UNet, parameters
from vaelib.spatial import ResidualVAE
from vaelib.training import augment
from vaelib.vae import VAE, VAEOutput


def slices(*names, count=4, seed=0):
    """Noisy slices of 64 pixels with a bright square where the mask is."""
    rng, n = np.random.default_rng(seed), count * len(names)
    masks = np.zeros((n, 1, 64, 64), np.float32)
    masks[:, :, 20:32, 24:40] = 1
    images = (0.3 * rng.random(masks.shape, np.float32) + 0.5 * masks).astype(np.float32)
    return Slices(images, masks, np.repeat(names, count), np.tile(np.linspace(0, 1, count), len(names)))


@pytest.fixture(scope="module")
def s():
    return slices("a", "b")


def vae_of(seed=0):
    """An untrained VAE, as an arm reads one that is trained."""
    torch.manual_seed(seed)
    return ResidualVAE(64, latent=_arms.NUMBERS, grid=_arms.GRID)


def made(name, s, seed=0):
    """The network of an arm, with what it needs beside it."""
    arm = ARMS[name]
    return build(
        arm, s, seed, vae_of() if arm.code == "vae" else None, vae_of(1) if "mask latent" in arm.options else None
    )


def options_of(name):
    """What the loss of an arm is made with."""
    return {"joint": ARMS[name].options["beta"]} if "joint" in ARMS[name].options else {}


def gradients(net):
    """The sizes of the gradients of a network's weights, None where there is none."""
    return {name: None if p.grad is None else float(p.grad.abs().sum()) for name, p in net.named_parameters()}


# --- every arm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_turns_three_slices_into_the_logits_of_one_and_labels_reach_what_they_may_shape(name, s):
    model, arm = made(name, s), ARMS[name]
    x = with_neighbours(s)[:3]
    model.train()
    logits = model(x)
    assert logits.shape == (3, 1, 64, 64) and logits.isfinite().all()
    data = [x, torch.from_numpy(s.masks[:3])]
    loss = labelled(jittered=True, overlap=True, **options_of(name))(model, data, 0.5)
    assert loss.shape == () and loss.isfinite()
    loss.backward()
    if not isinstance(model, Reader):
        assert arm.shaped and all(size is not None for size in gradients(model).values())
        return
    of_code, of_head = gradients(model.code), gradients(model.head)
    if arm.shaped:
        assert sum(size or 0 for size in of_code.values()) > 0
    else:
        assert set(of_code.values()) <= {None}, "not a zero, but none at all"
        assert not any(p.requires_grad for p in model.code.parameters())
    assert max(size or 0 for size in of_head.values()) > 0


@pytest.mark.parametrize("name", ARMS)
def test_training_leaves_a_frozen_code_as_it_was_and_changes_one_that_labels_shape(name, s):
    model, arm = made(name, s), ARMS[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = [with_neighbours(s), torch.from_numpy(s.masks)]
    train(model, labelled(jittered=False, overlap=False, **options_of(name)), data, steps=2, seed=0, batch=2, lr=1e-2)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith(("code.centre", "code.spread")) for key in changed)
    if isinstance(model, Reader):
        assert any(key.startswith("code.") for key in changed) == arm.shaped
        assert any(key.startswith("head.") for key in changed)


def test_the_same_decoder_reads_every_code_of_16_x_16_places(s):
    heads = {}
    for name in ARMS:
        model = made(name, s)
        if isinstance(model, Reader) and "mask latent" not in ARMS[name].options:
            z = model.code(torch.from_numpy(s.images))
            assert z.shape[2:] == (16, 16), name
            shapes = {key: tuple(p.shape) for key, p in model.head.named_parameters()}
            first = shapes.pop("stages.0.0.weight")
            assert first[1] == 3 * z.shape[1]
            heads[name] = shapes
    assert len(heads) == len(ARMS) - 3 and all(shapes == heads["patch PCA"] for shapes in heads.values())


def test_arms_of_one_seed_begin_with_the_same_weights_and_other_seeds_with_others(s):
    def weights(name, seed):
        return torch.cat([p.detach().flatten() for p in made(name, s, seed).parameters()])

    for name in ("patch PCA", "same network, from labels", "U-Net, residual units"):
        assert torch.equal(weights(name, 1), weights(name, 1)) and not torch.equal(weights(name, 1), weights(name, 2))


def test_before_training_every_pixel_is_as_likely_as_the_prevalence(s):
    prevalence = float(s.masks.mean())
    found = decode(made("lossless pixels", s), with_neighbours(s), batch_size=3)
    assert found.shape == s.masks.shape and 0 < found.min() and found.max() < 1
    assert np.median(found) == pytest.approx(prevalence, rel=0.5)


# --- codes -------------------------------------------------------------------------------------------------------


CODES = {
    "a grid": lambda: nn.Conv2d(1, 3, 4, 4),
    "a vector": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 5)),
    "an encoder, of which mu": lambda: VAE(64, latent=4).encoder,
    "pixels": lambda: nn.PixelUnshuffle(4),
}


@pytest.mark.parametrize("kind", CODES)
def test_a_scaled_code_has_mean_0_and_variance_1(kind):
    torch.manual_seed(0)
    images = torch.rand(300, 1, 64, 64) * 3 + 5  # more than one part of 256
    code = Scaled(CODES[kind](), images)
    with torch.no_grad():
        z = code(images).transpose(0, 1).flatten(1).double()
    assert z.mean(1).abs().max() < 1e-3
    np.testing.assert_allclose(z.var(1), 1, rtol=2e-3)
    assert set(dict(code.named_buffers())) == {"centre", "spread"}, "they are kept with the weights"


def test_of_mu_and_logvar_the_code_is_mu():
    encoder, x = vae_of().encoder, torch.rand(4, 1, 64, 64)
    code = Scaled(encoder, x)
    mu = encoder(x)[0]
    wanted = (mu - mu.mean((0, 2, 3), keepdim=True)) / mu.std((0, 2, 3), keepdim=True)
    torch.testing.assert_close(code(x), wanted, rtol=1e-3, atol=1e-4)


def tiles_of(images):
    """Squares of 4 x 4 pixels, one row each, by plain loops: (N * 16 * 16, 16)."""
    rows = [a[0, y : y + 4, x : x + 4].ravel() for a in images for y in range(0, 64, 4) for x in range(0, 64, 4)]
    return np.stack(rows)


def test_patches_are_the_principal_components_of_scikit_learn():
    images = np.random.default_rng(0).random((6, 1, 64, 64), np.float32)
    images[:, :, ::2] += images[:, :, 1::2]  # so that no two components are alike
    net = _arms.patches(torch.from_numpy(images), 5)
    tiles = tiles_of(images)
    wanted = PCA(5, svd_solver="full").fit(tiles)
    with torch.no_grad():
        found = net(torch.from_numpy(images)).permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    centred = found - found.mean(0)  # the centre is taken off by `Scaled`
    np.testing.assert_allclose(centred, wanted.transform(tiles), atol=1e-4)
    variance = wanted.explained_variance_
    np.testing.assert_allclose(centred.var(0, ddof=1), variance, rtol=1e-3)
    scaled = Scaled(net, torch.from_numpy(images))
    with torch.no_grad():
        whitened = scaled(torch.from_numpy(images)).permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    np.testing.assert_allclose(whitened, wanted.transform(tiles) / np.sqrt(variance), atol=2e-3)


def test_lossless_pixels_lose_nothing_and_pooling_averages(s):
    x = torch.from_numpy(s.images)
    code = made("lossless pixels", s).code
    with torch.no_grad():
        back = nn.functional.pixel_shuffle(code(x) * code.spread + code.centre, 4)
        torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
        code = made("average pooling", s).code
        pooled = code(x) * code.spread + code.centre
    np.testing.assert_allclose(pooled, s.images.reshape(-1, 1, 16, 4, 16, 4).mean((3, 5)), atol=1e-5)


def test_masking_blacks_out_whole_patches_about_half_of_them():
    torch.manual_seed(3)
    x = torch.rand(50, 1, 64, 64) + 0.1
    found = _arms.masked(x)
    left = (found != 0).reshape(50, 8, 8, 8, 8).transpose(2, 3).reshape(50, 64, 64).float().mean(-1)
    assert set(left.unique().tolist()) == {0, 1}, "a patch is there as a whole, or not at all"
    assert torch.equal(found[found != 0], x[found != 0])
    share = float(left.mean())
    assert share == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(50 * 64))
    assert not torch.equal(left[0], left[1]), "each slice has its own"
    assert not torch.equal(_arms.masked(x), found), "and each time another"


def test_only_the_centre_slice_is_reconstructed_in_joint_training_and_its_encoder_is_registered_once(s):
    model = made("VAE and mask together", s)
    names = [*model.state_dict()]
    weights = [p for name, p in model.named_parameters(remove_duplicate=False)]
    assert len({id(p) for p in weights}) == len(weights) and not any(name.startswith("vae.") for name in names)
    assert model.vae.encoder is model.code.net and model.vae.decoder is model.picture
    alone = parameters({"net": made("same network, from labels", s)})
    assert parameters({"net": model}) == alone + parameters({"decoder": model.picture})
    seen = []
    real = model.vae.forward
    model.vae.forward = lambda x: seen.append(x) or real(x)
    data = [with_neighbours(s)[:2], torch.from_numpy(s.masks[:2])]
    loss = labelled(jittered=False, overlap=False, joint=1e-3)(model, data, 1.0)
    assert [tuple(x.shape) for x in seen] == [(2, 1, 64, 64)]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters()), "the pictures' decoder learns too"


def test_a_frozen_decoder_draws_the_mask_from_the_latent_that_is_mapped(s):
    masks = vae_of(1)
    model = build(ARMS["latent to mask latent"], s, 0, vae_of(), masks)
    assert model.head[-1] is masks.decoder and not any(p.requires_grad for p in masks.decoder.parameters())
    z = []
    model.head[-1].register_forward_hook(lambda net, given, out: z.append(given[0]))
    model(with_neighbours(s)[:2]).sum().backward()
    assert z[0].shape == (2, _arms.NUMBERS, _arms.GRID, _arms.GRID)
    learned = {name.split(".")[0] for name, p in model.head.named_parameters() if p.grad is not None}
    assert len(learned) == len([m for m in model.head[:-1] if [*m.parameters()]]), "every layer of the map learns"


# --- the U-Net with residual units -------------------------------------------------------------------------------


def test_a_residual_unet_has_two_residual_units_skips_and_no_transposed_convolution():
    from monai.networks.blocks.convolutions import ResidualUnit
    from monai.networks.layers.simplelayers import SkipConnection

    torch.manual_seed(0)
    net, plain = _arms.residual_unet(3, 0.01), UNet(inputs=3)
    assert not [m for m in net.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert sum(isinstance(m, nn.Upsample) for m in net.modules()) == 4
    assert sum(isinstance(m, SkipConnection) for m in net.modules()) == 4
    units = [m for m in net.modules() if isinstance(m, ResidualUnit)]
    assert len(units) == 9
    down = [sum(isinstance(m, nn.Conv2d) for m in unit.conv.modules()) for unit in units]
    assert down.count(2) == 5 and down.count(1) == 4  # on the way down two, on the way up one after the convolution
    assert 0.8e6 < parameters({"net": net}) < parameters({"net": plain}) < 1.1e6


def test_a_skip_of_the_residual_unet_carries_what_the_lowest_level_does_not(s):
    torch.manual_seed(0)
    net, x = _arms.residual_unet(3, 0.01).eval(), with_neighbours(s)[:1].requires_grad_()
    net(x)[0, 0, 30, 30].backward()
    near = x.grad[0, :, 24:37, 24:37].abs().sum() / x.grad.abs().sum()
    assert near > 2 * 13**2 / 64**2, "a pixel looks most at what is about it, which the lowest level cannot tell apart"


def test_a_residual_unet_begins_at_the_prevalence():
    torch.manual_seed(0)
    net = _arms.residual_unet(3, 0.02).eval()
    with torch.no_grad():
        found = torch.sigmoid(net(torch.rand(4, 3, 64, 64)))
    assert 0.005 < float(found.median()) < 0.08


# --- losses ------------------------------------------------------------------------------------------------------


def test_the_dice_loss_over_the_batch_is_added_and_weighted():
    torch.manual_seed(0)
    x, m = torch.rand(3, 3, 64, 64), (torch.rand(3, 1, 64, 64) > 0.7).float()
    net = nn.Conv2d(3, 1, 3, padding=1)
    losses = []
    for overlap in (False, True):
        torch.manual_seed(1)
        losses.append(labelled(jittered=False, overlap=overlap)(net, [x, m], 0).item())
    torch.manual_seed(1)
    moved, mask = augment(x, m)
    with torch.no_grad():
        logits = net(moved).double()
    p, mask = torch.sigmoid(logits), mask.double()
    entropy = -(mask * p.log() + (1 - mask) * (1 - p).log()).sum() / 3
    dice = 1 - 2 * (p * mask).sum() / (p.sum() + mask.sum())
    assert losses[0] == pytest.approx(float(entropy), rel=1e-4)
    assert losses[1] - losses[0] == pytest.approx(_arms.OVERLAP * float(dice), rel=1e-3)


@pytest.mark.parametrize("seen", ["plain", "jittered", "masked"])
def test_whatever_a_vae_is_shown_it_has_to_draw_the_slice(seen, s):
    class Echo(nn.Module):
        def forward(self, x):
            self.shown = x
            return VAEOutput(torch.zeros_like(x), torch.zeros(len(x), 2), torch.zeros(len(x), 2), None)

    net, x = Echo(), torch.from_numpy(s.images)
    torch.manual_seed(4)
    loss = unlabelled(1e-3, seen=seen)(net, [x], 1.0).item()
    torch.manual_seed(4)
    (moved,) = augment(x)
    assert loss == pytest.approx(float(0.5 * (moved**2).sum() / len(x)), rel=1e-5)
    assert torch.equal(net.shown, moved) == (seen == "plain")


def test_an_autoencoder_cannot_make_its_code_larger_than_the_noise():
    """Its decoder reads the code scaled: the loss is the same whatever the encoder's numbers are multiplied by."""
    net, x = vae_of(), torch.rand(4, 1, 64, 64)

    def loss():
        torch.manual_seed(2)
        return unlabelled(None, noise=0.3)(net, [x], 1.0).item()

    first = loss()
    with torch.no_grad():
        net.encoder.cascade[-1].weight *= 50
        net.encoder.cascade[-1].bias *= 50
    assert loss() == pytest.approx(first, rel=1e-3)


# --- the loop ----------------------------------------------------------------------------------------------------


def small(seed=0):
    """A network, its loss on pairs, and pairs."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
    x = torch.rand(40, 1, 8, 8)
    noisy = lambda model, batch, progress: ((model(batch[0] + torch.randn(())) - batch[1]) ** 2).mean()  # noqa: E731
    return net, noisy, [x, 2 * x]


def trained(steps, seed=3, every=10, lr=1e-2):
    net, losses, data = small()

    def look():
        assert not net.training
        with torch.no_grad():
            return {"error": float(((net(data[0]) - data[1]) ** 2).mean())}

    curve = train(net, losses, data, steps=steps, seed=seed, batch=4, lr=lr, look=look, every=every)
    return net, curve


def test_the_same_seed_gives_the_same_weights_to_the_last_bit():
    (one, curve), (two, again), (other, _) = trained(30), trained(30), trained(30, seed=4)
    assert curve == again and [point["steps"] for point in curve] == [10, 20, 30]
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not one.training


def test_a_longer_run_begins_with_the_same_curve():
    short, long = trained(40)[1], trained(80)[1]
    assert [p["steps"] for p in short] == [10, 20, 30, 40] and [p["steps"] for p in long] == [*range(10, 90, 10)]
    assert short[:3] == long[:3] and short[3] != long[3]


def test_the_end_is_looked_at_wherever_it_lies():
    assert [p["steps"] for p in trained(25)[1]] == [10, 20, 25] and [p["steps"] for p in trained(7)[1]] == [7]


def test_the_learning_rate_rises_stays_and_falls_to_nothing(monkeypatch):
    rates = []
    real = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or real(self))
    trained(400, lr=1e-3)
    rates = np.array(rates) / 1e-3
    np.testing.assert_allclose(rates[:100], np.arange(1, 101) / 100)
    np.testing.assert_allclose(rates[100:300], 1)
    np.testing.assert_allclose(rates[300:], 1 - np.arange(100) / 100)


def test_progress_goes_from_nothing_to_nearly_one_and_rows_of_a_batch_belong_together():
    seen, data = [], [torch.arange(50.0), torch.arange(50.0) * 2]
    net = nn.Linear(1, 1)

    def losses(model, batch, progress):
        assert torch.equal(batch[1], 2 * batch[0]) and len(batch[0]) == 6
        seen.append(progress)
        return model(batch[0][:, None]).square().mean()

    train(net, losses, data, steps=4, seed=0, batch=6, lr=1e-3)
    assert seen == [0, 0.25, 0.5, 0.75]


def test_a_loss_that_is_not_finite_stops_it_before_a_weight_is_touched():
    net, _, data = small()
    before = [p.clone() for p in net.parameters()]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError, match=r"step 0: the loss is (nan|inf|-inf); lower the learning rate"):
            train(net, lambda m, b, p, bad=bad: m(b[0]).sum() * bad, data, steps=3, seed=0, batch=4, lr=1e-2)
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))
    data[0][:] = float("nan")
    with pytest.raises(FloatingPointError):
        train(net, lambda m, b, p: m(b[0]).mean(), data, steps=3, seed=0, batch=4, lr=1e-2)


def test_neighbours_are_of_the_same_patient():
    s = slices("a", "b", count=3)
    images = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones_like(s.images)
    found = with_neighbours(s._replace(images=images))
    wanted = [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 5], [4, 5, 5]]
    assert found.shape == (6, 3, 64, 64) and found[:, :, 7, 9].tolist() == wanted
    assert with_neighbours(s, 0).shape == (6, 1, 64, 64)
