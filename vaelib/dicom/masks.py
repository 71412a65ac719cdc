"""Read a label from NIfTI or DICOM SEG on the grid of its own header, and refuse one that lies before it takes memory.

NIfTI is read here and not by ITK, which scales in float32, takes a sheared header for a damaged file, and ends the
process at a name that is not UTF-8.
"""

import gzip
import re
import warnings
import zlib
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.pixels import get_decoder, iter_pixels

from vaelib.dicom.geometry import slice_normal
from vaelib.dicom.grid import Grid, even_grid
from vaelib.dicom.headers import SIDES, check_deflated, half_digit, rounding_of_cosines
from vaelib.dicom.identity import NO_ONE
from vaelib.engine.errors import InputError

LATEST = 1 << 24  # byte at which voxels begin: there may be extensions before them
FINER = 8  # a label may have this many times the voxels of its scan: two along each axis for one
FIELDS = ["dim", "datatype", "pixdim", "vox_offset", "scale", "codes", "quaternion", "qoffset", "srow", "magic"]
HEADERS = {  # types and places of `FIELDS` by the length of a header: NIfTI-1 (nifti1.h) and NIfTI-2 (nifti2.h)
    348: (["8i2", "i2", "4f4", "f4", "2f4", "2i2", "3f4", "3f4", "(3,4)f4", "S4"],
          [40, 70, 76, 108, 112, 252, 256, 268, 280, 344]),
    540: (["8i8", "i2", "4f8", "i8", "2f8", "2i4", "3f8", "3f8", "(3,4)f8", "S8"],
          [16, 12, 104, 168, 176, 344, 352, 376, 400, 4]),
}  # fmt: skip
VOXELS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
OTHERS = {1: "single bits", 32: "complex numbers", 1792: "complex numbers", 128: "colours", 2304: "colours"}
SQUARE = 5e-5  # by this much axes may differ from orthonormal ones, as ITK has it
NEAR = 1e-3  # so far from a whole number, a value is that number
CODED = {"15776009", "181277001", "T-65000", "C0030274"}  # pancreas in SNOMED CT (structure, entire), SRT and UMLS
WHOLE = re.compile(r"(entire|whole|total|structure|of|the|organ|\W|_|\d)*", re.IGNORECASE)
PART = re.compile(r"pan[ck]rea|head|neck|body|tail|uncinate", re.IGNORECASE)
BESIDE = re.compile(r"pan[ck]rea|tumou?r|lesion|cyst|carcinoma|pdac", re.IGNORECASE)


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a label is NIfTI; others are taken for DICOM SEG."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_label(
    path: str | Path, like: sitk.Image, segment: str | int = "Pancreas", *, strict: bool = True
) -> sitk.Image:
    """Read a label as 0 and 1, uint8, on the grid of its own header.

    Parameters
    ----------
    path : path
        A NIfTI (`.nii`, `.nii.gz`) or else a DICOM SEG.
    like : sitk.Image
        The scan. Where it has the headers of its slices, a SEG has to refer to them.
    segment : str or int
        As in `read_mask`.
    strict : bool
        Whether a SEG that refers to another scan is refused; else it is warned of.

    Raises
    ------
    InputError
        The file cannot be read, or is none of these; no such segment; an empty mask; a SEG of another scan.
    """
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give a DICOM SEG or a NIfTI file")
        if is_nifti(path):
            array, grid = check_nifti(path, like)
            array = _of_values(path, array, segment)
        else:
            array, grid = _read_seg(path, like, segment, strict)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"{path}: cannot be read: {why}; see that you may read it, or try again") from None
    if not array.any():
        raise InputError(f"{path}: the mask is empty; choose another segment or leave this case out")
    label = sitk.GetImageFromArray(array)
    grid.put_on(label)
    return label


def check_size(path: Path, size: Sequence[int], like: sitk.Image) -> None:
    """Raise unless a label of `size` voxels (x, y, z) can belong to the scan `like`."""
    if min(size) < 1 or np.prod(size, dtype=float) > FINER * np.prod(like.GetSize(), dtype=float):
        raise InputError(f"{path}: {tuple(size)} voxels for a scan of {like.GetSize()}; give the label of this scan")


# NIfTI


