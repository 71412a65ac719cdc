"""The progress bar that every long job of `vaelib` shows, and the workers behind it."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor

from tqdm.auto import tqdm

from vaelib.engine.parallel import is_first


def progress_bar(*args, **options):
    """A bar of tqdm, for the terminal or the notebook, that is silent where `TQDM_DISABLE` is set.

    tqdm heeds that variable in a terminal only; in a kernel, bars would end up in committed outputs. Of several
    processes that work together, the first shows it.
    """
    silent = bool(os.environ.get("TQDM_DISABLE")) or not is_first()
    return tqdm(*args, disable=silent, **options)


def map_in_processes(work, items, *, workers=None, **bar):
    """Yield ``work(item)`` for each item in order, from `workers` processes (by default one a core) and one bar.

    Fresh processes are started, since forking one that runs threads (torch, a notebook) can hang; so `work` and
    the items must pickle. What fails raises here, and what has not begun by then never does.
    """
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
            try:
                for job in jobs:
                    yield job.result()
                    shown.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _end_with_parent():
    """Let a worker end where the process that started it is gone: one that is killed can tell nobody."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
