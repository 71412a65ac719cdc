"""Sliders over the pictures of `vaelib.plots`: the same panels, updated in place and never rebuilt.

Each function returns a `Board`, a box of ipywidgets. Every control works by keyboard (Tab, then the arrows). The
picture is a PNG of one figure that lives as long as its board, so that a notebook run unattended gives the same cells.
"""

import html

import ipywidgets as ui
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vaelib import plots
from vaelib.errors import InputError
from vaelib.plots import numbers

WINDOWS = {"abdomen (W 400, L 40)": (-160, 240), "soft tissue (W 350, L 50)": (-125, 225)}  # HU, lowest and highest
WINDOWS |= {"bone (W 1800, L 400)": (-500, 1300), "lung (W 1500, L −600)": (-1350, 150)}
ORIGINAL = 0.2  # the threshold of the original
LOOK = {"layout": ui.Layout(width="440px"), "style": {"description_width": "130px"}}


class Board(ui.VBox):
    """Controls, buttons, a picture and a caption in words that follow each other.

    `controls` and `buttons` are widgets by name, `picture` an image, `caption` a line of HTML. ``draw(**values)``,
    given the controls' values by name, updates the panels of `fig` and returns the caption; each of `buttons` is a
    function that returns the values to set.
    """

    def __init__(self, fig, controls, draw, alt, buttons=None):
        super().__init__()
        self.fig, self.controls, self.draw, self.quiet = fig, controls, draw, False
        width = f"{fig.get_figwidth() * fig.dpi:.0f}px"
        self.picture = ui.Image(format="png", tooltip=alt, layout=ui.Layout(width=width, max_width="100%"))
        self.caption = ui.HTML()
        self.buttons = {name: ui.Button(description=name, tooltip=name) for name in buttons or {}}
        for name, button in self.buttons.items():
            button.on_click(lambda _, values=buttons[name]: self.set(**values()))
        for control in controls.values():
            control.observe(self.redraw, "value")
        self.children = [*controls.values(), ui.HBox(list(self.buttons.values())), self.picture, self.caption]
        self.redraw()

    def redraw(self, _=None):
        """Bring the picture and its caption up to date with the controls."""
        if not self.quiet:
            text = self.draw(**{name: control.value for name, control in self.controls.items()})
            self.picture.value = plots.png(self.fig, fast=True)
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


def _panels(*looks):
    fig = Figure(figsize=(4.4 * len(looks), 4.7), dpi=plots.DPI)
    FigureCanvasAgg(fig)
    boxes = [(k / len(looks) + 0.005, 0.01, 1 / len(looks) - 0.01, 0.91) for k in range(len(looks))]
    return fig, [plots.Panel(fig.add_axes(box), **look) for box, look in zip(boxes, looks, strict=True)]


def _slider(name, low, high, value, step=None):
    if step is None:
        return ui.IntSlider(value, min=low, max=high, description=name, **LOOK)
    return ui.FloatSlider(value, min=low, max=high, step=step, description=name, readout_format=".2f", **LOOK)


def _dice(prediction, truth):
    total = prediction.sum() + truth.sum()  # by hand: `metrics.dice` is too slow to follow a slider
    return 2 * (prediction & truth).sum() / total if total else 1.0


def slice_browser(scan, mask=None, spacing=(1, 1, 1), prediction=None):
    """Leaf through a scan in three planes at true aspect, with window presets and overlays.

    Parameters
    ----------
    scan : array (S, H, W), canonical, in HU
    mask, prediction : arrays (S, H, W), optional
        The truth, outlined, and a prediction from 0 to 1, filled.
    spacing : (dz, dy, dx) in mm
    """
    scan, layers = np.asarray(scan), {"mask": mask, "prediction": prediction}
    layers = {name: np.asarray(layer) for name, layer in layers.items() if layer is not None}
    if scan.ndim != 3 or any(layer.shape != scan.shape for layer in layers.values()):
        found = ", ".join(f"{name} {layer.shape}" for name, layer in ({"scan": scan} | layers).items())
        raise InputError(f"slice_browser: found {found}; pass a scan (S, H, W), and the others on its grid")
    middle = np.argwhere(mask).mean(axis=0) if mask is not None and np.any(mask) else np.divide(scan.shape, 2)
    place = dict(zip(plots.PLANES, middle.astype(int).tolist(), strict=True))  # each plane remembers its slice
    controls = {
        "plane": ui.Dropdown(options=list(plots.PLANES), description="plane", **LOOK),
        "slice": _slider("slice", 0, len(scan) - 1, place["axial"]),
        "window": ui.Dropdown(options=WINDOWS, description="window", **LOOK),
        **{name: ui.Checkbox(True, description=f"show the {name}", **LOOK) for name in layers},
    }
    if layers:
        controls["opacity"] = _slider("overlay opacity", 0, 1, 0.6, 0.05)
    fig, (panel,) = _panels({})

    def draw(plane, window, opacity=0.6, **values):
        axis, (down, across), letters = plots.PLANES[plane]
        at = place[plane] = values["slice"]
        views = {name: plots.cut(layer, plane, at) for name, layer in layers.items() if values[name]}
        panel.image.set_clim(window)
        panel.fill.set_alpha(opacity)
        panel.edge.set_alpha(opacity)
        text = f"{plane}, {('slice', 'row', 'column')[axis]} {at} of 0 to {scan.shape[axis] - 1}"
        look = {"aspect": spacing[down] / spacing[across], "letters": letters, "title": text}
        panel.draw(plots.cut(scan, plane, at), views.get("mask"), views.get("prediction"), **look)
        return text + "".join(f"; {name}: {(view >= 0.5).sum()} pixels" for name, view in views.items())

    board = Board(fig, controls, draw, "one slice of the scan, chosen by the sliders")

    def turn(change):
        board.quiet = True  # the slider's range changes with the plane; draw once, when both fit
        controls["slice"].max = scan.shape[plots.PLANES[change["new"]][0]] - 1
        board.set(slice=place[change["new"]])

    controls["plane"].unobserve(board.redraw, "value")
    controls["plane"].observe(turn, "value")
    return board


