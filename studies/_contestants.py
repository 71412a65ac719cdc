"""The contestants of `vaelib.rivals`, trained once for all the studies that ask for them."""

import time
from pathlib import Path

from vaelib.cohort import Cohort
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept
from vaelib.metrics import choose
from vaelib.rivals import ARMS, Method


def checkpoint(name: str, seed: int, folder: Path | None = None) -> Path:
    """Say where a contestant is kept."""
    return (folder or models_folder() / "arms") / f"{name.replace(',', '').replace(' ', '_')}_{seed}.safetensors"


def contestant(name: str, lab: Cohort, seed: int, folder: Path | None = None) -> Method:
    """Load a contestant from its checkpoint if these slices and its recipe made it, or else train it and keep it.

    Returns
    -------
    Method
        Its weights as the file holds them, in half precision; ``meta`` has the ``threshold`` that is best on the
        validation patients, and the ``cpu seconds`` of its training.
    """
    arm = ARMS[name]

    def make() -> dict:
        began = time.process_time()
        made = arm.fit(lab, seed)
        seconds = time.process_time() - began
        return made | {"threshold": choose(arm.method(made).predict(lab.val), lab.val), "cpu seconds": seconds}

    made_by = {"arm": name, "seed": seed, "recipe": arm.recipe, "data": fingerprint(lab.train, lab.val)}
    return arm.method(kept(checkpoint(name, seed, folder), made_by, make, half=True))
