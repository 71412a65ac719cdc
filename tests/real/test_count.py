"""The test command ends by saying how many checks met real inputs, and how many had to be skipped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
CHECKS = """
def test_one(real_slices): pass
def test_two(real_slices): assert not real_slices
def test_three(real_series): pass
def test_four(real_seg, tmp_path): pass
def test_five(series): pass
"""


@pytest.mark.parametrize("shared, workers, said", [
    (["real-slices"], ["-n", "2"], "real inputs: 2 checks ran, 2 skipped for want of ../shared"),
    ([], [], "real inputs: 0 checks ran, 4 skipped for want of ../shared"),
], ids=["some, two workers", "none"])  # fmt: skip
def test_the_last_line_counts_what_ran_and_what_was_skipped(shared, said, workers, tmp_path):
    (tmp_path / "repo" / "tests").mkdir(parents=True)
    shutil.copy(TESTS / "conftest.py", tmp_path / "repo" / "tests")
    (tmp_path / "repo" / "tests" / "test_some.py").write_text(CHECKS)
    for name in shared:
        (tmp_path / "shared" / name).mkdir(parents=True)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, "tests"]
    done = subprocess.run(words, cwd=tmp_path / "repo", env=env, capture_output=True, text=True)
    assert done.stdout.rstrip().splitlines()[-1] == said, done.stdout
    assert done.returncode == bool(shared)
