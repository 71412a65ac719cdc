"""Kind H, temporary files: a TMPDIR whose name is not UTF-8 takes no process down; it works or is one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from drawn import drawn
from packed import cells_of, write_packed

CELLS = cells_of(range(2 * 40 * 32)).reshape(2, 40, 32)
PICTURES = "JPEG", "JPEG-LS", "JPEG2000"
CHILD = """
import json, os, sys, tempfile, vaelib
for name, packing in json.load(sys.stdin):
    folder = os.fsencode(sys.argv[1]) + b"/" + bytes.fromhex(name)
    os.makedirs(folder, exist_ok=True)
    os.environ["TMPDIR"], tempfile.tempdir = os.fsdecode(folder), None
    try:
        said = str(vaelib.read_ct(f"{sys.argv[1]}/{packing}").GetSize())
    except vaelib.InputError as error:
        said = str(error)
    print(json.dumps([name, packing, said, os.listdir(folder) != []]), flush=True)
"""

INSTANCES = [
    ("Latin-1", b"Gr\xf6\xdfe", "JPEG"),
    ("cp1252", b"Stra\xdfe \x80", "JPEG2000"),
    ("Shift JIS", "画像".encode("shift_jis"), "JPEG-LS"),
    ("KOI8-R", "Снимки".encode("koi8-r"), "JPEG"),
    ("a lone byte", b"\xff", "JPEG"),
    ("UTF-8", "Größe 画像".encode(), "JPEG"),
    ("no picture", b"Gr\xf6\xdfe", "RLE"),
    ("no compression", b"Gr\xf6\xdfe", "plain"),
]


def generate(r):
    letters = bytes(b for b in range(32, 256) if b != 0x2F)
    name = bytes(r.choice(letters) for _ in range(r.randrange(1, 30))).strip(b". ") or b"\x80"
    return "drawn", name, r.choice(("plain", "RLE", *PICTURES, *PICTURES))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What one process says of all cases, one after the other; nothing of those after its death."""
    folder = tmp_path_factory.mktemp("h")
    for packing in ("plain", "RLE", *PICTURES):
        write_packed(folder / packing, CELLS, packing)
    cases = [(case[1].hex(), case[2]) for case in test_a_process_outlives_its_tmpdir.pytestmark[0].args[1]]
    environment, told = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, json.dumps(cases).encode()
    done = subprocess.run([sys.executable, "-c", CHILD, folder], input=told, stdout=-1, env=environment, timeout=300)
    return {(name, packing): (said, left) for name, packing, said, left in map(json.loads, done.stdout.splitlines())}


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
@drawn(INSTANCES, generate, seed=18)
def test_a_process_outlives_its_tmpdir(case, outcomes):
    _, name, packing = case
    said, left = outcomes[name.hex(), packing]
    try:
        name.decode()
        works = True
    except UnicodeDecodeError:
        works = packing not in PICTURES  # which need a temporary file
    assert not left
    if works:
        assert said == "(32, 40, 2)"
    else:
        shown = "".join(c if c.isprintable() or "\udc80" <= c else "?" for c in os.fsdecode(name))
        assert shown in said and "not UTF-8" in said and "\n" not in said
