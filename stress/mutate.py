"""Damage of every kind, drawn from a seed: bytes that fall over, and fields that lie.

Each function takes the bytes of a good file and a `random.Random` (hypothesis has one too, which shrinks), and returns
the bytes of a bad one. Fields of a format are changed in place, so that the rest of the file stays as good as it was.
"""

import gzip
import io
import json
import struct
import zipfile

import pydicom
from pydicom.dataelem import DataElement

NUMBERS = b"0 -1 nan inf -inf 1e308 1e-308 abc 0.5 1e9 65536 2147483648".split() + [b""]
COUNTS = [0, 1, 2, 3, 255, 1000, 32767, 32768, 65535]
TEXTS = [b"", b"CT", b"SEG", b"MR", b"\xff\xfe\x00", b"../../etc", b"1.2.840.10008.1.2.1.99", b"x" * 70]
NUMERIC = """PixelSpacing ImagePositionPatient ImageOrientationPatient RescaleSlope RescaleIntercept SliceThickness
SpacingBetweenSlices InstanceNumber NumberOfFrames""".split()
SHORTS = """Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel SegmentNumber
ReferencedSegmentNumber DimensionIndexValues MaximumFractionalValue""".split()
WORDS = """Modality SeriesInstanceUID SOPInstanceUID SOPClassUID FrameOfReferenceUID PhotometricInterpretation
SegmentationType SegmentLabel PatientID TransferSyntaxUID ImageType""".split()


def any_bytes(good, r):
    """Bytes changed without regard to what they mean: flipped, overwritten, cut out, put in, doubled, cut short."""
    bad = bytearray(good)
    for _ in range(r.choice((1, 1, 1, 2, 5, 20))):
        at, length = _place(len(bad), r), r.choice((1, 1, 2, 4, 8, 64, 512))
        way = r.randrange(7)
        if way == 0 and bad:
            bad[at % len(bad)] ^= 1 << r.randrange(8)
        elif way == 1:
            bad[at : at + length] = r.choice((b"\x00", b"\xff", b"\x80", b"0", b"\x7f")) * length
        elif way == 2:
            bad[at : at + length] = bytes(r.randrange(256) for _ in range(min(length, len(bad) - at)))
        elif way == 3:
            del bad[at : at + length]
        elif way == 4:
            bad[at:at] = bytes(r.randrange(256) for _ in range(min(length, 64)))
        elif way == 5:
            bad[at:at] = bad[at : at + length]
        else:
            del bad[at:]
    return bytes(bad)


def _place(size, r):
    """Half of the time near the start, where headers are."""
    return r.randrange(max(1, size if r.random() < 0.5 else min(size, 400)))


def dicom(good, r):
    """One to three elements of a DICOM file, at any depth, given a hostile value or taken out."""
    ds = pydicom.dcmread(io.BytesIO(good))
    syntax = ds.file_meta.TransferSyntaxUID
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        keyword = r.choice(NUMERIC + SHORTS + WORDS)
        holder = r.choice([d for d in _all(ds) if keyword in d] or [ds])
        if r.random() < 0.15:
            holder.pop(keyword, None)
        elif keyword == "TransferSyntaxUID":
            syntax = r.choice(pydicom.uid.AllTransferSyntaxes)
        elif keyword in SHORTS:
            holder[keyword] = DataElement(keyword, "US", r.choice(COUNTS))
        else:
            value = _numbers(holder, keyword, r) if keyword in NUMERIC else r.choice(TEXTS)
            holder[keyword] = DataElement(keyword, "UN", value + b" " * (len(value) % 2), already_converted=True)
    try:
        return written(ds, syntax)
    except Exception:  # pydicom will not write everything
        return any_bytes(good, r)


def _numbers(holder, keyword, r):
    """Hostile numbers, as text; some of the time one among those that were there."""
    old = holder[keyword].value if keyword in holder else None
    if isinstance(old, pydicom.multival.MultiValue) and r.random() < 0.7:
        parts = [str(v).encode() for v in old]
        parts[r.randrange(len(parts))] = r.choice(NUMBERS)
    else:
        parts = [r.choice(NUMBERS) for _ in range(r.choice((1, 1, 2, 3, 6)))]
    return b"\\".join(parts)


def _all(ds):
    yield ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from _all(item)


