"""Read a CT series in HU, and distrust it until its geometry adds up.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vaelib.dicom.geometry import axes_of, check_place, onto_grid, reordered, slice_normal
from vaelib.dicom.headers import series_headers
from vaelib.dicom.masks import read_nifti, read_seg
from vaelib.dicom.pixels import check_pixels, hu_of, numbers, value_of
from vaelib.engine.errors import InputError

TOLERANCE = 0.01  # a gap between slices may differ from the others by 1%, or by 0.01 mm if that is more
POSITION = "ImagePositionPatient"


class Scan(sitk.Image):
    """A CT scan: a SimpleITK image in HU that keeps the headers of its slices."""

    def __init__(self, image: sitk.Image, headers: list):
        super().__init__(image)
        self.headers = headers


def read_ct(folder):
    """Read the one CT series in `folder`, in HU, with slices ordered by position, never by name.

    The distance between slices comes from their positions (SliceThickness is something else), and every
    slice has its own rescale applied. Oblique series are welcome.

    Parameters
    ----------
    folder : path
        Its DICOM files are one series; see `headers.series_headers` on what is passed over.

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
    image = sitk.GetImageFromArray(np.stack([hu_of(ds) for ds in headers]))
    image.SetSpacing((spacing[1], spacing[0], distance))  # PixelSpacing is (between rows, between columns)
    image.SetOrigin([float(v) for v in headers[0].ImagePositionPatient])
    axes = [orientation[:3], orientation[3:], slice_normal(orientation)]
    image.SetDirection(np.transpose(axes).ravel().tolist())
    return Scan(image, headers)


def _check_alike(headers, folder):
    """Cosines (6,) and pixel spacing (2,) that all slices share."""
    first, series = headers[0], {str(value_of(ds, "SeriesInstanceUID")): ds.filename for ds in headers}
    if len(series) > 1:
        odd = list(series.values())[1]
        raise InputError(f"{odd}: one of {len(series)} series in {folder}; keep one series in a folder")
    spacing, axes = numbers(first, "PixelSpacing"), numbers(first, "ImageOrientationPatient")
    if len(spacing) != 2 or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise InputError(f"{first.filename}: PixelSpacing is {first.get('PixelSpacing')}; export the scan again")
    for ds in headers:
        check_pixels(ds)
    if not np.allclose(axes.reshape(2, 3) @ axes.reshape(2, 3).T, np.eye(2), atol=1e-3):
        raise InputError(f"{first.filename}: ImageOrientationPatient {axes} is skewed; export the scan again")
    for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        usual = numbers(first, name)
        for ds in headers:
            if not np.array_equal(np.round(numbers(ds, name) - usual, 4), 0 * usual):
                here, there = ds.get(name), first.get(name)
                raise InputError(f"{ds.filename}: {name} is {here}, elsewhere {there}; take the odd slices out")
    return axes, spacing.tolist()


def _check_positions(headers, normal):
    """Distance between slices in mm, once they are known to be evenly stacked and complete."""
    names, positions = [ds.filename for ds in headers], np.array([numbers(ds, POSITION) for ds in headers])
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


def describe(image):
    """One line on an image: size, spacing (mm), range, and axes (LAI: x to Left, y Anterior, z Inferior)."""
    size, spacing = image.GetSize(), image.GetSpacing()
    low, high = sitk.GetArrayViewFromImage(image).min(), sitk.GetArrayViewFromImage(image).max()
    return (
        f"{' x '.join(map(str, size))} voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm, "
        f"axes {axes_of(image)}, values {low:g} to {high:g}, {image.GetPixelIDTypeAsString()}"
    )


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
    label = read_nifti(path, like, segment) if nifti else read_seg(path, like, segment)
    if not sitk.GetArrayViewFromImage(label).any():
        raise InputError(f"{path}: the mask is empty; choose another segment or leave this case out")
    if reorient in (None, "header"):
        check_place(label, like, path, strict=reorient is None)
        return onto_grid(label, like)
    array = reordered(label, like, reorient)
    size = array.shape[::-1]
    if size != like.GetSize():
        raise InputError(f"{path}: {size} voxels for a scan of {like.GetSize()}; reorient={reorient!r} needs as many")
    mask = sitk.GetImageFromArray(np.ascontiguousarray(array))
    mask.CopyInformation(like)
    return mask
