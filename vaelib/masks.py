"""Read a mask onto the grid of its scan, and refuse where the two do not fit.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

import re
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from vaelib.dicom import check_deflated
from vaelib.errors import InputError
from vaelib.nifti import check_nifti, check_size
from vaelib.pixels import LARGEST
from vaelib.volumes import axes_of


def read_mask(path, like, *, segment="Pancreas", reorient=None):
    """Read a mask from DICOM SEG or NIfTI and put it on the grid of the scan `like`.

    A label is placed where its header says, and the header has to fit: its voxels are the scan's own
    (all or some, in any order or direction), or another sampling of the scan's own box. Anything else
    is an error that says by how much, and `reorient` is for a caller who knows better than the header.
    What no header can show, a label flipped inside a right header, is for `quality.check_mask` and the eye.

    Parameters
    ----------
    path : path
        A DICOM SEG, or a NIfTI (`.nii`, `.nii.gz`).
    like : sitk.Image
        The scan, as `read_ct` gives it.
    segment : str or int
        Label (in any case) or number of the segment; in NIfTI, the number of the value.
    reorient : str, optional
        How to read a label whose header does not fit the scan:
        "header", believe it all the same;
        "axes", believe its directions but not its origin or spacing: the two arrays cover the same box;
        "index", believe nothing of it: voxel (i, j, k) is the scan's voxel (i, j, k);
        "flip-x", "flip-y", "flip-yz", ...: as "index", with those axes reversed first.

    Returns
    -------
    sitk.Image
        Of 0 and 1, uint8, on the grid of `like`.

    Raises
    ------
    InputError
        No such file, no such segment, a header that disagrees with the scan, an empty mask.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a DICOM SEG or a NIfTI file")
    nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    label = _read_nifti(path, like, segment) if nifti else _read_seg(path, like, segment)
    if not sitk.GetArrayViewFromImage(label).any():
        raise InputError(f"{path}: the mask is empty; choose another segment or leave this case out")
    if reorient in (None, "header"):
        _check_place(label, like, path, strict=reorient is None)
        return _onto(label, like)
    array = _reordered(label, like, reorient)
    size = array.shape[::-1]
    if size != like.GetSize():
        raise InputError(f"{path}: {size} voxels for a scan of {like.GetSize()}; reorient={reorient!r} needs as many")
    mask = sitk.GetImageFromArray(np.ascontiguousarray(array))
    mask.CopyInformation(like)
    return mask


def _read_nifti(path, like, segment):
    check_nifti(path, like)
    try:
        image = sitk.ReadImage(str(path), imageIO="NiftiImageIO")
    except RuntimeError:
        raise InputError(f"{path}: not readable as NIfTI; fetch it again") from None
    array = sitk.GetArrayFromImage(image)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds values that are no numbers; fetch it again")
    values = [f"{v:g}" for v in np.unique(array[array != 0])]
    wanted = str(segment)
    if wanted.isdigit():
        array = array == int(wanted)
    elif len(values) > 1:
        raise InputError(f"{path}: holds the values {', '.join(values[:9])}; choose one by number, segment=...")
    mask = sitk.GetImageFromArray((array != 0).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def _read_seg(path, like, segment):
    import highdicom as hd  # takes a second to import

    check_deflated(path)
    try:
        ds = pydicom.dcmread(path)
        _check_frames(ds)
        seg = hd.seg.Segmentation.from_dataset(ds, copy=False)
        found = {n: seg.get_segment_description(n).segment_label for n in seg.segment_numbers}
    except Exception:  # highdicom and pydicom raise many kinds
        raise InputError(f"{path}: not readable as DICOM SEG; give a SEG or a NIfTI file") from None
    wanted = str(segment).strip().lower()
    numbers = [n for n, name in found.items() if wanted in (str(n), name.strip().lower())]
    if len(numbers) != 1:
        listed = ", ".join(f"{n} {name!r}" for n, name in found.items())
        raise InputError(f"{path}: {len(numbers)} segments are {segment!r}; choose from {listed} by number")
    try:
        grid = seg.get_volume_geometry()
        check_size(path, grid.spatial_shape[::-1], like)
        volume = seg.get_volume(segment_numbers=numbers, allow_missing_positions=True)
    except InputError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: its frames make no volume ({why}); export it again") from None
    array = np.asarray(volume.array).reshape(volume.spatial_shape)  # drops the axis of segments
    mask = sitk.GetImageFromArray((array >= 0.5).astype(np.uint8))  # FRACTIONAL counts from one half
    mask.SetOrigin(volume.position)
    mask.SetSpacing(volume.spacing[::-1])
    mask.SetDirection(np.transpose(volume.unit_vectors()[::-1]).ravel().tolist())
    return mask


def _check_frames(ds):
    """Raise unless a SEG has the frames that its header counts; those who read it take memory for each."""
    frames, rows, columns = len(ds.PerFrameFunctionalGroupsSequence), ds.Rows, ds.Columns
    if ds.NumberOfFrames != frames or not 0 < rows <= LARGEST or not 0 < columns <= LARGEST:
        raise ValueError
    bits = len(ds.PixelData) * 8 * (64 if ds.file_meta.TransferSyntaxUID.is_compressed else 1)
    if frames * rows * columns * ds.BitsAllocated > bits:
        raise ValueError


def index_map(label, like):
    """(3, 3) and (3,): the scan's index of a label's voxel, both as (x, y, z), is matrix @ index + shift."""
    frames = [np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing() for image in (label, like)]
    shift = np.subtract(label.GetOrigin(), like.GetOrigin())
    return np.linalg.solve(frames[1], frames[0]), np.linalg.solve(frames[1], shift)


def _check_place(label, like, path, *, strict):
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


def _onto(label, like):
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


def _reordered(label, like, reorient):
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
