"""Slides that show an idea: the order of the lessons, the library, a split, a share, a loss, a collapse."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

import studies
from course import rooms, teaching
from course.diagram import SMALL, arrow, canvas
from vaelib.losses import kl_per_unit
from vaelib.phantom import make_patient
from vaelib.pictures.style import BLUE, GREY, ORANGE, SKY, VERMILLION, YELLOW


def box(
    ax: Axes, x: float, y: float, wide: float, high: float, head: str, text: str = "", colour: str = SKY, **look: Any
) -> None:
    """Draw a box around (x, y) with a heading and a text in it."""
    corner, style = (x - wide / 2, y - high / 2), "round,pad=0,rounding_size=8"
    ax.add_patch(FancyBboxPatch(corner, wide, high, boxstyle=style, facecolor=colour, edgecolor="black", lw=1.2))
    middle = dict(ha="center", va="center", fontsize=SMALL, linespacing=1.25) | look
    ax.text(x, y + (high / 4 if text else 0), head, **middle, weight="bold")
    ax.text(x, y - high / 5, text, **middle)


def lessons_map(title: str) -> Figure:
    """Draw the lessons: on the left those that follow one another, on the right those for any order after them."""
    found = teaching.lessons()
    edges, depth = teaching.builds_on(found), {}
    for number in found:
        depth[number] = 1 + max((depth[a] for a, b in edges if b == number), default=-1)
    shared = min((d for d in depth.values() if list(depth.values()).count(d) > 1), default=len(depth))
    alone = [n for n in found if depth[n] < shared]
    fig, ax = canvas(title)
    wide, high, place = 390, 54, {}
    for x, numbers, colour in ((225, alone, SKY), (735, [n for n in found if n not in alone], YELLOW)):
        for k, number in enumerate(numbers):
            place[number] = x, y = x, 440 - 78 * k
            box(ax, x, y, wide, high, f"{number} {found[number].name}", teaching.ABOUT[number][0], colour)
    for a, b in edges:
        (x, y), (u, v) = place[a], place[b]
        if x == u:
            arrow(ax, (x, y - high / 2), (u, v + high / 2))
        else:
            ax.plot([x + wide / 2, 480, 480], [y, y, v], color=GREY, lw=2.2)
            arrow(ax, (480, v), (u - wide / 2, v))
    return fig


def library(title: str) -> Figure:
    """Draw the files of the root of `vaelib`, each with its lesson, and below them the folders that they stand on."""
    fig, ax = canvas(title)
    files, columns = rooms.root_files(), 6
    for k, name in enumerate(files):
        lesson, words = rooms.TAUGHT[name]
        row, column = divmod(k, columns)
        place = 87 + 157 * column, 416 - 104 * row, 149, 92
        box(ax, *place, f"{lesson} {name}".strip(), words, SKY if lesson else YELLOW)
    for k, name in enumerate(rooms.folders()):
        box(ax, 104 + 188 * k, 72, 176, 48, f"{name}/", colour=ORANGE)
    ax.text(16, 122, "The folders that they stand on:", fontsize=SMALL, va="center")
    ax.text(480, 24, "Numbers are lessons. Imports make no circle, and nothing in the library imports the course.",
            ha="center", va="center", fontsize=SMALL)  # fmt: skip
    return fig


def split(title: str) -> Figure:
    """Deal slices of six patients by slice and by patient, and show what that does to a score."""
    fig, ax = canvas(title)
    colours = np.array([BLUE, ORANGE, VERMILLION])
    by_slice = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], (42, 6, 12))).reshape(6, 10)
    by_patient = np.repeat([[0], [0], [2], [0], [1], [0]], 10, axis=1)
    for left, name, parts in ((60, "by slice: everybody is everywhere", by_slice),
                              (530, "by patient: nobody is in two sets", by_patient)):  # fmt: skip
        ax.text(left, 445, name, fontsize=18, va="center")
        for (row, column), part in np.ndenumerate(parts):
            corner = (left + 38 * column, 390 - 38 * row)
            ax.add_patch(Rectangle(corner, 32, 32, facecolor=colours[part], edgecolor="black", lw=0.8))
    ax.text(40, 306, "patients", rotation=90, ha="center", va="center", fontsize=SMALL)
    ax.text(60, 186, "slices of each", va="top", fontsize=SMALL)
    sizes = studies.read("ladder")["patients"]
    names = [f"{sizes[part]} patients for {what}" for part, what in
             (("train", "training"), ("val", "validation"), ("test", "the test"))]  # fmt: skip
    for k, name in enumerate(names):
        ax.add_patch(Rectangle((60 + 300 * k, 118), 20, 20, facecolor=colours[k], edgecolor="black", lw=0.8))
        ax.text(88 + 300 * k, 128, name, va="center", fontsize=SMALL)
    bugs = studies.read("bugs")
    sound, leaky = bugs["mended"]["dice"][0], bugs["alone"]["split by slice"]["mean dice"]
    ax.text(60, 62, f"The same script, the same seed: Dice {sound:.2f} by patient, {leaky:.2f} by slice.\n"
            "What was learned by heart looks like what was understood.", va="center", fontsize=18)  # fmt: skip
    return fig


def occupancy(title: str) -> Figure:
    """Draw a piece of a phantom's pancreas on fine pixels, and its share in each pixel four times as wide."""
    mask = make_patient(seed=2026, number=4, size=256).mask
    fine = mask[mask.sum((1, 2)).argmax()].astype(float)
    top, left = (4 * (int(place.mean()) // 4) - 20 for place in np.nonzero(fine))
    fine = fine[top : top + 40, left : left + 40]
    coarse = fine.reshape(10, 4, 10, 4).mean((1, 3))
    fig, ax = canvas(title)
    ax.text(50, 462, "fine: yes or no", fontsize=18, va="center")
    ax.text(510, 462, "coarse: how much of each pixel, in %", fontsize=18, va="center")
    for row, line in enumerate(fine):  # one rectangle for each run of pixels
        for start, end in np.flatnonzero(np.diff(line, prepend=0, append=0)).reshape(-1, 2):
            run = (50 + 10 * start, 430 - 10 * row), 10 * (end - start), 10
            ax.add_patch(Rectangle(*run, facecolor=VERMILLION, lw=0))
    for (row, column), share in np.ndenumerate(coarse):
        x, y = 510 + 40 * column, 400 - 40 * row
        ax.add_patch(Rectangle((x, y), 40, 40, facecolor=VERMILLION, alpha=0.85 * share, lw=0))
        if share:
            ax.text(x + 20, y + 20, f"{100 * share:.0f}", ha="center", va="center", fontsize=SMALL)
    for left in (50, 510):
        for k in range(11):
            ax.plot([left, left + 400], [40 + 40 * k] * 2, color="#A0A0A0", lw=1)
            ax.plot([left + 40 * k] * 2, [40, 440], color="#A0A0A0", lw=1)
    counts = [16 * (coarse >= cut).sum() for cut in (0.5, 0.2)]
    says = f"Fine pixels: {fine.sum():.0f}. The shares add up to {16 * coarse.sum():.0f}. "
    says += f"As a mask, from 0.5 on: {counts[0]}; from 0.2 on: {counts[1]}."
    ax.text(50, 18, says, fontsize=SMALL, va="center")
    return fig


def _bell(x: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))


def loss(title: str) -> Figure:
    """Write the formula of the loss, and draw what a unit's KL costs by its mean, for three deviations."""
    fig, ax = canvas(title)
    beta = studies.read("ladder")["recipe"]["beta"]
    ax.text(480, 420, r"$\frac{1}{2}\sum_{pixels}(x-\hat{x})^2\;+\;\beta\;\frac{1}{2}\sum_{units}"
            r"\left(\mu^2+\sigma^2-1-\log\sigma^2\right)$", ha="center", va="center", fontsize=32)  # fmt: skip
    left = "L2: how far the picture is\nfrom the slice, summed\nover its pixels"
    right = f"KL: what the latent costs, in nats,\nsummed over its units.\nβ is the price of a nat: {beta} here"
    ax.text(60, 345, left, fontsize=18, va="top", color=BLUE, linespacing=1.3)
    ax.text(500, 345, right, fontsize=18, va="top", color=VERMILLION, linespacing=1.3)
    both = "Both are summed over a slice and\naveraged over slices. Reduce one\notherwise, and β means\nsomething else."
    ax.text(60, 205, both, fontsize=18, va="top", linespacing=1.3)
    panel = fig.add_axes((0.55, 0.13, 0.40, 0.31))
    mean = torch.linspace(-3, 3, 121)
    for deviation, colour, dash in ((1.0, BLUE, "-"), (0.3, VERMILLION, "--"), (0.1, "black", ":")):
        each = [kl_per_unit(m.reshape(1, 1), torch.full((1, 1), 2 * np.log(deviation))).item() for m in mean]
        panel.plot(mean, each, dash, color=colour, lw=3, label=f"σ = {deviation:g}")
    panel.set(xlabel="μ of a unit", ylabel="nats", xlim=(-3, 3), ylim=(0, 7), xticks=range(-2, 3))
    place = dict(loc="lower center", bbox_to_anchor=(0.5, 0.97), ncols=3, columnspacing=1, handlelength=1.6)
    panel.legend(frameon=False, **place)
    return fig


def collapse(title: str) -> Figure:
    """Draw q(z|x) of five slices in one unit that is used, and in one that has collapsed."""
    fig, ax = canvas(title)
    x = np.linspace(-3.5, 3.5, 281)
    used, idle = ([(-1.8, 0.25), (-0.9, 0.2), (0.1, 0.25), (0.8, 0.2), (1.9, 0.3)], [(0.0, 1.0)] * 5)
    texts = (("A unit that is used", "Each slice has a place of its own."),
             ("A unit that has collapsed", "Every slice says the prior."))  # fmt: skip
    for k, (units, (head, line)) in enumerate(zip((used, idle), texts, strict=True)):
        panel = fig.add_axes((0.05 + 0.49 * k, 0.24, 0.43, 0.42))
        panel.fill_between(x, _bell(x, 0, 1), color="#D0D0D0", lw=0, label="prior N(0, 1)")
        for n, (mean, deviation) in enumerate(units):
            panel.plot(x, _bell(x, mean, deviation), color=BLUE, lw=2.5, label="q(z|x) of a slice" if n == 0 else None)
        panel.set(xlim=(-3.5, 3.5), ylim=(0, 2.2), yticks=[], xlabel="z")
        panel.spines["left"].set_visible(False)
        panel.grid(visible=False)
        if k:
            panel.legend(frameon=False, loc="upper right")
        mean, deviation = torch.tensor(units).T[:, :, None]
        nats = kl_per_unit(mean, 2 * deviation.log()).mean().item()
        ax.text(48 + 470 * k, 440, head, fontsize=20, weight="bold", va="center")
        ax.text(48 + 470 * k, 402, line, fontsize=18, va="center")
        ax.text(48 + 470 * k, 66, f"KL: {abs(nats):.1f} nats a slice", fontsize=20, va="center", color=VERMILLION)
    ax.text(48, 24, "The total loss falls in both. Watch the two terms apart.", fontsize=18, va="center")
    return fig
