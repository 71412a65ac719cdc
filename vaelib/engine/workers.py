"""The progress bar that every long job of `vaelib` shows, and the workers behind it."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm.auto import tqdm

from vaelib.engine.errors import UnguardedScript
from vaelib.engine.parallel import is_first

UNGUARDED = 119  # the exit status of a worker that found itself starting workers
ADVICE = 'put what the script does under `if __name__ == "__main__":` (each worker runs the rest), or pass workers=1'


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """Make a bar of tqdm, for the terminal or the notebook, that is silent where `TQDM_DISABLE` is set.

    tqdm heeds that variable in a terminal only; in a kernel, bars would end up in committed outputs. Of several
    processes that work together, the first shows it.
    """
    silent = bool(os.environ.get("TQDM_DISABLE")) or not is_first()
    return tqdm(*args, disable=silent, **options)


def map_in_processes(
    work: Callable[[Any], Any], items: Iterable[Any], *, workers: int | None = None, **bar: Any
) -> Iterator[Any]:
    """Yield ``work(item)`` for each item in order, from several processes and with one progress bar.

    Fresh processes are started, since forking one that runs threads (torch, a notebook) can hang; so `work` and
    the items must pickle. What fails raises here, and what has not begun by then never does.

    Parameters
    ----------
    work, items
        A function, and what it is called with.
    workers : int, optional
        Processes; by default one a core. With one, or one item, the work is done in this process.
    **bar
        Options of `progress_bar`.

    Raises
    ------
    UnguardedScript
        A fresh process runs the user's script up to its main guard. Without one it would come here again: it ends.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that is running the script
        os._exit(UNGUARDED)
    items = list(items)
    workers = min(workers or os.cpu_count() or 1, len(items))
    with progress_bar(total=bar.pop("total", len(items)), **bar) as shown:
        if workers <= 1:
            for item in items:
                yield work(item)
                shown.update()
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
            jobs = [pool.submit(work, item) for item in items]
            started = multiprocessing.active_children()
            try:
                for job in jobs:
                    yield job.result()
                    shown.update()
            except BaseException as error:
                pool.shutdown(cancel_futures=True)
                if isinstance(error, BrokenProcessPool) and UNGUARDED in [process.exitcode for process in started]:
                    shown.leave = False
                    raise UnguardedScript(f"{sys.modules['__main__'].__file__}: {ADVICE}") from None
                raise


def _end_with_parent() -> None:
    """Let a worker end where the process that started it is gone: one that is killed can tell nobody."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
