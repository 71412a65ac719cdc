"""Read a mask from NIfTI or DICOM SEG, and refuse a file whose header lies before it takes memory."""

import gzip
import warnings
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from vaelib.dicom.geometry import image_like
from vaelib.dicom.headers import SIDES, check_deflated
from vaelib.engine.errors import InputError

LATEST = 1 << 24  # byte at which voxels begin: there may be extensions before them
FINER = 8  # a label may have this many times the voxels of its scan: two along each axis for one
FIELDS = np.dtype({  # of the header of NIfTI-1 (nifti1.h), as they are stored: ITK mends some of them in silence
    "names": ["sizeof_hdr", "pixdim", "vox_offset", "scale", "codes", "quaternion", "qoffset", "srow"],
    "formats": ["i4", "4f4", "f4", "2f4", "2i2", "3f4", "3f4", "(3,4)f4"],
    "offsets": [0, 76, 108, 112, 252, 256, 268, 280], "itemsize": 348,
})  # fmt: skip


def read_nifti(path: Path, like: sitk.Image, segment: str | int) -> sitk.Image:
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
    if str(segment).isdigit():
        return image_like((array == int(segment)).astype(np.uint8), image)
    if len(values) > 1:
        raise InputError(f"{path}: holds the values {', '.join(values[:9])}; choose one by number, segment=...")
    return image_like((array != 0).astype(np.uint8), image)


def read_seg(path: Path, like: sitk.Image, segment: str | int) -> sitk.Image:
    """Read one segment of a DICOM SEG as 0 and 1, on the grid of its frames; InputError if it cannot be."""
    import highdicom as hd  # takes a second to import

    check_deflated(path)
    try:
        ds = pydicom.dcmread(path)
        _check_frames(ds)
        seg = hd.seg.Segmentation.from_dataset(ds, copy=False)
        labels = {n: seg.get_segment_description(n).segment_label for n in seg.segment_numbers}
    except Exception:  # highdicom and pydicom raise many kinds
        raise InputError(f"{path}: not readable as DICOM SEG; give a SEG or a NIfTI file") from None
    wanted = str(segment).strip().lower()
    chosen = [n for n, label in labels.items() if wanted in (str(n), label.strip().lower())]
    if len(chosen) != 1:
        listed = ", ".join(f"{n} {label!r}" for n, label in labels.items())
        raise InputError(f"{path}: {len(chosen)} segments are {segment!r}; choose from {listed} by number")
    try:
        check_size(path, seg.get_volume_geometry().spatial_shape[::-1], like)
        volume = seg.get_volume(segment_numbers=chosen, allow_missing_positions=True)
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


def _check_frames(ds: pydicom.Dataset) -> None:
    """Raise unless a SEG has the frames that its header counts; those who read it take memory for each."""
    frames, rows, columns = len(ds.PerFrameFunctionalGroupsSequence), ds.Rows, ds.Columns
    bits = len(ds.PixelData) * 8 * (64 if ds.file_meta.TransferSyntaxUID.is_compressed else 1)
    if ds.NumberOfFrames != frames or rows not in SIDES or columns not in SIDES:
        raise ValueError
    if frames * rows * columns * ds.BitsAllocated > bits:
        raise ValueError


def header_of(path: str | Path) -> sitk.ImageFileReader:
    """Read the header of a NIfTI file alone, as a SimpleITK reader.

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


def twin_of(path: Path) -> Path:
    """Name the file of which ITK takes the header, or the voxels, where it lies beside `path`: .nii, or .nii.gz."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path.with_name(path.name + ".gz")


def check_size(path: Path, size: Sequence[int], like: sitk.Image) -> None:
    """Raise unless a label of `size` voxels (x, y, z) can belong to the scan `like`."""
    if not 0 < np.prod(size, dtype=float) <= FINER * np.prod(like.GetSize(), dtype=float):
        raise InputError(f"{path}: {tuple(size)} voxels for a scan of {like.GetSize()}; give the label of this scan")


def check_nifti(path: Path, like: sitk.Image) -> None:
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
    size, spacing, cosines = header.GetSize(), header.GetSpacing(), header.GetDirection()
    check_size(path, size, like)
    voxels = int(np.prod(size)) * sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], header.GetPixelID())).nbytes
    start, length = _unpack(path, 2 * (voxels + LATEST))
    order = "<" if start[:4] == FIELDS.itemsize.to_bytes(4, "little") else ">"
    fields = np.frombuffer(start.ljust(FIELDS.itemsize), FIELDS.newbyteorder(order), 1)[0]
    if fields["sizeof_hdr"] != FIELDS.itemsize:
        raise InputError(f"{path}: is no NIfTI-1; convert it")
    apart = _forms_apart(fields, size)
    grid = np.array([*spacing, *header.GetOrigin(), *cosines, apart])
    if not np.isfinite(grid).all() or min(spacing) <= 0 or abs(np.linalg.det(np.reshape(cosines, (3, 3)))) < 0.5:
        raise InputError(f"{path}: its header has no spacing, origin and directions; fetch it again")
    first, scale = float(fields["vox_offset"]), fields["scale"].tolist()
    if not 352 <= first < LATEST or not np.isfinite(scale).all():
        raise InputError(f"{path}: its header has voxels begin at byte {first:g}, scaled by {scale}; fetch it again")
    if first + voxels > length:
        raise InputError(f"{path}: ends before the {size} voxels of its header do; fetch it again")
    if apart > min(spacing) / 2:
        warnings.warn(f"{path}: its sform and its qform lie {apart:.1f} mm apart; look at the overlay", stacklevel=4)


def _unpack(path: Path, most: int) -> tuple[bytes, int]:
    """Read the start of a file that may be gzipped, and count its bytes to the end, where the checksum stands.

    Once there are more than `most`, nothing more is read.
    """
    start, length = b"", 0
    try:
        with path.open("rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            while length <= most and (block := file.read(1 << 20)):
                start, length = start or block, length + len(block)
    except (OSError, EOFError, zlib.error):
        raise InputError(f"{path}: is damaged or cut short; fetch it again") from None
    return start, length


def _forms_apart(fields: np.void, size: Sequence[int]) -> float:
    """Measure how far apart the sform and the qform place a corner, in mm; NaN where one in use is no number."""
    (uses_q, uses_s), (flip, *pixdim) = fields["codes"] > 0, fields["pixdim"].astype(float)
    versor, shift, sform = (fields[name].astype(float) for name in ("quaternion", "qoffset", "srow"))
    real = 1 - versor @ versor  # the square of the quaternion's fourth part
    good_q = np.isfinite([*shift, *pixdim]).all() and real > -0.01  # NaN is not
    if (uses_q and not good_q) or (uses_s and not np.isfinite(sform).all()):
        return np.nan
    if not (uses_q and uses_s):
        return 0.0
    turn = np.reshape(sitk.VersorTransform([*versor, np.sqrt(max(0, real))]).GetMatrix(), (3, 3))
    qform = np.c_[turn * pixdim * [1, 1, -1 if flip < 0 else 1], shift]
    corners = np.array([*product(*([0, n - 1] for n in size), [1])]).T
    return float(np.linalg.norm((qform - sform) @ corners, axis=0).max())
