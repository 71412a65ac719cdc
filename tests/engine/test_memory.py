"""What a step takes is counted before it is taken, and where there is too little, the error says what would fit."""

import re

import pytest
import torch

from vaelib import InputError
from vaelib.engine import memory
from vaelib.spatial import ResidualVAE
from vaelib.training import fit, vae_step
from vaelib.vae import VAE

STEP = vae_step(0.01)


def batch(n, size=64):
    return [torch.zeros(1, 1, size, size).expand(n, -1, -1, -1)]


def test_a_watch_sees_what_is_alive_at_once_and_not_what_was_there_before():
    old = torch.rand(1000)
    with memory.PeakMemory() as watch:
        for _ in range(5):
            new = old * 2  # one at a time, and for a moment the next one beside it
        view = new[:10]
    assert watch.peak == 2 * old.nbytes and view.shape == (10,)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_foretold_is_what_a_step_takes(recompute):
    torch.manual_seed(0)
    vae, x = ResidualVAE(64, 4, 4, 8, recompute=recompute), torch.rand(4, 1, 64, 64)
    with memory.PeakMemory() as watch:
        STEP(vae, [x], 0.5)["total"].backward()
    weights = sum(p.nbytes for p in vae.parameters())
    assert memory.step_bytes(vae, STEP, [x]) == pytest.approx(watch.peak + x.nbytes + 3 * weights, rel=0.02)
    assert all(p.device.type == "cpu" for p in vae.parameters())


def test_foretelling_touches_neither_the_weights_nor_their_gradients():
    vae = VAE(32, 2, 4)
    before = [p.clone() for p in vae.parameters()]
    memory.step_bytes(vae, STEP, batch(10**6, 32))  # four terabytes of pictures
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, vae.parameters(), strict=True))


def test_recomputing_needs_less():
    kept, again = (
        memory.step_bytes(ResidualVAE(128, 4, 4, 8, recompute=r), STEP, batch(8, 128)) for r in (False, True)
    )
    assert again < 0.6 * kept


@pytest.mark.parametrize(("images", "share", "fewer", "more"), [(64, 0.2, 8, 32), (64, 0.9, 32, 64), (4, 0.34, 0, 2)])
def test_both_batches_that_are_advised_fit_by_measure_and_twice_as_large_ones_do_not(images, share, fewer, more):
    def measured(n, recompute):
        vae, x = ResidualVAE(64, 8, 4, 8, recompute=recompute), torch.rand(n, 1, 64, 64)
        with memory.PeakMemory() as watch:
            STEP(vae, [x], 0.5)["total"].backward()
        return watch.peak + x.nbytes + 3 * sum(p.nbytes for p in vae.parameters())

    vae = ResidualVAE(64, 8, 4, 8)
    room = share * memory.step_bytes(vae, STEP, batch(images))
    said = memory.what_fits(vae, STEP, batch(images), room)
    assert (f"use batch_size={fewer} " if fewer else "not even one image fits") in said
    assert f", or recompute=True with batch_size={more} (" in said and not vae.encoder.recompute
    for n, again in ((fewer, False), (more, True)):
        assert measured(n, again) <= room or not n
        assert measured(2 * n or 1, again) > room or n == images


def test_recomputing_is_not_advised_where_it_brings_nothing():
    again = ResidualVAE(64, 8, 4, 8, recompute=True)
    assert "recompute" not in memory.what_fits(again, STEP, batch(64), 10**9)
    assert "recompute" not in memory.what_fits(VAE(64, 4, 4), STEP, batch(64, 64), 10**9)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.0 GB). Tried to allocate 1.0 GB on private pool."),
])  # fmt: skip
def test_out_of_memory_becomes_a_word_of_what_would_fit(error, monkeypatch):
    vae, x = ResidualVAE(64, 8, 4, 8), batch(64)
    room = memory.step_bytes(vae, STEP, batch(20))
    monkeypatch.setattr(memory, "free_bytes", lambda device: room)
    with (
        pytest.raises(InputError, match="64 images of 64 x 64") as caught,
        memory.explain_out_of_memory(vae, STEP, x, "VAE"),
    ):
        raise error
    said = str(caught.value)
    assert said.startswith("VAE: out of memory") and "use batch_size=16 " in said and "recompute=True" in said
    assert "\n" not in said


def test_what_has_no_room_for_one_image_says_so(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with (
        pytest.raises(InputError, match="not even one image fits"),
        memory.explain_out_of_memory(VAE(32, 2, 4), STEP, batch(8, 32)),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_where_nobody_knows_what_is_free_half_is_advised(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    said = memory.what_fits(VAE(32, 2, 4), STEP, batch(8, 32), None)
    assert "use batch_size=4" in said and "free" not in said and "recompute" not in said


def test_another_error_is_let_through():
    with pytest.raises(RuntimeError, match="shapes"), memory.explain_out_of_memory(VAE(32, 2, 4), STEP, batch(8, 32)):
        raise RuntimeError("shapes do not match")


def test_a_batch_that_no_machine_holds_is_explained():
    vae, x = VAE(512, 2, 4), batch(2**30, 512)
    with (
        pytest.raises(InputError, match=re.escape("1073741824 images of 512 x 512")),
        memory.explain_out_of_memory(vae, STEP, x),
    ):
        STEP(vae, x, 0.5)


@pytest.mark.parametrize(("look", "said"), [
    (lambda total: total, "VAE: out of memory; a step with 4 images of 32 x 32 needs .* are free: use batch_size=2 "),
    (lambda total: total + 0 * total.item(), "VAE: out of memory; use a batch_size below 4"),
])  # fmt: skip
def test_training_that_runs_out_of_memory_says_what_would_fit(look, said, monkeypatch):
    """Here the CPU really refuses: four petabytes are more than an address can reach."""
    vae, x = VAE(32, 2, 4), torch.rand(4, 1, 32, 32)
    room = memory.step_bytes(vae, STEP, batch(2, 32))
    monkeypatch.setattr(memory, "free_bytes", lambda device: room)

    def greedy(model, parts, progress):
        losses = STEP(model, parts, progress)
        if len(parts[0]) == 4 and parts[0].device.type == "cpu":
            torch.empty(2**50)
        return losses | {"total": look(losses["total"])}

    with pytest.raises(InputError, match=said) as caught:
        fit(vae, greedy, [x], epochs=1, batch_size=4, accelerator="cpu", label="VAE")
    assert "\n" not in str(caught.value)
