"""Kind F, pixels: a slice that cannot be decoded says why; only where bytes are missing does it say "download"."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from packed import SYNTAX, cells_of, frame_of, write_packed
from pydicom import uid
from pydicom.encaps import encapsulate

from vaelib import InputError, read_ct

HU = np.arange(2 * 40 * 32).reshape(2, 40, 32) % 1300 - 950
CELLS = cells_of(HU + 1024)
PICTURES = "JPEG", "JPEG-LS", "JPEG2000"
FETCH = "download", "fetch", "truncated"


def in_syntax(number, packing="JPEG-LS", named=None):
    """A picture whose file says another transfer syntax than its own."""
    named = named or uid.UID(number).name
    return f"{packing} in {number}", packing, {"number": number}, f"cannot be decoded as {named}; export"


def cut(packing, share):
    """Pixels of which a share is there, in a file that is whole otherwise."""
    return f"{share:.0%} of {packing}", packing, {"share": share}, "cannot be decoded, truncated? download it again"


def no_room(packing, number):
    """A temporary file that cannot be written."""
    return f"{errno.errorcode[number]} at {packing}", packing, {"errno": number}, os.strerror(number)


def narrow(packing, allocated, count):
    """Numbers of 8 bits at most in cells of more: read."""
    return f"{count} bits of {packing} in {allocated}", packing, {"allocated": allocated, "count": count}, None


INSTANCES = [
    *(in_syntax(f"1.2.840.10008.1.2.4.11{k}", named=f"JPEG XL (1.2.840.10008.1.2.4.11{k})") for k in range(3)),
    in_syntax("1.2.840.113619.5.2"),  # GE
    in_syntax("1.3.46.670589.33.1.4.1"),  # Philips
    in_syntax(uid.HTJ2KLossless),
    in_syntax(uid.JPEG2000Lossless),
    in_syntax(uid.JPEGLosslessSV1, "JPEG2000"),
    in_syntax(uid.RLELossless, "JPEG"),
    in_syntax(uid.ExplicitVRLittleEndian, "JPEG"),
    *(no_room(packing, errno.ENOSPC) for packing in PICTURES),
    narrow("JPEG-LS", 16, 8),
    narrow("JPEG-LS", 16, 7),
    narrow("JPEG", 16, 8),
    narrow("JPEG2000", 16, 8),
    *(cut(packing, 0.5) for packing in ("plain", "deflated", "big endian", *PICTURES)),
]


def generate(r):
    way = r.randrange(4)
    if way == 0:
        number = r.choice((
            uid.MPEG2MPML, uid.HEVCMP51, uid.MPEG2MPHL, uid.MPEG4HP41,
            f"1.2.840.113619.5.{r.randrange(3, 99)}", f"1.2.826.0.1.3680043.2.{r.randrange(9999)}.1",
        ))  # fmt: skip
        return in_syntax(str(number), r.choice(PICTURES))
    if way == 1:
        return cut(r.choice(("plain", "big endian", "implicit", *PICTURES)), r.uniform(0.1, 0.95))
    if way == 2:
        return no_room(r.choice(PICTURES), r.choice((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)))
    return narrow(r.choice(PICTURES), r.choice((16, 32)), r.randrange(2, 9))


@drawn(INSTANCES, generate, seed=18)
def test_the_cause_stands_in_the_line(case, tmp_path, monkeypatch):
    _, packing, how, says = case
    if "count" in how:
        low = HU % (1 << how["count"])
        frames = [frame_of(cells_of(part, 8, 8, 7), packing, how["count"]) for part in low]
        write_packed(tmp_path / "ct", cells_of(low, how["allocated"]), PixelData=None, BitsStored=how["count"],
                     HighBit=how["count"] - 1)  # fmt: skip
        for k, frame in enumerate(frames):
            _change(tmp_path / "ct" / f"{k}.dcm", frame, SYNTAX[packing])
        found = sitk.GetArrayFromImage(read_ct(tmp_path / "ct"))
        assert any(np.array_equal(found[::step], low) for step in (1, -1))  # the normal may point to the head
        return
    path = write_packed(tmp_path / "ct", CELLS, packing, RescaleIntercept="-1024") / "1.dcm"
    if "share" in how and packing in PICTURES:
        frame = frame_of(CELLS[1], packing)
        _change(path, frame[: int(len(frame) * how["share"])], SYNTAX[packing])
    elif "share" in how:
        ds = pydicom.dcmread(path)
        ds["PixelData"].VR, ds.PixelData = "OW", ds.PixelData[: int(len(ds.PixelData) * how["share"]) // 2 * 2]
        ds.save_as(path)
    elif "errno" in how:
        monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **_: _raise(how["errno"]))
    else:
        _change(path, frame_of(CELLS[1], packing), how["number"])
    with pytest.raises(InputError) as refused:
        read_ct(tmp_path / "ct")
    said = str(refused.value)
    assert says in said and "\n" not in said and ".dcm: " in said
    assert "truncated" in says or not any(word in said for word in FETCH)


def _raise(number):
    raise OSError(number, os.strerror(number))


def _change(path, frame, syntax):
    ds = pydicom.dcmread(path)
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    written = SYNTAX["JPEG-LS"]  # in which any picture can be written
    ds.file_meta.TransferSyntaxUID = written
    ds.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    ours, theirs = (f"{text}\0" if len(text) % 2 else text for text in (written, syntax))
    at = content.index(b"UI" + len(ours).to_bytes(2, "little") + ours.encode())
    content = bytearray(content)
    content[at + 2 : at + 4 + len(ours)] = len(theirs).to_bytes(2, "little") + theirs.encode()
    length = int.from_bytes(content[140:144], "little") + len(theirs) - len(ours)
    content[140:144] = length.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files is set as on Linux")
def test_a_file_system_that_is_full_is_named(tmp_path):
    folder = write_packed(tmp_path / "ct", CELLS, "JPEG")
    code = (
        "import resource, vaelib; resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        f"try: vaelib.read_ct({str(folder)!r})\nexcept vaelib.InputError as error: print(error)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.count("\n") == 1 and "File too large" in done.stdout, done
    assert str(tmp_path) in done.stdout and not any(word in done.stdout for word in FETCH)
