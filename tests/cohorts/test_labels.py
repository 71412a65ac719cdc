"""TCIA's labels are unpacked safely, and each is placed where it belongs or refused with a remedy that works."""

import gzip
import hashlib
import itertools
import logging
import re
import shutil
import stat
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from small import OBLIQUE, as_image, make_series, same

from vaelib import InputError
from vaelib.cohorts import labels
from vaelib.cohorts.labels import FOLDER, mask_of, place, unpack
from vaelib.cohorts.layout import Case, find_cases
from vaelib.dicom.write import write_ct, write_seg
from vaelib.phantom import make_patient
from vaelib.volumes import read_ct, read_mask

ZIP = "TCIA_pancreas_labels-02-05-2017.zip"
UNKNOWN = pytest.mark.filterwarnings("ignore:.*SHA-256")  # no zip made here is TCIA's


def array_of(image):
    return sitk.GetArrayFromImage(image)


def nifti(image, folder, name="label0001.nii.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(folder / name), useCompression=True)
    return folder / name


def told(image, **header):
    """The image with another header around the same array."""
    image = sitk.Image(image)
    for what, value in header.items():
        getattr(image, f"Set{what}")(value)
    return image


def turned(image, axes):
    """The image with its array reversed along `axes`, under the same header: a lie."""
    array = np.flip(array_of(image), ["zyx".index(a) for a in axes])
    return as_image(np.ascontiguousarray(array), image)


def remedy(error):
    return re.search(r"--reorient ([a-z-]+)$", str(error.value))[1]


@pytest.fixture
def lying(series, tmp_path):
    """A case of Pancreas-CT as TCIA stores it: the scan, the true mask, and a case that expects its label."""
    scan = read_ct(series)
    truth = read_mask(tmp_path / "seg.dcm", scan)
    return scan, truth, Case("PANCREAS_0001", series, tmp_path / "labels" / "label0001.nii.gz", "tcia")


def written(case, image):
    nifti(image, case.mask.parent, case.mask.name)
    return case


def write_tcia(top, number, study, first="1-001.dcm"):
    """A patient of the phantom as TCIA's downloader leaves one: the folder of the series, and the true mask."""
    patient, name = make_patient(5, number, size=128), f"PANCREAS_{number:04d}"
    folder = write_ct(patient.hu[::-1, ::-1], top / name / study, spacing=patient.spacing, patient_id=name, uid=name)
    if first == "000000.dcm":
        for k, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"{k:06d}.dcm")
    return folder, as_image(np.ascontiguousarray(patient.mask[::-1, ::-1]), read_ct(folder))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The scan and the true mask of two patients of the phantom."""
    top = tmp_path_factory.mktemp("two")
    cases = [write_tcia(top, number, "1/2") for number in (2, 4)]
    return [(read_ct(folder), mask) for folder, mask in cases]


# the rule


def test_a_scan_of_pancreas_ct_and_its_label_run_to_the_left_the_front_and_the_feet(lying):
    scan, truth, _ = lying
    name = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines
    assert name(scan.GetDirection()) == name(truth.GetDirection()) == "LAI"


@pytest.mark.parametrize("axes", ["LAI", "LPS", "RAS", "LAS", "SRA"])
def test_a_right_header_is_believed_however_its_axes_run(lying, axes):
    scan, truth, case = lying
    mask, placed = mask_of(written(case, sitk.DICOMOrient(truth, axes)), scan)
    assert same(mask, truth) and placed == ("header", 0.0, True)


def test_a_label_in_the_home_folder(lying, monkeypatch):
    scan, truth, case = lying
    monkeypatch.setenv("HOME", str(written(case, truth).mask.parent))
    assert same(place("~/label0001.nii.gz", scan)[0], truth)


@pytest.mark.parametrize("axes", ["LAI", "LPS", "LAS", "SRA"])
def test_right_axes_are_believed_when_the_origin_is_centimetres_off(lying, axes):
    scan, truth, case = lying
    label = sitk.DICOMOrient(truth, axes)
    label.SetOrigin(np.add(label.GetOrigin(), (30, -40, 120)).tolist())
    mask, placed = mask_of(written(case, label), scan)
    assert same(mask, truth)
    assert placed.rule == "axes" and placed.verified and placed.off_mm == pytest.approx(130, abs=0.01)


def test_the_header_is_off_by_what_it_would_have_moved_the_mask(lying):
    scan, truth, case = lying
    there = read_mask(written(case, turned(truth, "y")).mask, scan, reorient="header")
    moved = [image.TransformContinuousIndexToPhysicalPoint(np.argwhere(array_of(image)).mean(0)[::-1].tolist())
             for image in (truth, there)]  # fmt: skip
    _, placed = mask_of(case, scan, reorient="flip-y")
    assert placed.off_mm == pytest.approx(np.linalg.norm(np.subtract(*moved)), abs=1e-3) and placed.off_mm > 5


FLIPS = ["x", "y", "z", "xy", "xz", "yz", "xyz"]


@pytest.mark.parametrize("off", [0, 90], ids=["right header", "origin off"])
@pytest.mark.parametrize("axes", FLIPS)
def test_an_array_reversed_under_its_header_is_refused_and_the_remedy_works(lying, axes, off):
    scan, truth, case = lying
    label = turned(truth, axes)
    label.SetOrigin(np.add(label.GetOrigin(), off).tolist())
    with pytest.raises(InputError, match=rf"label0001\.nii\.gz: seems reversed along {axes} \(0\.\d\d as it lies, "
                                         rf"1\.00 reversed along {axes}\); look at the overlay") as error:  # fmt: skip
        mask_of(written(case, label), scan)
    assert remedy(error) == f"flip-{axes}"
    mask, placed = mask_of(case, scan, reorient=remedy(error))
    assert same(mask, truth) and placed.rule == f"flip-{axes}" and placed.verified


@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)), ids=str)
def test_whatever_directions_a_header_invents_no_mask_is_wrong_in_silence(lying, signs):
    scan, truth, case = lying
    label = told(truth, Direction=np.diag(signs).ravel().tolist(), Origin=(0, 0, 0))
    written(case, label)
    if signs == (1, -1, -1):  # as it happens, the truth
        assert same(mask_of(case, scan)[0], truth)
        return
    with pytest.raises(InputError, match="seems reversed along") as error:
        mask_of(case, scan)
    assert remedy(error) == "index"
    assert same(mask_of(case, scan, reorient="index")[0], truth)


def test_a_header_that_says_nothing_of_directions_is_found_out(lying):
    scan, truth, case = lying
    written(case, truth)
    raw = bytearray(gzip.decompress(case.mask.read_bytes()))
    struct.pack_into("<hh", raw, 252, 0, 0)  # neither qform nor sform
    case.mask.write_bytes(gzip.compress(raw))
    with pytest.raises(InputError, match="seems reversed along yz") as error:
        mask_of(case, scan)
    assert same(mask_of(case, scan, reorient=remedy(error))[0], truth)


@pytest.mark.parametrize("lead, verified", [(-0.11, None), (-0.09, False), (0.09, False), (0.11, True)])
def test_a_narrow_lead_neither_refuses_nor_verifies(lying, monkeypatch, recwarn, lead, verified):
    scan, truth, case = lying
    monkeypatch.setattr(labels, "flips", lambda *_: {"": 0.5, "x": 0.1, "yz": 0.5 - lead})
    if verified is None:
        with pytest.raises(InputError, match="seems reversed along yz .0.50 as it lies, 0.61 reversed along yz"):
            mask_of(written(case, truth), scan)
    else:
        assert mask_of(written(case, truth), scan)[1] == ("header", 0.0, verified)
        assert len(recwarn) == (not verified)


def test_a_lie_that_no_remedy_can_name_is_for_its_header_to_mend(lying, two, tmp_path):
    scan, truth, case = lying
    cut, (square, mask) = truth[:, :, 1:10], two[0]
    advice = "mend the label's header or leave this case out$"
    with pytest.raises(InputError, match=f"seems reversed along y .*{advice}"):
        mask_of(written(case, turned(cut, "y")), scan)
    with pytest.raises(InputError, match=f"seems reversed along z .*{advice}"):
        place(nifti(turned(sitk.DICOMOrient(mask, "ALI"), "z"), tmp_path), square)


def test_fewer_and_more_slices_are_placed_by_a_right_header_only(lying):
    scan, truth, case = lying
    few, many = truth[:, :, 1:10], sitk.ConstantPad(truth, (0, 0, 2), (0, 0, 3))
    for label in (few, many):
        mask, placed = mask_of(written(case, label), scan)
        assert same(mask, truth) and placed.rule == "header"
        written(case, told(label, Origin=np.add(label.GetOrigin(), (0, 50, 0)).tolist()))
        with pytest.raises(InputError, match=f"does not fit .*32 x 40 x {label.GetDepth()} .scan 32 x 40 x 12"):
            mask_of(case, scan)


def test_an_upright_label_does_not_share_the_axes_of_an_oblique_scan(tmp_path):
    scan = read_ct(make_series(tmp_path / "ct", direction=OBLIQUE))
    label = told(read_mask(tmp_path / "seg.dcm", scan), Direction=np.eye(3).ravel().tolist())
    with pytest.raises(InputError, match="does not fit the scan"):
        place(nifti(label, tmp_path), scan)


def test_values_of_a_label(lying):
    scan, truth, case = lying
    mask, _ = mask_of(written(case, truth * 255), scan)
    assert same(mask, truth)
    array = array_of(truth)
    array[4] *= 2
    with pytest.raises(InputError, match="holds the values 1, 2; choose one by number"):
        mask_of(written(case, as_image(array, truth)), scan)
    with pytest.raises(InputError, match="the mask is empty"):
        mask_of(written(case, truth * 0), scan)
    nifti(sitk.JoinSeries([truth, truth]), case.mask.parent)
    with pytest.raises(InputError, match="has 4 dimensions"):
        mask_of(case, scan)
    case.mask.write_text("<html>")
    with pytest.raises(InputError, match="not readable as NIfTI"):
        mask_of(case, scan)
    with pytest.raises(InputError, match="no such file"):
        place(case.mask.with_name("label0002.nii.gz"), scan)


def test_a_wrong_request_is_obeyed_and_reported(lying):
    scan, truth, case = lying
    written(case, truth)
    with pytest.warns(UserWarning, match=r"label0001\.nii\.gz: placed by rule flip-y, .*not verified .*look at"):
        mask, placed = mask_of(case, scan, reorient="flip-y")
    assert same(mask, turned(truth, "y")) and not placed.verified


def test_a_seg_is_believed_and_reported_where_it_seems_reversed(series, tmp_path):
    scan = read_ct(series)
    truth = read_mask(tmp_path / "seg.dcm", scan)
    case = Case("PANCREAS_0001", series, tmp_path / "seg.dcm", "idc")
    mask, placed = mask_of(case, scan)
    assert same(mask, truth) and placed == ("header", 0.0, True)
    bad = replace(case, mask=write_seg(turned(truth, "y"), series, tmp_path / "bad.dcm"))
    with pytest.warns(UserWarning, match=r"bad\.dcm: placed by rule header, .*not verified .*reversed along y"):
        mask, placed = mask_of(bad, scan)
    assert same(mask, turned(truth, "y")) and placed == ("header", 0.0, False)


def test_a_second_opinion_goes_through_the_same_door(series, tmp_path):
    scan = read_ct(series)
    seg = Case("PANCREAS_0001", series, tmp_path / "seg.dcm", "idc")
    label = told(read_mask(seg.mask, scan), Origin=(0, 0, 0))
    both = replace(seg, label=nifti(label, tmp_path))
    assert same(mask_of(both, scan)[0], mask_of(replace(both, mask=both.label), scan)[0])


def test_every_case_is_logged_in_a_line(lying, caplog):
    scan, truth, case = lying
    caplog.set_level(logging.INFO, "vaelib")
    mask_of(written(case, told(truth, Origin=(0, 0, 0))), scan)
    (line,) = caplog.messages
    assert re.search(r"label0001\.nii\.gz: placed by rule axes, its header \d+\.\d mm off, verified \(1\.00 as", line)


# patients of the phantom, from the zip to the mask


def zipped(path, files):
    """A zip of `files`, a dict from name to bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return path


