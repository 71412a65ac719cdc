"""A folder of real slices with masks, read as slices of patients."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from vaelib.cohort import Slices
from vaelib.engine.errors import InputError
from vaelib.levels import downscale

FOLDS, LEVEL = 5, 6
NAME = re.compile(r"(?P<patient>.+)-(?P<number>\d+)\.(png|jpe?g)$", re.IGNORECASE)


def read_folder(folder: str | Path, level: int = LEVEL) -> Slices:
    """Read a folder of slices with masks at 64 x 64, or another level, in canonical order, patient by patient.

    Raises
    ------
    InputError
        A mask is missing, a name does not parse, sizes differ, or there are too few patients: it names the file.
    """
    folder, found = Path(folder), {}
    for path in sorted((folder / "images").glob("[!.]*")):
        if not (match := NAME.match(path.name)):
            raise InputError(f"{path}: its name is not <patient>-<number>.png or .jpg; rename it, or take it out")
        if not (mask := folder / "masks" / path.name).is_file():
            raise InputError(f"{mask}: is missing, and the slice is there; add the mask, or take the slice out")
        image, truth = _read(path), _read(mask)
        if image.shape != truth.shape:
            raise InputError(f"{mask}: has {truth.shape} pixels, its slice {image.shape}; take a mask of that slice")
        pair = _small(path, image / np.float32(255), level), _small(mask, truth > 127, level)
        found.setdefault(match["patient"], []).append((int(match["number"]), *pair))
    if len(found) < FOLDS:
        raise InputError(f"{folder}: {len(found)} patient(s) in images/, too few for {FOLDS} folds; add patients")
    rows = [(name, *row) for name, of_one in sorted(found.items()) for row in sorted(of_one, key=lambda r: r[0])]
    patient = np.array([row[0] for row in rows])
    images, masks = (np.stack([row[k] for row in rows])[:, None] for k in (2, 3))
    if without := [name for name in found if not masks[patient == name].any()]:
        raise InputError(f"{folder / 'masks'}: of {', '.join(without)} no pixel is above 127; take out who has no mask")
    return Slices(images, masks, patient, np.zeros(len(rows)))


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            deep, array = picture.mode[0] in "IF", np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError):
        raise InputError(f"{path}: cannot be read as a picture; fetch it again, or take it out") from None
    if deep:
        raise InputError(f"{path}: has more than 8 bits a pixel; clip HU to 0 to 255, and write it anew")
    return array


def _small(path: Path, array: np.ndarray, level: int) -> np.ndarray:
    """Turn a slice so that the front is above, and take it to a level."""
    try:
        return downscale(np.flipud(array), level)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
