"""What a field may hold: its annotation says the type and the bounds of a number, and one check knows them all.

seq_length: Annotated[int, Range(8, 65536)] = 128
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, both included and finite, so that neither NaN nor an infinity is within.

    Attributes:
        or_zero: whether 0 is within although `least` is above it.
    """

    least: float
    most: float
    or_zero: bool = False

    def __contains__(self, number: float) -> bool:
        return self.least <= number <= self.most or (self.or_zero and number == 0)

    def __str__(self) -> str:
        return f"from {self.least} to {self.most}{', or 0' if self.or_zero else ''}"


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in UTF-8",
    Path: "a path in UTF-8",
}


def faults(kind: type, values: Mapping) -> Iterator[tuple[str, object, str]]:
    """(name, value, what is expected) of each field of a dataclass that its value does not fit."""
    for name, hint in hints(kind).items():
        if not fits(values[name], hint):
            yield name, values[name], expected(hint)


@functools.cache
def hints(kind: type) -> dict:
    """The annotations of a dataclass, by its fields."""
    return typing.get_type_hints(kind, include_extras=True)


def from_json(value, hint):
    """A JSON value as a field holds it, where it can: 12.0 as 12, 1 as 1.0, a list as a tuple, text as a path."""
    kinds = _kinds(hint)
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if tuple in kinds and isinstance(value, list):
        return tuple(value)
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    if float in kinds and type(value) is int and abs(value) < 10**300:
        return float(value)
    return value


def fits(value, hint) -> bool:
    """Whether a value is of an annotation's type and within its bounds; a bool is no number, 1 is a float too."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = arguments[1]  # others are tyro's
        return fits(value, arguments[0]) and (not isinstance(bounds, Range) or value is None or value in bounds)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, kind) for kind in arguments)
    if origin is typing.Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        key, item = arguments
        return isinstance(value, dict) and all(fits(k, key) and fits(v, item) for k, v in value.items())
    if hint in (str, Path):
        return isinstance(value, hint) and _can_be_written(str(value))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def expected(hint) -> str:
    """What fits an annotation, in words: `a whole number from 8 to 65536`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return f"{expected(arguments[0])} {arguments[1] if isinstance(arguments[1], Range) else ''}".strip()
    if origin in (typing.Union, types.UnionType):
        return " or ".join(expected(kind) for kind in arguments if kind is not type(None))
    if origin is typing.Literal:
        return " or ".join(arguments)
    if origin is tuple and typing.get_origin(arguments[0]) is typing.Literal:
        return f"a list of {expected(arguments[0])}"
    if origin is tuple:
        return {str: "a list of texts in UTF-8", int: "a list of whole numbers"}[arguments[0]]
    if origin is dict:
        return f"an object with {expected(arguments[1])} each"
    return _WORDS[origin or hint]


def _kinds(hint) -> set:
    """The plain types of an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _kinds(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_kinds, arguments))
    return {origin or hint}


def _can_be_written(text: str) -> bool:
    """Whether it is UTF-8 (Python keeps other bytes of a path as lone surrogates), and names no end of a C string."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
