"""What does a fault do to the score that a script reports? All twelve of notebook 10 together, and each alone."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from course import checks
from studies import ROOT
from vaelib.cohort import Cohort

SCRIPTS = [ROOT / "notebooks" / folder / "10_segment.py" for folder in ("exercises", "solutions")]
PATIENTS, EPOCHS, SEEDS, FEW = 24, 6, range(20), 5  # seeds of both scripts, and of each fault alone
FAULTS = (
    "flipped labels", "masks by stride", "split by slice", "affine encoder",
    "variance for deviation", "clone for detach", "KL averaged", "no eval",
    "sigmoid twice", "failures dropped", "IoU by batch", "threshold on test",
)  # fmt: skip  # in the order of their lines


def reports(script: ModuleType, folders: Sequence[Path], epochs: int, seeds: Sequence[int]) -> dict:
    """Run a script on the shards of some patients, and collect the scores that it reports, seed by seed."""
    data = script.SliceDataset.read(folders)
    rows = [script.experiment(data, epochs, seed)[1] for seed in seeds]
    return {k: [row[k] for row in rows] for k in rows[0]} | {"mean dice": np.mean([row["dice"] for row in rows])}


def run(lab: Cohort, patients: int = PATIENTS, seeds: Sequence[int] = SEEDS, epochs: int = EPOCHS) -> dict:
    """Let the faulty script, the mended one, and the mended one with each fault alone report their scores."""
    texts = [path.read_text(encoding="utf-8") for path in SCRIPTS]
    folders = [lab.shards / name for name in sorted(sum(lab.parts.values(), []))[:patients]]
    record: dict[str, Any] = {"patients": patients, "epochs": epochs, "seeds": list(seeds), "cohort": "synthetic"}
    for name, text in zip(("faulty", "mended"), texts, strict=True):
        record[name] = reports(checks.load(text, name), folders, epochs, seeds)
    record["alone"] = {}
    for name, fault in zip(FAULTS, checks.differences(*texts), strict=True):
        script = checks.load(checks.plant(fault, texts[1]), name)
        record["alone"][name] = reports(script, folders, epochs, seeds[:FEW])
    return record
