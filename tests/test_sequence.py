import numpy as np
import pytest
import torch

from studies.volumes import train_cubes
from vaelib import InputError, sequence
from vaelib.cohort import Slices
from vaelib.engine import checkpoints
from vaelib.losses import mask_loss
from vaelib.sequence import Cubes, Recurrent, SequenceDecoder, from_cube, receptive_field, resample, to_cube
from vaelib.training import augment
from vaelib.vae import VAE


def decoder(mixing=True):
    torch.manual_seed(0)
    net = SequenceDecoder(32, channels=2, latent=6, hidden=5).eval()
    if mixing:  # as if trained: at first the neighbours have no say
        torch.nn.init.normal_(net.join.weight)
    return net


def test_the_mask_loss_gives_the_encoder_a_gradient_of_exactly_none():
    x = torch.rand(7, 1, 32, 32)
    vae, net = VAE(32, channels=2, latent=6), decoder()
    mask_loss(net(vae(x).z, [3, 4]), (x > 0.9).float()).backward()
    assert all(p.grad is None for p in vae.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_before_training_the_neighbours_have_no_say():
    net, z = decoder(mixing=False), torch.randn(5, 6)
    assert torch.equal(net.context(z), z)


def test_after_it_every_slice_of_the_patient_has():
    net, z = decoder(), torch.randn(5, 6)
    changed = z.clone()
    changed[4] += 1
    assert (net.context(z)[0] != net.context(changed)[0]).any()  # read from above,
    changed = z.clone()
    changed[0] += 1
    assert (net.context(z)[4] != net.context(changed)[4]).any()  # and from below


def test_no_patient_hears_of_another():
    net, z = decoder(), torch.randn(9, 6)
    together = net(z, [2, 4, 3])
    alone = torch.cat([net(part) for part in z.split([2, 4, 3])])
    torch.testing.assert_close(together, alone)


def test_the_order_of_the_slices_matters():
    net, z = decoder(), torch.randn(6, 6)
    assert not torch.allclose(net(z.flip(0)).flip(0), net(z))


def test_counts_that_do_not_add_up_are_refused():
    with pytest.raises(InputError, match=r"5 latents for patients of \[2, 4\] slices, 6 in all: pass every slice"):
        decoder()(torch.randn(5, 6), [2, 4])


def test_a_checkpoint_brings_it_back(tmp_path):
    net, z = decoder(), torch.randn(5, 6)
    networks, _ = checkpoints.load(checkpoints.save(tmp_path / "a.safetensors", {"mask": net}), "mask")
    assert torch.equal(networks["mask"](z), net(z))


@pytest.mark.parametrize("size", [32, 64])
def test_the_receptive_field_is_what_a_gradient_says(size):
    torch.manual_seed(0)
    x = torch.rand(1, 1, 2 * size, 2 * size, requires_grad=True)  # twice as large, so that no border cuts it
    cascade = VAE(size, channels=2, latent=3).encoder.cascade[:-1]
    middle = cascade(x)[0, :, 3, 3].sum()
    middle.backward()
    seen = x.grad[0, 0].abs().sum(0).nonzero()
    assert int(seen.max() - seen.min()) + 1 == receptive_field(size)


def test_a_cube_keeps_both_ends_and_comes_back():
    ramp = torch.linspace(0, 1, 44)[:, None, None].expand(44, 32, 32)[None]
    cube = to_cube(ramp, 32)
    assert cube.shape == (1, 32, 32, 32)
    assert cube[0, 0].max() == 0 and cube[0, -1].min() == 1
    torch.testing.assert_close(from_cube(cube, 44), ramp)


def test_resampling_leaves_each_slice_in_its_plane():
    x = torch.rand(2, 24, 32, 32)
    torch.testing.assert_close(resample(x, 24), x)
    torch.testing.assert_close(resample(x, 47)[:, ::2], x)  # every second one is an old one


def test_a_volume_thinner_than_the_receptive_field_is_told_what_would_fit():
    with pytest.raises(InputError, match=r"has 40 slices and a cube of 64 needs 46.*fit is size=32 \(needs 22\)"):
        to_cube(torch.rand(1, 40, 64, 64), 64)
    with pytest.raises(InputError, match=r"has 21 slices and a cube of 32 needs 22.*fit is the 2D model"):
        to_cube(torch.rand(1, 21, 32, 32), 32)
    assert to_cube(torch.rand(1, 22, 32, 32), 32).shape == (1, 32, 32, 32)


def test_slices_of_another_size_are_refused():
    with pytest.raises(InputError, match=r"\(64, 64\) pixels do not fit a cube of 32: take the level of 32"):
        to_cube(torch.rand(1, 40, 64, 64), 32)


# --- whole patients, trained and read ---------------------------------------------------------------------------------


def stack(slices=(24, 30), side=32, seed=0):
    """Patients of noise, each with a block of pancreas in its middle."""
    rng, n = np.random.default_rng(seed), sum(slices)
    masks = np.zeros((n, 1, side, side), np.float32)
    masks[5:15, :, 10:20, 8:24] = 1
    masks[30:45, :, 10:20, 8:24] = 1
    names = np.repeat([f"P{k}" for k in range(len(slices))], slices)
    position = np.concatenate([np.linspace(0, 1, k) for k in slices])
    return Slices(rng.random((n, 1, side, side), dtype=np.float32), masks, names, position)


def test_all_slices_of_a_patient_are_moved_alike():
    s = stack()
    s = s._replace(masks=np.broadcast_to(s.masks[7], s.masks.shape).copy())  # the same mask on every slice
    z, masks, counts = sequence.sequences(VAE(32, channels=2, latent=4), s, copies=3)
    assert z.shape == (6, 30, 4) and masks.shape == (6, 30, 1, 32, 32) and counts.tolist() == [24, 30] * 3
    for mask, count in zip(masks, counts, strict=True):
        torch.testing.assert_close(mask[:count], mask[:1].expand(count, 1, 32, 32))
        assert not mask[count:].any()
    assert not torch.equal(masks[1], masks[3])


def test_what_was_padded_does_not_count():
    net, vae = SequenceDecoder(32, channels=2, latent=4), VAE(32, channels=2, latent=4)
    z, masks, counts = sequence.sequences(vae, stack())
    loss = sequence.sequence_step(net, (z, masks, counts), 0)["total"]
    z[0, 24:], masks[0, 24:] = 7, 1
    torch.testing.assert_close(sequence.sequence_step(net, (z, masks, counts), 0)["total"], loss)


def test_a_patient_is_read_alone():
    s, vae, net = stack(), VAE(32, channels=2, latent=4), SequenceDecoder(32, channels=2, latent=4)
    torch.nn.init.normal_(net.join.weight)
    last = Slices(*(a[24:] for a in s))
    np.testing.assert_allclose(Recurrent(vae, net).predict(s)[24:], Recurrent(vae, net).predict(last), atol=1e-5)


def test_smoothing_stays_within_a_patient_and_keeps_what_there_is():
    s = stack()
    soft = sequence.smooth(s.masks, s.patient)
    assert soft[4].max() > 0 and soft[24:28].max() < 0.02  # the block of the second patient begins at slice 30
    edge = np.zeros_like(s.masks)
    edge[23] = 1  # the last slice of the first patient
    assert not sequence.smooth(edge, s.patient)[24:].any()
    np.testing.assert_allclose(soft[:24].sum(), s.masks[:24].sum(), rtol=1e-4)


def test_cubes_move_with_their_masks_and_keep_head_up():
    x, m = sequence.cubes(stack())
    assert x.shape == m.shape == (2, 1, 32, 32, 32)
    torch.manual_seed(0)
    moved, mask = augment(m, m)
    torch.testing.assert_close(moved, mask)
    assert not torch.allclose(mask, m) and 0.4 < mask.sum() / m.sum() < 2.5
    ramp = torch.linspace(0, 1, 32)[None, None, :, None, None].expand(2, 1, 32, 32, 32)
    assert (augment(ramp)[0].diff(dim=2) >= -1e-6).all()  # never upside down


def test_a_3d_model_answers_on_the_slices_of_each_patient():
    recipe = {"channels": 2, "latent": 4, "beta": 0.01, "epochs": 1, "mask_epochs": 1}
    s = stack()
    networks = train_cubes(s, recipe=recipe)
    assert Cubes(**networks).predict(s).shape == s.masks.shape