@UNKNOWN
def test_from_the_zip_to_the_masks(tmp_path):
    new, old = tmp_path / "cohort" / "manifest-1599750808610" / "Pancreas-CT", tmp_path / "cohort" / "DOI"
    truths = [
        write_tcia(new, 1, "11-24-2015-PANCREAS0001-Pancreas-18957/Pancreas-99667")[1],
        write_tcia(old, 26, "1.2.826.0.1.3680043.2.1125.1.38381/1.2.826.0.1.3680043.2.1125.1.68878", "000000.dcm")[1],
    ]
    blank, held = gzip.compress(b"no patient of ours"), {}
    for number in range(1, 83):
        held[f"TCIA_pancreas_labels-02-05-2017/label{number:04d}.nii.gz"] = blank
    for number, truth in zip((1, 26), truths, strict=True):
        label = told(truth, Origin=(0, 0, 0))
        held[f"TCIA_pancreas_labels-02-05-2017/label{number:04d}.nii.gz"] = nifti(label, tmp_path).read_bytes()
    archive = zipped(tmp_path / ZIP, held | {"__MACOSX/._label0001.nii.gz": b"x", "README.txt": b"x"})
    with pytest.warns(UserWarning, match="left out label0025, label0070: withdrawn by TCIA"):
        found = unpack(archive, tmp_path / "cohort")
    assert len(found) == 80 and found == sorted((tmp_path / "cohort" / FOLDER).iterdir())
    with pytest.warns(UserWarning, match=r"left out labels without a scan: label0002\.nii\.gz, label0003"):
        cases = find_cases(tmp_path / "cohort")
    assert [(case.patient, case.mask.name) for case in cases] == [
        ("PANCREAS_0001", "label0001.nii.gz"), ("PANCREAS_0026", "label0026.nii.gz"),
    ]  # fmt: skip
    for case, truth in zip(cases, truths, strict=True):
        mask, placed = mask_of(case, read_ct(case.ct))
        assert same(mask, truth) and placed.rule == "axes" and placed.verified


