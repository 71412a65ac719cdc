"""Does a larger picture, or a larger latent, make a better mask? And what does either cost?

=============  ==================================================================================================
plain          the cascade of `vaelib.vae`, down to 4 x 4, with a vector as its latent
vector         the residual cascade of `vaelib.spatial`, down to 4 x 4, with a vector as its latent
spatial        the residual cascade, down to 8 x 8: as many numbers, each with a place in the picture
=============  ==================================================================================================

Every cell of the table may use the same CPU seconds, on one thread, for its VAE and its mask decoder. At twice the side
a step costs up to four times as much, so a larger size sees the cohort less often: that is the bargain of a machine
without a GPU, and the table says how often. The widest layer is the same at each size, and so, nearly, are the weights.
Where there is more time, give it: ``python -c "from studies import sizes; sizes.run(minutes=60)"``.
"""

import copy
import time
from functools import partial

import numpy as np
import torch

from studies import board
from vaelib import metrics, recipes
from vaelib.cohort import load_slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import load, save
from vaelib.engine.memory import step_cost
from vaelib.engine.rows import Rows, mean
from vaelib.latent import decode, encode
from vaelib.levels import FULL
from vaelib.rivals import parameters
from vaelib.spatial import BETA, GRID, ResidualMaskDecoder, ResidualVAE, build
from vaelib.training import augment, fit, mask_step, vae_step
from vaelib.vae import VAE, MaskDecoder

MINUTES, FOR_VAE = 1.5, 0.6  # CPU minutes a cell, the VAE's share of them
CELLS = (
    *((6, kind, numbers) for numbers in (64, 256, 1024) for kind in ("vector", "spatial")),
    *((level, kind, numbers) for level in (9, 7, 8) for kind, numbers in (("plain", 64), ("spatial", 1024))),
    (6, "plain", 64), (7, "spatial", 256),
)  # fmt: skip
KEPT = {(6, "vector", 64): "07_vector", (6, "spatial", 64): "07_spatial", (6, "spatial", 1024): "07_spatial_1024"}
LONG, LONG_MINUTES = (9, "spatial", 1024), 6  # one more run at full size, as long as four cells, for its pictures


def mask_decoder_of(vae: VAE, prevalence: float = 0.01) -> MaskDecoder | ResidualMaskDecoder:
    """An untrained mask decoder for the latents of `vae`."""
    made = ResidualMaskDecoder if isinstance(vae, ResidualVAE) else MaskDecoder
    return made(**{k: v for k, v in vae.config.items() if k != "upsample"}, prevalence=prevalence)


