"""The same job twice, in fresh processes, gives the same bytes: with one worker or two, and whatever strings hash to.

The phantom and `check` are compared in test_phantom.py and test_survey.py. All this holds for one number of PyTorch's
threads: another number adds up in another order, and what is trained differs in its last digits.
"""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from small import make_patients

from vaelib.engine.rows import of_files
from vaelib.training import augment, fit, vae_step
from vaelib.vae import VAE

JOB = """
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vaelib.cli import main



def run(*words):
    with open(f"{words[0]}.txt", "w") as said, redirect_stdout(said):
        assert main([*map(str, words)]) == 0, words


run("prepare", "cohort", "--workers", sys.argv[1])
out = "weights.safetensors"
run("train", "cohort", "--out", out, "--level", 5, "--latent", 4, "--epochs", 2, "--batch-size", 16)
run("evaluate", "cohort", "--checkpoint", out, "--json")
series = next(Path("cohort").glob("PANCREAS_0004/*/CT*"))
run("segment", series, "--out", "mask.nii.gz", "--checkpoint", out, "--threshold", 0.05)
"""


def start(folder, n):
    """Begin the job in a process of its own, with `n` workers and as the seed of strings' hashes."""
    env = os.environ | {"PYTHONHASHSEED": str(n), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", JOB, str(n)], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def test_two_runs_with_one_worker_and_with_two_write_the_same_bytes(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    make_patients(tmp_path / "cohort", range(1, 5))
    for folder in folders:
        shutil.copytree(tmp_path / "cohort", folder / "cohort")
    for run in [start(folder, n) for n, folder in enumerate(folders, 1)]:  # side by side
        said = run.communicate(timeout=300)[1]
        assert run.returncode == 0, said
    for folder in folders:
        (cache,) = (folder / "data" / "cache").iterdir()  # its name tells where the cohort lies, so they are not alike
        shutil.move(cache, folder / "cache")
    one, two = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    assert one.keys() == two.keys()
    kinds = [name.rpartition(".")[2] for name in one]
    assert {"safetensors", "txt", "gz", "json"} <= {*kinds} and kinds.count("npy") == 4 * 2 * 10
    assert len(one["evaluate.txt"]) > 500 and b"ml of predicted pancreas" in one["segment.txt"]
    assert [name for name in one if one[name] != two[name]] == ["prepare.txt"]  # which says where the cache lies


@pytest.mark.parametrize("pause", [0, 0.01])
def test_slices_read_from_disk_by_another_thread_train_as_those_in_memory(tmp_path, pause):
    """The reader is ahead of the training, or behind it."""
    x = np.random.default_rng(0).random((21, 32, 32)).astype(np.float16)
    files = []
    for k, part in enumerate(np.split(x, [4, 9])):
        np.save(tmp_path / f"{k}.npy", part)
        files.append(np.load(tmp_path / f"{k}.npy", mmap_mode="r"))

    def late(block):
        time.sleep(pause)
        return block

    trained = []
    for data in (torch.from_numpy(x[:, None].astype(np.float32)), of_files(files).then(late)):
        torch.manual_seed(0)
        vae = VAE(32, channels=2, latent=4)
        history = fit(vae, vae_step(0.1), [data], val=[data], epochs=2, batch_size=5, at_once=2, augmentation=augment)
        trained.append((history, torch.cat([p.detach().flatten() for p in vae.parameters()])))
    assert trained[0][0] == trained[1][0] and torch.equal(trained[0][1], trained[1][1])
