"""The study of the controls: what is chosen is written down before the fresh patients are opened, and nothing is
trained twice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_arms import slices

import studies
from studies import _arms, _cells, _fit, _pool, controls
from vaelib import metrics
from vaelib.engine.files import json_ready
from vaelib.latent import decode

NAMES = ("patch PCA", "VAE, beta 0.001", "U-Net", "latent to mask latent")
SEEDS = (0, 1)
FRESH = range(2001, 2004)


def patients(numbers, workers=None):
    """Fresh patients, as `_pool.patients` returns them, of three slices each."""
    names = [_pool.name_of(number) for number in numbers]
    s = slices(*names, count=3, seed=7)
    return _pool.Drawn(s, np.zeros((len(s.images), 8, 64, 64), np.uint8), dict.fromkeys(names, (3.0, 5.0, 5.0)))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A cohort of slices, with networks trained for two steps; what is made lies in the test's own folder."""
    for name, value in {"steps": 2, "VAE steps": 2, "batch": 2}.items():
        monkeypatch.setitem(_arms.PLAN, name, value)
    held = {"val": slices("c", seed=1), "both": slices("c", "d", seed=2)}
    monkeypatch.setattr(_cells, "load_slices", lambda shards, names, level: held["both"])
    monkeypatch.setattr(studies, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_fit, "models_folder", lambda: tmp_path / "models")
    monkeypatch.setattr(_pool, "patients", patients)
    monkeypatch.setattr(_pool, "TEST", FRESH)
    monkeypatch.setattr(_pool, "refuse_others", lambda lab: None)  # see test_pool.py
    monkeypatch.setattr(controls, "SEARCHED", NAMES[1:3])
    monkeypatch.setattr(studies, "CHECKPOINTS", tmp_path / "checkpoints")
    options = [{"jittered": jittered, "overlap": overlap} for jittered, overlap in ((0, 0), (1, 0), (0, 1))]
    monkeypatch.setattr(controls, "SEARCH", options)
    monkeypatch.setattr(controls, "HEADLINE", NAMES[1:3])
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    return SimpleNamespace(train=slices("a", "b"), val=held["val"], parts=parts, shards=None, level=6)


def run(lab, names=NAMES, seeds=SEEDS):
    """A run, written as `python -m studies` does."""
    record = controls.run(lab, seeds=seeds, names=names, workers=1)
    studies.write(controls.STUDY, record)
    return record


@pytest.fixture
def no_training(monkeypatch):
    """From when it is called, whatever would train fails."""

    def stop():
        monkeypatch.setattr(_arms, "train", None)

    return stop


# --- a whole run -------------------------------------------------------------------------------------------------


def test_a_run_searches_writes_its_choices_down_and_only_then_opens_the_fresh_patients(lab, monkeypatch, no_training):
    opened = []

    def when_written(numbers, workers=None):
        assert numbers == FRESH
        on_disk = studies.read(controls.STUDY)
        assert [*on_disk["choices"]] == [*NAMES]
        assert [[*on_disk["search"][name]] for name in NAMES] == [["0"], ["0", "1", "2"], ["0", "1", "2"], ["0"]]
        opened.append(on_disk["choices"])
        return patients(numbers)

    monkeypatch.setattr(_pool, "patients", when_written)
    record = run(lab)
    assert opened and all(choices == record["choices"] for choices in opened)
    for name in NAMES:
        val = {k: row["val"] for k, row in record["search"][name].items()}
        assert val[record["choices"][name]] == max(val.values())
        point = record["search"][name]["0"]["curve"][-1]
        assert point["steps"] == 2 and 0 < point["threshold"] < 1 and 0 <= point["dice"] <= 1
    cells = _cells.read_cells(controls.STUDY)
    assert {*cells} == {(name, 0) for name in NAMES} | {(n, 1) for n in NAMES if n in controls.HEADLINE}
    assert all([*scores] == [_pool.name_of(n) for n in FRESH] for scores in cells.values())
    assert [*record["arms"]] == [*NAMES] and record["arms"]["U-Net"]["seeds"] == 2
    assert all(("minus base" in row) == (name != controls.BASE) for name, row in record["arms"].items())

    table = controls.tables(studies.read(controls.STUDY))["controls"].splitlines()
    assert len(table) == 2 + len(NAMES) and {line.count("|") for line in table} == {8}
    dices = [float(line.split("|")[3].split("(")[0]) for line in table[2:]]
    assert dices == sorted(dices, reverse=True)

    no_training()  # a second run has all of it
    csv = (studies.RESULTS / "controls.csv").read_text()
    again = run(lab)
    assert json_ready(again) == json_ready(record) and (studies.RESULTS / "controls.csv").read_text() == csv


