"""Headers that lie, in every attribute that a CT slice can have, before reader, writer and survey.

    python -m stress.headers [--cases 2000] [--seed 7]

Of a small patient between two good ones, one to three attributes get a hostile value: of the right or a wrong kind, at
any depth, in one slice, in some, in all. Then the scan is read, a mask is written as SEG and read back, and the three
patients are surveyed. Each of these is right by an independent reading (`stress.oracle`), or refused in one line that
names the file; the survey keeps the good patients as they were. Anything else is printed with the seed that shows it.
"""

import argparse
import json
import pkgutil
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from stress import kinds, mutate, oracle, read
from vaelib import InputError
from vaelib.cohorts import survey
from vaelib.cohorts.layout import find_cases
from vaelib.dicom.geometry import image_like
from vaelib.dicom.write import write_seg
from vaelib.volumes import read_ct, read_mask

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from small import blob_volume, make_patients  # noqa: E402

STAGES = "reader", "writer", "survey"
READ = """PixelSpacing ImagePositionPatient ImageOrientationPatient RescaleSlope RescaleIntercept RescaleType
SliceThickness SpacingBetweenSlices SliceLocation InstanceNumber AcquisitionNumber NumberOfFrames GantryDetectorTilt
Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PlanarConfiguration PixelPaddingValue
PixelPaddingRangeLimit PhotometricInterpretation Modality ImageType SOPClassUID SOPInstanceUID StudyInstanceUID
SeriesInstanceUID FrameOfReferenceUID PatientID PatientName PatientPosition PatientIdentityRemoved SpecificCharacterSet
PositionReferenceIndicator LossyImageCompression LossyImageCompressionRatio Manufacturer BurnedInAnnotation StudyID
StudyDate PixelData TransferSyntaxUID MediaStorageSOPClassUID MediaStorageSOPInstanceUID""".split()
TEXTS = [*mutate.TEXTS, *mutate.NUMBERS, *(text.encode("utf-8", "surrogateescape") for text in (
    " ", "\\", "\\\\", "2,5", "2.5\\2.5", "1\\2\\3", "1\\0\\0\\0\\1\\0", "0.7\\0.7\\0.7", "1e5", "+1", " 1 ", "1_000",
    "٣", "0x10", "1.2.abc", "1.2.840..5", "1." * 40 + "1", "2.25.1", "1.02.3", "Müller^Zoë", "山田^太郎", "M\udcfcller",
    "a\nb", "a\rb", "\x1b[31m", "20200230", "99999999", "256161.5", "HFS", "YES", "NO", "MR", "HU", "US", "OD",
    "MONOCHROME1", "ISO_IR 100", "ISO_IR 999", "\\ISO 2022 IR 87", "DERIVED\\SECONDARY\\AXIAL", "x" * 70, "y" * 2000,
    "^^^^", "==", "{}", "%s", "../../etc/passwd", "Secret^Person",
))]  # fmt: skip
VRS = "AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UC UI UL UN UR US UT".split()


def of_ct_image():
    """Every attribute of the CT image IOD, (sequences around it, keyword), from the tables of highdicom."""
    tables = (json.loads(pkgutil.get_data("highdicom", f"_standard/{name}.json")) for name in
              ("iod_module_map", "module_attribute_map"))  # fmt: skip
    modules, attributes = tables
    return [(*a["path"], a["keyword"]) for module in modules["ct-image"] for a in attributes[module["key"]]]


PATHS = of_ct_image()
FLAT = [path for path in PATHS if len(path) == 1]
ANY = [(entry[4],) for entry in DicomDictionary.values() if entry[4]]
NAMELESS = [  # private, of overlays and curves, lengths of groups
    (Tag(group, number),) for group in (0x0009, 0x0019, 0x0028, 0x5000, 0x6000, 0x7FE1)
    for number in (0x0000, 0x0001, 0x0010, 0x0011, 0x0040, 0x0102, 0x1001, 0x1101, 0x3000)
]  # fmt: skip


def make(folder):
    """Three good patients; the second will be damaged."""
    make_patients(folder, (1, 2, 3))


