"""How far from its end was a cell of the table of sizes, and which grid is best there? Curves, at 64 pixels a side.

With 1,024 numbers in the latent, three grids of it are trained to the end of one plan, and their curves are kept:

=============  ====================================================================================
8 x 8 x 16     the grid of `studies.sizes`
16 x 16 x 4    four times the places, a quarter of the numbers at each
32 x 32 x 1    a place for every 2 x 2 pixels
=============  ====================================================================================

Everything else is as in that table: 8 channels in the first layer, `BETA`, and one slice at a time. A mask decoder that
begins on a finer grid sees less of the slice with each block, so it gets more of them: a logit sees about as far.
The finer the grid, the fewer the halvings, and so the weights: it is not the grid alone that changes.

A network of 128 pixels or more takes too long for this on a machine without a GPU: those of the table were stopped by
the clock, and where their curves lead is not known.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import studies
from studies import _cells
from studies._arms import Reader, Scaled, labelled, train, unlabelled
from vaelib import metrics
from vaelib.cohort import Cohort
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept
from vaelib.engine.rows import mean
from vaelib.latent import decode, encode
from vaelib.losses import kl, l2
from vaelib.rivals import parameters
from vaelib.spatial import BETA, ResidualDecoder, ResidualVAE

SHAPES = {"8 x 8 x 16": (8, 16), "16 x 16 x 4": (16, 4), "32 x 32 x 1": (32, 1)}
PLAN = {"VAE steps": 2000, "steps": 2000, "batch": 16, "lr": 2e-3, "beta": BETA, "every": 250}
STUDY, CHANNELS = "curves", 8  # in the first layer, as `build` has them at 64
BASE, CELL = "8 x 8 x 16", ("64", "spatial", "1024")  # the same cell, as it is called here and in the record of `sizes`


def blocks_on(grid: int) -> int:
    """Say how many residual blocks a mask decoder has on its grid, so that a logit sees about as far on each."""
    return max(2, grid // 4)


def network(shape: str, lab: Cohort, seed: int, plan: dict = PLAN) -> dict:
    """Train the VAE of a shape, then the mask decoder on its detached code: both curves, and Dice at the end."""
    (grid, latent), began = SHAPES[shape], time.process_time()
    torch.manual_seed(seed)
    images, side = torch.from_numpy(lab.train.images[:]), lab.train.size
    vae = ResidualVAE(side, CHANNELS, latent, grid, start=float(images.mean()))
    how = {"batch": plan["batch"], "lr": plan["lr"], "seed": seed, "every": plan["every"]}

    def far() -> dict:
        mu, logvar = encode(vae, lab.val.images)
        error = l2(torch.from_numpy(decode(vae.decoder, mu)), torch.from_numpy(lab.val.images)).item()
        return {"error": error, "kl": kl(torch.from_numpy(mu), torch.from_numpy(logvar)).item()}

    first = train(vae, unlabelled(plan["beta"]), [images], steps=plan["VAE steps"], look=far, **how)
    halfway = time.process_time()
    code = Scaled(vae.encoder, images)
    code.requires_grad_(False)
    head = ResidualDecoder(side, CHANNELS, latent, grid, start=mean(lab.train.masks), blocks=blocks_on(grid))
    reader, held = Reader(code, head, shaped=False), _cells.held_out(lab)

    def found() -> dict:
        return _cells.look(decode(reader, held.images), held)

    data = [images, torch.from_numpy(lab.train.masks[:])]
    second = train(reader, labelled(jittered=False, overlap=False), data, steps=plan["steps"], look=found, **how)
    spent = {"VAE": halfway - began, "mask": time.process_time() - halfway}
    return {
        "VAE's curve": first, "curve": second, "cpu seconds": {k: round(v) for k, v in spent.items()},
        "parameters": parameters({"vae": vae, "mask": head}), "test": scores(reader, lab),
    }  # fmt: skip


def scores(reader: nn.Module, lab: Cohort) -> dict:
    """Score the test patients of the table of sizes, with the threshold that is best on the validation patients."""
    cut = metrics.choose(decode(reader, lab.val.images), lab.val)
    values = metrics.dice_per_patient(decode(reader, lab.test.images), cut, lab.test)
    return metrics.bootstrap(values)._asdict() | {"values": values, "threshold": cut}


def row(shape: str, lab: Cohort, seed: int, plan: dict = PLAN) -> dict:
    """Return what came of a shape; it is trained where it is not kept."""
    made_by = {"shape": [shape, *SHAPES[shape]], "plan": plan, "seed": seed, "blocks": blocks_on(SHAPES[shape][0])}
    made_by |= {"channels": CHANNELS, "data": fingerprint(lab.train, lab.val, lab.test)}
    path = Path(models_folder()) / STUDY / f"{shape.replace(' ', '')}_{seed}.safetensors"
    found = kept(path, made_by, lambda: {"row": _plain(network(shape, lab, seed, plan))})
    return found["row"]


def _plain(value: dict) -> dict:
    return {k: v.tolist() if isinstance(v, np.ndarray) else _plain(v) if isinstance(v, dict) else v
            for k, v in value.items()}  # fmt: skip


def run(lab: Cohort, seed: int = 0, plan: dict = PLAN, shapes: tuple[str, ...] = tuple(SHAPES)) -> dict:
    """Train each shape, and write the record as it fills; then compare them, patient by patient."""
    torch.set_num_threads(1)
    record: dict = {"plan": plan, "seed": seed, "torch": torch.__version__, "shapes": {}}
    for shape in shapes:
        record["shapes"][shape] = row(shape, lab, seed, plan)
        studies.write(STUDY, record)
    dices = {shape: np.array(found["test"]["values"]) for shape, found in record["shapes"].items()}
    record[f"minus {BASE}"] = {k: studies.paired([v], [dices[BASE]]) for k, v in dices.items() if k != BASE}
    cells = studies.read("sizes").get("cells")
    if cells:
        side, kind, numbers = CELL
        stopped = np.array(cells[side][kind][numbers]["dice"][side]["values"])
        record["minus the table's cell"] = studies.paired([dices[BASE]], [stopped])
    return record
