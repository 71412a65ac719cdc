"""Does a VAE know of its errors better than a U-Net, alone or as an ensemble of five? Each is asked of its own errors.

The U-Nets are those of the controls, trained by cross-entropy on occupancies; the VAEs are of one seed, as the lessons
have them. Calibration is measured against the event that is scored, an occupancy of at least `metrics.TRUTH`, and
beside it against the occupancy that all were taught. Intervals resample the test patients, not the seeds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from studies import CHECKPOINTS, over_patients
from studies._arms import ARMS, PLAN, build, labelled, train, with_neighbours
from studies._sure import area, ece, inside, mean_risk, nats, possible, rank_correlation
from vaelib import metrics, recipes, uncertainty
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept, load
from vaelib.latent import decode

SEEDS, DRAWS, FREE, RIVALS = (0, 1, 2, 3, 4), 32, "p (1 - p)", ("U-Net", "U-Net ensemble")
OF_DRAWS, OF_MEMBERS = ("variance of draws", "information about z"), ("variance of members", "information about it")
Statistics = dict[str, Callable[[np.ndarray], float]]  # by name, each of any rows of the test slices


class Method(NamedTuple):
    """What one or several networks say of the test: `p`, and `q` of the event, (N, 1, H, W); maps of uncertainty."""

    threshold: float
    p: np.ndarray
    q: np.ndarray
    maps: dict[str, np.ndarray]


def member(lab: Cohort, seed: int, plan: dict = PLAN) -> nn.Module:
    """Train one U-Net over three slices as the controls do, or load it: by cross-entropy, from its own seed."""
    how = {"steps": plan["steps"], "batch": plan["batch"], "lr": plan["lr"], "seed": seed}

    def make() -> dict:
        net = build(ARMS["U-Net"], lab.train, seed)
        train(net, labelled(False, False), [with_neighbours(lab.train), torch.from_numpy(lab.train.masks)], **how)
        return {"net": net}

    made_by = {"arm": "U-Net", "loss": "cross-entropy", "how": how, "data": fingerprint(lab.train, lab.val)}
    return kept(models_folder() / "ensemble" / f"unet_{seed}.safetensors", made_by, make)["net"]


def vaes(lab: Cohort) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Load the VAEs of the lessons, each with its mask decoder; the vector VAE is trained if need be."""
    found = load(CHECKPOINTS / "06_spatial.safetensors", "vae", "mask")[0]
    return {"vector VAE": recipes.trained(lab), "spatial VAE": (found["vae"], found["mask"])}


def drawn(vae: nn.Module, mask: nn.Module, s: Slices, draws: int) -> Iterator[np.ndarray]:
    """Decode samples z ~ q(z|x), each slice by itself, for a decoder that reads any number of neighbours."""
    near = recipes.rows_near(s, getattr(mask, "config", {}).get("reach", 0))
    for z in uncertainty.draw_latents(vae, s.images, draws):
        yield decode(mask, z[near].reshape(len(near), -1, *z.shape[2:]))


