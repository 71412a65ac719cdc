"""A mask as a folder of DICOM slices: placed by what they say, and refused where they say nothing or do not add up."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from small import as_image, blob_volume, make_series, same

from vaelib import InputError
from vaelib.cohorts.labels import place
from vaelib.cohorts.layout import find_cases
from vaelib.cohorts.survey import survey
from vaelib.dicom.write import make_uid
from vaelib.engine.shards import prepare
from vaelib.volumes import read_ct, read_mask

PLACE = "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"


def write_masks(array, scan, folder, keep=PLACE, **tags):
    """Write `array` (S, H, W) as secondary captures that keep some attributes of the scan's slices, out of order."""
    folder.mkdir(parents=True)
    for k, (ct, pixels) in enumerate(zip(scan.headers, array.astype(np.uint8), strict=True)):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, make_uid(folder, f"slice {k}")
        ds.Modality, ds.SeriesInstanceUID, ds.PatientID = "SC", make_uid(folder, "series"), ct.PatientID
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        for name in keep:
            ds[name] = ct[name]
        for name, value in tags.items():
            setattr(ds, name, value(ct) if callable(value) else value)
        ds.PixelData = pixels.tobytes()
        ds.save_as(folder / f"image_{7 * k % len(array)}", enforce_file_format=True)
    return folder


def refer(ct):
    item = Dataset()
    item.ReferencedSOPInstanceUID = ct.SOPInstanceUID
    return [item]


@pytest.fixture
def case(any_series):
    """A scan, its mask as SEG has it, and that mask as an array."""
    scan = read_ct(any_series)
    mask = read_mask(any_series.parent / "seg.dcm", scan)
    return scan, mask, sitk.GetArrayFromImage(mask)


@pytest.mark.parametrize(
    ("keep", "tags"),
    [
        (PLACE, {}),
        ((), {"SourceImageSequence": refer}),
        (("SOPInstanceUID", "InstanceNumber"), {}),
        (("ImagePositionPatient", "SOPInstanceUID"), {"ImagePositionPatient": [0, 0, 0]}),
    ],
    ids=["place", "reference", "uid", "no-place"],
)
def test_slices_lie_where_their_headers_say(case, tmp_path, keep, tags):
    scan, mask, array = case
    assert same(read_mask(write_masks(255 * array, scan, tmp_path / "m", keep, **tags), scan), mask)


def test_what_has_no_place_is_refused_until_one_says_that_it_is_numbered_as_the_scan_is(case, tmp_path):
    scan, mask, array = case
    folder = write_masks(array, scan, tmp_path / "m", ("InstanceNumber",))
    for reorient in (None, "header", "axes"):
        with pytest.raises(InputError, match=r"m: its slices do not say where they lie.*: --reorient index"):
            read_mask(folder, scan, reorient=reorient)
    assert same(read_mask(folder, scan, reorient="index"), mask)
    turned = as_image(array[::-1, :, ::-1].copy(), scan)
    assert same(read_mask(folder, scan, reorient="flip-xz"), turned)
    bare = sitk.Image(scan)  # as a NIfTI is, without headers: from the first slice on
    assert read_mask(folder, bare, reorient="index").GetSize() == scan.GetSize()
    (folder / "image_0").unlink()
    with pytest.raises(InputError, match=r"m: 11 slices for a scan of 12; --reorient index needs as many"):
        read_mask(folder, scan, reorient="index")


def test_values_are_asked_for_by_number_as_in_nifti(case, tmp_path):
    scan, _, array = case
    middle = np.flatnonzero(array.any((1, 2))).mean()
    labels = array * np.where(np.arange(len(array)) > middle, 2, 1)[:, None, None]
    folder = write_masks(labels, scan, tmp_path / "m")
    for segment, wanted in ((1, labels == 1), ("2", labels == 2), ("1+2", labels > 0)):
        found = sitk.GetArrayFromImage(read_mask(folder, scan, segment=segment))
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(InputError, match=r"m: holds the values 1, 2; choose one by number"):
        read_mask(folder, scan)
    with pytest.raises(InputError, match=r"m: 0 segments are 3; choose from 1, 2 by number"):
        read_mask(folder, scan, segment=3)


def test_a_background_that_the_rescale_makes_0_is_one(case, tmp_path):
    scan, mask, array = case
    folder = write_masks(200 + array, scan, tmp_path / "m", RescaleSlope=1, RescaleIntercept=-200)
    assert same(read_mask(folder, scan), mask)
    hidden = write_masks(array, scan, tmp_path / "n", RescaleSlope=1, RescaleIntercept=-1024, PixelPaddingValue=0)
    assert same(read_mask(hidden, scan), mask)  # a header of the scan, over pixels of a mask


