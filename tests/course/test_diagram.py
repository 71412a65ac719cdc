"""A drawing of a network says what the network is: its shapes, its weights, its skips, and where no gradient passes."""

import pytest
import torch
from matplotlib.text import Text

from course import diagram
from vaelib.rivals import UNet
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE
from vaelib.vae import VAE, Decoder, MaskDecoder, widths

X = torch.zeros(1, 1, 64, 64)


def texts(fig):
    return [text.get_text() for text in fig.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("net", [VAE().encoder, ResidualVAE().encoder, UNet(4), UNet(4, skips=False)])
def test_no_weight_is_left_out(net):
    blocks = diagram.trace(net, X).blocks
    assert sum(block.parameters for block in blocks) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("decoder", [VAE().decoder, MaskDecoder()])
def test_a_decoder_is_followed_from_the_latent_to_the_picture(decoder):
    blocks = diagram.trace(decoder, torch.zeros(1, 64)).blocks
    assert [block.shape for block in blocks] == [(w, s, s) for w, s in ((128, 4), (64, 8), (32, 16), (16, 32), (1, 64))]
    assert sum(block.parameters for block in blocks) == sum(p.numel() for p in decoder.parameters())


@pytest.mark.parametrize(("size", "channels"), [(32, 4), (64, 16), (128, 2)])
def test_the_blocks_are_the_cascade(size, channels):
    *blocks, last = diagram.trace(VAE(size, channels, 8).encoder, torch.zeros(1, 1, size, size)).blocks
    sides = [size // 2 ** (k + 1) for k in range(len(blocks))]
    assert [b.shape for b in blocks] == [(w, s, s) for w, s in zip(widths(size, channels), sides, strict=True)]
    assert last.shape == (8,) and last.layers == ("Linear", "Linear")  # mu and logvar


def test_skips_are_found_where_they_carry_something():
    found = diagram.trace(UNet(4), X)
    assert found.skips == [(3, 5), (2, 6), (1, 7), (0, 8)]
    for start, end in found.skips[1:]:  # what is handed across is as large as what it is joined to
        assert found.blocks[start].shape == found.blocks[end - 1].shape
    assert diagram.trace(UNet(4, skips=False), X).skips == []


def test_no_hook_stays_even_where_a_network_fails():
    net = UNet(4)
    diagram.trace(net, X)
    with pytest.raises(RuntimeError):
        diagram.trace(net, torch.zeros(1, 3, 64, 64))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_bar_is_drawn_where_the_gradient_stops_and_nowhere_else():
    class Leaky(MaskDecoder):
        def forward(self, z):
            return self.cascade(z.clone())

    vae = VAE(32, 2, 4)
    drawn = {}
    for kind in (MaskDecoder, Leaky):
        mask = kind(32, 2, 4)
        drawn[kind] = texts(diagram.vae_and_mask(vae, mask, ""))
        assert all(p.grad is None for p in (*mask.parameters(), *vae.parameters()))  # asked without leaving a trace
    assert "detach" in drawn[MaskDecoder] and "detach" not in drawn[Leaky]
    assert diagram.stops_the_gradient(MaskDecoder(32, 2, 4), torch.zeros(1, 4))
    assert not diagram.stops_the_gradient(Decoder(32, 2, 4), torch.zeros(1, 4))


def test_another_model_is_another_drawing():
    small, large = (texts(diagram.vae_and_mask(VAE(64, c, 8), MaskDecoder(64, c, 8), "")) for c in (4, 8))
    assert "4 ×\n32 × 32" in small and "8 ×\n32 × 32" in large and "4 ×\n32 × 32" not in large
    count = sum(p.numel() for p in VAE(64, 8, 8).encoder.parameters())
    assert any(f"encoder: 4 Conv2d, 2 Linear; {count:,} weights" == text for text in large)


def test_a_latent_with_a_place_and_its_neighbours_are_drawn_too():
    vae, mask = ResidualVAE(64, 8, 8, 16), ResidualMaskDecoder(64, 8, 8, 16, reach=1)
    found = texts(diagram.vae_and_mask(vae, mask, ""))
    assert "8 ×\n16 × 16" in found and "detach\n(3 slices)" in found


def test_a_network_without_skips_is_drawn_without_them():
    lines = {skips: len(diagram.with_skips(UNet(4, skips=skips), 64, "").axes[0].lines) for skips in (True, False)}
    assert lines == {True: 4, False: 0}
