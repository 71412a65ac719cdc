"""Training: images a second, by us and by others, in turn; how near that is to the bare step; memory; time to a mask.

    python -m benchmarks.training

Random pictures for the rates, which do not depend on what is in them; the synthetic cohort for the time to a mask.
Starting up is left out of the rates: the clock runs from the beginning of the second pass.
"""

import json
import logging
import os
import shutil
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import peers, timing
from vaelib import latent, metrics, recipes, training
from vaelib.cohort import open_cohort
from vaelib.losses import mask_loss, vae_loss
from vaelib.vae import VAE, MaskDecoder

ROOT = Path(__file__).resolve().parents[1]
ROOM = ROOT / "build" / "bench" / "training"
COUNT, PASSES, BETA = 1024, 3, 0.01
PLAIN, PYTHAE, MONAI, BARE = "plain loop", "pythae", "MONAI", "the bare step"
GOALS = {PLAIN: 1.5, PYTHAE: 1.3, BARE: 0.9}
SHARE, PLAIN_PASSES = 0.95, 57  # of the plain loop's last Dice; as many passes as our recipe has (25 + 8 * 4)
CUTS = np.array((0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
SHORT = dict(epochs=8, copies=4)  # our schedule for a mask that is soon there


class Pair(nn.Module):
    """Our VAE and its mask decoder, in one pass: what each says of a batch, and the batch."""

    def __init__(self):
        super().__init__()
        self.vae, self.mask = VAE(), MaskDecoder()

    def forward(self, x):
        """(N, 1, 64, 64) to what both say of it."""
        out = self.vae(x)
        return out, self.mask(out.z), x


def pair_loss(said, masks):
    """The loss of both: since the mask decoder reads a detached latent, one backward pass serves them."""
    out, logits, x = said
    return vae_loss(out, x, BETA).total + mask_loss(logits, masks)


def pair_step(model, batch, progress):
    """The same as a step of `training.fit`."""
    return {"total": pair_loss(model(batch[0]), batch[1])}


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Images and masks (N, 1, 64, 64) of chance."""
    rng = np.random.default_rng(0)
    images = rng.random((COUNT, 1, 64, 64), np.float32)
    return images, (rng.random(images.shape) > 0.97).astype(np.float32)


def rate(train, calls: list[float], count: int = COUNT) -> float:
    """Images a second after the first pass; `calls` are the times at which each batch, or part of one, began."""
    train()
    return (PASSES - 1) * count / (time.perf_counter() - calls[len(calls) // PASSES])


def watched(net: nn.Module) -> list[float]:
    """The times at which a network is called."""
    calls = []
    net.register_forward_pre_hook(lambda *_: calls.append(time.perf_counter()))
    return calls


def fitted(net: nn.Module, step, data, batch: int, **options) -> float:
    """Images a second of `training.fit`."""
    calls = []

    def noted(*given):
        calls.append(time.perf_counter())
        return step(*given)

    tensors = [torch.from_numpy(a) for a in data]
    fit = partial(training.fit, net, noted, tensors, epochs=PASSES, batch_size=batch, **options)
    return rate(fit, calls, len(tensors[0]))


def ours(images, masks, batch, **options):
    """`training.fit` of the pair."""
    return fitted(Pair(), pair_step, [images, masks], batch, **options)


def our_vae(images, batch):
    """`training.fit` of the VAE alone."""
    return fitted(VAE(), training.vae_step(BETA), [images], batch)


def plain(images, masks, batch):
    """The plain loop, whose worker processes share the machine's cores with it."""
    ends = []
    peers.plain_loop(images, masks, epochs=PASSES, batch_size=batch, after=lambda *_: ends.append(time.perf_counter()))
    return (PASSES - 1) * COUNT / (ends[-1] - ends[0])


def monai(images, masks, batch):
    """MONAI's trainer, given our modules."""
    pair = Pair()
    train = partial(peers.monai_trainer, pair, pair_loss, images, masks, epochs=PASSES, batch_size=batch)
    return rate(train, watched(pair.vae.encoder))


def pythae(images, batch):
    """Pythae's trainer, given our encoder and decoder."""
    vae = VAE()
    train = partial(peers.pythae_trainer, vae, images, epochs=PASSES, batch_size=batch, folder=ROOM / "pythae")
    return rate(train, watched(vae.encoder))


def bare(images, masks, batch, make=Pair, seconds=3.0):
    """The step and nothing else, on one batch that lies in memory, channels last: what `fit` cannot exceed.

    Nothing is read, shuffled, scheduled, checked or kept. A batch of more than 128 is taken whole.
    """
    net = make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=peers.LR)
    x, y = torch.from_numpy(images[:batch]), torch.from_numpy(masks[:batch])

    def step():
        loss = pair_loss(net(x), y) if make is Pair else vae_loss(net(x), x, BETA).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        done += batch
    return done / (time.perf_counter() - begin)


def rates() -> dict[str, dict]:
    """Images a second, for the pair and for the VAE alone, in batches of 128 and 1024; and two options of ours."""
    (images, masks), out = pictures(), {}
    ours(images[:256], masks[:256], 128)  # warms up
    for batch in (128, 1024):
        pair = {"ours": ours, PLAIN: plain, MONAI: monai, BARE: bare}
        found = timing.in_turn({name: partial(way, images, masks, batch) for name, way in pair.items()})
        what = f"training the VAE and its mask decoder, 64 x 64, batches of {batch}"
        out[f"training/pair, {batch}"] = timing.row(what, "images/s", found, GOALS)
        alone = {"ours": partial(our_vae, images, batch), PYTHAE: partial(pythae, images, batch),
                 BARE: partial(bare, images, masks, batch, VAE)}  # fmt: skip
        what = f"training the VAE alone, 64 x 64, batches of {batch}"
        out[f"training/VAE, {batch}"] = timing.row(what, "images/s", timing.in_turn(alone), GOALS)
    options = {"in bfloat16": dict(precision="bf16-mixed"), "compiled": dict(compiled=True)}
    ways = {"ours": {}} | options
    few = images[:256], masks[:256]  # bfloat16 is slow on a processor that has no instructions for it
    found = timing.in_turn({n: partial(ours, *few, 128, **o) for n, o in ways.items()}, times=3)
    what = "`fit` as it is, beside two of its options (after compiling), batches of 128"
    out["training/options"] = timing.row(what, "images/s", found)
    return out


def peak_of(name: str, batch: int) -> float:
    """Peak MB of a process that trains the pair in one way."""
    images, masks = pictures()
    logging.disable(logging.WARNING)
    {"ours": ours, PLAIN: plain, MONAI: monai}[name](images, masks, batch)
    return timing.peak() / 1e6


def memory() -> dict[str, dict]:
    """Peak memory of training the pair, each in a process of its own; of the plain loop without its workers."""
    out = {}
    for batch in (128, 1024):
        found = {n: [timing.in_a_fresh_process(peak_of, n, batch)] for n in ("ours", PLAIN, MONAI)}
        what = f"peak memory of training the pair, batches of {batch}, worker processes not counted"
        out[f"training/memory, {batch}"] = timing.row(what, "MB", found)
    return out


# --- until a mask is there --------------------------------------------------------------------------------


def dice_of(probability: np.ndarray, val) -> float:
    """Mean 3D Dice over the validation patients, at the best of six thresholds."""
    found = metrics.sweep(probability, val.masks[:, 0] >= metrics.TRUTH, val.patient, CUTS)
    return float(found.mean(0).max())


class Watch:
    """Seconds of training and the Dice then; the clock stands still while Dice is measured."""

    def __init__(self, val):
        self.val, self.curve, self.spent, self.begin = val, [], 0.0, time.perf_counter()

    def look(self, probability):
        """Take down the time and the Dice of what `probability` gives, (N, H, W)."""
        self.spent += time.perf_counter() - self.begin
        self.curve.append((self.spent, dice_of(probability(), self.val)))
        self.begin = time.perf_counter()

    def until(self, dice: float) -> float:
        """Seconds until a Dice was reached; infinite where it never was."""
        return next((seconds for seconds, found in self.curve if found >= dice), float("inf"))


def plain_curve(train, val, seed: int) -> Watch:
    """The plain loop, looked at after each pass."""
    torch.manual_seed(seed)
    watch, x = Watch(val), torch.from_numpy(val.images)

    @torch.no_grad()
    def after(epoch, vae, mask):
        watch.look(lambda: mask(vae.mu(vae.encoder(x))).numpy()[:, 0])

    peers.plain_loop(train.images, train.masks, epochs=PLAIN_PASSES, batch_size=128, after=after)
    return watch


def our_curve(train, val, seed: int, epochs: int, copies: int) -> Watch:
    """A VAE, its latents, and a mask decoder trained on them, looked at every 25 steps."""
    watch, steps = Watch(val), []
    vae, _ = recipes.train_vae(train, val, epochs=epochs, seed=seed)
    mask = MaskDecoder(**vae.config, prevalence=recipes.mean(train.masks))
    z = latent.encode(vae, val.images)[0]

    def look(*batch):
        if len(steps) % 25 == 0:
            watch.look(lambda: latent.decode(mask, z)[:, 0])
            mask.train()
        steps.append(len(steps))
        return batch

    how = dict(copies=copies, mask_epochs=recipes.RECIPE["mask_epochs"], seed=seed, augmentation=look)
    recipes.train_on_codes(mask, lambda x: latent.encode(vae, x)[0], train, **how)
    watch.look(lambda: latent.decode(mask, z)[:, 0])
    return watch


def until_there(times: int = 3) -> dict[str, dict]:
    """Seconds until the held-out Dice is 95% of what the plain loop ends with, with as many seeds."""
    lab = open_cohort(ROOT / "data" / "synthetic")
    train, val = lab.train, lab.val
    found, last, goal = {"ours": [], PLAIN: []}, {"ours": [], PLAIN: []}, []
    for seed in range(times):
        curves = {"ours": our_curve(train, val, seed, **SHORT), PLAIN: plain_curve(train, val, seed)}
        for name, curve in curves.items():
            last[name].append(float(np.mean([dice for _, dice in curve.curve[-5:]])))
        goal.append(SHARE * last[PLAIN][-1])
        for name, curve in curves.items():
            found[name].append(curve.until(goal[-1]))
    what = f"until the held-out Dice of the mask is {SHARE:.0%} of what the plain loop has after {PLAIN_PASSES} passes"
    row = timing.row(what, "s", found, {PLAIN: 3.0})
    lesson = our_curve(train, val, 0, **recipes.recipe("epochs", "copies"))
    facts = {"dice at the end": {name: float(np.mean(values)) for name, values in last.items()}, "goal": goal,
             "recipe of the lessons": {"s": lesson.until(goal[0]), "dice at the end": lesson.curve[-1][1]}}  # fmt: skip
    return {"training/time to a mask": row | facts}


def rows() -> dict[str, dict]:
    """Every row of this module."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # pythae and MONAI tell of every pass
    os.environ["TQDM_DISABLE"] = "1"
    try:
        held = memory()  # first, while this process is small: a new one inherits the peak of the one it came from
        return rates() | held | until_there()
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
