"""The style that every figure shares: its colours, its letters and its width, and how it becomes a PNG.

Figures are drawn by functions from numbers to `matplotlib.figure.Figure`. They never touch pyplot, so that no figure
shows itself or stays in memory, and they leave Matplotlib's settings as they were.

The colours are those of Okabe and Ito (2008), made for colour-blind readers; where series meet, a dash or a marker
tells them apart too, so that a page printed in grey still reads.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#6E6E6E"
CYCLE, MARKERS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#000000"), "osD^vPX"  # of one series after another
# Of a method, in every chart: by the first of these words in its name.
METHODS = {"U-Net": SKY, "spatial": GREEN, "VAE": ORANGE, "PCA": PURPLE, "autoencoder": "#000000", "atlas": GREY}
# Inches; dots per inch: 864 pixels fill a notebook's column; and the factor for a dense screen, at the same size.
WIDTH, DPI, SHARP = 9.0, 96, int(os.environ.get("VAELIB_SHARP", "1"))
_SHEET = matplotlib.rc_params_from_file(Path(__file__).with_name("figures.mplstyle"), use_default_template=False)
styled = matplotlib.rc_context(_SHEET)  # the decorator of every function that draws


@styled
def png(fig: Figure, *, fast: bool = False) -> bytes:
    """Encode a figure as PNG.

    The same figure gives the same bytes, with no date or version inside. Margins are trimmed, and colours reduced to
    a palette where the eye cannot tell. `fast`, for what must keep its size, skips both.
    """
    out = io.BytesIO()
    if fast:
        fig.savefig(out, format="png", dpi=DPI)
        return out.getvalue()
    fig.savefig(raw := io.BytesIO(), format="png", dpi=DPI * SHARP, bbox_inches="tight", pad_inches=0.06)
    full = Image.open(raw).convert("RGB")
    small = full.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)  # rare colours count
    off = np.abs(np.subtract(small.convert("RGB"), full, dtype=np.int16))
    (small if off.mean() < 1 and off.max() < 24 else full).save(out, "png", optimize=True)
    return out.getvalue()


def show(fig: Figure, alt: str, save: str | Path | None = None) -> None:
    """Display a figure in a notebook.

    Parameters
    ----------
    fig : Figure
    alt : str
        One sentence for those who cannot see it.
    save : path, optional
        A file to write the PNG to as well.

    Raises
    ------
    InputError
        If `alt` is empty.
    """
    from IPython import display  # the command line does without it

    if not alt or not alt.strip():
        raise InputError("show: the alt text is empty; say in one sentence what the figure shows")
    data = png(fig)
    if save is not None:
        write_file(save, data)
    display.display(display.Image(data, alt=alt, retina=SHARP == 2))


def colour_of(name: str, other: str = "") -> str:
    """Name the colour of a method, by the first word of `METHODS` in its name; `other` where there is none."""
    return METHODS.get(min((word for word in METHODS if word in name), key=name.find, default=""), other)


def colours(names: Sequence[str]) -> list[str]:
    """Choose a colour for each series of a chart: its method's, or a free one where it has none or another has it."""
    own = [colour_of(name) for name in names]
    known = [colour if colour not in own[:k] else "" for k, colour in enumerate(own)]
    free = [colour for colour in CYCLE if colour not in known] or [GREY]
    return [colour or free[known[:k].count("") % len(free)] for k, colour in enumerate(known)]


def as_numbers(values: ArrayLike, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Convert values to floats, and refuse an empty array or another shape.

    Parameters
    ----------
    values : array-like
    name : str
        What the error calls them.
    shape : tuple
        The sides wanted; None stands for any length.

    Raises
    ------
    InputError
        If the shape differs, or nothing is in it.
    """
    array = np.asarray(values, dtype=float)
    good = array.ndim == len(shape) and all(want in (None, n) for want, n in zip(shape, array.shape, strict=True))
    if not good or array.size == 0:
        wanted = " × ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{name}: found the shape {array.shape}; pass a non-empty array of {wanted} numbers")
    return array
