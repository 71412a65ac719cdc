"""From a mask to its surface: marching cubes in mm, area and volume, a shaded figure, and a turntable for a notebook.

Meshes are in mm along the scan's canonical axes, LPS: x to the patient's left, y to the back, z to the head. Seen from
the front (azimuth -90, elevation 0) the patient's left is therefore at the right, as in every picture of this series.

References
----------
Lewiner et al., *Efficient Implementation of Marching Cubes' Cases with Topological Guarantees*, 2003,
doi 10.1080/10867651.2003.10487582, as scikit-image has it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import IdentityTransform
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.proj3d import proj_transform
from scipy.ndimage import gaussian_filter, zoom
from skimage.measure import marching_cubes, mesh_surface_area

from vaelib.engine import finite
from vaelib.engine.errors import InputError
from vaelib.pictures.live import Live
from vaelib.pictures.network import packed
from vaelib.pictures.style import DPI, VERMILLION, WIDTH, YELLOW, colour_of, styled

VIEWS = {"from the front": (-90, 0), "from the left": (0, 0), "from the back": (90, 0), "from below": (-90, -90)}
LETTERS = "RLAPIS"  # at the low and the high end of x, y and z
DARK = "#303030"
BAR_MM = 50  # length of the bar under each view
STEP_MM = 2.5  # between the points that the surface is drawn through, where voxels are not nearer to each other
Point = tuple[float, float, float]


class Mesh(NamedTuple):
    """A closed surface: `vertices` (V, 3) in mm, LPS, and `faces` (F, 3), counter-clockwise seen from outside."""

    vertices: np.ndarray
    faces: np.ndarray


def mesh(values: np.ndarray, threshold: float, spacing: Point, origin: Point = (0, 0, 0), smooth: float = 2.5) -> Mesh:
    """Find the surface on which a mask or a probability crosses a threshold.

    The values are interpolated to cubes of `STEP_MM` and smoothed a little first, so that slices and pixels do not
    show as stairs. The surface then encloses as much as the voxels do, within 2% for an organ, and less where that is
    thin: a sixth of a lone voxel of 1 mm. It is closed at the border of the volume.

    Parameters
    ----------
    values : array (S, H, W), canonical
        Probability, occupancy, or a mask of 0 and 1.
    threshold : float
        The surface encloses the volume of the voxels that are at least this.
    spacing : (dz, dy, dx) in mm
    origin : (x, y, z) in mm
        Where the centre of the first voxel is.
    smooth : float
        Standard deviation of the smoothing, in mm; 0 for none.

    Raises
    ------
    InputError
        If nothing reaches the threshold, or the array is not (S, H, W), or not finite.
    """
    values, pitch = np.asarray(values, float), np.asarray(spacing, float)
    if values.ndim != 3:
        raise InputError(f"mesh: found the shape {values.shape}; pass a volume (S, H, W)")
    finite.refuse(values, "mesh", "slices")
    if not (values >= threshold).any():
        raise InputError(f"mesh: no voxel reaches {threshold:g}, the highest is {values.max(initial=0):g}: there is no "
                         "surface; lower the threshold")  # fmt: skip
    inside = np.argwhere(values >= threshold)
    margin = np.ceil(4 * smooth / pitch).astype(int) + 2  # as far as the smoothing reaches
    low, high = (inside.min(0) - margin).clip(0), (inside.max(0) + margin + 1).clip(None, values.shape)
    air = np.ceil(2 * smooth / pitch).astype(int).clip(2)  # around it, for the surface to close in
    part = np.pad(values[tuple(map(slice, low, high))], [(n, n) for n in air])
    count = np.rint((np.array(part.shape) - 1) * pitch / np.minimum(STEP_MM, pitch)).astype(int) + 1
    fine = zoom(part, count / part.shape, order=1)
    step = (np.array(part.shape) - 1) * pitch / (np.array(fine.shape) - 1)
    fine = gaussian_filter(fine, smooth / step, mode="constant")
    count = round((values >= threshold).sum() * np.prod(pitch) / np.prod(step))
    level = np.sort(fine, axis=None)[-count - 1 :][:2].mean()  # the smoothing alone would shrink what is round
    found, faces, *_ = marching_cubes(fine, min(level, 0.999 * fine.max()), spacing=tuple(step))
    return Mesh((found + (low - air) * pitch)[:, ::-1] + np.asarray(origin, float), faces)


def area(surface: Mesh) -> float:
    """Measure the area of a mesh in square centimetres."""
    return float(mesh_surface_area(surface.vertices, surface.faces)) / 100


def volume(surface: Mesh) -> float:
    """Measure the volume that a closed mesh encloses, in millilitres.

    It is the sum of the signed tetrahedra under its faces.
    """
    a, b, c = (surface.vertices - surface.vertices.mean(0))[surface.faces].transpose(1, 0, 2)
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6000


def bounds(meshes: Iterable[Mesh]) -> np.ndarray:
    """Find the lowest and the highest x, y and z of several meshes, (2, 3) in mm."""
    every = np.concatenate([m.vertices for m in meshes])
    return np.array([every.min(0), every.max(0)])


class Triangles(Artist):
    """Triangles (F, 3, 3) that hide each other in the order given, each of one colour (F, 3)."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw all in one go, when Matplotlib asks for it.

        A `Poly3DCollection` would make a path of each triangle, which a slider waits for.
        """
        x, y, _ = proj_transform(*self.triangles.reshape(-1, 3).T, self.axes.get_proj())
        corners = self.axes.transData.transform(np.column_stack([x, y])).reshape(-1, 3, 2)
        colours = np.insert(self.colours, 3, 1, axis=1)[:, None].repeat(3, axis=1)
        renderer.draw_gouraud_triangles(renderer.new_gc(), corners, colours, IdentityTransform())


class View:
    """One mesh in one 3D axes, at one scale for x, y and z. Made once; `turn` shades it for another view."""

    def __init__(self, ax: Axes3D, surface: Mesh, colour: str, limits: np.ndarray):
        self.triangles = triangles = surface.vertices[surface.faces]  # (F, 3, 3)
        normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        self.normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        self.ax, self.colour = ax, np.array(to_rgb(colour))
        self.body = ax.add_artist(Triangles())
        self.body.set_in_layout(False)
        half = np.ptp(limits, axis=0) / 2
        reach = half.max()
        self.middle, self.half, self.letters = limits.mean(0), half.clip([reach, 0.6 * reach, 0.6 * reach]), []
        for k, letter in enumerate(LETTERS):
            text = ax.text(*self.middle, letter, color=DARK, ha="center", va="center", fontsize=10)
            self.letters.append((np.eye(3)[k // 2] * (2 * (k % 2) - 1), text))
        (self.bar,) = ax.plot([], [], [], color=DARK, lw=1.5)
        cube = np.add.outer(self.middle, [-reach - 16, reach + 16])
        ax.set(xlim=cube[0], ylim=cube[1], zlim=cube[2])
        ax.set_proj_type("ortho")
        ax.set_box_aspect((1, 1, 1), zoom=1.64)  # the cube's face fills the axes
        ax.set_axis_off()
        ax.patch.set_visible(False)  # it would cover what neighbours draw

    def turn(self, azimuth: float, elevation: float) -> "View":
        """Look from `azimuth` and `elevation`, in degrees: (-90, 0) is from the front, (0, 0) from the left."""
        self.ax.view_init(elevation, azimuth)
        a, e = np.deg2rad([azimuth, elevation])
        eye = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0])
        up = np.cross(eye, right)
        ends = [self.beside(-up, 18) + right * x for x in (-BAR_MM / 2, BAR_MM / 2)]
        self.bar.set_data_3d(*np.transpose(ends))
        light = eye + 0.5 * up - 0.5 * right  # from above the viewer's left shoulder
        facing = np.flatnonzero(self.normal @ eye > 0)  # a closed surface hides the rest of itself
        facing = facing[np.argsort(self.triangles[facing].mean(axis=1) @ eye)]  # the nearest last
        shade = 0.35 + 0.65 * (self.normal[facing] @ (light / np.linalg.norm(light))).clip(0)
        self.body.triangles, self.body.colours = self.triangles[facing], shade[:, None] * self.colour
        for direction, text in self.letters:
            text.set_visible(abs(direction @ eye) < 0.8)  # the two that point at the viewer say nothing
            text.set_position_3d(self.beside(direction - direction @ eye * eye, 9))
        return self

    def beside(self, direction: np.ndarray, gap: float) -> np.ndarray:
        """Find the point `gap` mm beside the body, taken as an ellipsoid, in a direction of the picture."""
        unit = direction / max(np.linalg.norm(direction), 1e-9)
        return self.middle + unit * (np.linalg.norm(unit * self.half) + gap)


def tint(row: int, name: str) -> str:
    """Choose a colour: the truth's for the first row; else the method's, or that of a prediction where it has none."""
    return colour_of(name, VERMILLION) if row else YELLOW


@styled
def surfaces(meshes: Mapping[str, Mesh], views: Mapping[str, tuple[float, float]] = VIEWS) -> Figure:
    """Draw meshes by name, one row each, from several sides, all at one scale; the first is the truth.

    `views` are (azimuth, elevation) in degrees by name; colours are those of `tint`.
    """
    limits = bounds(meshes.values())
    side, rows = (WIDTH - 0.3) / len(views), len(meshes)
    pitch = 0.8 * side  # square axes overlap a little: organs are wider than high
    tall = pitch * rows + 0.3  # inches: cells, and a line of titles above and beside them
    fig = Figure(figsize=(WIDTH, tall), dpi=DPI)
    for row, (name, surface) in enumerate(meshes.items()):
        bottom = ((rows - 1 - row) * pitch - 0.1 * side) / tall
        for column, angles in enumerate(views.values()):
            cell = ((0.3 + column * side) / WIDTH, bottom, side / WIDTH, side / tall)
            ax = fig.add_axes(cell, projection="3d")
            View(ax, surface, tint(row, name), limits).turn(*angles)
        fig.text(0.012, bottom + side / tall / 2, name, rotation=90, ha="center", va="center", fontsize=11)
    for column, view in enumerate(views):
        fig.text((0.3 + (column + 0.5) * side) / WIDTH, 1, view, ha="center", va="top", fontsize=11)
    fig.text(0.01, 0, f"bar: {BAR_MM} mm", color=DARK, fontsize=10, va="bottom")
    return fig


def turntable(meshes: Mapping[str, Mesh]) -> Live:
    """Turn one or several meshes with two sliders, azimuth and elevation.

    The caption says in words from where one looks.
    """
    content = {
        "kind": "turntable",
        "alt": "surfaces, turned by the sliders",
        "bar": BAR_MM,
        "limits": bounds(meshes.values()).tolist(),
        "meshes": {
            name: {"vertices": packed(m.vertices, "f4"), "faces": packed(m.faces, "i4"), "colour": tint(k, name)}
            for k, (name, m) in enumerate(meshes.items())
        },
    }
    at = {"azimuth": -90, "elevation": 15}
    return Live(content, at, lambda azimuth, elevation: surfaces(meshes, {"turned": (azimuth, elevation)}))
