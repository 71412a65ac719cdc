"""Compare the grids of a scan and a label, and put the label onto the scan through physical space."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vaelib.engine.errors import InputError


def slice_normal(orientation: Sequence[float] | np.ndarray) -> np.ndarray:
    """Compute the unit vector across the slices, (3,), from the six cosines of ImageOrientationPatient."""
    normal = np.cross(*np.reshape(orientation, (2, 3)).astype(float))
    return normal / np.linalg.norm(normal)


def axes_of(image: sitk.Image) -> str:
    """Name the directions in which x, y and z of an image run: LAI is to the left, the front and the feet."""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())


def image_like(array: np.ndarray, like: sitk.Image) -> sitk.Image:
    """Make an image of an array (S, H, W) on the grid of another image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.CopyInformation(like)
    return image


def index_map(label: sitk.Image, like: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Find (3, 3) and (3,): the scan's index of a label's voxel, both as (x, y, z), is matrix @ index + shift."""
    frames = [np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing() for image in (label, like)]
    shift = np.subtract(label.GetOrigin(), like.GetOrigin())
    return np.linalg.solve(frames[1], frames[0]), np.linalg.solve(frames[1], shift)


def matching_axes(label: sitk.Image, like: sitk.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find which axis of a label runs along each of the scan's, (3,), the cosine between them, and whether backward.

    Both may be readers that know the header of an image alone.
    """
    cosines = np.reshape(like.GetDirection(), (3, 3)).T @ np.reshape(label.GetDirection(), (3, 3))
    along = np.abs(cosines).argmax(1)
    cosine = cosines[range(3), along]
    return along, np.abs(cosine), cosine < 0


def check_place(label: sitk.Image, like: sitk.Image, path: Path, *, strict: bool) -> None:
    """Raise unless the label's header fits the scan (`strict`) and its mask lies inside the scan."""
    (matrix, shift), (along, _, _) = index_map(label, like), matching_axes(label, like)
    here, scan = np.array(label.GetSize()), np.array(like.GetSize())
    pitch, counts = np.abs(matrix)[range(3), along], here[along]  # along each of the scan's axes
    crooked = (np.abs(matrix) @ (here - 1) - pitch * (counts - 1)).max() > 0.5
    middle = matrix @ ((here - 1) / 2) + shift
    low, high = middle - pitch * counts / 2, middle + pitch * counts / 2  # the label's edges, as scan indices
    apart = np.maximum(np.abs(low + 0.5), np.abs(high - scan + 0.5))
    first = low + pitch / 2  # on the scan's voxels if it is whole and the pitch is one
    same_voxels = (np.abs(pitch - 1) * counts < 0.1) & (np.abs(first - np.round(first)) < 0.1)
    same_box = apart <= 0.5 * np.maximum(1, pitch)
    fits = np.where(counts == scan, apart < 0.1, same_voxels | same_box)
    remedy = "if you know better, tell `vaelib prepare` so: --reorient index (voxel by voxel), flip-y, axes or header"
    if strict and (crooked or not fits.all()):
        raise InputError(f"{path}: its header does not fit the scan: {_disagreement(label, like)}; {remedy}")
    z, y, x = np.nonzero(sitk.GetArrayViewFromImage(label))
    inside = np.stack([x, y, z], 1) @ matrix.T + shift
    beyond = np.maximum(-0.5 - inside, inside - scan + 0.5).max(0) * like.GetSpacing()
    if beyond.max() > 1e-3:
        axis = "xyz"[int(beyond.argmax())]
        raise InputError(f"{path}: its mask reaches {beyond.max():.1f} mm beyond the scan along {axis}; {remedy}")


def _disagreement(label: sitk.Image, like: sitk.Image) -> str:
    """Say in words and mm how the grid of a label differs from that of the scan."""
    centres = [i.TransformContinuousIndexToPhysicalPoint((np.array(i.GetSize()) - 1) / 2) for i in (label, like)]
    moves = zip(np.subtract(*centres), ("right left", "forward back", "down up"), strict=True)
    moved = [f"{abs(mm):.1f} mm {way.split()[int(mm > 0)]}" for mm, way in moves if abs(mm) > 0.05]
    said = [f"its centre lies {', '.join(moved)} of the scan's" if moved else "the centres agree"]
    for what, read in ("voxels", sitk.Image.GetSize), ("mm a voxel", sitk.Image.GetSpacing), ("axes", axes_of):
        mine, scans = (" x ".join(f"{v:.3g}" for v in read(i)) if read != axes_of else read(i) for i in (label, like))
        said.append(f"{what} {mine}" + ("" if mine == scans else f" (scan {scans})"))
    angle = np.degrees(np.arccos(min(matching_axes(label, like)[1].min(), 1)))
    said += [f"turned by {angle:.2g} degrees"] * int(angle > 0.05)
    return ", ".join(said)


def onto_scan(label: sitk.Image, like: sitk.Image, path: Path, reorient: str | None) -> sitk.Image:
    """Put a label on the grid of the scan by its header, or as `reorient` asks; see `volumes.read_mask`."""
    if reorient is None or reorient == "header":
        check_place(label, like, path, strict=reorient is None)
        return onto_grid(label, like)
    along, backward = axes_by(label, like, reorient)
    if sorted(along) != [0, 1, 2]:
        raise InputError(f"--reorient axes: the label's axes {axes_of(label)} fit no axes of the scan; use index")
    array = np.flip(sitk.GetArrayViewFromImage(label).T.transpose(along), np.flatnonzero(backward)).T
    if (size := array.shape[::-1]) != like.GetSize():
        raise InputError(f"{path}: {size} voxels for a scan of {like.GetSize()}; --reorient {reorient} needs as many")
    return image_like(array, like)


def axes_by(label: sitk.Image, like: sitk.Image, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Find which axis of a label runs along each of the scan's by a rule, (3,), and which of them run backward, (3,).

    The rule is "header" or "axes", or a `reorient` of `volumes.read_mask` that believes nothing of the header.
    """
    if rule in ("header", "axes"):
        along, _, backward = matching_axes(label, like)
        return along, backward
    if rule != "index" and not re.fullmatch("flip-[xyz]{1,3}", rule):
        raise InputError(f"--reorient {rule}: choose header, axes, index, or flip- with x, y, z or several")
    return np.arange(3), np.array([rule != "index" and axis in rule for axis in "xyz"])


def onto_grid(image: sitk.Image, scan: sitk.Image, threshold: float = 1, *, linear: bool = False) -> sitk.Image:
    """Interpolate an image on the grid of a scan and mask where it reaches a threshold: 0 or 1, uint8.

    Only the part of the scan around what is above the threshold is worked on. Outside of the image is 0.
    """
    mask = image_like(np.zeros(scan.GetSize()[::-1], np.uint8), scan)
    start, size = _within_reach(sitk.GetArrayViewFromImage(image) >= threshold, image, scan)
    if not all(size):
        return mask
    method = sitk.sitkLinear if linear else sitk.sitkNearestNeighbor
    part = sitk.Resample(image, size, sitk.Transform(), method, scan.TransformIndexToPhysicalPoint(start),
                         scan.GetSpacing(), scan.GetDirection(), 0.0, sitk.sitkFloat32)  # fmt: skip
    return sitk.Paste(mask, sitk.Cast(part >= threshold, sitk.sitkUInt8), size, destinationIndex=start)


def _within_reach(hot: np.ndarray, image: sitk.Image, scan: sitk.Image) -> tuple[list[int], list[int]]:
    """Find the first index and the size of the part of a scan that interpolation carries `hot` voxels into."""
    if not hot.any():
        return [0, 0, 0], [0, 0, 0]
    spans = [np.flatnonzero(hot.any(axes))[[0, -1]] + [-1.0, 1.0] for axes in ((0, 1), (0, 2), (1, 2))]
    corners = [image.TransformContinuousIndexToPhysicalPoint(corner) for corner in product(*spans)]
    inside = np.array([scan.TransformPhysicalPointToContinuousIndex(corner) for corner in corners])
    start = np.clip(np.floor(inside.min(0)).astype(int) - 1, 0, scan.GetSize())
    stop = np.clip(np.ceil(inside.max(0)).astype(int) + 2, start, scan.GetSize())
    return start.tolist(), (stop - start).tolist()


def describe(image: sitk.Image) -> str:
    """Say in one line what an image is: size, spacing (mm), range, axes (LAI: x to Left, y Anterior, z Inferior)."""
    size, spacing = " x ".join(map(str, image.GetSize())), " x ".join(f"{mm:.4g}" for mm in image.GetSpacing())
    array, kind = sitk.GetArrayViewFromImage(image), image.GetPixelIDTypeAsString()
    values = f"values {array.min():g} to {array.max():g}"
    return f"{size} voxels of {spacing} mm, axes {axes_of(image)}, {values}, {kind}"
