"""The rooms joined into three jobs, as the command line runs them: train, evaluate, segment."""

import glob
import hashlib
import json
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from vaelib import metrics
from vaelib.cohort import FOLDS, folds, load_slices, split
from vaelib.cohorts.layout import cache_folder, data_folder, find_cases
from vaelib.dicom.export import check_target, write_mask
from vaelib.engine import parallel
from vaelib.engine.checkpoints import load, save
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.rows import Rows, chunks, mean
from vaelib.engine.shards import keys_of, meta_of, prepare
from vaelib.latent import decode, encode, encode_copies
from vaelib.levels import FULL, images_at, to_scan
from vaelib.training import augment, fit, mask_step, vae_step
from vaelib.vae import VAE, MaskDecoder
from vaelib.volumes import read_ct

TRAINED, KEY = ("vae", "mask"), 12  # the networks of a run, and the letters of a hash in the names of their states
DETACHED = "VAE, detached decoder"
RECIPE = {"latent": 64, "beta": 0.01, "epochs": 25, "copies": 8, "mask_epochs": 4}  # a minute or two on two cores


def recipe(*names: str) -> dict:
    """The named parts of `RECIPE`, as keyword arguments: ``train_mask(vae, train, val, **recipe("copies"))``."""
    return {name: RECIPE[name] for name in names}


def train_vae(train, val, *, latent=64, beta=0.01, epochs=25, seed=0, state=None, **how):
    """Train a VAE on the slices of `train` and `val`, both `Stack`; return it with its history.

    `how` goes to `fit`: batch_size, precision, and the like.
    """
    torch.manual_seed(seed)
    vae = VAE(size=train.images[:1].shape[-1], latent=latent, start=mean(train.images))
    return vae, fit(
        vae, vae_step(beta), [_tensor(train.images)], val=[_tensor(val.images)],
        epochs=epochs, seed=seed, augmentation=augment, state=state, label="VAE", **how,
    )  # fmt: skip


def _tensor(array):
    return array if isinstance(array, Rows) else torch.from_numpy(array)


def train_mask(vae, train, val, *, copies=8, mask_epochs=4, seed=0, state=None, **how):
    """Train a mask decoder on the detached latents of a VAE that stays as it is.

    The training slices are encoded once as they are and ``copies - 1`` times augmented, so that the decoder
    then learns from pairs of latent and mask alone. `Rows` that are too many for that are augmented and encoded
    anew in each of as many passes. `how` goes to `fit`. Returns the decoder and its history.
    """
    torch.manual_seed(seed)
    mask = MaskDecoder(**vae.config, prevalence=mean(train.masks))
    held_out = [torch.from_numpy(encode(vae, val.images)[0]), _tensor(val.masks)]
    run = partial(fit, mask, mask_step, val=held_out, seed=seed, state=state, label="mask decoder", **how)
    if isinstance(train.images, Rows):
        return mask, run([train.images, train.masks], epochs=copies * mask_epochs, augmentation=_augment_encode(vae))
    return mask, run([*encode_copies(vae, train.images, train.masks, copies, seed)], epochs=mask_epochs)


def _augment_encode(vae):
    def augmentation(x, m):
        x, m = augment(x, m)
        with torch.no_grad():
            return vae.to(x.device).encoder(x)[0], m

    vae.eval()
    return augmentation


def fingerprint(*stacks) -> str:
    """Identify the data of a training by a hash over its slices, masks and patients."""
    digest = hashlib.sha256()
    for s in stacks:
        for array in (s.images, s.masks, s.patient.astype("S")):
            for block in chunks(array):
                digest.update(np.ascontiguousarray(block))
    return digest.hexdigest()


