"""How long one waits before anything begins: imports and `--help`, each in a fresh process.

    python -m benchmarks.starting

The imports are timed after `import torch`, which all of them need, and with the files in memory.
"""

import json
import subprocess
import sys

from benchmarks import timing

FIRST, EVERY = "import vaelib", "import vaelib.recipes"
MONAI, TORCHIO, PYTHAE = "import monai", "import torchio", "import pythae"
PARTS = "import pythae.models, pythae.trainers"
BEFORE = {MONAI: "import sys; sys.modules.update(dict.fromkeys(['ignite', 'itk', 'nibabel']))"}  # it tries them all


def seconds_of(statement: str) -> float:
    """Seconds that a statement takes in a fresh process in which torch is imported."""
    clock = "time.perf_counter()"
    code = f"import torch, time; {BEFORE.get(statement, '')}\nbegin = {clock}\n{statement}\nprint({clock} - begin)"
    return float(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True).split()[-1])


def seconds_to_run(*arguments: str) -> float:
    """Seconds from the start of a Python with these arguments to its end."""
    return timing.seconds(lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL))


def rows() -> dict[str, dict]:
    """Every row of this module."""
    statements = (FIRST, EVERY, MONAI, TORCHIO, PYTHAE, PARTS)
    ways = {statement: lambda statement=statement: seconds_of(statement) for statement in statements}
    ways["vaelib --help"] = lambda: seconds_to_run("-m", "vaelib", "--help")
    ways["python -c pass"] = lambda: seconds_to_run("-c", "pass")
    timing.in_turn(ways, times=1)  # compiles what was not, and brings the files into memory
    found = timing.in_turn(ways)
    some = lambda *names: {name: found[name] for name in names}  # noqa: E731
    without = "MONAI without the optional packages that benchmarks/ brings"
    first = timing.row(f"`{FIRST}` after torch; {without}", "s", some(FIRST, MONAI, TORCHIO, PYTHAE))
    every = timing.row(f"`{EVERY}` after torch; {without}", "s", some(EVERY, MONAI, TORCHIO, PARTS))
    usage = timing.row("`vaelib --help`, from start to end", "s", some("vaelib --help", "python -c pass"))
    return {
        "starting/import vaelib": first | {"at most": 0.3},
        "starting/import every room of a lesson without torch": every,
        "starting/--help": usage | {"at most": 0.5},
    }


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
