"""Coarse to fine: a whole scan on a coarse grid in mm, and the window around what a coarse stage finds in it.

Both grids are in mm, so that neither the field of view nor the distance of slices moves a patient.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from vaelib import metrics
from vaelib.cohort import Slices
from vaelib.dicom.geometry import image_like
from vaelib.dicom.millimetres import Window, averaged, body_centre, put_back, window_of
from vaelib.engine.shards import open_case
from vaelib.levels import FULL, canonical

COARSE: dict[str, Any] = {"spacing": (5.0, 6.0, 6.0), "side": 64}  # dz, dy, dx in mm
FINE: dict[str, Any] = {"spacing": (2.5, 1.5, 1.5), "side": 128}
MARGIN = 15.0  # mm above and below what the coarse stage finds
GRIDS = {"coarse": COARSE, "fine": FINE, "margin": MARGIN}
Predict = Callable[[Slices], Any]  # from slices to probabilities (N, 1, H, W)
Windows = dict[str, Window]  # by patient


class Outlined(NamedTuple):
    """What is found in a scan.

    Attributes
    ----------
    probability : ndarray, (S, H, W)
    window : Window, optional
        Of two stages, where the fine one looked.
    lost : bool
        Whether the coarse stage found nothing, and that window lies around the likeliest place.
    """

    probability: np.ndarray
    window: Window | None = None
    lost: bool = False


def of_one(images: np.ndarray) -> Slices:
    """Take images (N, 1, H, W) as the slices of one patient, whose masks nobody knows."""
    return Slices(images, images, np.zeros(len(images)), np.linspace(0, 1, len(images)))


def spacing_of(scan: sitk.Image, level: int) -> tuple[float, float, float]:
    """Say how large the voxels of `images_at` are: (dz, dy, dx) in mm."""
    dx, dy, dz = canonical(image_like(np.zeros(scan.GetSize()[::-1], np.uint8), scan)).GetSpacing()
    return dz, dy * 2 ** (FULL - level), dx * 2 ** (FULL - level)


def whole(scan: np.ndarray, spacing: Sequence[float]) -> Window:
    """Make the coarse window of a scan (S, H, W): all its height, around the middle of the body."""
    high = (len(scan) - 0.5) * spacing[0]
    return window_of(-0.5 * spacing[0], high, body_centre(scan, spacing), **COARSE)


def find(predict: Predict, scan: np.ndarray, spacing: Sequence[float], cut: float) -> tuple[Window, bool]:
    """Find the organ with the coarse stage: the fine window around its largest piece, and whether there was none.

    Where no voxel reaches `cut`, the window lies around the largest probability there is.
    """
    from scipy import ndimage  # takes long to import

    window = whole(scan, spacing)
    p = predict(on_window(scan, spacing, window))[:, 0]
    pieces, count = ndimage.label(p >= min(cut, p.max()))
    largest = ndimage.sum_labels(p, pieces, np.arange(1, count + 1)).argmax() + 1
    box = ndimage.find_objects(pieces)[largest - 1]
    ends = [[first + step * (part.start - 0.5), first + step * (part.stop - 0.5)]
            for first, step, part in zip(window.first, window.spacing, box, strict=True)]  # fmt: skip
    bottom, top = -0.5 * spacing[0], (len(scan) - 0.5) * spacing[0]
    low, high = max(ends[0][0] - MARGIN, bottom), min(ends[0][1] + MARGIN, top)  # no further than the scan
    return window_of(low, high, [(a + b) / 2 for a, b in ends[1:]], **FINE), bool(p.max() < cut)


def on_window(scan: np.ndarray, spacing: Sequence[float], window: Window) -> Slices:
    """Take a scan (S, H, W) on a window, as the slices of one patient."""
    return of_one(averaged(scan, spacing, window)[:, None])


def slices_of(shards: Path, windows: Windows) -> Slices:
    """Bring patients into memory, each on its window; without a mask, the images stand in its place."""
    made: list[Slices] = []
    for name, window in windows.items():
        shard, spacing = open_case(shards, name, FULL), metrics.spacing_at(shards, name, FULL)
        images = averaged(shard.images, spacing, window)[:, None]
        masks = images if shard.masks is None else averaged(shard.masks, spacing, window)[:, None]
        made.append(of_one(images)._replace(masks=masks, patient=np.full(len(images), name)))
    return Slices(*(np.concatenate(parts) for parts in zip(*made, strict=True)))


def windows(shards: Path, names: Iterable[str], place: Callable[[np.ndarray, Sequence[float]], Window]) -> Windows:
    """Make a window for each patient, by what `place` makes of a scan and its spacing, such as `whole`."""
    spacing = {name: metrics.spacing_at(shards, name, FULL) for name in names}
    return {name: place(open_case(shards, name, FULL).images, mm) for name, mm in spacing.items()}


def outline(coarse: Predict, fine: Predict, cut: float, scan: np.ndarray, spacing: Sequence[float]) -> Outlined:
    """Predict the organ in a scan (S, H, W) by both stages, on the scan's own voxels."""
    window, lost = find(coarse, scan, spacing, cut)
    p = fine(on_window(scan, spacing, window))[:, 0]
    return Outlined(put_back(p, window, scan.shape, spacing), window, lost)


def doubts(mask: np.ndarray, found: Outlined, cut: float) -> list[str]:
    """Say in words what speaks against a mask (S, H, W) of 0 and 1, stored in whatever order."""
    from scipy import ndimage  # takes long to import

    if not mask.any():
        return [f"no voxel reaches {cut:.3g}, so the mask is empty; try a lower --threshold"]
    said, sizes = [], np.sort(np.bincount(ndimage.label(mask, np.ones((3, 3, 3)))[0].ravel())[1:])[::-1]
    if found.lost:
        said.append("the coarse stage found no organ, and the mask is what the likeliest place has; look at it")
    if len(mask) > 1 and (mask[0].any() or mask[-1].any()):
        said.append("the mask reaches the end of the scan, which may cut the organ; its volume is that of a part")
    if len(sizes) > 1 and sizes[1:].sum() > 0.05 * sizes.sum():
        largest = f"{len(sizes)} pieces, of which the largest has {sizes[0] / sizes.sum():.0%}"
        said.append(f"the mask lies in {largest}; look at the others")
    return said
