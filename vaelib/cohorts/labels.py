"""Labels of Pancreas-CT as TCIA has them: unpacked safely, and placed by a rule that is verified on every case.

Where these labels lie, their headers do not reliably say; `data/README.md` tells what is known, and from whom.
So a header is believed only as far as it agrees with the scan, what it was believed in is logged, the scan
itself is asked whether the mask would lie better reversed, and nothing is ever flipped in silence.
"""

import filecmp
import gzip
import hashlib
import logging
import re
import shutil
import stat
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from vaelib.cohorts.layout import WITHDRAWN, Case
from vaelib.cohorts.quality import MARGIN, flips, lead
from vaelib.dicom.geometry import axes_by, index_map, matching_axes, onto_scan
from vaelib.dicom.masks import is_nifti, is_pancreas, read_label
from vaelib.engine.errors import InputError
from vaelib.engine.files import FULL, atomic_write
from vaelib.engine.workers import progress_bar

FOLDER = "TCIA_pancreas_labels"
KNOWN = "cf8a553c37c80e3840ce7392987b308f7a98cd5f50019511b2ac0f3a54b0934b"  # SHA-256 that torch-em has on record
MEMBER = re.compile(r"label(\d{4})\.nii(\.gz)?")
LARGEST = 512 * 512 * 1000 * 8 + 352  # bytes of a label: twice the longest scan (466 slices), in float64, and a header
TOTAL = 16 << 30  # bytes of all labels: three times what 82 take uncompressed, with a byte a voxel
log = logging.getLogger("vaelib")


class Placement(NamedTuple):
    """How a mask came to lie where it lies."""

    rule: str  # "header", "axes", or the `reorient` of `read_mask` that was asked for
    off_mm: float  # how far from there its header would have put its centre
    verified: bool  # whether it lies clearly better so than reversed along any axes


# the zip


def unpack(archive: str | Path, folder: str | Path) -> list[Path]:
    """Unpack TCIA's zip of labels below `folder`, where `find_cases` pairs them with the scans by number.

    Only `label0001.nii.gz` and its like are written, whatever folders the zip keeps them in, and all of them
    appear together or not at all. Labels that are there already stay if they are the same, and are never
    overwritten. A warning names the two withdrawn labels, which are left out, and a zip other than the known one.

    Parameters
    ----------
    archive : path
        `TCIA_pancreas_labels-02-05-2017.zip`, or a later one.
    folder : path
        The cohort, or the folder above the patients'.

    Returns
    -------
    list of Path
        The labels, in `folder/TCIA_pancreas_labels`, by number.

    Raises
    ------
    InputError
        No such file; not a zip, or damaged; no label in it, or two of one number; a name that leads elsewhere,
        a link, an encrypted label, one that unfolds to more than a label can be; other labels there already.
    """
    archive, target = Path(archive).expanduser(), Path(folder).expanduser() / FOLDER
    with _open(archive) as bundle:
        members = _members(bundle, archive)
        with atomic_write(target, keep=lambda there: _alike(half, there, archive)) as half:
            half.mkdir()
            for name, info in progress_bar(members.items(), desc="unpacking", unit="label"):
                _extract(bundle, info, half / name, archive)
    return [target / name for name in members]


def _open(archive: Path) -> zipfile.ZipFile:
    """Open the zip, and warn where it is not the one that this was written for."""
    if not archive.is_file():
        raise InputError(f"{archive}: no such file; download the labels from TCIA's page of Pancreas-CT")
    with archive.open("rb") as file:
        start = file.read(64).lstrip()
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        bundle = zipfile.ZipFile(archive)
    except Exception:  # a damaged directory raises many kinds
        what = "a zip cut short" if start[:2] == b"PK" else "a web page, no zip" if start[:1] == b"<" else "no zip"
        raise InputError(f"{archive}: is {what}; download the labels again") from None
    if found != KNOWN:
        warnings.warn(f"{archive}: its SHA-256 {found[:12]}... is unknown: a new release, or altered?", stacklevel=3)
    return bundle


