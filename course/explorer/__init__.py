"""The latent explorer as a page: both decoders run in the browser, so that it needs no Python where it is shown.

`pictures.latent_explorer` needs a kernel; this is its sibling for a web site. `write_explorer` fills one folder, which
any web server can hand out: the page, its script and its style, which lie beside this file; the decoders as ONNX; and
`explorer.json`, the numbers that the sliders begin with. What runs the decoders, onnxruntime-web, comes from npm and
belongs into the folder `ort/` of the page: see `RUNTIME`.
"""

from base64 import b64encode
from json import dumps
from pathlib import Path

import numpy as np
from torch.nn import Module

from course.onnx import check_onnx, write_onnx
from vaelib import latent, metrics, recipes
from vaelib.cohort import Slices, open_cohort
from vaelib.engine.checkpoints import load
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.shards import meta_of

PAGE = ("index.html", "explorer.js", "explorer.css")
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of node_modules/onnxruntime-web/dist
DIRECTIONS = 10
SYNTHETIC = "The patients are synthetic: nobody was scanned, and nothing here says anything about a person."
REAL = "Teaching material, not a medical device: nothing here may guide the care of a patient."


def write_explorer(
    out: str | Path, vae: Module, mask: Module, train: Slices, held_out: Slices, *, note: str = SYNTHETIC
) -> Path:
    """Write the page, its data and both decoders into a folder; what is there of an older one goes.

    Parameters
    ----------
    out : path
    vae, mask : nn.Module
        Whose decoders are shown; both read the latent of one slice.
    train : Slices
        Whose latents the directions are computed from.
    held_out : Slices
        Of each of its patients the slice with most pancreas is a place to start.
    note : str
        What the page says about the data.

    Returns
    -------
    Path
        The folder.
    """
    out = Path(out).expanduser()
    if vae.config.get("dims") == 3 or mask.config.get("reach"):
        raise InputError(f"{out}: these decoders read more than the latent of one slice; give a VAE of slices, reach 0")
    content = contents(vae, train, held_out)
    for name, decoder in (("decoder", vae.decoder), ("mask", mask)):
        write_onnx(decoder, out / f"{name}.onnx", tuple(content["shape"]))
    for name in PAGE:
        write_file(out / name, (Path(__file__).parent / name).read_bytes())
    write_file(out / "explorer.json", dumps(content | {"note": note}))
    return out


def contents(vae: Module, train: Slices, held_out: Slices) -> dict:
    """Collect what `explorer.json` holds, but for the note.

    Latents are flat; ``shape`` is what the decoders expect. ``directions`` are steps of one standard deviation and
    ``explained`` their shares of the variance, as `latent.pca` has them. Of each of the ``slices``, ``truth`` is the
    mask at the threshold, one bit a pixel, and ``image`` one byte a pixel, both from the top left and in base64.
    """
    codes = latent.encode(vae, train.images)[0]
    flat = codes.reshape(len(codes), -1)
    pca = latent.pca(flat, components=min(DIRECTIONS, *flat.shape))
    return {
        "size": vae.config["size"],
        "shape": codes.shape[1:],
        "threshold": metrics.TRUTH,
        "mean": _numbers(pca.mean_),
        "directions": [_numbers(step) for step in latent.steps(pca)],
        "explained": _numbers(pca.explained_variance_ratio_),
        "slices": [_start(vae, held_out, name, rows) for name, rows in metrics.per_patient(held_out.patient).items()],
    }


def _start(vae: Module, s: Slices, name: str, rows: np.ndarray) -> dict:
    """Describe the slice with most pancreas of one patient, whose rows are given."""
    k = int(s.masks[rows].sum((1, 2, 3)).argmax())
    image, truth = s.images[rows[k : k + 1]], s.masks[rows[k]] >= metrics.TRUTH
    return {
        "name": name,
        "slice": k,
        "latent": _numbers(latent.encode(vae, image)[0].ravel()),
        "truth": _base64(np.packbits(truth)),
        "image": _base64(np.round(255 * image).astype(np.uint8)),
    }


def _numbers(array: np.ndarray) -> list[float]:
    return [round(float(x), 6) for x in array]


def _base64(array: np.ndarray) -> str:
    return b64encode(array.tobytes()).decode()


def explore(folder: str | Path | None, *, out: Path, checkpoint: Path | None = None) -> Path:
    """Write the explorer of a cohort; see ``python -m course.explorer --help``."""
    check_onnx(out)
    networks, meta = ({}, {}) if checkpoint is None else load(checkpoint, "vae", "mask")
    level = networks["vae"].config["size"].bit_length() - 1 if networks else 6
    lab = open_cohort(folder, level=level, fold=meta.get("fold"))
    vae, mask = (networks["vae"], networks["mask"]) if networks else recipes.trained(lab)
    synthetic = {meta_of(lab.shards, patient)["layout"] for patient in lab.parts["test"]} == {"synthetic"}
    return write_explorer(out, vae, mask, lab.train, lab.test, note=SYNTHETIC if synthetic else REAL)
