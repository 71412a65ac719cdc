"""The study of doses: what is scanned, the grid in mm, the way between two phases, and a whole run of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_arms import slices

import studies
from studies import _arms, _cells, _fit, _pool, _rescans, doses
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.scanner import plan

NAMES = ["PANCREAS_0001", "PANCREAS_0002"]


def scan(number):
    """A patient of three slices for each dose, at 128 pixels."""
    out = {}
    for k, name in enumerate(doses.doses_of()):
        rng = np.random.default_rng([number, k])
        masks = np.zeros((3, 128, 128), np.float16)
        masks[:, 40:64, 48:80] = 1
        images = (0.3 * rng.random(masks.shape) + 0.5 * masks).astype(np.float16)
        out |= {f"{name}|images": images, f"{name}|masks": masks, f"{name}|mm": np.array([3.0, 3.2, 3.2])}
    return out


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cohort of slices, with networks trained for two steps."""
    for name, value in {"steps": 2, "VAE steps": 2, "batch": 2}.items():
        monkeypatch.setitem(_arms.PLAN, name, value)
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    for module in (doses, _fit, _rescans):
        monkeypatch.setattr(module, "models_folder", lambda: tmp_path / "models")
    monkeypatch.setattr(_pool, "refuse_others", lambda lab: None)  # see test_pool.py
    monkeypatch.setattr(doses, "PATIENTS", range(2101, 2104))
    monkeypatch.setattr(doses, "DOSES", {shift: several[-1:] for shift, several in _rescans.DOSES.items()})
    monkeypatch.setattr(_cells, "load_slices", lambda shards, names, level: slices("c", "d", seed=2))
    monkeypatch.setattr(doses, "in_mm", lambda lab, names: slices(*names, seed=3))
    twin = {"images": slices("x").images[:, 0].astype(np.float16)}
    monkeypatch.setattr(doses, "scanned", lambda work, numbers, workers: [
        scan(number) if work is _rescans.scans else twin for number in numbers])  # fmt: skip
    studies.write("controls", {"options": [{"jittered": False, "overlap": False}],
                               "choices": dict.fromkeys(doses.BASES, "0")})  # fmt: skip
    parts = {"train": NAMES, "val": ["c"], "test": ["d"]}
    return SimpleNamespace(train=slices(*NAMES), val=slices("c", seed=1), parts=parts, shards=None, level=6)


def test_a_run_scores_every_network_at_each_dose_it_is_for_and_trains_nothing_twice(lab, monkeypatch):
    record = doses.run(lab, workers=1)
    cells = _cells.read_cells("doses")
    of = {}
    for arm, _ in cells:
        name, _, dose = arm.partition(": ")
        of.setdefault(name, set()).add(dose)
    assert {*of} == {doses.named(*job) for job in doses.JOBS} and len(of["patch PCA"]) == 5
    for arm, cure in doses.JOBS:
        assert of[doses.named(arm, cure)] == {*doses.doses_of(doses.CURES.get(cure))}
    assert {*record["left of the way"]} == {"patch PCA, code moved", "VAE, beta 0.001, code moved"}
    assert "minus without" in record["arms"]["patch PCA, code moved: contrast phase 1"]
    studies.write("doses", record)
    monkeypatch.setattr(doses, "examined", None)
    assert doses.run(lab, workers=1)["arms"] == record["arms"]
    tables = doses.tables(record)
    assert tables["doses"].count("\n") == 6 and tables["cures"].count("\n") == 1 + len(doses.JOBS) - len(doses.BASES)


def test_a_picture_brought_to_another_grid_and_back_keeps_its_place_and_its_mass():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 20:36, 30:50] = 1
    there = _rescans.regrid(x, 6.0, 7.0, 64)
    assert there.sum().item() * 49 == pytest.approx(x.sum().item() * 36, rel=0.02)
    back = _rescans.regrid(there, 7.0, 6.0, 64)
    assert ((back > 0.5) == (x > 0.5)).float().mean() > 0.995
    places = (torch.arange(64) + 0.5 - 32) * 7
    middle = [(there.sum(d) * places).sum().item() / there.sum().item() for d in (3, 2)]
    assert middle == pytest.approx([(28 - 32) * 6, (40 - 32) * 6], abs=0.3)


@pytest.mark.parametrize("scale", _rescans.DOSES["patient's size"])
def test_a_larger_patient_is_seen_in_the_usual_field_of_view(scale):
    number = 2101
    body, rng = Anatomy(_pool.SEED, number), lambda: np.random.default_rng([_pool.SEED, number, 1])
    usual = plan(body, rng(), 512).spacing[2]
    seen = plan(body, rng(), 512, scale=scale, view=_rescans.same_view(number, scale)).spacing[2]
    assert seen == pytest.approx(usual, rel=1e-6)


def test_the_way_to_a_phase_undoes_a_shift_that_is_the_same_for_all():
    class Code(torch.nn.Module):
        def forward(self, x):
            return 3 * x.repeat(1, 2, 1, 1)

    usual = slices("a", "b", "c", "d")
    same = np.broadcast_to(usual.images[:1], usual.images.shape).copy()  # so that two halves have one mean
    usual, twin = usual._replace(images=same), usual._replace(images=same - 0.2)
    way = doses.way_to(Code(), usual, twin, 0.5)
    assert torch.allclose(way, torch.full_like(way, -0.3), atol=1e-5)
    there = same - 0.1
    assert doses.left_of(Code(), way, there, same) == pytest.approx(0, abs=1e-4)
    assert doses.left_of(Code(), 0 * way, there, same) == pytest.approx(1)
    x = torch.from_numpy(there)
    assert torch.allclose(doses.Moved(Code(), way)(x), Code()(torch.from_numpy(same)), atol=1e-5)


def test_phases_in_training_lie_between_a_slice_and_its_twin():
    seen = []
    step = doses.phased(lambda model, batch, progress: seen.append(batch) or torch.zeros(()))
    x, masks, twin = torch.ones(64, 1, 4, 4), torch.zeros(64, 1, 4, 4), torch.zeros(64, 1, 4, 4)
    step(None, [x, masks, twin], 0.5)
    shown, rest = seen[0]
    assert rest is masks and shown.min() >= 0 and shown.max() <= 1 and shown[:, 0, 0, 0].std() > 0.2
    assert (shown.flatten(1).std(1) < 1e-6).all()


def test_the_patients_who_are_scanned_anew_were_opened_by_no_study():
    assert not {*_rescans.PATIENTS} & ({*_pool.POOL} | {*_pool.TEST} | {*range(1, 101)})
