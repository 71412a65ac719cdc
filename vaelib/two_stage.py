"""Two stages at full size, both detached: a coarse latent over the whole scan finds the organ, a fine one outlines it.

Each stage is the method of `vaelib.detached` with a latent that keeps its places: a VAE that learns without labels, and
a mask decoder that reads its latents and those of the slices beside it. The fine stage learns on the windows that the
coarse one finds. Of a training patient that is said by a coarse stage which has learned from the other half of them:
its errors are those that a new scan meets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.windows import COARSE, Outlined, Windows, find, on_window, outline, slices_of, whole, windows
from vaelib.detached import predicted, recipe, told, train_mask, train_vae
from vaelib.metrics import choose
from vaelib.vae import VAE

PLACE = 4  # pixels a side of a place of the latent
STAGES = "half0", "half1", "coarse", "fine"
USED = STAGES[2:]  # after training
NETWORKS = [f"{stage} {part}" for stage in USED for part in ("vae", "mask")]  # of a checkpoint
States = Mapping[str, Sequence[Path | None]]  # of each stage, where the states of VAE and mask decoder are kept


class Stage(NamedTuple):
    """A VAE and its mask decoder, the histories of both, and the threshold that is best on validation patients."""

    vae: VAE
    mask: nn.Module
    history: dict[str, list[dict]]
    cut: float

    def predict(self, slices: Slices) -> Any:
        """Predict probabilities (N, 1, H, W) for slices on the grid of this stage."""
        return predicted(self.vae, self.mask, slices)

    def place(self, scan: np.ndarray, spacing: Sequence[float]) -> Any:
        """Make the fine window around what this stage, a coarse one, finds in a scan."""
        return find(self.predict, scan, spacing, self.cut)[0]


def stage(
    scans: Slices, train: Slices, val: Slices, states: Sequence[Path | None] = (None, None), *, latent: int = 8,
    beta: float = 1e-3, epochs: int = 25, **how: Any,
) -> Stage:  # fmt: skip
    """Train one stage: its VAE on scans, with labels or without, and its mask decoder on training patients.

    `beta` is the weight at the side of the coarse grid; a larger one has it as much heavier as it has more pixels.
    `how` goes to `fit`.
    """
    beta, grid = beta * (val.size / COARSE["side"]) ** 2, val.size // PLACE
    vae, h = train_vae(scans, val, latent=latent, beta=beta, grid=grid, epochs=epochs, state=states[0], **how)
    mask, h_mask = train_mask(vae, train, val, state=states[1], **recipe("copies", "mask_epochs"), **how)
    made = Stage(vae, mask, {"vae": h, "mask": h_mask}, 0.5)
    return made._replace(cut=choose(made.predict(val), val))


def train_coarse(lab: Cohort, states: States, **how: Any) -> tuple[Stage, Windows]:
    """Train the coarse stage, and find the fine windows of training, validation and unlabelled patients.

    `states` is by the names of `STAGES`; `how` goes to `stage`.
    """
    names, others = lab.parts["train"], lab.parts["val"] + lab.parts.get("unlabelled", [])
    where = windows(lab.shards, names + others, whole)
    on = lambda some: slices_of(lab.shards, {name: where[name] for name in some})  # noqa: E731
    halves, val, found = (names[::2], names[1::2]), on(lab.parts["val"]), Windows()
    for k, half in enumerate(halves):
        others_half = on(halves[1 - k])
        blind = stage(others_half, others_half, val, states.get(STAGES[k], (None, None)), **how)
        found |= windows(lab.shards, half, blind.place)
    scans = on([*names, *lab.parts.get("unlabelled", [])])
    coarse = stage(scans, on(names), val, states.get("coarse", (None, None)), **how)
    return coarse, found | windows(lab.shards, others, coarse.place)


def train_stages(lab: Cohort, states: States, **how: Any) -> tuple[Stage, Stage]:
    """Train both stages of a cohort; see `train_coarse`."""
    coarse, found = train_coarse(lab, states, **how)
    on = lambda *parts: slices_of(  # noqa: E731
        lab.shards, {name: found[name] for part in parts for name in lab.parts.get(part, [])}
    )
    fine = stage(on("train", "unlabelled"), on("train"), on("val"), states.get("fine", (None, None)), **how)
    return coarse, fine


def stages_of(networks: dict[str, nn.Module], cut: float) -> tuple[Stage, Stage]:
    """Put the networks of a checkpoint together again; `cut` is the threshold of the coarse stage."""
    coarse, fine = ([networks[f"{stage} {part}"] for part in ("vae", "mask")] for stage in USED)
    return Stage(*coarse, {}, cut), Stage(*fine, {}, 0.5)  # type: ignore[call-arg]


def predict(coarse: Stage, fine: Any, scan: np.ndarray, spacing: Sequence[float]) -> Outlined:
    """Predict the organ in a scan (S, H, W), windowed and in canonical order, on its own voxels (dz, dy, dx) in mm.

    `fine` is a `Stage`, or any method of `vaelib.rivals` that has learned on the windows of the coarse one.
    """
    return outline(coarse.predict, fine.predict, coarse.cut, scan, spacing)


def tell(coarse: Stage, scan: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Tell a scan by the latents of its coarse slices: (S, D); see `vaelib.cohorts.typical`."""
    return told(coarse.vae, on_window(scan, spacing, whole(scan, spacing)))
