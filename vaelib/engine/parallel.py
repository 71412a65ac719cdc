"""One process or many: which of them this is, how they share the work, and what only the first of them does.

`torchrun`, or SLURM's `srun`, starts as many processes as wanted, on one node or several, each of which runs the same
program and is told its number by the environment. Lightning Fabric joins them; where nothing is told, there is one.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vaelib.engine.errors import InputError

if TYPE_CHECKING:  # modules that hold no network do without both
    from lightning_fabric import Fabric
    from torch import Tensor

LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))  # torchrun's; srun's
ON_A_NODE = ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE")  # of which SLURM's may read "4(x2)"


def world() -> tuple[int, int]:
    """Return the rank of this process, from 0, and how many processes there are, as the launcher says.

    Raises
    ------
    InputError
        What a launcher's variables say cannot be, or was left in the shell: torchrun marks what it starts.
    """
    for names in LAUNCHERS:
        said = [os.environ.get(name, "") for name in names]
        if not all(said) or said == ["0", "1"]:
            continue
        found = " and ".join(f"{name}={value!r:.20}" for name, value in zip(names, said, strict=True))
        if names[0] == "RANK" and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise InputError(f"{found} in the environment, but torchrun did not start this process; start it so, or "
                             "say `unset RANK WORLD_SIZE`")  # fmt: skip
        if names[0] != "RANK" and ON_A_NODE[1] not in os.environ:
            raise InputError(f"{found} in the environment, but srun did not start this process; start it so, or say "
                             "`unset SLURM_PROCID SLURM_STEP_NUM_TASKS`")  # fmt: skip
        if not all(value.isdecimal() for value in said) or int(said[0]) >= int(said[1]):
            raise InputError(f"{found} in the environment: no process has such a number; start it anew")
        return int(said[0]), int(said[1])
    return 0, 1


def is_first() -> bool:
    """Tell whether this process is the one that writes files and shows progress."""
    return world()[0] == 0


def make_fabric(accelerator: str = "auto", precision: str = "32-true") -> "Fabric":
    """Make a Lightning Fabric over all processes that the launcher started; alone, over one device.

    Each training run makes its own. The processes are connected by the first one and stay so.

    Parameters
    ----------
    accelerator, precision : str
        As Fabric names them: "auto", "cpu", "cuda", "mps"; "32-true", "bf16-mixed", "16-mixed".
    """
    from lightning_fabric import Fabric  # takes a second to import
    from lightning_fabric.plugins.environments import LightningEnvironment

    size = world()[1]
    if size == 1:  # said so plainly, since in a batch job of SLURM Fabric would look for the others
        return Fabric(accelerator=accelerator, devices=1, precision=precision, plugins=LightningEnvironment())
    told = next((os.environ[name] for name in ON_A_NODE if name in os.environ), str(size))
    near = int(re.findall(r"\d+", told)[0])
    fabric = Fabric(accelerator=accelerator, devices=near, num_nodes=size // near, strategy="ddp", precision=precision)
    fabric.launch()  # connects the processes, or finds them connected
    return fabric


@contextmanager
def first_process_first(accelerator: str = "auto") -> Iterator[None]:
    """Run the block in the first process, and then in the others, which find the work done.

    If the first one fails, the others are not left waiting: the launcher stops them.
    """
    fabric = make_fabric(accelerator) if world()[1] > 1 else None
    if fabric and not is_first():
        fabric.barrier()
    yield
    if fabric and is_first():
        fabric.barrier()


def shuffled(n: int, seed: int, epoch: int) -> "Tensor":
    """Draw the order of an epoch, (n,), the same in all processes; after it, each draws random numbers of its own."""
    import torch

    torch.manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(n)
    if rank := world()[0]:
        torch.manual_seed((seed * 1_000_003 + epoch) + (rank << 40))
    return order


def share_of_batch(rows: "Tensor", at_once: int) -> list[tuple["Tensor", float]]:
    """Take this process's rows of a batch (n,), in parts, each with its weight in the mean over the batch.

    A row belongs to one process. The weights make up for processes being averaged: one has rows / batch, times their
    number. Where a batch has fewer rows than there are processes, one left over takes a row that weighs nothing, since
    all have to be there when gradients are averaged.
    """
    rank, size = world()
    mine = rows[rank::size]
    if not len(mine):
        return [(rows[:1], 0.0)]
    return [(part, len(part) * size / len(rows)) for part in mine.split(at_once)]


def sum_over_processes(fabric: "Fabric", sums: dict[str, float]) -> dict[str, float]:
    """Add up named numbers over all processes of a `fabric`; each gets the same sums."""
    if fabric.world_size == 1:
        return sums
    import torch

    values = torch.tensor(list(sums.values()), dtype=torch.float64, device=fabric.device)
    return dict(zip(sums, fabric.all_reduce(values, reduce_op="sum").tolist(), strict=True))
