"""The study of rates: what each code is, what it draws, and a whole run of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from test_arms import slices
from test_controls import patients

import studies
from studies import _cells, _pool, rate
from vaelib.engine.checkpoints import save
from vaelib.spatial import ResidualVAE

VECTOR, PLACES = "PCA, 16 numbers", "patch PCA, 256 numbers"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cohort of slices with networks trained for two steps, and controls that have been made."""
    for how in ("vector", "in place"):
        monkeypatch.setitem(rate.PLAN, how, rate.PLAN[how] | {"VAE steps": 2, "VAE batch": 2, "steps": 2, "batch": 2})
    monkeypatch.setitem(rate.PLAN, "copies", 2)
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(studies, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(_cells, "load_slices", lambda shards, names, level: slices("c", "d", seed=2))
    monkeypatch.setattr(_pool, "patients", patients)
    monkeypatch.setattr(_pool, "TEST", range(2001, 2004))
    monkeypatch.setattr(_pool, "refuse_others", lambda lab: None)  # see test_pool.py
    few = {arm: how for arm, how in rate.ARMS.items() if how[1] in (16, 64, 2048)}
    monkeypatch.setattr(rate, "ARMS", few)
    save(tmp_path / "checkpoints" / "06_code.safetensors", {"vae": ResidualVAE(64, latent=8, grid=16)}, half=True)
    score = dict.fromkeys(_cells.MEASURES, 0.5)
    theirs = {(name, seed): {"x": score} for name in rate.OF_CONTROLS.values() for seed in (0, 1)}
    _cells.write_cells("controls", theirs)
    parts = {"train": [*"abcdefghi"], "val": ["c"], "test": ["d"]}
    return SimpleNamespace(train=slices(*"abcdefghi", count=8), parts=parts, shards=None, level=6)


def test_the_linear_codes_are_principal_components_and_draw_what_scikit_learn_draws(lab):
    images = lab.train.images
    code, flat = rate.Linear(images, 16, "vector"), images.reshape(len(images), -1)
    fitted = PCA(16, svd_solver="randomized", random_state=0).fit(flat)
    x = torch.from_numpy(images)
    with torch.no_grad():
        assert np.allclose(code(x).numpy(), fitted.transform(flat), atol=1e-3)
        expected = fitted.inverse_transform(fitted.transform(flat)).reshape(images.shape)
        assert np.allclose(code.redraw(x).numpy(), expected, atol=1e-3)


def test_all_components_of_a_patch_draw_it_as_it_was(lab):
    code, x = rate.Linear(lab.train.images, 16 * 256, "in place"), torch.from_numpy(lab.train.images)
    with torch.no_grad():
        assert code(x).shape == (len(x), 16, 16, 16)
        assert torch.allclose(code.redraw(x), x, atol=1e-4)


def test_each_rate_has_its_linear_and_its_learned_code_and_one_an_autoencoder():
    shapes = {(kind, n) for kind, n, _ in rate.ARMS.values()}
    for n in (16, 64, 256):
        assert {("PCA", n), ("VAE", n)} <= shapes
    for n in (256, 2048):
        assert {("patch PCA", n), ("spatial VAE", n)} <= shapes
    assert [n for kind, n in shapes if kind == "autoencoder"] == [64]


def test_a_run_scores_every_arm_takes_the_rest_from_the_controls_and_trains_nothing_twice(lab, monkeypatch):
    record = rate.run(lab, workers=1)
    cells = _cells.read_cells("rate")
    assert {arm for arm, _ in cells} == {*rate.ARMS} == {*record["arms"]}
    assert all(0 <= row["dice"] <= 1 for by in cells.values() for row in by.values())
    assert cells["patch PCA, 2048 numbers", 0] == {"x": dict.fromkeys(_cells.MEASURES, 0.5)}
    facts = record["facts"]
    assert {*facts} == {*rate.ARMS} and all(np.isfinite(f["PSNR"]) for f in facts.values() if "PSNR" in f)
    assert all("bits per pixel" in facts[arm] for arm in rate.ARMS if "VAE" in arm)
    assert all(facts[arm]["curve"][-1]["steps"] == 2 for arm in rate.ARMS if arm not in rate.OF_CONTROLS)
    studies.write("rate", record)
    monkeypatch.setattr(rate, "tested", None)
    monkeypatch.setattr(rate, "partial", lambda work, **how: work)  # which takes no None
    assert rate.run(lab, workers=1)["arms"] == record["arms"]
    text = rate.tables(record)["rate"]
    assert text.count("\n") == len(rate.ARMS) + 1 and "| PCA, 16 numbers |" in text


def test_labels_shape_the_code_of_the_last_rung_and_no_other(lab):
    for kind in rate.LADDER[1:]:
        arm = f"{kind}, 64 numbers"
        code, _ = rate.code_of(arm, lab)
        before = [p.clone() for p in code.parameters()]
        model, _, _ = rate.read_by(arm, code, lab)
        same = all((a == b).all() for a, b in zip(before, model.code.net.parameters(), strict=True))
        assert same == (kind != rate.LADDER[-1])


def test_a_perfect_picture_has_a_high_psnr_and_an_ssim_of_one(lab):
    code, x = rate.Linear(lab.train.images, 16 * 256, "in place"), torch.from_numpy(lab.train.images)
    found = rate.redrawn("patch PCA, 2048 numbers", code, None, x)
    assert found["PSNR"] > 60 and found["SSIM"] == pytest.approx(1, abs=1e-3) and "bits per pixel" not in found
