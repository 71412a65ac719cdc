"""Pictures with sliders that are drawn in the browser, and go on where no kernel runs.

Each function returns a `Live`, which carries what it shows. Every control works by keyboard (Tab, then the arrows).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch.nn import Module

from vaelib import latent
from vaelib.engine.errors import InputError
from vaelib.pictures.live import Live
from vaelib.pictures.network import described, packed
from vaelib.pictures.panels import PLANES, Layer, Panel, cut, limits, middle, verdict
from vaelib.pictures.style import DPI, as_numbers

WINDOWS = {"abdomen (W 400, L 40)": (-160, 240), "soft tissue (W 350, L 50)": (-125, 225)}  # HU, lowest and highest
WINDOWS |= {"bone (W 1800, L 400)": (-500, 1300), "lung (W 1500, L −600)": (-1350, 150)}
ORIGINAL, PLACE = 0.2, "directions at one place"  # the threshold of the original; a kind of sliders


def _panels(*looks: dict[str, Any]) -> list[Panel]:
    """Make panels side by side, one for each dict of settings."""
    side = 4.4 if len(looks) == 1 else 3.7  # inches
    fig = Figure(figsize=(side * len(looks), side + 0.3), dpi=DPI)
    boxes = [(k / len(looks) + 0.005, 0.01, 1 / len(looks) - 0.01, 0.91) for k in range(len(looks))]
    return [Panel(fig.add_axes(box), **look) for box, look in zip(boxes, looks, strict=True)]


def slice_browser(scan: np.ndarray, mask: Layer = None, spacing: tuple = (1, 1, 1), prediction: Layer = None) -> Live:
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
    content = {
        "kind": "slices",
        "alt": "a scan in three planes, chosen by the sliders",
        "shape": scan.shape,
        "spacing": [float(side) for side in spacing],
        "windows": WINDOWS,
        "scan": packed(np.clip(scan, -32768, 32767), "i2"),
        "layers": {name: packed(_hundredths(layer), "u1") for name, layer in layers.items()},
    }
    middle_of = dict(zip(("slice", "row", "column"), middle(scan, mask).tolist(), strict=True))
    at = middle_of | {"plane": "axial", "window": next(iter(WINDOWS.values()))}

    def still(plane: str, window: tuple[float, float], **values: Any) -> Figure:
        axis, (down, across), letters = PLANES[plane]
        k = values[("slice", "row", "column")[axis]]
        views = [None if layer is None else cut(np.asarray(layer), plane, k) for layer in (scan, mask, prediction)]
        look = {"aspect": spacing[down] / spacing[across], "letters": letters, "title": f"{plane}, {k}"}
        return _panels({"window": window})[0].draw(*views, **look).ax.figure

    return Live(content, at, still)


def _hundredths(values: np.ndarray) -> np.ndarray:
    """Round probabilities down to hundredths, so that no threshold of hundredths cuts them otherwise."""
    kind = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
    out, some = np.zeros(values.shape, np.uint8), values > 0  # most are 0
    out[some] = np.searchsorted((np.arange(1, 101) / 100).astype(kind), values[some], side="right")
    return out


def _steps(z: np.ndarray, components: int) -> dict[str, dict[str, np.ndarray]]:
    """Find steps through the latent space, by the name of their kind: dicts from a slider's description to (D,)."""

    def principal(codes: np.ndarray, count: int) -> dict[str, np.ndarray]:
        return {f"direction {k}": step for k, step in enumerate(latent.steps(latent.pca(codes, count)), start=1)}

    flat = z.reshape(len(z), -1)
    units = np.argsort(-flat.var(axis=0), kind="stable")[:components]
    raw = {f"unit {k}": np.eye(flat.shape[1])[k] for k in units}
    found = {"principal directions": principal(flat, components), "raw units": raw}
    if z.ndim == 4:
        found[PLACE] = principal(np.moveaxis(z, 1, -1).reshape(-1, z.shape[1]), min(components, z.shape[1]))
    return found


