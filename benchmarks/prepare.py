"""How long a cohort takes to be prepared, and how much memory, from one patient to as many as Pancreas-CT has.

    python -m benchmarks.prepare [--patients 80] [--slices 240]

Writes the DICOM of eight synthetic patients (phantoms, stretched to as many slices as asked; 0.53 MB a slice) and lets
the others be hard links to these files: they are read as any others, but from memory, since the same gigabyte is read
again and again. Prepares 1, 2, 5, ... of them with one worker and some with two, writes `benchmarks/prepare.json` and
deletes what it made. The cache of 80 patients takes 22 GB for a while, and the whole about a quarter of an hour.
"""

import argparse
import json
import os
import resource
import shutil
import time
from functools import partial
from pathlib import Path

from benchmarks import patients, timing
from vaelib.cohorts.layout import find_cases
from vaelib.engine.files import write_file
from vaelib.engine.shards import prepare
from vaelib.engine.workers import map_in_processes

ROOT = Path(__file__).resolve().parents[1]
ROOM = ROOT / "build" / "bench" / "prepare"
UNLIKE = 8  # patients with files of their own
COUNTS = {1: (1, 2, 5, 10, 20, 40, 80), 2: (2, 10, 80)}  # patients, by the number of workers


def make_cohort(count: int, slices: int) -> None:
    """Write the patients that are unlike, and let the others share their files."""
    cohort = ROOM / "cohort"
    cohort.mkdir(parents=True)
    (cohort / "SYNTHETIC.md").write_text("Synthetic patients of benchmarks/prepare.py\n")
    unlike = range(1, min(count, UNLIKE) + 1)
    own = [
        c.patient for c in map_in_processes(partial(patients.make, cohort=cohort, slices=slices), unlike, desc="making")
    ]
    for number in range(len(own) + 1, count + 1):
        other = cohort / own[(number - 1) % len(own)]
        shutil.copytree(other, cohort / f"PANCREAS_{number:04d}", copy_function=os.link)


def measure(workers: int, count: int) -> dict:
    """Seconds by the clock and of the processors, the peak memory of a worker, and the bytes of the cache."""
    shutil.rmtree(ROOM / "cache", ignore_errors=True)
    os.sync()  # what is still to be written from before is not to wait for here
    found = timing.in_a_fresh_process(_prepare, workers, count)
    size = sum(p.stat().st_size for p in (ROOM / "cache").rglob("*.npy"))
    return {"workers": workers, "patients": count, **found, "cache_bytes": size}


def _prepare(workers: int, count: int) -> dict:
    cases = find_cases(ROOM / "cohort")[:count]
    who = resource.RUSAGE_SELF if workers == 1 else resource.RUSAGE_CHILDREN
    begin, before = time.perf_counter(), resource.getrusage(who)
    shards = prepare(cases, ROOM / "cache", workers=workers)
    seconds, after = time.perf_counter() - begin, resource.getrusage(who)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    slices = sum(json.loads((shards / c.patient / "meta.json").read_text())["size"][2] for c in cases)
    return dict(slices=slices, seconds=round(seconds, 2), slices_per_second=round(slices / seconds, 1),
                cpu_seconds=round(cpu, 2), peak_bytes=timing.peak(who))  # fmt: skip


def main():
    """Measure, write, delete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=80)
    parser.add_argument("--slices", type=int, default=240)
    asked = parser.parse_args()
    shutil.rmtree(ROOM, ignore_errors=True)
    try:
        make_cohort(asked.patients, asked.slices)
        ways = [(workers, n) for workers, counts in COUNTS.items() for n in counts if n <= asked.patients]
        out = {"machine": timing.machine(), "slices": asked.slices}
        out["prepare"] = [measure(*way) for way in ways]
        print(json.dumps(out, indent=1))
        write_file(ROOT / "benchmarks" / "prepare.json", json.dumps(out, indent=1) + "\n")
    finally:
        shutil.rmtree(ROOM, ignore_errors=True)


if __name__ == "__main__":
    main()
