"""Read bad input by the thousand: each case is the right result, or an error of ours that names the file.

    python -m stress.read [--cases 10000] [--seed 7] [kind ...]

Each case runs in a forked process that may take a second or two and little memory: a hang, a crash of the interpreter,
an error of another kind, memory beyond four times what the input honestly holds, and a result that an independent
reading of the same file does not give (`stress.oracle`) are faults, and are printed with the seed that shows them.
"""

import argparse
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

from stress import kinds
from vaelib import InputError

LIMIT_S, SLACK = 20, 48 << 20  # bytes beyond four times the input: what a library allocates once, such as its tables
BATCH = 200  # cases a process


def outcome(kind, good, folder, seed):
    """Damage `good` as the seed says, read it, and say what came of it: ("right" | "refused" | fault, details)."""
    r, honest = random.Random(f"{kind}/{seed}"), sum(p.stat().st_size for p in good.rglob("*") if p.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder, symlinks=True)
    try:
        kinds.KINDS[kind].damage(folder, r)
    except Exception as error:
        return "no damage done", "".join(traceback.format_exception(error)[-3:])
    before = _peak(reset=True)
    try:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            result = kinds.KINDS[kind].read(folder)
        found = "right"
    except InputError as error:
        found, result = "refused", None
        if str(folder) not in str(error) and "VAELIB_DATA" not in str(error):
            return "error that names no file", str(error)
    except BaseException as error:
        return f"{type(error).__name__}", "".join(traceback.format_exception(error)[-4:])
    grown = _peak() - before
    if grown > 4 * max(honest, kinds.KINDS[kind].honest) + SLACK:
        return "memory", f"{grown >> 20} MiB for {honest >> 10} KiB; {found}"
    if found == "refused":
        return found, ""
    try:
        wrong = kinds.KINDS[kind].differs(folder, good, result)
    except Exception as error:  # read all the same, though it is beyond the other reading
        return "beyond the oracle", "".join(traceback.format_exception(error)[-2:])
    return ("wrong in silence", wrong) if wrong else (found, "")


def _peak(reset=False):
    """The largest resident size of this process, in bytes, since it was last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def batch(case, seeds):
    """Run ``case(seed)`` in a forked child; yield (seed, found, details), also where the child hangs or dies."""
    seeds = list(seeds)
    while seeds:
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            _work(case, seeds, write_end)
        os.close(write_end)
        done = 0
        with os.fdopen(read_end, "rb") as pipe:
            while done < len(seeds):
                ready, _, _ = select.select([pipe], [], [], LIMIT_S)
                line = pipe.readline() if ready else b""
                if not line:
                    break
                yield (seeds[done], *json.loads(line))
                done += 1
            if done < len(seeds) and not ready:
                os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if done < len(seeds):
            yield seeds[done], "hang" if code == -signal.SIGKILL else "crash", f"exit status {code}"
            done += 1
        seeds = seeds[done:]


def _work(case, seeds, out):
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for seed in seeds:
            os.write(out, json.dumps(case(seed)).encode() + b"\n")
    finally:
        os._exit(0)


def run(names, cases, seed=0):
    """Go through `cases` of each kind; return {kind: Counter of outcomes} and the faults [(kind, seed, what, how)]."""
    counts, faults = {}, []
    for kind in names:
        with tempfile.TemporaryDirectory() as room:
            good = Path(room) / "good"
            kinds.KINDS[kind].make(good)
            case = partial(outcome, kind, good, Path(room) / "case")
            counts[kind] = Counter()
            for start in range(0, cases, BATCH):
                seeds = range(seed * 10**6 + start, seed * 10**6 + min(start + BATCH, cases))
                for number, found, details in batch(case, seeds):
                    counts[kind][found] += 1
                    if found not in ("right", "refused"):
                        faults.append((kind, number, found, details))
    return counts, faults


def print_table(counts):
    """Print a line a kind: cases, and how many were right, refused, and neither."""
    print(f"{'kind':16s} {'cases':>6s} {'right':>6s} {'refused':>8s} {'faults':>7s}")
    for kind, found in counts.items():
        right, refused, total = found["right"], found["refused"], found.total()
        print(f"{kind:16s} {total:6d} {right:6d} {refused:8d} {total - right - refused:7d}")


def main():
    """Print a table, and each fault; the exit status is the number of faults, 99 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="*", default=[])
    parser.add_argument("--cases", type=int, default=10_000, help="over all kinds")
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    names = asked.kind or list(kinds.KINDS)
    begin = time.monotonic()
    counts, faults = run(names, -(-asked.cases // len(names)), asked.seed)
    for kind, number, found, details in faults:
        print(f"{kind} {number}: {found}: {details}")
    print_table(counts)
    print(f"{sum(c.total() for c in counts.values())} cases in {time.monotonic() - begin:.0f} s")
    sys.exit(min(len(faults), 99))


if __name__ == "__main__":
    main()