def test_seeds_that_come_later_are_added(lab, monkeypatch):
    run(lab, names=NAMES[:3], seeds=(0,))
    asked = []
    real = _fit.fitted
    monkeypatch.setattr(controls, "fitted", lambda *how: asked.append((how[0], how[2])) or real(*how))
    run(lab, names=NAMES[:3], seeds=(0, 1))
    assert asked == [(name, 1) for name in NAMES[1:3]]
    assert len(_cells.read_cells(controls.STUDY)) == 5


def test_once_the_choices_are_written_nothing_is_searched(lab, monkeypatch):
    stub(monkeypatch, (0.1, 0.3, 0.2))
    record = run(lab)
    monkeypatch.setattr(controls, "searched", None)
    monkeypatch.setattr(controls, "SEARCHED", NAMES)
    monkeypatch.setattr(controls, "partial", lambda work, **how: work)  # which takes no None
    assert run(lab)["choices"] == record["choices"] == dict(zip(NAMES, "0110", strict=True))


def test_an_interrupted_search_goes_on_and_opens_nothing(lab, monkeypatch):
    done, stop_at = [], [4]

    def searched(job, lab, plan=None):
        if len(done) == stop_at[0]:
            raise KeyboardInterrupt
        done.append(job)
        return {"val": 0.5, "threshold": 0.3, "curve": []}

    monkeypatch.setattr(controls, "searched", searched)
    monkeypatch.setattr(_pool, "patients", None)
    with pytest.raises(KeyboardInterrupt):
        run(lab)
    assert "choices" not in studies.read(controls.STUDY)
    stop_at[0] = None
    with pytest.raises(TypeError):  # the fresh patients, which cannot be opened here
        run(lab)
    assert len(done) == len(set(done)) == 2 + 3 * 2
    assert [*studies.read(controls.STUDY)["choices"].values()] == ["0"] * len(NAMES)


def stub(monkeypatch, values):
    """In place of training: the Dice on old held-out patients, by option."""
    monkeypatch.setattr(controls, "searched", lambda job, lab, plan=None: {"val": values[job[1]], "threshold": 0.3})
    monkeypatch.setattr(
        controls, "tested", lambda cell, lab, choices, plan=None: {"p": dict.fromkeys(_cells.MEASURES, 0.5)}
    )


@pytest.mark.parametrize(("values", "best"), [((0.1, 0.3, 0.2), 1), ((0.4, 0.3, 0.2), 0), ((0.1, 0.3, 0.5), 2)])
def test_the_best_option_on_old_held_out_patients_is_chosen(values, best, lab, monkeypatch):
    stub(monkeypatch, values)
    assert run(lab)["choices"] == {name: str(best) if name in controls.SEARCHED else "0" for name in NAMES}


def test_a_later_run_makes_the_same_choice(lab, monkeypatch):
    stub(monkeypatch, (0.50001, 0.50004, 0.2))  # both are 0.5 in the record
    first = run(lab)["choices"]
    assert run(lab)["choices"] == first


def test_a_plan_that_changes_begins_anew(lab, monkeypatch):
    stub(monkeypatch, (0.1, 0.3, 0.2))
    run(lab)
    monkeypatch.setitem(_arms.PLAN, "steps", 3)
    stub(monkeypatch, (0.3, 0.1, 0.2))
    record = run(lab)
    assert record["plan"]["steps"] == 3 and set(record["choices"].values()) == {"0"}


# --- an arm ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _arms.ARMS)
def test_every_arm_is_trained_kept_and_found_again_with_the_same_predictions(name, lab, no_training):
    model, facts = _fit.fitted(name, lab, 0, controls.SEARCH[-1])
    x = _arms.with_neighbours(lab.val)
    first = decode(model, x)
    assert first.shape == lab.val.masks.shape and 0 <= first.min() < first.max() <= 1 and not model.training
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    no_training()
    again, same = _fit.fitted(name, lab, 0, controls.SEARCH[-1])
    assert same == facts
    np.testing.assert_array_equal(decode(again, x), first)


