"""Slices, volumes, reconstructions and masks, side by side.

A series of slices is (N, H, W), or (N, 1, H, W) as the models have it, or a list of slices of any sizes. Nothing here
changes its input; a shape that does not fit is an `InputError`.
"""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from vaelib.engine.errors import InputError
from vaelib.pictures.panels import PLANES, VERDICTS, WINDOW, Layer, Panel, around, cut, halo, limits, middle, verdict
from vaelib.pictures.style import DPI, VERMILLION, WIDTH, YELLOW, as_numbers, styled

if TYPE_CHECKING:
    from vaelib.cohorts.survey import Row

Images: TypeAlias = ArrayLike | Sequence[ArrayLike]
Names: TypeAlias = Sequence[str] | None
Triple: TypeAlias = tuple[float, float, float] | np.ndarray


def _slices(values: Images, name: str, like: list[np.ndarray] | None = None) -> list[np.ndarray]:
    """Turn `values` into a list of slices (H, W), each as large as its neighbour in `like`."""
    arrays = [np.asarray(a) for a in values]
    arrays = [np.stack(arrays)] if arrays and arrays[0].ndim == 1 else arrays  # a single slice, row by row
    arrays = [a[0] if a.ndim == 3 and len(a) == 1 else a for a in arrays]
    found = sorted({a.shape for a in arrays})
    if not arrays or any(a.ndim != 2 for a in arrays):
        raise InputError(f"{name}: found the shapes {found[:3]}; pass one or several slices (H, W)")
    if like is not None and [a.shape for a in arrays] != [a.shape for a in like]:
        wanted = f"{len(like)} of {sorted({a.shape for a in like})[:3]}"
        raise InputError(f"{name}: found {len(arrays)} of {found[:3]} beside {wanted}; pass one per image, on its grid")
    return arrays


def _grid(
    images, truths=None, fills=None, *, columns=4, titles=None, labels=None, spacing=(1, 1), window=None, **look: Any
) -> tuple[Figure, list[Panel]]:
    """Draw panels in rows, with `titles` above them and `labels` beside the rows."""
    titles, columns = list(titles or ()), min(columns, len(images))
    rows, aspect = -(-len(images) // columns), spacing[-2] / spacing[-1]
    cell, many = min((WIDTH - 0.3) / columns, 4.2), len(titles) > columns
    height = cell * aspect * images[0].shape[0] / images[0].shape[1] + (0.3 if many else 0.04)
    fig = Figure(figsize=(cell * columns + 0.3, height * rows + 0.3), dpi=DPI, layout="compressed")
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.045 if many else 0.02, wspace=0, hspace=0)
    axes = fig.subplots(rows, columns, squeeze=False)
    sides, none = PLANES[look.pop("plane", "axial")][2], [None] * len(images)
    look |= {"window": window or limits(*images), "size": 9 if cell > 1.2 else 7, "line": 1.3 if cell > 2.5 else 0.9}
    panels = [Panel(ax, **look) for ax in axes.flat[: len(images)]]
    for k, (box, *layers) in enumerate(zip(panels, images, truths or none, fills or none, strict=True)):
        box.draw(*layers, aspect=aspect, letters=sides if k == 0 or cell > 2 else "")
    for box, title in zip(panels, titles, strict=False):
        box.ax.set_title(title)
    for ax in axes.flat[len(images) :]:
        ax.remove()
    for row, label in enumerate(labels or ()):
        axes[row, 0].set_ylabel(label, fontsize=11 if cell > 1.2 else 9)
    return fig, panels


@styled
def slices(
    images: Images, masks: Images | None = None, predictions: Images | None = None, titles: Names = None, **look: Any
) -> Figure:
    """Draw slices side by side, masks outlined, predictions filled (a soft one in proportion).

    A mask is outlined where it is 0.5 or more; of an occupancy, pass ``occupancy >= 0.2``.

    Parameters
    ----------
    images : (H, W), (N, H, W), or a list of slices of any sizes
        HU, shown through the abdominal window, or numbers from 0 to 1, unless `window` says otherwise.
    masks, predictions : like `images`, optional
    titles : sequence of str, optional
    spacing : (dy, dx) or (dz, dy, dx) in mm, optional
    columns : int
        Slices in a row, 4 by default.
    window : (low, high), optional
        What is black, and what is white.
    """
    images = _slices(images, "slices: images")
    masks = None if masks is None else _slices(masks, "slices: masks", images)
    fills = None if predictions is None else _slices(predictions, "slices: predictions", images)
    return _grid(images, masks, fills, titles=titles, **look)[0]


