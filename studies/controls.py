"""What does the VAE itself bring? The same decoder on codes that have learned much, little or nothing.

Every arm is trained by one loop and for as many steps, and its curve is kept. The U-Nets alone are given a choice of
losses, by the old cohort's patients that nothing is learned from (the twelve that were tested often among them). The
choices are written down before the 100 fresh patients of `studies._pool` are opened, and those are scored once.
"""

from functools import partial
from typing import Any

import torch

import studies
from studies import _cells, _pool
from studies._arms import ARMS, PLAN, with_neighbours
from studies._fit import fitted, vae_of
from vaelib import metrics
from vaelib.cohort import Cohort
from vaelib.engine.checkpoints import fingerprint, save
from vaelib.engine.workers import map_in_processes
from vaelib.latent import decode

BASE, STUDY = "patch PCA", "controls"  # what every arm is held against
SEARCH = ({"jittered": False, "overlap": False}, {"jittered": False, "overlap": True})
SEARCHED = ("U-Net", "U-Net, residual units")  # the rivals, by all options; the others by the first
HEADLINE = ("patch PCA", "VAE, beta 0.001", "VAE, then fine-tuned", "U-Net, residual units")
SEEDS = (0, 1, 2, 3, 4)  # of the headline; the others have the first alone


def searched(job: tuple[str, int], lab: Cohort, plan: dict = PLAN) -> dict:
    """Train an arm with one of the options that are searched: what came of it on the old held-out patients."""
    torch.set_num_threads(1)
    return fitted(job[0], lab, SEEDS[0], SEARCH[job[1]], plan)[1]


def tested(cell: tuple[str, int], lab: Cohort, choices: dict[str, str], plan: dict = PLAN) -> dict:
    """Train an arm as it was chosen, and score it on the fresh patients: the measures by patient."""
    torch.set_num_threads(1)
    model, facts = fitted(cell[0], lab, cell[1], SEARCH[int(choices[cell[0]])], plan)
    fresh = _pool.patients(_pool.TEST)
    return _cells.measure(decode(model, with_neighbours(fresh.slices)), facts["threshold"], fresh.slices, fresh.spacing)


def publish_code(lab: Cohort, name: str = "VAE, beta 0.001") -> None:
    """Commit the VAE of an arm for notebook 06, in half precision, with its curve."""
    vae, curve = vae_of(lab, SEEDS[0], ARMS[name].options)
    said: dict[str, Any] = {
        "cohort": "synthetic",
        "study": "python -m studies controls",
        "data": fingerprint(lab.train),
    }
    said |= {"recipe": PLAN, "seed": SEEDS[0], "curve": curve}
    save(studies.CHECKPOINTS / "06_code.safetensors", {"vae": vae}, half=True, **said)


def foreseen(lab: Cohort, choices: dict[str, str], names: tuple[str, ...]) -> dict[str, float]:
    """Foresee how large a difference from patch PCA the fresh patients will show, by those of the old cohort."""
    val, dices = _cells.held_out(lab), {}
    for name in {BASE, *HEADLINE} & {*names}:
        model, facts = fitted(name, lab, SEEDS[0], SEARCH[int(choices[name])])
        dices[name] = metrics.dice_per_patient(decode(model, with_neighbours(val)), facts["threshold"], val)
    base = dices.pop(BASE, None)
    if base is None:
        return {}
    return {name: _cells.detectable(found - base, len(_pool.TEST)) for name, found in dices.items()}


def run(
    lab: Cohort, seeds: tuple[int, ...] = SEEDS, names: tuple[str, ...] = tuple(ARMS), workers: int | None = None
) -> dict:
    """Search, write the choices down, and only then open the fresh patients; what is there already is kept.

    Once they are written, nothing is searched again: the fresh patients may have been opened.
    """
    _pool.refuse_others(lab)
    record, cells = _cells.begin(STUDY, PLAN)
    if "choices" not in record:
        found = record.setdefault("search", {})
        jobs = [(name, k) for k in range(len(SEARCH)) for name in names if k == 0 or name in SEARCHED]
        jobs = [(name, k) for name, k in jobs if str(k) not in found.get(name, {})]
        made = map_in_processes(partial(searched, lab=lab), jobs, workers=workers, desc="search", unit="network")
        for (name, k), facts in zip(jobs, made, strict=True):
            found.setdefault(name, {})[str(k)] = facts
            studies.write(STUDY, record)
        record |= {
            "options": SEARCH,
            "choices": {name: max(row, key=lambda k: row[k]["val"]) for name, row in found.items()},
        }
        record["detectable"] = foreseen(lab, record["choices"], names)
        studies.write(STUDY, record)
        publish_code(lab)
    _pool.patients(_pool.TEST, workers)
    todo = [(name, seed) for seed in seeds for name in names if seed == seeds[0] or name in HEADLINE]
    cells = _cells.fill(STUDY, cells, todo, partial(tested, lab=lab, choices=record["choices"]), workers)
    return record | {"arms": _cells.compare(cells, BASE, names)}


def tables(record: dict) -> dict[str, str]:
    """Make the first table of the README: every arm on the fresh patients, the best first."""
    head = "| decoded from | labels shape it | Dice at 64 | minus patch PCA | surface Dice 2 mm | volume | seeds |"
    lines = [head, "|" + 7 * "---|"]
    for name, row in sorted(record["arms"].items(), key=lambda item: -item[1]["dice"]["mean"]):
        gap = studies.cell(row["minus base"], "+.3f") if "minus base" in row else ""
        cells = ["yes" if ARMS[name].shaped else "no", studies.cell(row["dice"], ".3f"), gap]
        cells += [f"{row['surface dice 2 mm']:.2f}", f"{100 * row['volume error']:+.0f}%", str(row["seeds"])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return {"controls": "\n".join(lines)}
