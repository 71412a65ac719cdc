"""How things are compared here: the same work by us and by others, in turn, in one run; medians and their ratio."""

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

TIMES = 5
LESS = ("s", "ms", "MB")  # units of which less is better


def in_turn(ways: dict[str, Callable[[], float]], times: int = TIMES) -> dict[str, list[float]]:
    """Call each way once, then each once more, and so on, so that whatever else the machine does meets them all.

    Parameters
    ----------
    ways : dict of str to callable
        Each does its share of work, times it, and returns the measure: seconds, or units of work a second.
    times : int
        How often each is called; an odd number has a median that was measured.
    """
    found = {name: [] for name in ways}
    for _ in range(times):
        for name, way in ways.items():
            found[name].append(way())
    return found


def row(what: str, unit: str, found: dict[str, list[float]], goals: dict[str, float] | None = None) -> dict:
    """One row of the table: medians, and the ratio to each peer, above 1 where we are better.

    Parameters
    ----------
    what : str
        The work, in words.
    unit : str
        "s", "ms" or "MB", where less is better, or units a second, such as "images/s", where more is.
    found : dict of str to list of float
        From `in_turn`; the first is ours.
    goals : dict of str to float, optional
        The ratio to each peer that we want.
    """
    medians = {name: statistics.median(values) for name, values in found.items()}
    ours, *others = medians
    less = unit in LESS
    ratio = {n: medians[n] / medians[ours] if less else medians[ours] / medians[n] for n in others}
    out = {"what": what, "unit": unit, "ours": medians[ours], "peers": {n: medians[n] for n in others}, "ratio": ratio}
    spread = {n: (max(v) - min(v)) / medians[n] for n, v in found.items()}
    return out | {"spread": spread, "goals": goals or {}}


def in_a_fresh_process(function, *given):
    """Call a function where nothing else has taken memory: a process also inherits the peak of the one it came from."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(function, *given).result()


def seconds(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def machine() -> str:
    """The processor by its name, where Linux tells it, and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores"


def peak(who: int = resource.RUSAGE_SELF) -> int:
    """The most bytes that this process, or with RUSAGE_CHILDREN one that it has started, has held so far."""
    return resource.getrusage(who).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
