"""The project's own files agree with each other, and the rooms of the library keep their order."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vaelib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1] not in ("", "#")]
# From the ground up: a room imports only rooms that stand before it here.
ROOMS = """errors __init__ finite files parallel progress identity dicom pixels volumes nifti masks quality phantom
cohort labels client download rows levels pyramid survey shifts anomalies models residual sequence unet losses
memory augmentation checkpoints training latent uncertainty prior metrics charts plots controls surface widgets
diagram export pipeline explorer arms ladder crossval checks studies __main__""".split()
OUTERMOST = {*"charts plots controls surface widgets diagram export".split()}  # only a person's eyes or disk sees these
MAY_USE_THEM = {"charts": set(), "plots": {"charts"}, "controls": {"charts"}, "surface": {"charts", "controls"}}
MAY_USE_THEM |= {"widgets": {"charts", "plots", "controls"}, "diagram": {"charts"}}


def ranges(lines):
    """Requirements as a dict from the normalised name to the range."""
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in found}


def dry_run(target, *flags):
    """What make would do."""
    # Started from `make test`, this make must not take the outer one's flags for its own.
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k not in ("MFLAGS", "VAELIB_DATA")}
    command = ["make", "-n", *flags, target]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


WANTED = ranges(
    PROJECT["dependencies"] + [r for extra in ("test", "site") for r in PROJECT["optional-dependencies"][extra]]
)


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
    said = dry_run("lock", "--always-make")
    extras = {"test", "site"} & set(re.findall(r"--extra=(\w+)", said))
    assert extras == {"test", "site"} and "--build-deps-for=editable" in said


def test_the_canary_runs_the_test_command_on_the_newest_in_an_environment_of_its_own():
    said = dry_run("canary", "--always-make")
    install, _, tests = said.partition("VAELIB_CANARY=1")
    assert "build/canary/bin/python -m pip" in install and "'.[test,site]'" in install
    assert "build/canary/bin/python -m pytest --durations" in tests and "--nbval" in tests
    assert ".venv" not in said


@pytest.mark.parametrize(
    "room", ["vaelib.volumes", "course.checks.lesson_03", "book.build", "benchmarks.peers", "test_x"]
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


def test_ci_installs_a_browser_and_runs_the_test_command_and_no_more():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text().splitlines() if line and line[0] != "#"]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make browser", "make test"]


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("tutorial", ["vaelib phantom", "vaelib prepare", "--execute", "--to=html"]),
        ("test", ["vaelib phantom", "ruff check", "ruff format --check", "codespell", "pytest --durations", "--nbval"]),
        ("lab", ["jupyterlab notebooks/00_start_here.ipynb"]),
    ],
)
def test_a_command_takes_its_steps_in_order(target, steps):
    said = dry_run(target)
    places = [said.find(step) for step in steps]
    assert -1 not in places and places == sorted(places), said


def test_make_says_what_an_old_python_lacks(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    for python, words in ((str(old), "Python 3.8.1 is too old; 3.11"), (str(tmp_path / "none"), "Install Python 3.11")):
        done = subprocess.run(
            ["make", "environment", f"PYTHON={python}"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode and words in done.stdout
        assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "data/README.md", "notebooks/README.md", "notebooks/glossary.md"]
)
def test_the_links_of_a_page_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    gone = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not gone


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, by full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


DISTRIBUTIONS = packages_distributions()
SOURCES = sorted((ROOT / "vaelib").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_rooms_before_it(path):
    here = path.relative_to(ROOT / "vaelib").with_suffix("").parts[0]
    used = {name.split(".")[1] for name in imports(path) if name.startswith("vaelib.")} & {*ROOMS} - {here}
    assert here in ROOMS, "give the new room its place in ROOMS"
    before = set(ROOMS[: ROOMS.index(here)])
    if here not in ("pipeline", "explorer", "arms", "ladder", "crossval", "checks", "studies", "__main__"):
        before -= OUTERMOST - MAY_USE_THEM.get(here, set())
    assert used <= before, f"{here} imports {sorted(used - before)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_imported_is_declared(path):
    used = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"vaelib"}
    declared = set(ranges(PROJECT["dependencies"]))
    missing = {name for name in used if not {canonicalize_name(d) for d in DISTRIBUTIONS.get(name, [])} & declared}
    assert not missing, f"{sorted(missing)}: not in pyproject.toml"
