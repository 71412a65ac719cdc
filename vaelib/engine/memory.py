"""How much memory a training step takes, counted without taking it; and a clear word where there is not enough."""

import copy
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vaelib.engine.errors import OUT_OF_MEMORY, InputError
from vaelib.losses import vae_loss
from vaelib.vae import VAE

ADAM = 3  # a weight and Adam's two means of its gradient; the gradient itself comes and goes with the step


class PeakMemory(TorchDispatchMode):
    """Count the bytes of the tensors that come into being in the block: ``with PeakMemory() as watch: ...``.

    Attributes
    ----------
    peak : int
        The most bytes that were alive at once. What PyTorch's kernels need inside themselves is not seen.
    """

    def __init__(self):
        super().__init__()
        self.peak, self._alive, self._older = 0, {}, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self._older |= {s for s in _storages((args, kwargs)) if s not in self._alive}
        out = function(*args, **(kwargs or {}))
        self._alive |= {s: n for s, n in _storages(out).items() if s not in self._older}
        self._alive = {s: n for s, n in self._alive.items() if not s.expired()}
        self.peak = max(self.peak, sum(self._alive.values()))
        return out


def _storages(tree) -> dict[StorageWeakRef, int]:
    found = [t.untyped_storage() for t in tree_leaves(tree) if isinstance(t, Tensor)]
    return {StorageWeakRef(s): s.nbytes() for s in found}


def step_bytes(model: nn.Module, step: Callable, batch: Sequence[Tensor]) -> int:
    """Work out the bytes that a training step with Adam takes at its peak, weights and optimizer included.

    This happens on PyTorch's *meta* device, where tensors have shapes and no numbers: nothing is computed and nothing
    allocated, whatever the size.

    Parameters
    ----------
    model : nn.Module
        On any device; left as it is.
    step : callable
        As `training.fit` takes it.
    batch : sequence of Tensor
    """
    held = [*model.parameters(), *model.buffers()]
    blank = {id(t): torch.empty_like(t, device="meta", requires_grad=t.requires_grad) for t in held}
    twin = copy.deepcopy(model, {k: nn.Parameter(t) if t.requires_grad else t for k, t in blank.items()}).train()
    inputs = [torch.empty_like(t, device="meta") for t in batch]
    with PeakMemory() as watch:
        step(twin, inputs, 0.5)["total"].backward()
    return watch.peak + sum(t.nbytes for t in batch) + ADAM * sum(t.nbytes for t in held)


def step_cost(vae: VAE, size: int, few: int = 2, dtype: torch.dtype | None = None) -> dict[str, float]:
    """Measure what an image adds to a training step on the CPU: milliseconds (of all threads), and megabytes.

    The memory is the difference between a step with `few` images and one with twice as many, so that weights and their
    gradients, which do not grow with the batch, stay out of it.

    Parameters
    ----------
    vae : VAE
    size : int
        Side of an image in pixels.
    few : int
    dtype : torch.dtype, optional
        Mixed precision, for instance ``torch.bfloat16``.
    """
    vae.to(memory_format=torch.channels_last).train()

    def step(x: Tensor) -> None:
        vae.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            vae_loss(vae(x), x).total.backward()

    images, peaks, seconds = torch.rand(2 * few, 1, size, size), [], []
    for n in (few, 2 * few):
        with PeakMemory() as watch:
            step(images[:n])
        peaks.append(watch.peak)
    for _ in range(2):  # watching takes time, so other steps are timed
        began = time.process_time()
        step(images)
        seconds.append(time.process_time() - began)
    return {"ms": 1000 * min(seconds) / (2 * few), "MB": (peaks[1] - peaks[0]) / few / 1e6}


def free_bytes(device: torch.device) -> int | None:
    """Ask how many bytes can still be had on a device; None where nobody says."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available if device.type == "cpu" else None


def what_fits(model: nn.Module, step: Callable, batch: Sequence[Tensor], room: int | None) -> str:
    """Say what a step with `batch` needs, and the largest batch, by halves, that fits into `room` bytes.

    Where recomputing lets a larger one fit, that one is said as well.
    """
    n, size = len(batch[0]), " x ".join(str(side) for side in batch[0].shape[2:] or batch[0].shape[1:])
    again = copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})  # of the same weights
    again.apply(lambda m: setattr(m, "recompute", True))
    need = lambda m, k: step_bytes(m, step, [t[:1].expand(k, *t.shape[1:]) for t in batch])  # noqa: E731
    most: Callable = lambda m, k: k if not k or room is None or need(m, k) <= room else most(m, k // 2)  # noqa: E731
    text = f"a step with {n} images of {size} needs {_gb(whole := need(model, n))}"
    text += "" if room is None else f", and {_gb(room)} are free"
    fewer, more = most(model, n // 2), most(again, n if need(again, n) < whole else 0)
    if fewer:
        text += f": use batch_size={fewer} (`--batch-size {fewer}`; {_gb(need(model, fewer))})"
    else:
        text += ": not even one image fits, so use a smaller size or fewer channels"
    return text + (f", or recompute=True with batch_size={more} ({_gb(need(again, more))})" if more > fewer else "")


def _gb(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"


@contextmanager
def explain_out_of_memory(
    model: nn.Module, step: Callable, batch: Sequence[Tensor], label: str = "training"
) -> Iterator[None]:
    """Turn PyTorch's "out of memory", on a GPU or not, into an `InputError` that says what would fit.

    Raises
    ------
    InputError
        In place of `torch.OutOfMemoryError`, or of the RuntimeError by which a CPU, or Apple's GPU, says the same.
    """
    try:
        yield
    except RuntimeError as e:
        if not any(words in str(e) for words in OUT_OF_MEMORY):
            raise
        traceback.clear_frames(e.__traceback__)  # what the broken step still held
        try:
            advice = what_fits(model, step, batch, free_bytes(batch[0].device))
        except RuntimeError:  # a step that looks at numbers, of which the meta device has none
            advice = f"use a batch_size below {len(batch[0])}, or a smaller size"
        raise InputError(f"{label}: out of memory; {advice}") from None