def test_a_folder_for_each_organ_is_chosen_by_its_name(case, tmp_path):
    scan, mask, array = case
    tumour = np.cumsum(array).reshape(array.shape) == 9
    for name, part in ("liver", array[:, ::-1]), ("pancreas", array), ("pancreastumor", tumour):
        write_masks(255 * part, scan, tmp_path / "MASKS_DICOM" / name)
    with pytest.warns(UserWarning, match="3 'pancreastumor' is left out"):
        assert same(read_mask(tmp_path / "MASKS_DICOM", scan), mask)
    both = sitk.GetArrayFromImage(read_mask(tmp_path / "MASKS_DICOM", scan, segment="liver+pancreas"))
    np.testing.assert_array_equal(both, array | array[:, ::-1])
    with pytest.raises(InputError, match="0 segments are 'spleen'; choose from 1 'liver', 2 'pancreas', 3"):
        read_mask(tmp_path / "MASKS_DICOM", scan, segment="spleen")
    _top(tmp_path / "MASKS_DICOM" / "liver").unlink()
    with pytest.raises(InputError, match="pancreas: has other slices than liver; export both anew"):
        read_mask(tmp_path / "MASKS_DICOM", scan, segment="liver+pancreas")


def _top(folder):
    """The file of the uppermost slice."""
    return max(folder.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])


def _in_the_middle(folder):
    return sorted(folder.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])[5]


def _without_a_slice(folder):
    _in_the_middle(folder).unlink()


def _of_another_size(folder):
    ds = dcmread(path := _in_the_middle(folder))
    ds.Rows, ds.PixelData = ds.Rows - 2, ds.PixelData[: -2 * ds.Columns]
    ds.save_as(path)


def _twice(folder):
    shutil.copy(_in_the_middle(folder), folder / "image_99")


def _of_two_series(folder):
    ds = dcmread(path := _in_the_middle(folder))
    ds.SeriesInstanceUID = make_uid("another", "series")
    ds.save_as(path)


def _with_a_picture(folder):
    (folder / "overlay.png").write_bytes(b"\x89PNG\r\n\x1a\n")


def _with_a_seg(folder):
    shutil.copy(folder.parent / "seg.dcm", folder / "seg.dcm")


def _in_colour(folder):
    ds = dcmread(path := _in_the_middle(folder))
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelData = 3, "RGB", 3 * ds.PixelData
    ds.save_as(path)


def _cut_short(folder):
    path = _in_the_middle(folder)
    path.write_bytes(path.read_bytes()[:-700])


def _elsewhere(folder):
    for path in folder.iterdir():
        ds = dcmread(path)
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], ds.ImagePositionPatient[2] + 40]
        ds.save_as(path)


def _emptied(folder):
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_without_a_slice, r"image_\d+: 5.00 mm from image_\d+, 2.50 is usual: 1 missing slice"),
        (_of_another_size, r"image_\d+: Rows is 38 in 1 of 12 slices, elsewhere 40; take the odd slices out"),
        (_twice, r"image_\d+: 0.00 mm from image_\d+, .*the same place twice; remove one of the two"),
        (_of_two_series, r"image_\d+: one of 2 series in .*; keep one series in a folder"),
        (_with_a_picture, "overlay.png: is no slice of a mask; give a folder of its DICOM slices and nothing else"),
        (_with_a_seg, "seg.dcm: is SEG, and not one image of one number a pixel; take it out, or give a SEG by"),
        (_in_colour, r"image_\d+: is SC, and not one image of one number a pixel"),
        (_cut_short, r"image_\d+: .*truncated\? download it again"),
        (_elsewhere, "m: its header does not fit the scan.*--reorient index"),
        (_emptied, "m: holds no slice of a mask; give a folder of its DICOM slices"),
    ],
)
def test_a_folder_that_does_not_add_up_is_refused_by_name(series, tmp_path, harm, said):
    scan = read_ct(series)
    array = sitk.GetArrayFromImage(read_mask(series.parent / "seg.dcm", scan))
    folder = write_masks(array, scan, tmp_path / "m")
    harm(folder)
    with pytest.raises(InputError, match=said) as caught:
        read_mask(folder, scan)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", ["gone", "twice"])
def test_references_that_leave_a_slice_out_are_refused(series, tmp_path, harm):
    scan = read_ct(series)
    array = blob_volume()[1]
    folder = write_masks(array, scan, tmp_path / "m", ("SOPInstanceUID",))
    path = folder / "image_1"
    if harm == "gone":
        path.unlink()
    else:
        ds = dcmread(path)
        ds.SOPInstanceUID = dcmread(folder / "image_2").SOPInstanceUID
        ds.save_as(path)
    with pytest.raises(
        InputError, match="m: of its slices, (1 missing|two are the same slice of the scan), by the UIDs"
    ):
        read_mask(folder, scan)


