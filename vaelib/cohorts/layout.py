"""Where data and models lie, and the cases in a folder, whichever way it is laid out."""

import hashlib
import os
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from vaelib.dicom.folder import PACKED, handful, sort_files
from vaelib.engine.errors import InputError

ENDING = re.compile(r"(_0000)?\.(nii|nii\.gz|dcm)$", re.IGNORECASE)  # nnU-Net writes a scan's first channel as _0000
LABEL = re.compile(r"label(\d+)\.nii(\.gz)?$", re.IGNORECASE)
PATIENT = re.compile(r"PANCREAS_(\d+)$", re.IGNORECASE)
SERIES = re.compile(r"(CT|SEG)_|PATIENT_DICOM$", re.IGNORECASE)  # the second is how 3D-IRCADb names its scans
MASKS = re.compile(r"MASKS?_", re.IGNORECASE)  # a folder of slices, or of one such folder an organ; not gone into
Labels = dict[int | None, list[Path]]  # by number
VOLUME = re.compile(r"\.(nii|nrrd|mha|mhd|mgz)\b", re.IGNORECASE)  # in one file, and no slice
Tree = dict[Path, tuple[list[str], list[str]]]  # by folder, the names of the folders and files in it
DEEP = 5  # folders: three to a patient, one of a study, one of a series
HIDDEN = re.compile(r"[.@$]|__MACOSX$|lost\+found$")  # may be half written, or is what a system leaves behind
WITHDRAWN = {25, 70}  # crops of scan 2, taken back by TCIA in 2020; their labels and older copies still go around


@dataclass(frozen=True)
class Case:
    """One patient: the folder of the CT series, or its NIfTI; the mask if there is one; the layout it came in."""

    patient: str
    ct: Path
    mask: Path | None
    layout: str  # "idc", "tcia", "pairs" or "synthetic"
    label: Path | None = None  # of an IDC case, TCIA's label for the same scan: a second opinion on `mask`


def home() -> Path:
    """Return the folder whose `data/` is used: `$VAELIB_HOME`, else the nearest upwards that holds one, else this one.

    So a notebook, which runs in `notebooks/`, finds what the command line made in the folder above it, and nothing
    lies beside the installed package. Where that folder may not be written to, `VAELIB_HOME` names another.
    """
    here = Path.cwd()
    if named := _named("VAELIB_HOME", "one that you may write to"):
        return here / named
    return next((folder for folder in (here, *here.parents) if os.path.isdir(folder / "data")), here)


def data_folder() -> Path:
    """Return the cohort's folder: `$VAELIB_DATA`, else `data/synthetic` below `home()`.

    `~` is the user's home folder. A relative path is looked for here first, then below `home()`.

    Raises
    ------
    InputError
        `VAELIB_DATA` or `VAELIB_HOME` is no name that a folder can have.
    """
    folder = _named("VAELIB_DATA", "the cohort's") or home() / "data" / "synthetic"
    return folder if folder.exists() or folder.is_absolute() else home() / folder


def warn_if_elsewhere(folder: str | Path) -> None:
    """Warn where what was put into `folder` is not what commands without a folder will read, and say why."""
    if _real(folder) != _real(data_folder()) and os.environ.get("VAELIB_DATA"):
        what = f"VAELIB_DATA names {data_folder()}, and that is what other commands read"
        warnings.warn(f"{folder}: is not the cohort in use: {what}; unset it, or give them this folder", stacklevel=2)


def _named(variable: str, whose: str) -> Path | None:
    """Return the folder that an environment variable names, if it is set."""
    if not (named := os.environ.get(variable)):
        return None
    try:
        (folder := Path(named).expanduser()).exists()
        return folder
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, the home of nobody
        raise InputError(f"{variable}={named!r:.80}: names no folder ({error!s:.80}); name {whose}") from None


def _real(folder: str | Path) -> Path:
    return Path(folder).expanduser().resolve()


