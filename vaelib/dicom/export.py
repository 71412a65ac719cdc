"""Write a mask as NIfTI or DICOM SEG, for other programs to open."""

from pathlib import Path

import SimpleITK as sitk

from vaelib.dicom.masks import check_nifti, twin_of
from vaelib.dicom.write import write_seg
from vaelib.engine.errors import InputError
from vaelib.engine.files import atomic_write
from vaelib.volumes import Scan


def check_target(path: str | Path, overwrite: bool = False) -> Path:
    """Raise InputError unless a mask can be written to `path`; worth asking before a long computation."""
    path = Path(path).expanduser()
    if not path.name.lower().endswith((".nii.gz", ".nii", ".dcm")):
        raise InputError(f"{path}: cannot tell what to write; end the name in .nii.gz, .nii or .dcm")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists and is left as it is; choose another name, or allow it to be overwritten")
    twin = twin_of(path)
    if path.suffix.lower() != ".dcm" and twin.exists():
        raise InputError(f"{path}: lies beside {twin.name}, and ITK would mix the two; choose another name")
    return path


def write_mask(
    mask: sitk.Image,
    path: str | Path,
    scan: Scan | str | Path | None,
    *,
    algorithm: str | None = "vaelib",
    overwrite: bool = False,
) -> Path:
    """Write `mask` as NIfTI (`.nii`, `.nii.gz`) or as DICOM SEG (`.dcm`); it appears whole or not at all.

    Parameters
    ----------
    mask : sitk.Image
        Of 0 and 1, on the grid of the scan.
    path : path
        The file to write; its ending says what it will be.
    scan : Scan or path
        What `read_ct` gave, or the folder of the CT series, for a SEG to refer to; a NIfTI has no use for it.
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
        The file exists, its ending is another, or the mask is not on the grid of the scan; the disk is full.
    """
    path = check_target(path, overwrite)
    if path.name.lower().endswith(".dcm"):
        return write_seg(mask, scan, path, algorithm=algorithm)
    with atomic_write(path) as half:
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt8), str(half), useCompression=True)
        try:
            check_nifti(half, mask)
        except InputError:  # on a full disk ITK goes on without a word
            why = "is the disk full? make room and run the same again"
            raise InputError(f"{path}: cannot be written whole: {why}") from None
    return path
