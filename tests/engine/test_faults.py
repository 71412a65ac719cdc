"""Kills at seeded moments, full disks, two processes at once: a small part of what `python -m stress.kill` does."""

import gzip
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from vaelib import InputError
from vaelib.dicom.export import write_mask

ROOT = Path(__file__).resolve().parents[2]


def stress(tmp_path, *words):
    """Run a module of `stress` in a process of its own: it forks, and this one may have threads."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *words], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_killed_at_any_step_a_rerun_ends_with_the_same_bytes_and_nothing_half_is_read(tmp_path):
    jobs = ["prepare", "train", "segment"]
    words = ["--forked", "--kills", "6", "--out", f"{tmp_path}/kill.txt", "--only", *jobs]
    said = stress(tmp_path, "stress.kill", *words)
    rows = [re.split(" +", line, maxsplit=7) for line in said.splitlines()[1:]]
    assert [row[0] for row in rows] == jobs
    for _, kills, _, _, identical, _, left, faults in rows:
        assert int(kills) == 2 and identical == kills and left == "0" and faults == "0 []"


def test_without_room_there_is_one_line_and_nothing_half_and_two_at_once_do_no_harm(tmp_path):
    said = stress(tmp_path, "stress.room", "--small", "--times", "2").splitlines()[-1]
    counts = dict(re.findall(r"([a-z-]+(?: [a-z]+)?) (\d+)", said))
    assert counts["long file"] == "2" and counts["at once"] == "2"
    if counts["no room"] == "0":
        pytest.skip("no small disk can be mounted here; files too long were refused as they should be")
    assert counts["no room"] == "2" and counts["read-only"] == "1"


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz"])
@pytest.mark.parametrize("lost", [1, 300_000])
def test_a_mask_that_itk_wrote_in_part_is_seen(name, lost, tmp_path, monkeypatch):
    def write_in_part(image, path, **options):  # as ITK does on a full disk, without a word
        real(image, path, **options)
        os.truncate(path, max(10, os.path.getsize(path) - lost))

    mask = sitk.GetImageFromArray((np.random.default_rng(0).random((9, 100, 100)) < 0.5).astype(np.uint8))
    write_mask(mask, tmp_path / name, None)
    before, real = (tmp_path / name).read_bytes(), sitk.WriteImage
    assert name.endswith("gz") is (before[:2] == gzip.compress(b"")[:2])
    monkeypatch.setattr(sitk, "WriteImage", write_in_part)
    with pytest.raises(InputError, match=f"{name}: cannot be written whole: is the disk full.* make room"):
        write_mask(mask, tmp_path / name, None, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == before


def test_a_mask_is_not_written_beside_its_twin_which_itk_would_read_in_its_place(tmp_path):
    one, two = (sitk.GetImageFromArray(np.full((3, 4, 5), value, np.uint8)) for value in (0, 1))
    write_mask(one, tmp_path / "m.nii", None)
    with pytest.raises(InputError, match="m.nii.gz: lies beside m.nii, .* choose another name"):
        write_mask(two, tmp_path / "m.nii.gz", None, overwrite=True)
    sitk.WriteImage(two, str(tmp_path / "m.nii.gz"))
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "m.nii.gz"))).any(), "ITK has mended it: mend this"


ORPHANS = """
import os, pathlib, sys, time
from functools import partial
from vaelib.engine.workers import map_in_processes

def work(folder, item):
    (pathlib.Path(folder) / str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    list(map_in_processes(partial(work, sys.argv[1]), range(2), workers=2))
"""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "run.py").write_text(ORPHANS)
    (tmp_path / "seen").mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path / "seen"], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while len(list((tmp_path / "seen").iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    workers = [psutil.Process(int(path.name)) for path in (tmp_path / "seen").iterdir()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