def _named(steps: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write steps for the page: their names, and their numbers one after the other."""
    return {"names": list(steps), "vectors": packed(list(steps.values()), "f4")}


def _latents(mask, z, places, truth, components, patient):
    """Look over what the latent explorer is given: latents (N, D), rows by name, and true masks (N, H, W)."""
    z = as_numbers(z, "latent_explorer: z", (None,) * (4 if np.ndim(z) == 4 else 2))
    places = places or {f"slice {k}": k for k in sorted({(2 * i + 1) * len(z) // 10 for i in range(5)})}
    if not all(0 <= row < len(z) for row in places.values()):
        raise InputError(f"latent_explorer: found the places {places}; pass rows of z, 0 to {len(z) - 1}")
    if not 1 <= components <= (most := min(len(z), z[0].size)):
        raise InputError(f"latent_explorer: found {components} components; z {z.shape} has 1 to {most}")
    if patient is not None and len(patient) != len(z):
        raise InputError(
            f"latent_explorer: found {len(patient)} patients; name the owner of each of {len(z)} rows of z"
        )
    if truth is not None:
        size = latent.decode(mask, z[:1]).shape[-2:]
        truth = as_numbers(truth, "latent_explorer: truth", (len(z), *size)) >= 0.5
    return z, places, truth


def latent_explorer(
    model: tuple[Module, Module], z: ArrayLike, *, places: dict | None = None, truth: Layer = None, components: int = 6,
    patient: Sequence[str] | None = None,
) -> Live:  # fmt: skip
    """Move through the latent space, and watch reconstruction and mask follow.

    The outline is the true mask of the slice "from", once morph reaches a half that of "to". Between the two nothing
    was scanned, so that no mask is true there: the caption then gives the Dice against both, each by its name.

    Parameters
    ----------
    model : pair of modules
        ``(vae.decoder, mask)``: from a latent to the picture, and to the pancreas.
    z : array (N, D) or (N, D, grid, grid)
        An encoded set, each slice a dot of the map. The sliders move its leading principal directions, or its units of
        largest variance; of a latent that keeps its place, also the directions at one place, which a click chooses.
    places : dict from str to int, optional
        Rows of `z` to go from and to, by name; by default five, evenly spaced.
    truth : array (N, H, W), optional
        The true masks of those rows, to be outlined and scored by Dice.
    components : int
        How many directions or units have a slider.
    patient : sequence of str, (N,), optional
        Whose slice each row is, such as ``"PANCREAS_0001, slice 3"``: the map joins those of one by a line.
    """
    z, places, truth = _latents(model[1], z, places, truth, components, patient)
    content = {
        "kind": "latent",
        "alt": "the reconstruction from the latent and, beside it, the mask",
        "nets": {name: described(module) for name, module in zip(("image", "mask"), model, strict=True)},
        "z": packed(z, "f4"),
        "shape": z.shape[1:],
        "place": PLACE if z.ndim == 4 else "",
        "patient": None if patient is None else [str(name) for name in patient],
        "size": latent.decode(model[0], z[:1]).shape[-1],
        "places": [[name, int(row)] for name, row in places.items()],
        "truth": None if truth is None else packed(np.packbits(truth), "u1"),
        "steps": {kind: _named(steps) for kind, steps in _steps(z, components).items()},
    }
    row = next(iter(places.values()))

    def still(**at: Any) -> Figure:
        image, probability = (latent.decode(module, z[row : row + 1])[0, 0] for module in model)
        left, right = _panels({}, {})
        left.draw(image, letters="RLAP", title="reconstruction")
        title = f"mask at {ORIGINAL:.2f}" + ("" if truth is None else f", outline: {next(iter(places))}")
        right.draw(image, None if truth is None else truth[row], probability >= ORIGINAL, title=title)
        return left.ax.figure

    return Live(content, {"threshold": ORIGINAL}, still)


def threshold_explorer(image: ArrayLike, probability: ArrayLike, truth: ArrayLike) -> Live:
    """Move the threshold on a probability map: the map on the left; found, invented and missed on the right.

    All three are (H, W), or (S, H, W), which adds a slider for the slice and the Dice of the whole.
    """
    given = {"image": np.asarray(image), "probability": np.asarray(probability), "truth": np.asarray(truth)}
    sizes = [array.shape for array in given.values()]
    if len(sizes[0]) not in (2, 3) or len(set(sizes)) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in given.items())
        raise InputError(f"threshold_explorer: found {found}; pass three of one shape, (H, W) or (S, H, W)")
    image, probability, truth = (a.reshape(-1, *a.shape[-2:]) for a in given.values())
    truth, (low, high) = truth >= 0.5, limits(image)
    grey = np.rint(255 * ((image - low) / (high - low)).clip(0, 1))
    content = {
        "kind": "threshold",
        "alt": "a probability map, and what is found, invented and missed at the threshold",
        "shape": image.shape,
        "image": packed(grey, "u1"),
        "probability": packed(_hundredths(probability), "u1"),
        "truth": packed(truth, "u1"),
    }

    def still(threshold: float, slice: int) -> Figure:
        left, right = _panels({}, {"fill": "verdicts"})
        left.draw(grey[slice] / 255, truth[slice], probability[slice], letters="RLAP", title="probability")
        found = verdict(truth[slice], probability[slice] >= threshold)
        return right.draw(grey[slice] / 255, truth[slice], found, title=f"cut at {threshold:.2f}").ax.figure

    return Live(content, {"threshold": ORIGINAL, "slice": int(truth.sum(axis=(1, 2)).argmax())}, still)
