import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vaelib.losses import beta_at, kl, kl_per_unit, l2, mask_loss, vae_loss
from vaelib.vae import VAEOutput


def test_kl_equals_the_one_of_torch_distributions():
    torch.manual_seed(0)
    mu, logvar = torch.randn(16, 7, dtype=torch.double), torch.randn(16, 7, dtype=torch.double)
    golden = kl_divergence(Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0)).sum(1).mean()
    assert kl(mu, logvar).item() == pytest.approx(golden.item(), rel=1e-12)
    assert kl_per_unit(mu, logvar).shape == (7,)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere():
    assert kl(torch.zeros(3, 5), torch.zeros(3, 5)).item() == 0
    assert kl(torch.full((3, 5), 0.1), torch.zeros(3, 5)).item() > 0


def test_l2_is_a_gaussian_log_likelihood_less_its_constant():
    torch.manual_seed(0)
    x, r = torch.rand(4, 1, 8, 8, dtype=torch.double), torch.rand(4, 1, 8, 8, dtype=torch.double)
    nll = -Normal(r, 1.0).log_prob(x).flatten(1).sum(1).mean()
    constant = 64 * 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.double))
    assert l2(r, x).item() == pytest.approx((nll - constant).item(), rel=1e-12)


def test_losses_do_not_depend_on_the_batch_size():
    x, r = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8)
    mu, logvar = torch.randn(6, 3), torch.randn(6, 3)
    one = vae_loss(VAEOutput(r, mu, logvar, mu), x, 0.5)
    two = vae_loss(
        VAEOutput(*(t.repeat(2, *[1] * (t.ndim - 1)) for t in (r, mu, logvar, mu))), x.repeat(2, 1, 1, 1), 0.5
    )
    assert one.total.item() == pytest.approx(two.total.item(), rel=1e-5)
    assert one.total.item() == pytest.approx((one.recon + 0.5 * one.kl).item(), rel=1e-6)


def test_beta_rises_and_stays():
    assert [beta_at(p, 2.0, warmup=0.5) for p in (0, 0.25, 0.5, 1)] == [0, 1, 2, 2]
    assert beta_at(0, 2.0, warmup=0) == 2.0


def test_mask_loss_is_least_where_the_prediction_is_the_occupancy():
    occupancy = torch.full((1, 1, 4, 4), 0.3)
    at = {p: mask_loss(torch.logit(torch.full((1, 1, 4, 4), p)), occupancy).item() for p in (0.2, 0.3, 0.4)}
    assert at[0.3] < at[0.2] and at[0.3] < at[0.4]


def test_pos_weight_moves_the_optimum_as_documented():
    w, p = 5.0, 0.1
    raised = torch.tensor(w * p / (w * p + 1 - p))
    logits = torch.full((1, 1, 2, 2), torch.logit(raised).item(), requires_grad=True)
    mask_loss(logits, torch.full((1, 1, 2, 2), p), pos_weight=w).backward()
    assert logits.grad.abs().max().item() < 1e-6
