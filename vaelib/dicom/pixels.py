"""Convert what a DICOM file of a CT slice stores to HU, whatever its compression.

The rescale is DICOM's (PS3.3 C.11.1), applied to each file by itself.
"""

import io
import locale
import math
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset, FileMetaDataset, pixel_array, uid
from pydicom.encaps import generate_frames

from vaelib.dicom.headers import read_attribute, read_numbers
from vaelib.engine.errors import InputError
from vaelib.engine.files import native

MAX_HU = 2**24  # metal has some ten thousand
AIR, METAL = -1024, 3071  # HU: the ends of a CT of 12 bits; in between, padding cannot be told from a body


def hu_of(ds: Dataset) -> np.ndarray:
    """Convert the pixels of a CT slice to HU, (H, W): int16 where they are whole numbers, else float32.

    What the header calls padding becomes air, -1024 HU, if the rescale would make it less than that, or 3071 and more.
    In between it stays what it is, for headers name numbers that tissue has too.
    """
    slope, intercept = (read_numbers(ds, keyword, 1).item() for keyword in ("RescaleSlope", "RescaleIntercept"))
    _check_units(ds, slope, intercept)
    stored = read_stored(ds, (AIR - intercept) / slope, (METAL - intercept) / slope)
    ends = [float(end) * slope + intercept for end in (stored.min(), stored.max())]
    if not max(map(abs, ends)) < MAX_HU:
        raise InputError(f"{ds.filename}: RescaleSlope {slope:g}, RescaleIntercept {intercept:g}: no HU; export again")
    if slope.is_integer() and intercept.is_integer() and max(map(abs, [*ends, slope, intercept])) < 2**15:
        return stored.astype(np.int16) * int(slope) + int(intercept)  # 16 bits will do, whatever overflows on the way
    hu = stored * slope + intercept
    with np.errstate(invalid="ignore"):
        whole = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu.astype(np.float32)


def _check_units(ds: Dataset, slope: float, intercept: float) -> None:
    """Raise unless there is one way from the stored numbers to others, and these are HU (PS3.3 C.8.2.1, C.11.1).

    RescaleType may be missing, for then a CT is in HU, and "US", unspecified, for ITK writes that into every CT.
    """
    name, unit = ds.filename, str(read_attribute(ds, "RescaleType") or "HU").strip()
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope):
        found = f"RescaleSlope {ds.get('RescaleSlope')!s:.60} and RescaleIntercept {ds.get('RescaleIntercept')!s:.60}"
        raise InputError(f"{name}: has {found}, so no HU; export the scan again")
    if unit.upper() not in {"HU", "US"} and not unit.upper().startswith("HOUN"):  # Hounsfield, however it is spelt
        raise InputError(f"{name}: RescaleType is {unit:.60}, not HU; take the series of this scan that is in HU")
    if read_attribute(ds, "ModalityLUTSequence"):
        raise InputError(f"{name}: has a ModalityLUTSequence besides its rescale; export the scan without it")


def read_stored(ds: Dataset, air: float = -math.inf, metal: float = math.inf) -> np.ndarray:
    """Read the stored numbers, (H, W), out of their cells (PS3.5 8.1.1), and put `air` where they are padding.

    Unless one says what `air` and `metal` are, as in a mask, none is padding.
    """
    count, high = (read_attribute(ds, keyword) for keyword in ("BitsStored", "HighBit"))
    if not (isinstance(count, int) and isinstance(high, int)):
        count, high = (read_numbers(ds, keyword, 1).item() for keyword in ("BitsStored", "HighBit"))
    bits, high = ds.BitsAllocated, count - 1 if math.isnan(high) else high
    if not 1 <= count <= high + 1 <= bits:
        found = f"BitsAllocated {bits:g}, BitsStored {count:g}, HighBit {high:g}"
        raise InputError(f"{ds.filename}: {found}, which no pixel can have; export the scan again")
    cells, used = _decode(ds)
    # other bits may hold anything; a picture that has no more bits than a number holds it alone
    stored = cells << int(bits - min(high + 1, max(used, count))) >> int(bits - count) if count < bits else cells
    return _fill_padding(ds, stored, cells, air, metal)


