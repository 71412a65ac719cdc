"""Does a code that was learned from many scans help where few patients have a mask? A grid of few labels.

VAE and linear code learn from 431 synthetic patients without a mask: the 31 of the old cohort and 400 of the pool. A
mask decoder then learns from k patients of the pool; threshold and stopping use these alone. k is 1, 4 or 16, in six
draws, each with its own seed. All are scored on the 100 fresh patients. The pool comes from the same generator as the
patients who are tested, so what is found is an upper bound.
"""

import copy
import hashlib
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

import studies
from studies import _cells, _pool
from studies._arms import Reader, Scaled, train, unlabelled, with_neighbours
from studies._few import LABELLED, drawn, everyone, few_of, learn, looked
from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, fingerprint_of, kept, save
from vaelib.engine.rows import mean
from vaelib.engine.workers import map_in_processes
from vaelib.latent import active_units, decode, encode
from vaelib.losses import kl, l2
from vaelib.recipes import train_mask
from vaelib.rivals import UNet
from vaelib.vae import VAE, Decoder

DRAWS, NUMBERS, SIDE = 6, 64, 64
PLAN = {"VAE steps": 12000, "VAE batch": 32, "lr": 1e-3, "steps": 2000, "batch": 16, "copies": 24, "beta": 1e-2}
STUDY = "labels"
ARMS = ("untrained encoder", "PCA", "VAE", "VAE, then fine-tuned", "U-Net")


def vae_of(lab: Cohort, images: np.ndarray, plan: dict = PLAN, seed: int = 0) -> tuple[VAE, list[dict]]:
    """Train the vector VAE on scans to the end, or load it; with its curve on the old validation patients."""
    how = {"steps": plan["VAE steps"], "batch": plan["VAE batch"], "lr": plan["lr"], "seed": seed}

    def make() -> dict:
        torch.manual_seed(seed)
        vae = VAE(SIDE, latent=NUMBERS, start=float(images.mean()))

        def look() -> dict:
            mu, logvar = encode(vae, lab.val.images)
            error = l2(torch.from_numpy(decode(vae.decoder, mu)), torch.from_numpy(lab.val.images)).item()
            nats = kl(torch.from_numpy(mu), torch.from_numpy(logvar)).item()
            return {"error": error, "kl": nats, "active": int(active_units(mu).sum())}

        return {"vae": vae, "curve": train(vae, unlabelled(plan["beta"]), [torch.from_numpy(images)], look=look, **how)}

    made_by = {"vector": [NUMBERS, plan["beta"]], "how": how, "data": hashlib.sha256(images).hexdigest()}
    path = models_folder() / "labels" / f"vae_{len(images)}_{plan['VAE steps']}_{seed}.safetensors"
    found = kept(path, made_by, make)
    return found["vae"], found["curve"]


def publish_code(lab: Cohort, images: np.ndarray) -> None:
    """Commit the vector VAE that was trained to the end, with its curve and a mask decoder; beside it PCA's weights.

    All of it in half precision; `pca` has the mean image and then the components.
    """
    vae, curve = vae_of(lab, images)
    copies = int(PLAN["copies"])
    made_by = {"vae": fingerprint_of(vae), "copies": copies, "data": fingerprint(lab.train, lab.val)}
    path = models_folder() / "labels" / f"mask_{len(images)}_0.safetensors"
    mask = kept(path, made_by, lambda: {"mask": train_mask(vae, lab.train, lab.val, copies=copies)[0]})["mask"]
    layer = linear(images)[1]
    pca = np.concatenate([images.mean(0, dtype=np.float64).reshape(1, -1), layer.weight.detach().numpy()])
    said: dict[str, Any] = {"cohort": "synthetic", "study": "python -m studies labels", "slices": len(images)}
    said |= {"curve": curve, "recipe": PLAN, "seed": 0, "arrays": {"pca": pca.astype(np.float16)}}
    save(studies.CHECKPOINTS / "03_vae.safetensors", {"vae": vae, "mask": mask}, half=True, **said)


def linear(images: np.ndarray, numbers: int = NUMBERS) -> nn.Module:
    """Make the linear code, principal components of whole slices, as a layer; or load it."""

    def make() -> dict:
        fitted = PCA(numbers, svd_solver="randomized", random_state=0).fit(images.reshape(len(images), -1))
        return {"weight": fitted.components_.astype(np.float32), "mean": fitted.mean_.astype(np.float32)}

    made_by = {"PCA": numbers, "data": hashlib.sha256(images).hexdigest()}
    found = kept(models_folder() / "labels" / f"pca_{len(images)}_{numbers}.safetensors", made_by, make)
    layer, weight = nn.Linear(SIDE * SIDE, numbers), torch.from_numpy(found["weight"])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(-weight @ torch.from_numpy(found["mean"]))
    return nn.Sequential(nn.Flatten(), layer)