def test_a_patient_of_the_phantom_reversed_along_any_axes_is_found_out(two, tmp_path):
    scan, truth = two[0]
    case = Case("PANCREAS_0002", tmp_path, tmp_path / "label0002.nii.gz", "tcia")
    for axes in FLIPS:
        with pytest.raises(InputError, match=f"seems reversed along {axes} ") as error:
            mask_of(written(case, turned(truth, axes)), scan)
        assert same(mask_of(case, scan, reorient=remedy(error))[0], truth)


def test_the_label_of_another_patient_is_refused_for_its_shape_or_reported_for_its_spacing(two, tmp_path):
    (scan, mine), (_, other) = two
    more = mine.GetDepth() - other.GetDepth()
    assert more > 0 and mine.GetSpacing() != other.GetSpacing()
    with pytest.raises(InputError, match="does not fit the scan: .*voxels 128 x 128"):
        place(nifti(other, tmp_path), scan)
    path = nifti(sitk.ConstantPad(other, (0, 0, 0), (0, 0, more)), tmp_path)
    with pytest.warns(UserWarning, match=r"label0001\.nii\.gz: placed by rule axes.*its spacing is not the scan's"):
        _, placed = place(path, scan)
    assert not placed.verified


# the zip


LABEL = gzip.compress(b"a label " * 999)
THREE = {f"labels/label{n:04d}.nii.gz": LABEL + gzip.compress(b"%d" % n) for n in (3, 1, 82)}


