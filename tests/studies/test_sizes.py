"""The study of sizes: equal time for each cell, every image its turn, and scores that a checkpoint can give again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import make_patients
from torch import nn

import studies
from studies import sizes
from vaelib import recipes
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import find_cases
from vaelib.engine.checkpoints import load
from vaelib.engine.files import json_ready
from vaelib.engine.rows import Rows
from vaelib.engine.shards import prepare
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE
from vaelib.training import vae_step
from vaelib.vae import VAE, MaskDecoder

BRIEF = 1e-3  # minutes


@pytest.fixture
def narrow(monkeypatch):
    """Networks with two channels, which are soon trained."""

    def build(kind, size, numbers, start=0.5):
        return VAE(size, 2, numbers, start=start) if kind == "plain" else ResidualVAE(size, 2, numbers // 64, 8, start)

    monkeypatch.setattr(sizes, "build", build)


def stack(n=40, side=32, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 1, side, side), np.float32)
    masks[:, :, 8:16, 10:20] = 1
    return Slices(rng.random((n, 1, side, side), np.float32), masks, np.repeat("a", n), np.linspace(0, 1, n))


@pytest.mark.parametrize("size", [64, 128, 256, 512])
@pytest.mark.parametrize("numbers", [64, 256])
@torch.no_grad()
def test_vector_and_spatial_latents_are_of_equal_size_in_numbers(size, numbers):
    x = torch.rand(1, 1, size, size)
    shapes = {kind: sizes.build(kind, size, numbers)(x).mu.shape for kind in ("plain", "vector", "spatial")}
    assert shapes["plain"] == shapes["vector"] == (1, numbers)
    assert shapes["spatial"] == (1, numbers // 64, 8, 8)


def test_all_cells_that_the_notebook_loads_are_in_the_table():
    assert set(sizes.PUBLISHED) <= set(sizes.CELLS) and len(set(sizes.CELLS)) == len(sizes.CELLS)
    assert {level for level, *_ in sizes.CELLS} == {6, 7, 8, 9}


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


@pytest.fixture
def clock(monkeypatch):
    """A processor on which whatever is timed takes a second."""
    ticks = iter(range(1000))
    monkeypatch.setattr(sizes, "time", SimpleNamespace(process_time=lambda: next(ticks)))


@pytest.mark.parametrize("lazy", [False, True])
def test_each_image_is_seen_once_before_any_is_seen_again(clock, lazy):
    images, seen = np.zeros((100, 1, 32, 32), np.float32) + np.arange(100, dtype=np.float32)[:, None, None, None], []

    def step(model, batch, progress):
        seen.append([int(v) for v in batch[0][:, 0, 0, 0]])
        return {"total": model.weight.sum() ** 2}

    data = Rows(100, lambda rows: images[rows]) if lazy else images
    trial = 4 * 64  # the images that a second is for
    count = sizes.spend(350 / (60 * trial), One(), step, [data], seed=0)
    assert count == 350 and len(seen[0]) == 64
    for epoch in (seen[:4], seen[4:8]):
        assert len(sum(epoch, [])) == trial
    assert np.bincount(sum(seen[8:], []), minlength=100).tolist().count(3) == 50  # the others came four times
    assert set(np.bincount(sum(seen[8:], []))) == {3, 4}


def test_images_and_masks_stay_together(clock):
    data = [np.zeros((70, 1, 32, 32), np.float32) + np.arange(70, dtype=np.float32)[:, None, None, None]] * 2

    def step(model, batch, progress):
        assert torch.equal(*batch)
        return {"total": model.weight.sum() ** 2}

    assert sizes.spend(1e-3, One(), step, data, seed=0) == 64  # never less than one batch


def test_a_larger_image_comes_in_smaller_batches(clock):
    lengths = []

    def step(model, batch, progress):
        lengths.append(len(batch[0]))
        return {"total": model.weight.sum() ** 2}

    sizes.spend(1e-3, One(), step, [np.zeros((20, 1, 512, 512), np.float32)], seed=0)
    assert set(lengths) == {8}


@pytest.mark.parametrize(("kind", "decoder"), [("plain", MaskDecoder), ("spatial", ResidualMaskDecoder)])
def test_a_vae_and_its_decoder_are_trained(kind, decoder, narrow):
    s = stack()
    networks, seen = sizes.train(kind, 64, s, BRIEF)
    assert isinstance(networks["mask"], decoder) and seen["VAE"] >= 64 and seen["mask"] >= 64
    assert recipes.predicted(networks["vae"], networks["mask"], s).shape == s.masks.shape
    networks["vae"].zero_grad()
    networks["mask"](networks["vae"](torch.rand(2, 1, 32, 32)).z).sum().backward()
    assert all(p.grad is None for p in networks["vae"].parameters())


def test_beta_goes_with_the_number_of_pixels(narrow, monkeypatch):
    seen = []
    monkeypatch.setattr(sizes, "vae_step", lambda beta: seen.append(beta) or vae_step(beta))
    monkeypatch.setattr(sizes, "spend", lambda *args, **options: 1)
    for side in (32, 64):
        sizes.train("plain", 16, stack(8, side), BRIEF)
    assert seen == [sizes.BETA / 4, sizes.BETA]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    make_patients(folder / "cohort", (1, 2, 3, 4))
    cases = find_cases(folder / "cohort")
    return prepare(cases, folder / "cache", levels=(5, 6, 9), workers=1), [c.patient for c in cases]


@pytest.fixture
def cohort(four, tmp_path, narrow, monkeypatch):
    shards, names = four
    parts = {"train": names[:2], "val": names[2:3], "test": names[3:]}
    monkeypatch.setattr(studies, "CHECKPOINTS", tmp_path / "kept")
    monkeypatch.setattr(sizes, "models_folder", lambda: tmp_path / "models")
    return Cohort(shards, parts, 6)


def test_a_cell_is_trained_once_and_its_scores_come_from_its_checkpoint(cohort, tmp_path, monkeypatch):
    scores = sizes.cell((5, "spatial", 64), cohort, BRIEF, published="small")
    assert set(scores["dice"]) == {"32", "512"} and len(scores["dice"]["512"]["values"]) == 1
    assert 0 <= scores["dice"]["32"]["mean"] <= 1 and 0 < scores["grey"] < 1
    networks, meta = load(tmp_path / "kept" / "small.safetensors", "vae", "mask")
    assert meta["cohort"] == "synthetic" and set(meta["thresholds"]) == {"32", "512"}
    assert scores["parameters"] == sum(p.numel() for net in networks.values() for p in net.parameters())
    monkeypatch.setattr(sizes, "train", None)  # a second time, nothing is trained
    assert sizes.cell((5, "spatial", 64), cohort, BRIEF) == scores
    with pytest.raises(TypeError):
        sizes.cell((5, "spatial", 64), cohort, BRIEF, seed=1)


def test_a_cell_says_how_many_steps_it_made_and_makes_them_again_by_no_clock(cohort, monkeypatch):
    found = sizes.cell((5, "spatial", 64), cohort, BRIEF)
    slices = len(cohort.at(5).train.images)
    for name, count in found["images"].items():
        assert found["steps"][name] == -(-count // 64) and found["passes"][name] == pytest.approx(
            count / slices, abs=1e-4
        )
    monkeypatch.setattr(sizes, "time", None)
    assert sizes.cell((5, "spatial", 64), cohort, BRIEF, images=found["images"]) == found


def test_a_whole_run_fills_its_section_as_it_goes(cohort, tmp_path, monkeypatch):
    put = []
    monkeypatch.setattr(studies, "write", lambda name, value: put.append((name, json_ready(value))))
    monkeypatch.setattr(studies, "read", lambda name: {})
    monkeypatch.setattr(sizes, "cost", lambda: {"32": {}})
    monkeypatch.setattr(sizes, "LONG", (5, "spatial", 64))
    monkeypatch.setattr(sizes, "PUBLISHED", {(5, "plain", 16): "small"})
    section = sizes.run(cohort, minutes=BRIEF, cells=((5, "plain", 16),))
    assert [name for name, _ in put] == ["sizes", "sizes"] and not put[0][1]["long"]
    assert section["cells"]["32"]["plain"]["16"]["dice"]["512"]["mean"] >= 0
    assert section["long"]["minutes"] == 4 * BRIEF and section["cost"] == {"32": {}}
    kept = [p.name for p in (tmp_path / "kept").iterdir()]
    assert kept == ["07_full_size.safetensors"]  # the others stay as they are where the time is not theirs


def test_a_gain_is_the_difference_patient_by_patient():
    def one(*values):
        return {"dice": {"512": {"values": values}}}

    cells = {"64": {"plain": {"64": one(0.2, 0.6)}, "vector": {"64": one(0.3, 0.7), "256": one(0.4, 0.7)}},
             "128": {"plain": {"64": one(0.4, 0.6)}}}  # fmt: skip
    found = sizes.gains(cells)
    assert set(found) == {"residual over plain, 64 numbers", "128 over 64 pixels, plain"}
    assert found["residual over plain, 64 numbers"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert found["128 over 64 pixels, plain"]["low"] == 0 and found["128 over 64 pixels, plain"]["high"] > 0.19


def test_the_memory_of_an_image_does_not_hang_on_the_batch_and_recomputing_saves_some():
    kept, again = (sizes.build("spatial", 64, 64, recompute=r) for r in (False, True))
    one, more = (sizes.step_cost(kept, 64, few) for few in (2, 4))
    assert one["MB"] == pytest.approx(more["MB"], rel=0.02) and one["ms"] > 0
    assert sizes.step_cost(again, 64)["MB"] < 0.6 * one["MB"]
    assert sizes.step_cost(kept, 64, dtype=torch.bfloat16)["MB"] < 0.7 * one["MB"]


def test_the_cost_is_measured_on_one_thread_which_is_then_given_back(monkeypatch):
    asked, threads = [], torch.get_num_threads()

    def step_cost(vae, size, few, dtype=None):
        asked.append((torch.get_num_threads(), size, few))
        return {"ms": 1.0, "MB": 1.0}

    monkeypatch.setattr(sizes, "step_cost", step_cost)
    table = sizes.cost(levels=(6, 9))
    assert torch.get_num_threads() == threads and set(asked) == {(1, 64, 16), (1, 512, 2)}
    assert set(table["64"]["plain"]) == {"parameters", "float32", "bfloat16"}
    assert set(table["512"]["spatial, wide"]) == {"parameters", "float32", "recompute", "bfloat16"}
    assert table["512"]["spatial, wide"]["parameters"] > 10 * table["512"]["spatial"]["parameters"]
