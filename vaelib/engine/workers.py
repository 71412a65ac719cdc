"""The progress bar that every long job of `vaelib` shows, and the workers behind it."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from vaelib.engine.errors import WorkersStopped
from vaelib.engine.options import Workers, checked
from vaelib.engine.parallel import is_first

UNGUARDED = 119  # the exit status of a worker that found itself starting workers
FEWER = "do it with fewer, as `vaelib prepare --workers 1` does (check and phantom take it too; in Python, workers=1)"
ADVICE = 'put what the script does under `if __name__ == "__main__":`, since each worker runs the rest'


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """Make a bar of tqdm, for the terminal or the notebook, that is silent where `TQDM_DISABLE` is set.

    tqdm heeds that variable in a terminal only; in a kernel, bars would end up in committed outputs. Of several
    processes that work together, the first shows it.
    """
    return tqdm(*args, disable=bool(os.environ.get("TQDM_DISABLE")) or not is_first(), **options)


def cores() -> int:
    """Count the cores that this process may use: less than the machine's in a job, a container, or under `taskset`."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # "max 100000" where a container has no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


@checked
def map_in_processes(work: Callable, items: Iterable, *, workers: Workers = None, **bar: Any) -> Iterator:
    """Yield ``work(item)`` for each item in order, from several processes and with one progress bar.

    Fresh processes are started, since forking one that runs threads (torch, a notebook) can hang; so `work` and
    the items must pickle. What fails raises here, and what has not begun by then never does.

    Parameters
    ----------
    work, items
        A function, and what it is called with.
    workers : int, optional
        Processes; by default one for each of `cores`. With one, or one item, the work is done in this process.
    **bar
        Options of `progress_bar`.

    Raises
    ------
    WorkersStopped
        A fresh process runs the user's script up to its main guard. Without one it would come here again: it ends.
        Or a worker was killed, or none can be started.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that is running the script
        os._exit(UNGUARDED)
    items = list(items)
    alone = multiprocessing.current_process().daemon  # a worker of a pool, which may start none
    workers = 1 if alone else min(workers or cores(), len(items))
    if workers > 1:
        _look_at_script()
    with progress_bar(total=bar.pop("total", len(items)), **bar) as shown:
        if workers <= 1:
            for item in items:
                yield work(item)
                shown.update()
            return
        try:
            pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
        except OSError as error:  # a container without shared memory
            raise WorkersStopped(f"no worker can be started: {error.strerror}; {FEWER}") from None
        with pool:
            jobs = [pool.submit(work, item) for item in items]
            started = multiprocessing.active_children()
            try:
                for job in jobs:
                    yield job.result()
                    shown.update()
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if not isinstance(error, BrokenProcessPool):
                    raise
                shown.leave = False
                ends = [process.exitcode for process in started]
                if -signal.SIGINT in ends:  # Ctrl-C, which they heard first
                    raise KeyboardInterrupt from None
                if UNGUARDED in ends:
                    raise WorkersStopped(f"{sys.modules['__main__'].__file__}: {ADVICE}") from None
                raise WorkersStopped(f"{bar.get('desc', 'workers')}: {_end(ends)}; {FEWER}") from None


def _end(codes: list[int | None]) -> str:
    """Say how the first worker ended that was not told to."""
    code = next((code for code in codes if code not in (None, 0, -signal.SIGTERM)), -signal.SIGTERM)
    if code == -signal.SIGKILL:
        return "a worker was killed, as a system does that runs out of memory"
    return f"a worker was ended by signal {-code}" if code < 0 else f"a worker ended by itself, with status {code}"


def _look_at_script() -> None:
    """See to it that workers can begin as this process did: they run its script once more, up to the main guard."""
    main = sys.modules["__main__"]
    file = Path(getattr(main, "__file__", None) or "")
    if file.name and not file.is_file():  # a script from standard input, which no worker finds, nor needs
        del main.__file__
    elif file.suffix == ".py" and file.stem != "__main__" and "__name__" not in file.read_text(errors="replace"):
        raise WorkersStopped(f"{file}: {ADVICE}")


def _end_with_parent() -> None:
    """Let a worker end where the process that started it is gone: one that is killed can tell nobody."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes, and one of them says so
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
