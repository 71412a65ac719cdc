"""What only a GPU can show of training: mixed precision, its scaler, and memory that runs out."""

import pytest
import torch

from vaelib import InputError
from vaelib.engine.errors import NotFinite
from vaelib.training import fit, mask_step, vae_step
from vaelib.vae import VAE, MaskDecoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that CUDA can use on this machine")


def images(n=512, side=64):
    torch.manual_seed(0)
    return torch.rand(n, 1, side, side)


def train(precision, x, epochs=3, **options):
    torch.manual_seed(0)
    vae = VAE(x.shape[-1], channels=8, latent=16)
    return vae, fit(vae, vae_step(0.01), [x], epochs=epochs, batch_size=64, precision=precision, **options)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_the_loss_falls_alike_in_two_runs_and_in_one_that_is_resumed(precision, tmp_path, monkeypatch):
    vae, history = train(precision, images())
    assert next(vae.parameters()).is_cuda and history[-1]["train/total"] < history[0]["train/total"]
    assert same(vae, train(precision, images())[0])
    calls, real = [], torch.optim.Adam.step

    def stop(self, *args, **options):
        calls.append(1)
        if len(calls) == 12:  # in the second epoch
            raise KeyboardInterrupt
        return real(self, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", stop)
        train(precision, images(), state=tmp_path / "s")
    resumed, again = train(precision, images(), state=tmp_path / "s")
    assert again == history and same(vae, resumed)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_nan_in_the_data_stops_the_run_at_its_batch_and_names_its_rows(precision, tmp_path):
    x = images()
    x[[7, 300], 0, 5, 5] = float("nan")
    with pytest.raises(NotFinite, match=r"epoch 0, batch \d: NaN or Inf in data\[0\], rows? (7|300)"):
        train(precision, x, state=tmp_path / "s")


def test_a_gradient_that_is_not_finite_stops_before_the_step():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * float("inf")

    torch.manual_seed(0)
    net = MaskDecoder(32, channels=4, latent=8)
    before = [p.detach().clone() for p in net.parameters()]
    step = lambda model, batch, progress: {"total": Bad.apply(mask_step(model, batch, progress)["total"])}  # noqa: E731
    with pytest.raises(NotFinite, match="epoch 0, batch 0: .*gradient"):
        fit(net, step, [torch.randn(64, 8), (torch.rand(64, 1, 32, 32) > 0.9).float()], epochs=1)
    assert all(torch.equal(a, p.detach().cpu()) for a, p in zip(before, net.parameters(), strict=True))


def test_memory_that_runs_out_is_said_with_what_would_fit():
    free = torch.cuda.mem_get_info()[0]
    n = int(free // (512 * 512 * 4 * 20))  # a batch whose activations alone are more than what is free
    x = torch.zeros(1, 1, 512, 512).expand(n, 1, 512, 512)
    with pytest.raises(InputError, match=r"training: out of memory; a step with \d+ images of 512 x 512 needs .* GB"):
        fit(VAE(512, channels=16, latent=64), vae_step(0.01), [x], epochs=1, batch_size=n)
    train("32-true", images(), epochs=1)  # and the GPU is none the worse for it
