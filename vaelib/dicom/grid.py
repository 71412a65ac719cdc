"""Fit the one even grid on which the slices of a series, or the frames of a SEG, lie; every reader and writer asks it.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset

from vaelib.dicom.geometry import slice_normal
from vaelib.dicom.headers import half_digit, read_numbers, rounding_of_cosines
from vaelib.engine.errors import InputError

TOLERANCE = 0.01  # a gap between slices may differ from the others by 1%, or by 0.01 mm if that is more
STEPS = np.linspace(-2, 2, 401)  # slopes to try, as tolerances over the length of the stack
TURN = 2.5  # rounding of the cosines turns the normal by this many times half their last digit at most (root of 6)


class Grid(NamedTuple):
    """Where voxels lie: as an image of SimpleITK says it, with orthonormal axes."""

    origin: tuple[float, ...]  # (x, y, z), mm: the centre of the first voxel of the first slice
    spacing: tuple[float, ...]  # (x, y, z), mm
    direction: tuple[float, ...]  # nine numbers: columns are the directions of x, y, z

    def image(self, array: np.ndarray) -> sitk.Image:
        """Make an image of an array (S, H, W) on this grid."""
        image = sitk.GetImageFromArray(array)
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction)
        return image


def grid_by(frame: np.ndarray, origin: Sequence[float]) -> Grid:
    """Make the grid whose first voxel is at `origin` and whose steps along x, y, z are the columns of `frame`, mm."""
    spacing = np.linalg.norm(frame, axis=0)
    return Grid(tuple(map(float, origin)), tuple(spacing.tolist()), tuple((frame / spacing).ravel().tolist()))


def even_grid(
    positions: np.ndarray,
    cosines: Sequence[float] | np.ndarray,
    pixels: Sequence[float],
    names: Sequence[str],
    *,
    sparse: bool = False,
    distance: float | None = None,
    rounding: tuple[np.ndarray | float, float] = (0.0, 0.0),
) -> tuple[Grid, np.ndarray]:
    """Fit an even grid to slices, and return it with the place of each slice along the slice normal, (n,) int.

    Axes are the nearest orthonormal ones; origin and distance come from least squares. A scan whose numbers are
    rounded is neither uneven nor tilted for that, unless this hides more than a tenth of the distance between slices.

    Parameters
    ----------
    positions : (n, 3), mm
        Of the first pixel of each slice, in any order.
    cosines : six numbers
        ImageOrientationPatient.
    pixels : (between rows, between columns), mm
        PixelSpacing.
    names : n names of files or frames, for messages.
    sparse : bool
        Whether slices may be missing, as frames of a SEG may.
    distance : float, optional
        Between slices in mm, roughly, where slices may be missing; one frame alone does not tell.
    rounding : (of positions, of cosines)
        Half of their last digit, for positions one number or that of x, y and z; by default all are exact.

    Raises
    ------
    InputError
        A missing (unless `sparse`), doubled or sheared slice, uneven spacing, or skewed axes.
    """
    axes, (half, turn), positions = np.reshape(cosines, (2, 3)).astype(float), rounding, np.asarray(positions, float)
    if not np.allclose(axes @ axes.T, np.eye(2), rtol=0, atol=max(1e-3, 4 * turn)):
        raise InputError(f"{names[0]}: ImageOrientationPatient {axes.ravel()} is skewed; export the scan again")
    normal = slice_normal(axes)
    order = np.argsort(positions @ normal, kind="stable")
    stack, named = positions[order] - positions[order[0]], [names[k] for k in order]
    half = np.where(np.ptp(stack, axis=0) > 0, half, 0)  # what is the same in all slices shifts none against another
    places = _places(stack @ normal, named, np.abs(normal) @ half, sparse, distance)
    if len(places) > 1:
        distance = float(stack[-1] @ normal) / places[-1]
    assert distance is not None
    if np.linalg.norm(stack[-1]) * turn > half.max():  # the direction of the stack is known better than that of cosines
        line = (places - places.mean()) @ stack
        line /= np.linalg.norm(line)
        normal = line if 1e-9 < np.linalg.norm(line - normal) <= TURN * turn else normal
    off = stack - np.outer(stack @ normal, normal)
    aside = np.linalg.norm(off, axis=1)
    if aside.max() > 0.1 + TURN * turn * (stack[-1] @ normal) + min(2 * half.max(), distance / 10):
        apart = np.linalg.norm(off - np.median(off, axis=0), axis=1)
        name = named[int(apart.argmax())]
        if np.median(apart) < 0.1:  # most are in line
            raise InputError(f"{name}: lies {apart.max():.2f} mm aside of the other slices; export the scan again")
        raise InputError(f"{name}: lies {aside.max():.2f} mm aside (tilted gantry?); resample it upright first")
    centred = places - places.mean()
    distance += centred @ np.round(stack @ normal - distance * places, 9) / max(centred @ centred, 1)
    shift = np.round(stack - np.outer(distance * places, normal), 9).mean(0)
    left, _, right = np.linalg.svd(axes - np.outer(axes @ normal, normal), full_matrices=False)
    origin, direction = positions[order[0]] + shift, np.transpose([*(left @ right), normal])
    spacing = pixels[1], pixels[0], float(distance)
    return Grid(tuple(origin.tolist()), spacing, tuple(direction.ravel().tolist())), places[np.argsort(order)]


def _places(along: np.ndarray, names: Sequence[str], half: float, sparse: bool, distance: float | None) -> np.ndarray:
    """Count the places of slices from their ascending positions, (n,) int; raise where one is missing or doubled."""
    gaps = np.diff(along)
    if len(gaps) == 0:
        if sparse and distance:
            return np.array([0])
        raise InputError(f"{names[0]}: a single slice; give the whole series")
    usual = np.sort(gaps)[(len(gaps) - 1) // 2]  # the lower median: a gap that exists
    if sparse:
        usual = distance or gaps[gaps <= 1.5 * gaps.min()].mean()
    usual = max(usual, 0.01)
    steps = np.maximum(np.round(gaps / usual), 1) if sparse else np.ones(len(gaps))
    places, off = np.append(0, steps.cumsum()).astype(int), np.abs(gaps - steps * usual)
    slack, tolerance = max(TOLERANCE * usual, 0.01), min(max(half, 0.01), usual / 10)
    trend = along - along[-1] / places[-1] * places - np.outer(STEPS * tolerance / places[-1], places)
    fits = off.max() <= slack or np.ptp(trend, axis=1).min() <= 2.02 * tolerance  # all within it of one straight line
    twice = gaps < 0.01
    if fits and not twice.any():
        return places
    k = int((np.round(off, 6) + twice * along[-1]).argmax())
    near = usual if twice.any() else gaps[np.abs(gaps - usual) <= usual / 5].mean()
    count, fault = round(gaps[k] / near), "uneven spacing; resample the scan to even slices first"
    if twice.sum() > 1:
        fault = f"the same place twice, as {twice.sum() - 1} others: two scans, or copies? keep one of each"
    elif twice[k]:
        fault = "the same place twice; remove one of the two"
    elif sparse:
        fault = "no whole number of slices; export it again"
    elif count > 1 and abs(gaps[k] - count * near) <= max(slack, 2 * tolerance) * count:
        fault = f"{count - 1} missing slice(s); download the series again"
    raise InputError(f"{names[k]}: {gaps[k]:.2f} mm from {Path(names[k + 1]).name}, {usual:.2f} is usual: {fault}")


def grid_of(headers: list[Dataset]) -> Grid:
    """Fit the grid of a CT series, whose headers are sorted as `series_headers` gives them."""
    positions = np.array([read_numbers(ds, "ImagePositionPatient", 3) for ds in headers])
    cosines = np.mean([read_numbers(ds, "ImageOrientationPatient", 6) for ds in headers], axis=0)
    rounding = half_digit(headers, "ImagePositionPatient"), rounding_of_cosines(headers)
    pixels, names = read_numbers(headers[0], "PixelSpacing", 2).tolist(), [ds.filename for ds in headers]
    return even_grid(positions, cosines, pixels, names, rounding=rounding)[0]
