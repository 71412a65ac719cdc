import numpy as np
import torch

from studies import volumes
from vaelib.cohort import Slices
from vaelib.sequence import SequenceDecoder
from vaelib.training import augment
from vaelib.vae import VAE


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
    z, masks, counts = volumes.sequences(VAE(32, channels=2, latent=4), s, copies=3)
    assert z.shape == (6, 30, 4) and masks.shape == (6, 30, 1, 32, 32) and counts.tolist() == [24, 30] * 3
    for mask, count in zip(masks, counts, strict=True):
        torch.testing.assert_close(mask[:count], mask[:1].expand(count, 1, 32, 32))
        assert not mask[count:].any()
    assert not torch.equal(masks[1], masks[3])


def test_what_was_padded_does_not_count():
    net, vae = SequenceDecoder(32, channels=2, latent=4), VAE(32, channels=2, latent=4)
    z, masks, counts = volumes.sequences(vae, stack())
    loss = volumes.sequence_step(net, (z, masks, counts), 0)["total"]
    z[0, 24:], masks[0, 24:] = 7, 1
    torch.testing.assert_close(volumes.sequence_step(net, (z, masks, counts), 0)["total"], loss)


def test_a_patient_is_read_alone():
    s, vae, net = stack(), VAE(32, channels=2, latent=4), SequenceDecoder(32, channels=2, latent=4)
    torch.nn.init.normal_(net.join.weight)
    last = Slices(*(a[24:] for a in s))
    np.testing.assert_allclose(volumes.read(net, vae, s)[24:], volumes.read(net, vae, last), atol=1e-5)


def test_smoothing_stays_within_a_patient_and_keeps_what_there_is():
    s = stack()
    soft = volumes.smooth(s.masks, s.patient)
    assert soft[4].max() > 0 and soft[24:28].max() < 0.02  # the block of the second patient begins at slice 30
    edge = np.zeros_like(s.masks)
    edge[23] = 1  # the last slice of the first patient
    assert not volumes.smooth(edge, s.patient)[24:].any()
    np.testing.assert_allclose(soft[:24].sum(), s.masks[:24].sum(), rtol=1e-4)


def test_cubes_move_with_their_masks_and_keep_head_up():
    x, m = volumes.cubes(stack())
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
    networks = volumes.train_cubes(s, recipe=recipe)
    assert volumes.from_cubes(**networks, s=s).shape == s.masks.shape


def test_consistency_of_known_masks():
    mask = np.zeros((10, 8, 8), bool)
    mask[2:8, 2:4, 2:6] = True
    ends = 2  # at each end a pair of something and nothing, and five pairs within
    assert volumes.consistency(mask) == {"neighbours": 5 / (5 + ends), "gaps": 0, "pieces": 1, "jitter": 0}
    mask[4] = False
    found = volumes.consistency(mask)
    assert found["gaps"] == 1 and found["pieces"] == 2 and found["neighbours"] == 3 / 7
    nothing = {"neighbours": 0.0, "gaps": 0, "pieces": 0, "jitter": 0.0}
    assert volumes.consistency(np.zeros((5, 8, 8), bool)) == nothing


def test_jitter_is_what_leaves_the_line():
    mask = np.zeros((9, 12, 12), bool)
    for s in range(9):
        mask[s, s : s + 3, 4:6] = True  # along a line
    assert volumes.consistency(mask)["jitter"] < 1e-9
    mask[4] = np.roll(mask[4], 2, axis=1)  # 2 pixels off, and both its neighbours 1 pixel off the middle of theirs
    np.testing.assert_allclose(volumes.consistency(mask)["jitter"], (2 + 1 + 1) / 7)
