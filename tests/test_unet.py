import pytest
import torch

from vaelib.engine.checkpoints import load, save
from vaelib.rivals import Cut, UNet
from vaelib.vae import VAE, MaskDecoder


def parameters(*nets):
    return sum(p.numel() for net in nets for p in net.parameters())


def test_it_has_as_many_parameters_as_the_vae_and_its_mask_decoder():
    assert parameters(UNet()) == pytest.approx(parameters(VAE(), MaskDecoder()), rel=0.05)


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
