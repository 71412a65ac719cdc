"""The progress bar that every long job of `vaelib` shows."""

import os

from tqdm.auto import tqdm


def progress(*args, **options):
    """A bar of tqdm, for the terminal or the notebook, that is silent where `TQDM_DISABLE` is set.

    tqdm heeds that variable in a terminal only; in a kernel, bars would end up in committed outputs.
    """
    return tqdm(*args, disable=bool(os.environ.get("TQDM_DISABLE")), **options)
