import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vaelib.errors import InputError
from vaelib.models import VAE, MaskDecoder
from vaelib.training import augment, fit, jitter, learning_rate, load, mask_step, save, vae_step


class Interrupted(Exception):
    pass


def images(n=24):
    """Bright discs of different sizes: something to learn."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    radius = torch.linspace(4, 12, n)[:, None, None, None]
    return torch.sigmoid(radius - ((x - 15) ** 2 + (y - 15) ** 2).sqrt())


def run(state=None, stop_after=None, epochs=4, **kwargs):
    torch.manual_seed(0)
    vae = VAE(32, channels=2, latent=4)
    step, seen = vae_step(0.1), []

    def counted(model, batch, progress):
        seen.append(progress)
        if stop_after is not None and len(seen) > stop_after:
            raise Interrupted
        return step(model, batch, progress)

    history = fit(vae, counted, [images()], epochs=epochs, batch_size=8, state=state, augmentation=augment, **kwargs)
    return vae, history


def test_the_loss_falls():
    _, history = run(epochs=40)
    assert history[-1]["train/recon"] < 0.6 * history[0]["train/recon"]


def test_same_seed_same_weights():
    a, b = run()[0], run()[0]
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("stop_after", [3, 7, 10])
def test_resume_is_bit_exact_wherever_it_was_interrupted(tmp_path, stop_after):
    calm, calm_history = run(val=[images(8)], patience=3)
    with pytest.raises(Interrupted):
        run(tmp_path / "s.safetensors", stop_after, val=[images(8)], patience=3)
    resumed, history = run(tmp_path / "s.safetensors", val=[images(8)], patience=3)
    assert history == calm_history
    assert all(torch.equal(x, y) for x, y in zip(calm.parameters(), resumed.parameters(), strict=True))


def test_a_state_of_other_settings_is_refused_and_kept(tmp_path):
    path = tmp_path / "s.safetensors"
    run(path, epochs=1)
    before = path.read_bytes()
    with pytest.raises(InputError, match="s.safetensors: belongs to a run with .*delete it"):
        run(path, epochs=2)
    assert path.read_bytes() == before


def test_early_stopping_goes_back_to_the_best_weights():
    torch.manual_seed(0)
    decoder = MaskDecoder(32, channels=2, latent=4)
    z, mask = torch.randn(32, 4), (torch.rand(32, 1, 32, 32) > 0.9).float()  # nothing to learn: it can only overfit
    val = [torch.randn(16, 4), (torch.rand(16, 1, 32, 32) > 0.9).float()]
    history = fit(decoder, mask_step, [z, mask], val=val, epochs=60, batch_size=8, lr=2e-2, patience=4)
    losses = [h["val/total"] for h in history]
    assert len(history) < 60
    assert len(history) - 1 - losses.index(min(losses)) == 4
    assert mask_step(decoder, val, 1.0)["total"].item() == pytest.approx(min(losses), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    path, vae = tmp_path / "s.safetensors", VAE(32, channels=2, latent=4)

    def step(model, batch, progress):
        parts = vae_step(0.1)(model, batch, progress)
        return parts | {"total": parts["total"] * (float("nan") if progress > 0.5 else 1)}

    with pytest.raises(FloatingPointError, match="epoch 2, batch 1"):
        fit(vae, step, [images()], epochs=4, batch_size=8, state=path)
    assert all(torch.isfinite(p).all() for p in vae.parameters())
    assert torch.isfinite(torch.cat([t.flatten() for t in load_file(path).values()])).all()


def test_augmentation_moves_image_and_mask_together_and_keeps_range():
    x = torch.zeros(8, 1, 64, 64)
    x[:, :, 20:36, 24:44] = 1
    moved, mask = augment(x, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved, mask)
    assert not torch.equal(moved, x) and 0 <= moved.min() and moved.max() <= 1
    area = moved.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert (area > 0.75).all() and (area < 1.35).all()  # a change of size of 12% at most


def test_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(p / 100, 1.0) for p in range(101)]
    assert max(rates) == pytest.approx(1.0, abs=1e-3) and rates.index(max(rates)) == 5
    assert rates[0] < 0.05 and rates[-1] < 1e-9


def test_a_checkpoint_rebuilds_its_networks_from_the_file_alone(tmp_path):
    vae, mask = VAE(32, channels=2, latent=4).eval(), MaskDecoder(32, channels=2, latent=4)
    path = save(tmp_path / "a" / "c.safetensors", {"vae": vae, "mask": mask}, threshold=0.2, window=[-160, 240])
    networks, meta = load(path, "vae", "mask")
    assert torch.equal(networks["vae"](images()).recon, vae(images()).recon)
    assert meta["threshold"] == 0.2 and meta["window"] == [-160, 240]
    assert not networks["mask"].training
    assert [p.name for p in path.parent.iterdir()] == ["c.safetensors"]


def test_bad_checkpoints_are_refused_by_name(tmp_path):
    path = save(tmp_path / "c.safetensors", {"vae": VAE(32, channels=2, latent=4)})
    with pytest.raises(InputError, match="c.safetensors: holds .'vae'., not .'mask'.; train"):
        load(path, "vae", "mask")
    with pytest.raises(InputError, match="nowhere: no such checkpoint"):
        load(tmp_path / "nowhere")
    (tmp_path / "half").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="half: not a whole safetensors file"):
        load(tmp_path / "half")
    (tmp_path / "pickle").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(InputError, match="pickle: not a whole safetensors file"):
        load(tmp_path / "pickle")
    config = dict(size=64, channels=2, latent=4, dims=2)
    save_file(load_file(path), tmp_path / "other", {"networks": json.dumps({"vae": ["VAE", config]})})
    with pytest.raises(InputError, match="other: made by another architecture than VAE"):
        load(tmp_path / "other")
    save_file(load_file(path), tmp_path / "odd", {"networks": json.dumps({"vae": ["Popen", config]})})
    with pytest.raises(InputError, match="odd: network 'vae' is a 'Popen'"):
        load(tmp_path / "odd")


def test_jitter_changes_grey_values_and_no_air_and_all_channels_alike():
    torch.manual_seed(0)
    x = torch.rand(4, 2, 16, 16) * 0.5 + 0.2
    x[:, :, :4] = 0
    x[:, 1] = x[:, 0]
    y = jitter(x)
    assert 0 <= y.min() and y.max() <= 1 and (y[:, :, :3] == 0).all()
    assert not torch.allclose(y[:, :, 6:], x[:, :, 6:], atol=0.02)
    means = y[:, :, 8:].mean((2, 3))
    torch.testing.assert_close(means[:, 0], means[:, 1], atol=0.02, rtol=0)  # but for the noise
    assert means[:, 0].std() > x[:, :, 8:].mean((1, 2, 3)).std()  # each image in its own way


def test_a_denoising_step_is_held_against_what_was_meant():
    torch.manual_seed(0)
    net, x = VAE(32, 4, 2).eval(), torch.rand(3, 1, 32, 32)
    seen = (x + 0.3).clamp(0, 1)
    step = vae_step(0.0)
    expected = 0.5 * (net(seen).recon - x).square().flatten(1).sum(1).mean()
    assert float(step(net, [seen, x], 1.0)["recon"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert step(net, [x], 1.0)["recon"] == step(net, [x, x], 1.0)["recon"]
