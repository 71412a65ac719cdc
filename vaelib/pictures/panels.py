"""One slice in one axes, and what is asked of masks before they are drawn.

Arrays are canonical (see `vaelib.engine.shards`): (S, H, W) from inferior to superior, rows from anterior to posterior,
columns from the patient's right to left, so that a slice drawn from the top down is the radiologist's view. The truth
is a yellow outline, a prediction an orange-red fill: they differ in grey too.
"""

from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgba
from matplotlib.patheffects import AbstractPathEffect, Normal, Stroke
from numpy.typing import ArrayLike
from scipy.ndimage import find_objects

from vaelib.pictures.style import GREEN, SKY, VERMILLION, YELLOW

TRUTH, PREDICTION = YELLOW, VERMILLION
# Invented is the colour of a prediction; none is that of the truth, which is a line over them.
VERDICTS = {"found (true positive)": GREEN, "invented (false positive)": PREDICTION, "missed (false negative)": SKY}
WINDOW = (-160, 240)  # HU, as in `levels.window`
# name: (axis that is cut, axes shown as rows and columns, letters at left, right, top and bottom)
PLANES = {"axial": (0, (1, 2), "RLAP"), "coronal": (1, (0, 2), "RLSI"), "sagittal": (2, (0, 1), "APSI")}
PLACES = [(0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")]  # of those letters in the axes
PLACES += [(0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom")]
Layer: TypeAlias = np.ndarray | None
Range: TypeAlias = tuple[float, float]


def cut(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Cut a slice out of a canonical volume (S, H, W), upright: superior or anterior at the top.

    `plane` is ``"axial"``, ``"coronal"`` or ``"sagittal"``, and `index` counts along the axis that it cuts.
    """
    view = np.moveaxis(volume, PLANES[plane][0], 0)[index]
    return view if plane == "axial" else view[::-1]


def middle(volume: np.ndarray, mask: Layer) -> np.ndarray:
    """Choose where to cut a volume (S, H, W): slice, row and column of the middle of its mask, or else of itself."""
    found = np.argwhere(mask).mean(axis=0) if mask is not None and np.any(mask) else np.divide(volume.shape, 2)
    return found.astype(int)


def bounding_box(mask: ArrayLike) -> tuple[slice, slice] | None:
    """Find the rows and columns where a mask (..., H, W) is not 0; None if it is empty."""
    flat = np.any(np.reshape(mask, (-1, *np.shape(mask)[-2:])), axis=0)
    return next(iter(find_objects(flat.astype(np.int8))), None)


def around(mask: ArrayLike, margin: float = 0.5) -> tuple[EllipsisType, slice, slice]:
    """Find the square window around a mask (..., H, W) and `margin` times its size on each side.

    Use it as an index: ``image[around(mask)]``. Of an empty mask it is the whole image.
    """
    box, sides = bounding_box(mask), np.shape(mask)[-2:]
    if box is None:
        return ..., slice(None), slice(None)
    side = min(int((1 + 2 * margin) * max(s.stop - s.start for s in box)), *sides)
    starts = [min(max((s.start + s.stop - side) // 2, 0), n - side) for s, n in zip(box, sides, strict=True)]
    rows, columns = (slice(start, start + side) for start in starts)
    return ..., rows, columns


def outline(mask: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixel edges around ``mask >= 0.5``, as the x and y of one line broken by NaN."""
    inside = np.pad(np.asarray(mask) >= 0.5, 1)
    r, c = np.nonzero(inside[1:] != inside[:-1])  # edges that run along a row
    down, right = np.nonzero(inside[:, 1:] != inside[:, :-1])  # and along a column
    gap = np.full(len(r) + len(down), np.nan)
    x = np.column_stack([np.r_[c - 1.5, right - 0.5], np.r_[c - 0.5, right - 0.5], gap])
    y = np.column_stack([np.r_[r - 0.5, down - 1.5], np.r_[r - 0.5, down - 0.5], gap])
    return x.ravel(), y.ravel()


def limits(*images: np.ndarray) -> Range:
    """Choose black and white for images: the abdominal window for HU, else 0 and 1."""
    return WINDOW if max(np.max(np.abs(image)) for image in images) > 2 else (0, 1)


def verdict(truth: ArrayLike, prediction: ArrayLike) -> np.ndarray:
    """Compare two masks, cut at 0.5: 0 where both are empty, 1 found, 2 invented, 3 missed, as in `VERDICTS`."""
    truth, prediction = np.asarray(truth) >= 0.5, np.asarray(prediction) >= 0.5
    return (truth & prediction) + 2 * (~truth & prediction) + 3 * (truth & ~prediction)


def halo(width: float) -> list[AbstractPathEffect]:
    """Draw a line or a letter with a black border, `width` points wide with what it borders."""
    return [Stroke(linewidth=width, foreground="black"), Normal()]


class Panel:
    """One slice in one axes: a grey image, a fill over it, an outline; made once, and updated by `draw`.

    Figures draw each panel once, the sliders of `vaelib.pictures.sliders` again and again. `window` is what is black
    and what is white; `fill` a colour, for values from 0 (clear) to 1 (full), or ``"verdicts"``; `line` is the
    width of the outline and `size` that of the letters, in points.
    """

    def __init__(self, ax: Axes, window: Range = (0, 1), fill: str = PREDICTION, line: float = 1.3, size: float = 9):
        self.ax, blank = ax, np.zeros((2, 2))
        if fill == "verdicts":
            colours, top = ListedColormap([(0, 0, 0, 0), *VERDICTS.values()]), len(VERDICTS)
        else:
            colours, top = LinearSegmentedColormap.from_list("fill", [to_rgba(fill, 0), fill]), 1
        self.image = ax.imshow(blank, cmap="gray", clim=window)
        alpha = 0.6 if fill == PREDICTION else 0.85
        self.fill = ax.imshow(blank, cmap=colours, vmin=0, vmax=top, alpha=alpha, interpolation="nearest")
        (self.edge,) = ax.plot([], [], color=TRUTH, lw=line, solid_capstyle="projecting", path_effects=halo(line + 1))
        look = {"color": "white", "fontsize": size, "path_effects": halo(2.5), "transform": ax.transAxes, "snap": False}
        self.letters = [ax.text(x, y, "", ha=ha, va=va, **look) for x, y, ha, va in PLACES]
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)

    def draw(
        self, image: np.ndarray, truth: Layer = None, fill: Layer = None, *, letters: str = "", **axes: Any
    ) -> "Panel":
        """Show an image, a fill over it and the outline of the truth, all (H, W); return the panel.

        `letters` go to the left, right, top and bottom; `axes` are settings of the axes, such as a title.
        """
        height, width = np.shape(image)
        self.image.set(data=np.asarray(image, np.float32), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        box = None if fill is None else bounding_box(fill)
        self.fill.set_visible(box is not None)
        if fill is not None and box is not None:  # only the part that has colour: resampling is what a slider waits for
            down, across = box
            extent = (across.start - 0.5, across.stop - 0.5, down.stop - 0.5, down.start - 0.5)
            self.fill.set(data=np.asarray(fill[box], np.float32), extent=extent)
        self.edge.set_data(*(([], []) if truth is None else outline(truth)))
        view = {"xlim": (-0.5, width - 0.5), "ylim": (height - 0.5, -0.5), "aspect": 1.0, "anchor": "N"}
        self.ax.set(**view | axes)
        for text, letter in zip(self.letters, letters, strict=False):
            text.set_text(letter)
        return self
