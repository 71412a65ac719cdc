"""Checks of the exercises to notebook 01."""

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from course.checks import Answer, attempt, expect
from vaelib.cohorts import quality


def exercise_1(to_hu: Answer) -> None:
    """HU = slope x stored + intercept, in this order."""
    stored, slope, intercept = np.array([[0, 1024], [512, 2048]], np.uint16), 2.0, -1024.0
    found, wanted = np.asarray(attempt(to_hu, stored, slope, intercept)), stored * slope + intercept
    expect(found.shape == wanted.shape, f"an array as large as the stored one is wanted, not {found.shape}")
    expect(not np.allclose(found, stored * slope), "air is at 0, not near -1000: the intercept is missing")
    expect(not np.allclose(found, stored + intercept), "the slope is missing: here a step is worth two HU")
    expect(not np.allclose(found, (stored + intercept) * slope), "the slope belongs to the stored number alone")
    expect(np.allclose(found, wanted), f"{found.ravel()[:2]} where {wanted.ravel()[:2]} should be")


def exercise_2(in_order: Answer) -> None:
    """The normal is the cross product of the two directions; a slice's height is the dot product with it; argsort."""
    rng, count = np.random.default_rng(0), 9
    for name, turn in (("axial", np.eye(3)), ("coronal", Rotation.from_euler("x", -90, degrees=True).as_matrix())):
        shuffled = rng.permutation(count)
        positions = np.array([-150.0, 80.0, 20.0]) + 2.5 * shuffled[:, None] * turn[:, 2]
        found = np.asarray(attempt(in_order, positions, turn.T[:2].ravel()))
        expect(found.shape == (count,), f"{count} row numbers are wanted, not an array of shape {found.shape}")
        expect(sorted(found.tolist()) == list(range(count)), "each row must come once: return np.argsort of heights")
        walked = shuffled[found]
        expect(not np.array_equal(walked, np.arange(count)[::-1]), f"of a {name} series it is the order backwards")
        said = "which all lie at one z: measure along the normal" if name == "coronal" else "by their heights"
        expect(np.array_equal(walked, np.arange(count)), f"it does not order the slices of a {name} series, {said}")


def exercise_3(to_index: Answer) -> None:
    """Undo the lesson's sum step by step: subtract, multiply by the inverse of the directions, divide, round."""
    turn = Rotation.from_euler("zyx", (25, -40, 15), degrees=True).as_matrix()
    image = sitk.Image(40, 50, 30, sitk.sitkInt16)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-120.0, 95.0, 30.0))
    image.SetDirection(turn.ravel().tolist())
    wanted = np.array([12, 31, 17])
    origin, spacing, moved = np.array(image.GetOrigin()), np.array(image.GetSpacing()), wanted + (0.3, -0.4, 0.2)
    point = np.array(image.TransformContinuousIndexToPhysicalPoint(moved.tolist()))
    found = np.asarray(attempt(to_index, point, origin, spacing, turn))
    expect(found.shape == (3,), f"three numbers (i, j, k) are wanted, not an array of shape {found.shape}")
    back = point - origin
    expect(
        not np.allclose(found, back @ turn.T / spacing, atol=1), "that goes along the directions, not back: invert D"
    )
    expect(
        not np.allclose(found, back / spacing, atol=1), "the directions are missing: the axes of a scan can be turned"
    )
    expect(not np.allclose(found, back @ turn, atol=1), "these are mm along the axes: divide them by the spacing")
    expect(not np.allclose(found, moved), "nearly: a voxel has a whole number, so round")
    expect(not np.array_equal(found, np.floor(moved)), "cut off, not rounded: the centre of voxel i lies at i itself")
    expect(np.array_equal(found, wanted), f"{found} where {wanted} should be")


def scene() -> tuple[sitk.Image, sitk.Image]:
    """Make an upright ellipse of soft tissue in fat, near the last column, as scan and mask (6, 96, 96)."""
    z, y, x = np.mgrid[:6, :96, :96]
    inside = ((x - 76) / 10) ** 2 + ((y - 48) / 26) ** 2 < 1
    hu = np.where(inside, 90, -105) + np.random.default_rng(0).normal(0, 12, inside.shape)
    scan, mask = sitk.GetImageFromArray(hu.astype(np.int16)), sitk.GetImageFromArray(inside.astype(np.uint8))
    return scan, mask


def noticed(scan: sitk.Image, mask: sitk.Image, limit: float, axis: int = 2) -> int:
    """Find the least shift at which a mask's score falls below `limit`; nothing comes back at the other side."""
    array = sitk.GetArrayFromImage(mask)
    for pixels in range(1, array.shape[axis]):
        moved = np.zeros_like(array)
        target, source = [slice(None)] * 3, [slice(None)] * 3
        target[axis], source[axis] = slice(pixels, None), slice(None, -pixels)
        moved[tuple(target)] = array[tuple(source)]
        if quality.flips(scan, sitk.GetImageFromArray(moved))[""] < limit:
            return pixels
    return array.shape[axis]


def exercise_4(first_noticed: Answer) -> None:
    """Move the array of the mask by 1, 2, 3, ... columns, and ask `quality.flips` each time for the score at ""."""
    scan, mask = scene()
    before = sitk.GetArrayFromImage(mask)
    for limit in (0.75, 0.5):
        found, wanted = attempt(first_noticed, scan, mask, limit), noticed(scan, mask, limit)
        expect(
            np.array_equal(sitk.GetArrayFromImage(mask), before), "it changes the mask that it was given: move a copy"
        )
        expect(np.ndim(found) == 0, f"one number of columns is wanted, not the shape {np.shape(found)}")
        expect(found != noticed(scan, mask, limit, axis=1), "you move rows: the last axis of the array is the columns")
        expect(found != wanted - 1, f"{found} columns are still at {limit} or above: return the first that is below")
        expect(found == wanted, f"{found} columns, where {wanted} are the first below {limit}")
