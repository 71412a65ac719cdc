"""Kill each job of vaelib at every kind of moment: readers find wholes only, and a rerun ends the same, byte for byte.

    python -m stress.kill [--kills 200] [--seed 7] [--out build/kill.txt]

A job runs in a forked process, so that a kill costs no imports. Half of the kills fall at a random time; half at a
random one of the job's own steps on the disk (open, rename, mkdir, remove, counted by an audit hook), since the moments
that matter are short. After each, what readers see has to be whole, new or old, or absent; then a copy of the folder is
given a rerun, and what the kill left goes on to be killed again, three times in a row. The downloads fetch from a
bucket on this machine, by the real client; there s5cmd is killed too. Last come real processes with workers.
"""

import argparse
import hashlib
import os
import pickle
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import psutil

from stress.jobs import JOBS, given, listen
from vaelib.engine.files import write_file

STEPS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.copyfile"}
ROW = "{:9s} {:>5s} {:>7s} {:>7s} {:>9s} {:>6s} {:>9s}  {}"
REAL = "import sys, pathlib, stress.jobs as s; s.JOBS[sys.argv[1]].run(*map(pathlib.Path, sys.argv[2:]), workers=2)"


def child(work, *words, at=0, after=None, whom="all"):
    """Run ``work(*words)`` in a forked process, and kill it: at its n-th step on the disk, or after so many seconds.

    `whom`: "all" that it started too, it "alone", or "s5cmd" alone.

    Returns
    -------
    tuple
        "ended", "killed" or "failed"; what came back, or the traceback; the number of steps.
    """
    pid, reader = start(work, *words, at=at)
    if after is not None and not select.select([reader], [], [], after)[0]:
        with suppress(OSError):
            _kill(pid, whom)
    return finish(pid, reader)


