"""What files hold by another reading than `vaelib`'s: slow, plain, and straight from the standards.

Of DICOM, PS3.3 C.7.6.2 (image plane), C.7.6.16 (frames) and C.11.1 (rescale); of NIfTI-1, its header file nifti1.h.
"""

import gzip
import struct

import numpy as np
import pydicom

CODES = "15776009", "T-65000"  # of the pancreas, in SNOMED CT and as it was before
NUMPY = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2", 768: "<u4", 1024: "<i8", 1280: "<u8"}


def ct(folder):
    """Of a series without compression: HU (S, H, W); (4, 4) from (column, row, slice, 1) to mm; and its padding.

    What the header names as padding may be read as air; (S, H, W) of bool says where.
    """
    found = []
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        position, (down, across) = np.array(ds.ImagePositionPatient, float), map(float, ds.PixelSpacing)
        stored = _stored(ds)
        hu = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        place = float(np.cross(row, column) @ position)
        found.append((place, hu, row * across, column * down, position, _padding(ds, stored)))
    found.sort(key=lambda item: item[0])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = found[0][2:5]
    affine[:3, 2] = (found[-1][4] - found[0][4]) / (len(found) - 1)
    return np.stack([hu for _, hu, *_ in found]), affine, np.stack([padding for *_, padding in found])


def _stored(ds):
    """The numbers in little-endian cells, (H, W) of int, taken from the bits that the header says (PS3.5 8.1.1)."""
    size = ds.BitsAllocated // 8
    cells = np.frombuffer(ds.PixelData, f"<u{size}", len(ds.PixelData) // size).astype(np.int64)
    assert 0 <= len(cells) - ds.Rows * ds.Columns < ds.Columns, "other pixels than the header counts"
    bits, high = ds.BitsStored, ds.get("HighBit")
    high = bits - 1 if high is None or bits == 8 * size else high  # where all bits are stored there is no choice
    numbers = (cells[: ds.Rows * ds.Columns] >> (high + 1 - bits)) & (2**bits - 1)
    negative = ds.PixelRepresentation & (numbers >> (bits - 1))
    return (numbers - negative * 2**bits).reshape(ds.Rows, ds.Columns)


def _padding(ds, stored):
    """Where the stored numbers are PixelPaddingValue, or between it and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2)."""
    ends = [v for v in (ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")) if isinstance(v, int)]
    as_stored = [v - 65536 if ds.PixelRepresentation and v > 32767 else v for v in ends]
    return (stored >= min(as_stored)) & (stored <= max(as_stored)) if ends else np.zeros(stored.shape, bool)


def seg(path, scan, name="pancreas"):
    """The mask of a binary SEG on the grid of `scan`, (S, H, W): each frame put where it says it lies."""
    ds = pydicom.dcmread(path)
    out = np.zeros(scan.GetSize()[::-1], np.uint8)
    number = [s.SegmentNumber for s in ds.SegmentSequence if s.SegmentLabel.strip().lower() == name]
    number = number or [s.SegmentNumber for s in ds.SegmentSequence if _code(s) in CODES]
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    size, shared = ds.Rows * ds.Columns, ds.SharedFunctionalGroupsSequence[0]
    frames = ds.PerFrameFunctionalGroupsSequence
    for k, frame in enumerate(frames):
        of = lambda what: (frame if what in frame else shared)[what][0]  # noqa: B023, E731
        if of("SegmentIdentificationSequence").ReferencedSegmentNumber not in number:
            continue
        row, column = np.array(of("PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
        position = np.array(of("PlanePositionSequence").ImagePositionPatient, float)
        down, across = map(float, of("PixelMeasuresSequence").PixelSpacing)
        for y, x in np.argwhere(bits[k * size : (k + 1) * size].reshape(ds.Rows, ds.Columns)):
            point = position + x * across * row + y * down * column
            i, j, s = np.rint(scan.TransformPhysicalPointToContinuousIndex(point.tolist())).astype(int)
            out[s, j, i] = 1
    return out


def _code(segment):
    return getattr(segment.get("SegmentedPropertyTypeCodeSequence", [None])[0], "CodeValue", None)


def nifti(path, scan):
    """Masks of a NIfTI-1 label on the grid of `scan`: one for each way in which its header places it."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    dim, code = struct.unpack_from("<8h", data, 40), struct.unpack_from("<h", data, 70)[0]
    size, start = [max(1, d) for d in dim[1:4]], int(struct.unpack_from("<f", data, 108)[0])
    slope, shift = (0 if abs(v) < 1e-9 else v for v in struct.unpack_from("<2f", data, 112))
    array = np.frombuffer(data, NUMPY[code], int(np.prod(size)), start).reshape(size, order="F").astype(float)
    array = array * slope + shift if slope and np.isfinite(slope) else array
    return [_placed(array, affine, scan) for affine in _affines(data)]


def _affines(data):
    quaternion, shift = np.array(struct.unpack_from("<3f", data, 256)), struct.unpack_from("<3f", data, 268)
    pixdim = np.array(struct.unpack_from("<8f", data, 76))
    yield np.array(struct.unpack_from("<12f", data, 280)).reshape(3, 4)  # sform
    b, c, d = quaternion
    a = np.sqrt(max(0, 1 - b * b - c * c - d * d))
    turn = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    yield np.c_[turn * (pixdim[1:4] * [1, 1, -1 if pixdim[0] < 0 else 1]), shift]  # qform
    yield np.c_[np.diag(pixdim[1:4]), [0, 0, 0]]  # neither
    sform = np.array(struct.unpack_from("<12f", data, 280)).reshape(3, 4)  # as ITK has it where its scales are odd
    with np.errstate(all="ignore"):
        yield np.c_[sform[:, :3] / np.linalg.norm(sform[:, :3], axis=0) * pixdim[1:4], sform[:, 3]]


def _placed(array, affine, scan):
    out = np.zeros(scan.GetSize()[::-1], np.uint8)
    for index in np.argwhere(array != 0):
        point = (affine @ [*index, 1]) * [-1, -1, 1]  # NIfTI is RAS, DICOM is LPS
        if not np.isfinite(point).all():
            continue
        place = np.rint(scan.TransformPhysicalPointToContinuousIndex(point.tolist())).astype(int)
        if (place >= 0).all() and (place < scan.GetSize()).all():
            out[tuple(place[::-1])] = 1
    return out
