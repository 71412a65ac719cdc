"""How far does a detached latent come? One change after another, each with its number, the failures too.

Every row is trained for the same few passes, fewer than the contestants have, with seed 0, and is chosen or dropped by
the *validation* patients; the test patients are scored for the record.
"""

import re
import time
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceLoss

from studies import board
from studies.against import choose, dice_of, paired
from vaelib import metrics, recipes
from vaelib.cohort import load_slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import load, save
from vaelib.latent import decode, encode
from vaelib.losses import beta_at, kl_per_unit, l2, mask_loss, vae_loss
from vaelib.rivals import SPATIAL, parameters, predict, spatial_mask, spatial_vae
from vaelib.spatial import neighbours
from vaelib.training import mask_step

LEVEL, SEED = 6, 0
BASE = SPATIAL | {"epochs": 8, "passes": 6, "jitter": False}
FREE_BITS, EDGES, OVERLAP = 0.02, 2.0, 20.0  # nats a number; weights of the gradient term and of the Dice loss


def free_bits_step(model, batch, progress) -> dict:
    """A nat budget for each number of the latent, free of charge (Kingma et al. 2016, arXiv:1606.04934)."""
    out = model(batch[0])
    recon, budgeted = l2(out.recon, batch[-1]), kl_per_unit(out.mu, out.logvar).clamp(min=FREE_BITS)
    return {"total": recon + beta_at(progress, BASE["beta"]) * budgeted.sum(), "recon": recon}


def edges_step(model, batch, progress) -> dict:
    """The steps from pixel to pixel are to be reconstructed too (Mathieu et al. 2016, arXiv:1511.05440)."""
    out, x = model(batch[0]), batch[-1]
    parts = vae_loss(out, x, beta_at(progress, BASE["beta"]))._asdict()
    edges = sum(l2(out.recon.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    return parts | {"total": parts["total"] + EDGES * edges}


def overlap_step(model, batch, progress) -> dict:
    """Cross-entropy, and the Dice loss over the whole batch (Milletari et al. 2016, arXiv:1606.04797)."""
    logits = model(batch[0])
    overlap = DiceLoss(sigmoid=True, batch=True)(logits, batch[1])
    return {"total": mask_loss(logits, batch[1]) + OVERLAP * overlap}


FINE = "16 x 16 x 8, three slices"  # the row that the later ones change
TRIED = {  # what differs from BASE, the steps of the two trainings, and the row whose VAE is used again
    "64 numbers in place, 8 x 8 x 1": {"recipe": {"latent": 1, "grid": 8, "reach": 0}},
    "8 x 8 x 16": {"recipe": {"latent": 16, "grid": 8, "reach": 0}},
    "8 x 8 x 16, three slices": {"recipe": {"latent": 16, "grid": 8}, "vae of": "8 x 8 x 16"},
    "16 x 16 x 8": {"recipe": {"reach": 0}, "vae of": FINE},
    FINE: {},
    "beta 0: an autoencoder": {"recipe": {"beta": 0.0}},
    "free bits": {"vae step": free_bits_step},
    "gradient term": {"vae step": edges_step},
    "Dice + BCE": {"mask step": overlap_step, "vae of": FINE},
    "jittered: a denoising VAE": {"recipe": {"jitter": True}},
}
REFINED = "z refined at test time"  # of FINE, untrained


def networks(name: str, train, folder: Path | None = None) -> tuple[dict, dict]:
    """The networks of a row and their metadata: from their checkpoint if these slices made it, or else trained."""
    what = TRIED[name]
    recipe = BASE | what.get("recipe", {})
    path = (folder or models_folder() / "gap") / f"{re.sub('[^a-z0-9]+', '_', name.lower())}.safetensors"
    made_by = {"row": name, "recipe": recipe, "seed": SEED, "data": recipes.fingerprint(train)}
    if not path.exists() or {k: load(path)[1].get(k) for k in made_by} != made_by:
        shared = networks(what["vae of"], train, folder)[0]["vae"] if "vae of" in what else None
        began = time.process_time()
        vae = shared or spatial_vae(train, SEED, recipe, what.get("vae step"))
        mask = spatial_mask(vae, train, SEED, recipe, what.get("mask step", mask_step))
        seconds = round(time.process_time() - began)
        save(path, {"vae": vae, "mask": mask}, half=True, **made_by, **{"cpu seconds": seconds})
    return load(path)


def refine(vae, images: np.ndarray, steps: int = 20, lr: float = 0.05, batch: int = 256) -> np.ndarray:
    """Go on from `mu` downhill on each slice's own loss, encoder and decoder left alone: latents (N, C, g, g).

    What the encoder says of a slice is a guess, made in one step for all; this is the search that it stands in for
    (Cremer et al. 2018, arXiv:1801.03558).
    """
    out = []
    for start in range(0, len(images), batch):
        x = torch.from_numpy(images[start : start + batch])
        z = torch.from_numpy(encode(vae, x)[0]).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            error = 0.5 * (vae.decode(z) - x).square().sum() + 0.5 * BASE["beta"] * z.square().sum()
            error.backward()
            optimizer.step()
        out.append(z.detach().numpy())
    return np.concatenate(out)


def predict_refined(nets: dict, s) -> np.ndarray:
    """As `rivals.predict`, from refined latents."""
    z = torch.from_numpy(refine(nets["vae"], s.images))
    return decode(nets["mask"], neighbours(z, s.patient, nets["mask"].config["reach"]))


def run() -> dict:
    """Train what is missing, score everything, and put it into the section "gap"."""
    shards, parts = recipes.shards_and_split()
    train, val, test = (load_slices(shards, parts[part], LEVEL) for part in ("train", "val", "test"))
    section = {"seed": SEED, "base": BASE, "test": parts["test"], "rows": {}}
    values = {}
    for name in (*TRIED, REFINED):
        nets, meta = networks(FINE if name == REFINED else name, train)
        says = predict_refined if name == REFINED else predict
        p, q = says(nets, val), says(nets, test)
        threshold = choose(p, val)
        values[name] = dice_of(q, threshold, test)
        section["rows"][name] = metrics.bootstrap(values[name])._asdict() | {
            "val": float(dice_of(p, threshold, val).mean()), "threshold": threshold, "values": values[name],
            "parameters": parameters(nets), "cpu seconds": meta["cpu seconds"],
        }  # fmt: skip
        section["rows"][name][f"minus {FINE}"] = paired([values[name]], [values[FINE]]) if FINE in values else None
    board.put("gap", section)
    return section