def _fill_padding(ds: Dataset, stored: np.ndarray, cells: np.ndarray, air: float, metal: float) -> np.ndarray:
    """Put `air` where the header says padding (PS3.3 C.7.5.1.1.2), unless a body can have that number.

    The value may be written with or without a sign, whatever the pixels have, and may need more bits than they have.
    """
    value = read_numbers(ds, "PixelPaddingValue", 1).item()
    if not math.isfinite(value):
        return stored
    limit = read_numbers(ds, "PixelPaddingRangeLimit", 1).item()
    count, signed, size = ds.BitsStored, ds.PixelRepresentation, 2 ** min(ds.BitsAllocated, 16)
    low = -(size // 2) * signed
    first, last = sorted(int((end - low) % size) + low for end in (value, limit if math.isfinite(limit) else value))
    numbers = stored if -(2**count // 2) * signed <= first and last < 2 ** (count - signed) else cells
    inner, outer = sorted((air, metal))
    for start, stop in (first, min(last, inner)), (max(first, outer), last):
        if start <= stop and (padding := (numbers >= start) & (numbers <= stop)).any():
            kind = np.int16 if air.is_integer() and abs(air) < 2**15 else float
            stored = stored.astype(np.result_type(stored, kind))
            np.copyto(stored, air, where=padding, casting="unsafe")
    return stored


def _decode(ds: Dataset) -> tuple[np.ndarray, int]:
    """Decode the cells that hold the stored numbers, (H, W), and say how many of their bits may be other than 0."""
    syntax = uid.UID(str(ds.file_meta.get("TransferSyntaxUID") or uid.ImplicitVRLittleEndian))  # it may be a list
    try:
        return _decode_as(syntax, ds)
    except InputError:
        raise
    except Exception:  # each decoder has its own way to give up on a damaged file
        found = f"{Path(ds.filename).stat().st_size} bytes for {ds.Rows} x {ds.Columns} pixels cannot be decoded"
    if _ends_early(ds, syntax):
        raise InputError(f"{ds.filename}: {found}, truncated? download it again")
    raise InputError(f"{ds.filename}: {found} as {syntax.name}; export the scan again, uncompressed")


def _decode_as(syntax: uid.UID, ds: Dataset) -> tuple[np.ndarray, int]:
    """Decode as `_decode` does, once it is known that the pixels are as many as the header says; raise anything."""
    shape, bits = (ds.Rows, ds.Columns), ds.BitsAllocated
    dtype = np.dtype(f"<{'ui'[ds.PixelRepresentation]}{bits // 8}")
    if syntax.is_compressed and syntax != uid.RLELossless:
        picture = next(generate_frames(ds.PixelData, number_of_frames=1))
        *said, used, channels = jpeg_size(picture)
        if tuple(said) != shape or channels != 1 or not 2 <= used <= bits:
            found = f"its picture is {said[0]} x {said[1]} of {used} bits in {channels} channels"
            raise InputError(f"{ds.filename}: {found}, which its header does not say; export the scan again")
        return _decode_by_gdcm(ds, picture, used).reshape(shape).astype(dtype), used
    wanted, there = math.prod(shape) * dtype.itemsize, len(ds.PixelData)
    if wanted > there * (64 if syntax.is_compressed else 1):  # at RLE, two bytes stand for 128 at most
        raise ValueError
    if there >= wanted + shape[1] * dtype.itemsize and not syntax.is_compressed:
        raise InputError(f"{ds.filename}: {there} bytes of pixels for {shape[0]} x {shape[1]}; export the scan again")
    if syntax.is_compressed or not syntax.is_little_endian:  # at RLE, it is five times as fast as GDCM
        return pixel_array(ds, correct_unused_bits=False).reshape(shape), bits
    return np.frombuffer(ds.PixelData, dtype, math.prod(shape)).reshape(shape), bits


def _ends_early(ds: Dataset, syntax: uid.UID) -> bool:
    """Tell whether bytes of the pixels are missing, if only the two that end a picture."""
    data = read_attribute(ds, "PixelData")
    if not data or not isinstance(data, bytes):
        return True
    if data[:4] == b"\xfe\xff\x00\xe0":  # an item of a sequence of pictures
        return syntax != uid.RLELossless and b"\xff\xd9" not in data[-16:]
    return syntax in uid.UncompressedTransferSyntaxes and len(data) < ds.Rows * ds.Columns * ds.BitsAllocated // 8


def jpeg_size(picture: bytes) -> tuple[int, int, int, int]:
    """Read rows, columns, bits and channels from the first bytes of a picture in JPEG, JPEG-LS or JPEG 2000.

    ITU-T T.81 B.2.2, T.87 C.2.2 and T.800 A.5.1.
    """
    if picture[:4] == b"\xff\x4f\xff\x51":
        across, down, left, top, *_, channels, bits = struct.unpack_from(">8IHB", picture, 8)
        return down - top, across - left, (bits & 0x7F) + 1, channels
    at = 2
    while picture[at] == 0xFF:
        if picture[at + 1] in {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}:
            bits, rows, columns, channels = struct.unpack_from(">B2HB", picture, at + 4)
            return rows, columns, bits, channels
        at += 2 + struct.unpack_from(">H", picture, at + 2)[0]
    raise ValueError


@contextmanager
def same_locale() -> Iterator[None]:
    """Put back the locale that GDCM sets to "C": after that, Python would take every text file for ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _decode_by_gdcm(ds: Dataset, picture: bytes, bits: int) -> np.ndarray:
    """Decode by GDCM, from a file that holds the picture alone: a length that lies elsewhere costs it gigabytes.

    It is told what the picture says of itself. What the header says would have it turn MONOCHROME1 over, and fail
    where pixels have more bits than their picture needs.
    """
    bare, bits = Dataset(), max(bits, 8)  # it knows no fewer
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    bare.SOPClassUID, bare.SOPInstanceUID = uid.CTImageStorage, uid.generate_uid()
    bare.Rows, bare.Columns, bare.SamplesPerPixel = ds.Rows, ds.Columns, 1
    bare.PhotometricInterpretation = "MONOCHROME2"
    bare.BitsAllocated, bare.BitsStored, bare.HighBit = 2 ** (bits - 1).bit_length(), bits, bits - 1
    bare.PixelRepresentation = int(picture[:2] == b"\xff\x4f" and picture[42] > 127)  # JPEG 2000 alone has a sign
    bare.add_new("PixelData", "OB", ds.PixelData)
    bare["PixelData"].is_undefined_length = True
    bare.save_as(content := io.BytesIO(), enforce_file_format=True)
    try:
        with tempfile.TemporaryDirectory(dir=native(tempfile.gettempdir())) as folder:
            path = Path(folder) / "bare.dcm"
            path.write_bytes(content.getbuffer())
            with same_locale():
                image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")  # named, or each kind of file would be tried
    except OSError as error:
        found = f"to be decoded, it needs a temporary file in {tempfile.tempdir}: {error.strerror}"
        remedy = "set TMPDIR to a folder that has room and may be written to"
        raise InputError(f"{ds.filename}: {found}; {remedy}") from None
    return sitk.GetArrayFromImage(image)


def take_hu(ds: Dataset) -> np.ndarray:
    """Convert a slice to HU and drop its stored pixels, so that a series is in memory once."""
    hu = hu_of(ds)
    del ds.PixelData
    return hu
