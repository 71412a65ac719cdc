"""What do networks make of a real patient's scan, and is a scan that is unlike their own told? One patient, two tables.

``python -m studies real_case FOLDER`` takes a folder with ``real-slices``, as `studies.real` reads it, and ``real-ct``:
in ``patient-0006/slices.npz`` contiguous slices and a label, in ``series`` a scan without one. Networks are trained on
synthetic patients, or on the slices of the other real ones, and scored in 3D on the scan's own voxels; thresholds come
from validation patients of the kind that taught them. ``in mm`` a scan is brought to voxels as large as those that a
network has learned from, in the median, around the middle of the body. Two stages are those of ``vaelib train
data/synthetic_whole --model two-stage``; they wait until these are there, and then what they say of scans is counted.
It is one patient: seeds give a range, and nothing an interval.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import studies
from studies import _arms, _cells
from studies._folder import read_folder
from vaelib import metrics, pictures, recipes, rivals
from vaelib.cohort import Cohort, Slices, open_cohort
from vaelib.cohorts import typical, windows
from vaelib.cohorts.layout import home, models_folder
from vaelib.dicom.millimetres import body_centre, put_back, window_of
from vaelib.engine.checkpoints import load
from vaelib.engine.files import write_file
from vaelib.engine.shards import open_case
from vaelib.levels import FULL, downscale, images_at, window
from vaelib.phantom import make_patient, shifts
from vaelib.pictures.panels import around, outline
from vaelib.pictures.style import GREEN, SKY, png
from vaelib.vae import VAE
from vaelib.volumes import read_ct

STUDY, PATIENT, HELD_OUT, SEED, SIDE = "real_case", "PANCREAS_0006", 6, 2026, 2**FULL
NUMBERS, IN_MM = 64, ", in mm"  # of a vector; what is added to the name of a method
STAGES, PLACED, LINEAR, RIVAL = "two stages", "spatial VAE, detached", "PCA, 64 components", "U-Net"
HU = {"synthetic": (-160.0, 240.0), "real": (0.0, 255.0)}  # what is black and white, by what was learned from
SEEDS = {  # by method and what it learned from
    f"{STAGES}, synthetic": 1, f"{PLACED}, synthetic": 1, f"{RIVAL}, synthetic": 1, f"{recipes.DETACHED}, synthetic": 1,
    f"{PLACED}{IN_MM}, synthetic": 1, f"{RIVAL}{IN_MM}, synthetic": 1, "atlas, synthetic": 1, f"{RIVAL}, real": 3,
    f"{recipes.DETACHED}, real": 3, f"{LINEAR}, real": 3, "atlas, real": 1,
}  # fmt: skip
PUBLISHED = {f"{PLACED}, synthetic": "06_spatial", f"{RIVAL}, synthetic": "06_unet"}
USUAL, SCANNED_ANEW = "as they are", 4  # patients of each shift that is scanned anew
READ = USUAL, "missing slice"  # what is read from the shards
SAID = {"empty": "no voxel", "lost": "found no organ", "border": "the end of", "pieces": "pieces"}
SHOWN = {"U-Net, 64 x 64, from real patients": f"{RIVAL}, real"}
SHOWN |= {"two stages, from synthetic ones": f"{STAGES}, synthetic"}
TWO_STAGES = lambda: models_folder(home() / "data" / "synthetic_whole") / "trained.safetensors"  # noqa: E731
Case = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]  # HU and label (S, H, W), and (dz, dy, dx) in mm
Real = tuple[Cohort, np.ndarray]  # slices at 64 x 64, and validation patients' masks (N, 1, H, W) at full size


def patient(folder: Path) -> Case:
    """Read the patient with a label, in canonical order."""
    with np.load(folder / "real-ct" / "patient-0006" / "slices.npz") as file:
        return file["hu"][::-1, ::-1], file["label"][::-1, ::-1], tuple(file["spacing_zyx"].tolist())


def others(folder: Path) -> Real:
    """Take the slices of the other patients; some of them are held out for thresholds."""
    full = read_folder(folder / "real-slices", FULL)
    names = [str(name) for name in np.random.default_rng(0).permutation([*full.rows]) if name != PATIENT]
    lab, rows = Cohort(Path(), {"val": names[:HELD_OUT], "train": names[HELD_OUT:]}), {}
    images, masks = (downscale(array, lab.level) for array in (full.images, full.masks))
    for part, some in lab.parts.items():
        rows[part] = np.isin(full.patient, some)
        setattr(lab, part, Slices(*(array[rows[part]] for array in (images, masks, full.patient, full.position))))
    return lab, full.masks[rows["val"]] > 0


def learned(arm: str, lab: Cohort, seed: int) -> Callable[[Slices], Any]:
    """Train a method, or load one that is committed: from slices to probabilities."""
    method, _, source = arm.rpartition(", ")
    if method == "atlas":
        at, mean = metrics.atlas(lab.train) if source == "synthetic" else None, lab.train.masks[:].mean(0)
        return lambda s: at(s.position) if at else np.tile(mean, (len(s.images), 1, 1, 1))
    if method == LINEAR:
        (vae := VAE(latent=NUMBERS)).encoder = _arms.PatchPCA(lab.train.images, NUMBERS, _arms.SIDE)
        how: dict[str, Any] = recipes.recipe("copies", "mask_epochs")
        mask, _ = recipes.train_mask(vae, lab.train, lab.val, seed=seed, **how)
        return rivals.Detached({"vae": vae, "mask": mask}).predict
    committed, made = studies.CHECKPOINTS / f"{PUBLISHED.get(arm)}.safetensors", rivals.ARMS[method]
    return made.method(load(committed)[0] if arm in PUBLISHED else made.fit(lab, seed)).predict


def found(cell: _cells.Cell, lab: Cohort, real: Real, case: Case) -> np.ndarray:
    """Predict the mask of the patient, (S, H, W) on the scan's own voxels, by an arm and a seed."""
    torch.set_num_threads(1)
    (arm, seed), (hu, _, mm) = cell, case
    if arm.startswith(STAGES):
        use, said = recipes.usable(TWO_STAGES())
        return use.predict(window(hu), mm).probability >= said["thresholds"][str(SIDE)]
    source = arm.split()[-1]
    of = lab if source == "synthetic" else real[0]
    on_val = (predict := learned(arm.replace(IN_MM, ""), of, seed))(of.val)
    if source == "synthetic":
        cut = metrics.best_thresholds(of.shards, recipes.by_patient(on_val, of.val.patient), of.level)[str(SIDE)]
    else:
        cut = metrics.best_threshold(metrics.enlarge(on_val, SIDE), real[1], of.val.patient)
    grey = window(hu, *HU[source])
    if IN_MM not in arm:
        return metrics.enlarge(predict(windows.of_one(downscale(grey, of.level)[:, None]))[:, 0], SIDE) >= cut
    like = np.median([metrics.spacing_at(of.shards, name, of.level) for name in of.parts["train"]], 0)
    ends = -0.5 * mm[0], (len(grey) - 0.5) * mm[0]
    view = window_of(*ends, body_centre(grey, mm), like, 2**of.level)
    return put_back(predict(windows.on_window(grey, mm, view))[:, 0], view, grey.shape, mm) >= cut


