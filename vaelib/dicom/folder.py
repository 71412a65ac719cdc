"""Sort the names in a folder of DICOM: what is read, what is known to be harmless, and what is left out."""

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from vaelib.engine.errors import InputError

SLICE = {".dcm", ".dicom", ".dic", ".ima"}
HARMLESS = re.compile(
    r"dicomdir|thumbs\.db|desktop\.ini|icon\r|__macosx|@eadir|lost\+found|.*:zone\.identifier"
    r"|(licen[sc]e|readme|version|notice|citation|copying|changes|md5|sha(1|256|512)|checksum)[^.]*"
    r"|.*\.(txt|csv|tsv|json|xml|md|html?|pdf|log|ya?ml|md5|sha\d+)",
    re.IGNORECASE,
)
PACKED = re.compile(r"(\.(gz|bz2|xz|zst|z|zip|7z|part|partial|filepart|crdownload|download|tmp)|~)$", re.IGNORECASE)
BARE = {b"\x02\x00", b"\x08\x00"}  # group 2 or 8: DICOM without the preamble, as it was before 1993


class Sorted(NamedTuple):
    """The files of a folder, each kind sorted by name."""

    read: list[Path]  # DICOM, whatever its name and with or without a preamble; or what looks like a damaged slice
    left_out: list[Path]  # what is not known to be harmless, a subfolder among them: named in one warning


def sort_files(folder: str | Path) -> Sorted:
    """Sort every name in a folder; of a file, at most its first bytes are read.

    What looks like a slice is to be read, and whoever reads it says what is wrong with it: a file that begins as DICOM
    does, or that has the ending or the pattern of a slice's name, be it empty, packed, or a link that leads nowhere.
    Harmless are hidden files, a DICOMDIR, licences, checksums, and what systems leave behind.
    """
    found = Sorted([], [])
    try:
        starts = {path: _start(path) for path in sorted(Path(folder).iterdir())}
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); give a folder that you may read") from None
    slices = {p.name for p, s in starts.items() if s is not None and (p.suffix.lower() in SLICE or is_dicom(s))}
    for path, start in starts.items():
        if path.name[0] == "." or path.name.upper() == "DICOMDIR":
            if _is_under_way(path, slices):
                found.read.append(path)
            continue
        if path.name in slices:
            found.read.append(path)
        elif not HARMLESS.fullmatch(path.name):
            if start is not None and _is_named_like(path.name, slices, start):
                found.read.append(path)
            elif not path.is_dir() or any(inner.is_file() for inner in path.rglob("[!.]*")):
                found.left_out.append(path)
    return found


def is_dicom(start: bytes) -> bool:
    """Tell by its first bytes whether a file is DICOM, with or without a preamble."""
    first = start[3:4] == b"\0" and (start[4:6].isalpha() or start[6:8] == b"\0\0")  # how long it is, or its kind
    return start[128:132] == b"DICM" or (start[:2] in BARE and first)


def _is_under_way(path: Path, slices: set[str]) -> bool:
    """Tell whether a hidden file stands for a slice that is not here: by rsync (.1.dcm.Xq2b7A), or in iCloud."""
    bare = path.name[1:].rpartition(".")[0]
    if path.name.startswith("._"):  # what macOS adds
        return False
    return bare not in slices and (_pattern(bare) in map(_pattern, slices) or Path(bare).suffix.lower() in SLICE)


def handful(names: list[str], most: int = 5, mark: str = ",") -> str:
    """Name a handful, and count the others."""
    return f"{mark} ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def _start(path: Path) -> bytes | None:
    """Read the first bytes of a file whose name does not tell what it is; None of what is no file, such as a pipe."""
    if not path.is_file() and path.exists():
        return None
    if path.suffix.lower() not in SLICE:
        with suppress(OSError), path.open("rb") as file:
            return file.read(132)
    return b""  # the reader will say why


def _is_named_like(name: str, slices: set[str], start: bytes) -> bool:
    """Tell whether a file is named as slices are, or as one that is packed or half there."""
    bare = PACKED.sub("", name)
    if _pattern(bare) in map(_pattern, slices) or Path(bare).suffix.lower() in SLICE:
        return True
    ending, endings = _ending(bare), {_ending(other) for other in slices}
    if bare != name or ending:
        return bare == name and ending in endings
    is_text = start.isascii() and b"\0" not in start and start != b""
    return bool(re.search(r"\d", bare)) or ("" in endings and not is_text)


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "0", name.lower())


def _ending(name: str) -> str:
    """Return the ending of a name; numbers are none, as in a UID."""
    return ending if (ending := Path(name).suffix.lower())[1:2].isalpha() else ""
