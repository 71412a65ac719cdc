"""From HU to small images: window, levels of 2^k pixels by area averaging, and a memory-mapped cache.

Level k is 2^k pixels a side, from 0 (one pixel) to 9 (512 x 512). A coarse pixel of a scan is the mean of
the fine ones beneath it. A coarse pixel of a mask is its *occupancy*: the share of it that is pancreas. Both
are exact (halving adds four numbers and divides by four), so that volume is conserved at every level.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from vaelib import rows
from vaelib.cohort import Case
from vaelib.errors import InputError
from vaelib.labels import mask_of
from vaelib.progress import each
from vaelib.quality import check_mask
from vaelib.volumes import axes_of, read_ct

FULL = 9  # the level of a full-size slice, 512 x 512
AXES = "LR", "PA", "SI"  # of x, y and z: the way they run in canonical order, and the other way
SLAB = 2  # slices worked on at a time: few enough to stay in the processor's cache
VERSION = 2  # raise when what `prepare` writes changes


class Shard(NamedTuple):
    """One patient at one level, memory-mapped: images and masks (S, H, W), and what made them."""

    images: np.ndarray
    masks: np.ndarray | None
    meta: dict


class Stack(NamedTuple):
    """The slices of several patients: images and masks (N, 1, H, W) float32, in memory or as `Rows`.

    `patient` (N,) names the owner of each slice; `position` (N,) is its place in the scan, from 0 (lowest
    slice) to 1 (highest).
    """

    images: np.ndarray | rows.Rows
    masks: np.ndarray | rows.Rows
    patient: np.ndarray
    position: np.ndarray


def window(hu: np.ndarray, low: float = -160, high: float = 240) -> np.ndarray:
    """Clip HU to a window and scale it to [0, 1] as float32. The default shows the abdomen's soft tissue."""
    out = hu.astype(np.float32)
    out -= low
    out /= high - low
    return np.clip(out, 0, 1, out=out)


def halve(array: np.ndarray) -> np.ndarray:
    """Average 2 x 2 blocks of the last two axes."""
    a = array
    return (a[..., ::2, ::2] + a[..., 1::2, ::2] + a[..., ::2, 1::2] + a[..., 1::2, 1::2]) * a.dtype.type(0.25)


def downscale(array: np.ndarray, level: int) -> np.ndarray:
    """Area-average the last two axes to 2^level pixels a side.

    Parameters
    ----------
    array : ndarray, (..., H, W)
        Windowed images or masks; H = W, a power of two of at least 2^level.

    Returns
    -------
    ndarray, (..., 2^level, 2^level) float32

    Raises
    ------
    InputError
        If the array is not square, no power of two, or smaller than the level.
    """
    side = array.shape[-1]
    if array.shape[-2] != side or side & (side - 1) or not 0 <= level <= side.bit_length() - 1:
        raise InputError(f"cannot take {array.shape[-2:]} pixels to level {level} ({2**level} pixels a side): give a "
                         "square image whose side is a power of two and no smaller")  # fmt: skip
    array = array.astype(np.float32)
    while array.shape[-1] > 2**level:
        array = halve(array)
    return array


def levels_of(array: np.ndarray, lowest: int, first: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple]:
    """Go through a volume (S, H, W) a few slices at a time, down its levels: yields (slices, level, block).

    `first` makes floats of the stored numbers. Only a slab is ever held as floats, however long the scan is.
    """
    for start in range(0, len(array), SLAB):
        part = slice(start, min(start + SLAB, len(array)))
        block, level = first(array[part]), array.shape[-1].bit_length() - 1
        yield part, level, block
        while level > lowest:
            block, level = halve(block), level - 1
            yield part, level, block


def images_at(scan: sitk.Image, level: int, low: float = -160, high: float = 240) -> np.ndarray:
    """Window a scan and downscale its slices: (S, 2^level, 2^level) float32, in canonical order."""
    array = _turned(scan)
    out = np.empty((len(array), 2**level, 2**level), np.float32)
    for part, at, block in levels_of(array, level, partial(window, low=low, high=high)):
        if at == level:
            out[part] = block
    return out


def _turned(scan: sitk.Image) -> np.ndarray:
    """The numbers of `canonical(scan)`: a view of the scan's own where its axes need only be reversed."""
    letters = axes_of(scan)
    if scan.GetSize()[:2] != (2**FULL, 2**FULL) or any(a not in b for a, b in zip(letters, AXES, strict=True)):
        return sitk.GetArrayFromImage(canonical(scan))
    backward = [2 - k for k in range(3) if letters[k] != AXES[k][0]]  # arrays have z first
    return np.flip(sitk.GetArrayViewFromImage(scan), backward)