def test_a_mask_of_some_slices_is_0_on_the_others_and_one_that_lies_reversed_is_refused(series, tmp_path):
    scan = read_ct(series)
    mask = read_mask(series.parent / "seg.dcm", scan)
    array = sitk.GetArrayFromImage(mask)
    folder = write_masks(array, scan, tmp_path / "m")
    for path in sorted(folder.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])[:2]:
        assert not dcmread(path).pixel_array.any()
        path.unlink()
    assert same(read_mask(folder, scan), mask)
    assert place(write_masks(array, scan, tmp_path / "right"), scan)[1].verified
    wrong = write_masks(array[:, ::-1], scan, tmp_path / "wrong")
    with pytest.raises(InputError, match="wrong: seems reversed along y.*--reorient flip-y"):
        place(wrong, scan)
    assert same(place(wrong, scan, reorient="flip-y")[0], mask)


@pytest.fixture
def patients(tmp_path):
    """Three patients: masks as 3D-IRCADb has them, as a folder beside the series, and as the pairs' layout has them."""
    for n, (ct, mask) in enumerate(
        [("PATIENT_DICOM", "MASKS_DICOM/pancreas"), ("study/CT_1", "study/MASK_pancreas")], 1
    ):
        series = make_series(tmp_path / "cohort" / f"case{n}" / ct, patient_id=f"case{n}", uid=f"test{n}")
        scan, seg = read_ct(series), series.parent / "seg.dcm"
        array = sitk.GetArrayFromImage(read_mask(seg, scan))
        seg.unlink()
        write_masks(255 * array, scan, tmp_path / "cohort" / f"case{n}" / mask)
    shutil.copytree(tmp_path / "cohort" / "case1" / "PATIENT_DICOM", tmp_path / "pairs" / "imagesTr" / "case1")
    shutil.copytree(tmp_path / "cohort" / "case1" / "MASKS_DICOM", tmp_path / "pairs" / "labelsTr" / "case1")
    return tmp_path


def test_folders_of_masks_are_found_prepared_and_surveyed(patients):
    cases = find_cases(patients / "cohort")
    assert [case.mask.name for case in cases] == ["MASKS_DICOM", "MASK_pancreas"]
    (pair,) = find_cases(patients / "pairs")
    assert pair.mask.name == "case1" and pair.mask.is_dir()
    for case in (*cases, pair):
        shards = prepare([case], patients / "cache" / case.layout, levels=[5], workers=1)
        assert np.load(shards / case.patient / "mask_5.npy").any()
    (row,) = survey(cases[:1], workers=1)
    assert row.check and row.placement.verified and not any("cannot be read" in reason for reason in row.reasons)


def test_a_shard_is_made_anew_when_a_slice_of_the_mask_changes_and_none_of_one_that_is_spoiled(patients):
    case = find_cases(patients / "cohort")[0]
    shards = prepare([case], patients / "cache", levels=[5], workers=1)
    before = (shards / case.patient / "meta.json").read_text()
    _without_a_slice(case.mask / "pancreas")
    with pytest.raises(InputError, match="1 missing slice"):
        prepare([case], patients / "cache", levels=[5], workers=1)
    with pytest.raises(InputError, match="1 missing slice"):
        prepare([case], patients / "fresh", levels=[5], workers=1)
    assert (shards / case.patient / "meta.json").read_text() == before
    assert not list((patients / "fresh").rglob("*.npy"))


def test_two_masks_of_one_scan_are_not_chosen_between(patients):
    shutil.copytree(
        patients / "cohort" / "case2" / "study" / "MASK_pancreas",
        patients / "cohort" / "case2" / "study" / "MASK_other",
    )
    with pytest.warns(UserWarning, match="MASK_other: is one of 2 masks of case2, beside .*MASK_pancreas; keep one"):
        assert [case.patient for case in find_cases(patients / "cohort")] == ["case1"]


def test_who_a_masks_headers_tell_of_is_named_by_attribute(patients):
    (case,) = [case for case in find_cases(patients / "cohort") if case.patient == "case2"]
    ds = dcmread(path := next(case.mask.iterdir()))
    ds.PatientName = "Doe^Jane"
    ds.save_as(path)
    (row,) = survey([case], workers=1)
    assert any("PatientName" in reason and "Doe" not in reason for reason in row.reasons)
