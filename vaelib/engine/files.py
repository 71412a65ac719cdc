"""Writing files and folders so that nobody ever reads half of one, whatever stops the writer."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vaelib.engine.errors import InputError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP}
REMEDIES: dict[int | None, str] = {
    **dict.fromkeys(FULL, "make room and run the same again"),
    **dict.fromkeys(REFUSED, "choose a folder that you may write to"),
    **dict.fromkeys(IN_THE_WAY, "a file is where a folder should be, or a folder where a file; choose another name"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


def native(path: str | Path) -> str:
    """Return the name of a file as ITK and other C libraries take it; InputError where its bytes are not UTF-8."""
    try:
        return os.fsencode(Path(path).expanduser()).decode()
    except UnicodeError:
        raise InputError(f"{path}: its name is not UTF-8, and ITK cannot open it; rename it") from None


@contextmanager
def atomic_write(path: str | Path, keep: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Give a place to make a file or a folder in, which moves to `path` when the block ends, whole or not at all.

    That place is in a hidden folder beside `path`, so that nothing which looks for files finds a half one. What was at
    `path` stays until the new one is whole. A process that is killed leaves its hidden folder behind; the next one
    that writes beside it on the same machine removes it (see `remove_leftovers`).

    Parameters
    ----------
    path : path
        The folders above it are made if need be.
    keep : callable, optional
        Asked, once the new one is whole, about what is at `path`, if there is anything: should it stay? Another process
        may have been faster.

    Yields
    ------
    Path
        To write to; its name is that of `path`.

    Raises
    ------
    InputError
        The disk is full, or the folder cannot be written to. What was at `path` is as it was.
    """
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        mark = f".{path.name[:40]}.{socket.gethostname()}.{os.getpid()}."
        room = Path(tempfile.mkdtemp(prefix=mark, dir=path.parent))
    except OSError as error:
        raise _cannot_write(error, path) from None
    try:
        yield room / path.name
        _replace(room / path.name, path, keep)
    except OSError as error:
        while isinstance(error.__cause__, OSError):  # pydicom puts its own, without a number, around the system's
            error = error.__cause__
        # a failed write names no file; what cannot be read elsewhere does
        ours = error.filename is None or str(error.filename).startswith((str(room), str(path)))
        if ours and error.errno in REMEDIES:
            raise _cannot_write(error, path) from None
        raise
    finally:
        shutil.rmtree(room, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes of this machine left in `folder`; where another is at work, its own stays."""
    mark = re.compile(rf"\..+\.{re.escape(socket.gethostname())}\.(\d+)\.\w+")
    for path in Path(folder).expanduser().glob(".*"):
        if (named := mark.fullmatch(path.name)) and not psutil.pid_exists(int(named[1])):
            shutil.rmtree(path, ignore_errors=True)


def write_file(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to the file `path`, whole or not at all; folders are made if need be."""
    with atomic_write(path) as half:
        half.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path).expanduser()


def _replace(made: Path, path: Path, keep: Callable[[Path], bool] | None) -> None:
    """Give what was made its name; a folder that has the name already goes first, and comes back if that fails."""
    if made.is_file():
        with made.open("rb+") as file:  # on the disk before it has its name, or a power cut could leave it empty
            os.fsync(file.fileno())
    old = made.with_name(f"{made.name}.old")
    while not (keep and path.exists() and keep(path)):
        try:
            os.replace(made, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if old.exists():
                    os.rename(old, path)
                raise
        shutil.rmtree(old, ignore_errors=True)  # another process was faster, and its folder goes now
        with suppress(FileNotFoundError):
            os.rename(path, old)


def _cannot_write(error: OSError, path: Path) -> InputError:
    """Say why a file cannot be written, and what helps against that."""
    remedy = REMEDIES.get(error.errno, "see to that and run the same again")
    if error.errno in REFUSED and re.search(r"\bdata\W(cache|models)\b", str(path)):
        remedy = "name another for all data and models by VAELIB_HOME"
    return InputError(f"{path}: cannot be written: {error.strerror}; {remedy}")


def hash_of(value: Any) -> str:
    """Hash what can be written as JSON (SHA-256), whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=np.generic.item).encode()).hexdigest()


def json_ready(value: Any) -> Any:
    """Round for JSON, which has no infinity: null stands for the HD95 of an empty mask."""
    if isinstance(value, dict):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(v) for v in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
