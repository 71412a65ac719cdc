"""Read a CT series and a mask onto one grid, and distrust both until their geometry adds up.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vaelib.dicom import series_headers, slice_normal
from vaelib.errors import InputError

TOLERANCE = 0.01  # a gap between slices may differ from the others by 1%, or by 0.01 mm if that is more
POSITION = "ImagePositionPatient"


def read_ct(folder):
    """Read the one CT series in `folder`, in HU, with slices ordered by position, never by name.

    The distance between slices comes from their positions (SliceThickness is something else), and every
    slice has its own rescale applied. Oblique series are welcome.

    Parameters
    ----------
    folder : path
        Its DICOM files are one series; see `dicom.series_headers` on what is passed over.

    Returns
    -------
    sitk.Image
        Size (W, H, S), HU, int16 where they are whole numbers and else float32. Slices ascend along the
        slice normal row x column: a series of Pancreas-CT runs from head to feet.

    Raises
    ------
    InputError
        Two series in the folder, mixed size, pixel spacing or orientation, a missing, doubled or sheared
        slice, uneven spacing, a truncated file, no rescale to HU.
    """
    headers = series_headers(folder, pixels=True)
    orientation, spacing = _check_alike(headers, folder)
    distance = _check_positions(headers, slice_normal(orientation))
    image = sitk.GetImageFromArray(np.stack([_hu(ds) for ds in headers]))
    image.SetSpacing((spacing[1], spacing[0], distance))  # PixelSpacing is (between rows, between columns)
    image.SetOrigin([float(v) for v in headers[0].ImagePositionPatient])
    axes = [orientation[:3], orientation[3:], slice_normal(orientation)]
    image.SetDirection(np.transpose(axes).ravel().tolist())
    return image


def _numbers(ds, name):
    return np.atleast_1d(np.array(ds.get(name) or np.nan, float))


def _check_alike(headers, folder):
    """Cosines (6,) and pixel spacing (2,) that all slices share."""
    first, series = headers[0], {str(ds.get("SeriesInstanceUID")): ds.filename for ds in headers}
    if len(series) > 1:
        odd = list(series.values())[1]
        raise InputError(f"{odd}: one of {len(series)} series in {folder}; keep one series in a folder")
    spacing, axes = _numbers(first, "PixelSpacing"), _numbers(first, "ImageOrientationPatient")
    if len(spacing) != 2 or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise InputError(f"{first.filename}: PixelSpacing is {first.get('PixelSpacing')}; export the scan again")
    if not np.allclose(axes.reshape(2, 3) @ axes.reshape(2, 3).T, np.eye(2), atol=1e-3):
        raise InputError(f"{first.filename}: ImageOrientationPatient {axes} is skewed; export the scan again")
    for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        usual = _numbers(first, name)
        for ds in headers:
            if not np.array_equal(np.round(_numbers(ds, name) - usual, 4), 0 * usual):
                here, there = ds.get(name), first.get(name)
                raise InputError(f"{ds.filename}: {name} is {here}, elsewhere {there}; take the odd slices out")
    return axes, spacing.tolist()


def _check_positions(headers, normal):
    """Distance between slices in mm, once they are known to be evenly stacked and complete."""
    names, positions = [ds.filename for ds in headers], np.array([_numbers(ds, POSITION) for ds in headers])
    if len(headers) < 2 or not np.isfinite(positions).all():
        raise InputError(f"{names[0]}: a single slice, or a position that is no number; give the whole series")
    gaps = np.diff(positions @ normal)
    usual = np.sort(gaps)[(len(gaps) - 1) // 2]  # the lower median: a gap that exists
    slack = max(TOLERANCE * usual, 0.01)
    for name, after, gap in zip(names, names[1:], gaps, strict=False):
        if abs(gap - usual) <= slack and gap >= 0.01:
            continue
        missing = round(gap / usual) - 1 if usual >= 0.01 else 0
        fault = "uneven spacing; resample the scan to even slices first"
        if gap < 0.01:
            fault = "the same place twice; remove one of the two"
        elif missing and abs(gap - (missing + 1) * usual) <= slack * (missing + 1):
            fault = f"{missing} missing slice(s); download the series again"
        raise InputError(f"{name}: {gap:.2f} mm from {Path(after).name}, {usual:.2f} is usual: {fault}")
    across = positions - positions[0]
    aside = np.linalg.norm(across - np.outer(across @ normal, normal), axis=1)
    if aside.max() > 0.1:
        name = names[int(aside.argmax())]
        raise InputError(f"{name}: lies {aside.max():.2f} mm aside (tilted gantry?); resample it upright first")
    return float(gaps.mean())


def _hu(ds):
    """HU of one file, (H, W), int16 where they are whole numbers; the stored pixels of `ds` are let go."""
    name, shape = ds.filename, (ds.Rows, ds.Columns)
    slope, intercept = ds.get("RescaleSlope"), ds.get("RescaleIntercept")
    if slope is None or intercept is None:
        raise InputError(f"{name}: has no RescaleSlope and RescaleIntercept, so no HU; export the scan again")
    try:
        if len(ds.PixelData) and not ds.file_meta.TransferSyntaxUID.is_compressed:
            stored, slope, intercept = _stored(ds, shape), float(slope), float(intercept)
        else:  # GDCM (in SimpleITK) decodes what is compressed, and rescales by itself
            stored, slope, intercept = sitk.GetArrayFromImage(sitk.ReadImage(str(name))).reshape(shape), 1.0, 0.0
    except Exception:  # each decoder has its own way to give up on a damaged file
        found = f"{Path(name).stat().st_size} bytes for {shape[0]} x {shape[1]} pixels"
        raise InputError(f"{name}: {found} cannot be decoded, truncated? download it again") from None
    finally:
        ds.pop("PixelData", None)
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        slope, intercept = int(slope), int(intercept)
        ends = [int(end) * slope + intercept for end in (stored.min(), stored.max())]
        if max(map(abs, (*ends, slope, intercept))) < 2**15:  # then 16 bits will do, whatever overflows on the way
            return stored.astype(np.int16) * slope + intercept
    hu = stored * float(slope) + float(intercept)
    with np.errstate(invalid="ignore"):
        whole = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu.astype(np.float32)


def _stored(ds, shape):
    """The uncompressed pixels, (H, W): the plain 16 bits of a CT as they lie there, all else by pydicom."""
    plain = (ds.BitsAllocated, ds.BitsStored, ds.SamplesPerPixel) == (16, 16, 1)
    if plain and ds.file_meta.TransferSyntaxUID.is_little_endian and len(ds.PixelData) == 2 * shape[0] * shape[1]:
        return np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(shape)
    return ds.pixel_array.reshape(shape)


def describe(image):
    """One line on an image: size, spacing (mm), range, and axes (LAI: x to Left, y Anterior, z Inferior)."""
    size, spacing = image.GetSize(), image.GetSpacing()
    low, high = sitk.GetArrayViewFromImage(image).min(), sitk.GetArrayViewFromImage(image).max()
    return (
        f"{' x '.join(map(str, size))} voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm, "
        f"axes {_axes(image)}, values {low:g} to {high:g}, {image.GetPixelIDTypeAsString()}"
    )


def _axes(image):
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())


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
    label = _read_nifti(path, segment) if nifti else _read_seg(path, segment)
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


def _read_nifti(path, segment):
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        raise InputError(f"{path}: not readable as NIfTI; fetch it again") from None
    array = sitk.GetArrayFromImage(image)
    values = [f"{v:g}" for v in np.unique(array[array != 0])]
    if array.ndim != 3:
        raise InputError(f"{path}: has {array.ndim} dimensions; give a label of three")
    wanted = str(segment)
    if wanted.isdigit():
        array = array == int(wanted)
    elif len(values) > 1:
        raise InputError(f"{path}: holds the values {', '.join(values[:9])}; choose one by number, segment=...")
    mask = sitk.GetImageFromArray((array != 0).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def _read_seg(path, segment):
    import highdicom as hd  # takes a second to import

    try:
        seg = hd.seg.segread(path)
        found = {n: seg.get_segment_description(n).segment_label for n in seg.segment_numbers}
    except Exception:  # highdicom and pydicom raise many kinds
        raise InputError(f"{path}: not readable as DICOM SEG; give a SEG or a NIfTI file") from None
    wanted = str(segment).strip().lower()
    numbers = [n for n, name in found.items() if wanted in (str(n), name.strip().lower())]
    if len(numbers) != 1:
        listed = ", ".join(f"{n} {name!r}" for n, name in found.items())
        raise InputError(f"{path}: {len(numbers)} segments are {segment!r}; choose from {listed} by number")
    try:
        volume = seg.get_volume(segment_numbers=numbers, allow_missing_positions=True)
    except Exception as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: its frames make no volume ({why}); export it again") from None
    array = np.asarray(volume.array).reshape(volume.spatial_shape)  # drops the axis of segments
    mask = sitk.GetImageFromArray((array >= 0.5).astype(np.uint8))  # FRACTIONAL counts from one half
    mask.SetOrigin(volume.position)
    mask.SetSpacing(volume.spacing[::-1])
    mask.SetDirection(np.transpose(volume.unit_vectors()[::-1]).ravel().tolist())
    return mask


def _index_map(label, like):
    """(3, 3) and (3,): the scan's index of a label's voxel, both as (x, y, z), is matrix @ index + shift."""
    frames = [np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing() for image in (label, like)]
    shift = np.subtract(label.GetOrigin(), like.GetOrigin())
    return np.linalg.solve(frames[1], frames[0]), np.linalg.solve(frames[1], shift)


def _check_place(label, like, path, *, strict):
    """Raise unless the label's header fits the scan (`strict`) and its mask lies inside the scan."""
    matrix, shift = _index_map(label, like)
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
    matrix, shift = _index_map(label, like)
    steps, first = np.round(matrix), np.round(shift)
    off = np.abs(matrix - steps) @ label.GetSize() + np.abs(shift - first)
    if off.max() > 0.1 or not all((np.abs(steps).sum(axis) == 1).all() for axis in (0, 1)):
        return sitk.Resample(label, like, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    array = sitk.GetArrayFromImage(label).T.transpose(
        np.abs(steps).argmax(1)
    )  # the label's axes as the scan's, x first
    backward, scan = steps.sum(1) < 0, np.array(like.GetSize())
    array = np.flip(array, np.flatnonzero(backward))
    low = (first - backward * (np.array(array.shape) - 1)).astype(int)  # where its first voxel lies in the scan
    start, stop = np.maximum(low, 0), np.minimum(low + array.shape, scan)
    out = np.zeros(scan[::-1], np.uint8)
    here = array[tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))]
    out.T[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = here
    mask = sitk.GetImageFromArray(out)
    mask.CopyInformation(like)
    return mask


def _disagreement(label, like):
    """In words and mm, how the grid of a label differs from that of the scan."""
    centres = [i.TransformContinuousIndexToPhysicalPoint((np.array(i.GetSize()) - 1) / 2) for i in (label, like)]
    moves = zip(np.subtract(*centres), ("right left", "forward back", "down up"), strict=True)
    moved = [f"{abs(mm):.1f} mm {way.split()[int(mm > 0)]}" for mm, way in moves if abs(mm) > 0.05]
    said = [f"its centre lies {', '.join(moved)} of the scan's" if moved else "the centres agree"]
    for what, read in ("voxels", sitk.Image.GetSize), ("mm a voxel", sitk.Image.GetSpacing), ("axes", _axes):
        mine, scans = (" x ".join(f"{v:.3g}" for v in read(i)) if read != _axes else read(i) for i in (label, like))
        said.append(f"{what} {mine}" + ("" if mine == scans else f" (scan {scans})"))
    return ", ".join(said)


def _reordered(label, like, reorient):
    """The label's array (S, H, W), reordered as the caller asks, whatever its header says."""
    array = sitk.GetArrayFromImage(label)
    if reorient == "axes":
        matrix, _ = _index_map(label, like)
        along = np.abs(matrix).argmax(1)
        if sorted(along) != [0, 1, 2]:
            raise InputError(f"reorient='axes': the label's axes {_axes(label)} fit no axes of the scan; use 'index'")
        backward = matrix[range(3), along] < 0
        array = array.transpose(2, 1, 0).transpose(along)
        return np.flip(array, np.flatnonzero(backward)).transpose(2, 1, 0)
    if reorient != "index" and not re.fullmatch("flip-[xyz]{1,3}", str(reorient)):
        raise InputError(f"reorient={reorient!r}: choose 'header', 'axes', 'index', or 'flip-' with x, y, z or several")
    axes = set(reorient.removeprefix("flip-")) if reorient != "index" else ()
    return np.flip(array, ["zyx".index(axis) for axis in axes])
