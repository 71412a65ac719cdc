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
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA

from studies import cell
from vaelib import metrics, recipes
from vaelib.cohort import Cohort, Slices
from vaelib.engine.rows import Rows, chunks, mean
from vaelib.engine.shards import meta_of
from vaelib.latent import decode, encode
from vaelib.rivals import ARMS, Arm, Method
from vaelib.vae import VAE, MaskDecoder

Code = Callable[[Any], np.ndarray]  # from images (N, 1, H, W), array or tensor, to (N, latent)


def from_code(make: Callable[[Cohort, int, dict], Code], lab: Cohort, seed: int, recipe: dict) -> dict[str, Any]:
    """Make a code of the picture, scale each of its numbers to variance 1 over the training slices, and have it read.

    So no code suffers from its scale. The mask decoder has as many passes as that of this series.
    """
    code, train = make(lab, seed, recipe), lab.train
    whole = len(train.images) if train.in_memory else 256
    first = np.concatenate([code(x) for x in chunks(train.images, whole)])
    centre, spread = first.mean(0), first.std(0) + 1e-6
    scaled = lambda x: ((code(x) - centre) / spread).astype(np.float32)  # noqa: E731
    torch.manual_seed(seed)
    mask = MaskDecoder(train.size, latent=first.shape[1], prevalence=mean(train.masks))
    recipes.train_on_codes(mask, scaled, train, seed=seed, **recipes.recipe("copies", "mask_epochs", of=recipe))
    return {"code": scaled, "mask": mask}


def components(lab: Cohort, seed: int, recipe: dict) -> Code:
    """Fit principal components to the pictures; where these are not in memory, to 2,048 of them, evenly spaced."""
    images = lab.train.images[:: 1 if lab.train.in_memory else -(-len(lab.train.images) // 2048)]
    fitted = PCA(recipe["latent"], svd_solver="randomized", random_state=seed).fit(images.reshape(len(images), -1))
    return lambda x: fitted.transform(torch.as_tensor(x).cpu().numpy().reshape(len(x), -1))


def random_encoder(lab: Cohort, seed: int, recipe: dict) -> Code:
    """Draw the weights of an encoder, and leave them as they are."""
    torch.manual_seed(seed)
    vae = VAE(lab.train.size, latent=recipe["latent"])
    return lambda x: encode(vae, x)[0]


def autoencoder(lab: Cohort, seed: int, recipe: dict) -> Code:
    """Train an autoencoder: the VAE of this series without its prior."""
    how = recipes.recipe("latent", "epochs", of=recipe)
    vae, _ = recipes.train_vae(lab.train, lab.val, beta=0.0, seed=seed, **how)
    return lambda x: encode(vae, x)[0]


class Coded(Method):
    """A mask decoder that reads any code of the picture."""

    def predict(self, slices: Slices) -> np.ndarray | Rows:
        """Predict probabilities (N, 1, H, W), as every `Method`."""
        code = self.meta["code"]  # from images to (N, latent)
        return slices.computed(lambda rows: decode(self.networks["mask"], code(slices.images[rows])))


CODES: dict[str, Arm] = {
    "PCA, 64 components": Arm(partial(from_code, components), Coded, recipes.RECIPE),
    "random encoder": Arm(partial(from_code, random_encoder), Coded, recipes.RECIPE),
    "autoencoder, detached": Arm(partial(from_code, autoencoder), Coded, recipes.RECIPE),
}
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
