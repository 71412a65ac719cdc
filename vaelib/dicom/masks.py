"""Read a scan from NIfTI, or a label however it comes, on the grid of its own header; refuse one that lies.

NIfTI is read here and not by ITK, which scales in float32, takes a sheared header for a damaged file, and ends the
process at a name that is not UTF-8.
"""

import gzip
import json
import math
import re
import warnings
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from vaelib.dicom.grid import Grid
from vaelib.dicom.mask_series import read_folder
from vaelib.dicom.seg import LESION, ORGAN, asked, check_size, choose, read_seg, scans_own
from vaelib.engine.errors import InputError

LATEST = 1 << 24  # byte at which voxels begin: there may be extensions before them
FIELDS = ["dim", "datatype", "pixdim", "vox_offset", "scale", "codes", "quaternion", "qoffset", "srow", "magic"]
HEADERS = {  # types and places of `FIELDS` by the length of a header: NIfTI-1 (nifti1.h) and NIfTI-2 (nifti2.h)
    348: (["8i2", "i2", "4f4", "f4", "2f4", "2i2", "3f4", "3f4", "(3,4)f4", "S4"],
          [40, 70, 76, 108, 112, 252, 256, 268, 280, 344]),
    540: (["8i8", "i2", "4f8", "i8", "2f8", "2i4", "3f8", "3f8", "(3,4)f8", "S8"],
          [16, 12, 104, 168, 176, 344, 352, 376, 400, 4]),
}  # fmt: skip
VOXELS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
SQUARE = 1e-4  # by this much axes may differ from orthonormal ones, as ITK has it
NEAR = 1e-3  # so far from a whole number, a value is that number


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a label is NIfTI; others are taken for DICOM SEG."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_label(
    path: str | Path, like: sitk.Image, segment: str | int = "Pancreas", reorient: str | None = None
) -> sitk.Image:
    """Read a label as 0 and 1, uint8, on the grid of its own header.

    Parameters
    ----------
    path : path
        A NIfTI (`.nii`, `.nii.gz`), a folder of DICOM images, or else a DICOM SEG.
    like : sitk.Image
        The scan. Where it has the headers of its slices, a SEG has to refer to them.
    segment : str or int
        As in `read_mask`.
    reorient : str, optional
        As in `read_mask`, which acts on it. With it, a SEG that refers to another scan is warned of and not refused,
        and a folder that says nothing of place is read in the order of InstanceNumber.

    Raises
    ------
    InputError
        The file cannot be read, or is none of these; no such segment; an empty mask; a SEG of another scan.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            array, grid = read_folder(path, like, segment, reorient)
            array = array if array.dtype == bool else _of_values(path, array, segment)
        elif not path.is_file():
            raise InputError(f"{path}: no such file; give a DICOM SEG or a NIfTI file")
        elif is_nifti(path):
            array, grid = check_nifti(path, like)
            array = _of_values(path, array, segment)
        else:
            array, grid = read_seg(path, like, segment, strict=reorient is None)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{path}: cannot be read: {why}; see that you may read it, or try again") from None
    if not array.any():
        raise InputError(f"{path}: the mask is empty; choose another segment or leave this case out")
    return grid.image(array.astype(np.uint8))


def read_nifti(path: Path) -> sitk.Image:
    """Read a scan in HU: int16 where they are whole numbers that fit, else float32; see `volumes.read_ct`."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give a NIfTI, or the folder of a DICOM series")
        array, grid = check_nifti(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; see that you may read it") from None
    low, high = (float(end) for end in (array.min(), array.max()))
    if not (-40_000 < low < -200 and high < 100_000):  # which NaN is not either
        found = f"its numbers, {low:g} to {high:g}, are not HU, where air is near -1000"
        raise InputError(f"{path}: {found}; export the scan without windowing or scaling it")
    whole = -32768 <= low and high <= 32767 and (array.dtype.kind in "iu" or bool((array == np.rint(array)).all()))
    return grid.image(array.astype(np.int16 if whole else np.float32))


def names_of(path: Path) -> dict[int, str]:
    """Read what the values of a label mean, from the `dataset.json` of the Decathlon or nnU-Net beside its folder."""
    try:
        said = json.loads((path.parent.parent / "dataset.json").read_bytes())["labels"]
        pairs = [(key, value) if key.isdecimal() else (value, key) for key, value in said.items()]
        return {int(number): str(name) for number, name in pairs if int(number)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or regions of several values
        return {}


def is_pancreas(segment: str | int, mask: Path) -> bool:
    """Tell whether a pancreas is asked for: by its name, or by a number that has this name in `dataset.json`."""
    names = {str(number): name for number, name in names_of(mask).items()}
    parts = [names.get(part.strip(), part) for part in str(segment).split("+")]
    return any(ORGAN.search(part) and not LESION.search(part) for part in parts)


def files_of(mask: Path | None) -> list[Path]:
    """List the files of a mask: itself, or all those in its folder."""
    return sorted(filter(Path.is_file, mask.rglob("*"))) if mask and mask.is_dir() else [mask] if mask else []


def twin_of(path: Path) -> Path:
    """Name the file of which ITK takes the header, or the voxels, where it lies beside `path`: .nii, or .nii.gz."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path.with_name(path.name + ".gz")


def check_nifti(path: Path, like: sitk.Image | None = None) -> tuple[np.ndarray, Grid]:
    """Read the numbers of a NIfTI file (S, H, W), and their grid, if it holds what its header counts.

    Of a label, `like` is the scan.

    Raises
    ------
    InputError
        No NIfTI, not of three dimensions, far more voxels than the scan has, fewer bytes than they take, geometry that
        is no number, axes that are skewed.
    """
    if twin_of(path).exists():
        raise InputError(f"{path}: lies beside {twin_of(path).name}, and ITK would mix the two; move one of them away")
    fields = _fields(path, _unpack(path, 1))
    count, size = int(fields["dim"][0]), fields["dim"][1:].tolist()
    size = size[:count] if 0 < count < 8 else []
    while len(size) > 3 and size[-1] in (0, 1):
        size.pop()
    if len(size) != 3:
        raise InputError(f"{path}: has {len(size) or count} dimensions; give one of three, one number a voxel")
    if like is not None:
        check_size(path, size, like)
    elif min(size) < 1:
        raise InputError(f"{path}: its header counts {tuple(size)} voxels; export it again")
    if (code := int(fields["datatype"])) not in VOXELS:
        found = f"values of type {code} (colours, complex numbers?)"
        raise InputError(f"{path}: holds {found}, which are no label and no CT; convert it to one whole number a voxel")
    grid = _grid_of(path, fields, size, like)
    first = float(fields["vox_offset"])
    slope, shift = fields["scale"].tolist()
    if not math.isfinite(slope) or slope == 0:  # not scaled
        slope, shift = 1, 0
    if not (352 <= first < LATEST and math.isfinite(shift)):
        found = f"has voxels begin at byte {first:g} and adds {shift:g} to them"
        raise InputError(f"{path}: its header {found}; export it again")
    kind = np.dtype(VOXELS[code]).newbyteorder(fields.dtype["datatype"].byteorder)
    end = int(first) + math.prod(size) * kind.itemsize
    if len(data := _unpack(path, end)) < end:
        raise InputError(f"{path}: ends before the {tuple(size)} voxels of its header do; fetch it again")
    stored = np.frombuffer(data, kind, math.prod(size), int(first)).reshape(size[::-1])
    if (slope, shift) != (1, 0):
        stored = np.multiply(stored, slope, dtype=float) + shift
    return stored, grid


def _unpack(path: Path, keep: int) -> bytearray:
    """Read the first bytes of a file that may be gzipped, `keep` or some more, and go on up to its checksum.

    Once there are far more than `keep`, nothing more is read.
    """
    data, length = bytearray(), 0
    try:
        with path.open("rb") as raw:
            file = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            while length < 2 * keep + LATEST * (keep > 1) and (block := file.read(1 << 20)):
                length += len(block)
                if len(data) < keep:
                    data += block
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{path}: is damaged or cut short; fetch it again") from None
    return data


def _fields(path: Path, start: bytearray) -> np.void:
    """Find the header of a NIfTI file in its first bytes."""
    for order in "<>":
        length = int(np.frombuffer(start[:4].ljust(4), order + "i4")[0])
        if length in HEADERS and len(start) >= length:
            formats, offsets = HEADERS[length]
            names = np.dtype({"names": FIELDS, "formats": formats, "offsets": offsets, "itemsize": length})
            fields = np.frombuffer(start, names.newbyteorder(order), 1)[0]
            if fields["magic"][:2] == b"n+" or fields["magic"][:2] == b"ni" and fields["vox_offset"] >= length:
                return fields
            raise InputError(f"{path}: is one half of a pair (.hdr, .img); convert it to NIfTI in one file")
    text = bytes(start[:64]).strip()
    found = "it is a web page" if text[:1] == b"<" else f"it begins with {text[:8]!r}" if text else "it is empty"
    if start[128:132] == b"DICM":
        raise InputError(f"{path}: not readable as NIfTI: it is DICOM; let its name end in .dcm")
    raise InputError(f"{path}: not readable as NIfTI: {found}; give the label itself, a DICOM SEG or a NIfTI file")


def _grid_of(path: Path, fields: np.void, size: Sequence[int], like: sitk.Image | None) -> Grid:
    """Find where a header places the first voxel, and how it steps, in LPS.

    A header has two ways to say so, sform and qform, and ITK's choice between them is kept. Where they lie more than
    half a voxel apart, a warning says so. Axes that are not square are warned of: where all voxels lie within half a
    voxel of the scan's, they are those, and where a shear moves others by more than that, it is refused.
    """
    (in_q, in_s), pixdim, sform = fields["codes"] > 0, fields["pixdim"][1:].astype(float), fields["srow"].astype(float)
    qform = _qform(fields)
    used = [form for form, in_use in ((qform, in_q), (sform, in_s)) if in_use]
    with np.errstate(all="ignore"):
        axes = sform[:, :3] / np.linalg.norm(sform[:, :3], axis=0)
    skewed = not np.abs(axes.T @ axes - np.eye(3)).max() <= SQUARE
    affine = np.c_[np.diag([-1, -1, 1] * pixdim), np.zeros(3)]
    if used:
        affine = qform if in_q and (fields["codes"][1] != 1 or skewed) else sform
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if not np.isfinite([affine, *used]).all() or min(spacing.min(), pixdim.min() if affine is not sform else 1) <= 0:
        raise InputError(f"{path}: its header has no spacing, origin and directions; export it again")
    axes = affine[:, :3] / spacing
    spacing = np.where(np.abs(pixdim - spacing) <= 1e-3 * spacing, pixdim, spacing)  # the same, and not rounded again
    corners = np.array([*product(*([0, n - 1] for n in size), [1])]).T
    if len(used) == 2 and (apart := np.linalg.norm((qform - sform) @ corners, axis=0).max()) > spacing.min() / 2:
        warnings.warn(f"{path}: its sform and its qform lie {apart:.1f} mm apart; look at the overlay", stacklevel=4)
    turned, own = np.c_[axes, affine[:, 3]] * [[-1], [-1], [1]], None  # NIfTI is RAS, DICOM is LPS
    if (skew := np.abs(axes.T @ axes - np.eye(3)).max()) > SQUARE:
        own = None if like is None else scans_own(turned[:, :3] * spacing, turned[:, 3], size, np.inf, like)
        said = f"its axes are not square, by {np.degrees(skew):.2g} degrees"
        if not own and skew * np.max(size * spacing) > spacing.min():
            raise InputError(f"{path}: {said} (sheared?); resample it on square axes, those of its scan")
        warnings.warn(f"{path}: {said}; look at the overlay", stacklevel=4)
    return own or Grid(tuple(turned[:, 3].tolist()), tuple(spacing.tolist()), tuple(turned[:, :3].ravel().tolist()))


def _qform(fields: np.void) -> np.ndarray:
    """Compute the affine (3, 4) of a header's quaternion; NaN where it is none."""
    flip, *pixdim = fields["pixdim"].astype(float)
    versor, shift = fields["quaternion"].astype(float), fields["qoffset"].astype(float)
    real = 1 - versor @ versor  # the square of the quaternion's fourth part
    if not real > -0.01:
        return np.full((3, 4), np.nan)
    turn = np.reshape(sitk.VersorTransform([*versor, np.sqrt(max(0, real))]).GetMatrix(), (3, 3))
    return np.c_[turn * pixdim * [1, 1, -1 if flip < 0 else 1], shift]


def _of_values(path: Path, array: np.ndarray, segment: str | int) -> np.ndarray:
    """Mark the voxels of the values that are asked for.

    A name is looked up in `dataset.json`, where there is one; else it stands for all that is not 0.
    """
    if array.dtype.kind == "f":
        array = _whole(path, array)
    found, names = [int(v) for v in np.unique(array[array != 0])], names_of(path)
    if found and names and {*found} <= names.keys():
        numbers = choose(path, segment, {v: names[v] for v in found})
        return np.isin(array, numbers).astype(np.uint8)
    if found and re.fullmatch(r"[-+\d\s]+", str(segment)):
        return np.isin(array, asked(path, segment, {v: str(v) for v in found})).astype(np.uint8)
    if len(found) > 1:
        mark = "=" if found[0] < 0 else " "  # or the command line takes -1+1 for an option
        advice = f"`vaelib prepare --segment{mark}{found[0]}`, or several: --segment{mark}{found[0]}+{found[1]}"
        raise InputError(f"{path}: holds the values {', '.join(map(str, found[:9]))}; choose one by number: {advice}")
    return (array != 0).astype(np.uint8)


def _whole(path: Path, array: np.ndarray) -> np.ndarray:
    """Take values near whole numbers for these, NaN for 0, and cut a soft mask at one half; warn of the latter two."""
    if (lost := np.isnan(array)).any():
        warnings.warn(f"{path}: NaN in {lost.sum()} voxels is taken for background", stacklevel=5)
        array = np.where(lost, 0, array)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds infinite values, which are no label; export it again")
    near = np.rint(array)
    between = np.abs(array - near) > NEAR
    if not between.any():
        return near
    if near.min() < 0 or near.max() > 1:
        ends = f"between {array.min():g} and {array.max():g}"
        raise InputError(f"{path}: holds fractions {ends}, neither labels nor a soft mask; round or threshold it first")
    warnings.warn(f"{path}: is soft ({between.sum()} voxels lie between 0 and 1); it is cut at 0.5", stacklevel=5)
    return array >= 0.5
