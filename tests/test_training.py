import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from launch import torchrun
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import nn

from vaelib import InputError
from vaelib.cli import main
from vaelib.engine import checkpoints, parallel
from vaelib.engine.errors import NotFinite
from vaelib.engine.rows import Rows
from vaelib.training import augment, fit, jitter, learning_rate, mask_step, vae_step
from vaelib.vae import VAE, MaskDecoder


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


def line(model, batch, progress):
    """A step on pairs (x, y) of numbers: least squares."""
    return {"total": (model(batch[0]) - batch[1]).square().mean()}


def pairs(n=24):
    x = torch.linspace(0, 1, n)[:, None]
    return [x, 2 * x + 1]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_in_the_data_is_named_by_row_and_the_last_good_state_is_kept(tmp_path, which, bad):
    """The file is damaged while it is read: two epochs go well."""
    path, net, reads, data = tmp_path / "s.safetensors", nn.Linear(1, 1), [], pairs()

    def read(rows):
        reads.append(rows)
        found = data[which].numpy()[rows]
        found[np.isin(rows, (5, 17)) & (len(reads) > 6)] = bad
        return found

    calm = fit(nn.Linear(1, 1), line, pairs(), epochs=4, batch_size=8)
    damaged = [Rows(24, read) if k == which else t for k, t in enumerate(data)]
    with pytest.raises(NotFinite, match=rf"epoch 2, batch \d: NaN or Inf in data\[{which}\], rows (5|17|5, 17) ") as e:
        fit(net, line, damaged, epochs=4, batch_size=8, state=path, label="line")
    assert str(e.value).startswith("line: ") and f"{path} keeps epoch 1" in str(e.value) and "\n" not in str(e.value)
    assert weights(net).isfinite().all() and all(p.grad is None for p in net.parameters())
    tensors, meta = checkpoints.read(path)
    assert len(meta["history"]) == 2 < len(calm) and all(t.isfinite().all() for t in tensors.values())


def test_data_that_are_not_finite_stop_the_run_though_no_loss_shows_it():
    x, y = pairs()
    y[3] = float("nan")
    with pytest.raises(NotFinite, match=r"epoch 0, batch \d: NaN or Inf in data\[1\], rows 3 .*no state is kept"):
        fit(nn.Linear(1, 1), lambda m, batch, p: {"total": m(batch[0]).square().mean()}, [x, y], batch_size=8)
    x, y = pairs()
    x[3] = float("inf")
    hide = lambda x, y: (x.nan_to_num(0, 0, 0), y)  # noqa: E731
    with pytest.raises(NotFinite, match=r"data\[0\], rows 3 "):
        fit(nn.Linear(1, 1), line, [x, y], batch_size=8, augmentation=hide)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("at_once", [None, 3])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, precision, at_once):
    path, vae, before = tmp_path / "s.safetensors", VAE(32, channels=2, latent=4), []

    def step(model, batch, progress):
        before.append(weights(vae))
        parts = vae_step(0.1)(model, batch, progress)
        return parts | {"total": parts["total"] + (float("inf") if progress > 0.5 else 0)}  # its gradients are finite

    with pytest.raises(
        FloatingPointError, match="epoch 2, batch 1: the loss is not finite .total inf, recon [0-9]"
    ) as e:
        fit(vae, step, [images()], epochs=4, batch_size=8, state=path, precision=precision, at_once=at_once)
    assert isinstance(e.value, InputError)
    assert torch.equal(weights(vae), before[-1]) and before[-1].isfinite().all()
    assert torch.isfinite(torch.cat([t.flatten() for t in load_file(path).values()])).all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_gradient_that_is_not_finite_stops_the_run_before_a_weight_is_touched(tmp_path, precision):
    path, net, before = tmp_path / "s.safetensors", nn.Linear(1, 1), []

    def step(model, batch, progress):
        before.append(weights(net))
        steep = (0 * net.bias).abs().sqrt().sum() if progress > 0.5 else 0  # 0, and its slope is infinite times 0
        return {"total": line(model, batch, progress)["total"].float() + steep}

    with pytest.raises(NotFinite, match=f"epoch 2, batch 1: the gradient of bias is not finite .*{path} keeps epoch 1"):
        fit(net, step, pairs(), epochs=4, batch_size=8, state=path, precision=precision)
    assert torch.equal(weights(net), before[-1]) and before[-1].isfinite().all()
    assert len(checkpoints.read(path)[1]["history"]) == 2


def scaled(monkeypatch, scale):
    """Make `fit` train in 16-mixed with scalers that begin at `scale`; on a CPU Fabric would take bf16 instead."""
    scalers = []

    def make_fabric(*_):
        scalers.append(torch.amp.GradScaler("cpu", init_scale=scale))
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scalers[-1])
        return Fabric(accelerator="cpu", devices=1, plugins=plugin)

    monkeypatch.setattr(parallel, "make_fabric", make_fabric)
    return scalers


