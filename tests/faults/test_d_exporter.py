"""Kind D: a SEG is built from the grid of its scan, whatever else its headers say; another reader finds the mask."""

import warnings

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from small import OBLIQUE, SPACING, as_image, blob_volume

from stress import oracle
from vaelib import InputError
from vaelib.dicom import write
from vaelib.dicom.identity import KEPT, LISTS
from vaelib.dicom.write import AXIAL, check_target, write_ct, write_mask
from vaelib.volumes import read_ct, read_mask

PLAIN, ORIGIN = (1, 0, 0, 0, 1, 0), (-31.5, 12.25, 400.0)
SECONDARY, PRIVATE = "1.2.840.10008.5.1.4.1.1.7", "1.3.12.2.1107.5.9.1"
EVERY = None  # in place of the number of a slice
THICKNESS = ["", "2,5", "0", "-5", "3", "5", "1e9", "nan", "thick", "2.5\\2.5", "2.50000000000000000001", "\x00"]
UIDS = [
    "", "1.2.3.zebra", "1.02.003", "1.2." + "3" * 90, "1..2", "2.25.abc", ".", "0", " 1.2.3", "1.2\\1.3", "é",
    "1.2.3\0\0\0", "1.2.3 ", "0.0.0.0",
]  # fmt: skip
TEXTS = [
    "", "x" * 65, "x" * 5000, "a\\b\\c", "a\nb", "Zoë^Ünal", "山田^太郎", "\x1b$B;3ED\x1b(B", "\x00\x01", "=", " ",
    "^^^^^^^^", "a=b=c=d=e", "^".join("abcdefgh"),
    "\udcff\udcfe", "../../etc", "0", "not a date", "20261399", "1957-03-12", "-1", "nan", "1e400", "\xa0", "\u202e",
]  # fmt: skip
GEOMETRY = ["SliceThickness", "SpacingBetweenSlices"]
IDENTIFIERS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"]
SAID = ["PatientID", "Manufacturer", "ManufacturerModelName", "Modality", "LossyImageCompression", "StudyDescription",
        "LossyImageCompressionRatio", "LossyImageCompressionMethod", "SpecificCharacterSet", "StationName",
        "PatientPosition", "AcquisitionNumber", "InstanceNumber", "SeriesNumber", "ImageType", "FrameType",
        "NumberOfFrames", "TotalPixelMatrixColumns", "SpecimenDescriptionSequence", "ClinicalTrialSubjectID",
        "SharedFunctionalGroupsSequence", "ImageOrientationSlide", "SoftwareVersions", "AcquisitionDateTime",
        *LISTS["emptied"]]  # fmt: skip
PANCREAS_CT = ["SliceThickness", "KVP", "SeriesNumber", "AcquisitionNumber", "PatientPosition", "Manufacturer"]
WRONG_VRS = ["OB", "US", "FD", "SQ", "UN", "AT", "DS", "LO", "PN", "UI", "DA"]

