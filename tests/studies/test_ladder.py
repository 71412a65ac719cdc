"""The ladder gives every rung another latent, and scores all beside the baselines."""

import pytest
import torch
from test_recipes import people

from studies import ladder
from vaelib import recipes, rivals
from vaelib.cohort import Cohort
from vaelib.vae import MaskDecoder

QUICK = {"latent": 4, "epochs": 2, "copies": 2, "mask_epochs": 2}


@pytest.fixture
def lab(monkeypatch):
    for part, value in QUICK.items():
        monkeypatch.setitem(recipes.RECIPE, part, value)
    bottleneck = rivals.ARMS["supervised bottleneck"]
    short = bottleneck.recipe | {"passes": 2, "network": {"latent": 4}}
    monkeypatch.setitem(rivals.ARMS, "supervised bottleneck", bottleneck._replace(recipe=short))
    made = Cohort(None, {"train": ["a", "b", "c"], "val": ["d"], "test": ["e"]}, 5)
    made.train, made.val, made.test = people(["a", "b", "c"]), people(["d"], 1), people(["e"], 2)
    return made


def test_the_ladder_gives_every_rung_the_same_decoder(lab, monkeypatch):
    on_val = []
    monkeypatch.setattr(ladder.recipes, "baselines", lambda *args: {})
    monkeypatch.setattr(ladder.metrics, "best_thresholds", lambda shards, pairs, level: on_val.append(dict(pairs)))
    monkeypatch.setattr(ladder.recipes, "scoreboard", lambda shards, methods, patient, level: methods)
    monkeypatch.setattr(ladder, "meta_of", lambda *args: {"layout": "synthetic"})
    record = ladder.run(lab)
    rungs = record["methods"]
    assert len(rungs) == len(on_val) == 5 and recipes.DETACHED in rungs
    for on_test, _ in rungs.values():
        assert on_test.shape == lab.test.masks.shape
        assert 0 <= on_test.min() and on_test.max() <= 1
    assert all(maps["d"].shape == lab.val.masks[:, 0].shape for maps in on_val)
    assert record["patients"] == {"train": 3, "val": 1, "test": 1} and record["cohort"] == "synthetic"


def test_the_decoder_of_a_code_is_that_of_the_method(lab):
    made = ladder.CODES["random encoder"].fit(lab, 0)
    assert isinstance(made["mask"], MaskDecoder) and made["mask"].config["latent"] == QUICK["latent"]
    again = ladder.CODES["random encoder"].fit(lab, 0)
    pairs = zip(made["mask"].parameters(), again["mask"].parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
