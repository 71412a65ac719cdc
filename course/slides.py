"""Slides for a lecture, as SVG in `notebooks/figures/slides`: drawn from the models and from `results.json` alone.

Letters are drawn as paths, since a projector's machine has other fonts; what a slide says stands in its `<title>` and
`<desc>`, and the letters again in comments. The same numbers give the same bytes.
"""

import io
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from course import slides_ideas, teaching
from course.diagram import SMALL, canvas, vae_and_mask, with_skips
from studies import board
from studies.against import OURS, RIVAL
from studies.ladder import into_readme
from studies.tables import verdict
from vaelib.engine.checkpoints import load
from vaelib.engine.files import write_file
from vaelib.pictures.charts import BLUE, GREEN, GREY, VERMILLION
from vaelib.vae import VAE, MaskDecoder

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks" / "figures" / "slides"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": SMALL, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#E4E4E4", "axes.axisbelow": True,
    "svg.fonttype": "path", "svg.hashsalt": "vaelib",
}  # fmt: skip


class Slide(NamedTuple):
    """A title, words for those who cannot see it, what to say with it, and the function that draws it under a title."""

    title: str
    alt: str
    caption: str
    draw: Callable[[str], Figure]


def vae(title):
    """The VAE and the mask decoder of notebooks 03 to 05, by the recipe of the results."""
    latent = board.get("recipe")["latent"]
    return vae_and_mask(VAE(latent=latent), MaskDecoder(latent=latent), title)


def kept(name, title):
    """A contestant of notebook 06, from its committed checkpoint."""
    nets = load(board.CHECKPOINTS / f"{name}.safetensors")[0]
    return with_skips(nets["net"], 64, title) if "net" in nets else vae_and_mask(nets["vae"], nets["mask"], title)


def _intervals(title, rows, label, zero=None, limits=None):
    """A slide of names, each with a mean and its interval, from the top down; (name, interval, words) are the rows."""
    fig, ax = canvas(title)
    panel = fig.add_axes((0.31, 0.15, 0.46, 0.70))
    at = np.arange(len(rows))
    by = {"ahead": GREEN, "level": GREY, "behind": VERMILLION}
    colours = [BLUE if zero is None else by[verdict(gap)] for _, gap, _ in rows]
    for y, colour, (_, gap, words) in zip(at, colours, rows, strict=True):
        panel.plot([gap["low"], gap["high"]], [y, y], color=colour, lw=4, solid_capstyle="butt")
        panel.plot(gap["mean"], y, "o", color=colour, ms=12)
        panel.text(1.04, y, words, transform=panel.get_yaxis_transform(), va="center", fontsize=18)
    if zero is not None:
        panel.axvline(zero, color="black", lw=1.5)
    panel.set_yticks(at, [name for name, _, _ in rows], fontsize=18)
    panel.set(ylim=(len(rows) - 0.5, -0.5), xlim=limits, xlabel=f"{label}: mean over patients and 95% interval")
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    return fig


def ladder(title):
    """Dice of the methods of notebook 05 at 64 x 64, from the results."""
    methods = {name: row["64"]["dice"] for name, row in board.get("methods").items() if name != "empty mask"}
    rows = [(name, dice, f"{dice['mean']:.2f}") for name, dice in methods.items()]
    return _intervals(title, rows, "Dice at 64 × 64", limits=(0, 1.03))


def shifts(title):
    """The spatial VAE minus the U-Net under every shift, from the results."""
    gaps = {name: by[OURS] for name, by in board.get("against")["minus U-Net"].items()}
    rows = [("as they are" if name == "none" else name, gap, f"{gap['mean']:+.3f}  {verdict(gap)}")
            for name, gap in gaps.items()]  # fmt: skip
    return _intervals(title, rows, f"Spatial VAE minus {RIVAL}, Dice", zero=0)


