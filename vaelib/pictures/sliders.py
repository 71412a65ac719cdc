"""Pictures with sliders: the panels of the figures, updated in place and never rebuilt.

Each function returns a `Board`, a box of ipywidgets. Every control works by keyboard (Tab, then the arrows). The
picture is a PNG of one figure that lives as long as its board, so that a notebook run unattended gives the same cells.
"""

from typing import Any

import ipywidgets as ui
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch.nn import Module

from vaelib import latent, metrics
from vaelib.engine.errors import InputError
from vaelib.pictures.controls import LOOK, Board, choice, slider
from vaelib.pictures.panels import PLANES, PREDICTION, TRUTH, VERDICTS, Layer, Panel, cut, limits, middle, verdict
from vaelib.pictures.style import DPI, as_numbers

WINDOWS = {"abdomen (W 400, L 40)": (-160, 240), "soft tissue (W 350, L 50)": (-125, 225)}  # HU, lowest and highest
WINDOWS |= {"bone (W 1800, L 400)": (-500, 1300), "lung (W 1500, L −600)": (-1350, 150)}
ORIGINAL = 0.2  # the threshold of the original


def _panels(*looks: dict[str, Any]) -> list[Panel]:
    """Make panels side by side, one for each dict of settings."""
    side = 4.4 if len(looks) == 1 else 3.7  # inches: a slider waits for every pixel
    fig = Figure(figsize=(side * len(looks), side + 0.3), dpi=DPI)
    boxes = [(k / len(looks) + 0.005, 0.01, 1 / len(looks) - 0.01, 0.91) for k in range(len(looks))]
    panels = [Panel(fig.add_axes(box), **look) for box, look in zip(boxes, looks, strict=True)]
    for panel in panels:
        panel.image.set_interpolation_stage("data")  # resample HU, not colours: half the time at 512 x 512
        panel.ax.set_axis_off()
    return panels


def slice_browser(scan: np.ndarray, mask: Layer = None, spacing: tuple = (1, 1, 1), prediction: Layer = None) -> Board:
    """Leaf through a scan in three planes at true aspect, with window presets and overlays.

    Parameters
    ----------
    scan : array (S, H, W), canonical, in HU
    mask, prediction : arrays (S, H, W), optional
        The truth, outlined, and a prediction from 0 to 1, filled.
    spacing : (dz, dy, dx) in mm
    """
    scan, given = np.asarray(scan), {"mask": mask, "prediction": prediction}
    layers = {name: np.asarray(layer) for name, layer in given.items() if layer is not None}
    if scan.ndim != 3 or any(layer.shape != scan.shape for layer in layers.values()):
        found = ", ".join(f"{name} {layer.shape}" for name, layer in ({"scan": scan} | layers).items())
        raise InputError(f"slice_browser: found {found}; pass a scan (S, H, W), and the others on its grid")
    place = dict(zip(PLANES, middle(scan, mask).tolist(), strict=True))  # each plane remembers its slice
    controls = {
        "plane": choice("plane", list(PLANES)),
        "slice": slider("slice", 0, len(scan) - 1, place["axial"]),
        "window": choice("window", WINDOWS),
        **{name: ui.Checkbox(True, description=f"show the {name}", **LOOK) for name in layers},
    }
    if layers:
        controls["opacity"] = slider("overlay opacity", 0, 1, 0.6, 0.05)
    (panel,) = _panels({})

    def draw(plane: str, window: tuple[float, float], opacity: float = 0.6, **values: Any) -> str:
        axis, (down, across), letters = PLANES[plane]
        at = place[plane] = values["slice"]
        views = {name: cut(layer, plane, at) for name, layer in layers.items() if values[name]}
        panel.image.set_clim(window)
        panel.fill.set_alpha(opacity)
        panel.edge.set_alpha(opacity)
        text = f"{plane}, {('slice', 'row', 'column')[axis]} {at} of 0 to {scan.shape[axis] - 1}"
        look = {"aspect": spacing[down] / spacing[across], "letters": letters, "title": text}
        panel.draw(cut(scan, plane, at), views.get("mask"), views.get("prediction"), **look)
        return text + "".join(f"; {name}: {(view >= 0.5).sum()} pixels" for name, view in views.items())

    colours = {name: {"mask": TRUTH, "prediction": PREDICTION}[name] for name in layers}
    board = Board(panel.ax.figure, controls, draw, "one slice of the scan, chosen by the sliders", key=colours)

    def turn(change: dict[str, Any]) -> None:
        board.quiet = True  # the slider's range changes with the plane; draw once, when both fit
        controls["slice"].max = scan.shape[PLANES[change["new"]][0]] - 1
        board.set(slice=place[change["new"]])

    controls["plane"].unobserve(board.redraw, "value")
    controls["plane"].observe(turn, "value")
    return board


def _steps(z: np.ndarray, components: int) -> dict[str, dict[str, np.ndarray]]:
    """Find steps through the latent space, by the name of their kind: dicts from a slider's description to (D,)."""
    units = np.argsort(-z.var(axis=0), kind="stable")[:components]
    principal = {f"direction {k}": step for k, step in enumerate(latent.steps(latent.pca(z, components)), start=1)}
    return {"principal directions": principal, "raw units": {f"unit {k}": np.eye(z.shape[1])[k] for k in units}}


