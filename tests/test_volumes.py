"""Scan and mask come together in space, or an error says why they do not."""

import copy
import itertools
import pickle
import shutil
import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid
from pydicom.sr.codedict import codes
from small import OBLIQUE, SPACING, as_image, blob_volume, make_series, same

from vaelib import InputError
from vaelib.dicom.geometry import onto_grid
from vaelib.dicom.headers import series_headers
from vaelib.dicom.pixels import hu_of
from vaelib.dicom.write import write_ct, write_seg
from vaelib.volumes import Scan, describe, read_ct, read_mask


def edit(path, **attributes):
    ds = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(path)


def array_of(image):
    return sitk.GetArrayFromImage(image)


def nifti(image, folder, name="label.nii.gz"):
    sitk.WriteImage(image, str(folder / name))
    return folder / name


def bad(message, name):
    """An InputError of one line that names the file, then says `message`."""
    return pytest.raises(InputError, match=f"^[^\n]*{name}[^\n]*{message}[^\n]*$")


# the scan


def test_oblique_anisotropic_series_with_shuffled_names(tmp_path):
    folder, origin = tmp_path / "ct", np.array([-31.5, 12.25, 400])
    make_series(folder, direction=OBLIQUE, origin=origin)
    names = np.random.default_rng(0).permutation(12)
    for path, name in zip(sorted(folder.iterdir()), names, strict=True):
        path.rename(folder / f"IM{name}")  # nothing left to sort by
    (folder / "LICENSE").write_text("not DICOM, and passed over")
    (folder / ".hidden.dcm").write_text("passed over")
    scan, hu = read_ct(folder), blob_volume()[0]
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    assert scan.GetPixelID() == sitk.sitkInt16 and np.allclose(scan.GetSpacing(), SPACING[::-1])
    assert np.allclose(np.reshape(scan.GetDirection(), (3, 3)), np.transpose([OBLIQUE[:3], OBLIQUE[3:], normal]))
    row, column, step = OBLIQUE[:3], OBLIQUE[3:], -normal * np.sign(normal[2])
    for k, j, i in [(0, 0, 0), (11, 39, 31), (3, 30, 7)]:  # a stored voxel keeps its place in the patient
        place = origin + np.multiply(row, 0.7 * i) + np.multiply(column, 0.9 * j) + step * 2.5 * k
        assert scan[scan.TransformPhysicalPointToIndex(place.tolist())] == hu[k, j, i]


def test_spacing_comes_from_positions_and_rescale_is_per_slice(series):
    for k, path in enumerate(sorted(series.iterdir())):
        edit(path, SliceThickness="5", RescaleSlope=str(1 + k % 2), RescaleIntercept="-24")
    scan, hu = read_ct(series), blob_volume()[0]
    assert scan.GetSpacing()[2] == pytest.approx(2.5)
    assert np.array_equal(array_of(scan), hu * (1 + np.arange(12) % 2)[:, None, None] - 24)
    edit(series / "1-003.dcm", RescaleSlope="0.5")
    scan = read_ct(series)
    assert scan.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(array_of(scan)[2], hu[2] * 0.5 - 24)
    assert "32 x 40 x 12 voxels of 0.7 x 0.9 x 2.5 mm, axes LAI" in describe(scan)


def test_real_series_is_read_to_exact_hu(real_series):
    scan = read_ct(real_series)
    assert scan.GetSize() == (512, 512, 20) and scan.GetSpacing() == (0.9765625, 0.9765625, 2)
    assert scan.GetOrigin() == (-249.51171875, -437.51171875, -804.5)
    assert sitk.GetArrayViewFromImage(scan).min() == -1024 and sitk.GetArrayViewFromImage(scan).max() == 1839
    for path in real_series.iterdir():  # pydicom decodes by another codec (OpenJPEG in Pillow) than ITK
        ds = pydicom.dcmread(path)
        k = round((ds.ImagePositionPatient[2] + 804.5) / 2)
        try:
            hu = ds.pixel_array.astype(int) + int(ds.RescaleIntercept)
        except (RuntimeError, NotImplementedError):
            pytest.skip("pydicom has no JPEG 2000 decoder here to compare with")
        assert np.array_equal(array_of(scan[:, :, k]), hu)


