"""Who learns, who is validated on and who is tested: by patient, the same on every machine."""

import hashlib
from collections.abc import Iterable

from vaelib.engine.errors import InputError
from vaelib.engine.options import FOLDS


def _draw(seed: int, name: str) -> bytes:
    """Draw the lot of a patient, the same on every machine: the SHA-256 of the seed and the name."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def split(patients: Iterable[str], *, seed: int = 0) -> dict[str, list[str]]:
    """Split patients into training, validation and test; never slices, so no one is in two sets.

    A tenth of them is for validation, a quarter for the test, one of each at least, and the rest for training.
    A patient's place in line is the SHA-256 of the seed and the name: it is the same on every machine
    and in whatever order the patients are given.

    Parameters
    ----------
    patients : iterable of str
    seed : int
        Another seed, another split.

    Returns
    -------
    dict of str to list
        "train", "val" and "test", each sorted by name.

    Raises
    ------
    InputError
        Fewer than three patients.
    """
    names = sorted(set(patients))
    val, test = (max(1, round(share * len(names))) for share in (0.1, 0.25))
    train = len(names) - val - test
    if train < 1:
        raise InputError(f"{len(names)} patient(s): too few to train, validate and test on; three is the least")
    names.sort(key=lambda name: _draw(seed, name))
    parts = {"train": names[:train], "val": names[train : train + val], "test": names[train + val :]}
    return {part: sorted(members) for part, members in parts.items()}


def folds(patients: Iterable[str], *, count: int = FOLDS, seed: int = 0) -> list[dict[str, list[str]]]:
    """Split patients into folds for cross-validation: each is tested once, by a model that never saw them.

    A patient's fold is the SHA-256 of the seed and the name, modulo `count`. It depends on nobody else, so a
    patient who joins the cohort moves no one; the price is that folds are of roughly, not exactly, equal size.
    Validation patients are chosen by a second hash: a fifth of the others, and at least twelve, since they choose a
    threshold; or a quarter, where the others are fewer than 48.

    Parameters
    ----------
    patients : iterable of str
    count : int
        Number of folds.
    seed : int
        Another seed, other folds.

    Returns
    -------
    list of dict of str to list
        For each fold, "train", "val" and "test", each sorted by name. "test" of all together is the cohort.

    Raises
    ------
    InputError
        A fold without test patients, or without two others to train and validate on.
    """
    names = sorted(set(patients))
    draw = {name: _draw(seed, name) for name in names}
    fold = {name: int.from_bytes(draw[name][:8]) % count for name in names}
    out = []
    for k in range(count):
        test = [name for name in names if fold[name] == k]
        rest = sorted((name for name in names if fold[name] != k), key=lambda name: draw[name][8:])
        if not test or len(rest) < 2:
            found = f"fold {k} would test {len(test)} and leave {len(rest)} to learn from"
            raise InputError(f"{len(names)} patient(s) are too few for {count} folds: {found}; add patients")
        few = sum(draw[name][8] < 51 for name in rest)  # a byte is below 51 one time in five
        val = rest[: min(max(1, few, min(12, len(rest) // 4)), len(rest) - 1)]
        out.append({"train": sorted({*rest} - {*val}), "val": sorted(val), "test": test})
    return out
