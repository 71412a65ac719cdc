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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import SimpleITK as sitk
from torch import nn

from vaelib import metrics, two_stage
from vaelib.cohort import Cohort, open_cohort
from vaelib.cohorts.layout import models_folder
from vaelib.cohorts.typical import doubt, learn
from vaelib.cohorts.windows import GRIDS, Outlined, doubts, of_one, spacing_of
from vaelib.detached import RECIPE as RECIPE
from vaelib.detached import predicted, recipe, told, train_mask, train_vae
from vaelib.detached import rows_near as rows_near
from vaelib.detached import train_on_codes as train_on_codes
from vaelib.detached import with_neighbours as with_neighbours
from vaelib.dicom.write import check_target, write_mask
from vaelib.engine import options as opt
from vaelib.engine import parallel
from vaelib.engine.boards import Usable, baselines, by_patient, leave, run_folds, scoreboard
from vaelib.engine.boards import fold_table as fold_table
from vaelib.engine.cards import cohort_of
from vaelib.engine.checkpoints import fingerprint, fingerprint_of, kept, load, refuse_to_replace, said_of, save
from vaelib.engine.errors import InputError
from vaelib.engine.files import hash_of, json_ready
from vaelib.engine.records import versions
from vaelib.engine.shards import keys_of, meta_of
from vaelib.engine.states import remove_states, states_of
from vaelib.levels import FULL, images_at, to_scan
from vaelib.vae import VAE, MaskDecoder
from vaelib.volumes import read_ct

TRAINED = "vae", "mask"  # the networks of a run
DETACHED = "VAE, detached decoder"
TWO = "two-stage"


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


def _of_slices(vae: VAE, mask: nn.Module) -> Usable:
    level = getattr(vae, "config", {}).get("size", 64).bit_length() - 1
    predict = lambda images, _: Outlined(predicted(vae, mask, of_one(images[:, None]))[:, 0])  # noqa: E731
    return Usable(DETACHED, level, predict, lambda images, _: told(vae, of_one(images[:, None])))