def twin_of(path: Path) -> Path:
    """Name the file of which ITK takes the header, or the voxels, where it lies beside `path`: .nii, or .nii.gz."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path.with_name(path.name + ".gz")


def check_nifti(path: Path, like: sitk.Image) -> tuple[np.ndarray, Grid]:
    """Read the numbers of a NIfTI file (S, H, W), and their grid, if it holds what its header counts.

    Raises
    ------
    InputError
        No NIfTI, not of three dimensions, far more voxels than the scan has, fewer bytes than they take, geometry that
        is no number, axes that are skewed.
    """
    if twin_of(path).exists():
        raise InputError(f"{path}: lies beside {twin_of(path).name}, and ITK would mix the two; move one of them away")
    fields = _fields(path, _unpack(path, 1)[0])
    count, size = int(fields["dim"][0]), fields["dim"][1:].tolist()
    size = size[:count] if 0 < count < 8 else []
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    if len(size) != 3:
        raise InputError(f"{path}: has {len(size) or count} dimensions; give a label of three, one number a voxel")
    check_size(path, size, like)
    code = int(fields["datatype"])
    if code not in VOXELS:
        what = OTHERS.get(code, f"values of type {code}")
        raise InputError(f"{path}: holds {what}, which are no label; convert it to one whole number a voxel")
    grid = _grid_of(path, fields, size)
    first, (slope, shift) = float(fields["vox_offset"]), fields["scale"].tolist()
    if not 352 <= first < LATEST or not np.isfinite([slope, shift]).all():
        said = f"its header has voxels begin at byte {first:g}, scaled by {[slope, shift]}"
        raise InputError(f"{path}: {said}; export it again")
    kind = np.dtype(VOXELS[code]).newbyteorder(fields.dtype["datatype"].byteorder)
    data, length = _unpack(path, int(first) + int(np.prod(size)) * kind.itemsize)
    if len(data) < int(first) + int(np.prod(size)) * kind.itemsize:
        raise InputError(f"{path}: ends before the {tuple(size)} voxels of its header do; fetch it again")
    stored = np.frombuffer(data, kind, int(np.prod(size)), int(first)).reshape(size[::-1])
    if slope != 0 and (slope, shift) != (1, 0):
        stored = np.multiply(stored, slope, dtype=float) + shift
    return stored, grid


def _unpack(path: Path, keep: int) -> tuple[bytearray, int]:
    """Read the first bytes of a file that may be gzipped, `keep` or some more, and count all up to its checksum.

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
    return data, length


def _fields(path: Path, start: bytearray) -> np.void:
    """Find the header of a NIfTI file in its first bytes."""
    for order in "<>":
        length = int(np.frombuffer(start[:4].ljust(4), order + "i4")[0])
        if length in HEADERS and len(start) >= length:
            formats, offsets = HEADERS[length]
            names = np.dtype({"names": FIELDS, "formats": formats, "offsets": offsets, "itemsize": length})
            fields = np.frombuffer(start, names.newbyteorder(order), 1)[0]
            if fields["magic"][:2] == b"n+":
                return fields
            raise InputError(f"{path}: is one half of a pair (.hdr, .img); convert it to NIfTI in one file")
    text = bytes(start[:64]).strip()
    found = "it is a web page" if text[:1] == b"<" else f"it begins with {text[:8]!r}" if text else "it is empty"
    if start[128:132] == b"DICM":
        raise InputError(f"{path}: not readable as NIfTI: it is DICOM; let its name end in .dcm")
    raise InputError(f"{path}: not readable as NIfTI: {found}; give the label itself, a DICOM SEG or a NIfTI file")


