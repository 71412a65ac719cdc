"""Each row of the gap study differs from its base in what it says, and in nothing else."""

import numpy as np
import pytest
import torch
from test_rivals import patients

from studies import gap
from vaelib.latent import decode
from vaelib.training import vae_step
from vaelib.vae import VAEOutput

SMALL = {"latent": 2, "epochs": 1, "passes": 1, "blocks": 1, "channels": 4}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(gap, "BASE", gap.BASE | SMALL)
    for row in gap.TRIED.values():
        monkeypatch.setitem(row, "recipe", {k: v for k, v in row.get("recipe", {}).items() if k != "latent"})
    for row in gap.TRIED.values():
        row["recipe"] |= {"grid": 8}  # of 32 x 32 pixels, 16 are too many


def test_a_row_reads_what_it_shares_and_trains_the_rest(tmp_path):
    train = patients("a", "b")
    fine, overlap, other = (gap.trained(n, train, tmp_path) for n in (gap.FINE, "Dice + BCE", "gradient term"))

    def same(net):
        pairs = zip(net["vae"].parameters(), fine["vae"].parameters(), strict=True)
        return all(torch.equal(p, q) for p, q in pairs)

    assert same(overlap) and not same(other)
    masks = zip(overlap["mask"].parameters(), fine["mask"].parameters(), strict=True)
    assert not all(torch.equal(p, q) for p, q in masks)
    assert gap.trained("16 x 16 x 8", train, tmp_path)["mask"].config["reach"] == 0


def test_a_row_is_trained_once(tmp_path):
    train = patients("a", "b")
    gap.trained("free bits", train, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    written = path.stat().st_mtime_ns
    gap.trained("free bits", train, tmp_path)
    assert path.stat().st_mtime_ns == written


def test_refining_brings_the_latent_nearer_to_the_picture(tmp_path):
    s = patients("a", "b")
    vae = gap.trained(gap.FINE, s, tmp_path)["vae"]

    def loss(z):
        return 0.5 * np.square(decode(vae.decoder, z) - s.images).sum()

    weights = [p.clone() for p in vae.parameters()]
    first = gap.encode(vae, s.images)[0]
    refined = gap.refine(vae, s.images, batch=4)
    assert refined.shape == first.shape and loss(refined) < loss(first)
    assert all(torch.equal(p, q) for p, q in zip(weights, vae.parameters(), strict=True))


def test_bits_are_free_up_to_their_budget_and_steps_count_besides_grey_values():
    class Fixed(torch.nn.Module):
        def forward(self, x):
            mu = torch.full((len(x), 2, 4, 4), 0.1)
            return VAEOutput(x * 0.5, mu, torch.zeros_like(mu), mu)

    x = torch.from_numpy(patients("a").images)
    plain = vae_step(gap.BASE["beta"])(Fixed(), [x], 1.0)
    free = gap.free_bits_step(Fixed(), [x], 1.0)
    budget = gap.BASE["beta"] * gap.FREE_BITS * 2 * 4 * 4
    assert float(free["total"] - free["recon"]) == pytest.approx(budget, rel=0.01)  # a hundredth of a nat is under it
    edges = gap.edges_step(Fixed(), [x], 1.0)
    flat = gap.edges_step(Fixed(), [torch.ones_like(x)], 1.0)
    assert edges["total"] > plain["total"]
    assert float(flat["total"]) == pytest.approx(
        float(vae_step(gap.BASE["beta"])(Fixed(), [torch.ones_like(x)], 1.0)["total"])
    )


def test_overlap_counts_what_cross_entropy_alone_does_not():
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:5, 2:5] = 1
    right, wrong = (20 * m - 10 for m in (mask, mask.flip(-1)))
    step = lambda logits: float(gap.overlap_step(lambda z: z, [logits, mask], 0)["total"])  # noqa: E731
    assert step(right) < 0.5 and step(wrong) > gap.OVERLAP * 0.5 + np.log(2)