def in_common(several: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Compute mean, variance and information of predictions (N, 1, H, W), of draws or of networks."""
    sums, n = np.zeros(()), 0
    for p in several:
        sums, n = sums + np.stack((p, np.square(p, dtype=float), uncertainty.entropy(p))), n + 1
    mean, square, single = sums / n
    return [mean, np.maximum(square - mean**2, 0), np.maximum(uncertainty.entropy(mean) - single, 0)]


def said(lab: Cohort, val: np.ndarray, p: np.ndarray, maps: dict[str, np.ndarray]) -> Method:
    """Put a method together from its predictions: what it needs to know is learned from validation patients."""
    region, event = possible(lab.train), lab.val.masks[:] >= metrics.TRUTH
    q = uncertainty.calibrate(inside(val, region), inside(event, region), "isotonic")(p)
    return Method(metrics.choose(val, lab.val), p, q, {FREE: p * (1 - p), "q (1 - q)": q * (1 - q)} | maps)


def methods_of(lab: Cohort, seeds: Sequence[int], draws: int) -> dict[str, list[Method]]:
    """Predict test patients by all: the VAEs at mu, each U-Net alone, and the mean of the U-Nets."""
    out = {}
    for name, (vae, mask) in vaes(lab).items():
        found = dict(zip(OF_DRAWS, in_common(drawn(vae, mask, lab.test, draws))[1:], strict=True))
        val, p = (recipes.predicted(vae, mask, s)[:] for s in (lab.val, lab.test))
        out[name] = [said(lab, val, p, found)]
    nets = [member(lab, seed) for seed in seeds]
    on_val, on_test = ([decode(net, with_neighbours(s).numpy()) for net in nets] for s in (lab.val, lab.test))
    out["U-Net"] = [said(lab, *pair, {}) for pair in zip(on_val, on_test, strict=True)]
    mean, *maps = in_common(on_test)
    return out | {"U-Net ensemble": [said(lab, in_common(on_val)[0], mean, dict(zip(OF_MEMBERS, maps, strict=True)))]}


def gained(slices: Sequence[tuple], rows: np.ndarray) -> float:
    """Say how far an order of slices brings the area under its risk-coverage curve: 0 is chance, 1 the error itself."""
    blind, best = mean_risk(slices, rows), area([(risk, risk, there) for _, risk, there in slices], rows)
    return (blind - area(slices, rows)) / (blind - best)


def statistics(many: Sequence[Method], lab: Cohort, name: str) -> Statistics:
    """Measure one method, the mean of all its seeds, with one of its maps."""
    test, region = lab.test, possible(lab.train)
    truth, found = test.masks[:] >= metrics.TRUTH, [m.p >= m.threshold for m in many]
    finds = partial(uncertainty.auroc_per_patient, region=region, patient=test.patient)
    wrong = np.mean([finds(m.maps[name], f != truth) for m, f in zip(many, found, strict=True)], 0)
    dices = np.mean([metrics.dice_per_patient(m.p, m.threshold, test) for m in many], 0)
    one = np.argmax([test.patient == name for name in test.rows], 0)  # the number of each slice's patient
    sums = [uncertainty.slice_uncertainty(m.maps[name], m.p) for m in many]
    slices = [(u, *uncertainty.slice_risk(f, truth)) for u, f in zip(sums, found, strict=True)]
    return {
        "dice": lambda rows: float(np.average(dices[one[rows]], weights=1 / np.bincount(one)[one[rows]])),
        "wrong pixels": lambda rows: float(np.average(wrong[one[rows]], weights=1 / np.bincount(one)[one[rows]])),
        "gained": partial(gained, slices), "slices": partial(rank_correlation, slices),
        "nats": partial(nats, [inside(m.p, region) for m in many], inside(truth, region)),
    }  # fmt: skip


def measured(of: Statistics, patient: np.ndarray, less: Statistics | None = None) -> dict[str, dict]:
    """Give each statistic its interval over patients, or that of its difference from another method's."""
    gap = {k: lambda rows, f=f, g=less and less[k]: f(rows) - (g(rows) if g else 0) for k, f in of.items()}
    return {name: over_patients(f, patient) for name, f in gap.items()}


def calibration(many: Sequence[Method], lab: Cohort) -> dict[str, dict]:
    """Measure ECE and nats, with diagrams: of p against the event and the occupancy, of q against the event."""
    share, out = inside(lab.test.masks[:], possible(lab.train)), {}
    event = share >= metrics.TRUTH
    for name, map_of, truth in (("event", "p", event), ("event, by q", "q", event), ("occupancy", "p", share)):
        p = [inside(getattr(m, map_of), possible(lab.train)) for m in many]
        diagram = uncertainty.reliability(np.stack(p), np.stack([truth] * len(p)))
        out[name] = measured({"ece": partial(ece, p, truth), "nats": partial(nats, p, truth)}, lab.test.patient)
        out[name] |= {"predicted": diagram.predicted, "observed": diagram.observed}
    return out


def run(lab: Cohort, seeds: Sequence[int] = SEEDS, draws: int = DRAWS) -> dict:
    """Measure calibration, Dice and how each uncertainty knows of errors, and the differences between them."""
    methods, patient, found = methods_of(lab, seeds, draws), lab.test.patient, {}
    of = {name: {what: statistics(many, lab, what) for what in many[0].maps} for name, many in methods.items()}
    for name, many in methods.items():
        mine, free = of[name], of[name][FREE]
        found[name] = {"thresholds": [m.threshold for m in many], "calibration": calibration(many, lab)}
        found[name]["errors"] = {what: measured(f, patient) for what, f in mine.items()}
        found[name]["minus p (1 - p)"] = {what: measured(f, patient, free) for what, f in mine.items() if what != FREE}
        found[name]["minus others"] = {o: measured(free, patient, of[o][FREE]) for o in RIVALS if o != name}
    return {"level": lab.level, "test": lab.parts["test"], "draws": draws, "members": len(seeds), "methods": found}
