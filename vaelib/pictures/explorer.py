"""The latent explorer as one page that opens by a double click: no Python, no server and no network behind it.

`write_explorer` writes one HTML file: the sliders' module, both decoders and the encoder, and the latents of a cohort.
It is `pictures.latent_explorer` with more in it: the originals, a place to drop a slice of one's own, which stays in
the browser, and the state of all controls in the address.
"""

from pathlib import Path
from string import Template

import numpy as np
from torch.nn import Module

from vaelib import latent, metrics
from vaelib.cohort import Cohort, Slices, open_cohort
from vaelib.engine.checkpoints import load
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.shards import meta_of
from vaelib.pictures import live
from vaelib.pictures.network import described, packed
from vaelib.pictures.panels import WINDOW
from vaelib.pictures.sliders import latent_explorer

SYNTHETIC = "The patients are synthetic: nobody was scanned, and nothing here says anything about a person."
REAL = "Teaching material, not a medical device: nothing here may guide the care of a patient."


def write_explorer(
    out: str | Path, vae: Module, mask: Module, train: Slices, held_out: Slices, *, note: str = SYNTHETIC
) -> Path:
    """Write the page, whole or not at all.

    Parameters
    ----------
    out : path
        The file; where it does not end in .html, a folder, which gets it as index.html.
    vae, mask : nn.Module
        Whose decoders are shown; both read the latent of one slice.
    train, held_out : Slices
        The dots of the map. Of each patient of `held_out`, the slice with most pancreas is a place to start, and
        a slice that is dropped is compared with those of `train`.
    note : str
        What the page says about the data.

    Returns
    -------
    Path
        The file.
    """
    out = page_of(out)
    if vae.config.get("dims") == 3 or mask.config.get("reach"):
        raise InputError(f"{out}: decoders read more than the latent of one slice; use `vaelib train --model vector`")
    content = contents(vae, mask, train, held_out)
    shell = Template((live.WEB / "explorer.html").read_text(encoding="utf-8"))
    size, numbers = content["size"], int(np.prod(content["shape"]))
    board = live.place(content, {"threshold": metrics.TRUTH}) + live.module()
    return write_file(out, shell.substitute(note=note, side=size, latent=numbers, board=board))


def contents(vae: Module, mask: Module, train: Slices, held_out: Slices) -> dict:
    """Collect what the page reads: the sliders', the encoder, originals, and how well training slices are drawn."""
    z = np.concatenate([latent.encode(vae, part.images)[0] for part in (train, held_out)])
    masks = np.concatenate([np.asarray(part.masks[:])[:, 0] for part in (train, held_out)])
    names, starts, count = [""] * len(z), {}, len(train.images)
    for part, first, said in ((train, 0, " (training)"), (held_out, count, "")):
        for patient, rows in metrics.per_patient(part.patient).items():
            for k, row in enumerate(rows + first):
                names[row] = f"{patient}{said}, slice {k}"
            if part is held_out:
                most = int(first + rows[masks[rows + first].sum((1, 2)).argmax()])
                starts[names[most]] = most
    components = min(10, len(z), z[0].size)
    board = latent_explorer(
        (vae.decoder, mask), z, places=starts, truth=masks >= metrics.TRUTH, components=components, patient=names
    )
    originals = [np.rint(255 * held_out.images[k - count]) for k in starts.values()]
    errors = np.sqrt(((latent.decode(vae.decoder, z[:count]) - np.asarray(train.images[:])) ** 2).mean((1, 2, 3)))
    return board.content | {
        "nets": board.content["nets"] | {"encoder": described(vae.encoder)},
        "originals": packed(originals, "u1"),
        "errors": packed(np.sort(errors), "f4"),
        "window": WINDOW,
        "average": True,
        "address": True,
    }


def page_of(out: str | Path) -> Path:
    """Name the file of the page: the given one, or index.html in a folder."""
    out = Path(out).expanduser()
    return out if out.suffix == ".html" else out / "index.html"


def explore(folder: str | Path | None, out: str | Path, checkpoint: Path, *, overwrite: bool = False) -> Path:
    """Write the explorer of a cohort and a checkpoint; see ``vaelib explorer --help``."""
    if page_of(out).exists() and not overwrite:
        raise InputError(f"{page_of(out)}: is there already; name another file, or use --overwrite")
    networks, meta = load(checkpoint, "vae", "mask")
    lab = open_cohort(folder, level=networks["vae"].config["size"].bit_length() - 1, fold=meta.get("fold"))
    return write_explorer(out, networks["vae"], networks["mask"], lab.train, lab.test, note=note_on(lab))


def note_on(lab: Cohort) -> str:
    """Say of a cohort what the page says: that its patients are synthetic, or that it is no medical device."""
    return SYNTHETIC if {meta_of(lab.shards, name)["layout"] for name in lab.parts["test"]} == {"synthetic"} else REAL
