"""The control ladder of notebook 05: where is accuracy lost? Run ``make results``; it writes `results.json`.

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

import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA

from vaelib import metrics, recipes
from vaelib.cohort import load_slices
from vaelib.engine.files import write_file
from vaelib.engine.shards import meta_of
from vaelib.latent import copies_of, decode, encode
from vaelib.training import augment, fit, mask_step
from vaelib.vae import VAE, MaskDecoder, Supervised

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results.json"


def from_latent(latent_of, train, sets, seed=0) -> list[np.ndarray]:
    """Train the mask decoder on any latent, and return its probabilities for each of `sets`.

    `latent_of` maps images (N, 1, H, W) to (N, latent). Each unit is scaled to variance 1 over the training
    slices, so that no arm suffers from the scale of its code.
    """
    pairs = copies_of(train.images, train.masks, recipes.RECIPE["copies"], seed)
    first = latent_of(train.images)
    mean, deviation = first.mean(0), first.std(0) + 1e-6
    scaled = lambda images: torch.from_numpy(((latent_of(images) - mean) / deviation).astype(np.float32))  # noqa: E731
    torch.manual_seed(seed)
    decoder = MaskDecoder(train.images.shape[-1], latent=first.shape[1], prevalence=float(train.masks.mean()))
    z = torch.cat([scaled(a.numpy()) for a, _ in pairs])
    fit(decoder, mask_step, [z, torch.cat([b for _, b in pairs])], epochs=recipes.RECIPE["mask_epochs"], seed=seed)
    return [decode(decoder, scaled(s.images)) for s in sets]


def supervised(train, sets, seed=0) -> list[np.ndarray]:
    """Train the same bottleneck on the labels, for as many passes as the VAE and its decoder had together."""
    recipe = recipes.RECIPE
    torch.manual_seed(seed)
    net = Supervised(train.images.shape[-1], latent=recipe["latent"], prevalence=float(train.masks.mean()))
    data = [torch.from_numpy(train.images), torch.from_numpy(train.masks)]
    passes = recipe["epochs"] + recipe["copies"] * recipe["mask_epochs"]
    fit(net, mask_step, data, epochs=passes, lr=1e-3, seed=seed, augmentation=augment, label="supervised")
    return [decode(net.decoder, encode(net, s.images)[0]) for s in sets]


def rungs(train, val, test, seed=0) -> dict[str, list[np.ndarray]]:
    """Every arm's probabilities for the validation and the test slices."""
    sets, recipe = (val, test), recipes.RECIPE
    pca = PCA(recipe["latent"], svd_solver="randomized", random_state=seed).fit(
        train.images.reshape(len(train.images), -1)
    )
    torch.manual_seed(seed)
    untrained = VAE(train.images.shape[-1], latent=recipe["latent"])
    auto, _ = recipes.train_vae(train, val, beta=0.0, seed=seed, **recipes.recipe("latent", "epochs"))
    vae, _ = recipes.train_vae(train, val, seed=seed, **recipes.recipe("latent", "beta", "epochs"))
    mask, _ = recipes.train_mask(vae, train, val, seed=seed, **recipes.recipe("copies", "mask_epochs"))
    return {
        "PCA, 64 components": from_latent(lambda x: pca.transform(x.reshape(len(x), -1)), train, sets, seed),
        "random encoder": from_latent(lambda x: encode(untrained, x)[0], train, sets, seed),
        "autoencoder, detached": from_latent(lambda x: encode(auto, x)[0], train, sets, seed),
        recipes.DETACHED: [decode(mask, encode(vae, s.images)[0]) for s in sets],
        "supervised bottleneck": supervised(train, sets, seed),
    }


def results(level: int = 6, seed: int = 0, path: Path = RESULTS) -> dict:
    """Run the whole ladder on the cohort and write one file with every number that the prose may quote."""
    began = time.perf_counter()
    shards, parts = recipes.shards_and_split()
    train, val, test = (load_slices(shards, parts[name], level) for name in ("train", "val", "test"))
    methods = recipes.baselines(shards, train, val, test, level)
    for name, (on_val, on_test) in rungs(train, val, test, seed).items():
        on_val = recipes.by_patient(on_val, val.patient)
        methods[name] = on_test, metrics.best_thresholds(shards, on_val, level)
    board = {
        "cohort": meta_of(shards, parts["test"][0])["layout"],
        "patients": {k: len(v) for k, v in parts.items()}, "test": parts["test"],
        "seed": seed, "recipe": recipes.RECIPE, "torch": torch.__version__, "python": platform.python_version(),
        "seconds": round(time.perf_counter() - began),
        "methods": recipes.scoreboard(shards, methods, test.patient, level),
    }  # fmt: skip
    others = json.loads(path.read_text()) if path.exists() else {}  # the sections of `studies` stay
    write_file(path, json.dumps(others | recipes.json_ready(board), indent=1) + "\n")
    return board


def table(board: dict) -> str:
    """The scoreboard as a Markdown table: mean over test patients, with its 95% interval."""
    lines = ["| method | Dice at 64 | Dice at 512 | IoU at 512 | HD95 at 512 (mm) |", "|---|---|---|---|---|"]
    for name, row in board["methods"].items():
        cells = [(row["64"]["dice"], ".2f"), (row["512"]["dice"], ".2f"), (row["512"]["iou"], ".2f")]
        texts = [cell(*pair) for pair in [*cells, (row["512"]["hd95"], ".0f")]]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def cell(interval: dict, digits: str) -> str:
    """A mean with its interval, as a table has it: "0.58 (0.54 to 0.62)"."""
    if interval["mean"] is None or not np.isfinite(interval["mean"]):
        return "infinite"
    mean, low, high = (format(interval[k], digits) for k in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def into_readme(text: str, mark: str = "results", path: Path = ROOT / "README.md") -> None:
    """Put a table between its two marks in the README, so that no number there is typed."""
    before, rest = path.read_text().split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- end of {mark} -->")[1]
    write_file(path, f"{before}<!-- {mark} -->\n{text}\n<!-- end of {mark} -->{after}")


if __name__ == "__main__":
    made = results()
    into_readme(table(made))
    print(table(made))
