"""The study of few labels: who is drawn, that no other mask is looked at, and a whole run of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from test_arms import slices

import studies
from studies import _cells, _few, _pool, labels
from vaelib.cohort import Slices
from vaelib.engine.files import json_ready
from vaelib.latent import encode

FRESH = range(2001, 2004)
POOL = set(_pool.POOL)


def one(number, count):
    """The slices of a patient: every one with noise and a square of their own, which is pancreas."""
    rng = np.random.default_rng(number)
    masks = np.zeros((count, 1, 64, 64), np.float32)
    row, column = rng.integers(10, 40, 2)
    masks[:, :, row : row + 12, column : column + 12] = 1
    images = (0.3 * rng.random(masks.shape, np.float32) + 0.5 * masks).astype(np.float32)
    return Slices(images, masks, np.repeat(_pool.name_of(number), count), np.linspace(0, 1, count))


KEPT = {number: one(number, 3 if number in FRESH else 1) for number in (*_pool.POOL, *FRESH)}


def patients_with(seen):
    """Make a stub of `_pool.patients`, in which masks are NaN but for those patients that may be `seen`."""

    def patients(numbers, workers=None):
        parts = [KEPT[n] if n in seen else KEPT[n]._replace(masks=KEPT[n].masks * np.nan) for n in numbers]
        s = Slices(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        return _pool.Drawn(s, np.zeros(0), dict.fromkeys(s.rows, (3.0, 5.0, 5.0)))

    return patients


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cohort of slices and a pool of one slice a patient; networks are trained for two steps."""
    for name, value in {"VAE steps": 2, "VAE batch": 2, "steps": 2, "batch": 2, "copies": 2}.items():
        monkeypatch.setitem(labels.PLAN, name, value)
    monkeypatch.setattr(labels, "LABELLED", (1, 2))
    monkeypatch.setattr(labels, "models_folder", lambda: tmp_path / "models")
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(studies, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(_pool, "TEST", FRESH)
    monkeypatch.setattr(_pool, "patients", patients_with(KEPT))
    monkeypatch.setattr(_pool, "refuse_others", lambda lab: None)  # see test_pool.py
    _few._everyone.cache_clear()
    for module in (_few, _cells):
        monkeypatch.setattr(module, "load_slices", lambda shards, names, level: slices(*names, count=2))
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    return SimpleNamespace(train=slices("a", "b"), val=slices("c", seed=1), parts=parts, shards=None, level=6)


# --- who is drawn ------------------------------------------------------------------------------------------------


def test_a_smaller_draw_is_within_a_larger_one_and_the_same_each_time():
    for draw in range(labels.DRAWS):
        whole = labels.drawn(400, draw)
        assert len(set(whole)) == 400 and set(whole) == POOL
        for k in (1, 4, 16):
            found = labels.drawn(k, draw)
            assert found == whole[:k] == labels.drawn(k, draw) and all(type(n) is int for n in found)


def test_draws_differ():
    found = [frozenset(labels.drawn(16, draw)) for draw in range(6)]
    assert len(set(found)) == 6
    shared = [len(a & b) for k, a in enumerate(found) for b in found[:k]]
    assert max(shared) < 8  # 0.64 of 16 of 400 is what chance has in common


def test_nobody_is_drawn_who_is_tested():
    for draw in range(100):
        assert set(labels.drawn(16, draw)) <= POOL and not set(labels.drawn(16, draw)) & {*range(2001, 2101)}


# --- codes -------------------------------------------------------------------------------------------------------


def test_scans_are_images_of_the_old_training_patients_and_of_the_pool(lab, monkeypatch):
    monkeypatch.setattr(_pool, "patients", patients_with(()))
    found = labels.everyone(lab).images
    assert found.shape == (4 + 400, 1, 64, 64) and np.isfinite(found).all()
    np.testing.assert_array_equal(found[:4], slices("a", "b", count=2).images)
    np.testing.assert_array_equal(found[4:], np.concatenate([KEPT[n].images for n in _pool.POOL]))


def test_the_linear_code_is_that_of_scikit_learn_and_is_kept(lab, monkeypatch):
    rng = np.random.default_rng(0)
    images = (rng.random((60, 5)) * [5, 4, 3, 2, 1] @ rng.random((5, 64 * 64))).astype(np.float32)
    images = images.reshape(60, 1, 64, 64) / images.max() + 0.01 * rng.random((60, 1, 64, 64), np.float32)
    with torch.no_grad():
        found = labels.linear(images, 5)(torch.from_numpy(images)).numpy()
    wanted = PCA(5, svd_solver="full").fit_transform(images.reshape(60, -1))
    signs = np.sign((found * wanted).sum(0))
    np.testing.assert_allclose(found * signs, wanted, atol=1e-3 * np.abs(wanted).max())
    monkeypatch.setattr(labels, "PCA", None)
    with torch.no_grad():
        np.testing.assert_array_equal(labels.linear(images, 5)(torch.from_numpy(images)).numpy(), found)
    with pytest.raises(TypeError):
        labels.linear(images[1:], 5)


def test_the_vae_is_trained_once_and_anew_when_the_scans_change(lab, monkeypatch):
    images = np.concatenate([KEPT[n].images for n in range(1001, 1011)])
    vae, curve = labels.vae_of(lab, images)
    assert curve[-1]["steps"] == 2 and set(curve[-1]) == {"steps", "error", "kl", "active"}
    real = labels.train
    monkeypatch.setattr(labels, "train", None)
    again, same = labels.vae_of(lab, images)
    assert same == curve
    np.testing.assert_array_equal(encode(again, images)[0], encode(vae, images)[0])
    monkeypatch.setattr(labels, "train", real)
    images[0] = 0
    assert labels.vae_of(lab, images)[1] != curve


@pytest.mark.parametrize("arm", labels.ARMS)
def test_an_arm_makes_no_code_but_its_own(arm, lab, monkeypatch):
    images = np.concatenate([KEPT[n].images for n in range(1001, 1071)])
    asked = []
    monkeypatch.setattr(labels, "vae_of", lambda *how: asked.append("VAE") or [SimpleNamespace(encoder="VAE")])
    monkeypatch.setattr(labels, "linear", lambda images: asked.append("PCA") or "PCA")
    found = labels.codes_of(lab, images, labels.PLAN, arm)
    wanted = {"U-Net": [], "VAE, then fine-tuned": ["VAE"]}.get(arm, [arm])
    assert [*found] == wanted and asked == [name for name in wanted if name in ("VAE", "PCA")]


@pytest.mark.parametrize("arm", labels.ARMS)
def test_labels_shape_the_code_of_one_arm_alone(arm, lab):
    images = np.concatenate([KEPT[n].images for n in range(1001, 1071)])
    codes = labels.codes_of(lab, images, labels.PLAN, arm)
    model = labels.reader(arm, codes, torch.from_numpy(images), 0.05, 0)
    few = torch.from_numpy(images[:2]).expand(-1, 3 if arm == "U-Net" else 1, -1, -1)
    logits = model(few)
    assert logits.shape == (2, 1, 64, 64)
    logits.sum().backward()
    if arm != "U-Net":
        reached = {p.grad is not None for p in model.code.net.parameters() if p.requires_grad}
        assert reached == ({True, False} if arm == "VAE, then fine-tuned" else set())  # `logvar` is not read
        assert all(p.grad is not None for p in model.head.parameters())


# --- a cell ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", labels.ARMS)
def test_a_cell_looks_at_no_mask_but_those_of_its_patients(arm, lab, monkeypatch):
    cell, mine = (f"{arm}, k=2", 1), {*labels.drawn(2, 1)}
    whole = labels.tested(cell, lab)
    monkeypatch.setattr(_pool, "patients", patients_with(mine | {*FRESH}))
    for part in ("train", "val"):
        s = getattr(lab, part)
        setattr(lab, part, s._replace(masks=s.masks * np.nan))
    monkeypatch.setattr(_cells, "held_out", None)
    assert labels.tested(cell, lab) == whole
    assert [*whole] == [_pool.name_of(n) for n in FRESH] and all(
        set(row) == {*_cells.MEASURES} for row in whole.values()
    )


def test_without_the_masks_of_its_patients_a_cell_fails(lab, monkeypatch):
    monkeypatch.setattr(_pool, "patients", patients_with({*_pool.POOL, *FRESH} - {*labels.drawn(2, 1)}))
    with pytest.raises((FloatingPointError, ValueError)):
        labels.tested(("untrained encoder, k=2", 1), lab)


def test_the_threshold_is_chosen_on_the_few_patients(lab, monkeypatch):
    asked = []
    real = labels.metrics.choose
    monkeypatch.setattr(labels.metrics, "choose", lambda p, s: asked.append([*s.rows]) or real(p, s))
    cuts = []
    monkeypatch.setattr(_cells, "measure", lambda p, cut, s, spacing: cuts.append((cut, len(p), [*s.rows])))
    labels.tested(("PCA, k=2", 0), lab)
    assert asked == [[_pool.name_of(n) for n in labels.drawn(2, 0)]]
    assert cuts[0][0] in labels.metrics.THRESHOLDS and cuts[0][1:] == (9, [_pool.name_of(n) for n in FRESH])


def test_another_draw_is_of_other_patients_and_another_seed(lab, monkeypatch):
    seen = []
    real = labels.fitted
    monkeypatch.setattr(
        labels, "fitted", lambda arm, codes, images, few, seed, *how: seen.append(([*few.rows], seed))
        or real(arm, codes, images, few, seed, *how)
    )  # fmt: skip
    for draw in (0, 3):
        labels.tested(("U-Net, k=1", draw), lab)
    assert seen == [([_pool.name_of(labels.drawn(1, draw)[0])], draw) for draw in (0, 3)]


# --- a whole run -------------------------------------------------------------------------------------------------


def test_fine_tuning_leaves_the_code_that_other_arms_read_as_it_was(lab):
    images = np.concatenate([KEPT[n].images for n in range(1001, 1071)])
    codes = labels.codes_of(lab, images, labels.PLAN, "VAE")
    before = [p.clone() for p in codes["VAE"].parameters()]
    labels.fitted("VAE, then fine-tuned", codes, images, slices("a"), 0, labels.PLAN)
    assert all(torch.equal(p, q) for p, q in zip(before, codes["VAE"].parameters(), strict=True))


def test_a_run_fills_the_grid_and_a_second_one_trains_nothing(lab, monkeypatch):
    record = labels.run(lab, workers=1, draws=2)
    studies.write(labels.STUDY, record)
    arms = [f"{arm}, k={k}" for k in (1, 2) for arm in labels.ARMS]
    assert {*_cells.read_cells(labels.STUDY)} == {(arm, draw) for arm in arms for draw in (0, 1)}
    assert record["scans"]["slices"] == 404 and [*record["curves"]] == arms
    assert all(curve[-1]["steps"] == 2 and 0 <= curve[-1]["dice"] <= 1 for curve in record["curves"].values())
    for k in (1, 2):
        rows = record["grid"][k]
        assert [*rows] == [f"{arm}, k={k}" for arm in labels.ARMS]
        assert all(("minus base" in row) == (name != f"PCA, k={k}") for name, row in rows.items())

    table = labels.tables(studies.read(labels.STUDY))["labels"].splitlines()
    assert [line.split(" |")[0] for line in table[2:]] == [f"| {arm}" for arm in labels.ARMS]
    csv = (studies.RESULTS / "labels.csv").read_text()
    monkeypatch.setattr(labels, "train", None)
    again = labels.run(lab, workers=1, draws=2)
    assert json_ready(again) == json_ready(record) and (studies.RESULTS / "labels.csv").read_text() == csv


def test_an_interrupted_run_goes_on(lab, monkeypatch):
    done, stop_at = [], [3]

    def tested(cell, lab, plan=None):
        if len(done) == stop_at[0]:
            raise KeyboardInterrupt
        done.append(cell)
        return {name: dict.fromkeys(_cells.MEASURES, 0.5) for name in "pq"}

    monkeypatch.setattr(labels, "tested", tested)
    monkeypatch.setattr(labels, "curve", lambda *args, **how: [{"steps": 2, "dice": 0.5}])
    with pytest.raises(KeyboardInterrupt):
        labels.run(lab, workers=1, draws=2)
    stop_at[0] = None
    monkeypatch.setattr(labels, "curve", lambda *args, **how: pytest.fail("they are drawn again"))
    labels.run(lab, workers=1, draws=2)
    assert len(done) == len(set(done)) == 2 * 2 * len(labels.ARMS)