def test_the_threshold_is_the_best_on_old_held_out_patients(lab):
    model, facts = _fit.fitted("patch PCA", lab, 0, controls.SEARCH[0])
    held = _cells.held_out(lab)
    on_held = decode(model, _arms.with_neighbours(held))
    assert facts["threshold"] == pytest.approx(metrics.choose(on_held, held))
    wanted = np.mean([metrics.dice(on_held[r] >= facts["threshold"], held.masks[r] >= 0.2) for r in held.rows.values()])
    assert facts["val"] == pytest.approx(wanted, abs=1e-4)


def test_fresh_patients_are_scored_at_the_threshold_that_was_chosen_before(lab, monkeypatch):
    _, facts = _fit.fitted("U-Net", lab, 1, controls.SEARCH[1])
    cuts = []
    monkeypatch.setattr(_cells, "measure", lambda p, cut, s, spacing: cuts.append(cut) or s.patient[0])
    monkeypatch.setattr(metrics, "choose", None)  # nothing is chosen any more
    assert controls.tested(("U-Net", 1), lab, {"U-Net": "1"}) == "PANCREAS_2001"
    assert cuts == [facts["threshold"]]


def test_arms_that_read_one_vae_share_it_and_another_seed_or_code_has_its_own(lab, tmp_path):
    for name in ("VAE, beta 0.001", "VAE, then fine-tuned", "latent to mask latent", "VAE of masked slices"):
        _fit.vae_of(lab, 0, _arms.ARMS[name].options)
    assert len([*(tmp_path / "models" / "controls").glob("vae_*")]) == 2
    _fit.vae_of(lab, 1, _arms.ARMS["VAE, beta 0.001"].options)
    assert len([*(tmp_path / "models" / "controls").glob("vae_*")]) == 3


def test_fine_tuning_leaves_the_vae_that_others_read_as_it_was(lab, no_training):
    options = _arms.ARMS["VAE, beta 0.001"].options
    before = [p.clone() for p in _fit.vae_of(lab, 0, options)[0].parameters()]
    _fit.fitted("VAE, then fine-tuned", lab, 0, controls.SEARCH[0])
    no_training()
    after = _fit.vae_of(lab, 0, options)[0].parameters()
    assert all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


@pytest.mark.parametrize("part", ["images", "masks"])
def test_an_arm_is_trained_anew_when_its_data_change(part, lab, no_training):
    _fit.fitted("patch PCA", lab, 0, controls.SEARCH[0])
    array = getattr(lab.train, part).copy()
    array[0] = array[-1] / 2
    lab.train = lab.train._replace(**{part: array})
    no_training()
    with pytest.raises(TypeError):
        _fit.fitted("patch PCA", lab, 0, controls.SEARCH[0])


CONSTANTS = {"OVERLAP": 3.0, "JOINT": 0.5, "HIDDEN": 0.1, "HEAD": _arms.HEAD | {"blocks": 4, "channels": 25}}


@pytest.mark.parametrize("constant", [*CONSTANTS, "options"])
def test_an_arm_is_trained_anew_when_what_it_is_made_with_changes(constant, lab, monkeypatch):
    name = {"JOINT": "VAE and mask together", "HIDDEN": "VAE of masked slices"}.get(constant, "patch PCA")
    asked = []
    real = _arms.train
    monkeypatch.setattr(_arms, "train", lambda *args, **how: asked.append(1) or real(*args, **how))
    _fit.fitted(name, lab, 0, controls.SEARCH[-1])
    asked.clear()
    if constant == "options":
        monkeypatch.setitem(_arms.ARMS, name, _arms.Arm("pca", shaped=True))
    else:
        monkeypatch.setattr(_arms, constant, CONSTANTS[constant])
    try:
        _fit.fitted(name, lab, 0, controls.SEARCH[-1])
    except RuntimeError:  # weights of another shape than the network that is built
        pass
    assert asked


def test_the_curve_of_an_autoencoder_is_of_the_code_that_its_decoder_was_trained_on(lab, monkeypatch):
    """In training the decoder reads the code scaled; so it does not matter what all of it is multiplied by."""
    seen = []

    def train(vae, losses, data, look, **how):
        vae.eval()
        seen.append(look()["error"])
        with torch.no_grad():
            vae.encoder.cascade[-1].weight *= 3
            vae.encoder.cascade[-1].bias *= 3
        seen.append(look()["error"])
        return []

    monkeypatch.setattr(_arms, "train", train)
    _fit.vae_of(lab, 0, _arms.ARMS["autoencoder"].options)
    assert seen[0] == pytest.approx(seen[1], rel=1e-3)