def refused(archive, folder, message):
    """`unpack` raises, and leaves nothing behind."""
    with pytest.raises(InputError, match=f"^[^\n]*{archive.name}: [^\n]*{message}[^\n]*$"):
        unpack(archive, folder)
    assert not folder.exists() or not list(folder.iterdir())


@UNKNOWN
def test_labels_are_written_once_and_never_over_others(tmp_path):
    archive = zipped(tmp_path / ZIP, THREE)
    found = unpack(archive, tmp_path / "new" / "cohort")
    assert [path.name for path in found] == ["label0001.nii.gz", "label0003.nii.gz", "label0082.nii.gz"]
    assert [path.read_bytes() for path in found] == [THREE[f"labels/{path.name}"] for path in found]
    before = [path.stat().st_ino for path in found]
    assert unpack(archive, tmp_path / "new" / "cohort") == found
    assert [path.stat().st_ino for path in found] == before
    found[1].write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds other labels than TCIA.*zip \(label0003\.nii\.gz\); move"):
        unpack(archive, tmp_path / "new" / "cohort")
    assert found[1].read_bytes() == b"mine" and len(list((tmp_path / "new" / "cohort").iterdir())) == 1
    found[1].unlink()
    with pytest.raises(InputError, match=r"holds other labels .*label0003"):
        unpack(archive, tmp_path / "new" / "cohort")


