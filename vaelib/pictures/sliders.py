"""Sliders over the pictures of `vaelib.pictures.panels`: the same panels, updated in place and never rebuilt.

Each function returns a `Board`, a box of ipywidgets. Every control works by keyboard (Tab, then the arrows). The
picture is a PNG of one figure that lives as long as its board, so that a notebook run unattended gives the same cells.
"""

import contextlib

import ipywidgets as ui
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vaelib import latent
from vaelib.engine.errors import InputError
from vaelib.pictures import charts, panels
from vaelib.pictures.charts import numbers
from vaelib.pictures.controls import LOOK, Board, choice, slider

WINDOWS = {"abdomen (W 400, L 40)": (-160, 240), "soft tissue (W 350, L 50)": (-125, 225)}  # HU, lowest and highest
WINDOWS |= {"bone (W 1800, L 400)": (-500, 1300), "lung (W 1500, L −600)": (-1350, 150)}
COLOURS = {"mask": panels.TRUTH, "prediction": panels.PREDICTION}
ORIGINAL = 0.2  # the threshold of the original


def _panels(*looks):
    side = 4.4 if len(looks) == 1 else 3.7  # inches: a slider waits for every pixel
    fig = Figure(figsize=(side * len(looks), side + 0.3), dpi=charts.DPI)
    FigureCanvasAgg(fig)
    boxes = [(k / len(looks) + 0.005, 0.01, 1 / len(looks) - 0.01, 0.91) for k in range(len(looks))]
    made = [panels.Panel(fig.add_axes(box), **look) for box, look in zip(boxes, looks, strict=True)]
    for panel in made:
        panel.image.set_interpolation_stage("data")  # resample HU, not colours: half the time at 512 x 512
        panel.ax.set_axis_off()
    return fig, made


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
    place = dict(zip(panels.PLANES, middle.astype(int).tolist(), strict=True))  # each plane remembers its slice
    controls = {
        "plane": choice("plane", list(panels.PLANES)),
        "slice": slider("slice", 0, len(scan) - 1, place["axial"]),
        "window": choice("window", WINDOWS),
        **{name: ui.Checkbox(True, description=f"show the {name}", **LOOK) for name in layers},
    }
    if layers:
        controls["opacity"] = slider("overlay opacity", 0, 1, 0.6, 0.05)
    fig, (panel,) = _panels({})

    def draw(plane, window, opacity=0.6, **values):
        axis, (down, across), letters = panels.PLANES[plane]
        at = place[plane] = values["slice"]
        views = {name: panels.cut(layer, plane, at) for name, layer in layers.items() if values[name]}
        panel.image.set_clim(window)
        panel.fill.set_alpha(opacity)
        panel.edge.set_alpha(opacity)
        text = f"{plane}, {('slice', 'row', 'column')[axis]} {at} of 0 to {scan.shape[axis] - 1}"
        look = {"aspect": spacing[down] / spacing[across], "letters": letters, "title": text}
        panel.draw(panels.cut(scan, plane, at), views.get("mask"), views.get("prediction"), **look)
        return text + "".join(f"; {name}: {(view >= 0.5).sum()} pixels" for name, view in views.items())

    colours = {name: COLOURS[name] for name in layers}
    board = Board(fig, controls, draw, "one slice of the scan, chosen by the sliders", key=colours)

    def turn(change):
        board.quiet = True  # the slider's range changes with the plane; draw once, when both fit
        controls["slice"].max = scan.shape[panels.PLANES[change["new"]][0]] - 1
        board.set(slice=place[change["new"]])

    controls["plane"].unobserve(board.redraw, "value")
    controls["plane"].observe(turn, "value")
    return board


def _axes(z, components):
    """Steps through the latent space by the name of their kind: dicts from a slider's description to (D,)."""
    units = np.argsort(-z.var(axis=0), kind="stable")[:components]
    principal = {f"direction {k}": step for k, step in enumerate(latent.steps(latent.pca(z, components)), start=1)}
    return {"principal directions": principal, "raw units": {f"unit {k}": np.eye(z.shape[1])[k] for k in units}}


