"""The measurements that the lessons report: one file a study, which trains, scores, and says its numbers.

A study is a file here whose docstring asks a question. Its ``run(lab)`` takes an open cohort and returns a dict, which
``python -m studies NAME`` writes to ``results/NAME.json``. Its ``tables(record)``, if it has one, returns tables of
`PAGES` by the name of the marks between which they stand. No study imports another: what two need is in `vaelib`.
"""

import json
import pkgutil
from pathlib import Path

import numpy as np

from vaelib.engine.files import json_ready, write_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = (ROOT / "README.md", RESULTS / "README.md")  # their tables come from the studies
CHECKPOINTS = ROOT / "notebooks" / "checkpoints"  # small enough to be committed, stored in half precision


def names() -> list[str]:
    """List the studies by name: every file in this folder is one."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def read(name: str, folder: Path | None = None) -> dict:
    """Read what a study has found, ``results/<name>.json``; empty where it has not been made."""
    path = (folder or RESULTS) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(name: str, record: dict, folder: Path | None = None) -> Path:
    """Write what a study has found in place of what it found before: rounded, and the file as a whole."""
    return write_file((folder or RESULTS) / f"{name}.json", json.dumps(json_ready(record), indent=1) + "\n")


def publish(path: Path, name: str) -> None:
    """Copy a checkpoint, whole, among those that are committed for the notebooks."""
    write_file(CHECKPOINTS / f"{name}.safetensors", path.read_bytes())


def page_of(mark: str) -> Path:
    """Find the page with a table's marks, ``<!-- mark -->`` and ``<!-- end of mark -->``."""
    return next(page for page in PAGES if page.exists() and f"<!-- {mark} -->\n" in page.read_text(encoding="utf-8"))


def into_page(text: str, mark: str, path: Path | None = None) -> None:
    """Put a table between its two marks in a page, so that no number there is typed by hand."""
    path = path or page_of(mark)
    before, rest = path.read_text(encoding="utf-8").split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- end of {mark} -->")[1]
    write_file(path, f"{before}<!-- {mark} -->\n{text}\n<!-- end of {mark} -->{after}")


def cell(interval: dict, digits: str) -> str:
    """Format a mean with its interval as a table has it: "0.58 (0.54 to 0.62)"."""
    if interval["mean"] is None or not np.isfinite(interval["mean"]):
        return "infinite"
    mean, low, high = (format(interval[k], digits) for k in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
