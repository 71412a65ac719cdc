"""What is left to read of a run: beside its state a table and a curve of each network, and the report of a command."""

import csv
import io
import json
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from vaelib.engine.errors import InputError

DRAWN = 10.0  # s between two curves, at least
LIBRARIES = ("vaelib", "torch", "numpy", "SimpleITK", "pydicom", "lightning-fabric")


def leave(state: Path, history: Sequence[dict[str, Any]], *, last: bool = False) -> None:
    """Write the history of a training beside its state: of ``m.vae.0123.state`` to ``m.vae.csv`` and ``m.vae.png``.

    The table is new after each epoch, the curve where the one before is older than `DRAWN` seconds, and at the `last`.
    """
    from vaelib.engine.files import write_file  # here, so that `vaelib --help` answers at once

    table, picture = (state.with_suffix("").with_suffix(end) for end in (".csv", ".png"))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*history[-1]], restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_file(table, out.getvalue())
    if len(history) > 1 and (last or not picture.exists() or time.time() - picture.stat().st_mtime > DRAWN):
        from vaelib.pictures import charts, style  # Matplotlib takes a second to import

        log = ["total"] if min(row["train/total"] for row in history) > 0 else []
        write_file(picture, style.png(charts.curves(list(history), ["total"], log=log, titles={"total": "loss"})))


def wanted(argv: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take ``--report FILE`` out of the words of a command: the others, and the file.

    Raises
    ------
    InputError
        No file is named, or it is a folder.
    """
    words, path = [], None
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != "--report":
            words.append(word)
        elif not (value := value if equals else next(rest, "")) or value.startswith("-"):
            raise InputError("--report: name the file for the report, such as --report run.json")
        elif (path := Path(value).expanduser()).is_dir():
            raise InputError(f"--report {path}: is a folder; name a file in it, such as {path / 'run.json'}")
    return words, path


def versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextmanager
def reported(path: Path | None, words: Sequence[str], said: dict[str, Any]) -> Any:
    """Write the report of a command when it ends, however it does: what `said` holds then, and what was printed."""
    if path is None:
        yield
        return
    from vaelib.engine.files import write_file  # as in `leave`

    began, stream, printed = time.time(), sys.stdout, io.StringIO()
    stream.write = lambda text: printed.write(text) and stream.__class__.write(stream, text)  # type: ignore
    try:
        yield
    finally:
        del stream.write
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began))
        facts: dict[str, Any] = {"command": ["vaelib", *words], "started": at, "seconds": round(time.time() - began, 2)}
        facts |= {**said, "printed": printed.getvalue().splitlines()}
        write_file(path, json.dumps(facts | {"versions": versions()}, indent=1) + "\n")
