"""Cross-validation by patient: every patient is tested once, by networks that never saw them."""

import hashlib
import json
from pathlib import Path

from vaelib import metrics, pipeline
from vaelib.cohort import FOLDS, data_folder
from vaelib.errors import InputError
from vaelib.files import replace
from vaelib.pyramid import keys_of


def cross_validate(folder=None, *, out: Path, only: int | None = None, **training) -> dict | None:
    """Train and score each fold, and report over all patients together once every fold is there.

    A fold that is finished is kept, and an interrupted one goes on from its last epoch. So the folds may also run
    in as many processes at once, one a GPU, with `only`; whoever finishes last writes the report.

    Parameters
    ----------
    folder : path, optional
        The cohort; by default `cohort.data_folder()`.
    out : path
        Folder of the results: ``fold0.safetensors``, ``fold0.json``, ... and ``report.json``.
    only : int, optional
        Run this fold alone.
    **training
        For `pipeline.train`: level, latent, beta, epochs, seed.

    Returns
    -------
    dict or None
        The report (see `report`), or None while folds are missing.

    Raises
    ------
    InputError
        A fold in `out` was made with other settings; or no such fold.
    """
    folder, out = Path(folder or data_folder()), Path(out)
    if only is not None and not 0 <= only < FOLDS:
        raise InputError(f"fold {only}: there are {FOLDS}, from 0 to {FOLDS - 1}")
    for k in range(FOLDS) if only is None else [only]:
        shards, parts = pipeline.shards_and_split(folder, k)
        made_by = {"fold": k} | training | {"data": _identity(shards, sum(parts.values(), []))}
        if _finished(out / f"fold{k}.json", made_by):
            continue
        checkpoint = out / f"fold{k}.safetensors"
        pipeline.train(folder, out=checkpoint, fold=k, resume=True, **training)
        board = pipeline.evaluate(folder, checkpoint=checkpoint)
        scores = {"made_by": made_by, "test": parts["test"], "methods": board}
        replace(out / f"fold{k}.json", json.dumps(scores, indent=1))
    made = [out / f"fold{k}.json" for k in range(FOLDS)]
    if not all(path.exists() for path in made):
        return None
    board = report([json.loads(path.read_text()) for path in made])
    replace(out / "report.json", json.dumps(board, indent=1))
    return board


def _identity(shards, patients) -> str:
    """What the shards of these patients were made from, in one hash."""
    return hashlib.sha256(json.dumps(keys_of(shards, sorted(patients))).encode()).hexdigest()


def _finished(scores: Path, made_by: dict) -> bool:
    """Whether a fold is done. Other settings are an error; if the patients have changed, it is done anew."""
    if not scores.exists():
        return False
    found = json.loads(scores.read_text())["made_by"]
    differing = {key: found.get(key) for key in made_by if key != "data" and found.get(key) != made_by[key]}
    if differing:
        asked = {key: made_by[key] for key in differing}
        raise InputError(f"{scores}: was made with {differing}, not {asked}; name another folder for the results")
    return found["data"] == made_by["data"]


def report(folds: list[dict]) -> dict:
    """All folds together: by method, side and metric the values of every patient, their mean and 95% interval.

    The interval resamples patients over all folds. It holds their chance and not that of training: patients of
    one fold share a model.
    """
    patients = [name for fold in folds for name in fold["test"]]
    methods = {}
    for name, sides in folds[0]["methods"].items():
        methods[name] = {side: {} for side in sides if side.isdigit()}
        for side, rows in methods[name].items():
            for metric in sides[side]:
                lists = [fold["methods"][name][side][metric]["values"] for fold in folds]
                values = [float("inf") if v is None else v for each in lists for v in each]
                rows[metric] = metrics.bootstrap(values)._asdict() | {"values": values}
    return pipeline.finite({"patients": patients, "folds": [len(fold["test"]) for fold in folds], "methods": methods})


def table(board: dict) -> str:
    """A report in aligned columns: Dice with its interval at each side, over all patients."""
    lines = [f"{len(board['patients'])} patients, each tested once, in folds of {board['folds']}"]
    for name, sides in board["methods"].items():
        cells = [
            f"{r['dice']['mean']:.3f} ({r['dice']['low']:.3f} to {r['dice']['high']:.3f}) at {side}"
            for side, r in sides.items()
        ]
        lines.append(f"{name:28s} Dice " + "  ".join(cells))
    return "\n".join(lines)
