"""Drawings of networks, made from the networks: a slice goes through, and each layer says what it makes of it.

Nothing about an architecture is typed here. Shapes and numbers of weights are collected by forward hooks, skip
connections are found as they are passed, and the bar that stands for `detach` is drawn where a gradient was sent back
and did not arrive. Change the model and the drawing changes.
"""

from collections import Counter
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from monai.networks.layers.simplelayers import SkipConnection
from torch import Tensor, nn

from vaelib.pictures.style import BLUE, GREY, ORANGE, SKY, VERMILLION
from vaelib.spatial import neighbours

WIDE, HIGH = 960, 540  # points: a slide of 13.33 x 7.5 inches, 16 to 9
Point = tuple[float, float]
SMALL, LARGE = 16, 26  # points: the smallest letters that the last row of a room reads, and a title's


class Block(NamedTuple):
    """Layers in a row whose output has one shape: what they are, that shape (C, ...) and how many weights they hold."""

    layers: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int | None


class Trace(NamedTuple):
    """What a network did with its input: its blocks, skips as (from, to) in them (-1: the input), and its output."""

    blocks: list[Block]
    skips: list[tuple[int, int]]
    output: Tensor | tuple


@torch.no_grad()
def trace(net: nn.Module, x: Tensor) -> Trace:
    """Send `x` through a network and write down, layer by layer, what it became.

    Layers without weights join the block before them, so that an activation or a reshaping is no block of its own.
    """
    blocks: list[Block] = []
    skips: list[tuple[int, int]] = []
    opened: list[int] = []

    def layer(module: nn.Module, _: Any, out: Tensor) -> None:
        count, shape = sum(p.numel() for p in module.parameters()), tuple(out.shape[1:])
        last = blocks[-1] if blocks else None
        if isinstance(module, nn.Unflatten):
            blocks[-1] = blocks[-1]._replace(shape=shape)
        elif count and last and last.shape == shape:
            blocks[-1] = Block((*last.layers, type(module).__name__), shape, (last.parameters or 0) + count)
        elif count:
            blocks.append(Block((type(module).__name__,), shape, count))

    hooks = [m.register_forward_hook(layer) for m in net.modules() if not [*m.children()]]
    for module in net.modules():
        if isinstance(module, SkipConnection):
            hooks.append(module.register_forward_pre_hook(lambda *_: opened.append(len(blocks) - 1)))
            hooks.append(module.register_forward_hook(lambda *_: skips.append((opened.pop(), len(blocks)))))
    try:
        return Trace(blocks, skips, net(x))
    finally:
        for hook in hooks:
            hook.remove()


