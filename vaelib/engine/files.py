"""Writing files and folders so that nobody ever reads half of one, whatever stops the writer."""

import errno
import io
import os
import re
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vaelib.engine.errors import InputError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_write(path: str | Path, keep: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Give a place to make a file or a folder in, which goes to `path` when the block ends, whole or not at all.

    That place is in a hidden folder beside `path`, so that nothing which looks for files finds a half one. What was at
    `path` stays until the new one is whole. A process that is killed leaves its hidden folder behind; the next one
    that writes beside it on the same machine removes it (see `clear`).

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
        mark = f".{path.name}.{socket.gethostname()}.{os.getpid()}."
        room = Path(tempfile.mkdtemp(prefix=mark, dir=path.parent))
    except OSError as error:
        raise _said(error, path) from None
    try:
        yield room / path.name
        _put(room / path.name, path, keep)
    except OSError as error:
        while isinstance(error.__cause__, OSError):  # pydicom puts its own, without a number, around the system's
            error = error.__cause__
        named = error.filename  # a failed write names no file; what cannot be read elsewhere does
        ours = named is None or str(named).startswith((str(room), str(path)))
        if ours and error.errno in FULL | REFUSED:
            raise _said(error, path) from None
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
    """Put `content` in the place of the file `path`, whole or not at all; folders are made if need be."""
    with atomic_write(path) as half:
        half.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path).expanduser()


def arrays(path: Path, make: Callable[[], dict]) -> dict:
    """The arrays kept in the file `path` (.npz); where there are none, or damaged ones, `make` makes what is kept."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except FileNotFoundError:
        pass
    except Exception:  # zip, zlib and numpy raise many kinds on damaged files
        warnings.warn(f"{path}: is damaged; it is made anew", stacklevel=2)
    np.savez_compressed(packed := io.BytesIO(), **make())
    write_file(path, packed.getvalue())
    return arrays(path, make)


def _put(made: Path, path: Path, keep) -> None:
    if made.is_file():
        with made.open("rb+") as file:  # on the disk before it has its name, or a power cut could leave it empty
            os.fsync(file.fileno())
    while True:
        if keep and path.exists() and keep(path):
            return
        try:
            os.replace(made, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:  # a folder that is there has to go first; out of sight, and back if the new one finds no place
            os.rename(path, old := made.with_name(f"{made.name}.old"))
        except FileNotFoundError:
            continue
        try:
            os.rename(made, path)
            shutil.rmtree(old, ignore_errors=True)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                os.rename(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)


def _said(error: OSError, path: Path) -> InputError:
    if error.errno in FULL:
        return InputError(f"{path}: cannot be written: {error.strerror}; make room and run the same again")
    return InputError(f"{path}: cannot be written: {error.strerror}; choose a folder that you may write to")


def json_ready(value: Any) -> Any:
    """Round for JSON, which has no infinity: null stands for the HD95 of an empty mask."""
    if isinstance(value, dict):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(v) for v in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
