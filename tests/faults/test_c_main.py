"""Kind C: however a command ends, it says so in one line, with a status that tells our faults from bad input."""

import os
import random
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from drawn import drawn

from vaelib import InputError, cli, metrics, recipes
from vaelib.engine.console import run
from vaelib.engine.errors import NotFinite, WorkersStopped


def raised(error):
    """Let a command raise it, somewhere deep."""

    def fails(*args, **kwargs):
        raise error

    return fails


FAULTS = [
    KeyError("mask"), ValueError("a bug"), TypeError("no\n\nway"), IndexError("list index out of range"),
    RuntimeError("x"), ZeroDivisionError("division by zero"), AttributeError("'NoneType' object has no attribute 'x'"),
    AssertionError(), RecursionError("maximum recursion depth exceeded"), NotImplementedError(), StopIteration(),
    UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates"), zipfile.BadZipFile("no zip"), EOFError(),
    np.linalg.LinAlgError("singular"), ImportError("No module named 'x'"), OverflowError("too large"),
]  # fmt: skip
BAD = [
    InputError("a.dcm: is cut"), NotFinite("val: NaN"), WorkersStopped("a worker was killed"), MemoryError(),
    FileNotFoundError(2, "No such file", "a"), PermissionError(13, "Permission denied", "/b/c"),
    OSError(28, "No space left on device"), IsADirectoryError(21, "Is a directory", "d"),
    OSError(5, "Input/output error", "e.dcm"), OSError("of a library"), TimeoutError(110, "Connection timed out"),
    MemoryError("Unable to allocate 9 GiB"), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    NotADirectoryError(20, "Not a directory", b"f"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: you tried"),
]  # fmt: skip
INSTANCES = [*((type(e).__name__, "train", e, 1) for e in FAULTS), *((type(e).__name__, "train", e, 2) for e in BAD)]


def generate(r: random.Random):
    error, status = r.choice([*((e, 1) for e in FAULTS), *((e, 2) for e in BAD)])
    command = r.choice(["train", "evaluate", "segment"])
    lines = "\n".join(r.choice(["", "  a", "\tb", "é", "\u2265 0", "\udcff"]) for _ in range(r.randint(1, 6)))
    kind = type(error)
    if kind in (KeyError, ValueError, TypeError, InputError, MemoryError):
        error = kind(lines + "\nend")
    return f"{command} {kind.__name__}", command, error, status


@drawn(INSTANCES, generate, seed=18)
def test_whatever_is_raised_ends_in_one_line(case, monkeypatch, capsys):
    _, command, error, status = case
    monkeypatch.setattr(recipes, command, raised(error))
    assert cli.main([command, *(["scan", "--out", "m.nii"] if command == "segment" else [])]) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("vaelib: error: ")
    assert len(said.err.split("vaelib: error: ")[1].strip()) > 1
    ours = f"{type(error).__name__} in test_c_main.py, line " in said.err and "VAELIB_TRACEBACK=1" in said.err
    assert ours == (status == 1) and "[Errno" not in said.err
    monkeypatch.setenv("VAELIB_TRACEBACK", "1")
    assert cli.main([command, *(["scan", "--out", "m.nii"] if command == "segment" else [])]) == status
    assert "in fails" in capsys.readouterr().err


def test_a_warning_of_a_library_is_one_line_whichever_way_it_comes(monkeypatch, capsys):
    import logging
    import warnings

    def odd(*args, **kwargs):
        warnings.warn("two\nlines", stacklevel=1)
        logging.getLogger("pixels").warning("is odd")

    monkeypatch.setattr(recipes, "segment", odd)
    handlers, logging.root.handlers = logging.root.handlers, []  # as without pytest
    try:
        assert cli.main(["segment", "scan", "--out", "m.nii"]) == 0
    finally:
        logging.root.handlers = handlers
    assert capsys.readouterr().err == "vaelib: warning: two lines\nvaelib: warning: is odd\n"


class Nearest:
    """Answers as the tree would where both masks are one, at once."""

    def __init__(self, points):
        pass

    def query(self, points):
        return np.zeros(len(points)), None


def test_the_95th_percentile_of_more_distances_than_some_libraries_take(monkeypatch):
    monkeypatch.setattr("scipy.spatial.KDTree", Nearest)
    whole = np.ones((1, 4100, 4100), bool)  # 16.8 million voxels, all of the surface
    assert metrics.hd95(whole, whole, (1, 1, 1)) == 0


def start(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "vaelib", *words], stderr=subprocess.PIPE, text=True, **options)


def test_a_reader_who_leaves_early_hears_no_complaint(tmp_path):
    lines = "import sys; from vaelib.engine.console import run"
    lines += "; sys.exit(run(lambda *a, **k: [print('x' * 99) for _ in range(9999)]))"
    (tmp_path / "a.py").write_text(lines)
    line, env = f"{sys.executable} a.py | head -1; echo ${{PIPESTATUS[0]}}", os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(["/bin/bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["x" * 99, "141"] and done.stderr == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_who_ends_it_hears_nothing(error, capsys):
    assert run(raised(error())) == {KeyboardInterrupt: 130, BrokenPipeError: 141}[error]
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_in_a_terminal_reaches_the_workers_too_and_nothing_is_said(tmp_path):
    env = os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": os.getcwd()}
    going = start("phantom", str(tmp_path / "c"), "--patients", "4", "--workers", "2", env=env, start_new_session=True)
    while not [*tmp_path.glob("c/.PANCREAS_*")]:  # until the workers are at it
        assert going.poll() is None
    os.killpg(going.pid, signal.SIGINT)
    _, said = going.communicate(timeout=60)
    assert going.returncode == 130 and said == ""


def test_who_is_told_to_end_ends_without_a_word_and_leaves_nothing_half(tmp_path):
    env = os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": os.getcwd()}
    going = start("phantom", str(tmp_path / "c"), "--patients", "4", "--workers", "2", env=env)
    while not [*tmp_path.glob("c/.PANCREAS_*")]:
        assert going.poll() is None
    going.terminate()
    _, said = going.communicate(timeout=120)
    assert (going.returncode, said) == (143, "") and not [*tmp_path.glob("c/.PANCREAS_*")]
