"""Two pages of the series' formulas and conventions, as PDF: `sheet.toml`, set in two columns of A4.

Numbers come from `results/`. A digest of all that is said stands in the file: a test can tell whether it is theirs.
"""

import hashlib
import io
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from course.places import NOTEBOOKS
from course.quiz import figures
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.pictures.style import BLUE, GREY

DATA, FILE = Path(__file__).with_name("sheet.toml"), NOTEBOOKS / "figures" / "formulas.pdf"
TITLE = "Formulas and conventions"
ABOUT = "Segmenting the pancreas in CT from the latent of a variational autoencoder. Numbers on the right: lessons."
WIDTH, HEIGHT = 8.27, 11.69  # of A4, in inches
MARGIN, GAP, TOP = 0.6, 0.36, 1.06
COLUMN = (WIDTH - 2 * MARGIN - GAP) / 2
STYLE = {
    "font.family": "DejaVu Sans", "mathtext.fontset": "stix", "pdf.fonttype": 42, "text.hinting": "none",
    "text.parse_math": True,
}  # fmt: skip
DARK, MINUS = "#1c2430", re.compile(r"(?<!\w)-(?=\d)")


class Pen:
    """Sets text down a column of a page, and knows how far down it is."""

    def __init__(self, fig: Figure, left: float):
        self.fig, self.left, self.y, self.canvas = fig, left, TOP, FigureCanvasAgg(fig)

    def measure(self, text: str, **how: object) -> tuple[float, float]:
        """Measure width and height of a text, in inches."""
        made = self.fig.text(0, 0, text, **how)
        box = made.get_window_extent(self.canvas.get_renderer())
        made.remove()
        return box.width / self.fig.dpi, box.height / self.fig.dpi

    def wrap(self, text: str, **how: object) -> str:
        """Break a text into lines that fit the column."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            fits = self.measure(longer, **how)[0] <= COLUMN
            lines = [*lines[:-1], longer] if fits else [*lines, word]
        return "\n".join(lines)

    def write(self, text: str, after: float, **how: object) -> None:
        """Set a text below what is there.

        Raises
        ------
        InputError
            If it is wider than the column, or runs off the page.
        """
        width, height = self.measure(text, **how)
        if width > COLUMN or self.y + height > HEIGHT - 0.4:
            raise InputError(f"{DATA.name}: {text}: {width:.2f} inches wide, down to {self.y + height:.2f}; "
                             f"there is room for {COLUMN:.2f}, down to {HEIGHT - 0.4:.2f}")  # fmt: skip
        self.fig.text(self.left / WIDTH, 1 - self.y / HEIGHT, text, va="top", **how)
        self.y += height + after

    def line(self, color: str, wide: float) -> None:
        """Draw a line across the column."""
        x, y = [self.left / WIDTH, (self.left + COLUMN) / WIDTH], 1 - self.y / HEIGHT
        self.fig.add_artist(Line2D(x, [y, y], color=color, linewidth=wide))


class Block(NamedTuple):
    """A block of the sheet: its page and column, from 1; its title, its lessons, its rows of name, TeX and note."""

    at: list[int]
    title: str
    lesson: str
    rows: list[list[str]]

    def draw(self, pen: Pen) -> None:
        """Set the block down a column."""
        right = (pen.left + COLUMN) / WIDTH
        pen.fig.text(right, 1 - pen.y / HEIGHT, self.lesson, ha="right", va="top", fontsize=8, color=GREY)
        pen.write(self.title, 0.05, fontsize=9.5, fontweight="bold", color=BLUE)
        pen.line(BLUE, 0.8)
        pen.y += 0.07
        for name, tex, note in self.rows:
            pen.write(name, 0.06, fontsize=8, fontweight="bold", color=DARK)
            if tex:
                pen.write(tex, 0.06, fontsize=11.2, color="black")
            said = MINUS.sub("\u2212", note)
            pen.write(pen.wrap(said, fontsize=7.5), 0.115, fontsize=7.5, color="#4b5563", linespacing=1.25)
        pen.y += 0.1


def page(number: int, blocks: list[Block]) -> Figure:
    """Set one page."""
    fig = Figure((WIDTH, HEIGHT), dpi=288)  # fine enough to measure letters
    fig.text(MARGIN / WIDTH, 1 - 0.5 / HEIGHT, TITLE, va="top", fontsize=15, fontweight="bold", color=DARK)
    fig.text(1 - MARGIN / WIDTH, 1 - 0.56 / HEIGHT, f"{number} / 2", va="top", ha="right", fontsize=9, color=GREY)
    fig.text(MARGIN / WIDTH, 1 - 0.79 / HEIGHT, ABOUT, va="top", fontsize=7.6, color=GREY)
    for column in (1, 2):
        pen = Pen(fig, MARGIN + (column - 1) * (COLUMN + GAP))
        for block in blocks:
            if block.at == [number, column]:
                block.draw(pen)
    return fig


def blocks() -> list[Block]:
    """Read the blocks, with the numbers of the results in them."""
    text = figures(DATA.read_text(encoding="utf-8"))
    return [Block(**block) for block in tomllib.loads(text)["block"]]


def digest(of: list[Block]) -> str:
    """Compute a hash of the words and formulas of a sheet, whatever draws its letters."""
    return hashlib.sha256(repr(of).encode()).hexdigest()


def draw() -> bytes:
    """Set both pages, and return them as PDF."""
    out, found = io.BytesIO(), blocks()
    about = {"Title": TITLE, "Keywords": digest(found), "Creator": None, "Producer": None, "CreationDate": None}
    with matplotlib.rc_context(STYLE), PdfPages(out, metadata=about) as pdf:
        for number in (1, 2):
            pdf.savefig(page(number, found))
    return out.getvalue()


def run() -> None:
    """Write the sheet where the pages find it, unless it says the same already."""
    if not FILE.exists() or digest(blocks()).encode() not in FILE.read_bytes():
        write_file(FILE, draw())
