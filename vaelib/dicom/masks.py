"""Read a mask onto the grid of its scan, and refuse where the two do not fit.

Geometry is DICOM's and ITK's: mm in the patient's LPS frame (left, posterior, superior grow).
"""

import numpy as np
import pydicom
import SimpleITK as sitk

from vaelib.dicom.headers import check_deflated
from vaelib.dicom.nifti import check_nifti, check_size
from vaelib.dicom.pixels import LARGEST
from vaelib.engine.errors import InputError


def read_nifti(path, like, segment):
    """Read one value of a NIfTI label as 0 and 1, on the grid that its header gives; InputError if it cannot be."""
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


def read_seg(path, like, segment):
    """Read one segment of a DICOM SEG as 0 and 1, on the grid of its frames; InputError if it cannot be."""
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
