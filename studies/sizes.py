"""Does a larger picture, or a larger latent, make a better mask? All may learn for the same time, and costs are given.

=============  ==================================================================================================
plain          the cascade of `vaelib.vae`, down to 4 x 4, with a vector as its latent
vector         the residual cascade of `vaelib.spatial`, down to 4 x 4, with a vector as its latent
spatial        the residual cascade, down to 8 x 8: as many numbers, each with a place in the picture
=============  ==================================================================================================

Every cell of the table may use the same CPU seconds, on one thread, for its VAE and its mask decoder. At twice the side
a step costs up to four times as much, so a larger size sees the cohort less often: that is the bargain of a machine
without a GPU, and the table says how often. The widest layer is the same at each size, and so, nearly, are the weights.
`beta` goes with the number of pixels, so that a nat weighs as much at each size. No cell is trained until its curve is
flat: at 64 pixels, `studies.curves` goes further.
How often is up to the clock, so each cell says how many steps it made; given as `images`, they are made again.
Where there is more time, give it: ``sizes.run(open_cohort(), minutes=60)``.
"""

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import studies
from vaelib import metrics, recipes
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept
from vaelib.engine.files import json_ready
from vaelib.engine.memory import step_cost
from vaelib.engine.rows import Rows, mean
from vaelib.latent import decode, encode
from vaelib.levels import FULL
from vaelib.rivals import parameters
from vaelib.spatial import BETA, GRID, ResidualMaskDecoder, ResidualVAE, build
from vaelib.training import Step, augment, fit, mask_step, moved_latents, vae_step
from vaelib.vae import VAE, MaskDecoder

MINUTES, FOR_VAE = 1.5, 0.6  # CPU minutes a cell, and the VAE's share of them
CELLS = (
    *((6, kind, numbers) for numbers in (64, 256, 1024) for kind in ("vector", "spatial")),
    *((level, kind, numbers) for level in (9, 7, 8) for kind, numbers in (("plain", 64), ("spatial", 1024))),
    (6, "plain", 64), (7, "spatial", 256),
)  # fmt: skip
PUBLISHED = {  # for the notebook
    (6, "vector", 64): "07_vector", (6, "spatial", 64): "07_spatial", (6, "spatial", 1024): "07_spatial_1024",
}  # fmt: skip
LONG, LONG_MINUTES = (9, "spatial", 1024), 6  # one more run at full size, as long as four cells, for its pictures


def mask_decoder_of(vae: VAE, prevalence: float = 0.01) -> MaskDecoder | ResidualMaskDecoder:
    """Build an untrained mask decoder for the latents of `vae`."""
    made = ResidualMaskDecoder if isinstance(vae, ResidualVAE) else MaskDecoder
    return made(**{k: v for k, v in vae.config.items() if k != "upsample"}, prevalence=prevalence)


