"""Kind B, the cohort: values that no CT has, and masks of somebody else, are reasons in the survey."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from drawn import drawn
from small import make_series

from vaelib.cohorts.layout import Case
from vaelib.cohorts.survey import Row, _oddities, survey

# The least and the greatest value of a scan, and whether each is one that a CT of a body can have.
INSTANCES = [
    ("an ordinary scan", -1024, 1839, True, True),
    ("12 bits to their end", -1024, 3071, True, True),
    ("metal in the extended scale", -1024, 30710, True, True),
    ("metal, 16 bits", -1024, 31743, True, True),
    ("noise below air", -1100, 1500, True, True),
    ("unsigned padding 63536, intercept -1024", -1024, 62512, True, False),
    ("unsigned padding 65535", -1000, 64511, True, False),
    ("padding -2000", -2000, 1500, False, True),
    ("padding -2000, intercept -1024", -3024, 1500, False, True),
    ("padding -32768", -32768, 3000, False, True),
    ("no intercept", 0, 4095, False, True),
    ("a window saved as HU", -160, 240, False, True),
    ("all below the window", -9000, -8000, False, False),
    ("air alone", -1010, -905, True, False),
]


def generate(r):
    good_low, good_high = r.random() < 0.5, r.random() < 0.5
    low = r.randint(-1400, -950) if good_low else r.choice((r.randint(-32768, -1600), r.randint(-850, 200)))
    high = r.randint(300, 32000) if good_high else r.choice((r.randint(33000, 99999), max(low, -900) - 1))
    if high < low:
        low, good_low = high - r.randint(1, 9), high - 9 >= -1400 and good_low
    return f"{low} to {high}", low, high, good_low, good_high


@drawn(INSTANCES, generate, seed=18)
def test_values_that_no_ct_has_are_a_reason(case):
    _, low, high, good_low, good_high = case
    row = Row("P", (512, 512, 99), (0.7, 0.7, 1), "LPS", (low, low, high, high))
    reasons = list(_oddities(row, Case("P", Path("ct"), Path("seg.dcm"), "idc")))
    assert bool(reasons) == (not good_low or not good_high)
    assert all(f"{low}" in reason or f"{high}" in reason for reason in reasons), "with the figure"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two patients, scanned separately."""
    cases = []
    for n, shift in ((1, 0), (2, 55)):
        name = f"PANCREAS_{n:04d}"
        study = tmp_path_factory.mktemp(name)
        make_series(study / "CT_1", patient_id=name, uid=name, origin=(shift, 0, 0))
        cases.append(Case(name, study / "CT_1", study / "seg.dcm", "idc"))
    return cases


def test_padding_read_as_hu_is_seen(pair, tmp_path):
    good = pair[0]
    for path in good.ct.iterdir():
        ds = pydicom.dcmread(path)
        stored = (ds.pixel_array * int(ds.RescaleSlope) + int(ds.RescaleIntercept) + 1024).astype(np.uint16)
        stored[:3, :3] = 63536
        ds.PixelData, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = stored.tobytes(), 0, 1, -1024
        (tmp_path / "CT_1").mkdir(exist_ok=True)
        ds.save_as(tmp_path / "CT_1" / path.name)
    (row,) = survey([replace(good, ct=tmp_path / "CT_1")], workers=1)
    assert row.hu[-1] == 63536 - 1024
    assert any("62512, which no CT has" in reason for reason in row.reasons)


def test_swapped_segs_are_a_reason(pair):
    usual = [{*row.reasons} for row in survey(pair, workers=1)]
    one, two = pair
    swapped = survey([replace(one, mask=two.mask), replace(two, mask=one.mask)], workers=1)
    for row, before in zip(swapped, usual, strict=True):
        assert any("mask: " in reason for reason in {*row.reasons} - before)
        assert not any("mask: " in reason for reason in before)
