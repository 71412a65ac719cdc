"""The figure of `benchmarks.growth`: how cost grows."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from vaelib.pictures.style import BLUE, DPI, GREY, VERMILLION, WIDTH, styled

SECONDS, BYTES = ((60, "min"), (1, "s"), (1e-3, "ms")), ((1e9, "GB"), (1e6, "MB"))
LOOKS = ((BLUE, "--", "o"), (BLUE, "-", "s"), (VERMILLION, "--", "D"), (VERMILLION, "-", "^"))  # narrow and wide


@styled
def growth(found: dict) -> Figure:
    """Draw how a step's time, memory and speed, and Dice, grow with the side; and preparing with the patients.

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


def _grow(ax, lines, title, xlabel, looks, words=(), top=None) -> None:
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
