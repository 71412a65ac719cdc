"""Scores of test patients, one row for each arm, seed and patient, and what may be concluded from them.

They stand in ``results/<study>.csv``, which is read again, so that a later run goes on where this one ended.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

import studies
from vaelib import metrics
from vaelib.cohort import Cohort, Slices, load_slices
from vaelib.engine.files import json_ready, write_file
from vaelib.engine.rows import Rows
from vaelib.engine.workers import map_in_processes

MEASURES = ("dice", "surface dice 2 mm", "volume error", "hd95 mm")
DRAWS = 4000
Cell = tuple[str, int]  # an arm and a seed
Cells = dict[Cell, dict[str, dict[str, float]]]  # by patient and measure


def measure(probability: np.ndarray | Rows, threshold: float, slices: Slices, spacing: Mapping) -> dict:
    """Score each patient in 3D: Dice, surface Dice at 2 mm, signed error of the volume, HD95 in mm; by patient.

    Parameters
    ----------
    probability : (N, 1, H, W)
    threshold : float
    slices : Slices
        Whose truth is an occupancy of at least `metrics.TRUTH`.
    spacing : by patient, (dz, dy, dx) in mm
    """
    out = {}
    for name, rows in slices.rows.items():
        found, share = probability[rows][:, 0] >= threshold, slices.masks[rows][:, 0]
        out[name] = scores(found, share >= metrics.TRUTH, share.sum(), spacing[name])
    return out


def scores(found: np.ndarray, truth: np.ndarray, volume: float, mm: Sequence[float]) -> dict[str, float]:
    """Score the mask of one patient (S, h, w): `MEASURES`; `volume` is the true one in voxels of `mm`."""
    values = metrics.dice(found, truth), metrics.surface_dice(found, truth, mm), found.sum() / volume - 1
    return dict(zip(MEASURES, (*map(float, values), metrics.hd95(found, truth, mm)), strict=True))


def read_cells(study: str, folder: Path | None = None) -> Cells:
    """Read the rows of a study; none where it has not been made."""
    path, cells = (folder or studies.RESULTS) / f"{study}.csv", {}
    if path.exists():
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            key, patient = (row.pop("arm"), int(row.pop("seed"))), row.pop("patient")
            cells.setdefault(key, {})[patient] = {name: float(value) for name, value in row.items()}
    return cells


def write_cells(study: str, cells: Cells, folder: Path | None = None) -> Path:
    """Write the rows of a study, the file as a whole."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [*next(iter(next(iter(cells.values())).values()))]
    writer.writerow(("arm", "seed", "patient", *names))
    for (arm, seed), scores in cells.items():
        for patient, row in scores.items():
            writer.writerow((arm, seed, patient, *(f"{row[name]:.4g}" for name in names)))
    return write_file((folder or studies.RESULTS) / f"{study}.csv", out.getvalue())


def table_of(cells: Cells, arm: str, name: str = "dice", like: str | None = None) -> np.ndarray:
    """Put the scores of an arm in an array (seeds, patients), in order; of the seeds alone that `like` has too."""
    seeds = sorted(seed for at, seed in cells if at == arm and (like or arm, seed) in cells)
    return np.array([[row[name] for _, row in sorted(cells[arm, seed].items())] for seed in seeds])


