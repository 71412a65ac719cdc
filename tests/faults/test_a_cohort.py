"""Kind A, the cohort: what is in its folder is read, or named in a warning; nobody is passed over unseen."""

import os
import shutil
import warnings
from pathlib import Path

import pytest
from drawn import drawn
from small import make_patients

from vaelib import InputError
from vaelib.cohorts.layout import find_cases
from vaelib.cohorts.survey import survey

BARE = bytes(128) + b"DICM"  # where a file is asked no more than whether it is DICOM
NAMES = [f"PANCREAS_{n:04d}" for n in (1, 2, 3)]


def put(path, content=BARE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cohort(top, layout="idc"):
    """Three patients, each with a mask; return the folder of the second."""
    for name in NAMES:
        series = "CT_1.3" if layout == "idc" else "1.3"
        for k in range(3):
            put(top / name / "1.2" / series / f"1-{k}.dcm")
        put(
            top / name / "1.2" / "SEG_1.4" / "1.dcm" if layout == "idc" else top / "labels" / f"label{name[-4:]}.nii.gz"
        )
    return top / NAMES[1]


def look(top):
    """The scan and the mask of every patient, and all that was warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cases = find_cases(top)
    found = {case.patient: (case.ct, case.mask) for case in cases}
    assert [case.patient for case in cases] == sorted(found)
    return found, " ".join(str(warning.message) for warning in said)


# Each spoils the second patient, and returns how it is read ("no" for not at all), and what has to be named.


def no_study(top, patient, *, name="1.2", only=False):
    for series in [*(patient / "1.2").iterdir()]:
        if not only or series.name.startswith(only):
            series.rename(patient / series.name)
    shutil.rmtree(patient / "1.2") if not only else None
    return "yes", ""


def emptied(top, patient, *, where):
    place = patient / where
    shutil.rmtree(place)
    place.mkdir()
    return ("no", NAMES[1]) if "SEG" not in where else ("no mask", "SEG_1.4")


def gone(top, patient, *, where):
    shutil.rmtree(patient / where)
    return "no", NAMES[1]


def renamed_seg(top, patient, *, name):
    (patient / "1.2" / "SEG_1.4" / "1.dcm").rename(patient / "1.2" / "SEG_1.4" / name)
    return "yes", ""


def second_seg(top, patient, *, where):
    put(patient / "1.2" / where)
    return "no", "is one of 2 masks of PANCREAS_0002"


def second_scan(top, patient, *, where):
    put(top / where / "1.dcm")
    return "no", "is a second scan of"


def stray(top, patient, *, where, content=BARE):
    put(top / where, content)
    return "yes", Path(where).name


def deeper(top, patient, *, name):
    (patient / "1.2").rename(top / "moved")
    (patient / name).mkdir()
    (top / "moved").rename(patient / name / "1.2")
    return ("yes", "") if (patient / name / "1.2" / "CT_1.3").is_dir() else ("no", NAMES[1])


def link(top, patient, *, where, to):
    (top / where).symlink_to(top / to, target_is_directory=True)
    return "yes", Path(where).name


def elsewhere(top, patient):
    patient.rename(top.parent / "on another disk")
    patient.symlink_to(top.parent / "on another disk", target_is_directory=True)
    return "yes", ""


INSTANCES = [
    ("no study", "idc", no_study, {}),
    ("an empty study", "idc", emptied, {"where": "1.2"}),
    ("a patient with nothing", "idc", emptied, {"where": "."}),
    ("an empty series", "idc", emptied, {"where": "1.2/CT_1.3"}),
    ("a SEG without CT", "idc", gone, {"where": "1.2/CT_1.3"}),
    ("an empty SEG", "idc", emptied, {"where": "1.2/SEG_1.4"}),
    ("a SEG without ending", "idc", renamed_seg, {"name": "1.2.826.0.1"}),
    ("two SEGs in a folder", "idc", second_seg, {"where": "SEG_1.4/IM0002"}),
    ("a SEG with no study, the CT in one", "idc", no_study, {"only": "SEG"}),
    ("a series with no study, TCIA", "tcia", no_study, {}),
    ("an empty study, TCIA", "tcia", emptied, {"where": "1.2"}),
    ("a patient with nothing, TCIA", "tcia", emptied, {"where": "."}),
    ("a folder too many", "idc", deeper, {"name": "DICOM"}),
    ("a folder too many, TCIA", "tcia", deeper, {"name": "DICOM"}),
    ("another modality", "idc", stray, {"where": f"{NAMES[1]}/1.2/MR_1.5/1.dcm"}),
    ("a mask in the study", "idc", stray, {"where": f"{NAMES[1]}/1.2/seg.dcm"}),
    ("a NIfTI of another name", "idc", stray, {"where": f"{NAMES[1]}/pancreas.nii.gz"}),
    ("a slice beside the patients", "idc", stray, {"where": "IM0001"}),
    ("a copy by a file manager", "tcia", stray, {"where": f"{NAMES[1]} (1)/1.2/1.3/1.dcm"}),
    ("the same number in lower case", "idc", second_scan, {"where": "pancreas_0002/1.2/CT_1.3"}),
    ("the series twice", "idc", second_scan, {"where": f"{NAMES[1]}/1.9/CT_1.3"}),
    ("a link that leads up", "idc", link, {"where": f"{NAMES[1]}/again", "to": "."}),
    ("a link to a patient", "idc", link, {"where": "PANCREAS_0004", "to": NAMES[0]}),
    ("a patient on another disk", "idc", elsewhere, {}),
]


def generate(r):
    uid, layout = f"1.2.{r.randrange(999)}.{r.randrange(99999)}", r.choice(("idc", "tcia"))
    inside, folder = r.choice((NAMES[1], f"{NAMES[1]}/1.2")), r.choice(("", "more/", "a/b/"))
    name = f"{r.choice(('IM', 'I', 'export', uid, 'slice'))}{r.randrange(9)}"
    ending, volume = r.choice(("", ".IMA", ".dcm", ".DCM")), r.choice((".nii", ".NII.GZ", ".nii.gz", ".nrrd", ".mha"))
    modality, number = (
        r.choice(("MR", "PT", "RTSTRUCT", "SR")),
        r.choice(("Pancreas_2", "PANCREAS_02", "pancreas_0002")),
    )
    emptied_one = r.choice(("1.2", ".", "1.2/CT_1.3" if layout == "idc" else "1.2/1.3"))
    suffix = r.choice(("_a", "-2", " copy", ".old", " (2)"))
    to, near = r.choice((inside, ".")), r.choice(("", f"{NAMES[2]}/"))
    return r.choice([
        (f"SEG {name}{ending}", "idc", renamed_seg, {"name": name + ending}),
        (f"SEGs in {uid}", "idc", second_seg, {"where": f"SEG_{uid}/{name}{ending}"}),
        (f"empty {emptied_one}, {layout}", layout, emptied, {"where": emptied_one}),
        (f"{modality} in {inside}", "idc", stray, {"where": f"{inside}/{modality}_{uid}/{name}{ending}"}),
        (f"stray in {inside}, {layout}", layout, stray, {"where": f"{inside}/{name}{volume}"}),
        (f"beside the patients, {layout}", layout, stray, {"where": f"{folder}{name}{r.choice((ending, volume))}"}),
        (f"a suffix, {suffix}", "tcia", stray, {"where": f"{NAMES[1]}{suffix}/1.2/{uid}/1.dcm"}),
        (f"number twice, {number}", "idc", second_scan, {"where": f"{number}/{uid}/CT_{uid}"}),
        (f"a link to {to}, {layout}", layout, link, {"where": f"{near}link{name}", "to": to}),
    ])  # fmt: skip


@drawn(INSTANCES, generate, seed=18)
def test_a_patient_is_read_or_named(case, tmp_path):
    _, layout, spoil, how = case
    top = tmp_path / "cohort"
    patient = cohort(top, layout)
    try:
        read, named = spoil(top, patient, **how)
    except OSError:
        pytest.skip("no links here")
    found, said = look(top)
    assert {NAMES[0], NAMES[2]} <= {*found}, "one patient never stops a cohort"
    assert named in said and said.count("left out") <= 2
    assert len(found) == (2 if read == "no" else 3)
    if read != "no":
        scan, mask = found[NAMES[1]]
        assert any(scan.iterdir()) and (mask is not None and mask.is_file()) == (read == "yes")


LABELS = {
    "in the patient's folder": "PANCREAS_0002/label0002.nii.gz",
    "beside the series": "PANCREAS_0002/1.2/Label0002.NII.GZ",
    "in a folder of the patient's": "PANCREAS_0002/labels/label0002.nii",
    "in a folder of its own name": "label0002.nii.gz/label0002.nii",
    "in another patient's": "PANCREAS_0003/label2.nii.gz",
    "beside the patients": "label0002.nii.gz",
}


@pytest.mark.parametrize("where", LABELS)
def test_a_label_goes_to_its_number_wherever_it_lies(where, tmp_path):
    cohort(tmp_path, "tcia")
    (tmp_path / "labels" / "label0002.nii.gz").unlink()
    label = put(tmp_path / LABELS[where])
    found, said = look(tmp_path)
    assert found["PANCREAS_0002"] == (tmp_path / "PANCREAS_0002" / "1.2" / "1.3", label) and said == ""


def test_a_folder_without_permission_is_named_and_ends_nothing(tmp_path, monkeypatch):
    patient, real = cohort(tmp_path), os.scandir
    for shut in (patient, patient / "1.2", patient / "1.2" / "SEG_1.4"):

        def scandir(path=".", shut=shut):
            if Path(os.fsdecode(path)) == shut:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        found, said = look(tmp_path)
        assert f"{shut.relative_to(tmp_path)}: cannot be opened (Permission denied)" in said
        assert len(found) == (3 if "SEG" in shut.name else 2)


@pytest.mark.parametrize("named", ["PANCREAS", "case"])
def test_patients_with_and_without_a_study_live_in_one_cohort(named, tmp_path):
    for n, study in enumerate(("1.2", "", "1.2"), 1):
        put(tmp_path / "above" / f"{named}_{n:04d}" / study / "CT_1.3" / "1.dcm")
    for top in (tmp_path, tmp_path / "above"):
        found, said = look(top)
        assert [*found] == [f"{named}_{n:04d}" for n in (1, 2, 3)] and said == ""


def test_one_patient_may_be_named_alone(tmp_path):
    patient = cohort(tmp_path)
    found, said = look(patient)
    assert found == {"PANCREAS_0002": (patient / "1.2" / "CT_1.3", patient / "1.2" / "SEG_1.4" / "1.dcm")} and not said


def test_what_systems_and_we_leave_beside_the_patients_is_not_named(tmp_path):
    patient = cohort(tmp_path)
    for name in (
        "SYNTHETIC.md",
        "ATTRIBUTION.md",
        "LICENSE",
        "metadata.csv",
        ".DS_Store",
        "@eaDir/x.dcm",
        ".incoming/1",
    ):
        put(tmp_path / name, b"words")
    put(patient / "1.2" / "@eaDir" / "x.dcm"), put(patient / "LICENSE", b"words")
    found, said = look(tmp_path)
    assert len(found) == 3 and said == ""


def test_our_own_cache_above_which_one_stands_is_no_patient(tmp_path):
    cohort(tmp_path / "synthetic")
    put(tmp_path / "cache" / "synthetic" / "hu_-160_240" / "PANCREAS_0001" / "image_0.npy", b"x")
    found, said = look(tmp_path)
    assert len(found) == 3 and said == ""
    with pytest.raises(InputError, match="no case in it"):
        find_cases(tmp_path / "cache")


def test_a_folder_of_patients_may_be_named_as_a_series_is(tmp_path):
    cohort(tmp_path / "CT_scans")
    assert len(look(tmp_path)[0]) == 3


def test_a_cohort_of_which_nothing_can_be_read_says_why(tmp_path):
    put(tmp_path / "PANCREAS_0001" / "1.2" / "SEG_1" / "1.dcm")
    with pytest.raises(InputError, match=r"no case in it: PANCREAS_0001: has no CT series; make one"):
        find_cases(tmp_path)


def test_a_seg_without_ending_is_surveyed_as_any(tmp_path):
    make_patients(tmp_path, (1,))
    (seg,) = tmp_path.glob("*/*/SEG_1/*")
    seg.rename(seg.with_name("IM0001"))
    (row,) = survey(find_cases(tmp_path), workers=1)
    assert row.check.slices == 5 and "no mask" not in row.reasons


def test_what_reading_leaves_out_of_a_series_is_a_reason(tmp_path):
    make_patients(tmp_path, (1,))
    (case,) = find_cases(tmp_path)
    (before,) = survey([case], workers=1)
    put(case.ct / "preview.jpg", b"\xff\xd8\xff\xe0 a picture")
    (row,) = survey([case], workers=1)
    (why,) = {*row.reasons} - {*before.reasons}
    assert why.startswith("scan: left out 1") and "preview.jpg" in why


@pytest.mark.parametrize("name", ["seg.zip", "../../../PANCREAS_0004.tar.gz", "../../../labels.zip", "../../seg.7z"])
def test_what_is_packed_is_named(name, tmp_path):
    patient = cohort(tmp_path)
    packed = put((patient / "1.2" / "SEG_1.4" / name).resolve(), b"PK\3\4")
    _, said = look(tmp_path)
    assert f"{packed.relative_to(tmp_path)}: belongs to no case" in said
