"""What does a patient's whole volume add to its slices? The 2D model, a recurrent decoder, and 3D convolutions.

=====================  ==========================================================================================
2D                     the method of this series, slice by slice
2D, smoothed           the same probabilities, smoothed along z: what needs no training to agree with its neighbours
recurrent              the same encoder; `SequenceDecoder` reads the latents of all slices of a patient
2D at 32               the method of this series at 32 x 32
3D at 32               the same classes with ``dims=3``, on the scan as a cube of 32
ceiling of 32          the true occupancy at 32 x 32, put back: what no method at that size can pass
=====================  ==========================================================================================

All are scored at 64 x 64 on the patient's own slices; maps of 32 are enlarged first.
"""

import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, label

from studies import board
from studies.against import choose, contestant, paired, summary
from vaelib import metrics, recipes
from vaelib.cohort import load_slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import load, save
from vaelib.engine.shards import meta_of
from vaelib.levels import FULL
from vaelib.rivals import detached, parameters
from vaelib.sequence import (
    CUBE,
    SequenceDecoder,
    cubes,
    from_cubes,
    read,
    sequence_step,
    sequences,
    train_cubes,
    train_recurrent,
)
from vaelib.training import augment, fit, mask_step, vae_step
from vaelib.vae import VAE, MaskDecoder

LEVEL, COARSE, SEEDS = 6, 5, (0, 1, 2)
SLICES, SMOOTHED, RECURRENT = "2D", "2D, smoothed", "recurrent"
COARSE_SLICES, CUBES, CEILING = "2D at 32", "3D at 32", "ceiling of 32"


def place(name: str, seed: int) -> Path:
    """Where the checkpoint of an arm lies."""
    return models_folder() / "volumes" / f"{name.replace(' ', '_')}_{seed}.safetensors"


def kept(name: str, seed: int, data: str, make) -> tuple[dict, dict]:
    """Networks with their metadata: from their checkpoint if these slices made it, or else from `make()`, and kept."""
    path = place(name, seed)
    made_by = {"arm": name, "seed": seed, "data": data, "cohort": "synthetic", "recipe": CUBE if name == CUBES else {},
               "command": "python -m studies volumes"}  # fmt: skip
    if not path.exists() or {k: load(path)[1].get(k) for k in made_by} != made_by:
        began = time.process_time()
        networks = make()
        save(path, networks, half=True, **made_by, **{"cpu seconds": round(time.process_time() - began)})
    return load(path)


def by_slices(train, val, seed: int) -> dict:
    """The method of this series at any level: the checkpoint of the notebooks for seed 0, or that of the arms."""
    if train.images.shape[-1] != 2**LEVEL:
        return kept(COARSE_SLICES, seed, recipes.fingerprint(train, val), lambda: detached(train, val, seed))[0]
    if seed == 0:
        vae, mask = recipes.trained(train, val, models_folder() / "vae64.safetensors", "vae", "mask")
        return {"vae": vae, "mask": mask}
    return contestant(recipes.DETACHED, train, val, seed)[0]


def smooth(probability: np.ndarray, patient: np.ndarray, sigma: float = 1) -> np.ndarray:
    """Probabilities (N, 1, H, W), smoothed along z within each patient by a Gaussian of `sigma` slices."""
    out = np.empty_like(probability)
    for rows in metrics.per_patient(patient).values():
        out[rows] = gaussian_filter1d(probability[rows], sigma, axis=0, mode="constant")
    return out


def fullsize(probability: np.ndarray) -> np.ndarray:
    """Maps (N, 1, 32, 32) at the size that all are scored at."""
    return metrics.enlarge(probability[:, 0], 2**LEVEL)[:, None]


def predictions(seed: int, fine: dict, coarse: dict) -> dict[str, dict]:
    """Train or load every arm: probabilities (N, 1, 64, 64) for "val" and "test", and learned numbers, by name.

    `fine` and `coarse` hold the stacks "train", "val" and "test" at both levels.
    """
    data, small_data = (recipes.fingerprint(s["train"], s["val"]) for s in (fine, coarse))
    two = by_slices(fine["train"], fine["val"], seed)
    vae = two["vae"]
    make = lambda: {"mask": train_recurrent(vae, fine["train"], fine["val"], seed=seed)[0]}  # noqa: E731
    recurrent = kept(RECURRENT, seed, data, make)[0] | {"vae": vae}
    small = by_slices(coarse["train"], coarse["val"], seed)
    make = lambda: train_cubes(coarse["train"], seed=seed)  # noqa: E731
    solid = kept(CUBES, seed, small_data, make)[0]
    out = {}
    for name, networks, says in (
        (SLICES, two, lambda part: recipes.predicted(vae, two["mask"], fine[part])),
        (SMOOTHED, two, lambda part: smooth(recipes.predicted(vae, two["mask"], fine[part]), fine[part].patient)),
        (RECURRENT, recurrent, lambda part: read(recurrent["mask"], vae, fine[part])),
        (COARSE_SLICES, small, lambda part: fullsize(recipes.predicted(small["vae"], small["mask"], coarse[part]))),
        (CUBES, solid, lambda part: fullsize(from_cubes(solid["vae"], solid["mask"], coarse[part]))),
        (CEILING, {}, lambda part: fullsize(coarse[part].masks)),
    ):
        out[name] = {part: says(part) for part in ("val", "test")} | {"parameters": parameters(networks)}
    return out


