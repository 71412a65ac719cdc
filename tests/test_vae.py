import pytest
import torch

from vaelib import InputError
from vaelib.losses import mask_loss, vae_loss
from vaelib.vae import VAE, Encoder, MaskDecoder, Supervised, widths


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_every_power_of_two_comes_back_at_its_size(size):
    vae = VAE(size, channels=2, latent=5)
    out = vae(torch.rand(2, 1, size, size))
    assert out.recon.shape == (2, 1, size, size)
    assert out.mu.shape == out.logvar.shape == out.z.shape == (2, 5)
    assert 0 <= out.recon.min() and out.recon.max() <= 1


def test_volumes_go_through_the_same_class():
    out = VAE(32, channels=2, latent=5, dims=3)(torch.rand(2, 1, 32, 32, 32))
    assert out.recon.shape == (2, 1, 32, 32, 32)


@pytest.mark.parametrize("size", [0, 16, 48, 100, 1024, -64])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(InputError, match=f"size={size} .*use 32, 64"):
        VAE(size)


def test_filters_double_and_the_size_sets_their_number():
    assert widths(64, 16) == [16, 32, 64, 128]
    assert len(widths(512, 16)) == 7


def test_every_parameter_gets_a_gradient():
    x = torch.rand(4, 1, 64, 64)
    vae, mask = VAE(64, channels=4, latent=8), MaskDecoder(64, channels=4, latent=8)
    out = vae(x)
    (vae_loss(out, x).total + mask_loss(mask(out.z), (x > 0.9).float())).backward()
    for name, p in [*vae.named_parameters(), *mask.named_parameters()]:
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_the_mask_loss_gives_the_encoder_a_gradient_of_exactly_none():
    x = torch.rand(4, 1, 32, 32)
    vae, mask = VAE(32, channels=4, latent=8), MaskDecoder(32, channels=4, latent=8)
    mask_loss(mask(vae(x).z), (x > 0.9).float()).backward()
    assert all(p.grad is None for p in vae.parameters())
    assert all(p.grad is not None for p in mask.parameters())


def test_the_supervised_control_does_reach_its_encoder():
    x = torch.rand(4, 1, 32, 32)
    net = Supervised(32, channels=4, latent=8)
    mask_loss(net(x), (x > 0.9).float()).backward()
    assert net.encoder.mu.weight.grad.abs().sum() > 0


def test_training_samples_and_evaluation_uses_mu():
    vae, x = VAE(32, channels=2, latent=4), torch.rand(2, 1, 32, 32)
    out = vae(x)
    assert not torch.equal(out.z, out.mu)
    vae.eval()
    out = vae(x)
    assert torch.equal(out.z, out.mu)


def test_the_encoder_is_not_affine():
    """The original had no activation in its encoder, so that mu was an affine function of x."""
    torch.manual_seed(0)
    encoder, (a, b) = Encoder(32, channels=4, latent=6), torch.rand(2, 1, 1, 32, 32)
    mean_of_images = encoder((a + b) / 2)[0]
    mean_of_latents = (encoder(a)[0] + encoder(b)[0]) / 2
    assert (mean_of_images - mean_of_latents).abs().max() > 1e-4


def test_the_first_picture_is_as_bright_as_it_was_told():
    """From 0.5 on mostly black slices, the decoder can paint all black at first and not come back."""
    torch.manual_seed(0)
    assert VAE(64, start=0.1).eval()(torch.rand(8, 1, 64, 64)).recon.mean().item() == pytest.approx(0.1, rel=0.2)


def test_the_first_prediction_is_the_prevalence():
    torch.manual_seed(0)
    p = torch.sigmoid(MaskDecoder(64, prevalence=0.02)(torch.randn(8, 64)))
    assert p.mean().item() == pytest.approx(0.02, rel=0.3)