SLIDES = {
    "01_map": Slide(
        "Twelve lessons, and what each builds on",
        "Twelve boxes, one for each notebook, from left to right. Notebooks 00 to 05 form a chain; notebooks 06 to 11 "
        "each follow from notebook 05.",
        "00 to 05 are read in order; after 05, any of the others will do.",
        slides_ideas.lessons_map,
    ),
    "02_rooms": Slide(
        "From a scan to a mask: the rooms of vaelib",
        "Eight boxes in two rows, joined by arrows: from DICOM files over cases, volumes and a pyramid of sizes to "
        "models, their latents, the scores and the mask on the scan.",
        "Each room hands one kind of thing to the next, and imports only rooms before it.",
        slides_ideas.rooms,
    ),
    "03_split": Slide(
        "Patients are split, never slices",
        "Two grids of squares, six patients by ten slices. On the left the colours of training, validation and test "
        "are mixed in every row; on the right each row has one colour.",
        "The neighbour of a test slice is almost the same picture. Notebooks 05 and 10 measure what that does.",
        slides_ideas.split,
    ),
    "04_occupancy": Slide(
        "A coarse mask is a share, not a yes",
        "On the left a piece of a pancreas on a fine grid; on the right the same on a grid four times as coarse, with "
        "the percentage of each coarse pixel that is pancreas.",
        "The sum of the shares is the volume, exactly; a threshold breaks that (notebook 02).",
        slides_ideas.occupancy,
    ),
    "05_vae": Slide(
        "One latent, two decoders, one bar",
        "Blocks of an encoder lead to a latent z; from there one row of blocks leads up to a picture, another down to "
        "a mask. A double bar named detach crosses the way to the mask decoder.",
        "Above each block its output, channels × rows × columns; below it the weights. What the mask decoder learns "
        "never reaches the encoder.",
        vae,
    ),
    "06_loss": Slide(
        "Two terms, and the price between them",
        "The formula of the loss: half the summed squared error plus beta times the KL divergence; beside it, KL of a "
        "unit against its mean, three curves that rise from the middle, higher for smaller deviations.",
        "A mean that moves and a deviation that shrinks cost nats; the picture has to be worth them (notebook 03).",
        slides_ideas.loss,
    ),
    "07_collapse": Slide(
        "Posterior collapse: the loss falls, the latent is empty",
        "Two panels over a wide grey bell, the prior. On the left five narrow bells stand apart; on the right all lie "
        "on the prior, and the KL is zero.",
        "A KL near zero is a latent that says nothing, and no success (notebook 03).",
        slides_ideas.collapse,
    ),
    "08_ladder": Slide(
        "Where is accuracy lost? The control ladder",
        "Mean Dice with an interval for seven methods, from the atlas and the ceiling over PCA, a random encoder, an "
        "autoencoder and the VAE to the bottleneck trained with labels.",
        "The same mask decoder reads each of the five latents. Synthetic patients; notebook 05 explains the rungs.",
        ladder,
    ),
    "09_spatial": Slide(
        "A latent that keeps its place",
        "An encoder that stops at a grid of 16 by 16 places; a decoder for the picture, and a wider one for the mask, "
        "which reads the latents of three slices across a double bar named detach.",
        "No dense layer mixes the places any more. Drawn from the committed checkpoint (notebooks 06 and 07).",
        partial(kept, "06_spatial"),
    ),
    "10_unet": Slide(
        "The rival: a U-Net and its skips",
        "A row of blocks that shrink to 4 by 4 pixels and grow again; four lines lead from the shrinking to the "
        "growing half, over the narrowest place.",
        "What the skips hand across never passes the bottleneck. Drawn from the committed checkpoint (notebook 06).",
        partial(kept, "06_unet"),
    ),
    "11_shifts": Slide(
        "Scanned otherwise: who is ahead?",
        "Difference in Dice, spatial VAE minus U-Net, with intervals, for the test patients as they are and under "
        "eight shifts. Most intervals hold zero; those for contrast phase and field of view lie left of it.",
        "Level is what holds zero. Synthetic patients; notebook 06 shows the shifts.",
        shifts,
    ),
}  # fmt: skip


@matplotlib.rc_context(STYLE)
def figure(slide: Slide) -> Figure:
    """Draw a slide in the style of all."""
    return slide.draw(slide.title)


@matplotlib.rc_context(STYLE)
def svg(slide: Slide, fig: Figure) -> str:
    """A drawn slide as text: no date, no name of a program, letters as paths, its words for a screen reader."""
    fig.savefig(out := io.StringIO(), format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    words = f'<title id="title">{escape(slide.title)}</title>\n <desc id="desc">{escape(slide.alt)}</desc>'
    head, tag, rest = out.getvalue().partition("<svg ")
    opening, end, rest = rest.partition(">")
    return f'{head}{tag}role="img" aria-labelledby="title desc" {opening}{end}\n {words}{rest}'


def table() -> str:
    """The slides in Markdown: number, picture, title, what to say with it."""
    lines = ["| | | slide | to say with it |", "|---|---|---|---|"]
    for name, slide in SLIDES.items():
        picture = f'[<img src="figures/slides/{name}.svg" width="260" alt="{slide.alt}">](figures/slides/{name}.svg)'
        lines.append(f"| {name[:2]} | {picture} | {slide.title} | {slide.caption} |")
    return "\n".join(lines)


def run() -> None:
    """Draw every slide anew, and put their table into the teacher's page."""
    for name, slide in SLIDES.items():
        write_file(FOLDER / f"{name}.svg", svg(slide, figure(slide)))
    into_readme(table(), "slides", teaching.PAGE)
