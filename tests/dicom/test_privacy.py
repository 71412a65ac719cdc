"""What identifies a patient stays in the files that were given: planted there, it is looked for in all that is made."""

import gzip
import json
import logging
import re
import shutil
import socket
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from small import SPACING, as_image, blob_volume, make_patients, make_series

from vaelib import InputError, cli
from vaelib.cohorts.layout import Case, find_cases
from vaelib.cohorts.survey import survey
from vaelib.dicom import identity
from vaelib.dicom.headers import series_headers
from vaelib.dicom.write import write_ct, write_seg
from vaelib.volumes import read_ct, read_mask

ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    "PatientName": "Zebrasöhn^Xaverine", "PatientBirthDate": "19570312", "PatientBirthTime": "031733.456789",
    "PatientSex": "O", "PatientAge": "067Y", "PatientAddress": "Quaggaweg 17, Okapistadt", "PatientWeight": "71.93517",
    "PatientTelephoneNumbers": "+99 1234 98765", "OtherPatientIDs": "MRN-771-XQ", "OtherPatientNames": "Gnuson^Xeniara",
    "IssuerOfPatientID": "ISSUER-QX", "PatientMotherBirthName": "Kuduson^Ursaline", "MedicalRecordLocator": "LOC-88-QX",
    "EthnicGroup": "ETHNIC-QX", "Occupation": "Zookeeper QX", "PatientComments": "came with her sister Ilse",
    "AdditionalPatientHistory": "fell off a giraffe", "StudyDate": "20190704", "StudyTime": "143517.123",
    "SeriesDate": "20190705", "SeriesTime": "144519.321", "AcquisitionDate": "20190706", "ContentDate": "20190707",
    "AcquisitionDateTime": "20190708151515.5", "InstanceCreationDate": "20190709", "AccessionNumber": "ACC-4711-QX",
    "StudyID": "STUDY-QX", "StudyDescription": "Pancreas of Mrs Z", "SeriesDescription": "for Dr Okapi",
    "ReferringPhysicianName": "Okapisen^Rufusine", "PhysiciansOfRecord": "Tapirson^Tessilda",
    "OperatorsName": "Lemurson^Leandrix", "RequestingPhysician": "Dodoson^Doralinde",
    "PerformingPhysicianName": "Ibexson^Idalinde", "StationName": "ROOM-9-QX", "InstitutionName": "Okapi Memorial",
    "InstitutionAddress": "Aye-aye Alley 3", "ProtocolName": "PROTO-QX",
    "InstitutionalDepartmentName": "Dept of Zebras", "DeviceSerialNumber": "SN-90210-QX",
    "ImageComments": "see Xaverine", "RequestedProcedureDescription": "abdomen, staff member",
    "PerformedProcedureStepID": "PPSID-QX",
    "ClinicalTrialSubjectReadingID": "READ-QX", "PositionReferenceIndicator": "NAVEL-QX", "SoftwareVersions": "SOFT-QX",
    "PatientState": "dressed as a zebra", "AdmissionID": "ADM-QX", "ContentCreatorName": "Saigason^Samuline",
}  # fmt: skip
HIDDEN = ["privately Zebra", "Ursula Unau", "20190710", "OPID-QX", "BLOCK OF ZEBRAS"]  # private, nested
SECRETS = [part for text in [*PLANTED.values(), *HIDDEN] if len(text) > 4 for part in text.split("^")]


def plant(folder):
    """Put every secret into each DICOM file below `folder`, in plain sight, nested, and in private tags."""
    for path in folder.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.SpecificCharacterSet = "ISO_IR 100"
        for keyword, value in PLANTED.items():
            setattr(ds, keyword, value)
        inner = Dataset()
        inner.PatientID, inner.OperatorsName, inner.ScheduledProcedureStepStartDate = HIDDEN[3], HIDDEN[1], HIDDEN[2]
        ds.OtherPatientIDsSequence, ds.RequestAttributesSequence = [inner], [inner]
        block = ds.private_block(0x0099, HIDDEN[4], create=True)
        block.add_new(1, "LO", HIDDEN[0])
        block.add_new(2, "OB", HIDDEN[0].encode("utf-16-le"))
        ds.save_as(path)


