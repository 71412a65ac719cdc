"""Pictures of slices, volumes, reconstructions and masks; with `vaelib.pictures.charts`, every figure of the tutorial.

Arrays are canonical (see `vaelib.engine.shards`): (S, H, W) from inferior to superior, rows from anterior to posterior,
columns from the patient's right to left, so that a slice drawn from the top down is the radiologist's view. A series
of slices is (N, H, W), or (N, 1, H, W) as the models have it. The truth is a yellow outline, a prediction an
orange-red fill: they differ in grey too. Nothing here changes its input; a shape that does not fit is an `InputError`.
"""

from textwrap import wrap

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from vaelib.engine.errors import InputError
from vaelib.pictures.charts import DPI, GREEN, VERMILLION, WIDTH, YELLOW, numbers, style

TRUTH, PREDICTION = YELLOW, VERMILLION
# green where both agree, else the colour of the one that is alone
VERDICTS = {"found (true positive)": GREEN, "invented (false positive)": PREDICTION, "missed (false negative)": TRUTH}
WINDOW = (-160, 240)  # HU, as in `levels.window`
# name: (axis that is cut, axes shown as rows and columns, letters at left, right, top and bottom)
PLANES = {"axial": (0, (1, 2), "RLAP"), "coronal": (1, (0, 2), "RLSI"), "sagittal": (2, (0, 1), "APSI")}


def cut(volume, plane, index):
    """Slice `index` of a canonical volume (S, H, W) along `plane`, upright: superior or anterior at the top."""
    view = np.moveaxis(volume, PLANES[plane][0], 0)[index]
    return view if plane == "axial" else view[::-1]


def _box(mask):
    """First and last + 1 of the rows and of the columns where a mask (..., H, W) is not 0; None if it is empty."""
    flat = np.any(np.reshape(mask, (-1, *np.shape(mask)[-2:])), axis=0)
    spans = [np.flatnonzero(flat.any(axis=axis)) for axis in (1, 0)]
    return [(int(span[0]), int(span[-1]) + 1) for span in spans] if flat.any() else None


