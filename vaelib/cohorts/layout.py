"""Where data and models lie, and the cases in a folder, whichever way it is laid out."""

import hashlib
import os
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from vaelib.engine.errors import InputError

LABEL = re.compile(r"label(\d+)\.nii(\.gz)?$", re.IGNORECASE)
PATIENT = re.compile(r"PANCREAS_(\d+)$", re.IGNORECASE)
Labels = dict[int | None, list[Path]]  # by number, the files of labels
WITHDRAWN = {25, 70}  # crops of scan 2, taken back by TCIA in 2020; their labels and older copies still go around


@dataclass(frozen=True)
class Case:
    """One patient: the folder of the CT series, the mask if there is one, and the layout it came in."""

    patient: str
    ct: Path
    mask: Path | None
    layout: str  # "idc", "tcia" or "synthetic"
    label: Path | None = None  # of an IDC case, TCIA's label for the same scan: a second opinion on `mask`


def home() -> Path:
    """Return the folder whose `data/` is used: the nearest one upwards from here that holds one, else the current one.

    So a notebook, which runs in `notebooks/`, finds what the command line made in the folder above it, and nothing
    lies beside the installed package.
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if os.path.isdir(folder / "data")), here)


def data_folder() -> Path:
    """Return the cohort's folder: `$VAELIB_DATA`, else `data/synthetic` below `home()`.

    `~` is the user's home folder. A relative path is looked for here first, then below `home()`.

    Raises
    ------
    InputError
        `VAELIB_DATA` is no name that a folder can have.
    """
    named = os.environ.get("VAELIB_DATA")
    try:
        folder = Path(named).expanduser() if named else home() / "data" / "synthetic"
        return folder if folder.exists() or folder.is_absolute() else home() / folder
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, the home of nobody
        raise InputError(f"VAELIB_DATA={named!r:.80}: names no folder ({error!s:.80}); name the cohort's") from None


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return where the levels of the cohort in `folder` are kept: in `data/cache`, one folder for each cohort."""
    folder, data = Path(folder or data_folder()).expanduser().resolve(), home() / "data"
    own = "" if folder.parent == data else "-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return data / "cache" / (folder.name + own)


def models_folder(folder: str | Path | None = None) -> Path:
    """Return where models of the cohort in `folder` are kept: in `data/models`, one folder for each cohort."""
    return home() / "data" / "models" / cache_folder(folder).name


def find_cases(folder: str | Path) -> list[Case]:
    """Find every patient below `folder`, and the mask that belongs to each scan.

    No image is opened, so that a large cohort takes a moment.

    Three layouts are known (`data/README.md` shows them), up to three folders deep:
    IDC, `<patient>/<study>/CT_<series>/` with a `SEG_<series>/` beside it; synthetic, the same with a
    `SYNTHETIC.md` above; TCIA, `PANCREAS_0001/<study>/<series>/` with `label0001.nii.gz` in a folder
    of labels. A TCIA label belongs to the patient of the same number, never to the next in line; where the
    patient has a SEG too, that is the mask and the label stands beside it as `Case.label`.

    What is left out is named in a warning: a label without a scan, and the two withdrawn cases, 25 and 70.

    Parameters
    ----------
    folder : path
        The cohort, or a folder above it.

    Returns
    -------
    list of Case
        Sorted by patient.

    Raises
    ------
    InputError
        No such folder, no case in it, or a patient with two scans or two masks.
    """
    folder = Path(folder).expanduser()
    patients: list[Path] = []
    labels: Labels = defaultdict(list)
    if os.path.isdir(folder):
        _walk(folder, 3, patients, labels)
    gone = {p for p in patients if _number(p) in WITHDRAWN and not _is_synthetic(p, folder)}
    cases = [case for patient in sorted({*patients} - gone) for case in _cases(patient, labels, folder)]
    if not cases:
        what = "no case in it" if os.path.isdir(folder) else "no such folder"
        raise InputError(f"{folder}: {what}; make one with `vaelib phantom`, or point VAELIB_DATA at Pancreas-CT")
    _warn_of_what_is_left_out(folder, gone, labels, {_number(case.ct.parents[1]) for case in cases})
    cases.sort(key=lambda case: (case.patient, str(case.ct)))
    for one, two in zip(cases, cases[1:], strict=False):
        if one.patient == two.patient:
            raise InputError(f"{one.ct}: is a second scan of {one.patient} beside {two.ct}; move one of them away")
    return cases


def _walk(folder: Path, depth: int, patients: list[Path], labels: Labels) -> None:
    """Collect the folders of patients and the numbered label files, without entering any series."""
    for path in sorted(folder.iterdir()):
        if label := LABEL.match(path.name):
            labels[int(label[1])].append(path)
        elif path.name[0] != "." and path.is_dir():
            if PATIENT.match(path.name) or any(path.glob("[!.]*/CT_*")):
                patients.append(path)
            elif depth > 1:
                _walk(path, depth - 1, patients, labels)


def _number(patient: Path) -> int | None:
    match = PATIENT.match(patient.name)
    return int(match[1]) if match else None


def _is_synthetic(patient: Path, top: Path) -> bool:
    return any((above / "SYNTHETIC.md").is_file() for above in {top, patient.parent})


def _warn_of_what_is_left_out(folder: Path, gone: set[Path], labels: Labels, numbers: set[int | None]) -> None:
    if gone:
        names = ", ".join(sorted(p.name for p in gone))
        warnings.warn(f"{folder}: left out {names}: withdrawn by TCIA, being scan 2 cropped", stacklevel=3)
    spare = [(number, label.name) for number in labels.keys() - numbers for label in labels[number]]
    if spare:
        names = ", ".join(name + " (withdrawn)" * (number in WITHDRAWN) for number, name in sorted(spare))
        warnings.warn(f"{folder}: left out labels without a scan: {names}", stacklevel=3)


def _cases(patient: Path, labels: Labels, top: Path) -> list[Case]:
    """Return the scans of one patient's folder, each with its mask: one, if all is well."""
    series = sorted(p for p in patient.glob("[!.]*/[!.]*") if p.is_dir())  # what is hidden may be half written
    scans = [p for p in series if p.name.startswith("CT_")]
    segs = [p for p in series if p.name.startswith("SEG_")]
    own = labels.get(_number(patient), [])
    masks, layout = [mask for seg in segs for mask in sorted(seg.glob("[!.]*.dcm"))], "idc"
    if not scans:
        scans, masks, layout = [p for p in series if p not in segs], own, "tcia"
    elif _is_synthetic(patient, top):
        layout = "synthetic"
    for found, what in ((masks, "masks"), (own, "labels")):
        if len(found) > 1:
            both = f"is one of {len(found)} {what} of {patient.name}, beside {found[1]}"
            raise InputError(f"{found[0]}: {both}; keep one")
    mask = next(iter(masks or own), None)
    second = next((label for label in own if label != mask), None)
    return [Case(patient.name, scan, mask, layout, second) for scan in scans]
