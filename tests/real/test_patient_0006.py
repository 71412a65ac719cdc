"""The patient of Pancreas-CT whose DICOM header is published: read, masked, exported, surveyed, and reversed in z."""

import struct
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, generate_uid

from vaelib import InputError
from vaelib.cohorts.labels import mask_of, place
from vaelib.cohorts.layout import Case
from vaelib.cohorts.survey import survey
from vaelib.dicom.geometry import image_like
from vaelib.dicom.write import write_seg
from vaelib.volumes import read_ct, read_mask

PUBLISHED = {  # of the first file; `None` is present and empty
    "Modality": "CT", "Manufacturer": None, "PatientName": "PANCREAS_0006", "PatientID": "PANCREAS_0006",
    "SliceThickness": None, "KVP": None, "StudyID": "PANCREAS_0006", "SeriesNumber": None, "AcquisitionNumber": None,
    "ImageOrientationPatient": [1, 0, 0, 0, -1, 0], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 512, "Columns": 512, "PixelSpacing": [0.9375, 0.9375], "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
    "PixelRepresentation": 1, "RescaleIntercept": 0, "RescaleSlope": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def stored(real_patient):
    """HU and label (80, 512, 512), and the index of each slice in its series. Below the window there is air."""
    with np.load(real_patient / "slices.npz") as file:
        hu, label, k = file["hu"], file["label"], file["k"]
    hu[hu == -160] = -1000  # the window of what was published cut it off, and a survey asks for air
    return hu, label, k


@pytest.fixture(scope="module")
def folder(stored, tmp_path_factory):
    """The case as TCIA has it: the series with the published header, and a label whose axes read L, A, I."""
    hu, label, k = stored
    top = tmp_path_factory.mktemp("patient")
    study, series, frame = (generate_uid(entropy_srcs=[word]) for word in ("study", "series", "frame"))
    (top / "ct").mkdir()
    for number, pixels in zip((k + 1).tolist(), hu, strict=True):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID, ds.SOPClassUID = ImplicitVRLittleEndian, CTImageStorage
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        for keyword, value in PUBLISHED.items():
            setattr(ds, keyword, value)
        ds.InstanceNumber, ds.ImagePositionPatient = number, [0, 0, 1 - number]
        ds.add_new("PixelData", "OW", pixels.astype("<i2").tobytes())
        ds.save_as(top / "ct" / f"1-{number:03d}.dcm", enforce_file_format=True)
    write_nifti(top / "label0006.nii", label, first=int(k[0]))
    return top


def write_nifti(path, label, first):
    """A label (S, H, W) as NIfTI-1 with axes L, A, I, byte by byte."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *label.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8
    struct.pack_into("<8f", header, 76, 1, 0.9375, 0.9375, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<2h", header, 252, 0, 1)
    # NIfTI is RAS: x falls to the left, y grows to the front, z falls to the feet
    struct.pack_into("<12f", header, 280, -0.9375, 0, 0, 0, 0, 0.9375, 0, 0, 0, 0, -1, -first)
    header[344:348] = b"n+1\0"
    path.write_bytes(bytes(header) + label.astype(np.uint8).tobytes())
    return path


@pytest.fixture(scope="module")
def scan(folder):
    return read_ct(folder / "ct")


def array_of(image):
    return sitk.GetArrayViewFromImage(image)


def test_the_published_header_is_read_to_its_hu_and_places(scan, stored):
    hu, _, k = stored
    assert scan.GetSize() == (512, 512, 80) and scan.GetSpacing() == (0.9375, 0.9375, 1.0)
    assert np.array_equal(array_of(scan), hu)
    for i, j, s in (0, 0, 0), (511, 3, 79), (7, 500, 40):
        assert scan.TransformIndexToPhysicalPoint((i, j, s)) == (0.9375 * i, -0.9375 * j, -float(k[s]))


def test_its_label_lies_where_its_axes_say_and_is_verified(scan, stored, folder):
    mask, placement = place(folder / "label0006.nii", scan)
    assert np.array_equal(array_of(mask), stored[1])
    assert placement.rule == "header" and placement.verified


def test_a_seg_written_from_it_is_read_back_by_us_and_by_arithmetic(scan, stored, folder, tmp_path):
    path = write_seg(image_like(stored[1], scan), scan, tmp_path / "seg.dcm")
    assert np.array_equal(array_of(read_mask(path, scan)), stored[1])
    ds = pydicom.dcmread(path)
    number, rows, columns = ds.NumberOfFrames, ds.Rows, ds.Columns
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")[: number * rows * columns]
    frames = bits.reshape(number, rows, columns)
    places = [f.PlanePositionSequence[0].ImagePositionPatient for f in ds.PerFrameFunctionalGroupsSequence]
    assert all((x, y) == (0, 0) for x, y, _ in places)
    found = {-round(float(z)): frame for (*_, z), frame in zip(places, frames, strict=True)}
    for at, right in zip(stored[2].tolist(), stored[1], strict=True):
        assert np.array_equal(found.get(at, np.zeros_like(right)), right)
    assert {*found} <= {*stored[2].tolist()}
    assert ds.PatientID == "PANCREAS_0006" and ds.FrameOfReferenceUID == scan.headers[0].FrameOfReferenceUID


@pytest.mark.parametrize("kind", ["nii", "dcm"])
def test_the_survey_finds_nothing_odd_about_it_but_what_is_cut_off(kind, scan, stored, folder, tmp_path):
    label = folder / "label0006.nii"
    if kind == "dcm":
        label = write_seg(image_like(stored[1], scan), scan, tmp_path / "seg.dcm")
    (row,) = survey([Case("PANCREAS_0006", folder / "ct", label, "tcia" if kind == "nii" else "idc")], workers=1)
    assert row.reasons == ("mask at the edge of the scan",)  # which is true: the label goes on below
    assert row.size == (512, 512, 80) and row.axes == "LAI"
    assert row.check.volume_ml == pytest.approx(stored[1].sum() * 0.9375**2 / 1000)


def test_the_published_reversal_in_z_is_an_error_whose_remedy_works(scan, stored, folder, tmp_path):
    path = write_nifti(tmp_path / "label0006.nii", stored[1][::-1], first=int(stored[2][0]))
    with pytest.raises(InputError, match=r"seems reversed along z .*reorient[= ]'?flip-z") as error:
        place(path, scan)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    case = Case("PANCREAS_0006", folder / "ct", path, "tcia")
    (row,) = survey([case], workers=1)
    assert any("reversed along z" in reason for reason in row.reasons)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # mended, it is verified
        mask, placement = mask_of(case, scan, reorient="flip-z")
    assert placement.verified and np.array_equal(array_of(mask), stored[1])
    (row,) = survey([case], reorient="flip-z", workers=1)
    assert row.reasons == ("mask at the edge of the scan",)


def test_a_seg_that_is_reversed_in_z_is_flagged(scan, stored, folder, tmp_path):
    path = write_seg(image_like(stored[1][::-1], scan), scan, tmp_path / "seg.dcm")
    case = Case("PANCREAS_0006", folder / "ct", path, "idc")
    with pytest.warns(UserWarning, match="reversed along z"):
        mask_of(case, scan)
    (row,) = survey([case], workers=1)
    assert any("better reversed in z" in reason for reason in row.reasons)
