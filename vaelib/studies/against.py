"""What do skip connections buy, and what do they cost? Every contestant, three seeds, eight shifts."""

import time
from pathlib import Path

import numpy as np

from vaelib import metrics, pipeline
from vaelib.arms import ARMS, PASSES, parameters, predict
from vaelib.cohort import models_folder
from vaelib.pyramid import stack
from vaelib.shifts import SHIFTS, stack_shifted
from vaelib.studies import board
from vaelib.training import load, save

LEVEL, SEEDS, RIVAL = 6, (0, 1, 2), "U-Net"


def contestant(name: str, train, val, seed: int, folder: Path | None = None) -> tuple[dict, dict]:
    """The networks of an arm with their metadata: from their checkpoint if these slices made it, or else trained."""
    path = (folder or models_folder() / "arms") / f"{name.replace(',', '').replace(' ', '_')}_{seed}.safetensors"
    made_by = {"arm": name, "seed": seed, "passes": PASSES, "data": pipeline.fingerprint(train, val)}
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


def choose(probability, val) -> float:
    """The threshold that is best on the validation patients."""
    return metrics.best_threshold(probability, val.masks >= metrics.TRUTH, val.patient)


def dices(networks: dict, threshold: float, s) -> np.ndarray:
    """3D Dice of each patient of a stack, (patients,)."""
    at = np.array([threshold])
    return metrics.sweep(predict(networks, s), s.masks >= metrics.TRUTH, s.patient, at)[:, 0]


def summary(values: np.ndarray) -> dict:
    """Interval over patients of per-patient means over seeds (seeds, patients), and each seed's own mean."""
    per_patient = np.mean(values, 0)
    return metrics.bootstrap(per_patient)._asdict() | {"values": per_patient, "seeds": np.mean(values, 1)}


def run(names=tuple(ARMS), seeds=SEEDS) -> dict:
    """Train what is missing, score everything, and put it into the section "against"."""
    shards, parts = pipeline.shards_and_split()
    train, val, test = (stack(shards, parts[part], LEVEL) for part in ("train", "val", "test"))
    sets = {"none": test} | {shift: stack_shifted(shift, parts["test"], shards, LEVEL) for shift in SHIFTS}
    scores, facts = {}, {}
    for name in names:
        for seed in seeds:
            networks, meta = contestant(name, train, val, seed)
            for shift, s in sets.items():
                scores.setdefault(shift, {}).setdefault(name, []).append(dices(networks, meta["threshold"], s))
            fact = facts.setdefault(name, {"parameters": parameters(networks), "cpu seconds": [], "thresholds": []})
            fact["cpu seconds"].append(round(meta["cpu seconds"]))
            fact["thresholds"].append(meta["threshold"])
    section = {"seeds": list(seeds), "level": LEVEL, "passes": PASSES, "test": parts["test"], "arms": facts}
    section |= {"dice": {}, "minus U-Net": {}, "drop": {}}
    for shift, by in scores.items():
        section["dice"][shift] = {n: summary(np.array(v)) for n, v in by.items()}
        section["minus U-Net"][shift] = {n: paired(v, by[RIVAL]) for n, v in by.items() if n != RIVAL}
        section["drop"][shift] = {n: paired(v, scores["none"][n]) for n, v in by.items()}
    board.put("against", section)
    return section


def paired(ours: list, theirs: list) -> dict:
    """The mean difference over patients, each compared with itself, with its 95% interval."""
    return metrics.bootstrap(np.mean(ours, 0) - np.mean(theirs, 0))._asdict()