def batch_of(size: int) -> int:
    """Count the images of a step, which grow fewer as they grow larger: 64 of 64 x 64, 8 of 512 x 512."""
    return min(64, 4096 // size)


def in_order(array: np.ndarray | Rows, order: np.ndarray) -> Rows:
    """Go through the rows of an array in some order, in which any of them may come back."""
    return Rows(len(order), lambda rows: np.asarray(array[order[rows]]))


def spend(
    minutes: float, model: nn.Module, step: Step, data: Sequence, seed: int, images: int | None = None,
    augmentation: Callable | None = None,
) -> int:  # fmt: skip
    """Train for so many CPU minutes, as a first trial on a few batches foretells them; return the images seen.

    Each image is seen once before any is seen again. Where it is said how many `images` to see, no clock is asked.
    """
    batch = batch_of(data[0][:1].shape[-1])
    fit_once = partial(fit, step=step, epochs=1, batch_size=batch, augmentation=augmentation)
    if images is None:
        trial = [in_order(a, np.arange(4 * batch) % len(a)) for a in data]
        for _ in range(2):  # the first warms up
            began = time.process_time()
            fit_once(copy.deepcopy(model), data=trial)
            each = (time.process_time() - began) / len(trial[0])
        images = max(batch, round(60 * minutes / each))
    generator = torch.Generator().manual_seed(seed)
    laps = [torch.randperm(len(data[0]), generator=generator) for _ in range(-(-images // len(data[0])))]
    order = torch.cat(laps).numpy()
    fit_once(model, data=[in_order(a, order[:images]) for a in data], seed=seed)
    return images


def train(
    kind: str, numbers: int, slices: Slices, minutes: float, seed: int = 0, images: dict[str, int] | None = None
) -> tuple[dict, dict]:
    """Train a VAE and its detached mask decoder within a time; with them, the ``images`` that each saw."""
    size, images = slices.size, images or {}
    torch.manual_seed(seed)
    vae = build(kind, size, numbers, mean(slices.images))
    step = vae_step(BETA * (size / 64) ** 2)
    seen = spend(FOR_VAE * minutes, vae, step, [slices.images], seed, images.get("VAE"), augment)
    mask = mask_decoder_of(vae, mean(slices.masks))
    both, left = [slices.images, slices.masks], (1 - FOR_VAE) * minutes
    read = spend(left, mask, mask_step, both, seed, images.get("mask"), partial(moved_latents, vae))
    return {"vae": vae, "mask": mask}, {"VAE": seen, "mask": read}


def dices(shards: Path, probability: np.ndarray | Rows, patient: np.ndarray, level: int, thresholds: dict) -> dict:
    """Score each patient by 3D Dice where the maps were made and, put back, at full size: by side, one value each."""
    out = {side: [] for side in thresholds}
    for name, p in recipes.by_patient(probability, patient):
        for at in {level, FULL}:
            there = p if at == level else metrics.enlarge(p, 2**at)
            truth = metrics.truth_at(shards, name, at)
            out[str(2**at)].append(metrics.dice(there >= thresholds[str(2**at)], truth))
    return out


def grey_error(vae: nn.Module, slices: Slices, full: Slices) -> float:
    """Measure the root mean square error of reconstructions, enlarged to full size, in grey values from 0 to 1."""
    rows = np.arange(0, len(slices.images), 8)
    recon = decode(vae.decoder, encode(vae, slices.images[rows], 16)[0], 16)[:, 0]
    return float(np.sqrt(np.mean((metrics.enlarge(recon, 2**FULL) - full.images[rows][:, 0]) ** 2)))


def cell(
    at: tuple, lab: Cohort, minutes: float, seed: int = 0, published: str | None = None,
    images: dict[str, int] | None = None,
) -> dict:  # fmt: skip
    """Return the scores of one cell of the table, which is trained unless it is kept; committed where `published`."""
    level, kind, numbers = at
    size, coarse = 2**level, lab if lab.level == 6 else lab.at(6)
    with torch.device("meta"):
        config = build(kind, size, numbers).config
    made_by = {
        "cell": list(at), "minutes": minutes, "images": images, "seed": seed, "beta": BETA, "grid": GRID,
        "VAE's share": FOR_VAE, "batch": batch_of(size), "network": config,
        "data": fingerprint(coarse.train, coarse.val, coarse.test),
    }  # fmt: skip
    path = models_folder() / "sizes" / f"{size}_{kind}_{numbers}_{minutes:g}_{seed}.safetensors"
    found = kept(path, made_by, partial(trained, at, lab.at(level), minutes, seed, images), half=True)
    if published:
        studies.publish(path, published)
    return found["scores"]


def trained(at: tuple, lab: Cohort, minutes: float, seed: int, images: dict[str, int] | None) -> dict:
    """Train and score one cell: what is kept of it, its networks "vae" and "mask" among it."""
    level, kind, numbers = at
    networks, seen = train(kind, numbers, lab.train, minutes, seed, images)
    maps = [recipes.predicted(networks["vae"], networks["mask"], s) for s in (lab.val, lab.test)]
    thresholds = metrics.best_thresholds(lab.shards, recipes.by_patient(maps[0], lab.val.patient), level)
    found = dices(lab.shards, maps[1], lab.test.patient, level, thresholds)
    scores = {
        "dice": {side: metrics.bootstrap(v)._asdict() | {"values": v} for side, v in found.items()},
        "grey": grey_error(networks["vae"], lab.test, lab.at(FULL).test),
        "passes": {name: count / len(lab.train.images) for name, count in seen.items()},
        "steps": {name: -(-count // batch_of(2**level)) for name, count in seen.items()},
        "images": seen, "parameters": parameters(networks),
    }  # fmt: skip
    said = {"cohort": "synthetic", "study": "python -m studies sizes", "thresholds": thresholds}
    return networks | said | {"scores": json_ready(scores)}


def cost(levels: Sequence[int] = (6, 7, 8, 9)) -> dict:
    """Measure by size and network: its parameters, and `step_cost` as it is, with `recompute`, and in bfloat16.

    "wide" networks have 16 channels in their first layer, at any size.
    """
    threads, table = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    for size in (2**level for level in levels):
        wide = {"plain": size // 64, "spatial": 16 // max(2, 512 // size)}
        kinds = {"plain": ("plain", 64, 1), "plain, wide": ("plain", 64, wide["plain"]),
                 "spatial": ("spatial", 1024, 1), "spatial, wide": ("spatial", 1024, wide["spatial"])}  # fmt: skip
        table[str(size)] = {name: _row(size, *kind) for name, kind in kinds.items()}
    torch.set_num_threads(threads)
    return table


def _row(size: int, kind: str, numbers: int, wide: int) -> dict:
    few = max(2, 1024 // size)
    make = partial(build, kind, size, numbers, wide=wide)
    row = {"parameters": parameters({"vae": make()}), "float32": step_cost(make(), size, few)}
    if kind == "spatial":
        row["recompute"] = step_cost(make(recompute=True), size, few)
    return row | {"bfloat16": step_cost(make(), size, few, torch.bfloat16)}


def gains(cells: dict) -> dict:
    """Say what one cell has over another in Dice at full size: the mean over patients of their difference.

    Parameters
    ----------
    cells : dict
        As in the record: by side, kind, and numbers. Pairs that are not in it are left out.

    Returns
    -------
    dict
        By pair, the mean with its interval.
    """
    pairs = {f"spatial over vector, {n} numbers": ((6, "spatial", n), (6, "vector", n)) for n in (64, 256, 1024)}
    pairs |= {"residual over plain, 64 numbers": ((6, "vector", 64), (6, "plain", 64))}
    pairs |= {f"1024 over 64 numbers, {k}": ((6, k, 1024), (6, k, 64)) for k in ("vector", "spatial")}
    for kind, n in (("plain", 64), ("spatial", 1024)):
        pairs |= {f"{2**level} over 64 pixels, {kind}": ((level, kind, n), (6, kind, n)) for level in (7, 8, 9)}
    found = {}
    for name, pair in pairs.items():
        try:
            ours, theirs = (cells[str(2**side)][k][str(n)]["dice"][str(2**FULL)]["values"] for side, k, n in pair)
            found[name] = metrics.bootstrap(np.subtract(ours, theirs))._asdict()
        except KeyError:
            continue
    return found


def run(lab: Cohort, minutes: float = MINUTES, seed: int = 0, cells: Sequence[tuple] = CELLS) -> dict:
    """Measure the cost, train and score what is missing, and write the table as it fills."""
    record = {"minutes": minutes, "seed": seed, "beta": BETA, "grid": GRID, "torch": torch.__version__,
              "cost": studies.read("sizes").get("cost") or cost(), "cells": {}, "gains": {}, "long": {}}  # fmt: skip
    for at in cells:
        (level, kind, numbers), published = at, PUBLISHED.get(at) if minutes == MINUTES else None
        row = record["cells"].setdefault(str(2**level), {}).setdefault(kind, {})
        row[str(numbers)] = cell(at, lab, minutes, seed, published)
        studies.write("sizes", record)
    long = LONG_MINUTES * minutes / MINUTES
    record["gains"] = gains(record["cells"])
    record["long"] = cell(LONG, lab, long, seed, "07_full_size") | {"minutes": long}
    studies.write("sizes", record)
    return record
