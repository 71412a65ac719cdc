"""Read a CT series in HU, and distrust it until its geometry adds up.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.uid import RLELossless

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
        syntax = ds.file_meta.TransferSyntaxUID
        if len(ds.PixelData) and (not syntax.is_compressed or syntax == RLELossless):
            stored, slope, intercept = _stored(ds, shape), float(slope), float(intercept)
        else:  # GDCM (in SimpleITK) decodes the rest, and rescales by itself; at RLE, pydicom is five times as fast
            stored, slope, intercept = _decoded(name, shape), 1.0, 0.0
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


def _decoded(name, shape):
    image = sitk.ReadImage(str(name), imageIO="GDCMImageIO")  # named, or each kind of file would be tried
    return sitk.GetArrayFromImage(image).reshape(shape)


def _stored(ds, shape):
    """Pixels as they were stored, (H, W): the plain 16 bits of a CT as they lie there, all else by pydicom."""
    syntax = ds.file_meta.TransferSyntaxUID
    plain = (ds.BitsAllocated, ds.BitsStored, ds.SamplesPerPixel) == (16, 16, 1) and not syntax.is_compressed
    if plain and syntax.is_little_endian and len(ds.PixelData) == 2 * shape[0] * shape[1]:
        return np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(shape)
    return ds.pixel_array.reshape(shape)


def describe(image):
    """One line on an image: size, spacing (mm), range, and axes (LAI: x to Left, y Anterior, z Inferior)."""
    size, spacing = image.GetSize(), image.GetSpacing()
    low, high = sitk.GetArrayViewFromImage(image).min(), sitk.GetArrayViewFromImage(image).max()
    return (
        f"{' x '.join(map(str, size))} voxels of {' x '.join(f'{s:.4g}' for s in spacing)} mm, "
        f"axes {axes_of(image)}, values {low:g} to {high:g}, {image.GetPixelIDTypeAsString()}"
    )


def axes_of(image):
    """The letters to which the axes x, y and z of an image run: LAI is to the left, the front and the feet."""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