def test_the_overflows_of_float16_are_skipped_and_not_taken_for_faults(monkeypatch):
    scalers, net, seen, scales = scaled(monkeypatch, 2.0**40), nn.Linear(1, 1), [], []

    def step(model, batch, progress):
        seen.append(weights(net))
        scales.append(scalers[-1].get_scale())
        return line(model, batch, progress)

    history = fit(net, step, pairs(), epochs=40, batch_size=8, lr=0.1)
    assert torch.equal(seen[1], seen[0])  # the first gradients overflowed, and no step was taken
    assert scales[-1] < 2.0**40 and history[-1]["train/total"] < 0.1 * history[0]["train/total"]
    found = len(scales)
    fit(net, step, pairs(), epochs=1, batch_size=8)
    assert scales[found] == 2.0**40  # the next run begins as this one did


def test_under_float16_too_a_loss_stops_at_once_and_a_gradient_that_no_scale_mends_at_last(monkeypatch):
    scaled(monkeypatch, 2.0**16)
    endless = lambda model, *rest: {"total": line(model, *rest)["total"].float() + (0 * model.bias).abs().sqrt().sum()}  # noqa: E731
    with pytest.raises(NotFinite, match="epoch 0, batch 0: the loss is not finite"):
        fit(nn.Linear(1, 1), lambda *a: {"total": line(*a)["total"] * float("nan")}, pairs(), batch_size=8)
    net = nn.Linear(1, 1)
    before = weights(net)
    with pytest.raises(NotFinite, match="epoch 10, batch 0: the gradient of bias"):  # 30 halvings from 2^16
        fit(net, endless, pairs(), epochs=40, batch_size=8)
    assert torch.equal(weights(net), before)


@pytest.mark.parametrize("patience", [None, 2])
def test_validation_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path, patience):
    path, net, val = tmp_path / "s.safetensors", nn.Linear(1, 1), pairs()
    how = dict(epochs=4, batch_size=8, state=path, patience=patience)

    def step(model, batch, progress):
        return {
            "total": line(model, batch, progress)["total"] * (1 if net.training or progress < 0.7 else float("inf"))
        }

    with pytest.raises(
        NotFinite, match=r"validation after epoch 2, batch 0: the loss is not finite .total inf.*val is"
    ):
        fit(net, step, pairs(), val=val, **how)
    assert weights(net).isfinite().all() and len(checkpoints.read(path)[1]["history"]) == 2
    path.unlink()
    val[1][19] = float("nan")
    with pytest.raises(NotFinite, match=r"validation after epoch 0, batch 2: NaN or Inf in val\[1\], rows 19 "):
        fit(net, lambda m, batch, p: line(m, [batch[0]] * 2, p), pairs(), val=val, **how)  # no loss shows it
    assert not path.exists()


def test_the_command_line_says_in_one_line_what_is_not_finite(monkeypatch, capsys):
    x, y = pairs()
    x[[2, 7]] = float("nan")
    monkeypatch.setattr("vaelib.recipes.train", lambda *_, **__: fit(nn.Linear(1, 1), line, [x, y], label="VAE"))
    assert main(["train", "cohort"]) == 2
    said = "VAE: epoch 0, batch 0: NaN or Inf in data[0], rows 2, 7 (from 0); no state is kept: mend what they were"
    assert capsys.readouterr().err.splitlines()[-1] == f"vaelib: error: {said} made of"


SPOILT_IN = {
    "loss": "the loss is not finite", "gradient": "the gradient of bias", "flat": "(total inf)",
    "row": "in data[0], rows 9 ", "val": "in val[0], rows 9 ",
}  # fmt: skip
SPOILT = """
import sys, torch
from pathlib import Path
from torch import nn
from vaelib.engine import parallel
from vaelib.engine.errors import NotFinite
from vaelib.training import fit

torch.set_num_threads(1)
out, rank = Path(sys.argv[1]), parallel.world()[0]
x = torch.linspace(0, 1, 24)[:, None]


def run(name, x, spoil, val=None):
    net = nn.Linear(1, 1)

    def step(model, batch, progress):
        total = (model(batch[0]) - 2 * batch[0]).square().mean()
        return {"total": spoil(total, net) if rank == 1 and progress > 0.3 and net.training else total}

    try:
        fit(net, step, [x], val=val, epochs=3, batch_size=8, accelerator="cpu", state=out / f"{name}.state")
    except NotFinite as error:
        fine = all(p.isfinite().all() for p in net.parameters())
        (out / f"{name}{rank}").write_text(f"{error} weights {fine}")


run("loss", x, lambda total, net: total * float("nan"))
run("gradient", x, lambda total, net: total + (0 * net.bias).abs().sqrt().sum())
run("flat", x, lambda total, net: total + float("inf"))
spoilt = x.clone()
spoilt[9] = float("inf")
run("row", spoilt, lambda total, net: total)
run("val", x, lambda total, net: total, val=[spoilt])
"""


