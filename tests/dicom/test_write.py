"""CT and SEG as files: valid, byte for byte repeatable, readable by others."""

import shutil
import subprocess

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from small import as_image, blob_volume, make_series

from vaelib import InputError
from vaelib.dicom.headers import series_headers
from vaelib.dicom.write import make_uid, write_ct, write_seg
from vaelib.volumes import read_ct


def test_same_input_gives_the_same_bytes(tmp_path):
    for name in "ab":
        make_series(tmp_path / name / "ct", tags={"StationName": "PHANTOM"})
    first = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*.dcm")}
    second = {p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*.dcm")}
    assert len(first) == 13 and first == second


def test_attributes_and_order_are_as_promised(series):
    ds = pydicom.dcmread(series / "1-001.dcm")
    last = pydicom.dcmread(series / "1-012.dcm")
    assert ds.file_meta.TransferSyntaxUID.name == "Implicit VR Little Endian" and ds.PixelRepresentation == 1
    assert (ds.PatientID, str(ds.PatientName)) == ("PANCREAS_0001", "PANCREAS_0001^")
    assert ds.SeriesInstanceUID == make_uid("test", "series") and ds.PatientPosition == "HFS"
    assert list(ds.PixelSpacing) == [0.9, 0.7]  # between rows, between columns
    assert np.allclose(np.subtract(last.ImagePositionPatient, ds.ImagePositionPatient), [0, 0, -11 * 2.5])
    assert np.array_equal(ds.pixel_array, blob_volume()[0][0])
    middle = np.add(ds.ImagePositionPatient, last.ImagePositionPatient) / 2 + [31 * 0.7 / 2, -39 * 0.9 / 2, 0]
    assert np.allclose(middle, 0, atol=1e-6)  # by default the volume is centred


def test_a_series_is_never_mixed_into_another(series):
    with pytest.raises(InputError, match="already holds files"):
        make_series(series)
    with pytest.raises(InputError, match="int16"):
        write_ct(np.zeros((2, 3, 4)), series.parent / "new", spacing=(1, 1, 1), patient_id="P", uid="u")


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(any_series):
    for path in [*any_series.iterdir(), any_series.parent / "seg.dcm"]:
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True).stderr
        assert "Error" not in said, f"{path}: {said}"
        assert "CTImage" in said or "Segmentation" in said


def test_seg_is_what_highdicom_reads_back(series):
    seg = hd.seg.segread(series.parent / "seg.dcm")
    segment = seg.get_segment_description(1)
    assert segment.segment_label == "Pancreas" and segment.algorithm_type.value == "MANUAL"
    assert segment.segmented_property_type.value == "15776009"
    headers, mask = series_headers(series), blob_volume()[1]
    pixels = seg.get_pixels_by_source_instance([ds.SOPInstanceUID for ds in headers], ignore_spatial_locations=True,
                                               assert_missing_frames_are_empty=True)  # fmt: skip
    assert np.array_equal(pixels[..., 0], mask)
    assert seg.StudyInstanceUID == headers[0].StudyInstanceUID and seg.NumberOfFrames == mask.any((1, 2)).sum()


def test_seg_by_an_algorithm_names_it_and_has_fresh_uids(series):
    scan = read_ct(series)
    mask = as_image(blob_volume()[1], scan)
    one, two = (write_seg(mask, series, series.parent / n, algorithm="a net") for n in ("1.dcm", "2.dcm"))
    one, two = pydicom.dcmread(one), pydicom.dcmread(two)
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.SegmentSequence[0].SegmentAlgorithmName == "a net"


def test_without_a_seed_every_uid_of_a_seg_is_new_but_those_of_its_source(series):
    mask, headers = as_image(blob_volume()[1], read_ct(series)), series_headers(series)
    segs = [pydicom.dcmread(write_seg(mask, series, series.parent / name)) for name in ("1.dcm", "2.dcm")]
    theirs = {element.value for ds in headers for element in ds.iterall() if element.VR == "UI"}
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({getattr(seg, keyword) for seg in segs} - theirs) == 2
    assert len({seg.DimensionOrganizationSequence[0].DimensionOrganizationUID for seg in segs} - theirs) == 2
    for seg in segs:
        assert seg.file_meta.MediaStorageSOPInstanceUID == seg.SOPInstanceUID
        assert seg.StudyInstanceUID == headers[0].StudyInstanceUID
        assert seg.FrameOfReferenceUID == headers[0].FrameOfReferenceUID


def test_a_seg_refers_to_its_series_and_each_frame_to_the_slice_in_its_place(any_series):
    slices = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, any_series.iterdir())}
    seg = pydicom.dcmread(write_seg(_mask_of(any_series), any_series, any_series.parent / "new.dcm"))
    (referenced,) = seg.ReferencedSeriesSequence
    assert {referenced.SeriesInstanceUID} == {ds.SeriesInstanceUID for ds in slices.values()}
    items = referenced.ReferencedInstanceSequence
    assert sorted(item.ReferencedSOPInstanceUID for item in items) == sorted(slices)
    assert {item.ReferencedSOPClassUID for item in items} == {pydicom.uid.CTImageStorage}
    assert seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient == [
        pytest.approx(float(v), abs=1e-9) for v in next(iter(slices.values())).ImageOrientationPatient
    ]
    seen = set()
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        (derivation,) = frame.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        assert derivation.DerivationCodeSequence[0].CodeMeaning == "Segmentation"
        assert source.ReferencedSOPClassUID == pydicom.uid.CTImageStorage
        ct = slices[source.ReferencedSOPInstanceUID]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(np.array(position, float), np.array(ct.ImagePositionPatient, float), atol=1e-6)
        assert np.array_equal(pixels == 1, ct.pixel_array == 95) and pixels.any()  # the blob alone has 95 HU
        seen.add(ct.SOPInstanceUID)
    assert len(seen) == seg.NumberOfFrames == sum((ds.pixel_array == 95).any() for ds in slices.values())


def _mask_of(series):
    scan = read_ct(series)
    return as_image((sitk.GetArrayViewFromImage(scan) == 95).astype(np.uint8), scan)


def test_a_failed_seg_leaves_nothing_behind(series):
    mask = as_image(blob_volume()[1], read_ct(series))
    mask.SetOrigin(np.add(mask.GetOrigin(), (0, 0, 5)).tolist())
    target = series.parent / "seg.dcm"
    before = target.read_bytes()
    with pytest.raises(InputError, match="5.00 mm off the scan"):
        write_seg(mask, series, target)
    assert target.read_bytes() == before and len(list(series.parent.iterdir())) == 2


def test_an_anonymised_series_without_uids_can_carry_a_seg(real_series, tmp_path):
    scan = read_ct(real_series)
    array = np.zeros(scan.GetSize()[::-1], np.uint8)
    array[7:12, 200:240, 150:260] = 1
    with pytest.warns(UserWarning, match="the scan has no"):
        path = write_seg(as_image(array, scan), real_series, tmp_path / "seg.dcm", algorithm="a test")
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    assert int(volume.array.sum()) == array.sum()
    assert sitk.GetArrayViewFromImage(scan).shape[1:] == volume.spatial_shape[1:]
