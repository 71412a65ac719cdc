"""Scores side by side: the baselines that need no network, a scoreboard over patients, and a report over folds.

What they leave to look at: a table of all patients, the scoreboard as JSON, and the worst cases drawn.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaelib import metrics
from vaelib.cohort import Cohort, Slices, open_cohort
from vaelib.cohorts.layout import models_folder
from vaelib.cohorts.windows import Outlined
from vaelib.engine.errors import InputError
from vaelib.engine.files import atomic_write, hash_of, json_ready, write_file
from vaelib.engine.options import FOLDS
from vaelib.engine.rows import Rows
from vaelib.engine.shards import keys_of, open_case
from vaelib.engine.states import is_finished
from vaelib.levels import FULL

SHOWN = 6  # of the worst cases
METRICS = "dice", "iou", "hd95"

Scores = tuple[np.ndarray | Rows, dict[str, float]]  # a method's probabilities, and its threshold at each side


class Usable(NamedTuple):
    """What a checkpoint can do.

    Attributes
    ----------
    method : str
        What it is called on a scoreboard.
    level : int
        Of the slices that it is given.
    predict : callable
        From a scan (S, 2^level, 2^level), windowed, and its spacing (dz, dy, dx) in mm to what is `Outlined` on it.
    tell : callable
        From the same to what tells its slices, (S', D); see `vaelib.cohorts.typical`.
    """

    method: str
    level: int
    predict: Callable[[np.ndarray, Sequence[float]], Outlined]
    tell: Callable[[np.ndarray, Sequence[float]], np.ndarray]

    def maps(self, lab: Cohort, s: Slices) -> Rows:
        """Predict the slices of whole patients, one patient after the other, when they are asked for: (N, 1, H, W)."""

        def compute(rows: np.ndarray) -> np.ndarray:
            spacing = metrics.spacing_at(lab.shards, s.patient[rows[0]], self.level)
            return self.predict(s.images[rows][:, 0], spacing).probability[:, None]

        return Rows(len(s.patient), compute)

    def codes(self, lab: Cohort, s: Slices) -> list[np.ndarray]:
        """Tell the slices of each patient."""
        spacing = {name: metrics.spacing_at(lab.shards, name, self.level) for name in s.rows}
        return [self.tell(s.of(name).images[:, 0], mm) for name, mm in spacing.items()]


def by_patient(array: np.ndarray | Rows, patient: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Take rows (N, 1, H, W) apart by patient, one by one: the name and (S, H, W)."""
    for name, rows in metrics.per_patient(patient).items():
        yield name, array[rows][:, 0]


def baselines(shards: Path, train: Slices, val: Slices, test: Slices, level: int) -> dict[str, Scores]:
    """Make what needs no network, as (probability, thresholds) by name: an empty mask, the atlas, the ceiling.

    The ceiling is the true occupancy put back: no method that works at this level can do better.
    """
    atlas = metrics.atlas(train)
    at = lambda s: Rows(len(s.position), lambda rows: atlas(s.position[rows]))  # noqa: E731
    nothing = Rows(len(test.position), lambda rows: np.zeros_like(test.masks[rows]))
    methods: dict[str, Scores] = {"empty mask": (nothing, dict.fromkeys((str(2**level), str(2**FULL)), 0.5))}
    others = {"mean-shape atlas": (at(val), at(test)), "ceiling of the downscaling": (val.masks, test.masks)}
    for name, (on_val, on_test) in others.items():
        methods[name] = on_test, metrics.best_thresholds(shards, by_patient(on_val, val.patient), level)
    return methods


def scoreboard(shards: Path, methods: dict[str, Scores], patient: np.ndarray, level: int) -> dict:
    """Score methods, given as (probability (N, 1, H, W), thresholds) by name, on the patients of test slices.

    Returns
    -------
    dict
        By method: its ``thresholds``, and by side ("64", "512") and metric the per-patient ``values``, their
        ``mean`` and the bounds ``low`` and ``high`` of its 95% interval.
    """
    board = {}
    for name, (probability, thresholds) in methods.items():
        scores = metrics.score(shards, by_patient(probability, patient), level, thresholds)
        sides = {side: {m: _interval(values) for m, values in rows.items()} for side, rows in scores.items()}
        board[name] = {"thresholds": thresholds} | sides
    return board


def _interval(values: list[float]) -> dict:
    return metrics.bootstrap(values)._asdict() | {"values": values}


def fold_report(folds: list[dict]) -> dict:
    """Join all folds: by method, side and metric the values of every patient, their mean and 95% interval.

    The interval resamples patients over all folds. It holds their chance and not that of training: patients of
    one fold share a model.
    """
    patients, methods = [name for fold in folds for name in fold["test"]], {}
    for name, sides in folds[0]["methods"].items():
        methods[name] = {side: {} for side in sides if side.isdigit()}
        for side, rows in methods[name].items():
            for metric in sides[side]:
                values = [v for fold in folds for v in fold["methods"][name][side][metric]["values"]]
                rows[metric] = _interval([float("inf") if v is None else v for v in values])
    return json_ready({"patients": patients, "folds": [len(fold["test"]) for fold in folds], "methods": methods})


def board_table(board: dict, dice: str = "Dice {mean:.3f}") -> str:
    """Write a scoreboard in aligned columns: the Dice of each method at each side."""
    cell = (dice + " at {side}").format
    rows = {
        name: [cell(side=side, **row[side]["dice"]) for side in row if side.isdigit()] for name, row in board.items()
    }
    return "\n".join(f"{name:28s} {'  '.join(cells)}" for name, cells in rows.items())


def fold_table(board: dict) -> str:
    """Write a report in aligned columns: Dice with its interval at each side, over all patients."""
    named = {f"{name:28s} Dice": sides for name, sides in board["methods"].items()}
    head = f"{len(board['patients'])} patients, each tested once, in folds of {board['folds']}\n"
    return head + board_table(named, "{mean:.3f} ({low:.3f} to {high:.3f})")


def patient_table(board: dict[str, Any], patients: Sequence[str]) -> str:
    """Write scores as CSV, a row for each method, side and patient; an infinite HD95, null in JSON, is "inf"."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(["method", "side", "patient", *METRICS])
    for method, sides in board.items():
        for side in filter(str.isdigit, sides):
            for patient, *row in zip(patients, *(sides[side][name]["values"] for name in METRICS), strict=True):
                write([method, side, patient, *("inf" if value is None else value for value in row)])
    return out.getvalue()


def mark(checkpoint: Path) -> str:
    """Identify a checkpoint by the hash of its file (SHA-256)."""
    return hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()


def leave(out: Path, board: dict[str, Any], checkpoint: Path, lab: Cohort, maps: Rows, cut: float) -> None:
    """Write ``scores.csv``, ``scoreboard.json`` and ``worst.png`` into a folder.

    The picture shows the test patients of the lowest Dice at full size, each at the slice with most of truth and error.

    Parameters
    ----------
    out : Path
    board : dict
        As `scoreboard` and `json_ready` make it; its last method is that of the checkpoint.
    checkpoint : Path
    lab : Cohort
        The patients tested.
    maps : Rows, (N, 1, H, W)
        The method's probabilities on their slices.
    cut : float
        Its threshold at full size.
    """
    from vaelib.pictures import gallery, png  # Matplotlib takes a second to import

    patients, (*_, (_, sides)), drawn = [*lab.test.rows], board.items(), []
    dice, far = (sides[str(2**FULL)][name]["values"] for name in ("dice", "hd95"))
    for at in np.argsort(dice, kind="stable")[:SHOWN]:
        name, mm = patients[at], "infinite" if far[at] is None else f"{far[at]:.0f} mm"
        found = metrics.enlarge(maps[lab.test.rows[name]][:, 0], 2**FULL) >= cut
        truth = metrics.truth_at(lab.shards, name, FULL)
        k = int((found | truth).sum((1, 2)).argmax())  # the slice with most of truth and error
        title = f"{name if len(name) < 25 else '...' + name[-20:]}\nDice {dice[at]:.2f}, HD95 {mm}"
        image = open_case(lab.shards, name, FULL).images[k]
        drawn.append([image, truth[k], found[k], title, metrics.spacing_at(lab.shards, name, FULL)])
    about = {"checkpoint": Path(checkpoint).name, "sha256": mark(checkpoint), "patients": patients, "methods": board}
    write_file(out / "worst.png", png(gallery(*zip(*drawn, strict=True))))
    write_file(out / "scores.csv", patient_table(board, patients))
    write_file(out / "scoreboard.json", json.dumps(about, indent=1))


def run_folds(
    train: Callable[..., Any], evaluate: Callable[..., dict], folder: str | Path | None, out: Path, only: int | None,
    training: dict[str, Any],
) -> dict | None:  # fmt: skip
    """Train and score the folds that are not finished, and report once all are; see `vaelib.recipes.cross_validate`."""
    if only is not None and not 0 <= only < FOLDS:
        raise InputError(f"fold {only}: there are {FOLDS}, from 0 to {FOLDS - 1}")
    made = [out / f"fold{k}.json" for k in range(FOLDS)]
    for k in range(FOLDS) if only is None else [only]:
        lab = open_cohort(folder, fold=k)
        keys = keys_of(lab.shards, sorted(sum(lab.parts.values(), [])))  # what the shards of all patients are made from
        made_by = {"fold": k} | training | {"cohort": models_folder(lab.folder).name, "data": hash_of(keys)}
        if is_finished(made[k], made_by):
            continue
        checkpoint = made[k].with_suffix(".safetensors")
        train(lab.folder, out=checkpoint, fold=k, resume=True, overwrite=True, **training)
        with atomic_write(made[k].with_suffix(".png")) as picture:  # all else that is left beside it goes
            board = evaluate(lab.folder, checkpoint=checkpoint, out=picture.parent)
            (picture.parent / "worst.png").rename(picture)
        write_file(made[k], json.dumps({"made_by": made_by, "test": lab.parts["test"], "methods": board}, indent=1))
    done = [json.loads(path.read_text()) for path in made if path.exists()]
    if len(done) < len(made) or len({fold["made_by"]["data"] for fold in done}) > 1:
        return None
    board = fold_report(done)
    write_file(out / "scores.csv", patient_table(board["methods"], board["patients"]))
    write_file(out / "report.json", json.dumps(board, indent=1))
    return board
