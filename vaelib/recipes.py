"""Train, evaluate and segment: the rooms joined as the command line and the lessons run them.

Where models lie: all of a cohort's are in `models_folder(folder)`, which is ``data/models/<cohort>`` of the nearest
folder upwards that holds ``data/``, or else of the current one.

==================================  =================================================================================
``trained.safetensors``             what `vaelib train` made, and `evaluate` and `segment` read unless told otherwise
``vae64.safetensors``               the VAE of the lessons at 64 x 64, from `keep_vae` or `trained_vae`
``mask64.safetensors``              the mask decoder that reads it, from `trained`
``folds/``                          the cross-validation's checkpoints, scores and report
``arms/``, ``sizes/`` and others    what the studies have trained, each in its own folder
==================================  =================================================================================
"""

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from vaelib import metrics
from vaelib.cohort import Cohort, Slices, open_cohort
from vaelib.cohorts.layout import models_folder
from vaelib.dicom.write import check_target, write_mask
from vaelib.engine import options as opt
from vaelib.engine import parallel
from vaelib.engine.boards import baselines, by_patient, fold_report, scoreboard
from vaelib.engine.boards import fold_table as fold_table
from vaelib.engine.checkpoints import fingerprint, fingerprint_of, kept, load, refuse_to_replace, said_of, save
from vaelib.engine.errors import InputError
from vaelib.engine.files import hash_of, json_ready, write_file
from vaelib.engine.rows import Rows, mean
from vaelib.engine.shards import keys_of, meta_of
from vaelib.engine.states import is_finished, remove_states, states_of
from vaelib.latent import decode, encode
from vaelib.levels import FULL, images_at, to_scan
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE, neighbours
from vaelib.training import augment, copies_of, fit, mask_step, moved_latents, vae_step
from vaelib.vae import VAE, MaskDecoder
from vaelib.volumes import read_ct

TRAINED = "vae", "mask"  # the networks of a run
DETACHED = "VAE, detached decoder"
SPATIAL = {"channels": 24, "blocks": 4, "reach": 1}  # of the mask decoder of a latent that keeps its places
RECIPE = {"latent": 64, "beta": 0.01, "epochs": 25, "copies": 8, "mask_epochs": 4}  # a minute or two on two cores


def recipe(*names: str, of: dict = RECIPE) -> dict:
    """Return the named parts of a recipe, as keyword arguments: ``train_mask(vae, train, val, **recipe("copies"))``."""
    return {name: of[name] for name in names}


def train_vae(
    train: Slices, val: Slices, *, latent: int = 64, grid: int = 1, beta: float = 0.01, epochs: int = 25, seed: int = 0,
    **how: Any,
) -> tuple[VAE, list[dict]]:  # fmt: skip
    """Train a VAE on slices, and return it with its history.

    With a `grid`, such as 16, it is the residual VAE whose latent keeps `latent` numbers at each of its places.
    `how` goes to `fit`: batch_size, precision, state and the like.
    """
    torch.manual_seed(seed)
    make: Any = VAE if grid == 1 else partial(ResidualVAE, grid=grid)
    vae = make(size=train.size, latent=latent, start=mean(train.images))
    how |= dict(val=[val.images], epochs=epochs, seed=seed, augmentation=augment, label="VAE")
    return vae, fit(vae, vae_step(beta), [train.images], **how)


def train_mask(
    vae: VAE, train: Slices, val: Slices, *, copies: int = 8, mask_epochs: int = 4, seed: int = 0, **how: Any
) -> tuple[nn.Module, list[dict]]:
    """Train a mask decoder on the detached latents of a VAE that stays as it is, and return it with its history.

    Of a latent that keeps its places, it reads those of the slices below and above too.
    `how` goes to `fit`, as in `train_vae`; `copies` and `mask_epochs` are explained in `train_on_codes`.
    """
    torch.manual_seed(seed)
    if isinstance(vae, ResidualVAE):
        how |= dict(epochs=copies * mask_epochs, augmentation=partial(moved_latents, vae), label="mask decoder")
        as_vae = recipe("size", "latent", "grid", of=vae.config) | SPATIAL
        wide, z = ResidualMaskDecoder(**as_vae, prevalence=mean(train.masks)), encode(vae, val.images)[0]
        how |= dict(val=[neighbours(torch.as_tensor(z), val.patient, wide.config["reach"]), val.masks], seed=seed)
        return wide, fit(wide, mask_step, [with_neighbours(wide, train), train.masks], **how)
    mask = MaskDecoder(**vae.config, prevalence=mean(train.masks))
    how |= dict(val=[encode(vae, val.images)[0], val.masks], copies=copies, mask_epochs=mask_epochs, seed=seed)
    return mask, train_on_codes(mask, lambda x: encode(vae, x)[0], train, **how)