def test_two_processes_stop_together_though_one_alone_has_met_it(tmp_path):
    (tmp_path / "spoilt.py").write_text(SPOILT)
    done = torchrun(2, tmp_path / "spoilt.py", tmp_path)
    assert done.returncode == 0, done.stderr
    said = {f"{name}{rank}": (tmp_path / f"{name}{rank}").read_text() for name in SPOILT_IN for rank in (0, 1)}
    assert all(text.endswith("weights True") for text in said.values())
    for name, word in SPOILT_IN.items():
        at = [text[: text.index(": ", 20)] for text in (said[f"{name}0"], said[f"{name}1"])]
        assert word in said[f"{name}1"] or word in said[f"{name}0"]
        assert name == "val" or at[0] == at[1]  # the same epoch and batch
    assert "NaN or Inf in another process" in said["loss0"] and "keeps epoch 0" in said["loss0"]
    assert "the gradient of bias" in said["gradient0"]


def test_augmentation_moves_image_and_mask_together_and_keeps_range():
    x = torch.zeros(8, 1, 64, 64)
    x[:, :, 20:36, 24:44] = 1
    moved, mask = augment(x, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved, mask)
    assert not torch.equal(moved, x) and 0 <= moved.min() and moved.max() <= 1
    area = moved.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert (area > 0.75).all() and (area < 1.35).all()  # a change of size of 12% at most


def test_cubes_turn_and_are_scaled_and_shifted_along_each_axis_and_slices_as_they_always_were():
    """One affine for both; for slices against the formula written out, each number on its own."""
    torch.manual_seed(0)
    x = torch.rand(3, 2, 32, 32)
    (moved,) = augment(x, generator=torch.Generator().manual_seed(7))
    draws = torch.rand(3, 4, generator=torch.Generator().manual_seed(7)) * 2 - 1
    for image, after, (turn, size, right, down) in zip(x, moved, draws.tolist(), strict=True):
        cos, sin, zoom = math.cos(math.radians(8 * turn)), math.sin(math.radians(8 * turn)), 1 + 0.12 * size
        affine = torch.tensor([[[cos * zoom, -sin * zoom, 0.16 * right], [sin * zoom, cos * zoom, 0.16 * down]]])
        grid = F.affine_grid(affine, [1, 2, 32, 32], align_corners=False)
        torch.testing.assert_close(after[None], F.grid_sample(image[None], grid, align_corners=False))
    cube = torch.zeros(4, 1, 32, 32, 32)
    cube[:, :, 12:20, 12:20, 12:20] = 1
    one, two, three = augment(cube, 2 * cube, cube.repeat(1, 2, 1, 1, 1))
    assert one.shape == two.shape == (4, 1, 32, 32, 32) and three.shape == (4, 2, 32, 32, 32)
    assert torch.equal(2 * one, two) and torch.equal(three[:, :1], one) and torch.equal(three[:, 1:], one)
    centres = torch.stack([(one[:, 0].sum(axes) * torch.arange(32)).sum(1) for axes in ((2, 3), (1, 3), (1, 2))])
    assert ((centres / one.sum((1, 2, 3, 4)) - 15.5).abs() > 0.1).any(1).all()  # along z, y and x
    (full,) = augment(torch.ones(4, 1, 32, 32, 32))
    assert torch.allclose(full, torch.ones(1))  # what moves in at a border is what was there


def test_an_augmentation_is_given_all_tensors_and_may_return_others():
    """However many there are, and whatever it gives back; arrays are data as tensors are."""
    x, y = pairs()
    told = []

    def twice(*tensors):
        told.append(len(tensors))
        return [tensors[0], 2 * tensors[0] + 1]

    for data in ([x], [x, y]):
        fit(nn.Linear(1, 1), line, data, epochs=2, batch_size=8, augmentation=twice)
    assert told == [1] * 6 + [2] * 6
    torch.manual_seed(0)
    net = nn.Linear(1, 1)
    torch.manual_seed(0)
    other = nn.Linear(1, 1)
    arrays = [x.numpy().copy(), y.numpy().copy()]
    arrays[1].flags.writeable = False
    assert fit(net, line, [x, y], val=[x, y], epochs=2, batch_size=8) == fit(
        other, line, arrays, val=arrays, epochs=2, batch_size=8
    )
    assert torch.equal(weights(net), weights(other))


@pytest.mark.parametrize("before", [False, True])
def test_a_run_leaves_cudnn_as_it_was_however_it_ends(before, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", before)
    seen = []

    def step(model, batch, progress):
        seen.append(torch.backends.cudnn.deterministic)
        if len(seen) > 3:
            raise Interrupted
        return line(model, batch, progress)

    fit(nn.Linear(1, 1), step, pairs(), epochs=1, batch_size=8)
    assert torch.backends.cudnn.deterministic is before
    with pytest.raises(Interrupted):
        fit(nn.Linear(1, 1), step, pairs(), epochs=1, batch_size=8)
    assert seen == [True] * 4 and torch.backends.cudnn.deterministic is before


def test_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(p / 100, 1.0) for p in range(101)]
    assert max(rates) == pytest.approx(1.0, abs=1e-3) and rates.index(max(rates)) == 5
    assert rates[0] < 0.05 and rates[-1] < 1e-9


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
