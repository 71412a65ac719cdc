"""Disks that are full, folders that cannot be written to, two processes at once: a clear line, and nothing corrupt.

    python -m stress.room [--seed 7] [--times 10] [--small]

Every command runs with less and less room: on a small disk of its own (a tmpfs, where one may be mounted) and under a
limit to the size of a file (anywhere). It has to end with status 2 and one line that names what could not be written
and says to make room; what was there before stays, nothing half is left, and with room the same command ends as if
nothing had been. `--small` is what `make test` runs.
"""

import argparse
import contextlib
import io
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

from stress.jobs import _painted, given
from stress.kill import JOBS, child, finish, hidden, start, tree
from vaelib import cohort as opening
from vaelib.cli import main as command
from vaelib.dicom import write
from vaelib.dicom.write import write_seg
from vaelib.phantom import cohort


def commands(inputs):
    """Command lines by name, with TOP for the folder to write to, and the files in it that are older."""
    scans, series, model = inputs / "scans", inputs / "scans/PANCREAS_0001/study/CT_1", inputs / "model.safetensors"
    mask = ["segment", series, "--checkpoint", model, "--overwrite", "--out"]
    tiny = ["--level", "5", "--latent", "4", "--epochs", "2"]
    return {
        "phantom": (["phantom", "TOP/new", "--patients", "2", "--workers", "1"], ()),
        "labels": (["labels", inputs / "labels.zip", "TOP/new"], ()),
        "prepare": (["prepare", scans, "--cache", "TOP/new", "--workers", "1"], ()),
        "train": (["train", scans, "--out", "TOP/m.safetensors", *tiny], ["m.safetensors"]),
        ".nii.gz": ([*mask, "TOP/m.nii.gz"], ["m.nii.gz"]),
        ".nii": ([*mask, "TOP/m.nii"], ["m.nii"]),
        ".dcm": ([*mask, "TOP/m.dcm"], ["m.dcm"]),
        "check": (["check", scans, "--out", "TOP", "--workers", "1"], ["check.csv", "check.png"]),
        "explorer": (["explorer", "TOP/new.html", scans, "--checkpoint", model], ()),
    }


def say(words, inputs, largest, top):
    """Run a command in this process, with files of `largest` bytes at most: its status, and what it says is wrong."""
    cohort.make_patient = _painted
    write.write_seg = partial(write_seg, uid="stress")
    opening.cache_folder = lambda folder: inputs / "cache"
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        status = command([str(word).replace("TOP", str(top)) for word in words])
    return status, [line for line in said.getvalue().splitlines() if ": warning: " not in line]


@contextlib.contextmanager
def disk(size):
    """A disk of its own of so many bytes, or None where none may be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def remount(top, how):
    """Change the disk at `top`."""
    subprocess.run(["mount", "-o", f"remount,{how}", top], check=True)


def squeezed(name, words, older, inputs, top, calm, wanted, *, largest=0, then):
    """Run a command that lacks something, then again once `then` has given it: what is wrong, in words."""
    for path in older:
        (top / path).write_text("old")
    how, said, _ = child(partial(say, words, inputs, largest), top)
    faults, made, whole = [], tree(top), tree(calm)
    old = {k: v for k, v in made.items() if k in older and (top / k).read_bytes() == b"old"}
    if how != "ended" or said[0] != 2 or len(said[1]) != 1 or wanted not in said[1][0] or str(top) not in said[1][0]:
        faults += [f"said {said}"]
    half = [k for k, v in made.items() if v and v != whole.get(k) and k not in old and not k.endswith(".state")]
    faults += [f"half {half}"] * bool(half) + [f"gone {older}"] * any(k not in made for k in older)
    faults += [f"left {hidden(top)}"] * bool(hidden(top))
    then()
    how, said, _ = child(partial(say, words, inputs, 0), top)
    faults += [f"rerun {how} {said}"] * (how != "ended" or tree(top) != whole)
    return [f"{name}: {fault}" for fault in faults]


def at_once(name, inputs, room, draw, times):
    """Let two processes do the same job in one folder, one a random moment after the other."""
    job, calm, faults = JOBS[name], room / f"{name}-one", []
    calm.mkdir()
    begin = time.monotonic()
    child(job.run, inputs, calm)
    took = time.monotonic() - begin
    for k in range(times):
        top = room / f"{name}-{k}"
        top.mkdir()
        one = start(job.run, inputs, top)
        time.sleep(draw.uniform(0, took if k % 2 else 0.05))
        ends = [finish(*pair) for pair in (start(job.run, inputs, top), one)]
        faults += [f"{name}: {said.strip().splitlines()[-1]}" for how, said, _ in ends if how != "ended"]
        faults += [f"{name}: another result"] * (tree(top) != tree(calm))
    return faults


def main():
    """Try all of it, and print what was tried and every fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    draw, faults, tried = random.Random(asked.seed), [], {"no room": 0, "long file": 0, "read-only": 0, "at once": 0}
    with tempfile.TemporaryDirectory() as folder:
        inputs = given(Path(folder) / "given")
        for name, (words, older) in commands(inputs).items():
            if asked.small and name not in ("prepare", ".dcm"):
                continue
            calm = Path(folder) / f"calm{name}"
            calm.mkdir()
            status = child(partial(say, words, inputs, 0), calm)
            assert status[:2] == ("ended", (0, [])), status
            sizes = [p.stat().st_size for p in calm.rglob("*") if p.is_file()]
            here = partial(squeezed, name, words, older, inputs)
            for share in [0.5] if asked.small else [draw.uniform(0.01, 0.95) for _ in range(3)]:
                top = Path(tempfile.mkdtemp(dir=folder))
                largest = max(1, int(max(sizes) * share))
                found = here(top, calm, "make room", largest=largest, then=lambda: None)
                faults, tried["long file"] = faults + found, tried["long file"] + 1
                pages = max(1, len(older), round(sum(sizes) * share / 4096))  # what is older has to fit
                with disk(pages * 4096) as top:
                    if top:
                        found = here(top, calm, "make room", then=partial(remount, top, "size=1g"))
                        faults, tried["no room"] = faults + found, tried["no room"] + 1
            with disk("1g") as top:
                if top and not older:
                    remount(top, "ro")
                    found = here(top, calm, "may write to", then=partial(remount, top, "rw"))
                    faults, tried["read-only"] = faults + found, tried["read-only"] + 1
            print(f"{name}: {len(faults)} faults so far", flush=True)
        for name in ["prepare"] if asked.small else ("phantom", "prepare", "labels", "train"):
            faults += at_once(name, inputs, Path(folder), draw, asked.times)
            tried["at once"] += asked.times
    print(", ".join(f"{kind} {count}" for kind, count in tried.items()), *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