def test_only_an_unknown_zip_is_remarked_on(tmp_path, monkeypatch, recwarn):
    archive = zipped(tmp_path / ZIP, THREE)
    monkeypatch.setattr(labels, "KNOWN", hashlib.sha256(archive.read_bytes()).hexdigest())
    unpack(archive, tmp_path / "one")
    assert not recwarn
    with zipfile.ZipFile(archive, "a") as bundle:
        bundle.comment = b"another"
    with pytest.warns(UserWarning, match="SHA-256 .* is unknown: a new release, or altered"):
        unpack(archive, tmp_path / "two")


@UNKNOWN
def test_a_label_under_another_name_is_named_and_nothing_else_is(tmp_path, recwarn):
    beside = {"labels/": b"", "labels/label1.nii.gz": b"", "__MACOSX/._label0001.nii.gz": b"", "labels/.DS_Store": b""}
    unpack(zipped(tmp_path / ZIP, THREE | beside | {"licence.txt": b""}), tmp_path / "cohort")
    assert [str(w.message).split(": ", 1)[1] for w in recwarn if "SHA-256" not in str(w.message)] == [
        "left out label1.nii.gz: not named as TCIA names labels"
    ]
    assert len(list((tmp_path / "cohort" / FOLDER).iterdir())) == 3


@UNKNOWN
@pytest.mark.parametrize(
    "name", ["../label0001.nii.gz", "a/../../label0001.nii.gz", "/etc/label0001.nii.gz", "..\\label0001.nii.gz",
             "\\label0001.nii.gz", "C:\\label0001.nii.gz", "../.profile"],
)  # fmt: skip
def test_a_name_that_leads_elsewhere(tmp_path, name):
    refused(zipped(tmp_path / ZIP, THREE | {name: LABEL}), tmp_path / "a" / "b", "leads out of its folder")
    assert {path.name for path in tmp_path.iterdir()} <= {ZIP, "a"}


@UNKNOWN
def test_a_link(tmp_path):
    archive, link = zipped(tmp_path / ZIP, THREE), zipfile.ZipInfo("label0002.nii.gz")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as bundle:
        bundle.writestr(link, "/etc/passwd")
    refused(archive, tmp_path / "cohort", r"label0002\.nii\.gz leads out of its folder")


@UNKNOWN
@pytest.mark.parametrize("name", ["more/label0001.nii.gz", "labels/label0001.nii"])
def test_two_labels_of_one_number(tmp_path, name):
    refused(zipped(tmp_path / ZIP, THREE | {name: LABEL}), tmp_path / "cohort", "are labels of one scan; keep one")


