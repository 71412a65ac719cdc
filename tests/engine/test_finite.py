"""What is not a number is not taken for one: not in training (test_training.py), and not on the way to a mask."""

import numpy as np
import pytest
import torch

from vaelib import InputError, latent
from vaelib.engine import finite
from vaelib.engine.errors import NotFinite
from vaelib.vae import VAE, MaskDecoder

BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, torch.bfloat16, torch.float32])
def test_rows_that_are_not_finite_are_found_and_no_others(bad, kind):
    values = torch.zeros(12, 2, 3) if isinstance(kind, torch.dtype) else np.zeros((12, 2, 3), kind)
    values = values.to(kind) if isinstance(values, torch.Tensor) else values
    assert finite.rows_not_finite(values) == [] and finite.rows_not_finite(values[:0]) == []
    values[[3, 11], 1, 2] = bad
    assert finite.rows_not_finite(values) == [3, 11]
    with pytest.raises(NotFinite, match=r"maps: NaN or Inf in slices 3, 11 \(from 0\); mend"):
        finite.refuse(values, "maps", "slices")


def test_many_rows_are_not_all_told():
    with pytest.raises(InputError, match=r"rows 0, 1, 2, 3, 4, 5, 6, 7, ... \(from 0\)"):
        finite.refuse(np.full(1000, np.nan), "it")


@pytest.mark.parametrize("bad", BAD)
def test_a_loss_or_a_batch_that_is_not_finite_is_doubted_and_nothing_else_is(bad):
    loss, x, counts = torch.tensor(2.0), torch.full((4, 3), 1e30), torch.arange(5)
    assert finite.nan_flag(loss, [x, counts, torch.full((100, 1000), 6e4).half()]) == 0
    assert finite.nan_flag(torch.tensor(bad), [x, counts]).isnan()
    x[2, 1] = bad
    assert finite.nan_flag(loss, [counts, x]).isnan()


@pytest.mark.parametrize("bad", BAD)
def test_what_no_threshold_would_reach_is_refused_where_it_arises(bad):
    torch.manual_seed(0)
    vae, mask, x = VAE(32, channels=2, latent=4), MaskDecoder(32, channels=2, latent=4), torch.rand(5, 1, 32, 32)
    x[[1, 4], 0, 7, 9] = bad
    with pytest.raises(NotFinite, match=r"latents: NaN or Inf in images 1, 4 "):
        latent.encode(vae, x, batch_size=2)
    z = torch.zeros(5, 4)
    z[2] = bad
    with pytest.raises(NotFinite, match=r"latents: NaN or Inf in rows 2 "):
        latent.decode(mask, z)
    with torch.no_grad():
        next(mask.parameters()).fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"decode to: NaN or Inf in rows 0"):
        latent.decode(mask, torch.ones(5, 4))
