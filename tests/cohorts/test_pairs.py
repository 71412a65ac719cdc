"""Cohorts of pairs, as the Medical Segmentation Decathlon and nnU-Net lay them out, through every command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from test_cli import fails

from vaelib import InputError, cli
from vaelib.cohorts.layout import find_cases
from vaelib.cohorts.quality import check_mask
from vaelib.cohorts.survey import survey
from vaelib.engine.shards import meta_of, open_case, prepare
from vaelib.phantom.cohort import make_cohort, make_patient
from vaelib.phantom.shapes import LABELS
from vaelib.volumes import read_ct, read_mask

PATIENTS, SIZE = 7, 32


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    return find_cases(make_cohort(tmp_path_factory.mktemp("dicom") / "c", patients=PATIENTS, workers=2, size=SIZE))


@pytest.fixture(scope="module")
def whole(dicom, tmp_path_factory):
    """Seven patients as MSD has them, the last without a mask; value 2, a "cancer", is a corner of the organ."""
    top = tmp_path_factory.mktemp("pairs") / "Task07_Pancreas"
    for sub in ("imagesTr", "labelsTr", "imagesTs"):
        (top / sub).mkdir(parents=True)
    for k, case in enumerate(dicom, 1):
        scan, name = read_ct(case.ct), f"pancreas_{k:03d}.nii.gz"
        sitk.WriteImage(sitk.Image(scan), str(top / ("imagesTs" if k == PATIENTS else "imagesTr") / name))
        if k < PATIENTS:
            sitk.WriteImage(_with_cancer(read_mask(case.mask, scan)), str(top / "labelsTr" / name))
    (top / "imagesTr" / "._pancreas_001.nii.gz").write_bytes(b"what macOS leaves in MSD's archives")
    labels = {"0": "background", "1": "pancreas", "2": "cancer"}
    (top / "dataset.json").write_text(json.dumps({"name": "Pancreas", "labels": labels}))
    return top


def _with_cancer(mask):
    array = sitk.GetArrayFromImage(mask)
    z, y, x = np.argwhere(array)[0]
    array[z, y, x] = 2
    label = sitk.GetImageFromArray(array)
    label.CopyInformation(mask)
    return label


@pytest.fixture
def pairs(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "pairs")


def test_scans_and_masks_pair_up_by_name_and_who_has_no_mask_is_kept(whole):
    cases = find_cases(whole)
    assert [case.patient for case in cases] == [f"pancreas_{k:03d}" for k in range(1, PATIENTS + 1)]
    assert all(case.ct.name == case.mask.name for case in cases[:-1]) and cases[-1].mask is None
    assert {case.layout for case in cases} == {"pairs"}


def test_a_scan_is_the_same_as_dicom_and_as_nifti(whole, dicom):
    for case, pair in zip(dicom, find_cases(whole), strict=True):
        scan, again = read_ct(case.ct), read_ct(pair.ct)
        assert again.headers == [] and again.GetPixelID() == sitk.sitkInt16
        np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(scan))
        for read in (sitk.Image.GetOrigin, sitk.Image.GetSpacing, sitk.Image.GetDirection):
            np.testing.assert_allclose(read(again), read(scan), atol=1e-4)


def test_what_is_prepared_of_pairs_is_what_is_prepared_of_dicom(whole, dicom, tmp_path):
    """Both parts of the organ, by name or number, are the organ of the SEG."""
    one = prepare(dicom[:2], tmp_path / "dicom", levels=[5], workers=1)
    for segment in ("pancreas+cancer", "1+2"):
        two = prepare(find_cases(whole)[:2], tmp_path / segment, levels=[5], segment=segment, workers=1)
        for case, pair in zip(dicom[:2], find_cases(whole)[:2], strict=True):
            mine, theirs = open_case(two, pair.patient, 5), open_case(one, case.patient, 5)
            np.testing.assert_allclose(mine.images, theirs.images, atol=6e-4)  # a NIfTI's header is float32
            np.testing.assert_array_equal(mine.masks, theirs.masks)
            assert meta_of(two, pair.patient)["segment"] == segment


def test_by_its_name_the_pancreas_comes_without_its_cancer_and_that_is_said(whole):
    case = find_cases(whole)[0]
    scan = read_ct(case.ct)
    with pytest.warns(UserWarning, match="2 'cancer' is left out; `prepare --segment 1.2` joins them"):
        organ = sitk.GetArrayFromImage(read_mask(case.mask, scan))
    both, cancer = (sitk.GetArrayFromImage(read_mask(case.mask, scan, segment=s)) for s in ("1+2", "cancer"))
    assert cancer.sum() == 1 and organ.sum() == both.sum() - 1
    with pytest.raises(InputError, match=r"0 segments are 'liver'; choose from 1 'pancreas', 2 'cancer'"):
        read_mask(case.mask, scan, segment="liver")


@pytest.mark.parametrize(
    "labels", [{"background": 0, "pancreas": 1, "cancer": 2}, None, {"whole": [1, 2]}, "no labels"]
)
def test_names_come_from_nnunets_file_too_and_without_one_numbers_are_asked_for(pairs, labels):
    (pairs / "dataset.json").write_text(json.dumps({"labels": labels}))
    case = find_cases(pairs)[0]
    scan = read_ct(case.ct)
    if labels and "cancer" in labels:
        assert sitk.GetArrayFromImage(read_mask(case.mask, scan, segment="cancer")).sum() == 1
    else:
        with pytest.raises(InputError, match="holds the values 1, 2; choose one by number"):
            read_mask(case.mask, scan)


def test_nnunets_names_and_folders_of_dicom_pair_up_too(pairs, dicom):
    (pairs / "imagesTr" / "pancreas_001.nii.gz").rename(pairs / "imagesTr" / "pancreas_001_0000.nii.gz")
    (pairs / "imagesTr" / "pancreas_002.nii.gz").unlink()
    shutil.copytree(dicom[1].ct, pairs / "imagesTr" / "pancreas_002")
    (pairs / "labelsTr" / "pancreas_002.nii.gz").unlink()
    shutil.copy(dicom[1].mask, pairs / "labelsTr" / "pancreas_002.dcm")
    first, second, *_ = find_cases(pairs)
    assert (first.patient, first.mask.name) == ("pancreas_001", "pancreas_001.nii.gz")
    assert second.ct.is_dir() and second.mask.suffix == ".dcm"
    assert sitk.GetArrayFromImage(read_mask(second.mask, read_ct(second.ct))).any()


def test_every_command_takes_a_cohort_of_pairs(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    assert cli.main(["check", str(whole), "--out", "sheet", "--segment", "1+2", "--workers", "1"]) == 0
    assert cli.main(["prepare", str(whole), "--segment", "1+2", "--workers", "1"]) == 0
    small = ["--level", "5", "--latent", "4", "--epochs", "1"]
    assert cli.main(["train", str(whole), "--out", "c.safetensors", *small]) == 0
    assert cli.main(["evaluate", str(whole), "--checkpoint", "c.safetensors"]) == 0
    said = capsys.readouterr().out
    assert len(Path("sheet/check.csv").read_text().splitlines()) == PATIENTS + 1
    assert "cannot be read" not in Path("sheet/check.csv").read_text() and "Dice" in said
    scans = [*sorted((whole / "imagesTr").glob("p*.nii.gz"))[:1], *(whole / "imagesTs").iterdir()]
    how = ["--checkpoint", "c.safetensors", "--threshold", "0.001"]
    assert cli.main(["segment", *map(str, scans), "--out", "masks", *how]) == 0
    for scan in scans:
        mask, like = sitk.ReadImage(f"masks/{scan.name}"), read_ct(scan)
        assert mask.GetSize() == like.GetSize()
        np.testing.assert_allclose(mask.GetOrigin(), like.GetOrigin(), atol=1e-4)
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path("masks").iterdir()}
    assert "exists and is left as it is" in fails(capsys, "segment", *scans, "--out", "masks", *how)
    assert {path: path.stat().st_mtime_ns for path in Path("masks").iterdir()} == before
    assert "write .nii.gz" in fails(capsys, "segment", scans[0], "--out", "one.dcm", *how)
    assert "name a folder" in fails(capsys, "segment", *scans, "--out", "one.nii.gz", *how)
    assert "has the same name" in fails(capsys, "segment", scans[0], scans[0], "--out", "more", *how)
    assert not Path("one.dcm").exists() and not Path("one.nii.gz").exists() and not Path("more").exists()


def _rename_a_mask(top):
    (top / "labelsTr" / "pancreas_003.nii.gz").rename(top / "labelsTr" / "pancreas_033.nii.gz")


def _name_two_alike(top):
    shutil.copytree(top / "labelsTr", top / "imagesTr" / "pancreas_002")


def _add_a_channel(top):
    for k in (0, 1):
        shutil.copy(top / "imagesTr" / "pancreas_002.nii.gz", top / "imagesTr" / f"mr_{k:04d}.nii.gz")


def _remove_scans(top):
    for sub in ("imagesTr", "imagesTs", "labelsTr"):
        shutil.rmtree(top / sub)
    (top / "imagesTr").mkdir()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_rename_a_mask, "pancreas_033.nii.gz: no scan in .*imagesTr has its name .*name both alike"),
        (_name_two_alike, "pancreas_002.nii.gz: goes by the name of .*pancreas_002; keep one"),
        (_add_a_channel, "mr_0001.nii.gz: is a further channel of mr, and a CT has one; move it away"),
        (_remove_scans, "imagesTr: holds no scan; give it NIfTI files"),
    ],
)
def test_pairs_that_do_not_match_are_named_with_a_remedy(pairs, capsys, harm, said):
    harm(pairs)
    with pytest.raises(InputError, match=said):
        find_cases(pairs)
    assert cli.main(["prepare", str(pairs), "--cache", str(pairs / "cache")]) == 2
    assert not (pairs / "cache").exists()


def _shape(scan):
    image = sitk.Image(scan)[:-3]
    image.SetSpacing(np.multiply(image.GetSpacing(), 1.2))
    return image


def _space(scan):
    image = sitk.Image(scan)
    image.SetOrigin(np.add(image.GetOrigin(), (0, 0, 40)))
    return image


@pytest.mark.parametrize("harm", [_shape, _space])
def test_a_mask_of_another_shape_or_space_is_refused_by_name_and_nothing_is_prepared(pairs, harm, tmp_path):
    path = pairs / "labelsTr" / "pancreas_003.nii.gz"
    sitk.WriteImage(harm(sitk.ReadImage(str(path))), str(path))
    with pytest.raises(InputError, match="pancreas_003.nii.gz: .*(does not fit the scan|beyond the scan)"):
        prepare(find_cases(pairs)[2:3], tmp_path / "cache", segment="1+2", workers=1)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def _grey(scan):
    return sitk.RescaleIntensity(scan, 0, 255)


def _undefined(scan):
    image = sitk.Cast(scan, sitk.sitkFloat32)
    image[0, 0, 0] = float("nan")
    return image


@pytest.mark.parametrize("harm", [_grey, _undefined])
def test_a_nifti_whose_numbers_are_no_hu_is_refused(whole, harm, tmp_path):
    scan = sitk.ReadImage(str(whole / "imagesTr" / "pancreas_001.nii.gz"))
    sitk.WriteImage(harm(scan), str(tmp_path / "scan.nii.gz"))
    with pytest.raises(InputError, match=r"scan.nii.gz: its numbers, .*, are not HU.*export the scan"):
        read_ct(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize(
    ("start", "said"), [(b"<html>", "it is a web page"), (b"", "it is empty"), (None, "no such file")]
)
def test_what_is_no_nifti_is_said_to_be_none(tmp_path, start, said):
    path = tmp_path / "scan.nii.gz"
    if start is not None:
        path.write_bytes(start)
    with pytest.raises(InputError, match=f"scan.nii.gz: .*{said}"):
        read_ct(path)


def test_fractions_of_hu_are_kept_as_floats(whole, tmp_path):
    scan = sitk.Cast(sitk.ReadImage(str(whole / "imagesTr" / "pancreas_001.nii.gz")), sitk.sitkFloat32) + 0.25
    sitk.WriteImage(scan, str(tmp_path / "scan.nii"))
    again = read_ct(tmp_path / "scan.nii")
    assert again.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(scan))


ORGANS = "liver", "bone"  # one of 1.5 litres, and one that is no soft tissue and its own mirror image


@pytest.fixture(scope="module")
def organs(tmp_path_factory):
    """Seven synthetic patients as nnU-Net has them, whose labels are a liver and bones, and no pancreas."""
    top = tmp_path_factory.mktemp("organs") / "Dataset003_Abdomen"
    for sub in ("imagesTr", "labelsTr"):
        (top / sub).mkdir(parents=True)
    for number in range(1, PATIENTS + 1):
        patient = make_patient(1, number, size=SIZE)
        label = sum(value * (patient.labels == LABELS.index(name)) for value, name in enumerate(ORGANS, 1))
        for sub, end, array in ("imagesTr", "_0000", patient.hu), ("labelsTr", "", label.astype(np.uint8)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(patient.spacing[::-1])
            sitk.WriteImage(image, str(top / sub / f"abdomen_{number}{end}.nii.gz"))
    (top / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "bone": 2}}))
    return top


@pytest.mark.parametrize("segment", ["liver", "1", "bone", "1+2"])
def test_the_limits_of_a_pancreas_are_not_held_against_another_organ(organs, segment):
    rows = survey(find_cases(organs), segment=segment, workers=1)
    reasons = {reason for row in rows for reason in row.reasons if not reason.startswith("pixels of 1")}  # 32 a side
    assert not reasons - {"mask at the edge of the scan"}  # which is so: the scans end within the liver
    assert all(row.check.volume_ml > 100 for row in rows)


def test_a_liver_that_lies_reversed_is_still_found(organs):
    case = find_cases(organs)[0]
    scan = read_ct(case.ct)
    liver = sitk.GetArrayFromImage(read_mask(case.mask, scan, segment="liver"))
    turned = sitk.GetImageFromArray(np.ascontiguousarray(liver[:, :, ::-1]))
    turned.CopyInformation(scan)
    assert check_mask(scan, turned, pancreas=False).flip == "x"


def test_prepare_says_nothing_of_a_right_liver_and_refuses_a_pancreas_that_is_not_there(organs, tmp_path, recwarn):
    cases = find_cases(organs)
    prepare(cases, tmp_path / "liver", levels=[5], segment="liver", workers=1)
    assert not [str(warning.message) for warning in recwarn]
    with pytest.raises(InputError, match=r"7 of 7 .*0 segments are 'Pancreas'; choose from 1 'liver', 2 'bone'"):
        prepare(cases, tmp_path / "pancreas", levels=[5], workers=1)
    assert not list((tmp_path / "pancreas").rglob("*.npy"))


def test_another_organ_goes_through_every_command(organs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    assert cli.main(["check", str(organs), "--segment", "liver", "--workers", "1"]) == 0
    assert cli.main(["prepare", str(organs), "--segment", "liver", "--workers", "1"]) == 0
    small = ["--level", "5", "--latent", "4", "--epochs", "1"]
    assert cli.main(["train", str(organs), "--out", "c.safetensors", *small]) == 0
    assert cli.main(["evaluate", str(organs), "--checkpoint", "c.safetensors"]) == 0
    scans = sorted(map(str, (organs / "imagesTr").iterdir()))[:2]
    how = ["--checkpoint", "c.safetensors", "--threshold", "0.001"]
    assert cli.main(["segment", *scans, "--out", "masks", *how]) == 0
    assert sorted(path.name for path in Path("masks").iterdir()) == ["abdomen_1.nii.gz", "abdomen_2.nii.gz"]
    assert "no pancreas" not in capsys.readouterr().err
