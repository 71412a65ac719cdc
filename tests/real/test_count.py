"""The test command ends by saying how many checks met real inputs, and how many had to be skipped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CHECKS = """
def test_one(real_slices): pass
def test_two(real_slices): assert not real_slices
def test_three(real_series): pass
def test_four(real_seg, tmp_path): pass
def test_five(tmp_path): pass
"""


def test_the_last_line_counts_what_ran_and_what_was_skipped_over_all_workers(tmp_path):
    (tmp_path / "repo" / "tests").mkdir(parents=True)
    shutil.copy(TESTS / "conftest.py", tmp_path / "repo" / "tests")
    (tmp_path / "repo" / "tests" / "test_some.py").write_text(CHECKS)
    (tmp_path / "shared" / "real-slices").mkdir(parents=True)
    (tmp_path / "course" / "book").mkdir(parents=True)
    for name in "browser", "small", "course/book/build":  # what it imports takes seconds in each process
        (tmp_path / f"{name}.py").write_text("OBLIQUE = make_series = None")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", "-n", "2", "tests"]
    done = subprocess.run(words, cwd=tmp_path / "repo", env=env, capture_output=True, text=True)
    *_, said = done.stdout.rstrip().splitlines()
    assert said == "real inputs: 2 checks ran, 2 skipped for want of ../shared", done.stdout
    assert done.returncode == 1  # one of those that ran fails, and counts all the same
