"""Kind J: workers that cannot go on are one line with what to do; and there are as many as cores may be used."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from drawn import drawn

from vaelib import InputError
from vaelib.engine import workers

ENV = os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": os.getcwd()}
IMPORT = "from vaelib.engine.workers import map_in_processes\n"
CALL = "print(list(map_in_processes({work}, [-1, 2, -3], workers=2)))\n"
JOB, GUARD = IMPORT + CALL, 'if __name__ == "__main__":\n    '


def ends(*words, **options):
    return subprocess.run([sys.executable, *words], env=ENV, capture_output=True, text=True, timeout=100, **options)


def test_a_script_from_standard_input_has_workers_too(tmp_path):
    done = ends("-", input=JOB.format(work="abs"), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2, 3]\n", "")


def test_so_has_a_line_of_the_shell(tmp_path):
    done = ends("-c", JOB.format(work="abs"), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2, 3]\n", "")


def test_a_script_that_no_worker_could_run_twice_is_told_before_one_tries(tmp_path):
    (tmp_path / "a.py").write_text("import os\nos.mkdir('once')\n" + JOB.format(work="abs"))
    done = ends("a.py", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert 'a.py: put what the script does under `if __name__ == "__main__":`' in line


def test_a_worker_that_is_killed_is_one_line(tmp_path):
    death = "import os, signal\ndef die(x):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "a.py").write_text(death + IMPORT + GUARD + CALL.format(work="die"))
    done = ends("a.py", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "a worker was killed, as a system does that runs out of memory; do it with fewer" in line


@pytest.mark.parametrize("code", [3, 1, 139])
def test_a_worker_that_ends_by_itself_says_how(code):
    with pytest.raises(InputError, match=f"^looking: a worker ended by itself, with status {code}; do it with fewer"):
        list(workers.map_in_processes(os._exit, [code] * 3, workers=2, desc="looking"))


def test_no_shared_memory_is_one_line(monkeypatch):
    def none(*args, **kwargs):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", none)
    with pytest.raises(InputError, match="no worker can be started: Function not implemented; do it with fewer"):
        list(workers.map_in_processes(abs, [1, 2], workers=2))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_taskset_is_heeded():
    mine = min(os.sched_getaffinity(0))
    words = f"import os; os.sched_setaffinity(0, {{{mine}}}); from vaelib.engine.workers import cores; print(cores())"
    assert ends("-c", words).stdout == "1\n"


SCRIPTS = {  # a script, and whether a worker may run it
    "guarded": ("import a\nif __name__ == '__main__':\n    go()\n", True),
    "guarded the other way": ('if "__main__" == __name__: go()', True),
    "bare": ("import a\ngo()\n", False),
    "bare, with a function": ("def main():\n    go()\nmain()\n", False),
    "bare, in another code": ("# \udce9t\udce9\ngo()\n", False),
    "empty": ("", False),
}
INSTANCES = [
    ("taskset to one core", {0}, 8, None, 1),
    ("two of eight", {0, 5}, 8, "max 100000", 2),
    ("a container of half a core", {0, 1, 2, 3}, 4, "50000 100000", 1),
    ("a container of two", {*range(64)}, 64, "200000 100000", 2),
    ("a container of more than there is", {0, 1}, 2, "800000 100000", 2),
    ("no word of it", {0, 1, 2}, 3, "", 3),
    *((name, script, sound) for name, (script, sound) in SCRIPTS.items()),
]


def generate(r: random.Random):
    if r.random() < 0.3:
        name = r.choice([*SCRIPTS])
        return name, "".join(r.sample(["# a\n", "import os\n", "x = 1\n"], 2)) + SCRIPTS[name][0], SCRIPTS[name][1]
    machine = r.randint(1, 256)
    mine = {*r.sample(range(machine), r.randint(1, machine))}
    quota, period = r.choice([None, r.randint(1000, 10**7)]), r.choice([100_000, 50_000, 10_000])
    text = r.choice([None, "", "max 100000", "garbage"]) if quota is None else f"{quota} {period}\n"
    limit = len(mine) if quota is None else max(1, int(quota / period + 0.5))
    return f"{len(mine)} of {machine}, {text!r}", mine, machine, text, min(len(mine), limit)


def has_half(text):
    """Whether a quota is of so many cores and a half, which may be rounded either way."""
    quota, _, period = (text or "").partition(" ")
    return quota.isdecimal() and 2 * int(quota) % int(period) == 0 and int(quota) % int(period) != 0


@drawn(INSTANCES, generate, seed=18)
def test_cores_are_those_that_this_process_may_use_and_scripts_are_looked_at(case, tmp_path, monkeypatch):
    if len(case) == 3:
        _, script, sound = case
        path = tmp_path / "my script.py"
        path.write_text(script, errors="surrogateescape")
        main = ModuleType("__main__")
        main.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "__main__", main)
        if sound:
            workers._look_at_script()
            return
        with pytest.raises(InputError, match="my script.py: put what the script does under"):
            workers._look_at_script()
        path.unlink()  # as a script from standard input, of which there is no file
        workers._look_at_script()
        assert not hasattr(main, "__file__")
        return
    _, mine, machine, text, right = case
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: mine, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)

    def read_text(path, *args, **kwargs):
        assert str(path) == "/sys/fs/cgroup/cpu.max"
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert workers.cores() == right or has_half(text)


def test_the_signal_that_kills_is_told_from_an_end():
    assert "killed" in workers._end([None, 0, -signal.SIGKILL])
    assert "ended by signal 11" in workers._end([0, -signal.SIGSEGV, -signal.SIGTERM])
    assert "ended by signal 15" in workers._end([-signal.SIGTERM, None])


def test_a_worker_of_ones_own_pool_does_the_work_itself(tmp_path):
    job = "def job(x):\n    return list(map_in_processes(abs, [x, -2], workers=2))\n"
    pool = "import multiprocessing\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
    pool += "        print(pool.map(job, [-1]))\n        pool.close()\n        pool.join()\n"
    (tmp_path / "a.py").write_text(IMPORT + job + GUARD + pool)
    done = ends("a.py", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[[1, 2]]\n", "")
