"""CT slices whose pixels lie in their cells, and are compressed, as a test wants it; none of it asks vaelib."""

import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from small import make_series

from vaelib.dicom.pixels import same_locale

SYNTAX = {
    "plain": uid.ExplicitVRLittleEndian,
    "implicit": uid.ImplicitVRLittleEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "RLE": uid.RLELossless,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG": uid.JPEGLosslessSV1,
    "JPEG2000": uid.JPEG2000Lossless,
}


@cache
def _headers():
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(make_series(Path(folder) / "ct").iterdir())
        headers = []
        for path in paths[:2]:
            read, ds = pydicom.dcmread(path, stop_before_pixels=True), pydicom.Dataset()
            ds.file_meta = read.file_meta
            for element in read:  # and not as bytes in the order of that file
                ds.add(element)
            headers.append(ds)
        return headers


def cells_of(stored, allocated=16, count=16, high=15, garbage=0):
    """Stored numbers in their cells (PS3.5 8.1.1), unsigned; the bits beside them are those of `garbage`."""
    mask = (1 << count) - 1
    cells = (np.asarray(stored).astype(np.int64) & mask) << (high + 1 - count)
    cells |= garbage & ~(mask << (high + 1 - count)) & ((1 << allocated) - 1)
    return cells.astype(f"u{allocated // 8}")


def frame_of(cells, packing, bits=None):
    """One picture of cells, compressed losslessly: by CharLS of `bits` bits, or by GDCM of all."""
    if packing in ("JPEG-LS", "RLE"):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.SOPInstanceUID, ds.NumberOfFrames = uid.generate_uid(), 1
        ds.Rows, ds.Columns = cells.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated = cells.dtype.itemsize * 8
        ds.BitsStored = bits or ds.BitsAllocated
        ds.HighBit, ds.PixelData = ds.BitsStored - 1, cells.tobytes()
        ds.compress(SYNTAX[packing], generate_instance_uid=False)
        return next(generate_frames(ds.PixelData, number_of_frames=1))
    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/a.dcm")
        writer.UseCompressionOn()
        writer.SetCompressor(packing)
        with same_locale():
            writer.Execute(sitk.GetImageFromArray(cells))
        return next(generate_frames(pydicom.dcmread(f"{folder}/a.dcm").PixelData, number_of_frames=1))


def write_packed(folder, cells, packing="plain", bits=None, **header):
    """Write two slices; `header` is by keyword, None takes an attribute out, a pair is (VR, value)."""
    folder.mkdir()
    for k, (ds, pixels) in enumerate(zip(_headers(), cells, strict=True)):
        ds = deepcopy(ds)
        ds.file_meta.TransferSyntaxUID = syntax = SYNTAX[packing]
        ds.BitsAllocated = pixels.dtype.itemsize * 8
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = ds.BitsAllocated, ds.BitsAllocated - 1, 0
        ds.Rows, ds.Columns = pixels.shape
        if syntax.is_compressed:
            ds.PixelData = encapsulate([frame_of(pixels, packing, bits)])
            ds["PixelData"].VR = "OB"
            ds["PixelData"].is_undefined_length = True
        else:
            pixels = pixels.astype(pixels.dtype.newbyteorder(">")) if packing == "big endian" else pixels
            content = pixels.tobytes()
            if packing == "big endian" and ds.BitsAllocated == 8:  # of words, each of which is turned over
                content = pixels.reshape(-1, 2)[:, ::-1].tobytes()
            ds.add_new("PixelData", "OW", content)
        for keyword, value in header.items():
            if isinstance(value, tuple):
                ds.add_new(keyword, *value)
            elif value is None:
                ds.pop(keyword, None)
            else:
                setattr(ds, keyword, value)
        ds.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder
