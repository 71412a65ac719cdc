"""Run by `torchrun` in test_parallel.py: a mask decoder is trained, and what came out is written by the first process.

python many.py OUT EPOCHS [BATCH OF DEATH]: in the process numbered 1, that many batches in, the machine fails.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from vaelib import training
from vaelib.engine import checkpoints, parallel
from vaelib.engine.rows import Rows
from vaelib.vae import MaskDecoder

torch.set_num_threads(1)
out, epochs, death = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None
generator = torch.Generator().manual_seed(0)
z = torch.randn(23, 4, generator=generator)  # no multiple of anything: batches of 5 leave one of 3, and of 1 for two
masks = (torch.rand(23, 1, 32, 32, generator=generator) > 0.8).float()
numbers, mine = torch.arange(23.0)[:, None], []
kept = []


def write(*args, write=checkpoints.write):
    """Count how often this process writes a state."""
    kept.append(str(args[0]))
    write(*args)


def step(model, batch, progress):
    """The usual step, which notes the rows that it saw."""
    if model.training:
        mine.extend(batch[2][:, 0].int().tolist())
        if death is not None and parallel.world()[0] == 1 and len(mine) > death:
            os.kill(os.getpid(), signal.SIGKILL)
    return training.mask_step(model, batch[:2], progress)


checkpoints.write = write
torch.manual_seed(parallel.world()[0])  # each process begins with other weights; those of the first count
net = MaskDecoder(32, channels=2, latent=4)
data = [z, Rows(23, lambda rows: masks.numpy()[rows]), numbers]
history = training.fit(net, step, data, val=[z[:7], masks[:7], numbers[:7]], epochs=epochs, batch_size=5, at_once=2,
                       state=out / "state.safetensors", accelerator="cpu")  # fmt: skip
rank = parallel.world()[0]
(out / f"seen{rank}.json").write_text(json.dumps({"rows": mine, "written": len(kept), "history": history}))
if parallel.is_first():
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, out / "net.safetensors")
