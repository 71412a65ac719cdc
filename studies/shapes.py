"""Are masks drawn by way of the latent plausible pancreases, and what is halfway between two? Beside linear models.

The rivals cost next to nothing: principal components of the masks, a cross-fade, a mean of signed distances. Three
seeds; intervals resample the test patients.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from torch import nn

from studies._contestants import contestant
from vaelib import latent, metrics, recipes
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts import shapes

SEEDS = (0, 1, 2)
COMPONENTS = int(recipes.RECIPE["latent"])  # as many numbers as the latent has
SAMPLES = 1000  # masks drawn
PATHS = {"straight": latent.interpolate, "arc": latent.slerp}


class OneSeed(NamedTuple):
    """The method of one seed, and what it says of the test slices, (N, 1, H, W)."""

    vae: nn.Module
    mask: nn.Module
    threshold: float
    test: np.ndarray


def run(lab: Cohort, seeds: Sequence[int] = SEEDS) -> dict:
    """Count the plausible masks among samples, and look halfway between each two patients."""
    runs = []
    for seed in seeds:
        method = contestant(recipes.DETACHED, lab, seed)
        vae, mask = method.networks["vae"], method.networks["mask"]
        runs.append(OneSeed(vae, mask, method.meta["threshold"], method.predict(lab.test)[:]))
    said = {"seeds": list(seeds), "level": lab.level, "test": lab.parts["test"]}
    return said | {"plausible": samples(runs, lab.train, lab.test), "halfway": paths(runs, lab.test)}


def masks_by_pca(masks: np.ndarray, n: int = SAMPLES) -> np.ndarray:
    """Sample a linear model of shape: (n, 1, H, W) of a normal fitted to the principal components of masks."""
    flat = masks.reshape(len(masks), -1)
    pca = PCA(COMPONENTS, svd_solver="randomized", random_state=0).fit(flat)
    drawn = pca.inverse_transform(latent.sample_fitted(pca.transform(flat), n))
    return drawn.reshape(-1, *masks.shape[1:]) >= metrics.TRUTH


def codes(mu: np.ndarray, some: np.ndarray, n: int = SAMPLES) -> dict[str, np.ndarray]:
    """Draw points to decode, (n, D) each: from the prior, and from normals fitted to all codes, or to `some`."""
    return {
        "the prior N(0, 1)": latent.sample(n, mu.shape[1]),
        "a normal fitted to all slices": latent.sample_fitted(mu, n),
        "a normal fitted to slices with pancreas": latent.sample_fitted(mu[some], n),
    }


def samples(runs: list[OneSeed], train: Slices, test: Slices) -> dict:
    """Count plausible masks among real ones, samples by way of the latent, and samples of linear models: shares."""
    real_train, real_test = (s.masks[:] >= metrics.TRUTH for s in (train, test))
    usual, some = shapes.usual_masks(real_train), real_train.any((1, 2, 3))
    drawn = {
        "real slices of test patients": [real_test[real_test.any((1, 2, 3))]],
        "PCA of the masks": [masks_by_pca(train.masks[np.flatnonzero(some)])],
        "PCA of centred distances": [shapes.sample_shapes(real_train[some], SAMPLES, COMPONENTS)],
    }
    for run in runs:
        drawn.setdefault("predictions for those slices", []).append(run.test[real_test.any((1, 2, 3))] >= run.threshold)
        for name, z in codes(latent.encode(run.vae, train.images)[0], some).items():
            drawn.setdefault(name, []).append(latent.decode(run.mask, z) >= run.threshold)
    return {name: shares([shapes.plausible(m, usual) for m in many]) for name, many in drawn.items()}


def shares(tests: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Average the share of masks that pass each test over several seeds."""
    return {key: float(np.mean([t[key].mean() for t in tests])) for key in tests[0]}


def halfway(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Draw masks (N, 1, H, W) between two by the mean of their signed distances, both moved to a centre halfway.

    After Raya & Udupa, *Shape-based interpolation of multidimensional objects*, IEEE Trans Med Imaging 1990;9:32.
    Empty where one of the two is.
    """
    ends, out = (first, second), np.zeros_like(first)
    there = np.logical_and(*(e.any((1, 2, 3)) for e in ends))
    if there.any():
        at = [metrics.centres(e[there]) for e in ends]
        inside = [shapes.signed_distance(e[there]) for e in ends]
        out[there] = sum(shapes.shifted(d, (at[0] + at[1]) / 2 - a) for d, a in zip(inside, at, strict=True)) > 0
    return out


def between(run: OneSeed, first: np.ndarray, second: np.ndarray, ends: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Draw masks halfway between codes (N, D) by each path, and between predictions at the ends by three rivals.

    A cross-fade averages the probabilities; signed distances are averaged as they lie, or centred first.
    """
    at = run.threshold
    middles = {name: np.stack([path(*pair, 3)[1] for pair in zip(first, second, strict=True)])
               for name, path in PATHS.items()}  # fmt: skip
    cut = [e >= at for e in ends]
    return {name: latent.decode(run.mask, z) >= at for name, z in middles.items()} | {
        "cross-fade": (ends[0] + ends[1]) / 2 >= at,
        "signed distances": sum(shapes.signed_distance(e) for e in cut) > 0,
        "centred distances": halfway(*cut),
    }


def paths(runs: list[OneSeed], test: Slices) -> dict:
    """Ask halfway between each two patients whether a mask is in one piece, and of a size between the two."""
    owners = [*metrics.per_patient(test.patient).values()]
    at = [r[shapes.matching_slices(test.masks[r] >= metrics.TRUTH)] for r in owners]
    values: dict = {}
    for run in runs:
        mu = latent.encode(run.vae, test.images)[0]
        for a, b in combinations(range(len(at)), 2):
            ends = [run.test[at[k]] for k in (a, b)]
            size = np.mean([(e >= run.threshold).sum() for e in ends])
            whole = np.logical_and(*(shapes.pieces(e >= run.threshold) == 1 for e in ends))
            for name, found in between(run, mu[at[a]], mu[at[b]], ends).items():
                one = (shapes.pieces(found) == 1)[whole].mean() if whole.any() else np.nan
                for k in (a, b):
                    values.setdefault(name, {}).setdefault(k, []).append((one, found.sum() / size))
    per = {name: np.array([np.nanmean(by[k], 0) for k in sorted(by)]) for name, by in values.items()}
    return {
        name: {key: _interval(v[:, column]) for column, key in enumerate(("one piece", "volume"))}
        for name, v in per.items()
    }


def _interval(values: np.ndarray) -> dict:
    """Bootstrap the patients of whom it can be said; nothing, where it can be said of none."""
    known = values[np.isfinite(values)]
    return metrics.bootstrap(known)._asdict() if len(known) else dict.fromkeys(metrics.Interval._fields)
