"""The box that every slider stands in: controls, a picture, and a caption that follow each other.

Three things that ipywidgets 8.1 and JupyterLab leave out for those who work by keyboard or by ear are mended here: the
handle of a slider has no name; an image takes no alternative text, and with a tooltip is not even shown; and keys
pressed in a list are taken for commands to the notebook.
"""

import html
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import ipywidgets as ui
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from traitlets import Unicode

from vaelib.pictures.style import png

LOOK = {"layout": ui.Layout(width="440px"), "style": {"description_width": "130px"}}
SQUARE = '<span style="display: inline-block; width: 1em; height: 1em; border: 1px solid; background: {}"></span>'
Named: TypeAlias = dict[str, Any] | None
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


class Picture(ui.Image):
    """An image whose tooltip is its alternative text: the page has it as the title of the `img`, and so as its name."""

    description = Unicode("").tag(sync=True)  # the page asks for it before it shows a tooltip


class Board(ui.VBox):
    """Controls, buttons, a picture of one figure and a caption in words.

    Parameters
    ----------
    fig : Figure
    controls : dict of str -> widget
    draw : function
        ``draw(**values)``, given the controls' values by name, updates the artists of `fig` and returns the caption.
    alt : str
        The picture's alternative text is this and the caption.
    buttons : dict of str -> function, optional
        Each returns the values to set, by the name of the control.
    key : dict of str -> colour, optional
        What the colours mean.
    """

    def __init__(self, fig: Figure, controls: dict, draw: Callable, alt: str, buttons: Named = None, key: Named = None):
        super().__init__()
        FigureCanvasAgg(fig)
        self.fig, self.controls, self.draw, self.alt, self.quiet = fig, controls, draw, alt, False
        width = f"{fig.get_figwidth() * fig.dpi:.0f}px"
        self.picture = Picture(format="png", layout=ui.Layout(width=width, max_width="100%"))
        self.caption = ui.HTML()
        words = "&emsp;".join(f"{SQUARE.format(colour)} {html.escape(name)}" for name, colour in (key or {}).items())
        self.buttons = {name: ui.Button(description=name, tooltip=name) for name in buttons or {}}
        for name, values in (buttons or {}).items():
            self.buttons[name].on_click(lambda _, values=values: self.set(**values()))
        for control in controls.values():
            control.observe(self.redraw, "value")
        self.add_class("vaelib-board")
        script = {"output_type": "display_data", "data": {"application/javascript": SCRIPT}, "metadata": {}}
        mended = ui.Output(outputs=(script,), layout=ui.Layout(height="0", margin="0"))
        row, below = [ui.HBox(list(self.buttons.values()))] if buttons else [], [ui.HTML(words)] if key else []
        self.children = [*controls.values(), *row, self.picture, *below, mended, self.caption]
        self.redraw()

    def redraw(self, _: Any = None) -> None:
        """Bring the picture, its alternative text and its caption up to date with the controls."""
        if not self.quiet:
            text = self.draw(**{name: control.value for name, control in self.controls.items()})
            with self.picture.hold_sync():
                self.picture.value, self.picture.tooltip = png(self.fig, fast=True), f"{self.alt}: {text}"
            self.caption.value = f'<span role="status">{html.escape(text)}</span>'

    def set(self, **values: Any) -> None:
        """Move several controls, and draw once."""
        self.quiet = True
        try:
            for name, value in values.items():
                control = self.controls[name]
                control.value = as_in_page(control, value) if isinstance(control, ui.FloatSlider) else value
        finally:
            self.quiet = False
        self.redraw()


def slider(name: str, low: float, high: float, value: float, step: float = 1) -> ui.IntSlider | ui.FloatSlider:
    """Make a slider of whole numbers, or of numbers with two decimals if `step` is not whole."""
    kind, look = (ui.IntSlider, LOOK) if isinstance(step, int) else (ui.FloatSlider, LOOK | {"readout_format": ".2f"})
    made = kind(value, min=low, max=high, step=step, description=name, **look)
    made.value = as_in_page(made, value) if isinstance(made, ui.FloatSlider) else value
    return made


def as_in_page(slider: ui.FloatSlider, value: float) -> float:
    """Round a value as the slider in the page does, which would otherwise send its own rounding back as a move.

    noUiSlider keeps a value as whole steps in percent of the range: of 0.1 between -3 and 3 it makes
    0.10000000000000009. Sent back, that is one more picture for each slider; and where it comes late, after the next
    press of a button, it undoes that.
    """
    width = slider.max - slider.min
    step = 100 * slider.step / width
    percent = math.floor((value - slider.min) * 100 / width / step + 0.5) * step
    return slider.max if percent >= 100 else percent * width / 100 + slider.min


def choice(name: str, options: list[str] | dict[str, Any]) -> ui.Dropdown:
    """Make a list to choose from: of names, or of values by name."""
    return ui.Dropdown(options=options, description=name, **LOOK)
