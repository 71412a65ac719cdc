"""How does the mask depend on how many numbers a slice is told by? VAE, autoencoder and linear codes at equal rates.

A vector has 16, 64 or 256 numbers for a slice and is read alone; a code of 16 x 16 places has one number at each, or
eight, as in the controls, and is read from three slices. So arms compare at one rate and shape. At 64 numbers the
ladder of lesson 05 is climbed anew. Codes and decoders learn from the old training patients, and no choice is made:
recipes are those of few labels and of controls. Beside the Dice of the 100 fresh patients stands what the code's own
decoder draws: PSNR, SSIM (Wang et al., IEEE Trans Image Process 2004;13:600), and for a VAE the bits of its KL per
pixel.
"""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.metrics import SSIMMetric
from sklearn.decomposition import PCA
from torch import Tensor, nn

import studies
from studies import _arms, _cells, _pool
from vaelib.cohort import Cohort
from vaelib.engine.checkpoints import load
from vaelib.engine.rows import mean
from vaelib.latent import decode
from vaelib.losses import kl
from vaelib.spatial import ResidualDecoder, ResidualVAE
from vaelib.vae import VAE, Decoder

STUDY, SEED = "rate", 0
VECTORS, PLACES = (16, 64, 256), (1, 8)  # numbers a slice, and numbers at each of 16 x 16 places
LADDER = ("autoencoder", "untrained encoder", "same network, from labels")  # of lesson 05, at 64 numbers
KINDS = {"vector": ("PCA", "VAE", *LADDER), "in place": ("patch PCA", "spatial VAE")}
ARMS = {
    f"{kind}, {n} numbers": (kind, n, shape)
    for shape, each in (("vector", VECTORS), ("in place", [_arms.GRID**2 * k for k in PLACES]))
    for n in each
    for kind in KINDS[shape]
    if kind not in LADDER or n == 64
}
OF_CONTROLS = {"patch PCA, 2048 numbers": "patch PCA", "spatial VAE, 2048 numbers": "VAE, beta 0.001"}  # not made anew
PLAN: dict[str, Any] = {
    "vector": {"VAE steps": 12000, "VAE batch": 32, "beta": 1e-2, "steps": 6000, "batch": 32, "lr": 1e-3},
    "in place": {"VAE steps": 6000, "VAE batch": 16, "beta": 1e-3, "steps": 4000, "batch": 16, "lr": 2e-3},
    "copies": 24,
}  # fmt: skip


