"""What does a fault do to the score that a script reports? All twelve of notebook 10 together, and each alone."""

from pathlib import Path

import numpy as np

from course import checks
from studies import board
from vaelib import recipes

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [ROOT / "notebooks" / folder / "10_segment.py" for folder in ("exercises", "solutions")]
PATIENTS, SEEDS = 24, (0, 1, 2)
FAULTS = (
    "flipped labels", "masks by stride", "split by slice", "affine encoder",
    "variance for deviation", "clone for detach", "KL averaged", "no eval",
    "sigmoid twice", "failures dropped", "IoU by batch", "threshold on test",
)  # fmt: skip  # in the order of their lines


def run(patients: int = PATIENTS, seeds=SEEDS, epochs: int = 6) -> dict:
    """Let each script report its scores, and put them into the section "bugs"."""
    texts = [path.read_text(encoding="utf-8") for path in SCRIPTS]
    scripts = {name: checks.load(text, name) for name, text in zip(("faulty", "mended"), texts, strict=True)}
    shards, parts = recipes.shards_and_split()
    folders = [shards / name for name in sorted(sum(parts.values(), []))[:patients]]

    def reports(script, seeds):
        data = script.SliceDataset.read(folders)
        rows = [script.experiment(data, epochs, seed)[1] for seed in seeds]
        return {k: [row[k] for row in rows] for k in rows[0]} | {"mean dice": np.mean([row["dice"] for row in rows])}

    section = {"patients": patients, "epochs": epochs, "seeds": list(seeds), "cohort": "synthetic"}
    section |= {name: reports(script, seeds) for name, script in scripts.items()}
    section["alone"] = {}
    for name, fault in zip(FAULTS, checks.differences(*texts), strict=True):
        script = checks.load(checks.plant(fault, texts[1]), name)
        section["alone"][name] = reports(script, seeds[:1])
    board.put("bugs", section)
    return section
