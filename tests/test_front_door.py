"""`vaelib` itself: it shows the interface and nothing else, and opens only what is asked for."""

import inspect
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import test_house

import vaelib

ROOT = Path(vaelib.__file__).parent
TAUGHT = {name for names in test_house.TAUGHT.values() for name in names.split()}
NAMES = sorted(set(vaelib.__all__) - {"InputError", "__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_defined_in_the_file_of_the_root_that_it_is_said_to_be_of(name):
    thing, file = getattr(vaelib, name), vaelib._ROOM[name]
    where = Path(inspect.getsourcefile(inspect.unwrap(thing)))  # what is no lesson may stand behind its file
    assert where == ROOT / f"{file}.py" or (name not in TAUGHT and where.is_relative_to(ROOT))
    assert thing is getattr(import_module(f"vaelib.{file}"), name)
    assert inspect.getdoc(thing), f"{name} is not explained"


def test_what_tab_shows_is_the_interface():
    assert dir(vaelib) == sorted(vaelib.__all__) and {"InputError", "read_ct", "VAE", "fit"} <= {*dir(vaelib)}
    assert all(name[0] != "_" or name == "__version__" for name in dir(vaelib))
    assert len(NAMES) == len({*NAMES}) == sum(len(names.split()) for names in vaelib._API.values())


def test_no_name_is_that_of_a_file_or_a_folder():
    rooms = {path.stem for path in ROOT.iterdir()}
    assert not rooms & {*vaelib.__all__} and {*vaelib._API} <= rooms


def test_a_name_that_is_none_is_an_error_as_ever():
    with pytest.raises(AttributeError, match="module 'vaelib' has no attribute 'read_mr'"):
        vaelib.read_mr  # noqa: B018
    with pytest.raises(ImportError):
        from vaelib import read_mr  # noqa: F401


def test_nothing_is_imported_before_it_is_asked_for():
    code = """if True:
        import sys, vaelib
        assert not {'numpy', 'torch', 'SimpleITK'} & set(sys.modules)
        vaelib.window
        assert 'torch' not in sys.modules
        assert vaelib.metrics.dice is vaelib.dice  # a file of the root, too
        import vaelib.rivals
        assert 'monai' not in sys.modules and 'sklearn' not in sys.modules
        from vaelib import VAE, open_cohort
        print(VAE.__module__, open_cohort.__module__)"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "vaelib.vae vaelib.cohort\n"


def test_it_is_there_at_once():
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import vaelib"], check=True)
    assert time.perf_counter() - began < 1  # 0.1 s on an idle machine
