"""The survey sees what was spoiled on purpose, and leaves a clean cohort alone."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from small import as_image

from vaelib.cohorts.layout import Case
from vaelib.cohorts.quality import MaskCheck, fingerprint
from vaelib.cohorts.survey import COLUMNS, Row, _odd_axes, _outliers, survey, table, write_csv
from vaelib.dicom.write import AXIAL, write_ct, write_seg
from vaelib.volumes import read_ct

PLAIN = (1, 0, 0, 0, 1, 0)


def abdomen(seed, *, hu=95, radii=(4, 10, 13), pancreas=True):
    """HU (14, 96, 96) with noise, head to feet and back to front, and a mask: a pancreas in muscle, and a liver."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.indices((14, 96, 96)).T / (1, 1.5, 1.5)).T
    body = ((y - 32) / 30) ** 2 + ((x - 32) / 28) ** 2 < 1
    mask = sum(((i - c) / r) ** 2 for i, c, r in zip((z, y, x), (5, 24, 21), radii, strict=True)) < 1
    mean = np.where(body, np.where((x > 36) & (y > 14), 60, 20), -1010)
    mean = np.where(mask, hu, mean) if pancreas else np.where(body, 60, mean)
    return (mean + rng.normal(0, 12, mean.shape)).round().astype(np.int16), mask.astype(np.uint8)


def make(folder, number, volume, *, spacing=(5, 1, 1), direction=AXIAL, label=lambda mask: mask):
    """Write one patient as IDC has it; `label` turns the right mask into the one that is written."""
    hu, mask = volume
    study, patient = folder / f"PANCREAS_{number:04d}" / "study", f"PANCREAS_{number:04d}"
    ct = write_ct(hu, study / "CT_1", spacing=spacing, direction=direction, patient_id=patient, uid=str(folder))
    scan = read_ct(ct)
    mask = mask if np.array_equal(sitk.GetArrayViewFromImage(scan), hu) else mask[::-1]
    seg = write_seg(as_image(np.ascontiguousarray(label(mask)), scan), ct, study / "SEG_1" / "1.dcm", uid="test")
    return Case(patient, ct, seg, "idc")


