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

import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d, label
from torch.nn.utils.rnn import pad_sequence

from vaelib import metrics, pipeline
from vaelib.arms import detached, parameters
from vaelib.cohort import models_folder
from vaelib.latent import decode, encode
from vaelib.losses import mask_loss
from vaelib.models import VAE, MaskDecoder
from vaelib.pyramid import FULL, open_case, stack
from vaelib.sequence import SequenceDecoder, from_cube, to_cube
from vaelib.studies import board
from vaelib.studies.against import choose, contestant, paired, summary
from vaelib.training import augment, fit, load, mask_step, save, vae_step

LEVEL, COARSE, SEEDS = 6, 5, (0, 1, 2)
SLICES, SMOOTHED, RECURRENT = "2D", "2D, smoothed", "recurrent"
COARSE_SLICES, CUBES, CEILING = "2D at 32", "3D at 32", "ceiling of 32"
CUBE = {"channels": 8, "latent": 128, "beta": 0.01, "epochs": 200, "mask_epochs": 200}


def patients_of(s) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and masks of each patient of a stack, (1, S, H, W) each: what `augment` moves as one."""
    rows = metrics.per_patient(s.patient).values()
    return [tuple(torch.from_numpy(a[r]).transpose(0, 1) for a in (s.images, s.masks)) for r in rows]


def sequences(vae, s, copies: int = 1, seed: int = 0) -> list[torch.Tensor]:
    """Patients as they are and `copies` - 1 times moved, encoded: latents, masks and counts, padded with zeros.

    Returns
    -------
    z : Tensor, (copies * P, S, latent)
    masks : Tensor, (copies * P, S, 1, H, W)
    counts : Tensor of int, (copies * P,)
    """
    generator, z, masks = torch.Generator().manual_seed(seed), [], []
    for copy in range(copies):
        for x, m in patients_of(s):
            x, m = augment(x, m, generator=generator) if copy else (x, m)
            z.append(torch.from_numpy(encode(vae, x.transpose(0, 1))[0]))
            masks.append(m.transpose(0, 1))
    counts = torch.tensor([len(one) for one in z])
    return [pad_sequence(z, batch_first=True), pad_sequence(masks, batch_first=True), counts]


def sequence_step(model, batch, progress) -> dict:
    """The step of a `SequenceDecoder` on batches of `sequences`; what was padded is left out."""
    z, masks, counts = batch
    there = torch.arange(z.shape[1], device=z.device) < counts[:, None]  # (P, S)
    return {"total": mask_loss(model(z[there], counts.tolist()), masks[there])}


def train_recurrent(vae, train, val, *, copies=8, mask_epochs=4, seed=0):
    """Train a `SequenceDecoder` on the latents of a VAE that stays as it is, two patients a step.

    As many passes over augmented copies as `pipeline.train_mask` makes; all slices of a patient are moved alike.
    Returns the decoder and its history.
    """
    torch.manual_seed(seed)
    size, latent = vae.config["size"], vae.config["latent"]
    net = SequenceDecoder(size, latent=latent, prevalence=float(train.masks.mean()))
    data, held_out = sequences(vae, train, copies, seed), sequences(vae, val)
    return net, fit(net, sequence_step, data, val=held_out, epochs=mask_epochs, batch_size=2, seed=seed, label="GRU")


@torch.no_grad()
def read(net, vae, s) -> np.ndarray:
    """Probabilities (N, 1, H, W) of a `SequenceDecoder` for a stack, patient by patient."""
    net.eval()
    z, out = torch.from_numpy(encode(vae, s.images)[0]), np.empty_like(s.masks)
    for rows in metrics.per_patient(s.patient).values():
        out[rows] = torch.sigmoid(net(z[rows])).numpy()
    return out


def cubes(s) -> list[torch.Tensor]:
    """Every patient of a stack as a cube: images and masks, (P, 1, size, size, size) each."""
    size = s.images.shape[-1]
    pairs = [[to_cube(a, size) for a in pair] for pair in patients_of(s)]
    return [torch.stack(a) for a in zip(*pairs, strict=True)]


def move(x, m=None, *, shift=0.08, scale=0.12, degrees=8.0):
    """Move cubes (P, 1, D, H, W), and masks along with them, as `augment` moves slices; and along z."""
    draw = torch.rand(len(x), 6) * 2 - 1
    angle, zoom = torch.deg2rad(draw[:, 0] * degrees), 1 + draw[:, 1:3] * scale
    theta = torch.zeros(len(x), 3, 4)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * zoom[:, 0]
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() * zoom[:, 0], angle.sin() * zoom[:, 0]
    theta[:, 2, 2], theta[:, :, 3] = zoom[:, 1], draw[:, 3:] * 2 * shift
    both = x if m is None else torch.cat([x, m], 1)
    grid = F.affine_grid(theta, list(both.shape), align_corners=False)
    both = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
    return both if m is None else both.chunk(2, 1)


def train_cubes(train, *, recipe: dict = CUBE, seed: int = 0):
    """Train a VAE and its detached mask decoder on cubes, as `pipeline` does on slices: both by name."""
    torch.manual_seed(seed)
    x, m = cubes(train)
    size = {"size": x.shape[-1], "channels": recipe["channels"], "latent": recipe["latent"], "dims": 3}
    vae = VAE(**size, start=float(x.mean()))
    fit(vae, vae_step(recipe["beta"]), [x], epochs=recipe["epochs"], batch_size=4, seed=seed, augmentation=move)
    mask = MaskDecoder(**size, prevalence=float(m.mean()))
    vae.eval()

    def encoded(x, m):
        x, m = move(x, m)
        with torch.no_grad():
            return vae.encoder(x)[0], m

    passes = recipe["mask_epochs"]
    fit(mask, mask_step, [x, m], epochs=passes, batch_size=4, seed=seed, augmentation=encoded)
    return {"vae": vae, "mask": mask}


def from_cubes(vae, mask, s) -> np.ndarray:
    """Probabilities (N, 1, H, W) of a 3D model for the slices of a stack."""
    out, probability = np.empty_like(s.masks), torch.from_numpy(decode(mask, encode(vae, cubes(s)[0], 4)[0], 4))
    for rows, cube in zip(metrics.per_patient(s.patient).values(), probability, strict=True):
        out[rows, 0] = from_cube(cube, len(rows))[0].numpy()
    return out


def place(name: str, seed: int) -> Path:
    """Where the checkpoint of an arm lies."""
    return models_folder() / "volumes" / f"{name.replace(' ', '_')}_{seed}.safetensors"


def kept(name: str, seed: int, data: str, make) -> tuple[dict, dict]:
    """Networks with their metadata: from their checkpoint if these slices made it, or else from `make()`, and kept."""
    path = place(name, seed)
    made_by = {"arm": name, "seed": seed, "data": data, "cohort": "synthetic", "recipe": CUBE if name == CUBES else {},
               "command": "python -m vaelib.studies volumes"}  # fmt: skip
    if not path.exists() or {k: load(path)[1].get(k) for k in made_by} != made_by:
        began = time.process_time()
        networks = make()
        save(path, networks, half=True, **made_by, **{"cpu seconds": round(time.process_time() - began)})
    return load(path)


def by_slices(train, val, seed: int) -> dict:
    """The method of this series at any level: the checkpoint of the notebooks for seed 0, or that of the arms."""
    if train.images.shape[-1] != 2**LEVEL:
        return kept(COARSE_SLICES, seed, pipeline.fingerprint(train, val), lambda: detached(train, val, seed))[0]
    if seed == 0:
        vae, mask = pipeline.trained(train, val, models_folder() / "vae64.safetensors", "vae", "mask")
        return {"vae": vae, "mask": mask}
    return contestant(pipeline.DETACHED, train, val, seed)[0]


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
    data, small_data = (pipeline.fingerprint(s["train"], s["val"]) for s in (fine, coarse))
    two = by_slices(fine["train"], fine["val"], seed)
    vae = two["vae"]
    make = lambda: {"mask": train_recurrent(vae, fine["train"], fine["val"], seed=seed)[0]}  # noqa: E731
    recurrent = kept(RECURRENT, seed, data, make)[0] | {"vae": vae}
    small = by_slices(coarse["train"], coarse["val"], seed)
    make = lambda: train_cubes(coarse["train"], seed=seed)  # noqa: E731
    solid = kept(CUBES, seed, small_data, make)[0]
    out = {}
    for name, networks, says in (
        (SLICES, two, lambda part: pipeline.predicted(vae, two["mask"], fine[part])),
        (SMOOTHED, two, lambda part: smooth(pipeline.predicted(vae, two["mask"], fine[part]), fine[part].patient)),
        (RECURRENT, recurrent, lambda part: read(recurrent["mask"], vae, fine[part])),
        (COARSE_SLICES, small, lambda part: fullsize(pipeline.predicted(small["vae"], small["mask"], coarse[part]))),
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
    for name, p in pipeline.by_patient(probability, s.patient):
        dx, dy, dz = open_case(shards, name, LEVEL).meta["spacing"]
        factor, mask = 2 ** (FULL - LEVEL), p >= threshold
        truth = s.masks[s.patient == name, 0] >= metrics.TRUTH
        found = {"dice": metrics.dice(mask, truth), "hd95": metrics.hd95(mask, truth, (dz, dy * factor, dx * factor))}
        for key, value in (found | consistency(mask)).items():
            out.setdefault(key, []).append(value)
    return out


def run(seeds=SEEDS) -> dict:
    """Train what is missing, score everything, and put it into the section "volumes"; commit the first 3D model."""
    shards, parts = pipeline.shards_and_split()
    fine, coarse = ({n: stack(shards, parts[n], level) for n in parts} for level in (LEVEL, COARSE))
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
    shutil.copyfile(place(CUBES, seeds[0]), board.CHECKPOINTS / "08_cubes.safetensors")
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
        "VAE": clock(vae, vae_step(0.01), [x], move, 4),
        "mask decoder": clock(mask, mask_step, [z, m], None, 4),
    }
    return out


def clock(net, step, data, augmentation=None, batch_size: int = 64) -> float:
    """CPU seconds of one epoch."""
    began = time.process_time()
    fit(net, step, data, epochs=1, batch_size=batch_size, augmentation=augmentation)
    return time.process_time() - began
