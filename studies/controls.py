"""What does the VAE itself bring? The same decoder on codes that have learned much, little or nothing.

Every arm is trained by one loop and for as many steps, and its curve is kept. The U-Nets alone are given a choice of
losses, by the old cohort's patients that nothing is learned from (the twelve that were tested often among them). The
choices are written down before the 100 fresh patients of `studies._pool` are opened, and those are scored once.
"""

import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import studies
from studies import _cells, _pool
from studies._arms import (  # fmt: skip
    ARMS,
    GRID,
    NUMBERS,
    PLAN,
    SIDE,
    Arm,
    build,
    labelled,
    made_with,
    scaled,
    train,
    unlabelled,
    with_neighbours,
)
from vaelib import metrics
from vaelib.cohort import Cohort
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept, save
from vaelib.engine.files import hash_of
from vaelib.engine.rows import mean
from vaelib.engine.workers import map_in_processes
from vaelib.latent import active_units, decode
from vaelib.losses import kl, l2, mask_loss
from vaelib.rivals import parameters
from vaelib.spatial import ResidualVAE
from vaelib.training import augment

BASE, STUDY = "patch PCA", "controls"  # what every arm is held against
SEARCH = ({"jittered": False, "overlap": False}, {"jittered": False, "overlap": True})
SEARCHED = ("U-Net", "U-Net, residual units")  # the rivals, by all options; the others by the first
HEADLINE = ("patch PCA", "VAE, beta 0.001", "VAE, then fine-tuned", "U-Net, residual units")
SEEDS = (0, 1, 2, 3, 4)  # of the headline; the others have the first alone


def vae_of(lab: Cohort, seed: int, options: dict[str, Any], plan: dict = PLAN) -> tuple[ResidualVAE, list[dict]]:
    """Train the VAE, or autoencoder, that an arm reads, on slices alone; or load it. With it, its curve."""
    options = {k: v for k, v in options.items() if k in ("beta", "noise", "seen")}
    how = {"steps": plan["VAE steps"], "batch": plan["batch"], "lr": plan["lr"], "seed": seed}

    def make() -> dict:
        torch.manual_seed(seed)
        images, val = torch.from_numpy(lab.train.images), torch.from_numpy(lab.val.images)
        vae = ResidualVAE(SIDE, latent=NUMBERS, grid=GRID, start=float(images.mean()))

        @torch.no_grad()
        def look() -> dict:
            mu, logvar = vae.encoder(val)
            z = mu if options["beta"] is not None else scaled(mu)  # as its decoder reads it in training
            alive = active_units(z.permute(0, 2, 3, 1).reshape(-1, NUMBERS).numpy()).sum()
            return {"error": l2(vae.decode(z), val).item(), "kl": kl(mu, logvar).item(), "active": int(alive)}

        return {"vae": vae, "curve": train(vae, unlabelled(**options), [images], look=look, **how)}

    made_by = {"code": options, "how": how, "with": made_with(), "data": fingerprint(lab.train, lab.val)}
    found = kept(_place("vae", made_by), made_by, make)
    return found["vae"], found["curve"]


def masks_of(lab: Cohort, seed: int, plan: dict = PLAN) -> nn.Module:
    """Train a VAE of masks alone, for the arm that maps one latent to the other; or load it."""
    how = {"steps": plan["VAE steps"] // 2, "batch": plan["batch"], "lr": plan["lr"], "seed": seed}

    def losses(vae: nn.Module, batch: Sequence[Tensor], progress: float) -> Tensor:
        (m,) = augment(batch[0])
        mu, logvar = vae.encoder(m)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        return mask_loss(vae.decoder(z), m) + plan["beta"] * kl(mu, logvar)

    def make() -> dict:
        torch.manual_seed(seed)
        vae = ResidualVAE(SIDE, latent=NUMBERS, grid=GRID, start=mean(lab.train.masks))
        train(vae, losses, [torch.from_numpy(lab.train.masks)], **how)
        return {"vae": vae}

    made_by = {"code": "of masks", "how": how, "beta": plan["beta"], "data": fingerprint(lab.train, lab.val)}
    return kept(_place("masks", made_by), made_by, make)["vae"]


def _place(kind: str, made_by: dict) -> Path:
    return models_folder() / "controls" / f"{re.sub('[ ,]+', '_', kind)}_{hash_of(made_by)[:12]}.safetensors"


def fitted(name: str, lab: Cohort, seed: int, options: dict, plan: dict = PLAN) -> tuple[nn.Module, dict]:
    """Train an arm with some options, or load it: network, ``curve`` on held-out patients, the ``threshold``."""
    arm: Arm = ARMS[name]
    vae, curve = vae_of(lab, seed, arm.options, plan) if arm.code == "vae" else (None, [])
    masks = masks_of(lab, seed, plan) if "mask latent" in arm.options else None
    model = build(arm, lab.train, seed, vae, masks)
    how = {"steps": plan["steps"], "batch": plan["batch"], "lr": plan["lr"], "seed": seed}
    made_by = {"arm": [name, *arm], "options": options, "how": how, "parents": plan, "with": made_with()}
    made_by["data"] = fingerprint(lab.train, lab.val)

    def make() -> dict:
        val, began = _cells.held_out(lab), time.process_time()
        shown = with_neighbours(val)

        def look() -> dict:
            on_val = decode(model, shown)
            cut = metrics.choose(on_val, val)
            return {"dice": float(metrics.dice_per_patient(on_val, cut, val).mean()), "threshold": cut}

        data = [with_neighbours(lab.train), torch.from_numpy(lab.train.masks)]
        joint = arm.options.get("beta") if "joint" in arm.options else None
        seen = train(model, labelled(**options, joint=joint), data, look=look, **how)
        facts = {"curve": seen, "cpu seconds": round(time.process_time() - began), "VAE's curve": curve}
        facts |= {"parameters": parameters({"net": model})}
        return facts | {key: value.cpu().numpy() for key, value in model.state_dict().items()}

    found = kept(_place(name, made_by), made_by, make)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in found.items() if isinstance(v, np.ndarray)})
    facts = {k: v for k, v in found.items() if not isinstance(v, np.ndarray)}
    return model.eval(), facts | {"val": facts["curve"][-1]["dice"], "threshold": facts["curve"][-1]["threshold"]}


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
    return (
        {}
        if base is None
        else {name: _cells.detectable(found - base, len(_pool.TEST)) for name, found in dices.items()}
    )


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
    lines = [
        "| decoded from | labels shape it | Dice at 64 | minus patch PCA | surface Dice 2 mm | volume | seeds |",
        "|" + 7 * "---|",
    ]
    for name, row in sorted(record["arms"].items(), key=lambda item: -item[1]["dice"]["mean"]):
        gap = studies.cell(row["minus base"], "+.3f") if "minus base" in row else ""
        cells = ["yes" if ARMS[name].shaped else "no", studies.cell(row["dice"], ".3f"), gap]
        cells += [f"{row['surface dice 2 mm']:.2f}", f"{100 * row['volume error']:+.0f}%", str(row["seeds"])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return {"controls": "\n".join(lines)}