def cache_folder(folder: str | Path | None = None) -> Path:
    """Return where the levels of the cohort in `folder` are kept: in `data/cache`, one folder for each cohort.

    A cohort goes by its real path, however it is named; one that does not lie in `data` itself has a hash of it too.
    """
    folder, data = _real(folder or data_folder()), home() / "data"
    own = "" if folder.parent == _real(data) else "-" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return data / "cache" / (folder.name + own)


def models_folder(folder: str | Path | None = None) -> Path:
    """Return where models of the cohort in `folder` are kept: in `data/models`, one folder for each cohort."""
    return home() / "data" / "models" / cache_folder(folder).name


def find_cases(folder: str | Path) -> list[Case]:
    """Find every patient below `folder`, and the mask that belongs to each scan.

    No scan is opened, so that a large cohort takes a moment.

    Four layouts are known (`data/README.md` shows them). One is that of the Medical Segmentation Decathlon and of
    nnU-Net: scans in `imagesTr` (and, without masks, `imagesTs`), masks of the same names in `labelsTr`; scans are
    NIfTI or folders of DICOM, masks NIfTI, DICOM SEG or folders of DICOM images. The others lie up to three folders
    deep: IDC, `<patient>/<study>/CT_<series>/` with a `SEG_<series>/` beside it, or a `MASK_<name>/` or `MASKS_<name>/`
    with a mask's slices, or with a folder of them for each organ (3D-IRCADb: `MASKS_DICOM/` beside `PATIENT_DICOM/`);
    synthetic, the same with a
    `SYNTHETIC.md` above; TCIA, `PANCREAS_0001/<study>/<series>/` with `label0001.nii.gz` in a folder
    of labels, or of the patient's own. The folder of the study may be missing. A TCIA label belongs to the patient of
    the same number, never to the next in line; where the patient has a SEG too, that is the mask and the label stands
    beside it as `Case.label`.

    Nothing is left out in silence. Warnings name the two withdrawn cases, 25 and 70, labels without a scan, and in one
    line all else: a patient without a CT series, with two of them or with two masks (copies of each other too: which of
    them to keep is not decided here); an image that belongs to no case; an empty folder, one that may not be opened, or
    that a link leads to once more.

    Parameters
    ----------
    folder : path
        The cohort, or a folder above it, or of one patient PANCREAS_0001.

    Returns
    -------
    list of Case
        Sorted by patient.

    Raises
    ------
    InputError
        No such folder, or no patient in it who can be read; where that is for two scans or two masks, it names both.
        In `labelsTr`, a mask without a scan.
    """
    folder = Path(folder).expanduser()
    if (folder / "imagesTr").is_dir():
        return _pairs(folder)
    left: dict[Path, str] = {}
    tree = _tree(folder, left)
    labels: Labels = defaultdict(list)
    scans: dict[int | str, list[Case]] = defaultdict(list)
    done: set[Path | None] = set()
    for path, (_, files) in tree.items():
        for label in filter(None, map(LABEL.match, files)):
            labels[int(label[1])].append(path / label.string)
    patients = _patients(tree, folder)
    gone = {p for p in patients if _number(p.name) in WITHDRAWN and not _is_synthetic(p, folder)}
    for patient in sorted(patients):
        found = [] if patient in gone else _cases(patient, patients[patient], tree, labels, folder, left)
        scans[_number(patient.name) or patient.name.casefold()] += found
        done |= {p for case in found for p in (case.ct, case.mask)} if found else {*patients[patient]}
    for one, *others in filter(None, scans.values()):
        if others:
            left[one.ct] = f"is a second scan of {one.patient} beside {others[0].ct}; move one of them away"
    cases = sorted((found[0] for found in scans.values() if len(found) == 1), key=lambda case: case.patient)
    _find_spare(tree, {path.parent for path in (*patients, *chain(*labels.values()))}, done, left)
    said = [f"{os.path.relpath(path, folder)}: {why}" for path, why in sorted(left.items())]
    named = handful(said, 20, ";")
    if not cases:
        what = f"no case in it{': ' * bool(said)}{named}" if os.path.isdir(folder) else "no such folder"
        raise InputError(f"{folder}: {what}; make one with `vaelib phantom`, or point VAELIB_DATA at Pancreas-CT")
    _warn_of_what_is_left_out(folder, gone, labels, {_number(case.patient) for case in cases})
    if said:
        warnings.warn(f"{folder}: left out {len(said)}: {named}", stacklevel=2)
    return cases