def canonical(image: sitk.Image, size: int = 2**FULL, fill: float = -1024) -> sitk.Image:
    """Turn a scan so that arrays are (inferior to superior, anterior to posterior, right to left), `size` square.

    Axes are only permuted and flipped. A slice that is not `size` x `size` is interpolated over the square
    field of view that holds it; slices themselves are never moved.
    """
    image = sitk.DICOMOrient(image, "LPS")
    w, h, depth = image.GetSize()
    if (w, h) == (size, size):
        return image
    dx, dy, dz = image.GetSpacing()
    fov = max(w * dx, h * dy)
    corner = [(w - fov / dx) / 2 - 0.5 + 0.5 * fov / dx / size, (h - fov / dy) / 2 - 0.5 + 0.5 * fov / dy / size, 0]
    origin = image.TransformContinuousIndexToPhysicalPoint(corner)
    method = sitk.sitkNearestNeighbor if image.GetPixelID() == sitk.sitkUInt8 else sitk.sitkLinear
    return sitk.Resample(image, (size, size, depth), sitk.Transform(), method, origin,
                         (fov / size, fov / size, dz), image.GetDirection(), fill, image.GetPixelID())  # fmt: skip


def to_scan(probability: np.ndarray, scan: sitk.Image, threshold: float) -> sitk.Image:
    """Put a prediction made at any level back on its scan.

    The coarse map is interpolated linearly in physical space onto the scan's own grid, whatever its
    orientation, and thresholded there.

    Parameters
    ----------
    probability : ndarray, (S, h, w)
        In canonical order, one slice for each slice of the scan.
    scan : SimpleITK.Image
        As `read_ct` gives it.
    threshold : float
        Mask where the interpolated probability is at least this.

    Returns
    -------
    SimpleITK.Image
        uint8, 0 or 1, on the grid of `scan`.
    """
    mask = _blank(scan)
    grid = canonical(mask)
    if len(probability) != grid.GetSize()[2]:
        raise InputError(f"the prediction has {len(probability)} slices and the scan {grid.GetSize()[2]}: "
                         "predict every slice of this scan")  # fmt: skip
    factor = grid.GetSize()[0] / probability.shape[-1]
    coarse = sitk.GetImageFromArray(np.pad(probability.astype(np.float32), ((0, 0), (1, 1), (1, 1))))
    dx, dy, dz = grid.GetSpacing()
    coarse.SetSpacing((dx * factor, dy * factor, dz))
    coarse.SetDirection(grid.GetDirection())
    first = (factor - 1) / 2 - factor  # centre of the padding pixel, in pixels of the grid
    coarse.SetOrigin(grid.TransformContinuousIndexToPhysicalPoint((first, first, 0)))
    start, size = _box(coarse, scan, threshold)
    if not all(size):
        return mask
    fine = sitk.Resample(coarse, size, sitk.Transform(), sitk.sitkLinear, scan.TransformIndexToPhysicalPoint(start),
                         scan.GetSpacing(), scan.GetDirection(), 0.0, sitk.sitkFloat32)  # fmt: skip
    return sitk.Paste(mask, sitk.Cast(fine >= threshold, sitk.sitkUInt8), size, destinationIndex=start)


def _box(coarse: sitk.Image, scan: sitk.Image, threshold: float) -> tuple[list[int], list[int]]:
    """First index and size of the part of the scan where what is interpolated from `coarse` can reach `threshold`."""
    whole = np.array(scan.GetSize())
    if threshold <= 0:
        return [0, 0, 0], whole.tolist()
    hot = np.argwhere(sitk.GetArrayViewFromImage(coarse) >= threshold)[:, ::-1]
    if not len(hot):
        return [0, 0, 0], [0, 0, 0]
    ends = (hot.min(0) - 1.0, hot.max(0) + 1.0)  # a pixel reaches as far as its neighbours' centres
    corners = [coarse.TransformContinuousIndexToPhysicalPoint([*c]) for c in product(*zip(*ends, strict=True))]
    inside = np.array([scan.TransformPhysicalPointToContinuousIndex(c) for c in corners])
    start = np.clip(np.floor(inside.min(0)).astype(int) - 1, 0, whole)
    stop = np.clip(np.ceil(inside.max(0)).astype(int) + 2, start, whole)
    return start.tolist(), (stop - start).tolist()


def _blank(scan: sitk.Image) -> sitk.Image:
    blank = sitk.Image(scan.GetSize(), sitk.sitkUInt8)
    blank.CopyInformation(scan)
    return blank


def identity(case: Case, *made_by) -> str:
    """The key of a shard: a hash over the source files (name, size, time), the options and the version of the code."""
    files = sorted(p for p in case.ct.iterdir() if p.is_file()) + ([case.mask] if case.mask else [])
    facts = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return hashlib.sha256(json.dumps([VERSION, made_by, facts]).encode()).hexdigest()


