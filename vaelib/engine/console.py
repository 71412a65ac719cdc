"""How the command line speaks and ends: one line for each fault, on streams that take any character."""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cyclopts import App, CycloptsError

from vaelib.engine.errors import OUT_OF_MEMORY, InputError
from vaelib.engine.records import reported, wanted


def run(app: App, argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    It is 0, or 2 for what the user, or the machine, can mend, 1 for a fault of vaelib itself, 130 for Ctrl-C, 143 for
    one that is told to end, and 141 where nobody reads on. Each but the last three says why in one line on standard
    error; with VAELIB_TRACEBACK=1, a traceback comes before it.
    """
    _open_streams()
    alone = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) if alone else None  # as at SLURM's limit of time
    said: dict[str, Any] = {"status": 0, "warnings": [], "error": None}
    try:
        words, report = wanted(sys.argv[1:] if argv is None else argv)
        with reported(report, words, said):
            _command(app, words, said)
    except InputError as error:  # of the report itself
        said["status"] = 2
        _say("error", error)
    status: int = said["status"]
    if alone:
        signal.signal(signal.SIGTERM, before)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # or Python would complain of it once more at its end
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _command(app: App, words: Sequence[str], said: dict[str, Any]) -> None:
    """Run a command; how it ends, and what is said of it, goes into `said`."""

    def warned(message: Any, *_: Any, **__: Any) -> None:
        said["warnings"].append(" ".join(str(message).split()))
        _say("warning", message)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = warned
            app(words, exit_on_error=False, print_error=False, result_action="return_none")
        sys.stdout.flush()
    except KeyboardInterrupt:
        said["status"] = 130
    except BrokenPipeError:
        said["status"] = 141
    except Exception as error:
        if os.environ.get("VAELIB_TRACEBACK"):
            traceback.print_exc()
        said["error"], said["status"] = _explained(error)
        _say("error", said["error"])


def _explained(error: Exception) -> tuple[str, int]:
    """Put an exception into words, with the exit status."""
    text = str(error)
    if isinstance(error, InputError | CycloptsError):
        return text, 2
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return f"out of memory: {text or 'no more can be had'}; close other programs, or use a machine with more", 2
    if isinstance(error, OSError):
        return ": ".join(str(part) for part in (error.filename, error.strerror or text) if part), 2
    place = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{type(error).__name__} in {os.path.basename(place.filename)}, line {place.lineno}"
    report = "please report it, with what the same command shows when VAELIB_TRACEBACK=1 is set"
    return f"{at}: {text}; this is a fault of vaelib: {report}", 1


def _open_streams() -> None:
    """Let both streams take every character, and be there where the shell has closed them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort:  # what libraries log is a warning of ours
        logging.lastResort.setFormatter(logging.Formatter("vaelib: warning: %(message)s"))


def _say(what: str, text: Any) -> None:
    with suppress(OSError):
        print(f"vaelib: {what}:", " ".join(str(text).split()), file=sys.stderr)
