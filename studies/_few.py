"""What the studies of few labels share: the scans without a mask, who is drawn, and how a network learns from few."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from studies import _cells, _pool
from studies._arms import Reader, frozen, labelled, of_pairs, train, with_neighbours
from vaelib.cohort import Cohort, Slices, load_slices
from vaelib.latent import decode

LABELLED = (1, 4, 16)  # patients with a mask


def everyone(lab: Cohort) -> Slices:
    """Put the slices of the old training patients and of the pool together, with masks that nobody may read."""
    return _everyone(lab.shards, tuple(lab.parts["train"]), lab.level, _pool.POOL)


@lru_cache(maxsize=1)  # a worker makes many cells
def _everyone(shards: Path, names: tuple[str, ...], level: int, numbers: Sequence[int]) -> Slices:
    both = load_slices(shards, names, level), _pool.patients(numbers).slices
    found = Slices(*map(np.concatenate, zip(*both, strict=True)))
    return found._replace(masks=np.full((len(found.images), 1, 1, 1), np.nan, np.float32))


def drawn(k: int, draw: int) -> list[int]:
    """Draw k patients of the pool; those of a smaller k are among those of a larger one."""
    return [int(n) for n in np.random.default_rng([_pool.SEED, draw]).permutation(_pool.POOL)[:k]]


def few_of(lab: Cohort, k: int) -> Slices:
    """Take k of the old training patients, for curves."""
    names = [str(name) for name in np.random.default_rng(0).permutation(lab.parts["train"])[:k]]
    return load_slices(lab.shards, names, lab.level)


def looked(val: Slices) -> Callable:
    """Make what looks at a network in training: its Dice on the old held-out patients."""

    def look(model: nn.Module, reach: int) -> dict:
        on_val = decode(model.eval(), with_neighbours(val, reach))
        return {"dice": _cells.look(on_val, val)["dice"]}

    return look


def learn(
    model: nn.Module, reach: int, few: Slices, seed: int, plan: dict, losses: Any = None, look: Any = None
) -> list:
    """Train a network on few patients in place, from slices and `reach` neighbours on each side; return its curve."""
    how, shown = {name: plan[name] for name in ("steps", "batch", "lr")} | {"seed": seed}, with_neighbours(few, reach)
    if isinstance(model, Reader) and not model.shaped:  # the code stays as it is: it is computed once
        curve = train(model.head, of_pairs, frozen(model, shown, few.masks, plan["copies"], seed), look=look, **how)
    else:
        losses = losses or labelled(jittered=False, overlap=False)
        curve = train(model, losses, [shown, torch.from_numpy(few.masks)], look=look, **how)
    model.eval()
    return curve
