"""B. Whose scan a SEG was drawn on: what it refers to is compared with the scan, which geometry alone does not tell."""

import copy
import warnings

import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from pydicom.uid import generate_uid
from small import make_series, same

from vaelib import InputError
from vaelib.volumes import Scan, read_ct, read_mask

NAMES = ("SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID")
KEPT, NEW, NONE = "as it was", "another", ""

# name, what the SEG refers to (instances, series, frame, patient), what the scan says of the same, what comes of it
INSTANCES = [
    ("its own scan", (KEPT,) * 4, (KEPT,) * 4, "read"),
    ("another series", (NEW, NEW, NEW, KEPT), (KEPT,) * 4, "refused"),
    ("another patient", (NEW,) * 4, (KEPT,) * 4, "refused"),
    ("another patient of the same UIDs", (KEPT, KEPT, KEPT, NEW), (KEPT,) * 4, "warn"),
    ("another reconstruction", (NEW, NEW, KEPT, KEPT), (KEPT,) * 4, "warn"),
    ("another acquisition of the series", (NEW, KEPT, KEPT, KEPT), (KEPT,) * 4, "warn"),
    ("scan exported with new UIDs", (KEPT,) * 4, (NEW, NEW, NEW, KEPT), "refused"),
    ("scan whose UIDs were emptied", (KEPT,) * 4, (NONE, NONE, NONE, KEPT), "read"),
    ("scan without a patient", (KEPT,) * 4, (KEPT, KEPT, KEPT, NONE), "read"),
    ("scan of ANONYMOUS", (KEPT,) * 4, (KEPT, KEPT, KEPT, "ANONYMOUS"), "read"),
    ("patient in small letters", (KEPT,) * 4, (KEPT, KEPT, KEPT, "pancreas_0001"), "read"),
    ("no references", (NONE, NONE, KEPT, KEPT), (KEPT,) * 4, "read"),
    ("no references, another frame", (NONE, NONE, NEW, KEPT), (KEPT,) * 4, "refused"),
    ("no references, another patient", (NONE, NONE, NONE, NEW), (KEPT,) * 4, "refused"),
    ("series alone, another", (NONE, NEW, KEPT, KEPT), (KEPT,) * 4, "warn"),
    ("instances alone, its own", (KEPT, NONE, NONE, KEPT), (KEPT,) * 4, "read"),
    ("another frame on its own slices", (KEPT, KEPT, NEW, KEPT), (KEPT,) * 4, "warn"),
]


def generate(r):
    """Draw any of 3^4 SEGs and scans; what is right is a table of what agrees."""
    seg, scan = (tuple(r.choice([KEPT, KEPT, NEW, NONE]) for _ in range(4)) for _ in range(2))
    instances, series, frame, patient = (
        None if NONE in pair else pair == (KEPT, KEPT) for pair in zip(seg, scan, strict=True)
    )
    own = series if instances is None else instances
    wrong = not own and (frame is False or patient is False)
    odd = False in (own, frame, patient)
    return "drawn", seg, scan, "refused" if wrong else "warn" if odd else "read"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_series(tmp_path_factory.mktemp("b") / "ct")
    scan = read_ct(folder)
    return scan, pydicom.dcmread(folder.parent / "seg.dcm"), read_mask(folder.parent / "seg.dcm", scan)


def said(value, was):
    return was if value == KEPT else ("P9" if len(was) < 20 else generate_uid()) if value == NEW else value


def seg_saying(base, what):
    """A copy of a SEG that refers to other instances, series, frame and patient."""
    ds = copy.deepcopy(base)
    instances, series, frame, patient = what
    ds.FrameOfReferenceUID, ds.PatientID = said(frame, base.FrameOfReferenceUID), said(patient, base.PatientID)
    for item in ds.ReferencedSeriesSequence:
        item.SeriesInstanceUID = said(series, item.SeriesInstanceUID)
    groups = [ds]
    while groups:
        group = groups.pop()
        for element in list(group):
            groups += list(element.value) if element.VR == "SQ" else []
            if element.keyword == "ReferencedSOPInstanceUID":
                element.value = said(instances, element.value)
    return ds


def scan_saying(scan, what):
    headers = copy.deepcopy(scan.headers)
    new = [said(value, str(headers[0].get(name))) for value, name in zip(what, NAMES, strict=True)]
    for k, ds in enumerate(headers):
        for name, value, asked in zip(NAMES, new, what, strict=True):
            if asked != KEPT:
                setattr(ds, name, generate_uid(entropy_srcs=[value, str(k)]) if value and name == NAMES[0] else value)
    return Scan(scan, headers)


@drawn(INSTANCES, generate, seed=18)
def test_a_seg_of_another_scan_is_refused_or_warned_of(case, made, tmp_path):
    _, seg, ct, right = case
    scan, base, truth = made
    path, scan = tmp_path / "seg.dcm", scan_saying(scan, ct)
    seg_saying(base, seg).save_as(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if right == "refused":
            with pytest.raises(InputError, match=r"^[^\n]*seg\.dcm: [^\n]*than the scan[^\n]*--reorient header$"):
                read_mask(path, scan)
            assert same(read_mask(path, scan, reorient="header"), truth)
        else:
            assert same(read_mask(path, scan), truth)
        assert same(read_mask(path, sitk.Image(scan)), truth)  # which has no headers to be compared with
    assert [str(path) in str(w.message) for w in caught] == [True] * (right != "read")
    assert not any(base.PatientID in str(w.message) for w in caught)


def test_two_segs_swapped_are_found_out(tmp_path):
    folders = [make_series(tmp_path / name / "ct", patient_id=name, uid=name) for name in ("P1", "P2")]
    for folder, other in (folders, folders[::-1]):
        with pytest.raises(InputError, match="refers to none of the scan's slices and has another FrameOfReferenceUID"):
            read_mask(other.parent / "seg.dcm", read_ct(folder))


def test_the_real_seg_is_of_its_real_scan():
    from conftest import SHARED

    folder = SHARED / "real-seg"
    if not folder.is_dir():
        pytest.skip("the real SEG ../shared/real-seg is not at hand")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = read_mask(folder / "liver.dcm", read_ct(folder / "ct"), segment="Liver")
    assert sitk.GetArrayViewFromImage(mask).sum() == 107_098
