"""Labels made byte by byte, as other programs make them: nothing of `vaelib`'s own writing is in them."""

import copy
import gzip
import struct

import numpy as np
from pydicom.dataset import Dataset

CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280,
         "V3": 128, "V4": 2304, "c8": 32, "c16": 1792}  # fmt: skip


def affine_of(like):
    """(3, 4), from the index of a voxel of an image of SimpleITK to mm in RAS."""
    lps = np.c_[np.reshape(like.GetDirection(), (3, 3)) * like.GetSpacing(), like.GetOrigin()]
    return lps * [[-1], [-1], [1]]


def nifti(stored, like, *, slope=0.0, shift=0.0, order="<", affine=None, edits=(), dim=None, first=352, magic=b"n+1\0"):
    """The bytes of a NIfTI-1 of `stored` (S, H, W), placed as `like` by its sform; edits are (offset, kind, values)."""
    kind, (affine, size) = stored.dtype.str[1:], (affine_of(like) if affine is None else affine, stored.shape[::-1])
    head = bytearray(352)
    pixdim = np.linalg.norm(affine[:, :3], axis=0)
    for at, kinds, values in (
        (0, "i", [348]), (40, "8h", dim or [3, *size, 1, 1, 1, 1]), (70, "2h", [CODES[kind], stored.itemsize * 8]),
        (76, "8f", [1, *pixdim, 0, 0, 0, 0]), (108, "3f", [first, slope, shift]), (252, "2h", [0, 1]),
        (280, "12f", affine.ravel()), (344, "4s", [magic]), *edits,
    ):  # fmt: skip
        struct.pack_into(order + kinds, head, at, *values)
    return bytes(head) + stored.astype(stored.dtype.newbyteorder(order)).tobytes()


def put(path, data):
    """Write a label under its name, packed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 1) if path.name.endswith(".gz") and data[:2] != b"\x1f\x8b" else data)
    return path


def code(value, scheme="SCT", meaning="Pancreas"):
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def seg(base, headers, segments, *, written=str, turned=str, frames=None, empty=False, between=None, kind="BINARY"):
    """A SEG like `base` of other segments, (label, code or None, mask (S, H, W)), on the slices of some headers.

    `written` and `turned` say how numbers of positions and cosines are written, `frames` in which order frames stand;
    `empty` keeps those without a voxel.
    """
    ds = copy.deepcopy(base)
    item, frame = base.SegmentSequence[0], base.PerFrameFunctionalGroupsSequence[0]
    ds.SegmentSequence, found = [], []
    for n, (label, coded, mask) in enumerate(segments, 1):
        new = copy.deepcopy(item)
        new.SegmentNumber, new.SegmentLabel = n, label
        del new.SegmentedPropertyTypeCodeSequence
        if coded:
            new.SegmentedPropertyTypeCodeSequence = [coded]
        ds.SegmentSequence.append(new)
        found += [(n, k, mask[k]) for k in range(len(mask)) if empty or mask[k].any()]
    if kind == "LABELMAP":
        maps = sum(n * mask.astype(np.uint8) for n, (_, _, mask) in enumerate(segments, 1))
        found = [(0, k, maps[k]) for k in range(len(maps)) if empty or maps[k].any()]
    if frames:
        frames(found)
    ds.PerFrameFunctionalGroupsSequence = []
    for n, k, _ in found:
        new = copy.deepcopy(frame)
        new.PlanePositionSequence[0].ImagePositionPatient = [written(v) for v in headers[k].ImagePositionPatient]
        new.FrameContentSequence[0].DimensionIndexValues = [max(n, 1), k + 1]
        if kind != "LABELMAP":
            new.SegmentIdentificationSequence = [Dataset()]
            new.SegmentIdentificationSequence[0].ReferencedSegmentNumber = n
        ds.PerFrameFunctionalGroupsSequence.append(new)
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.pop("SegmentIdentificationSequence", None)
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [turned(v) for v in headers[0].ImageOrientationPatient]
    if "SpacingBetweenSlices" in shared.PixelMeasuresSequence[0]:
        del shared.PixelMeasuresSequence[0].SpacingBetweenSlices
    if between is not None:
        shared.PixelMeasuresSequence[0].SpacingBetweenSlices = between
    pixels = np.stack([image for *_, image in found])
    ds.NumberOfFrames, ds.Rows, ds.Columns = pixels.shape
    ds.SegmentationType, bits = kind, 1 if kind == "BINARY" else 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    if kind == "FRACTIONAL":
        ds.SegmentationFractionalType, ds.MaximumFractionalValue = "PROBABILITY", 255
    data = np.packbits(pixels.ravel() != 0, bitorder="little") if bits == 1 else pixels.astype(np.uint8)
    ds.add_new("PixelData", "OB", data.tobytes() + b"\0" * (data.size % 2))
    return ds