def trained(train, val, path, *names: str):
    """Load networks from a checkpoint if it was trained on these slices by this recipe; or else train and save.

    Parameters
    ----------
    train, val : Stack
    path : path
        The checkpoint, which is written whole.
    *names : str
        "vae", or "vae" and "mask".

    Returns
    -------
    list of nn.Module
        In the order of `names`.
    """
    made_by = {"recipe": RECIPE, "data": fingerprint(train, val)}
    networks, meta = load(path) if Path(path).exists() else ({}, {})
    if {k: meta.get(k) for k in made_by} != made_by:
        networks, meta = {}, made_by
    missing = [n for n in names if n not in networks]
    if "vae" in missing:
        networks["vae"], _ = train_vae(train, val, **recipe("latent", "beta", "epochs"))
    if "mask" in missing:
        networks["mask"], _ = train_mask(networks["vae"], train, val, **recipe("copies", "mask_epochs"))
    if missing:
        save(path, networks, **{k: v for k, v in meta.items() if k != "networks"})
    return [networks[n] for n in names]


def shards_and_split(folder: Path | None = None, fold: int | None = None) -> tuple[Path, dict[str, list[str]]]:
    """Prepare the cohort (a moment where it is up to date), and split those of its patients that have a mask.

    With `fold`, the split is that fold of the cross-validation. Patients without a mask are named in a warning.
    """
    folder = folder or data_folder()
    cases = find_cases(folder)
    if without := [c.patient for c in cases if not c.mask]:
        warnings.warn(f"{folder}: left out {', '.join(without)}: no mask", stacklevel=2)
    cases = [c for c in cases if c.mask]
    patients = [c.patient for c in cases]
    parts = split(patients) if fold is None else folds(patients)[fold]
    return prepare(cases, cache_folder(folder)), parts


def train(
    folder, *, out: Path, level=6, latent=64, beta=0.01, epochs=25, batch_size=64, precision="32-true", seed=0,
    fold=None, resume=False,
) -> dict | None:  # fmt: skip
    """Train on the cohort's training patients and write one checkpoint; see `vaelib train --help`.

    Returns its metadata. Of several processes, the first prepares the cohort, writes the checkpoint and returns
    something.
    """
    with parallel.first_process_first():
        shards, parts = shards_and_split(folder, fold)
        made_of = [level, latent, beta, parts, keys_of(shards, parts["train"] + parts["val"])]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:KEY]
        states = {name: out.with_suffix(f".{name}.{key}.state") for name in TRAINED}
        if parallel.is_first():
            _look_at_states(out, states.values(), resume)
    train_set, val = (load_slices(shards, parts[name], level) for name in ("train", "val"))
    how = dict(seed=seed, batch_size=batch_size, precision=precision)
    vae, h = train_vae(train_set, val, latent=latent, beta=beta, epochs=epochs, state=states["vae"], **how)
    mask, h_mask = train_mask(vae, train_set, val, state=states["mask"], **recipe("copies", "mask_epochs"), **how)
    if not parallel.is_first():
        return None
    thresholds = metrics.best_thresholds(shards, by_patient(predicted(vae, mask, val), val.patient), level)
    window_used = meta_of(shards, parts["val"][0])["window"]
    meta = dict(
        level=level, window=window_used, beta=beta, seed=seed, fold=fold, patients=parts,
        data=fingerprint(train_set, val), thresholds=thresholds, history={"vae": h, "mask": h_mask},
    )  # fmt: skip
    save(out, {"vae": vae, "mask": mask}, **meta)
    for path in _states_of(out):
        path.unlink(missing_ok=True)
    return meta


def _states_of(out: Path) -> list[Path]:
    """What interrupted runs have left of this checkpoint, and of no other whose name only begins alike."""
    names = [f"{glob.escape(out.stem)}.{name}.{'?' * KEY}.state" for name in TRAINED]
    return sorted(path for name in names for path in out.parent.glob(name))


def _look_at_states(out: Path, states, resume: bool) -> None:
    """See to what interrupted runs have left: gone where nothing is to be resumed, and named where it is of another."""
    for path in _states_of(out):
        if not resume:
            path.unlink(missing_ok=True)
        elif path not in states:
            warnings.warn(f"{path}: belongs to a run on other data, or with another beta; it is not used", stacklevel=3)


