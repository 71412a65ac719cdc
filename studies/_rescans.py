"""Patients scanned anew by the dose of a shift, and the grid in mm that they may be brought to."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from studies import _pool
from studies._arms import SIDE
from vaelib import __version__, metrics
from vaelib.cohort import Cohort, Slices, load_slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import kept
from vaelib.engine.workers import map_in_processes
from vaelib.levels import downscale, window
from vaelib.phantom import make_patient
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.scanner import Scanner, noise, plan

FINE, AS_THEY_ARE = 7, "as they are"
PATIENTS = range(2101, 2125)
DOSES = {
    "contrast phase": (0.25, 0.5, 0.75, 1.0),  # part of the way to no contrast medium
    "field of view": (1.1, 1.2, 1.35),  # times the usual one
    "patient's size": (0.85, 1.1, 1.2),  # times every length, in the usual field of view
    "noise": (20.0, 40.0, 80.0),  # HU at full size, as coarse as of a very soft kernel
}
COARSE = Scanner("", "", "VERY SOFT", 40, 0.15, 0)
PIXEL = 7.0  # mm of a pixel of the grid in mm


def scans(number: int) -> dict[str, np.ndarray]:
    """Scan a patient once for each dose: images and masks at 128 pixels, float16, and the spacing there in mm."""
    make, out = partial(make_patient, _pool.SEED, number), {}

    def put(name: str, hu: np.ndarray, like: Any) -> None:
        out[f"{name}|images"] = downscale(window(hu), FINE).astype(np.float16)
        out[f"{name}|masks"] = downscale(like.mask, FINE).astype(np.float16)
        out[f"{name}|mm"] = np.array([like.spacing[0], *(4 * mm for mm in like.spacing[1:])])

    usual, plain = make(), make(enhanced=False).hu.astype(np.float32)
    put(AS_THEY_ARE, usual.hu, usual)
    for dose in DOSES["contrast phase"]:
        put(f"contrast phase {dose:g}", (1 - dose) * usual.hu + dose * plain, usual)
    for dose in DOSES["field of view"]:
        put(f"field of view {dose:g}", (seen := make(view=dose)).hu, seen)
    for dose in DOSES["patient's size"]:
        put(f"patient's size {dose:g}", (seen := make(scale=dose, view=same_view(number, dose))).hu, seen)
    rng = np.random.default_rng([_pool.SEED, number, 2])
    grain = np.stack([noise(rng, COARSE, usual.hu.shape[1:], usual.spacing[2]) for _ in usual.hu])
    for dose in DOSES["noise"]:
        put(f"noise {dose:g}", usual.hu + dose * grain, usual)
    return out


def same_view(number: int, scale: float) -> float:
    """Say how the field of view of a scaled patient must change to be that of the patient as they are."""
    body = Anatomy(_pool.SEED, number)
    usual, larger = (plan(body, np.random.default_rng([_pool.SEED, number, 1]), 512, scale=s) for s in (1.0, scale))
    return usual.spacing[2] / larger.spacing[2]


def twins(number: int) -> dict[str, np.ndarray]:
    """Scan a training patient without contrast medium: images at 64 pixels, as the cache rounds them."""
    hu = make_patient(_pool.SEED, number, enhanced=False).hu
    return {"images": downscale(window(hu), 6).astype(np.float16)}


def scanned(work: Any, numbers: Sequence[int], workers: int | None = None) -> list[dict[str, np.ndarray]]:
    """Scan patients, or read them where they are kept, one file a patient."""
    return [*map_in_processes(partial(_one, work), numbers, workers=workers, desc="scans", unit="patient")]


def _one(work: Any, number: int) -> dict[str, np.ndarray]:
    made_by = {"work": work.__name__, "doses": DOSES, "number": number, "seed": _pool.SEED, "version": __version__}
    return kept(models_folder() / "doses" / f"{work.__name__}_{number}.safetensors", made_by, partial(work, number))


def stacked(found: list[dict], numbers: Sequence[int], name: str, mm: float | None = None) -> tuple[Slices, dict]:
    """Put patients one after the other at 64 pixels, on their own grids or on one in mm; and the spacings."""
    parts, spacing = [], {}
    for one, number in zip(found, numbers, strict=True):
        images, masks, (dz, dy, dx) = (one[f"{name}|{key}"] for key in ("images", "masks", "mm"))
        pair = torch.from_numpy(np.stack([images, masks], 1).astype(np.float32))
        parts.append(avg_pool2d(pair if mm is None else regrid(pair, dx, mm / 2, 2 * SIDE), 2))
        spacing[_pool.name_of(number)] = (float(dz), *((2 * float(dy), 2 * float(dx)) if mm is None else (mm, mm)))
    pairs = torch.cat(parts).numpy()
    patient = np.repeat([*spacing], [len(part) for part in parts])
    position = np.concatenate([np.linspace(0, 1, len(part)) for part in parts])
    return Slices(pairs[:, :1], pairs[:, 1:], patient, position), spacing


def regrid(x: Tensor, old: float, new: float, side: int) -> Tensor:
    """Resample pictures (N, C, H, W) of pixels of `old` mm to `side` pixels of `new` mm about the same centre."""
    share = float(side * new / (x.shape[-1] * old))
    grid = affine_grid(torch.tensor([[[share, 0, 0], [0, share, 0]]]).expand(len(x), 2, 3), [*x.shape[:2], side, side],
                       align_corners=False)  # fmt: skip
    return grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def in_mm(lab: Cohort, names: Sequence[str]) -> Slices:
    """Bring old patients to the grid in mm, from their slices of 128 pixels."""
    fine, parts = load_slices(lab.shards, names, FINE), []
    for name, rows in fine.rows.items():
        pair = torch.from_numpy(np.concatenate([fine.images[rows], fine.masks[rows]], 1))
        parts.append(avg_pool2d(regrid(pair, metrics.spacing_at(lab.shards, name, FINE)[2], PIXEL / 2, 2 * SIDE), 2))
    pairs = torch.cat(parts).numpy()
    return Slices(pairs[:, :1], pairs[:, 1:], fine.patient, fine.position)
