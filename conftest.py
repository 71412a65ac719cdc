"""The rules under which pytest and nbval run the notebooks.

They stand here, above both `notebooks/` and its copy under `build/`, because pytest reads the `conftest.py`
of a test's own folder and of those above it: one under `tests/` would not reach a notebook. They hold for
`make test` and for a bare `pytest --nbval notebooks` alike.
"""

import os
from pathlib import Path


def pytest_configure(config):
    # A notebook's kernel is a child of pytest and gets this environment.
    os.environ.pop("VAELIB_DATA", None)  # the committed outputs come from the synthetic cohort
    os.environ["TQDM_DISABLE"] = "1"  # a progress bar never prints the same twice
    os.environ.setdefault("OMP_NUM_THREADS", "2")  # sums are rounded in an order that depends on it
    if config.getoption("nbval"):
        config.option.nbval_current_env = True  # this environment's Python, whatever kernels are installed
        config.option.nbval_cell_timeout = min(config.option.nbval_cell_timeout, 600)  # not 2,000 s
        if not config.option.nbval_sanitize_with:
            config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "sanitize.cfg")