def test_mask_on_the_real_series_flipped_in_its_header(real_series, tmp_path):
    scan = read_ct(real_series)
    array = np.zeros(scan.GetSize()[::-1], np.uint8)
    array[5:14, 180:230, 100:260] = 1
    array[9, 300, 77] = 1
    flipped = sitk.Flip(as_image(array, scan), (False, True, False))  # array and header turned together
    assert flipped.GetDirection()[4] == -1
    assert np.array_equal(array_of(read_mask(nifti(flipped, tmp_path), scan)), array)


# the scan and its headers


def test_no_file_is_read_twice_on_the_way_from_dicom_to_a_seg(series, monkeypatch):
    read = []

    def noting(real):
        return lambda path, *args, **how: isinstance(path, Path) and read.append(path) or real(path, *args, **how)

    monkeypatch.setattr(pydicom, "dcmread", noting(pydicom.dcmread))
    monkeypatch.setattr(Path, "read_bytes", noting(Path.read_bytes))
    scan = read_ct(series)
    mask = as_image((array_of(scan) == 95).astype(np.uint8), scan)
    path = write_seg(mask, scan, series.parent / "once.dcm", uid="test")
    assert sorted(read[:12]) == sorted(series.iterdir()) and [p.name for p in read[12:]] == [
        "once.dcm"
    ]  # the SEG itself
    write_seg(mask, series, again := series.parent / "twice.dcm", uid="test")
    assert len(read) == 2 * 13
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("syntax", [None, uid.RLELossless, uid.JPEGLSLossless], ids=["plain", "RLE", "JPEG-LS"])
@pytest.mark.parametrize("bits", [12, 16])
def test_a_scan_has_the_headers_of_its_slices_in_their_order_and_without_pixels(series, syntax, bits):
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        ds.BitsStored, ds.HighBit = bits, bits - 1
        if syntax:
            ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
    scan = read_ct(series)
    assert isinstance(scan, Scan) and isinstance(scan, sitk.Image)
    for k, (ds, alone) in enumerate(zip(scan.headers, series_headers(series), strict=True)):
        assert ds == alone and len(pickle.dumps(ds)) < 20_000
        assert scan.TransformIndexToPhysicalPoint((0, 0, k)) == pytest.approx(list(map(float, ds.ImagePositionPatient)))


def test_a_slice_keeps_its_pixels_when_it_is_converted_to_hu(series):
    ds = pydicom.dcmread(series / "1-003.dcm")
    before = ds.PixelData
    assert np.array_equal(hu_of(ds), blob_volume()[0][2]) and ds.PixelData is before


def test_what_simpleitk_makes_of_a_scan_is_a_plain_image(series):
    scan = read_ct(series)
    hu = array_of(scan)
    assert np.array_equal(array_of(scan[:, 2:9, 3:7]), hu[3:7, 2:9])
    assert np.array_equal(array_of(scan[:, :, 5]), hu[5])
    half = sitk.Resample(scan, (16, 20, 12), sitk.Transform(), sitk.sitkLinear, scan.GetOrigin(), (1.4, 1.8, 2.5),
                         scan.GetDirection())  # fmt: skip
    for image in (scan[:, :, 3:7], scan + 1, scan > 95, half, sitk.Cast(scan, sitk.sitkFloat32), sitk.Image(scan)):
        assert isinstance(image, sitk.Image) and not isinstance(image, Scan)
    assert np.array_equal(array_of(scan + 1), hu + 1) and np.array_equal(array_of(scan), hu)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda scan: pickle.loads(pickle.dumps(scan))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_a_copy_of_a_scan_is_a_scan_with_pixels_of_its_own(series, way):
    scan = read_ct(series)
    hu, twin = array_of(scan), way(scan)
    assert type(twin) is Scan and same(twin, scan) and twin.headers == scan.headers
    assert twin.headers is not scan.headers and twin.headers[3].filename == scan.headers[3].filename
    twin[3, 4, 5] = -77
    assert twin[3, 4, 5] == -77 and np.array_equal(array_of(scan), hu)
    scan[0, 0, 0] = 11
    assert twin[0, 0, 0] == hu[0, 0, 0]
    if way is not copy.copy:
        twin.headers[0].PatientID = "X"
        assert scan.headers[0].PatientID == "PANCREAS_0001"