def _pairs(top: Path) -> list[Case]:
    """Pair scans and masks by name, as the Medical Segmentation Decathlon and nnU-Net lay them out."""
    scans, masks = _by_name(top / "imagesTr", top / "imagesTs"), _by_name(top / "labelsTr")
    for name, path in scans.items():
        if re.search(r"_000[1-9]$", name) and name[:-5] in scans:
            raise InputError(f"{path}: is a further channel of {name[:-5]}, and a CT has one; move it away")
    if spare := [masks[name] for name in sorted(masks.keys() - scans.keys())]:
        found = f"{spare[0]}: no scan in {top / 'imagesTr'} has its name"
        raise InputError(f"{found} ({len(spare)} masks are so); name both alike, or move the mask away")
    if not scans:
        raise InputError(f"{top / 'imagesTr'}: holds no scan; give it NIfTI files (.nii.gz), or folders of DICOM")
    layout = "synthetic" if (top / "SYNTHETIC.md").is_file() else "pairs"
    return [Case(name, path, masks.get(name), layout) for name, path in sorted(scans.items())]


def _by_name(*folders: Path) -> dict[str, Path]:
    """List scans or masks by the name of the patient; two of one name are an error."""
    found: dict[str, Path] = {}
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        if not HIDDEN.match(path.name) and (ENDING.search(path.name) or path.is_dir()):
            if (twin := found.setdefault(ENDING.sub("", path.name), path)) is not path:
                raise InputError(f"{path}: goes by the name of {twin}; keep one of the two")
    return found


def masks_of(scans: list[Path], out: Path, overwrite: bool = False) -> dict[Path, Path]:
    """Name the mask of each scan: `out` itself for one, else a NIfTI in the folder `out`.

    Raises
    ------
    InputError
        There are several scans, and two have one name, or `out` is no folder, or a mask is there already.
    """
    from vaelib.dicom.write import check_target  # here: it takes a second

    if len(scans) == 1:
        return {scans[0]: out}
    if out.is_file() or ENDING.search(out.name):
        raise InputError(f"{out}: is one file, for {len(scans)} scans; name a folder")
    names = [ENDING.sub("", scan.resolve().name) for scan in scans]
    if twice := [scan for scan, name in zip(scans, names, strict=True) if names.count(name) > 1]:
        raise InputError(f"{twice[0]}: another scan has the same name, and so would its mask; give them one by one")
    found = {scan: out / f"{name}.nii.gz" for scan, name in zip(scans, names, strict=True)}
    for mask in found.values():
        check_target(mask, overwrite)
    return found


def _tree(top: Path, left: dict[Path, str]) -> Tree:
    """List every folder down to `DEEP`, but for hidden ones, and those that a link leads to once more."""
    tree: Tree = {}
    seen: dict[str, Path] = {}
    shut = lambda error: left.update({Path(error.filename): f"cannot be opened ({error.strerror})"})  # noqa: E731
    for here, folders, files in os.walk(top, onerror=shut, followlinks=True):
        path = Path(here)
        names = (name for name in folders if not HIDDEN.match(name))
        inside = sorted(names, key=lambda name: (os.path.islink(path / name), name))
        again = seen.setdefault(os.path.realpath(here), path) is not path
        far = len(path.parts) - len(top.parts)
        folders[:] = [] if again or far >= DEEP or (far and MASKS.match(path.name)) else inside
        if again:
            left[path] = "is a link to what is read elsewhere"
        else:
            tree[path] = inside, sorted(name for name in files if not HIDDEN.match(name))
    return tree


