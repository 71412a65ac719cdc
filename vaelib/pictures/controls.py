"""The box that every slider of the tutorial stands in: controls, a picture of one figure, and a caption that follow.

Three things that ipywidgets 8.1 and JupyterLab leave out for those who work by keyboard or by ear are mended here: the
handle of a slider has no name; an image takes no alternative text, and with a tooltip is not even shown; and keys
pressed in a list are taken for commands to the notebook.
"""

import html

import ipywidgets as ui
from traitlets import Unicode

from vaelib.pictures.charts import png

LOOK = {"layout": ui.Layout(width="440px"), "style": {"description_width": "130px"}}
SQUARE = '<span style="display: inline-block; width: 1em; height: 1em; border: 1px solid; background: {}"></span>'
# Runs in the page: each slider, and the number beside it, is called by what its label says, also when that changes, and
# JupyterLab takes no key that is pressed in a control.
SCRIPT = """
const mend = () => {
  document.querySelectorAll(".vaelib-board .widget-slider").forEach((slider) => {
    const label = slider.querySelector(".widget-label").textContent;
    slider.querySelectorAll(".noUi-handle, .widget-readout").forEach((part) => {
      if (part.ariaLabel !== label) part.ariaLabel = label;
      if (part.isContentEditable && part.role !== "textbox") part.role = "textbox";
    });
  });
  const controls = ":is(select, input, button, .noUi-handle, .widget-readout)";
  document.querySelectorAll(`.vaelib-board ${controls}`).forEach((part) => {
    part.dataset.lmSuppressShortcuts = "true";
  });
};
if (!window.vaelibBoards) {
  window.vaelibBoards = new MutationObserver(mend);
  window.vaelibBoards.observe(document.body, {subtree: true, childList: true});
}
mend();
"""


class Picture(ui.Image):
    """An image whose tooltip is its alternative text: the page has it as the title of the `img`, and so as its name."""

    description = Unicode("").tag(sync=True)  # the page asks for it before it shows a tooltip


class Board(ui.VBox):
    """Controls, buttons, a picture and a caption in words that follow each other.

    `controls` and `buttons` are widgets by name, `picture` an image, `caption` a line of HTML. ``draw(**values)``,
    given the controls' values by name, updates the artists of `fig` and returns the caption; each of `buttons` is a
    function that returns the values to set. The picture's alternative text is `alt` and the caption; `key` says what
    its colours mean.
    """

    def __init__(self, fig, controls, draw, alt, buttons=None, key=None):
        super().__init__()
        self.fig, self.controls, self.draw, self.alt, self.quiet = fig, controls, draw, alt, False
        width = f"{fig.get_figwidth() * fig.dpi:.0f}px"
        self.picture = Picture(format="png", layout=ui.Layout(width=width, max_width="100%"))
        self.caption = ui.HTML()
        key = "&emsp;".join(f"{SQUARE.format(colour)} {html.escape(name)}" for name, colour in (key or {}).items())
        self.buttons = {name: ui.Button(description=name, tooltip=name) for name in buttons or {}}
        for name, button in self.buttons.items():
            button.on_click(lambda _, values=buttons[name]: self.set(**values()))
        for control in controls.values():
            control.observe(self.redraw, "value")
        self.add_class("vaelib-board")
        script = {"output_type": "display_data", "data": {"application/javascript": SCRIPT}, "metadata": {}}
        mended = ui.Output(outputs=(script,), layout=ui.Layout(height="0", margin="0"))
        row, below = [ui.HBox(list(self.buttons.values()))] if buttons else [], [ui.HTML(key)] if key else []
        self.children = [*controls.values(), *row, self.picture, *below, mended, self.caption]
        self.redraw()

    def redraw(self, _=None):
        """Bring the picture, its alternative text and its caption up to date with the controls."""
        if not self.quiet:
            text = self.draw(**{name: control.value for name, control in self.controls.items()})
            with self.picture.hold_sync():
                self.picture.value, self.picture.tooltip = png(self.fig, fast=True), f"{self.alt}: {text}"
            self.caption.value = f'<span role="status">{html.escape(text)}</span>'

    def set(self, **values):
        """Move several controls, and draw once."""
        self.quiet = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self.quiet = False
        self.redraw()


def slider(name, low, high, value, step=1):
    """A slider of whole numbers, or of numbers with two decimals if `step` is not whole."""
    if isinstance(step, int):
        return ui.IntSlider(value, min=low, max=high, step=step, description=name, **LOOK)
    return ui.FloatSlider(value, min=low, max=high, step=step, description=name, readout_format=".2f", **LOOK)


def choice(name, options):
    """A list to choose from: of names, or of values by name."""
    return ui.Dropdown(options=options, description=name, **LOOK)
