"""Fit the one even grid on which the slices of a series, or the frames of a SEG, lie; every reader and writer asks it.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from vaelib.dicom.geometry import slice_normal
from vaelib.dicom.headers import check_evenly_stacked, read_numbers


class Grid(NamedTuple):
    """Where voxels lie: as an image of SimpleITK says it, with orthonormal axes."""

    origin: tuple[float, ...]  # (x, y, z), mm: the centre of the first voxel of the first slice
    spacing: tuple[float, ...]  # (x, y, z), mm
    direction: tuple[float, ...]  # nine numbers: columns are the directions of x, y, z

    def put_on(self, image: sitk.Image) -> None:
        """Give an image this grid."""
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(self.direction)


def even_grid(
    positions: np.ndarray,
    cosines: Sequence[float],
    pixels: Sequence[float],
    names: Sequence[str],
    *,
    sparse: bool = False,
) -> tuple[Grid, np.ndarray]:
    """Fit an even grid to slices, and return it with the place of each slice along the slice normal, (n,) int.

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

    Raises
    ------
    InputError
        A missing (unless `sparse`), doubled or sheared slice, or uneven spacing.
    """
    raise NotImplementedError


def grid_of(headers: list[Dataset]) -> Grid:
    """Fit the grid of a CT series, whose headers are sorted as `series_headers` gives them."""
    distance = check_evenly_stacked(headers)
    row, column = read_numbers(headers[0], "ImageOrientationPatient", 6).reshape(2, 3)
    down, across = read_numbers(headers[0], "PixelSpacing", 2).tolist()  # between rows, between columns
    origin = tuple(read_numbers(headers[0], "ImagePositionPatient", 3).tolist())
    normal = slice_normal([*row, *column])
    return Grid(origin, (across, down, distance), tuple(np.transpose([row, column, normal]).ravel().tolist()))
