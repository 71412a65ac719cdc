"""How cost grows: time and memory of a step, and Dice, with the side of the image; preparing, with the patients.

    python -m benchmarks.growth

Measures steps of training at five sides, trains the one cell that the table of sizes does not have (32 x 32), and
writes `benchmarks/growth.json` and the figure `benchmarks/growth.png`. The Dice of the other sides come from
`results/sizes.json`, the times to prepare from `benchmarks/prepare.json`. Times are a processor's, on one thread.
"""

import json
import os
import resource
import statistics
import time
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from benchmarks.growth_chart import growth
from studies import read, sizes
from vaelib import metrics, pictures, recipes
from vaelib.cohort import Cohort, open_cohort
from vaelib.engine.files import json_ready, write_file
from vaelib.engine.memory import step_bytes
from vaelib.levels import FULL
from vaelib.rivals import parameters
from vaelib.spatial import ResidualVAE
from vaelib.training import mask_step, vae_step
from vaelib.vae import VAE

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
SIDES = (32, 64, 128, 256, 512)
IMAGES = 8  # in a step, at every side: as many as the table of sizes has at 512
KINDS = ("plain", "plain, 16 channels", "residual", "residual, 16 channels")
# glibc gives large blocks back to the system when they are freed, and has new ones cleared; not with these settings
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
STEP = vae_step(sizes.BETA)


def build(kind: str, side: int) -> VAE:
    """The networks of the table of sizes, which are narrow at large sides; or with 16 channels in the first layer."""
    if kind == "plain, 16 channels":
        return VAE(side, 16, 64)
    if kind == "residual, 16 channels":
        return ResidualVAE(side, 16, 16, sizes.GRID)
    return sizes.build("plain", side, 64) if kind == "plain" else sizes.build("spatial", side, 1024)


def counted(kind: str, side: int) -> dict:
    """What needs no clock: millions of operations that an image adds to a step, and the memory that a step takes."""
    with torch.device("meta"):  # shapes without numbers
        vae = build(kind, side).train()
        mask = sizes.mask_decoder_of(vae)
        few, more = (torch.empty(n, 1, side, side) for n in (IMAGES, 2 * IMAGES))
    with FlopCounterMode(display=False) as all_of_it:
        STEP(vae, [few], 0.5)["total"].backward()
    with FlopCounterMode(display=False) as of_the_mask:
        with torch.no_grad():
            z = vae.encoder(few)[0]
        mask_step(mask, [z, few], 0.5)["total"].backward()
    bytes_of = [step_bytes(vae, STEP, [x]) for x in (few, more)]
    return {
        "parameters": parameters({"vae": vae}),
        "MFLOP": all_of_it.get_total_flops() / IMAGES / 1e6,
        "MFLOP of the mask decoder": of_the_mask.get_total_flops() / IMAGES / 1e6,
        "MB": bytes_of[0] / 1e6,
        "MB of an image": (bytes_of[1] - bytes_of[0]) / IMAGES / 1e6,
    }


def timed(kind: str, times: int) -> dict:
    """By side, a step of one image and of `IMAGES`: milliseconds (median), the system's share of them, page faults."""
    torch.set_num_threads(1)
    return {str(side): [_timed(kind, side, images, times) for images in (1, IMAGES)] for side in SIDES}


def _timed(kind: str, side: int, images: int, times: int) -> dict:
    vae = build(kind, side).to(memory_format=torch.channels_last).train()
    optimizer, x = torch.optim.Adam(vae.parameters()), torch.rand(images, 1, side, side)

    def step() -> list[float]:
        before = resource.getrusage(resource.RUSAGE_SELF)
        optimizer.zero_grad()
        STEP(vae, [x], 0.5)["total"].backward()
        optimizer.step()
        after = resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        return [1000 * (user + system), 1000 * system, after.ru_minflt - before.ru_minflt]

    warm_up = step()
    found = [step() for _ in range(times if warm_up[0] < 1000 else min(times, 3))]
    ms, system, faults = zip(*found, strict=True)
    return {"ms": statistics.median(ms), "system": sum(system) / sum(ms), "faults": statistics.median(faults)}


