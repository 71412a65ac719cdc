"""The measurements beside others: what is done with the numbers. How fast anything is, no test says."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from benchmarks import __main__ as bench
from benchmarks import peers, tables, timing, training
from vaelib.vae import VAE, MaskDecoder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text())


def test_ways_are_called_in_turn():
    order = []
    found = timing.in_turn({"a": lambda: order.append("a") or 1.0, "b": lambda: order.append("b") or 2.0}, times=3)
    assert order == list("ababab") and found == {"a": [1.0] * 3, "b": [2.0] * 3}


@pytest.mark.parametrize(("unit", "ratio"), [("images/s", 0.25), ("s", 4.0), ("MB", 4.0)])
def test_a_ratio_is_above_one_where_we_are_better(unit, ratio):
    row = timing.row("work", unit, {"ours": [1.0, 2.0, 9.0], "theirs": [8.0, 8.0, 7.0]})
    assert row["ours"] == 2.0 and row["peers"] == {"theirs": 8.0} and row["ratio"] == {"theirs": ratio}


def test_a_fall_of_more_than_15_percent_is_told_and_nothing_else():
    row = lambda **ratio: {"ratio": ratio}  # noqa: E731
    before = {"a": row(x=2.0, y=1.0), "b": row(x=1.0)}
    now = {"a": row(x=1.69, y=0.86), "b": row(x=3.0), "new": row(x=0.1)}
    assert bench.fallen(before, now) == ["a: 1.69 times x, was 2.00"]


def test_losses_are_shown_and_missed_goals_named():
    row = timing.row("work", "images/s", {"ours": [100.0], "slow": [50.0], "fast": [400.0]}, {"slow": 1.5, "fast": 1.3})
    assert "slow 50 (*2.00*); fast 400 (*0.25*, wanted 1.3)" in tables.table({"row": row})


def test_the_plain_loop_trains_the_same_architecture():
    ours = sum(p.numel() for net in (VAE(), MaskDecoder()) for p in net.parameters())
    assert sum(p.numel() for net in (peers.PlainVAE(), peers.plain_decoder()) for p in net.parameters()) == ours
    images = np.zeros((16, 1, 64, 64), np.float32)
    images[:, :, 20:40, 16:48] = 1
    errors = []

    def after(epoch, vae, mask):
        with torch.no_grad():
            errors.append(float((vae(torch.from_numpy(images))[0] - torch.from_numpy(images)).square().mean()))

    torch.manual_seed(0)
    peers.plain_loop(images, images, epochs=8, batch_size=8, workers=0, after=after)
    assert len(errors) == 8 and errors[-1] < 0.8 * errors[0]


def test_the_clock_stands_still_while_dice_is_measured(monkeypatch):
    now = iter([0.0, 10.0, 50.0, 55.0, 90.0])
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(training, "dice_of", lambda probability, val: probability)
    watch = training.Watch(None)
    watch.look(lambda: 0.1)
    watch.look(lambda: 0.5)
    assert watch.curve == [(10.0, 0.1), (15.0, 0.5)]
    assert watch.until(0.4) == 15.0 and watch.until(0.9) == float("inf")


@pytest.mark.parametrize("key", RESULTS["rows"])
def test_a_committed_row_adds_up(key):
    row = RESULTS["rows"][key]
    for peer, value in row["peers"].items():
        ratio = value / row["ours"] if row["unit"] in timing.LESS else row["ours"] / value
        assert row["ratio"][peer] == pytest.approx(ratio, rel=0.01)


def test_the_table_of_the_page_is_that_of_the_results():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert tables.table(RESULTS["rows"]) in text
    assert all(f"{name} {version}" in text for name, version in RESULTS["machine"]["versions"].items())


def test_the_peers_measured_are_those_that_are_pinned():
    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text())["project"]
    pinned = {r.name: str(r.specifier) for r in map(Requirement, project["optional-dependencies"]["bench"])}
    assert {"pythae", "torchio"} <= set(pinned)
    for name, pin in pinned.items():
        assert pin == f"=={RESULTS['machine']['versions'][name]}"