def reader(arm: str, codes: dict[str, nn.Module], images: Tensor, prevalence: float, seed: int) -> nn.Module:
    """Build the untrained network of an arm, over a code that is ready."""
    torch.manual_seed(seed)
    if arm == "U-Net":
        return UNet(inputs=3, prevalence=prevalence)
    shaped = arm == "VAE, then fine-tuned"
    code = Scaled(copy.deepcopy(codes["VAE" if shaped else arm]), images)  # others read it too
    code.requires_grad_(shaped)
    return Reader(code, Decoder(SIDE, latent=NUMBERS, start=prevalence), shaped)


def fitted(arm: str, codes: dict, images: np.ndarray, few: Slices, seed: int, plan: dict, look: Any = None) -> tuple:
    """Train an arm on few patients: the network, how many neighbours it reads, its threshold on them, and the curve."""
    model = reader(arm, codes, torch.from_numpy(images[:: max(1, len(images) // 2048)]), mean(few.masks), seed)
    reach = int(arm == "U-Net")
    curve = learn(model, reach, few, seed, plan, look=partial(look, model, reach) if look else None)
    return model, reach, metrics.choose(decode(model, with_neighbours(few, reach)), few), curve


def curve(cell: tuple[str, int], lab: Cohort, plan: dict = PLAN) -> list[dict]:
    """Show where training is flat: an arm, such as "PCA", and k; of old patients, seen on the old held-out ones."""
    torch.set_num_threads(1)
    (arm, k), images = cell, everyone(lab).images
    codes = codes_of(lab, images, plan, arm)
    return fitted(arm, codes, images, few_of(lab, k), 0, plan, looked(_cells.held_out(lab)))[-1]


def tested(cell: tuple[str, int], lab: Cohort, plan: dict = PLAN) -> dict:
    """Train an arm, such as "PCA, k=4", on the patients of a draw, and score it on the fresh ones: by patient."""
    torch.set_num_threads(1)
    arm, k = cell[0].rsplit(", k=", 1)
    images = everyone(lab).images
    codes, few = codes_of(lab, images, plan, arm), _pool.patients(drawn(int(k), cell[1])).slices
    model, reach, cut, _ = fitted(arm, codes, images, few, cell[1], plan)
    fresh = _pool.patients(_pool.TEST)
    return _cells.measure(decode(model, with_neighbours(fresh.slices, reach)), cut, fresh.slices, fresh.spacing)


def codes_of(lab: Cohort, images: np.ndarray, plan: dict, arm: str) -> dict[str, nn.Module]:
    """Make the code that an arm reads; VAE and linear code are read where they are kept."""
    torch.manual_seed(0)
    made = {"untrained encoder": lambda: VAE(SIDE, latent=NUMBERS).encoder, "PCA": lambda: linear(images)}
    made["VAE"] = made["VAE, then fine-tuned"] = lambda: vae_of(lab, images, plan)[0].encoder
    return {"VAE" if name.startswith("VAE") else name: make() for name, make in made.items() if arm == name}


def run(lab: Cohort, workers: int | None = None, draws: int = DRAWS) -> dict:
    """Train the codes, show where training is flat, and fill the grid; what is there already is kept."""
    _pool.refuse_others(lab)
    record, cells = _cells.begin(STUDY, PLAN)
    images = everyone(lab).images
    record["scans"] = {"slices": len(images), "VAE's curve": vae_of(lab, images)[1]}
    record["scans"]["curve of 31 patients"] = vae_of(lab, lab.train.images[:])[1]  # for lesson 03
    publish_code(lab, images)
    linear(images)
    seen = record.setdefault("curves", {})
    todo = [(arm, k) for k in LABELLED for arm in ARMS if f"{arm}, k={k}" not in seen]
    for (arm, k), found in zip(todo, map_in_processes(partial(curve, lab=lab), todo, workers=workers), strict=True):
        seen[f"{arm}, k={k}"] = found
        studies.write(STUDY, record)
    todo = [(f"{arm}, k={k}", draw) for draw in range(draws) for k in LABELLED for arm in ARMS]  # a draw at a time
    cells = _cells.fill(STUDY, cells, todo, partial(tested, lab=lab), workers)
    of = {k: [f"{arm}, k={k}" for arm in ARMS] for k in LABELLED}
    grid = {k: _cells.compare(cells, f"PCA, k={k}", names, together=True) for k, names in of.items()}
    return record | {"grid": grid}


def tables(record: dict) -> dict[str, str]:
    """Make the grid of few labels: every arm by the number of patients with a mask, and what it has over PCA."""
    lines = ["| Dice at 64 by patients with a mask | " + " | ".join(f"{k}" for k in LABELLED) + " |", "|" + 4 * "---|"]
    for arm in ARMS:
        cells = []
        for k in map(str, LABELLED):
            row = record["grid"][k].get(f"{arm}, k={k}")
            gap = f"; {studies.cell(row['minus base'], '+.3f')}" if row and "minus base" in row else ""
            cells.append(f"{studies.cell(row['dice'], '.2f')}{gap}" if row else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return {"labels": "\n".join(lines)}