def consistency(mask: np.ndarray) -> dict[str, float]:
    """How well the slices of a mask (S, H, W) fit each other.

    Returns
    -------
    dict
        ``neighbours``: the mean Dice of two neighbouring slices, over all pairs that are not both empty.
        ``gaps``: empty slices between the lowest and the highest that is not. ``pieces``: connected parts in 3D, voxels
        that touch by a corner being connected. ``jitter``: how far the centre of a slice lies from the middle between
        the centres of its neighbours, the mean in pixels; unlike the others it cares little for the size of a mask.
    """
    area = mask.sum((1, 2))
    both = (mask[1:] & mask[:-1]).sum((1, 2))
    pairs = (area[1:] + area[:-1]) > 0
    fit_ = 2 * both[pairs] / (area[1:] + area[:-1])[pairs]
    there = np.flatnonzero(area)
    gaps = (area[there[0] : there[-1]] == 0).sum() if len(there) else 0
    pieces = label(mask, np.ones((3, 3, 3)))[1]
    centre = np.einsum("shw,khw->sk", mask, np.indices(mask.shape[1:])) / np.maximum(area, 1)[:, None]
    off = np.linalg.norm(centre[1:-1] - (centre[2:] + centre[:-2]) / 2, axis=1)
    off = off[np.minimum(np.minimum(area[2:], area[:-2]), area[1:-1]) > 0]
    return {"neighbours": float(fit_.mean()) if len(fit_) else 0.0, "gaps": int(gaps), "pieces": int(pieces),
            "jitter": float(off.mean()) if len(off) else 0.0}  # fmt: skip


def examine(shards, probability: np.ndarray, threshold: float, s) -> dict[str, list]:
    """Dice, HD95 in mm, and `consistency` of each patient of a stack: one list a measure."""
    out = {}
    for name, p in recipes.by_patient(probability, s.patient):
        dx, dy, dz = meta_of(shards, name)["spacing"]
        factor, mask = 2 ** (FULL - LEVEL), p >= threshold
        truth = s.masks[s.patient == name, 0] >= metrics.TRUTH
        found = {"dice": metrics.dice(mask, truth), "hd95": metrics.hd95(mask, truth, (dz, dy * factor, dx * factor))}
        for key, value in (found | consistency(mask)).items():
            out.setdefault(key, []).append(value)
    return out


def run(seeds=SEEDS) -> dict:
    """Train what is missing, score everything, and put it into the section "volumes"; commit the first 3D model."""
    shards, parts = recipes.shards_and_split()
    fine, coarse = ({n: load_slices(shards, parts[n], level) for n in parts} for level in (LEVEL, COARSE))
    val, test, scores, facts = fine["val"], fine["test"], {}, {}
    for seed in seeds:
        for name, arm in predictions(seed, fine, coarse).items():
            threshold = choose(arm["val"], val)
            fact = facts.setdefault(name, {"parameters": arm["parameters"], "thresholds": []})
            fact["thresholds"].append(threshold)
            for measure, values in examine(shards, arm["test"], threshold, test).items():
                scores.setdefault(measure, {}).setdefault(name, []).append(values)
    section = {"seeds": list(seeds), "test": parts["test"], "cube": CUBE, "seconds a pass": pace(fine, coarse)}
    section["arms"] = {
        name: fact | {measure: summary(np.array(by[name])) for measure, by in scores.items()}
        for name, fact in facts.items()
    }
    section["truth"] = {k: metrics.bootstrap(v) for k, v in examine(shards, test.masks, metrics.TRUTH, test).items()}
    section["truth"] = {k: v._asdict() for k, v in section["truth"].items()}
    for rival, names in ((SLICES, (SMOOTHED, RECURRENT, COARSE_SLICES, CUBES)), (COARSE_SLICES, (CUBES,))):
        section[f"minus {rival}"] = {n: {m: paired(by[n], by[rival]) for m, by in scores.items()} for n in names}
    board.put("volumes", section)
    board.publish(place(CUBES, seeds[0]), "08_cubes")
    return section


def pace(fine: dict, coarse: dict) -> dict[str, dict[str, float]]:
    """CPU seconds of one pass over the training patients, for the VAE and for the mask decoder of each arm."""
    out = {}
    for name, s in ((SLICES, fine), (COARSE_SLICES, coarse)):
        x, m = (torch.from_numpy(a) for a in (s["train"].images, s["train"].masks))
        vae, mask, z = VAE(x.shape[-1]), MaskDecoder(x.shape[-1]), torch.randn(len(x), 64)
        out[name] = {"VAE": clock(vae, vae_step(0.01), [x], augment), "mask decoder": clock(mask, mask_step, [z, m])}
    padded = sequences(VAE(2**LEVEL), fine["train"])
    out[RECURRENT] = out[SLICES] | {"mask decoder": clock(SequenceDecoder(), sequence_step, padded, batch_size=2)}
    (x, m), size = cubes(coarse["train"]), {"size": 2**COARSE, "channels": CUBE["channels"], "latent": CUBE["latent"]}
    vae, mask, z = VAE(**size, dims=3), MaskDecoder(**size, dims=3), torch.randn(len(x), CUBE["latent"])
    out[CUBES] = {
        "VAE": clock(vae, vae_step(0.01), [x], augment, 4),
        "mask decoder": clock(mask, mask_step, [z, m], None, 4),
    }
    return out


def clock(net, step, data, augmentation=None, batch_size: int = 64) -> float:
    """CPU seconds of one epoch."""
    began = time.process_time()
    fit(net, step, data, epochs=1, batch_size=batch_size, augmentation=augmentation)
    return time.process_time() - began
