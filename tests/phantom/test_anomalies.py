"""The staged anomalies: each changes what its name says, where it says so, and not a bit elsewhere."""

from functools import partial

import numpy as np
import pytest
from small import forge

from vaelib import InputError, engine
from vaelib.cohorts.layout import find_cases
from vaelib.engine.shards import open_case, prepare
from vaelib.levels import canonical
from vaelib.phantom import LABEL, anomalies, make_cohort, make_patient, rescan
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.anomalies import ANOMALIES, SEEN, altered, screws, stack_staged, staged

NAME = "PANCREAS_0001"
LEVEL = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A cohort of one, with 64 pixels a side from the scan on, through the same files as the large one."""
    folder = tmp_path_factory.mktemp("anomalies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.shards, "canonical", partial(canonical, size=2**LEVEL))
        patch.setattr(rescan, "SIZE", 2**LEVEL)
        cohort = make_cohort(folder / "cohort", patients=1, size=2**LEVEL, workers=1)
        yield prepare(find_cases(cohort), folder / "cache", levels=(4, LEVEL), workers=1)


@pytest.fixture(scope="module")
def before(shards):
    return np.asarray(open_case(shards, NAME, LEVEL).images, np.float32)


@pytest.fixture(scope="module")
def made(shards):
    return {name: staged(name, NAME, shards, LEVEL) for name in ANOMALIES}


@pytest.fixture(scope="module")
def labels():
    return make_patient(2026, 1, size=2**LEVEL).labels


def same(images, before):
    """Which slices are the cohort's own, bit for bit."""
    return (images[:, 0] == before).all((1, 2))


def test_three_anomalies_of_one_line_each():
    assert list(ANOMALIES) == ["spinal screws", "no left kidney", "no spleen"]
    assert all("\n" not in line and len(line) > 40 for line in ANOMALIES.values())


def test_they_are_images_slice_for_slice_as_in_the_cache(made, before):
    for name, (images, changed) in made.items():
        assert images.shape == (len(before), 1, 64, 64) and images.dtype == np.float32, name
        assert 0 <= images.min() and images.max() <= 1 and changed.dtype == bool and changed.shape == (len(before),)
        assert 0 < changed.sum() < len(before), f"{name}: some slices change, not all"


def test_what_is_not_changed_is_the_cohort_s_bit_for_bit(made, before):
    for name, (images, changed) in made.items():
        untouched = same(images, before)
        assert untouched.sum() > 5 and not (untouched & changed).any(), name
        moved = np.abs(images[:, 0] - before).max((1, 2))
        assert np.array_equal(changed, moved > SEEN), name
        assert (untouched | changed).mean() > 0.85, f"{name}: hardly a slice is changed too little to count"


@pytest.mark.parametrize(("name", "organ"), [("no left kidney", "kidney"), ("no spleen", "spleen")])
def test_an_organ_is_missed_where_it_was_and_nowhere_else(name, organ, made, before, labels):
    images, changed = made[name]
    moved = np.abs(images[:, 0] - before) > SEEN
    there = labels == LABEL[organ]
    there[:, :, :32] = False  # the patient's left is on the right of the picture
    inside = changed & there.any((1, 2))
    assert inside.sum() > 0.9 * changed.sum()
    assert (moved & there).sum() > 0.9 * there.sum(), "all of the organ is gone"
    assert images[:, 0][there].mean() < before[there].mean() - 0.2, "fat is darker"
    assert not moved[:, :, :28].any(), "the other side stays"


def test_an_altered_body_lacks_one_part():
    whole = Anatomy(2026, 1).parts
    for name, organ in (("no left kidney", "kidney"), ("no spleen", "spleen")):
        left = [p.name for p in altered(name, 2026, 1).parts]
        assert len(left) == len(whole) - 1
        assert left.count(organ) == [p.name for p in whole].count(organ) - 1
    kept = [p.more["side"] for p in altered("no left kidney", 2026, 1).parts if p.name == "kidney"]
    assert kept == [-1]
    assert len(altered("spinal screws", 2026, 1).parts) == len(whole), "the metal comes on top"


def test_screws_are_three_pairs_as_long_and_thick_as_they_say():
    body = Anatomy(2026, 1)
    pairs = screws(body)
    assert len(pairs) == 6
    for left, right in zip(pairs[::2], pairs[1::2], strict=True):
        assert left.points[:, 0] == pytest.approx(-right.points[:, 0], abs=1e-4), "one on each side"
        length = np.linalg.norm(left.points[-1] - left.points[0]) / body.stature
        assert length == pytest.approx(53, abs=2) and left.radii.max() == pytest.approx(3)
        assert abs(left.points[-1, 0]) < abs(left.points[0, 0]), "they converge forward"
    heights = sorted({round(float(s.points[0, 2]), 3) for s in pairs})
    assert np.diff(heights) == pytest.approx([body.period] * 2, abs=0.01), "in three neighbouring vertebrae"


def test_metal_is_white_and_throws_streaks(made, before):
    images, changed = made["spinal screws"]
    grown = images[:, 0] - before
    assert images[changed].max() == 1 and grown.max() > 0.3
    assert (grown < -SEEN).any(), "streaks are dark too"
    assert np.flatnonzero(np.diff(changed.astype(int)) == 1).size <= 3, "no more groups of slices than vertebrae"


def test_a_stack_is_the_same_again_is_kept_and_read_back(shards, made, monkeypatch):
    images, changed = stack_staged("no spleen", [NAME], shards, LEVEL, workers=1)
    assert images.dtype == np.float32
    assert np.array_equal(images, made["no spleen"][0]) and np.array_equal(changed, made["no spleen"][1])
    monkeypatch.setattr(anomalies, "staged", None)
    again = stack_staged("no spleen", [NAME], shards, LEVEL, workers=1)
    assert np.array_equal(again[0], images) and np.array_equal(again[1], changed)
    with pytest.raises(TypeError):  # other patients, another file
        stack_staged("no spleen", [NAME, NAME], shards, LEVEL, workers=1)


def test_what_cannot_be_is_said(shards, tmp_path):
    with pytest.raises(InputError, match="'horns': no such anomaly; choose from spinal screws, no left kidney, no sp"):
        staged("horns", NAME, shards, LEVEL)
    with pytest.raises(InputError, match="is not patient 1 of seed 7"):
        staged("no spleen", NAME, shards, LEVEL, seed=7)
    with pytest.raises(InputError, match="not in the cache"):
        staged("no spleen", "PANCREAS_0002", shards, LEVEL)
    forge(shards / NAME, tmp_path / NAME, layout="idc")
    with pytest.raises(InputError, match="was not drawn by the phantom"):
        staged("no spleen", NAME, tmp_path, LEVEL)
