"""The second cohort: scanned from the lungs' base to the pelvis, and read back as it was drawn."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import DeflatedExplicitVRLittleEndian
from scipy import ndimage

from vaelib import InputError, cli
from vaelib.cohorts.layout import find_cases
from vaelib.phantom import LABEL, make_cohort, make_patient
from vaelib.phantom.anatomy import Anatomy
from vaelib.phantom.paint import paint
from vaelib.phantom.shapes import Canvas
from vaelib.phantom.whole import Whole
from vaelib.volumes import read_ct, read_mask

SEED = 2026
NUMBERS = 2, 3, 6, 21  # rows from the front; padded; padded in unsigned bits; padded, with an intercept


@pytest.fixture(scope="module")
def patients():
    return [make_patient(SEED, number, size=96, whole=True) for number in (1, 4)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("whole") / "cohort", patients=NUMBERS, workers=1, size=32, whole=True)


def heights(p, name):
    """Where along the scan, from 0 at the feet to 1, an organ begins and ends."""
    held = np.flatnonzero((p.labels == LABEL[name]).any((1, 2))) / (len(p.labels) - 1)
    return held[0], held[-1]


def test_the_scan_is_that_of_a_whole_abdomen(patients):
    for p in patients:
        assert p.spacing[0] in (2.0, 2.5) and 350 <= len(p.hu) * p.spacing[0] <= 470
        lungs, liver, pancreas, kidneys = (heights(p, name) for name in ("lung", "liver", "pancreas", "kidney"))
        assert lungs[1] == 1 and 0.5 < lungs[0] < liver[1] < 0.95, "the lungs' base, above and beside the liver's dome"
        assert 0.3 < pancreas[0] < pancreas[1] < 0.85 and kidneys[0] < pancreas[1], "fields without it on both sides"
        assert 0.15 < pancreas[1] - pancreas[0] < 0.5
        bowel = [(p.labels == LABEL[name]).sum((1, 2)) for name in ("jejunum", "colon")]
        assert all(line[: len(line) // 3].mean() > 50 for line in bowel), "bowel down to the pelvis"


def test_the_pancreas_is_one_piece_and_lies_where_it_should(patients):
    for p in patients:
        pieces, _ = ndimage.label(p.mask, np.ones((3, 3, 3)))
        assert np.bincount(pieces.ravel())[1:].max() >= 0.95 * p.mask.sum()
        assert (p.labels[p.mask > 0] == LABEL["pancreas"]).all()
        s, _, col = np.nonzero(p.mask)
        assert s[col > np.percentile(col, 95)].mean() > s[col < np.percentile(col, 5)].mean(), "the tail lies higher"
        near = ndimage.binary_dilation(p.mask, np.ones((3, 3, 3)), iterations=2)
        assert {LABEL["duodenum"], LABEL["portal"], LABEL["spleen"]} <= {*np.unique(p.labels[near])}


def bones_beside_the_spine(body):
    """How many sections of ribs a slice at the height of the kidneys shows."""
    x, y = np.arange(-220, 220, 1.5), np.arange(-180, 180, 1.5)
    still = [lambda x, y, z: np.zeros((len(y), len(x)), np.float32)] * 2
    canvas = Canvas(x, y, np.mean([kidney[2] for kidney in body.kidneys]), still)
    paint(canvas, body)
    ribs = (canvas.labels == LABEL["bone"]) & (np.hypot(canvas.X, canvas.Y - 60 * body.stature) > 62 * body.stature)
    return ndimage.label(ribs)[1]


def test_two_or_three_ribs_a_side_at_the_height_of_the_kidneys():
    sections = {kind: [bones_beside_the_spine(kind(SEED, n)) for n in range(1, 7)] for kind in (Whole, Anatomy)}
    assert 2 <= np.mean(sections[Whole]) <= 6 < np.mean(sections[Anatomy])


def test_its_patients_are_not_those_of_the_first_cohort(patients):
    first, whole = Anatomy(SEED, 1), Whole(SEED, 1)
    assert abs(first.hu["pancreas"] - whole.hu["pancreas"]) > 0.01
    again = make_patient(SEED, 1, size=96, whole=True)
    assert np.array_equal(again.hu, patients[0].hu) and np.array_equal(again.mask, patients[0].mask)


def padded(image, size):
    """Whether padding has become air all around the round field of view, and whether the corners are nothing else."""
    outside = np.hypot(*(np.indices((size, size)) - (size - 1) / 2)) > size / 2
    return (sitk.GetArrayViewFromImage(image)[:, outside] == -1024).all(), outside


@pytest.mark.parametrize("place", range(len(NUMBERS)))
def test_files_hold_what_was_drawn_for_every_reader(cohort, place):
    case, p = find_cases(cohort)[place], make_patient(SEED, NUMBERS[place], size=32, whole=True)
    image = read_ct(case.ct)
    mask = read_mask(case.mask, image)
    all_air, outside = padded(image, 32)
    assert all_air == (NUMBERS[place] % 3 == 0)
    drawn = np.where(outside & all_air, np.int16(-1024), p.hu)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")), drawn)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")), p.mask)
    assert np.allclose(image.GetSpacing()[::-1], p.spacing)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case.ct)))
    theirs = sitk.GetArrayFromImage(sitk.DICOMOrient(reader.Execute(), "LPS"))
    assert np.array_equal(np.maximum(theirs, -1024), drawn)


def test_headers_say_deflated_and_name_the_padding_as_scanners_do(cohort):
    stored = {}
    for number, case in zip(NUMBERS, find_cases(cohort), strict=True):
        slices = [pydicom.dcmread(path) for path in case.ct.iterdir()]
        assert {ds.file_meta.TransferSyntaxUID for ds in slices} == {DeflatedExplicitVRLittleEndian}
        stored[number] = slices[0].get("PixelPaddingValue"), int(slices[0].pixel_array[0, 0])
    assert stored[3] == stored[21] == (-2000, -2000) and stored[6] == (0, 0) and stored[2][0] is None


def test_one_folder_holds_one_kind_of_cohort(cohort, tmp_path):
    with pytest.raises(InputError, match=r"SYNTHETIC.md: .*32 x 32 pixels, whole scans.*where .*32 x 32 pixels\.'"):
        make_cohort(cohort, patients=1, size=32)
    make_cohort(tmp_path / "first", patients=(), size=32)
    with pytest.raises(InputError, match="pixels, whole scans.*remove the folder, or choose another"):
        make_cohort(tmp_path / "first", patients=1, size=32, whole=True)
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["SYNTHETIC.md"]


def test_the_command_makes_the_second_cohort_beside_the_first(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("vaelib.phantom.make_cohort", lambda folder, **how: asked.append((folder, how)) or folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAELIB_DATA", str(tmp_path / "data" / "synthetic_whole"))
    assert cli.main(["phantom", "--whole"]) == 0 and cli.main(["phantom", "--whole", "--patients", "3"]) == 0
    monkeypatch.delenv("VAELIB_DATA")
    assert cli.main(["phantom"]) == 0
    assert [(folder.name, how["patients"], how["whole"]) for folder, how in asked] == [
        ("synthetic_whole", 24, True), ("synthetic_whole", 3, True), ("synthetic", 48, False)
    ]  # fmt: skip
    assert "patients 1 to 24" in capsys.readouterr().out
