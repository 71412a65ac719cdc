"""From HU to small images: window, levels of 2^k pixels by area averaging, and the way back onto the scan.

Level k is 2^k pixels a side, from 0 (one pixel) to 9 (512 x 512). A coarse pixel of a scan is the mean of
the fine ones beneath it. A coarse pixel of a mask is its *occupancy*: the share of it that is pancreas. Both
are exact (halving adds four numbers and divides by four), so that volume is conserved at every level.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import SimpleITK as sitk

from vaelib.dicom.geometry import axes_of, image_like, onto_grid
from vaelib.engine.errors import InputError

FULL = 9  # the level of a full-size slice, 512 x 512
AXES = "LR", "PA", "SI"  # of x, y and z: the way they run in canonical order, and the other way
SLAB = 2  # slices worked on at a time: few enough to stay in the processor's cache


def window(hu: np.ndarray, low: float = -160, high: float = 240) -> np.ndarray:
    """Clip HU to a window and scale it to [0, 1] as float32; the default shows the soft tissue of the abdomen."""
    out = hu.astype(np.float32)
    out -= low
    out /= high - low
    return np.clip(out, 0, 1, out=out)


def halve(array: np.ndarray) -> np.ndarray:
    """Average 2 x 2 blocks of the last two axes."""
    a = array
    return (a[..., ::2, ::2] + a[..., 1::2, ::2] + a[..., ::2, 1::2] + a[..., 1::2, 1::2]) * a.dtype.type(0.25)


def downscale(array: np.ndarray, level: int) -> np.ndarray:
    """Area-average the last two axes to 2^level pixels a side.

    Parameters
    ----------
    array : ndarray, (..., H, W)
        Windowed images or masks; H = W, a power of two of at least 2^level.

    Returns
    -------
    ndarray, (..., 2^level, 2^level) float32

    Raises
    ------
    InputError
        If the array is not square, no power of two, or smaller than the level.
    """
    side = array.shape[-1]
    if array.shape[-2] != side or side & (side - 1) or not 0 <= level <= side.bit_length() - 1:
        raise InputError(f"cannot take {array.shape[-2:]} pixels to level {level} ({2**level} pixels a side): give a "
                         "square image whose side is a power of two and no smaller")  # fmt: skip
    array = array.astype(np.float32)
    while array.shape[-1] > 2**level:
        array = halve(array)
    return array


def levels_of(
    array: np.ndarray, lowest: int, first: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[slice, int, np.ndarray]]:
    """Go through a volume (S, H, W) a few slices at a time, from its own level down to `lowest`.

    `first` makes floats of the stored numbers. Only a few slices are ever held as floats, however long the scan is.

    Yields
    ------
    slice, int, ndarray
        Which slices, their level, and their pixels at that level.
    """
    for start in range(0, len(array), SLAB):
        part = slice(start, min(start + SLAB, len(array)))
        block, level = first(array[part]), array.shape[-1].bit_length() - 1
        yield part, level, block
        while level > lowest:
            block, level = halve(block), level - 1
            yield part, level, block


def images_at(scan: sitk.Image, level: int, low: float = -160, high: float = 240) -> np.ndarray:
    """Window a scan and downscale its slices: (S, 2^level, 2^level) float32, in canonical order."""
    array = _turned(scan)
    out = np.empty((len(array), 2**level, 2**level), np.float32)
    for part, at, block in levels_of(array, level, partial(window, low=low, high=high)):
        if at == level:
            out[part] = block
    return out


def _turned(scan: sitk.Image) -> np.ndarray:
    """Read the numbers of `canonical(scan)`: a view of the scan itself where its axes need only be reversed."""
    letters = axes_of(scan)
    if scan.GetSize()[:2] != (2**FULL, 2**FULL) or any(a not in b for a, b in zip(letters, AXES, strict=True)):
        return sitk.GetArrayFromImage(canonical(scan))
    backward = [2 - k for k in range(3) if letters[k] != AXES[k][0]]  # arrays have z first
    return np.flip(sitk.GetArrayViewFromImage(scan), backward)


def canonical(image: sitk.Image, size: int = 2**FULL, fill: float = -1024) -> sitk.Image:
    """Turn a scan so that arrays are (inferior to superior, anterior to posterior, right to left), `size` square.

    Axes are only permuted and flipped. A slice that is not `size` x `size` is interpolated over the square
    field of view that holds it; slices themselves are never moved.
    """
    image = sitk.DICOMOrient(image, "LPS")
    w, h, depth = image.GetSize()
    if (w, h) == (size, size):
        return image
    dx, dy, dz = image.GetSpacing()
    fov = max(w * dx, h * dy)
    corner = [(w - fov / dx) / 2 - 0.5 + 0.5 * fov / dx / size, (h - fov / dy) / 2 - 0.5 + 0.5 * fov / dy / size, 0]
    origin = image.TransformContinuousIndexToPhysicalPoint(corner)
    method = sitk.sitkNearestNeighbor if image.GetPixelID() == sitk.sitkUInt8 else sitk.sitkLinear
    return sitk.Resample(image, (size, size, depth), sitk.Transform(), method, origin,
                         (fov / size, fov / size, dz), image.GetDirection(), fill, image.GetPixelID())  # fmt: skip


def to_scan(probability: np.ndarray, scan: sitk.Image, threshold: float) -> sitk.Image:
    """Put a prediction made at any level back on its scan.

    The coarse map is interpolated linearly in physical space onto the scan's own grid, whatever its
    orientation, and thresholded there.

    Parameters
    ----------
    probability : ndarray, (S, h, w)
        In canonical order, one slice for each slice of the scan.
    scan : SimpleITK.Image
        As `read_ct` gives it.
    threshold : float
        Mask where the interpolated probability is at least this.

    Returns
    -------
    SimpleITK.Image
        uint8, 0 or 1, on the grid of `scan`.
    """
    grid = canonical(image_like(np.zeros(scan.GetSize()[::-1], np.uint8), scan))
    if len(probability) != grid.GetSize()[2]:
        raise InputError(f"the prediction has {len(probability)} slices and the scan {grid.GetSize()[2]}: "
                         "predict every slice of this scan")  # fmt: skip
    factor = grid.GetSize()[0] / probability.shape[-1]
    coarse = sitk.GetImageFromArray(np.pad(probability.astype(np.float32), ((0, 0), (1, 1), (1, 1))))
    dx, dy, dz = grid.GetSpacing()
    coarse.SetSpacing((dx * factor, dy * factor, dz))
    coarse.SetDirection(grid.GetDirection())
    first = (factor - 1) / 2 - factor  # centre of the padding pixel, in pixels of the grid
    coarse.SetOrigin(grid.TransformContinuousIndexToPhysicalPoint((first, first, 0)))
    return onto_grid(coarse, scan, threshold, linear=True)
