"""The measurements that the lessons report: one file a study, which trains, scores, and says its numbers.

A study is a file here whose docstring asks a question. Its ``run(lab)`` takes an open cohort and returns a dict, which
``python -m studies NAME`` writes to ``results/NAME.json``. Its ``tables(record)``, if it has one, returns tables of
`PAGES` by the name of the marks between which they stand. No study imports another: what two need stands here, in
`studies._contestants`, or in `vaelib`.
"""

import json
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vaelib import metrics
from vaelib.engine.files import json_ready, write_file

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = (ROOT / "README.md", RESULTS / "README.md")  # their tables come from the studies
CHECKPOINTS = ROOT / "notebooks" / "checkpoints"  # small enough to be committed, stored in half precision


def names() -> list[str]:
    """List the studies by name: every file in this folder is one."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def read(name: str, folder: Path | None = None) -> dict:
    """Read what a study has found, ``results/<name>.json``; empty where it has not been made."""
    path = (folder or RESULTS) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(name: str, record: dict, folder: Path | None = None) -> Path:
    """Write what a study has found in place of what it found before: rounded, and the file as a whole."""
    return write_file((folder or RESULTS) / f"{name}.json", json.dumps(json_ready(record), indent=1) + "\n")


def publish(path: Path, name: str) -> None:
    """Copy a checkpoint, whole, among those that are committed for the notebooks."""
    write_file(CHECKPOINTS / f"{name}.safetensors", path.read_bytes())


def page_of(mark: str) -> Path:
    """Find the page with a table's marks, ``<!-- mark -->`` and ``<!-- end of mark -->``."""
    return next(page for page in PAGES if page.exists() and f"<!-- {mark} -->\n" in page.read_text(encoding="utf-8"))


def into_page(text: str, mark: str, path: Path | None = None) -> None:
    """Put a table between its two marks in a page, so that no number there is typed by hand."""
    path = path or page_of(mark)
    before, rest = path.read_text(encoding="utf-8").split(f"<!-- {mark} -->\n")
    after = rest.split(f"<!-- end of {mark} -->")[1]
    write_file(path, f"{before}<!-- {mark} -->\n{text}\n<!-- end of {mark} -->{after}")


def cell(interval: dict, digits: str) -> str:
    """Format a mean with its interval as a table has it: "0.58 (0.54 to 0.62)"."""
    if interval["mean"] is None or not np.isfinite(interval["mean"]):
        return "infinite"
    mean, low, high = (format(interval[k], digits) for k in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def summary(values: np.ndarray) -> dict:
    """Summarize scores (seeds, patients): their interval over patients, and the mean of each seed.

    Returns
    -------
    dict
        ``mean``, ``low`` and ``high``; ``values``, the mean over seeds of each patient; ``seeds``, the means.
    """
    values_per_patient = np.mean(values, 0)
    return metrics.bootstrap(values_per_patient)._asdict() | {"values": values_per_patient, "seeds": np.mean(values, 1)}


def paired(ours: Sequence, theirs: Sequence) -> dict[str, float]:
    """Compare two methods patient by patient: the mean difference with its 95% interval.

    Each patient is compared with itself, which takes out that some are harder than others.

    Parameters
    ----------
    ours, theirs : sequence of arrays (patients,)
        One for each seed; the seeds that both have are compared.

    Returns
    -------
    dict
        ``mean``, ``low`` and ``high`` of ours minus theirs.
    """
    n = min(len(ours), len(theirs))
    return metrics.bootstrap(np.mean(ours[:n], 0) - np.mean(theirs[:n], 0))._asdict()


def over_patients(statistic: Callable[[np.ndarray], float], patient: np.ndarray, draws: int = 300) -> dict[str, float]:
    """Compute a statistic of slices with its 95% interval: patients are drawn anew, each with all its slices.

    Slices of one patient are alike, so an interval that resamples slices would be too narrow.

    Parameters
    ----------
    statistic : callable
        From the numbers of the rows that are used, some of them several times, to a number.
    patient : ndarray, (N,)
        Whose each row is.
    draws : int

    Returns
    -------
    dict
        The ``mean`` (the statistic of all rows), ``low`` and ``high``.
    """
    rows, rng = [*metrics.per_patient(patient).values()], np.random.default_rng(0)
    samples = (np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))]) for _ in range(draws))
    low, high = np.nanquantile([statistic(sample) for sample in samples], (0.025, 0.975))
    return metrics.Interval(float(statistic(np.arange(len(patient)))), float(low), float(high))._asdict()
