"""From what a DICOM file of a CT slice stores to HU, and what its header has to say before any memory is taken for it.

The rescale is DICOM's (PS3.3 C.11.1), applied to each file by itself.
"""

import locale
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.uid import CTImageStorage, RLELossless, generate_uid

from vaelib.engine.errors import InputError

LARGEST = 4096  # pixels a side: twice what the finest scanners give
DESCRIBED = {  # what the pixels of a CT slice can be; anything else is no HU, or a header that lies
    "SamplesPerPixel": {1}, "PixelRepresentation": {0, 1}, "BitsAllocated": {8, 16, 32}, "NumberOfFrames": {None, 1},
    "PhotometricInterpretation": {"MONOCHROME1", "MONOCHROME2"},
}  # fmt: skip
BEYOND = 2**24  # HU: metal has some ten thousand


def value_of(ds, name):
    """The value of an attribute, None where there is none."""
    try:
        return ds.get(name)
    except Exception:  # pydicom raises many kinds on what is not of the kind that the standard wants
        raise InputError(f"{ds.filename}: its {name} cannot be read, damaged? fetch it again") from None


def numbers(ds, name):
    """The numbers of an attribute, (n,), one NaN where there is none; InputError where they are no numbers."""
    value = value_of(ds, name)
    try:
        return np.atleast_1d(np.array(np.nan if value in (None, "") else value, float))
    except (TypeError, ValueError):
        raise InputError(f"{ds.filename}: {name} is no number; export the scan again") from None


def check_pixels(ds):
    """Raise unless the pixels of a file are described as those of a CT slice, before any memory is taken for them."""
    for name, known in DESCRIBED.items():
        value = value_of(ds, name)
        if isinstance(value, MultiValue | list) or value not in known:
            raise InputError(f"{ds.filename}: {name} is {value}, so these are no slices of CT; export the scan again")
    for name in ("Rows", "Columns"):
        value = value_of(ds, name)
        if not isinstance(value, int) or not 0 < value <= LARGEST:
            raise InputError(f"{ds.filename}: {name} is {value}, which no CT slice has; fetch it again")


def hu_of(ds):
    """HU of one file, (H, W), int16 where they are whole numbers; the stored pixels of `ds` are let go."""
    name, shape = ds.filename, (ds.Rows, ds.Columns)
    slope, intercept = _rescale(ds)
    try:
        _check_room(ds, shape)
        syntax = ds.file_meta.TransferSyntaxUID
        if len(ds.PixelData) and (not syntax.is_compressed or syntax == RLELossless):
            stored = _stored(ds, shape)
        else:  # GDCM (in SimpleITK) decodes the rest; at RLE, pydicom is five times as fast
            stored = _decoded(ds, shape)
    except Exception:  # each decoder has its own way to give up on a damaged file
        found = f"{Path(name).stat().st_size} bytes for {shape[0]} x {shape[1]} pixels"
        raise InputError(f"{name}: {found} cannot be decoded, truncated? download it again") from None
    finally:
        ds.pop("PixelData", None)
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        slope, intercept = int(slope), int(intercept)
        ends = [int(end) * slope + intercept for end in (stored.min(), stored.max())]
        if max(map(abs, (*ends, slope, intercept))) < 2**15:  # then 16 bits will do, whatever overflows on the way
            return stored.astype(np.int16) * slope + intercept
    with np.errstate(over="ignore"):
        hu = stored * float(slope) + float(intercept)
    if not np.abs(hu).max() < BEYOND:
        raise InputError(f"{name}: RescaleSlope {slope:g}, RescaleIntercept {intercept:g}: no HU; export it again")
    with np.errstate(invalid="ignore"):
        whole = hu.astype(np.int16)
    return whole if np.array_equal(whole, hu) else hu.astype(np.float32)


def _rescale(ds):
    found = [numbers(ds, name) for name in ("RescaleSlope", "RescaleIntercept")]
    slope, intercept = (float(values[0]) if len(values) == 1 else np.nan for values in found)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise InputError(f"{ds.filename}: has no RescaleSlope and RescaleIntercept, so no HU; export the scan again")
    return slope, intercept


def _check_room(ds, shape):
    """Raise unless the pixels that were stored can be as many as the header says."""
    if not ds.file_meta.TransferSyntaxUID.is_compressed:
        room = len(ds.PixelData) * 8 // ds.BitsAllocated
    elif ds.file_meta.TransferSyntaxUID == RLELossless:
        room = len(ds.PixelData) * 64 * 8 // ds.BitsAllocated  # two bytes stand for 128 at most
    else:
        rows, columns, bits, channels = coded(next(generate_frames(ds.PixelData, number_of_frames=1)))
        room = rows * columns if (rows, columns, channels) == (*shape, 1) and 2 <= bits <= ds.BitsAllocated else 0
    if shape[0] * shape[1] > room:
        raise ValueError


def coded(code):
    """Rows, columns, bits and channels that a picture says of itself, from its first bytes: JPEG, JPEG-LS, JPEG 2000.

    ITU-T T.81 B.2.2, T.87 C.2.2 and T.800 A.5.1.
    """
    if code[:4] == b"\xff\x4f\xff\x51":
        across, down, left, top, *_, channels, bits = struct.unpack_from(">8IHB", code, 8)
        return down - top, across - left, (bits & 0x7F) + 1, channels
    at = 2
    while code[at] == 0xFF:
        if code[at + 1] in {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}:
            bits, rows, columns, channels = struct.unpack_from(">B2HB", code, at + 4)
            return rows, columns, bits, channels
        at += 2 + struct.unpack_from(">H", code, at + 2)[0]
    raise ValueError


@contextmanager
def same_locale():
    """Put back the locale that GDCM sets to "C": after that, Python would take every text file for ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _decoded(ds, shape):
    """Pixels by GDCM, (H, W), from a file that holds these alone: a length that lies elsewhere costs it gigabytes."""
    bare = pydicom.Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    bare.SOPClassUID = bare.file_meta.MediaStorageSOPClassUID = CTImageStorage
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for name in ("BitsStored", "HighBit", "Rows", "Columns", *DESCRIBED):
        if (value := ds.get(name)) is not None:
            setattr(bare, name, value)
    bare.add_new("PixelData", "OB", ds.PixelData)
    bare["PixelData"].is_undefined_length = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bare.dcm"
        bare.save_as(path, enforce_file_format=True)
        with same_locale():
            image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")  # named, or each kind of file would be tried
    return sitk.GetArrayFromImage(image).reshape(shape)


def _stored(ds, shape):
    """Pixels as they were stored, (H, W): the plain 16 bits of a CT as they lie there, all else by pydicom."""
    syntax = ds.file_meta.TransferSyntaxUID
    plain = (ds.BitsAllocated, ds.BitsStored, ds.SamplesPerPixel) == (16, 16, 1) and not syntax.is_compressed
    if plain and syntax.is_little_endian and len(ds.PixelData) == 2 * shape[0] * shape[1]:
        return np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(shape)
    return ds.pixel_array.reshape(shape)
