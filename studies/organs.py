"""Does a code that was learned without labels serve many organs, and at what cost? Five decoders.

Decoders of frozen codes, and U-Nets, learn five organs one after the other from the old training patients, whom the
phantom draws once more with all organs. The code of 64 numbers has seen 400 patients more, without a mask. Nothing is
chosen: recipes are those of the controls. All are scored on the 100 fresh patients. Seconds are of one CPU thread; a
decoder of 16 x 16 places computes the code of each slice anew, one that reads a vector does so once.
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
from studies._arms import SIDE, Reader, Scaled, build, labelled, of_pairs, train, with_neighbours
from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.engine.checkpoints import load
from vaelib.engine.errors import InputError
from vaelib.engine.rows import mean
from vaelib.engine.workers import map_in_processes
from vaelib.latent import decode
from vaelib.training import copies_of
from vaelib.vae import Decoder

STUDY, SEED = "organs", 0
ORGANS = ("liver", "spleen", "kidney", "stomach", "aorta")
ARMS = ("patch PCA", "VAE, beta 0.001", "VAE of 64 numbers", "U-Net")
BASE = "U-Net"
PLAN: dict[str, Any] = HOW | {"vector": {"steps": 6000, "batch": 32, "lr": 1e-3}, "copies": 24}
Codes = dict[str, Any]  # VAEs, by arm


def drawn(lab: Cohort, part: str, workers: int | None = None) -> _pool.Drawn:
    """Draw the patients of a part of the old cohort once more, with their organs; they must be the same to the bit."""
    names = lab.parts[part]
    found = _pool.patients([int(name.rpartition("_")[2]) for name in names], workers)
    old = getattr(lab, part)
    if not np.array_equal(found.slices.images, old.images[:]):
        raise InputError(f"{lab.folder}: its patients are not those that the phantom draws today; make the cohort anew")
    return found


def of_organ(found: _pool.Drawn, organ: str) -> Slices:
    """Put an organ's occupancy in the place of the pancreas'."""
    share = found.organs[:, _pool.ORGANS.index(organ), None].astype(np.float32) / (512 // SIDE) ** 2
    return found.slices._replace(masks=share)


def network(arm: str, codes: Codes, train_on: Slices, seed: int) -> nn.Module:
    """Make the untrained network of an arm over a code that is there."""
    if arm == "VAE of 64 numbers":
        torch.manual_seed(seed)
        code = Scaled(codes[arm].encoder, torch.from_numpy(train_on.images)).requires_grad_(False)
        return Reader(code, Decoder(SIDE, latent=64, start=mean(train_on.masks)), shaped=False)
    return build(CONTROLS[arm], train_on, seed, codes.get(arm))


def fitted(arm: str, codes: Codes, data: Slices, val: Slices, seed: int, plan: dict) -> tuple[nn.Module, dict]:
    """Train an arm on an organ: network, and the threshold of the held-out patients with the CPU seconds it took."""
    model, vector, began = network(arm, codes, data, seed), arm == "VAE of 64 numbers", time.process_time()
    if isinstance(model, Reader) and vector:
        pairs = copies_of(data.images, data.masks, plan["copies"], seed)
        with torch.no_grad():
            data_of = [torch.cat([model.code(x) for x, _ in pairs]), torch.cat([m for _, m in pairs])]
        train(model.head, of_pairs, data_of, seed=seed, **plan["vector"])
    else:
        data_of = [with_neighbours(data), torch.from_numpy(data.masks)]
        how = {name: plan[name] for name in ("steps", "batch", "lr")}
        train(model, labelled(jittered=False, overlap=False), data_of, seed=seed, **how)
    seconds = round(time.process_time() - began)
    on_val = decode(model.eval(), with_neighbours(val, int(not vector)))
    return model, {"threshold": metrics.choose(on_val, val), "cpu seconds": seconds}


def tested(cell: _cells.Cell, codes: Codes, data: _pool.Drawn, val: _pool.Drawn, plan: dict = PLAN) -> tuple:
    """Train an arm on an organ, such as "U-Net: liver", and score it on the fresh patients: facts and measures."""
    torch.set_num_threads(1)
    (arm, organ), fresh = cell[0].split(": "), _pool.patients(_pool.TEST)
    model, facts = fitted(arm, codes, of_organ(data, organ), of_organ(val, organ), cell[1], plan)
    found = decode(model, with_neighbours(fresh.slices, int(arm != "VAE of 64 numbers")))
    return facts, _cells.measure(found, facts["threshold"], of_organ(fresh, organ), fresh.spacing)


def codes_of() -> Codes:
    """Load the two committed VAEs: of 16 x 16 places, and of 64 numbers."""
    names = {"VAE, beta 0.001": "06_code", "VAE of 64 numbers": "03_vae"}
    return {
        arm: load(studies.CHECKPOINTS / f"{name}.safetensors", "vae")[0]["vae"].float() for arm, name in names.items()
    }


def run(lab: Cohort, workers: int | None = None) -> dict:
    """Train and score every arm on every organ; what is there already is kept."""
    _pool.refuse_others(lab)
    record, cells = _cells.begin(STUDY, PLAN)
    facts = record.setdefault("facts", {})
    todo = [(f"{arm}: {organ}", SEED) for organ in ORGANS for arm in ARMS]
    left = [cell for cell in todo if cell not in cells or cell[0] not in facts]
    if left:
        work = partial(tested, codes=codes_of(), data=drawn(lab, "train", workers), val=drawn(lab, "val", workers))
        for cell, (fact, scores) in zip(left, map_in_processes(work, left, workers=workers), strict=True):
            facts[cell[0]], cells[cell] = fact, scores
            studies.write(STUDY, record)
            _cells.write_cells(STUDY, cells)
    cells, found = _cells.read_cells(STUDY), {}
    for organ in ORGANS:
        found |= _cells.compare(cells, f"{BASE}: {organ}", [f"{arm}: {organ}" for arm in ARMS])
    return record | {"arms": found}


def tables(record: dict) -> dict[str, str]:
    """Make the table of organs: Dice of every arm, what it has over the U-Net, and the seconds of a further organ."""
    lines = ["| Dice at 64 | " + " | ".join(ORGANS) + " | CPU s an organ |", "|" + (len(ORGANS) + 2) * "---|"]
    for arm in ARMS:
        rows = [record["arms"][f"{arm}: {organ}"] for organ in ORGANS]
        gaps = [f"; {studies.cell(row['minus base'], '+.3f')}" if "minus base" in row else "" for row in rows]
        cells = [f"{row['dice']['mean']:.3f}{gap}" for row, gap in zip(rows, gaps, strict=True)]
        seconds = np.mean([record["facts"][f"{arm}: {organ}"]["cpu seconds"] for organ in ORGANS])
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return {"organs": "\n".join(lines)}
