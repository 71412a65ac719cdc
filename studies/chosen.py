"""Is there a cell of few labels in which the VAE is ahead of all its rivals? It is chosen first, and then tested.

A spatial VAE and patch PCA learn from the 431 patients of `studies.labels` without a mask, and are read from three
slices as in the controls. Of every k and code, that cell is chosen where held-out patients of the old cohort show the
VAE furthest ahead of the better one of its linear code and the U-Net (or least behind), and written down. There the
fresh patients then score two further rivals: the spatial VAE fine-tuned, and a mean teacher (Tarvainen & Valpola 2017,
arXiv:1703.01780), a U-Net that must agree with its own running mean on jittered slices of all patients (the student is
scored); and a spatial VAE of the 31 old patients alone. Draws are those of `studies.labels`, whose arms stand beside
these.
"""

import copy
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import studies
from studies import _arms, _cells, _pool
from studies._few import LABELLED, drawn, everyone, few_of, learn, looked
from studies._fit import vae_of
from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.engine.rows import mean
from vaelib.engine.workers import map_in_processes
from vaelib.latent import decode
from vaelib.losses import l2
from vaelib.recipes import rows_near
from vaelib.rivals import UNet
from vaelib.spatial import ResidualDecoder
from vaelib.training import augment, jitter

STUDY, DRAWS = "chosen", 3
PLAN = {"beta": 1e-3, "steps": 2000, "batch": 16, "lr": 2e-3, "copies": 24}  # and of the VAE as in the controls
WEIGHTS, KEEP, RISE = (0.1, 1.0, 10.0), 0.99, 0.4  # of the teacher's word; of its running mean; share of training
PAIRS = {"VAE": "PCA", "spatial VAE": "patch PCA"}  # a code, and the linear one of its shape
ARMS = ("patch PCA", "spatial VAE", "spatial VAE, then fine-tuned", "spatial VAE of 31 patients", "mean teacher")
BESIDE = ("PCA", "VAE", "VAE, then fine-tuned", "U-Net")  # of the grid of few labels


