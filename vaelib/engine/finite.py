"""NaN and Inf, found in the batch in which they arise, before a weight is touched: what is wrong, and where."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from vaelib.engine.errors import NotFinite

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SMALLEST = 2.0**-14  # float16's smallest normal number: a loss that has to be scaled by less has nothing left to say
SHOWN = 8  # row numbers in a message


def nan_flag(loss: Tensor, batch: Sequence[Tensor]) -> Tensor:
    """Return a scalar that is 0 where a loss, and the batch it was made of, are finite, and NaN where they are not."""
    return 0 * sum((t.detach().sum(dtype=torch.float32) for t in batch), loss.detach().float())


def find_fault(fabric: "Fabric", model: nn.Module, losses: Sequence[Tensor]) -> str:
    """Look at the losses of a batch and at the gradients that they left, with one wait for the device.

    All processes are told the same, so that none goes on alone and waits for the others.

    Returns
    -------
    str
        "" where all is finite; "data or loss"; or "gradient" where those are finite in every process. An overflow of
        float16, which the scaler of "16-mixed" meets now and then and skips, is no fault, until the scale has come
        down to `SMALLEST`.
    """
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    found = torch.stack([sum(nan_flag(loss, ()) for loss in losses), norm.float()])
    if fabric.world_size > 1:
        found = fabric.all_reduce(found, reduce_op="sum")
    losses_finite, gradient_finite = found.isfinite().tolist()
    if not losses_finite:
        return "data or loss"
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    return "" if gradient_finite or (scaler and scaler.get_scale() > SMALLEST) else "gradient"


def rows_not_finite(values: np.ndarray | Tensor) -> list[int]:
    """List the numbers (from 0) of the rows, along the first axis, in which something is NaN or Inf."""
    values = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    finite = np.isfinite(values)
    return [] if finite.all() else np.flatnonzero(~finite.reshape(len(finite), -1).all(1)).tolist()


def refuse(values: np.ndarray | Tensor, what: str, rows: str = "rows") -> None:
    """Raise `NotFinite` if anything in an array or tensor is NaN or Inf, naming it by `what` and its rows by number."""
    if bad := rows_not_finite(values):
        raise NotFinite(f"{what}: NaN or Inf in {rows} {_few(bad)} (from 0); mend what they were made of")


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:SHOWN])) + ", ..." * (len(numbers) > SHOWN)


def describe_fault(
    batch: Sequence[Tensor], rows: Tensor, losses: Sequence[dict], model: nn.Module | None = None, name: str = "data"
) -> tuple[str, str]:
    """Say what is not finite in a batch, in the losses made of it, or in a model's gradients; and what to do about it.

    Parameters
    ----------
    batch, rows
        The tensors once more, and the numbers of their rows in the data called `name`.
    losses : sequence of dict
        The named losses of each part of the batch.
    model : nn.Module, optional
        To look at its gradients.
    """
    for k, values in enumerate(batch):
        if bad := rows_not_finite(values):
            numbers = _few(sorted(rows[bad].tolist()))
            return f"NaN or Inf in {name}[{k}], rows {numbers} (from 0)", "mend what they were made of"
    less = "take a lower lr, or precision 32-true"
    for found in losses:
        if not found["total"].isfinite():
            said = ", ".join(f"{part} {float(value):.4g}" for part, value in found.items())
            return f"the loss is not finite ({said}) though {name} is", less
    for key, p in model.named_parameters() if model is not None else ():
        if p.grad is not None and rows_not_finite(p.grad.reshape(1, -1)):
            return f"the gradient of {key} is not finite though the loss is", less
    return "NaN or Inf in another process, or gone when looked at again", "see what that process says"
