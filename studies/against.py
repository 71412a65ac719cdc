"""What do skip connections buy, and what do they cost? Every contestant, three seeds, eight shifts."""

import time
from pathlib import Path

import numpy as np

from studies import board
from vaelib import metrics, recipes
from vaelib.cohort import load_slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import load, save
from vaelib.metrics import choose, paired, summary
from vaelib.metrics import dice_per_patient as dice_of
from vaelib.phantom.shifts import SHIFTS, stack_shifted
from vaelib.rivals import ARMS, PASSES, SPATIAL, parameters, predict

LEVEL, SEEDS, RIVAL, OURS = 6, (0, 1, 2), "U-Net", "spatial VAE, detached"
ONCE = ("supervised bottleneck", "U-Net, skips cut", "U-Net, three slices", "U-Net, jittered")  # controls, of one seed
COSTS = {  # the gap between the method and the U-Net, taken apart: (this) minus (that), by the first seed of each
    "the unsupervised objective": ("supervised bottleneck", recipes.DETACHED),
    "the missing skips": ("U-Net", "supervised bottleneck"),
    "the skips of the U-Net": ("U-Net", "U-Net, skips cut"),
    "all of it": ("U-Net", recipes.DETACHED),
}
KEPT = {RIVAL: "06_unet", OURS: "06_spatial"}  # the first seed's, for the notebook


def contestant(name: str, train, val, seed: int, folder: Path | None = None) -> tuple[dict, dict]:
    """The networks of an arm with their metadata: from their checkpoint if these slices made it, or else trained."""
    path = checkpoint(name, seed, folder)
    made_by = {"arm": name, "seed": seed, "passes": PASSES, "data": recipes.fingerprint(train, val)}
    made_by |= {"recipe": SPATIAL} if name == OURS else {}
    if path.exists():
        networks, meta = load(path)
        if {k: meta.get(k) for k in made_by} == made_by:
            return networks, meta
    began = time.process_time()
    networks = ARMS[name](train, val, seed)
    seconds = time.process_time() - began
    threshold = choose(predict(networks, val), val)
    save(path, networks, half=True, **made_by, threshold=threshold, **{"cpu seconds": seconds})
    return load(path)


def checkpoint(name: str, seed: int, folder: Path | None = None) -> Path:
    """Where the networks of an arm are kept."""
    return (folder or models_folder() / "arms") / f"{name.replace(',', '').replace(' ', '_')}_{seed}.safetensors"


def dices(networks: dict, threshold: float, s) -> np.ndarray:
    """3D Dice of each patient of a stack, (patients,)."""
    return dice_of(predict(networks, s), threshold, s)


def run(names=tuple(ARMS), seeds=SEEDS) -> dict:
    """Train what is missing, score everything, and put it into the section "against"."""
    shards, parts = recipes.shards_and_split()
    train, val, test = (load_slices(shards, parts[part], LEVEL) for part in ("train", "val", "test"))
    sets = {"none": test} | {shift: stack_shifted(shift, parts["test"], shards, LEVEL) for shift in SHIFTS}
    scores, facts = {}, {}
    for name in names:
        fact = facts[name] = {"seeds": list(seeds[:1] if name in ONCE else seeds), "cpu seconds": [], "thresholds": []}
        for seed in fact["seeds"]:
            networks, meta = contestant(name, train, val, seed)
            for shift, s in sets.items():
                scores.setdefault(shift, {}).setdefault(name, []).append(dices(networks, meta["threshold"], s))
            fact["cpu seconds"].append(round(meta["cpu seconds"]))
            fact["thresholds"].append(meta["threshold"])
            if seed == 0 and name in KEPT:
                board.publish(checkpoint(name, seed), KEPT[name])
        passes = SPATIAL["epochs"] + SPATIAL["passes"] if name == OURS else PASSES
        fact |= {"parameters": parameters(networks), "passes": passes}
        fact["cpu seconds a pass"] = float(np.mean(fact["cpu seconds"]) / passes)
    section = {"seeds": list(seeds), "level": LEVEL, "test": parts["test"], "recipe": SPATIAL, "arms": facts}
    section |= {"dice": {}, "minus U-Net": {}, "drop": {}}
    for shift, by in scores.items():
        section["dice"][shift] = {n: summary(np.array(v)) for n, v in by.items()}
        section["minus U-Net"][shift] = {n: paired(v, by[RIVAL]) for n, v in by.items() if n != RIVAL}
        section["drop"][shift] = {n: paired(v, scores["none"][n]) for n, v in by.items()}
    section["spared"] = {shift: {n: spared(section["dice"], shift, n) for n in names if n != RIVAL} for shift in SHIFTS}
    section["costs"] = {name: paired(*(scores["none"][n][:1] for n in two)) for name, two in COSTS.items()}
    board.put("against", section)
    return section


def spared(dice: dict, shift: str, name: str) -> dict:
    """How much less a contestant loses under a shift than the U-Net, by patient: above zero where it loses less."""
    lost = [np.subtract(*(dice[at][n]["values"] for at in (shift, "none"))) for n in (name, RIVAL)]
    return metrics.bootstrap(lost[0] - lost[1])._asdict()
