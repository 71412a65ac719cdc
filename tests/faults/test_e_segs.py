"""E. One grid for every reader: a SEG whose numbers are rounded, and whose frames are few, many or in any order."""

import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from made import seg
from small import COS, OBLIQUE, SIN, as_image, make_series

from vaelib import InputError
from vaelib.dicom.write import write_seg
from vaelib.volumes import read_ct, read_mask

PLAIN, FLIPPED, SLIGHT = (
    (1, 0, 0, 0, 1, 0),
    (1, 0, 0, 0, -1, 0),
    (np.cos(0.017), np.sin(0.017), 0, -np.sin(0.017), np.cos(0.017), 0),
)
SAGITTAL, TILTED = (0, 1, 0, 0, 0, -1), (COS, 0, SIN, 0, 1, 0)
WAYS = {
    "plain": PLAIN,
    "flipped": FLIPPED,
    "one degree": SLIGHT,
    "oblique": OBLIQUE,
    "sagittal": SAGITTAL,
    "tilted": TILTED,
}

# name, orientation, (dz, dy, dx), decimals of positions and cosines, slices that hold a frame, options
ALL = tuple(range(12))
INSTANCES = [
    ("cosines of 4 decimals", "one degree", (1.25, 0.7, 0.7), 6, 4, ALL, {}),
    ("cosines of 3 decimals", "oblique", (2.5, 0.9, 0.7), 6, 3, ALL, {}),
    ("positions to one decimal", "plain", (0.625, 0.7, 0.7), 1, 6, ALL, {}),
    ("positions to one decimal, small pixels", "oblique", (0.625, 0.35, 0.35), 1, 6, ALL, {}),
    ("one frame", "plain", (2.5, 0.9, 0.7), 6, 6, (3,), {}),
    ("one frame, oblique", "oblique", (2.5, 0.9, 0.7), 2, 4, (7,), {}),
    ("two frames", "flipped", (2.5, 0.9, 0.7), 6, 6, (2, 9), {}),
    ("every second frame", "plain", (2.5, 0.9, 0.7), 6, 6, (2, 4, 6, 8), {"between": 2.5}),
    ("gaps", "flipped", (2.5, 0.9, 0.7), 3, 6, (2, 4, 8), {}),
    ("gaps, SpacingBetweenSlices 5", "flipped", (2.5, 0.9, 0.7), 3, 6, (2, 4, 8), {"between": 5}),
    ("SpacingBetweenSlices 5", "plain", (2.5, 0.9, 0.7), 6, 6, ALL, {"between": 5}),
    ("SpacingBetweenSlices 0", "plain", (2.5, 0.9, 0.7), 6, 6, ALL, {"between": 0}),
    ("SpacingBetweenSlices 3", "plain", (2.5, 0.9, 0.7), 6, 6, (1, 2, 3, 7), {"between": 3}),
    ("SpacingBetweenSlices a half", "plain", (2.5, 0.9, 0.7), 6, 6, ALL, {"between": 1.25}),
    ("several segments, shuffled", "oblique", (2.5, 0.9, 0.7), 6, 6, ALL, {"parts": 3, "shuffle": True}),
    ("FRACTIONAL", "plain", (2.5, 0.9, 0.7), 6, 6, ALL, {"kind": "FRACTIONAL"}),
    ("label map", "flipped", (2.5, 0.9, 0.7), 6, 6, ALL, {"kind": "LABELMAP", "parts": 3}),
    ("rows of 31", "plain", (2.5, 0.9, 0.7), 6, 6, ALL, {"columns": 31, "rows": 39}),
    ("empty frames kept", "flipped", (2.5, 0.9, 0.7), 6, 6, (4, 5), {"empty": True}),
]


def generate(r):
    places, cosines = r.choice([1, 2, 3, 6, 10]), r.choice([3, 4, 6, 10])
    slices = ALL if r.random() < 0.4 else tuple(sorted(r.sample(ALL, r.randrange(1, 9))))
    spacing = r.choice([0.625, 1, 1.25, 2.5, 3, 5]), *(round(r.uniform(0.4, 0.98), 4) for _ in "yx")
    options = {"parts": r.randrange(1, 4), "shuffle": r.random() < 0.5, "empty": r.random() < 0.3,
               "kind": r.choice(["BINARY", "BINARY", "FRACTIONAL", "LABELMAP"]), "columns": r.choice([32, 32, 31, 27]),
               "rows": r.choice([40, 37])}  # fmt: skip
    if r.random() < 0.4:
        options["between"] = spacing[0]
    if len({*np.diff(slices)}) == 1 and slices[1] - slices[0] > 1:
        options["between"] = spacing[0]  # else it is a coarser grid of its own
    return "drawn", r.choice([*WAYS]), spacing, places, cosines, slices, options