class Linear(nn.Module):
    """A linear code, and the picture that is drawn from it: principal components of slices, or of patches."""

    def __init__(self, images: np.ndarray, numbers: int, shape: str):
        super().__init__()
        if shape == "in place":
            self.net: nn.Module = _arms.patches(torch.from_numpy(images), numbers // _arms.GRID**2)
            tiles = torch.from_numpy(images).unfold(2, 4, 4).unfold(3, 4, 4)
            self.register_buffer("mean", tiles.mean((0, 1, 2, 3)).repeat(_arms.GRID, _arms.GRID)[None, None])
        else:
            fitted = PCA(numbers, svd_solver="randomized", random_state=SEED).fit(images.reshape(len(images), -1))
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(_arms.SIDE**2, numbers, bias=False))
            self.net[1].weight = nn.Parameter(torch.from_numpy(fitted.components_.astype(np.float32)))
            self.register_buffer(
                "mean", torch.from_numpy(fitted.mean_.astype(np.float32)).reshape(1, 1, _arms.SIDE, _arms.SIDE)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Code images (N, 1, H, W) as (N, C) or (N, C, g, g)."""
        return self.net(x - self.mean)

    def redraw(self, x: Tensor) -> Tensor:
        """Draw images anew from their codes."""
        z = self(x)
        if z.ndim == 4:
            return nn.functional.conv_transpose2d(z, self.net.weight, stride=_arms.SIDE // _arms.GRID) + self.mean
        return (z @ self.net[1].weight).reshape(x.shape) + self.mean


def code_of(arm: str, lab: Cohort, plan: dict = PLAN) -> tuple[nn.Module, nn.Module | None]:
    """Make the code of an arm from slices alone, and the VAE that it is of, if it is of one."""
    kind, numbers, shape = ARMS[arm]
    images, how = lab.train.images[:], plan[shape]
    if kind.endswith("PCA"):
        return Linear(images, numbers, shape).requires_grad_(False), None
    torch.manual_seed(SEED)
    start = float(images.mean())
    if shape == "vector":
        vae = VAE(_arms.SIDE, latent=numbers, start=start)
    else:
        vae = ResidualVAE(_arms.SIDE, latent=numbers // _arms.GRID**2, grid=_arms.GRID, start=start)
    if kind in LADDER[1:]:
        return vae.encoder, None
    losses = _arms.unlabelled(None if kind == "autoencoder" else how["beta"])
    _arms.train(vae, losses, [torch.from_numpy(images)], steps=how["VAE steps"], seed=SEED, batch=how["VAE batch"],
          lr=how["lr"])  # fmt: skip
    return vae.encoder, vae


@torch.no_grad()
def redrawn(arm: str, code: nn.Module, vae: Any, images: Tensor) -> dict[str, float]:
    """Measure what a code's own decoder draws, if it has one: PSNR in dB, SSIM, for a VAE the bits of KL per pixel."""
    if ARMS[arm][0] in LADDER[1:]:
        return {}
    shown, nats = [], 0.0
    for x in images.split(256):
        if isinstance(code, Linear):
            shown.append(code.redraw(x))
        else:
            mu, logvar = code(x)
            shown.append(vae.decode(_arms.scaled(mu) if ARMS[arm][0] == "autoencoder" else mu))
            nats += kl(mu, logvar).item() * len(x)
    y = torch.cat(shown).clamp(0, 1)
    error = ((y - images) ** 2).mean((1, 2, 3))
    found = {"PSNR": float((-10 * error.log10()).mean()), "SSIM": float(SSIMMetric(2, win_size=7)(y, images).mean())}
    bits = {"bits per pixel": float(nats / len(images) / np.log(2) / _arms.SIDE**2)} if "VAE" in arm else {}
    return found | bits


def read_by(arm: str, code: nn.Module, lab: Cohort, plan: dict = PLAN) -> tuple[nn.Module, int, list[dict]]:
    """Train the mask decoder on the frozen code: the network, how many neighbours it reads, and its curve."""
    kind, numbers, shape = ARMS[arm]
    shaped = kind == LADDER[-1]
    images, val, reach = torch.from_numpy(lab.train.images[:]), _cells.held_out(lab), int(shape != "vector")
    code, shown = _arms.Scaled(code, images).requires_grad_(shaped), _arms.with_neighbours(val, reach)
    start = mean(lab.train.masks)
    how = {name: plan[shape][name] for name in ("steps", "batch", "lr")} | {"seed": SEED, "every": 1000}
    torch.manual_seed(SEED)
    head = (
        Decoder(_arms.SIDE, latent=numbers, start=start)
        if shape == "vector"
        else ResidualDecoder(latent=3 * numbers // _arms.GRID**2, start=start, **_arms.HEAD)
    )
    model = _arms.Reader(code, head, shaped)

    def look() -> dict:
        return _cells.look(decode(model.eval(), shown), val)

    if shape == "vector" and not shaped:  # the code stays as it is: it is computed once
        data = _arms.frozen(model, images, lab.train.masks[:], plan["copies"], SEED)
        return model, reach, _arms.train(model.head, _arms.of_pairs, data, look=look, **how)
    data = [_arms.with_neighbours(lab.train, reach), torch.from_numpy(lab.train.masks[:])]
    return model, reach, _arms.train(model, _arms.labelled(jittered=False, overlap=False), data, look=look, **how)


def tested(cell: _cells.Cell, lab: Cohort, plan: dict = PLAN) -> tuple[dict, dict]:
    """Train an arm, and score it on the fresh patients: facts, and the measures by patient."""
    torch.set_num_threads(1)
    arm, began, fresh = cell[0], time.process_time(), _pool.patients(_pool.TEST)
    code, vae = code_of(arm, lab, plan)
    facts: dict[str, Any] = redrawn(arm, code, vae, torch.from_numpy(fresh.slices.images))
    model, reach, curve = read_by(arm, code, lab, plan)
    facts |= {"curve": curve, "cpu seconds": round(time.process_time() - began)}
    found = decode(model.eval(), _arms.with_neighbours(fresh.slices, reach))
    return facts, _cells.measure(found, curve[-1]["threshold"], fresh.slices, fresh.spacing)


def from_controls(lab: Cohort, cells: _cells.Cells, facts: dict) -> None:
    """Take the scores of the codes that the controls have, and measure what these draw."""
    theirs, images = _cells.read_cells("controls"), torch.from_numpy(_pool.patients(_pool.TEST).slices.images)
    vae = load(studies.CHECKPOINTS / "06_code.safetensors", "vae")[0]["vae"]
    for arm, name in OF_CONTROLS.items():
        code = vae.encoder if "VAE" in arm else code_of(arm, lab)[0]
        cells[arm, SEED], facts[arm] = theirs[name, SEED], redrawn(arm, code, vae, images)


def run(lab: Cohort, workers: int | None = None) -> dict:
    """Train and score every arm that the controls have not; what is there already is kept."""
    _pool.refuse_others(lab)
    record, cells = _cells.begin(STUDY, PLAN)
    todo = [(arm, SEED) for arm in ARMS if arm not in OF_CONTROLS]
    cells = _cells.fill(STUDY, cells, todo, partial(tested, lab=lab), workers, record)
    from_controls(lab, cells, record["facts"])
    _cells.write_cells(STUDY, cells)
    cells, found = _cells.read_cells(STUDY), {}
    for shape, (linear, *learned) in KINDS.items():
        for n in dict.fromkeys(n for _, n, at in ARMS.values() if at == shape):
            names = [f"{kind}, {n} numbers" for kind in (linear, *learned)]
            found |= _cells.compare(cells, names[0], names)
    return record | {"arms": found}


def tables(record: dict) -> dict[str, str]:
    """Make the table of rates: every code by its numbers for a slice."""
    head = "| code of a slice | Dice at 64 | minus the linear code | PSNR (dB) | SSIM | KL, bits a pixel |"
    lines = [head, "|" + 6 * "---|"]
    for arm, row in record["arms"].items():
        gap = studies.cell(row["minus base"], "+.3f") if "minus base" in row else ""
        fact = record["facts"][arm]
        bits = f"{fact['bits per pixel']:.3f}" if "bits per pixel" in fact else ""
        drawn = [f"{fact['PSNR']:.1f}", f"{fact['SSIM']:.2f}"] if "PSNR" in fact else ["", ""]
        cells = [arm, studies.cell(row["dice"], ".3f"), gap, *drawn, bits]
        lines.append("| " + " | ".join(cells) + " |")
    return {"rate": "\n".join(lines)}