def train_on_codes(
    mask: nn.Module, code: Callable[[Tensor], np.ndarray], train: Slices, *, copies: int, mask_epochs: int, seed: int,
    **how: Any,
) -> list[dict]:  # fmt: skip
    """Train a mask decoder in place on any code of the slices that never changes, and return its history.

    The slices are coded once as they are and ``copies - 1`` times augmented, so that the decoder then learns from
    pairs of code and mask alone, `mask_epochs` times. Slices that are not in memory are too many for that: they are
    augmented and coded anew in each of as many passes.

    Parameters
    ----------
    mask : nn.Module
        From codes (N, latent) to logits (N, 1, H, W).
    code : callable
        From images (N, 1, H, W) to codes (N, latent) float32.
    """

    def moved(x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        x, m = augment(x, m)
        return torch.as_tensor(code(x)).to(x.device), m

    run: Callable[..., list[dict]] = partial(fit, mask, mask_step, seed=seed, label="mask decoder", **how)
    if not train.in_memory:
        return run([train.images, train.masks], epochs=copies * mask_epochs, augmentation=moved)
    pairs = copies_of(train.images, train.masks, copies, seed)
    return run([np.concatenate([code(x) for x, _ in pairs]), torch.cat([m for _, m in pairs])], epochs=mask_epochs)


def trained_vae(lab: Cohort) -> VAE:
    """Load the VAE of the lessons, or train it by `RECIPE` and keep it if these slices and settings have made none."""
    return _trained("vae", *_vae_of(lab), partial(train_vae, lab.train, lab.val))


def keep_vae(lab: Cohort, vae: VAE, history: list[dict]) -> Path:
    """Keep a VAE just trained by `RECIPE`, as lesson 03 does, where `trained_vae` and `trained` find it."""
    path, made_by = _vae_of(lab)
    return save(path, {"vae": vae}, made_by=made_by, history=history)


def _vae_of(lab: Cohort) -> tuple[Path, dict]:
    """Say where the lessons' VAE of a cohort lies, and what it is made by."""
    made_by = {"recipe": recipe("latent", "beta", "epochs"), "data": fingerprint(lab.train, lab.val)}
    return models_folder(lab.folder) / f"vae{2**lab.level}.safetensors", made_by


def trained(lab: Cohort) -> tuple[VAE, MaskDecoder]:
    """Load the VAE of the lessons and its mask decoder, or train by `RECIPE` and keep what is missing or out of date.

    A decoder belongs to the weights of its VAE: where these are others, it is trained anew.
    """
    vae, (path, of_vae) = trained_vae(lab), _vae_of(lab)
    made_by = {"recipe": recipe("copies", "mask_epochs"), "data": of_vae["data"], "vae": fingerprint_of(vae)}
    path = path.with_name(f"mask{2**lab.level}.safetensors")
    return vae, _trained("mask", path, made_by, partial(train_mask, vae, lab.train, lab.val))


def _trained(name: str, path: Path, made_by: dict, train: Callable[..., tuple[nn.Module, list[dict]]]) -> Any:
    """Load one network, or train it by the recipe in `made_by` and keep it with its history."""
    return kept(path, made_by, lambda: dict(zip((name, "history"), train(**made_by["recipe"]), strict=True)))[name]


@opt.checked
def train(
    folder: str | Path | None, *, out: str | Path, level: opt.Level = 6, latent: opt.Latent = 64,
    beta: opt.Weight = 0.01, epochs: opt.Count = 25, batch_size: opt.Count = opt.BATCH, lr: opt.Rate = opt.LR,
    precision: opt.Precision = "32-true", seed: opt.Seed = 0, fold: opt.Fold = None, model: opt.Model = "vector",
    resume: bool = False, overwrite: bool = False,
) -> dict | None:  # fmt: skip
    """Train on the cohort's training patients and write one checkpoint; see `vaelib train --help`.

    Where `out` is there, made by other settings or from other data, it stays, and InputError says so. Returns its
    metadata. Of several processes, the first prepares the cohort, writes the checkpoint and returns
    something.
    """
    out = Path(out)
    with parallel.first_process_first():
        lab = open_cohort(folder, level=level, fold=fold)
        made_of = [level, latent, beta, lab.parts, keys_of(lab.shards, [*lab.scans.rows, *lab.parts["val"]])]
        how: dict[str, Any] = dict(seed=seed, batch_size=batch_size, precision=precision, lr=lr)
        grid, made_of = (1, made_of) if model == "vector" else (2**level // 4, [model, *made_of])
        made_by = hash_of([made_of, epochs, how])
        refuse_to_replace(out, made_by, overwrite)
        states = states_of(out, TRAINED, made_of, resume=resume)
    vae, h = train_vae(lab.scans, lab.val, latent=latent, grid=grid, beta=beta, epochs=epochs, state=states[0], **how)
    mask, h_mask = train_mask(vae, lab.train, lab.val, state=states[1], **recipe("copies", "mask_epochs"), **how)
    if not parallel.is_first():
        return None
    on_val = by_patient(predicted(vae, mask, lab.val), lab.val.patient)
    meta = dict(
        made_by=made_by, level=level, window=meta_of(lab.shards, lab.parts["val"][0])["window"], beta=beta, seed=seed,
        fold=fold, patients=lab.parts, data=fingerprint(lab.scans, lab.val), history={"vae": h, "mask": h_mask},
        thresholds=metrics.best_thresholds(lab.shards, on_val, level),
    )  # fmt: skip
    save(out, {"vae": vae, "mask": mask}, **meta)
    remove_states(out, TRAINED)
    return meta


def rows_near(s: Slices, reach: int) -> np.ndarray:
    """Find the rows of each slice and of `reach` neighbours on each side, from the lowest up: (N, 2 * reach + 1)."""
    return neighbours(torch.arange(len(s.patient))[:, None], s.patient, reach).numpy()


def with_neighbours(net: Any, s: Slices) -> np.ndarray | Rows:
    """Put each slice between the neighbours that a network reads: (N, K, H, W)."""
    near = rows_near(s, net.config.get("reach", net.config.get("inputs", 1) // 2))
    return s.computed(lambda rows: s.images[near[rows].ravel()].reshape(-1, near.shape[1], s.size, s.size))


def predicted(vae: VAE, mask: nn.Module, s: Slices) -> np.ndarray | Rows:
    """Predict the pancreas: probabilities (N, 1, H, W), as they are asked for where the slices are not in memory."""
    near = rows_near(s, getattr(mask, "config", {}).get("reach", 0))

    def compute(rows: Any) -> np.ndarray:
        wanted, at = np.unique(near[rows], return_inverse=True)  # each slice is encoded once
        z = encode(vae, s.images[wanted])[0][at.reshape(-1, near.shape[1])]
        return decode(mask, z.reshape(len(z), -1, *z.shape[3:]))

    return s.computed(compute)


def _of_one(images: np.ndarray) -> Slices:
    """Take images (N, 1, H, W) as the slices of one patient, whose masks nobody knows."""
    return Slices(images, images, np.zeros(len(images)), np.linspace(0, 1, len(images)))


def usable(checkpoint: Path) -> tuple[VAE, nn.Module, dict]:
    """Load a VAE of slices and its mask decoder, and all that a use of them needs; see `said_of`.

    Raises
    ------
    InputError
        If the file holds anything else, or says what cannot be.
    """
    networks, meta = load(checkpoint, *TRAINED)
    vae, mask = cast(VAE, networks["vae"]), networks["mask"]
    size = getattr(vae, "config", {}).get("size", 64)
    blank = np.zeros((2, 1, size, size), np.float32)
    shape = None
    with suppress(RuntimeError, ValueError, TypeError, AttributeError, IndexError):  # what networks have against slices
        shape = predicted(vae, mask, _of_one(blank)).shape
    if shape != blank.shape:
        kinds = " and ".join(type(network).__name__ for network in (vae, mask))
        raise InputError(f"{checkpoint}: its {kinds} do not turn single slices into masks; take a VAE of slices with "
                         "its own mask decoder, as `vaelib train` makes them")  # fmt: skip
    return vae, mask, said_of(checkpoint, meta, size)


def evaluate(folder: str | Path | None, *, checkpoint: Path) -> dict:
    """Score a checkpoint and its baselines on the test patients; see `vaelib evaluate --help`."""
    vae, mask, said = usable(checkpoint)
    lab = open_cohort(folder, level=said["level"], fold=said["fold"])
    if set(lab.parts["test"]) & {name for part in ("train", "unlabelled") for name in said["patients"].get(part, ())}:
        raise InputError(f"{checkpoint}: was trained on patients that are held out here; train on this cohort's split")
    if not said["patients"]:
        warnings.warn(f"{checkpoint}: says not whom it was trained on; if on these, scores are too good", stacklevel=2)
    if said["window"] != (window := meta_of(lab.shards, lab.parts["val"][0])["window"]):
        raise InputError(f"{checkpoint}: sees HU {said['window']}, and the cache holds {window}; train one for these")
    cuts = said["thresholds"]
    if not {str(2**lab.level), str(2**FULL)} <= cuts.keys():
        on_val = by_patient(predicted(vae, mask, lab.val), lab.val.patient)
        cuts = metrics.best_thresholds(lab.shards, on_val, lab.level)
    methods = baselines(lab.shards, lab.train, lab.val, lab.test, lab.level)
    methods[DETACHED] = predicted(vae, mask, lab.test), cuts
    return json_ready(scoreboard(lab.shards, methods, lab.test.patient, lab.level))


@opt.checked
def segment(
    series: Path, *, checkpoint: Path, out: Path, threshold: opt.Threshold = None, overwrite: bool = False
) -> None:
    """Predict the pancreas on the grid of any CT series and write it; see `vaelib segment --help`."""
    check_target(out, overwrite)
    vae, mask, said = usable(checkpoint)
    cut = said["thresholds"].get(str(2**FULL)) if threshold is None else threshold
    if cut is None:
        raise InputError(f"{checkpoint}: holds no threshold for full size; say one, such as `--threshold 0.3`")
    scan = read_ct(series)
    check_target(out, overwrite, scan)
    images = images_at(scan, said["level"], *said["window"])[:, None]
    found = to_scan(predicted(vae, mask, _of_one(images))[:, 0], scan, cut)
    write_mask(found, out, scan, algorithm=f"vaelib {Path(checkpoint).name}", overwrite=overwrite)
    volume = sitk.GetArrayViewFromImage(found).sum() * np.prod(scan.GetSpacing()) / 1000
    if not volume:
        warnings.warn(f"{out}: no voxel reaches {cut:.3g}, so the mask is empty; try a lower --threshold", stacklevel=2)
    print(f"{out}: {volume:.1f} ml of predicted pancreas on the grid of {series}")


def cross_validate(
    folder: str | Path | None = None, *, out: str | Path, only: int | None = None, **training: Any
) -> dict | None:
    """Train and score each fold, and report over all patients together once every fold is there.

    A fold that is finished is kept, and an interrupted one goes on from its last epoch. So the folds may also run
    in as many processes at once, one a GPU, with `only`; whoever finishes last writes the report.

    Parameters
    ----------
    folder : path, optional
        The cohort; by default `layout.data_folder()`.
    out : path
        Folder of the results: ``fold0.safetensors``, ``fold0.json``, ... and ``report.json``.
    only : int, optional
        Run this fold alone.
    **training
        For `recipes.train`: level, latent, beta, epochs, seed.

    Returns
    -------
    dict or None
        The report (see `fold_report`), or None while folds are missing.

    Raises
    ------
    InputError
        A fold in `out` was made with other settings; or no such fold.
    """
    if only is not None and not 0 <= only < opt.FOLDS:
        raise InputError(f"fold {only}: there are {opt.FOLDS}, from 0 to {opt.FOLDS - 1}")
    made = [Path(out) / f"fold{k}.json" for k in range(opt.FOLDS)]
    for k in range(opt.FOLDS) if only is None else [only]:
        lab = open_cohort(folder, fold=k)
        keys = keys_of(lab.shards, sorted(sum(lab.parts.values(), [])))  # what the shards of all patients are made from
        made_by = {"fold": k} | training | {"cohort": models_folder(lab.folder).name, "data": hash_of(keys)}
        if is_finished(made[k], made_by):
            continue
        checkpoint = made[k].with_suffix(".safetensors")
        train(lab.folder, out=checkpoint, fold=k, resume=True, overwrite=True, **training)
        board = evaluate(lab.folder, checkpoint=checkpoint)
        write_file(made[k], json.dumps({"made_by": made_by, "test": lab.parts["test"], "methods": board}, indent=1))
    done = [json.loads(path.read_text()) for path in made if path.exists()]
    if len(done) < len(made) or len({fold["made_by"]["data"] for fold in done}) > 1:
        return None
    board = fold_report(done)
    write_file(Path(out) / "report.json", json.dumps(board, indent=1))
    return board
