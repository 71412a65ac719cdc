"""F. One cure for every cause, the labels' part: the line holds the cause; "fetch it again" is for missing bytes."""

import errno
import gzip
import os
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from made import affine_of, nifti, put, seg
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from small import make_series

from vaelib import InputError
from vaelib.volumes import read_ct, read_mask

FETCH = "fetch it again"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_series(tmp_path_factory.mktemp("f") / "ct")
    scan = read_ct(folder)
    return scan, (sitk.GetArrayFromImage(scan) == 95).astype(np.uint8), pydicom.dcmread(folder.parent / "seg.dcm")


def sheared(scan, by, axis=(1, 2), cut=None):
    """The affine of a scan with one axis leaned towards another."""
    affine = affine_of(scan)
    affine[:, axis[1]] += by * affine[:, axis[0]] / np.linalg.norm(affine[:, axis[0]]) * scan.GetSpacing()[axis[1]]
    return affine


def nifti2(stored, like):
    """The bytes of a NIfTI-2 file (nifti2.h)."""
    head, size = bytearray(544), stored.shape[::-1]
    for at, kinds, values in (
        (0, "i8s2h", [540, b"n+2\0\r\n\x1a\n", 2, 8]), (16, "8q", [3, *size, 1, 1, 1, 1]),
        (104, "8d", [1, *like.GetSpacing(), 0, 0, 0, 0]), (168, "q2d", [544, 1, 0]), (344, "2i", [0, 1]),
        (400, "12d", affine_of(like).ravel()),
    ):  # fmt: skip
        struct.pack_into("<" + kinds, head, at, *values)
    return bytes(head) + stored.astype(np.uint8).tobytes()


# Each makes a label and says what comes of it: "" where it is read, "warn ..." where also warned of, else the error.


def label(scan, truth, name="label0001.nii.gz", *, pack=False, cut=None, said="", **header):
    data = nifti(truth, scan, **header)
    data = gzip.compress(data) if pack else data
    return name, data[:cut] if cut else data, said


def dicom(change, said, name="seg.dcm"):
    return name, change, said


def with_(**values):
    def change(ds):
        for keyword, value in values.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)

    return change


def without_codes(ds):
    for item in ds.SegmentSequence:
        item.pop("SegmentedPropertyTypeCodeSequence", None)
        item.pop("SegmentedPropertyCategoryCodeSequence", None)


def packed(syntax):
    def change(ds):
        ds.file_meta.TransferSyntaxUID = syntax

    return change


def renamed(syntax):
    def change(ds):
        ds.file_meta.TransferSyntaxUID = syntax
        ds["PixelData"].is_undefined_length = True
        ds.PixelData = pydicom.encaps.encapsulate([ds.PixelData])

    return change


def cut_frames(ds):
    ds.PixelData = ds.PixelData[:100]


def without_place(ds):
    for frame in ds.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


LABELS = {
    "sheared by 1e-3": lambda s, t: label(s, t, affine=sheared(s, 1e-3), said="warn not square"),
    "sheared by 1e-2": lambda s, t: label(s, t, affine=sheared(s, 1e-2), said="warn not square"),
    "sheared by 0.3": lambda s, t: label(s, t, affine=sheared(s, 0.3), said="sheared?"),
    "sheared in plane": lambda s, t: label(s, t, "label.nii", affine=sheared(s, 0.15, (0, 1)), said="sheared?"),
    "gzipped under .nii": lambda s, t: label(s, t, "label0001.nii", pack=True),
    "plain under .nii.gz": lambda s, t: ("label0001.nii.gz", b"plain" + nifti(t, s), ""),
    "four dimensions, one volume": lambda s, t: label(s, t, dim=[4, 32, 40, 12, 1, 1, 1, 1]),
    "five dimensions, one volume": lambda s, t: label(s, t, dim=[5, 32, 40, 12, 1, 1, 1, 1]),
    "two volumes": lambda s, t: label(s, t, dim=[4, 32, 40, 6, 2, 1, 1, 1], said="4 dimensions"),
    "NIfTI-2": lambda s, t: ("label.nii.gz", nifti2(t, s), ""),
    "half of a pair": lambda s, t: label(s, t, magic=b"ni1\0", first=0, said="one half of a pair"),
    "said to be a pair, and whole": lambda s, t: label(s, t, magic=b"ni1\0"),
    "Analyze": lambda s, t: label(s, t, "label.nii", magic=b"\0\0\0\0", said="pair"),
    "cut short": lambda s, t: label(s, t, "label.nii", cut=9000, said=FETCH),
    "cut short, gzip": lambda s, t: label(s, t, "label.nii", pack=True, cut=-20, said=FETCH),
    "web page": lambda s, t: ("label0001.nii.gz", b"plain<!DOCTYPE html><html>404</html>", "is a web page"),
    "empty": lambda s, t: ("label0001.nii", b"", "is empty"),
    "some text": lambda s, t: ("label0001.nii", b"version https://git-lfs.github.com/spec/v1", "begins with b'version"),
    "no geometry": lambda s, t: label(s, t, affine=np.zeros((3, 4)), said="no spacing, origin and directions"),
    "SEG": lambda s, t: dicom(with_(), ""),
    "SEG, codes missing": lambda s, t: dicom(without_codes, ""),
    "RTSTRUCT": lambda s, t: dicom(with_(Modality="RTSTRUCT", SegmentSequence=None), "is RTSTRUCT"),
    "no modality": lambda s, t: dicom(with_(Modality=None), "of no stated modality"),
    "SEG, PixelData missing": lambda s, t: dicom(with_(PixelData=None), FETCH),
    "SEG, frames cut": lambda s, t: dicom(cut_frames, FETCH),
    "SEG, more frames said": lambda s, t: dicom(with_(NumberOfFrames=99), "counts 99 frames"),
    "SEG, no positions": lambda s, t: dicom(without_place, "no PlanePositionSequence"),
    "SEG, deflated": lambda s, t: dicom(packed(DeflatedExplicitVRLittleEndian), ""),
    "SEG, JPEG lossless": lambda s, t: dicom(renamed("1.2.840.10008.1.2.4.70"), "compressed as JPEG Lossless"),
    "SEG, private syntax": lambda s, t: dicom(renamed("1.2.3.4.5"), "1.2.3.4.5"),
    "SEG under .nii": lambda s, t: dicom(with_(), "is DICOM; let its name end in .dcm", "label.nii"),
    "NIfTI under .dcm": lambda s, t: (
        "label.dcm",
        nifti(t, s),
        "not readable as DICOM SEG; give a SEG or a NIfTI file",
    ),
    "web page under .dcm": lambda s, t: (
        "seg.dcm",
        b"<html></html>",
        "not readable as DICOM SEG; give a SEG or a NIfTI file",
    ),
    "NRRD": lambda s, t: (
        "mask.seg.nrrd",
        b"NRRD0004\ntype: int\n",
        "not readable as DICOM SEG; give a SEG or a NIfTI file",
    ),
}
INSTANCES = [(name, make) for name, make in LABELS.items()]