def scored(cell: _cells.Cell, lab: Cohort, real: Real, case: Case) -> dict:
    """Score an arm and a seed on the whole stack, and its Dice on the slices alone that hold some pancreas."""
    mask, truth = found(cell, lab, real, case), case[1] > 0
    inside = {"dice where it is": float(metrics.dice(mask[rows := truth.any((1, 2))], truth[rows]))}
    return {PATIENT: _cells.scores(mask, truth, float(truth.sum()), case[2]) | inside}


def staged(lab: Cohort, name: str, shift: str) -> tuple[np.ndarray, Sequence[float]]:
    """Show a patient of the whole cohort under one shift, or as they are: (S, H, W), windowed, and (dz, dy, dx)."""
    if shift in READ:
        images = open_case(lab.shards, name, FULL).images
        left = (np.arange(len(images)) % shifts.LOST != 2) | (shift == USUAL)
        return images[left].astype(np.float32), metrics.spacing_at(lab.shards, name, FULL)
    scan = make_patient(SEED, int(name[-4:]), whole=True, **shifts.RESCANNED.get(shift, {}))
    hu = shifts.changed(shift, scan.hu, scan.spacing[2], np.random.default_rng([SEED, int(name[-4:]), 2]))
    return window(hu), scan.spacing


def scans(lab: Cohort, folder: Path) -> Iterator[tuple[str, np.ndarray, Sequence[float]]]:
    """Show all scans, by kind: test patients, they under each shift, the real series, the slices of the patient."""
    for shift in (USUAL, *shifts.SHIFTS):
        for name in lab.parts["test"][: None if shift in READ else SCANNED_ANEW]:
            yield shift, *staged(lab, name, shift)
    series, (hu, _, mm) = read_ct(folder / "real-ct" / "series"), patient(folder)
    yield "real series", images_at(series, FULL), windows.spacing_of(series, FULL)
    yield "real patient", window(hu), mm


