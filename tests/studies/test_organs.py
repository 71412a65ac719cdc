"""The study of organs: whose masks are learned, that no code is shaped by them, and a whole run of it."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_arms import slices

import studies
from studies import _cells, _pool, organs
from vaelib.engine.checkpoints import save
from vaelib.engine.errors import InputError
from vaelib.spatial import ResidualVAE


def patients(numbers, workers=None):
    """Patients whose organs are squares of different sizes, by the organ's place in the list."""
    names = [_pool.name_of(number) for number in numbers]
    s = slices(*names, count=3, seed=7)
    found = np.zeros((len(s.images), len(_pool.ORGANS), 64, 64), np.uint8)
    for k in range(len(_pool.ORGANS)):
        found[:, k, 20 : 24 + 2 * k, 20:30] = 64
    return _pool.Drawn(s, found, dict.fromkeys(names, (3.0, 5.0, 5.0)))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cohort of slices, with networks trained for two steps on two organs."""
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(studies, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(_pool, "patients", patients)
    monkeypatch.setattr(_pool, "TEST", range(2001, 2004))
    monkeypatch.setattr(_pool, "refuse_others", lambda lab: None)  # see test_pool.py
    monkeypatch.setattr(organs, "ORGANS", ("liver", "aorta"))
    for name in ("steps", "batch"):
        monkeypatch.setitem(organs.PLAN, name, 2)
    save(tmp_path / "checkpoints" / "06_code.safetensors", {"vae": ResidualVAE(64, latent=8, grid=16)}, half=True)
    parts = {"train": ["PANCREAS_0001", "PANCREAS_0002"], "val": ["PANCREAS_0003"]}
    train, val = (slices(*names, count=3, seed=7) for names in parts.values())
    return SimpleNamespace(train=train, val=val, parts=parts, shards=None, level=6, folder="cohort")


def test_an_organ_takes_the_place_of_the_pancreas(lab):
    found = organs.drawn(lab, "train")
    of_aorta = organs.of_organ(found, "aorta")
    assert np.array_equal(of_aorta.images, lab.train.images) and set(np.unique(of_aorta.masks)) == {0, 1}
    k = _pool.ORGANS.index("aorta")
    assert of_aorta.masks.sum() == len(lab.train.images) * (4 + 2 * k) * 10


def test_patients_that_the_phantom_draws_otherwise_are_refused(lab):
    lab.train = lab.train._replace(images=lab.train.images + 0.01)
    with pytest.raises(InputError, match="make the cohort anew"):
        organs.drawn(lab, "train")


def test_a_run_scores_every_arm_on_every_organ_and_trains_nothing_twice(lab, monkeypatch):
    record = organs.run(lab, workers=1)
    cells = _cells.read_cells("organs")
    expected = {f"{arm}: {organ}" for arm in organs.ARMS for organ in organs.ORGANS}
    assert {arm for arm, _ in cells} == expected == {*record["arms"]} == {*record["facts"]}
    assert all({*by} == {"PANCREAS_2001", "PANCREAS_2002", "PANCREAS_2003"} for by in cells.values())
    assert "minus base" not in record["arms"]["U-Net: liver"] and "minus base" in record["arms"]["patch PCA: aorta"]
    studies.write("organs", record)
    monkeypatch.setattr(organs, "tested", None)
    assert organs.run(lab, workers=1)["arms"] == record["arms"]
    table = organs.tables(record)["organs"].splitlines()
    assert len(table) == 2 + len(organs.ARMS) and "liver | aorta" in table[0]


def test_no_code_is_shaped_by_an_organ(lab):
    vae = ResidualVAE(64, latent=8, grid=16)
    data = organs.of_organ(organs.drawn(lab, "train"), "liver")
    before = [p.clone() for p in vae.encoder.parameters()]
    organs.fitted("VAE, beta 0.001", vae, data, data, 0, organs.PLAN)
    assert all((a == b).all() for a, b in zip(before, vae.encoder.parameters(), strict=True))


def test_an_organ_that_is_not_made_yet_is_left_out_of_the_table(lab):
    record = organs.run(lab, workers=1)
    for arm in organs.ARMS:
        del record["arms"][f"{arm}: aorta"]
    assert "liver" in organs.tables(record)["organs"] and "aorta" not in organs.tables(record)["organs"]
