"""Write a predicted mask, or a decoder as ONNX, for other programs to open."""

from pathlib import Path

import SimpleITK as sitk

from vaelib.dicom.nifti import twin_of, unfolded
from vaelib.dicom.write import write_seg
from vaelib.engine.errors import InputError
from vaelib.engine.files import atomic_write

HEADER = 352  # bytes of a NIfTI file before its first voxel


def check_target(path, overwrite=False):
    """Raise InputError unless a mask can be written to `path`; worth asking before a long computation."""
    path = Path(path).expanduser()
    if not path.name.lower().endswith((".nii.gz", ".nii", ".dcm")):
        raise InputError(f"{path}: cannot tell what to write; end the name in .nii.gz, .nii or .dcm")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists and is left as it is; choose another name, or allow it to be overwritten")
    twin = twin_of(path)
    if path.suffix.lower() != ".dcm" and twin.exists():
        raise InputError(
            f"{path}: lies beside {twin.name}, and who asks ITK for one gets the other; choose another name"
        )
    return path


def write_mask(mask, path, series, *, algorithm="vaelib", overwrite=False):
    """Write `mask` as NIfTI (`.nii`, `.nii.gz`) or as DICOM SEG (`.dcm`); it appears whole or not at all.

    Parameters
    ----------
    mask : sitk.Image
        Of 0 and 1, on the grid of the scan.
    path : path
        The file to write; its ending says what it will be.
    series : path
        Folder of the CT series that a SEG refers to; a NIfTI has no use for it.
    algorithm : str or None
        What drew the mask; None says that it was drawn by hand.
    overwrite : bool
        Whether a file that is already there may go.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The file exists, its ending is another, or the mask is not on the grid of the series; the disk is full.
    """
    path = check_target(path, overwrite)
    if path.name.lower().endswith(".dcm"):
        return write_seg(mask, series, path, algorithm=algorithm)
    with atomic_write(path) as half:
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), str(half), useCompression=True)
        if not _is_whole(half, HEADER + mask.GetNumberOfPixels()):  # on a full disk ITK goes on without a word
            raise InputError(f"{path}: cannot be written whole: is the disk full? make room and run the same again")
    return path


def _is_whole(path, size):
    """Whether a NIfTI file holds, once unfolded, as many bytes as it should."""
    try:
        return unfolded(path, size) == size
    except InputError:
        return False
