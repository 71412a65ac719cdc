"""A scanner: where the patient lies in the field of view, the table, and noise coloured by the kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import fft

from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.shapes import TABLES, Canvas

Painter = Callable[[Canvas, Anatomy], np.ndarray]  # paints a slice, returns the pancreas' mask in it


@dataclass(frozen=True)
class Scanner:
    """A make of scanner, by its names and by what it does to the picture."""

    model: str
    station: str
    kernel: str
    noise: float  # HU at the centre of an average patient
    sharpness: float  # cycles per mm at which its kernel lets most noise through
    table: int  # 1 or 2 curved, 0 flat


SCANNERS = tuple(Scanner(**row) for row in TABLES["scanner"])


class ScanGrid(NamedTuple):
    """The scan's grid in the patient's mm: `x` (W,), `y` (H,), `z` (S,) from feet to head."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing: tuple[float, float, float]  # (dz, dy, dx)


def plan(body: Anatomy, rng: np.random.Generator, size: int, *, scale: float = 1.0, view: float = 1.0) -> ScanGrid:
    """Choose field of view, pixel size, slices and the patient's place in the picture.

    Every length of the patient is `scale` times that of `body`; the field of view is `view` times the usual one.
    """
    across = scale * (2 * (body.width + body.muscle + body.subcutaneous) + 12)
    pixel = float(np.clip((across + rng.uniform(20, 130)) / 512, 0.66, 0.98)) * 512 / size
    low, high = (scale * z for z in body.reach or body.extent)
    most = round(48 * scale)  # slices
    need = high - low + rng.uniform(22, 36)
    dz = float(min(step for step in (2.5, 3.0, 3.5, 4.0, 4.5) if step * most >= need or step == 4.5))
    dz = max(dz, float(rng.choice([2.5, 3.0, 3.5])))
    count = int(np.clip(np.ceil(need / dz), 40, most))
    middle = (low + high) / 2 + rng.uniform(-0.35, 0.35) * (count * dz - (high - low))
    if body.reach:  # a scan of all of it
        dz = float(rng.choice([2.0, 2.5]))
        count, middle = round((high - low) / dz), (low + high) / 2
    room = max(0.0, pixel * size - across) / 2
    dx, dy = np.clip(rng.normal(0, 9), -room, room), rng.normal(12, 18)
    pixel *= view
    steps = (np.arange(size) - (size - 1) / 2) * pixel
    centre = scale * (body.back - body.front) / 2
    return ScanGrid(
        steps + dx, steps + centre + dy, middle + (np.arange(count) - (count - 1) / 2) * dz, (dz, pixel, pixel)
    )


def table(canvas: Canvas, scanner: Scanner, back: float, scale: float = 1.0) -> None:
    """Paint the table under the patient: two thin shells, curved up at the sides or flat (`back` mm: its top).

    The canvas has the lengths of a patient `scale` times smaller than the one who lies on the table.
    """
    X, Y = canvas.x[None] * scale, canvas.y[:, None] * scale
    if scanner.table:
        top = back - X * X / 900
        shells = [(top, 205, 1.0, 130), (top + 26 + X * X / 4000, 205 if scanner.table == 1 else 150, 1.1, 60)]
    else:
        shells = [(back, 215, 1.5, 60), (back + 50, 215, 1.5, 60)]
    for y, half, thick, hu in shells:
        d = np.maximum(np.abs(Y - y) - thick, np.abs(X) - half)
        canvas.paint((slice(None), slice(None)), d / scale, float(hu))


def noise(rng: np.random.Generator, scanner: Scanner, shape: tuple[int, int], pixel: float) -> np.ndarray:
    """Draw noise (H, W) of unit variance whose spectrum rises with frequency and is cut off by the kernel."""
    white = rng.standard_normal(shape, np.float32)
    fy, fx = np.meshgrid(fft.fftfreq(shape[0], pixel), fft.rfftfreq(shape[1], pixel), indexing="ij")
    f = np.sqrt(fx * fx + fy * fy)
    mtf = ((0.03 + f) * np.exp(-((f / scanner.sharpness) ** 2))).astype(np.float32)
    grain = fft.irfft2(fft.rfft2(white) * mtf, shape)
    return grain / grain.std()


def scan(
    body: Anatomy, rng: np.random.Generator, scanner: Scanner, paint: Painter, size: int, scale: float, view: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, ScanGrid]:
    """Scan a body; return HU int16 (S, H, W), mask and labels uint8, all in canonical order, and the grid.

    `scale` and `view` are as in `plan`. A larger patient is painted unchanged, on a grid that is smaller by as much.
    """
    grid = plan(body, rng, size, scale=scale, view=view)
    warp = [lambda x, y, z, w=w: w(x, y, z) * np.float32(body.warp_mm) for w in body.warp]
    back = scale * (body.back + body.muscle + 17 + body.subcutaneous * 1.2) + rng.uniform(2, 22)
    thick = scale * (body.width + body.front + body.subcutaneous)
    level = scanner.noise * (thick / 240) ** 1.5 * rng.uniform(0.8, 1.2) * np.sqrt(3.0 / grid.spacing[0])
    shape = (len(grid.z), size, size)
    hu, mask, labels = np.empty(shape, np.int16), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for k, z in enumerate(grid.z):
        canvas = Canvas(grid.x / scale, grid.y / scale, z / scale, warp)
        table(canvas, scanner, back, scale)
        mask[k] = paint(canvas, body)
        depth = np.exp(-((canvas.X / 150) ** 2) - (canvas.Y / 120) ** 2)  # noisiest where rays are longest
        canvas.hu += noise(rng, scanner, shape[1:], grid.spacing[2]) * (level * (0.45 + 0.6 * depth))
        hu[k] = np.clip(np.rint(canvas.hu), -1024, 3071)
        labels[k] = canvas.labels
    return hu, mask, labels, grid
