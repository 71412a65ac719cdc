"""Charts: curves, scatters, bars, and scores with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from vaelib import metrics
from vaelib.engine.errors import InputError
from vaelib.pictures.panels import Range
from vaelib.pictures.style import BLUE, CYCLE, DPI, GREY, MARKERS, SKY, VERMILLION, WIDTH, as_numbers, colours, styled

PALE, RULE = "#B0B0B0", "#E4E4E4"  # greys: of what stands behind the rest, and of lines that part
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}  # places for a legend
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
Groups: TypeAlias = ArrayLike | Mapping[str, ArrayLike]  # one series, or several by name
Runs: TypeAlias = Sequence[dict] | Mapping[str, Sequence[dict]]
Names: TypeAlias = Sequence[str]
HU = (-200, 400)  # what a histogram shows


def _chart(height: float, columns: int = 1, width: float = WIDTH) -> tuple[Figure, *tuple[Axes, ...]]:
    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return fig, *fig.subplots(1, columns, squeeze=False)[0]


@styled
def histogram(values: Groups, marks: Groups | None = None, window: Range | None = None, *, bins: int = 120) -> Figure:
    """Draw a histogram of HU.

    Parameters
    ----------
    values : array, or dict of str -> array
        One or several groups of voxels, each drawn as a share of all its own voxels.
    marks : dict of str -> float or (low, high), optional
        Reference HU by tissue, in a strip below.
    window : (low, high), optional
        Shaded.
    bins : int
    """
    groups, marks = values if isinstance(values, Mapping) else {"": values}, marks or {}
    heights = [2.6, 0.24 * len(marks)][: 1 + bool(marks)]
    fig = Figure(figsize=(WIDTH, sum(heights) + 0.6), dpi=DPI, layout="constrained")
    ax, *strip = fig.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    edges = np.linspace(*HU, bins + 1)
    for k, (name, group) in enumerate(groups.items()):
        group = np.ravel(group)
        if group.size == 0:
            raise InputError(f"histogram: {name or 'values'} holds no voxel; check the mask that cut it out")
        share = 100 * np.histogram(group, edges)[0] / group.size
        look = {"fill": True, "color": "#B5B5B5"} if k == 0 else {"color": CYCLE[k - 1], "lw": 2}
        ax.stairs(share, edges, label=name, **look)
    for row, mark in enumerate(marks.values()):
        strip[0].plot(np.broadcast_to(mark, 2), [row, row], "o-"[np.ndim(mark)], c=BLUE, lw=6, solid_capstyle="butt")
    if marks:
        strip[0].set(ylim=(len(marks) - 0.5, -0.5), yticks=range(len(marks)), yticklabels=list(marks))
    if window:
        for axes in (ax, *strip):
            axes.axvspan(*window, color=SKY, alpha=0.2, lw=0, zorder=0, label=f"window {window[0]} to {window[1]}")
    if window or any(groups):
        ax.legend(loc="best")
    ax.set(ylabel="% of voxels per bin", xlim=HU)
    fig.axes[-1].set_xlabel("Hounsfield units (HU)")
    return fig


@styled
def curves(history: Runs, keys: Names, *, log: Names = (), titles: dict | None = None, xlabel: str = "epoch") -> Figure:
    """Draw training curves, one panel per key: ``"kl"`` draws ``train/kl`` solid and ``val/kl`` dashed.

    Parameters
    ----------
    history : list of dict, or dict of str -> list of dict
        One dict per epoch, with keys such as ``epoch``, ``train/kl``, ``val/kl``, ``beta``; or several runs by name.
    keys, log : sequences of str
        What to draw, and which of it on a logarithmic axis.
    titles : dict of str -> str, optional
        The panels' titles by key.
    xlabel : str
    """
    runs = history if isinstance(history, Mapping) else {"": history}
    fig, *panels = _chart(3.1, len(keys))
    for ax, key in zip(panels, keys, strict=True):
        for (run, epochs), colour in zip(runs.items(), colours(list(runs)), strict=True):
            for full, part in ((key, ""), (f"train/{key}", "training"), (f"val/{key}", "validation")):
                points = [(row["epoch"], row[full]) for row in epochs if row.get(full) is not None]
                late = part == "validation"
                if points:
                    look = {"color": VERMILLION if late and len(runs) == 1 else colour, "ls": "--" if late else "-"}
                    ax.plot(*zip(*points, strict=True), label=", ".join(filter(None, (run, part))), **look)
        if not ax.lines:
            raise InputError(f"curves: no epoch of the history has {key}, train/{key} or val/{key}; check the key")
        ax.set(title=(titles or {}).get(key, key), xlabel=xlabel)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if key in log:
            ax.set_yscale("log")
            ax.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    if any(line.get_label()[0] != "_" for line in panels[0].lines):
        panels[0].legend()
    return fig


@styled
def latent_scatter(points: ArrayLike, colour: ArrayLike, label: str, *, explained: ArrayLike | None = None) -> Figure:
    """Scatter two principal components, coloured by a number or a name.

    Parameters
    ----------
    points : array (N, 2 or more)
    colour : array (N,)
        Numbers, or names of up to 7 kinds.
    label : str
        What the colour means.
    explained : sequence of float, optional
        The components' fractions of the variance.
    """
    points, colour = as_numbers(points, "latent_scatter: points", (None, None)), np.asarray(colour)
    names = sorted(set(colour.tolist())) if colour.dtype.kind in "US" else []
    if colour.shape != points.shape[:1] or points.shape[1] < 2 or len(names) > len(CYCLE):
        found = f"points {points.shape}, colours {colour.shape}, {len(names)} names"
        raise InputError(f"latent_scatter: {found}; pass (N, 2) and N numbers, or N names of up to {len(CYCLE)} kinds")
    fig, ax = _chart(4.6, width=7.0)
    fig.set_layout_engine("compressed")  # the colour bar is as tall as the plot
    for name, shade, marker in zip(names, CYCLE, MARKERS, strict=False):
        ax.scatter(*points[colour == name, :2].T, s=22, alpha=0.75, color=shade, marker=marker, label=name, lw=0)
    if names:
        ax.legend(title=label, **BESIDE)
    else:
        fig.colorbar(ax.scatter(*points[:, :2].T, c=colour, s=18, lw=0), ax=ax, label=label)
    share = [""] * 2 if explained is None else [f" ({part:.0%} of the variance)" for part in np.ravel(explained)[:2]]
    ax.set(xlabel=f"component 1{share[0]}", ylabel=f"component 2{share[1]}", aspect="equal")
    return fig


@styled
def bars(
    values: ArrayLike, threshold: float | None = None, *, names: Names | None = None, sort: bool = True, **axes: Any
) -> Figure:
    """Draw one bar per unit (or per name), largest first unless `sort` is False.

    Below `threshold` the bars are pale; the title counts those at or above it. `axes` are settings of the axes, such
    as ``ylabel="KL (nats)"``, the default, or ``yscale="log"``.
    """
    values = as_numbers(values, "bars: values", (None if names is None else len(names),))
    order = np.argsort(-values, kind="stable") if sort else np.arange(len(values))
    place, values = np.arange(1, len(values) + 1), values[order]
    fig, ax = _chart(3.0)
    active = values >= (values.min() if threshold is None else threshold)
    ax.bar(place, values, color=np.where(active, BLUE, "#C8C8C8"), width=0.85)
    if threshold is not None:
        ax.axhline(threshold, color=VERMILLION, ls="--", lw=1.4, label=f"threshold {threshold:g}")
        ax.set_title(f"{active.sum()} of {len(values)} at or above {threshold:g}", loc="left")
        ax.legend()
    ax.set(**{"xlabel": "unit, sorted" if names is None else "", "ylabel": "KL (nats)"} | axes)
    if names is not None:
        ax.set_xticks(place, [names[k] for k in order], rotation=25, ha="right", rotation_mode="anchor")
    ax.set_xlim(0.3, len(values) + 0.7)
    ax.grid(axis="x", visible=False)
    return fig


@styled
def threshold_sweep(
    thresholds: ArrayLike, dice: ArrayLike, *, mark: float | None = 0.2, log2: bool = False, **axes: Any
) -> Figure:
    """Draw a score against the threshold: patients thin, their mean thick with its 95% interval over patients.

    Parameters
    ----------
    thresholds : array (T,)
        Or sizes, with `log2` on an axis of powers of two.
    dice : array (P, T)
        Of P patients.
    mark : float, optional
        A vertical line, at the original's 0.2.
    log2 : bool
    **axes
        Settings of the axes, such as ``ylabel="Dice"``.
    """
    x = as_numbers(thresholds, "threshold_sweep: thresholds", (None,))
    dice = as_numbers(dice, "threshold_sweep: dice", (None, len(x)))
    mean, low, high = np.transpose([metrics.bootstrap(scores) for scores in dice.T])
    fig, ax = _chart(3.6, width=8.0)
    ax.plot(x, dice.T, color=PALE, lw=0.8, label=["each patient"] + ["_"] * (len(dice) - 1))
    ax.fill_between(x, low, high, color=BLUE, alpha=0.25, lw=0, label="95% interval of the mean")
    ax.plot(x, mean, color=BLUE, lw=2.4, label="mean")
    if mark is not None:
        ax.axvline(mark, color=VERMILLION, ls="--", lw=1.4, label=f"at {mark:g}")
    ax.set(**{"xlabel": "threshold", "ylabel": "Dice", "ylim": (0, 1), "xlim": (x.min(), x.max())} | axes)
    if log2:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.legend(**BESIDE)
    return fig


def _lines(names: Names, label: str, limits: Range) -> tuple[Figure, Axes]:
    """Make an empty chart with one line per name, from the top down."""
    fig, ax = _chart(1.1 + 0.27 * len(names))
    ax.set(xlabel=label, xlim=limits, ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(range(len(names)), names)
    return fig, ax


@styled
def scoreboard(
    rows: Sequence[tuple], *, references: dict[str, float] | None = None, label: str = "Dice", limits: Range = (0, 1)
) -> Figure:
    """Draw methods one below the other: a dot for the mean over patients, a line for its interval.

    Parameters
    ----------
    rows : sequence of (name, mean, low, high)
        As in ``(name, *metrics.bootstrap(values))``.
    references : dict of str -> float, optional
        Vertical lines to measure against, such as the ceiling and the atlas.
    label, limits
        The name of the score, and the range that is shown.
    """
    mean, low, high = as_numbers([row[1:] for row in rows], "scoreboard: rows", (None, 3)).T
    fig, ax = _lines([row[0] for row in rows], f"{label}: mean over patients and 95% interval", limits)
    for k, (name, value) in enumerate((references or {}).items()):
        ax.axvline(value, color=GREY, ls=("--", ":", "-.")[k % 3], lw=1.5, label=f"{name} {value:.2f}")
    for row, value in enumerate(mean):
        colour = colours([rows[row][0]])[0]
        ax.hlines(row, low[row], high[row], color=colour, lw=2.2, clip_on=False)
        ax.plot(value, row, "o", color=colour, ms=7, clip_on=False)
        ax.annotate(f"{value:.2f}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=10)
    if references:
        ax.legend(**ABOVE, ncols=len(references))
    return fig


@styled
def forest(
    rows: dict[str, dict[str, dict]], *, label: str = "Dice", limits: Range | None = None, zero: float | None = None
) -> Figure:
    """Draw several series on every line: a mark for the mean, a line for its interval, a colour for each series.

    Parameters
    ----------
    rows : dict of line -> dict of series -> dict
        With ``mean``, ``low`` and ``high``; a series may be absent from a line.
    zero : float, optional
        A vertical line, of no difference.
    label, limits
        The name of the score, and the range that is shown.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not series:
        raise InputError("forest: there is nothing to draw; pass at least one line with one series")
    ends = [row[name][key] for row in rows.values() for name in row for key in ("low", "high")]
    ends += [] if zero is None else [zero]
    pad = 0.04 * (max(ends) - min(ends)) or 0.1
    limits = limits or (min(ends) - pad, max(ends) + pad)
    fig, ax = _lines(list(rows), f"{label}: mean over patients and 95% interval", limits)
    fig.set_figheight(1.1 + 0.17 * len(rows) * max(2, len(series)))
    for k, (name, colour) in enumerate(zip(series, colours(series), strict=True)):
        at = [n for n, row in enumerate(rows.values()) if name in row]
        values = [[row[name][key] for key in ("mean", "low", "high")] for row in rows.values() if name in row]
        mean, low, high = as_numbers(values, f"forest: {name}", (None, 3)).T
        y = np.array(at) + (k - (len(series) - 1) / 2) * 0.8 / len(series) * (max(map(len, rows.values())) > 1)
        ax.hlines(y, low, high, color=colour, lw=2, clip_on=False)
        ax.plot(mean, y, MARKERS[k % len(MARKERS)], color=colour, ms=6, label=name, clip_on=False)
    if zero is not None:
        ax.axvline(zero, color=GREY, ls="--", lw=1.5)
    for edge in np.arange(len(rows) - 1) + 0.5:
        ax.axhline(edge, color=RULE, lw=1)
    ax.grid(axis="y", visible=False)
    ax.legend(**ABOVE, ncols=min(3, len(series)))
    return fig


@styled
def dice_per_patient(patients: Names, values: Groups, *, label: str = "Dice", limits: Range = (0, 1)) -> Figure:
    """Draw one line per patient, best on top.

    `values` are (P,), or several methods by name, the first of which orders the patients.
    """
    methods = values if isinstance(values, Mapping) else {"": values}
    scores = [as_numbers(v, f"dice_per_patient: {k or 'values'}", (len(patients),)) for k, v in methods.items()]
    order = np.argsort(-scores[0], kind="stable")
    fig, ax = _lines([patients[k] for k in order], label, limits)
    ax.hlines(range(len(order)), np.min(scores, 0)[order], np.max(scores, 0)[order], color=PALE, lw=1.2)
    for k, (name, score, colour) in enumerate(zip(methods, scores, colours(list(methods)), strict=True)):
        ax.axvline(score.mean(), color=colour, ls=":", lw=1.5)
        text = f"{name}, mean {score.mean():.2f}".lstrip(", ")
        ax.plot(score[order], range(len(order)), MARKERS[k], color=colour, ms=6, label=text, clip_on=False)
    ax.legend(**ABOVE, ncols=len(methods))
    return fig
