"""What IDC's client `idc-index` needs around it: quiet, a scratch folder, a lock, and a look at the network first."""

import http.client
import logging
import os
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psutil

from vaelib.engine.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: nothing there stops a second download into the same folder
    fcntl = None
AGAIN = "then run the same command again: what is here is kept"
NOTHING = logging.NullHandler()


def end_s5cmd():
    """End the s5cmd that this process started, and no other child."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("s5cmd" in word for word in child.cmdline()):
                child.kill()


def idc():
    """The client's module, silent: on import it would set up logging for the whole process."""
    root, own = logging.getLogger(), logging.getLogger("idc_index")
    root.addHandler(NOTHING)
    from idc_index import index

    root.removeHandler(NOTHING)
    own.addHandler(NOTHING)
    own.propagate = False
    return index


@contextmanager
def scratch():
    """Gather the temporary files that the client leaves behind, and remove them."""
    with tempfile.TemporaryDirectory() as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def alone(folder):
    """Hold `folder` against a second download into it; the system lets go of it when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another download into it is running; wait until that has ended") from None
        except OSError:
            pass  # a network disk that knows no such locks
        yield
    finally:
        os.close(handle)


def reach(row):
    """Raise InputError unless the bucket that holds the series answers with its list."""
    url = f"{idc().aws_endpoint_url}/{row.aws_bucket}?list-type=2&max-keys=1&prefix={row.crdc_series_uuid}/"
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