def stops_the_gradient(net: nn.Module, z: Tensor) -> bool:
    """Try whether nothing flows back from the output of `net` into its input `z`."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(net(z).sum(), z, allow_unused=True)[0] is None


def canvas(title: str) -> tuple[Figure, Axes]:
    """Make an empty slide with its title, and axes over all of it that are measured in points."""
    fig = Figure(figsize=(WIDE / 72, HIGH / 72), dpi=72)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDE), ylim=(0, HIGH))
    ax.set_axis_off()
    ax.text(30, HIGH - 24, title, fontsize=LARGE, va="top", weight="bold")
    return fig, ax


def arrow(ax: Axes, start: Point, end: Point, *, colour: str = GREY, **look: Any) -> None:
    """Draw an arrow between two points of a slide."""
    style = {"arrowstyle": "-|>,head_width=.35,head_length=.7", "lw": 2.2, "color": colour, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style | look)


def _size(shape):
    """Choose width and height of a block on the slide, by the logarithms of its channels and of its side."""
    channels, side = (shape[0], shape[-1]) if len(shape) > 1 else (1, shape[0])
    return 8 + 4.2 * channels.bit_length(), 17 * (side.bit_length() - 1)


def _block(ax, x, y, shape, colour, parameters=None):
    """Draw a block around (x, y), its shape above and its number of weights below; return half of its width."""
    wide, high = _size(shape)
    ax.add_patch(Rectangle((x - wide / 2, y - high / 2), wide, high, facecolor=colour, edgecolor="black", lw=1.2))
    text = str(shape[0]) if len(shape) == 1 else f"{shape[0]} ×\n" + " × ".join(map(str, shape[1:]))
    ax.text(x, y + high / 2 + 5, text, ha="center", va="bottom", fontsize=SMALL, linespacing=1)
    if parameters is not None:
        ax.text(x, y - high / 2 - 5, f"{parameters:,}", ha="center", va="top", fontsize=SMALL, color="#404040")
    return wide / 2


def _row(ax, xs, y, blocks, colour):
    """Draw blocks from left to right with an arrow between each two."""
    halves = [_block(ax, x, y, b.shape, colour, b.parameters) for x, b in zip(xs, blocks, strict=True)]
    for k in range(len(xs) - 1):
        arrow(ax, (xs[k] + halves[k] + 3, y), (xs[k + 1] - halves[k + 1] - 3, y))
    return halves


def _bar(ax, start, end, slices):
    """Draw two strokes across the arrow over which the latents of so many slices go: there is no way back."""
    (x, y), (u, v) = start, (end[0] - start[0], end[1] - start[1])
    long = (u * u + v * v) ** 0.5
    for along in (0.5, 0.56):
        across = [(x + along * u + side * v / long, y + along * v - side * u / long) for side in (-20, 20)]
        ax.plot(*zip(*across, strict=True), color="black", lw=3.5, solid_capstyle="butt")
    text = "detach" if slices == 1 else f"detach\n({slices} slices)"
    ax.text(x + 0.53 * u - 24, y + 0.53 * v - 20, text, ha="right", va="top", fontsize=SMALL, weight="bold")


def summary(name: str, blocks: list[Block]) -> str:
    """Write a line such as ``encoder: 4 Conv2d, 2 Linear; 434,560 weights``."""
    kinds = Counter(kind for block in blocks for kind in block.layers)
    layers = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return f"{name}: {layers}; {sum(b.parameters or 0 for b in blocks):,} weights"


def vae_and_mask(vae: nn.Module, mask: nn.Module, title: str) -> Figure:
    """Draw a VAE and the decoder of masks that reads its latent, with a bar between them if no gradient comes back."""
    size, reach = vae.config["size"], mask.config.get("reach", 0)
    encoder = trace(vae.encoder, torch.zeros(2 * reach + 1, 1, size, size))
    z = encoder.output[0]
    picture, read = trace(vae.decoder, z), neighbours(z, ["one"] * len(z), reach)
    drawn = trace(mask, read)

    fig, ax = canvas(title)
    left, right = len(encoder.blocks) + 1, max(len(picture.blocks), len(drawn.blocks))
    step = WIDE / (left + right + 1.6)
    middle, rows = 272, {"picture": (385, picture.blocks, BLUE), "mask": (152, drawn.blocks, VERMILLION)}
    xs = [step * (k + 0.6) for k in range(left)]
    at = step * (left + 0.65)
    _row(ax, xs, middle, [Block((), (1, size, size), None), *encoder.blocks], SKY)
    below = middle - _size(encoder.blocks[-1].shape)[1] / 2 - 27
    ax.text(xs[-1], below, "μ, log σ²", ha="center", va="top", fontsize=SMALL)
    half = _block(ax, at, middle, tuple(z.shape[1:]), ORANGE)
    arrow(ax, (xs[-1] + _size(encoder.blocks[-1].shape)[0] / 2 + 3, middle), (at - half - 3, middle))
    ax.text(at, middle - _size(tuple(z.shape[1:]))[1] / 2 - 5, "z", ha="center", va="top", fontsize=22, style="italic")
    xs = [step * (left + 1.75 + k) for k in range(right)]
    for name, (y, blocks, colour) in rows.items():
        _row(ax, xs[: len(blocks)], y, blocks, colour)
        end = (xs[0] - _size(blocks[0].shape)[0] / 2 - 3, y)
        arrow(ax, (at + half + 3, middle + (18 if name == "picture" else -18)), end)
    if stops_the_gradient(mask, read):
        end = (xs[0] - _size(drawn.blocks[0].shape)[0] / 2 - 3, rows["mask"][0])
        _bar(ax, (at + half + 3, middle - 18), end, 2 * reach + 1)
    lines = [("encoder", encoder.blocks, "black"), ("decoder of the picture", picture.blocks, BLUE),
             ("decoder of the mask", drawn.blocks, VERMILLION)]  # fmt: skip
    for k, (name, blocks, colour) in enumerate(lines):
        ax.text(30, 62 - 22 * k, summary(name, blocks), fontsize=SMALL, color=colour, va="center")
    return fig


def with_skips(net: nn.Module, size: int, title: str) -> Figure:
    """Draw a network from a slice to its mask, and over it every skip connection that carries something."""
    inputs = net.config["inputs"]
    found = trace(net, torch.zeros(1, inputs, size, size))
    fig, ax = canvas(title)
    step, y = WIDE / (len(found.blocks) + 1.2), 190
    xs = [step * (k + 0.6) for k in range(len(found.blocks) + 1)]
    _row(ax, xs, y, [Block((), (inputs, size, size), None), *found.blocks], BLUE)
    for start, end in found.skips:
        top, into = 300 + 17 * (end - start), xs[end + 1] - step / 2
        ax.plot([xs[start + 1], xs[start + 1], into, into], [290, top, top, 300], color=VERMILLION, lw=2.5)
        arrow(ax, (into, 300), (into, y + 12), colour=VERMILLION, lw=2.5)
    ax.text(30, 62, summary("network", found.blocks), fontsize=SMALL, color=BLUE, va="center")
    carried = ", ".join(" × ".join(map(str, found.blocks[start].shape)) for start, _ in found.skips[::-1])
    ax.text(30, 40, f"skips: {carried or 'none that carries anything'}", fontsize=SMALL, color=VERMILLION, va="center")
    return fig