def start(work, *words, at=0):
    """Fork a process that runs ``work(*words)``; return its number and what to hear it by."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        os.setpgid(0, 0)
        _work(writer, work, words, at)
    os.close(writer)
    return pid, reader


def finish(pid, reader):
    """Wait for a process that was started: what `child` returns."""
    with open(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return ("killed", None, 0) if os.WIFSIGNALED(status) else pickle.loads(said)


def _kill(pid, whom):
    if whom == "all":
        os.killpg(pid, signal.SIGKILL)
    for process in psutil.Process(pid).children(recursive=True) if whom == "s5cmd" else ():
        process.kill()
    if whom == "alone":
        os.kill(pid, signal.SIGKILL)


def _work(writer, work, words, at):
    """What the forked process does, until it is killed."""
    steps, below = [0], str(words[-1])

    def count(event, facts):
        if event in STEPS or (event == "open" and str(facts[0]).startswith(below)):
            steps[0] += 1
            if steps[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    warnings.simplefilter("ignore")
    sys.addaudithook(count)
    try:
        said = "ended", work(*words), steps[0]
    except BaseException:
        said = "failed", traceback.format_exc(), steps[0]
    with open(writer, "wb") as pipe:
        pickle.dump(said, pipe)
    os._exit(0)


def tree(folder):
    """Every file and every empty folder below `folder`, hidden ones too, with a hash of what is in it."""
    paths = [p for p in Path(folder).rglob("*") if p.is_file() or not any(p.iterdir())]
    return {str(p.relative_to(folder)): p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def hidden(folder):
    """Names of the folders that killed processes left."""
    return sorted({part for name in tree(folder) for part in Path(name).parts if part[0] == "."})


class Trial:
    """One job in one folder: what an undisturbed run makes, and what is found wrong when it is disturbed."""

    def __init__(self, name, inputs, room):
        self.name, self.job, self.inputs, self.room = name, JOBS[name], inputs, Path(tempfile.mkdtemp(dir=room))
        self.kills = self.steps = self.times = self.same = self.strays = self.left = 0
        self.faults, calm, old = [], self.room / "calm", self.room / "old"
        for folder in (calm, old):
            folder.mkdir()
        begin = time.monotonic()
        how, said, self.of = child(self.job.run, inputs, calm)
        assert how == "ended", said
        self.took, self.calm = time.monotonic() - begin, tree(calm)
        self.new = self.read(calm)
        assert self.new and not hidden(calm), f"{name} leaves {hidden(calm)}"
        assert not self.job.old or child(self.job.old, inputs, old)[0] == "ended"
        self.old = self.read(old)

    def read(self, folder):
        """What readers see in a folder: a hash by name."""
        how, said, _ = child(self.job.read, self.inputs, folder)
        assert how == "ended", said
        return said

    def look(self, folder):
        """Note it where readers see something that is neither the new, nor the old, nor absent."""
        try:
            seen = self.read(folder)
        except AssertionError as error:
            self.faults.append(f"a reader fails: {str(error).strip().splitlines()[-1]}")
            return
        wrong = [k for k, v in seen.items() if v not in (self.new.get(k), self.old.get(k), "whole")]
        self.faults += [f"read half: {wrong}"] * bool(wrong)
        self.strays += bool(hidden(folder))

    def rerun(self, folder):
        """Run the job to its end and compare."""
        how, said, _ = child(self.job.run, self.inputs, folder)
        made = tree(folder)
        self.left += bool(found := hidden(folder))
        if how == "ended" and made == self.calm:
            self.same += 1
        else:
            other = sorted(k for k in made.keys() | self.calm if made.get(k) != self.calm.get(k))
            self.faults.append(f"rerun {how}: {other[:3]} {found} {said.strip().splitlines()[-1] if said else ''}")

    def disturb(self, kills, draw, victims=("all",), in_a_row=3):
        """Kill the job so many times, from an empty folder or from what an older run made."""
        while self.kills < kills:
            top = Path(tempfile.mkdtemp(dir=self.room))
            shutil.copytree(self.room / "old" if draw.random() < 0.5 else top, top, dirs_exist_ok=True)
            for _ in range(in_a_row):
                whom = draw.choice(victims)
                by_step = victims == ("all",) and draw.random() < 0.5
                moment = {"at": draw.randint(1, self.of)} if by_step else {"after": draw.uniform(0, self.took)}
                how, said, _ = child(self.job.run, self.inputs, top, **moment, whom=whom)
                if how == "failed" and whom != "s5cmd":
                    self.faults.append(f"run {self.kills} failed: {said.strip().splitlines()[-1]}")
                if how == "ended" or self.kills == kills:  # it was faster, or it is enough
                    break
                self.kills, self.steps, self.times = self.kills + 1, self.steps + by_step, self.times + (not by_step)
                self.look(top)
                again = top if in_a_row == 1 else Path(shutil.copytree(top, f"{top}-again"))
                self.rerun(again)
                if again != top:
                    shutil.rmtree(again)
            shutil.rmtree(top)

    def row(self):
        """A line of the table."""
        counts = map(str, (self.kills, self.steps, self.times, self.same, self.strays, self.left))
        return ROW.format(self.name, *counts, f"{len(self.faults)} {sorted(set(self.faults))[:3]}")


def real(name, trial, kills, draw):
    """Kill real processes with two workers: every other time only the one that started the workers."""
    command = [sys.executable, "-W", "ignore", "-c", REAL, name, str(trial.inputs)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for k in range(kills):
        top = Path(tempfile.mkdtemp(dir=trial.room))
        job = subprocess.Popen([*command, str(top)], start_new_session=True, **quiet)
        time.sleep(3 + draw.uniform(0, 3 + trial.took))
        workers = psutil.Process(job.pid).children(recursive=True) if job.poll() is None else []
        with suppress(OSError):
            (os.kill if k % 2 else os.killpg)(job.pid, signal.SIGKILL)
        trial.kills, trial.times = trial.kills + (job.wait() < 0), trial.times + (job.returncode < 0)
        trial.look(top)
        alive = psutil.wait_procs(workers, timeout=20)[1]
        trial.faults += [f"{len(alive)} workers outlive their parent"] * bool(alive)
        for process in alive:
            process.kill()
        trial.rerun(top)
        shutil.rmtree(top)


def main():
    """Disturb every job, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=JOBS, nargs="+", default=list(JOBS))
    parser.add_argument("--forked", action="store_true", help="no real processes with workers, which take minutes")
    parser.add_argument("--out", type=Path, default=Path("build/kill.txt"))
    asked = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as room:
        inputs = given(Path(room) / "given")
        bucket = listen(Path(room)) if "download" in asked.only else None
        try:
            table = [ROW.format("job", "kills", "at step", "at time", "identical", "strays", "left", "faults")]
            print(table[0])
            for name in asked.only:
                draw, trial = random.Random(f"{asked.seed}/{name}"), Trial(name, inputs, room)
                share = -(-asked.kills // len(asked.only))
                if name == "download":
                    trial.disturb(share, draw, victims=("all", "alone", "s5cmd"), in_a_row=1)
                else:
                    trial.disturb(share, draw)
                if name in ("phantom", "prepare") and not asked.forked:
                    real(name, trial, 4, draw)
                faults += len(trial.faults) + (trial.same < trial.kills)
                table.append(trial.row())
                print(table[-1], flush=True)
        finally:
            if bucket:
                os.kill(bucket, signal.SIGKILL)
    write_file(asked.out, "\n".join(table) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
