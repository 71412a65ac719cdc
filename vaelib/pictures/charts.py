"""The charts of the tutorial (curves, scatters, intervals) and the style that every figure shares.

Pure functions from numbers to `matplotlib.figure.Figure`. They never touch pyplot, so that no figure shows itself or
stays in memory. `vaelib.pictures.panels` adds the pictures of slices and hands all of this on: import that.

The colours are those of Okabe and Ito (2008), made for colour-blind readers; where series meet, a dash or a marker
tells them apart too, so that a page printed in grey still reads.
"""

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.metrics import bootstrap

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#6E6E6E"
CYCLE, MARKERS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#000000"), "osD^vPX"
WIDTH, DPI = 9.0, 96  # inches, dots per inch: 864 pixels fill a notebook's column
style = matplotlib.rc_context(
    {
        "font.size": 11,
        "axes.titlesize": 11,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 10,
    }
    | {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.facecolor": "white",
    }
    | {"axes.grid": True, "grid.color": "#E4E4E4", "axes.axisbelow": True, "lines.linewidth": 1.8}
)


@style
def png(fig, *, fast=False):
    """Encode a figure as PNG: the same figure gives the same bytes, with no date or version inside.

    Margins are trimmed, and colours reduced to a palette where the eye cannot tell. `fast`, for sliders, skips both.
    """
    out = io.BytesIO()
    if fast:
        fig.canvas.draw()
        size, pixels = fig.canvas.get_width_height(), fig.canvas.buffer_rgba()
        Image.frombuffer("RGBA", size, pixels).convert("RGB").save(out, "png", compress_level=1)
        return out.getvalue()
    fig.savefig(raw := io.BytesIO(), format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.06)
    full = Image.open(raw).convert("RGB")
    small = full.quantize(256, dither=Image.Dither.NONE)
    off = np.abs(np.subtract(small.convert("RGB"), full, dtype=np.int16)).mean()
    (small if off < 0.25 else full).save(out, "png", optimize=True)
    return out.getvalue()


