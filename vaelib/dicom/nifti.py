"""What the header of a NIfTI label has to say before any memory is taken for its voxels."""

import gzip
import struct
import warnings
import zlib

import numpy as np
import SimpleITK as sitk

from vaelib.engine.errors import InputError

FINER = 8  # a label may have this many times the voxels of its scan: two along each axis for one


def header_of(path):
    """The header of a NIfTI file, as a SimpleITK reader that has not read its voxels.

    Raises
    ------
    InputError
        It is no NIfTI file.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NiftiImageIO")  # named, or each kind of file would be tried
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(f"{path}: not readable as NIfTI; fetch it again") from None
    return reader


def twin_of(path):
    """The file of which ITK takes the header, or the voxels, where it lies beside `path`: .nii, or .nii.gz."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path.with_name(path.name + ".gz")


def check_size(path, size, like):
    """Raise unless a label of `size` voxels (x, y, z) can belong to the scan `like`."""
    if not 0 < np.prod(size, dtype=float) <= FINER * np.prod(like.GetSize(), dtype=float):
        raise InputError(f"{path}: {tuple(size)} voxels for a scan of {like.GetSize()}; give the label of this scan")


def check_nifti(path, like):
    """Raise unless a file holds the voxels that its header counts, and these can be a label of the scan `like`.

    A header places voxels in two ways, by its sform and by its qform. Where they differ by more than half a voxel, a
    warning says so, for one of them is believed.

    Raises
    ------
    InputError
        No NIfTI, not of three dimensions, far more voxels than the scan has, fewer bytes than they take, geometry that
        is no number.
    """
    if twin_of(path).exists():
        raise InputError(f"{path}: lies beside {twin_of(path).name}, and ITK would mix the two; move one of them away")
    header = header_of(path)
    if header.GetDimension() != 3 or header.GetNumberOfComponents() != 1:
        raise InputError(f"{path}: has {header.GetDimension()} dimensions; give a label of three, one number a voxel")
    check_size(path, header.GetSize(), like)
    grid = np.array([*header.GetSpacing(), *header.GetOrigin(), *header.GetDirection()])
    cosines = np.reshape(header.GetDirection(), (3, 3))
    if not np.isfinite(grid).all() or min(header.GetSpacing()) <= 0 or abs(np.linalg.det(cosines)) < 0.5:
        raise InputError(f"{path}: its header has no spacing, origin and directions; fetch it again")
    with _opened(path) as file:
        raw = file.read(348)
    order = "<" if raw[:4] == (348).to_bytes(4, "little") else ">"
    told = lambda kind, at: np.array(struct.unpack_from(order + kind, raw, at), float)  # noqa: E731
    if told("i", 0) != 348:
        raise InputError(f"{path}: is no NIfTI-1; convert it")
    start, *scale = told("3f", 108)
    one = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], header.GetPixelID())).nbytes
    need = start + int(np.prod(header.GetSize())) * one
    if not 352 <= start < 1 << 24 or not np.isfinite(scale).all():
        raise InputError(f"{path}: its header has voxels begin at byte {start:g}, scaled by {scale}; fetch it again")
    if need > unfolded(path, need):
        raise InputError(f"{path}: ends before the {header.GetSize()} voxels of its header do; fetch it again")
    _check_forms(path, header, told)


def _opened(path):
    with path.open("rb") as file:
        folded = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if folded else path.open("rb")


def unfolded(path, need):
    """Bytes in a file once it is unfolded, which is gone through to its end: its checksum stands there.

    Beyond twice what it needs, nothing is counted.

    Raises
    ------
    InputError
        It is damaged, or cut short.
    """
    size = 0
    try:
        with _opened(path) as file:
            while size <= 2 * need and (block := file.read(1 << 20)):
                size += len(block)
    except (OSError, EOFError, zlib.error):
        raise InputError(f"{path}: is damaged or cut short; fetch it again") from None
    return size


def _check_forms(path, header, told):
    from scipy.spatial.transform import Rotation  # takes half a second to import

    (has_q, has_s), (fold, *pixdim), (b, c, d, *shift) = told("2h", 252), told("4f", 76), told("6f", 256)
    sform, short = told("12f", 280).reshape(3, 4), 1 - b * b - c * c - d * d
    good_q, good_s = np.isfinite([*shift, *pixdim]).all() and short > -0.01, np.isfinite(sform).all()
    if (has_q > 0 and not good_q) or (has_s > 0 and not good_s):
        raise InputError(f"{path}: its header has no spacing, origin and directions; fetch it again")
    if has_q <= 0 or has_s <= 0:
        return
    turn = Rotation.from_quat([b, c, d, np.sqrt(max(0, short))]).as_matrix()
    qform = np.c_[turn * pixdim * [1, 1, -1 if fold < 0 else 1], shift]
    corners = np.array(np.meshgrid(*([0, n - 1] for n in header.GetSize()))).reshape(3, -1)
    apart = np.linalg.norm((qform - sform) @ np.vstack([corners, np.ones(8)]), axis=0).max()
    if not apart <= min(header.GetSpacing()) / 2:
        warnings.warn(f"{path}: its sform and its qform lie {apart:.1f} mm apart; look at the overlay", stacklevel=5)
