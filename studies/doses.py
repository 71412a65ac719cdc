"""How much of each shift can a network bear, and what helps against it? Four shifts, by dose.

A patient of 24 whom no study has opened is scanned anew: part of the way to the phase before contrast medium; over a
wider field of view; smaller or larger in a field of view that stays; with noise. Networks are those of the controls,
by the seed `SEED`, and none of them was trained on jittered slices. The cures: phases in training (a slice is taken a
random part of the way to its twin without contrast medium, at 64 pixels), a grid in mm instead of one that is cut by
the field of view, and the code moved by the difference of two means, of training patients in this phase and of others
in the usual one; no label is needed, nor the twin of any patient. Where that leads is held against each patient's twin.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import studies
from studies import _arms, _cells, _pool
from studies._fit import fitted
from studies._rescans import AS_THEY_ARE, DOSES, PATIENTS, PIXEL, in_mm, regrid, scanned, scans, stacked, twins
from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept
from vaelib.engine.files import hash_of
from vaelib.engine.workers import map_in_processes
from vaelib.latent import decode

STUDY, SEED = "doses", 1
BASES = ("patch PCA", "VAE, beta 0.001", "U-Net, residual units")
RIVAL = BASES[2]
CURES = {"phases seen": "contrast phase", "in mm": "field of view", "code moved": "contrast phase"}  # against what
JOBS = [
    *((arm, "") for arm in BASES),
    *((arm, cure) for cure in ("phases seen", "in mm") for arm in BASES[1:]),
    *((arm, "code moved") for arm in BASES[:2]),
]


def phased(losses: _arms.Losses) -> _arms.Losses:
    """Take each slice a random part of the way to its twin without contrast medium, the last of a batch, and go on."""

    def step(model: nn.Module, batch: Sequence[Tensor], progress: float) -> Tensor:
        x, *rest, twin = batch
        return losses(model, [x + torch.rand(len(x), 1, 1, 1) * (twin - x), *rest], progress)

    return step


def cured(arm: str, data: Slices, twin: Slices | None, val: Slices, options: dict) -> tuple[nn.Module, float]:
    """Train an arm of the controls on other slices, or on phases too, or load it: network and threshold."""
    how: dict[str, Any] = {name: _arms.PLAN[name] for name in ("batch", "lr")} | {"seed": SEED}
    seen = (lambda losses: losses) if twin is None else phased
    more = lambda form: [] if twin is None else [form(twin)]  # noqa: E731
    torch.manual_seed(SEED)
    images = torch.from_numpy(data.images)
    vae = _arms.untrained(images) if _arms.ARMS[arm].code == "vae" else None

    def make() -> dict:
        if vae:
            pairs = [images, *more(lambda s: torch.from_numpy(s.images))]
            _arms.train(
                vae, seen(_arms.unlabelled(_arms.PLAN["beta"])), pairs, steps=int(_arms.PLAN["VAE steps"]), **how
            )
        model = _arms.build(_arms.ARMS[arm], data, SEED, vae)
        tensors = [_arms.with_neighbours(data), torch.from_numpy(data.masks), *more(_arms.with_neighbours)]
        _arms.train(model, seen(_arms.labelled(**options)), tensors, steps=int(_arms.PLAN["steps"]), **how)
        threshold = metrics.choose(decode(model, _arms.with_neighbours(val)), val)
        return {"threshold": threshold} | {key: value.numpy() for key, value in model.state_dict().items()}

    made_by: dict[str, Any] = {"arm": arm, "options": options, "plan": _arms.PLAN, "how": how}
    made_by |= {"with": _arms.made_with(), "data": fingerprint(data, val), "twin": twin and fingerprint(twin)}
    found = kept(models_folder() / STUDY / f"network_{hash_of(made_by)[:12]}.safetensors", made_by, make)
    model = _arms.build(_arms.ARMS[arm], data, SEED, vae)
    model.load_state_dict({key: torch.from_numpy(v) for key, v in found.items() if key != "threshold"})
    return model.eval(), float(found["threshold"])


class Moved(nn.Module):
    """A code that is moved back by the difference of two means, (1, C, g, g)."""

    def __init__(self, code: nn.Module, way: Tensor):
        super().__init__()
        self.code, self.way = code, way

    def forward(self, x: Tensor) -> Tensor:
        """Code images (N, 1, H, W), and move the codes."""
        return self.code(x) - self.way


@torch.no_grad()
def coded(code: nn.Module, images: np.ndarray) -> Tensor:
    """Code images (N, 1, H, W), some at a time."""
    return torch.cat([code(x) for x in torch.from_numpy(images).split(256)])


def way_to(code: nn.Module, usual: Slices, twin: Slices, dose: float) -> Tensor:
    """Find the way to a phase: the mean code of every other training patient there, minus that of the rest as usual."""
    there = np.isin(usual.patient, [*usual.rows][::2])
    phase = (1 - dose) * usual.images[there] + dose * twin.images[there]
    return coded(code, phase).mean(0, keepdim=True) - coded(code, usual.images[~there]).mean(0, keepdim=True)


def left_of(code: nn.Module, way: Tensor, images: np.ndarray, own: np.ndarray) -> float:
    """Say how far codes are still from those of the patients' twins, (1: as far as before)."""
    there, goal = coded(code, images), coded(code, own)
    return float((there - way - goal).norm() / (there - goal).norm())


