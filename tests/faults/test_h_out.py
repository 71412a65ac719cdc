"""Kind H, the way out: a mask in a folder or under a name that is not UTF-8, odd or long is written, or one line."""

import gzip
import os
import struct
import warnings

import numpy as np
import pydicom
import pytest
from drawn import drawn
from small import as_image, blob_volume, make_series

from vaelib import InputError
from vaelib.dicom.write import check_target, write_mask
from vaelib.volumes import read_ct

NAMES = [
    b"Andr\xe9", b"\xff\xfe", b"M\xfcller, Gr\xf6\xdfe", b"\x8e\x9f\x82\xa2", b"a\xc3", b"\xed\xb3\xa9",  # no UTF-8
    "Müller".encode(), "膵臓".encode(), "e\u0301".encode(), "🙂".encode(), b"a b", b"a'b\"c", b"$HOME", b"-out",
    b"%s{0}", b"a\nb", b"x" * 200, "膵".encode() * 60, b".hidden", b"a.dcm", b"a.nii.gz",
]  # fmt: skip
ENDINGS = [".nii.gz", ".nii", ".dcm", ".NII.GZ", ".DCM"]
TOO_LONG = [b"x" * 250, b"x" * 300, "膵".encode() * 90]  # over 250 bytes with any ending

# A case: what it is, the folder, the name, its ending
INSTANCES = [
    *((f"Latin-1 folder {ending}", b"Andr\xe9", b"mask", ending) for ending in ENDINGS[:3]),
    *((f"Latin-1 name {ending}", b"out", b"Andr\xe9", ending) for ending in ENDINGS[:3]),
    *((f"300 bytes {ending}", b"out", TOO_LONG[1], ending) for ending in ENDINGS[:3]),
    ("200 bytes", b"out", b"x" * 200, ".dcm"),
    ("a name of 250 bytes", b"out", b"x" * 246, ".dcm"),
    ("250 bytes of NIfTI", b"out", b"x" * 246, ".nii"),
    ("its twin is too long", b"out", b"x" * 250, ".nii"),
]


def generate(r):
    """Draw a folder, a name and an ending."""
    folder, name, ending = r.choice(NAMES), r.choice(NAMES + TOO_LONG), r.choice(ENDINGS)
    return f"{folder[:9]!r} {name[:9]!r} {ending}", folder, name, ending


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return read_ct(make_series(tmp_path_factory.mktemp("h") / "ct"))


def frames_of(path):
    """The masked slices of a SEG or NIfTI, by pydicom or struct."""
    if path.suffix.lower() == ".dcm":
        return pydicom.dcmread(path).pixel_array
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    first = int(struct.unpack_from("<f", data, 108)[0])
    array = np.frombuffer(data, np.uint8, 12 * 40 * 32, first).reshape(12, 40, 32)
    return array[array.any((1, 2))]


@drawn(INSTANCES, generate, seed=18)
def test_a_mask_goes_out_under_any_name_or_one_line_says_why(case, scan, tmp_path):
    _, folder, name, ending = case
    path = tmp_path / os.fsdecode(folder) / os.fsdecode(name + ending.encode())
    mask = blob_volume()[1]
    whole, too_long = _is_utf8(folder) and _is_utf8(name), len(name + ending.encode()) > 250
    why = "its name has" if too_long else "its name is not UTF-8" if not whole else ""
    if ending == ".NII.GZ":
        why = "end the name in .nii.gz, .nii or .dcm"
    if why and (too_long or ending.lower() != ".dcm"):
        with pytest.raises(InputError, match=why):
            check_target(path, scan=scan)
        return
    check_target(path, scan=scan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write_mask(as_image(mask, scan), path, scan) == path
    assert np.array_equal(frames_of(path), mask[mask.any((1, 2))])
    assert os.listdir(path.parent) == [path.name]


def _is_utf8(name):
    try:
        return bool(name.decode())
    except UnicodeDecodeError:
        return False


def test_a_series_without_uids_in_such_a_folder_carries_a_seg(tmp_path):
    folder = make_series(tmp_path / os.fsdecode(b"Andr\xe9") / "ct")
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.FrameOfReferenceUID = ds.SOPInstanceUID = ""
        ds.save_as(path)
    scan = read_ct(folder)
    with pytest.warns(UserWarning, match="the scan has no FrameOfReferenceUID, SOPInstanceUID for all slices"):
        path = write_mask(as_image(blob_volume()[1], scan), folder.parent / "mask.dcm", scan)
    assert np.array_equal(frames_of(path), blob_volume()[1][blob_volume()[1].any((1, 2))])