# A case: name, direction, then changes as (slice or EVERY, keyword, value or bytes, VR or None)
INSTANCES = [
    ("as Pancreas-CT has it", AXIAL, [(EVERY, keyword, "", None) for keyword in PANCREAS_CT]),
    ("empty thickness", AXIAL, [(EVERY, "SliceThickness", "", None)]),
    *((f"thickness {v}", AXIAL, [(EVERY, "SliceThickness", v, None)]) for v in ("2,5", "0")),
    *((f"between slices {v}", PLAIN, [(EVERY, "SpacingBetweenSlices", v, None)]) for v in ("5", "3", "0", "-2.5")),
    ("two frames of reference", AXIAL, [(7, "FrameOfReferenceUID", "1.2.3.4", None)]),
    ("a frame of reference in half", AXIAL, [(k, "FrameOfReferenceUID", "", None) for k in range(6)]),
    ("orientation 2e-5 off", PLAIN, [(5, "ImageOrientationPatient", "1\\2e-5\\0\\-2e-5\\1\\0", None)]),
    ("orientation as 1.0", PLAIN, [(5, "ImageOrientationPatient", "1.0\\0.0\\0\\-0\\1.00\\0", None)]),
    ("cosines of 3 digits", OBLIQUE, [(EVERY, "ImageOrientationPatient", ".921\\.389\\0\\-.312\\.737\\.6", None)]),
    ("cosines of 4 digits", OBLIQUE, [(EVERY, "ImageOrientationPatient", ".9211\\.3894\\0\\-.3115\\.7368\\.6", None)]),
    ("spacing 1e-5 off", AXIAL, [(0, "PixelSpacing", "0.90001\\0.7", None)]),
    ("private class", AXIAL, [(EVERY, "SOPClassUID", PRIVATE, None)]),
    ("private class of one", AXIAL, [(3, "SOPClassUID", PRIVATE, None)]),
    ("secondary capture", AXIAL, [(EVERY, "SOPClassUID", SECONDARY, None)]),
    ("all that says a length is empty", PLAIN, [(EVERY, keyword, "", None) for keyword in GEOMETRY]),
    ("no uids", AXIAL, [(EVERY, keyword, "", None) for keyword in IDENTIFIERS]),
    ("frames of reference that all differ", AXIAL, [(k, "FrameOfReferenceUID", f"1.2.{k}", None) for k in range(12)]),
    ("zeros before numbers", AXIAL, [(EVERY, keyword, "1.02.003", None) for keyword in IDENTIFIERS[2:]]),
    ("uids of 94 digits", AXIAL, [(EVERY, keyword, "1.2." + "3" * 90, None) for keyword in IDENTIFIERS[2:]]),
    ("letters in uids", AXIAL, [(EVERY, keyword, "1.2.abc", None) for keyword in IDENTIFIERS[2:]]),
    ("one slice twice by its uid", AXIAL, [(k, "SOPInstanceUID", "1.2.3", None) for k in (4, 5)]),
    ("all slices by one uid", AXIAL, [(EVERY, "SOPInstanceUID", "1.2.3", None)]),
    ("two studies", AXIAL, [(4, "StudyInstanceUID", "1.2.3", None)]),
    ("a patient of 80 letters", OBLIQUE, [(EVERY, "PatientID", "ID" * 40, None)]),
    ("a patient with strange letters", OBLIQUE, [(EVERY, "PatientID", "a\\b\n\x00Ж", None)]),
    ("a date that is none", AXIAL, [(EVERY, "StudyDate", "not a date", None)]),
    ("numbers where letters are", AXIAL, [(EVERY, "PatientID", b"\x01\x00", "US")]),
    ("bytes for a maker", AXIAL, [(EVERY, "Manufacturer", b"\xff\xfe\x00\x01", "OB")]),
    ("lossy by half", AXIAL, [(0, "LossyImageCompression", "01", None), (0, "LossyImageCompressionRatio", "a", None)]),
]  # fmt: skip


def generate(r):
    """Draw a header with one or two attributes that are odd, in all slices or in some."""
    changes = []
    for _ in range(r.choice((1, 1, 2))):
        keyword, values = r.choice(
            [(r.choice(GEOMETRY), THICKNESS), (r.choice(IDENTIFIERS), UIDS), (r.choice(SAID), TEXTS)]
        )
        value, vr = r.choice(r.choice((values, THICKNESS + UIDS + TEXTS))), None
        if r.random() < 0.25 and keyword != "SpecificCharacterSet":  # which pydicom cannot write either
            value, vr = r.randbytes(r.choice((0, 2, 4, 8, 12))), r.choice(WRONG_VRS)
        value = b"" if vr == "SQ" else value
        if keyword == "SpecificCharacterSet":
            value = value.replace("\0", "x")
        where = r.choice((EVERY, EVERY, 0, r.randrange(12)))
        changes.append((where, keyword, value, vr))
    name = ", ".join(keyword + ("" if where is EVERY else f" of {where}") for where, keyword, *_ in changes)
    return name, r.choice((AXIAL, PLAIN, OBLIQUE)), changes


def make(folder, direction, changes):
    """Write the blob with bytes of the case in its headers, as they would come from elsewhere."""
    write_ct(blob_volume()[0], folder, spacing=SPACING, origin=ORIGIN, direction=direction, patient_id="P1", uid="d")
    explicit = any(vr for *_, vr in changes)
    for k, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        if explicit:
            ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            ds = _as_explicit(ds, path)
        for where, keyword, value, vr in changes:
            if where in (EVERY, k):
                raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
                tag = Tag(tag_for_keyword(keyword))
                raw += b" " * (len(raw) % 2)
                vr = vr or (pydicom.datadict.dictionary_VR(tag) if explicit else None)
                ds._dict[tag] = RawDataElement(tag, vr, len(raw), raw, 0, not explicit, True)
        ds.save_as(path, enforce_file_format=False)
    return folder


