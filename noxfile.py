"""The project's tasks, and the one place where their steps are written: ``nox -s test``, or ``make test``.

A task is data: the tasks that it needs first, and its steps in order. Every step runs in the project's own environment,
`.venv`, which is made from `requirements.lock` the first time, whichever Python nox itself runs in.
``python noxfile.py test`` prints the steps of a task and runs none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nox

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("VAELIB_VENV", ".venv"))  # another one for `canary`
TOOLS = Path("build/tools")
TORCH = "2.13.0"  # pinned for everybody: the lock names it without what an index adds, such as +cpu
EXTRAS = ("notebooks", "download", "compare", "test", "site")  # what the lock holds beside the core
WORKERS = min(max(os.cpu_count() or 2, 2), 4)  # tests run beside each other, each worker with one thread
QUIET = {"TQDM_DISABLE": "1"}
SHARP = {"VAELIB_SHARP": "2"}  # pictures of the pages, for dense screens; committed ones stay below a megabyte
# The lesson that leaves a VAE to others comes first, those that read it last; the rest goes its way beside them.
LEAVES, ALONE, READERS = "03", "05 04 09 07 06 10 01 02 00", "08 11"
SYNTHETIC = {"VAELIB_DATA": None}  # whatever cohort the user reads, this is made of the synthetic one
# What Jupyter and Matplotlib remember stays in the project. A kernel installed for another project is not seen.
MEMORY = {
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
    "IPYTHONDIR": "ipython",
    "MPLCONFIGDIR": "matplotlib",
}
ENV = {name: str(ROOT / VENV / "var" / folder) for name, folder in MEMORY.items()}
# Sums are rounded in an order that depends on the number of threads: the same everywhere, the same results.
ENV["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")


class Step(NamedTuple):
    """One step: words for the Python of an environment, or a function; and the variables that it sets or removes."""

    words: tuple[str, ...] = ()
    call: Callable[[], None] | None = None
    env: dict[str, str | None] = {}
    venv: Path = VENV

    def __str__(self) -> str:
        said = [f"{name}={value}" for name, value in self.env.items() if value is not None]
        what = [python_of(self.venv).as_posix(), *self.words] if self.call is None else [f"({self.call.__doc__})"]
        return " ".join([*said, *what])


class Task(NamedTuple):
    """What a task is for, its steps, and the tasks that come before them."""

    about: str
    steps: tuple[Step, ...] = ()
    needs: tuple[str, ...] = ()


def python_of(venv: Path) -> Path:
    """Name the Python of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def module(words: str, *more: str | Path, env: dict[str, str | None] | None = None, venv: Path = VENV) -> Step:
    """Make a step that runs a module; `more` are words that may hold spaces."""
    return Step(("-m", *words.split(), *map(str, more)), env=env or {}, venv=venv)


def call(function: Callable[[], None]) -> Step:
    """Make a step that runs a function of this file."""
    return Step(call=function)


def run(step: Step) -> None:
    """Run a step, and end with its status if that is not 0."""
    print(f"nox > {step}", flush=True)
    if step.call is not None:
        step.call()
        return
    env = {name: value for name, value in (os.environ | ENV | step.env).items() if value is not None}
    done = subprocess.run([python_of(ROOT / step.venv), *step.words], cwd=ROOT, env=env)
    if done.returncode:
        raise SystemExit(f"nox: this failed, with status {done.returncode}: {step}")


# --- the environment -------------------------------------------------------------------------------------


def make_venv(venv: Path) -> None:
    """Make a virtual environment, unless it is there."""
    if python_of(ROOT / venv).exists():
        return
    if sys.version_info < (3, 11):  # noqa: UP036 - nox may run in an older one
        raise SystemExit(f"nox: this is Python {sys.version.split()[0]}; 3.11 or newer is needed")
    subprocess.run([sys.executable, "-m", "venv", venv], cwd=ROOT, check=True)


def install() -> None:
    """Install what requirements.lock pins into the environment, unless it is there."""
    wanted, done = [ROOT / name for name in ("requirements.lock", "pyproject.toml")], ROOT / VENV / ".installed"
    if done.exists() and done.stat().st_mtime >= max(path.stat().st_mtime for path in wanted):
        return
    make_venv(VENV)
    print(f"Installing the pinned packages into {VENV}: a few minutes the first time.", flush=True)
    pip = "pip --disable-pip-version-check install"
    run(module(f"{pip} --quiet --no-compile --progress-bar=off -r requirements.lock"))
    run(module(f"{pip} --quiet --no-deps --no-build-isolation --editable ."))
    (ROOT / VENV / "var").mkdir(exist_ok=True)  # for what Jupyter and Matplotlib remember
    done.touch()