def prepare(
    cases: Iterable[Case],
    cache: str | Path,
    *,
    low: float = -160,
    high: float = 240,
    levels: Sequence[int] = tuple(range(FULL + 1)),
    reorient: str | None = None,
    workers: int | None = None,
) -> Path:
    """Write each case's levels into the cache, one shard a patient; shards that are up to date are kept.

    A shard is written under a hidden name and renamed when whole, so an interruption costs one patient at
    most and a half-written one is never read. Images are float16 (wrong by 0.0002 at most, a tenth of a HU);
    occupancies are exact at every level.

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
    cases, options = list(cases), (low, high, tuple(levels), reorient)
    shards = Path(cache) / f"hu_{low:g}_{high:g}"
    todo = [case for case in cases if not _is_fresh(case, shards / case.patient, options)]
    work = partial(_write_shard, shards=shards, options=options)
    bar = dict(total=len(cases), initial=len(cases) - len(todo), desc="preparing", unit="patient")
    failed = []
    for case, (error, warned) in zip(todo, each(work, todo, workers=workers, **bar), strict=True):
        failed += [error] if error else []
        for text in warned:
            warnings.warn(f"{case.patient}: {text}", stacklevel=2)
    if failed:
        more = f"{len(failed)} of {len(cases)} patients are not prepared, the others are: " if len(cases) > 1 else ""
        raise InputError(more + "; ".join(failed))
    return shards


def _is_fresh(case: Case, shard: Path, options: tuple) -> bool:
    """Whether the shard was made from these files so; how its label was read is taken from it unless one says."""
    meta, (*rest, reorient) = _meta(shard), options
    return meta.get("key") == identity(case, *rest, reorient or meta.get("reorient"))


def _write_shard(case: Case, *, shards: Path, options: tuple) -> tuple[str | None, list[str]]:
    """Write one patient's shard; return why it cannot be, and what was warned of, in words."""
    final = shards / case.patient
    tmp = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            _fill_shard(case, tmp, *options)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(tmp, final)
    except InputError as error:
        return str(error), []
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return None, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def _fill_shard(case: Case, folder: Path, low, high, levels, reorient) -> None:
    key = identity(case, low, high, levels, reorient)
    scan = read_ct(case.ct)
    grid, placed = canonical(scan), None
    _write_levels(folder, "image", grid, levels, partial(window, low=low, high=high))
    if case.mask:
        mask, placed = mask_of(case, scan, reorient)
        check_mask(scan, mask)  # warns where the HU under the mask are not those of a pancreas
        _write_levels(folder, "mask", canonical(mask, fill=0), levels, np.float32)
    size, spacing, origin, direction = grid.GetSize(), grid.GetSpacing(), grid.GetOrigin(), grid.GetDirection()
    meta = dict(
        key=key, patient=case.patient, layout=case.layout, window=[low, high], levels=list(levels),
        reorient=reorient, has_mask=bool(case.mask), placed=placed and placed._asdict(),
        size=size, spacing=spacing, origin=origin, direction=direction,
    )  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _write_levels(folder: Path, name: str, grid: sitk.Image, levels, first) -> None:
    array, files = sitk.GetArrayViewFromImage(grid), {}
    try:
        for level in levels:
            files[level] = open(folder / f"{name}_{level}.npy", "wb")
            shape = (len(array), 2**level, 2**level)
            header = {"descr": _kept_as(name, level).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[level], header)
        for _, level, block in levels_of(array, min(levels), first):
            if level in files:
                files[level].write(block.astype(_kept_as(name, level)).tobytes())
    finally:
        for file in files.values():
            file.close()


def _kept_as(name: str, level: int) -> np.dtype:
    """Images as float16. An occupancy is n / 4^(9 - level): 0 or 1 at first, exact in float16 down to level 4."""
    if name == "mask" and level == FULL:
        return np.dtype(np.uint8)
    return np.dtype(np.float32 if name == "mask" and level < 4 else np.float16)


def _meta(shard: Path) -> dict:
    try:
        return json.loads((shard / "meta.json").read_text())
    except (OSError, ValueError):
        return {}


def open_case(shards: str | Path, patient: str, level: int) -> Shard:
    """Open one patient at one level without reading it into memory.

    Raises
    ------
    InputError
        If the patient or the level is not in the cache.
    """
    folder = Path(shards) / patient
    meta = _meta(folder)
    if level not in meta.get("levels", []):
        raise InputError(f"{folder}: level {level} is not in the cache; run `vaelib prepare` first")
    masks = np.load(folder / f"mask_{level}.npy", mmap_mode="r") if meta["has_mask"] else None
    return Shard(np.load(folder / f"image_{level}.npy", mmap_mode="r"), masks, meta)


def stack(shards: str | Path, patients: Sequence[str], level: int, *, lazy: bool | None = None) -> Stack:
    """Put the slices of several patients one after the other, ready for training.

    Up to level 7 (128 x 128) they are brought into memory: all of Pancreas-CT at level 6 are 0.6 GB. Above it,
    images and masks are `Rows`, read from the cache as they are asked for; `lazy` says otherwise.

    Raises
    ------
    InputError
        If a patient has no mask, or is not in the cache.
    """
    opened = [open_case(shards, patient, level) for patient in patients]
    for patient, shard in zip(patients, opened, strict=True):
        if shard.masks is None:
            raise InputError(
                f"{Path(shards) / patient}: this patient has no mask; leave it out of training and testing"
            )
    counts = [len(shard.images) for shard in opened]
    images, masks = rows.of_files([s.images for s in opened]), rows.of_files([s.masks for s in opened])
    if not (level > 7 if lazy is None else lazy):
        images, masks = images[:], masks[:]
    position = np.concatenate([np.linspace(0, 1, n) for n in counts])
    return Stack(images, masks, np.repeat(np.asarray(patients), counts), position)