def _as_explicit(ds, path):
    ds.save_as(path, implicit_vr=False, little_endian=True)
    return pydicom.dcmread(path)


def where_slices_are(direction):
    """Position of the first pixel of each slice as it was written, (12, 3), from head to feet."""
    normal = np.cross(direction[:3], direction[3:])
    step = normal * (-SPACING[0] if normal[2] > 0 else SPACING[0])
    return np.array(ORIGIN) + np.arange(12)[:, None] * step


def by_arithmetic(path, direction, near=1e-8):
    """Read a SEG as PS3.3 C.7.6.16 says, onto the slices as they were written, (12, 40, 32); cosines may be rounded."""
    ds, out = pydicom.dcmread(path), np.zeros((12, 40, 32), np.uint8)
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    (shared,), size = ds.SharedFunctionalGroupsSequence, ds.Rows * ds.Columns
    (measures,), (plane,) = shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    assert np.allclose([float(v) for v in measures.PixelSpacing], SPACING[1:], rtol=0, atol=2e-5)
    assert np.allclose([float(v) for v in plane.ImageOrientationPatient], direction, rtol=0, atol=near)
    assert float(measures.SpacingBetweenSlices) == pytest.approx(SPACING[0]) and float(measures.SliceThickness) > 0
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        away = np.linalg.norm(where_slices_are(direction) - position, axis=1)
        assert away.min() < 0.01
        out[away.argmin()] |= bits[k * size : (k + 1) * size].reshape(ds.Rows, ds.Columns)
    return out


def check(folder, case):
    """Export the mask of a case as `segment` does; what is refused is refused before anything is computed."""
    _, direction, changes = case
    path, mask = folder / "out" / "mask.dcm", blob_volume()[1]
    make(folder / "ct", direction, changes)
    try:
        scan = read_ct(folder / "ct")
        check_target(path, scan=scan)
    except InputError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return str(error)
    stored = mask if np.array_equal(sitk.GetArrayViewFromImage(scan), blob_volume()[0]) else mask[::-1]
    image = as_image(np.ascontiguousarray(stored), scan)
    write_mask(image, path, scan)
    rounded = any(keyword == "ImageOrientationPatient" for _, keyword, *_ in changes)
    assert np.array_equal(by_arithmetic(path, direction, 1e-3 if rounded else 1e-8), mask)
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(path, scan)), stored)
    assert b"zebra" not in path.read_bytes() or {keyword for _, keyword, *_ in changes} & {*KEPT}  # nor in a UID
    return ""


MUST = {name for name, *_ in INSTANCES}  # go out