def around(mask, margin=0.5):
    """The square window around a mask (..., H, W) and `margin` times its size on each side: ``image[around(mask)]``."""
    box = _box(mask)
    if box is None:
        return (..., slice(None), slice(None))
    side = min(int((1 + 2 * margin) * max(stop - start for start, stop in box)), *np.shape(mask)[-2:])
    starts = [(start + stop - side) // 2 for start, stop in box]
    starts = [min(max(start, 0), n - side) for start, n in zip(starts, np.shape(mask)[-2:], strict=True)]
    return (..., *(slice(start, start + side) for start in starts))


def outline(mask):
    """The pixel edges around ``mask >= 0.5``, as the x and y of one line broken by NaN."""
    inside = np.pad(np.asarray(mask) >= 0.5, 1)
    r, c = np.nonzero(inside[1:] != inside[:-1])  # edges that run along a row
    down, right = np.nonzero(inside[:, 1:] != inside[:, :-1])  # and along a column
    gap = np.full(len(r) + len(down), np.nan)
    x = np.column_stack([np.r_[c - 1.5, right - 0.5], np.r_[c - 0.5, right - 0.5], gap])
    y = np.column_stack([np.r_[r - 0.5, down - 1.5], np.r_[r - 0.5, down - 0.5], gap])
    return x.ravel(), y.ravel()


def limits(*images):
    """Black and white for these images: the abdominal window for HU, else 0 and 1."""
    return WINDOW if max(np.max(np.abs(image)) for image in images) > 2 else (0, 1)


def verdict(truth, prediction):
    """0 where both are empty, 1 found, 2 invented, 3 missed, for masks cut at 0.5: what `VERDICTS` colours."""
    truth, prediction = np.asarray(truth) >= 0.5, np.asarray(prediction) >= 0.5
    return (truth & prediction) + 2 * (~truth & prediction) + 3 * (truth & ~prediction)


class Panel:
    """One slice in one axes: a grey image, a fill over it, an outline. Made once; `draw` only updates it.

    The figures below draw each panel once, the sliders of `vaelib.pictures.sliders` again and again. `fill` is a
    colour, for values from 0 (clear) to 1 (full), or ``"verdicts"``.
    """

    def __init__(self, ax, *, vmin=0.0, vmax=1.0, fill=PREDICTION, opacity=0.6, edge=TRUTH, line=1.3, letter_size=9):
        self.ax, blank = ax, np.zeros((2, 2))
        if fill == "verdicts":
            colours, top = ListedColormap([(0, 0, 0, 0), *VERDICTS.values()]), len(VERDICTS)
        else:
            colours, top = LinearSegmentedColormap.from_list("fill", [to_rgba(fill, 0), fill]), 1
        self.image = ax.imshow(blank, cmap="gray", vmin=vmin, vmax=vmax)
        self.fill = ax.imshow(blank, cmap=colours, vmin=0, vmax=top, alpha=opacity, interpolation="nearest")
        halo = [Stroke(linewidth=line + 1, foreground="black"), Normal()]
        (self.edge,) = ax.plot([], [], color=edge, lw=line, solid_capstyle="projecting", path_effects=halo)
        places = [(0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")]
        places += [(0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom")]
        halo = [Stroke(linewidth=2.5, foreground="black"), Normal()]
        look = {"color": "white", "fontsize": letter_size, "path_effects": halo}
        self.letters = [ax.text(x, y, "", ha=ha, va=va, transform=ax.transAxes, **look) for x, y, ha, va in places]
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)

    def draw(self, image, truth=None, fill=None, *, aspect=1.0, letters="", title=None):
        """Show `image` (H, W), `fill` (H, W) over it and the outline of `truth` (H, W); return the panel."""
        rows, columns = np.shape(image)
        self.image.set(data=np.asarray(image, np.float32), extent=(-0.5, columns - 0.5, rows - 0.5, -0.5))
        box = None if fill is None else _box(fill)
        self.fill.set_visible(box is not None)
        if box is not None:  # only the part that has colour: resampling is what a slider waits for
            (top, bottom), (left, right) = box
            part = np.asarray(fill[top:bottom, left:right], np.float32)
            self.fill.set(data=part, extent=(left - 0.5, right - 0.5, bottom - 0.5, top - 0.5))
        self.edge.set_data(*(([], []) if truth is None else outline(truth)))
        self.ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect=aspect, anchor="N")
        for text, letter in zip(self.letters, letters, strict=False):
            text.set_text(letter)
        if title is not None:
            self.ax.set_title(title)
        return self


def _slices(values, name, like=None):
    """`values` as a list of slices (H, W), each as large as its neighbour in `like`; None becomes a list of None."""
    if values is None:
        return [None] * len(like)
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


def _sheet(images, truths, fills, *, columns, titles=None, labels=(), spacing=None, vmin=None, vmax=None, **panel):
    """A grid of panels with `titles` above them and `labels` beside the rows: the figure and its panels."""
    if vmin is None and vmax is None:
        vmin, vmax = limits(*images)
    titles, aspect = list(titles or ()), 1.0 if spacing is None else spacing[-2] / spacing[-1]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = min((WIDTH - 0.3) / columns, 4.2)
    height = cell * aspect * images[0].shape[0] / images[0].shape[1] + (0.3 if len(titles) > columns else 0.04)
    fig = Figure(figsize=(cell * columns + 0.3, height * rows + 0.3), dpi=DPI, layout="compressed")
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.045 if len(titles) > columns else 0.02, wspace=0, hspace=0)
    axes = fig.subplots(rows, columns, squeeze=False)
    sides = PLANES[panel.pop("plane", "axial")][2]
    panel |= {"vmin": vmin, "vmax": vmax, "letter_size": 9 if cell > 1.2 else 7, "line": 1.3 if cell > 2.5 else 0.9}
    panels = [Panel(ax, **panel) for ax in axes.flat[: len(images)]]
    for k, box in enumerate(panels):
        letters = sides if k == 0 or cell > 2 else ""
        title = titles[k] if k < len(titles) else None
        box.draw(images[k], truths[k], fills[k], aspect=aspect, letters=letters, title=title)
    for ax in axes.flat[len(images) :]:
        ax.remove()
    for row, label in enumerate(labels):
        axes[row, 0].set_ylabel(label, fontsize=11 if cell > 1.2 else 9)
    return fig, panels


@style
def slices(images, masks=None, predictions=None, titles=None, spacing=None, *, columns=4, vmin=None, vmax=None):
    """Slices side by side, masks outlined, predictions filled (a soft one in proportion).

    A mask is outlined where it is 0.5 or more; of an occupancy, pass ``occupancy >= 0.2``.

    Parameters
    ----------
    images : (H, W), (N, H, W), or a list of slices of any sizes
        HU, shown through the abdominal window, or numbers from 0 to 1, unless `vmin` and `vmax` say otherwise.
    masks, predictions : like `images`, optional
    titles : sequence of str, optional
    spacing : (dy, dx) or (dz, dy, dx) in mm, optional
    """
    images = _slices(images, "slices: images")
    masks, fills = _slices(masks, "slices: masks", images), _slices(predictions, "slices: predictions", images)
    return _sheet(images, masks, fills, columns=columns, titles=titles, spacing=spacing, vmin=vmin, vmax=vmax)[0]


@style
def planes(volume, mask=None, spacing=(1, 1, 1), at=None, *, window=WINDOW):
    """Axial, coronal and sagittal cuts of a volume, all at one scale in mm.

    Parameters
    ----------
    volume, mask : arrays (S, H, W), canonical
        HU, and 0 or 1.
    spacing : (dz, dy, dx) in mm
    at : (slice, row, column), optional
        Where to cut, by default through the middle of the mask; dashed lines show it.
    """
    volume = numbers(volume, "planes: volume", (None,) * 3)
    mask = mask if mask is None else numbers(mask, "planes: mask", volume.shape)
    if at is None:
        at = np.argwhere(mask).mean(axis=0) if mask is not None and mask.any() else np.divide(volume.shape, 2)
    at = np.asarray(at).astype(int)
    deep, tall, wide = np.multiply(volume.shape, spacing)
    gap = 0.06 * wide
    width, height = wide + gap + max(wide, tall), max(tall, 2 * (deep + gap)) + gap
    fig = Figure(figsize=(WIDTH, WIDTH * height / width), dpi=DPI)
    corners = {"axial": (0, 0), "coronal": (wide + gap, deep + 2 * gap), "sagittal": (wide + gap, 0)}
    for name, (left, bottom) in corners.items():
        axis, (down, across), letters = PLANES[name]
        size = np.multiply(volume.shape, spacing)[[across, down]]
        ax = fig.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
        views = [None if array is None else cut(array, name, at[axis]) for array in (volume, mask)]
        look = {"title": f"{name}, {('slice', 'row', 'column')[axis]} {at[axis]}", "letters": letters}
        Panel(ax, vmin=window[0], vmax=window[1], line=1).draw(*views, aspect=spacing[down] / spacing[across], **look)
        ax.axhline(at[down] if name == "axial" else len(volume) - 1 - at[down], color="white", lw=0.7, ls=(0, (4, 6)))
        ax.axvline(at[across], color="white", lw=0.7, ls=(0, (4, 6)))
    return fig


@style
def pyramid(levels, occupancy=None, *, columns=4, vmin=None, vmax=None):
    """One slice at several sizes, a list of (n, n); occupancy, a like list of 0 to 1, is a fill in proportion."""
    levels = _slices(levels, "pyramid: levels")
    fills = _slices(occupancy, "pyramid: occupancy", levels)
    full = ["" if fill is None else f", up to {np.max(fill):.0%}" for fill in fills]
    titles = [f"{a.shape[0]} × {a.shape[1]}{text}" for a, text in zip(levels, full, strict=True)]
    look = {"columns": columns, "titles": titles, "vmin": vmin, "vmax": vmax, "fill": YELLOW, "opacity": 0.85}
    return _sheet(levels, [None] * len(levels), fills, **look)[0]


@style
def reconstructions(originals, recons, *, difference=True, titles=None, limit=0.5):
    """Originals, 0 to 1, above; below, a row for `recons` (or for each of several by name).

    The last row, with `difference`, is the last reconstruction minus the original, shown from -`limit` to `limit`.
    """
    originals = _slices(originals, "reconstructions: originals")
    rows = {"original": originals}
    for name, images in (recons if isinstance(recons, dict) else {"reconstruction": recons}).items():
        rows[name] = _slices(images, f"reconstructions: {name}", originals)
    if difference:
        last = list(rows.values())[-1]
        rows["difference"] = [np.subtract(b, a, dtype=float) for a, b in zip(originals, last, strict=True)]
    every, columns = sum(rows.values(), []), len(originals)
    none = [None] * len(every)
    fig, panels = _sheet(every, none, none, columns=columns, titles=titles, labels=list(rows), vmin=0, vmax=1)
    if difference:
        for panel in panels[-columns:]:
            panel.image.set(cmap="PuOr_r", clim=(-limit, limit))
        axes = [panel.ax for panel in panels[-columns:]]
        fig.colorbar(panels[-1].image, ax=axes, ticks=[-limit, 0, limit], pad=0.01)
    return fig


@style
def traversal(grid, masks=None, *, rows=None, columns=None):
    """A table of images (K, T, H, W), 0 to 1: one direction per row, one step per column, masks outlined.

    `rows` and `columns` are their names.
    """
    grid = numbers(grid, "traversal: grid", (None,) * 4)
    flat = list(grid.reshape(-1, *grid.shape[2:]))
    edges = [None] * len(flat)
    if masks is not None:
        edges = list(numbers(masks, "traversal: masks", grid.shape).reshape(-1, *grid.shape[2:]))
    return _sheet(flat, edges, [None] * len(flat), columns=grid.shape[1], titles=columns, labels=rows or ())[0]


@style
def two_rows(images, truth, recons, predictions, *, titles=None, spacing=None):
    """The figure of the original: above, scans with the truth in green; below, what comes back from the latent.

    In the original the truth coloured the prediction too, so that false positives came out black. Here each row is
    coloured by its own mask. All four are (N, H, W): windowed scans and reconstructions, masks after the threshold.
    """
    images = _slices(images, "two_rows: images")
    above, recons = _slices(truth, "two_rows: truth", images), _slices(recons, "two_rows: recons", images)
    fills = above + _slices(predictions, "two_rows: predictions", images)
    labels = ("scan\nand truth", "reconstruction\nand prediction")
    look = {
        "titles": titles,
        "labels": labels,
        "spacing": spacing,
        "fill": GREEN,
        "opacity": 0.85,
        "vmin": 0,
        "vmax": 1,
    }
    return _sheet(images + recons, [None] * len(fills), fills, columns=len(images), **look)[0]


@style
def agreement(images, truth, predictions, *, titles=None, spacing=None, columns=4, vmin=None, vmax=None, plane="axial"):
    """Found, invented and missed pixels of one or several slices (N, H, W), each in its colour, the truth outlined.

    They are cuts along `plane`, as `cut` makes them.
    """
    images = _slices(images, "agreement: images")
    truth = _slices(truth, "agreement: truth", images)
    predictions = _slices(predictions, "agreement: predictions", images)
    fills = [verdict(t, p) for t, p in zip(truth, predictions, strict=True)]
    look = {"columns": columns, "titles": titles, "spacing": spacing, "vmin": vmin, "vmax": vmax, "opacity": 0.85}
    look["plane"] = plane
    fig, panels = _sheet(images, truth, fills, fill="verdicts", edge="white", **look)
    for panel in panels:
        panel.edge.set(path_effects=[], linewidth=1)
    patches = [Patch(color=colour, label=name) for name, colour in VERDICTS.items()]
    fig.legend(handles=patches, loc="outside lower center", ncols=3 if len(images) > 1 else 1)
    return fig


@style
def contact_sheet(rows):
    """A cohort at a glance: for each row of `survey.survey` its thumbnail, patient and ml, the mask outlined.

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


def _thumbnail(ax, row, note, size, letters):
    image, mask = (np.zeros((2, 2)), None) if row.image is None else (row.image, row.mask)
    body = image > 90  # darker is fat and air
    window = around(np.outer(*(body.mean(axis) > 0.05 for axis in (1, 0))), 0.03)
    name = row.patient if len(row.patient) < 15 else "..." + row.patient[-12:]
    volume = f"{row.check.volume_ml:.0f} ml" if row.check else "no scan" if row.image is None else "no mask"
    panel = Panel(ax, vmin=0, vmax=255, letter_size=size)
    panel.draw(image[window], mask if mask is None else mask[window], letters=letters)
    line = size / 9
    panel.edge.set(linewidth=line, path_effects=[Stroke(linewidth=2 * line, foreground="black"), Normal()])
    ax.set_title(f"{name}\n{volume}", fontsize=size, pad=0.25 * size, linespacing=1.1)
    ax.set_xlabel(note, fontsize=size, labelpad=0.35 * size, linespacing=1.1)
    if row.reasons:
        ax.spines[:].set(visible=True, color=VERMILLION, linewidth=2.5)
