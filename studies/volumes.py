"""What does a whole volume add to its slices? The 2D model stands beside networks that see its neighbours.

=========================  =====================================================================================
2D                         the method of this series, slice by slice
2D, smoothed               the same probabilities, smoothed along z: agreement with neighbours without training
recurrent                  the same encoder; `SequenceDecoder` reads the latents of all slices of a patient
2D at 32                   the method of this series at 32 x 32
3D at 32                   the same classes with ``dims=3``, on the scan as a cube of 32
ceiling of 32              the true occupancy at 32 x 32, put back: what no method at that size can pass
2D, three slices           the same encoder; a mask decoder reads the latents of a slice and both neighbours; one seed
3D at 32, trained as 2D    3D with the passes, the moved copies and the in-plane augmentation of 2D at 32
2D at 32, trained as 3D    2D at 32 with the passes of 3D at 32, augmented anew in each; one seed
spatial, three slices      the spatial VAE of notebook 06, whose decoder reads three slices; one seed
=========================  =====================================================================================

All are scored at 64 x 64 on the patient's own slices; maps of 32 are enlarged first.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

import studies
from studies import _equal
from studies._contestants import contestant
from vaelib import metrics, recipes
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, fingerprint_of, kept
from vaelib.rivals import parameters
from vaelib.sequence import Cubes, Recurrent, SequenceDecoder, cubes, sequence_step, sequences, smooth, train_recurrent
from vaelib.training import Step, augment, fit, mask_step, moved_latents, vae_step
from vaelib.vae import VAE, MaskDecoder

LEVEL, COARSE, SEEDS = 6, 5, (0, 1, 2)
SLICES, SMOOTHED, RECURRENT = "2D", "2D, smoothed", "recurrent"
COARSE_SLICES, CUBES, CEILING = "2D at 32", "3D at 32", "ceiling of 32"
THREE, SPATIAL = "2D, three slices", "spatial, three slices"
AS_SLICES, AS_CUBES = "3D at 32, trained as 2D", "2D at 32, trained as 3D"
FURTHER, ONCE = (THREE, SPATIAL, AS_SLICES, AS_CUBES), (THREE, SPATIAL, AS_CUBES)  # the latter of one seed
RIVALS = {  # from whom each row is subtracted
    SLICES: (SMOOTHED, RECURRENT, COARSE_SLICES, CUBES, THREE, SPATIAL, AS_SLICES, AS_CUBES),
    COARSE_SLICES: (CUBES, AS_SLICES, AS_CUBES),
    THREE: (RECURRENT, SPATIAL, CUBES, AS_SLICES),
    AS_CUBES: (CUBES,),
}
COPIES, MASK_EPOCHS = 8, 4  # of the recurrent decoder
CUBE = {"channels": 8, "latent": 128, "beta": 0.01, "epochs": 200, "mask_epochs": 200}


def place(name: str, seed: int) -> Path:
    """Say where the checkpoint of an arm is kept."""
    return models_folder() / "volumes" / f"{name.replace(' ', '_')}_{seed}.safetensors"


def by_slices(lab: Cohort, seed: int) -> dict[str, nn.Module]:
    """Return the networks of this series at any level: those of the notebooks for seed 0, or those of the arms."""
    if lab.level == LEVEL and seed == 0:
        vae, mask = recipes.trained(lab)
        return {"vae": vae, "mask": mask}
    return contestant(recipes.DETACHED, lab, seed, None if lab.level == LEVEL else models_folder() / "volumes").networks


def trained(
    name: str, seed: int, lab: Cohort, recipe: dict, make: Callable[[], dict], vae: nn.Module | None = None
) -> dict[str, nn.Module]:
    """Train the networks of an arm, or load them if this recipe made them of these slices, and of this `vae`."""
    made_by = {"arm": name, "seed": seed, "data": fingerprint(lab.train, lab.val), "recipe": recipe,
               "vae": vae and fingerprint_of(vae)}  # fmt: skip

    def timed() -> dict:
        began = time.process_time()
        networks = make()
        said = {"arm": name, "cohort": "synthetic", "command": "python -m studies volumes"}
        return networks | said | {"cpu seconds": round(time.process_time() - began)}

    found = kept(place(name, seed), made_by, timed, half=True)
    return {key: value for key, value in found.items() if isinstance(value, nn.Module)}


def recurrent(lab: Cohort, seed: int, vae: nn.Module) -> nn.Module:
    """Train the decoder that reads the latents of a VAE from slice to slice, or load it if it read this VAE."""
    how = {"copies": COPIES, "mask_epochs": MASK_EPOCHS}
    make = lambda: {"mask": train_recurrent(vae, lab.train, lab.val, seed=seed, **how)[0]}  # noqa: E731
    return trained(RECURRENT, seed, lab, how, make, vae)["mask"]


def train_cubes(train: Slices, *, recipe: dict = CUBE, seed: int = 0) -> dict[str, nn.Module]:
    """Train a VAE and its detached mask decoder on cubes, as `recipes` does on slices: both by name."""
    torch.manual_seed(seed)
    x, m = cubes(train)
    size = {"size": x.shape[-1], "channels": recipe["channels"], "latent": recipe["latent"], "dims": 3}
    vae = VAE(**size, start=float(x.mean()))
    fit(vae, vae_step(recipe["beta"]), [x], epochs=recipe["epochs"], batch_size=4, seed=seed, augmentation=augment)
    mask = MaskDecoder(**size, prevalence=float(m.mean()))
    encoded, passes = partial(moved_latents, vae), recipe["mask_epochs"]
    fit(mask, mask_step, [x, m], epochs=passes, batch_size=4, seed=seed, augmentation=encoded)
    return {"vae": vae, "mask": mask}


def solid(lab: Cohort, seed: int) -> dict[str, nn.Module]:
    """Train the networks of cubes, or load them."""
    return trained(CUBES, seed, lab, CUBE, partial(train_cubes, lab.train, seed=seed))


def fullsize(probability: np.ndarray) -> np.ndarray:
    """Enlarge maps (N, 1, 32, 32) to the size that all are scored at."""
    return metrics.enlarge(probability, 2**LEVEL)


def predictions(lab: Cohort, coarse: Cohort, seed: int) -> dict[str, dict]:
    """Train or load every arm: probabilities (N, 1, 64, 64) for "val" and "test", and learned numbers, by name."""
    two, small, cube = by_slices(lab, seed), by_slices(coarse, seed), solid(coarse, seed)
    gru = recurrent(lab, seed, two["vae"])
    out = {name: {} for name in (SLICES, SMOOTHED, RECURRENT, COARSE_SLICES, CUBES, CEILING)}
    for part in ("val", "test"):
        fine, rough = getattr(lab, part), getattr(coarse, part)
        out[SLICES][part] = recipes.predicted(two["vae"], two["mask"], fine)
        out[SMOOTHED][part] = smooth(out[SLICES][part], fine.patient)
        out[RECURRENT][part] = Recurrent(two["vae"], gru).predict(fine)
        out[COARSE_SLICES][part] = fullsize(recipes.predicted(small["vae"], small["mask"], rough))
        out[CUBES][part] = fullsize(Cubes(**cube).predict(rough))
        out[CEILING][part] = fullsize(rough.masks)
    networks = (two, two, {"vae": two["vae"], "mask": gru}, small, cube, {})
    return {name: by | {"parameters": parameters(nets)} for (name, by), nets in zip(out.items(), networks, strict=True)}


def three(lab: Cohort, seed: int, vae: nn.Module) -> nn.Module:
    """Train the decoder that reads the latents of three slices, or load it if it read this VAE."""
    how = recipes.recipe("copies", "mask_epochs")
    make = lambda: {"mask": _equal.three_slices(vae, lab.train, seed=seed, **how)}  # noqa: E731
    return trained(THREE, seed, lab, how, make, vae)["mask"]


def swapped(name: str, coarse: Cohort, seed: int) -> dict[str, nn.Module]:
    """Train the networks of 3D by the recipe of 2D, or those of 2D by the recipe of 3D; or load them."""
    by: dict = recipes.RECIPE if name == AS_SLICES else CUBE
    shape: dict = recipes.recipe("channels", "latent", of=CUBE) if name == AS_SLICES else recipes.recipe("latent")
    train: Callable[..., dict] = _equal.cubes_as_slices if name == AS_SLICES else _equal.slices_as_cubes
    return trained(name, seed, coarse, by | shape, partial(train, coarse.train, seed=seed, recipe=by, **shape))


def further(name: str, lab: Cohort, coarse: Cohort, seed: int) -> dict:
    """Train or load one of the `FURTHER` rows: what `predictions` has of each arm."""
    ask: Callable
    if name == SPATIAL:
        nets = contestant("spatial VAE, detached", lab, seed).networks
        ask = lambda fine, _: recipes.predicted(nets["vae"], nets["mask"], fine)  # noqa: E731
    elif name == THREE:
        vae = by_slices(lab, seed)["vae"]
        nets = {"vae": vae, "mask": three(lab, seed, vae)}
        ask = lambda fine, _: _equal.predict_three(nets["vae"], nets["mask"], fine)  # noqa: E731
    else:
        nets = swapped(name, coarse, seed)
        predict = Cubes(**nets).predict if name == AS_SLICES else partial(recipes.predicted, nets["vae"], nets["mask"])
        ask = lambda _, rough: fullsize(predict(rough))  # noqa: E731
    out = {part: ask(getattr(lab, part), getattr(coarse, part)) for part in ("val", "test")}
    return out | {"parameters": parameters(nets)}


def examine(shards: Path, probability: np.ndarray, threshold: float, slices: Slices) -> dict[str, list]:
    """Measure each patient by Dice, HD95, surface Dice, signed volume error and `metrics.consistency`: lists.

    The volume is held against the occupancy, of which a mask holds more: that of the truth does too.
    """
    out: dict[str, list] = {}
    for name, p in recipes.by_patient(probability, slices.patient):
        mask, share = p >= threshold, slices.masks[slices.patient == name, 0]
        truth, spacing = share >= metrics.TRUTH, metrics.spacing_at(shards, name, LEVEL)
        found = {"dice": metrics.dice(mask, truth), "hd95": metrics.hd95(mask, truth, spacing)}
        found["surface dice 2 mm"] = metrics.surface_dice(mask, truth, spacing)
        found["volume error"] = float(mask.sum() / share.sum() - 1)
        for key, value in (found | metrics.consistency(mask)).items():
            out.setdefault(key, []).append(value)
    return out


def run(lab: Cohort, seeds: Sequence[int] = SEEDS) -> dict:
    """Train what is missing, score everything, and commit the first 3D model and its 2D rival."""
    coarse, scores, facts = lab.at(COARSE), {}, {}
    for seed in seeds:
        first = seed == seeds[0]
        arms = predictions(lab, coarse, seed) | {
            n: further(n, lab, coarse, seed) for n in FURTHER if first or n not in ONCE
        }
        for name, arm in arms.items():
            threshold = metrics.choose(arm["val"], lab.val)
            fact = facts.setdefault(name, {"parameters": arm["parameters"], "thresholds": []})
            fact["thresholds"].append(threshold)
            for measure, values in examine(lab.shards, arm["test"], threshold, lab.test).items():
                scores.setdefault(measure, {}).setdefault(name, []).append(values)
    record: dict = {"cube": CUBE, "seconds a pass": pace(lab, coarse), "seeds": [*seeds], "test": lab.parts["test"]}
    record["arms"] = {n: f | {m: studies.summary(np.array(v[n])) for m, v in scores.items()} for n, f in facts.items()}
    truth = examine(lab.shards, lab.test.masks, metrics.TRUTH, lab.test)
    record["truth"] = {measure: metrics.bootstrap(values)._asdict() for measure, values in truth.items()}
    for rival, names in RIVALS.items():
        record[f"minus {rival}"] = {
            n: {m: gap(m, record["arms"], by, n, rival) for m, by in scores.items()} for n in names
        }
    for name, kept_as in ((CUBES, "08_cubes"), (AS_CUBES, "08_slices")):
        studies.publish(place(name, seeds[0]), kept_as)
    return record


def gap(measure: str, arms: dict, scores: dict[str, list], name: str, rival: str) -> dict:
    """Subtract a rival patient by patient: means over all seeds where both have all of them, or else by the first."""
    ours, theirs = arms[name][measure], arms[rival][measure]
    if len(ours["seeds"]) == len(theirs["seeds"]):
        found = metrics.bootstrap(np.subtract(ours["values"], theirs["values"]))._asdict()
        return found | {"seeds": len(ours["seeds"])}
    return studies.paired(scores[name][:1], scores[rival][:1]) | {"seeds": 1}


def pace(lab: Cohort, coarse: Cohort) -> dict[str, dict[str, float]]:
    """Clock one pass over the training patients, for the VAE and for the mask decoder of each arm, in CPU seconds."""
    out = {}
    for name, slices in ((SLICES, lab.train), (COARSE_SLICES, coarse.train)):
        x, m = (torch.from_numpy(a) for a in (slices.images, slices.masks))
        vae, mask, z = VAE(slices.size), MaskDecoder(slices.size), torch.randn(len(x), 64)
        out[name] = {"VAE": clock(vae, vae_step(0.01), [x], augment), "mask decoder": clock(mask, mask_step, [z, m])}
    padded = sequences(VAE(2**LEVEL), lab.train)
    out[RECURRENT] = out[SLICES] | {"mask decoder": clock(SequenceDecoder(), sequence_step, padded, batch_size=2)}
    (x, m), size = cubes(coarse.train), {"size": 2**COARSE, "channels": CUBE["channels"], "latent": CUBE["latent"]}
    vae, mask, z = VAE(**size, dims=3), MaskDecoder(**size, dims=3), torch.randn(len(x), CUBE["latent"])
    out[CUBES] = {
        "VAE": clock(vae, vae_step(0.01), [x], augment, 4),
        "mask decoder": clock(mask, mask_step, [z, m], None, 4),
    }
    return out


def clock(
    net: nn.Module, step: Step, data: Sequence, augmentation: Callable | None = None, batch_size: int = 64
) -> float:
    """Measure the CPU seconds of one epoch."""
    began = time.process_time()
    fit(net, step, data, epochs=1, batch_size=batch_size, augmentation=augmentation)
    return time.process_time() - began