def interval(
    scores: np.ndarray, against: np.ndarray | None = None, together: bool = False, draws: int = DRAWS
) -> dict[str, float]:
    """Average scores (seeds, patients), with a 95% interval over seeds *and* patients, which are drawn anew each time.

    Parameters
    ----------
    scores : ndarray, (seeds, patients)
    against : ndarray, (seeds, patients), optional
        Another method on the same patients, to be subtracted: patients are drawn for both alike, seeds for each alone,
        since seed 1 of one network has nothing in common with seed 1 of another.
    together : bool
        Draw seeds for both alike too: where a seed stands for the patients that both have learned from.

    Returns
    -------
    dict
        ``mean``, ``low`` and ``high``; ``p``, twice the share of draws on the smaller side of zero, at least 1 / draws.
    """
    rng, patients = np.random.default_rng(0), scores.shape[1]
    means = np.zeros(draws)
    at = rng.integers(patients, size=(draws, patients))
    seeds = np.empty((0, 0), int)
    for sign, values in ((1, scores), (-1, against)):
        if values is not None:
            seeds = seeds if together and seeds.size else rng.integers(len(values), size=(draws, len(values)))
            means += sign * np.stack([values[s][:, a].mean() for s, a in zip(seeds, at, strict=True)])
    mean = scores.mean() - (0 if against is None else against.mean())
    low, high = np.quantile(means, (0.025, 0.975))
    p = min(1.0, max(2 * min((means <= 0).mean(), (means >= 0).mean()), 1 / draws))
    return {"mean": float(mean), "low": float(low), "high": float(high), "p": float(p)}


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Correct p values for their number (Holm 1979, Scandinavian Journal of Statistics 6)."""
    order, worst, out = sorted(p, key=lambda name: p[name]), 0.0, {}
    for k, name in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - k) * p[name]))
        out[name] = worst
    return {name: out[name] for name in p}


def ranked_first(tables: Mapping[str, np.ndarray], draws: int = DRAWS) -> dict[str, float]:
    """Say how often each method has the highest mean over resampled patients; each (seeds, patients)."""
    rng, means = np.random.default_rng(0), np.stack([table.mean(0) for table in tables.values()])
    at = rng.integers(means.shape[1], size=(draws, means.shape[1]))
    best = means[:, at].mean(-1).argmax(0)
    return {name: float((best == k).mean()) for k, name in enumerate(tables)}


def detectable(differences: np.ndarray, patients: int) -> float:
    """Foresee from paired differences (n,) of others what so many patients show in four trials of five."""
    return float(2.8 * np.std(differences, ddof=1) / np.sqrt(patients))


def compare(
    cells: Cells, base: str, arms: Iterable[str], measures: Sequence[str] = MEASURES, together: bool = False
) -> dict[str, dict]:
    """Summarize arms, and subtract `base` of the same seeds: Dice with its interval, the rest by medians."""
    arms = [arm for arm in arms if any(at == arm for at, _ in cells)]
    out: dict[str, dict] = {}
    for arm in arms:
        dice = table_of(cells, arm)
        out[arm] = {"seeds": len(dice), "dice": interval(dice), "by seed": dice.mean(1)}
        out[arm] |= {name: float(np.median(table_of(cells, arm, name))) for name in measures[1:]}
        if arm != base and base in arms:
            out[arm]["minus base"] = interval(dice, table_of(cells, base, like=arm), together)
    corrected = holm({arm: row["minus base"]["p"] for arm, row in out.items() if "minus base" in row})
    for arm, p in corrected.items():
        out[arm]["minus base"]["p by Holm"] = p
    first = ranked_first({arm: table_of(cells, arm) for arm in out}) if out else {}
    return {arm: row | {"ranked first": first[arm]} for arm, row in out.items()}


def held_out(lab: Cohort) -> Slices:
    """Take the old cohort's patients that nothing is learned from: 5 for validation, and 12 tested often before."""
    return load_slices(lab.shards, lab.parts["val"] + lab.parts["test"], lab.level)


def begin(study: str, plan: dict, folder: Path | None = None) -> tuple[dict, Cells]:
    """Take up what a study has found with this plan; where it was another, remove its cells and begin with nothing."""
    record = studies.read(study, folder)
    if record.get("plan") == json_ready(plan):
        return record, read_cells(study, folder)
    ((folder or studies.RESULTS) / f"{study}.csv").unlink(missing_ok=True)  # or a later run takes them for this plan's
    return {"plan": plan}, {}


def look(on_val: np.ndarray, val: Slices) -> dict[str, float]:
    """Say how good probabilities of held-out patients are: their ``dice`` at the best ``threshold``, and that."""
    cut = metrics.choose(on_val, val)
    return {"dice": float(metrics.dice_per_patient(on_val, cut, val).mean()), "threshold": cut}


def fill(
    study: str, cells: Cells, todo: Sequence[Cell], work: Callable, workers: int | None, record: dict | None = None
) -> Cells:
    """Compute the cells that are missing, write the file after each, and read it: a later run finds the same digits.

    Where there is a `record`, `work` returns facts beside the scores, which are written first, as ``facts`` by arm.
    """
    left = [cell for cell in todo if cell not in cells]
    for cell, made in zip(left, map_in_processes(work, left, workers=workers, desc=study, unit="cell"), strict=True):
        facts, cells[cell] = (None, made) if record is None else made
        if record is not None:
            record.setdefault("facts", {})[cell[0]] = facts
            studies.write(study, record)
        write_cells(study, cells)
    return read_cells(study)
