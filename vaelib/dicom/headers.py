"""Read the headers of a CT series in order of position, and check that its slices make one volume."""

import io
import warnings
import zlib
from collections import Counter, defaultdict
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset, uid

from vaelib.dicom.folder import handful, is_dicom, sort_files
from vaelib.dicom.geometry import slice_normal
from vaelib.engine.errors import InputError

MAX_INFLATED = 128 << 20  # bytes: a SEG of 4,000 slices, or a CT slice four times as fine as any
SIDES = range(1, 4097)  # pixels: to twice what the finest scanners give
CT_PIXELS = {  # what the pixels of a CT slice can be; anything else is no HU, or a header that lies
    "Rows": SIDES, "Columns": SIDES, "SamplesPerPixel": (1,), "PixelRepresentation": (0, 1),
    "BitsAllocated": (8, 16, 32), "NumberOfFrames": (None, 1),
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2"),
}  # fmt: skip
ENHANCED = {"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}  # the second is converted from single files
# The numbers are JPEG, JPEG-LS and JPEG 2000.
SYNTAXES = {*uid.UncompressedTransferSyntaxes, uid.RLELossless, *(f"1.2.840.10008.1.2.4.{k}" for k in range(50, 94))}
NAMES = {code: row[0] for code, row in uid.UID_dictionary.items()}
NAMES |= {code: f"JPEG XL ({code})" for code in (f"1.2.840.10008.1.2.4.11{k}" for k in range(3))}  # not yet in there
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd"}
# What tells two scans in one series, and the part of each that has to lie within the other. Slices made in one second
# may lie among those of the next; numbers of instances tell by the passes in which they count through the stack.
APART = dict.fromkeys("""
AcquisitionNumber AcquisitionTime AcquisitionDateTime TemporalPositionIdentifier IrradiationEventUID EchoNumbers
TriggerTime KVP ConvolutionKernel SeriesDescription StudyInstanceUID SeriesNumber SeriesTime AcquisitionDate
AcquisitionUID ImageType ProtocolName ImageComments ContrastBolusAgent FilterType TemporalPositionIndex
NominalPercentageOfCardiacPhase ReconstructionDiameter SliceThickness InstanceNumber
""".split(), 0.0) | {"ContentTime": 0.5}  # fmt: skip


def series_headers(folder: str | Path, *, pixels: bool = False) -> list[Dataset]:
    """Read the headers of the CT files in `folder`, in ascending position along the slice normal.

    Names carry no order. What is known to be harmless (hidden files, a DICOMDIR, a licence, a list of checksums) is
    passed over, and what else is no slice is named in one warning; see `folder.sort_files`. A slice that is damaged, or
    DICOM that is not CT, is an error.

    Parameters
    ----------
    folder : path
    pixels : bool
        Bring the stored pixels along, so that no file is opened twice.

    Returns
    -------
    list of Dataset
        Each knows its `filename`.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds one CT series")
    paths, left_out = sort_files(folder)
    headers = [ds for path in paths if (ds := read_slice(path, pixels)) is not None]
    if not headers:
        there = f" (but {left_out[0].name})" if left_out else ""
        raise InputError(f"{folder}: holds no DICOM file{there}; give the folder that holds one CT series")
    if left_out:
        names = handful([path.name for path in left_out])
        warnings.warn(f"{folder}: left out {len(left_out)} that are no slices: {names}", stacklevel=3)
    normal = slice_normal(headers[0].ImageOrientationPatient)
    return sorted(headers, key=lambda ds: float(normal @ read_numbers(ds, "ImagePositionPatient", 3)))


def read_slice(path: Path, pixels: bool, *, of_ct: bool = True) -> Dataset | None:
    """Read a file of a series, which is of a CT unless one says otherwise; None where it is a DICOMDIR."""
    start = b""
    try:
        held = path.read_bytes() if pixels else b""  # one read in place of many
        start = check_deflated(path, held[:1024])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns where a file ends early, and drops its pixels
            source = io.BytesIO(held) if pixels else path
            ds = pydicom.dcmread(source, stop_before_pixels=not pixels, force=is_dicom(start))
            if pixels and "Modality" not in ds:  # where compressed pixels end early, it drops the header too
                ds = pydicom.dcmread(path, stop_before_pixels=True, force=is_dicom(start))
            ds.filename, ds.buffer = str(path), None
    except InputError:
        raise
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise InputError(f"{path}: {_why_unread(path, start, error)}") from None
    if "DirectoryRecordSequence" in ds:
        return None
    if not ds.file_meta.get("TransferSyntaxUID"):  # pydicom has found out which of the two it is
        plain = uid.ImplicitVRLittleEndian if ds.original_encoding[0] else uid.ExplicitVRLittleEndian
        ds.file_meta.TransferSyntaxUID = plain
    if of_ct:
        _check_kind(ds)
    return ds


def _why_unread(path: Path, start: bytes, error: Exception) -> str:
    """Say why a file that looks like a slice cannot be read, and what to do."""
    if isinstance(error, OSError) and error.errno:
        return f"cannot be read ({error.strerror}); see that it is there, and that you may read it"
    if packed := next((kind for mark, kind in PACKED.items() if start.startswith(mark)), None):
        return f"is packed ({packed}); unpack it, or move it out of the folder"
    if is_dicom(start):
        with suppress(Exception):
            return _other_syntax(pydicom.filereader.read_file_meta_info(path)) or "is damaged; fetch it again"
        return "is damaged; fetch it again"
    if len(start) < 132 or not start.strip(b"\0"):
        return f"is no DICOM, {path.stat().st_size} bytes of it are there; fetch it again"
    return f"is no DICOM, for it begins with {start[:8]!r}; fetch the slice again, or move this out of the folder"


def _other_syntax(meta: Dataset) -> str | None:
    """Say in which encoding pixels are, if it is one that cannot be decoded."""
    (syntax,) = _stored([meta], "TransferSyntaxUID")
    if syntax in SYNTAXES:
        return None
    return f"its pixels cannot be decoded as {NAMES.get(syntax, syntax):.70}; export the scan again, uncompressed"


def _check_kind(ds: Dataset) -> None:
    """Raise unless a file is one slice of a CT that has a place, in an encoding that can be decoded."""
    name, (modality, kind) = ds.filename, (_stored([ds], keyword)[0] for keyword in ("Modality", "SOPClassUID"))
    called, away = NAMES.get(kind, kind), "move it out of the folder of the CT series"
    if modality not in ("CT", ""):
        raise InputError(f"{name}: is {modality:.60} ({called:.70}), not CT; {away}")
    if other := _other_syntax(ds.file_meta):
        raise InputError(f"{name}: {other}")
    if kind in ENHANCED:
        frames = read_attribute(ds, "NumberOfFrames")
        way = "convert it to one file a slice, with emf2sf of dcm4che for one"
        raise InputError(f"{name}: is {called:.70}, {frames!s:.60} frames in one file; {way}")
    if not modality:
        cut, found = "ends within its header; fetch it again", f"is of no stated modality; export it again, or {away}"
        raise InputError(f"{name}: {found if 'Rows' in ds else cut}")
    for keyword, count in ("ImagePositionPatient", 3), ("ImageOrientationPatient", 6):
        if not np.isfinite(read_numbers(ds, keyword, count)).all():
            if kind not in (uid.CTImageStorage, ""):
                raise InputError(f"{name}: is {called:.70}, with no place in the patient (a dose page?); {away}")
            way = f"export it again, or {away} if it is no slice" if "Rows" in ds else "it ends early; fetch it again"
            raise InputError(f"{name}: has no position or orientation; {way}")


def check_deflated(path: str | Path, start: bytes = b"") -> bytes:
    """Return the first bytes of a file; InputError where it is deflated (PS3.5 A.5) to over `MAX_INFLATED`: a bomb."""
    if not start:  # which the caller may have read
        with open(path, "rb") as file:
            start = file.read(1024)
    if uid.DeflatedExplicitVRLittleEndian.encode() not in start:
        return start
    with open(path, "rb") as file:
        file.seek(144 + int.from_bytes(start[140:144], "little"))  # the meta information says how long it is
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        with suppress(zlib.error):  # which pydicom will find too
            inflater.decompress(file.read(), MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise InputError(f"{path}: unfolds to over {MAX_INFLATED >> 20} MiB, which no such file does; fetch it again")
    return start


def read_attribute(ds: Dataset, keyword: str) -> Any:
    """Read the value of an attribute, None where there is none; InputError where pydicom cannot decode it."""
    try:
        return ds.get(keyword)
    except Exception:  # pydicom raises many kinds on what is not of the kind that the standard wants
        raise InputError(f"{ds.filename}: its {keyword} cannot be read; export the scan again") from None


def _stored(headers: list[Dataset], keyword: str) -> list[str]:
    """Read a text of each header as it is stored, which is fast and never fails; "" where there is none."""
    tag = pydicom.tag.Tag(keyword)
    values = [getattr(ds.get_item(tag), "value", None) or "" for ds in headers]
    texts = [value.decode("latin-1").strip("\0") if isinstance(value, bytes) else str(value) for value in values]
    return [" ".join(text.split()) for text in texts]


def read_numbers(ds: Dataset, keyword: str, count: int) -> np.ndarray:
    """Read the numbers of an attribute, (count,) float64: all NaN where it is missing, empty or of another length."""
    value = read_attribute(ds, keyword)
    try:
        numbers = np.atleast_1d(np.array(np.nan if value in (None, "") else value, float))
    except (TypeError, ValueError):
        raise InputError(f"{ds.filename}: {keyword} is no number; export the scan again") from None
    return numbers if numbers.shape == (count,) else np.full(count, np.nan)


def half_digit(headers: list[Dataset], keyword: str) -> np.ndarray:
    """Find half of the last digit with which each number of an attribute is written; of numbers without text, 0."""
    texts = [[getattr(number, "original_string", None) or "0e-99" for number in ds[keyword].value] for ds in headers]
    exponents = [min(Decimal(text).as_tuple().exponent for text in {*column}) for column in zip(*texts, strict=True)]
    return 0.5 * 10.0 ** np.array(exponents)


def rounding_of_cosines(headers: list[Dataset]) -> float:
    """Find half of the last digit of the cosines; with fewer than three decimals (1, 0, 0) they are exact, or wrong."""
    half = half_digit(headers, "ImageOrientationPatient").min()
    return half if half < 1e-3 else 0.0


def check_alike(headers: list[Dataset], *, placed: bool = True) -> None:
    """Raise unless slices are of one scan, have pixels of a CT, and share size, spacing and orientation.

    What most of them have is right, and the others are odd. Those that are not `placed`, as slices of a mask may be,
    need no spacing.
    """
    n, folder = len(headers), Path(headers[0].filename).parent
    views = [ds for ds, kind in zip(headers, _stored(headers, "ImageType"), strict=True) if "LOCALIZER" in kind]
    if 0 < len(views) < n:
        what = f"one of {len(views)} localizers (by its ImageType) among {n - len(views)} slices"
        raise InputError(f"{views[0].filename}: is {what}; move them out of the folder")
    for keyword, said in ("SeriesInstanceUID", "series"), ("PatientID", "patients"):
        owners = _stored(headers, keyword)
        ranked = Counter(filter(None, owners)).most_common()
        if len(ranked) > 1:
            rare, count = ranked[-1]
            what = f"one of {len(ranked)} {said} in {folder}, {count} of {n} slices are of it"
            raise InputError(f"{headers[owners.index(rare)].filename}: {what}; keep one series in a folder")
    for keyword, known in CT_PIXELS.items():  # before any memory is taken for pixels
        if bad := [ds for ds in headers if read_attribute(ds, keyword) not in known]:
            found = f"{keyword} is {bad[0].get(keyword)!s:.60} in {len(bad)} of {n} slices, which no CT slice has"
            way = "export the scan again" if 2 * len(bad) > n else "move such files out of the folder"
            raise InputError(f"{bad[0].filename}: {found}; {way}")
    for keyword, count in ("Rows", 1), ("Columns", 1), ("PixelSpacing", 2), ("ImageOrientationPatient", 6):
        slack = max(5e-5, 2.01 * rounding_of_cosines(headers)) if placed and count == 6 else 5e-5  # if rounded
        values = np.nan_to_num([read_numbers(ds, keyword, count) for ds in headers])
        usual = np.abs(values - np.median(values, axis=0)).sum(1).argmin()
        odd = np.flatnonzero((np.abs(values - values[usual]) > slack).any(1))
        if len(odd):
            here, there = headers[odd[0]].get(keyword), headers[usual].get(keyword)
            found = f"{keyword} is {here!s:.60} in {len(odd)} of {n} slices, elsewhere {there!s:.60}"
            raise InputError(f"{headers[odd[0]].filename}: {found}; take the odd slices out")
    if placed and not all(0 < mm < np.inf for mm in read_numbers(headers[0], "PixelSpacing", 2)):
        found = f"PixelSpacing is {headers[0].get('PixelSpacing')!s:.60}"
        raise InputError(f"{headers[0].filename}: {found}; export the scan again")


def _passes(numbers: list[str]) -> list[str]:
    """Tell the two passes apart in which numbers count through a stack, such as 1 to 12 and 13 to 24; else none."""
    if not all(number.isdigit() for number in numbers) or len(numbers) < 6:
        return [""] * len(numbers)
    order = np.argsort([int(number) for number in numbers], kind="stable")
    steps = np.diff(order)
    back = np.sign(steps) != np.sign(np.median(steps))
    which = np.empty(len(order), int)
    which[order] = np.append(0, back.cumsum())
    return [f"of pass {k + 1}" if back.sum() == 1 else "" for k in which]


def check_one_scan(headers: list[Dataset]) -> None:
    """Raise where two acquisitions lie among each other, sorted by place as they are, even if the stack is even.

    Many scanners count acquisitions within a scan, one for each slice or step of the table: these follow each other.
    """
    for keyword, share in APART.items():
        values = _stored(headers, keyword)
        if keyword == "InstanceNumber":
            values = _passes(values)
        stacks = defaultdict(list)
        for k, value in enumerate(values):
            stacks[value].append(k)
        for first, second in pairwise(sorted(stack for value, stack in stacks.items() if value and len(stack) > 1)):
            inside = [sum(b[0] <= k <= b[-1] for k in a) for a, b in ((first, second), (second, first))]
            if min(inside) > 1 and min(inside) >= share * min(len(first), len(second)):
                among = f"{keyword} differs, and {len(first)} and {len(second)} slices lie among each other"
                name = headers[min(first, second, key=len)[0]].filename
                raise InputError(f"{name}: is of one of two acquisitions in one folder ({among}); keep one")