def test_a_seg_leaves_the_headers_of_its_scan_as_they_are(series):
    for path in series.iterdir():
        edit(path, FrameOfReferenceUID="", StudyInstanceUID="", StudyDate="")
    scan = read_ct(series)
    before, mask = copy.deepcopy(scan.headers), as_image((array_of(scan) == 95).astype(np.uint8), scan)
    with pytest.warns(UserWarning, match="/ct: the scan has no FrameOfReferenceUID, StudyInstanceUID for all slices"):
        write_seg(mask, scan, series.parent / "new.dcm", uid="test")
    assert scan.headers == before


def test_a_seg_needs_headers_to_refer_to(series):
    scan = read_ct(series)
    mask = as_image((array_of(scan) == 95).astype(np.uint8), scan)
    for image in (scan + 0, None):
        with bad("give what read_ct gave, or its folder", r"new\.dcm"):
            write_seg(mask, image, series.parent / "new.dcm")
    assert not (series.parent / "new.dcm").exists()


# bad scans


def test_not_a_dicom_folder(tmp_path):
    with bad("no such folder; give the folder", "nowhere"):
        read_ct(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with bad("holds no DICOM file; give the folder", tmp_path.name):
        read_ct(tmp_path)
    (tmp_path / "1.dcm").write_text("hello")
    with bad("is no DICOM, 5 bytes of it are there; fetch it again", r"1\.dcm"):
        read_ct(tmp_path)


def test_two_series_in_one_folder(series, tmp_path):
    other = write_ct(blob_volume()[0], tmp_path / "other", spacing=SPACING, patient_id="P", uid="other")
    shutil.copy(other / "1-004.dcm", series / "x.dcm")
    with bad("one of 2 series .*keep one series", ""):
        read_ct(series)


def test_a_file_that_is_not_ct(series):
    shutil.copy(series.parent / "seg.dcm", series / "seg.dcm")
    with bad("is SEG .Segmentation Storage., not CT; move it out", r"seg\.dcm"):
        read_ct(series)


def test_missing_slice(series):
    (series / "1-005.dcm").unlink()
    with bad(r"5\.00 mm from 1-006\.dcm, 2\.50 is usual: 1 missing slice.*download", r"1-004\.dcm"):
        read_ct(series)
    (series / "1-006.dcm").unlink()
    with bad("2 missing", r"1-004\.dcm"):
        read_ct(series)


def test_uneven_spacing(series):
    x, y, z = pydicom.dcmread(series / "1-007.dcm").ImagePositionPatient
    edit(series / "1-007.dcm", ImagePositionPatient=[x, y, z + 0.02])  # within 1%: a rounded header
    assert read_ct(series).GetSpacing()[2] == pytest.approx(2.5, abs=1e-4)
    edit(series / "1-007.dcm", ImagePositionPatient=[x, y, z + 0.6])
    with bad("1.90 mm .*uneven spacing; resample", r"1-006\.dcm"):
        read_ct(series)


def test_doubled_slice(series):
    shutil.copy(series / "1-007.dcm", series / "copy.dcm")
    with bad("same place twice; remove one", r"(1-007|copy)\.dcm"):
        read_ct(series)


def test_sheared_stack_is_a_tilted_gantry(series):
    for k, path in enumerate(sorted(series.iterdir())):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[x, y + 0.3 * k, z])
    with bad(r"lies 3\.30 mm aside .*resample", r"1-012\.dcm|1-001\.dcm"):
        read_ct(series)


@pytest.mark.parametrize("keep", [0.5, 0.999], ids=["half", "a few bytes short"])
def test_truncated_file(series, keep):
    path = series / "1-006.dcm"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with bad(f"{path.stat().st_size} bytes for 40 x 32 pixels .*download it again", r"1-006\.dcm"):
        read_ct(series)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless], ids=["RLE", "JPEG-LS"])