def show(fig, alt, save=None):
    """Display a figure as a PNG with `alt`, a sentence for those who cannot see it; write it to `save` too.

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
    display.display(display.Image(data, alt=alt))


def numbers(values, name, shape):
    """`values` as a non-empty float array of this shape (None: any length), or an `InputError` that names them."""
    array = np.asarray(values, dtype=float)
    good = array.ndim == len(shape) and all(want in (None, n) for want, n in zip(shape, array.shape, strict=True))
    if not good or array.size == 0:
        wanted = " × ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{name}: found the shape {array.shape}; pass a non-empty array of {wanted} numbers")
    return array


def _chart(height, columns=1, width=WIDTH):
    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return fig, *fig.subplots(1, columns, squeeze=False)[0]


@style
def histogram(values, marks=None, window=None, *, limits=(-200, 400), bins=120, xlabel="Hounsfield units (HU)"):
    """Histogram of HU: `values` is an array, or several by name, each as a share of all its own voxels.

    `marks` are reference HU by tissue, one figure or (low, high), in a strip below; `window` (low, high) is shaded.
    """
    groups, marks = values if isinstance(values, dict) else {"": values}, marks or {}
    heights = [2.6, 0.24 * len(marks)][: 1 + bool(marks)]
    fig = Figure(figsize=(WIDTH, sum(heights) + 0.6), dpi=DPI, layout="constrained")
    ax, *strip = fig.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    edges = np.linspace(*limits, bins + 1)
    for k, (name, group) in enumerate(groups.items()):
        group = np.ravel(group)
        if group.size == 0:
            raise InputError(f"histogram: {name or 'values'} holds no voxel; check the mask that cut it out")
        share = 100 * np.histogram(group, edges)[0] / group.size
        look = {"fill": True, "color": "#B5B5B5"} if k == 0 else {"color": CYCLE[k - 1], "lw": 2}
        ax.stairs(share, edges, label=name, **look)
    for row, mark in enumerate(marks.values()):
        strip[0].plot(np.broadcast_to(mark, 2), [row, row], "o-", color=BLUE, lw=6, ms=6, mew=0)
    if marks:
        strip[0].set(ylim=(len(marks) - 0.5, -0.5), yticks=range(len(marks)), yticklabels=list(marks))
    for axes in (ax, *strip) if window else ():
        axes.axvspan(*window, color=YELLOW, alpha=0.2, lw=0, zorder=0, label=f"window {window[0]} to {window[1]}")
    if window or any(groups):
        ax.legend(loc="best")
    ax.set(ylabel="% of voxels per bin", xlim=limits)
    fig.axes[-1].set_xlabel(xlabel)
    return fig


@style
def curves(history, keys, *, log=(), titles=None, xlabel="epoch"):
    """Training curves, one panel per key: ``"kl"`` draws ``train/kl`` solid and ``val/kl`` dashed.

    Parameters
    ----------
    history : list of dict, or dict of str -> list of dict
        One dict per epoch, with keys such as ``epoch``, ``train/kl``, ``val/kl``, ``beta``; or several runs by name.
    keys, log : sequences of str
        What to draw, and which of it on a logarithmic axis.
    titles : dict of str -> str, optional
        The panels' titles by key.
    """
    runs = history if isinstance(history, dict) else {"": history}
    fig, *panels = _chart(3.1, len(keys))
    for ax, key in zip(panels, keys, strict=True):
        for k, (run, epochs) in enumerate(runs.items()):
            for full, part in ((key, ""), (f"train/{key}", "training"), (f"val/{key}", "validation")):
                points = [(row["epoch"], row[full]) for row in epochs if row.get(full) is not None]
                late = part == "validation"
                if points:
                    look = {"color": CYCLE[(k if len(runs) > 1 else late) % 7], "ls": "--" if late else "-"}
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


@style
def latent_scatter(points, colour, label, *, explained=None):
    """Scatter of two principal components, `points` (N, 2 or more), coloured by N numbers or by up to 7 names.

    `label` says what the colour means; `explained` gives the components' fractions of the variance.
    """
    points = numbers(points, "latent_scatter: points", (None, None))
    colour, names = np.asarray(colour), []
    if colour.dtype.kind in "US":
        names = sorted(set(colour.tolist()))
    if colour.shape != points.shape[:1] or points.shape[1] < 2 or len(names) > len(CYCLE):
        found = f"points {points.shape}, colours {colour.shape}, {len(names)} names"
        raise InputError(
            f"latent_scatter: {found}; pass (N, 2) and N numbers, or N names of at most {len(CYCLE)} kinds"
        )
    fig, ax = _chart(4.6, width=7.0)
    fig.set_layout_engine("compressed")  # the colour bar is as tall as the plot
    for name, shade, marker in zip(names, CYCLE, MARKERS, strict=False):
        ax.scatter(*points[colour == name, :2].T, s=22, alpha=0.75, color=shade, marker=marker, label=name, lw=0)
    if names:
        ax.legend(title=label, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        fig.colorbar(ax.scatter(*points[:, :2].T, c=colour, s=18, lw=0), ax=ax, label=label)
    share = [""] * 2 if explained is None else [f" ({part:.0%} of the variance)" for part in explained[:2]]
    ax.set(xlabel=f"component 1{share[0]}", ylabel=f"component 2{share[1]}", aspect="equal")
    return fig


@style
def bars(values, threshold=None, *, names=None, sort=True, xlabel="unit, sorted", ylabel="KL (nats)", log=False):
    """One bar per unit (or per name), largest first; pale below `threshold`, with the count above it in the title."""
    values = numbers(values, "bars: values", (None if names is None else len(names),))
    order = np.argsort(-values, kind="stable") if sort else np.arange(len(values))
    place, values = np.arange(1, len(values) + 1), values[order]
    fig, ax = _chart(3.0)
    active = values >= (values.min() if threshold is None else threshold)
    ax.bar(place, values, color=np.where(active, BLUE, "#C8C8C8"), width=0.85)
    if threshold is not None:
        ax.axhline(threshold, color=VERMILLION, ls="--", lw=1.4, label=f"threshold {threshold:g}")
        ax.set_title(f"{active.sum()} of {len(values)} at or above {threshold:g}", loc="left")
        ax.legend()
    ax.set(xlabel=xlabel if names is None else "", ylabel=ylabel, yscale="log" if log else "linear")
    if names is not None:
        ax.set_xticks(place, [names[k] for k in order], rotation=25, ha="right", rotation_mode="anchor")
    ax.set_xlim(0.3, len(values) + 0.7)
    ax.grid(axis="x", visible=False)
    return fig


@style
def threshold_sweep(thresholds, dice, *, mark=0.2, xlabel="threshold", ylabel="Dice", log2=False):
    """A score (P, T) of P patients at T thresholds (or levels): patients thin, their mean thick with its interval.

    The interval is the 95% bootstrap over patients; `mark` is a vertical line, at the original's 0.2.
    """
    x = numbers(thresholds, "threshold_sweep: thresholds", (None,))
    dice = numbers(dice, "threshold_sweep: dice", (None, len(x)))
    band = np.transpose([bootstrap(column)[1:] for column in dice.T])  # (2, T)
    fig, ax = _chart(3.6, width=8.0)
    ax.plot(x, dice.T, color="#B0B0B0", lw=0.8, label=["each patient"] + ["_"] * (len(dice) - 1))
    ax.fill_between(x, *band, color=BLUE, alpha=0.25, lw=0, label="95% interval of the mean")
    ax.plot(x, dice.mean(axis=0), color=BLUE, lw=2.4, label="mean")
    if mark is not None:
        ax.axvline(mark, color=VERMILLION, ls="--", lw=1.4, label=f"at {mark:g}")
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1), xlim=(x.min(), x.max()))
    if log2:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def _ladder(names, label, limits):
    """An empty chart with one line per name, from the top down."""
    fig, ax = _chart(1.1 + 0.27 * len(names))
    ax.set(xlabel=label, xlim=limits, ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(range(len(names)), names)
    return fig, ax


@style
def scoreboard(rows, *, references=None, label="Dice", limits=(0, 1)):
    """Methods one below the other: a dot for the mean over patients, a line for its interval.

    `rows` are (name, mean, low, high), as in ``(name, *metrics.bootstrap(values))``; `references`, by name, are
    vertical lines to measure against, such as the ceiling and the atlas.
    """
    mean, low, high = numbers([row[1:] for row in rows], "scoreboard: rows", (None, 3)).T
    fig, ax = _ladder([row[0] for row in rows], f"{label}: mean over patients and 95% interval", limits)
    for k, (name, value) in enumerate((references or {}).items()):
        ax.axvline(value, color=GREY, ls=("--", ":", "-.")[k % 3], lw=1.5, label=f"{name} {value:.2f}")
    ax.hlines(range(len(rows)), low, high, color=BLUE, lw=2.2, clip_on=False)
    ax.plot(mean, range(len(rows)), "o", color=BLUE, ms=7, clip_on=False)
    for row, value in enumerate(mean):
        ax.annotate(f"{value:.2f}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=10)
    if references:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(references))
    return fig


@style
def forest(rows, *, label="Dice", limits=None, zero=None):
    """Several series on every line: a mark for the mean, a line for its interval, each series in its own colour.

    `rows` are, by the name of a line and then of a series, dicts with ``mean``, ``low`` and ``high``; a series may be
    absent from a line. `zero` is a vertical line, of no difference.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    if not series:
        raise InputError("forest: there is nothing to draw; pass at least one line with one series")
    ends = [row[name][key] for row in rows.values() for name in row for key in ("low", "high")]
    ends += [] if zero is None else [zero]
    pad = 0.04 * (max(ends) - min(ends)) or 0.1
    limits = limits or (min(ends) - pad, max(ends) + pad)
    fig, ax = _ladder(list(rows), f"{label}: mean over patients and 95% interval", limits)
    fig.set_figheight(1.1 + 0.17 * len(rows) * max(2, len(series)))
    for k, name in enumerate(series):
        at = [n for n, row in enumerate(rows.values()) if name in row]
        values = [[row[name][key] for key in ("mean", "low", "high")] for row in rows.values() if name in row]
        mean, low, high = numbers(values, f"forest: {name}", (None, 3)).T
        y = np.array(at) + (k - (len(series) - 1) / 2) * 0.8 / len(series)
        colour = CYCLE[k % len(CYCLE)]
        ax.hlines(y, low, high, color=colour, lw=2, clip_on=False)
        ax.plot(mean, y, MARKERS[k % len(MARKERS)], color=colour, ms=6, label=name, clip_on=False)
    if zero is not None:
        ax.axvline(zero, color=GREY, ls="--", lw=1.5)
    for edge in np.arange(len(rows) - 1) + 0.5:
        ax.axhline(edge, color="#E4E4E4", lw=1)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(3, len(series)))
    return fig