@styled
def planes(
    volume: np.ndarray,
    mask: Layer = None,
    spacing: Triple = (1, 1, 1),
    window: tuple = WINDOW,
    prediction: Layer = None,
) -> Figure:
    """Draw axial, coronal and sagittal cuts of a volume, all at one scale in mm.

    They go through the middle of the mask, or else of the prediction or the volume; dashed lines show where.

    Parameters
    ----------
    volume, mask, prediction : arrays (S, H, W), canonical
        HU, the truth (an outline), and what was found (a fill).
    spacing : (dz, dy, dx) in mm
    window : (low, high) in HU
    """
    volume = as_numbers(volume, "planes: volume", (None,) * 3)
    layers = [None if a is None else as_numbers(a, "planes: mask", volume.shape) for a in (mask, prediction)]
    place = middle(volume, prediction if mask is None else mask)
    deep, tall, wide = np.multiply(volume.shape, spacing)
    gap = 0.06 * wide
    width, height = wide + gap + max(wide, tall), max(tall, 2 * (deep + gap)) + gap
    fig = Figure(figsize=(WIDTH, WIDTH * height / width), dpi=DPI)
    corners = {"axial": (0, 0), "coronal": (wide + gap, deep + 2 * gap), "sagittal": (wide + gap, 0)}
    for name, (left, bottom) in corners.items():
        axis, (down, across), letters = PLANES[name]
        size = np.multiply(volume.shape, spacing)[[across, down]]
        ax = fig.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
        views = [None if array is None else cut(array, name, place[axis]) for array in (volume, *layers)]
        look = {"title": f"{name}, {('slice', 'row', 'column')[axis]} {place[axis]}", "letters": letters}
        Panel(ax, window=window, line=1).draw(*views, aspect=spacing[down] / spacing[across], **look)
        height_of = place[down] if name == "axial" else len(volume) - 1 - place[down]
        for draw, where in ((ax.axhline, height_of), (ax.axvline, place[across])):
            draw(where, color="white", lw=0.7, ls=(0, (4, 6)))
    return fig


@styled
def pyramid(levels: Sequence[ArrayLike], occupancy: Sequence[ArrayLike] | None = None, **look: Any) -> Figure:
    """Draw one slice at several sizes, a list of (n, n).

    `occupancy`, a like list of 0 to 1, is a fill in proportion; `look` is that of `slices`.
    """
    levels = _slices(levels, "pyramid: levels")
    fills = None if occupancy is None else _slices(occupancy, "pyramid: occupancy", levels)
    full = [f", up to {np.max(fill):.0%}" for fill in fills or ()] or [""] * len(levels)
    titles = [f"{a.shape[0]} × {a.shape[1]}{text}" for a, text in zip(levels, full, strict=True)]
    return _grid(levels, None, fills, titles=titles, fill=YELLOW, **look)[0]


@styled
def reconstructions(
    originals: Images, recons: Images | Mapping[str, Images], *, difference: bool = True, titles: Names = None
) -> Figure:
    """Draw originals, 0 to 1, above; below, a row for `recons` (or for each of several by name).

    The last row, with `difference`, is the last reconstruction minus the original, shown from -0.5 to 0.5.
    """
    originals = _slices(originals, "reconstructions: originals")
    rows = {"original": originals}
    for name, images in (recons if isinstance(recons, Mapping) else {"reconstruction": recons}).items():
        rows[name] = _slices(images, f"reconstructions: {name}", originals)
    if difference:
        last = list(rows.values())[-1]
        rows["difference"] = [np.subtract(b, a, dtype=float) for a, b in zip(originals, last, strict=True)]
    every, columns = sum(rows.values(), []), len(originals)
    fig, panels = _grid(every, columns=columns, titles=titles, labels=list(rows), window=(0, 1))
    if difference:
        for panel in panels[-columns:]:
            panel.image.set(cmap="PuOr_r", clim=(-0.5, 0.5))
        axes = [panel.ax for panel in panels[-columns:]]
        fig.colorbar(panels[-1].image, ax=axes, ticks=[-0.5, 0, 0.5], pad=0.01)
    return fig


@styled
def traversal(grid: ArrayLike, masks: ArrayLike | None = None, *, rows: Names = None, columns: Names = None) -> Figure:
    """Draw a table of images (K, T, H, W), 0 to 1: one direction per row, one step per column, masks outlined.

    `rows` and `columns` are their names.
    """
    grid = as_numbers(grid, "traversal: grid", (None,) * 4)
    edges = None if masks is None else as_numbers(masks, "traversal: masks", grid.shape)
    flat = [None if a is None else list(a.reshape(-1, *grid.shape[2:])) for a in (grid, edges)]
    return _grid(*flat, columns=grid.shape[1], titles=columns, labels=rows)[0]


