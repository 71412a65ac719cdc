"""A run of training: the device, the order of the data, what stops it, and what is kept of it.

`vaelib.training.fit` is the loop. What makes it safe are the verbs of a `Run`, called there where they happen.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from vaelib.engine import checkpoints, finite, memory, parallel
from vaelib.engine.errors import InputError, NotFinite
from vaelib.engine.options import BATCH, LR, Count, Precision, Rate, Seed, refuse
from vaelib.engine.records import leave
from vaelib.engine.rows import Rows
from vaelib.engine.workers import progress_bar

SMALLEST = 2.0**-14  # float16's smallest normal number: a loss that has to be scaled by less has nothing left to say
AT_ONCE = 128  # images that a CPU takes at once: more are no faster, and take memory
Data = Sequence[Tensor | np.ndarray | Rows]
Step = Callable[[nn.Module, Sequence[Tensor], float], dict]


@dataclass(frozen=True)
class Plan:
    """Settings of a training run.

    Attributes
    ----------
    epochs, batch_size, lr
        Length of training, images a step (in all processes together), and peak learning rate of Adam.
    patience : int, optional
        Stop after so many epochs without a better ``val/total``, and go back to the best weights.
    seed : int
        Each epoch draws from (seed, epoch) alone, so a resumed run repeats an undisturbed one bit for bit.
    accelerator, precision : str
        As Lightning Fabric names them: "auto", "cpu", "cuda", "mps"; "32-true", "bf16-mixed", "16-mixed".
    compiled : bool
        Try `torch.compile`; where it fails, the model runs as it is.
    at_once : int, optional
        Images that are gone through at once; the gradients of a larger batch are added up over its parts. By default
        128 on a CPU, and all of them on a GPU.
    """

    epochs: Count = 30
    batch_size: Count = BATCH
    lr: Rate = LR
    patience: int | None = None
    seed: Seed = 0
    accelerator: str = "auto"
    precision: Precision = "32-true"
    compiled: bool = False
    at_once: int | None = None

    def __post_init__(self) -> None:
        refuse(type(self).__annotations__, vars(self))


class Part(NamedTuple):
    """Images of a batch that go through the model at once, their rows in the data, and their weight in the batch."""

    tensors: list[Tensor]
    rows: Tensor
    weight: float
    images: int  # that are this process's own: a row that weighs nothing is another's


class Batch(NamedTuple):
    """The images of one step, in `n_parts` parts, and how far training has come (`progress`, from 0 to 1)."""

    name: str
    progress: float
    n_parts: int
    parts: Iterator[Part]


class Run(ExitStack):
    """A training run, in a ``with`` block; `vaelib.training.fit` documents its parameters and shows its verbs.

    Attributes
    ----------
    model, optimizer
        As Fabric wraps them: on their device, in the plan's precision, gradients averaged over all processes.
    history : list of dict
        The record of each epoch.
    """

    def __init__(
        self, model: nn.Module, data: Data, val: Data | None, plan: Plan, state: str | Path | None, label: str
    ):
        super().__init__()
        self.plan, self.state, self.label, self.unwrapped = plan, Path(state) if state else None, label, model
        self.fabric = parallel.make_fabric(plan.accelerator, plan.precision)
        if any(p.ndim == 4 for p in model.parameters()):
            # the same numbers in an order that CPUs go through up to 1.4 times faster
            model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=plan.lr)
        self.model, self.optimizer = self.fabric.setup(torch.compile(model) if plan.compiled else model, optimizer)
        self.scaler = getattr(self.fabric.strategy.precision, "scaler", None)  # of 16-mixed
        self.settings = {k: getattr(plan, k) for k in ("epochs", "batch_size", "lr", "seed", "patience")}
        self.settings |= {"n": len(data[0])} | ({} if plan.precision == "32-true" else {"precision": plan.precision})
        self.history, self.best = self._resume()
        self.at_once = plan.at_once or (AT_ONCE if self.fabric.device.type == "cpu" else plan.batch_size)
        self.data, self.val = self._at_hand(data), self._at_hand(val or ())

    def __enter__(self) -> Self:
        bar = progress_bar(total=self.plan.epochs, initial=len(self.history), desc=self.label, unit="epoch")
        self.bar = self.enter_context(bar)
        if self.plan.compiled:
            from torch._dynamo import config  # takes a second to import

            self.enter_context(config.patch(suppress_errors=True))
        # cuDNN is held to algorithms that give the same bits every time: on an H100 that costs a quarter of the speed
        # of the plain network at 512 x 512, and a hundredth of the others'
        self.callback(setattr, torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
        torch.backends.cudnn.deterministic = True
        return super().__enter__()

    def epochs(self) -> Iterator[int]:
        """Count the epochs that are still to come, until patience ends."""
        for epoch in range(len(self.history), self.plan.epochs):
            if self.plan.patience and epoch and epoch - 1 - self.best["epoch"] >= self.plan.patience:
                return
            yield epoch

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Go through the data once, in an order drawn from the seed and the epoch; the next part is read ahead."""
        order, self._seen = parallel.shuffled(len(self.data[0]), self.plan.seed, epoch), []
        shares = [parallel.share_of_batch(rows, self.at_once) for rows in order.split(self.plan.batch_size)]
        stream = self._read(self.data, [part for share in shares for part in share])
        self.model.train()
        for i, share in enumerate(shares):
            progress = (epoch + i / len(shares)) / self.plan.epochs
            yield Batch(f"epoch {epoch}, batch {i}", progress, len(share), self._parts(len(share), stream))

    def _parts(self, count: int, stream: Iterator[Part]) -> Iterator[Part]:
        for k in range(count):
            with self.fabric.no_backward_sync(self.model, enabled=k < count - 1):  # processes average once a batch
                yield next(stream)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        self.optimizer.param_groups[0]["lr"] = lr

    def backward(self, losses: dict, part: Part) -> None:
        """Add up the gradients of a part's mean loss by its weight in the batch, and note the losses."""
        self._seen.append(_noted({name: torch.as_tensor(value).detach() for name, value in losses.items()}, part))
        self.fabric.backward(losses["total"] * part.weight)

    def stop_if_not_finite(self, batch: Batch) -> None:
        """Raise `NotFinite` at NaN or Inf in a batch, its loss or its gradients; no weight has been touched yet.

        One wait for the device. All processes are told the same, so that none goes on alone and waits for the others.
        An overflow of float16, which the scaler of "16-mixed" meets now and then and skips, is no fault, until the
        scale has come down to `SMALLEST`.
        """
        seen = self._seen[-batch.n_parts :]
        norm = get_total_norm([p.grad for p in self.unwrapped.parameters() if p.grad is not None])
        found = torch.stack([sum(finite.nan_flag(losses["total"], ()) for _, losses in seen), norm.float()])
        losses_finite, gradient_finite = self.fabric.all_reduce(found, reduce_op="sum").isfinite().tolist()
        skipped = self.scaler and self.scaler.get_scale() > SMALLEST
        if not (losses_finite and (gradient_finite or skipped)):
            stopped = self._stopped(batch.name, seen, "data", self.unwrapped if losses_finite else None)
            self.optimizer.zero_grad(set_to_none=True)
            raise stopped

    def _stopped(self, where: str, seen: list, name: str, model: nn.Module | None = None) -> NotFinite:
        """Word what is not finite in what was seen of `data` or `val`, what is kept, and what to do."""
        rows = torch.cat([torch.arange(0), *(part.rows for part, _ in seen)])
        batch = _take(getattr(self, name), rows) if seen else []
        what, remedy = finite.describe_fault(batch, rows, [losses for _, losses in seen], model, name)
        kept = "no state is kept"
        if self.state and self.history:
            kept = f"{self.state} keeps epoch {self.history[-1]['epoch']}, the last good one, to resume from"
        return NotFinite(f"{self.label}: {where}: {what}; {kept}: {remedy}")

    def close_epoch(self, epoch: int, step: Step) -> None:
        """Record the means of an epoch, validate, remember the best weights, and keep the state."""
        record = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]} | self._mean("train", self._seen)
        record |= self._validate(epoch, step) if self.val else {}
        self.history.append(record)
        least = self.history[self.best["epoch"]]["val/total"] if self.best else math.inf
        if self.plan.patience and record["val/total"] < least:
            weights = {k: v.detach().clone() for k, v in self.unwrapped.state_dict().items()}
            self.best = {"epoch": epoch, "weights": weights}
        self._keep()
        if self.state and parallel.is_first():
            leave(self.state, self.history)
        self.bar.update()
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k.endswith("total")})

    @torch.no_grad()
    def _validate(self, epoch: int, step: Step) -> dict[str, float]:
        self.model.eval()
        share = parallel.share_of_batch(torch.arange(len(self.val[0])), self.plan.batch_size)
        progress = (epoch + 1) / self.plan.epochs
        seen = [_noted(step(self.model, part.tensors, progress), part) for part in self._read(self.val, share)]
        means = self._mean("val", seen)
        if not math.isfinite(means["val/total"]):
            bad = [k for k, (_, losses) in enumerate(seen) if not losses["total"].isfinite()][:1]
            where = f"validation after epoch {epoch}, batch {bad[0] if bad else '?'}"
            raise self._stopped(where, [seen[k] for k in bad], "val")
        return means

    def _mean(self, prefix: str, seen: list[tuple[Part, dict]]) -> dict[str, float]:
        """Average over all images, and over all processes, what the steps found."""
        sums = {name: sum(float(losses[name]) * part.images for part, losses in seen) for name in seen[0][1]}
        sums = parallel.sum_over_processes(self.fabric, sums | {"n": sum(part.images for part, _ in seen)})
        return {f"{prefix}/{name}": value / sums["n"] for name, value in sums.items() if name != "n"}

    def finish(self) -> list[dict]:
        """Go back to the best weights where patience asks for it, and return the history."""
        if self.best:
            self.unwrapped.load_state_dict(self.best["weights"])
        self.unwrapped.eval()
        if self.state and parallel.is_first():
            leave(self.state, self.history, last=True)
        return self.history

    def _keep(self) -> None:
        """Write all that the next epoch depends on; of several processes, the first does."""
        if not self.state or not parallel.is_first():
            return
        slots = self.optimizer.state_dict()["state"].items()
        slots = checkpoints.join_groups({str(i): {k: torch.as_tensor(v) for k, v in slot.items()} for i, slot in slots})
        groups = {"model": self.unwrapped.state_dict(), "best": self.best.get("weights", {}), "optimizer": slots}
        meta = {"settings": self.settings, "history": self.history, "best": self.best.get("epoch")}
        meta |= {"scaler": self.scaler.state_dict()} if self.scaler else {}
        checkpoints.write(self.state, checkpoints.join_groups(groups), meta)

    def _resume(self) -> tuple[list[dict], dict]:
        """Take up the state that was kept: its history, and its best epoch with the weights."""
        if not self.state or not self.state.exists():
            return [], {}
        tensors, meta = checkpoints.read(self.state)
        found, wanted = meta.get("settings"), self.settings
        if found != wanted:
            raise InputError(f"{self.state}: belongs to a run with {found}, not {wanted}; delete it to begin anew")
        groups = checkpoints.split_groups(tensors)
        checkpoints.load_weights(self.state, self.unwrapped, groups.get("model", {}))
        slots = {int(i): slot for i, slot in checkpoints.split_groups(groups.get("optimizer", {})).items()}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        if self.scaler:
            self.scaler.load_state_dict(meta["scaler"])
        return meta["history"], {} if meta["best"] is None else {"epoch": meta["best"], "weights": groups["best"]}

    def _at_hand(self, data: Data) -> list:
        """Send tensors to a GPU as a whole where they take a quarter of its free memory at most, and not batchwise."""
        data = [torch.from_numpy(t) if isinstance(t, np.ndarray) and t.flags.writeable else t for t in data]
        size, device = sum(t.nbytes for t in data if isinstance(t, Tensor)), self.fabric.device
        if device.type == "cpu" or size > (memory.free_bytes(device) or 0) / 4:
            return data
        return [t.to(device) if isinstance(t, Tensor) else t for t in data]

    def _read(self, data: Sequence, share: list[tuple[Tensor, float]]) -> Iterator[Part]:
        """Read part by part; what comes from disk is read while the part before it is worked on."""
        on_disk, reads = not all(isinstance(t, Tensor) for t in data), (_take(data, rows) for rows, _ in share)
        for (rows, weight), tensors in zip(share, _ahead(reads) if on_disk else reads, strict=True):
            yield Part(self.fabric.to_device(tensors), rows, weight, len(rows) if weight else 0)


def _ahead(items: Iterator[list[Tensor]]) -> Iterator[list[Tensor]]:
    """Make each item in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _noted(losses: dict, part: Part) -> tuple[Part, dict]:
    """Note losses with a total that is NaN where the data are not finite, even if no loss shows it."""
    total = losses["total"]
    return part._replace(tensors=[]), losses | {"total": total + finite.nan_flag(torch.zeros_like(total), part.tensors)}


def _take(data: Sequence, rows: Tensor) -> list[Tensor]:
    """Take rows of each tensor, array or `Rows`."""
    return [torch.as_tensor(t[rows if isinstance(t, Tensor) else rows.numpy()]) for t in data]