def damage(series, r):
    """Give one to three attributes of a series hostile values; return what was done, in words."""
    paths = sorted(series.iterdir())
    slices = [pydicom.dcmread(path) for path in paths]
    explicit, said = r.random() < 0.5, []
    if explicit:
        for ds in slices:
            list(ds.iterall())  # decoded, or it could not be written in another way
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for _ in range(r.choice((1, 1, 2, 3))):
        way = r.random()
        path = (r.choice(READ),) if way < 0.5 else r.choice(r.choice((FLAT, PATHS, ANY, NAMELESS)))
        chosen = r.choice((slices[:1], slices[-1:], [r.choice(slices)], r.sample(slices, 4), slices, slices))
        alike, state = r.random() < 0.7, r.random()
        said.append(f"{'.'.join(map(str, path))} in {len(chosen)}")
        for ds in chosen:
            own = random.Random(state) if alike else r
            _put(ds, path, explicit, own)
    for path, ds in zip(paths, slices, strict=True):
        ds.save_as(path, implicit_vr=not explicit, little_endian=True)
    return said


def _put(ds, path, explicit, r):
    """Give the attribute at the end of a path a hostile value, or take it out."""
    *above, keyword = path
    tag = Tag(tag_for_keyword(keyword) if isinstance(keyword, str) else keyword)
    if tag.group == 2:
        ds, explicit = ds.file_meta, True
    for name in above:
        if name not in ds or not isinstance(ds[name].value, pydicom.Sequence) or not ds[name].value:
            ds[name] = DataElement(name, "SQ", [pydicom.Dataset()])
        ds = r.choice(ds[name].value)
    old = ds.get(keyword) if keyword in READ else None
    if r.random() < 0.12:
        ds.pop(keyword, None)
        return
    vr = dictionary_VR(tag).split(" or ")[0] if isinstance(keyword, str) else r.choice(VRS)
    vr = r.choice(VRS) if r.random() < 0.2 and tag.group != 2 else vr
    if vr == "SQ":
        items = [pydicom.Dataset() for _ in range(r.randrange(3))]
        for item in items:
            (name,) = r.choice(ANY)
            item[name] = RawDataElement(Tag(tag_for_keyword(name)), "UN", None, _value("UN", None, r), 0, False, True)
        ds[keyword] = DataElement(tag, "SQ", items)
    else:
        value = _value(vr, old, r)
        ds[keyword] = RawDataElement(tag, vr, len(value), value, 0, not explicit, True)


def _value(vr, old, r):
    """Bytes for a value of this kind, or of another; some of the time near what was there."""
    binary = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FD": "d", "FL": "f", "AT": "I"}
    way = r.random()
    if way < 0.1:
        value = bytes(r.randrange(256) for _ in range(r.choice((1, 2, 3, 4, 6, 8, 12, 300))))
    elif vr in binary and way < 0.8:
        kind, count = binary[vr], r.choice((0, 1, 1, 1, 2, 3))
        pool = mutate.FLOATS if kind in "df" else [0, 1, 2, 7, 8, 11, 12, 15, 16, 255, 512, 32767, 40, 32]
        value = struct.pack(f"<{count}{kind}", *(r.choice(pool) for _ in range(count)))
    elif old is not None and vr in ("DS", "IS") and way < 0.6:
        parts = [str(v) for v in (old if isinstance(old, pydicom.multival.MultiValue) else [old])]
        k = r.randrange(len(parts))
        near = (lambda v: v * (1 + 1e-5), lambda v: v + 0.01, lambda v: v + 1, lambda v: -v, lambda v: v * 10, round)
        parts[k] = f"{r.choice(near)(float(parts[k] or 0)):.10g}" if r.random() < 0.7 else r.choice(("", "nan", "2,5"))
        value = "\\".join(parts).encode()
    else:
        value = r.choice(TEXTS)
    return value + (b"\x00" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2 and r.random() < 0.95)


def case(good, cohort, baseline, seed):
    """Damage the second patient as a seed says, and go through the stages: (three words, details)."""
    r, patient = random.Random(f"headers/{seed}"), cohort / "PANCREAS_0002"
    shutil.rmtree(patient)
    shutil.copytree(good / patient.name, patient)
    ct, found = patient / "study" / "CT_1", []
    for _ in range(50):
        try:
            said = damage(ct, r)
            break
        except Exception:  # pydicom will not write everything
            shutil.rmtree(ct)
            shutil.copytree(good / ct.relative_to(cohort), ct)
    scan, details = None, [", ".join(said)]
    for stage in (_read, _write, _survey):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                word, what = stage(cohort, ct, scan, baseline)
            scan = what if stage is _read and word == "right" else scan
        except InputError as error:
            word, what = "refused", _fault(str(error), patient)
            word = "badly refused" if what else word
        except BaseException as error:
            word, what = type(error).__name__, "".join(traceback.format_exception(error)[-4:])
        found.append(word)
        details += [] if word in ("right", "refused") else [f"{word}: {what}"]
    return "|".join(found), "\n    ".join(details)


