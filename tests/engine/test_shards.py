import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from vaelib import InputError, levels
from vaelib.cohort import load_slices
from vaelib.cohorts.layout import Case
from vaelib.dicom.write import write_ct, write_seg
from vaelib.engine import shards
from vaelib.engine.shards import open_case, prepare, warnings
from vaelib.levels import FULL, SLAB, canonical, downscale, halve, images_at, to_scan, window
from vaelib.volumes import read_ct


def image(array, spacing=(0.8, 0.8, 3.0), origin=(-10.0, 20.0, -300.0), direction=None):
    out = sitk.GetImageFromArray(array)
    out.SetSpacing(spacing)
    out.SetOrigin(origin)
    if direction is not None:
        out.SetDirection(np.asarray(direction, float).ravel())
    return out


def blob(shape=(6, 512, 512), center=(2, 200, 300), radius=(2, 40, 60)):
    grid = (np.indices(shape, dtype=np.float32) - np.reshape(center, (3, 1, 1, 1))) / np.reshape(radius, (3, 1, 1, 1))
    return ((grid**2).sum(0) <= 1).astype(np.uint8)


@pytest.fixture
def case(tmp_path):
    """One patient of six full-size slices, as DICOM, stored upside down as the real collection is."""
    hu = np.where(blob() > 0, 100, -100).astype(np.int16)
    folder = write_ct(hu[::-1, ::-1], tmp_path / "CT_1", spacing=(3, 0.8, 0.8), patient_id="P1", uid="t")
    scan = read_ct(folder)
    mask = sitk.DICOMOrient(
        image(blob(), direction=np.eye(3)),
        sitk.DICOMOrientImageFilter().GetOrientationFromDirectionCosines(scan.GetDirection()),
    )
    mask.CopyInformation(scan)
    return Case("P1", folder, write_seg(mask, folder, tmp_path / "seg.dcm", uid="t"), "idc")


def test_the_window_clips_and_scales():
    assert window(np.array([-1000, -160, 40, 240, 3000])).tolist() == [0, 0, 0.5, 1, 1]
    assert window(np.array([0, 255]), 0, 255).dtype == np.float32


def test_a_level_is_the_mean_of_the_pixels_beneath():
    x = np.random.default_rng(0).random((2, 64, 64)).astype(np.float32)
    for level in range(7):
        f = 64 // 2**level
        expected = x.reshape(2, 2**level, f, 2**level, f).mean((2, 4))
        np.testing.assert_allclose(downscale(x, level), expected, rtol=1e-5)
    np.testing.assert_array_equal(downscale(x, 6), x)


@pytest.mark.parametrize("level", range(10))
def test_every_level_of_a_mask_conserves_its_volume_exactly(level):
    mask = blob()
    low = downscale(mask, level)
    assert low.astype(np.float64).sum() * 4 ** (9 - level) == mask.sum()


@pytest.mark.parametrize("shape", [(2, 100, 100), (2, 64, 32)])
def test_pixels_that_cannot_be_halved_are_refused(shape):
    with pytest.raises(InputError, match="square image whose side is a power of two"):
        downscale(np.zeros(shape), 3)
    with pytest.raises(InputError, match="level 7"):
        downscale(np.zeros((64, 64)), 7)


def test_canonical_turns_any_stored_order_into_lps():
    array = np.zeros((4, 512, 512), np.int16)
    array[3, 10, 500] = 1  # superior, anterior, the patient's left
    lps = image(array)
    for order in ("RPI", "LAI", "PLS", "LPS"):
        stored = sitk.DICOMOrient(lps, order)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(canonical(stored)), array)


@pytest.mark.parametrize("order", ["LPS", "LAI", "RPS", "PLS", "SRA"])
def test_images_are_the_canonical_scan_windowed_and_averaged(order):
    hu = np.random.default_rng(0).integers(-300, 400, (512, 512, 3) if order == "SRA" else (3, 512, 512))
    scan = image(hu.astype(np.int16), direction=np.eye(3))
    scan = sitk.DICOMOrient(scan, order)
    wanted = downscale(window(sitk.GetArrayFromImage(canonical(scan))), 6)
    np.testing.assert_array_equal(images_at(scan, 6), wanted)