@drawn(INSTANCES, generate, seed=18)
def test_frames_lie_where_they_say(case, tmp_path):
    name, way, spacing, places, cosines, slices, options = case
    folder = make_series(tmp_path / "ct", direction=WAYS[way], spacing=spacing, origin=(-31.47, 12.26, 400.13))
    scan, options, draw = read_ct(folder), dict(options), np.random.default_rng(len(slices))
    parts, rows, columns = (options.pop(what, least) for what, least in (("parts", 1), ("rows", 40), ("columns", 32)))
    truth = np.zeros((parts, 12, rows, columns), np.uint8)
    truth[:, list(slices)] = draw.random((parts, len(slices), rows, columns)) < 0.3
    if options.get("kind") == "LABELMAP":
        truth[1:] &= ~truth[:1].astype(bool)
        truth[2:] &= ~truth[1:2].astype(bool)
    stored = truth * draw.integers(128, 256, truth.shape) if options.get("kind") == "FRACTIONAL" else truth
    options["frames"] = draw.shuffle if options.pop("shuffle", False) else None
    base = pydicom.dcmread(folder.parent / "seg.dcm")
    options["written"], options["turned"] = (lambda v, n=n: f"{float(v):.{n}f}" for n in (places, cosines))
    segments = [("Pancreas" if n == 0 else f"other {n}", None, part) for n, part in enumerate(stored)]
    seg(base, scan.headers, segments, **options).save_as(tmp_path / "odd.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for n in range(parts):
            mask = sitk.GetArrayFromImage(read_mask(tmp_path / "odd.dcm", scan, segment=n + 1))
            np.testing.assert_array_equal(mask[:, :rows, :columns], truth[n])
            assert mask.sum() == truth[n].sum()


def test_a_coarser_grid_is_no_stripes_and_a_finer_one_no_error(tmp_path):
    scan = read_ct(make_series(tmp_path / "ct", spacing=(1.25, 0.9, 0.7)))
    base, truth = pydicom.dcmread(tmp_path / "seg.dcm"), np.zeros((12, 40, 32), np.uint8)
    truth[2:9, 5:20, 5:20] = 1
    seg(base, scan.headers[::2], [("Pancreas", None, truth[::2])], empty=True).save_as(tmp_path / "odd.dcm")
    mask = sitk.GetArrayFromImage(read_mask(tmp_path / "odd.dcm", scan, reorient="header"))
    assert mask.any((1, 2))[3:8].all()
    coarse = scan[:, :, ::2]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_mask(tmp_path / "odd.dcm", coarse)), truth[::2])


def test_frames_that_lie_on_no_even_grid_are_refused(tmp_path):
    scan = read_ct(make_series(tmp_path / "ct"))
    base, truth = pydicom.dcmread(tmp_path / "seg.dcm"), np.ones((12, 40, 32), np.uint8)
    for move in ((0, 0, 0.7), (0, 1.5, 0)):
        ds = seg(base, scan.headers, [("Pancreas", None, truth)])
        plane = ds.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence[0]
        plane.ImagePositionPatient = [
            round(float(a) + b, 6) for a, b in zip(plane.ImagePositionPatient, move, strict=True)
        ]
        ds.save_as(tmp_path / "odd.dcm")
        with pytest.raises(InputError, match=r"odd\.dcm"):
            read_mask(tmp_path / "odd.dcm", scan)


@pytest.mark.parametrize("way", WAYS)
def test_a_seg_of_ours_comes_back_bit_for_bit(way, tmp_path):
    scan = read_ct(make_series(tmp_path / "ct", direction=WAYS[way], origin=(-31.5, 12.25, 400)))
    truth = (np.random.default_rng(0).random((12, 40, 32)) < 0.3).astype(np.uint8)
    path = write_seg(as_image(truth, scan), scan, tmp_path / "ours.dcm")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_mask(path, scan)), truth)


def test_pixels_of_no_size_are_one_line(tmp_path):
    scan = read_ct(make_series(tmp_path / "ct"))
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = ["0", "0.7"]
    ds.save_as(tmp_path / "odd.dcm")
    with pytest.raises(InputError, match="differ in orientation or PixelSpacing, or have none; export it again"):
        read_mask(tmp_path / "odd.dcm", scan)


def test_a_seg_that_is_cut_short_is_to_be_fetched_again(tmp_path):
    scan, whole = read_ct(make_series(tmp_path / "ct")), (tmp_path / "seg.dcm").read_bytes()
    for size in range(1500, len(whole) - 1, 400):
        (tmp_path / "cut.dcm").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut.dcm: ends before its (5 )?frames do; fetch it again"):
            read_mask(tmp_path / "cut.dcm", scan)
