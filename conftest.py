"""The rules under which pytest and nbval run the notebooks, and the order in which workers take files.

They stand here, above both `notebooks/` and its copy under `build/`, because pytest reads the `conftest.py`
of a test's own folder and of those above it: one under `tests/` would not reach a notebook. They hold for
`make test` and for a bare `pytest --nbval notebooks` alike.
"""

import os
from pathlib import Path

# With several workers, each takes the next whole file. First comes the lesson that leaves a VAE to others
# (03: 08, 11 and the browser load it in place of training anew), then what takes longest.
ORDER = """nbval/03_vae_training nbval/09_pancreas_ct cohorts/test_download nbval/05_segmentation_decoding
course/test_site nbval/04_latent_space tests/test_wheel nbval/07_full_size course/test_browser
nbval/08_volumes solutions/08_volumes solutions/11_only_a_vae nbval/06_against_unet
solutions/06_against_unet nbval/10_find_the_bug nbval/11_only_a_vae engine/test_parallel engine/test_faults
pictures/test_explorer solutions/07_full_size solutions/05_segmentation_decoding phantom/test_phantom
engine/test_determinism phantom/test_anomalies tests/test_stress phantom/test_shifts""".split()


def pytest_configure(config):
    # A notebook's kernel is a child of pytest and gets this environment.
    os.environ.pop("VAELIB_DATA", None)  # the committed outputs come from the synthetic cohort
    os.environ["TQDM_DISABLE"] = "1"  # a progress bar never prints the same twice
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums are rounded in an order that depends on it
    if config.getoption("nbval"):
        config.option.nbval_current_env = True  # this environment's Python, whatever kernels are installed
        config.option.nbval_cell_timeout = min(config.option.nbval_cell_timeout, 600)  # not 2,000 s
        if not config.option.nbval_sanitize_with:
            config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "sanitize.cfg")


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(ORDER)}

    def place(item):
        return places.get(item.path.relative_to(item.path.parents[1]).with_suffix("").as_posix(), len(ORDER))

    items.sort(key=place)  # within a file, and beyond the list, the order stays
