"""How far from its end was a cell of the table of sizes, which grid is best there, and do more pixels help? Curves.

With 1,024 numbers in the latent, three grids of it are trained at 64 pixels a side to the end of one plan:

=============  ====================================================================================
8 x 8 x 16     the grid of `studies.sizes`
16 x 16 x 4    four times the places, a quarter of the numbers at each
32 x 32 x 1    a place for every 2 x 2 pixels
=============  ====================================================================================

Everything else is as in that table: 8 channels in the first layer, `BETA`, and one slice at a time. A mask decoder that
begins on a finer grid sees less of the slice with each block, so it gets more of them: a logit sees about as far.
The finer the grid, the fewer the halvings, and so the weights: it is not the grid alone that changes.

The first of them is trained at 128 pixels too, for as many passes; the two sizes are compared at 512.
Where the curves of 256 and 512 pixels lead is not known: those of the table were stopped by the clock.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import studies
from studies import _cells
from studies._arms import Reader, Scaled, labelled, train, unlabelled
from vaelib import metrics, recipes
from vaelib.cohort import Cohort
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept
from vaelib.engine.files import json_ready
from vaelib.engine.rows import mean
from vaelib.latent import decode, encode
from vaelib.losses import kl, l2
from vaelib.rivals import parameters
from vaelib.spatial import BETA, ResidualDecoder, ResidualVAE

SHAPES = {"8 x 8 x 16": (8, 16), "16 x 16 x 4": (16, 4), "32 x 32 x 1": (32, 1)}
PLAN = {"VAE steps": 2000, "steps": 2000, "batch": 16, "lr": 2e-3, "beta": BETA, "every": 250}
STUDY, BASE, CHANNELS = "curves", "8 x 8 x 16", 512  # over the side: 8 in the first layer at 64, as `build` has them


def blocks_on(grid: int) -> int:
    """Say how many residual blocks a mask decoder has on its grid, so that a logit sees about as far on each."""
    return max(2, grid // 4)


def network(shape: str, lab: Cohort, seed: int, plan: dict = PLAN) -> dict:
    """Train the VAE of a shape, then the mask decoder on its detached code: both curves, and Dice at the end."""
    (grid, latent), began = SHAPES[shape], time.process_time()
    torch.manual_seed(seed)
    images, side = torch.from_numpy(lab.train.images[:]), lab.train.size
    channels, beta = CHANNELS // side, plan["beta"] * (side / 64) ** 2
    vae = ResidualVAE(side, channels, latent, grid, start=float(images.mean()))
    how = {"batch": plan["batch"], "lr": plan["lr"], "seed": seed, "every": plan["every"]}

    def far() -> dict:
        mu, logvar = encode(vae, lab.val.images)
        error = l2(torch.from_numpy(decode(vae.decoder, mu)), torch.from_numpy(lab.val.images)).item()
        return {"error": error, "kl": kl(torch.from_numpy(mu), torch.from_numpy(logvar)).item()}

    first = train(vae, unlabelled(beta), [images], steps=plan["VAE steps"], look=far, **how)
    halfway = time.process_time()
    code = Scaled(vae.encoder, images)
    code.requires_grad_(False)
    head = ResidualDecoder(side, channels, latent, grid, start=mean(lab.train.masks), blocks=blocks_on(grid))
    reader, held = Reader(code, head, shaped=False), _cells.held_out(lab)

    def found() -> dict:
        return _cells.look(decode(reader, held.images), held)

    data = [images, torch.from_numpy(lab.train.masks[:])]
    second = train(reader, labelled(jittered=False, overlap=False), data, steps=plan["steps"], look=found, **how)
    spent = {"VAE": halfway - began, "mask": time.process_time() - halfway}
    return {
        "VAE's curve": first, "curve": second, "cpu seconds": {k: round(v) for k, v in spent.items()},
        "parameters": parameters({"vae": vae, "mask": head}), "test": scores(reader, lab),
        "at 512": at_full_size(reader, lab),
    }  # fmt: skip


def scores(reader: nn.Module, lab: Cohort) -> dict:
    """Score the test patients of the table of sizes, with the threshold that is best on the validation patients."""
    cut = metrics.choose(decode(reader, lab.val.images), lab.val)
    values = metrics.dice_per_patient(decode(reader, lab.test.images), cut, lab.test)
    return metrics.bootstrap(values)._asdict() | {"values": values, "threshold": cut}


def at_full_size(reader: nn.Module, lab: Cohort) -> list[float]:
    """Score the test patients at 512, as the table of sizes does: what networks of any size are compared by."""
    maps = [[*recipes.by_patient(decode(reader, s.images), s.patient)] for s in (lab.val, lab.test)]
    cuts = metrics.best_thresholds(lab.shards, maps[0], lab.level)
    return metrics.score(lab.shards, maps[1], lab.level, cuts)["512"]["dice"]


def row(shape: str, lab: Cohort, seed: int, plan: dict = PLAN) -> dict:
    """Return what came of a shape; it is trained where it is not kept."""
    made_by = {"shape": [shape, *SHAPES[shape]], "plan": plan, "seed": seed, "blocks": blocks_on(SHAPES[shape][0])}
    made_by |= {"channels": CHANNELS, "data": fingerprint(lab.train, lab.val, lab.test)}
    path = Path(models_folder()) / STUDY / f"{shape.replace(' ', '')}_{lab.level}_{seed}.safetensors"
    found = kept(path, made_by, lambda: {"row": json_ready(network(shape, lab, seed, plan))})
    return found["row"]


def run(lab: Cohort, seeds: tuple = (0,), plan: dict = PLAN, shapes: tuple[str, ...] = tuple(SHAPES)) -> dict:
    """Train each shape once, write the record as it fills, and compare them; then two sizes, with each seed."""
    torch.set_num_threads(1)
    record: dict = {"plan": plan, "seeds": seeds, "torch": torch.__version__, "shapes": {}}
    for shape in shapes:
        record["shapes"][shape] = row(shape, lab, seeds[0], plan)
        studies.write(STUDY, record)
    dices = {shape: np.array(found["test"]["values"]) for shape, found in record["shapes"].items()}
    record[f"minus {BASE}"] = {k: studies.paired([v], [dices[BASE]]) for k, v in dices.items() if k != BASE}
    rows = {side: [row(BASE, at, k, plan) for k in seeds] for side, at in (("64", lab), ("128", lab.at(7)))}
    equal = {side: np.array([one["at 512"] for one in found]) for side, found in rows.items()}
    record["sizes"] = {k: studies.summary(equal[k]) | {"cpu seconds": v[0]["cpu seconds"]} for k, v in rows.items()}
    record["128 minus 64 pixels"] = _cells.interval(equal["128"], equal["64"])
    return record
