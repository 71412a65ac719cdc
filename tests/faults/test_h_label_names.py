"""H. A label whose name, or whose folder's, is not UTF-8 is read like any other; it ended the process."""

import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from drawn import drawn
from made import nifti, put
from small import make_series

from vaelib.cohorts.labels import mask_of
from vaelib.cohorts.layout import Case
from vaelib.volumes import read_ct, read_mask

INSTANCES = [
    ("folder", b"\xff", b"label0001.nii.gz"),
    ("name", b"labels", b"label\xff0001.nii"),
    ("both, SEG", b"\xe9tude", b"\xe4.dcm"),
    ("Latin-1", "Bauchspeicheldrüse".encode("latin-1"), b"label0001.nii.gz"),
    ("Shift JIS", "膵臓".encode("shift-jis"), b"label0001.nii"),
    ("UTF-8", "膵臓 ü".encode(), b"label0001.nii.gz"),
    ("newline and quotes", b"a\n'\"b", b"label0001.nii.gz"),
    ("escape", b"\x1b[31m", b"label0001.nii"),
]


def generate(r):
    letters = [*range(1, 47), *range(48, 256)]  # any but NUL and the slash
    folder = bytes(r.choice(letters) for _ in range(r.randrange(1, 40)))
    ending = r.choice([b".nii", b".nii.gz", b".dcm", b".NII.GZ"])
    return "drawn", b"x" + folder, b"x" + bytes(r.choice(letters) for _ in range(r.randrange(20))) + ending


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_series(tmp_path_factory.mktemp("h") / "ct")
    return read_ct(folder), folder


def lay(case, made, top):
    name, folder, file = case
    path = top / os.fsdecode(folder) / os.fsdecode(file)
    truth = sitk.GetArrayFromImage(made[0]) == 95
    seg = (made[1].parent / "seg.dcm").read_bytes()
    return put(path, seg if file.endswith(b"dcm") else nifti(truth.astype(np.uint8), made[0])), truth


@drawn(INSTANCES, generate, seed=18)
def test_a_label_under_any_name_is_read(case, made, tmp_path):
    path, truth = lay(case, made, tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_mask(path, made[0])), truth)
    mask, placed = mask_of(Case("P", made[1], path, "tcia"), made[0])
    assert np.array_equal(sitk.GetArrayFromImage(mask), truth) and placed.rule == "header"


def test_no_process_dies_of_a_name(made, tmp_path):
    path, truth = lay(INSTANCES[0], made, tmp_path)
    script = "import sys; from vaelib.volumes import *; m = read_mask(sys.argv[1], read_ct(sys.argv[2])); print(sum(m))"
    words = [sys.executable, "-c", script, os.fsencode(path), os.fsencode(made[1])]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(truth.sum())), done.stderr