def predicted(vae, mask, s):
    """Probabilities for the slices of a stack, (N, 1, H, W); those of `Rows` are computed as they are asked for."""
    if isinstance(s.images, Rows):
        return s.images.then(lambda x: decode(mask, encode(vae, x)[0]))
    return decode(mask, encode(vae, s.images)[0])


def evaluate(folder, *, checkpoint: Path) -> dict:
    """Score a checkpoint and its baselines on the test patients; see `vaelib evaluate --help`."""
    networks, meta = load(checkpoint, "vae", "mask")
    shards, parts = shards_and_split(folder, meta.get("fold"))
    if set(parts["test"]) & set(meta["patients"]["train"]):
        raise InputError(f"{checkpoint}: was trained on patients that are held out here; train on this cohort's split")
    level = meta["level"]
    train_set, val, test = (load_slices(shards, parts[name], level) for name in ("train", "val", "test"))
    ours = predicted(networks["vae"], networks["mask"], test)
    methods = baselines(shards, train_set, val, test, level) | {DETACHED: (ours, meta["thresholds"])}
    return json_ready(scoreboard(shards, methods, test.patient, level))


def by_patient(array: np.ndarray | Rows, patient: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Take the rows of a stack (N, 1, H, W) apart by patient, one by one: the name and (S, H, W)."""
    for q, rows in metrics.per_patient(patient).items():
        yield q, array[rows][:, 0]


def baselines(shards, train, val, test, level: int) -> dict[str, tuple[np.ndarray | Rows, dict[str, float]]]:
    """What needs no network, as (probability, thresholds) by name: an empty mask, the atlas, the ceiling.

    The ceiling is the true occupancy put back: no method that works at this level can do better.
    """
    atlas = metrics.atlas(train)
    at = lambda s: Rows(len(s.position), lambda rows: atlas(s.position[rows]))  # noqa: E731
    on_val = {"mean-shape atlas": at(val), "ceiling of the downscaling": val.masks}
    on_test = {"mean-shape atlas": at(test), "ceiling of the downscaling": test.masks}
    nothing = Rows(len(test.position), lambda rows: np.zeros_like(test.masks[rows]))
    empty = {"empty mask": (nothing, dict.fromkeys((str(2**level), str(2**FULL)), 0.5))}
    return empty | {
        name: (on_test[name], metrics.best_thresholds(shards, by_patient(p, val.patient), level))
        for name, p in on_val.items()
    }


def scoreboard(shards, methods: dict[str, tuple[np.ndarray | Rows, dict]], patient: np.ndarray, level: int) -> dict:
    """Score methods, given as (probability (N, 1, H, W), thresholds) by name, on the patients of a test stack.

    Returns
    -------
    dict
        By method: its ``thresholds``, and by side ("64", "512") and metric the per-patient ``values``, their
        ``mean`` and the bounds ``low`` and ``high`` of its 95% interval.
    """
    board = {}
    for name, (probability, thresholds) in methods.items():
        scores = metrics.score(shards, by_patient(probability, patient), level, thresholds)
        board[name] = {"thresholds": thresholds} | {
            side: {m: metrics.bootstrap(v)._asdict() | {"values": v} for m, v in by_metric.items()}
            for side, by_metric in scores.items()
        }
    return board


def json_ready(value):
    """Round for JSON, which has no infinity: null stands for the HD95 of an empty mask."""
    if isinstance(value, dict):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(v) for v in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def segment(
    series: Path, *, checkpoint: Path, out: Path, threshold: float | None = None, overwrite: bool = False
) -> None:
    """Predict the pancreas on the grid of any CT series and write it; see `vaelib segment --help`."""
    check_target(out, overwrite)
    networks, meta = load(checkpoint, "vae", "mask")
    scan = read_ct(series)
    images = images_at(scan, meta["level"], *meta["window"])[:, None]
    probability = decode(networks["mask"], encode(networks["vae"], images)[0])[:, 0]
    mask = to_scan(probability, scan, meta["thresholds"][str(2**FULL)] if threshold is None else threshold)
    write_mask(mask, out, series, algorithm=f"vaelib {Path(checkpoint).name}", overwrite=overwrite)
    volume = sitk.GetArrayViewFromImage(mask).sum() * np.prod(scan.GetSpacing()) / 1000
    print(f"{out}: {volume:.1f} ml of predicted pancreas on the grid of {series}")


def cross_validate(folder=None, *, out: Path, only: int | None = None, **training) -> dict | None:
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
        The report (see `report`), or None while folds are missing.

    Raises
    ------
    InputError
        A fold in `out` was made with other settings; or no such fold.
    """
    folder, out = Path(folder or data_folder()), Path(out)
    if only is not None and not 0 <= only < FOLDS:
        raise InputError(f"fold {only}: there are {FOLDS}, from 0 to {FOLDS - 1}")
    for k in range(FOLDS) if only is None else [only]:
        shards, parts = shards_and_split(folder, k)
        made_by = {"fold": k} | training | {"data": _identity(shards, sum(parts.values(), []))}
        if _finished(out / f"fold{k}.json", made_by):
            continue
        checkpoint = out / f"fold{k}.safetensors"
        train(folder, out=checkpoint, fold=k, resume=True, **training)
        board = evaluate(folder, checkpoint=checkpoint)
        scores = {"made_by": made_by, "test": parts["test"], "methods": board}
        write_file(out / f"fold{k}.json", json.dumps(scores, indent=1))
    made = [out / f"fold{k}.json" for k in range(FOLDS)]
    if not all(path.exists() for path in made):
        return None
    board = fold_report([json.loads(path.read_text()) for path in made])
    write_file(out / "report.json", json.dumps(board, indent=1))
    return board


def _identity(shards, patients) -> str:
    """What the shards of these patients were made from, in one hash."""
    return hashlib.sha256(json.dumps(keys_of(shards, sorted(patients))).encode()).hexdigest()


def _finished(scores: Path, made_by: dict) -> bool:
    """Whether a fold is done. Other settings are an error; if the patients have changed, it is done anew."""
    if not scores.exists():
        return False
    found = json.loads(scores.read_text())["made_by"]
    differing = {key: found.get(key) for key in made_by if key != "data" and found.get(key) != made_by[key]}
    if differing:
        asked = {key: made_by[key] for key in differing}
        raise InputError(f"{scores}: was made with {differing}, not {asked}; name another folder for the results")
    return found["data"] == made_by["data"]


def fold_report(folds: list[dict]) -> dict:
    """All folds together: by method, side and metric the values of every patient, their mean and 95% interval.

    The interval resamples patients over all folds. It holds their chance and not that of training: patients of
    one fold share a model.
    """
    patients = [name for fold in folds for name in fold["test"]]
    methods = {}
    for name, sides in folds[0]["methods"].items():
        methods[name] = {side: {} for side in sides if side.isdigit()}
        for side, rows in methods[name].items():
            for metric in sides[side]:
                lists = [fold["methods"][name][side][metric]["values"] for fold in folds]
                values = [float("inf") if v is None else v for each in lists for v in each]
                rows[metric] = metrics.bootstrap(values)._asdict() | {"values": values}
    return json_ready({"patients": patients, "folds": [len(fold["test"]) for fold in folds], "methods": methods})


def fold_table(board: dict) -> str:
    """A report in aligned columns: Dice with its interval at each side, over all patients."""
    lines = [f"{len(board['patients'])} patients, each tested once, in folds of {board['folds']}"]
    for name, sides in board["methods"].items():
        cells = [
            f"{r['dice']['mean']:.3f} ({r['dice']['low']:.3f} to {r['dice']['high']:.3f}) at {side}"
            for side, r in sides.items()
        ]
        lines.append(f"{name:28s} Dice " + "  ".join(cells))
    return "\n".join(lines)