@torch.no_grad()
def layers() -> list[dict]:
    """Layers alone: the transposed convolutions of the plain network, from 8 x 8 to 16 x 16 and so on to 512 x 512.

    Each has half as many channels as the one before, 4 in the last, and as many operations; then comes the last with 2,
    8 and 16 channels.
    """
    torch.set_num_threads(1)
    out = []
    for side, channels in [(2**k, 1024 >> k) for k in range(3, 9)] + [(256, 2), (256, 8), (256, 16)]:
        x = torch.rand(IMAGES, channels, side, side).to(memory_format=torch.channels_last)
        layer = torch.nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1).to(memory_format=torch.channels_last)
        ms, mflop = 1000 * _median(partial(layer, x)), IMAGES * side**2 * channels**2 * 16 / 1e6
        out.append({"from": side, "channels": channels, "ms": ms, "GFLOP/s": mflop / ms})
    return out


def elu() -> dict[str, float]:
    """GB/s, read and written, of an ELU that makes a tensor of so many MB: work that goes by the memory alone."""
    torch.set_num_threads(1)
    out = {}
    for mb in (1, 4, 16, 32, 64, 128):
        x = torch.rand(mb * 250_000)
        out[str(mb)] = 2 * mb / 1e3 / _median(partial(torch.nn.functional.elu, x), 25)
    return out


def _median(work, times: int = 7) -> float:
    found = []
    for _ in range(times + 1):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return statistics.median(found[1:])


def memory_kept():
    """Processes that begin within this context keep the memory that they have once had."""
    return mock.patch.dict(os.environ, KEPT)


def steps() -> dict:
    """By side and kind, everything of a step."""
    out = {str(side): {} for side in SIDES}
    for kind in KINDS:
        found = timing.in_a_fresh_process(timed, kind, 5)
        with memory_kept():
            kept = timing.in_a_fresh_process(timed, kind, 2)
        for side in out:
            row = out[side][kind] = counted(kind, int(side)) | found[side][1]
            one = found[side][0]["ms"]
            row["ms without images"] = (IMAGES * one - row["ms"]) / (IMAGES - 1)  # on the line through 1 and `IMAGES`
            row["ms, memory kept"] = kept[side][1]["ms"]
            row["GFLOP/s"] = IMAGES * row["MFLOP"] / row["ms"]
    return out


def dices() -> dict:
    """By side, the Dice at full size that equal CPU time buys the plain cascade, and what the downscaling allows."""
    cells = read("sizes")["cells"]
    lab = open_cohort()
    out = {}
    for side in SIDES:
        level = side.bit_length() - 1
        if str(side) in cells:
            found = cells[str(side)]["plain"]["64"]
        else:
            found = sizes.cell((level, "plain", 64), lab, sizes.MINUTES)
        trained = {k: v for k, v in found["dice"][str(2**FULL)].items() if k != "values"}
        out[str(side)] = {
            "plain": trained | {"passes": found["passes"]["VAE"]},
            "ceiling": ceiling(lab.at(level)),
        }
    return out


def ceiling(lab: Cohort) -> dict:
    """The Dice of the true occupancy put back at full size, with the threshold that is best on validation patients."""
    if lab.level == FULL:
        return dict.fromkeys(("mean", "low", "high"), 1.0)
    val, test = lab.val, lab.test
    thresholds = metrics.best_thresholds(lab.shards, recipes.by_patient(val.masks, val.patient), lab.level)
    values = sizes.dices(lab.shards, test.masks, test.patient, lab.level, thresholds)[str(2**FULL)]
    return metrics.bootstrap(values)._asdict()


def main():
    """Measure, write, draw."""
    out = {"machine": timing.machine(), "torch": torch.__version__, "images": IMAGES, "steps": steps()}
    out["layers"] = timing.in_a_fresh_process(layers)
    out["ELU, GB/s"] = {"as it is": timing.in_a_fresh_process(elu)}
    with memory_kept():
        out["ELU, GB/s"]["memory kept"] = timing.in_a_fresh_process(elu)
    out["minutes"], out["dice"] = sizes.MINUTES, dices()
    write_file(HERE / "growth.json", json.dumps(json_ready(out), indent=1) + "\n")
    draw()


def draw() -> None:
    """Draw what has been measured."""
    found, prepared = (json.loads((HERE / f"{name}.json").read_text()) for name in ("growth", "prepare"))
    fastest = max(layer["GFLOP/s"] for layer in found["layers"])
    write_file(HERE / "growth.png", pictures.png(growth(found | prepared | {"limit": fastest})))


if __name__ == "__main__":
    main()