def spend(minutes: float, model, step, data, seed: int, **options) -> int:
    """Train for so many CPU minutes, as a first trial on a few batches foretells them; return the images seen.

    Each image is seen once before any is seen again. The images of a step grow fewer as they grow larger: 64 of
    64 x 64, 8 of 512 x 512.
    """
    batch = min(64, 4096 // data[0][:1].shape[-1])
    trial = [Rows(4 * batch, lambda rows, a=a: np.asarray(a[rows % len(a)])) for a in data]
    for _ in range(2):  # the first warms up
        began = time.process_time()
        fit(copy.deepcopy(model), step, trial, epochs=1, batch_size=batch, **options)
        each = (time.process_time() - began) / len(trial[0])
    count, generator = max(batch, round(60 * minutes / each)), torch.Generator().manual_seed(seed)
    laps = [torch.randperm(len(data[0]), generator=generator) for _ in range(-(-count // len(data[0])))]
    order = torch.cat(laps).numpy()
    parts = [Rows(count, lambda rows, a=a: np.asarray(a[order[rows]])) for a in data]
    fit(model, step, parts, epochs=1, batch_size=batch, seed=seed, **options)
    return count


def train(kind: str, numbers: int, s, minutes: float, seed: int = 0) -> tuple[dict, dict]:
    """A VAE and its detached mask decoder, trained within a time; with them, how often each saw the cohort."""
    size = s.images[:1].shape[-1]
    torch.manual_seed(seed)
    vae = build(kind, size, numbers, mean(s.images))
    step = vae_step(BETA * (size / 64) ** 2)
    seen = spend(FOR_VAE * minutes, vae, step, [s.images], seed, augmentation=augment)
    mask = mask_decoder_of(vae, mean(s.masks))

    def encoded(x, m):
        x, m = augment(x, m)
        with torch.no_grad():
            return vae.encoder(x)[0], m

    read = spend((1 - FOR_VAE) * minutes, mask, mask_step, [s.images, s.masks], seed, augmentation=encoded)
    return {"vae": vae, "mask": mask}, {"VAE": seen / len(s.images), "mask": read / len(s.images)}


def dices(shards, probability, patient, level: int, thresholds: dict) -> dict:
    """3D Dice of each patient where the maps were made and, put back, at full size: ``{"64": [...], "512": [...]}``."""
    out = {side: [] for side in thresholds}
    for name, p in recipes.by_patient(probability, patient):
        for at in {level, FULL}:
            there = p if at == level else metrics.enlarge(p, 2**at)
            truth = metrics.truth_at(shards, name, at)
            out[str(2**at)].append(metrics.dice(there >= thresholds[str(2**at)], truth))
    return out


def grey_error(vae, s, full) -> float:
    """Root mean square error of the reconstruction, enlarged to full size, in grey values from 0 to 1."""
    rows = np.arange(0, len(s.images), 8)
    recon = decode(vae.decoder, encode(vae, s.images[rows], 16)[0], 16)[:, 0]
    return float(np.sqrt(np.mean((metrics.enlarge(recon, 2**FULL) - full.images[rows][:, 0]) ** 2)))


def cell(at: tuple, minutes: float, seed: int = 0, kept: str | None = None) -> dict:
    """The scores of one cell of the table, which is trained unless its checkpoint is there; copied where `kept`."""
    level, kind, numbers = at
    shards, parts = recipes.shards_and_split()
    coarse = [load_slices(shards, parts[name], 6) for name in ("train", "val")]
    made_by = {"study": "python -m studies sizes", "cell": list(at), "minutes": minutes, "seed": seed,
               "cohort": "synthetic", "data": recipes.fingerprint(*coarse)}  # fmt: skip
    path = models_folder() / "sizes" / f"{2**level}_{kind}_{numbers}_{minutes:g}_{seed}.safetensors"
    meta = load(path)[1] if path.exists() else {}
    if {k: meta.get(k) for k in made_by} != made_by:
        trained, val, test = (load_slices(shards, parts[name], level) for name in ("train", "val", "test"))
        networks, passes = train(kind, numbers, trained, minutes, seed)
        maps = [recipes.predicted(*networks.values(), s) for s in (val, test)]
        thresholds = metrics.best_thresholds(shards, recipes.by_patient(maps[0], val.patient), level)
        found = dices(shards, maps[1], test.patient, level, thresholds)
        scores = {
            "dice": {side: metrics.bootstrap(v)._asdict() | {"values": v} for side, v in found.items()},
            "grey": grey_error(networks["vae"], test, load_slices(shards, parts["test"], FULL)),
            "passes": passes, "parameters": parameters(networks),
        }  # fmt: skip
        save(path, networks, half=True, **made_by, thresholds=thresholds, scores=recipes.json_ready(scores))
    if kept:
        board.publish(path, kept)
    return load(path)[1]["scores"]


def cost(levels=(6, 7, 8, 9)) -> dict:
    """By size and network: its parameters, and `step_cost` as it is, with `recompute`, and in bfloat16.

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
    """What one cell has over another in Dice at full size: the mean over patients of their difference, its interval.

    Parameters
    ----------
    cells : dict
        As in the section "sizes": by side, kind, and numbers. Pairs that are not in it are left out.
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


def run(minutes: float = MINUTES, seed: int = 0, cells=CELLS) -> dict:
    """Measure the cost, train and score what is missing, and put it all into the section "sizes"."""
    section = {"minutes": minutes, "seed": seed, "beta": BETA, "grid": GRID, "torch": torch.__version__,
               "cost": board.get("sizes").get("cost") or cost(), "cells": {}, "gains": {}, "long": {}}  # fmt: skip
    for at in cells:
        (level, kind, numbers), kept = at, KEPT.get(at) if minutes == MINUTES else None
        row = section["cells"].setdefault(str(2**level), {}).setdefault(kind, {})
        row[str(numbers)] = cell(at, minutes, seed, kept)
        board.put("sizes", section)
    long = LONG_MINUTES * minutes / MINUTES
    section["gains"] = gains(section["cells"])
    section["long"] = cell(LONG, long, seed, "07_full_size") | {"minutes": long}
    board.put("sizes", section)
    return section