def test_a_matrix_that_is_not_512_keeps_its_place_in_space():
    array = np.zeros((3, 300, 400), np.float32)
    array[:, 100:160, 200:280] = 100
    scan = image(array, spacing=(1.0, 1.2, 3.0), direction=np.diag([-1, -1, 1]))
    grid = canonical(scan, fill=0)
    assert grid.GetSize() == (512, 512, 3)
    assert grid.GetSpacing()[0] == grid.GetSpacing()[1] == pytest.approx(400 / 512)

    def centroid(im):
        index = np.argwhere(sitk.GetArrayFromImage(im) > 50).mean(0)[::-1]
        return im.TransformContinuousIndexToPhysicalPoint(index.tolist())

    np.testing.assert_allclose(centroid(grid), centroid(scan), atol=0.5)


@pytest.mark.parametrize("order", ["LPS", "LAI", "RPI"])
def test_a_prediction_goes_back_where_it_came_from(order):
    scan = sitk.DICOMOrient(image(blob()), order)
    coarse = downscale(sitk.GetArrayFromImage(canonical(scan)), 6)
    back = to_scan(coarse, scan, 0.5)
    assert back.GetOrigin() == scan.GetOrigin() and back.GetDirection() == scan.GetDirection()
    a, b = sitk.GetArrayFromImage(back) > 0, sitk.GetArrayFromImage(scan) > 0
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95
    centre = [np.argwhere(m).mean(0) for m in (a, b)]
    np.testing.assert_allclose(*centre, atol=0.35)  # not moved by so much as half a pixel


@pytest.mark.parametrize("threshold", [0, 0.2, 0.6, 1, 1.5])
def test_only_the_part_around_a_prediction_is_interpolated_and_nothing_is_lost(threshold):
    turn = np.array([[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]])
    scan = image(np.zeros((5, 90, 120), np.int16), direction=turn @ np.diag([-1, -1, 1]))
    probability = np.zeros((5, 16, 16), np.float32)
    probability[3:, :4, 12:] = np.random.default_rng(0).random((2, 4, 4)).round(1)
    whole = probability.copy()
    whole[0, 15, 0] = whole[4, 0, 15] = 1  # the box around these is all of the scan
    part, all_ = (sitk.GetArrayFromImage(to_scan(p, scan, threshold)) for p in (probability, whole))
    far = sitk.GetArrayFromImage(to_scan(whole - probability, scan, 1e-6)) > 0
    assert part.shape == (5, 90, 120) and part.any() == (threshold <= 0.9)
    np.testing.assert_array_equal(part[~far], all_[~far])


def test_a_full_size_prediction_goes_back_exactly_and_edges_too():
    array = np.ones((3, 512, 512), np.uint8)
    scan = sitk.DICOMOrient(image(array), "LAI")
    for level in (4, 9):
        back = to_scan(downscale(array, level), scan, 0.99)
        inner = sitk.GetArrayFromImage(back)
        margin = 512 // 2**level
        assert inner[:, margin:-margin, margin:-margin].all()
    assert (
        sitk.GetArrayFromImage(to_scan(blob((3, 512, 512)).astype(float), scan, 0.5)).sum() == blob((3, 512, 512)).sum()
    )


def test_a_prediction_of_another_length_is_refused():
    with pytest.raises(InputError, match="5 slices and the scan 6"):
        to_scan(np.zeros((5, 64, 64)), image(blob()), 0.5)


def test_the_cache_holds_what_the_files_hold(case, tmp_path):
    shards = prepare([case], tmp_path / "cache", levels=[4, 6, 9], workers=1)
    full, small = open_case(shards, "P1", 9), open_case(shards, "P1", 6)
    np.testing.assert_array_equal(np.asarray(full.masks), blob())
    assert full.images[2, 200, 300] == pytest.approx(260 / 400, abs=1e-3)
    np.testing.assert_array_equal(small.masks, downscale(blob(), 6))
    assert isinstance(full.images, np.memmap)
    assert small.meta["spacing"] == [0.8, 0.8, 3.0] and small.meta["window"] == [-160, 240]
    assert json.dumps(small.meta).count("P1") == 1
    s = load_slices(shards, ["P1"], 6)
    assert s.images.shape == s.masks.shape == (6, 1, 64, 64) and s.images.dtype == np.float32
    assert s.position.tolist() == np.linspace(0, 1, 6).tolist() and set(s.patient) == {"P1"}


