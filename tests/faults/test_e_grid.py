"""E: however its numbers are rounded, a series lies on the one even grid that it was taken on, or is refused."""

import numpy as np
import pydicom
import pytest
from drawn import drawn
from small import make_series

from vaelib import InputError
from vaelib.dicom.grid import even_grid
from vaelib.volumes import read_ct


def turned(axis, degrees):
    """The rotation by an angle about x, y, z (0, 1, 2) or about the diagonal (3), by Rodrigues' formula."""
    x, y, z = np.eye(3)[axis] if axis < 3 else np.full(3, 3**-0.5)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


# name, slices, mm apart, axis and degrees of rotation, decimals of positions and of cosines, z of the first slice
INSTANCES = [
    ("1 degree, 4 decimals, 240 slices", 240, 1.0, 0, 1, 6, 4, -100.0),
    ("1 degree the other way", 240, 1.0, 1, -1, 6, 4, 0.0),
    ("1 degree in the plane", 240, 0.8, 2, 1, 4, 4, 17.25),
    ("oblique, 3 decimals", 40, 2.5, 3, 33, 4, 3, -1000.0),
    ("oblique, 4 decimals", 40, 2.5, 3, 33, 4, 4, -1000.0),
    ("oblique, 3 decimals, long", 120, 1.25, 0, 25, 6, 3, 3.0),
    ("0.625 to one decimal", 48, 0.625, 0, 0, 1, 6, -211.3),
    ("0.625 to one decimal, from 0", 48, 0.625, 0, 0, 1, 6, 0.0),
    ("0.625 to two decimals", 48, 0.625, 0, 0, 2, 6, -211.3),
    ("0.625 to two decimals, from 0.005", 48, 0.625, 0, 0, 2, 6, 0.005),
    ("1.25 to one decimal", 48, 1.25, 0, 0, 1, 6, 99.95),
    ("slow beat of the rounding", 60, 0.6005, 0, 0, 1, 6, 0.0),
    ("oblique, both rounded", 30, 2.0, 3, 20, 1, 4, 55.0),
    ("exact", 12, 2.5, 3, 40, 9, 9, -7.0),
    ("two slices", 2, 0.625, 0, 0, 1, 4, 0.03),
]


def generate(r):
    """Another series: of other distances, turned otherwise, and rounded elsewhere."""
    places, cosines = r.choice([(1, 4), (1, 6), (2, 3), (2, 4), (3, 3), (3, 5), (6, 3), (6, 4), (9, 6)])
    spacing = r.choice([0.5, 0.6, 0.625, 0.7, 0.75, 0.8, 1, 1.25, 2, 3.75, 5, r.uniform(0.55, 6)])
    axis, degrees = r.choice([(0, 0), (0, r.uniform(-30, 30)), (1, r.uniform(-8, 8)), (2, 90), (3, r.uniform(-60, 60))])
    n, z = r.randrange(3, 50), r.uniform(-1500, 1500)
    return f"{n} x {spacing:.4g}, {degrees:.3g}", n, spacing, axis, degrees, places, cosines, z


def true_grid(spacing, axis, degrees, z, n):
    """Positions (n, 3) and axes (3, 3: row, column, normal) without rounding."""
    row, column, normal = turned(axis, degrees).T
    return np.array([-123.4375, 88.1, z]) + spacing * np.outer(np.arange(n), normal), np.array([row, column, normal])


def texts(numbers, decimals):
    """As exporters write them: rounded, some with and some without the zeros at the end."""
    return [
        f"{number + 0.0:.{decimals}f}" if k % 2 else str(round(float(number), decimals))
        for k, number in enumerate(numbers)
    ]


@pytest.fixture(scope="module")
def slice_(tmp_path_factory):
    """One slice of 40 x 32 pixels of 0.9 x 0.7 mm."""
    return pydicom.dcmread(make_series(tmp_path_factory.mktemp("one") / "ct") / "1-001.dcm")


def write(ds, folder, positions, cosines):
    """One file for each of some positions, under names without order."""
    for k, position in enumerate(positions):
        ds.ImagePositionPatient, ds.ImageOrientationPatient = position, cosines
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        ds.InstanceNumber = k + 1
        ds.save_as(folder / f"{k * 7919 % 1009:04d}.dcm")