def _decode(model: tuple[Module, Module], here: np.ndarray) -> list[np.ndarray]:
    """Decode one latent on one thread: several would wait for each other, on a busy machine for half a second."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [latent.decode(module, here[None])[0, 0] for module in model]
    finally:
        torch.set_num_threads(threads)


def _latents(mask, z, places, truth, components):
    """Look over what the latent explorer is given: latents (N, D), rows by name, and true masks (N, H, W)."""
    z = as_numbers(z, "latent_explorer: z", (None, None))
    places = places or {f"slice {k}": k for k in sorted({(2 * i + 1) * len(z) // 10 for i in range(5)})}
    if not all(0 <= row < len(z) for row in places.values()):
        raise InputError(f"latent_explorer: found the places {places}; pass rows of z, 0 to {len(z) - 1}")
    if not 1 <= components <= min(z.shape):
        raise InputError(f"latent_explorer: found {components} components; z {z.shape} has 1 to {min(z.shape)}")
    if truth is not None:
        size = latent.decode(mask, z[:1]).shape[-2:]
        truth = as_numbers(truth, "latent_explorer: truth", (len(z), *size)) >= 0.5
    return z, places, truth


def latent_explorer(
    model: tuple[Module, Module], z: ArrayLike, *, places: dict | None = None, truth: Layer = None, components: int = 6
) -> Board:
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
    z, places, truth = _latents(model[1], z, places, truth, components)
    steps, (left, right) = _steps(z, components), _panels({}, {})
    names = enumerate(steps["principal directions"], start=1)
    moves = {f"slider {k}": slider(name, -3, 3, 0, 0.1) for k, name in names}
    controls = {
        "from": choice("from", list(places)),
        "to": choice("to", list(places)),
        "morph": slider("morph", 0, 1, 0, 0.05),
        "sliders move": choice("sliders move", list(steps)),
        **moves,
        "threshold": slider("threshold", 0, 1, ORIGINAL, 0.01),
    }
    controls["to"].value = list(places)[-1]

    def draw(threshold: float, morph: float, **values: Any) -> str:
        ends = [values["from"], values["to"]]
        a, b = (z[places[end]] for end in ends)
        kind = steps[values["sliders move"]]
        for control, name in zip(moves.values(), kind, strict=True):
            control.description = name
        here = a + morph * (b - a) + [values[key] for key in moves] @ np.array([*kind.values()])
        image, probability = _decode(model, here)
        found, near = probability >= threshold, ends[morph >= 0.5]
        scored = [] if truth is None else [near] if morph in (0, 1) else ends
        dice = [f"Dice {metrics.dice(found, truth[places[end]]):.2f} against {end}" for end in scored]
        left.draw(image, letters="RLAP", title="reconstruction")
        outlined = f", outline: {near}" if scored else ""
        right.draw(image, truth[places[near]] if scored else None, found, title=f"mask at {threshold:.2f}{outlined}")
        between = " Between the two nothing was scanned: neither mask is true here." if len(scored) > 1 else ""
        away = np.linalg.norm(here - z[places[near]])
        return f"Mask of {', '.join([f'{found.sum()} pixels', *dice])}. Latent {away:.2f} away from {near}.{between}"

    rng = np.random.default_rng(0)
    buttons = {
        "reset": lambda: dict.fromkeys(["morph", *moves], 0) | {"threshold": ORIGINAL},
        "random draw": lambda: dict(zip(moves, rng.normal(size=len(moves)).clip(-3, 3).round(1), strict=True)),
    }
    key = {"decoded mask": PREDICTION} | ({} if truth is None else {"true mask": TRUTH})
    alt = "the reconstruction from the latent and, beside it, the mask"
    return Board(left.ax.figure, controls, draw, alt, buttons, key)


def threshold_explorer(image: ArrayLike, probability: ArrayLike, truth: ArrayLike) -> Board:
    """Move the threshold on a probability map: the map on the left; found, invented and missed on the right.

    All three are (H, W), or (S, H, W), which adds a slider for the slice and the Dice of the whole.
    """
    given = {"image": np.asarray(image), "probability": np.asarray(probability), "truth": np.asarray(truth)}
    sizes = [array.shape for array in given.values()]
    if len(sizes[0]) not in (2, 3) or len(set(sizes)) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in given.items())
        raise InputError(f"threshold_explorer: found {found}; pass three of one shape, (H, W) or (S, H, W)")
    image, probability, truth = (a.reshape(-1, *a.shape[-2:]) for a in given.values())
    truth = truth >= 0.5
    every, inside = np.sort(probability, axis=None), np.sort(probability[truth])  # for the Dice of all slices at once
    window = {"window": limits(image)}
    left, right = _panels(window, window | {"fill": "verdicts"})
    controls = {"threshold": slider("threshold", 0, 1, ORIGINAL, 0.01)}
    if len(image) > 1:
        controls["slice"] = slider("slice", 0, len(image) - 1, int(truth.sum(axis=(1, 2)).argmax()))

    def draw(threshold: float, **values: int) -> str:
        k = values.get("slice", 0)
        found = probability[k] >= threshold
        left.draw(image[k], truth[k], probability[k], letters="RLAP", title="probability (orange), truth (outlined)")
        colours, dice = verdict(truth[k], found), metrics.dice(found, truth[k])
        right.draw(image[k], truth[k], colours, title=f"cut at {threshold:.2f}, Dice {dice:.2f}")
        hits, found_ones = (len(a) - a.searchsorted(a.dtype.type(threshold)) for a in (inside, every))
        total = found_ones + len(inside)
        whole = f" Dice of all slices {2 * hits / total if total else 1:.2f}." if len(image) > 1 else ""
        counts = ", ".join(f"{(colours == v).sum()} {name}" for v, name in enumerate(VERDICTS, start=1))
        return f"Dice of this slice {dice:.2f}: {counts}.{whole}"

    alt = "a probability map, and what is found, invented and missed at the threshold"
    return Board(left.ax.figure, controls, draw, alt, key=VERDICTS)
