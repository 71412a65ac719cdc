"""Three real slices of another scanner with air stored as -2000, and a SEG on them that another program wrote."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from vaelib import InputError
from vaelib.cohorts.layout import Case
from vaelib.cohorts.survey import survey
from vaelib.dicom.geometry import image_like
from vaelib.dicom.write import write_seg
from vaelib.volumes import read_ct, read_mask


@pytest.fixture(scope="module")
def slices(real_seg):
    """Their headers with pixels, from the feet upward."""
    return sorted(map(pydicom.dcmread, (real_seg / "ct").iterdir()), key=lambda ds: ds.ImagePositionPatient[2])


@pytest.fixture(scope="module")
def scan(real_seg):
    return read_ct(real_seg / "ct")


@pytest.fixture(scope="module")
def liver(real_seg, slices):
    """Its voxels (3, 512, 512) by arithmetic: each frame at the slice whose position it has."""
    ds = pydicom.dcmread(real_seg / "liver.dcm")
    frames = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")[: 3 * 512 * 512]
    places = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in ds.PerFrameFunctionalGroupsSequence]
    order = [int(np.abs(np.subtract(places, ds.ImagePositionPatient[2])).argmin()) for ds in slices]
    return frames.reshape(3, 512, 512)[order]


def array_of(image):
    return sitk.GetArrayViewFromImage(image)


def test_what_is_stored_outside_of_the_field_of_view_is_air_and_all_else_is_exact(scan, slices):
    stored = np.stack([ds.pixel_array for ds in slices]).astype(int)
    padding = stored == slices[0].PixelPaddingValue
    assert slices[0].PixelPaddingValue == -2000 and padding.mean() > 0.1
    hu = array_of(scan)
    assert np.array_equal(hu[~padding], (stored - 1024)[~padding])
    assert {*np.unique(hu[padding])} <= {*range(-1100, -899)}
    assert hu.min() >= -1100


def test_its_places_are_those_of_its_positions_and_not_of_its_thickness(scan, slices):
    assert scan.GetSize() == (512, 512, 3) and scan.GetSpacing() == pytest.approx((0.810547, 0.810547, 1.0), abs=1e-4)
    assert {float(ds.SliceThickness) for ds in slices} == {1.25}
    for k, ds in enumerate(slices):
        assert scan.TransformIndexToPhysicalPoint((0, 0, k)) == pytest.approx(ds.ImagePositionPatient, abs=1e-3)


def test_the_seg_of_another_program_is_read_voxel_for_voxel(real_seg, scan, liver):
    mask = read_mask(real_seg / "liver.dcm", scan, segment="liver")
    assert np.array_equal(array_of(mask), liver) and liver.sum() == 107_098
    assert np.array_equal(array_of(read_mask(real_seg / "liver.dcm", scan, segment=1)), liver)


def test_a_seg_without_a_pancreas_is_refused_and_says_what_there_is(real_seg, scan):
    with pytest.raises(InputError, match="liver.dcm: .*Liver.*") as error:
        read_mask(real_seg / "liver.dcm", scan)
    assert "\n" not in str(error.value)


def test_a_seg_that_we_write_on_it_is_read_back(scan, liver, tmp_path):
    path = write_seg(image_like(liver, scan), scan, tmp_path / "seg.dcm")
    assert np.array_equal(array_of(read_mask(path, scan)), liver)
    text = path.read_bytes()
    assert b"JANCT000" not in text and b"03086212" not in text


def test_the_survey_says_what_is_odd_about_it_and_no_more(real_seg):
    (row,) = survey([Case("99000", real_seg / "ct", real_seg / "liver.dcm", "idc")], segment="Liver", workers=1)
    assert row.size == (512, 512, 3) and row.hu[0] >= -1100
    assert not any("cannot be read" in reason or "not HU" in reason for reason in row.reasons)
    assert "mask at the edge of the scan" in row.reasons  # three slices of a liver