def generate(r):
    """Draw shears of all sizes, cuts at all places, and attributes that are missing."""
    way = r.choice(["shear", "shear", "cut", "missing", "missing", "compressed"])
    if way == "shear":
        by, axis = 10 ** r.uniform(-6, 0), r.choice([(0, 1), (1, 2), (0, 2), (2, 0), (1, 0)])

        def make(scan, truth):
            size, spacing = scan.GetSize(), scan.GetSpacing()
            moved = (
                by * spacing[axis[1]] * (size[axis[1]] - 1)
            )  # from one end to the other, or twice what a corner moves
            said = "" if by < 3e-5 else "warn not square" if moved < 0.6 * min(spacing) else "sheared?"
            said = None if 3e-5 <= by < 8e-5 or 0.6 < moved / min(spacing) < 3 else said
            return label(scan, truth, affine=sheared(scan, by, axis), said=said)

        return f"{axis} sheared by {by:.1e}", make
    if way == "cut":
        at, ending = r.randrange(360, 15000), r.choice(["nii", "nii.gz"])
        return f"{ending} cut at {at}", lambda s, t: label(s, t, f"label.{ending}", cut=at, said=FETCH)
    if way == "compressed":
        syntax = r.choice([RLELossless, JPEGLSLossless, JPEG2000Lossless])
        return syntax.name, lambda s, t: ("seg.dcm", syntax, "")
    keyword = r.choice(["Rows", "Columns", "NumberOfFrames", "PerFrameFunctionalGroupsSequence", "SegmentSequence",
                        "PixelData", "SharedFunctionalGroupsSequence", "BitsAllocated"])  # fmt: skip
    return f"no {keyword}", lambda s, t: dicom(
        with_(**{keyword: None}), {"PixelData": FETCH}.get(keyword, "export it|give a SEG")
    )


@drawn(INSTANCES, generate, seed=18)
def test_a_label_is_read_or_the_cause_is_in_the_line(case, made, tmp_path):
    scan, truth, base = made
    name, content, said = case[1](scan, truth)
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content[5:]) if content[:5] == b"plain" else put(path, content)
    elif isinstance(content, str):  # a syntax
        ds = seg(base, scan.headers, [("Pancreas", None, truth * 255)], kind="FRACTIONAL")
        ds.compress(content, generate_instance_uid=False)
        ds.save_as(path)
    else:
        ds = seg(base, scan.headers, [("Pancreas", None, truth)])
        content(ds)
        ds.save_as(path, implicit_vr=False, little_endian=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = sitk.GetArrayFromImage(read_mask(path, scan))
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            assert said is None or said and re.search(said.replace("?", r"\?"), str(error)), error
            assert (FETCH in str(error)) == (said == FETCH) or said is None, error
            return
    assert not said or said.startswith("warn"), f"read, though {said}"
    np.testing.assert_array_equal(found, truth)
    assert said is None or [said[5:] in str(w.message) for w in caught] == [True] * bool(said)


@pytest.mark.parametrize("name", ["label.nii.gz", "seg.dcm"])
@pytest.mark.parametrize(("number", "why"), [(errno.EACCES, "Permission denied"), (errno.EIO, "Input/output error"),
                                             (errno.ESTALE, "Stale file handle")])  # fmt: skip
def test_a_label_that_the_system_does_not_give(name, number, why, made, tmp_path, monkeypatch):
    scan, truth, base = made
    path = put(tmp_path / name, nifti(truth, scan))
    real = Path.open

    def refused(self, *args, **options):
        if self == path:
            raise OSError(number, os.strerror(number), str(path))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr("builtins.open", lambda p, *a, **o: refused(Path(p), *a, **o))
    with pytest.raises(InputError, match=f"^[^\n]*{name}: cannot be read: {why}; see that") as error:
        read_mask(path, scan)
    assert FETCH not in str(error.value)


def test_a_label_of_a_name_too_long(made, tmp_path):
    with pytest.raises(InputError, match="cannot be read|no such file"):
        read_mask(tmp_path / ("x" * 300 + ".nii.gz"), made[0])