@style
def dice_per_patient(patients, values, *, label="Dice", limits=(0, 1)):
    """One line per patient, best on top; `values` (P,), or several methods by name, the first of which orders them."""
    methods = values if isinstance(values, dict) else {"": values}
    scores = [numbers(v, f"dice_per_patient: {k or 'values'}", (len(patients),)) for k, v in methods.items()]
    order = np.argsort(-scores[0], kind="stable")
    fig, ax = _ladder([patients[k] for k in order], label, limits)
    ax.hlines(range(len(order)), np.min(scores, 0)[order], np.max(scores, 0)[order], color="#B0B0B0", lw=1.2)
    for k, (name, score) in enumerate(zip(methods, scores, strict=True)):
        ax.axvline(score.mean(), color=CYCLE[k], ls=":", lw=1.5)
        text = f"{name}, mean {score.mean():.2f}".lstrip(", ")
        ax.plot(score[order], range(len(order)), MARKERS[k], color=CYCLE[k], ms=6, label=text, clip_on=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(methods))
    return fig


SECONDS, BYTES = ((60, "min"), (1, "s"), (1e-3, "ms")), ((1e9, "GB"), (1e6, "MB"))
LOOKS = ((BLUE, "--", "o"), (BLUE, "-", "s"), (VERMILLION, "--", "D"), (VERMILLION, "-", "^"))  # narrow and wide


