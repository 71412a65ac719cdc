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


def _within(low: float, high: float, *, optional: bool = False) -> Parameter:
    """Accept numbers from `low` to `high` alone, whole ones if `low` is; NaN is no number."""
    kind: Any = Integral if isinstance(low, int) else Real

    def check(_: Any, value: Any) -> None:
        if not (isinstance(value, kind) and low <= value <= high) and not (optional and value is None):
            raise ValueError(f"must be from {low:,} to {high:,}")

    return Parameter(validator=check, converter=_whole if kind is Integral else None)


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """Read a whole number; Cyclopts itself would round 2.5."""
    text = tokens[0].value
    if not text.lstrip("+-").isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _like(pattern: str, said: str) -> Parameter:
    """Accept text of a pattern, and None."""

    def check(_: Any, value: Any) -> None:
        if value is not None and not re.fullmatch(pattern, str(value)):
            raise ValueError(f"must be {said}")

    return Parameter(validator=check)


Count = Annotated[int, _within(1, 1_000_000)]
Some = Annotated[int | None, _within(1, 1_000_000, optional=True)]
Workers = Annotated[int | None, _within(1, 10_000, optional=True)]
Level = Annotated[int, _within(5, 9)]  # what the networks can do: 32 to 512 pixels
PLACES = r"header|axes|index|flip-(?!.*(.).*\1)[xyz]{1,3}"
Kept = Annotated[int, _within(0, 9)]  # the levels in the cache
Reorient = Annotated[str | None, _like(PLACES, "header, axes, index, or such as flip-y")]
PARTS = r"(\s*[^+\s][^+]*[+])*\s*[^+\s][^+]*"
Segment = Annotated[str | int | None, _like(PARTS, "a label, a number, or several such as 1+2")]
Names = Annotated[list[str] | None, Parameter(consume_multiple=True)]
Latent = Annotated[int, _within(1, 16_384)]
Weight = Annotated[float, _within(0.0, 1_000_000)]
Rate = Annotated[float, _within(1e-9, 1)]
Seed = Annotated[int, _within(0, 10**12)]  # times a million it is still a seed of PyTorch
Fold = Annotated[int | None, _within(0, FOLDS - 1, optional=True)]
Threshold = Annotated[float | None, _within(0.001, 0.999, optional=True)]
Folder = Annotated[Path | None, Parameter(validator=validators.Path(file_okay=False))]
Model = Literal["vector", "spatial", "two-stage"]
OfModel = Annotated[int | None, _within(1, 16_384, optional=True)]  # latent and batch; by default those of the model
Price = Annotated[float | None, _within(0.0, 1_000_000, optional=True)]
USUAL: dict[str, dict[str, Any]] = {"vector": {"latent": 64, "beta": 0.01, "batch_size": BATCH}}
USUAL |= {"spatial": USUAL["vector"] | {"latent": 8, "beta": 0.001}}
USUAL |= {"two-stage": USUAL["spatial"] | {"batch_size": 16}}
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def usual(model: str, **given: Any) -> dict[str, Any]:
    """Take what is given, and what is usual for a model in the place of None."""
    return {name: USUAL[model][name] if value is None else value for name, value in given.items()}


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
