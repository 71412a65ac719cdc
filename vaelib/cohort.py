"""Open a cohort: the slices of its patients, split by patient and never by slice."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaelib.cohorts.layout import cache_folder, data_folder, find_cases
from vaelib.cohorts.splits import folds as folds
from vaelib.cohorts.splits import split as split
from vaelib.engine.errors import InputError
from vaelib.engine.options import Fold, Kept, checked
from vaelib.engine.rows import Rows, of_files
from vaelib.engine.shards import open_case, prepare


class Slices(NamedTuple):
    """The slices of several patients: images and masks (N, 1, H, W) float32, in memory or read as they are asked for.

    Both kinds have the same attributes, are indexed by rows, ``slices.images[[3, 5]]``, and are given to `fit`,
    `encode` and every contestant alike.

    Attributes
    ----------
    images, masks : ndarray or Rows, (N, 1, H, W)
        Grey values from 0 to 1, and the share of each pixel that is pancreas.
    patient : ndarray of str, (N,)
        The owner of each slice; slices of a patient stand together, from the lowest to the highest.
    position : ndarray, (N,)
        The place of each slice in its scan, from 0 (lowest) to 1 (highest).
    """

    images: np.ndarray | Rows
    masks: np.ndarray | Rows
    patient: np.ndarray
    position: np.ndarray

    @property
    def size(self) -> int:
        """Side of a slice in pixels."""
        return self.images.shape[-1]

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The rows of each patient: ``{"PANCREAS_0001": array([0, 1, ...]), ...}``."""
        return {str(name): np.flatnonzero(self.patient == name) for name in dict.fromkeys(self.patient)}

    @property
    def in_memory(self) -> bool:
        """Whether all of them are in memory, and not read from the cache as they are asked for."""
        return not isinstance(self.images, Rows)

    def of(self, patient: str) -> "Slices":
        """Bring the slices of one patient into memory."""
        rows = self.rows[patient]
        return Slices(*(array[rows] for array in self))

    def computed(self, compute: Callable[[Any], np.ndarray]) -> np.ndarray | Rows:
        """Compute one row a slice: at once where the slices are in memory, or else as `Rows` that are asked for.

        Parameters
        ----------
        compute : callable
            From rows, which may index any array over these slices, to what is made of them, (n, ...).
        """
        return compute(slice(None)) if self.in_memory else Rows(len(self.patient), compute)


def load_slices(
    shards: str | Path, patients: Sequence[str], level: int, *, lazy: bool | None = None, labelled: bool = True
) -> Slices:
    """Put the slices of several patients one after the other, ready for training.

    Up to level 7 (128 x 128) they are brought into memory: all of Pancreas-CT at level 6 are 0.6 GB. Above it,
    images and masks are `Rows`, read from the cache as they are asked for; `lazy` says otherwise. Where they need not
    be `labelled`, images stand in the place of all masks.

    Raises
    ------
    InputError
        If a patient has no mask, or is not in the cache.
    """
    opened = [open_case(shards, patient, level) for patient in patients]
    if labelled and (bare := [name for name, shard in zip(patients, opened, strict=True) if shard.masks is None]):
        raise InputError(f"{Path(shards) / bare[0]}: this patient has no mask; leave it out of training and testing")
    counts = [len(shard.images) for shard in opened]
    images, masks = of_files([s.images for s in opened]), of_files([s.masks if labelled else s.images for s in opened])
    if not (level > 7 if lazy is None else lazy):
        images, masks = images[:], masks[:]
    position = np.concatenate([np.linspace(0, 1, n) for n in counts])
    return Slices(images, masks, np.repeat(np.asarray(patients), counts), position)


def _part(name: str) -> "cached_property[Slices]":
    return cached_property(lambda lab: load_slices(lab.shards, lab.parts[name], lab.level))


@dataclass
class Cohort:
    """A cohort that is prepared and split by patient; slices are loaded when they are first asked for.

    Attributes
    ----------
    shards : Path
        The cache of all levels, for `open_case`, `truth_at` and the like.
    parts : dict of str to list of str
        The patients of "train", "val" and "test", and, where there are some, of "unlabelled": without a mask.
    level : int
        Slices are 2^level pixels a side.
    folder : Path, optional
        The cohort itself, by whose name its models are kept; None is `data_folder()`.
    train, val, test : Slices
        What networks learn from, what thresholds are chosen on, and what everything is scored on.
    scans : Slices
        What needs no mask learns from: the slices of "train" and of "unlabelled".
    """

    shards: Path
    parts: dict[str, list[str]]
    level: int = 6
    folder: Path | None = None

    train, val, test = _part("train"), _part("val"), _part("test")

    @cached_property
    def scans(self) -> Slices:  # noqa: D102 (an attribute, told above)
        names = self.parts["train"] + (more := self.parts.get("unlabelled", []))
        return load_slices(self.shards, names, self.level, labelled=False) if more else self.train

    def at(self, level: int) -> "Cohort":
        """Take the same patients, split the same way, at another level."""
        return replace(self, level=level)


@checked
def open_cohort(folder: str | Path | None = None, *, level: Kept = 6, fold: Fold = None) -> Cohort:
    """Prepare a cohort (a moment where it is up to date), and split those of its patients that have a mask.

    Parameters
    ----------
    folder : path, optional
        The cohort; by default $VAELIB_DATA, or else data/synthetic.
    level : int
        Slices are 2^level pixels a side: 6 for 64 x 64.
    fold : int, optional
        Take this fold of the cross-validation, 0 to 3, in place of the usual split.

    Returns
    -------
    Cohort
        Patients without a mask are its "unlabelled" part, and named in a warning: of them the VAE alone learns.
    """
    folder = Path(folder or data_folder())
    cases = find_cases(folder)
    patients = [case.patient for case in cases if case.mask]
    parts = split(patients) if fold is None else folds(patients)[fold]
    if without := [case.patient for case in cases if not case.mask]:
        parts["unlabelled"] = without
        warnings.warn(f"{folder}: without a mask, so only the VAE learns from: {', '.join(without)}", stacklevel=2)
    return Cohort(prepare(cases, cache_folder(folder)), parts, level, folder)
