"""Bad input that is looked for: a fuzzer changes what leads it into code that nothing before had reached.

    python -m stress.guided [--runs 2000] [--seed 7] [kind ...]

atheris (libFuzzer for Python; it comes with the extra "stress") watches which branches of vaelib, pydicom, highdicom,
gzip and zipfile are taken, and grows a corpus from one good file of each kind. What counts as a fault is what counts in
`stress.read`; the bytes that show one are kept in `build/guided`.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

KEPT = Path(__file__).resolve().parents[1] / "build" / "guided"
FILES = {
    "ct": "ct/1-004.dcm", "ct JPEG": "ct/1-004.dcm", "ct JPEG-LS": "ct/1-004.dcm", "ct RLE": "ct/1-004.dcm",
    "seg": "seg.dcm", "nii": "label0001.nii", "nii.gz": "label0001.nii.gz", "zip": "labels.zip",
    "weights": "c.safetensors", "shard": "cache/hu_-160_240/P/meta.json", "arrays": "a.safetensors",
}  # fmt: skip


def fuzz(kind, room, options):
    """Fuzz one kind in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["vaelib", "pydicom", "highdicom", "gzip", "zipfile"]):
        from stress import kinds
        from vaelib import InputError
    good, case, corpus = (Path(room) / name for name in ("good", "case", "corpus"))
    kinds.KINDS[kind].make(good)
    corpus.mkdir()
    shutil.copy(good / FILES[kind], corpus)

    def one(data):
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(good, case)
        (case / FILES[kind]).write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = kinds.KINDS[kind].read(case)
            except InputError as error:
                assert str(case) in str(error), "an error that names no file"
                return
            wrong = kinds.KINDS[kind].differs(case, good, result)
        assert not wrong, wrong

    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix={KEPT}/{kind.replace(' ', '-')}-", *options], one)
    atheris.Fuzz()


def main():
    """Fuzz each kind in a process of its own and print a line for it; the exit status is the number that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="*", default=[])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--room", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.room:
        options = [f"-runs={asked.runs}", f"-seed={asked.seed}", "-rss_limit_mb=3000", "-timeout=20", "-max_len=40000"]
        fuzz(asked.kind[0], asked.room, options)
    KEPT.mkdir(parents=True, exist_ok=True)
    failed = 0
    for kind in asked.kind or FILES:
        with tempfile.TemporaryDirectory() as room:
            words = [sys.executable, "-m", "stress.guided", kind, "--room", room]
            words += ["--runs", str(asked.runs), "--seed", str(asked.seed)]
            done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr) or [("0", "0", "0")]
        begin, end = reached[0][0], reached[-1]
        print(f"{kind:12s} {asked.runs} runs, branches {begin} to {end[0]}, corpus {end[2]}, exit {done.returncode}")
        if done.returncode:
            failed += 1
            print(done.stderr[-3000:])
    sys.exit(failed)


if __name__ == "__main__":
    main()