def examined(job: tuple[str, str], lab: Cohort, found: list[dict], twin: Slices) -> tuple[dict, dict]:
    """Train an arm with a cure, or none, and score it at each dose: the measures, and how far moved codes are left."""
    torch.set_num_threads(1)
    (arm, cure), record, out, left = job, studies.read("controls"), {}, {}
    options = record["options"][int(record["choices"][arm])]
    val = in_mm(lab, lab.parts["val"] + lab.parts["test"]) if cure == "in mm" else _cells.held_out(lab)
    if cure in ("", "code moved"):
        model, facts = fitted(arm, lab, SEED, options)
        cut = facts["threshold"]
    else:
        data = in_mm(lab, lab.parts["train"]) if cure == "in mm" else lab.train
        model, cut = cured(arm, data, twin if cure == "phases seen" else None, val, options)
    base, own = getattr(model, "code", None), stacked(found, PATIENTS, AS_THEY_ARE)[0]
    for name in doses_of(CURES.get(cure)):
        slices, spacing = stacked(found, PATIENTS, name)
        shown = stacked(found, PATIENTS, name, PIXEL)[0] if cure == "in mm" else slices
        if cure == "code moved" and name != AS_THEY_ARE:
            way = way_to(base, lab.train, twin, float(name.split()[-1]))
            left[name], model.code = left_of(base, way, slices.images, own.images), Moved(base, way)
        p = decode(model, _arms.with_neighbours(shown))
        if cure == "in mm":
            p = np.concatenate([
                regrid(torch.from_numpy(p[rows]), PIXEL, spacing[patient][2], _arms.SIDE).numpy()
                for patient, rows in shown.rows.items()
            ])  # fmt: skip
        out[name] = _cells.measure(p, cut, slices, spacing)
    return out, left


def doses_of(shift: str | None = None) -> list[str]:
    """List the doses of a shift, or of all, such as "noise 20"; before them the patients as they are."""
    return [AS_THEY_ARE] + [f"{at} {dose:g}" for at, doses in DOSES.items() if shift in (None, at) for dose in doses]


def named(arm: str, cure: str) -> str:
    """Name an arm with its cure."""
    return f"{arm}, {cure}" if cure else arm


def run(lab: Cohort, workers: int | None = None) -> dict:
    """Scan the patients, train what is missing, and score it at each dose; what is there already is kept."""
    _pool.refuse_others(lab)
    record, cells = _cells.begin(STUDY, _arms.PLAN | {"doses": DOSES, "pixel": PIXEL})
    left = record.setdefault("left of the way", {})
    jobs = [job for job in JOBS if any((f"{named(*job)}: {n}", SEED) not in cells for n in doses_of(CURES.get(job[1])))]
    if jobs:
        found = scanned(scans, PATIENTS, workers)
        names = [*map(_pool.number_of, lab.parts["train"])]
        bare = np.concatenate([one["images"] for one in scanned(twins, names, workers)])[:, None].astype(np.float32)
        work = partial(examined, lab=lab, found=found, twin=lab.train._replace(images=bare))
        for job, (scores, way) in zip(jobs, map_in_processes(work, jobs, workers=workers), strict=True):
            cells |= {(f"{named(*job)}: {dose}", SEED): by for dose, by in scores.items()}
            left |= {named(*job): way} if way else {}
            studies.write(STUDY, record)
            _cells.write_cells(STUDY, cells)
    return record | {"arms": compared(_cells.read_cells(STUDY))}


def compared(cells: _cells.Cells) -> dict:
    """Compare the arms at each dose with the residual U-Net, and each cured one with itself, paired by patient."""
    arms = {}
    for dose in doses_of():
        names = [f"{named(*job)}: {dose}" for job in JOBS]
        arms |= _cells.compare(cells, f"{RIVAL}: {dose}", names)
        for arm, cure in JOBS:
            if cure and f"{named(arm, cure)}: {dose}" in arms:
                ours, theirs = (_cells.table_of(cells, f"{name}: {dose}") for name in (named(arm, cure), arm))
                arms[f"{named(arm, cure)}: {dose}"]["minus without"] = _cells.interval(ours, theirs, together=True)
    return arms


def tables(record: dict) -> dict[str, str]:
    """Make the table of doses: every network at each, and what each cure adds."""
    names = [named(arm, "") for arm in BASES]
    lines = ["| Dice at 64 | " + " | ".join([*names, f"VAE minus {RIVAL}"]) + " |", "|" + 5 * "---|"]
    rows = record["arms"]
    for dose in doses_of():
        gap = studies.cell(rows[f"{BASES[1]}: {dose}"]["minus base"], "+.3f")
        dice = [f"{rows[f'{name}: {dose}']['dice']['mean']:.3f}" for name in names]
        lines.append(f"| {dose} | " + " | ".join([*dice, gap]) + " |")
    worst = [doses_of(shift)[-1] for shift in ("contrast phase", "field of view")]
    cures = ["| cure, and what it adds | " + " | ".join(worst) + " |", "|" + 3 * "---|"]
    for arm, cure in JOBS[len(BASES) :]:
        at = [rows.get(f"{named(arm, cure)}: {dose}") for dose in worst]
        gaps = [studies.cell(row["minus without"], "+.3f") if row else "" for row in at]
        cells = [f"{row['dice']['mean']:.3f}; {gap}" if row else "" for row, gap in zip(at, gaps, strict=True)]
        cures.append(f"| {named(arm, cure)} | " + " | ".join(cells) + " |")
    return {"doses": "\n".join(lines), "cures": "\n".join(cures)}
