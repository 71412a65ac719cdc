"""Read segments of a DICOM SEG: choose them, see whose scan they were drawn on, and put frames where they say they lie.

pydicom decodes the frames; their geometry is that of `grid.even_grid`, for the exporters of this trade round and omit.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.pixels import get_decoder

from vaelib.dicom.geometry import slice_normal
from vaelib.dicom.grid import Grid, even_grid, grid_by
from vaelib.dicom.headers import SIDES, check_deflated, half_digit, rounding_of_cosines
from vaelib.dicom.identity import NO_ONE, text_of, uid_of
from vaelib.engine.errors import InputError

FINER = 8  # a label may have this many times the voxels of its scan: two along each axis for one
CODED = {"15776009", "181277001", "T-65000", "C0030274"}  # pancreas in SNOMED CT (structure, entire), SRT and UMLS
PLACED = {  # the attributes that place a frame, and the functional groups that hold them
    "ImagePositionPatient": "PlanePositionSequence", "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}  # fmt: skip
WHOLE = re.compile(r"(entire|whole|total|structure|of|the|organ|\W|_|\d)*", re.IGNORECASE)
ORGAN = re.compile("pan[ck]rea", re.IGNORECASE)
PART = re.compile("head|neck|body|tail|uncinate|cauda|caput|corpus", re.IGNORECASE)
LESION = re.compile("tumou?r|lesion|cyst|cancer|carcinoma|pdac", re.IGNORECASE)


def check_size(path: Path, size: Sequence[int], like: sitk.Image) -> None:
    """Raise unless a label of `size` voxels (x, y, z) can belong to the scan `like`."""
    if min(size) < 1 or np.prod(size, dtype=float) > FINER * np.prod(like.GetSize(), dtype=float):
        raise InputError(f"{path}: {tuple(size)} voxels for a scan of {like.GetSize()}; give the label of this scan")


def scans_own(
    frame: np.ndarray, origin: np.ndarray, size: Sequence[int], slack: float, like: sitk.Image
) -> Grid | None:
    """Take voxels of the scan for those of a grid that lies nowhere off them by more than `slack` mm and half a voxel.

    Parameters
    ----------
    frame : (3, 3), mm
        Columns are the steps along x, y, z of the grid.
    origin : (3,), mm
    size : voxels along x, y, z
    slack : mm
    like : sitk.Image
        The scan.

    Returns
    -------
    Grid or None
        With the axes of the scan, in any order and direction; None where it lies off them.
    """
    scans = np.reshape(like.GetDirection(), (3, 3)) * like.GetSpacing()
    corners = np.array([*product(*([0, n - 1] for n in size))]).T
    index = np.linalg.solve(scans, frame @ corners + np.subtract(origin, like.GetOrigin())[:, None])
    turn, first = np.rint(np.linalg.solve(scans, frame)), np.rint(index[:, 0])
    off = np.abs(index - turn @ corners - first[:, None]).max(1)
    if (off > np.minimum(slack / np.array(like.GetSpacing()), 0.5)).any() or abs(np.linalg.det(turn)) != 1:
        return None
    return grid_by(scans @ turn, like.TransformIndexToPhysicalPoint(first.astype(int).tolist()))


def asked(path: Path, segment: str | int, labels: dict[int, str], default: Sequence[int] = ()) -> list[int]:
    """Find the numbers of the segments that are asked for, by number or label in any case, or several joined by +."""
    wanted = str(segment).strip().casefold()

    def named(part: str) -> list[int]:
        return [n for n, label in labels.items() if part in (str(n), label.casefold())]

    parts = [wanted] if named(wanted) else [part.strip() for part in wanted.split("+")]
    found = {part: named(part) or (list(default) if part == "pancreas" else []) for part in parts}
    numbers = [n for some in found.values() for n in some]
    if not numbers or max(map(len, found.values())) > 1:
        listed = ", ".join(f"{n} {label!r}" if label != str(n) else label for n, label in labels.items())
        some = numbers or [n for n in labels if PART.search(labels[n]) or ORGAN.search(labels[n])] or list(labels)[:1]
        advice = f"by number, and tell `vaelib prepare`: --segment{' ='[some[0] < 0]}{'+'.join(map(str, some))}"
        raise InputError(f"{path}: {len(numbers)} segments are {segment!r}; choose from {listed} {advice}")
    if gone := [part for part, some in found.items() if not some]:
        warnings.warn(f"{path}: has no segment {', '.join(gone)}; the mask is of the others", stacklevel=5)
    return numbers


def read_seg(path: Path, like: sitk.Image, segment: str | int, strict: bool) -> tuple[np.ndarray, Grid]:
    """Read some segments of a DICOM SEG as 0 and 1 (S, H, W), and the grid of its frames."""
    check_deflated(path)
    try:
        ds = pydicom.dcmread(path)
        if ds.get("Modality") == "SEG" and "PixelData" not in ds:
            raise InputError(f"{path}: ends before its frames do; fetch it again")
        if ds.get("Modality") != "SEG" or not ds.get("SegmentSequence"):
            what = ds.get("Modality") or "of no stated modality"
            raise InputError(f"{path}: is {what}, and not readable as DICOM SEG; give a SEG or a NIfTI file")
        _check_frames(path, ds)
        _check_references(path, ds, like, strict)
        return _of_frames(path, ds, like, _segments(path, ds, segment))
    except (InputError, OSError):
        raise
    except pydicom.errors.InvalidDicomError:
        what = "give a SEG or a NIfTI file" if path.stat().st_size else "it is empty; fetch it again"
        raise InputError(f"{path}: not readable as DICOM SEG; {what}") from None
    except Exception as error:  # pydicom raises many kinds
        why = f"not readable as DICOM SEG ({error!s:.200})"
        raise InputError(f"{path}: {why}; export it again, or give a NIfTI file") from None


def _check_frames(path: Path, ds: pydicom.Dataset) -> None:
    """Raise unless a SEG has the frames that its header counts; those who read it take memory for each."""
    if "PerFrameFunctionalGroupsSequence" not in ds:
        raise InputError(f"{path}: does not describe its frames; export it again")
    frames, rows, columns = len(ds.PerFrameFunctionalGroupsSequence), ds.Rows, ds.Columns
    if ds.NumberOfFrames != frames or rows not in SIDES or columns not in SIDES:
        said = f"counts {ds.NumberOfFrames} frames of {rows} x {columns} and describes {frames}"
        raise InputError(f"{path}: {said}; export it again")
    syntax, known = ds.file_meta.TransferSyntaxUID, False
    with suppress(NotImplementedError):
        known = get_decoder(syntax).is_available
    if not known or ds.BitsAllocated == 1 and syntax.is_compressed:
        raise InputError(f"{path}: is compressed as {syntax.name}, which nothing here reads; export it uncompressed")
    if not syntax.is_compressed and frames * rows * columns * ds.BitsAllocated > 8 * len(ds.get("PixelData") or b""):
        raise InputError(f"{path}: ends before its {frames} frames do; fetch it again")


def _segments(path: Path, ds: pydicom.Dataset, segment: str | int) -> list[int]:
    """Find the segments of a SEG that are asked for; the pancreas goes by its label, or else by its code."""
    items = {int(item.SegmentNumber): item for item in ds.SegmentSequence}
    labels = {n: str(item.get("SegmentLabel") or "").strip() for n, item in items.items()}
    codes = {n: item.get("SegmentedPropertyTypeCodeSequence") or () for n, item in items.items()}
    coded = [n for n in items if any(code.get("CodeValue") in CODED for code in codes[n])]
    return choose(path, segment, labels, coded)


def choose(path: Path, segment: str | int, labels: dict[int, str], coded: Sequence[int] = ()) -> list[int]:
    """Find the segments that are asked for; the pancreas goes by its label, or else by a code, and lesions are left."""
    coded = [n for n in coded if not PART.search(labels[n]) and not LESION.search(labels[n])]
    entire = [n for n, label in labels.items() if re.fullmatch("pan[ck]reas", WHOLE.sub("", label).casefold())]
    numbers = asked(path, segment, labels, entire if len(entire) == 1 else coded)
    beside = [n for n in labels if n not in numbers and (ORGAN.search(labels[n]) or LESION.search(labels[n]))]
    if beside and str(segment).strip().casefold() == "pancreas":
        joined = "+".join(map(str, sorted({*numbers, *beside})))
        what = ", ".join(f"{n} {labels[n]!r}" for n in beside)
        warnings.warn(f"{path}: {what} is left out; `prepare --segment {joined}` joins them", stacklevel=6)
    return numbers


def _check_references(path: Path, ds: pydicom.Dataset, like: sitk.Image, strict: bool) -> None:
    """Compare the scan that a SEG refers to with the scan at hand, as far as both say who they are.

    A SEG that refers to slices of this scan is of this scan; should it name another patient or frame of reference all
    the same, a warning says so. One that refers to other slices in the same frame of reference is another
    reconstruction's, and read with a warning. Anything else is another scan's, and an error where `strict`.
    """
    headers = getattr(like, "headers", [])
    slices = (element.value for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID")
    series = (item.get("SeriesInstanceUID") for item in ds.get("ReferencedSeriesSequence") or [])
    own = _overlap(slices, headers, "SOPInstanceUID")
    if own is None:
        own = _overlap(series, headers, "SeriesInstanceUID")
    frame, patient = (_overlap([ds.get(name)], headers, name) for name in ("FrameOfReferenceUID", "PatientID"))
    said = {"refers to none of the scan's slices": own, "has another FrameOfReferenceUID than the scan": frame,
            "has another PatientID than the scan": patient}  # fmt: skip
    faults = " and ".join(what for what, agrees in said.items() if agrees is False)
    if strict and not own and False in (frame, patient):
        remedy = "give the SEG of this scan, or if you know that it is, tell `vaelib prepare` so: --reorient header"
        raise InputError(f"{path}: {faults}; {remedy}")
    if faults:
        warnings.warn(f"{path}: {faults}; is it of this scan? look at the overlay", stacklevel=5)


def _overlap(values: Iterable[object], headers: list[pydicom.Dataset], keyword: str) -> bool | None:
    """Tell whether one of some values is in the headers of a scan; None where either says nothing, or nothing true."""
    read = uid_of if keyword.endswith("UID") else text_of
    mine, theirs = (
        {text.casefold() for v in some if not NO_ONE.fullmatch(text := str(v or "").strip())}
        for some in (values, (read(ds, keyword) for ds in headers))
    )
    return bool(mine & theirs) if mine and theirs else None


def _of_frames(path: Path, ds: pydicom.Dataset, like: sitk.Image, numbers: list[int]) -> tuple[np.ndarray, Grid]:
    """Put the frames of some segments where they say that they lie; a label map has one frame for all segments."""
    frames = ds.PerFrameFunctionalGroupsSequence
    shared = (ds.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    kind = ds.get("SegmentationType", "BINARY")

    def group(k: int, name: str) -> pydicom.Dataset:
        sequence = frames[k].get(name) or shared.get(name)
        if not sequence:
            raise InputError(f"{path}: frame {k + 1} has no {name}; export it again")
        return sequence[0]

    chosen = [
        k for k in range(len(frames))
        if kind == "LABELMAP" or group(k, "SegmentIdentificationSequence").ReferencedSegmentNumber in numbers
    ]  # fmt: skip
    if not chosen:
        return np.zeros((1, 1, 1), np.uint8), grid_by(np.eye(3), (0, 0, 0))
    found = {name: [group(k, of) for k in chosen] for name, of in PLACED.items()}
    grid, places, rounding = _grid_of_frames(path, found, like)
    shape = int(places.max()) + 1, ds.Rows, ds.Columns
    check_size(path, shape[::-1], like)
    array, frame = np.zeros(shape, np.uint8), np.reshape(grid.direction, (3, 3)) * grid.spacing
    slack = 2 * np.max(rounding[0]) + 2 * rounding[1] * np.linalg.norm(frame @ shape[::-1])
    half = ds.MaximumFractionalValue / 2 if kind == "FRACTIONAL" else 0.5
    for place, image in zip(places, _images(ds, chosen), strict=True):
        array[place] |= np.isin(image, numbers) if kind == "LABELMAP" else image >= half
    return array, scans_own(frame, grid.origin, shape[::-1], slack, like) or grid


def _images(ds: pydicom.Dataset, chosen: list[int]) -> Iterator[np.ndarray]:
    """Decode some frames, one at a time, for all together can be too many for memory."""
    if ds.BitsAllocated != 1:
        yield from pydicom.iter_pixels(ds, indices=chosen)
        return
    size = ds.Rows * ds.Columns
    for k in chosen:  # pydicom 3.0 takes a byte too few where a frame begins within one
        byte, bit = divmod(k * size, 8)
        bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8)[byte:][: size // 8 + 2], bitorder="little")
        yield bits[bit : bit + size].reshape(ds.Rows, ds.Columns)


def _grid_of_frames(
    path: Path, found: dict[str, list[pydicom.Dataset]], like: sitk.Image
) -> tuple[Grid, np.ndarray, tuple[np.ndarray, float]]:
    """Fit the grid of frames, of which several may lie at one place; return the place of each, and how numbers round.

    Frames that are empty are often left out. Where what is there lies on slices of the scan, its distance is theirs;
    but for frames that follow one another evenly, further apart, and do not say that they should be nearer.
    """
    positions, cosines, pixels = (np.array([ds[name].value for ds in some], float) for name, some in found.items())
    planes, turns, measures = found.values()
    rounding = half_digit(planes, "ImagePositionPatient"), rounding_of_cosines(turns)
    if not (np.ptp(np.c_[cosines, pixels], axis=0).max() <= 1e-4 + 2 * rounding[1] and pixels.min() > 0):
        raise InputError(f"{path}: its frames differ in orientation or PixelSpacing, or have none; export it again")
    where, first, group = np.unique(positions, axis=0, return_index=True, return_inverse=True)
    normal, said = slice_normal(cosines[0]), float(measures[0].get("SpacingBetweenSlices") or 0)
    distance = _distance(np.diff(np.sort(where @ normal)), said, normal, like)
    names, turn = [f"{path}: frame {k + 1}" for k in first], cosines.mean(0)
    grid, places = even_grid(where, turn, pixels[0], names, sparse=True, distance=distance, rounding=rounding)
    return grid, places[group.ravel()], rounding


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
