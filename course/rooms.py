"""What `vaelib` consists of: the files of its root, in the order of the lessons, and the folders that they stand on.

This is the one list of them. The reference of the book and the slide of the library are made of it, and it is compared
with the files that are there.
"""

import ast

from course.places import LIBRARY

# File of the root: the lesson that teaches it, and what it is about in a few words.
TAUGHT = {
    "volumes": ("01", "HU, and a mask\non the same grid"),
    "levels": ("02", "window, halve,\noccupancy"),
    "vae": ("03", "encoder, sample,\ndecoder"),
    "losses": ("03", "error and KL,\nbeta"),
    "training": ("03", "the loop"),
    "latent": ("04", "encode, walk,\ndirections"),
    "metrics": ("05", "Dice per patient,\nin 3D"),
    "spatial": ("06", "a latent that\nkeeps its place"),
    "rivals": ("06", "the U-Net\nand others"),
    "sequence": ("08", "slice after slice,\nand volumes"),
    "uncertainty": ("11", "more than\na mask"),
    "cohort": ("", "slices, split\nby patient"),
    "detached": ("", "a VAE, a decoder\nof its latents"),
    "two_stage": ("", "coarse to fine,\nin mm"),
    "recipes": ("", "train, evaluate,\nsegment"),
    "cli": ("", "the commands"),
}


def root_files() -> list[str]:
    """List the files of the root of `vaelib`, in the order in which the lessons teach them.

    Raises
    ------
    SystemExit
        If a file has no place in `TAUGHT`, or one that is gone still has.
    """
    found = {path.stem for path in LIBRARY.glob("*.py") if not path.stem.startswith("_")}
    if odd := found ^ {*TAUGHT}:
        raise SystemExit(f"course/rooms.py: TAUGHT and the root of vaelib differ in {sorted(odd)}")
    return list(TAUGHT)


def folders() -> list[str]:
    """List the folders of `vaelib`."""
    return sorted(path.parent.name for path in LIBRARY.glob("*/__init__.py") if not path.parent.name.startswith("_"))


def modules(room: str) -> list[str]:
    """List what a file or folder of `vaelib` holds, by full name: itself, and the files in it."""
    inside = sorted(p.stem for p in (LIBRARY / room).glob("*.py") if not p.stem.startswith("_"))
    return [f"vaelib.{room}", *(f"vaelib.{room}.{name}" for name in inside)]


def purpose(room: str) -> str:
    """Say what a file or folder is for: the first paragraph of its docstring."""
    path = LIBRARY / room / "__init__.py"
    text = (path if path.exists() else LIBRARY / f"{room}.py").read_text(encoding="utf-8")
    return " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
