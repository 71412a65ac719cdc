"""Arrays too large for memory, read or computed a few rows at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np


class Rows:
    """An array whose rows come into being when they are asked for: ``rows[[3, 5]]``.

    Parameters
    ----------
    count : int
        N, the number of rows.
    read : callable
        From row numbers (n,) to an array (n, ...), such as (n, 1, H, W).
    """

    def __init__(self, count: int, read: Callable[[np.ndarray], np.ndarray]):
        self.count, self.read = count, read

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.read(np.arange(self.count)[rows if isinstance(rows, slice) else np.asarray(rows)])

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array; the first row is read to know it."""
        return self.count, *self[:1].shape[1:]

    @cached_property
    def dtype(self) -> np.dtype:
        """The type of its numbers; the first row is read to know it."""
        return self[:1].dtype

    def then(self, function: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """Apply `function` to the rows as they come."""
        return Rows(self.count, lambda rows: function(self.read(rows)))


def of_files(arrays: Sequence[np.ndarray]) -> Rows:
    """Put the slices of several memory-mapped arrays (S, H, W) one after the other: (N, 1, H, W) float32."""
    ends = np.cumsum([len(a) for a in arrays])

    def read(rows: np.ndarray) -> np.ndarray:
        import torch  # which widens float16 six times as fast as numpy, to the same numbers

        out = np.empty((len(rows), 1, *arrays[0].shape[1:]), np.float32)
        owner = np.searchsorted(ends, rows, side="right")
        for place, row, k in zip(torch.from_numpy(out), rows, owner, strict=True):
            place[0].copy_(torch.from_numpy(np.array(arrays[k][row - (ends[k] - len(arrays[k]))])))
        return out

    return Rows(int(ends[-1]), read)


def chunks(array: np.ndarray | Rows, size: int = 256) -> Iterator[np.ndarray]:
    """Go through an array, or `Rows`, in order and `size` rows at a time."""
    for start in range(0, len(array), size):
        yield array[start : start + size]


def mean(array: np.ndarray | Rows, of: Callable[[np.ndarray], Any] = np.mean) -> float:
    """Take the mean of an array by `of`, or of `Rows` without having all of them at once."""
    if not isinstance(array, Rows):
        return float(of(array))
    total, count = 0.0, 0
    for block in chunks(array, 64):
        total, count = total + float(block.sum(dtype=np.float64)), count + block.size
    return total / count