@drawn(INSTANCES, generate, seed=18)
def test_a_rounded_series_lies_where_it_was_taken(case, tmp_path, slice_):
    _, n, spacing, axis, degrees, decimals, places, z = case
    positions, axes = true_grid(spacing, axis, degrees, z, n)
    write(slice_, tmp_path, [texts(p, decimals) for p in positions], texts(axes[:2].ravel(), places))
    scan = read_ct(tmp_path)
    direction = np.reshape(scan.GetDirection(), (3, 3))
    assert np.allclose(direction.T @ direction, np.eye(3), rtol=0, atol=1e-12)
    assert scan.GetSize() == (32, 40, n)
    half, turn = 0.5 * 10.0**-decimals, 0.5 * 10.0**-places
    for k in (0, n // 2, n - 1):  # corners of a slice: off by rounding at most
        for x, y in ((0, 0), (31, 39)):
            there = positions[k] + 0.7 * x * axes[0] + 0.9 * y * axes[1]
            here = scan.TransformIndexToPhysicalPoint((x, y, k))
            assert np.abs(here - there).max() < 2 * half + 4 * turn * (np.hypot(0.7 * x, 0.9 * y) + spacing * k) + 1e-6
    if n > 2:
        assert scan.GetSpacing()[2] == pytest.approx(spacing, abs=2 * half / (n - 1) + 1e-6)


def moved(positions, axes, fault, spacing, r):
    """Break a stack."""
    k = r.randrange(1, len(positions) - 1)
    if fault == "missing":
        return np.delete(positions, range(k, min(k + r.randrange(1, 4), len(positions) - 1)), 0)
    if fault == "uneven":
        shift = r.choice([-1, 1]) * r.uniform(0.25, 0.75) * spacing
        return positions + np.outer(np.arange(len(positions)) >= k, shift * axes[2])
    if fault == "twice":
        return np.insert(positions, k, positions[k], 0)
    lean = np.tan(np.deg2rad(r.uniform(1, 25))) * spacing
    return positions + np.outer(np.arange(len(positions)), lean * axes[r.randrange(2)])


SAID = {
    "missing": r"missing slice",
    "uneven": "uneven spacing",
    "twice": "same place twice",
    "tilt": "aside .tilted gantry",
}


def broken(r):
    """A stack that is rightly refused, whose numbers are rounded or not."""
    fault = r.choice(sorted(SAID))
    axis, degrees = r.choice([(0, 0), (0, r.uniform(-30, 30)), (2, 15), (3, r.uniform(-60, 60))])
    spacing, decimals = r.choice([(5, 0), (3, 0), (2.5, 1), (1, 1), (0.625, 2), (0.625, 4), (2.5, 6)])
    if axis != 0 or degrees:
        decimals = max(decimals, 2)  # more than a tenth of the distance would be lost
    if fault == "tilt":
        decimals = max(decimals, 1)
    return f"{fault}, {spacing} mm", fault, r.randrange(12, 30), spacing, axis, degrees, decimals, r.randrange(10**6)


@drawn([], broken, seed=18)
def test_a_broken_stack_is_refused_however_its_numbers_are_rounded(case, tmp_path, slice_):
    import random

    _, fault, n, spacing, axis, degrees, decimals, seed = case
    positions, axes = true_grid(spacing, axis, degrees, -57, n)
    positions = moved(positions, axes, fault, spacing, random.Random(seed))
    write(slice_, tmp_path, [texts(p, decimals) for p in positions], texts(axes[:2].ravel(), 4))
    with pytest.raises(InputError, match=SAID[fault]):
        read_ct(tmp_path)


def test_integers_hide_no_missing_slice():
    """Half of the last digit, 0.5 mm, is not let pass where slices are 1 mm apart."""
    z = np.array([0, 1, 2, 3, 5, 6, 7, 8])
    with pytest.raises(InputError, match="d: 2.00 mm from e, 1.00 is usual: 1 missing"):
        even_grid(np.outer(z, [0, 0, 1]), (1, 0, 0, 0, 1, 0), (1, 1), "abcdefgh", rounding=(0.5, 0.0))


def test_frames_that_are_missing_keep_their_places():
    z = np.array([3, 0, 11, 4]) * 0.625
    cosines = (1, 0, 0, 0, -1, 0)
    positions = np.outer(np.round(z, 1), [0, 0, -1]) + [5, 6, 7]
    grid, places = even_grid(positions, cosines, (0.9, 0.7), "abcd", sparse=True, rounding=(0.05, 0.0))
    assert places.tolist() == [3, 0, 11, 4] and grid.spacing == (0.7, 0.9, pytest.approx(0.625, abs=0.005))
    assert np.allclose(grid.origin, (5, 6, 7), atol=0.05)
    grid, places = even_grid(positions[:1], cosines, (0.9, 0.7), "a", sparse=True, distance=0.625)
    assert places.tolist() == [0] and grid.spacing == (0.7, 0.9, 0.625) and grid.origin == tuple(positions[0])
    assert even_grid(positions[[0, 2]], cosines, (1, 1), "ab", sparse=True, distance=0.62)[1].tolist() == [0, 8]
    with pytest.raises(InputError, match="a: a single slice"):
        even_grid(positions[:1], cosines, (0.9, 0.7), "a", sparse=True)
    with pytest.raises(InputError, match="no whole number of slices"):
        even_grid(np.outer([0, 1, 2.5], [0, 0, 1]), cosines, (0.9, 0.7), "abc", sparse=True)


@pytest.mark.parametrize("off", [2e-5, 1e-4])
def test_slices_whose_orientation_differs_in_the_last_digit_are_one_series(off, tmp_path, slice_):
    """At four decimals, two values on either side of one half differ by 1e-4."""
    positions, axes = true_grid(2.5, 0, 0.5, 0, 12)
    write(slice_, tmp_path, [texts(p, 4) for p in positions], texts(axes[:2].ravel(), 4))
    ds = pydicom.dcmread(tmp_path / "0000.dcm")
    ds.ImageOrientationPatient = [f"{float(c) + off:.{5 if off < 5e-5 else 4}f}" for c in ds.ImageOrientationPatient]
    ds.save_as(tmp_path / "0000.dcm")
    assert np.allclose(np.reshape(read_ct(tmp_path).GetDirection(), (3, 3)).T, axes, atol=2e-4)
