"""The reference of the library: which rooms stand together, in the order in which data flow, and a page for each."""

import ast
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2] / "vaelib"
# Every module and package of `vaelib` stands here once; `modules` says which there are.
GROUPS = {
    "Patients who never were": "phantom shifts anomalies",
    "Reading scans and masks": "volumes pixels dicom identity nifti masks quality",
    "A cohort": "cohort labels download client survey",
    "From Hounsfield units to small images": "levels pyramid rows",
    "Networks and their losses": "models residual sequence unet losses",
    "Training": "training augmentation checkpoints parallel memory finite",
    "The latent": "latent uncertainty prior",
    "Evaluation": "metrics",
    "Pictures, sliders, files": "charts plots surface diagram controls widgets export explorer",
    "Whole jobs, and the measurements of the series": "pipeline arms ladder crossval studies",
    "Exercises and commands": "checks __main__",
    "Underneath": "errors files progress",
}


def modules() -> list[str]:
    """Every public room of the library: its modules and packages, and the command line."""
    found = [p.stem for p in LIBRARY.glob("*.py")] + [p.parent.name for p in LIBRARY.glob("*/__init__.py")]
    return sorted(name for name in found if name == "__main__" or not name.startswith("_"))


def parts(room: str) -> list[str]:
    """The modules that a room documents, by full name: itself, and for a package those in it."""
    inside = sorted(p.stem for p in (LIBRARY / room).glob("*.py") if not p.stem.startswith("_"))
    return [f"vaelib.{room}", *(f"vaelib.{room}.{name}" for name in inside)]


def purpose(room: str) -> str:
    """What a room is for: the first paragraph of its docstring."""
    path = LIBRARY / room / "__init__.py"
    text = (path if path.exists() else LIBRARY / f"{room}.py").read_text(encoding="utf-8")
    return " ".join(ast.get_docstring(ast.parse(text)).split("\n\n")[0].split())


def title(text: str, line: str) -> str:
    """A heading in reStructuredText."""
    return f"{text}\n{line * len(text)}\n"


def page(room: str) -> str:
    """The page of one room."""
    name = "vaelib" if room == "__main__" else f"vaelib.{room}"
    blocks = [title(f"``{name}``" + (" on the command line" if room == "__main__" else ""), "=")]
    for part in parts(room):
        if part != f"vaelib.{room}":
            blocks.append(title(f"``{part}``", "-"))
        blocks.append(f".. automodule:: {part}\n   :members:\n   :ignore-module-all:\n   :member-order: bysource\n")
    return "\n".join(blocks)


def overview() -> str:
    """The page above them: every room, in its group, with what it is for."""
    start = Path(__file__).with_name("api.rst").read_text(encoding="utf-8")
    blocks, rooms = [start], []
    for group, names in GROUPS.items():
        rooms += names.split()
        lines = [f":doc:`api/{name}`\n   {purpose(name)}\n" for name in names.split()]
        blocks += [title(group, "-"), *lines]
    tree = "".join(f"   api/{name}\n" for name in rooms)
    return "\n".join([*blocks, f".. toctree::\n   :hidden:\n\n{tree}"])


def write(folder: Path):
    """Write the reference into the sources of the book.

    Raises
    ------
    SystemExit
        If a room of the library has no place in `GROUPS`, or one that is gone still has.
    """
    placed = " ".join(GROUPS.values()).split()
    if sorted(placed) != modules():
        raise SystemExit(f"book/rooms.py: GROUPS and the library differ in {sorted({*placed} ^ {*modules()})}")
    (folder / "api").mkdir(parents=True, exist_ok=True)
    (folder / "api.rst").write_text(overview(), encoding="utf-8")
    for room in placed:
        (folder / "api" / f"{room}.rst").write_text(page(room), encoding="utf-8")
