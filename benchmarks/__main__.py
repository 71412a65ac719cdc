"""`make bench`: everything that is measured beside others, into results.json and README.md here; and what fell since.

    python -m benchmarks [module ...]

Each module is run in a process of its own. Rows that another run has measured stay. A ratio that is more than 15% below
the one that was committed last is reported; nothing fails, since a busy machine is no fault of the code.
"""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import timing
from vaelib.engine.files import write_file

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("starting", "loading", "segmenting", "training")
RESULTS = ROOT / "benchmarks" / "results.json"
PEERS = ("torch", "pythae", "monai", "torchio", "pytorch-ignite", "itk", "nibabel", "lightning-fabric")
FALL = 0.15


def machine() -> dict:
    """What it ran on, and beside what."""
    cpu, cores = timing.machine().rsplit(", ", 1)
    versions = {"python": platform.python_version()} | {name: version(name) for name in PEERS}
    return {"cpu": cpu, "cores": int(cores.split()[0]), "threads": torch.get_num_threads(), "versions": versions}


def measured(module: str) -> dict:
    """The rows of a module, from a process of its own."""
    said = subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], cwd=ROOT, check=True, text=True,
                          stdout=subprocess.PIPE).stdout  # fmt: skip
    return json.loads(said[said.index("{") :])


def committed() -> dict:
    """The rows as they were committed last; none where there is no git, or no such commit."""
    said = subprocess.run(["git", "show", f"HEAD:{RESULTS.relative_to(ROOT)}"], cwd=ROOT, text=True,
                          capture_output=True)  # fmt: skip
    return json.loads(said.stdout)["rows"] if said.returncode == 0 else {}


def fallen(before: dict, now: dict) -> list[str]:
    """What lost more than 15% of its ratio to a peer, in words."""
    out = []
    for key, row in now.items():
        for peer, ratio in row["ratio"].items():
            was = before.get(key, {}).get("ratio", {}).get(peer)
            if was and ratio < (1 - FALL) * was:
                out.append(f"{key}: {ratio:.2f} times {peer}, was {was:.2f}")
    return out


def rounded(value):
    """Four digits that count."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(modules) -> None:
    """Measure, write, report."""
    from benchmarks import tables

    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for module in modules:
        print(f"measuring: {module}", file=sys.stderr, flush=True)
        rows = rounded(measured(module))
        kept = {key: row for key, row in found["rows"].items() if not key.startswith(f"{module}/")}
        found = {"machine": machine(), "rows": kept | rows}
        write_file(RESULTS, json.dumps(found, indent=1) + "\n")
    tables.write(found)
    print(tables.table(found["rows"]))
    for line in fallen(committed(), found["rows"]) or ["nothing fell by more than 15%"]:
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:] or MODULES)