def rates(shown: Iterator[tuple[str, np.ndarray, Sequence[float]]]) -> dict[str, dict]:
    """Count what the two stages say of each kind of scan; how far ``away`` one is, is its score minus the limit."""
    (use, said), rows = recipes.usable(TWO_STAGES()), {}
    cut, like = said["thresholds"][str(SIDE)], said["typical"]
    for kind, images, mm in shown:
        outlined, codes = use.predict(images, mm), use.tell(images, mm)
        words = windows.doubts((outlined.probability >= cut).astype(np.uint8), outlined, cut)
        row = rows.setdefault(kind, {"scans": 0, "away": [], "said": Counter()})
        row["scans"] += 1
        row["away"].append(typical.score(codes, like) - like["limit"])
        row["said"].update([key for key, part in SAID.items() if any(part in word for word in words)])
        unlike = row["away"][-1] > 0
        row["said"].update({"unlike": int(unlike), "any": int(unlike or bool(words))})
    return {kind: row | {"median": float(np.median(row["away"]))} for kind, row in rows.items()}


def picture(case: Case, masks: dict[str, np.ndarray]) -> Figure:
    """Draw three slices of the patient, from the feet up, closely around the truth; all masks are outlined."""
    (hu, label, mm), held = case, np.flatnonzero(case[1].any((1, 2)))
    box, at = around(label, 0.5), held[[len(held) // 6, len(held) // 2, -len(held) // 6]]
    fig = pictures.slices([*hu[at][box]], [*label[at][box]], columns=3, spacing=mm)
    for ax, k in zip(fig.axes, at, strict=True):
        for mask, colour in zip(masks.values(), (SKY, GREEN), strict=True):
            ax.plot(*outline(mask[k][box]), color=colour, lw=1.3)
    fig.legend(fig.axes[0].lines, ["truth", *masks], loc="outside lower center", ncols=3)
    return fig


def run(lab: Cohort, folder: str | Path) -> dict:
    """Score every arm on the patient, draw two, and count the doubts; scores that are there already are kept."""
    case, real, there = patient(Path(folder)), others(Path(folder)), TWO_STAGES().exists()
    seeds = {arm: n for arm, n in SEEDS.items() if there or not arm.startswith(STAGES)}
    work = partial(scored, lab=lab, real=real, case=case)
    todo = [(arm, k) for arm, n in seeds.items() for k in range(n)]
    cells, arms = _cells.fill(STUDY, _cells.read_cells(STUDY), todo, work, 1), {}
    for arm in seeds:
        values = {name: _cells.table_of(cells, arm, name) for name in cells[arm, 0][PATIENT]}
        arms[arm] = {name: {"mean": v.mean(), "low": v.min(), "high": v.max()} for name, v in values.items()}
    fig = picture(case, {name: found((arm, 0), lab, real, case) for name, arm in SHOWN.items()})
    write_file(studies.ROOT / "notebooks" / "figures" / "09_real_patient.png", png(fig))
    people, whole = {part: len(names) for part, names in real[0].parts.items()}, home() / "data" / "synthetic_whole"
    said = rates(scans(open_cohort(whole, level=FULL), Path(folder))) if there else studies.read(STUDY).get("rates", {})
    return {"arms": arms, "seeds": seeds, "real patients": people, "rates": said}


def tables(record: dict) -> dict[str, str]:
    """Make both tables: Dice of one patient, and the rates of doubts."""
    lines = ["| method, and what it learned from | Dice | on slices with pancreas | HD95 (mm) | volume | seeds |"]
    for arm, row in sorted(record["arms"].items(), key=lambda item: -item[1]["dice"]["mean"]):
        dices = (row[name] for name in ("dice", "dice where it is"))
        said = [studies.cell(v, ".2f") if record["seeds"][arm] > 1 else f"{v['mean']:.2f}" for v in dices]
        said += [f"{row['hd95 mm']['mean'] or np.inf:.0f}", f"{100 * row['volume error']['mean']:+.0f}%"]
        lines.append(f"| {arm} | " + " | ".join(said) + f" | {record['seeds'][arm]} |")
    told = ["| scans | how many | told unlike training | any doubt | median distance |", "|" + 5 * "---|"]
    for kind, row in record["rates"].items():
        shares = f"{row['said']['unlike']} | {row['said']['any']}"
        told.append(f"| {kind} | {row['scans']} | {shares} | {row['median']:+.2f} |")
    return {STUDY: "\n".join([lines[0], "|" + 6 * "---|", *lines[1:]]), "doubts": "\n".join(told)}
