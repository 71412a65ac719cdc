"""The limits of settings, said once: the command line and the functions of Python refuse the same values.

A type such as `Count` stands in a signature. Cyclopts asks its limits of an option before the command begins, and
`checked` asks them of a function's arguments.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from cyclopts import Parameter, Token, validators

from vaelib.engine.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
BATCH, LR = 64, 2e-3
FOLDS = 4  # as the literature on Pancreas-CT has it, since Roth et al., MICCAI 2015


def _within(low: float, high: float) -> Parameter:
    """Accept numbers from `low` to `high` alone, whole ones if `low` is, and None; NaN is no number."""
    kind: Any = Integral if isinstance(low, int) else Real

    def check(_: Any, value: Any) -> None:
        if value is not None and not (isinstance(value, kind) and low <= value <= high):
            raise ValueError(f"must be from {low:,} to {high:,}")

    return Parameter(validator=check, converter=_whole if kind is Integral else None)


def _placing(_: Any, value: Any) -> None:
    """Accept the ways of `read_mask` to place a label, and None."""
    if value is not None and not re.fullmatch("header|axes|index|flip-[xyz]{1,3}", value):
        raise ValueError("choose header, axes, index, or flip- with x, y, z or several")


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """Read a whole number; Cyclopts itself would round 2.5."""
    text = tokens[0].value
    if not text.lstrip("+-").isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


Count = Annotated[int, _within(1, 1_000_000)]
Workers = Annotated[int | None, _within(1, 10_000)]
Level = Annotated[int, _within(5, 9)]  # what the networks can do: 32 to 512 pixels
Latent = Annotated[int, _within(1, 16_384)]
Weight = Annotated[float, _within(0.0, 1_000_000)]
Rate = Annotated[float, _within(1e-9, 1)]
Seed = Annotated[int, _within(0, 10**12)]  # times a million it is still a seed of PyTorch
Fold = Annotated[int | None, _within(0, FOLDS - 1)]
Threshold = Annotated[float | None, _within(0.001, 0.999)]
Reorient = Annotated[str | None, Parameter(validator=_placing)]
Folder = Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def checked(function: F) -> F:
    """Let a function refuse, in one line, each argument that is outside the limits of its type."""

    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        refuse(function.__annotations__, signature(function).bind_partial(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return asked  # type: ignore[return-value]


def refuse(types: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise InputError for the first value that is outside the limits of its type."""
    for name, value in values.items():
        if fault := _fault(types.get(name), value):
            raise InputError(f"{name}={value!r}: {fault}")


def _fault(kind: Any, value: Any) -> str:
    """Say what is wrong with a value of an annotated type, or nothing."""
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"choose from {', '.join(get_args(kind))}"
    for limit in getattr(kind, "__metadata__", ()):
        try:
            limit.validator[0](kind, value)
        except ValueError as error:
            return str(error)
    return ""
