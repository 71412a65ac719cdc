"""The project's own files agree with each other: what is declared, locked, said and run."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import house
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import noxfile
import vaelib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1] not in ("", "#")]
LOCKED = ("notebooks", "download", "compare", "test", "site")  # the extras that the lock holds beside the core
# Whose extras a folder or file may import from, beside the core: the longest path that fits counts.
MAY_IMPORT = {
    "vaelib": "",
    "vaelib/pictures": "notebooks",
    "vaelib/cohorts/transfer.py": "download",
    "vaelib/cohorts/download.py": "download",
    "vaelib/rivals.py": "compare",
    "studies": "compare",
    "course": "notebooks compare site",
    "course/checks": "notebooks",
    "benchmarks": "notebooks compare bench test",
    "stress": "download test stress",
    "tests": "notebooks download compare test site",
}


def ranges(lines):
    """Requirements as a dict from the normalised name to the range."""
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in found}


def of(*extras):
    """The ranges of the core and of some extras."""
    return ranges([*PROJECT["dependencies"], *sum((PROJECT["optional-dependencies"][extra] for extra in extras), [])])


# Started from `make test`, another make must not take the outer one's flags for its own.
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "VAELIB")) and k != "MFLAGS"}


def planned(task, **env):
    """The steps of a task, as its file tells them."""
    command = [sys.executable, "noxfile.py", task]
    return subprocess.run(command, cwd=ROOT, env=ENV | env, capture_output=True, text=True, check=True).stdout


WANTED = of(*LOCKED)
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def test_conda_opens_the_same_door():
    *lines, last = CONDA["dependencies"]
    assert CONDA["channels"] == ["conda-forge"]
    assert f"python{PROJECT['requires-python']}" in lines
    *packages, itself = last["pip"]
    assert itself == "-e ."
    assert ranges(packages) == WANTED


def test_the_lock_pins_every_package_and_nothing_but_packages():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in LOCK), LOCK
    pins = {name: str(pin).removeprefix("==") for name, pin in ranges(LOCK).items()}
    assert len(pins) == len(LOCK)
    for name, wanted in WANTED.items():
        assert name in pins and wanted.contains(pins[name]), f"{name}{wanted}: pinned {pins.get(name)}; run `make lock`"


@pytest.mark.skipif("VAELIB_CANARY" in os.environ, reason="newer packages may need others")
def test_the_lock_pins_what_its_packages_need_in_turn():
    brought = re.compile(r"nvidia-|cuda-|triton$|pip$")  # by torch on some platforms; by Python
    needed = house.needed(PROJECT["dependencies"] + sum((PROJECT["optional-dependencies"][e] for e in LOCKED), []))
    assert not {name for name in needed - {*ranges(LOCK)} if not brought.match(name)}, "run `make lock`"


@pytest.mark.skipif("VAELIB_CANARY" in os.environ, reason="make canary takes the newest packages, not the lock's")
def test_what_is_installed_is_what_is_locked():
    other = []
    for name, pin in (line.split("==") for line in LOCK):
        try:
            here = version(name).partition("+")[0]  # 2.13.0+cpu is torch 2.13.0
        except PackageNotFoundError:
            here = None
        other += [f"{name} {here}, locked {pin}"] * (here != pin)
    assert not other, f"run `make environment`: {other}"


def test_the_lock_is_made_from_every_extra_that_make_test_needs():
    said = planned("lock")
    assert {*re.findall(r"--extra=(\w+)", said)} == {*LOCKED} and "--build-deps-for=editable" in said


def test_no_extra_lacks_what_the_lessons_of_its_subject_import():
    extras = {name: of(name) for name in ("notebooks", "download", "compare")}
    assert extras["download"].items() <= extras["notebooks"].items()
    assert extras["compare"].items() <= extras["notebooks"].items()
    core = {*of()}
    assert not core & {"jupyterlab", "monai", "idc-index-data", "pandas", "ipywidgets", "ipython", "nbformat"}


def test_lower_bounds_keep_known_faults_out_and_are_asked_for():
    for name, version_ in {"pydicom": "3.0.1", "monai": "1.5.2", "torch": "2.9.1"}.items():
        assert not WANTED[name].contains(version_), f"{name} {version_} has a known fault"
    assert all(len(spec) == 1 and str(spec).startswith(">=") for spec in WANTED.values())  # the upper end stays open
    said = planned("audit").splitlines()
    assert [line.split()[-1] for line in said if "pip_audit" in line] == ["requirements.lock", "build/lowest.txt"]
    lowest = [f"{name}{str(spec).replace('>=', '==')}" for name, spec in WANTED.items()]
    assert sorted(map(canonicalize_name, noxfile.lowest())) == sorted(map(canonicalize_name, lowest))


def test_the_canary_runs_the_test_command_on_the_newest_in_an_environment_of_its_own():
    said, python = planned("canary"), noxfile.python_of(Path("build/canary")).as_posix()
    install, _, tests = said.partition("VAELIB_CANARY=1")
    assert f"{python} -m pip" in install and f".[{','.join(LOCKED)}]" in install
    assert tests.split() == [python, "-m", "nox", "-s", "test"]
    assert "VAELIB_VENV=build/canary" in install
    tests = planned("test", VAELIB_VENV="build/canary")
    assert f"{python} -m pytest --durations" in tests and "--nbval" in tests
    assert ".venv" not in said + tests


@pytest.mark.parametrize(
    "room", ["vaelib.volumes", "course.checks.lesson_03", "course.book.build", "benchmarks.peers", "test_x"]
)
@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning])
def test_a_deprecation_raised_from_our_code_fails_the_tests(room, category):
    code = "import warnings; warnings.warn('`old` is deprecated', kind)"
    with pytest.raises(category, match="deprecated"):
        exec(code, {"__name__": room, "kind": category})
    with warnings.catch_warnings(record=True) as heard:  # a dependency's is heard, and fails nothing
        exec(code, {"__name__": "pydicom.dataset", "kind": category})
    assert len(heard) == 1


def test_what_the_tutorial_promises_is_installed():
    promised = "torch numpy pydicom simpleitk matplotlib ipywidgets jupyterlab nbval".split()
    assert set(promised) <= {canonicalize_name(line.split("==")[0]) for line in LOCK}


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vaelib.__version__
    assert f"## {vaelib.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_badges_are_shown_only_where_an_address_is_set():
    before, _, rest = (ROOT / "README.md").read_text().partition("<!-- badges -->\n")
    badges, _, after = rest.partition("<!-- end of badges -->")
    assert bool(badges.strip()) == bool(PROJECT.get("urls", {}).get("Repository"))
    assert not re.search(r"colab|mybinder", before + after, re.IGNORECASE)


def test_a_release_brings_what_a_doi_needs():
    zenodo, citation = (
        json.loads((ROOT / ".zenodo.json").read_text()),
        yaml.safe_load((ROOT / "CITATION.cff").read_text()),
    )
    assert zenodo["title"] == citation["title"] and zenodo["license"] == citation["license"] == PROJECT["license"]
    assert [person["name"] for person in zenodo["creators"]] == [a["name"] for a in citation["authors"]]
    assert zenodo["upload_type"] == "software" and zenodo["keywords"] == citation["keywords"]
    cited = {r["doi"] for r in citation["references"] if "doi" in r}
    assert cited <= {r["identifier"] for r in zenodo["related_identifiers"]}


def test_ci_installs_a_browser_and_runs_the_test_command_and_no_more():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and line[0] != "#"]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make browser", "make test"]


@pytest.mark.parametrize(
    ("task", "steps"),
    [
        ("tutorial", ["vaelib phantom", "vaelib prepare", "--execute", "course.pages"]),
        (
            "test",
            [
                *("vaelib phantom", "ruff check", "ruff format --check", "codespell", "mypy"),
                *("pytest --durations", "--nbval", " tests build/nbval"),
            ],
        ),
        ("lab", ["jupyterlab notebooks/00_start_here.ipynb"]),
    ],
)
def test_a_command_takes_its_steps_in_order(task, steps):
    said = planned(task)
    places = [said.find(step) for step in steps]
    assert -1 not in places and places == sorted(places), said


def test_the_tasks_read_the_cohort_that_is_named():
    assert "vaelib prepare\n" in planned("tutorial", VAELIB_DATA="elsewhere")
    assert "phantom" not in planned("data", VAELIB_DATA="elsewhere")
    assert "vaelib phantom" in planned("test", VAELIB_DATA="elsewhere")  # the outputs are of the synthetic one


@needs_make
def test_make_is_a_door_to_the_tasks_and_has_no_steps_of_its_own():
    for task in noxfile.TASKS:
        command = ["make", "-n", "--always-make", task]
        done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f".venv/bin/python -m nox --session {task}"
        assert "--constraint requirements.lock nox" in done.stdout
    said = subprocess.run(["make", "help"], cwd=ROOT, env=ENV, capture_output=True, text=True, check=True).stdout
    named = {
        name for pair in re.findall(r"^make ([a-z]+)|make ([a-z]+) \(", said, re.MULTILINE) for name in pair if name
    }
    assert {"tutorial", "test", "lab", "canary"} <= named <= {*noxfile.TASKS}


def test_a_task_stops_at_the_first_step_that_fails(monkeypatch):
    ran = []
    monkeypatch.setitem(
        noxfile.TASKS, "two", noxfile.Task("", tuple(map(noxfile.call, (ran.clear, lambda: ran.append(1)))))
    )
    for step in noxfile.steps_of("two"):
        noxfile.run(step)
    assert ran == [1]
    fails = noxfile.Step(("-c", "raise SystemExit(3)"), venv=Path(sys.prefix))
    with pytest.raises(SystemExit, match="status 3"):
        noxfile.run(fails)


def test_what_jupyter_and_matplotlib_remember_stays_in_the_project():
    for name in "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR MPLCONFIGDIR".split():
        assert Path(noxfile.ENV[name]).is_relative_to(ROOT)
    assert noxfile.ENV["OMP_NUM_THREADS"].isdigit()


def test_the_workflow_runs_the_test_command_on_three_systems_and_three_pythons():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    (job,) = jobs.values()
    matrix = job["strategy"]["matrix"]
    assert [system.split("-")[0] for system in matrix["os"]] == ["ubuntu", "macos", "windows"]
    classifiers = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert matrix["python"] == classifiers and len(classifiers) == 3
    assert any(step.get("run") == "nox --session test" for step in job["steps"])


@needs_make
def test_make_says_what_an_old_python_lacks(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    for python, words in ((str(old), "Python 3.8.1 is too old; 3.11"), (str(tmp_path / "none"), "Install Python 3.11")):
        done = subprocess.run(
            ["make", "environment", f"PYTHON={python}"], cwd=tmp_path, env=ENV, capture_output=True, text=True
        )
        assert done.returncode and words in done.stdout
        assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    "page",
    "README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md data/README.md benchmarks/README.md results/README.md "
    "results/related.md notebooks/README.md notebooks/glossary.md".split(),
)
def test_the_links_of_a_page_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    gone = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not gone


def missing(used, extras):
    """What is used, and neither Python's, nor ours, nor declared in the core or the extras."""
    own = {
        "vaelib",
        "studies",
        "course",
        "benchmarks",
        "stress",
        "noxfile",
        *(p.stem for p in (ROOT / "tests").rglob("*.py")),
    }
    declared = {*of(*extras)}
    foreign = used - {*sys.stdlib_module_names} - own
    return {name for name in foreign if not {canonicalize_name(d) for d in DISTRIBUTIONS.get(name, [])} & declared}


DISTRIBUTIONS = packages_distributions() | {"atheris": ["atheris"], "pythae": ["pythae"], "torchio": ["torchio"]}
SOURCES = house.files("vaelib", "studies", "course", "benchmarks", "stress", "tests")


@pytest.mark.parametrize("path", SOURCES, ids=house.name)
def test_what_is_imported_is_declared(path):
    at = max((top for top in MAY_IMPORT if Path(house.name(path)).is_relative_to(top)), key=len)
    gone = missing(house.packages(path), MAY_IMPORT[at].split())
    assert not gone, f"{sorted(gone)}: in neither the core nor the extras {MAY_IMPORT[at] or 'of nobody'}"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=house.name)
def test_what_a_lesson_imports_is_in_the_extra_for_notebooks(path):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    nodes = [node for source in cells for node in ast.walk(ast.parse(source))]
    assert not missing(house.packages(path, nodes), ["notebooks"])