def latent_explorer(decode, z, directions, *, names=None, truth=None, toward=None, seed=0):
    """Move through the latent space, and watch reconstruction and mask follow.

    Parameters
    ----------
    decode : callable
        ``decode(z) -> (reconstruction, probability)``, from (D,) to two arrays (H, W), or (1, 1, H, W), of 0 to 1.
    z : array (D,)
        Where to start.
    directions : array (K, D)
        One slider per row; the row is a step of one standard deviation (or of one raw unit).
    names : sequence of K str, optional
    truth : array (H, W), optional
        The true mask, to be outlined and scored by Dice.
    toward : array (D,), optional
        Another latent to morph to, such as another patient's.
    """
    z = numbers(z, "latent_explorer: z", (None,))
    directions = numbers(directions, "latent_explorer: directions", (None, len(z)))
    keys = [f"direction {k + 1}" for k in range(len(directions))]
    if names is not None and len(names) != len(keys):
        raise InputError(f"latent_explorer: {len(names)} names for {len(keys)} directions; pass one for each")
    if truth is not None:
        truth = numbers(truth, "latent_explorer: truth", np.squeeze(decode(z)[1]).shape) >= 0.5
    controls = {key: _slider(name, -3, 3, 0, 0.1) for key, name in zip(keys, names or keys, strict=True)}
    if toward is not None:
        toward = numbers(toward, "latent_explorer: toward", z.shape)
        controls["morph"] = _slider("morph", 0, 1, 0, 0.05)
    controls["threshold"] = _slider("threshold", 0, 1, ORIGINAL, 0.01)
    fig, (left, right) = _panels({}, {})

    def draw(threshold, morph=0, **steps):
        here = z + (morph * (toward - z) if morph else 0) + np.array([steps[key] for key in keys]) @ directions
        image, probability = (np.squeeze(a) for a in decode(here))
        found = probability >= threshold
        score = "" if truth is None else f", Dice {_dice(found, truth):.2f}"
        left.draw(image, letters="RLAP", title="reconstruction")
        right.draw(image, truth, found, title=f"mask at {threshold:.2f}{score}")
        moved = np.linalg.norm(here - z)
        return f"Mask at {threshold:.2f}: {found.sum()} pixels{score}. Moved {moved:.2f} from the start."

    rng = np.random.default_rng(seed)
    buttons = {
        "reset": lambda: dict.fromkeys(controls, 0) | {"threshold": ORIGINAL},
        "random draw": lambda: dict(zip(keys, rng.normal(size=len(keys)).clip(-3, 3).round(1), strict=True)),
    }
    return Board(fig, controls, draw, "the reconstruction from the latent and, beside it, the mask", buttons)


def threshold_explorer(image, probability, truth):
    """Move the threshold on a probability map: the map on the left; found, invented and missed on the right.

    All three are (H, W), or (S, H, W), which adds a slider for the slice and the Dice of the whole.
    """
    names = ("image", "probability", "truth")
    image, probability, truth = (np.asarray(a) for a in (image, probability, truth))
    if image.ndim not in (2, 3) or not image.shape == probability.shape == truth.shape:
        found = ", ".join(f"{n} {a.shape}" for n, a in zip(names, (image, probability, truth), strict=True))
        raise InputError(f"threshold_explorer: found {found}; pass three of one shape, (H, W) or (S, H, W)")
    image, probability, truth = (a.reshape(-1, *a.shape[-2:]) for a in (image, probability, truth))
    truth = truth >= 0.5
    window = dict(zip(("vmin", "vmax"), plots.limits(image), strict=True))
    fig, (left, right) = _panels(window, window | {"fill": "verdicts", "edge": "white", "opacity": 0.85})
    controls = {"threshold": _slider("threshold", 0, 1, ORIGINAL, 0.01)}
    if len(image) > 1:
        controls["slice"] = _slider("slice", 0, len(image) - 1, int(truth.sum(axis=(1, 2)).argmax()))

    def draw(threshold, **values):
        k = values.get("slice", 0)
        found = probability[k] >= threshold
        left.draw(image[k], truth[k], probability[k], letters="RLAP", title="probability and truth")
        colours = plots.verdict(truth[k], found)
        right.draw(image[k], truth[k], colours, title=f"cut at {threshold:.2f}, Dice {_dice(found, truth[k]):.2f}")
        whole = f" Dice of all slices {_dice(probability >= threshold, truth):.2f}." if len(image) > 1 else ""
        counts = ", ".join(f"{(colours == v).sum()} {name}" for v, name in enumerate(plots.VERDICTS, start=1))
        return f"Dice of this slice {_dice(found, truth[k]):.2f}: {counts}.{whole}"

    return Board(fig, controls, draw, "a probability map, and what is found, invented and missed at the threshold")
