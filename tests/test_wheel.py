"""The wheel stands alone: outside the repository, with the core's packages and no others, it does a whole job."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import house
import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
# The environment sees the packages of this one, but those alone that the core needs: others are not found there.
SITE = """
import sys
from importlib.machinery import PathFinder
HIDDEN = {hidden!r}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if path is None and name in HIDDEN else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with the wheel, and an empty folder beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("vaelib-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    core = house.needed(CORE)
    hidden = {
        name for name, dists in packages_distributions().items() if not {canonicalize_name(d) for d in dists} & core
    }
    (site / "sitecustomize.py").write_text(SITE.format(hidden=hidden))
    # A folder named in a .pth file is searched, but its own .pth files are not read: no editable vaelib comes with it.
    (site / "core.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")))
    (folder / "empty").mkdir()
    return python


@pytest.fixture(scope="module")
def call(python):
    """A function that runs words in the empty folder: the environment's Python, or its command."""
    gone = ("PYTHON", "VAELIB", "COV_", "PYTEST")
    env = {k: v for k, v in os.environ.items() if not k.startswith(gone)} | {"TQDM_DISABLE": "1"}

    def run(*words, command="vaelib"):
        program = python if command == "python" else python.with_name(command + python.suffix)
        done = subprocess.run(
            [program, *words], cwd=python.parents[2] / "empty", env=env, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_it_holds_the_library_and_nothing_that_stands_beside_it(call):
    status, said, _ = call("-c", "import vaelib; print(vaelib.__file__)", command="python")
    assert status == 0 and "site-packages" in said and not Path(said.strip()).is_relative_to(ROOT)
    for name in ("studies", "course", "benchmarks", "tests", "noxfile"):
        status, _, why = call("-c", f"import {name}", command="python")
        assert status and "ModuleNotFoundError" in why, f"{name} is in the wheel"
    status, said, _ = call("-c", "import vaelib, pathlib; print(*pathlib.Path(vaelib.__file__).parent.glob('py.*'))",
                           command="python")  # fmt: skip
    assert said.endswith("py.typed\n")


@pytest.mark.parametrize("name", ["monai", "jupyterlab", "ipywidgets", "IPython", "idc_index_data", "pandas", "pytest"])
def test_the_core_needs_no_extra(call, name):
    status, _, why = call("-c", f"import {name}", command="python")
    assert status and f"No module named '{name}'" in why


def test_every_room_of_the_core_is_imported_without_extras(call):
    rooms = [p.relative_to(ROOT).with_suffix("").parts for p in (ROOT / "vaelib").rglob("*.py") if p.stem != "__main__"]
    rooms = {".".join(parts).removesuffix(".__init__") for parts in rooms}
    code = """if True:
        import importlib, sys
        for room in sys.argv[1:]:
            try:
                importlib.import_module(room)
            except (ModuleNotFoundError, ValueError) as error:  # an InputError is a ValueError
                print(room, getattr(error, "name", error))"""
    status, said, why = call("-c", code, *sorted(rooms), command="python")
    assert status == 0, why
    of_extras = {"vaelib.cohorts.download", "vaelib.pictures.explorer", "vaelib.rivals"}
    of_extras |= {f"vaelib.pictures.{name}" for name in ("live", "sliders", "solids")}
    assert {line.split()[0] for line in said.splitlines()} <= of_extras


@pytest.mark.parametrize(
    ("command", "extra"), [("download --dry-run", "download"), ("explorer page.html", "notebooks")]
)
def test_a_command_whose_extra_is_missing_says_which(command, extra, call):
    status, said, why = call(*command.split())
    assert (status, said) == (2, "") and why.count("\n") == 1 and f"vaelib[{extra}]" in why


def test_a_whole_job_from_an_empty_folder_by_the_default_paths(call, python):
    here = python.parents[2] / "empty"
    for words in (
        ["--help"],
        ["phantom", "--patients", "3"],
        ["check", "--out", "check"],
        ["prepare"],
        ["train", "--epochs", "1"],
        ["evaluate", "--json"],
        ["segment", "data/synthetic/PANCREAS_0001", "--out", "mask.nii.gz"],
        ["segment", "data/synthetic/PANCREAS_0001", "--out", "mask.dcm"],
    ):
        if words[0] == "segment":  # the folder of the patient's series
            (words[1],) = map(str, (here / "data" / "synthetic").glob("*0001/*/CT_*"))
        status, _, why = call(*words)
        assert status == 0, f"vaelib {' '.join(words)}: {why}"
    assert {path.name for path in here.iterdir()} == {"data", "check", "mask.nii.gz", "mask.dcm"}
    assert (here / "data" / "models").is_dir() and (here / "data" / "cache" / "synthetic").is_dir()
    installed = [p for p in Path(python).parents[1].rglob("data") if p.is_dir() and "vaelib" in p.parts]
    assert not installed, "data lies beside the installed package"


SETUP = """
import sys, nbformat
cell = next(cell for cell in nbformat.read(sys.argv[1], 4).cells if cell.cell_type == "code")
assert cell.source.startswith("# Setup")
exec(compile(cell.source, sys.argv[1], "exec"))
from vaelib.cohorts.layout import cache_folder, data_folder, models_folder
print(data_folder(), cache_folder(data_folder()), models_folder(), sep="|")
"""


@pytest.mark.parametrize("where", ["notebooks", "build/notebooks", "somewhere/vaelib/notebooks"])
def test_a_lesson_finds_its_data_wherever_it_is_started(where, tmp_path):
    top = ROOT
    if where.startswith("somewhere"):  # as on Colab and Binder: a clone, its data made in it, a kernel in notebooks/
        top = tmp_path / "somewhere" / "vaelib"
        (top / "data" / "synthetic").mkdir(parents=True)
        for path in (ROOT / "data" / "synthetic").iterdir():
            (top / "data" / "synthetic" / path.name).symlink_to(path)
    here = (tmp_path if top != ROOT else ROOT) / where
    here.mkdir(parents=True, exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("VAELIB")}
    command = [sys.executable, "-c", SETUP, ROOT / "notebooks" / "01_loading.ipynb"]
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data, cache, models = (Path(path).absolute() for path in done.stdout.splitlines()[-1].split("|"))
    assert data == top / "data" / "synthetic" and cache == top / "data" / "cache" / "synthetic"
    assert models.is_relative_to(top / "data" / "models")
