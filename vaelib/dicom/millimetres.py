"""Grids in millimetres: what a pixel is worth does not depend on the field of view, and a window follows the organ.

Scans here are arrays in canonical order (slices from below, rows from the front, columns from the patient's right), and
places are mm from the centre of the first voxel, as (z, y, x). On the way down, voxels are area averages, as the levels
of `vaelib.levels` are; on the way back, they are interpolated linearly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BODY = 0.05  # of the window, 20 HU above its lower end: what is brighter is the patient, or the table


class Window(NamedTuple):
    """A box of voxels in a scan.

    Attributes
    ----------
    first : (z, y, x) in mm
        Centre of its first voxel.
    spacing : (dz, dy, dx) in mm
    shape : (slices, rows, columns)
    """

    first: tuple[float, float, float]
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def axes(self) -> list[tuple[float, float, int]]:
        """First, spacing and number of voxels of each axis."""
        return [*zip(*self, strict=True)]


def window_of(low: float, high: float, centre: Sequence[float], spacing: Sequence[float], side: int) -> Window:
    """Make the window that covers heights from `low` to `high` mm, `side` voxels square around `centre` (y, x)."""
    dz, dy, dx = map(float, spacing)
    count = max(1, round((high - low) / dz))
    first = (low + high - (count - 1) * dz) / 2, centre[0] - (side - 1) / 2 * dy, centre[1] - (side - 1) / 2 * dx
    return Window(tuple(map(float, first)), (dz, dy, dx), (count, side, side))  # type: ignore[arg-type]


def averaged(scan: np.ndarray, spacing: Sequence[float], window: Window) -> np.ndarray:
    """Average a scan over the voxels of a window: (slices, rows, columns) float32; what lies outside counts as 0.

    Parameters
    ----------
    scan : ndarray, (S, H, W)
        Windowed grey values, or occupancies: both are averages themselves, and the latter's volume is conserved.
    spacing : (dz, dy, dx) in mm
    """
    over = [_overlap(n, step, *axis) for n, step, axis in zip(scan.shape, spacing, window.axes, strict=True)]
    over[0] /= np.maximum(over[0].sum(1, keepdims=True), 1e-6)  # above and below, the outermost slice goes on
    out = np.empty(window.shape, np.float32)
    for k, weights in enumerate(over[0]):
        used = np.flatnonzero(weights)
        mean = np.tensordot(weights[used], scan[used].astype(np.float32), 1) if len(used) else np.zeros(scan.shape[1:])
        out[k] = over[1] @ mean @ over[2].T
    return out


def put_back(probability: np.ndarray, window: Window, shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Interpolate a map on a window linearly onto the scan's own voxels: `shape`, float32, 0 outside the window."""
    near = [_linear(n, step, *axis) for n, step, axis in zip(shape, spacing, window.axes, strict=True)]
    out = np.zeros(shape, np.float32)
    for k in np.flatnonzero(near[0].any(1)):
        used = np.flatnonzero(near[0][k])
        out[k] = near[1] @ np.tensordot(near[0][k, used], probability[used], 1) @ near[2].T
    return out


def _overlap(count: int, step: float, first: float, wide: float, voxels: int) -> np.ndarray:
    """Compute which share of each voxel of a window (rows) lies in each of the scan (columns), along one axis."""
    scan, window = step * (np.arange(count + 1) - 0.5), first + wide * (np.arange(voxels + 1) - 0.5)
    common = np.minimum(scan[1:], window[1:, None]) - np.maximum(scan[:-1], window[:-1, None])
    return (np.clip(common, 0, None) / wide).astype(np.float32)


def _linear(count: int, step: float, first: float, wide: float, voxels: int) -> np.ndarray:
    """Compute the weight of each voxel of a window (columns) at each of the scan (rows), along one axis."""
    at = (step * np.arange(count) - first) / wide
    return np.clip(1 - np.abs(at[:, None] - np.arange(voxels)), 0, None).astype(np.float32)


def body_centre(scan: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """Find the middle of the patient, (y, x) in mm: the centre of mass of all that is no air, over a few slices."""
    inside = scan[:: max(1, len(scan) // 16), ::4, ::4] > BODY
    at = [4 * step * (axis.mean() if len(axis) else n / 8) for axis, step, n in
          zip(np.nonzero(inside)[1:], spacing[1:], scan.shape[1:], strict=True)]  # fmt: skip
    return float(at[0]), float(at[1])


def enlarge(probability: np.ndarray, size: int) -> np.ndarray:
    """Interpolate maps (..., h, w) linearly to (..., size, size), pixel centres in their places."""
    import torch
    from torch.nn.functional import interpolate

    p = torch.as_tensor(np.ascontiguousarray(probability, dtype=np.float32))
    large = interpolate(p.reshape(-1, 1, *p.shape[-2:]), size=(size, size), mode="bilinear", align_corners=False)
    return large.reshape(*p.shape[:-2], size, size).numpy()
