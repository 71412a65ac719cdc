"""F, of a CT: the line says what the cause is, and "fetch it again" only where bytes are missing."""

import random
import re

import pytest
from drawn import drawn
from pydicom import uid
from pydicom.encaps import encapsulate
from small import changed

from vaelib import InputError
from vaelib.volumes import read_ct


def saved(ds, path, syntax=None, **values):
    """Write a copy with other attributes; None takes one away. Encapsulated where a syntax says so."""
    copy = changed(ds, **values)
    if "SOPClassUID" in values:
        copy.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    if not syntax:
        copy.save_as(path)
        return path
    if syntax != GE:
        copy.add_new("PixelData", "OB", encapsulate([b"\xff\x0a" + bytes(500)]))
        copy["PixelData"].is_undefined_length = True
    known = copy.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit if syntax != GE else uid.ExplicitVRLittleEndian
    copy.save_as(path)
    old, new = (b"\2\0\x10\0UI%c\0%s" % (len(text), text) for text in map(padded, (known, syntax)))
    whole = path.read_bytes()
    length = int.from_bytes(whole[140:144], "little") + len(new) - len(old)
    path.write_bytes(whole[:140] + length.to_bytes(4, "little") + whole[144:].replace(old, new, 1))
    return path


def padded(text):
    return text.encode() + b"\0" * (len(text) % 2)


GE = "1.2.840.113619.5.2"  # private: implicit, with pixels of the other byte order
SYNTAXES = {
    "JPEG XL lossless": ("1.2.840.10008.1.2.4.110", "JPEG XL"),
    "JPEG XL recompressed": ("1.2.840.10008.1.2.4.111", "JPEG XL"),
    "JPEG XL": ("1.2.840.10008.1.2.4.112", "JPEG XL"),
    "HTJ2K": (uid.HTJ2KLossless, "High-Throughput JPEG 2000"),
    "HTJ2K lossy": (uid.HTJ2K, "High-Throughput JPEG 2000"),
    "MPEG-4": (uid.MPEG4HP41, "MPEG-4"),
    "GE": (GE, GE),
    "Philips": ("1.3.46.670589.33.1.4.1", "1.3.46.670589.33.1.4.1"),
    "unheard of": ("1.2.840.10008.1.2.4.999", "1.2.840.10008.1.2.4.999"),
}
KINDS = {  # of another file in the folder: modality, class, what is said
    "dose report": ("SR", uid.XRayRadiationDoseSRStorage, "SR .X-Ray Radiation Dose SR Storage., not CT; "),
    "dose page": ("XA", uid.SecondaryCaptureImageStorage, "XA .Secondary Capture Image Storage., not CT; "),
    "dose page as CT": ("CT", uid.SecondaryCaptureImageStorage, "Secondary Capture Image Storage, with no place.*dose"),
    "captures": ("CT", uid.MultiFrameTrueColorSecondaryCaptureImageStorage, ".*True Color Secondary Capture.*dose"),
    "MR": ("MR", uid.MRImageStorage, "MR .MR Image Storage., not CT; "),
    "PET": ("PT", uid.PositronEmissionTomographyImageStorage, "PT .Positron Emission Tomography Image.*not CT"),
    "presentation": ("PR", uid.GrayscaleSoftcopyPresentationStateStorage, "PR .Grayscale Softcopy.*not CT"),
    "key objects": ("KO", uid.KeyObjectSelectionDocumentStorage, "KO .Key Object Selection.*not CT"),
    "SEG": ("SEG", uid.SegmentationStorage, "SEG .Segmentation Storage., not CT"),
    "RTSTRUCT": ("RTSTRUCT", uid.RTStructureSetStorage, "RTSTRUCT .RT Structure Set Storage., not CT"),
    "PDF": ("DOC", uid.EncapsulatedPDFStorage, "DOC .Encapsulated PDF Storage., not CT"),
    "radiograph": ("DX", uid.DigitalXRayImageStorageForPresentation, "DX .Digital X-Ray Image.*not CT"),
}


def syntax(name):
    return f"syntax {name}", "syntax", name


