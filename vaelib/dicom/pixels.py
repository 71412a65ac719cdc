"""Convert what a DICOM file of a CT slice stores to HU, whatever its compression.

The rescale is DICOM's (PS3.3 C.11.1), applied to each file by itself.
"""

import locale
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import CTImageStorage, RLELossless, generate_uid

from vaelib.dicom.headers import CT_PIXELS, read_numbers
from vaelib.engine.errors import InputError

MAX_HU = 2**24  # metal has some ten thousand


def hu_of(ds: Dataset) -> np.ndarray:
    """Convert the pixels of a CT slice to HU, (H, W): int16 where they are whole numbers, else float32."""
    name = ds.filename
    slope, intercept = (read_numbers(ds, keyword, 1).item() for keyword in ("RescaleSlope", "RescaleIntercept"))
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise InputError(f"{name}: has no RescaleSlope and RescaleIntercept, so no HU; export the scan again")
    try:
        stored = _decode(ds)
    except Exception:  # each decoder has its own way to give up on a damaged file
        found = f"{Path(name).stat().st_size} bytes for {ds.Rows} x {ds.Columns} pixels"
        raise InputError(f"{name}: {found} cannot be decoded, truncated? download it again") from None
    ends = [float(end) * slope + intercept for end in (stored.min(), stored.max())]
    if not np.abs(ends).max() < MAX_HU:
        raise InputError(f"{name}: RescaleSlope {slope:g}, RescaleIntercept {intercept:g}: no HU; export it again")
    if slope.is_integer() and intercept.is_integer() and np.abs([*ends, slope, intercept]).max() < 2**15:
        return stored.astype(np.int16) * int(slope) + int(intercept)  # 16 bits will do, whatever overflows on the way
    hu = stored * slope + intercept
    with np.errstate(invalid="ignore"):
        whole = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu.astype(np.float32)


def _decode(ds: Dataset) -> np.ndarray:
    """Decode the stored pixels, (H, W), once they are known to be as many as the header says."""
    syntax, shape = ds.file_meta.TransferSyntaxUID, (ds.Rows, ds.Columns)
    if syntax.is_compressed and syntax != RLELossless:
        *said, bits, channels = jpeg_size(next(generate_frames(ds.PixelData, number_of_frames=1)))
        if tuple(said) != shape or channels != 1 or not 2 <= bits <= ds.BitsAllocated:
            raise ValueError
        return _decode_by_gdcm(ds).reshape(shape)
    stored, wanted = len(ds.PixelData), shape[0] * shape[1] * ds.BitsAllocated // 8
    if wanted > stored * (64 if syntax == RLELossless else 1):  # at RLE, two bytes stand for 128 at most
        raise ValueError
    plain = not syntax.is_compressed and syntax.is_little_endian and (ds.BitsAllocated, ds.BitsStored) == (16, 16)
    if plain and stored == wanted:
        return np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(shape)
    return pixel_array(ds).reshape(shape)  # at RLE, it is five times as fast as GDCM


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


def _decode_by_gdcm(ds: Dataset) -> np.ndarray:
    """Decode by GDCM, from a file that holds the pixels alone: a length that lies elsewhere costs it gigabytes."""
    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    bare.SOPClassUID = bare.file_meta.MediaStorageSOPClassUID = CTImageStorage
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword in ("BitsStored", "HighBit", "Rows", "Columns", *CT_PIXELS):
        if (value := ds.get(keyword)) is not None:
            setattr(bare, keyword, value)
    bare.add_new("PixelData", "OB", ds.PixelData)
    bare["PixelData"].is_undefined_length = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.dcm"
        bare.save_as(path, enforce_file_format=True)
        with same_locale():
            image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")  # named, or each kind of file would be tried
    return sitk.GetArrayFromImage(image)