def browser() -> None:
    """Install Chromium, which some tests drive, where it is missing."""
    names = "chromium chromium-browser google-chrome google-chrome-stable".split()
    if any(map(shutil.which, names)):
        return
    if not (shutil.which("apt-get") and os.geteuid() == 0):  # it belongs to the system
        raise SystemExit("nox: no Chromium here. On Debian: sudo apt install chromium")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    retry = ["-o", "Acquire::Retries=3"]
    subprocess.run(["apt-get", "install", "-qq", "--yes", *retry, "chromium", "fonts-dejavu-core"], check=True)


# --- the notebooks ---------------------------------------------------------------------------------------

CONVERT = "nbconvert --log-level=WARN"
EXECUTE = f"{CONVERT} --to=notebook --execute --ExecutePreprocessor.timeout=600 --inplace"
CLEAN = (
    "--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False "
    "--ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec "
    "--ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags "
    "--ClearMetadataPreprocessor.preserve_cell_metadata_mask=jupyter"
)


def lessons(folder: str) -> list[str]:
    """List the lessons in a folder, in order."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("[0-9]*.ipynb"))


def copy(folder: str) -> None:
    """Copy the notebooks, so that neither the committed ones nor their figures change."""
    shutil.rmtree(ROOT / folder, ignore_errors=True)
    shutil.copytree(ROOT / "notebooks", ROOT / folder)


def copy_for_tutorial() -> None:
    """Copy notebooks/ to build/notebooks."""
    shutil.rmtree(ROOT / "build" / "html", ignore_errors=True)
    copy("build/notebooks")


def copy_for_test() -> None:
    """Copy notebooks/ to build/nbval."""
    copy("build/nbval")


def execute() -> None:
    """Run each with nbconvert --execute, several beside each other, and note its seconds in build/times.json."""
    order = [LEAVES, *ALONE.split(), *READERS.split()]
    paths = sorted(lessons("build/notebooks"), key=lambda path: order.index(Path(path).name[:2]))

    def timed(path: str) -> int:
        begin = time.monotonic()
        run(module(EXECUTE, path, env=QUIET | SHARP))
        print(f"{path}: {time.monotonic() - begin:.0f} s", flush=True)
        return round(time.monotonic() - begin)

    with ThreadPoolExecutor(WORKERS) as pool:
        seconds = dict(zip(paths, pool.map(timed, paths), strict=True))
    times = {Path(path).stem: seconds[path] for path in sorted(paths)}
    (ROOT / "build" / "times.json").write_text(json.dumps(times, indent=2) + "\n")


# --- the site, and cleaning up -----------------------------------------------------------------------------


def say_done() -> None:
    """Say how the site is read."""
    print("Done. To read it: python3 -m http.server --directory build/site")


def clean() -> None:
    """Remove build/ and the caches of the tools."""
    gone = ["build", ".pytest_cache", ".ruff_cache", ".mypy_cache", "notebooks/.ipynb_checkpoints"]
    caches = [path for top in ("vaelib", "studies", "course", "tests") for path in (ROOT / top).rglob("__pycache__")]
    for path in (*(ROOT / name for name in gone), *caches):
        shutil.rmtree(path, ignore_errors=True)


# --- for maintainers: the lock, known faults, what is coming -----------------------------------------------


def tools() -> None:
    """Install pip-tools and pip-audit into build/tools: they are no part of the lock."""
    make_venv(TOOLS)
    run(module("pip --disable-pip-version-check install --quiet pip-tools pip-audit", venv=TOOLS))


def write_constraints() -> None:
    """Write build/constraints.txt."""
    # The limit on dateutil is botocore's: unless it is said here, every botocore there is would be tried first.
    (ROOT / "build" / "constraints.txt").write_text(f"torch=={TORCH}\npython-dateutil<3\n")


def write_lock() -> None:
    """Write requirements.lock."""
    lines = (ROOT / "build" / "requirements.txt").read_text().splitlines()
    pins = sorted((re.sub(r"^(torch==[^+]*)\+.*", r"\1", x) for x in lines if x[:1] not in ("", "#")), key=str.lower)
    head = """\
