"""One process or many: which of them this is, how they share the work, and what only the first of them does.

`torchrun`, or SLURM's `srun`, starts as many processes as wanted, on one node or several, each of which runs the same
program and is told its number by the environment. Lightning Fabric joins them; where nothing is told, there is one.
"""

import os
import re
from contextlib import contextmanager
from functools import cache

LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))  # torchrun's; srun's
ON_A_NODE = ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE")  # of which SLURM's may read "4(x2)"


def world() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are, as the launcher says."""
    for rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return world()[0] == 0


@cache
def fabric(accelerator: str = "auto", precision: str = "32-true"):
    """Lightning Fabric over all processes that the launcher has started; alone, over one device.

    cuDNN is held to algorithms that give the same bits every time: on an H100 that costs a quarter of the speed of the
    plain network at 512 x 512, and a hundredth of the others'.

    Parameters
    ----------
    accelerator, precision : str
        As Fabric names them: "auto", "cpu", "cuda", "mps"; "32-true", "bf16-mixed", "16-mixed".
    """
    import torch
    from lightning_fabric import Fabric  # takes a second to import
    from lightning_fabric.plugins.environments import LightningEnvironment

    torch.backends.cudnn.deterministic = True

    size = world()[1]
    if size == 1:  # said so plainly, since in a batch job of SLURM Fabric would look for the others
        return Fabric(accelerator=accelerator, devices=1, precision=precision, plugins=LightningEnvironment())
    told = next((os.environ[name] for name in ON_A_NODE if name in os.environ), str(size))
    near = int(re.match(r"\d+", told)[0])
    joined = Fabric(accelerator=accelerator, devices=near, num_nodes=size // near, strategy="ddp", precision=precision)
    joined.launch()
    return joined


@contextmanager
def first_goes_ahead(accelerator: str = "auto"):
    """What stands inside is done by the first process, and then by the others, which find it done.

    If the first one fails, the others are not left waiting: the launcher stops them.
    """
    joined = fabric(accelerator) if world()[1] > 1 else None
    if joined and not is_first():
        joined.barrier()
    yield
    if joined and is_first():
        joined.barrier()


def shuffled(n: int, seed: int, epoch: int):
    """The order of an epoch, (n,), the same for all processes; after it, each draws random numbers of its own."""
    import torch  # not above: the rooms that have no network in them do without

    torch.manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(n)
    if rank := world()[0]:
        torch.manual_seed((seed * 1_000_003 + epoch) + (rank << 40))
    return order


def parts(rows, at_once: int) -> list[tuple]:
    """The rows (n,) of a batch that fall to this process, in parts, each with its weight in the mean over the batch.

    A row belongs to one process. The weights make up for processes being averaged: one has rows / batch, times their
    number. Where a batch has fewer rows than there are processes, one left over takes a row that weighs nothing, since
    all have to be there when gradients are averaged.
    """
    rank, size = world()
    mine = rows[rank::size]
    if not len(mine):
        return [(rows[:1], 0.0)]
    return [(part, len(part) * size / len(rows)) for part in mine.split(at_once)]


def total(joined, sums: dict[str, float]) -> dict[str, float]:
    """Add up named numbers over all processes that a `fabric` joins; each gets the same sums."""
    if joined.world_size == 1:
        return sums
    import torch

    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=joined.device)
    return dict(zip(sums, joined.all_reduce(values, reduce_op="sum").tolist(), strict=True))