def kind(name):
    return f"a file of the kind {name}", "kind", name


INSTANCES = [
    *map(syntax, SYNTAXES), *map(kind, KINDS), ("enhanced CT", "enhanced", "1.2.840.10008.5.1.4.1.1.2.1"),
    ("legacy enhanced CT", "enhanced", "1.2.840.10008.5.1.4.1.1.2.2"), ("no position", "place", "ImagePositionPatient"),
    ("no orientation", "place", "ImageOrientationPatient"), ("cut in the header", "cut", 700),
    ("no modality", "modality", None),
]  # fmt: skip


def generate(r):
    return r.choice([
        syntax(r.choice(sorted(SYNTAXES))), kind(r.choice(sorted(KINDS))),
        ("cut in the header", "cut", r.randrange(340, 900)),
        ("private syntax", "private", f"1.2.840.{r.randrange(113000, 114000)}.{r.randrange(9)}.{r.randrange(9)}"),
        ("enhanced CT", "enhanced", "1.2.840.10008.5.1.4.1.1.2.1"),
    ])  # fmt: skip


@drawn(INSTANCES, generate, seed=18)
def test_the_cause_is_in_the_line(case, stored, tmp_path):
    title, what, value = case
    r = random.Random(title)
    for k, ds in enumerate(stored):
        saved(ds, tmp_path / f"IM{k:04d}")
    victim, ds = tmp_path / f"IM{r.choice([0, 5, 11, 12]):04d}", stored[5]
    if what in ("syntax", "private"):
        code, name = SYNTAXES.get(value, (value, value))
        saved(ds, victim, syntax=code)
        said = f"its pixels cannot be decoded as {name}.*; export the scan again, uncompressed"
    elif what == "kind":
        modality, code, said = KINDS[value]
        said = f"is {said}.*move it out of the folder of the CT series"
        gone = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
        if r.random() < 0.5 and modality in ("SR", "PR", "KO", "RTSTRUCT", "DOC"):
            gone |= dict.fromkeys(("Rows", "Columns", "PixelData", "PixelSpacing"))
        saved(ds, victim, Modality=modality, SOPClassUID=code, **gone)
    elif what == "enhanced":
        saved(ds, victim, SOPClassUID=value, NumberOfFrames=90, ImagePositionPatient=None, ImageOrientationPatient=None)
        said = "is (Legacy Converted )?Enhanced CT Image Storage, 90 frames in one file; convert it to one file a slice"
    elif what == "place":
        saved(ds, victim, **{value: None})
        said = "has no position or orientation; export it again, or move it out of the folder"
    elif what == "modality":
        saved(ds, victim, Modality=None)
        said = "is of no stated modality; export it again, or move it out"
    else:
        whole = saved(ds, victim).read_bytes()
        victim.write_bytes(whole[:value])
        said = "fetch it again"
    with pytest.raises(InputError, match=f"^[^\n]*{re.escape(victim.name)}: [^\n]*{said}[^\n]*$") as error:
        read_ct(tmp_path)
    if what != "cut":
        assert "fetch it again" not in str(error.value)


def test_a_file_whose_private_syntax_cannot_even_be_parsed_says_so(stored, tmp_path):
    whole = saved(stored[0], tmp_path / "1.dcm", syntax=GE).read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    (tmp_path / "1.dcm").write_bytes(whole[:start] + bytes(range(256)) * 20)
    with pytest.raises(InputError, match="1.dcm: its pixels cannot be decoded as 1.2.840.113619.5.2"):
        read_ct(tmp_path)


def test_a_folder_that_may_not_be_listed_or_is_none(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\); give a folder that you may read"):
        read_ct(tmp_path)


def test_a_private_class_whose_slices_have_a_place_is_still_read(stored, tmp_path):
    for k, ds in enumerate(stored):
        saved(
            ds, tmp_path / f"{k}.dcm", SOPClassUID=("1.2.826.0.1.3680043.2.1", uid.SecondaryCaptureImageStorage)[k % 2]
        )
    assert read_ct(tmp_path).GetSize() == (32, 40, 12)
