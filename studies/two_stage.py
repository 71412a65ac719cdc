"""How good is a mask at full size in a whole scan? Two stages in mm, and rivals that get the same windows.

The coarse stage is trained once and finds the window for every method; each fine one then learns on the same windows
and is put back on the scan's own voxels. Patients are those of ``vaelib phantom --whole --patients 40``, scanned from
the lungs' base to the pelvis. The threshold of each method is chosen on the validation patients' scans. The ceiling is
the true occupancy in the window that was found: what the grid and the coarse stage leave.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import studies
from studies import _arms, _cells
from vaelib import metrics, pictures, rivals, two_stage
from vaelib.cohort import Cohort, open_cohort
from vaelib.cohorts.layout import home, models_folder
from vaelib.cohorts.windows import FINE, Windows, slices_of, windows
from vaelib.detached import train_mask
from vaelib.dicom.millimetres import Window, put_back
from vaelib.engine.checkpoints import kept
from vaelib.engine.files import write_file
from vaelib.engine.shards import keys_of, open_case
from vaelib.levels import FULL
from vaelib.pictures.panels import around
from vaelib.pictures.style import png
from vaelib.spatial import ResidualVAE

STUDY, COARSE_SEED = "two_stage", 0
HOW: dict[str, Any] = {"batch_size": 16, "epochs": 25}
OURS, LINEAR, RIVAL, CEILING = "spatial VAE, detached", "patch PCA", "U-Net", "ceiling of the grid"
METHODS, SEEDS, TOGETHER = (OURS, LINEAR, RIVAL), (0, 1, 2), ", mean of three"  # of the fine stage
UNET = rivals.FROM_LABELS | {"passes": 57, "network": {"inputs": 3}, "batch_size": 16}  # passes of VAE and decoder
PLAN = {"patients": 40, "coarse seed": COARSE_SEED, "seeds": SEEDS, "grid": FINE, "how": HOW, "U-Net": UNET}


def pca_of(images: np.ndarray) -> ResidualVAE:
    """Make what the mask decoder reads in the place of our encoder's latent: patch PCA, as many numbers a place."""
    vae = ResidualVAE(FINE["side"], latent=8, grid=FINE["side"] // two_stage.PLACE)
    vae.encoder = _arms.PatchPCA(images, 8, two_stage.PLACE)
    return vae


def stages(lab: Cohort, seed: int, folder: Path) -> tuple[two_stage.Stage, Windows]:
    """Train the coarse stage of a seed and find the windows of all but the test patients; or load both."""
    everyone = [name for part in lab.parts.values() for name in part]

    def make() -> dict:
        coarse, found = two_stage.train_coarse(lab, {}, seed=seed, **HOW)
        found |= windows(lab.shards, lab.parts["test"], coarse.place)
        return {"vae": coarse.vae, "mask": coarse.mask, "cut": coarse.cut, "windows": found}

    made_by = {"data": keys_of(lab.shards, everyone), "parts": lab.parts, "how": HOW, "seed": seed}
    made = kept(folder / f"coarse_{seed}.safetensors", made_by, make)
    found = {name: Window(*map(tuple, window)) for name, window in made["windows"].items()}
    return two_stage.Stage(made["vae"], made["mask"], {}, made["cut"]), found


def cut_out(lab: Cohort, where: Windows) -> Cohort:
    """Read the windows of the training and validation patients, as a cohort that the fine stages learn from."""
    small = Cohort(lab.shards, lab.parts, FULL, lab.folder)
    for part in ("train", "val"):
        setattr(small, part, slices_of(lab.shards, {name: where[name] for name in lab.parts[part]}))
    return small


def fine(
    name: str, lab: Cohort, where: Windows, seed: int, folder: Path, read: Callable[[], Cohort]
) -> tuple[rivals.Method, float]:
    """Train a fine stage on what `read` gives, or load it: the method, and its CPU seconds."""

    def make() -> dict:
        small, began = read(), time.process_time()
        if name == RIVAL:
            made: dict[str, Any] = rivals.ARMS["U-Net, three slices"].train(small, seed, UNET)
        elif name == OURS:
            found = two_stage.stage(small.train, small.train, small.val, seed=seed, **HOW)
            made = {"vae": found.vae, "mask": found.mask, "history": found.history}
        elif code is not None:
            mask, _ = train_mask(code, small.train, small.val, seed=seed, batch_size=HOW["batch_size"])
            made = {"mask": mask}
        return made | {"cpu seconds": round(time.process_time() - began)}

    code = pca_of(read().train.images) if name == LINEAR else None
    made_by = {"windows": where, "data": keys_of(lab.shards, [*where])}
    made_by |= {"arm": [name, seed, HOW, *([UNET] if name == RIVAL else [])]}
    made = kept(folder / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}.safetensors", made_by, make)
    method = rivals.EndToEnd(made) if name == RIVAL else rivals.Detached(made | ({"vae": code} if code else {}))
    return method, made["cpu seconds"]


def on_scan(lab: Cohort, name: str, window: Window, predict: Any) -> np.ndarray:
    """Predict a patient's window and put it back on the scan's own voxels: (S, H, W)."""
    slices, scan = slices_of(lab.shards, {name: window}), open_case(lab.shards, name, FULL).images
    return put_back(predict(slices)[:, 0], window, scan.shape, metrics.spacing_at(lab.shards, name, FULL))


def found(cell: _cells.Cell, lab: Cohort) -> tuple[Callable[[str], np.ndarray], float, float]:
    """Train or load a fine stage, or the mean of its trainings: a patient's probabilities, threshold, CPU seconds."""
    (name, seed), folder = cell, models_folder(lab.folder) / STUDY
    where, kind = stages(lab, COARSE_SEED, folder)[1], name.removesuffix(TOGETHER)
    seeds = () if name == CEILING else (seed,) if name == kind else SEEDS
    read = cache(partial(cut_out, lab, where))  # once for all seeds, and not where a stage is loaded
    made = [fine(kind, lab, where, k, folder, read) for k in seeds]
    predict = lambda s: np.mean([m.predict(s) for m, _ in made], axis=0) if made else s.masks  # noqa: E731
    on = lambda n: on_scan(lab, n, where[n], predict)  # noqa: E731
    cuts = metrics.best_thresholds(lab.shards, ((n, on(n)) for n in lab.parts["val"]), FULL)
    return on, cuts[str(2**FULL)], sum(seconds for _, seconds in made)


def tested(cell: _cells.Cell, lab: Cohort) -> tuple[dict, dict]:
    """Score a fine stage on the test patients' whole scans; and say its threshold and CPU seconds."""
    on, cut, seconds = found(cell, lab)
    facts = {"cpu seconds": seconds, "threshold": cut}
    return facts, {n: scores(lab, n, on(n) >= cut) for n in lab.parts["test"]}


def picture(cells: _cells.Cells, lab: Cohort) -> Figure:
    """Draw the fullest slice of each third of the patient of middling Dice: truth, and the mask of the VAEs' mean."""
    cell = OURS + TOGETHER, 0
    name = sorted(cells[cell], key=lambda n: cells[cell][n]["dice"])[len(cells[cell]) // 2]
    (on, cut, _), truth = found(cell, lab), metrics.truth_at(lab.shards, name, FULL)
    thirds = np.array_split(np.flatnonzero(truth.any((1, 2))), 3)
    at, box = [rows[truth[rows].sum((1, 2)).argmax()] for rows in thirds], around(truth, 0.1)
    layers = (array[at][box] for array in (open_case(lab.shards, name, FULL).images[:], truth, on(name) >= cut))
    return pictures.slices(*layers, columns=3, spacing=metrics.spacing_at(lab.shards, name, FULL))


def run(_: Cohort, workers: int | None = None) -> dict:
    """Measure each method on the whole scans of the test patients, and its difference from the U-Net."""
    lab = open_cohort(home() / "data" / "synthetic_whole", level=FULL)
    stages(lab, COARSE_SEED, models_folder(lab.folder) / STUDY)  # before the processes that read it
    record, cells = _cells.begin(STUDY, PLAN)
    todo = [(CEILING, 0), *product(METHODS, SEEDS), *((name + TOGETHER, 0) for name in METHODS)]
    cells = _cells.fill(STUDY, cells, todo, partial(tested, lab=lab), workers, record)
    arms: dict[str, Any] = {}
    for name in dict.fromkeys(name for name, _ in todo):
        dice, rival = _cells.table_of(cells, name), RIVAL + TOGETHER * name.endswith(TOGETHER)
        arms[name] = {m: _cells.interval(_cells.table_of(cells, name, m)) for m in _cells.MEASURES}
        arms[name]["minus the U-Net"] = _cells.interval(dice, _cells.table_of(cells, rival))
        arms[name] |= record["facts"][name] | {"by seed": dice.mean(1)}
    write_file(studies.ROOT / "notebooks" / "figures" / "two_stages.png", png(picture(cells, lab)))
    return record | {"arms": arms, "patients": {part: len(names) for part, names in lab.parts.items()}}


def tables(record: dict) -> dict[str, str]:
    """Make the table of the README: every method on the whole scans, the best first."""
    lines = ["| fine stage | Dice at 512 | minus the U-Net | HD95 (mm) | volume | CPU minutes |", "|" + 6 * "---|"]
    for name, row in sorted(record["arms"].items(), key=lambda item: -item[1]["dice"]["mean"]):
        gap = "" if name.startswith(RIVAL) else studies.cell(row["minus the U-Net"], "+.3f")
        cells = [studies.cell(row["dice"], ".3f"), gap, studies.cell(row["hd95 mm"], ".1f")]
        minutes = f"{row['cpu seconds'] / 60:.0f}" if row["cpu seconds"] else ""
        cells += [f"{100 * row['volume error']['mean']:+.0f}%", minutes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return {STUDY: "\n".join(lines)}


def scores(lab: Cohort, name: str, found: np.ndarray) -> dict[str, float]:
    """Score a mask on the scan's own voxels, as `_cells.measure` does on coarse ones."""
    truth, mm = metrics.truth_at(lab.shards, name, FULL), metrics.spacing_at(lab.shards, name, FULL)
    return _cells.scores(found, truth, float(truth.sum()), mm)
