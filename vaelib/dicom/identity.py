"""Whom a scan shows: what of its headers may travel with a mask, and what in it deserves a warning.

Which attributes these are is listed in `identity.toml`. They are named, their values never handed on. Nothing can
show that a scan identifies nobody: a face, a rare implant, a private tag may.
"""

import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.valuerep import PersonName

from vaelib.dicom.folder import handful

LISTS = tomllib.loads(Path(__file__).with_name("identity.toml").read_text("utf-8"))
KEPT, EMPTIED = LISTS["kept"], LISTS["emptied"]
NO_ONE = re.compile(r"[\W_0]*|19000101|(anonym|de-?identif)\w*|removed|unknown|none|x+", re.IGNORECASE)
HELD, PRIVATE = "headers hold", "private tags in group"
BURNED, OVERLAY = "may have writing burned in, by", "overlay in group"
HARMLESS = {"CTP"}  # private creators: TCIA's own, which names collection and site
STROKES = 50  # thin runs of pixels in a slice: small writing has 150, 14 is the most in 2,258 slices without any


def text_of(ds: Dataset, keyword: str) -> str:
    """Read an attribute as text: empty where it is missing, is neither one text nor one number, or cannot be read."""
    with suppress(Exception):  # pydicom raises many kinds on what is not of the kind that the standard wants
        value = ds.get(keyword)
        return str(value).strip() if isinstance(value, str | float | PersonName) else ""
    return ""


def uid_of(ds: Dataset, keyword: str) -> str:
    """Read a UID: empty where there is none, or what is there is none and might say anything."""
    return uid if re.fullmatch(r"[0-9.]{1,64}", uid := text_of(ds, keyword)) else ""


def deidentified(ds: Dataset) -> Dataset:
    """Copy of a header what a SEG needs, UIDs and geometry aside: the research ID, and nothing else of the patient.

    Parameters
    ----------
    ds : Dataset
        The header of a CT slice, left as it is.

    Returns
    -------
    Dataset
        `KEPT` as far as it is there and can be written, and `EMPTIED`, but for a name that is no more than PatientID
        once more.
    """
    out, patient, name = Dataset(), text_of(ds, "PatientID"), text_of(ds, "PatientName")
    latin = text_of(ds, "SpecificCharacterSet") == "ISO_IR 100"
    out.SpecificCharacterSet = "ISO_IR 100" if latin else "ISO_IR 192"  # Latin-1, or else Unicode for any PatientID
    for keyword in ["PatientID", *EMPTIED]:
        setattr(out, keyword, "")
    for keyword in [*KEPT, *(name for name, known in LISTS["nobodys"].items() if text_of(ds, name) in known)]:
        if text := text_of(ds, keyword):
            with suppress(ValueError):  # no number
                setattr(out, keyword, text)
    if _letters(name) == _letters(patient):
        out.PatientName = name
    return out


def reasons(headers: list[Dataset], patient: str, mask: Dataset | None = None) -> Iterator[str]:
    """Say why headers may tell who the patient is, or why pixels may have writing in them.

    A file that says PatientIdentityRemoved YES is believed in what a project may keep on purpose: private tags,
    institutions, numbers, a PatientID that is not the folder's. Dates and descriptions are in every scan and are
    passed over.

    Parameters
    ----------
    headers : list of Dataset
        Of every slice, since one may differ.
    patient : str
        The research ID by which the case goes, the name of its folder.
    mask : Dataset, optional
        The header of its SEG.

    Yields
    ------
    str
        Attributes are named by keyword. No value is quoted.
    """
    removed = str(headers[0].get("PatientIdentityRemoved") or "")
    known = {_letters(patient), _letters(headers[0].get("PatientID"))}
    found = {(HELD, True, 0, "PatientIdentityRemoved NO")} if removed == "NO" else set()
    for element in _different(headers + [mask] * (mask is not None)):
        tag, name = element.tag, element.keyword
        key, group = (tag.group != 0x10, int(tag)), f"{tag.group:04x}"  # the patient module comes first
        if tag.is_private:
            if removed != "YES" and not tag.is_private_creator and element.private_creator not in HARMLESS:
                found.add((PRIVATE, *key, group))
        elif 0x6000 <= tag.group <= 0x60FF:
            found.add((OVERLAY, *key, group))
        elif name in LISTS["writing"] and re.search(LISTS["writing"][name], str(element.value or "")):
            found.add((BURNED, *key, name))
        elif _identifies(element, known, patient, removed == "YES"):
            found.add((HELD, *key, "another PatientID" if name == "PatientID" else name))
    for said in HELD, PRIVATE, BURNED, OVERLAY:
        if names := list(dict.fromkeys(name for kind, *_, name in sorted(found) if kind == said)):
            yield f"{said} {handful(names)}"


def _different(headers: list[Dataset]) -> Iterator[DataElement]:
    """Go through the elements of all headers, nested ones too, but once through those that have the same value."""
    seen = {}
    for ds in headers:
        for tag in [tag for tag in ds.keys() if tag.group != 0x5200]:  # functional groups: one for each frame of a SEG
            value = ds.get_item(tag).value
            if tag in seen and seen[tag] == value:
                continue
            seen[tag] = value
            with suppress(Exception):  # a value that is none of its kind
                yield (element := ds[tag])
                yield from chain(*(list(item.iterall()) for item in (element.value if element.VR == "SQ" else ())))


def _identifies(element: DataElement, known: set[str], patient: str, trusted: bool) -> bool:
    """Tell whether an element says more of the patient than the research ID does."""
    name, value = element.keyword, element.value
    if name == "PatientName":
        alias = _letters(value) in known and re.search(r"\d", str(value))
        return not alias and not NO_ONE.fullmatch(_letters(value))
    if name == "PatientID":
        one, two = _letters(value), _letters(patient)
        return not trusted and bool(one) and one not in two and two not in one
    if name == "ContentCreatorName":  # who drew a mask is no patient
        return False
    if element.VR == "PN" or name in LISTS["personal"] or name in LISTS["places"] and not trusted:
        return bool(value) if element.VR == "SQ" else not NO_ONE.fullmatch(_letters(value))
    return False


def _letters(value: object) -> str:
    """Take the marks between the parts of a name or number away, for comparison."""
    return re.sub(r"[\W_]", "", str(value or "")).casefold()


def slices_with_writing(hu: np.ndarray) -> int:
    """Count the slices that look as if letters were burned into them.

    Letters are thin, crisp, and all of one value, the greatest in the slice: a run of 1 to 3 pixels of it in a row,
    with pixels on either side that are lower by half the range of the slice, is a stroke. A scanner blurs whatever
    it sees over more pixels than that. Letters that are smooth, grey or black go unseen.

    Parameters
    ----------
    hu : array (S, H, W)

    Returns
    -------
    int
        Slices with 50 such strokes or more.
    """
    return sum(_strokes(image) >= STROKES for image in hu)


def _strokes(hu: np.ndarray) -> int:
    top, low = float(hu.max()), float(hu.min())
    bright = hu == top
    if not STROKES <= np.count_nonzero(bright) < bright.size:
        return 0
    dark, found = hu < (top + low) / 2, 0
    for width in (1, 2, 3):
        run = dark[:, : -width - 1] & dark[:, width + 1 :]
        for k in range(1, width + 1):
            run &= bright[:, k : k - width - 1]
        found += np.count_nonzero(run)
    return found
