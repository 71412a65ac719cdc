"""Compare the grids of a scan and a label, and put the label onto the scan through physical space."""

import re

import numpy as np
import SimpleITK as sitk

from vaelib.engine.errors import InputError


def slice_normal(orientation):
    """Unit vector across the slices, (3,), from the six cosines of ImageOrientationPatient."""
    cosines = np.asarray(orientation, float)
    return np.cross(cosines[:3], cosines[3:])


def axes_of(image):
    """The letters to which the axes x, y and z of an image run: LAI is to the left, the front and the feet."""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())


def image_like(array: np.ndarray, like: sitk.Image) -> sitk.Image:
    """Make an image of an array (S, H, W) on the grid of another image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.CopyInformation(like)
    return image


def index_map(label, like):
    """(3, 3) and (3,): the scan's index of a label's voxel, both as (x, y, z), is matrix @ index + shift."""
    frames = [np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing() for image in (label, like)]
    shift = np.subtract(label.GetOrigin(), like.GetOrigin())
    return np.linalg.solve(frames[1], frames[0]), np.linalg.solve(frames[1], shift)


def matching_axes(label: sitk.Image, like: sitk.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find which axis of the label runs along each of the scan's, (3,), the cosine between them, and whether backward.

    Both images may be readers that know the header alone.
    """
    cosines = np.reshape(like.GetDirection(), (3, 3)).T @ np.reshape(label.GetDirection(), (3, 3))
    along = np.abs(cosines).argmax(1)
    cosine = cosines[range(3), along]
    return along, np.abs(cosine), cosine < 0


def check_place(label, like, path, *, strict):
    """Raise unless the label's header fits the scan (`strict`) and its mask lies inside the scan."""
    matrix, shift = index_map(label, like)
    here, scan = np.array(label.GetSize()), np.array(like.GetSize())
    along = np.abs(matrix).argmax(1)  # the label's axis that runs along each of the scan's
    pitch, counts = np.abs(matrix).max(1), here[along]
    crooked = (np.abs(matrix) @ (here - 1) - pitch * (counts - 1)).max() > 0.5
    middle = matrix @ ((here - 1) / 2) + shift
    low, high = middle - pitch * counts / 2, middle + pitch * counts / 2  # the label's edges, as scan indices
    apart = np.maximum(np.abs(low + 0.5), np.abs(high - scan + 0.5))
    first = low + pitch / 2  # on the scan's voxels if it is whole and the pitch is one
    same_voxels = (np.abs(pitch - 1) * counts < 0.1) & (np.abs(first - np.round(first)) < 0.1)
    same_box = apart <= 0.5 * np.maximum(1, pitch)
    fits = np.where(counts == scan, apart < 0.1, same_voxels | same_box)
    remedy = "if you know better, pass reorient='index' (voxel by voxel), 'flip-y', 'axes' or 'header'"
    if strict and (crooked or not fits.all()):
        raise InputError(f"{path}: its header does not fit the scan: {_disagreement(label, like)}; {remedy}")
    z, y, x = np.nonzero(sitk.GetArrayViewFromImage(label))
    inside = np.stack([x, y, z], 1) @ matrix.T + shift
    beyond = np.maximum(-0.5 - inside, inside - scan + 0.5).max(0) * like.GetSpacing()
    if beyond.max() > 1e-3:
        axis = "xyz"[int(beyond.argmax())]
        raise InputError(f"{path}: its mask reaches {beyond.max():.1f} mm beyond the scan along {axis}; {remedy}")


def onto_grid(label, like):
    """The label on the scan's grid: copied where its voxels are the scan's own, else by nearest neighbour."""
    matrix, shift = index_map(label, like)
    steps, first = np.round(matrix), np.round(shift)
    off = np.abs(matrix - steps) @ label.GetSize() + np.abs(shift - first)
    if off.max() > 0.1 or not all((np.abs(steps).sum(axis) == 1).all() for axis in (0, 1)):
        return sitk.Resample(label, like, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    array, scan = _turned(label, steps), np.array(like.GetSize())
    # where its first voxel lies in the scan
    low = (first - (steps.sum(1) < 0) * (np.array(array.shape) - 1)).astype(int)
    start, stop = np.maximum(low, 0), np.minimum(low + array.shape, scan)
    out = np.zeros(scan[::-1], np.uint8)
    here = array[tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))]
    out.T[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = here
    mask = sitk.GetImageFromArray(out)
    mask.CopyInformation(like)
    return mask


def _turned(label, matrix):
    """The label's array with its axes in the order and direction of the scan's, x first."""
    along = np.abs(matrix).argmax(1)
    return np.flip(sitk.GetArrayFromImage(label).T.transpose(along), np.flatnonzero(matrix[range(3), along] < 0))


def _disagreement(label, like):
    """In words and mm, how the grid of a label differs from that of the scan."""
    centres = [i.TransformContinuousIndexToPhysicalPoint((np.array(i.GetSize()) - 1) / 2) for i in (label, like)]
    moves = zip(np.subtract(*centres), ("right left", "forward back", "down up"), strict=True)
    moved = [f"{abs(mm):.1f} mm {way.split()[int(mm > 0)]}" for mm, way in moves if abs(mm) > 0.05]
    said = [f"its centre lies {', '.join(moved)} of the scan's" if moved else "the centres agree"]
    for what, read in ("voxels", sitk.Image.GetSize), ("mm a voxel", sitk.Image.GetSpacing), ("axes", axes_of):
        mine, scans = (" x ".join(f"{v:.3g}" for v in read(i)) if read != axes_of else read(i) for i in (label, like))
        said.append(f"{what} {mine}" + ("" if mine == scans else f" (scan {scans})"))
    return ", ".join(said)


def reordered(label, like, reorient):
    """The label's array (S, H, W), reordered as the caller asks, whatever its header says."""
    array = sitk.GetArrayFromImage(label)
    if reorient == "axes":
        matrix, _ = index_map(label, like)
        if sorted(np.abs(matrix).argmax(1)) != [0, 1, 2]:
            raise InputError(f"reorient='axes': the label's axes {axes_of(label)} fit no axes of the scan; use 'index'")
        return _turned(label, matrix).T
    if reorient != "index" and not re.fullmatch("flip-[xyz]{1,3}", str(reorient)):
        raise InputError(f"reorient={reorient!r}: choose 'header', 'axes', 'index', or 'flip-' with x, y, z or several")
    axes = set(reorient.removeprefix("flip-")) if reorient != "index" else ()
    return np.flip(array, ["zyx".index(axis) for axis in axes])
