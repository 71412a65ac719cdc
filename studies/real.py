"""What remains of it on real anatomy? Codes and rivals on a folder of real slices with masks, five folds by patient.

``python -m studies real FOLDER`` takes a folder with ``images/`` and ``masks/`` of the same names, "<patient>-<number>"
and PNG or JPEG: 8 bits, HU clipped to 0 to 255, rows from back to front; masks are above 127. They are single slices,
so nothing here is in 3D and no neighbour is read. The threshold of each fold is chosen on the patients it learned from.
The slices never leave the folder; what is written are scores.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import studies
from studies import _arms, _cells
from studies._folder import FOLDS, LEVEL, read_folder
from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import cache_folder, data_folder, find_cases
from vaelib.engine.checkpoints import fingerprint
from vaelib.engine.rows import mean
from vaelib.engine.shards import prepare
from vaelib.latent import decode
from vaelib.vae import VAE, Decoder

STUDY, SEEDS = "real", (0, 1, 2)
PLAN = {"steps": 800, "VAE steps": 1200, "batch": 16, "lr": 2e-3, "beta": 1e-3, "vector": 64, "vector's beta": 1e-2}
ARMS = (
    "mean mask", "vector VAE", "spatial VAE", "patch PCA", "untrained encoder", "U-Net",
    "spatial VAE of synthetic slices", "U-Net of synthetic slices",
)  # fmt: skip
BASE, HU = "patch PCA", (0.0, 255.0)


def folds_of(patients: list[str]) -> list[list[str]]:
    """Deal the patients, in an order drawn from seed 0, to five folds of nearly equal size."""
    order = [str(name) for name in np.random.default_rng(0).permutation(sorted(patients))]
    return [order[k::FOLDS] for k in range(FOLDS)]


def subset(s: Slices, keep: np.ndarray) -> Slices:
    """Take some of the slices."""
    return Slices(*(array[keep] for array in s))


def synthetic(lab: Cohort) -> Slices:
    """Prepare the old training patients at 0 to 255 HU, and take their slices with pancreas: as the real ones are."""
    cases = [case for case in find_cases(lab.folder or data_folder()) if case.patient in lab.parts["train"]]
    shards = prepare(cases, cache_folder(lab.folder), low=HU[0], high=HU[1], levels=(LEVEL,))
    found = Cohort(shards, {"train": lab.parts["train"]}, LEVEL).train
    return subset(found, (found.masks[:] > 0).any((1, 2, 3)))


def code_of(kind: str, train: Slices, seed: int, plan: dict) -> nn.Module:
    """Make a code from slices alone: the VAE's own encoder, trained to the end; the linear one; an untrained one."""
    torch.manual_seed(seed)
    images = torch.from_numpy(train.images)
    if kind == "patch PCA":
        return _arms.patches(images)
    start, how = float(images.mean()), {"steps": plan["VAE steps"], "batch": plan["batch"], "lr": plan["lr"]}
    if kind == "vector VAE":
        vae, beta = VAE(latent=plan["vector"], start=start), plan["vector's beta"]
    else:
        vae, beta = _arms.ResidualVAE(latent=_arms.NUMBERS, grid=_arms.GRID, start=start), plan["beta"]
    if kind != "untrained encoder":
        _arms.train(vae, _arms.unlabelled(beta), [images], seed=seed, **how)
    return vae.encoder


def network(arm: str, code: nn.Module, train: Slices, seed: int, plan: dict) -> nn.Module:
    """Train what reads slices or a code of them, on the masks of `train`."""
    torch.manual_seed(seed)
    prevalence, images = mean(train.masks), torch.from_numpy(train.images)
    if arm.startswith("U-Net"):
        model: nn.Module = _arms.UNet(prevalence=prevalence)
    else:
        scaled = _arms.Scaled(code, images).requires_grad_(False)
        vector = Decoder(latent=plan["vector"], start=prevalence)
        place = _arms.ResidualDecoder(latent=scaled.centre.shape[1], start=prevalence, **_arms.HEAD)
        model = _arms.Reader(scaled, vector if arm == "vector VAE" else place, shaped=False)
    how = {name: plan[name] for name in ("steps", "batch", "lr")}
    data = [images, torch.from_numpy(train.masks)]
    _arms.train(model, _arms.labelled(jittered=False, overlap=False), data, seed=seed, **how)
    return model


def tested(cell: tuple[str, int], real: Slices, carried: Slices, plan: dict = PLAN) -> dict:
    """Train an arm on four folds and score the fifth, five times: the Dice of each patient over all their slices.

    What is carried over from synthetic slices is trained once; real masks then choose the threshold of the U-Net, and
    teach the decoder of the VAE.
    """
    torch.set_num_threads(1)
    (arm, seed), out = cell, {}
    kind, _, of = arm.partition(" of ")
    made = code_of(kind, carried, seed, plan) if of and kind != "U-Net" else nn.Identity()
    whole = network(arm, made, carried, seed, plan) if of and kind == "U-Net" else None
    for fold in folds_of([*real.rows]):
        held = np.isin(real.patient, fold)
        train, test = subset(real, ~held), subset(real, held)
        code = made if of or kind in ("U-Net", "mean mask") else code_of(kind, train, seed, plan)
        model = whole or (network(arm, code, train, seed, plan) if arm != "mean mask" else None)
        atlas = train.masks[:].mean(0)
        maps = [decode(model, torch.from_numpy(s.images)) if model else np.broadcast_to(atlas, s.masks.shape)
                for s in (train, test)]  # fmt: skip
        dices = metrics.dice_per_patient(maps[1], metrics.choose(maps[0], train), test)
        out |= {name: {"dice": float(value)} for name, value in zip(test.rows, dices, strict=True)}
    return out


def run(lab: Cohort, folder: str | Path, workers: int | None = None) -> dict:
    """Train and score every arm on a folder of real slices; what is there already is kept."""
    real, carried = read_folder(folder), synthetic(lab)
    record, cells = _cells.begin(STUDY, PLAN | {"data": fingerprint(real)})
    studies.write(STUDY, record)
    todo = [(arm, seed) for seed in SEEDS for arm in ARMS]
    cells = _cells.fill(STUDY, cells, todo, partial(tested, real=real, carried=carried), workers)
    facts = {"slices": len(real.images), "patients": len(real.rows)}
    return record | facts | {"arms": _cells.compare(cells, BASE, ARMS, measures=("dice",))}


def tables(record: dict) -> dict[str, str]:
    """Make the table of the README, its title first."""
    title = f"{record['slices']} real slices of {record['patients']} patients, 2D, 8 bits"
    lines = [f"**{title}**", "", "| method | Dice at 64 | minus patch PCA | seeds |", "|" + 4 * "---|"]
    for arm, row in record["arms"].items():
        gap = studies.cell(row["minus base"], "+.3f") if "minus base" in row else ""
        lines.append(f"| {arm} | {studies.cell(row['dice'], '.3f')} | {gap} | {row['seeds']} |")
    return {"real": "\n".join(lines)}