def test_a_compressed_series_is_the_series_it_was(series, syntax):
    before = read_ct(series)
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(path)
    assert same(read_ct(series), before)
    path = series / "1-006.dcm"
    for missing in (20, 400):  # the end of the sequence takes 8
        path.write_bytes(path.read_bytes()[:-missing])
        with bad("cannot be decoded, truncated", r"1-006\.dcm"):
            read_ct(series)


def test_truncated_compressed_file(real_series, tmp_path):
    for path in real_series.iterdir():
        shutil.copy(path, tmp_path)
    victim = sorted(tmp_path.iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:90_000])
    with bad("cannot be decoded, truncated", victim.name):
        read_ct(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"PixelSpacing": [0.9, 0.8]}, "PixelSpacing is .*take the odd slices out"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "ImageOrientationPatient is .*take the odd"),
        ({"ImagePositionPatient": None}, "no position or orientation"),
        ({"RescaleSlope": None}, "no HU; export"),
        ({"Rows": 20}, "Rows is 20 in 1 of 12 slices, elsewhere 40"),
    ],
)
def test_a_slice_unlike_the_others(series, changes, message):
    edit(series / "1-008.dcm", **changes)
    with bad(message, r"1-008\.dcm"):
        read_ct(series)


def test_spacing_of_zero_and_a_single_slice(series):
    for path in series.iterdir():
        edit(path, PixelSpacing=[0, 0.7])
    with bad("PixelSpacing is .*export", r"\.dcm"):
        read_ct(series)
    for path in sorted(series.iterdir())[1:]:
        path.unlink()
    edit(series / "1-001.dcm", PixelSpacing=[1, 1])
    with bad("a single slice.*give the whole series", r"1-001\.dcm"):
        read_ct(series)


# the mask


def test_seg_round_trip_is_exact_in_any_orientation(any_series):
    scan = read_ct(any_series)
    mask = read_mask(any_series.parent / "seg.dcm", scan)
    assert mask.GetPixelID() == sitk.sitkUInt8 and mask.GetDirection() == scan.GetDirection()
    assert np.array_equal(array_of(mask) == 1, array_of(scan) == 95)


@pytest.mark.parametrize("slices", [[3], [2, 4, 8], [0, 11]], ids=["one slice", "gaps", "both ends"])
def test_seg_with_few_frames_finds_its_slices(series, slices):
    scan, array = read_ct(series), np.zeros((12, 40, 32), np.uint8)
    array[slices, 5:9, 20:30] = 1
    path = write_seg(as_image(array, scan), series, series.parent / "few.dcm")
    assert np.array_equal(array_of(read_mask(path, scan)), array)


def test_segment_by_label_or_number(series):
    scan, path = read_ct(series), series.parent / "seg.dcm"
    assert same(read_mask(path, scan, segment="pancreas"), read_mask(path, scan, segment=1))
    with bad("choose from 1 'Pancreas' by number", r"seg\.dcm"):
        read_mask(path, scan, segment="Liver")
    with bad("not readable as DICOM SEG", r"1-001\.dcm"):
        read_mask(series / "1-001.dcm", scan)


def test_one_segment_of_several(series):
    scan, headers = read_ct(series), series_headers(series)
    array = np.zeros((12, 40, 32, 2), np.uint8)
    array[2:9, 4:20, 3:9, 0] = 1
    array[4:6, 10:20, 6:20, 1] = 1  # overlaps the first
    names = [("Liver", codes.SCT.Liver), ("Pancreas", codes.SCT.Pancreas)]
    described = [
        hd.seg.SegmentDescription(n + 1, name, codes.SCT.Organ, code, "MANUAL") for n, (name, code) in enumerate(names)
    ]
    uids, path = [hd.UID(), 2, hd.UID(), 1], series.parent / "two.dcm"
    hd.seg.Segmentation(headers, array, "BINARY", described, *uids, "m", "m", "1", "1").save_as(path)
    assert np.array_equal(array_of(read_mask(path, scan)), array[..., 1])
    assert np.array_equal(array_of(read_mask(path, scan, segment="LIVER")), array[..., 0])
    assert np.array_equal(array_of(read_mask(path, scan, segment=1)), array[..., 0])
    with bad("choose from 1 'Liver', 2 'Pancreas'", r"two\.dcm"):
        read_mask(path, scan, segment="Spleen")


