"""NaN and Inf, found in the batch in which they arise, before a weight is touched: what is wrong, and where."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vaelib.engine.errors import NotFinite

SHOWN = 8  # row numbers in a message


def nan_flag(loss: Tensor, batch: Sequence[Tensor]) -> Tensor:
    """Return a scalar that is 0 where a loss, and the batch it was made of, are finite, and NaN where they are not."""
    return 0 * sum((t.detach().sum(dtype=torch.float32) for t in batch), loss.detach().float())


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
    less = "take a lower lr (`--lr 0.0005`), or precision 32-true"
    for found in losses:
        if not found["total"].isfinite():
            said = ", ".join(f"{part} {float(value):.4g}" for part, value in found.items())
            return f"the loss is not finite ({said}) though {name} is", less
    for key, p in model.named_parameters() if model is not None else ():
        if p.grad is not None and rows_not_finite(p.grad.reshape(1, -1)):
            return f"the gradient of {key} is not finite though the loss is", less
    return "NaN or Inf in another process, or gone when looked at again", "see what that process says"