def written(ds, syntax):
    """The bytes of a data set, however little sense it makes, that claims to be in the transfer syntax `syntax`."""
    ds.save_as(file := io.BytesIO(), enforce_file_format=True)
    true = ds.file_meta.TransferSyntaxUID.encode()
    true += b"\x00" * (len(true) % 2)
    return file.getvalue().replace(true, syntax.encode()[: len(true)].ljust(len(true), b"\x00"), 1)


FLOATS = [0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e30, 1e-30, 0.5, 100.0]
NIFTI = [  # offset, format, hostile values
    *((40 + 2 * k, "<h", [0, 1, 2, 3, 4, 7, -1, 32767, 1000]) for k in range(8)),  # dim
    (70, "<h", [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2304, 999]),  # datatype
    (72, "<h", [0, 1, 8, 16, 32, 64, 128, 32767]),  # bitpix
    *((76 + 4 * k, "<f", FLOATS) for k in range(8)),  # pixdim
    *((108 + 4 * k, "<f", FLOATS) for k in range(3)),  # vox_offset, scl_slope, scl_inter
    *((252 + 2 * k, "<h", [0, 1, 2, 5, -1, 99]) for k in range(2)),  # qform_code, sform_code
    *((256 + 4 * k, "<f", FLOATS) for k in range(18)),  # quaternion, offsets, srow
    (344, "<i", [0, 0x0031692B, 0x0032692B, 0x00316E69]),  # magic
    (0, "<i", [0, 540, 347, -1]),  # sizeof_hdr
]


def nifti(good, r):
    """One to three fields of the header of an uncompressed NIfTI-1."""
    bad = bytearray(good)
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        offset, kind, values = r.choice(NIFTI)
        struct.pack_into(kind, bad, offset, r.choice(values))
    return bytes(bad)


def nifti_gz(good, r):
    """The same, of a compressed one, or only a part of the data, or more than all of it."""
    inner = gzip.decompress(good)
    cut = r.choice((None, None, None, r.randrange(len(inner)), len(inner) + 4096))
    inner = nifti(inner, r)[:cut] + bytes(max(0, (cut or 0) - len(inner)))
    return gzip.compress(inner, 1, mtime=0)


def archive(good, r):
    """A zip with a member renamed, doubled, linked, replaced, or with fields of its directory overwritten."""
    if r.random() < 0.5:
        bad = bytearray(good)
        heads = [i for i in range(len(bad) - 4) if bad[i : i + 4] in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")]
        for _ in range(r.choice((1, 1, 2, 4))):
            at = r.choice(heads) + r.randrange(4, 46)
            if at + 4 <= len(bad):
                struct.pack_into("<I", bad, at, r.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 8, 9, 14, r.getrandbits(32))))
        return bytes(bad)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            data, name = old.read(info), info.filename
            if r.random() < 0.4:
                name = r.choice(NAMES)
            if r.random() < 0.3:
                data = r.choice((b"", data[: len(data) // 2], any_bytes(data, r), nifti_gz(data, r)))
            made = zipfile.ZipInfo(name)
            made.external_attr = r.choice((0, 0, 0, 0o120777 << 16, 0o40755 << 16, 0o10644 << 16))
            new.writestr(made, data)
    return out.getvalue()


NAMES = [
    "../label0001.nii.gz", "/label0001.nii.gz", "C:\\label0001.nii.gz", "a/../../label0003.nii.gz", "label0001.nii.gz",
    "..\\label0002.nii.gz", "label0025.nii.gz", "label0001.nii", "x/label0004.nii.gz", "label0002.nii.gz/", "\x00",
    "label0002.nii.gz\x00.txt", "a" * 300 + "/label0007.nii.gz", "LABEL0001.NII.GZ", "label٠٠٠١.nii.gz",
]  # fmt: skip


VALUES = [None, 0, -1, 1e999, 10**9, 2**70, "x", "../..", [], {}, [1, 2], True, 0.5, "9" * 99]


def text_of_json(good, r):
    """JSON with a value replaced, at any depth, by one of another kind or size."""
    value = json.loads(good)
    for _ in range(r.choice((1, 1, 2))):
        holder = value
        while True:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            if not keys:
                break
            key = r.choice(list(keys))
            if not isinstance(holder[key], dict | list) or not holder[key] or r.random() < 0.3:
                holder[key] = r.choice(VALUES)
                break
            holder = holder[key]
    return json.dumps(value).encode()
