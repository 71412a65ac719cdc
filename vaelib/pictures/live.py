"""The widget of the sliders: an ES module that draws in the browser, and what it needs, as text in the page.

The module, `web/*.js` as one, is written once for all the places where sliders are shown: JupyterLab and its like,
through anywidget, the pages of the lessons, the book, the explorer. It is given numbers, not pictures: the weights of
the decoders, or the scan. So a slider asks no kernel, and answers where there is none.

For slices, the files of ipyniivue 2.4 were looked at: 5 MB of script that draws by WebGL2, more than a page of ours is
to carry, and a second way to draw beside the latents and the threshold, which it does not do. Ours is 60 kB, needs no
WebGL, has native sliders with names, and is written into pages that are read from a disk.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from matplotlib.figure import Figure

from vaelib.engine.errors import InputError
from vaelib.pictures.panels import PREDICTION, TRUTH, VERDICTS
from vaelib.pictures.style import png

try:
    import anywidget
    from traitlets import Dict
except ImportError as error:
    raise InputError(f"{error.name} is not installed, which sliders need: pip install 'vaelib[notebooks]'") from None

WEB = Path(__file__).with_name("web")
MODULE = "\n".join((WEB / f"{name}.js").read_text(encoding="utf-8") for name in ("network", "paint", "boards"))
STYLE = (WEB / "live.css").read_text(encoding="utf-8")
# The module once a page; it shows each board in the element before its data, and one that fails leaves the others.
MOUNT = """
for (const data of document.querySelectorAll("script.vaelib-data")) {
  const { content, at } = JSON.parse(data.textContent);
  live.show(data.previousElementSibling, content, at);
}"""
COLOURS = {"truth": TRUTH, "prediction": PREDICTION, "verdicts": VERDICTS}


class Live(anywidget.AnyWidget):
    """Sliders that are drawn in the browser, and a picture of where they start.

    Parameters
    ----------
    content : dict
        What the module reads: the kind of board, and arrays as `network.packed` packs them.
    at : dict
        The values of controls by name.
    still : function
        ``still(**at)`` draws the same as a figure, for where there is no browser.
    """

    _esm, _css = MODULE, STYLE
    content, at = Dict().tag(sync=True), Dict().tag(sync=True)

    def __init__(self, content: dict[str, Any], at: dict[str, Any], still: Callable[..., Figure]):
        self.still, self.drawn = still, {}
        super().__init__(content=content | {"colours": COLOURS}, at=at)

    def set(self, **values: Any) -> None:
        """Move several controls, here and in the page."""
        self.at, self.drawn = self.at | values, {}

    @property
    def fig(self) -> Figure:
        """The figure of where `set` left the controls; the page never says where it moved them."""
        return self.drawn.get("fig") or self.drawn.setdefault("fig", self.still(**self.at))

    @property
    def picture(self) -> SimpleNamespace:
        """That figure as PNG: ``picture.value``."""
        return SimpleNamespace(value=png(self.fig, fast=True))

    def __repr__(self) -> str:
        """Say what stands here where no widget can."""
        return f"Sliders, drawn in the browser: {self.content['alt']}"


def module() -> str:
    """Write the module and its style, once a page, after all that `place` wrote."""
    script = MODULE.replace("export default", "const live =") + MOUNT
    return f'<style>{STYLE}</style>\n<script type="module">\n{script}\n</script>'


def place(content: dict[str, Any], at: dict[str, Any]) -> str:
    """Write where sliders stand in a page, and their data."""
    data = json.dumps({"content": content, "at": at}).replace("<", "\\u003c")
    words = "<noscript>These sliders need JavaScript.</noscript>"
    return f'<div>{words}</div><script type="application/json" class="vaelib-data">{data}</script>'