def test_a_shard_is_kept_until_what_made_it_changes(case, tmp_path):
    def stamp(**options):
        shards = prepare([case], tmp_path / "cache", workers=1, **options)
        return (shards / "P1" / "meta.json").stat().st_mtime_ns

    first = stamp(levels=[6])
    assert stamp(levels=[6]) == first
    second = stamp(levels=[5, 6])
    assert second != first
    slice_ = next(case.ct.iterdir())
    slice_.touch()
    assert stamp(levels=[5, 6]) != second


def test_an_interrupted_shard_is_never_read(case, tmp_path, monkeypatch):
    real, calls = levels.halve, []

    def failing(block):
        calls.append(block)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(block)

    monkeypatch.setattr(levels, "halve", failing)
    with pytest.raises(InputError, match="P1: cannot be written: No space left on device; make room"):
        prepare([case], tmp_path / "cache", levels=[5, 6], workers=1)
    with pytest.raises(InputError, match="P1: is not in the cache; run `vaelib prepare`"):
        open_case(tmp_path / "cache" / "hu_-160_240", "P1", 6)
    shards = prepare([case], tmp_path / "cache", levels=[5, 6], workers=1)
    assert open_case(shards, "P1", 6).images.shape == (6, 64, 64)
    assert [p.name for p in shards.iterdir()] == ["P1"]


def test_a_patient_without_a_mask_is_not_silently_a_negative(case, tmp_path):
    shards = prepare([Case("P2", case.ct, None, "idc")], tmp_path / "cache", levels=[6], workers=1)
    assert open_case(shards, "P2", 6).masks is None
    with pytest.raises(InputError, match="P2: this patient has no mask"):
        load_slices(shards, ["P2"], 6)


def test_slabs_give_what_the_whole_volume_gives():
    hu = np.random.default_rng(0).integers(-1000, 1000, (2 * SLAB + 3, 512, 512)).astype(np.int16)
    np.testing.assert_array_equal(images_at(image(hu), 6, -100, 300), downscale(window(hu, -100, 300), 6))


def test_a_lazy_stack_holds_the_same_slices(case, tmp_path):
    shards = prepare([case], tmp_path / "cache", levels=[6, 8], workers=1)
    eager, lazy = (load_slices(shards, ["P1", "P1"], 6, lazy=lazy) for lazy in (False, True))
    for name in ("images", "masks"):
        assert not isinstance(getattr(lazy, name), np.ndarray)
        np.testing.assert_array_equal(getattr(lazy, name)[[7, 1, 2]], getattr(eager, name)[[7, 1, 2]])
    assert lazy.position.tolist() == eager.position.tolist() and len(lazy.patient) == 12
    assert not isinstance(load_slices(shards, ["P1"], 8).images, np.ndarray)  # too large for memory by default


def test_one_bad_patient_stops_no_other_and_is_named(case, tmp_path):
    bad = Case("P0", tmp_path / "gone", None, "idc")
    (tmp_path / "gone").mkdir()
    with pytest.raises(InputError, match="1 of 3 patients are not prepared.*gone: holds no DICOM"):
        prepare([bad, case, replace(case, patient="P3")], tmp_path / "cache", levels=[6], workers=1)
    assert sorted(p.name for p in (tmp_path / "cache" / "hu_-160_240").iterdir()) == ["P1", "P3"]


def test_a_warning_from_a_worker_names_the_patient(case, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "check_mask", lambda *_: warnings.warn("no pancreas", stacklevel=1))
    with pytest.warns(UserWarning, match="^P1: no pancreas$"):
        prepare([case], tmp_path / "cache", levels=[6], workers=1)


def test_how_a_label_was_placed_is_kept_with_it(case, tmp_path):
    meta = open_case(prepare([case], tmp_path / "cache", levels=[6], workers=1), "P1", 6).meta
    assert meta["placed"]["rule"] == "header" and meta["placed"]["off_mm"] == 0


def test_halving_keeps_the_type():
    assert halve(np.ones((4, 4), np.float32)).dtype == np.float32
    assert FULL == 9
