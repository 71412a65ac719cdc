"""Shapes as signed distances in mm, and the canvas on which one axial slice is painted.

Coordinates are the patient's, in mm (LPS): x to the left, y to the back, z to the head, with the
origin between the vertebra and the mesenteric vessels. A distance is negative inside a shape.
"""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicHermiteSpline

TABLES = tomllib.loads(Path(__file__).with_name("tables.toml").read_text("utf-8"))
LABELS: list[str] = TABLES["labels"]
LABEL = {name: number for number, name in enumerate(LABELS)}
FAR = np.float32(99)  # mm; "not near this shape"
Box = tuple[slice, slice]  # rows and columns of a slice
EDGE = 1.3  # mm over which an edge blends from one tissue to the next: partial volume


class Waves:
    """A smooth random field over space: the sum of `count` plane waves, with variance 1.

    A plane wave is a product of a function of (y, z) and one of x, so that a whole slice costs one
    small matrix product.
    """

    def __init__(self, rng: np.random.Generator, wavelength: float, count: int = 20):
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        self.k = direction * (2 * np.pi / wavelength) * rng.uniform(0.6, 1.4, (count, 1))
        self.phase = rng.uniform(0, 2 * np.pi, count)

    def __call__(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        """Compute values (len(y), len(x)), float32, at columns `x`, rows `y` of the slice at `z` (all mm)."""
        a = np.outer(y, self.k[:, 1]) + (self.k[:, 2] * z + self.phase)
        b = np.outer(self.k[:, 0], x)
        left = np.hstack([np.cos(a), -np.sin(a)]).astype(np.float32)
        right = np.vstack([np.cos(b), np.sin(b)]).astype(np.float32)
        return left @ right * np.float32(np.sqrt(2 / len(self.phase)))


class Canvas:
    """One axial slice being painted, back to front.

    `x` (W,) and `y` (H,) are the pixel centres, `X` and `Y` (H, W) the same after the patient's own
    warp, `wall` (H, W) the distance to the abdominal cavity's inside, `hu` and `labels` the picture.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, z: float, warp: Sequence[Callable[..., np.ndarray]]):
        self.x, self.y, self.z = x.astype(np.float32), y.astype(np.float32), float(z)
        self.pixel = float(x[1] - x[0])
        self.X = self.x[None] + warp[0](x, y, z)
        self.Y = self.y[:, None] + warp[1](x, y, z)
        self.hu = np.full(self.X.shape, -1000, np.float32)
        self.labels = np.zeros(self.X.shape, np.uint8)
        self.wall = np.full(self.X.shape, FAR)
        self.fields: dict[int, np.ndarray] = {}

    def box(self, x0: float, x1: float, y0: float, y1: float) -> Box:
        """Find the (rows, columns) slices that cover x0..x1 by y0..y1 mm, with room for the warp; they may be empty."""
        pad = 12
        j0, j1 = np.searchsorted(self.x, (x0 - pad, x1 + pad))
        i0, i1 = np.searchsorted(self.y, (y0 - pad, y1 + pad))
        return slice(i0, i1), slice(j0, j1)

    def waves(self, field: Waves, box: Box) -> np.ndarray:
        """Return a field of waves over the box; each field is computed once a slice."""
        if id(field) not in self.fields:
            self.fields[id(field)] = field(self.x, self.y, self.z)
        return self.fields[id(field)][box]

    def paint(
        self, box: Box, d: np.ndarray, hu: ArrayLike, label: str = "", *, edge: float = EDGE, strength: ArrayLike = 1.0
    ) -> np.ndarray:
        """Blend `hu` over the box where distance `d` is negative; return the solid part (bool)."""
        alpha = np.clip(np.float32(0.5) - d * np.float32(1 / max(edge, self.pixel)), 0, 1)
        alpha = alpha * np.asarray(strength, np.float32)
        view = self.hu[box]
        view += alpha * (hu - view)
        solid = alpha > 0.5
        if label:
            self.labels[box][solid] = LABEL[label]
        return solid

    def among(self, box: Box, label: str) -> np.ndarray:
        """Tell which pixels of the box have a label."""
        return self.labels[box] == LABEL[label]


class Tube:
    """Balls strung on a spline: `points` (N, 3) and `radii` (N,) in mm, `stretch` times longer in z.

    It runs through control points (M, 3) with radii (M,), or one radius, and is densely resampled.
    """

    def __init__(self, controls: ArrayLike, radii: ArrayLike, stretch: float = 1.0):
        controls = np.asarray(controls, float)
        radii = np.broadcast_to(np.asarray(radii, float), len(controls))
        t = np.concatenate([[0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(controls, axis=0), axis=1)))])
        curve = CubicHermiteSpline(t, controls, np.gradient(controls, t, axis=0))
        fine = np.linspace(0, t[-1], 200)
        step = np.linalg.norm(np.diff(curve(fine), axis=0, prepend=controls[:1]), axis=1)
        ball = np.cumsum(step / np.maximum(0.4 * np.interp(fine, t, radii), 0.8))  # a ball every 0.4 radii
        u = np.interp(np.linspace(0, ball[-1], int(ball[-1]) + 2), ball, fine)
        self.points, self.radii = curve(u).astype(np.float32), np.interp(u, t, radii).astype(np.float32)
        self.stretch = stretch
        reach = self.radii.max() * 1.2 * stretch + 2
        self.span = self.points[:, 2].min() - reach, self.points[:, 2].max() + reach

    def at(self, fraction: float) -> np.ndarray:
        """Return the point (3,) at a fraction 0..1 of the tube."""
        return self.points[int(round(fraction * (len(self.points) - 1)))]

    def near(self, canvas: Canvas) -> list[tuple[Box, np.ndarray]]:
        """Compute the distance on this slice, as one pair (box, distance), or none where the tube isn't near it."""
        dz = (self.points[:, 2] - canvas.z) / self.stretch
        near = np.abs(dz) < self.radii + 2
        if not self.span[0] < canvas.z < self.span[1] or not near.any():
            return []
        px, py, r, dz2 = self.points[near, 0], self.points[near, 1], self.radii[near], dz[near] ** 2
        pad = r.max() + 2
        box = canvas.box(px.min() - pad, px.max() + pad, py.min() - pad, py.max() + pad)
        X, Y = canvas.X[box], canvas.Y[box]
        d = np.full(X.shape, FAR, np.float32)
        x, y = canvas.x[box[1]], canvas.y[box[0]]
        reach = r + 10
        j0, j1 = np.searchsorted(x, px - reach), np.searchsorted(x, px + reach)
        i0, i1 = np.searchsorted(y, py - reach), np.searchsorted(y, py + reach)
        for n in range(len(r)):
            b = slice(i0[n], i1[n]), slice(j0[n], j1[n])
            ball = np.sqrt((X[b] - px[n]) ** 2 + (Y[b] - py[n]) ** 2 + dz2[n]) - r[n]
            np.minimum(d[b], ball, out=d[b])
        return [(box, d)]


class Ellipsoid:
    """An ellipsoid: `centre` (3,), `radii` (3,) in mm, turned by `tilt` degrees about x, y and z.

    The rows of `axes` (3, 3) are its unit axes.
    """

    def __init__(self, centre: ArrayLike, radii: ArrayLike, tilt: Sequence[float] = (0, 0, 0)):
        from scipy.spatial.transform import Rotation

        self.centre, self.radii = np.asarray(centre, float), np.asarray(radii, float)
        self.axes = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix().T

    def near(self, canvas: Canvas) -> list[tuple[Box, np.ndarray]]:
        """Compute the distance, to first order, as `Tube.near` does."""
        half = np.sqrt(((self.axes * self.radii[:, None]) ** 2).sum(0)) + 6  # of its bounding box
        (cx, cy, _), dz = self.centre, canvas.z - self.centre[2]
        if abs(dz) > half[2]:
            return []
        box = canvas.box(cx - half[0], cx + half[0], cy - half[1], cy + half[1])
        dx, dy = canvas.X[box] - np.float32(cx), canvas.Y[box] - np.float32(cy)
        q, g = np.zeros_like(dx), np.zeros_like(dx)
        for axis, radius in zip(self.axes, self.radii, strict=True):
            u = (dx * np.float32(axis[0]) + dy * np.float32(axis[1]) + np.float32(axis[2] * dz)) / np.float32(radius)
            q += u * u
            g += (u / np.float32(radius)) ** 2
        q = np.sqrt(q)
        return [(box, q * (q - 1) / np.sqrt(g + 1e-9))]


def blend(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Compute the union of two distances, its seam rounded over `k` mm (polynomial smooth minimum)."""
    h = np.clip(0.5 + 0.5 * (b - a) / k, 0, 1)
    return b + (a - b) * h - k * h * (1 - h)


Shape = Tube | Ellipsoid
