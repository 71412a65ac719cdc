"""A: every name in the folder of a series is read, known to be harmless, or spoken of; no slice goes in silence."""

import bz2
import gzip
import io
import os
import random
import re
import shutil
import socket
import tempfile
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from pydicom import uid
from small import blob_volume, make_series

from vaelib import InputError
from vaelib.dicom.folder import sort_files
from vaelib.volumes import read_ct

NAMES = {  # how slices are called by scanners, archives and converters, from their number
    "1-001.dcm": lambda k: f"1-{k:03d}.dcm",
    "IM0012": lambda k: f"IM{k:04d}",
    "a UID": lambda k: f"1.2.826.0.1.3680043.8.498.{k * 7919}",
    "CT.UID": lambda k: f"CT.1.3.12.2.1107.5.1.4.60064.{16572 + k}",
    ".IMA": lambda k: f"CT.0002.{k:04d}.2024.01.31.IMA",
    "digits": lambda k: f"{k:08d}",
    "I10": lambda k: f"I{k * 10}",
    "hash": lambda k: f"{k * 2654435761 % 2**32:08X}",
    "Image (1)": lambda k: f"Image ({k})",
    ".DCM": lambda k: f"IMG-0001-{k:05d}.DCM",
    ".dicom": lambda k: f"slice{k}.dicom",
    "Z10": lambda k: f"Z{k}",
    ".img": lambda k: f"s{k:03d}.img",
    "E1S2I3": lambda k: f"E1S2I{k}",
}
HARMLESS = [
    "LICENSE", "LICENSE.txt", "license", "README.md", "DICOMDIR", "dicomdir", "Thumbs.db", "desktop.ini", ".DS_Store",
    "._IM0012", ".hidden.dcm", "md5sums", "MD5SUMS.txt", "checksums.md5", "sha256sums", "IM0012.json", "1-001.dcm.json",
    "series.xml", "metadata.csv", "VERSION", "notes.txt", "CITATION", "report.pdf", "index.html", "x.log",
    "1-001.dcm:Zone.Identifier",
]  # fmt: skip
LEFT_OUT = [
    "preview.jpg",
    "label.nii.gz",
    "volume.nrrd",
    "series.zip",
    "autorun.inf",
    "viewer.exe",
    "IM0012.png",
    "go.sh",
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The bytes of the 12 slices, ascending along the normal."""
    folder = make_series(tmp_path_factory.mktemp("stored") / "ct")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def bare(whole, *, explicit=False):
    """A slice as it was stored before there were preambles: without meta information."""
    ds, out = pydicom.dcmread(io.BytesIO(whole)), io.BytesIO()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if explicit else uid.ImplicitVRLittleEndian
    pydicom.dcmwrite(out, ds, implicit_vr=not explicit, little_endian=True)
    start = 144 + int.from_bytes(out.getvalue()[140:144], "little")
    return out.getvalue()[start:]


def zipped(whole):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        bundle.writestr("IM0012", whole)
    return out.getvalue()


DAMAGE = {  # of the last slice, which would not be missed: what lies there, and what is said
    "empty": (lambda whole, r: b"", "no DICOM, 0 bytes of it are there; fetch it again"),
    "100 bytes": (lambda whole, r: whole[:100], "no DICOM, 100 bytes of it are there; fetch"),
    "a few bytes": (lambda whole, r: whole[: r.randrange(1, 132)], "bytes of it are there; fetch it again"),
    "preamble alone": (lambda whole, r: whole[:132], "fetch it again"),
    "half the header": (lambda whole, r: whole[: r.randrange(340, 500)], "fetch it again"),
    "half the pixels": (lambda whole, r: whole[: -r.randrange(2, 2000)], "truncated"),
    "zeros": (lambda whole, r: bytes(len(whole)), "is no DICOM.* fetch it again"),
    "a web page": (lambda whole, r: b"<html><body>404 Not Found</body></html>" * 9, "begins with b'<html><b'"),
    "gzip": (lambda whole, r: gzip.compress(whole), r"is packed \(gzip\); unpack it"),
    "zip": (lambda whole, r: zipped(whole), r"is packed \(zip\); unpack it"),
    "bzip2": (lambda whole, r: bz2.compress(whole), r"is packed \(bzip2\); unpack it"),
}
STILL_READ = {
    "no preamble": lambda whole, r: whole[132:],
    "old style": lambda whole, r: bare(whole),
    "old style, explicit": lambda whole, r: bare(whole, explicit=True),
}


def one_damaged(naming, damage):
    return f"{naming}, {damage}", naming, damage


INSTANCES = [
    *(
        one_damaged(naming, damage)
        for naming in ("IM0012", "a UID", ".IMA", "digits")
        for damage in ("empty", "100 bytes", "no preamble")
    ),
    one_damaged("1-001.dcm", "gzip"),
    one_damaged("1-001.dcm", "no preamble"),
    one_damaged("1-001.dcm", "empty"),
]


def generate(r):
    return one_damaged(r.choice(sorted(NAMES)), r.choice([*DAMAGE, *STILL_READ]))


def fill(folder, stored, naming):
    """Write the slices under such names; return the path of each."""
    paths = [folder / NAMES[naming](k + 1) for k in range(len(stored))]
    for path, whole in zip(paths, stored, strict=True):
        path.write_bytes(whole)
    return paths


def read_whole(folder):
    """Read twelve slices, exactly and without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scan = read_ct(folder)
    assert np.array_equal(sitk.GetArrayViewFromImage(scan), blob_volume()[0])


@drawn(INSTANCES, generate, seed=18)
def test_a_damaged_slice_at_the_end_is_an_error_by_whatever_name(case, stored, tmp_path):
    title, naming, damage = case
    r, victim = random.Random(title), fill(tmp_path, stored, naming)[-1]
    if damage in STILL_READ:
        victim.write_bytes(STILL_READ[damage](stored[-1], r))
        read_whole(tmp_path)
        return
    make, said = DAMAGE[damage]
    victim.write_bytes(make(stored[-1], r))
    with pytest.raises(InputError, match=f"^[^\n]*{re.escape(victim.name)}: [^\n]*{said}[^\n]*$"):
        read_ct(tmp_path)


@pytest.mark.parametrize("kind", ["no preamble", "old style", "old style, explicit"])
@pytest.mark.parametrize("naming", ["IM0012", "1-001.dcm", "Z10"])
def test_a_series_all_of_whose_files_are_old_style_is_read(kind, naming, stored, tmp_path):
    fill(tmp_path, [STILL_READ[kind](whole, None) for whole in stored], naming)
    read_whole(tmp_path)


def others(r):
    """Files beside the slices, by name whether each is spoken of."""
    names = r.sample(HARMLESS, r.randrange(0, 6)), r.sample(LEFT_OUT, r.randrange(0, 7))
    content = r.choice([b"", b"hello\n", bytes(200), b"\x89PNG\r\n\x1a\n" + bytes(300)])
    return f"{len(names[0])} harmless, {len(names[1])} left out", r.choice(sorted(NAMES)), *names, content


@drawn(
    [("all that is harmless", "IM0012", HARMLESS, [], b"x"), ("all that is not", "IM0012", [], LEFT_OUT, b"x")],
    others,
    seed=18,
)
def test_what_lies_beside_the_slices_is_harmless_or_spoken_of(case, stored, tmp_path):
    _, naming, harmless, left_out, content = case
    fill(tmp_path, stored, naming)
    for name in (*harmless, *left_out):
        (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan = read_ct(tmp_path)
    assert np.array_equal(sitk.GetArrayViewFromImage(scan), blob_volume()[0])
    said = [str(w.message) for w in caught]
    if left_out:
        assert len(said) == 1 and "\n" not in said[0] and f"{tmp_path}: left out {len(left_out)} that" in said[0]
        assert all(name in said[0] for name in sorted(left_out)[:5])
        assert (f"and {len(left_out) - 5} more" in said[0]) == (len(left_out) > 5)
    else:
        assert not said


def test_folders_are_left_out_if_they_hold_files(stored, tmp_path):
    fill(tmp_path, stored, "1-001.dcm")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._x").write_text("x")
    read_whole(tmp_path)
    (tmp_path / "x.dcm").mkdir()
    (tmp_path / "x.dcm" / "1-001.dcm").write_bytes(stored[0])
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "more" / "deep" / "1-001.dcm").write_bytes(stored[0])
    with pytest.warns(UserWarning, match="left out 2 that are no slices: more, x.dcm$"):
        read_ct(tmp_path)


@pytest.mark.parametrize("name", ["1-013.dcm", "IM0013", "pipe"])
def test_no_pipe_and_no_socket_is_waited_for(name, stored, tmp_path, monkeypatch):
    fill(tmp_path, stored, "1-001.dcm")
    os.mkfifo(tmp_path / name)
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as line:
        line.bind("s.dcm")
        with pytest.warns(UserWarning, match=f"left out 2 that are no slices: {name}, s.dcm"):
            done = threading.Thread(target=read_ct, args=(tmp_path,), daemon=True)
            done.start()
            done.join(60)
    assert not done.is_alive()


@pytest.mark.parametrize("naming", ["1-001.dcm", "IM0012", "a UID"])
def test_a_link_that_leads_nowhere_is_a_slice_that_cannot_be_read(naming, stored, tmp_path):
    """As git-annex leaves them where a file was not fetched."""
    victim = fill(tmp_path, stored, naming)[-1]
    victim.unlink()
    victim.symlink_to(tmp_path / ".annex" / "gone")
    with pytest.raises(InputError, match=rf"{re.escape(victim.name)}: cannot be read \(No such file"):
        read_ct(tmp_path)
    victim.unlink()
    victim.write_bytes(stored[-1])
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone")
    read_whole(tmp_path)


@pytest.mark.parametrize("naming", ["1-001.dcm", "IM0012"])
def test_a_slice_that_may_not_be_read(naming, stored):
    with tempfile.TemporaryDirectory() as room:  # of which pytest's own are closed to others than root
        folder, root = Path(room), os.geteuid() == 0
        folder.chmod(0o755)
        victim = fill(folder, stored, naming)[-1]
        victim.chmod(0)
        try:
            if root:
                os.seteuid(65534)
            with pytest.raises(InputError, match=rf"{victim.name}: cannot be read \(Permission denied\)"):
                read_ct(folder)
            assert victim in sort_files(folder).read
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("name", ["1-013.dcm.gz", "1-013.dcm.zip", "1-013.dcm.part", "1-013.dcm~"])
def test_a_slice_that_is_packed_or_half_there_is_an_error(name, stored, tmp_path):
    fill(tmp_path, stored, "1-001.dcm")
    content = {"gz": gzip.compress, "zip": zipped}.get(name.rsplit(".")[-1], lambda whole: whole[:90])
    (tmp_path / name).write_bytes(content(stored[-1]))
    with pytest.raises(InputError, match=rf"{name}: .*(unpack it|fetch it again)"):
        read_ct(tmp_path)


def test_a_series_that_is_packed_says_so(stored, tmp_path):
    for k, whole in enumerate(stored):
        (tmp_path / f"1-{k:03d}.dcm.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(InputError, match=r"1-000.dcm.gz: is packed \(gzip\); unpack it"):
        read_ct(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "series.zip").write_bytes(zipped(stored[0]))
    with pytest.raises(InputError, match=r"holds no DICOM file \(but series.zip\)"):
        read_ct(tmp_path)


def test_dicom_is_known_by_its_content(stored, tmp_path):
    """Whatever a mail gateway, a browser or a viewer made of its name."""
    for name, whole in zip(["a", "b.txt", "c.jpg", "d.dcm.bak", "README", "f.json", *"ghijkl"], stored, strict=True):
        (tmp_path / name).write_bytes(whole)
    read_whole(tmp_path)


def test_a_seg_without_ending_is_found(series):
    shutil.move(series.parent / "seg.dcm", series / "mask")
    assert series / "mask" in sort_files(series).read
    ds = pydicom.dcmread(series / "mask")
    assert ds.SOPClassUID == uid.SegmentationStorage


def test_of_files_no_more_than_the_first_bytes_are_read(stored, tmp_path, monkeypatch):
    fill(tmp_path, stored, "IM0012")
    fill(tmp_path, stored, "1-001.dcm")
    counted, opened = [], Path.open

    def count(path, *args, **options):
        counted.append(path)
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", count)
    assert len(sort_files(tmp_path).read) == 24
    assert len(counted) == 12  # a name in .dcm says enough


@pytest.mark.parametrize(
    ("name", "hidden"), [("{}.dcm", ".0.dcm.icloud"), ("IM{}", ".IM0.Xq2b7A"), ("1.2.{}", ".1.2.0.icloud")]
)
def test_a_hidden_name_that_stands_for_a_missing_slice_is_an_error(name, hidden, stored, tmp_path):
    """As rsync leaves behind, and as iCloud has it; what macOS or an editor adds stays harmless."""
    for k, whole in enumerate(stored):
        (tmp_path / name.format(k)).write_bytes(whole)
    for harmless in "._" + name.format(1), "._a.dcm.0", hidden:
        (tmp_path / harmless).write_bytes(b"bplist00")
    read_whole(tmp_path)
    (tmp_path / name.format(0)).unlink()
    with pytest.raises(InputError, match=f"{re.escape(hidden)}: is no DICOM, 8 bytes of it are there; fetch it again"):
        read_ct(tmp_path)
