"""NaN and Inf, found in the batch in which they arise, before a weight is touched: what is wrong, and where."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from vaelib.engine.errors import NotFinite

SMALLEST = 2.0**-14  # float16's smallest normal number: a loss that has to be scaled by less has nothing left to say
SHOWN = 8  # row numbers in a message


def nan_flag(loss: Tensor, batch: Sequence[Tensor]) -> Tensor:
    """A scalar that is 0 where a loss, and the batch that it was made of, are finite, and NaN where they are not."""
    return 0 * sum((t.detach().sum(dtype=torch.float32) for t in batch), loss.detach().float())


def wrong(fabric, model: nn.Module, doubts: Sequence[Tensor]) -> str:
    """Look at the gradients, and at each `doubt` about the batch that they come from, with one wait for the device.

    All processes are told the same, so that none goes on alone and waits for the others.

    Returns
    -------
    str
        "" where all is finite; "data or loss"; or "gradient" where those are finite in every process. An overflow of
        float16, which the scaler of "16-mixed" meets now and then and skips, is nothing wrong, until the scale has
        come down to `SMALLEST`.
    """
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    found = torch.stack([sum(doubts), norm.float()])
    if fabric.world_size > 1:
        found = fabric.all_reduce(found, reduce_op="sum")
    trusted, sound = found.isfinite().tolist()
    if not trusted:
        return "data or loss"
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    return "" if sound or (scaler and scaler.get_scale() > SMALLEST) else "gradient"


def rows_of(values) -> list[int]:
    """The numbers (from 0) of the rows, along the first axis, in which something is NaN or Inf."""
    values = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    fine = np.isfinite(values)
    return [] if fine.all() else np.flatnonzero(~fine.reshape(len(fine), -1).all(1)).tolist()


def refuse(values, what: str, rows: str = "rows") -> None:
    """Raise `NotFinite` if anything in an array or tensor is NaN or Inf, naming it by `what` and its rows by number."""
    if bad := rows_of(values):
        raise NotFinite(f"{what}: NaN or Inf in {rows} {_few(bad)} (from 0); mend what they were made of")


def _few(numbers: list) -> str:
    return ", ".join(map(str, numbers[:SHOWN])) + ", ..." * (len(numbers) > SHOWN)


def where(data, rows: Tensor, losses: Sequence[dict], model: nn.Module | None = None, name="data") -> tuple[str, str]:
    """What is not finite among rows of `data`, the named losses made of them, or the gradients of a model; a remedy."""
    for k, values in enumerate(data if len(rows) else ()):
        if bad := rows_of(values[rows]):
            numbers = _few(sorted(rows[bad].tolist()))
            return f"NaN or Inf in {name}[{k}], rows {numbers} (from 0)", "mend what they were made of"
    less = "take a lower lr, or precision 32-true"
    for found in losses:
        if not torch.as_tensor(found["total"]).isfinite():
            said = ", ".join(f"{part} {float(value):.4g}" for part, value in found.items())
            return f"the loss is not finite ({said}) though {name} is", less
    for key, p in model.named_parameters() if model is not None else ():
        if p.grad is not None and rows_of(p.grad.reshape(1, -1)):
            return f"the gradient of {key} is not finite though the loss is", less
    return "NaN or Inf in another process, or gone when looked at again", "see what that process says"


def stopped(label: str, at: str, what: tuple[str, str], state, history: list[dict]) -> NotFinite:
    """The error that stops a training: where it was, what was found, what is kept, what to do."""
    kept = "no state is kept"
    if state and history:
        kept = f"{state} keeps epoch {history[-1]['epoch']}, the last good one, to resume from"
    return NotFinite(f"{label}: {at}: {what[0]}; {kept}: {what[1]}")
