"""Fresh patients are those of the phantom, as `vaelib prepare` would make them, and nobody is in two sets."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import studies
from studies import _pool
from studies.__main__ import main
from vaelib import InputError, metrics
from vaelib.cohort import load_slices, split
from vaelib.cohorts.layout import find_cases
from vaelib.engine.shards import open_case, prepare
from vaelib.phantom import LABEL, make_cohort, make_patient

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = (1, 2, 4)  # each with a header of its own kind


@pytest.fixture(scope="module")
def scan():
    """The first of them, at full size."""
    return make_patient(_pool.SEED, NUMBERS[0])


@pytest.fixture(scope="module")
def drawn(scan):
    """What is drawn of each; the first is not scanned twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pool, "make_patient", lambda *who: scan if who[1] == NUMBERS[0] else make_patient(*who))
        return {number: _pool.draw(number) for number in NUMBERS}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same three from their DICOM, by `vaelib prepare`."""
    top = tmp_path_factory.mktemp("prepared")
    folder = ROOT / "data" / "synthetic"
    if not folder.exists():
        folder = make_cohort(top / "synthetic", patients=NUMBERS, seed=_pool.SEED, workers=1)
    names = [_pool.name_of(number) for number in NUMBERS]
    cases = [case for case in find_cases(folder) if case.patient in names]
    assert [case.patient for case in cases] == names
    return prepare(cases, top / "cache", levels=(_pool.LEVEL,), workers=1)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_patient_is_bit_for_bit_what_prepare_makes_of_their_dicom(number, drawn, shards):
    found, wanted = drawn[number], open_case(shards, _pool.name_of(number), _pool.LEVEL)
    for name in ("images", "masks"):
        kept = np.asarray(getattr(wanted, name))
        assert found[name].dtype == kept.dtype and found[name].shape == kept.shape
        np.testing.assert_array_equal(found[name], kept)
    spacing = metrics.spacing_at(shards, _pool.name_of(number), _pool.LEVEL)
    np.testing.assert_allclose(found["spacing"], spacing, rtol=1e-9)  # DICOM writes 16 characters of it
    assert found["masks"].any()


def test_organs_are_counts_of_the_64_pixels_beneath_a_coarse_one(scan, drawn):
    found = drawn[NUMBERS[0]]["organs"]
    assert found.dtype == np.uint8 and found.shape == (len(scan.labels), len(_pool.ORGANS), 64, 64)
    for k, name in enumerate(_pool.ORGANS):
        fine = scan.labels == LABEL[name]
        blocks = fine.reshape(-1, 64, 8, 64, 8).sum((2, 4))
        np.testing.assert_array_equal(found[:, k], blocks, err_msg=name)
        assert blocks.max() == 64, f"somewhere a coarse pixel is nothing but {name}"


def test_organs_and_pancreas_never_fill_more_than_a_pixel(drawn):
    for one in drawn.values():
        pancreas = 64 * one["masks"].astype(float)
        assert np.array_equal(pancreas, pancreas.round()) and pancreas.max() <= 64
        total = one["organs"].sum(1, dtype=int) + pancreas
        assert 0 < one["organs"].max() <= 64 and total.max() <= 64


def test_slices_of_the_pool_are_those_that_a_cohort_loads(drawn, shards, monkeypatch, tmp_path):
    monkeypatch.setattr(_pool, "models_folder", lambda: tmp_path)
    monkeypatch.setattr(_pool, "BLOCK", 1)
    monkeypatch.setattr(_pool, "draw", drawn.__getitem__)
    names = [_pool.name_of(number) for number in NUMBERS]
    found, wanted = _pool.patients(NUMBERS, workers=1), load_slices(shards, names, _pool.LEVEL)
    for name, ours, theirs in zip(wanted._fields, found.slices, wanted, strict=True):
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert [*found.spacing] == names
    for number, name in zip(NUMBERS, names, strict=True):
        assert found.spacing[name] == tuple(drawn[number]["spacing"])
        np.testing.assert_array_equal(found.organs[found.slices.rows[name]], drawn[number]["organs"])


def test_nobody_is_in_two_sets():
    pool, test, old = set(_pool.POOL), set(_pool.TEST), set(range(1, 49))
    assert len(pool) == 400 and len(test) == 100
    assert not pool & test and not pool & old and not test & old
    names = [_pool.name_of(number) for number in (*pool, *test, *old)]
    assert len(set(names)) == 548 and _pool.name_of(2001) == "PANCREAS_2001" and _pool.name_of(7) == "PANCREAS_0007"


def test_the_old_split_stands():
    parts = split(_pool.name_of(number) for number in range(1, 49))
    assert {part: len(names) for part, names in parts.items()} == {"train": 31, "val": 5, "test": 12}
    assert parts["test"] == json.loads((studies.RESULTS / "against.json").read_text())["test"]
    assert len({name for names in parts.values() for name in names}) == 48


# --- what is kept ------------------------------------------------------------------------------------------------


def one(number):
    """A patient of `number` % 3 + 2 slices of 4 x 4 pixels, all of them of that number."""
    n = number % 3 + 2
    images = np.full((n, 4, 4), number / 2048, np.float16)
    organs = np.full((n, len(_pool.ORGANS), 4, 4), number % 64, np.uint8)
    return {"images": images, "masks": images / 2, "organs": organs, "spacing": np.array([number, 0.5, 0.25])}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The numbers of the patients who are drawn; 7 cannot be until it is taken off `stopped`."""
    numbers, stopped = [], {7}

    def draw(number):
        if number in stopped:
            raise KeyboardInterrupt
        numbers.append(number)
        return one(number)

    monkeypatch.setattr(_pool, "BLOCK", 2)
    monkeypatch.setattr(_pool, "draw", draw)
    monkeypatch.setattr(_pool, "models_folder", lambda: tmp_path)
    return numbers, stopped