def _members(bundle: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the labels to unpack, by name, once the whole zip is known to be harmless."""
    labels: dict[int, zipfile.ZipInfo] = {}
    odd = []
    for info in bundle.infolist():
        name, *above = re.split(r"[/\\]", info.filename)[::-1]
        rooted = above[-1:] == [""] or re.match("[A-Za-z]:", info.filename)
        if rooted or ".." in above or stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{archive}: {info.filename} leads out of its folder; trust nothing in this zip")
        if not (match := MEMBER.fullmatch(name)):
            odd += [name] if ".nii" in name and name[0] != "." else []
            continue
        if info.flag_bits & 1:
            raise InputError(f"{archive}: {name} is encrypted; download TCIA's own zip")
        if info.file_size > LARGEST:
            raise InputError(f"{archive}: {name} unpacks to over {LARGEST >> 20} MiB, which is no label")
        if (twin := labels.setdefault(int(match[1]), info)) is not info:
            raise InputError(f"{archive}: {info.filename} and {twin.filename} are labels of one scan; keep one")
    if not labels:
        raise InputError(f"{archive}: holds no label0001.nii.gz or the like; give TCIA's zip of labels")
    if sum(info.file_size for info in labels.values()) > TOTAL:
        raise InputError(f"{archive}: unpacks to more than {TOTAL >> 30} GiB; download TCIA's own zip")
    gone = [f"label{number:04d}" for number in sorted(WITHDRAWN & labels.keys())]
    for names, why in (gone, "withdrawn by TCIA, being scan 2 cropped"), (odd, "not named as TCIA names labels"):
        if names:
            warnings.warn(f"{archive}: left out {', '.join(names)}: {why}", stacklevel=3)
    wanted = [labels[number] for number in sorted(labels.keys() - WITHDRAWN)]
    return {re.split(r"[/\\]", info.filename)[-1]: info for info in wanted}


def _extract(bundle: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, archive: Path) -> None:
    """Write one label, and see that it is whole and unfolds to no more than a label can be."""
    unfolded = 0
    try:
        with bundle.open(info) as packed, path.open("wb") as file:
            shutil.copyfileobj(packed, file)  # which yields no more than `file_size` promises, and checks the CRC
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                unfolded = file.seek(LARGEST + 1)  # or to its end, where the checksum is
    except Exception as error:  # each layer has its own ways to give up
        if getattr(error, "errno", None) in FULL:
            raise  # the zip is not to blame
        why = " ".join(str(error).split()) or type(error).__name__
        what = f"{path.name} cannot be unpacked ({why})"
        raise InputError(f"{archive}: {what}: damaged? download the labels again") from None
    if unfolded > LARGEST:
        raise InputError(f"{archive}: {path.name} unfolds to over {LARGEST >> 20} MiB, which is no label")


def _alike(half: Path, target: Path, archive: Path) -> bool:
    """Tell whether the labels that are there are those of the archive; an InputError names one that is not."""
    mine, theirs = ({p.name for p in folder.iterdir() if MEMBER.fullmatch(p.name)} for folder in (half, target))
    _, unlike, unread = filecmp.cmpfiles(half, target, mine & theirs, shallow=False)
    if other := min([*(mine ^ theirs), *unlike, *unread], default=""):
        raise InputError(f"{target}: holds other labels than {archive.name} ({other}); move the folder away")
    return True


# the rule


def mask_of(
    case: Case, scan: sitk.Image, reorient: str | None = None, segment: str | int = "Pancreas"
) -> tuple[sitk.Image, Placement]:
    """Read the mask of a case onto its scan, and say how it was placed and whether that was verified.

    A NIfTI label goes by the rule of `place`. A DICOM SEG says where its frames lie and is believed, and so is
    the caller's `reorient`: should the mask seem reversed, a warning says so. All of it is logged, a line a case.

    Parameters
    ----------
    case : Case
        With a mask. For the second opinion of a case, ask with `replace(case, mask=case.label)`.
    scan : sitk.Image
        As `read_ct` gives it.
    reorient : str, optional
        What to believe of the label instead, as in `read_mask`.
    segment : str or int
        Which of its segments or values, as in `read_mask`.

    Returns
    -------
    sitk.Image
        Of 0 and 1, uint8, on the grid of `scan`.
    Placement

    Raises
    ------
    InputError
        As `read_mask` and `place`.
    """
    if case.mask is None:
        raise InputError(f"{case.ct}: {case.patient} has no mask; leave this case out")
    return place(case.mask, scan, segment, reorient, lenient=case.layout != "pairs")


def place(
    path: str | Path, scan: sitk.Image, segment: str | int = "Pancreas", reorient: str | None = None, *,
    lenient: bool = True,
) -> tuple[sitk.Image, Placement]:  # fmt: skip
    """Place a NIfTI label on its scan by a rule that is the same for every label, and verify the outcome.

    1. "header": where the header fits the scan (see `read_mask`), it is believed.
    2. "axes": where it does not, but the label has the scan's shape along the scan's axes, its directions are
       believed and its origin and spacing are not: the two arrays cover the same box. Only where `lenient`, as for
       TCIA's labels of Pancreas-CT, whose headers are known to be poor.
    3. Anything else is an error that says what disagrees, and by how much.

    Then the scan is asked (`quality.flips`). Does the mask lie clearly better reversed, that is an error that
    names the remedy. It is verified only if it lies clearly better as it is; under "axes", a spacing other
    than the scan's leaves it unverified as well, for it may be another patient's. What is asked has been measured on
    the pancreas: another organ is not refused for it, and where its header fits, not warned of.

    A folder of DICOM slices goes by 1 and 3.

    A DICOM SEG, or what the caller asks for by `reorient`, is believed instead, and a warning says so where the
    outcome is not verified.

    Returns
    -------
    sitk.Image
        Of 0 and 1, uint8, on the grid of `scan`.
    Placement

    Raises
    ------
    InputError
        A header that fits neither way, a mask that seems reversed, and all that `read_mask` raises.
    """
    path = Path(path).expanduser()
    believed = reorient is not None or not (is_nifti(path) or path.is_dir())
    label = read_label(path, scan, segment, reorient)
    try:
        rule, mask = reorient or "header", onto_scan(label, scan, path, reorient)
    except InputError:
        if believed or not lenient or path.is_dir() or not _same_box(label, scan):
            raise
        rule, mask = "axes", onto_scan(label, scan, path, "axes")
    scores = flips(scan, mask, pancreas := is_pancreas(segment, path))
    rival, ahead = lead(scores)
    verified, said = ahead >= MARGIN, f"{scores['']:.2f} as it lies, {scores[rival]:.2f} reversed along {rival}"
    if -ahead >= MARGIN and pancreas and not believed:  # of other organs, `check_mask` warns
        raise InputError(f"{path}: seems reversed along {rival} ({said}); {_remedy(label, scan, rule, rival)}")
    spacing = np.take(label.GetSpacing(), axes_by(label, scan, rule)[0])
    if rule == "axes" and not believed and not np.allclose(spacing, scan.GetSpacing(), rtol=0.01):
        verified, said = False, said + "; its spacing is not the scan's: another patient's?"
    off = _off(label, scan, mask, rule)
    words = f"{path}: placed by rule {rule}, its header {off:.1f} mm off, {'' if verified else 'not '}verified ({said})"
    log.info(words)
    if not verified and (pancreas or rule != "header"):
        warnings.warn(words + "; look at the overlay", stacklevel=2)
    return mask, Placement(rule, off, verified)


def _same_box(label: sitk.Image, scan: sitk.Image) -> bool:
    """Tell whether a label has the scan's shape along axes that are the scan's own, to within 2.5 degrees."""
    along, cosine, _ = matching_axes(label, scan)
    return cosine.min() > 0.999 and np.array_equal(np.take(label.GetSize(), along), scan.GetSize())


def _off(label: sitk.Image, scan: sitk.Image, mask: sitk.Image, rule: str) -> float:
    """Return how far, in mm, the header would have put the mask's centre from where it lies by `rule`."""
    if rule == "header":
        return 0.0
    matrix, shift = index_map(label, scan)
    along, backward = axes_by(label, scan, rule)
    here = np.argwhere(sitk.GetArrayViewFromImage(mask)).mean(0)[::-1]
    there = np.empty(3)  # the same place, as an index of the label's
    there[along] = np.where(backward, np.subtract(scan.GetSize(), 1) - here, here)
    return float(np.linalg.norm((matrix @ there + shift - here) * scan.GetSpacing()))


def _remedy(label: sitk.Image, scan: sitk.Image, rule: str, rival: str) -> str:
    """Say what to ask of `read_mask`, so that the mask lies reversed along `rival` from where it lies by `rule`."""
    along, backward = axes_by(label, scan, rule)
    if list(along) != [0, 1, 2] or label.GetSize() != scan.GetSize():
        return "look at the overlay, then mend the label's header or leave this case out"
    turned = "".join(sorted({a for a, b in zip("xyz", backward, strict=True) if b} ^ set(rival)))
    return f"look at the overlay, and if so tell `vaelib prepare`: --reorient {'flip-' + turned if turned else 'index'}"
