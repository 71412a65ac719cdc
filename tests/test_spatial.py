"""The residual cascade: its shapes, what it refuses, what it leaves alone, and what it is there to cure."""

import pytest
import torch

from vaelib import InputError
from vaelib.engine.checkpoints import load, save
from vaelib.losses import vae_loss
from vaelib.spatial import (
    ResidualDecoder,
    ResidualMaskDecoder,
    ResidualVAE,
    build,
    checkerboard,
    neighbours,
    widths_to,
)
from vaelib.training import mask_step
from vaelib.vae import VAEOutput


@pytest.mark.parametrize(
    ("size", "grid"), [(32, 1), (32, 4), (32, 16), (64, 16), (64, 32), (128, 8), (256, 1), (512, 1), (512, 8)]
)
@torch.no_grad()
def test_every_size_has_a_vector_and_a_spatial_latent(size, grid):
    vae, x = ResidualVAE(size, channels=1, latent=3, grid=grid), torch.rand(1, 1, size, size)
    place = () if grid == 1 else (grid, grid)
    out = vae(x)
    assert isinstance(out, VAEOutput) and out.recon.shape == x.shape
    assert out.mu.shape == out.logvar.shape == out.z.shape == (1, 3, *place)
    mask = ResidualMaskDecoder(size, channels=1, latent=3, grid=grid)
    assert mask(out.z).shape == x.shape
    assert torch.equal(vae.eval()(x).z, vae(x).mu)


def test_the_widest_layer_is_capped_and_the_grid_ends_the_cascade():
    assert widths_to(1, 64, 16) == [16, 32, 64, 128]
    assert widths_to(8, 64, 16) == [16, 32, 64]
    assert widths_to(8, 512, 16) == [16, 32, 64, 128, 128, 128]


@pytest.mark.parametrize(("size", "grid", "said"), [
    (96, 8, "power of two"), (16, 8, "power of two"), (1024, 8, "power of two"),
    (64, 6, "from 4 to 32"), (64, 64, "from 4 to 32"), (64, 2, "from 4 to 32"), (512, 512, "from 4 to 256"),
])  # fmt: skip
def test_a_size_or_a_grid_that_does_not_divide_is_refused(size, grid, said):
    for network in (ResidualVAE, ResidualMaskDecoder):
        with pytest.raises(InputError, match=said):
            network(size, grid=grid)


@pytest.mark.parametrize("grid", [1, 8])
def test_the_mask_gives_the_encoder_no_gradient(grid):
    vae, mask = ResidualVAE(32, 2, 4, grid), ResidualMaskDecoder(32, 2, 4, grid)
    mask_step(mask, [vae(torch.rand(2, 1, 32, 32)).z, torch.rand(2, 1, 32, 32)], 0)["total"].backward()
    assert all(p.grad is None for p in vae.parameters())
    assert all(p.grad is not None for p in mask.parameters())


@pytest.mark.parametrize("grid", [1, 8])
def test_recomputing_changes_no_number(grid):
    torch.manual_seed(0)
    kept, again = ResidualVAE(32, 2, 4, grid), ResidualVAE(32, 2, 4, grid, recompute=True)
    again.load_state_dict(kept.state_dict())
    assert again.config == kept.config  # how it was trained is no part of what it is
    x = torch.rand(3, 1, 32, 32)
    for vae in (kept, again):
        torch.manual_seed(1)
        vae_loss(vae(x), x, 0.1).total.backward()
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert one.grad is not None and torch.equal(one.grad, other.grad)


def test_a_neighbour_is_of_the_same_patient_or_oneself():
    z = torch.arange(5.0)[:, None]
    beside = neighbours(z, ["a", "a", "a", "b", "b"], 1)
    assert beside.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 4]]
    assert neighbours(z, list("aaabb"), 2)[0].tolist() == [0, 0, 0, 1, 2]
    assert torch.equal(neighbours(z, list("aaabb"), 0), z)
    spatial = neighbours(torch.rand(5, 3, 8, 8), list("aaabb"), 1)
    assert spatial.shape == (5, 9, 8, 8)
    assert ResidualMaskDecoder(32, 2, 3, 8, reach=1)(spatial).shape == (5, 1, 32, 32)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("grid", [1, 8])
def test_they_come_back_from_a_file(tmp_path, half, grid):
    torch.manual_seed(0)
    vae = ResidualVAE(32, 2, 4, grid, upsample="transposed").eval()
    mask = ResidualMaskDecoder(32, 2, 4, grid, reach=1, blocks=1).eval()
    path = save(tmp_path / "a.safetensors", {"vae": vae, "mask": mask}, half=half)
    networks, _ = load(path, "vae", "mask")
    x, tolerance = torch.rand(2, 1, 32, 32), 5e-3 if half else 0
    z = neighbours(vae(x).z, ["a", "a"], 1)
    assert networks["vae"].config == vae.config and networks["mask"].config == mask.config
    assert torch.allclose(networks["vae"](x).recon, vae(x).recon, atol=tolerance)
    assert torch.allclose(networks["mask"](z), mask(z), atol=10 * tolerance)


@torch.no_grad()
def test_repeated_pixels_make_no_checkerboard_and_transposed_convolutions_do():
    """Untrained, from a latent that is the same everywhere: a pattern can only come from the layers."""
    found = {}
    for upsample in ("nearest", "transposed"):
        torch.manual_seed(0)
        decoder = ResidualDecoder(64, 8, 4, 16, upsample=upsample).eval()
        out = decoder(torch.randn(8, 4, 1, 1).expand(8, 4, 16, 16))
        found[upsample] = out[..., 16:48, 16:48].std((2, 3)).mean()  # clear of the border and its padding
    assert found["nearest"] < 1e-3 * found["transposed"]


def test_a_checkerboard_is_told_from_noise_and_from_a_smooth_picture():
    torch.manual_seed(0)
    noise, at = torch.randn(4, 1, 64, 64), torch.arange(64)
    board = ((at[:, None] + at) % 2).float()
    assert checkerboard(noise) == pytest.approx(1, abs=0.3)
    assert checkerboard(noise + board) > 100
    assert checkerboard(noise + (at % 2)) > 100  # stripes are half of one
    assert checkerboard(noise + at / 64) < 3


@pytest.mark.parametrize("start", [0.01, 0.5])
def test_it_starts_from_what_it_was_told(start):
    torch.manual_seed(0)
    mask = ResidualMaskDecoder(32, 4, 4, 8, prevalence=start)
    assert torch.sigmoid(mask(torch.randn(8, 4, 8, 8))).mean().item() == pytest.approx(start, rel=0.3)


@pytest.mark.parametrize("size", [64, 128, 256, 512])
@pytest.mark.parametrize("numbers", [64, 256])
@torch.no_grad()
def test_vector_and_spatial_latents_are_of_equal_size_in_numbers(size, numbers):
    x = torch.rand(1, 1, size, size)
    shapes = {kind: build(kind, size, numbers)(x).mu.shape for kind in ("plain", "vector", "spatial")}
    assert shapes["plain"] == shapes["vector"] == (1, numbers)
    assert shapes["spatial"] == (1, numbers // 64, 8, 8)
