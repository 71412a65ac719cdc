"""Collect the headers of a CT series, in order of position, and distrust what they say."""

import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from vaelib.dicom.geometry import slice_normal
from vaelib.engine.errors import InputError

UNFOLDED = 128 << 20  # bytes of a deflated file: a SEG of 4,000 slices, or a CT slice four times as fine as any


def series_headers(folder, *, pixels=False):
    """Headers of the CT files in `folder`, in ascending position along the slice normal.

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
    folder, headers = Path(folder).expanduser(), []
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds one CT series")
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "."):
        check_deflated(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom warns where a file ends early, and drops its pixels
                ds = pydicom.dcmread(path, stop_before_pixels=not pixels)
                if pixels and "Modality" not in ds:  # where compressed pixels end early, it drops the header too
                    ds = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception as error:  # pydicom raises many kinds on damaged files
            if isinstance(error, pydicom.errors.InvalidDicomError) and path.suffix.lower() != ".dcm":
                continue
            raise InputError(f"{path}: is damaged or no DICOM; fetch it again") from None
        if "DirectoryRecordSequence" in ds:
            continue
        if ds.get("Modality") != "CT":
            kind = ds.get("Modality") or "of no stated modality (truncated?)"
            raise InputError(f"{path}: is {kind}, not CT; move it out of the folder of the CT series")
        if not all(_has_numbers(ds, *what) for what in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6))):
            raise InputError(f"{path}: has no position or orientation (truncated?); export it again")
        headers.append(ds)
    if not headers:
        raise InputError(f"{folder}: holds no DICOM file; give the folder that holds one CT series")
    normal = slice_normal(headers[0].ImageOrientationPatient)
    return sorted(headers, key=lambda ds: float(normal @ np.asarray(ds.ImagePositionPatient, float)))


def check_deflated(path):
    """Raise InputError where a DICOM file is deflated (PS3.5 A.5) and unfolds to more than `UNFOLDED`: a bomb."""
    with open(path, "rb") as file:
        start = file.read(1024)
        if DeflatedExplicitVRLittleEndian.encode() not in start:
            return
        file.seek(144 + int.from_bytes(start[140:144], "little"))  # the meta information says how long it is
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflater.decompress(file.read(), UNFOLDED)
        except zlib.error:  # which pydicom will find too
            return
    if inflater.unconsumed_tail:
        raise InputError(f"{path}: unfolds to over {UNFOLDED >> 20} MiB, which no such file does; fetch it again")


def _has_numbers(ds, keyword, count):
    try:
        values = np.array(ds.get(keyword), float)
    except Exception:  # pydicom raises many kinds on text that is no number
        return False
    return values.shape == (count,) and bool(np.isfinite(values).all())
