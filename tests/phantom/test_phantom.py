"""The synthetic abdomen: believable sizes and HU, sound DICOM, the same bytes for the same seed."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy import ndimage

from vaelib import InputError
from vaelib.cohorts.layout import find_cases
from vaelib.phantom import LABEL, make_cohort, make_patient
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.cohort import HEADERS
from vaelib.phantom.paint import paint
from vaelib.phantom.shapes import Canvas
from vaelib.volumes import read_ct, read_mask

SEED = 2026


@pytest.fixture(scope="module")
def patients():
    return [make_patient(SEED, number, size=96) for number in (1, 2, 4)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One patient of each kind of header."""
    return make_cohort(tmp_path_factory.mktemp("phantom") / "cohort", patients=len(HEADERS), workers=2, size=32)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_arrays(patients):
    for p in patients:
        assert p.hu.dtype == np.int16 and p.mask.dtype == np.uint8
        assert p.hu.shape == p.mask.shape == p.labels.shape and 40 <= len(p.hu) <= 48
        assert p.hu.min() >= -1024 and p.hu.max() <= 3071
        assert set(np.unique(p.mask)) == {0, 1}
        assert (p.labels[p.mask > 0] == LABEL["pancreas"]).all()
        assert not p.mask[[0, -1]].any(), "the scan reaches beyond the pancreas at both ends"


@pytest.mark.parametrize(
    ("name", "low", "high"),  # portal-venous ranges, see vaelib.phantom.body.HU
    [
        ("liver", 95, 125), ("spleen", 110, 132), ("kidney", 140, 205), ("aorta", 135, 175),
        ("muscle", 45, 70), ("pancreas", 45, 145),
    ],
)  # fmt: skip
def test_hu_inside_the_organs(patients, name, low, high):
    for p in patients:
        inside = ndimage.binary_erosion(p.labels == LABEL[name], np.ones((1, 3, 3)))
        assert low <= np.median(p.hu[inside]) <= high


def test_pancreas_is_one_piece(patients):
    for p in patients:
        pieces, _ = ndimage.label(p.mask, np.ones((3, 3, 3)))
        assert np.bincount(pieces.ravel())[1:].max() >= 0.95 * p.mask.sum()


def test_pancreas_lies_where_it_should(patients):
    for p in patients:
        s, _, col = np.nonzero(p.mask)
        aorta = np.nonzero(p.labels == LABEL["aorta"])[2].mean()
        assert col.min() < aorta < col.max(), "from right of the aorta to left of it"
        leftmost, rightmost = s[col > np.percentile(col, 95)], s[col < np.percentile(col, 5)]
        assert leftmost.mean() > rightmost.mean(), "the tail lies higher than the head"
        near = ndimage.binary_dilation(p.mask, np.ones((3, 3, 3)), iterations=2)
        for neighbour in ("duodenum", "portal"):
            assert (p.labels[near] == LABEL[neighbour]).any()


def volume_ml(body):
    """The pancreas' volume on a coarse grid, painted without the organs that don't touch it."""
    body.parts = [part for part in body.parts if part.name in ("pancreas", "portal", "vessel", "aorta")]
    x, y = np.arange(-90, 150, 2.5), np.arange(-110, 110, 2.5)
    still = [lambda x, y, z: np.zeros((len(y), len(x)), np.float32)] * 2
    slices = np.arange(body.extent[0], body.extent[1], 8)
    return sum(paint(Canvas(x, y, z, still), body).sum() for z in slices) * 2.5 * 2.5 * 8 / 1000


def test_cohort_statistics():
    """Volume as Saisho et al. (2007) measured; HU as in Pancreas-CT; both with their spread."""
    bodies = [Anatomy(SEED, number) for number in range(1, 49)]
    hu = np.array([body.hu["pancreas"] for body in bodies])
    volume = np.array([volume_ml(body) for body in bodies])
    assert 70 <= volume.mean() <= 90 and volume.std() >= 20
    assert 85 <= hu.mean() <= 105 and 13 <= hu.std() <= 25


def test_volume_on_the_coarse_grid_is_the_scan_s(patients):
    assert volume_ml(Anatomy(SEED, 1)) == pytest.approx(patients[0].facts["volume_ml"], rel=0.05)


def test_same_seed_same_bytes(cohort, tmp_path):
    again, first = digests(make_cohort(tmp_path / "again", patients=(1, 2), workers=1, size=32)), digests(cohort)
    assert len(again) > 80 and again.items() <= first.items()
    assert not np.array_equal(make_patient(SEED + 1, 1, size=32).hu, make_patient(SEED, 1, size=32).hu)


def test_finished_patients_are_kept_and_halves_not_read(cohort, tmp_path):
    folder = tmp_path / "cohort"
    shutil.copytree(cohort / "PANCREAS_0001", folder / "PANCREAS_0001")
    shutil.copy(cohort / "SYNTHETIC.md", folder)
    shutil.copytree(cohort / "PANCREAS_0001", folder / ".PANCREAS_0002.123")  # as an interruption leaves it
    assert [case.patient for case in find_cases(folder)] == ["PANCREAS_0001"]
    kept = next(folder.glob("PANCREAS_0001/*/CT_*/1-001.dcm"))
    before = kept.stat().st_mtime_ns
    make_cohort(folder, patients=2, workers=1, size=32)
    assert kept.stat().st_mtime_ns == before
    assert [case.patient for case in find_cases(folder)] == ["PANCREAS_0001", "PANCREAS_0002"]