def _patients(tree: Tree, top: Path) -> dict[Path, list[Path]]:
    """Find the folders of patients, each with all folders in it: by name, or above a CT or SEG and a study, if any."""
    named = {p for p in tree if PATIENT.match(p.name) and len(p.parts) - len(top.parts) <= DEEP - 2}
    series = [path for path in tree if SERIES.match(path.name) and not named.intersection(path.parents)]
    guess = named | {path.parent.parent for path in series}
    cohorts = {top} - named | {above for path in guess for above in path.parents}  # no patient lies in another
    guess |= {path.parent for path in series if path.parent.parent in cohorts}
    found: dict[Path, list[Path]] = {path: [] for path in tree if path in guess - cohorts}
    for path in tree:
        for owner in found.keys() & {path, *path.parents}:
            found[owner].append(path)
    return found


def _number(patient: str) -> int | None:
    return int(match[1]) if (match := PATIENT.match(patient)) else None


def _is_synthetic(patient: Path, top: Path) -> bool:
    return any((above / "SYNTHETIC.md").is_file() for above in {top, patient.parent})


def _find_spare(tree: Tree, homes: set[Path], done: set[Path | None], left: dict[Path, str]) -> None:
    """Find, beside patients or labels or below them, images and empty folders of which no case is made."""
    for path, (folders, files) in tree.items():
        if path in done or not homes.intersection((path, *path.parents)):
            continue
        dicom = {*sort_files(path).read} if files else set()
        spare = [p for p in map(path.joinpath, files) if p not in done and not LABEL.match(p.name)]
        images = [p for p in spare if p in dicom or VOLUME.search(p.name) or PACKED.search(p.name)]
        if images or not (folders or files):
            where = images[0] if len(images) == 1 else path
            left.setdefault(where, "belongs to no case" if images else "is empty")


def _warn_of_what_is_left_out(folder: Path, gone: set[Path], labels: Labels, numbers: set[int | None]) -> None:
    if gone:
        names = ", ".join(sorted(p.name for p in gone))
        warnings.warn(f"{folder}: left out {names}: withdrawn by TCIA, being scan 2 cropped", stacklevel=3)
    spare = [(number, label.name) for number in labels.keys() - numbers for label in labels[number]]
    if spare:
        names = ", ".join(name + " (withdrawn)" * (number in WITHDRAWN) for number, name in sorted(spare))
        warnings.warn(f"{folder}: left out labels without a scan: {names}", stacklevel=3)


def _cases(
    patient: Path, inside: list[Path], tree: Tree, labels: Labels, top: Path, left: dict[Path, str]
) -> list[Case]:
    """Return the scans of one patient, each with its mask: one, if all is well."""
    series = [p for p in inside if MASKS.match(p.name) and tree[p][0] or not all(map(VOLUME.search, tree[p][1]))]
    scans, segs = ([p for p in series if re.match(kind, p.name.upper())] for kind in ("CT_|PATIENT_D", "(SEG|MASKS?)_"))
    layout = "tcia" if not scans else "synthetic" if _is_synthetic(patient, top) else "idc"
    for far in (2, 1, 0):  # below a study, as is usual; without one; without a folder of its own
        there = [p for p in series if p not in segs and len(p.parts) - len(patient.parts) == far]
        scans = scans or [p for p in there if far == 2 or sort_files(p).read]
    own = labels.get(_number(patient.name), [])
    masks = [mask for seg in segs for mask in ([seg] if MASKS.match(seg.name) else sort_files(seg).read)]
    if not scans:
        left[patient] = "has no CT series"
    for found, what in ((masks, "masks"), (own, "labels")):
        if len(found) > 1:
            left[found[0]] = f"is one of {len(found)} {what} of {patient.name}, beside {found[1]}; keep one"
            scans = []
    mask = next(iter(masks or own), None)
    second = next((label for label in own if label != mask), None)
    return [Case(patient.name, scan, mask, layout, second) for scan in scans]
