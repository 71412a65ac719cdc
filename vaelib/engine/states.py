"""What runs leave beside a checkpoint: a state for each network while it is trained, and the scores of it when done."""

import glob
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaelib.engine.errors import InputError
from vaelib.engine.files import hash_of
from vaelib.engine.parallel import is_first

KEY = 12  # letters of the hash that are in a name


def states_of(out: Path, names: Sequence[str], made_of: Any, *, resume: bool) -> list[Path]:
    """Name the states of a run of the checkpoint `out`, one for each network: ``m.vae.0123456789ab.state``.

    Where nothing is to be resumed, those that are there are removed; else those of another run are named in a warning.
    Of several processes the first does so.

    Parameters
    ----------
    made_of : JSON
        What a run is resumed by: a state of anything else is another run's.
    """
    mine = [out.with_suffix(f".{name}.{hash_of(made_of)[:KEY]}.state") for name in names]
    if is_first() and not resume:
        remove_states(out, names)
    for path in left_of(out, names) if is_first() else ():
        if path not in mine:
            warnings.warn(f"{path}: belongs to a run on other data, or with another beta; it is not used", stacklevel=3)
    return mine


def left_of(out: Path, names: Sequence[str]) -> list[Path]:
    """Find all states of a checkpoint, whatever their hash, and of no other whose name only begins alike."""
    patterns = [f"{glob.escape(out.stem)}.{name}.{'?' * KEY}.state" for name in names]
    return sorted(path for pattern in patterns for path in out.parent.glob(pattern))


def remove_states(out: Path, names: Sequence[str]) -> None:
    """Remove all states of a checkpoint."""
    for path in left_of(out, names):
        path.unlink(missing_ok=True)


def is_finished(scores: Path, made_by: dict) -> bool:
    """Tell whether these scores are there, made by the same settings and data.

    Raises
    ------
    InputError
        Other settings; where only the ``data`` are others, it is done anew.
    """
    if not scores.exists():
        return False
    try:
        found = dict(json.loads(scores.read_text(encoding="utf-8"))["made_by"])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{scores}: is damaged, or not of `vaelib folds`; remove it, or name another folder") from None
    found.setdefault("cohort", made_by.get("cohort"))  # of before it was said
    if asked := {key: value for key, value in made_by.items() if key != "data" and found.get(key) != value}:
        differing = {key: found.get(key) for key in asked}
        raise InputError(f"{scores}: was made with {differing}, not {asked}; name another folder for the results")
    return found.get("data") == made_by["data"]