def test_a_cohort_of_another_seed_or_of_older_headers_is_refused(tmp_path):
    note = make_cohort(tmp_path / "cohort", patients=(), size=32) / "SYNTHETIC.md"
    with pytest.raises(InputError, match="another seed, size or version: .* seed 2026, .* seed 1,.*remove the folder"):
        make_cohort(tmp_path / "cohort", patients=2, seed=1, size=32)
    text = note.read_text()
    note.write_text(text.replace(", headers 2:", ":"))  # as all said until their headers began to differ
    assert note.read_text() != text
    with pytest.raises(InputError, match="SYNTHETIC.md: .*'Made by .*', where .*, headers 2.*remove the folder"):
        make_cohort(tmp_path / "cohort", patients=2, size=32)
    assert [path.name for path in (tmp_path / "cohort").iterdir()] == ["SYNTHETIC.md"]


def slices_of(case):
    """The slices of a scan as pydicom reads them, from the head to the feet."""
    slices = [pydicom.dcmread(path) for path in case.ct.iterdir()]
    return sorted(slices, key=lambda ds: -ds.ImagePositionPatient[2])


def test_headers_differ_as_real_ones_do(cohort):
    first = {int(case.patient[-4:]): slices_of(case)[0] for case in find_cases(cohort)}
    dz = {number: make_patient(SEED, number, size=16).spacing[0] for number in first}
    for keyword, wanted in {
        "SliceThickness": [None, dz[2], 5, dz[4], None, 5, None, 1.25],
        "SpacingBetweenSlices": ["-", "-", "-", "-", "-", dz[6], "-", "-"],
        "RescaleIntercept": [0, -1024, 0, 0, -1024, -1024, 0, 0],
        "PatientPosition": ["-", "HFS", "-", "HFS", "-", "HFS", "-", "HFS"],
        "PixelRepresentation": [1, 1, 1, 1, 1, 0, 1, 1],
        "BitsStored": [16, 16, 16, 16, 16, 12, 16, 16],
    }.items():
        assert [ds.get(keyword, "-") for ds in first.values()] == wanted, keyword
    ends = {number: ds.ImageOrientationPatient[4] for number, ds in first.items()}
    assert ends == {number: 1 if number in (2, 6) else -1 for number in first}, "rows to the back, rows to the front"
    assert {n for n, ds in first.items() if ds.ImagePositionPatient == [0, 0, 0]} == {1, 5, 7}
    assert [n for n, ds in first.items() if not ds.file_meta.TransferSyntaxUID.is_implicit_VR] == [2]
    names = {n: Path(ds.filename).name for n, ds in first.items()}
    assert (names[1], names[2], names[6], names[7]) == ("1-001.dcm", "IM0001", "00000001.IMA", first[7].SOPInstanceUID)
    assert all("SYNTHETIC" in ds.SeriesDescription for ds in first.values())


def test_the_first_patient_has_the_header_of_the_collection(cohort):
    """As a published dump of PANCREAS_0006 has it."""
    first, second = slices_of(find_cases(cohort)[0])[:2]
    for keyword in ("SliceThickness", "KVP", "SeriesNumber", "AcquisitionNumber", "Manufacturer"):
        assert keyword in first and first[keyword].is_empty, keyword
    assert "PatientPosition" not in first and "SpacingBetweenSlices" not in first
    assert first.ImagePositionPatient == [0, 0, 0] and second.ImagePositionPatient[:2] == [0, 0]
    assert second.ImagePositionPatient[2] < 0 and (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert first.ImageOrientationPatient == [1, 0, 0, 0, -1, 0] and first.file_meta.TransferSyntaxUID.is_implicit_VR
    assert (first.RescaleIntercept, first.RescaleSlope) == (0, 1)
    assert (first.PixelRepresentation, first.BitsAllocated, first.BitsStored) == (1, 16, 16)


@pytest.mark.parametrize("number", range(1, len(HEADERS) + 1))
def test_files_hold_what_was_drawn_whatever_the_header(cohort, number):
    """HU and mask, and so every level, are those of `make_patient`, voxel for voxel, for pydicom and for us."""
    case, p = find_cases(cohort)[number - 1], make_patient(SEED, number, size=32)
    slices = slices_of(case)[::-1]
    rows = slice(None, None, int(slices[0].ImageOrientationPatient[4]))
    stored = [ds.pixel_array[rows].astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept) for ds in slices]
    assert np.array_equal(stored, p.hu)
    image = read_ct(case.ct)
    mask = read_mask(case.mask, image)
    for read, drawn in ((image, p.hu), (mask, p.mask)):
        assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(read, "LPS")), drawn)
    assert np.allclose(image.GetSpacing()[::-1], p.spacing)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian's dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_but_what_the_collection_has(cohort):
    for case in find_cases(cohort):
        for path in (min(case.ct.iterdir()), case.mask):
            report = subprocess.run(["dciodvfy", path], capture_output=True, text=True).stderr
            errors = {line for line in report.splitlines() if "Error" in line and "<PatientPosition>" not in line}
            assert not errors, f"{path.name}: {errors}"
