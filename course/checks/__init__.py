"""Checks of the exercises: a hint where an answer is not right yet, never a traceback.

An exercise has a name such as ``"03.2"``, the second of notebook 03. Its check is the function ``exercise_2`` of
`course.checks.lesson_03`: it takes what the learner made, asks for what must hold with `expect`, and its docstring is
the hint for whoever has not begun. `course.checks.scripts` questions whole scripts, as notebook 10 does.
"""

import html
import importlib
import inspect
from typing import Any

import numpy as np
from IPython.display import HTML

from course.checks.scripts import Difference, ask, differences, load, plant
from vaelib.engine.errors import InputError

__all__ = [
    "Answer", "Difference", "Hint", "ask", "attempt", "check", "differences", "expect", "fold", "load", "number",
    "plant",
]  # fmt: skip
Answer = Any  # what a learner made: a function, or values


class Hint(Exception):
    """What a check has to say to an answer that is not right yet."""


def expect(holds: Any, hint: str) -> None:
    """Go on if `holds`; else end the check with a hint."""
    if not holds:
        raise Hint(hint)


def attempt(function: Answer, *args: Any, **kwargs: Any) -> Any:
    """Call the learner's function, and return what it returns.

    Raises
    ------
    Hint
        If it is no function, returns None, or stops with an error.
    """
    expect(callable(function), f"a function is wanted here, and this is {type(function).__name__}")
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        raise Hint(f"it stops with {type(error).__name__}: {error}") from error
    expect(value is not None, "it returns nothing yet")
    return value


def number(function: Answer, *args: Any) -> Any:
    """Call the learner's function as `attempt` does, for one number.

    Raises
    ------
    Hint
        As `attempt`, or if something of another shape comes back.
    """
    value = attempt(function, *args)
    expect(np.ndim(value) == 0, f"one number is wanted, and this has the shape {np.shape(value)}")
    return value


def check(name: str, *answer: Answer) -> None:
    """Look an answer over, and print "right" or a hint.

    Parameters
    ----------
    name : str
        Of the exercise, such as ``"03.2"``.
    *answer
        What the exercise asks for: a function, or values. One that is None or ``...`` has not been given yet.

    Raises
    ------
    InputError
        If there is no such exercise.
    """
    lesson, _, number = name.partition(".")
    try:
        look = getattr(importlib.import_module(f"course.checks.lesson_{lesson}"), f"exercise_{number}")
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(f"{name!r}: no such exercise; names are like '03.2', the second of notebook 03") from error
    first = " ".join((inspect.getdoc(look) or "").split())
    try:
        expect(not any(part is None or part is ... for part in answer), first)
        look(*answer)
    except Hint as hint:
        said = str(hint)
    except Exception as error:  # an answer of another kind than the check can look at
        said = f"Your answer cannot be looked at ({type(error).__name__}: {error})."
    else:
        return print(f"{name}: right.")
    print(f"{name}: not yet. {said}" + ("" if said == first else f"\n      Hint: {first}"))


def fold(text: str, summary: str = "Answer") -> HTML:
    """Fold an answer for a notebook: `text`, plain, behind a `summary` to click on.

    Give it what was computed (``fold(f"{mu.shape[1]} numbers")``), so that the answer cannot be out of date.
    """
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines())
    return HTML(f"<details><summary>{html.escape(summary)}</summary>{lines}</details>")
