"""Does a code that was learned without labels serve many organs, and at what cost? Five decoders.

Decoders of frozen codes, and U-Nets, learn five organs one after the other from the old training patients, whom the
phantom draws once more with all organs. Nothing is chosen: recipes are those of the controls. All are scored on the
100 fresh patients. Seconds are of one CPU thread, for a decoder with the code of each slice computed anew.
"""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

import studies
from studies import _cells, _pool
from studies._arms import ARMS as CONTROLS
from studies._arms import PLAN as HOW
from studies._arms import build, labelled, train, with_neighbours
from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.engine.checkpoints import load
from vaelib.engine.errors import InputError
from vaelib.latent import decode

STUDY, SEED = "organs", 0
ORGANS = ("kidney", "aorta", "liver", "spleen", "stomach")  # in this order
ARMS = ("patch PCA", "VAE, beta 0.001", "U-Net")
BASE = "U-Net"
PLAN: dict[str, Any] = {name: HOW[name] for name in ("batch", "lr", "steps")}


def drawn(lab: Cohort, part: str, workers: int | None = None) -> _pool.Drawn:
    """Draw the patients of a part of the old cohort once more, with their organs; they must be the same to the bit."""
    names = lab.parts[part]
    found = _pool.patients([*map(_pool.number_of, names)], workers)
    old = getattr(lab, part)
    if not np.array_equal(found.slices.images, old.images[:]):
        raise InputError(f"{lab.folder}: its patients are not those that the phantom draws today; make the cohort anew")
    return found


def of_organ(found: _pool.Drawn, organ: str) -> Slices:
    """Put an organ's occupancy in the place of the pancreas'."""
    share = found.organs[:, _pool.ORGANS.index(organ), None].astype(np.float32) / _pool.AREA
    return found.slices._replace(masks=share)


def fitted(arm: str, vae: Any, data: Slices, val: Slices, seed: int, plan: dict) -> tuple[nn.Module, dict]:
    """Train an arm on an organ: network, and the threshold of the held-out patients with the CPU seconds it took."""
    began = time.process_time()
    model = build(CONTROLS[arm], data, seed, vae if CONTROLS[arm].code == "vae" else None)
    tensors = [with_neighbours(data), torch.from_numpy(data.masks)]
    train(model, labelled(jittered=False, overlap=False), tensors, seed=seed, **plan)
    seconds = round(time.process_time() - began)
    return model, {"threshold": metrics.choose(decode(model, with_neighbours(val)), val), "cpu seconds": seconds}


def tested(cell: _cells.Cell, vae: Any, data: _pool.Drawn, val: _pool.Drawn, plan: dict = PLAN) -> tuple:
    """Train an arm on an organ, such as "U-Net: liver", and score it on the fresh patients: facts and measures."""
    torch.set_num_threads(1)
    (arm, organ), fresh = cell[0].split(": "), _pool.patients(_pool.TEST)
    model, facts = fitted(arm, vae, of_organ(data, organ), of_organ(val, organ), cell[1], plan)
    found = decode(model, with_neighbours(fresh.slices))
    return facts, _cells.measure(found, facts["threshold"], of_organ(fresh, organ), fresh.spacing)


def run(lab: Cohort, workers: int | None = None) -> dict:
    """Train and score every arm on every organ; what is there already is kept."""
    _pool.refuse_others(lab)
    record, cells = _cells.begin(STUDY, PLAN)
    todo = [(f"{arm}: {organ}", SEED) for organ in ORGANS for arm in ARMS]
    if any(cell not in cells for cell in todo):
        vae = load(studies.CHECKPOINTS / "06_code.safetensors", "vae")[0]["vae"]
        work = partial(tested, vae=vae, data=drawn(lab, "train", workers), val=drawn(lab, "val", workers))
        cells = _cells.fill(STUDY, cells, todo, work, workers, record)
    found: dict[str, dict] = {}
    for organ in ORGANS:
        found |= _cells.compare(cells, f"{BASE}: {organ}", [f"{arm}: {organ}" for arm in ARMS])
    return record | {"arms": found}


def tables(record: dict) -> dict[str, str]:
    """Make the table of organs: Dice of every arm, what it has over the U-Net, and the seconds of a further organ."""
    organs = [organ for organ in ORGANS if all(f"{arm}: {organ}" in record["arms"] for arm in ARMS)]
    lines = ["| Dice at 64 | " + " | ".join(organs) + " | CPU s an organ |", "|" + (len(organs) + 2) * "---|"]
    for arm in ARMS:
        rows = [record["arms"][f"{arm}: {organ}"] for organ in organs]
        gaps = [f"; {studies.cell(row['minus base'], '+.3f')}" if "minus base" in row else "" for row in rows]
        cells = [f"{row['dice']['mean']:.3f}{gap}" for row, gap in zip(rows, gaps, strict=True)]
        seconds = np.mean([record["facts"][f"{arm}: {organ}"]["cpu seconds"] for organ in organs])
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return {"organs": "\n".join(lines)}