def _fault(said, place):
    """What is wrong with the words of an error, or ""."""
    if str(place) not in said:
        return f"names no file: {said}"
    return "" if said.isprintable() and len(said.replace(str(place), "")) < 600 else f"not one short line: {said!r}"


def _read(cohort, ct, scan, baseline):
    scan = read_ct(ct)
    try:
        wrong = kinds.ct_differs(ct, scan)
    except Exception as error:
        return "beyond the oracle", "".join(traceback.format_exception(error)[-2:])
    return ("wrong in silence", wrong) if wrong else ("right", scan)


def _write(cohort, ct, scan, baseline):
    if scan is None:
        return "refused", ""
    path, array = ct.parent / "written" / "seg.dcm", blob_volume()[1]
    path.parent.mkdir()
    try:
        write_seg(image_like(array, scan), scan, path)
    except InputError:
        if left := [*path.parent.iterdir()]:
            return "left behind", str(left)
        raise
    back = [sitk.GetArrayFromImage(read_mask(path, scan)), oracle.seg(path, scan)]
    shutil.rmtree(path.parent)
    return ("right", "") if all(np.array_equal(mask, array) for mask in back) else ("wrong in silence", "another mask")


def _survey(cohort, ct, scan, baseline):
    rows = survey.survey(find_cases(cohort), workers=1)
    survey.write_csv(rows, cohort.parent / "rows.csv")
    if not survey.table(rows).replace("\n", "").isprintable():
        return "not printable", repr(survey.table(rows).partition("look at")[2])
    seen = {row.patient: row for row in rows}
    for name in {row.patient for row in baseline} - {"PANCREAS_0002"}:
        was = next(row for row in baseline if row.patient == name)
        if name not in seen or any(getattr(seen[name], part) != getattr(was, part) for part in ("size", "hu", "check")):
            return "a good patient is another", str(seen.get(name))
    row = seen.get("PANCREAS_0002")
    if scan is not None and "Secret" in survey.table(rows):
        return "a value is quoted", str(row and row.reasons)
    refused = row is not None and any("cannot be read" in reason for reason in row.reasons)
    if row is None:
        return "passed over", ""
    if scan is None:
        return ("refused", "") if refused else ("read here, refused there", str(row.reasons))
    if row.size != scan.GetSize():
        return "refused here, read there", str(row.reasons)
    return ("refused" if refused else "right"), ""


def run(cases, seed=0):
    """Go through the cases, print each fault; return {stage: Counter of words}, and in how many cases there was one."""
    counts, faults = {stage: Counter() for stage in STAGES}, 0
    with tempfile.TemporaryDirectory() as room:
        good, cohort = Path(room) / "good", Path(room) / "cohort"
        make(good)
        shutil.copytree(good, cohort)
        baseline = survey.survey(find_cases(cohort), workers=1)
        one = partial(case, good, cohort, baseline)
        for start in range(0, cases, read.BATCH):
            seeds = range(seed * 10**6 + start, seed * 10**6 + min(start + read.BATCH, cases))
            for number, found, details in read.batch(one, seeds):
                words = found.split("|") if "|" in found else [found] * 3  # a process that hung or died
                for stage, word in zip(STAGES, words, strict=True):
                    counts[stage][word] += 1
                if {*words} - {"right", "refused"}:
                    faults += 1
                    print(f"{number}: {', '.join(words)}: {details}", flush=True)
    return counts, faults


def main():
    """Print each fault and a table; the exit status is the number of faults, 99 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    asked, begin = parser.parse_args(), time.monotonic()
    counts, faults = run(asked.cases, asked.seed)
    read.print_table(counts)
    print(f"{asked.cases} cases in {time.monotonic() - begin:.0f} s, {faults} with a fault")
    sys.exit(min(faults, 99))


if __name__ == "__main__":
    main()