def reader(arm: str, scans: Slices, val: Slices, few: Slices, seed: int) -> nn.Module:
    """Build the network of an arm over a code that is ready, and was learned from `scans` alone."""
    vae: Any = None
    if "VAE" in arm:
        vae = copy.deepcopy(vae_of(SimpleNamespace(train=scans, val=val), 0, {"beta": PLAN["beta"]})[0])
    torch.manual_seed(seed)
    if vae is None and arm != "patch PCA":
        return UNet(inputs=3, prevalence=mean(few.masks))
    some = torch.from_numpy(scans.images[:: max(1, len(scans.images) // 2048)])
    code = _arms.scaled_code(_arms.ARMS["VAE, beta 0.001" if vae else "patch PCA"], some, vae)
    shaped = arm.endswith("fine-tuned")
    code.requires_grad_(shaped)
    return _arms.Reader(code, ResidualDecoder(latent=3 * _arms.NUMBERS, start=mean(few.masks), **_arms.HEAD), shaped)


def taught(student: nn.Module, scans: Slices, weight: float, seed: int) -> _arms.Losses:
    """Make the loss of a student that is to agree, on slices without a mask, with the running mean of itself."""
    teacher, generator = copy.deepcopy(student).requires_grad_(False), torch.Generator().manual_seed(seed)
    near, first = rows_near(scans, 1), _arms.labelled(jittered=False, overlap=False)

    def losses(model: nn.Module, batch: Sequence[Tensor], progress: float) -> Tensor:
        for mine, theirs in zip(teacher.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - KEEP)
        rows = torch.randint(len(near), (len(batch[0]),), generator=generator).numpy()
        (x,) = augment(torch.from_numpy(scans.images[near[rows]][:, :, 0]))
        with torch.no_grad():
            word = torch.sigmoid(teacher(jitter(x)))
        agreement = l2(torch.sigmoid(model(jitter(x))), word)
        return first(model, batch, progress) + weight * min(1.0, progress / RISE) * agreement

    return losses


def fitted(arm: str, weight: float, lab: Cohort, few: Slices, seed: int, look: Any = None, plan: dict = PLAN) -> tuple:
    """Train an arm on few patients: the network, its threshold on them, and its curve."""
    scans = lab.train if arm.endswith("31 patients") else everyone(lab)
    model = reader(arm, scans, lab.val, few, seed)
    losses = taught(model, scans, weight, seed) if arm == "mean teacher" else None
    curve = learn(model, 1, few, seed, plan, losses, partial(look, model, 1) if look else None)
    return model, metrics.choose(decode(model, _arms.with_neighbours(few)), few), curve


def curve(cell: tuple[str, int, float], lab: Cohort, plan: dict = PLAN) -> list[dict]:
    """Show what an arm learns of k old patients, seen on the old held-out ones."""
    torch.set_num_threads(1)
    arm, k, weight = cell
    return fitted(arm, weight, lab, few_of(lab, k), 0, looked(_cells.held_out(lab)), plan)[-1]


def tested(cell: _cells.Cell, lab: Cohort, weight: float, plan: dict = PLAN) -> dict:
    """Train an arm, such as "mean teacher, k=4", on the patients of a draw, and score it on the fresh ones."""
    torch.set_num_threads(1)
    arm, k = cell[0].rsplit(", k=", 1)
    few, fresh = _pool.patients(drawn(int(k), cell[1])).slices, _pool.patients(_pool.TEST)
    model, cut, _ = fitted(arm, weight, lab, few, cell[1], plan=plan)
    return _cells.measure(decode(model, _arms.with_neighbours(fresh.slices)), cut, fresh.slices, fresh.spacing)


def leads(curves: dict[str, list[dict]]) -> dict[str, float]:
    """Say how far each VAE is ahead of the better of its linear code and the U-Net, in each cell, where it ends."""
    at = {name: found[-1]["dice"] for name, found in curves.items()}
    lead = lambda code, linear, k: at[f"{code}, k={k}"] - max(at[f"{linear}, k={k}"], at[f"U-Net, k={k}"])  # noqa: E731
    return {f"{code}, k={k}": lead(code, linear, k) for code, linear in PAIRS.items() for k in LABELLED}


def run(lab: Cohort, workers: int | None = None, draws: int = DRAWS) -> dict:
    """Choose the cell on held-out patients, write it down, and test it; what is there already is kept."""
    _pool.refuse_others(lab)
    record, cells = _cells.begin(STUDY, PLAN)
    seen, theirs = record.setdefault("curves", {}), studies.read("labels")["curves"]

    def see(todo: list[tuple[str, int, float]], name: str) -> None:
        todo = [job for job in todo if name.format(*job) not in seen]
        for job, found in zip(todo, map_in_processes(partial(curve, lab=lab), todo, workers=workers), strict=True):
            seen[name.format(*job)] = found
            studies.write(STUDY, record)

    see([(arm, k, 0.0) for k in LABELLED for arm in ("patch PCA", "spatial VAE")], "{}, k={}")
    if "choice" not in record:
        lead = leads(theirs | seen)
        best = max(lead, key=lambda name: lead[name])
        k = int(best.rpartition("=")[2])
        see([("mean teacher", k, weight) for weight in WEIGHTS], "{}, k={}, weight {}")
        weight = max(WEIGHTS, key=lambda w: seen[f"mean teacher, k={k}, weight {w}"][-1]["dice"])
        record["choice"] = {"leads": lead, "cell": best, "k": k, "weight": weight}
        studies.write(STUDY, record)
    k, weight = record["choice"]["k"], record["choice"]["weight"]
    todo = [(f"{arm}, k={k}", draw) for draw in range(draws) for arm in ARMS]
    cells = _cells.fill(STUDY, cells, todo, partial(tested, lab=lab, weight=weight), workers)
    grid = _cells.read_cells("labels")
    beside = {key: row for key, row in grid.items() if key[0] in {f"{arm}, k={k}" for arm in BESIDE} and key[1] < draws}
    names = [f"{arm}, k={k}" for arm in (*ARMS, *BESIDE)]
    return record | {"arms": _cells.compare(cells | beside, f"spatial VAE, k={k}", names, together=True)}


def tables(record: dict) -> dict[str, str]:
    """Make the table of the chosen cell: every arm, and what it has over the spatial VAE."""
    k = record["choice"]["k"]
    lines = [f"| Dice at 64, masks of {k} patients | | minus the spatial VAE | draws |", "|" + 4 * "---|"]
    for name, row in sorted(record["arms"].items(), key=lambda item: -item[1]["dice"]["mean"]):
        gap = studies.cell(row["minus base"], "+.3f") if "minus base" in row else ""
        arm = name.removesuffix(f", k={k}")
        lines.append(f"| {arm} | {studies.cell(row['dice'], '.3f')} | {gap} | {row['seeds']} |")
    return {"chosen": "\n".join(lines)}
