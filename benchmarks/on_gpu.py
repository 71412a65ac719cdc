"""A training step on a GPU, measured: what `benchmarks.cost` supposes of one, held against one.

    python -m benchmarks.on_gpu      where torch has a GPU; writes benchmarks/gpu.json

The networks are those of the table in data/README.md, and the small one of the lessons. Reading is left out: the same
images are used again, and lie on the GPU.
"""

import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from vaelib.engine import parallel
from vaelib.engine.files import write_file
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE
from vaelib.training import mask_step, vae_step
from vaelib.vae import VAE, MaskDecoder

CELLS = {  # name: what builds the two networks, side, images a step
    "plain, 16 channels": (partial(VAE, 512, 16, 64), MaskDecoder, 512, 64),
    "residual, 16 channels": (partial(ResidualVAE, 512, 16, 16, 8), ResidualMaskDecoder, 512, 32),
    "the lessons' own": (partial(VAE, 64, latent=64), MaskDecoder, 64, 1024),
}
PRECISIONS = "32-true", "bf16-mixed"


def rate(fabric, model, step, batch, times: int = 20) -> float:
    """Images a second of a training step: the median of `times`, each waited for."""
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters()))

    def once() -> float:
        begin = time.perf_counter()
        fabric.backward(step(model, batch, 0.5)["total"])
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    for _ in range(5):
        once()
    return len(batch[0]) / statistics.median(once() for _ in range(times))


def measured(name: str, precision: str) -> dict[str, float]:
    """Images a second of the VAE and of its mask decoder, and the GPU's memory in MB at most."""
    build, decoder, side, images = CELLS[name]
    fabric = parallel.make_fabric("cuda", precision)
    torch.backends.cudnn.deterministic = True  # as in training
    torch.cuda.reset_peak_memory_stats()
    x = torch.rand(images, 1, side, side, device=fabric.device)
    vae = build().to(memory_format=torch.channels_last)
    out = {"vae": rate(fabric, vae, vae_step(0.01), [x])}
    with torch.no_grad():
        z = vae.encoder(x)[0]
    mask = decoder(**{k: v for k, v in vae.config.items() if k != "upsample"}, prevalence=0.01)
    out["mask"] = rate(fabric, mask.to(memory_format=torch.channels_last), mask_step, [z, (x > 0.9).float()])
    return out | {"MB": torch.cuda.max_memory_allocated() / 1e6}


if __name__ == "__main__":
    rows = {name: {precision: measured(name, precision) for precision in PRECISIONS} for name in CELLS}
    found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
    write_file(Path(__file__).with_name("gpu.json"), json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