@drawn(INSTANCES, generate, seed=18)
def test_a_seg_is_what_its_mask_was_whatever_the_headers_say(case, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused = check(tmp_path, case)
    assert case[0] not in MUST or not refused


@pytest.mark.parametrize("case", INSTANCES[:16], ids=[name for name, *_ in INSTANCES[:16]])
def test_highdicom_finds_the_spacing_of_the_scan_and_every_voxel(case, tmp_path):
    _, direction, changes = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan = read_ct(make(tmp_path / "ct", direction, changes))
        path = write_mask(as_image(blob_volume()[1], scan), tmp_path / "mask.dcm", scan)
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    assert np.allclose(volume.spacing, SPACING, atol=2e-5)
    assert volume.array.sum() == blob_volume()[1].sum()


def test_what_cannot_be_exported_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    scan = read_ct(make(tmp_path / "ct", AXIAL, []))
    said = "ct: no SEG of it can be written .no memory.; write a NIfTI, --out mask.nii.gz"
    monkeypatch.setattr(write, "_encode_seg", lambda *_: exec("raise KeyError('no memory')"))
    with pytest.raises(InputError, match=said.replace(".no memory.", r"\('no memory'\)")):
        check_target(tmp_path / "out" / "mask.dcm", scan=scan)
    check_target(tmp_path / "out" / "mask.nii.gz", scan=scan)
    assert not (tmp_path / "out").exists()


def test_a_seg_that_reads_back_otherwise_never_gets_its_name(tmp_path, monkeypatch):
    scan = read_ct(make(tmp_path / "ct", AXIAL, []))
    mask, real = as_image(blob_volume()[1], scan), write._encode_seg
    monkeypatch.setattr(write, "_encode_seg", lambda array, *how: real(np.roll(array, 1, 2), *how))
    with pytest.raises(InputError, match="another mask comes back"):
        write_mask(mask, tmp_path / "mask.dcm", scan)
    monkeypatch.undo()
    with pytest.raises(InputError, match="no SEG of it can be"):
        write_mask(mask * 255, tmp_path / "mask.dcm", scan)
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


@pytest.mark.parametrize("by_folder", [False, True])
def test_a_mask_goes_out_if_every_corner_of_its_grid_is_that_of_the_scan_within_a_hundredth(tmp_path, by_folder):
    scan = read_ct(make(tmp_path / "ct", OBLIQUE, []))
    to, path = tmp_path / "ct" if by_folder else scan, tmp_path / "mask.dcm"
    mask = as_image(np.ascontiguousarray(blob_volume()[1][::-1]), scan)
    mask.SetOrigin(np.add(scan.GetOrigin(), (0.005, -0.005, 0.005)).tolist())
    assert np.array_equal(by_arithmetic(write_mask(mask, path, to), OBLIQUE), blob_volume()[1])
    moved = {
        "SetOrigin": np.add(scan.GetOrigin(), (0, 0.02, 0)), "SetSpacing": np.add(scan.GetSpacing(), (0.001, 0, 0)),
        "SetDirection": np.reshape(scan.GetDirection(), (3, 3))[:, [1, 0, 2]] * (1, -1, 1),
    }  # fmt: skip
    for name, value in moved.items():
        other = as_image(blob_volume()[1], scan)
        getattr(other, name)(value.ravel().tolist())
        with pytest.raises(InputError, match="mm off the scan"):
            write_mask(other, path, to, overwrite=True)


@pytest.mark.parametrize("decimals", [3, 4, 10])
@pytest.mark.parametrize("direction", [AXIAL, PLAIN, OBLIQUE], ids=["axial", "plain", "oblique"])
def test_a_nifti_says_in_both_ways_where_the_slices_of_the_scan_lie(tmp_path, direction, decimals):
    cosines = "\\".join(f"{v:.{decimals}f}" for v in direction)
    scan = read_ct(make(tmp_path / "ct", direction, [(EVERY, "ImageOrientationPatient", cosines, None)]))
    places = where_slices_are(direction)[:: 1 if np.array_equal(sitk.GetArrayFromImage(scan), blob_volume()[0]) else -1]
    far = places + 31 * SPACING[2] * np.array(direction[:3]) + 39 * SPACING[1] * np.array(direction[3:])
    write_mask(as_image(blob_volume()[1], scan), tmp_path / "mask.nii", scan)
    sform, qform, *_ = oracle._affines((tmp_path / "mask.nii").read_bytes())
    for affine in (sform, qform):
        for place, index in (places, (0, 0)), (far, (31, 39)):
            found = np.array([affine @ [*index, k, 1] for k in range(12)]) * (-1, -1, 1)  # NIfTI is RAS, DICOM is LPS
            assert np.abs(found - place).max() < 1e-3 + 50 * 10**-decimals


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uid", ["550e8400-e29b-41d4-a716-44665544{:04d}", "1.2.{}.abc", "1.2.3", "1.02.{}"])
def test_uids_that_are_none_are_derived_and_no_disagreement(uid, tmp_path):
    folder, mask = make(tmp_path / "ct", AXIAL, []), blob_volume()[1]
    for k, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID, ds.FrameOfReferenceUID = uid.format(k), "550e8400-e29b-41d4-a716-446655440000"
        ds.save_as(path)
    scan = read_ct(folder)
    path = write_mask(as_image(mask, scan), tmp_path / "mask.dcm", scan)
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(path, scan)), mask)
    named = {e.value for e in pydicom.dcmread(path).iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert len(named) == 12