@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)), ids=str)
def test_label_flipped_with_its_header_lands_where_it_belongs(any_series, tmp_path, flips):
    scan = read_ct(any_series)
    mask = read_mask(any_series.parent / "seg.dcm", scan)
    assert same(read_mask(nifti(sitk.Flip(mask, flips), tmp_path), scan), mask)
    assert same(read_mask(nifti(sitk.PermuteAxes(sitk.Flip(mask, flips), (2, 0, 1)), tmp_path), scan), mask)


def lying(mask, axes):
    """The label with `axes` reversed in its array only, and the origin forgotten: a header that lies."""
    flipped = sitk.GetImageFromArray(np.ascontiguousarray(np.flip(array_of(mask), ["zyx".index(a) for a in axes])))
    flipped.SetSpacing(mask.GetSpacing())
    flipped.SetDirection(mask.GetDirection())
    return flipped


def test_label_whose_header_lies_is_an_error_with_figures_and_a_way_out(series, tmp_path):
    scan = read_ct(series)
    mask = read_mask(series.parent / "seg.dcm", scan)
    path = nifti(lying(mask, "yz"), tmp_path)
    with bad("its centre lies 10.8 mm left, 17.5 mm forward, 13.8 mm down of the scan's.*axes LAI.*--reorient index",
             r"label\.nii\.gz"):  # fmt: skip
        read_mask(path, scan)
    assert same(read_mask(path, scan, reorient="flip-yz"), mask)
    assert not same(read_mask(path, scan, reorient="flip-y"), mask)
    assert same(read_mask(nifti(lying(mask, ""), tmp_path), scan, reorient="index"), mask)
    with bad("choose header, axes, index", "--reorient upside-down"):
        read_mask(path, scan, reorient="upside-down")


def test_label_with_right_axes_and_a_wrong_origin(any_series, tmp_path):
    scan = read_ct(any_series)
    mask = read_mask(any_series.parent / "seg.dcm", scan)
    turned = sitk.PermuteAxes(sitk.Flip(mask, (True, False, True)), (1, 2, 0))
    turned.SetOrigin((0, 0, 0))
    path = nifti(turned, tmp_path)
    with bad("does not fit the scan", r"label\.nii\.gz"):
        read_mask(path, scan)
    assert same(read_mask(path, scan, reorient="axes"), mask)
    with bad("--reorient index needs as many", r"label\.nii\.gz"):
        read_mask(path, scan, reorient="index")


def test_label_on_another_grid(series, tmp_path):
    scan, label = read_ct(series), sitk.Image(20, 20, 10, sitk.sitkUInt8)
    label[5:9, 5:9, 5:9] = 1
    path = nifti(label, tmp_path)  # default header: origin 0, voxels of 1 mm
    with bad(r"does not fit the scan.*voxels 20 x 20 x 10 \(scan 32 x 40 x 12\), mm a voxel 1 x 1 x 1 \(scan",
             r"label\.nii\.gz"):  # fmt: skip
        read_mask(path, scan)
    assert array_of(read_mask(path, scan, reorient="header")).any()
    label.SetOrigin((900, 0, 0))
    with bad("beyond the scan along x", r"label\.nii\.gz"):
        read_mask(nifti(label, tmp_path), scan, reorient="header")


def test_shift_by_whole_voxels_is_noticed(series, tmp_path):
    scan = read_ct(series)
    mask = read_mask(series.parent / "seg.dcm", scan)
    mask.SetOrigin(mask.TransformIndexToPhysicalPoint((2, 0, 0)))
    with bad("its centre lies 1.4 mm left of the scan's", r"label\.nii\.gz"):
        read_mask(nifti(mask, tmp_path), scan)


