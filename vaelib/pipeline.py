"""The rooms joined into three jobs, as the command line runs them: train, evaluate, segment."""

import json as jsonlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from vaelib import metrics
from vaelib.cohort import cache_folder, data_folder, find_cases, split
from vaelib.errors import InputError
from vaelib.export import check_target, write_mask
from vaelib.latent import decode, encode, encode_copies
from vaelib.models import VAE, MaskDecoder
from vaelib.pyramid import canonical, downscale, open_case, prepare, stack, to_scan, window
from vaelib.training import augment, fit, load, mask_step, save, vae_step
from vaelib.volumes import read_ct


def train_pair(train, val, *, latent=64, beta=0.01, epochs=40, mask_epochs=8, copies=12, seed=0, state=None, label=""):
    """Train a VAE on slices, then a mask decoder on its detached latents.

    Parameters
    ----------
    train, val : Stack
        Slices of training and validation patients.
    latent, beta, epochs, seed
        Of the VAE; see `VAE`, `vae_loss` and `fit`.
    mask_epochs, copies
        Passes of the mask decoder over `copies` of the training set, all but the first augmented.
    state : path, optional
        Stem of the files from which an interrupted training resumes.

    Returns
    -------
    vae : VAE
    mask : MaskDecoder
    history : dict of str to list
    """
    torch.manual_seed(seed)
    size = train.images.shape[-1]
    vae = VAE(size=size, latent=latent)
    mask = MaskDecoder(size=size, latent=latent, prevalence=float(train.masks.mean()))
    x, v = torch.from_numpy(train.images), torch.from_numpy(val.images)
    states = {k: state and Path(state).with_suffix(f".{k}.state") for k in ("vae", "mask")}
    history = {"vae": fit(vae, vae_step(beta), [x], val=[v], epochs=epochs, seed=seed, augmentation=augment,
                          state=states["vae"], label=f"{label}vae")}  # fmt: skip
    z, m = encode_copies(vae, train.images, train.masks, copies, seed)
    held_out = [torch.from_numpy(encode(vae, val.images)[0]), torch.from_numpy(val.masks)]
    history["mask"] = fit(mask, mask_step, [z, m], val=held_out, epochs=mask_epochs, seed=seed,
                          state=states["mask"], label=f"{label}mask decoder")  # fmt: skip
    return vae, mask, history


def _shards(folder: Path | None) -> tuple[Path, dict[str, list[str]]]:
    """Prepare the cohort (a moment where it is up to date), and split those of its patients that have a mask."""
    folder = folder or data_folder()
    cases = [c for c in find_cases(folder) if c.mask]
    return prepare(cases, cache_folder(folder)), split([c.patient for c in cases])


def train(folder, *, out: Path, level=6, latent=64, beta=0.01, epochs=40, seed=0, resume=False) -> None:
    """Train on the cohort's training patients and write one checkpoint; see `vaelib train --help`."""
    shards, parts = _shards(folder)
    states = [out.with_suffix(f".{name}.state") for name in ("vae", "mask")]
    if not resume:
        for path in states:
            path.unlink(missing_ok=True)
    sets = {name: stack(shards, parts[name], level) for name in ("train", "val")}
    vae, mask, history = train_pair(**sets, latent=latent, beta=beta, epochs=epochs, seed=seed, state=out)
    val = sets["val"]
    probability = decode(mask, encode(vae, val.images)[0])
    threshold = metrics.best_threshold(probability, val.masks >= metrics.TRUTH, val.patient)
    save(out, {"vae": vae, "mask": mask}, level=level, window=open_case(shards, parts["val"][0], level).meta["window"],
         beta=beta, seed=seed, patients=parts, threshold=threshold, history=history)  # fmt: skip
    for path in states:
        path.unlink(missing_ok=True)
    print(f"{out}: trained on {len(parts['train'])} patients; best threshold on validation {threshold:.2f}")


def evaluate(folder, *, checkpoint: Path, json=False) -> None:
    """Score a checkpoint and its baselines on the test patients; see `vaelib evaluate --help`."""
    networks, meta = load(checkpoint, "vae", "mask")
    shards, parts = _shards(folder)
    if set(parts["test"]) & set(meta["patients"]["train"]):
        raise InputError(f"{checkpoint}: was trained on patients that are held out here; train on this cohort's split")
    level, threshold = meta["level"], meta["threshold"]
    train_set, test = stack(shards, parts["train"], level), stack(shards, parts["test"], level)
    rows = metrics.per_patient(test.patient)
    atlas = metrics.atlas(train_set)
    at_atlas = metrics.best_threshold(atlas(train_set.position), train_set.masks >= metrics.TRUTH, train_set.patient)
    methods = {
        "empty mask": (np.zeros_like(test.masks), 0.5),
        "mean-shape atlas": (atlas(test.position), at_atlas),
        "VAE, detached decoder": (decode(networks["mask"], encode(networks["vae"], test.images)[0]), threshold),
        "ceiling of the downscaling": (test.masks, metrics.TRUTH),
    }
    board = {name: summarize(metrics.score(shards, {q: p[r][:, 0] for q, r in rows.items()}, level, t)) | {"threshold": t}
             for name, (p, t) in methods.items()}  # fmt: skip
    if json:
        print(jsonlib.dumps(board, indent=1))
        return
    for name, row in board.items():
        cells = "  ".join(f"Dice {row[s]['dice']['mean']:.3f} at {s}" for s in row if s.isdigit())
        print(f"{name:28s} {cells}")


def summarize(scores: dict) -> dict:
    """Per-patient scores, as `metrics.score` gives them, to means with their bootstrap intervals."""
    return {size: {m: metrics.bootstrap(v)._asdict() for m, v in rows.items()} for size, rows in scores.items()}


def segment(series: Path, *, checkpoint: Path, out: Path, threshold: float = 0.2, overwrite: bool = False) -> None:
    """Predict the pancreas on the grid of any CT series and write it; see `vaelib segment --help`."""
    check_target(out, overwrite)
    networks, meta = load(checkpoint, "vae", "mask")
    scan = read_ct(series)
    slices = window(sitk.GetArrayViewFromImage(canonical(scan)), *meta["window"])
    images = np.stack([downscale(s, meta["level"]) for s in slices])[:, None]
    probability = decode(networks["mask"], encode(networks["vae"], images)[0])[:, 0]
    mask = to_scan(probability, scan, threshold)
    write_mask(mask, out, series, algorithm=f"vaelib {Path(checkpoint).name}", overwrite=overwrite)
    volume = sitk.GetArrayViewFromImage(mask).sum() * np.prod(scan.GetSpacing()) / 1000
    print(f"{out}: {volume:.1f} ml of predicted pancreas on the grid of {series}")
