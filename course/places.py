"""Where the parts of the project lie, and how a notebook is read."""

import tomllib
from functools import cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
LIBRARY, NOTEBOOKS = ROOT / "vaelib", ROOT / "notebooks"
BRANCH = "main"


@cache
def address() -> str:
    """Find where the project is for everybody to read, as `pyproject.toml` says; empty as long as it is nowhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Read a notebook as it lies on the disk; `nbformat.read` would mend what is wrong with it."""
    return nbformat.v4.reads(path.read_text(encoding="utf-8"))
