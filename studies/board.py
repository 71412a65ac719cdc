"""The file that every number in prose comes from: `results.json`, written section by section."""

import json
from pathlib import Path

from studies.ladder import RESULTS
from vaelib.engine.files import write_file
from vaelib.recipes import json_ready

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "notebooks" / "checkpoints"  # small enough to be committed, stored in half precision


def get(section: str, file: Path = RESULTS) -> dict:
    """A section of the results, empty where it has not been made."""
    return json.loads(file.read_text()).get(section, {}) if file.exists() else {}


def put(section: str, value: dict, file: Path = RESULTS) -> None:
    """Put a section into the results in place of the old one; the file is written whole."""
    board = json.loads(file.read_text()) if file.exists() else {}
    board[section] = json_ready(value)
    write_file(file, json.dumps(board, indent=1) + "\n")


def publish(path: Path, name: str) -> None:
    """Put a checkpoint, whole, among those that are committed for the notebooks."""
    write_file(CHECKPOINTS / f"{name}.safetensors", path.read_bytes())
