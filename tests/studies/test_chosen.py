"""The cell of few labels that is chosen: by held-out patients alone, with a teacher who is a running mean."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_arms import slices
from test_few_labels import FRESH, KEPT, patients_with
from torch import nn

import studies
from studies import _arms, _cells, _few, _fit, _pool, chosen, labels
from vaelib.engine.checkpoints import fingerprint
from vaelib.engine.files import json_ready

CURVES = {
    "PCA, k=1": 0.3, "VAE, k=1": 0.4, "U-Net, k=1": 0.6, "PCA, k=2": 0.5, "VAE, k=2": 0.45, "U-Net, k=2": 0.4,
    "patch PCA, k=1": 0.5, "spatial VAE, k=1": 0.5, "patch PCA, k=2": 0.3, "spatial VAE, k=2": 0.42,
}  # fmt: skip


def curves(of):
    return {name: [{"dice": 0.9}, {"dice": end}] for name, end in of.items()}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cohort of slices, a pool of one slice a patient, and the curves of few labels; two steps a network."""
    for plan in (_arms.PLAN, chosen.PLAN):
        for name, value in {"VAE steps": 2, "steps": 2, "batch": 2, "copies": 2}.items():
            monkeypatch.setitem(plan, name, value)
    for module in (chosen, _few, labels):
        monkeypatch.setattr(module, "LABELLED", (1, 2))
    monkeypatch.setattr(chosen, "WEIGHTS", (0.1, 1.0))
    monkeypatch.setattr(_fit, "models_folder", lambda: tmp_path / "models")
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_pool, "TEST", FRESH)
    monkeypatch.setattr(_pool, "patients", patients_with(KEPT))
    monkeypatch.setattr(_pool, "refuse_others", lambda lab: None)  # see test_pool.py
    _few._everyone.cache_clear()
    for module in (_few, _cells):
        monkeypatch.setattr(module, "load_slices", lambda shards, names, level: slices(*names, count=2))
    studies.write("labels", {"curves": curves({k: v for k, v in CURVES.items() if "s" not in k.split(",")[0]})})
    scores = {name: dict.fromkeys(_cells.MEASURES, 0.5) for name in map(_pool.name_of, FRESH)}
    grid = {(f"{arm}, k={k}", draw): scores for arm in chosen.BESIDE for k in (1, 2) for draw in range(3)}
    _cells.write_cells("labels", grid)
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    return SimpleNamespace(train=slices("a", "b"), val=slices("c", seed=1), parts=parts, shards=None, level=6)


def test_a_lead_is_over_the_better_rival_where_the_curves_end(monkeypatch):
    monkeypatch.setattr(chosen, "LABELLED", (1, 2))
    found = chosen.leads(curves(CURVES))
    wanted = {"VAE, k=1": -0.2, "VAE, k=2": -0.05, "spatial VAE, k=1": -0.1, "spatial VAE, k=2": 0.02}
    assert found == pytest.approx(wanted)


def test_the_teacher_is_a_running_mean_and_its_word_counts_by_weight(lab):
    scans = chosen.everyone(lab)
    assert len(scans.images) == 404 and np.isnan(scans.masks).all()
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(3, 1, 1))
    batch = [torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64).round()]

    def loss(weight, progress):
        torch.manual_seed(1)
        return chosen.taught(student, scans, weight, 0)(student, batch, progress).item()

    alone = loss(0.0, 1)
    assert loss(5.0, 0) == pytest.approx(alone) and alone < loss(1.0, 1) < loss(5.0, 1)
    assert loss(1.0, chosen.RISE / 2) - alone == pytest.approx((loss(1.0, 1) - alone) / 2, rel=1e-3)

    losses = chosen.taught(student, scans, 1.0, 0)
    teacher = losses.__closure__[losses.__code__.co_freevars.index("teacher")].cell_contents
    before = teacher[0].bias.clone()
    with torch.no_grad():
        student[0].bias += 1
    losses(student, batch, 1).backward()
    assert teacher[0].bias - before == pytest.approx(1 - chosen.KEEP, rel=1e-3)
    assert teacher[0].bias.grad is None and student[0].bias.grad is not None


@pytest.mark.parametrize("arm", chosen.ARMS)
def test_an_arm_reads_its_own_scans_and_only_one_is_shaped_by_labels(arm, lab, monkeypatch):
    seen, real = [], chosen.vae_of
    monkeypatch.setattr(chosen, "vae_of", lambda lab, *how: seen.append(lab.train) or real(lab, *how))
    few = _pool.patients([1001, 1002]).slices
    model, threshold, curve = chosen.fitted(arm, 1.0, lab, few, 0)
    mine = lab.train if "31" in arm else chosen.everyone(lab)
    assert [fingerprint(s) for s in seen] == ([fingerprint(mine)] if "VAE" in arm else [])
    assert getattr(model, "shaped", None) == {"mean teacher": None}.get(arm, arm.endswith("fine-tuned"))
    assert 0 < threshold < 1 and curve == []


def test_a_run_chooses_by_held_out_patients_and_a_second_one_trains_nothing(lab, monkeypatch):
    opened = []
    stub = _pool.patients
    monkeypatch.setattr(_pool, "patients", lambda numbers: opened.append((numbers, "choice" in studies.read("chosen")))
                        or stub(numbers))  # fmt: skip
    record = chosen.run(lab, workers=1, draws=2)
    studies.write(chosen.STUDY, record)
    assert all(written for numbers, written in opened if numbers == FRESH) and any(n == FRESH for n, _ in opened)
    choice, seen = record["choice"], record["curves"]
    assert choice["cell"] == max(choice["leads"], key=choice["leads"].get) and choice["cell"].endswith(
        f"={choice['k']}"
    )
    ends = {w: seen[f"mean teacher, k={choice['k']}, weight {w}"][-1]["dice"] for w in chosen.WEIGHTS}
    assert ends[choice["weight"]] == max(ends.values())

    names = [f"{arm}, k={choice['k']}" for arm in (*chosen.ARMS, *chosen.BESIDE)]
    assert [*record["arms"]] == names and all(row["seeds"] == 2 for row in record["arms"].values())
    assert [name for name, row in record["arms"].items() if "minus base" not in row] == [
        f"spatial VAE, k={choice['k']}"
    ]
    table = chosen.tables(studies.read(chosen.STUDY))["chosen"].splitlines()
    assert {line.split(" |")[0][2:] for line in table[2:]} == {*chosen.ARMS, *chosen.BESIDE}
    for module in (_arms, _few, _fit):
        monkeypatch.setattr(module, "train", None, raising=False)
    assert json_ready(chosen.run(lab, workers=1, draws=2)) == json_ready(record)
