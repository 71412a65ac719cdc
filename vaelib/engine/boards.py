"""Scores side by side: the baselines that need no network, a scoreboard over patients, and a report over folds."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vaelib import metrics
from vaelib.cohort import Cohort, Slices
from vaelib.cohorts.windows import Outlined
from vaelib.engine.files import json_ready
from vaelib.engine.rows import Rows
from vaelib.levels import FULL

Scores = tuple[np.ndarray | Rows, dict[str, float]]  # a method's probabilities, and its threshold at each side


class Usable(NamedTuple):
    """What a checkpoint can do.

    Attributes
    ----------
    level : int
        Of the slices that it is given.
    predict : callable
        From a scan (S, 2^level, 2^level), windowed, and its spacing (dz, dy, dx) in mm to what is `Outlined` on it.
    """

    level: int
    predict: Callable[[np.ndarray, Sequence[float]], Outlined]

    def maps(self, lab: Cohort, s: Slices) -> Rows:
        """Predict the slices of whole patients, one patient after the other, when they are asked for: (N, 1, H, W)."""

        def compute(rows: np.ndarray) -> np.ndarray:
            spacing = metrics.spacing_at(lab.shards, s.patient[rows[0]], self.level)
            return self.predict(s.images[rows][:, 0], spacing).probability[:, None]

        return Rows(len(s.patient), compute)

    def codes(self, lab: Cohort, s: Slices) -> list[np.ndarray]:
        """Tell the slices of each patient by their latents; see `vaelib.cohorts.typical`."""
        spacing = {name: metrics.spacing_at(lab.shards, name, self.level) for name in s.rows}
        return [self.predict(s.of(name).images[:, 0], mm).codes for name, mm in spacing.items()]


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


def fold_table(board: dict) -> str:
    """Write a report in aligned columns: Dice with its interval at each side, over all patients."""
    cell = "{mean:.3f} ({low:.3f} to {high:.3f}) at {side}"
    lines = [f"{len(board['patients'])} patients, each tested once, in folds of {board['folds']}"]
    for name, sides in board["methods"].items():
        cells = [cell.format(side=side, **rows["dice"]) for side, rows in sides.items()]
        lines.append(f"{name:28s} Dice " + "  ".join(cells))
    return "\n".join(lines)
