"""What interrupted runs have left of a checkpoint: a state for each network, named by what made it."""

import glob
import warnings
from collections.abc import Sequence
from pathlib import Path

KEY = 12  # letters of the key that are in a name


def states_of(out: Path, names: Sequence[str], key: str) -> list[Path]:
    """Name the states of a run of the checkpoint `out`, one for each network: ``m.vae.0123456789ab.state``."""
    return [out.with_suffix(f".{name}.{key[:KEY]}.state") for name in names]


def left_of(out: Path, names: Sequence[str]) -> list[Path]:
    """Find all states of a checkpoint, whatever their key, and of no other whose name only begins alike."""
    patterns = [f"{glob.escape(out.stem)}.{name}.{'?' * KEY}.state" for name in names]
    return sorted(path for pattern in patterns for path in out.parent.glob(pattern))


def look_over(out: Path, names: Sequence[str], mine: Sequence[Path], resume: bool) -> None:
    """Remove all states where nothing is to be resumed; else name those that are of another run than mine."""
    for path in left_of(out, names):
        if not resume:
            path.unlink(missing_ok=True)
        elif path not in mine:
            warnings.warn(f"{path}: belongs to a run on other data, or with another beta; it is not used", stacklevel=3)
