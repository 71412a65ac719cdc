"""Where is accuracy lost? The control ladder of notebook 05.

Each arm gives the same mask decoder, with the same number of passes, another latent of the same length:

==========================  =============================================================================
PCA                         64 principal components: what a linear code of the picture knows
random encoder              the untrained encoder: what the architecture alone knows
autoencoder, detached       the encoder of an autoencoder (`beta` 0): no prior
VAE, detached               the method of this series
supervised bottleneck       encoder and decoder trained together on the labels: no unsupervised objective
==========================  =============================================================================

Two things differ besides. The code of the VAE is taken as it is, since its prior has given it a scale; the first
three are scaled to variance 1. And the supervised bottleneck learns at half the peak rate of the others.
"""

import platform
import time

import torch

from studies import cell
from vaelib import metrics, recipes
from vaelib.cohort import Cohort
from vaelib.engine.shards import meta_of
from vaelib.rivals import ARMS, CODES

RUNGS = (*CODES, recipes.DETACHED, "supervised bottleneck")


def run(lab: Cohort, seed: int = 0) -> dict:
    """Train every rung anew, and score it beside the baselines on the test patients."""
    began = time.perf_counter()
    methods = recipes.baselines(lab.shards, lab.train, lab.val, lab.test, lab.level)
    for name in RUNGS:
        arm = (CODES | ARMS)[name]
        method = arm.method(arm.fit(lab, seed))
        on_val = recipes.by_patient(method.predict(lab.val), lab.val.patient)
        methods[name] = method.predict(lab.test), metrics.best_thresholds(lab.shards, on_val, lab.level)
    return {
        "cohort": meta_of(lab.shards, lab.parts["test"][0])["layout"],
        "patients": {part: len(names) for part, names in lab.parts.items()}, "test": lab.parts["test"],
        "seed": seed, "recipe": recipes.RECIPE, "torch": torch.__version__, "python": platform.python_version(),
        "seconds": round(time.perf_counter() - began),
        "methods": recipes.scoreboard(lab.shards, methods, lab.test.patient, lab.level),
    }  # fmt: skip


def tables(record: dict) -> dict[str, str]:
    """Make the scoreboard of the README: means over test patients, with their 95% intervals."""
    lines = ["| method | Dice at 64 | Dice at 512 | IoU at 512 | HD95 at 512 (mm) |", "|---|---|---|---|---|"]
    for name, row in record["methods"].items():
        cells = [(row["64"]["dice"], ".2f"), (row["512"]["dice"], ".2f"), (row["512"]["iou"], ".2f")]
        texts = [cell(*pair) for pair in [*cells, (row["512"]["hd95"], ".0f")]]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return {"results": "\n".join(lines)}
