"""A model card in Markdown, from what a checkpoint and its scoreboard say; what they do not say stays unknown.

Its words stand in `card.toml`. Mitchell et al., *Model Cards for Model Reporting*, 2019, doi 10.1145/3287560.3287596.
"""

import json
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vaelib.cohort import Cohort
from vaelib.engine.boards import mark
from vaelib.engine.checkpoints import load, said_of
from vaelib.engine.errors import InputError
from vaelib.engine.files import write_file
from vaelib.engine.shards import meta_of
from vaelib.levels import FULL

WORDS = tomllib.loads(Path(__file__).with_name("card.toml").read_text("utf-8"))
PARTS = "made_by", "cohort", "recipe", "versions", "grids"  # of the metadata


def cohort_of(lab: Cohort) -> dict[str, Any]:
    """Say what a cohort is, for the metadata of a checkpoint: its name, its organ, whether synthetic, and its note."""
    metas = [meta_of(lab.shards, name) for part in lab.parts.values() for name in part]
    folder, layouts = Path(lab.folder or ".").resolve(), {meta["layout"] for meta in metas}
    notes = [path.read_text("utf-8", "replace") for name in WORDS["notes"] if (path := folder / name).is_file()]
    with suppress(OSError, ValueError, AttributeError):  # there is none, or it is no JSON, or no object
        said = json.loads((folder / "dataset.json").read_bytes()).items()
        notes.append("\n\n".join(f"{key}: {value}" for key, value in said if key in WORDS["told"]))
    real = layouts == {"idc"} and any(note.startswith("# Pancreas-CT") for note in notes)
    kind = "synthetic" if layouts == {"synthetic"} else "real" if real else "unknown"
    organs = sorted({str(meta.get("segment")) for meta in metas if meta["has_mask"]})
    note = "".join(notes[:1]).strip()[:4000]
    return {"cohort": folder.name, "organ": " or ".join(organs), "kind": kind, "note": note}


def leave(checkpoint: Path, scores: Path | None, out: Path | None) -> None:
    """Write a card to a file, or print it; see `vaelib card --help`."""
    if out is not None and out.exists():  # somebody may have written more into it
        raise InputError(f"{out}: is there, and stays; name another file with `--out`, or move it away")
    text = card(checkpoint, scores)
    print(text if out is None else f"{write_file(out, text + chr(10))}: holds the card of {checkpoint}")


def card(checkpoint: Path, scores: Path | None = None) -> str:
    """Write the model card of a checkpoint, with the scores of a scoreboard: the one given, or beside it.

    Raises
    ------
    InputError
        From `load` and `said_of`; or the scoreboard that is given is none of this checkpoint.
    """
    networks, meta = load(checkpoint)
    sides = [getattr(net, "config", {}).get("size", 0) for net in networks.values()]
    said = said_of(checkpoint, meta, 2**FULL if "grids" in meta else max(sides, default=0))
    part = {name: found if isinstance(found := meta.get(name), dict) else {} for name in PARTS}
    board, people, like = _board(checkpoint, scores), said["patients"] or {}, said["typical"] or {}
    slices = [f"{name} {' x '.join(map(str, grid['spacing']))} mm, {grid['side']} pixels a side"
              for name, grid in part["grids"].items() if isinstance(grid, dict)]  # fmt: skip
    slices = slices or [f"{2 ** said['level']} x {2 ** said['level']} pixels"] * (said["level"] > 0)
    known = {name: meta.get(name) for name in ("beta", "seed")} | part["made_by"].get("recipe", {}) | {
        **part["cohort"], **part["recipe"], "name": checkpoint.name,
        "kind": WORDS["kind"].get(str(part["cohort"].get("kind")), WORDS["kind"]["unknown"]),
        "patients": [f"{len(people[k])} {what}" for k, what in WORDS["patients"].items() if k in people],
        "split": ["the usual one" if said["fold"] is None else f"fold {said['fold']}"] * ("fold" in meta),
        "networks": [f"{name} ({type(net).__name__}, {sum(p.numel() for p in net.parameters()):,} parameters)"
                     for name, net in networks.items()],
        "slices": slices, "window": ["HU {:g} to {:g}".format(*said["window"])] * ("window" in meta),
        "thresholds": [f"{cut:.2f} at {side}" for side, cut in said["thresholds"].items()],
        "versions": [" ".join(pair) for pair in part["versions"].items()],
        "note": _worded("note", note=str(part["cohort"].get("note", "")).replace("\n", "\n> ")),
        "scores": _worded("scores", rows="\n".join(_rows(board)), count=len(board.get("patients", []))),
        "typical": _worded("typical", limit=like.get("limit")),
        "use": _worded("use", name=checkpoint.name if any(name.endswith("mask") for name in networks) else None),
    }  # fmt: skip
    text = {k: ", ".join(v) if isinstance(v, list) else v for k, v in known.items() if v not in ([], "", None)}
    return WORDS["text"].format_map(defaultdict(lambda: "not known", text))


def _worded(what: str, **facts: Any) -> str:
    """Say something in the words for what is known, or for what is not."""
    return WORDS[what]["known" if all(facts.values()) else "unknown"].format(**facts)


def _board(checkpoint: Path, given: Path | None) -> dict[str, Any]:
    """Read the scoreboard of a checkpoint; {} where there is none beside it, or one of another."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((given or checkpoint.with_name("scoreboard.json")).read_bytes())
        if found.get("sha256") == mark(checkpoint):
            return found
    if given:
        raise InputError(f"{given}: is no scoreboard of {checkpoint}; write one by `vaelib evaluate --out`")
    return {}


def _rows(board: dict[str, Any]) -> Iterator[str]:
    """Write the rows of a table of scores: mean and interval of each method at each side."""
    cell = "{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})".format
    for name, sides in board.get("methods", {}).items():
        for side in filter(str.isdigit, sides):
            dice, far = sides[side]["dice"], sides[side]["hd95"]
            mm = "infinite" if far["mean"] is None else cell(**far, digits=1)
            yield f"| {name} | {side} | {cell(**dice, digits=3)} | {mm} |"
