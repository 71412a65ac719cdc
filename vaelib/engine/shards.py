"""The levels of a cohort on disk, memory-mapped: one shard a patient, whole and as it was written, or not read at all.

What levels are, and how they are made, is in `vaelib.levels`, whose names can be had from here too.
"""

import json
import warnings
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import cache as remember
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from vaelib.cohorts.labels import mask_of
from vaelib.cohorts.layout import Case
from vaelib.cohorts.quality import check_mask
from vaelib.dicom.folder import sort_files
from vaelib.dicom.masks import files_of, is_pancreas
from vaelib.engine.errors import InputError
from vaelib.engine.files import atomic_write, hash_of, remove_leftovers
from vaelib.engine.options import Reorient, Segment, checked
from vaelib.engine.workers import map_in_processes
from vaelib.levels import FULL, canonical, levels_of, window
from vaelib.volumes import read_ct

VERSION = 3  # raise when what `prepare` writes changes
MEANT = dict(key=str, layout=str, window=list, levels=list, has_mask=bool, size=list, spacing=list, files=dict)
AGAIN = "remove that folder and run `vaelib prepare`"


class Shard(NamedTuple):
    """One patient at one level, memory-mapped: images and masks (S, H, W), and what made them."""

    images: np.ndarray
    masks: np.ndarray | None
    meta: dict


def identity(case: Case, *made_by: object) -> str:
    """Return the key of a shard: a hash over the files that are read (name, size, time), the options and `VERSION`."""
    files = (sort_files(case.ct).read if case.ct.is_dir() else [case.ct]) + files_of(case.mask)
    facts = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files if p.exists()]
    return hash_of([VERSION, made_by, facts])


@checked
def prepare(
    cases: Iterable[Case], cache: str | Path, *, low: float = -160, high: float = 240,
    levels: Sequence[int] = tuple(range(FULL + 1)), reorient: Reorient = None, segment: Segment = None,
    workers: int | None = None,
) -> Path:  # fmt: skip
    """Write each case's levels into the cache, one shard a patient; shards that are up to date are kept.

    A shard is made out of sight and renamed when whole, so an interruption costs one patient at most and a
    half-written one is never read; two processes may prepare one cohort at once. Images are float16 (wrong by
    0.0002 at most, a tenth of a HU); occupancies are exact at every level.

    Parameters
    ----------
    cases : iterable of Case
    cache : path
    low, high : float
        HU window.
    levels : sequence of int
        Levels to keep.
    reorient : str, optional
        What to believe of labels that disagree with their scans; see `read_mask`. Nothing is guessed without it.
    segment : str or int, optional
        Which segments or values of a label, as in `read_mask`. Either of the two is remembered with a shard, and is
        what it was as long as nothing else is said; "Pancreas" at first.
    workers : int, optional
        Processes over patients; by default one a core.

    Returns
    -------
    Path
        The folder of shards, to be given to `open_case` and `stack`.

    Raises
    ------
    InputError
        From `read_ct` and `mask_of`, once all the other patients are prepared; it names each that is not.
    """
    if not (-np.inf < low < high < np.inf and {*levels} and {*levels} <= {*range(FULL + 1)}):
        raise InputError(f"window {low} to {high}, levels {[*levels]}: give two HU that ascend, and levels 0 to 9")
    segment = None if segment is None else str(segment)
    cases, options = list(cases), (low, high, tuple(levels), reorient, segment)
    shards = Path(cache) / f"hu_{low:g}_{high:g}"
    remove_leftovers(shards)
    todo = [case for case in cases if not _is_fresh(case, shards / case.patient, options)]
    work = partial(_write_shard, shards=shards, options=options)
    bar = dict(total=len(cases), initial=len(cases) - len(todo), desc="preparing", unit="patient")
    failed = []
    for case, (error, warned) in zip(todo, map_in_processes(work, todo, workers=workers, **bar), strict=True):
        failed += [error] if error else []
        for text in warned:
            warnings.warn(f"{case.patient}: {text}", stacklevel=2)
    if failed:
        more = f"{len(failed)} of {len(cases)} patients are not prepared: " if len(cases) > 1 else ""
        raise InputError(more + "; ".join(failed))
    return shards


def _is_fresh(case: Case, shard: Path, options: tuple) -> bool:
    """Whether the shard was made from these files so; how its label was read is taken from it unless one says."""
    try:
        meta, (*rest, reorient, segment) = meta_of(shard.parent, shard.name), options
        there = all((shard / name).stat().st_size == size for name, (size, _) in meta["files"].items())
        made_by = *rest, reorient or meta["reorient"], segment or meta["segment"]
        return there and meta["key"] == identity(case, *made_by)
    except (InputError, OSError, KeyError):
        return False