def look(case):
    (row,) = survey([case], workers=1)
    return row


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Nine patients about whom there is nothing to say."""
    folder = tmp_path_factory.mktemp("clean")
    return [make(folder, n, abdomen(n, hu=90 + 3 * n, radii=(4, 10, 12 + n / 4))) for n in range(1, 10)]


def test_a_clean_cohort_has_no_flags(clean):
    rows = survey(clean, workers=1)
    assert [row.patient for row in rows] == [case.patient for case in clean]
    assert [row.reasons for row in rows] == [()] * 9
    first = rows[0]
    assert (first.size, first.spacing, first.axes) == ((96, 96, 14), (1, 1, 5), "LAI")
    assert first.check.volume_ml == pytest.approx(abdomen(1, radii=(4, 10, 12.25))[1].sum() * 0.005)
    assert first.hu[0] < -1010 < first.hu[1] + 30 and first.hu[0] <= first.hu[1] < first.hu[2] <= first.hu[3]
    assert first.placement.verified and first.agreement is None and len(first.prints) > 9


def test_workers_find_the_same(clean):
    alone, together = (survey(clean[:2], workers=n) for n in (1, 2))
    assert table(alone) == table(together)
    assert all(np.array_equal(one.image, two.image) for one, two in zip(alone, together, strict=True))


SPOILED = {
    "pixels of 2 x 2 mm": lambda to: make(to, 1, abdomen(1), spacing=(5, 2, 2)),
    "slices 8 mm apart": lambda to: make(to, 1, abdomen(1), spacing=(8, 1, 1)),
    "no air (the least value is -200): not HU?": lambda to: make(to, 1, (abdomen(1)[0].clip(-200), abdomen(1)[1])),
    "no mask": lambda to: replace(make(to, 1, abdomen(1)), mask=None),
    "mask at the edge of the scan": lambda to: make(to, 1, [np.roll(a, -3, 0) for a in abdomen(1)]),
    "mask of 11 ml": lambda to: make(to, 1, abdomen(1, radii=(3, 8, 10))),
    "median of 215 HU under the mask": lambda to: make(to, 1, abdomen(1, hu=215)),
    "mask lies better reversed in x": lambda to: make(to, 1, abdomen(1), label=lambda mask: mask[:, :, ::-1]),
    "mask lies better reversed in xz": lambda to: make(to, 1, abdomen(1), label=lambda mask: mask[::-1, :, ::-1]),
    "place of the mask not verified": lambda to: make(to, 1, abdomen(1, pancreas=False)),
}


@pytest.mark.parametrize("reason", SPOILED)
def test_each_flaw_is_named_and_nothing_else(reason, tmp_path):
    assert look(SPOILED[reason](tmp_path)).reasons == (reason,)


def test_a_second_label_that_differs_is_named(tmp_path):
    case = make(tmp_path, 1, abdomen(1))
    scan, mask = read_ct(case.ct), abdomen(1)[1]
    for shift, reasons in ((0, ()), (6, ("second label: Dice 0.78",))):
        sitk.WriteImage(as_image(np.roll(mask, shift, 2), scan), str(tmp_path / "label0001.nii.gz"))
        row = look(replace(case, label=tmp_path / "label0001.nii.gz"))
        assert row.reasons == reasons and row.agreement == pytest.approx(0.78 if shift else 1, abs=0.01)


def test_what_cannot_be_read_is_a_row_too(tmp_path, clean):
    torn, blank = (make(tmp_path, n, abdomen(n)) for n in (21, 22))
    file = torn.ct / "1-003.dcm"
    file.write_bytes(file.read_bytes()[:-2000])
    blank.mask.write_text("no DICOM")
    gone = replace(blank, patient="PANCREAS_0023", ct=tmp_path / "nowhere")
    one, two, three, good = survey([torn, blank, gone, clean[0]], workers=1)
    assert one.reasons[0].startswith("cannot be read: 1-003.dcm: ") and one.image is None
    (why,) = two.reasons
    assert why.startswith("cannot be read: mask: ") and "SEG" in why
    assert two.size == (96, 96, 14) and two.image.shape == (128, 128) and two.mask is None
    assert three.reasons[0].startswith("cannot be read: scan: no such folder")
    assert good.reasons == ()


def test_the_same_scan_under_another_name_is_found_by_content(tmp_path, clean):
    hu, mask = abdomen(2, hu=96, radii=(4, 10, 12.5))  # the second patient's
    crop = (slice(1, 13), slice(8, 92), slice(5, 93))
    copies = [
        make(tmp_path, 31, (hu[crop], mask[crop])),
        make(tmp_path, 32, (hu[:, ::-1], mask[:, ::-1]), direction=PLAIN),
    ]
    rows = survey([*clean, *copies], workers=1)
    names = [row.patient for row in rows if any("same scan" in reason for reason in row.reasons)]
    assert names == ["PANCREAS_0002", "PANCREAS_0031", "PANCREAS_0032"]
    assert rows[1].reasons == ("same scan as PANCREAS_0031", "same scan as PANCREAS_0032")
    assert rows[-1].reasons[-1] == "axes LPS, most have LAI"


def test_fingerprints_of_a_real_scan_survive_a_crop_and_nothing_else(real_series):
    scan = read_ct(real_series)
    whole, part = fingerprint(scan), fingerprint(scan[40:450, 90:470, 5:])
    assert len(part) > 100 and np.isin(part, whole).mean() > 0.99
    assert not np.isin(fingerprint(scan[:, :, :10]), fingerprint(scan[:, :, 10:])).any()
    assert not np.isin(fingerprint(scan + 1), whole).any()


def test_outliers_stand_out_only_in_a_crowd(tmp_path, clean):
    odd = {"hu": 170}, {"radii": (4.9, 18, 18)}, {"radii": (3, 8, 10)}
    bright, large, tiny = (make(tmp_path, n, abdomen(n, **what)) for n, what in enumerate(odd, 41))
    rows = survey([*clean, bright, large, tiny], workers=1)
    assert [row.reasons for row in rows[:9]] == [()] * 9
    assert [row.reasons for row in rows[9:]] == [
        ("170 HU, far from the others' 104",),
        ("74 ml, far from the others' 24",),
        ("mask of 11 ml",),  # said once
    ]
    assert [row.reasons for row in survey([*clean[:5], bright, large], workers=1)] == [()] * 7


def test_volumes_are_compared_by_their_ratio():
    def rows(*volumes):
        return [Row(str(ml), check=MaskCheck(ml, 95, 1, 30, False, "")) for ml in volumes]

    usual = (66, 70, 73, 76, 80, 84, 88, 92, 96)
    assert list(_outliers(rows(*usual, 150, 35))) == [(10, "35 ml, far from the others' 80")]


@pytest.mark.parametrize(
    "odd, flagged",
    [
        ((), 0),
        (("LPS",), 1),
        (("LPS",) * 4, 4),
        (("LPS",) * 5, 0),
        (("LPS",) * 12, 0),
        (("LPS",) * 24, 0),
        (("LPS", "LPI", "PIR"), 3),
        (("LPS",) * 3 + ("PIR",) * 2, 0),
    ],
)
def test_axes_are_odd_only_where_fewer_than_one_in_ten_has_them(odd, flagged):
    rows = [Row(str(k), axes=axes) for k, axes in enumerate((*odd, *["LAI"] * (48 - len(odd)), ""))]
    assert list(_odd_axes(rows)) == [(k, f"axes {odd[k]}, most have LAI") for k in range(flagged)]


def test_thumbnails_are_the_radiologists_view_however_the_scan_is_stored(tmp_path):
    hu, mask = abdomen(1)
    stored = make(tmp_path / "a", 1, (hu, mask)), make(tmp_path / "b", 1, (hu[:, ::-1], mask[:, ::-1]), direction=PLAIN)
    one, two = (look(case) for case in stored)
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.mask, two.mask)
    rows, columns = (index.mean() / 128 for index in np.nonzero(one.mask))
    assert rows > 0.55 and columns < 0.4  # stored back to front, so row 36 of 96 is in the back; x grows to the left
    assert one.image[one.mask].mean() == pytest.approx(255 * (95 + 160) / 400, abs=5)


def test_the_table_stars_the_flagged_and_gives_the_reasons_below(tmp_path, clean):
    rows = survey([*clean[:2], replace(make(tmp_path, 51, abdomen(51)), mask=None)], workers=1)
    head, *lines, blank, count, reason = table(rows).splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["PANCREAS_0001", "96", "x"], ["PANCREAS_0002", "96", "x"], ["*", "PANCREAS_0051", "96"],
    ]  # fmt: skip
    assert lines[0][head.index("axes") :].split()[:4] == ["LAI", f"{rows[0].hu[0]:.0f}", "to", f"{rows[0].hu[3]:.0f}"]
    assert (blank, count, reason) == ("", "1 of 3 to look at:", "* PANCREAS_0051: no mask")
    assert table(rows[:2]).endswith("\n0 of 2 to look at")


def test_the_csv_has_a_line_a_case_and_appears_whole_or_not_at_all(tmp_path, clean):
    rows = survey([clean[0], replace(clean[1], mask=None), replace(clean[2], ct=tmp_path)], workers=1)
    path = write_csv(rows, tmp_path / "new" / "survey.csv")
    good, bare, unread = csv.DictReader(path.open(newline=""))
    assert list(good) == COLUMNS
    assert float(good["volume_ml"]) == pytest.approx(rows[0].check.volume_ml, rel=1e-5)
    assert (good["columns"], good["slices"], good["dz_mm"], good["rule"]) == ("96", "14", "5", "header")
    assert (good["verified"], good["reasons"]) == ("True", "")
    assert (bare["rows"], bare["median_hu"], bare["reasons"]) == ("96", "", "no mask")
    assert unread["columns"] == "" and unread["reasons"].startswith("cannot be read: ")
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_csv([rows[0], "no row"], path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["survey.csv"]


def test_a_column_that_nobody_fills_is_left_out():
    row = Row("P1", (8, 8, 4), (0.7, 0.7, 2.5), "LAI", (-1000, -900, 300, 900))
    heads = [table([r]).splitlines()[0].split() for r in (row, row._replace(agreement=0.97))]
    assert heads == [
        ["patient", "voxels", "mm", "axes", "HU"],
        ["patient", "voxels", "mm", "axes", "HU", "2nd", "label"],
    ]
