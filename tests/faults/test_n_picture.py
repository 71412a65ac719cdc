"""Kind N: the picture of a case is an axial slice, however its scan was cut."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from drawn import drawn

from vaelib.cohorts.survey import _pictures
from vaelib.levels import downscale, window

SIDE, DEPTH = 64, 5  # of the patient from right to left and front to back, and from feet to head
CUTS = {"axial": "xyz", "coronal": "xzy", "sagittal": "yzx"}


def patient(seed):
    """HU and a mask, (S, H, W) from feet to head, front to back and right to left: no two slices are alike."""
    rng = np.random.default_rng(seed)
    hu = rng.integers(-160, 240, (DEPTH, SIDE, SIDE)).astype(np.int16)
    mask = np.zeros(hu.shape, np.uint8)
    for k, side in enumerate(rng.permutation(DEPTH)):
        mask[k, 8 : 20 + 4 * side, 30 : 34 + 4 * side] = 1
    return hu, mask


def stored(array, order, backward):
    """The patient's voxels as an image whose x, y and z run along axes of the patient, some of them backward."""
    image = sitk.GetImageFromArray(array)
    image = sitk.PermuteAxes(image, ["xyz".index(axis) for axis in order])
    return sitk.Flip(image, backward, False)


def expected(array, scale):
    """A slice by plain arithmetic: a square of 64 pixels is one of 128, by a linear rule or the nearest voxel's."""
    grid = (np.arange(128) + 0.5) / 2 - 0.5
    low = np.floor(grid).astype(int)
    if not scale:
        near = np.floor(grid + 0.5).astype(int)
        return array[np.ix_(near, near)]
    share = grid - low
    pad = np.pad(array.astype(float), 1, mode="edge")
    rows = pad[low + 1] * (1 - share)[:, None] + pad[low + 2] * share[:, None]
    return rows[:, low + 1] * (1 - share) + rows[:, low + 2] * share


INSTANCES = [(cut, order, (False,) * 3, 1, True) for cut, order in CUTS.items()] + [
    ("coronal from the back", "xzy", (False, False, True), 2, True),
    ("sagittal from the feet", "yzx", (False, True, False), 3, False),
    ("all backward", "zxy", (True, True, True), 4, True),
]


def generate(r):
    order = "".join(r.choice(list(permutations("xyz"))))
    backward = r.choice(list(product((False, True), repeat=3)))
    masked = r.random() < 0.7
    return f"{order} {backward} {'' if masked else 'no mask'}", order, backward, r.randrange(99), masked


@drawn(INSTANCES, generate, seed=18)
def test_the_picture_is_the_axial_slice_with_most_of_the_mask(case):
    _, order, backward, seed, masked = case
    hu, mask = patient(seed)
    scan, label = (stored(array, order, backward) for array in (hu, mask))
    found = _pictures(scan, label if masked else None)
    shown = int(mask.sum((1, 2)).argmax()) if masked else DEPTH // 2
    right = np.clip((expected(hu[shown], True) + 160) / 400, 0, 1)
    inner = slice(8, -8)  # beyond the outermost voxel's centre, air begins
    blurred = found["image"][inner, inner] / 255
    assert found["image"].shape == (128, 128)
    assert np.corrcoef(blurred.ravel(), right[inner, inner].ravel())[0, 1] > 0.97
    if masked:
        assert (found["mask"] != (expected(mask[shown], False) > 0)).mean() < 0.001


@pytest.mark.parametrize("plane", CUTS)
def test_a_scan_of_full_size_is_cut_before_it_is_turned(plane, monkeypatch):
    turned = []
    real = sitk.DICOMOrient
    monkeypatch.setattr(sitk, "DICOMOrient", lambda image, *how: turned.append(image.GetSize()) or real(image, *how))
    array = np.arange(4 * 512 * 512, dtype=np.int32).reshape(4, 512, 512) % 397 - 160
    scan = stored(array.astype(np.int16), CUTS[plane], (False,) * 3)
    found = _pictures(scan, None)
    assert [np.prod(size) for size in turned] == [512 * 512]
    np.testing.assert_array_equal(found["image"], np.round(255 * downscale(window(array[2].astype(np.int16)), 7)))
