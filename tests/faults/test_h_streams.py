"""Kind H: what is said arrives, whatever the console can show, and whether anybody listens."""

import io
import os
import random
import subprocess
import sys
import warnings

import pytest
from drawn import drawn

from vaelib import InputError
from vaelib.engine.console import run
from vaelib.engine.files import native

NAMES = ["κεφαλή.nii.gz", "膵臓", "Scan ≥ 5 mm", "Łódź", "\udce9t\udce9", "\udcff\udcfe.dcm", "🫁", "Иванов", "plain"]
CODES = ["cp1252", "ascii", "latin-1", "cp437", "shift_jis", "utf-8", "koi8-r", "cp1251", "utf-16", "gbk"]
INSTANCES = [
    (f"{ascii(name)} on {code}", code, name, fails)
    for code, name in [("cp1252", NAMES[0]), ("ascii", NAMES[1]), ("utf-8", NAMES[4]), ("cp1252", NAMES[5])]
    for fails in (False, True)
]


def generate(r: random.Random):
    name, code = "/".join(r.sample(NAMES, r.randint(1, 3))), r.choice(CODES)
    return f"{ascii(name)} on {code}", code, name, r.random() < 0.5


@drawn(INSTANCES, generate, seed=18)
def test_every_character_arrives_or_its_number_does(case, monkeypatch):
    _, code, name, fails = case

    def command(*args, **kwargs):
        print(name)
        warnings.warn(name, stacklevel=1)
        if fails:
            raise InputError(name)

    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, code, "strict"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, code, "strict"))
    assert run(command) == 2 * fails
    said = name.encode(code, "backslashreplace").decode(code)
    assert out.getvalue().decode(code).splitlines() == [said]
    assert err.getvalue().decode(code).splitlines() == [f"vaelib: warning: {said}"] + [f"vaelib: error: {said}"] * fails


def shell(line, **env):
    """Run a line of a shell, where `vaelib` is this one; return what came of it."""
    line = line.replace("vaelib", f"{sys.executable} -m vaelib", 1)
    return subprocess.run(line, shell=True, executable="/bin/bash", capture_output=True, env=os.environ | env)


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii:strict"},
                                 {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])  # fmt: skip
def test_a_console_that_is_not_utf_8_gets_one_line(env):
    done = shell("vaelib labels /nowhere/κεφαλή.zip", **env)
    assert (
        done.returncode == 2 and done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"vaelib: error: /nowhere/")
    )


@pytest.mark.parametrize("way", [">&-", ">&- 2>&-", "2>&-", "<&- >&-"])
def test_a_stream_that_the_shell_has_closed_is_none_to_fail_on(way):
    assert shell(f"vaelib --version {way}").returncode == 0
    assert shell(f"vaelib prepare /nowhere/at/all {way}").returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_a_stream_is_one_line():
    done = shell("vaelib labels --help > /dev/full")
    assert done.stderr.count(b"\n") <= 1 and b"Traceback" not in done.stderr
    assert b"Traceback" not in shell("vaelib prepare /nowhere 2> /dev/full").stdout


@pytest.mark.parametrize("name", ["scan", "κεφαλή", "café 1", "膵臓"])
def test_a_name_goes_to_c_libraries_as_the_bytes_that_it_has(name, tmp_path):
    assert native(tmp_path / name).encode() == os.fsencode(tmp_path / name)


@pytest.mark.parametrize("name", [b"\xe9t\xe9", b"\xff\xfe", b"a\xc3", b"\xe4\xb8/b.nii"])
def test_a_name_whose_bytes_are_not_utf_8_is_one_line(name, tmp_path):
    with pytest.raises(InputError, match="its name is not UTF-8, and ITK cannot open it; rename it"):
        native(tmp_path / os.fsdecode(name))