def _write_shard(case: Case, *, shards: Path, options: tuple) -> tuple[str | None, list[str]]:
    """Write one patient's shard; return why it cannot be, and what was warned of, in words."""
    final = shards / case.patient
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            with atomic_write(final, keep=lambda found: _is_fresh(case, found, options)) as folder:
                folder.mkdir()
                _fill_shard(case, folder, *options)
    except InputError as error:
        return str(error), []
    except Exception as error:  # a fault of ours stops no other patient
        return f"{case.ct}: {type(error).__name__}, {error}: a fault of vaelib's; leave this patient out", []
    return None, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def _fill_shard(case: Case, folder: Path, low, high, levels, reorient, segment) -> None:
    segment = segment or "Pancreas"
    key = identity(case, low, high, levels, reorient, segment)
    scan = read_ct(case.ct)
    grid, placed = canonical(scan), None
    files = _write_levels(folder, "image", grid, levels, partial(window, low=low, high=high))
    if case.mask:
        mask, placed = mask_of(case, scan, reorient, segment)
        check_mask(scan, mask, is_pancreas(segment, case.mask))  # warns where the HU of a pancreas are no such
        files |= _write_levels(folder, "mask", canonical(mask, fill=0), levels, np.float32)
    size, spacing, origin, direction = grid.GetSize(), grid.GetSpacing(), grid.GetOrigin(), grid.GetDirection()
    meta = dict(
        key=key, patient=case.patient, layout=case.layout, window=[low, high], levels=list(levels),
        reorient=reorient, segment=segment, has_mask=bool(case.mask), placed=placed and placed._asdict(),
        size=size, spacing=spacing, origin=origin, direction=direction, files=files,
    )  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta | {"sha256": hash_of(meta)}, indent=1))


def _write_levels(folder: Path, name: str, grid: sitk.Image, levels, first) -> dict[str, tuple[int, int]]:
    """Write one file a level; return by name how many bytes each has, and their CRC-32."""
    array, files = sitk.GetArrayViewFromImage(grid), {}
    with ExitStack() as opened:
        for level in levels:
            files[level] = opened.enter_context(open(folder / f"{name}_{level}.npy", "wb"))
            header = dict(descr=_kept_as(name, level).str, fortran_order=False, shape=(len(array), 2**level, 2**level))
            np.lib.format.write_array_header_1_0(files[level], header)
        for _, level, block in levels_of(array, min(levels), first):
            if level in files:
                files[level].write(block.astype(_kept_as(name, level)).tobytes())
    return {path.name: _facts(path) for path in (folder / f"{name}_{level}.npy" for level in levels)}


def _kept_as(name: str, level: int) -> np.dtype:
    """Images as float16. An occupancy is n / 4^(9 - level): 0 or 1 at first, exact in float16 down to level 4."""
    if name == "mask" and level == FULL:
        return np.dtype(np.uint8)
    return np.dtype(np.float32 if name == "mask" and level < 4 else np.float16)


def meta_of(shards: str | Path, patient: str) -> dict:
    """Read what a shard says of itself: ``window``, ``levels``, ``spacing`` (x, y, z, mm), ``layout``, ``key``.

    Raises
    ------
    InputError
        If the patient is not in the cache, or `meta.json` is not as it was written.
    """
    path = Path(shards) / patient / "meta.json"
    try:
        meta = json.loads(path.read_bytes())
        written = meta.pop("sha256", None)
    except FileNotFoundError:
        raise InputError(f"{path.parent}: is not in the cache; run `vaelib prepare` first") from None
    except (ValueError, AttributeError, TypeError, RecursionError):  # no JSON, or no object
        meta = {}
    if not all(isinstance(meta.get(key), kind) for key, kind in MEANT.items()) or written != hash_of(meta):
        raise InputError(f"{path}: is damaged, or of another vaelib; {AGAIN}")
    return meta


def keys_of(shards: str | Path, patients: Iterable[str]) -> dict[str, str]:
    """By patient, what the shard was made from, as one hash; InputError from `meta_of`."""
    return {patient: meta_of(shards, patient)["key"] for patient in patients}


def open_case(shards: str | Path, patient: str, level: int) -> Shard:
    """Open one patient at one level without reading it into memory.

    The first time in a process, each file is gone through once, to see that it is as it was written.

    Raises
    ------
    InputError
        If the patient or the level is not in the cache, or a file in it is damaged.
    """
    meta = meta_of(shards, patient)
    images, masks = (_mapped(Path(shards) / patient, name, level, meta) for name in ("image", "mask"))
    return Shard(images, masks, meta)


def masks_of(shards: str | Path, patient: str, level: int) -> np.ndarray | None:
    """Open the masks of a patient alone: the images, which are twice as large, are not gone through."""
    return _mapped(Path(shards) / patient, "mask", level, meta_of(shards, patient))


def _mapped(folder: Path, name: str, level: int, meta: dict) -> np.ndarray | None:
    """Map a file of a shard into memory; None where the patient has no mask."""
    if level not in meta["levels"]:
        raise InputError(f"{folder}: level {level} is not in the cache; run `vaelib prepare` first")
    if name == "mask" and not meta["has_mask"]:
        return None
    path = folder / f"{name}_{level}.npy"
    with suppress(OSError, ValueError):
        if list(_facts(path)) == meta["files"].get(path.name):
            return np.load(path, mmap_mode="r", allow_pickle=False)
    raise InputError(f"{path}: is missing or not as it was written; {AGAIN}")


def _facts(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes, and its CRC-32."""
    found = path.stat()
    return found.st_size, _crc(path, found.st_size, found.st_mtime_ns)


@remember
def _crc(path: Path, size: int, changed: int) -> int:
    """CRC-32 of a file, which is read once as long as its size and time stay the same."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total = zlib.crc32(block, total)
    return total