def test_an_interrupted_run_goes_on_where_it_was(asked):
    numbers, stopped = asked
    with pytest.raises(KeyboardInterrupt):
        _pool.patients(range(3, 10), workers=1)
    assert numbers == [3, 4, 5, 6]
    stopped.clear()
    numbers.clear()
    whole = _pool.patients(range(3, 10), workers=1)
    assert numbers == [7, 8, 9, 10], "whole blocks of two"
    numbers.clear()
    again = _pool.patients(range(3, 10), workers=1)
    assert numbers == []
    for ours, theirs in zip(whole.slices, again.slices, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert whole.spacing == again.spacing


def test_patients_come_in_the_order_in_which_they_are_asked_for(asked):
    asked[1].clear()
    found = _pool.patients([8, 3, 7], workers=1)
    counts = [8 % 3 + 2, 3 % 3 + 2, 7 % 3 + 2]
    assert found.slices.patient.tolist() == ["PANCREAS_0008"] * 4 + ["PANCREAS_0003"] * 2 + ["PANCREAS_0007"] * 3
    np.testing.assert_allclose(found.slices.images[:, 0, 0, 0], np.repeat([8, 3, 7], counts) / 2048)
    np.testing.assert_array_equal(found.slices.masks, found.slices.images / 2)
    np.testing.assert_array_equal(found.organs[:, 0, 0, 0], np.repeat([8, 3, 7], counts))
    np.testing.assert_allclose(found.slices.position, [0, 1 / 3, 2 / 3, 1, 0, 1, 0, 0.5, 1])
    assert found.slices.images.dtype == np.float32 and found.slices.images.shape == (9, 1, 4, 4)
    assert found.spacing == {_pool.name_of(n): (float(n), 0.5, 0.25) for n in (8, 3, 7)}
    asked[0].clear()
    alone = _pool.patients([7], workers=1)
    assert asked[0] == [], "who was drawn among others is not drawn again"
    np.testing.assert_array_equal(alone.slices.images, found.slices.images[6:])


@pytest.mark.parametrize("part", ["SEED", "VERSION", "ORGANS", "__version__"])
def test_patients_are_drawn_anew_when_what_makes_them_changes(part, asked, monkeypatch):
    numbers, _ = asked
    _pool.patients([1, 2], workers=1)
    other = {"SEED": 7, "VERSION": 99, "ORGANS": _pool.ORGANS[::-1], "__version__": "0"}[part]
    monkeypatch.setattr(_pool, part, other)
    _pool.patients([1, 2], workers=1)
    assert numbers == [1, 2, 1, 2]


# --- whose they are ----------------------------------------------------------------------------------------------


def lab_of(count, layout, monkeypatch):
    """A cohort of some training patients, of whom the last came in another layout."""
    names = [_pool.name_of(n) for n in range(count)]
    kinds = dict.fromkeys(names, "synthetic") | {names[-1]: layout}
    monkeypatch.setattr(_pool, "meta_of", lambda shards, name: {"layout": kinds[name]})
    return SimpleNamespace(shards="shards", folder="data/mine", parts={"train": names})


def test_the_synthetic_cohort_is_taken(monkeypatch):
    assert _pool.refuse_others(lab_of(31, "synthetic", monkeypatch)) is None
    assert _pool.refuse_others(lab_of(16, "synthetic", monkeypatch)) is None


@pytest.mark.parametrize(
    ("count", "layout", "said"),
    [(15, "synthetic", "has 15 patients to learn from"), (31, "tcia", "is not the synthetic cohort"),
     (31, "idc", "is not the synthetic cohort"), (1, "idc", "has 1 patients to learn from")],
)  # fmt: skip
def test_a_cohort_that_the_fresh_patients_do_not_belong_to_is_refused_in_one_line(count, layout, said, monkeypatch):
    with pytest.raises(InputError, match=f"^data/mine: {said}.*VAELIB_DATA"):
        _pool.refuse_others(lab_of(count, layout, monkeypatch))


@pytest.mark.parametrize("study", ["controls", "labels"])
def test_a_study_of_them_refuses_another_cohort_before_anything_is_written(study, monkeypatch, tmp_path, capsys):
    lab = lab_of(31, "tcia", monkeypatch)
    monkeypatch.setattr(studies, "RESULTS", tmp_path)
    monkeypatch.setattr("studies.__main__.open_cohort", lambda: lab)
    assert main([study]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("data/mine: ") and err.count("\n") == 1 and not [*tmp_path.iterdir()]
