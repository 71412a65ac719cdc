"""How far does a detached latent get? One change after another, each with its number, the failures too.

Every row is trained for the same few passes, fewer than the contestants have, with seed 0, and is chosen or dropped by
the *validation* patients; the test patients are scored for the record.
"""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

from studies import paired
from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, fingerprint_of, kept
from vaelib.latent import decode, encode
from vaelib.losses import beta_at, kl_per_unit, l2, mask_loss, vae_loss
from vaelib.rivals import ARMS, SPATIAL, parameters, spatial_mask, spatial_vae
from vaelib.spatial import neighbours
from vaelib.training import mask_step

SEED = 0
BASE = SPATIAL | {"epochs": 8, "passes": 6, "jitter": False}
FREE_BITS, EDGES, OVERLAP = 0.02, 2.0, 20.0  # nats a number; weights of the gradient term and of the Dice loss


def free_bits_step(model: nn.Module, batch: Sequence[Tensor], progress: float) -> dict:
    """Give each number of the latent a budget of nats, free of charge (Kingma et al. 2016, arXiv:1606.04934)."""
    out = model(batch[0])
    recon, budgeted = l2(out.recon, batch[-1]), kl_per_unit(out.mu, out.logvar).clamp(min=FREE_BITS)
    return {"total": recon + beta_at(progress, BASE["beta"]) * budgeted.sum(), "recon": recon}


def edges_step(model: nn.Module, batch: Sequence[Tensor], progress: float) -> dict:
    """Ask for the steps from pixel to pixel to be reconstructed too (Mathieu et al. 2016, arXiv:1511.05440)."""
    out, x = model(batch[0]), batch[-1]
    parts = vae_loss(out, x, beta_at(progress, BASE["beta"]))._asdict()
    edges = sum(l2(out.recon.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    return parts | {"total": parts["total"] + EDGES * edges}


def overlap_step(model: nn.Module, batch: Sequence[Tensor], progress: float) -> dict:
    """Add the Dice loss over the whole batch to the cross-entropy (Milletari et al. 2016, arXiv:1606.04797)."""
    logits = model(batch[0])
    overlap = DiceLoss(sigmoid=True, batch=True)(logits, batch[1])
    return {"total": mask_loss(logits, batch[1]) + OVERLAP * overlap}


FINE = "16 x 16 x 8, three slices"  # the row that the later ones change
TRIED: dict[
    str, dict[str, Any]
] = {  # what differs from BASE, the steps of the two trainings, and the row whose VAE is used again
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


def trained(name: str, train: Slices, folder: Path | None = None) -> dict:
    """Train the networks of a row, "vae" and "mask", or load those that this row of these slices has made.

    With them come the ``cpu seconds``. A row that reuses the VAE of another is trained anew when that one changes.
    """
    what = TRIED[name]
    recipe, steps = BASE | what.get("recipe", {}), [what.get("vae step"), what.get("mask step", mask_step)]
    shared = trained(what["vae of"], train, folder)["vae"] if "vae of" in what else None

    def make() -> dict:
        began = time.process_time()
        vae = shared or spatial_vae(train, SEED, recipe, steps[0])
        mask = spatial_mask(vae, train, SEED, recipe, steps[1])
        return {"vae": vae, "mask": mask, "cpu seconds": round(time.process_time() - began)}

    made_by = {
        "row": name, "recipe": recipe, "seed": SEED, "data": fingerprint(train),
        "steps": [step and step.__name__ for step in steps], "weights": [FREE_BITS, EDGES, OVERLAP],
        "vae": shared and fingerprint_of(shared),
    }  # fmt: skip
    path = (folder or models_folder() / "gap") / f"{re.sub('[^a-z0-9]+', '_', name.lower())}.safetensors"
    return kept(path, made_by, make, half=True)


def refine(vae: nn.Module, images: np.ndarray, steps: int = 20, lr: float = 0.05, batch: int = 256) -> np.ndarray:
    """Follow each slice's own loss downhill from `mu`, encoder and decoder left alone: latents (N, C, g, g).

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


def predict_refined(networks: dict[str, nn.Module], slices: Slices) -> np.ndarray:
    """Predict probabilities (N, 1, H, W) from refined latents."""
    z = torch.from_numpy(refine(networks["vae"], slices.images[:]))
    return decode(networks["mask"], neighbours(z, slices.patient, networks["mask"].config["reach"]))


def run(lab: Cohort) -> dict:
    """Train what is missing, and score every row on the validation and the test patients."""
    rows, values = {}, {}
    for name in (*TRIED, REFINED):
        found = trained(FINE if name == REFINED else name, lab.train)
        networks = {key: found[key] for key in ("vae", "mask")}
        if name == REFINED:
            on_val, on_test = (predict_refined(networks, s) for s in (lab.val, lab.test))
        else:
            method = ARMS["spatial VAE, detached"].method(networks)
            on_val, on_test = (method.predict(s) for s in (lab.val, lab.test))
        threshold = metrics.choose(on_val, lab.val)
        values[name] = metrics.dice_per_patient(on_test, threshold, lab.test)
        rows[name] = metrics.bootstrap(values[name])._asdict() | {
            "val": float(metrics.dice_per_patient(on_val, threshold, lab.val).mean()),
            "threshold": threshold, "values": values[name],
            "parameters": parameters(networks), "cpu seconds": found["cpu seconds"],
            f"minus {FINE}": paired([values[name]], [values[FINE]]) if FINE in values else None,
        }  # fmt: skip
    return {"seed": SEED, "base": BASE, "test": lab.parts["test"], "rows": rows}