@styled
def agreement(images: Images, truth: Images, predictions: Images, **look: Any) -> Figure:
    """Draw found, invented and missed pixels of slices (N, H, W), each in its colour, the truth outlined.

    `look` is that of `slices`, and ``plane="coronal"`` for cuts along another plane, as `cut` makes them.
    """
    images = _slices(images, "agreement: images")
    truth = _slices(truth, "agreement: truth", images)
    predictions = _slices(predictions, "agreement: predictions", images)
    fills = [verdict(t, p) for t, p in zip(truth, predictions, strict=True)]
    fig, panels = _grid(images, truth, fills, fill="verdicts", **look)
    for panel in panels:
        panel.edge.set(path_effects=[], linewidth=1)
    patches = [Patch(color=colour, label=name) for name, colour in VERDICTS.items()]
    fig.legend(handles=patches, loc="outside lower center", ncols=3 if len(images) > 1 else 1)
    return fig


@styled
def gallery(images: Images, masks: Images, predictions: Images, titles: Names, spacings: Sequence[Triple]) -> Figure:
    """Draw a slice of each of several scans closely around its mask, an outline, and its prediction, a fill.

    Parameters
    ----------
    images, masks, predictions : sequence of (H, W), of one size in a scan
    titles : sequence of str
    spacings : sequence of (dy, dx) or (dz, dy, dx) in mm
        Each scan has the shape of its own pixels.
    """
    boxes = [around(np.logical_or(*pair), 0.6) for pair in zip(masks, predictions, strict=True)]
    near = ([a[box] for a, box in zip(layer, boxes, strict=True)] for layer in (images, masks, predictions))
    fig = slices(*near, titles, columns=3)
    for ax, spacing in zip(fig.axes, spacings, strict=True):
        ax.set_aspect(spacing[-2] / spacing[-1])
    return fig


@styled
def contact_sheet(rows: Iterable["Row"]) -> Figure:
    """Draw a cohort at a glance: for each row of `survey.survey` its thumbnail, patient and ml, the mask outlined.

    What was flagged stands in a frame with its reasons below; what could not be read, in an empty one.
    """
    rows = list(rows)
    if not rows:
        raise InputError("contact_sheet: no rows; pass what `survey` returns for one case or more")
    columns = min(len(rows), int(np.clip(np.sqrt(1.3 * len(rows)), 4, 10)))
    cell, grid = min(WIDTH / columns, 2.6), [rows[k : k + columns] for k in range(0, len(rows), columns)]
    size = np.interp(cell, (0.9, 1.8), (6.5, 9))
    pitch, fits = 1.25 * size / 72, int(110 * cell / size)  # inches of a line of text, letters in it
    notes = [[wrap("; ".join(row.reasons), fits, max_lines=4, placeholder=" ...") for row in line] for line in grid]
    above, below = 2.4 * pitch + 0.94 * cell, [pitch * (0.6 + max(map(len, texts))) for texts in notes]
    top = height = len(grid) * above + sum(below)
    fig = Figure(figsize=(cell * columns, height), dpi=DPI)
    for across, texts, space in zip(grid, notes, below, strict=True):
        top -= above
        for k, (row, text) in enumerate(zip(across, texts, strict=True)):
            box = ((k + 0.03) / columns, top / height, 0.94 / columns, 0.94 * cell / height)
            letters = "" if fig.axes else PLANES["axial"][2]
            _thumbnail(fig.add_axes(box), row, "\n".join(text), size, letters)
        top -= space
    return fig


def _thumbnail(ax: Axes, row: "Row", note: str, size: float, letters: str) -> None:
    """Draw one case of a contact sheet in letters of `size` points."""
    image, mask = (np.zeros((2, 2)), None) if row.image is None else (row.image, row.mask)
    body = image > 90  # darker is fat and air
    window = around(np.outer(*(body.mean(axis) > 0.05 for axis in (1, 0))), 0.03)
    name = row.patient if len(row.patient) < 15 else "..." + row.patient[-12:]
    volume = f"{row.check.volume_ml:.0f} ml" if row.check else "no scan" if row.image is None else "no mask"
    panel = Panel(ax, window=(0, 255), size=size)
    panel.draw(image[window], mask if mask is None else mask[window], letters=letters)
    panel.edge.set(linewidth=size / 9, path_effects=halo(size / 4.5))
    ax.set_title(f"{name}\n{volume}", fontsize=size, pad=0.25 * size, linespacing=1.1)
    ax.set_xlabel(note, fontsize=size, labelpad=0.35 * size, linespacing=1.1)
    if row.reasons:
        ax.spines[:].set(visible=True, color=VERMILLION, linewidth=2.5)
