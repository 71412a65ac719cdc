"""The study of curves: every shape has as many numbers, a logit sees about as far, and nothing is trained twice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_arms import slices

import studies
from studies import _cells, curves
from vaelib.engine.files import json_ready
from vaelib.spatial import BETA, ResidualDecoder

SHORT = {**curves.PLAN, "VAE steps": 2, "steps": 2, "batch": 2, "every": 1}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(curves, "models_folder", lambda: tmp_path / "models")
    monkeypatch.setattr(_cells, "load_slices", lambda shards, names, level: slices(*names, count=2))
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    held = {part: slices(*names, count=2) for part, names in parts.items()}
    monkeypatch.setattr(curves, "at_full_size", lambda reader, lab: [0.5, 0.25])
    lab = SimpleNamespace(**held, parts=parts, shards=None, level=6)
    lab.at = lambda level: SimpleNamespace(**vars(lab) | {"level": level})
    return lab


def test_every_shape_has_as_many_numbers():
    assert {numbers * grid**2 for grid, numbers in curves.SHAPES.values()} == {1024}


@pytest.mark.parametrize("grid", [8, 16, 32])
def test_a_logit_sees_most_of_the_slice_on_each_grid(grid):
    torch.manual_seed(0)
    decoder = ResidualDecoder(64, 2, 1, grid, blocks=curves.blocks_on(grid))
    for p in decoder.parameters():  # a block begins as the identity, and would see nothing
        torch.nn.init.normal_(p)
    z = torch.randn(1, 1, grid, grid, requires_grad=True)
    norms = [m for m in decoder.modules() if isinstance(m, torch.nn.GroupNorm)]
    for m in norms:  # it looks at the whole picture, if only for its mean
        m.forward = lambda x: x
    decoder(z)[0, 0, 32, 32].backward()
    seen = (z.grad[0, 0] != 0).any(0).float().mean()
    assert seen > 0.9


def test_a_run_keeps_its_curves_and_trains_nothing_twice(lab, monkeypatch):
    shapes = ("8 x 8 x 16", "32 x 32 x 1")
    record = curves.run(lab, (0, 1), plan=SHORT, shapes=shapes)
    assert record["plan"]["beta"] == BETA and {*record["shapes"]} == {*shapes}
    for row in record["shapes"].values():
        assert [at["steps"] for at in row["VAE's curve"]] == [at["steps"] for at in row["curve"]] == [1, 2]
        assert row["test"]["mean"] == pytest.approx(np.mean(row["test"]["values"]))
    assert {*record["minus 8 x 8 x 16"]} == {"32 x 32 x 1"}
    assert all(size["mean"] == 0.375 and len(size["seeds"]) == 2 for size in record["sizes"].values())
    monkeypatch.setattr(curves, "network", None)
    assert json_ready(curves.run(lab, (0, 1), plan=SHORT, shapes=shapes)) == json_ready(record)
