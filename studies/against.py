"""What do skip connections buy, and what do they cost? Every contestant of notebook 06, three seeds, eight shifts."""

from collections.abc import Sequence

import numpy as np

from studies import cell, paired, publish, summary
from studies._contestants import checkpoint, contestant
from vaelib import metrics, recipes
from vaelib.cohort import Cohort
from vaelib.phantom.shifts import SHIFTS, stack_shifted
from vaelib.rivals import ARMS, SPATIAL, parameters

RIVAL, OURS, SEEDS = "U-Net", "spatial VAE, detached", (0, 1, 2)
ONCE = ("supervised bottleneck", "U-Net, skips cut", "U-Net, three slices", "U-Net, jittered")  # controls, of one seed
CONTESTANTS = (recipes.DETACHED, ONCE[0], RIVAL, *ONCE[1:], OURS)
COSTS = {  # the gap between the method and the U-Net, taken apart: (this) minus (that), by the first seed of each
    "the unsupervised objective": ("supervised bottleneck", recipes.DETACHED),
    "the missing skips": ("U-Net", "supervised bottleneck"),
    "the skips of the U-Net": ("U-Net", "U-Net, skips cut"),
    "all of it": ("U-Net", recipes.DETACHED),
}
PUBLISHED = {RIVAL: "06_unet", OURS: "06_spatial"}  # the first seed's, for the notebook


def run(lab: Cohort, names: Sequence[str] = CONTESTANTS, seeds: Sequence[int] = SEEDS) -> dict:
    """Train what is missing, score every contestant under every shift, and commit the two that the lesson opens."""
    sets = {"none": lab.test}
    sets |= {shift: stack_shifted(shift, lab.parts["test"], lab.shards, lab.level) for shift in SHIFTS}
    scores: dict[str, dict[str, list]] = {shift: {name: [] for name in names} for shift in sets}
    facts = {}
    for name in names:
        found = {seed: contestant(name, lab, seed) for seed in (seeds[:1] if name in ONCE else seeds)}
        for method in found.values():
            for shift, slices in sets.items():
                dices = metrics.dice_per_patient(method.predict(slices), method.meta["threshold"], slices)
                scores[shift][name].append(dices)
        facts[name] = effort(name, found)
        if 0 in found and name in PUBLISHED:
            publish(checkpoint(name, 0), PUBLISHED[name])
    record = {"seeds": list(seeds), "level": lab.level, "test": lab.parts["test"], "recipe": SPATIAL, "arms": facts}
    return record | compare(scores)


def effort(name: str, found: dict) -> dict:
    """Collect what the training of an arm took, seed by seed."""
    seconds, recipe = [round(method.meta["cpu seconds"]) for method in found.values()], ARMS[name].recipe
    decoding = recipe["passes"] if "passes" in recipe else recipe["copies"] * recipe["mask_epochs"]
    passes = recipe.get("epochs", 0) + decoding
    return {
        "seeds": list(found), "cpu seconds": seconds,
        "thresholds": [method.meta["threshold"] for method in found.values()],
        "parameters": parameters([*found.values()][-1].networks), "passes": passes,
        "cpu seconds a pass": float(np.mean(seconds) / passes),
    }  # fmt: skip


def compare(scores: dict[str, dict[str, list]]) -> dict:
    """Compare the contestants by their scores, which are Dices (patients,) of each seed, by shift and name."""
    plain = scores["none"]
    dice = {shift: {n: summary(np.array(v)) for n, v in by.items()} for shift, by in scores.items()}
    others = [name for name in plain if name != RIVAL]
    return {
        "dice": dice,
        "minus U-Net": {s: {n: by_seed(by[n], by[RIVAL]) for n in others} for s, by in scores.items()},
        "drop": {s: {n: paired(v, plain[n]) for n, v in by.items()} for s, by in scores.items()},
        "spared": {s: {n: spared(by, plain, n) for n in others} for s, by in scores.items() if s != "none"},
        "costs": {name: paired(*(plain[n][:1] for n in two)) for name, two in COSTS.items() if {*two} <= {*plain}},
    }


def by_seed(ours: Sequence, theirs: Sequence) -> dict:
    """Compare two methods patient by patient, as `paired`, and add the mean difference of each seed that both have."""
    seeds = [float(np.mean(a) - np.mean(b)) for a, b in zip(ours, theirs, strict=False)]
    return paired(ours, theirs) | {"seeds": seeds}


def spared(by: dict, plain: dict, name: str) -> dict:
    """Measure how much less a contestant loses under a shift than the U-Net of the same seeds: above zero if less."""
    lost = [[np.subtract(*two) for two in zip(by[n], plain[n], strict=True)] for n in (name, RIVAL)]
    return by_seed(*lost)


def tables(record: dict) -> dict[str, str]:
    """Make the two tables of the README: all contestants, and the first two under each shift."""
    return {"contestants": contestants(record), "shifts": under_shifts(record)}


def contestants(record: dict) -> str:
    """Make a table of every contestant: its Dice of the patients as they are, and what it took."""
    lines = ["| contestant | Dice at 64 | minus U-Net | seeds | parameters | CPU s a pass |", "|" + 6 * "---|"]
    for name, fact in record["arms"].items():
        gap = record["minus U-Net"]["none"].get(name)
        cells = [cell(record["dice"]["none"][name], ".2f"), cell(gap, "+.3f") if gap else "",
                 str(len(fact["seeds"])), f"{fact['parameters']:,}", f"{fact['cpu seconds a pass']:.1f}"]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def under_shifts(record: dict) -> str:
    """Make a table of the U-Net and the spatial VAE under each shift, and who is ahead."""
    lines = [f"| test patients | {RIVAL} | {OURS} | difference | {OURS} is |", "|" + 5 * "---|"]
    for shift, by in record["dice"].items():
        gap = record["minus U-Net"][shift][OURS]
        cells = [cell(by[RIVAL], ".2f"), cell(by[OURS], ".2f"), cell(gap, "+.3f"), metrics.verdict(gap)]
        lines.append(f"| {'as they are' if shift == 'none' else shift} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