def _grid_of(path: Path, fields: np.void, size: Sequence[int]) -> Grid:
    """Find where a header places the first voxel, and how it steps, in LPS.

    A header has two ways to say so, sform and qform, and ITK's choice between them is kept. Where they lie more than
    half a voxel apart, a warning says so. Axes that are not square become so around the centre, with a warning, if
    that moves no voxel by half a voxel.
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
    if not np.isfinite([affine, *used]).all() or spacing.min() <= 0:
        raise InputError(f"{path}: its header has no spacing, origin and directions; export it again")
    axes = affine[:, :3] / spacing
    spacing = np.where(np.abs(pixdim - spacing) <= 1e-3 * spacing, pixdim, spacing)  # the same, and not rounded again
    corners = np.array([*product(*([0, n - 1] for n in size), [1])]).T
    if len(used) == 2 and (apart := np.linalg.norm((qform - sform) @ corners, axis=0).max()) > spacing.min() / 2:
        warnings.warn(f"{path}: its sform and its qform lie {apart:.1f} mm apart; look at the overlay", stacklevel=4)
    origin = affine[:, 3]
    if np.abs(axes.T @ axes - np.eye(3)).max() > SQUARE:
        left, _, right = np.linalg.svd(axes)
        middle = np.subtract(size, 1) / 2
        off = np.linalg.norm((left @ right - axes) * spacing @ (corners[:3] - middle[:, None]), axis=0).max()
        said = f"its axes are not square, by {off:.2g} mm at a corner"
        if off > spacing.min() / 2:
            raise InputError(f"{path}: {said} (sheared?); resample the label on the grid of its scan")
        warnings.warn(f"{path}: {said}; they are taken for square, look at the overlay", stacklevel=4)
        origin, axes = origin + (axes - left @ right) * spacing @ middle, left @ right
    turned = np.c_[axes, origin] * [[-1], [-1], [1]]  # NIfTI is RAS, DICOM is LPS
    return Grid(tuple(turned[:, 3].tolist()), tuple(spacing.tolist()), tuple(turned[:, :3].ravel().tolist()))


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
    """Mark the voxels of the values that are asked for; a name means nothing here, and stands for all that is not 0."""
    if array.dtype.kind == "f":
        array = _whole(path, array)
    found = np.unique(array[array != 0])
    if not len(found) or not re.fullmatch(r"[-+\d\s]+", str(segment)):
        if len(found) > 1:
            shown, some = (sep.join(f"{v:g}" for v in found[:n]) for sep, n in ((", ", 9), ("+", 2)))
            advice = f"--segment {found[0]:g}, or join several, --segment {some}"
            raise InputError(f"{path}: holds the values {shown}; choose one by number, {advice}")
        return (array != 0).astype(np.uint8)
    numbers = _asked(path, segment, {int(v): f"{v:g}" for v in found})
    return np.isin(array, numbers).astype(np.uint8)


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


def _asked(path: Path, segment: str | int, labels: dict[int, str], default: Sequence[int] = ()) -> list[int]:
    """Find the numbers of the segments that are asked for, by number or label in any case, or several joined by +."""
    wanted = str(segment).strip().casefold()

    def named(part: str) -> list[int]:
        return [n for n, label in labels.items() if part in (str(n), label.casefold())]

    parts = [wanted] if named(wanted) else [part.strip() for part in wanted.split("+")]
    found = {part: named(part) or (list(default) if part == "pancreas" else []) for part in parts}
    numbers = [n for some in found.values() for n in some]
    if not numbers or max(map(len, found.values())) > 1:
        listed = ", ".join(f"{n} {label!r}" if label != str(n) else label for n, label in labels.items())
        some = numbers or [n for n, label in labels.items() if PART.search(label)] or list(labels)[:1]
        advice = f"--segment {'+'.join(map(str, some))}"
        raise InputError(f"{path}: {len(numbers)} segments are {segment!r}; choose from {listed} by number, {advice}")
    if gone := [part for part, some in found.items() if not some]:
        warnings.warn(f"{path}: has no segment {', '.join(gone)}; the mask is of the others", stacklevel=5)
    return numbers


# DICOM SEG


def _read_seg(path: Path, like: sitk.Image, segment: str | int, strict: bool) -> tuple[np.ndarray, Grid]:
    """Read some segments of a DICOM SEG as 0 and 1 (S, H, W), and the grid of its frames."""
    check_deflated(path)
    try:
        ds = pydicom.dcmread(path)
        if ds.get("Modality") != "SEG" or "SegmentSequence" not in ds:
            what = ds.get("Modality") or "of no stated modality"
            raise InputError(f"{path}: is {what}, and not readable as DICOM SEG; give a SEG or a NIfTI file")
        _check_frames(path, ds)
        _check_references(path, ds, like, strict)
        return _of_frames(path, ds, like, _segments(path, ds, segment))
    except (InputError, OSError):
        raise
    except Exception as error:  # pydicom raises many kinds
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not readable as DICOM SEG ({why}); export it again, or give a NIfTI file") from None


def _check_frames(path: Path, ds: pydicom.Dataset) -> None:
    """Raise unless a SEG has the frames that its header counts; those who read it take memory for each."""
    frames, rows, columns = len(ds.PerFrameFunctionalGroupsSequence), ds.Rows, ds.Columns
    if ds.NumberOfFrames != frames or rows not in SIDES or columns not in SIDES:
        said = f"counts {ds.NumberOfFrames} frames of {rows} x {columns} and describes {frames}"
        raise InputError(f"{path}: {said}; export it again")
    syntax, held = ds.file_meta.TransferSyntaxUID, len(ds.get("PixelData") or b"")
    if not syntax.is_compressed and frames * rows * columns * ds.BitsAllocated > 8 * held:
        raise InputError(f"{path}: ends before its {frames} frames do; fetch it again")
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise InputError(f"{path}: is compressed as {syntax.name}, which nothing here reads; export it uncompressed")


def _segments(path: Path, ds: pydicom.Dataset, segment: str | int) -> list[int]:
    """Find the segments of a SEG that are asked for; the pancreas goes by its label, or else by its code."""
    labels = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "").strip() for item in ds.SegmentSequence}
    coded = [
        int(item.SegmentNumber)
        for item in ds.SegmentSequence
        if any(code.get("CodeValue") in CODED for code in item.get("SegmentedPropertyTypeCodeSequence") or ())
    ]
    entire = [n for n, label in labels.items() if re.fullmatch("pan[ck]reas", WHOLE.sub("", label).casefold())]
    numbers = _asked(path, segment, labels, entire if len(entire) == 1 else coded)
    if str(segment).strip().casefold() == "pancreas":
        beside = {n: label for n, label in labels.items() if n not in numbers and BESIDE.search(label)}
        if beside:
            joined = "+".join(map(str, sorted({*numbers, *beside})))
            what = ", ".join(f"{n} {label!r}" for n, label in beside.items())
            warnings.warn(f"{path}: {what} is left out; --segment {joined} joins them", stacklevel=5)
    return numbers


def _check_references(path: Path, ds: pydicom.Dataset, like: sitk.Image, strict: bool) -> None:
    """Compare the scan that a SEG refers to with the scan at hand, as far as both say who they are.

    A SEG that refers to slices of this scan is of this scan; should it name another patient or frame of reference all
    the same, a warning says so. One that refers to other slices in the same frame of reference is another
    reconstruction's, and read with a warning. Anything else is another scan's, and an error where `strict`.
    """
    headers = getattr(like, "headers", [])
    series = ds.get("ReferencedSeriesSequence") or []
    drawn = [
        _overlap((e.value for e in ds.iterall() if e.keyword == "ReferencedSOPInstanceUID"), headers, "SOPInstanceUID"),
        _overlap((item.get("SeriesInstanceUID") for item in series), headers, "SeriesInstanceUID"),
    ]
    own = next((known for known in drawn if known is not None), None)
    frame, patient = (_overlap([ds.get(name)], headers, name) for name in ("FrameOfReferenceUID", "PatientID"))
    said = {"refers to none of the scan's slices": own, "has another FrameOfReferenceUID than the scan": frame,
            "has another PatientID than the scan": patient}  # fmt: skip
    faults = " and ".join(what for what, agrees in said.items() if agrees is False)
    if strict and not own and False in (frame, patient):
        remedy = "give the SEG of this scan, or if you know that it is, pass --reorient header"
        raise InputError(f"{path}: {faults}; {remedy}")
    if faults:
        warnings.warn(f"{path}: {faults}; is it of this scan? look at the overlay", stacklevel=5)


def _overlap(values: Iterable[object], headers: list[pydicom.Dataset], keyword: str) -> bool | None:
    """Tell whether one of some values is in the headers of a scan; None where either says nothing, or nothing true."""
    mine, theirs = (
        {text.casefold() for v in some if not NO_ONE.fullmatch(text := str(v or "").strip())}
        for some in (values, (ds.get(keyword) for ds in headers))
    )
    return bool(mine & theirs) if mine and theirs else None


def _of_frames(path: Path, ds: pydicom.Dataset, like: sitk.Image, numbers: list[int]) -> tuple[np.ndarray, Grid]:
    """Put the frames of some segments where they say that they lie; a label map has one frame for all segments."""
    frames, shared = (
        ds.PerFrameFunctionalGroupsSequence,
        ds.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()],
    )
    kind = ds.get("SegmentationType", "BINARY")

    def group(k: int, name: str) -> pydicom.Dataset:
        sequence = frames[k].get(name) or shared[0].get(name)
        if not sequence:
            raise InputError(f"{path}: frame {k + 1} has no {name}; export it again")
        return sequence[0]

    chosen = [
        k for k in range(len(frames))
        if kind == "LABELMAP" or group(k, "SegmentIdentificationSequence").ReferencedSegmentNumber in numbers
    ]  # fmt: skip
    if not chosen:
        return np.zeros((1, 1, 1), np.uint8), Grid((0, 0, 0), (1, 1, 1), tuple(np.eye(3).ravel()))
    planes, turns, sizes = (
        [group(k, f"{name}Sequence") for k in chosen] for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures")
    )
    grid, places = _grid_of_frames(path, planes, turns, sizes, like)
    check_size(path, (ds.Columns, ds.Rows, int(places.max()) + 1), like)
    array = np.zeros((places.max() + 1, ds.Rows, ds.Columns), np.uint8)
    half = ds.MaximumFractionalValue / 2 if kind == "FRACTIONAL" else 0.5
    for place, frame in zip(places, iter_pixels(ds, indices=chosen), strict=True):
        array[place] |= np.isin(frame, numbers) if kind == "LABELMAP" else frame >= half
    return array, grid


def _grid_of_frames(
    path: Path,
    planes: list[pydicom.Dataset],
    turns: list[pydicom.Dataset],
    sizes: list[pydicom.Dataset],
    like: sitk.Image,
) -> tuple[Grid, np.ndarray]:
    """Fit the grid of frames, of which several may lie at one place, and return it with the place of each.

    Frames that are empty are often left out. Where what is there lies on slices of the scan, its distance is theirs;
    but for frames that follow one another evenly, further apart, and do not say that they should be nearer.
    """
    positions, cosines, pixels = (
        np.array([[float(v) for v in ds[name].value] for ds in some])
        for some, name in (
            (planes, "ImagePositionPatient"),
            (turns, "ImageOrientationPatient"),
            (sizes, "PixelSpacing"),
        )
    )
    rounding = half_digit(planes, "ImagePositionPatient"), rounding_of_cosines(turns)
    for what, values, slack in ("orientation", cosines, 1e-4 + 2 * rounding[1]), ("spacing", pixels, 1e-3):
        if not np.abs(values - values[0]).max() <= slack:
            raise InputError(f"{path}: its frames differ in {what}; export it again")
    normal = slice_normal(cosines[0])
    depth = positions @ normal
    order = np.argsort(depth)
    group = np.cumsum(np.diff(depth[order], prepend=depth[order[0]]) > 0.01)
    first = order[np.unique(group, return_index=True)[1]]  # of the frames at one place
    names = [f"{path}: frame {k + 1}" for k in first]
    if (aside := np.linalg.norm(positions[order] - positions[first][group], axis=1)).max() > 0.1:
        raise InputError(f"{path}: frames of one slice lie {aside.max():.2f} mm aside of each other; export it again")
    distance = _distance(np.diff(depth[first]), float(sizes[0].get("SpacingBetweenSlices") or 0), normal, like)
    grid, places = even_grid(
        positions[first], cosines.mean(0), pixels[0], names, sparse=True, distance=distance, rounding=rounding
    )
    out = np.empty(len(order), int)
    out[order] = places[group]
    return grid, out


def _distance(gaps: np.ndarray, said: float, normal: np.ndarray, like: sitk.Image) -> float | None:
    """Choose the distance between slices of which frames may be left out; None where the frames tell it themselves."""
    along = np.abs(normal @ np.reshape(like.GetDirection(), (3, 3)))
    if along.max() < 0.999:
        return None if len(gaps) else said or None
    scans = like.GetSpacing()[int(along.argmax())]
    steps, slack = np.rint(gaps / scans), max(0.1 * scans, 0.11)
    if not len(gaps) or (steps < 1).any() or np.abs(gaps - steps * scans).max() > slack:
        return None if len(gaps) else scans
    even = np.ptp(gaps) <= slack and steps[0] > 1
    own = even and (abs(said - gaps[0]) <= slack or len(gaps) > 1 and abs(said - scans) > slack)
    return None if own else scans
