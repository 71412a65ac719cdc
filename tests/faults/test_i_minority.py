"""I: what most slices have is right and the others are odd; two acquisitions in a folder are named as such."""

import random
import re

import numpy as np
import pytest
import SimpleITK as sitk
from drawn import drawn
from small import blob_volume, changed

from vaelib import InputError
from vaelib.volumes import read_ct


def save(ds, path, **values):
    """A copy of a slice with other attributes; None takes one away."""
    copy = changed(ds, **values)
    copy.save_as(path, enforce_file_format=True)
    return path


def refused(said, path):
    return pytest.raises(InputError, match=f"^[^\n]*{re.escape(path.name)}: [^\n]*{said}[^\n]*$")


# --- odd slices ------------------------------------------------------------------------------------------

TURNED = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [0.9998, 0.02, 0, 0.02, -0.9998, 0]]
LIKE = [{}, {"ImageOrientationPatient": TURNED[1]}, {"Rows": 20}, {"ImagePositionPatient": [0, 0, 5000]}]
ODD = {
    "Rows": lambda r: {"Rows": r.choice([16, 20, 39])},
    "Columns": lambda r: {"Columns": r.choice([16, 31])},
    "PixelSpacing": lambda r: {"PixelSpacing": [r.choice([0.9, 0.8, 1.5]), r.choice([0.75, 0.9])]},
    "ImageOrientationPatient": lambda r: {"ImageOrientationPatient": r.choice(TURNED)},
    "no PixelSpacing": lambda r: {"PixelSpacing": None},
    "series": lambda r: {"SeriesInstanceUID": f"1.2.{r.randrange(10**6)}"},
    "colours": lambda r: {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    "localizer": lambda r: {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]} | r.choice(LIKE),
}
SAID = {
    "Rows": "Rows is .* in {k} of 12 slices, elsewhere 40; take the odd slices out",
    "Columns": "Columns is .* in {k} of 12 slices, elsewhere 32; take the odd slices out",
    "PixelSpacing": r"PixelSpacing is .* in {k} of 12 slices, elsewhere \[0.9, 0.7\]; take the odd slices out",
    "ImageOrientationPatient": "ImageOrientationPatient is .* in {k} of 12 slices, elsewhere .*1.0, 0.0, 0.0, 0.0, -1",
    "no PixelSpacing": "PixelSpacing is None in {k} of 12 slices, elsewhere",
    "series": "one of 2 series in .*, {k} of 12 slices are of it; keep one series",
    "colours": "SamplesPerPixel is 3 in {k} of 12 slices, which no CT slice has; move such files",
    "localizer": "is one of {k} localizers .by its ImageType. among {rest} slices; move them out",
}
INSTANCES = [(f"{kind} first", kind, [0]) for kind in ODD] + [("two localizers, first and last", "localizer", [0, 11])]


def odd_slices(r):
    kind, count = r.choice(sorted(ODD)), r.choice([1, 1, 2, 3, 4])
    places = sorted({0, *r.sample(range(12), count - 1)})
    return f"{kind} at {places}", kind, places


@drawn(INSTANCES, odd_slices, seed=18)
def test_a_few_slices_unlike_the_most_are_blamed_be_they_first(case, stored, tmp_path):
    title, kind, places = case
    r = random.Random(title)
    changes, names = ODD[kind](r), r.sample(range(100), 12)
    paths = [save(ds, tmp_path / f"IM{names[k]}", **changes if k in places else {}) for k, ds in enumerate(stored)]
    said = SAID[kind].format(k=len(places), rest=12 - len(places))
    with pytest.raises(InputError, match=said) as error:
        read_ct(tmp_path)
    assert any(f"{paths[k]}: " in str(error.value) for k in places) and "\n" not in str(error.value)


@pytest.mark.parametrize("odd", [0, 5, 11])
def test_a_slice_aside_of_all_others_is_blamed_wherever_it_lies(odd, stored, tmp_path):
    for k, ds in enumerate(stored):
        x, y, z = ds.ImagePositionPatient
        save(ds, tmp_path / f"{k}.dcm", ImagePositionPatient=[x + 5 * (k == odd), y, z])
    with refused("lies 5.00 mm aside of the other slices; export the scan again", tmp_path / f"{odd}.dcm"):
        read_ct(tmp_path)


# --- two scans -------------------------------------------------------------------------------------------

APART = {
    "AcquisitionNumber": (1, 2), "AcquisitionTime": ("101500", "101545.25"), "TemporalPositionIdentifier": (1, 2),
    "AcquisitionDateTime": ("20200101101500", "20200101101611"),
    "ContentTime": ("101512", "101733"), "KVP": ("80.0", "140.0"),
    "EchoNumbers": (1, 2), "ConvolutionKernel": ("B30f", "B70f"), "IrradiationEventUID": ("1.2.3", "1.2.4"),
    "TriggerTime": ("300", "700"), "SeriesDescription": ("arterial", "portal venous"),
    "StudyInstanceUID": ("1.2.3", "1.2.4"), "SeriesTime": ("101500", "102000"),
    "ImageComments": ("arterial", "venous"), "FilterType": ("HEAD", "BODY"), "SliceThickness": ("2.5", "5"),
    "ProtocolName": ("Abdomen", "Liver"), "ContrastBolusAgent": ("none", "Omnipaque"),
    "ReconstructionDiameter": ("350", "400"),
}  # fmt: skip


