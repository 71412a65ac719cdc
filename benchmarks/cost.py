"""What all of Pancreas-CT would cost at full size on GPUs: a model, and beside it what `benchmarks.on_gpu` measured.

    python -m benchmarks.cost

Operations and memory of a step are counted (`growth.json`), reading is measured (`results.json`); of a GPU stand here
what its maker says and what share of that one may hope for. The longest of computing, moving activations and reading
counts, since they go on at the same time.
"""

import json
from pathlib import Path

from vaelib.recipes import RECIPE

ROOT = Path(__file__).resolve().parents[1]
SLICES = 18_942  # of Pancreas-CT, by the index of the Imaging Data Commons
PASSES = {"vae": RECIPE["epochs"], "mask": RECIPE["copies"] * RECIPE["mask_epochs"]}
PEAK = {"TFLOP/s": 495, "TB/s": 3.35}  # H100 SXM: TF32 without sparsity, and its memory; NVIDIA's data sheet
SHARE = {"TFLOP/s": 0.1, "TB/s": 0.5}  # assumed: small convolutions fill neither
TRAFFIC = 6  # an activation is written, read by the next layer and by the backward pass; its gradient likewise
READING = "loading/random 512, warm"
KINDS = ("plain, 16 channels", "residual, 16 channels")


def minutes(step: dict, rate: float, gpus: int) -> dict[str, float]:
    """Minutes of the recipe of the lessons over the whole cohort, by what would take them.

    Parameters
    ----------
    step : dict
        One network at one side, from `growth.json`.
    rate : float
        Slices a second that a process reads.
    gpus : int
        GPUs, and processes.
    """
    seen = {name: SLICES * passes for name, passes in PASSES.items()}
    operations = seen["vae"] * step["MFLOP"] + seen["mask"] * step["MFLOP of the mask decoder"]
    moved = sum(seen.values()) * TRAFFIC * step["MB of an image"]
    read = sum(seen.values()) / rate
    each = {"computing": operations / (PEAK["TFLOP/s"] * SHARE["TFLOP/s"] * 1e6),
            "moving activations": moved / (PEAK["TB/s"] * SHARE["TB/s"] * 1e6), "reading": read}  # fmt: skip
    return {name: seconds / gpus / 60 for name, seconds in each.items()}


def cpu_hours(step: dict, images: int) -> float:
    """Hours of one thread of the machine that `growth.json` was measured on, if the mask decoder goes as fast."""
    each = step["ms"] / images / 3.6e6  # hours for an image of the VAE
    share = step["MFLOP of the mask decoder"] / step["MFLOP"]
    return SLICES * each * (PASSES["vae"] + PASSES["mask"] * share)


def _measured(kind: str) -> float:
    """Minutes of the steps on one GPU, as `benchmarks.on_gpu` timed them; reading is not in it."""
    rate = json.loads((ROOT / "benchmarks" / "gpu.json").read_text())["rows"][kind]["32-true"]
    return sum(SLICES * passes / rate[name] for name, passes in PASSES.items()) / 60


def table() -> str:
    """Markdown: by network, hours on one thread, and minutes on one GPU and on eight with what limits them."""
    growth, results = (json.loads((ROOT / "benchmarks" / f"{n}.json").read_text()) for n in ("growth", "results"))
    rate = results["rows"][READING]["ours"]
    lines = [
        "| network at 512 x 512 | one thread here | one H100 | eight | one H100, measured |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        step, cells = growth["steps"]["512"][kind], []
        for gpus in (1, 8):
            parts = minutes(step, rate, gpus)
            slowest = max(parts, key=parts.get)
            cells.append(f"{parts[slowest]:.1f} min, {slowest}")
        cells.append(f"{_measured(kind):.1f} min")
        lines.append(f"| {kind} | {cpu_hours(step, growth['images']):.0f} h | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