# Made by the task `lock` from pyproject.toml: the set that is installed and that the notebooks' outputs
# were made with. Without hashes, since each platform has its own wheel of torch, which may bring
# packages of its own (CUDA's, for one). CONTRIBUTING.md says what stands in for them.
"""
    (ROOT / "requirements.lock").write_text(head + "\n".join(pins) + "\n")


def lowest() -> Iterator[str]:
    """Yield the lower bound of every range in pyproject.toml, as a pin."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in {*project["dependencies"], *sum((project["optional-dependencies"][e] for e in EXTRAS), [])}:
        name, _, bound = re.sub(r"\[.*?\]", "", line).partition(">=")
        yield f"{name}=={bound}"


def write_lowest() -> None:
    """Write build/lowest.txt: the lower bound of every range."""
    (ROOT / "build" / "lowest.txt").write_text("\n".join(sorted(lowest())) + "\n")


def make_canary() -> None:
    """Make build/canary anew."""
    shutil.rmtree(ROOT / "build" / "canary", ignore_errors=True)
    make_venv(CANARY)


def mark_canary() -> None:
    """Call it installed, so that the lock is not."""
    (ROOT / CANARY / ".installed").touch()
    (ROOT / CANARY / "var").mkdir(exist_ok=True)


CANARY = Path("build/canary")
PIP = "pip --disable-pip-version-check install --quiet --constraint requirements.lock --editable"
COMPILE = (
    "piptools compile --quiet --upgrade --strip-extras --allow-unsafe --build-deps-for=editable "
    "--constraint=build/constraints.txt --no-header --no-annotate --no-emit-index-url --no-emit-find-links "
    "--no-emit-trusted-host --output-file=build/requirements.txt"
)
AUDIT = "pip_audit --strict --no-deps --disable-pip --progress-spinner=off --requirement"
SHARED = f"-n {WORKERS} --dist=loadfile --no-loadscope-reorder"
NBVAL = "--nbval --nbval-current-env --nbval-cell-timeout=600 --nbval-sanitize-with=tests/sanitize.cfg"
MEASURE = SYNTHETIC | QUIET | {"OMP_NUM_THREADS": "2"}
COHORT = ("own",) if os.environ.get("VAELIB_DATA") else ("synthetic",)
TASKS = {
    "environment": Task("make .venv and install the pinned packages", (call(install),)),
    "synthetic": Task(
        "make and prepare the synthetic patients",
        (module("vaelib phantom data/synthetic"), module("vaelib prepare data/synthetic")),
        ("environment",),
    ),
    "own": Task("prepare the patients in VAELIB_DATA", (module("vaelib prepare"),), ("environment",)),
    "data": Task("make and prepare the synthetic patients, or prepare those in VAELIB_DATA", (), COHORT),
    "tutorial": Task(
        "run every notebook; results in build/notebooks and build/html",
        (call(copy_for_tutorial), call(execute), module("course.pages build/notebooks build/html")),
        ("data",),
    ),
    "lab": Task(
        "open the first notebook in JupyterLab",
        (module("jupyterlab notebooks/00_start_here.ipynb", env={"OMP_NUM_THREADS": None}),),  # a reader has all cores
        ("environment",),
    ),
    # Tests and notebooks go to the same workers: whoever is free takes the next file, in the order of conftest.py.
    "test": Task(
        "check style and types, run the unit tests, run the notebooks against their outputs",
        (
            module("ruff check ."),
            module("ruff format --check ."),
            module("codespell_lib"),
            module("mypy"),
            call(copy_for_test),
            module(f"pytest --durations=25 {SHARED} {NBVAL} tests build/nbval"),
        ),
        ("synthetic",),
    ),
    # A book of the notebooks as they are committed, with the sliders that `tutorial` left, and the latent explorer, in
    # static pages. It takes MathJax from npm the first time; after that, nothing is asked of anyone.
    "site": Task(
        "bind the notebooks as a book of static pages, with search: build/site",
        (
            module("course.book.build build/site"),
            module("course.book.explorer build/site/explorer", env=SYNTHETIC),
            module("course.book.check build/site"),
            call(say_done),
        ),
        ("synthetic",),
    ),
    "browser": Task("install Chromium for the tests that drive it (Debian, as root)", (call(browser),)),
    # The others are pinned in the extra "bench"; nothing that the lock pins is changed by them. It takes three quarters
    # of an hour, and wants the machine for itself.
    "bench": Task(
        "measure beside others, and say what fell: benchmarks/results.json and its table",
        (
            module(PIP, ".[bench]"),
            Step(("-W", "ignore", "-m", "benchmarks.growth"), env=MEASURE),
            Step(("-W", "ignore", "-m", "benchmarks"), env=MEASURE),
            Step(("-W", "ignore", "-m", "benchmarks.sliders"), env=MEASURE),
        ),
        ("synthetic",),
    ),
    # What `test` does in small, for half an hour; the fuzzer comes for some Pythons and systems only.
    "stress": Task(
        "kill it, fill the disk, feed it damaged files by the thousand, and see that nothing is lost",
        (
            module(PIP, ".[stress]"),
            *(Step(("-W", "ignore", "-m", f"stress.{name}")) for name in ("kill", "room", "read", "headers", "guided")),
        ),
        ("environment",),
    ),
    # Every number that the notebooks and pages quote, the tables, and the checkpoints in notebooks/checkpoints. About
    # two hours on two cores for the older studies, a night for `controls` and `labels`, which go on where they stopped;
    # what is trained stays in data/models, so a second run is short.
    "results": Task(
        "run every study: the results, the tables, the committed checkpoints",
        (module("studies", env=SYNTHETIC | QUIET),),
        ("synthetic",),
    ),
    # Outputs are committed without clock times, widget state or the number of the Python that made them.
    "outputs": Task(
        "run the committed notebooks in place",
        tuple(module(f"{EXECUTE} {CLEAN}", path, env=SYNTHETIC | QUIET) for path in (
            *lessons("notebooks"), *lessons("notebooks/exercises"), *lessons("notebooks/solutions")
        )),
        ("synthetic",),
    ),
    "terms": Task(
        "link the first use of each term in each lesson to the glossary",
        (module("course.book.link_terms"),),
        ("environment",),
    ),
    "times": Task(
        "bring the seconds of the last `tutorial` into the page for teachers, and make the slides anew",
        (module("course"),),
        ("environment",),
    ),
    "lock": Task(
        "pin all packages anew in requirements.lock",
        (
            call(tools),
            call(write_constraints),
            module(COMPILE, *(f"--extra={extra}" for extra in EXTRAS), "pyproject.toml", venv=TOOLS),
            call(write_lock),
        ),
    ),
    # A package that the database does not know is a failure: else a database out of reach would read as a clean bill.
    "audit": Task(
        "ask for known faults of what is pinned, and of the lowest versions that are allowed",
        (
            call(tools),
            module(AUDIT, "requirements.lock", venv=TOOLS),
            call(write_lowest),
            module(AUDIT, "build/lowest.txt", venv=TOOLS),
        ),
    ),
    # Once a month: what the newest packages that pyproject.toml allows will break. The lock's own test is skipped.
    "canary": Task(
        "run `test` with the newest of everything, in an environment of its own",
        (
            call(make_canary),
            module("pip --disable-pip-version-check install --progress-bar=off --editable", f".[{','.join(EXTRAS)}]",
                   venv=CANARY),
            call(mark_canary),
            module("nox -s test", env={"VAELIB_VENV": CANARY.as_posix(), "VAELIB_CANARY": "1"}, venv=CANARY),
        ),
    ),
    "clean": Task("remove build/ and the caches of the tools", (call(clean),)),
}  # fmt: skip


def steps_of(name: str) -> Iterator[Step]:
    """Yield the steps of a task in order, with those of the tasks that it needs before its own."""
    for need in TASKS[name].needs:
        yield from steps_of(need)
    yield from TASKS[name].steps


def session_of(name: str) -> None:
    """Make a task known to nox."""

    def session(session: nox.Session) -> None:
        (ROOT / "build").mkdir(exist_ok=True)
        for step in steps_of(name):
            run(step)

    session.__doc__ = TASKS[name].about
    nox.session(session, name=name, venv_backend="none", default=False)


for task in TASKS:
    session_of(task)

if __name__ == "__main__":
    print(*steps_of(sys.argv[1]), sep="\n")
