"""What only a VAE gives, and whether something simpler gives it too: uncertainty, anomalies, shapes, what lies between.

Each answer stands beside that of a rival which costs next to nothing: the single prediction at `mu`, the principal
components of the pictures, those of the masks, and a cross-fade. Three seeds; intervals resample the test patients.
The measurements are in `only_uncertainty`, `only_anomalies` and `only_shapes`.
"""

from studies import board
from studies.against import contestant
from studies.only_anomalies import measure_anomalies
from studies.only_shapes import measure_paths, measure_shapes
from studies.only_uncertainty import measure_uncertainty
from vaelib import recipes, uncertainty
from vaelib.cohort import load_slices

LEVEL, SEEDS, DRAWS = 6, (0, 1, 2), 32


def contestants(train, val, test, seeds=SEEDS, draws: int = DRAWS) -> list[dict]:
    """The VAE of each seed with its predictions: at `mu`, and from draws of z, for validation and test patients."""
    runs = []
    for seed in seeds:
        networks, meta = contestant(recipes.DETACHED, train, val, seed)
        run = networks | {"threshold": meta["threshold"]}
        for part, s in (("train", train), ("val", val), ("test", test)):
            run[part] = recipes.predicted(run["vae"], run["mask"], s)
        for key, s in (("val drawn", val), ("drawn", test)):
            run[key] = uncertainty.sample_masks(run["vae"], run["mask"], s.images, draws)
        runs.append(run)
    return runs


def run(seeds=SEEDS) -> dict:
    """Measure everything, and put it into the section "only"."""
    shards, parts = recipes.shards_and_split()
    train, val, test = (load_slices(shards, parts[part], LEVEL) for part in ("train", "val", "test"))
    runs = contestants(train, val, test, seeds)
    section = {
        "seeds": list(seeds), "level": LEVEL, "draws": DRAWS, "test": parts["test"],
        "uncertainty": measure_uncertainty(runs, train, val, test),
        "anomalies": measure_anomalies(runs, train, val, test, shards, LEVEL),
        "shapes": measure_shapes(runs, train, test),
        "halfway": measure_paths(runs, test),
    }  # fmt: skip
    board.put("only", section)
    return section
