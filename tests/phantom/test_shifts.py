"""The staged shifts: each does what its name says, and nothing else; the cohort stays as it was."""

import hashlib
from functools import partial

import numpy as np
import pytest
from small import forge

from vaelib import InputError, engine
from vaelib.cohort import load_slices
from vaelib.cohorts.layout import find_cases
from vaelib.engine.shards import open_case, prepare
from vaelib.levels import canonical, downscale, window
from vaelib.phantom import LABEL, make_cohort, make_patient, rescan, shifts
from vaelib.phantom.scanner import SCANNERS, noise
from vaelib.phantom.shifts import SHIFTS, changed, shifted, stack_shifted

NAMES = ["PANCREAS_0001", "PANCREAS_0003"]
LEVEL = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A cohort of two, with 64 pixels a side from the scan on, through the same files as the large one."""
    folder = tmp_path_factory.mktemp("shifts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.shards, "canonical", partial(canonical, size=2**LEVEL))
        patch.setattr(rescan, "SIZE", 2**LEVEL)
        cohort = make_cohort(folder / "cohort", patients=(1, 3), size=2**LEVEL, workers=1)
        yield prepare(find_cases(cohort), folder / "cache", levels=(4, LEVEL), workers=1)


@pytest.fixture(scope="module")
def made(shards):
    return {name: shifted(name, NAMES[0], shards, LEVEL) for name in ("none", *SHIFTS)}


@pytest.fixture(scope="module")
def usual():
    return make_patient(2026, 1, size=2**LEVEL)


def test_the_cohort_s_own_scans_are_what_they_always_were(usual):
    digest = hashlib.sha256(usual.hu.tobytes() + usual.mask.tobytes() + usual.labels.tobytes()).hexdigest()
    assert digest == "22d2b5c5bc85f707f3739d073de96221ccf73517d6598c23f780880811f282a4"


def test_eight_shifts_of_one_line_each(made):
    assert list(SHIFTS) == [
        "noise", "kernel blur", "contrast phase", "HU offset", "another scanner", "field of view", "twice as large",
        "missing slice",
    ]  # fmt: skip
    assert all("\n" not in line and len(line) > 40 for line in SHIFTS.values())
    for name, (images, masks) in made.items():
        assert images.shape == masks.shape and images.dtype == masks.dtype == np.float32, name
        assert 0 <= images.min() and images.max() <= 1 and 0 <= masks.min() and masks.max() <= 1, name
        assert masks.sum() > 0 and not masks[[0, -1]].any(), f"{name}: the whole pancreas is in the scan"
        if name != "none":
            same = images.shape == made["none"][0].shape
            assert not same or np.abs(images - made["none"][0]).mean() > 0.003, f"{name}: does something"


def test_none_is_the_cache_and_a_scan_made_anew_is_the_same(shards, made, usual):
    images, masks = made["none"]
    case = open_case(shards, NAMES[0], LEVEL)
    assert np.array_equal(images, case.images) and np.array_equal(masks, case.masks)
    assert np.abs(images - window(usual.hu)).max() < 3e-4 and np.array_equal(masks, usual.mask)


def test_truth_stays_where_the_patient_does(made):
    for name in ("noise", "kernel blur", "HU offset", "contrast phase", "another scanner"):
        assert np.array_equal(made[name][1], made["none"][1]), name


def test_offset_adds_the_same_everywhere(made):
    before, after = made["none"][0], made["HU offset"][0]
    free = (before > 0) & (after < 1)
    assert free.mean() > 0.2
    assert np.allclose(after[free] - before[free], shifts.OFFSET / 400, atol=6e-4)


def test_noise_has_its_strength_and_outlives_the_averages():
    """At 512, where it is made: a fine-grained noise of 40 HU would leave 5 at 64, this one leaves over 12."""
    air = np.zeros((2, 512, 512), np.int16)
    noisy = changed("noise", air, 0.8, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(shifts.LOW_DOSE.noise, rel=0.02) and abs(noisy.mean()) < 2
    assert not np.array_equal(noisy[0], noisy[1])
    assert 12 < downscale(noisy, LEVEL).std() < 25
    everyday = [noise(np.random.default_rng(0), s, (512, 512), 0.8) * s.noise for s in SCANNERS]
    assert max(downscale(grain, LEVEL).std() for grain in everyday) < 4


def test_blur_has_its_width_and_keeps_the_mean():
    point = np.zeros((3, 128, 128), np.int16)
    point[1, 64, 64] = 10000
    blurred = changed("kernel blur", point, 0.5, np.random.default_rng(0))
    assert blurred.sum() == pytest.approx(10000, rel=1e-3) and not blurred[[0, 2]].any(), "in plane only"
    row = blurred[1, 64]
    assert (row > row.max() / 2).sum() * 0.5 == pytest.approx(shifts.FWHM, abs=0.6)


def test_without_contrast_medium_organs_come_down_together():
    scan = make_patient(2026, 1, size=64, enhanced=False)
    median = {name: np.median(scan.hu[scan.labels == LABEL[name]]) for name in ("liver", "spleen", "aorta", "portal")}
    assert 45 < median["liver"] < 75 and 35 < median["spleen"] < 60
    assert abs(median["aorta"] - median["portal"]) < 8 and 30 < median["aorta"] < 50
    assert 20 < scan.facts["pancreas_hu"] < 62


def test_another_scanner_is_none_of_the_cohort_s():
    scan = make_patient(2026, 1, size=16, scanner=shifts.OTHER)
    for field in ("model", "station", "kernel", "noise", "sharpness", "table"):
        assert getattr(scan.facts["scanner"], field) not in {getattr(s, field) for s in SCANNERS}, field


def test_a_wider_field_of_view_shrinks_the_body(made, usual):
    area = made["field of view"][1].sum() / made["none"][1].sum()
    assert area == pytest.approx(shifts.VIEW**-2, rel=0.1)
    scan = make_patient(2026, 1, size=64, view=shifts.VIEW)
    assert scan.facts["volume_ml"] == pytest.approx(usual.facts["volume_ml"], rel=0.1)


def test_twice_as_large_is_twice_the_volume(made, usual):
    large = make_patient(2026, 1, size=64, scale=shifts.LARGER)
    assert large.facts["volume_ml"] / usual.facts["volume_ml"] == pytest.approx(2, rel=0.08)
    assert large.facts["head_mm"] / usual.facts["head_mm"] == pytest.approx(1.26, abs=0.01)
    assert large.spacing[1] * 64 <= 0.981 * 512, "no scanner sees more"
    assert made["twice as large"][1].sum() > made["none"][1].sum()


def test_every_fourth_slice_is_lost(made):
    before, after = made["none"], made["missing slice"]
    kept = [k for k in range(len(before[0])) if k % 4 != 2]
    assert len(after[0]) == len(kept) < len(before[0])
    assert all(np.array_equal(b[kept], a) for b, a in zip(before, after, strict=True))


def test_the_same_twice(shards, made):
    again = shifted("noise", NAMES[0], shards, LEVEL)
    assert all(np.array_equal(a, b) for a, b in zip(again, made["noise"], strict=True))


def test_a_stack_is_kept_and_read_again(shards, made, monkeypatch):
    first = stack_shifted("missing slice", NAMES, shards, LEVEL, workers=1)
    plain = load_slices(shards, NAMES, LEVEL)
    assert first.images.shape == first.masks.shape and first.images.shape[1:] == plain.images.shape[1:]
    assert list(dict.fromkeys(first.patient)) == NAMES and len(first.patient) < len(plain.patient)
    mine = first.patient == NAMES[0]
    assert np.array_equal(first.images[mine, 0], made["missing slice"][0])
    assert first.position[mine][[0, -1]].tolist() == [0, 1]
    none = stack_shifted("none", NAMES, shards, LEVEL, workers=1)
    assert all(np.array_equal(a, b) for a, b in zip(none, plain, strict=True))
    monkeypatch.setattr(shifts, "shifted", None)
    again = stack_shifted("missing slice", NAMES, shards, LEVEL, workers=1)
    assert all(np.array_equal(a, b) for a, b in zip(again, first, strict=True))
    with pytest.raises(TypeError):  # other patients, another file
        stack_shifted("missing slice", NAMES[:1], shards, LEVEL, workers=1)


def test_what_cannot_be_is_said(shards, tmp_path):
    with pytest.raises(InputError, match="'fog': no such shift.*noise, kernel blur.*missing slice, or none"):
        shifted("fog", NAMES[0], shards, LEVEL)
    with pytest.raises(InputError, match="is not patient 1 of seed 7"):
        shifted("noise", NAMES[0], shards, LEVEL, seed=7)
    with pytest.raises(InputError, match="not in the cache"):
        shifted("noise", "PANCREAS_0002", shards, LEVEL)
    forge(shards / NAMES[0], tmp_path / NAMES[0], layout="idc")
    with pytest.raises(InputError, match="was not drawn by the phantom"):
        shifted("noise", NAMES[0], tmp_path, LEVEL)
