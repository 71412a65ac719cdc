"""Write a predicted mask for other programs to open."""

import os
from pathlib import Path

import SimpleITK as sitk

from vaelib.dicom import write_seg
from vaelib.errors import InputError


def check_target(path, overwrite=False):
    """Raise InputError unless a mask can be written to `path`; worth asking before a long computation."""
    path = Path(path).expanduser()
    if not path.name.lower().endswith((".nii.gz", ".nii", ".dcm")):
        raise InputError(f"{path}: cannot tell what to write; end the name in .nii.gz, .nii or .dcm")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists and is left as it is; choose another name, or allow it to be overwritten")
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
        The file exists, its ending is another, or the mask is not on the grid of the series.
    """
    path = check_target(path, overwrite)
    if path.name.lower().endswith(".dcm"):
        return write_seg(mask, series, path, algorithm=algorithm)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), str(half), useCompression=True)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
    return path