def _of_stages(coarse: two_stage.Stage, fine: two_stage.Stage) -> Usable:
    return Usable(TWO, FULL, partial(two_stage.predict, coarse, fine), partial(two_stage.tell, coarse))


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
    out, level = Path(out), FULL if model == TWO else level
    names = [f"{stage}-{name}" for stage in two_stage.STAGES for name in TRAINED] if model == TWO else TRAINED
    with parallel.first_process_first():
        lab = open_cohort(folder, level=level, fold=fold)
        people = lab.parts["train"] + lab.parts.get("unlabelled", []) + lab.parts["val"]
        made_of = [level, latent, beta, lab.parts, keys_of(lab.shards, people)]
        how: dict[str, Any] = dict(seed=seed, batch_size=batch_size, precision=precision, lr=lr)
        made_of = made_of if model == "vector" else [model, *made_of]
        made_by = hash_of([made_of, epochs, how])
        refuse_to_replace(out, made_by, overwrite)
        states = states_of(out, names, made_of, resume=resume)
    of_model = _train_stages if model == TWO else partial(_train_slices, 1 if model == "vector" else 2**level // 4)
    networks, use, more = of_model(lab, states, dict(latent=latent, beta=beta, epochs=epochs), how)
    if not parallel.is_first():
        return None
    on_val = by_patient(use.maps(lab, lab.val), lab.val.patient)
    meta = dict(
        made_by=made_by, level=level, window=meta_of(lab.shards, lab.parts["val"][0])["window"], beta=beta, seed=seed,
        fold=fold, patients=lab.parts, thresholds=metrics.best_thresholds(lab.shards, on_val, level),
        typical=learn(*(use.codes(lab, s) for s in (lab.scans, lab.val))), cohort=cohort_of(lab), versions=versions(),
        recipe=dict(model=model, latent=latent, epochs=epochs, **how), **more,
    )  # fmt: skip
    save(out, networks, **meta)
    remove_states(out, names)
    return meta


def _train_slices(grid: int, lab: Cohort, states: Sequence[Path], plan: dict, how: dict) -> tuple[dict, Usable, dict]:
    """Train a VAE of slices with its mask decoder: the networks, what they can do, and what belongs to them."""
    vae, h = train_vae(lab.scans, lab.val, grid=grid, state=states[0], **plan, **how)
    mask, h_mask = train_mask(vae, lab.train, lab.val, state=states[1], **recipe("copies", "mask_epochs"), **how)
    more = {"data": fingerprint(lab.scans, lab.val), "history": {"vae": h, "mask": h_mask}}
    return {"vae": vae, "mask": mask}, _of_slices(vae, mask), more


def _train_stages(lab: Cohort, states: Sequence[Path], plan: dict, how: dict) -> tuple[dict, Usable, dict]:
    """Train two stages, as `_train_slices` does one."""
    pairs = dict(zip(two_stage.STAGES, zip(states[::2], states[1::2], strict=True), strict=True))
    coarse, fine = stages = two_stage.train_stages(lab, pairs, **plan, **how)
    networks = dict(zip(two_stage.NETWORKS, (coarse.vae, coarse.mask, fine.vae, fine.mask), strict=True))
    more = {"cut": coarse.cut, "grids": GRIDS, "history": [stage.history for stage in stages]}
    return networks, _of_stages(coarse, fine), more


def usable(checkpoint: Path) -> tuple[Usable, dict]:
    """Load what a checkpoint can do, and all that a use of it needs; see `said_of`.

    Raises
    ------
    InputError
        If the file holds neither a VAE of slices with its mask decoder nor two stages of them, or says what cannot be.
    """
    networks, meta = load(checkpoint)
    if {*networks} == {*two_stage.NETWORKS}:
        if meta.get("grids") != json.loads(json.dumps(GRIDS)):
            raise InputError(f"{checkpoint}: was made on other grids, {meta.get('grids')}; train one with this vaelib")
        said = said_of(checkpoint, meta, 2**FULL)
        return _of_stages(*two_stage.stages_of(networks, said["cut"])), said
    if not {*TRAINED} <= {*networks}:
        load(checkpoint, *TRAINED)  # says what is missing
    use, shape = _of_slices(cast(VAE, networks["vae"]), networks["mask"]), None
    blank = np.zeros((2, 2**use.level, 2**use.level), np.float32)
    with suppress(RuntimeError, ValueError, TypeError, AttributeError, IndexError):  # what networks have against slices
        shape = use.predict(blank, (1, 1, 1)).probability.shape
    if shape != blank.shape:
        kinds = " and ".join(type(networks[name]).__name__ for name in TRAINED)
        raise InputError(f"{checkpoint}: its {kinds} do not turn single slices into masks; take a VAE of slices with "
                         "its own mask decoder, as `vaelib train` makes them")  # fmt: skip
    return use, said_of(checkpoint, meta, 2**use.level)


@opt.checked
def evaluate(folder: str | Path | None, *, checkpoint: Path, out: opt.Folder = None) -> dict:
    """Score a checkpoint and its baselines on the test patients; see `vaelib evaluate --help`."""
    use, said = usable(checkpoint)
    lab = open_cohort(folder, level=said["level"], fold=said["fold"])
    if set(lab.parts["test"]) & {name for part in ("train", "unlabelled") for name in said["patients"].get(part, ())}:
        raise InputError(f"{checkpoint}: was trained on patients that are held out here; train on this cohort's split")
    if not said["patients"]:
        warnings.warn(f"{checkpoint}: says not whom it was trained on; if on these, scores are too good", stacklevel=2)
    if said["window"] != (window := meta_of(lab.shards, lab.parts["val"][0])["window"]):
        raise InputError(f"{checkpoint}: sees HU {said['window']}, and the cache holds {window}; train one for these")
    cuts = said["thresholds"]
    if not {str(2**lab.level), str(2**FULL)} <= cuts.keys():
        cuts = metrics.best_thresholds(lab.shards, by_patient(use.maps(lab, lab.val), lab.val.patient), lab.level)
    low = lab.at(6) if use.method == TWO else lab  # two stages have no level, and the atlas's is that of the lessons
    methods = baselines(lab.shards, low.train, low.val, low.test, low.level)
    board = scoreboard(lab.shards, methods, low.test.patient, low.level)
    methods = {use.method: (maps := use.maps(lab, lab.test), cuts)}
    board = json_ready(board | scoreboard(lab.shards, methods, lab.test.patient, lab.level))
    if out is not None:
        leave(Path(out), board, checkpoint, lab, maps, cuts[str(2**FULL)])
    return board


@opt.checked
def segment(
    series: Path, *, checkpoint: Path, out: Path, threshold: opt.Threshold = None, overwrite: bool = False
) -> None:
    """Predict the pancreas on the grid of any CT series and write it; see `vaelib segment --help`."""
    check_target(out, overwrite)
    use, said = usable(checkpoint)
    cut = said["thresholds"].get(str(2**FULL)) if threshold is None else threshold
    if cut is None:
        raise InputError(f"{checkpoint}: holds no threshold for full size; say one, such as `--threshold 0.3`")
    scan = read_ct(series)
    check_target(out, overwrite, scan)
    images = images_at(scan, use.level, *said["window"])
    found, codes = (ask(images, spacing_of(scan, use.level)) for ask in (use.predict, use.tell))
    mask = to_scan(found.probability, scan, cut)
    write_mask(mask, out, scan, algorithm=f"vaelib {Path(checkpoint).name}", overwrite=overwrite)
    for why in [*doubt(codes, said["typical"]), *doubts(sitk.GetArrayViewFromImage(mask), found, cut)]:
        warnings.warn(f"{out}: {why}", stacklevel=2)
    volume = sitk.GetArrayViewFromImage(mask).sum() * np.prod(scan.GetSpacing()) / 1000
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
        Folder of the results: ``fold0.safetensors``, ``fold0.json``, its worst cases in ``fold0.png``, ... and, of all
        patients together, ``report.json`` and ``scores.csv``.
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
    return run_folds(train, evaluate, folder, Path(out).expanduser(), only, training)
