"""Sliders in a page that no kernel and no network stand behind: the module and its data, written into the page."""

from collections.abc import Callable

from nbformat import NotebookNode
from nbformat.v4 import new_output

from vaelib.pictures.live import module, place

VIEW = "application/vnd.jupyter.widget-view+json"  # of an output that is a widget
MARK = '<div class="vaelib-here" id="sliders-{}"></div>'
STATES = "application/vnd.jupyter.widget-state+json"


def replaced(nb: NotebookNode, instead: Callable[[NotebookNode], str], states: NotebookNode | None = None) -> list[str]:
    """Put something else in the place of each widget of a notebook: a mark where its state is kept, or else words.

    Parameters
    ----------
    nb : NotebookNode
        Changed in place.
    instead : function
        What stands where no state is kept, as HTML, from the cell.
    states : NotebookNode, optional
        The same notebook, executed, whose states are taken; by default `nb` itself.

    Returns
    -------
    list of str
        What belongs at the marks, in order: `put_in` puts it there.
    """
    states = states or nb
    kept = states.metadata.get("widgets", {}).get(STATES, {}).get("state", {})
    shown = {cell.source: [o["data"][VIEW]["model_id"] for o in cell.get("outputs", []) if VIEW in o.get("data", {})]
             for cell in states.cells}  # fmt: skip
    found: list[str] = []
    for cell in nb.cells:
        models = iter(shown.get(cell.source, []))
        for n, output in enumerate(cell.get("outputs", [])):
            if VIEW in output.get("data", {}):
                state = kept.get(next(models, ""), {}).get("state", {})
                if "content" in state:
                    found.append(place(state["content"], state["at"]))
                words = MARK.format(len(found) - 1) if "content" in state else instead(cell)
                cell.outputs[n] = new_output("display_data", {"text/html": words})
    return found


def put_in(page: str, places: list[str]) -> str:
    """Put what belongs there at the marks of a page, and the module behind the last."""
    for n, text in enumerate(places):
        page = page.replace(MARK.format(n), text + (module() if n == len(places) - 1 else ""))
    return page