def layers(path):
    """The bytes of a file, and those that are compressed or packed in it."""
    raw = path.read_bytes()
    yield raw
    if raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    elif raw[:4] == b"\x89PNG":
        yield json.dumps(Image.open(path).info, default=str, ensure_ascii=False).encode()


def told(content, secrets=SECRETS):
    """Which secrets are in bytes or text, in whichever coding and case."""
    raw, found = content.encode() if isinstance(content, str) else content, []
    legible = [re.findall(rb"[ -~\x80-\xff]{6,}", form) for form in (raw, raw.replace(b"\0", b""))]
    places = [b"\n".join(runs).lower() for runs in legible]  # without zeros, UTF-16 is Latin-1
    for secret in secrets:
        cases = secret, secret.upper(), secret.lower()
        guises = {guise.lower() for case in cases for guise in (case.encode(), case.encode("latin-1"))}
        guises |= {json.dumps(case)[1:-1].lower().encode() for case in cases}
        found += [secret] if any(guise in place for guise in guises for place in places) else []
    return found


def written(folder):
    """For each file below `folder`, its name in it, and what it tells."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): told(str(p)) + [s for layer in layers(p) for s in told(layer)] for p in files}


@pytest.fixture
def cohort(tmp_path):
    """Three patients with secrets, in the layout of the Imaging Data Commons."""
    make_patients(tmp_path / "cohort", range(1, 4))
    plant(tmp_path / "cohort")
    return tmp_path / "cohort"


def run(*words):
    assert cli.main([str(word) for word in words]) == 0


def damages(series):
    """Ways to spoil a series, each with what is then asked of it."""
    files = sorted(series.iterdir())

    def edit(path, **changes):
        ds = pydicom.dcmread(path)
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
        ds.save_as(path)

    def everywhere(**changes):
        for path in files:
            edit(path, **changes)

    yield lambda: files[3].write_bytes(files[3].read_bytes()[:400])
    yield lambda: files[3].write_bytes(files[3].read_bytes()[:-700])
    yield lambda: files[3].write_bytes(files[3].read_bytes()[128:])
    yield files[3].unlink
    for changes in (
        {"Modality": "PT"}, {"PixelSpacing": [1, 1]}, {"SeriesInstanceUID": "1.2.3"}, {"Rows": 20},
        {"ImagePositionPatient": [0, 0, 0]}, {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, {"RescaleSlope": None},
        {"ImagePositionPatient": None},
    ):  # fmt: skip
        yield lambda changes=changes: edit(files[3], **changes)
    for changes in (
        {"SOPInstanceUID": None, "StudyInstanceUID": None, "FrameOfReferenceUID": None, "SOPClassUID": None},
        {"PatientBirthDate": "Zebra 12.3.57", "StudyTime": "Xaverine", "PatientID": "ID" * 40, "PatientSex": "ZEBRA"},
        {"SpecificCharacterSet": "ISO_QX"}, {"PatientName": "Zebra=Gnu=Kudu=Okapi^" + "Xaverine" * 20},
    ):  # fmt: skip
        yield lambda changes=changes: everywhere(**changes)


def test_the_search_finds_what_is_there_in_every_guise(tmp_path, cohort):
    found = written(cohort)
    assert min(map(len, SECRETS)) >= 6  # what is shorter stands somewhere by chance
    assert len(found) == 3 * 13 and all({*SECRETS} == {*secrets} for secrets in found.values())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("name", "ZEBRASÖHN")
    (tmp_path / "b.gz").write_bytes(gzip.compress("Okapi Memorial".encode("utf-16-be")))
    (tmp_path / "c.json").write_text(json.dumps({"of": "Xaverine Zebrasöhn"}))
    note = PngImagePlugin.PngInfo()
    note.add_text("Title", "Mrs Kuduson", zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "d.png", pnginfo=note)
    found = written(tmp_path)
    assert [found[n] for n in ("a.npz", "b.gz", "d.png")] == [["Zebrasöhn"], ["Okapi Memorial"], ["Kuduson"]]
    assert found["c.json"] == ["Zebrasöhn", "Xaverine"]


def test_nothing_that_is_written_or_said_tells_who_the_patient_is(tmp_path, cohort, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: out / "cache")
    out, weights = tmp_path / "out", tmp_path / "out" / "weights.safetensors"
    run("check", cohort, "--out", out, "--workers", 1)
    run("prepare", cohort, "--cache", out / "cache", "--workers", 1)
    run("train", cohort, "--out", weights, "--level", 5, "--latent", 4, "--epochs", 1)
    run("evaluate", cohort, "--checkpoint", weights, "--json")
    series = find_cases(cohort)[0].ct
    for name in ("mask.dcm", "mask.nii.gz"):
        run("segment", series, "--out", out / name, "--checkpoint", weights, "--threshold", 0.001)
    run("explorer", out / "explorer", cohort, "--checkpoint", weights)
    found = written(out)
    kinds = {"check.csv", "check.png", "weights.safetensors", "mask.dcm", "mask.nii.gz", "explorer/index.html"}
    assert kinds <= {*found} and len([name for name in found if name.endswith("meta.json")]) == 3
    assert {name: secrets for name, secrets in found.items() if secrets} == {}
    said = "\n".join([*capfd.readouterr(), *(record.getMessage() for record in caplog.records)])
    assert "PANCREAS_0003" in said and "placed by rule" in said  # it speaks, and by research IDs
    assert told(said) == []


def test_no_error_and_no_warning_quotes_what_identifies(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    said, count = [], sum(1 for _ in damages(Path(__file__).parents[1]))
    whole = make_series(tmp_path / "whole" / "CT_1")
    mask = read_mask(whole.parent / "seg.dcm", read_ct(whole))
    plant(whole.parent)
    for n in range(count):
        series = shutil.copytree(whole.parent, tmp_path / str(n)) / "CT_1"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            list(damages(series))[n]()
            caplog.clear()
            warnings.simplefilter("always")
            rows = survey([Case("PANCREAS_0001", series, series.parent / "seg.dcm", "idc")], workers=1)
            try:
                read_ct(series)
                write_seg(mask, series, series.parent / "new.dcm")
            except InputError as error:
                said.append(str(error))
        said += [*rows[0].reasons, *(str(w.message) for w in caught), *(r.getMessage() for r in caplog.records)]
    assert len({re.sub(r".*1-\d+.dcm: ", "", text) for text in said}) > 12
    words = [*SECRETS, "Zebra", "Xaverine"]
    said += capfd.readouterr()
    assert {text: told(text, words) for text in said if told(text, words)} == {}


def test_a_seg_has_of_its_patient_the_research_id_alone(series):
    mask = as_image(blob_volume()[1], read_ct(series))
    plant(series)
    for uid in (None, "test"):
        path = write_seg(mask, series, series.parent / "new.dcm", uid=uid)
        assert told(path.read_bytes()) == []
        seg = pydicom.dcmread(path)
        assert seg.PatientID == "PANCREAS_0001" and all(keyword in seg for keyword in identity.EMPTIED)
        given = {keyword for keyword in identity.EMPTIED if seg.get(keyword)}
        assert given == ({"StudyDate", "StudyTime", "StudyID"} if uid else set())  # with a seed, those of the phantom
        assert not {"PatientAge", "PatientWeight", "StudyDescription"} & {element.keyword for element in seg}
        assert not [element for element in seg.iterall() if element.tag.is_private]
        equipment = seg.ContributingEquipmentSequence[0]
        assert equipment.Manufacturer == "vaelib" and "StationName" not in equipment


def test_a_seg_keeps_a_name_that_is_the_research_id_once_more(series):
    seg = pydicom.dcmread(series.parent / "seg.dcm")
    assert (seg.PatientID, str(seg.PatientName)) == ("PANCREAS_0001", "PANCREAS_0001^")


def test_a_series_that_lost_its_patient_altogether_can_carry_a_seg(series):
    mask = as_image(blob_volume()[1], read_ct(series))
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        for keyword in ("PatientID", "SliceThickness", *identity.EMPTIED):
            ds.pop(keyword, None)
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        ds.save_as(path)
    seg = pydicom.dcmread(write_seg(mask, series, series.parent / "new.dcm"))
    assert seg.PatientID == "" and seg.PatientName == "" and "StudyDate" in seg


def reasons(series, patient="PANCREAS_0001", mask=None, **changes):
    """What the headers of a series give rise to, with some attributes changed in its fourth slice."""
    headers = series_headers(series)
    for keyword, value in changes.items():
        setattr(headers[3], keyword, value)
    return list(identity.reasons(headers, patient, mask))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, []),
        ({"PatientName": "Zebra^Xaverine"}, ["headers hold PatientName"]),
        ({"PatientName": "Pancreas 0001"}, []),
        ({"PatientName": "ANONYMIZED", "PatientBirthDate": "19000101", "ReferringPhysicianName": "^^"}, []),
        ({"PatientID": "771-XQ"}, ["headers hold another PatientID"]),
        ({"StudyDate": "20190704", "StudyDescription": "CT abdomen", "PatientSex": "F", "PatientAge": "067Y"}, []),
        (
            {"OperatorsName": "Lemur", "PatientAddress": "a", "OtherPatientIDs": "b", "InstitutionName": "c",
             "AccessionNumber": "d", "PatientBirthDate": "19570312", "PatientComments": "e"},
            ["headers hold PatientBirthDate, OtherPatientIDs, PatientAddress, PatientComments, AccessionNumber"
             " and 2 more"],
        ),
        ({"PatientIdentityRemoved": "NO"}, []),  # in one slice that is not the first: nobody asks
        ({"BurnedInAnnotation": "YES"}, ["may have writing burned in, by BurnedInAnnotation"]),
        ({"BurnedInAnnotation": "NO"}, []),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "ConversionType": "WSD"},
         ["may have writing burned in, by ImageType, ConversionType"]),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, []),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, ["may have writing burned in, by SOPClassUID"]),
    ],
)  # fmt: skip
def test_check_names_the_attributes_that_identify(series, changes, reason):
    assert reasons(series, **changes) == reason


def test_check_names_private_tags_and_overlays_but_not_those_of_tcia(series):
    for creator, group in (("CTP", 0x13), ("ZEBRAWORKS", 0x99)):
        block = pydicom.dcmread(series / "1-003.dcm")
        block.private_block(group, creator, create=True).add_new(0x10, "LO", "Pancreas-CT")
        block.save_as(series / "1-003.dcm")
        assert reasons(series) == ([] if creator == "CTP" else ["private tags in group 0099"])
    ds = pydicom.dcmread(series / "1-004.dcm")
    ds.add_new(0x60000010, "US", 40)
    ds.save_as(series / "1-004.dcm")
    assert reasons(series) == ["private tags in group 0099", "overlay in group 6000"]


@pytest.mark.parametrize("removed", ["YES", "NO"])
def test_check_believes_a_series_whose_identity_was_removed_in_what_may_be_kept(series, removed):
    kept = {"InstitutionName": "a", "AccessionNumber": "b", "PatientID": "771-XQ"}
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        ds.PatientIdentityRemoved = removed
        ds.private_block(0x99, "ZEBRAWORKS", create=True).add_new(1, "LO", "c")
        ds.save_as(path)
    if removed == "YES":
        assert reasons(series, **kept) == []
        assert reasons(series, PatientBirthDate="19570312") == ["headers hold PatientBirthDate"]
    else:
        assert reasons(series, AccessionNumber="b") == [
            "headers hold PatientIdentityRemoved NO, AccessionNumber", "private tags in group 0099",
        ]  # fmt: skip


def test_check_looks_into_sequences_and_at_the_mask(series):
    nested = Dataset()
    nested.ResponsiblePerson = "Gnuson^Xeniara"
    assert reasons(series, RequestAttributesSequence=[nested]) == ["headers hold ResponsiblePerson"]
    mask = pydicom.dcmread(series.parent / "seg.dcm")
    mask.ContentCreatorName = "Reader1"  # who drew it
    assert reasons(series, mask=mask) == []
    mask.PatientMotherBirthName = "Kuduson^Ursaline"
    assert reasons(series, mask=mask) == ["headers hold PatientMotherBirthName"]


def test_check_says_what_it_found_and_no_more(cohort, monkeypatch, capfd):
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, _no_network)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, _no_network)
    run("check", cohort, "--workers", 1)  # with no way into a network
    said = capfd.readouterr().out
    assert said.count("headers hold PatientName, another PatientID, PatientBirthDate, PatientBirthTime, ") == 3
    assert said.count("more; private tags in group 0099") == 3
    assert told(said) == []


def _no_network(*args, **kwargs):
    raise AssertionError("a network was asked for")


def test_a_real_series_that_was_not_emptied_is_flagged(real_series):
    (row,) = survey([Case("real", real_series, None, "tcia")], workers=1)
    held, private, _ = row.reasons
    assert held == "headers hold InstitutionAddress, RequestingPhysician"
    assert private == "private tags in group 0019, 0021, 0029"


def lettered(slice_, place, value):
    """A slice with a name and a date written into it, letters of 10 pixels."""
    page = Image.new("1", slice_.shape[::-1])
    ImageDraw.Draw(page).text(place, "ZEBRA 12.03.57", fill=1, font=ImageFont.load_default(10))
    return np.where(np.asarray(page), value, slice_)


def test_letters_in_the_pixels_are_seen_and_no_anatomy_is_taken_for_them(real_series, real_slices):
    hu = sitk.GetArrayFromImage(read_ct(real_series))
    assert identity.slices_with_writing(hu) == 0
    photos = [np.asarray(Image.open(path).convert("L")) for path in sorted((real_slices / "images").iterdir())]
    assert (
        len(photos) > 100 and sum(identity.slices_with_writing(photo[None]) for photo in photos) == 0
    )  # bone is clipped at 255
    for place in ((5, 5), (180, 250)):  # in the air, over the liver
        assert identity.slices_with_writing(np.stack([lettered(hu[7], place, 3071), hu[8]])) == 1
    assert identity.slices_with_writing(np.zeros((2, 9, 9))) == 0


def test_letters_are_a_reason_to_look(tmp_path):
    hu, _ = blob_volume((12, 60, 160))
    hu[4] = lettered(hu[4], (4, 20), 3071)
    series = write_ct(hu, tmp_path / "ct", spacing=SPACING, patient_id="P1", uid="test")
    (row,) = survey([Case("P1", series, None, "tcia")], workers=1)
    assert "writing burned into 1 slice(s)?" in row.reasons


GEOMETRY = {
    "Rows", "Columns", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient",
    "ImageOrientationPatient", "PerFrameFunctionalGroupsSequence", "PlanePositionSequence", "SOPInstanceUID",
    "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID",
}  # fmt: skip
# What a SEG says of itself and of the slices that it refers to: nothing of a patient.
OF_SEG = {
    "NumberOfFrames", "SegmentSequence", "SegmentLabel", "SegmentationType", "SegmentAlgorithmType",
    "ReferencedSeriesSequence", "ReferencedInstanceSequence", "ReferencedSOPInstanceUID",
}  # fmt: skip
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "notebooks")))
def test_a_notebook_prints_no_attribute_that_identifies(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    text = "\n".join("".join(cell["source"]) + json.dumps(cell["outputs"]) for cell in cells)
    named = {word for word in re.findall(r"[A-Z][a-z]+[A-Z]\w+", text) if tag_for_keyword(word) is not None}
    assert named <= {*identity.KEPT, *GEOMETRY, *OF_SEG, "PatientPosition", "RescaleSlope", "RescaleIntercept"}
    assert not re.search(r"print\((headers|first|ds)\b(?!\.)", text)  # a whole header
