"""Ask scripts about their faults: load them as modules, put a check to each, plant single faults into a sound one.

A check is a function of a script. It makes an experiment whose outcome is known beforehand, and returns whether the
script passes, with the evidence in words::

    def same_answer_twice(script):
        model = script.VAE()
        gap = abs(script.predict(model, slices) - script.predict(model, slices)).max()
        return gap == 0, f"asked twice, its answers differ by up to {gap:.2f}"
"""

from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from vaelib.engine.errors import InputError


class Difference(NamedTuple):
    """One place in which two texts differ: the line it begins at in the second, and the lines of each."""

    line: int
    before: str
    after: str

    def __str__(self) -> str:
        """Lines to go with a minus, lines to come with a plus."""
        signed = [("-", self.before.splitlines()), ("+", self.after.splitlines())]
        return "\n".join(f"{sign} {text}" for sign, lines in signed for text in lines)


def load(source: str | Path, name: str) -> ModuleType:
    """Make a module of a script, given as a path or as its text, whatever the file is called.

    Raises
    ------
    InputError
        If there is no such file.
    """
    if isinstance(source, Path) and not source.is_file():
        raise InputError(f"{source}: no such script; start from the folder `notebooks` of the project")
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    module = ModuleType(name)
    exec(compile(text, str(source) if isinstance(source, Path) else f"<{name}>", "exec"), module.__dict__)
    return module


def ask(check: Callable[[ModuleType], tuple], *scripts: ModuleType) -> tuple[bool, ...]:
    """Put a check to each script, print its verdict and evidence, and return whether each passes.

    Each begins from the same seed, so that one experiment is made with all of them.
    """
    verdicts = []
    for script in scripts:
        torch.manual_seed(0)
        sound, evidence = check(script)
        print(f"{script.__name__ + ':':9}{'sound' if sound else 'FAULT'}  {evidence}")
        verdicts.append(bool(sound))
    return tuple(verdicts)


def differences(before: str, after: str) -> list[Difference]:
    """Find the places in which two texts differ, from the top down."""
    a, b = (text.splitlines(keepends=True) for text in (before, after))
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [Difference(k, "".join(a[i:j]), "".join(b[k:n])) for kind, i, j, k, n in blocks if kind != "equal"]


def plant(fault: Difference, sound: str) -> str:
    """Put the lines of one fault back into a sound text, which differs from the faulty one as `fault` says.

    Raises
    ------
    InputError
        If the sound text has other lines in that place.
    """
    lines, count = sound.splitlines(keepends=True), len(fault.after.splitlines())
    if "".join(lines[fault.line : fault.line + count]) != fault.after:
        raise InputError(f"line {fault.line + 1} of the text is not {fault.after!r}; plant into the text it came from")
    return "".join(lines[: fault.line] + [fault.before] + lines[fault.line + count :])
