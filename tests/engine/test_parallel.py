"""Two processes train as one does: the same result, each row once, one writer; and one that dies stops the run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launch import torchrun
from safetensors.torch import load_file
from small import make_patients

from vaelib.cohorts.layout import cache_folder
from vaelib.engine import parallel
from vaelib.engine.checkpoints import load

EPOCHS = 3
SCRIPT = Path(__file__).with_name("many.py")


def run(out: Path, processes: int, *death):
    """Train by many.py; give back what came of it, and what each process saw."""
    out.mkdir(exist_ok=True)
    done = torchrun(processes, SCRIPT, out, EPOCHS, *death)
    seen = [json.loads(path.read_text()) for path in sorted(out.glob("seen*.json"))]
    return done, seen


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    done, seen = run(out, 1)
    assert done.returncode == 0, done.stderr
    return load_file(out / "net.safetensors"), seen[0]["history"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    done, seen = run(out, 2)
    assert done.returncode == 0, done.stderr
    return load_file(out / "net.safetensors"), seen


def test_two_processes_end_where_one_does(one, two):
    for name, weights in one[0].items():
        torch.testing.assert_close(two[0][name], weights, rtol=1e-4, atol=1e-5)
    for ours, alone in zip(two[1][0]["history"], one[1], strict=True):
        assert ours == pytest.approx(alone, rel=1e-4)


def test_both_processes_know_the_same_history(two):
    assert two[1][0]["history"] == two[1][1]["history"]


def test_each_row_is_seen_once_an_epoch(two):
    rows = [each["rows"] for each in two[1]]
    assert len(rows) == 2 and all(rows)
    assert sorted(rows[0] + rows[1]) == sorted(list(range(23)) * EPOCHS)


def test_the_state_is_written_once_an_epoch_by_the_first(two):
    assert [each["written"] for each in two[1]] == [EPOCHS, 0]


def test_a_process_that_is_killed_stops_the_run_and_the_next_run_goes_on(tmp_path, two):
    done, seen = run(tmp_path / "out", 2, 15)  # after an epoch and a bit
    assert done.returncode != 0 and not seen and "SIGKILL" in done.stderr
    state = tmp_path / "out" / "state.safetensors"
    assert state.exists() and {p.name for p in state.parent.iterdir()} == {state.name, "state.csv"}
    done, seen = run(tmp_path / "out", 2)
    assert done.returncode == 0, done.stderr
    assert len(seen[0]["rows"]) < len(two[1][0]["rows"])  # it went on, and did not begin anew
    again = load_file(tmp_path / "out" / "net.safetensors")
    assert all(torch.equal(again[name], weights) for name, weights in two[0].items())


def test_a_batch_is_shared_out_whole(monkeypatch):
    rows = torch.arange(100, 111)
    shares = []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        shares += [parallel.share_of_batch(rows, 2)]
    owned = torch.cat([part for share in shares for part, _ in share])
    assert sorted(owned.tolist()) == rows.tolist()
    assert sum(weight for share in shares for _, weight in share) / 4 == pytest.approx(1)
    left_over = parallel.share_of_batch(rows[:2], 2)
    assert left_over[0][1] == 0 and len(left_over[0][0]) == 1


def test_srun_is_understood_and_a_batch_job_without_it_is_one_process(tmp_path, two):
    """SLURM is not at hand; its variables are, as its manual has them."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NODELIST": "localhost",
           "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # fmt: skip
    steps = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x1)"}

    def start(out, rank, **more):
        out.mkdir(exist_ok=True)
        env = os.environ | job | more | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        return subprocess.Popen([sys.executable, str(SCRIPT), str(out), str(EPOCHS)], env=env)

    started = [start(tmp_path / "srun", rank, **steps) for rank in (0, 1)] + [start(tmp_path / "sbatch", 0)]
    assert [process.wait(timeout=200) for process in started] == [0, 0, 0]
    made = load_file(tmp_path / "srun" / "net.safetensors")
    assert all(torch.equal(made[name], weights) for name, weights in two[0].items())
    assert len(json.loads((tmp_path / "sbatch" / "seen0.json").read_text())["rows"]) == 23 * EPOCHS


def test_the_command_line_trains_in_two_processes(tmp_path):
    cohort, out = tmp_path / "cohort", tmp_path / "out" / "weights.safetensors"
    make_patients(cohort, range(1, 7))
    small = ["--level", "5", "--latent", "4", "--epochs", "1", "--batch-size", "32"]
    try:
        done = torchrun(2, "-m", "vaelib", "train", cohort, "--out", out, *small)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("trained on 3 patients") == 1
        assert [path.name for path in out.parent.iterdir() if path.suffix not in (".csv", ".png")] == [out.name]
        assert set(load(out, "vae", "mask")[1]["thresholds"]) == {"32", "512"}
    finally:
        shutil.rmtree(cache_folder(cohort), ignore_errors=True)