@UNKNOWN
def test_an_encrypted_label(tmp_path):
    archive = zipped(tmp_path / ZIP, THREE)
    raw = bytearray(archive.read_bytes())
    for start in (m.start() for m in re.finditer(b"PK\x01\x02", raw)):
        raw[start + 8] |= 1
    archive.write_bytes(raw)
    refused(archive, tmp_path / "cohort", r"label0003\.nii\.gz is encrypted")


@UNKNOWN
def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "LARGEST", 5 << 20)
    folded = gzip.compress(bytes(6 << 20))
    assert len(folded) < 10_000
    bomb = zipped(tmp_path / "gzip.zip", THREE | {"label0002.nii.gz": folded})
    refused(bomb, tmp_path / "cohort", r"label0002\.nii\.gz unfolds to over 5 MiB, which is no label")
    bomb = zipped(tmp_path / "zip.zip", THREE | {"label0002.nii": bytes(6 << 20)})
    refused(bomb, tmp_path / "cohort", r"label0002\.nii unpacks to over 5 MiB, which is no label")
    unpack(zipped(tmp_path / ZIP, {"label0002.nii.gz": gzip.compress(bytes(5 << 20))}), tmp_path / "whole")
    monkeypatch.setattr(labels, "TOTAL", 1 << 20)
    many = {f"label{n:04d}.nii": bytes(1 << 18) for n in range(1, 9)}
    refused(zipped(tmp_path / "many.zip", many), tmp_path / "cohort", "unpacks to more than")


@UNKNOWN
def test_a_zip_that_understates_what_it_holds_gives_no_more_than_it_says(tmp_path):
    archive = zipped(tmp_path / ZIP, {"label0001.nii": bytes(1 << 20)})
    raw = bytearray(archive.read_bytes())
    struct.pack_into("<I", raw, raw.rindex(b"PK\x01\x02") + 24, 999)
    archive.write_bytes(raw)
    refused(archive, tmp_path / "cohort", r"label0001\.nii cannot be unpacked \(Bad CRC-32")


@UNKNOWN
def test_damage_inside(tmp_path):
    cut = zipped(tmp_path / "cut.zip", THREE | {"label0002.nii.gz": LABEL[:-20]})
    refused(cut, tmp_path / "cohort", r"label0002\.nii\.gz cannot be unpacked \(.*end-of-stream.*download")
    page = zipped(tmp_path / "page.zip", THREE | {"label0002.nii.gz": b"<html>not found</html>"})
    refused(page, tmp_path / "cohort", r"label0002\.nii\.gz cannot be unpacked \(Not a gzipped file")
    rotten = zipped(tmp_path / ZIP, THREE)
    raw = bytearray(rotten.read_bytes())
    raw[raw.index(b"PK\x01\x02") - 9] ^= 255  # near the end of the last label
    rotten.write_bytes(raw)
    refused(rotten, tmp_path / "cohort", r"label0082\.nii\.gz cannot be unpacked \(.*download the labels again")


def test_what_is_no_zip(tmp_path):
    archive = tmp_path / ZIP
    refused(archive, tmp_path / "cohort", "no such file; download the labels")
    for content, message in (
        (b"", "is no zip; download"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page, no zip"),
        (zipped(archive, THREE).read_bytes()[:-40], "is a zip cut short"),
    ):
        archive.write_bytes(content)
        refused(archive, tmp_path / "cohort", message)


@UNKNOWN
def test_a_zip_without_labels(tmp_path):
    with pytest.warns(UserWarning, match="SHA-256"):
        refused(zipped(tmp_path / ZIP, {"images/1-001.dcm": b""}), tmp_path / "cohort", r"holds no label0001\.nii\.gz")


@UNKNOWN
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    archive, copy, left = zipped(tmp_path / ZIP, THREE), shutil.copyfileobj, [None]

    def once(*args):
        copy(*args)
        if not left:
            raise KeyboardInterrupt
        left.pop()

    monkeypatch.setattr(shutil, "copyfileobj", once)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "cohort")
    assert list((tmp_path / "cohort").iterdir()) == []
    monkeypatch.undo()
    assert len(unpack(archive, tmp_path / "cohort")) == 3