def phases(keyword, shift, share=(12, 12)):
    return f"{keyword}, {shift} apart", keyword, shift, share


TWICE = [phases(keyword, shift) for keyword in APART for shift in (0, 0.5)]


def two_phases(r):
    return phases(r.choice(sorted(APART)), r.choice([0, 0, 0.5, 0.5, 0.3, 1, 3]), (12, r.choice([12, 12, 10, 8])))


@drawn(TWICE, two_phases, seed=18)
def test_two_acquisitions_are_named_as_such(case, stored, tmp_path):
    title, keyword, shift, counts = case
    values, r = APART[keyword], random.Random(title)
    for phase, count in enumerate(counts):
        for ds in stored[:count]:
            x, y, z = ds.ImagePositionPatient
            place = [x, y, z - phase * shift * 2.5]
            changes = {keyword: values[phase], "ImagePositionPatient": place, "InstanceNumber": r.randrange(99)}
            save(ds, tmp_path / f"{r.randrange(10**9)}.dcm", **changes)
    said = rf"two acquisitions in one folder \({keyword} differs, and "
    with pytest.raises(InputError, match=said + r"\d+ and \d+ slices lie among each other\); keep one"):
        read_ct(tmp_path)


def test_two_scans_that_nothing_tells_apart_are_no_matter_of_one_slice(stored, tmp_path):
    for k, ds in enumerate(stored):
        save(ds, tmp_path / f"a{k}.dcm")
        save(ds, tmp_path / f"b{k}.dcm")
    with pytest.raises(InputError, match="the same place twice, as 11 others: two scans, or copies"):
        read_ct(tmp_path)


# --- one scan --------------------------------------------------------------------------------------------


def numbered(r):
    """Numbers of acquisitions as one scan has them: none, of each slice, of each step of the table, or one stray."""
    steps = sorted(r.sample(range(1, 12), r.randrange(0, 5)))
    numbers = [sum(step <= k for step in steps) + 1 for k in range(12)]
    if r.random() < 0.3:
        numbers = [13 - n for n in numbers]  # from the feet to the head
    if r.random() < 0.3:
        numbers[r.randrange(12)] = 77
    if r.random() < 0.3:
        numbers[r.randrange(12)] = None
    return f"{numbers}", r.choice(["AcquisitionNumber", "AcquisitionTime", "ContentTime", "KVP"]), numbers


ONE = [
    ("no number", "AcquisitionNumber", [None] * 12),
    ("one a slice", "AcquisitionNumber", list(range(1, 13))),
    ("one a slice, in any order", "AcquisitionNumber", [5, 2, 9, 1, 12, 7, 3, 4, 11, 10, 8, 6]),
    ("steps of the table", "AcquisitionNumber", [1] * 4 + [2] * 4 + [3] * 4),
    ("steps that share an end", "AcquisitionNumber", [1] * 4 + [2] + [1] + [2] * 6),
    ("two made in one second", "ContentTime", [k // 2 for k in (0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11)]),
]


@drawn(ONE, numbered, seed=18)
def test_acquisitions_that_follow_each_other_are_one_scan(case, stored, tmp_path):
    _, keyword, numbers = case
    for k, (ds, number) in enumerate(zip(stored, numbers, strict=True)):
        value = "" if number is None else f"1015{number:02d}" if keyword.endswith("Time") else number
        save(ds, tmp_path / f"{k}.dcm", **{keyword: value})
    assert np.array_equal(sitk.GetArrayViewFromImage(read_ct(tmp_path)), blob_volume()[0])


def test_a_folder_of_nothing_but_localizers_is_read_as_it_was(stored, tmp_path):
    for k, ds in enumerate(stored):
        save(ds, tmp_path / f"{k}.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert read_ct(tmp_path).GetSize() == (32, 40, 12)


@pytest.mark.parametrize("shift", [0.5, 0.3])
def test_two_passes_of_instance_numbers_are_two_acquisitions(shift, stored, tmp_path):
    for phase in range(2):
        for k, ds in enumerate(stored):
            x, y, z = ds.ImagePositionPatient
            changes = {"ImagePositionPatient": [x, y, z - phase * shift * 2.5], "InstanceNumber": 12 * phase + k + 1}
            save(ds, tmp_path / f"{phase}{k}.dcm", **changes)
    with pytest.raises(InputError, match="two acquisitions in one folder"):
        read_ct(tmp_path)


@pytest.mark.parametrize("keyword", ["PatientID", "SeriesInstanceUID"])
def test_a_slice_of_somebody_else_is_named(keyword, stored, tmp_path):
    for k, ds in enumerate(stored):
        save(ds, tmp_path / f"{k}.dcm", **({keyword: "1.2.3"} if k == 5 else {}))
    with pytest.raises(InputError, match=r"5\.dcm: one of 2 .*, 1 of 12 slices"):
        read_ct(tmp_path)