@style
def growth(found):
    """How cost grows: a step's time, memory and speed, and Dice, with the side; preparing, with the patients.

    Parameters
    ----------
    found : dict
        ``steps`` and ``dice`` by side, ``images`` in a step, ``minutes`` of training, and as ``limit`` the GFLOP/s
        of the fastest layer, from `benchmarks.growth`; ``prepare``, the runs of `benchmarks.prepare`.
    """
    steps, dice = ({int(side): row for side, row in found[key].items()} for key in ("steps", "dice"))
    fig = Figure(figsize=(WIDTH, 9.6), dpi=DPI, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    (time, memory), (speed, overlap), (seconds, peak) = fig.subplots(3, 2)
    for ax, key, unit, title, words, top in (
        (time, "ms", 1e-3, f"time of a training step of {found['images']} images", SECONDS, None),
        (memory, "MB", 1e6, "memory of that step", BYTES, None),
        (speed, "GFLOP/s", 1, "speed of that step, GFLOP/s", (), 1.15 * found["limit"]),
    ):
        kinds = {kind: {s: unit * row[kind][key] for s, row in steps.items()} for kind in steps[min(steps)]}
        _grow(ax, kinds, title, "pixels a side", LOOKS, words, top)
    for ax in (time, memory):
        start = 5 * max(line.get_ydata()[0] for line in ax.lines)
        ax.plot((32, 128), (start, 16 * start), color=GREY, ls=":")
    speed.axhline(found["limit"], color=GREY, ls=":")
    for ax, what in ((time, "as the pixels"), (memory, "as the pixels"), (speed, "its fastest layer alone")):
        ax.annotate(f"dotted: {what}", (0.03, 0.97), xycoords="axes fraction", color=GREY, fontsize=10, va="top")
    scores = {name: {side: [row[name][k] for k in ("mean", "low", "high")] for side, row in dice.items()}
              for name in ("ceiling", "plain")}  # fmt: skip
    title = f"Dice at 512 x 512, {found['minutes']:g} minutes of training"
    _grow(overlap, scores, title, "pixels a side", ((GREY, "-", "v"), LOOKS[0]), top=1)
    for ax, key, title, words, top in (
        (seconds, "seconds", "time to prepare", SECONDS, None),
        (peak, "peak_bytes", "memory of a worker that prepares", BYTES, 1e9),
    ):
        workers = {1: {}, 2: {}}
        for run in found["prepare"]:
            workers[run["workers"]][run["patients"]] = run[key]
        lines = {"1 worker": workers[1], "2 workers": workers[2]}
        _grow(ax, lines, title, "patients", (("black", "-", "o"), (GREY, "--", "s")), words, top)
    seconds.set_yticks((1, 4, 15, 60, 240))
    return fig


def _grow(ax, lines, title, xlabel, looks, words=(), top=None):
    """Draw lines by name, each named at its end, on logarithmic axes, or up to `top` on one that begins at 0."""
    ends, ticks = {}, {}
    for (name, points), (colour, dash, marker) in zip(lines.items(), looks, strict=True):
        y, *span = np.array([np.atleast_1d(value) for value in points.values()]).T
        ax.plot(list(points), y, color=colour, ls=dash, marker=marker, ms=5.5)
        if span:
            ax.vlines(list(points), *span, color=colour, lw=1.5)
        ends[name], ticks = (y[-1], colour), max(ticks, points, key=len)
    ax.set_title(title, loc="left")
    ax.set(xlabel=xlabel, xscale="log", yscale="linear" if top else "log")
    ax.set_xticks(list(ticks), [str(tick) for tick in ticks])
    if top:
        ax.set_ylim(0, 1.04 * top)
    else:
        ax.margins(y=0.12)
        ax.yaxis.set_major_locator(LogLocator())
    ax.yaxis.set_major_formatter(lambda v, _: next((f"{v / n:g} {unit}" for n, unit in words if v >= n), f"{v:g}"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
    ax.autoscale_view()
    to_axes, last = ax.transData + ax.transAxes.inverted(), -1.0
    for name, (y, colour) in sorted(ends.items(), key=lambda item: item[1][0]):
        last = max(last + (0.15 if "," in name else 0.08), to_axes.transform((1, y))[1])
        where = dict(xycoords="axes fraction", va="center", fontsize=10)
        ax.annotate(name.replace(", ", ",\n"), (1.03, last), color=colour, **where)