@contextlib.contextmanager
def _one_thread():
    """For one slice: several threads would wait for each other, on a busy machine for half a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def latent_explorer(model, z, *, places=None, truth=None, components=6, seed=0):
    """Move through the latent space, and watch reconstruction and mask follow.

    The outline is the true mask of the slice "from", once morph reaches a half that of "to". Between the two nothing
    was scanned, so that no mask is true there: the caption then gives the Dice against both, each by its name.

    Parameters
    ----------
    model : pair of modules
        ``(vae.decoder, mask)``: from a latent to the picture, and to the pancreas.
    z : array (N, D)
        An encoded set. The sliders move its leading principal directions, or its units of largest variance.
    places : dict from str to int, optional
        Rows of `z` to go from and to, by name; by default five, evenly spaced.
    truth : array (N, H, W), optional
        The true masks of those rows, to be outlined and scored by Dice.
    components : int
        How many directions or units have a slider.
    """
    decoder, mask = model
    z = numbers(z, "latent_explorer: z", (None, None))
    places = places or {f"slice {k}": k for k in sorted({(2 * i + 1) * len(z) // 10 for i in range(5)})}
    if not all(0 <= row < len(z) for row in places.values()):
        raise InputError(f"latent_explorer: found the places {places}; pass rows of z, 0 to {len(z) - 1}")
    if not 1 <= components <= min(z.shape):
        raise InputError(f"latent_explorer: found {components} components; z {z.shape} has 1 to {min(z.shape)}")
    if truth is not None:
        size = latent.decode(mask, z[:1]).shape[-2:]
        truth = numbers(truth, "latent_explorer: truth", (len(z), *size)) >= 0.5
    axes = _axes(z, components)
    kind, *_ = axes
    sliders = {f"slider {k}": slider(name, -3, 3, 0, 0.1) for k, name in enumerate(axes[kind], start=1)}
    controls = {
        "from": choice("from", list(places)),
        "to": choice("to", list(places)),
        "morph": slider("morph", 0, 1, 0, 0.05),
        "sliders move": choice("sliders move", list(axes)),
        **sliders,
        "threshold": slider("threshold", 0, 1, ORIGINAL, 0.01),
    }
    controls["to"].value = list(places)[-1]
    fig, (left, right) = _panels({}, {})

    def draw(threshold, morph, **values):
        ends, steps = [values["from"], values["to"]], [values[key] for key in sliders]
        a, b = (z[places[end]] for end in ends)
        here = a + morph * (b - a) + steps @ np.array([*axes[values["sliders move"]].values()])
        with _one_thread():
            image, probability = (latent.decode(module, here[None])[0, 0] for module in (decoder, mask))
        found, near = probability >= threshold, ends[morph >= 0.5]
        scores = []
        if truth is not None:
            ends = [near] if morph in (0, 1) else ends
            scores = [f"Dice {_dice(found, truth[places[end]]):.2f} against {end}" for end in ends]
        left.draw(image, letters="RLAP", title="reconstruction")
        outlined = f", outline: {near}" if scores else ""
        right.draw(image, truth[places[near]] if scores else None, found, title=f"mask at {threshold:.2f}{outlined}")
        moved = np.linalg.norm(here - z[places[near]])
        between = "" if len(scores) < 2 else " Between the two nothing was scanned: neither mask is true here."
        return f"Mask of {', '.join([f'{found.sum()} pixels', *scores])}. Latent {moved:.2f} away from {near}.{between}"

    rng = np.random.default_rng(seed)
    buttons = {
        "reset": lambda: dict.fromkeys(["morph", *sliders], 0) | {"threshold": ORIGINAL},
        "random draw": lambda: dict(zip(sliders, rng.normal(size=components).clip(-3, 3).round(1), strict=True)),
    }
    alt = "the reconstruction from the latent and, beside it, the mask"
    colours = {"decoded mask": panels.PREDICTION} | ({} if truth is None else {"true mask": panels.TRUTH})
    board = Board(fig, controls, draw, alt, buttons, key=colours)

    def rename(change):
        for control, name in zip(sliders.values(), axes[change["new"]], strict=True):
            control.description = name

    controls["sliders move"].observe(rename, "value")
    return board


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
    every, inside = np.sort(probability, axis=None), np.sort(probability[truth])  # for the Dice of all slices at once
    window = dict(zip(("vmin", "vmax"), panels.limits(image), strict=True))
    fig, (left, right) = _panels(window, window | {"fill": "verdicts", "edge": "white", "opacity": 0.85})
    controls = {"threshold": slider("threshold", 0, 1, ORIGINAL, 0.01)}
    if len(image) > 1:
        controls["slice"] = slider("slice", 0, len(image) - 1, int(truth.sum(axis=(1, 2)).argmax()))

    def draw(threshold, **values):
        k = values.get("slice", 0)
        found = probability[k] >= threshold
        left.draw(image[k], truth[k], probability[k], letters="RLAP", title="probability (orange), truth (outlined)")
        colours = panels.verdict(truth[k], found)
        right.draw(image[k], truth[k], colours, title=f"cut at {threshold:.2f}, Dice {_dice(found, truth[k]):.2f}")
        hits, found_ones = (len(a) - a.searchsorted(a.dtype.type(threshold)) for a in (inside, every))
        total = found_ones + len(inside)
        whole = f" Dice of all slices {2 * hits / total if total else 1:.2f}." if len(image) > 1 else ""
        counts = ", ".join(f"{(colours == v).sum()} {name}" for v, name in enumerate(panels.VERDICTS, start=1))
        return f"Dice of this slice {_dice(found, truth[k]):.2f}: {counts}.{whole}"

    alt = "a probability map, and what is found, invented and missed at the threshold"
    return Board(fig, controls, draw, alt, key=panels.VERDICTS)
