"""Kind C, the cohort: one patient never ends the survey of the others, whatever is wrong with it."""

import errno
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from drawn import drawn
from small import make_patients

import vaelib.cohorts.survey as look
from stress import mutate
from vaelib.cohorts.layout import Case, find_cases
from vaelib.cohorts.quality import MaskCheck
from vaelib.cohorts.survey import Row, survey, table, write_csv


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A case, and its row."""
    make_patients(tmp_path_factory.mktemp("sound"), (1,))
    cases = find_cases(tmp_path_factory.getbasetemp() / "sound0")
    return cases[0], survey(cases, workers=1)[0]


def edited(case, change, files=slice(None)):
    for path in sorted(case.ct.iterdir())[files]:
        ds = pydicom.dcmread(path)
        change(ds)
        ds.save_as(path)


def attribute(case, keyword, value, files=slice(None)):
    edited(case, lambda ds: setattr(ds, keyword, value), files)


def fuzz(case, seed, what):
    r = random.Random(seed)
    slices, (seg,) = sorted(case.ct.iterdir()), case.mask.parent.iterdir()
    state = r.random()
    for path in {"one": [r.choice(slices)], "all": slices, "seg": [seg], "both": [*slices, seg]}[what]:
        path.write_bytes(mutate.dicom(path.read_bytes(), random.Random(state)))


def vanish(case, which):
    shutil.rmtree(case.ct if which == "scan" else case.mask.parent)


def cut(case, which, size):
    path = case.mask if which == "mask" else sorted(case.ct.iterdir())[3]
    path.write_bytes(path.read_bytes()[:size])


INSTANCES = [
    ("three PixelSpacing values", attribute, ("PixelSpacing", [0.9, 0.7, 0.8])),
    ("three PixelSpacing values in a slice", attribute, ("PixelSpacing", [0.9, 0.7, 0.8], slice(4, 5))),
    ("one PixelSpacing value in a slice", attribute, ("PixelSpacing", [0.9], slice(4, 5))),
    ("no PixelSpacing in a slice", attribute, ("PixelSpacing", None, slice(2, 3))),
    ("HU all below the window", attribute, ("RescaleIntercept", -2000)),
    ("HU all far above", attribute, ("RescaleIntercept", 20000)),
    ("one HU", attribute, ("RescaleSlope", 1e-30)),
    ("five orientation values", attribute, ("ImageOrientationPatient", [1, 0, 0, 0, 1], slice(3, 4))),
    ("no InstanceNumber", attribute, ("InstanceNumber", None)),
    ("pixels of 1e-30 mm", attribute, ("PixelSpacing", [1e-30, 1e-30])),
    ("pixels of 1e30 mm", attribute, ("PixelSpacing", [1e30, 1e30])),
    ("slices on one line of sight", attribute, ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0])),
    ("the scan vanishes", vanish, ("scan",)),
    ("the mask vanishes", vanish, ("mask",)),
    ("an empty mask", cut, ("mask", 0)),
    ("a slice of 100 bytes", cut, ("scan", 100)),
]


def generate(r):
    what = r.choice(("one", "one", "all", "seg", "seg", "both"))
    return f"headers of {what}", fuzz, (r.randrange(1 << 32), what)


@drawn(INSTANCES, generate, seed=18)
def test_whatever_the_headers_say_a_case_is_a_row(case, sound, tmp_path):
    (good, row), (_, spoil, how) = sound, case
    shutil.copytree(good.ct.parents[1], tmp_path / "PANCREAS_0002")
    (bad,) = find_cases(tmp_path)
    spoil(bad, *how)
    (found,) = survey([bad], workers=1)
    assert found.patient == "PANCREAS_0002"
    assert found.reasons and not any("\n" in reason for reason in found.reasons)
    if any(reason.startswith("cannot be read: ") for reason in found.reasons):
        assert found.reasons[0].count("cannot be read: ") == 1 and str(tmp_path) not in found.reasons[0]
    else:
        assert found.size == row.size and found.image.shape == (128, 128)
    lines = table([row, found]).splitlines()
    assert sum(line.startswith("* PANCREAS_0002: ") for line in lines) == 1
    assert len(write_csv([row, found], tmp_path / "survey.csv").read_text().splitlines()) == 3


RAISED = [
    (MemoryError(), "MemoryError"),
    (MemoryError("Unable to allocate 4 TiB\nfor an array"), "MemoryError: Unable to allocate 4 TiB"),
    (PermissionError(errno.EACCES, "Permission denied"), "PermissionError: [Errno 13] Permission denied"),
    (KeyError("PixelData"), "KeyError: 'PixelData'"),
    (RuntimeError("a\nb"), "RuntimeError: a"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
]  # fmt: skip


@pytest.mark.parametrize("where", ["series_headers", "read_ct", "mask_of", "check_mask", "fingerprint", "_pictures"])
@pytest.mark.parametrize("error, said", RAISED)
def test_what_is_raised_is_the_reason_of_its_row_and_the_others_stay(error, said, where, sound, monkeypatch):
    good, row = sound
    bad, calls = replace(good, patient="PANCREAS_0009"), []
    real = getattr(look, where)

    def fail(*args, **options):
        calls.append(where)
        if broken:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(look, where, fail)
    broken = True
    (one,) = survey([bad], workers=1)
    broken = False
    (two,) = survey([good], workers=1)
    assert calls and one.reasons[0] == f"cannot be read: {said}" and two.reasons == row.reasons


def test_rows_without_numbers_are_compared_and_printed():
    usual = Row("", (8, 8, 4), (0.7, 0.7, 2.5), "LPS", (-1000, -900, 300, 900))
    empty, checks = (
        MaskCheck(0.0, np.nan, np.nan, 0, False, ""),
        [MaskCheck(70.0 + k, 90, 1, 9, False, "") for k in range(9)],
    )
    odd = [
        usual._replace(patient="no mask left", axes="LAI", check=empty),
        *(usual._replace(patient=f"P{k}", check=check) for k, check in enumerate(checks)),
        Row("nothing"),
        usual._replace(patient="no numbers", axes="LAI", spacing=(np.inf, np.nan, 0), hu=(np.nan,) * 4),
    ]
    case = Case("P", Path("ct"), None, "idc")
    with np.errstate(all="raise"):
        assert [k for k, _ in look._outliers(odd)] == [] and [k for k, _ in look._odd_axes(odd)] == []
        assert all(list(look._oddities(row, case)) for row in odd)
    assert len(table(odd).splitlines()) > len(odd)


def test_the_headers_hold_other_files_names_without_taking_them_for_ours(sound, tmp_path):
    shutil.copytree(sound[0].ct.parents[1], tmp_path / "PANCREAS_0002")
    (bad,) = find_cases(tmp_path)
    attribute(bad, "BitsAllocated", None)
    assert survey([bad], workers=1)[0].reasons[0].startswith("cannot be read: 1-001.dcm: BitsAllocated is None")