def test_cropped_label_and_another_sampling_of_the_same_box(any_series, tmp_path):
    scan = read_ct(any_series)
    mask = read_mask(any_series.parent / "seg.dcm", scan)
    assert same(read_mask(nifti(mask[12:28, 4:22, 1:11], tmp_path), scan), mask)
    fine = sitk.Expand(mask, (2, 2, 2), sitk.sitkNearestNeighbor)
    again = array_of(read_mask(nifti(fine, tmp_path), scan))
    assert again.sum() == pytest.approx(array_of(mask).sum(), rel=0.1) and (again & array_of(mask)).any()


def test_empty_mask_and_a_missing_file(series, tmp_path):
    scan = read_ct(series)
    empty = as_image(np.zeros((12, 40, 32), np.uint8), scan)
    with bad("the mask is empty; choose", r"label\.nii\.gz"):
        read_mask(nifti(empty, tmp_path), scan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom remarks on it
        path = write_seg(empty, series, tmp_path / "empty.dcm")
    with bad("the mask is empty; choose", r"empty\.dcm"):
        read_mask(path, scan)
    with bad("no such file", r"none\.nii"):
        read_mask(tmp_path / "none.nii", scan)


def test_nifti_with_several_values_wants_a_number(series, tmp_path):
    scan = read_ct(series)
    mask = read_mask(series.parent / "seg.dcm", scan)
    organs = array_of(mask) * 3
    organs[10] = 7
    path = nifti(as_image(organs, scan), tmp_path)
    with bad("holds the values 3, 7; choose one by number", r"label\.nii\.gz"):
        read_mask(path, scan)
    assert same(read_mask(path, scan, segment=3), mask)
    (tmp_path / "text.nii").write_text("hello")
    with bad("not readable as NIfTI", r"text\.nii"):
        read_mask(tmp_path / "text.nii", scan)


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "kind"),
    [
        (np.array([0, 4095], "<u2"), 1, -1024, np.int16),
        (np.array([0, 65535], "<u2"), 1, -32768, np.int16),
        (np.array([-32768, 0], "<i2"), 1, -1, np.float32),  # one too low for 16 bits
        (np.array([0, 20000], "<i2"), 3, -32767, np.int16),  # only on the way is it too large
        (np.array([0, 60000], "<u2"), 1, 0, np.float32),
        (np.array([0, 7], "<i2"), 0.5, 0, np.float32),
        (np.array([0, 8], "<i2"), 0.5, 0, np.int16),
    ],
)
def test_hu_are_exact_in_whichever_type_holds_them(tmp_path, stored, slope, intercept, kind):
    folder = write_ct(np.zeros((2, 2, 2), np.int16), tmp_path / "ct", spacing=SPACING, patient_id="P", uid="u")
    for path in folder.iterdir():
        pixels = np.tile(stored, 2).tobytes()
        edit(path, PixelRepresentation=int(stored.dtype.kind == "i"), RescaleSlope=slope, RescaleIntercept=intercept)
        edit(path, PixelData=pixels)
    hu = array_of(read_ct(folder))
    assert hu.dtype == kind
    assert hu[0, 0].tolist() == (stored.astype(float) * slope + intercept).tolist()


def test_a_label_on_the_voxels_of_the_scan_is_copied_as_nearest_neighbour_would_put_it():
    rng = np.random.default_rng(0)
    scan = sitk.Image([9, 7, 5], sitk.sitkInt16)
    scan.SetSpacing((0.7, 0.9, 2.5))
    scan.SetOrigin((-3, 4, 50))
    scan.SetDirection(OBLIQUE[:3] + OBLIQUE[3:] + tuple(np.cross(OBLIQUE[:3], OBLIQUE[3:])))
    whole = as_image(rng.integers(0, 2, (5, 7, 9)).astype(np.uint8), scan)
    for order in itertools.permutations(range(3)):
        for backward in itertools.product((False, True), repeat=3):
            label = sitk.Flip(sitk.PermuteAxes(whole, order), backward)
            part = label[1:, :-1, 1:]
            for given in (label, part):
                nearest = sitk.Resample(given, scan, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
                assert same(onto_grid(given, scan), nearest)
    beyond = sitk.ConstantPad(whole, (2, 0, 1), (0, 3, 1), 0)
    assert same(onto_grid(beyond, scan), whole)
