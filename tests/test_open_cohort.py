"""A cohort is opened in one line, and its slices have the same attributes in memory and on disk."""

import numpy as np
import pytest
from small import make_patients

from vaelib import InputError
from vaelib.cohort import Slices, folds, load_slices, open_cohort, split
from vaelib.engine.rows import Rows

NAMES = [f"PANCREAS_{n:04d}" for n in (1, 3, 5, 7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("cohort")
    make_patients(top / "cohort", (1, 3, 5, 7))
    return top / "cohort"


@pytest.fixture
def cache(folder, monkeypatch):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda cohort: folder.parent / "cache")
    return folder.parent / "cache"


def test_a_lesson_has_its_slices_in_one_line(folder, cache):
    lab = open_cohort(folder, level=5)
    assert lab.parts == split(NAMES) and lab.shards.parent == cache and lab.folder == folder
    for part in ("train", "val", "test"):
        slices = getattr(lab, part)
        assert slices is getattr(lab, part), "loaded once"
        assert [*slices.rows] == lab.parts[part] and slices.size == 32
    assert lab.at(6).train.size == 64 and lab.at(6).parts is lab.parts and lab.level == 5


def test_a_fold_is_that_of_the_cross_validation(folder, cache):
    assert open_cohort(folder, fold=2).parts == folds(NAMES)[2]


def test_patients_without_a_mask_are_named_and_nothing_but_a_vae_learns_from_them(folder, cache, tmp_path):
    make_patients(tmp_path / "more", (1, 2, 3, 4))
    (mask,) = (tmp_path / "more").glob("PANCREAS_0002/*/SEG_*/*")
    mask.unlink()
    with pytest.warns(UserWarning, match="more: without a mask, so only the VAE learns from: PANCREAS_0002"):
        lab = open_cohort(tmp_path / "more", level=5)
    assert lab.parts.pop("unlabelled") == ["PANCREAS_0002"]
    assert sorted(sum(lab.parts.values(), [])) == ["PANCREAS_0001", "PANCREAS_0003", "PANCREAS_0004"]
    lab.parts["unlabelled"] = ["PANCREAS_0002"]
    assert [*lab.scans.rows] == [*lab.parts["train"], "PANCREAS_0002"]
    assert np.array_equal(lab.scans.images[: len(lab.train.images)], lab.train.images)
    with pytest.raises(InputError, match="PANCREAS_0002: this patient has no mask"):
        load_slices(lab.shards, lab.parts["unlabelled"], 5)


def test_where_everyone_has_a_mask_a_vae_learns_from_the_training_patients(folder, cache):
    lab = open_cohort(folder, level=5)
    assert lab.scans is lab.train and "unlabelled" not in lab.parts


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_cohort(tmp_path / "nowhere")


@pytest.fixture
def both(folder, cache):
    lab = open_cohort(folder, level=5)
    return [load_slices(lab.shards, NAMES[:2], 5, lazy=lazy) for lazy in (False, True)]


def test_slices_have_the_same_attributes_in_memory_and_on_disk(both):
    here, there = both
    assert here.in_memory and not there.in_memory and here.size == there.size == 32
    for name in ("images", "masks"):
        one, other = getattr(here, name), getattr(there, name)
        assert one.shape == other.shape and one.dtype == other.dtype and len(one) == len(other)
        np.testing.assert_array_equal(one[[3, 0]], other[[3, 0]])
    assert {k: v.tolist() for k, v in here.rows.items()} == {k: v.tolist() for k, v in there.rows.items()}


def test_the_slices_of_one_patient_are_brought_into_memory(both):
    for slices in both:
        one = slices.of(NAMES[1])
        assert isinstance(one, Slices) and one.in_memory and {*one.patient} == {NAMES[1]}
        np.testing.assert_array_equal(one.images, both[0].images[both[0].patient == NAMES[1]])
        assert one.position[0] == 0 and one.position[-1] == 1


def test_what_is_computed_of_slices_is_there_at_once_or_as_it_is_asked_for(both):
    asked = []
    here, there = (s.computed(lambda rows, s=s: asked.append(rows) or 2 * s.images[rows]) for s in both)
    assert isinstance(here, np.ndarray) and isinstance(there, Rows) and len(asked) == 1
    np.testing.assert_array_equal(there[[1, 5]], here[[1, 5]])
