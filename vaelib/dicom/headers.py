"""Read the headers of a CT series in order of position, and check that its slices make one volume."""

import warnings
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from vaelib.dicom.geometry import slice_normal
from vaelib.engine.errors import InputError

MAX_INFLATED = 128 << 20  # bytes: a SEG of 4,000 slices, or a CT slice four times as fine as any
SIDES = range(1, 4097)  # pixels: to twice what the finest scanners give
CT_PIXELS = {  # what the pixels of a CT slice can be; anything else is no HU, or a header that lies
    "Rows": SIDES, "Columns": SIDES, "SamplesPerPixel": (1,), "PixelRepresentation": (0, 1),
    "BitsAllocated": (8, 16, 32), "NumberOfFrames": (None, 1),
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2"),
}  # fmt: skip


def series_headers(folder: str | Path, *, pixels: bool = False) -> list[Dataset]:
    """Read the headers of the CT files in `folder`, in ascending position along the slice normal.

    Names carry no meaning. Hidden files, subfolders, a DICOMDIR and files that are no DICOM at all (a
    licence, a list of checksums) are passed over; a damaged file, or one that is not CT, is an error.

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
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    headers = [ds for path in paths if (ds := _read_slice(path, pixels)) is not None]
    if not headers:
        raise InputError(f"{folder}: holds no DICOM file; give the folder that holds one CT series")
    normal = slice_normal(headers[0].ImageOrientationPatient)
    return sorted(headers, key=lambda ds: float(normal @ read_numbers(ds, "ImagePositionPatient", 3)))


def _read_slice(path: Path, pixels: bool) -> Dataset | None:
    """Read a file of a series; None where it is passed over."""
    check_deflated(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns where a file ends early, and drops its pixels
            ds = pydicom.dcmread(path, stop_before_pixels=not pixels)
            if pixels and "Modality" not in ds:  # where compressed pixels end early, it drops the header too
                ds = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # pydicom raises many kinds on damaged files
        if isinstance(error, pydicom.errors.InvalidDicomError) and path.suffix.lower() != ".dcm":
            return None
        raise InputError(f"{path}: is damaged or no DICOM; fetch it again") from None
    if "DirectoryRecordSequence" in ds:
        return None
    if ds.get("Modality") != "CT":
        kind = ds.get("Modality") or "of no stated modality (truncated?)"
        raise InputError(f"{path}: is {kind}, not CT; move it out of the folder of the CT series")
    for keyword, count in ("ImagePositionPatient", 3), ("ImageOrientationPatient", 6):
        if not np.isfinite(read_numbers(ds, keyword, count)).all():
            raise InputError(f"{path}: has no position or orientation (truncated?); export it again")
    return ds


def check_deflated(path: str | Path) -> None:
    """Raise InputError where a DICOM file is deflated (PS3.5 A.5) and unfolds to more than `MAX_INFLATED`: a bomb."""
    with open(path, "rb") as file:
        start = file.read(1024)
        if DeflatedExplicitVRLittleEndian.encode() not in start:
            return
        file.seek(144 + int.from_bytes(start[140:144], "little"))  # the meta information says how long it is
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflater.decompress(file.read(), MAX_INFLATED)
        except zlib.error:  # which pydicom will find too
            return
    if inflater.unconsumed_tail:
        raise InputError(f"{path}: unfolds to over {MAX_INFLATED >> 20} MiB, which no such file does; fetch it again")


def read_attribute(ds: Dataset, keyword: str) -> Any:
    """Read the value of an attribute, None where there is none; InputError where pydicom cannot decode it."""
    try:
        return ds.get(keyword)
    except Exception:  # pydicom raises many kinds on what is not of the kind that the standard wants
        raise InputError(f"{ds.filename}: its {keyword} cannot be read, damaged? fetch it again") from None


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
    return 0.5 * 10.0 ** np.min([[Decimal(text).as_tuple().exponent for text in row] for row in texts], axis=0)


def rounding_of_cosines(headers: list[Dataset]) -> float:
    """Find half of the last digit of the cosines; with fewer than three decimals (1, 0, 0) they are exact, or wrong."""
    half = half_digit(headers, "ImageOrientationPatient").min()
    return half if half < 1e-3 else 0.0


def check_alike(headers: list[Dataset]) -> None:
    """Raise unless slices are of one series, have pixels of a CT, and share size, spacing and orientation."""
    first, series = headers[0], {str(read_attribute(ds, "SeriesInstanceUID")): ds.filename for ds in headers}
    if len(series) > 1:
        odd = list(series.values())[1]
        raise InputError(f"{odd}: one of {len(series)} series in {Path(odd).parent}; keep one series in a folder")
    if not all(0 < mm < np.inf for mm in read_numbers(first, "PixelSpacing", 2)):
        raise InputError(f"{first.filename}: PixelSpacing is {first.get('PixelSpacing')}; export the scan again")
    for ds in headers:  # before any memory is taken for pixels
        for keyword, known in CT_PIXELS.items():
            if (value := read_attribute(ds, keyword)) not in known:
                raise InputError(f"{ds.filename}: {keyword} is {value}, which no CT slice has; export the scan again")
    for keyword, count in ("Rows", 1), ("Columns", 1), ("PixelSpacing", 2), ("ImageOrientationPatient", 6):
        usual, slack = read_numbers(first, keyword, count), 5e-5
        if count == 6:
            slack = max(slack, 2.01 * rounding_of_cosines(headers))  # two that are rounded away from each other
        for ds in headers:
            if not np.allclose(read_numbers(ds, keyword, count), usual, rtol=0, atol=slack):
                here, there = ds.get(keyword), first.get(keyword)
                raise InputError(f"{ds.filename}: {keyword} is {here}, elsewhere {there}; take the odd slices out")
