"""A script without a main guard is told so in one line, and nothing of it goes on."""

import os
import subprocess
import sys

import psutil
import pytest
from small import make_patients

SCRIPT = """
import sys
from vaelib.cohorts.layout import find_cases
from vaelib.engine.errors import InputError
from vaelib.engine.shards import prepare
from vaelib.phantom import make_cohort

if sys.argv[1] == "phantom":
    make_cohort("out", patients=3, size=64, workers=2)
elif sys.argv[1] == "caught":
    try:
        make_cohort("out", patients=3, size=64, workers=2)
    except InputError as error:
        print("caught", error)
else:
    prepare(find_cases("cohort"), "out", levels=[4], workers=2)
print("done")
"""


def start(folder, *words):
    """Run the script in a folder; give back how it ended, and which of its processes did not."""
    (folder / "my script.py").write_text(SCRIPT)
    env = os.environ | {"TQDM_DISABLE": "1", "VAELIB_TEST_MARK": str(folder)}
    done = subprocess.run(
        [sys.executable, "my script.py", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=100
    )
    left = [p for p in psutil.process_iter() if _environment(p).get("VAELIB_TEST_MARK") == str(folder)]
    return done, [p for p in left if "multiprocessing" in " ".join(p.cmdline())]


def _environment(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.mark.parametrize("job", ["phantom", "prepare"])
def test_a_script_without_a_main_guard_is_told_in_one_line(tmp_path, job):
    make_patients(tmp_path / "cohort", range(1, 3))
    done, left = start(tmp_path, job)
    assert done.returncode == 1 and left == [] and "done" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert 'my script.py: put what the script does under `if __name__ == "__main__":`' in line
    made = [path.name for path in tmp_path.glob("out/**/*")]
    assert made == {"phantom": ["SYNTHETIC.md"], "prepare": []}[job]


def test_it_is_bad_input_to_those_who_catch_that(tmp_path):
    done, left = start(tmp_path, "caught")
    assert done.returncode == 0 and left == [] and "caught" in done.stdout and done.stdout.splitlines()[-1] == "done"
    assert done.stderr == ""
