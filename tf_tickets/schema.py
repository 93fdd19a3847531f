"""Checks the structure of JSON content that was read from a file.

A check is a function of a value and its name. It raises a ValueError that names the
first value of another type. Checks are combined: `fields` and `mapping` take checks.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], None]


def accept(value: Any, name: str) -> None:
    """Accepts every value."""


def count(value: Any, name: str) -> None:
    """Refuses a value that is not a whole number of 0 or more.

    Example:

    >>> count(-1, "round")
    Traceback (most recent call last):
    ValueError: `round` must be a whole number of 0 or more. Received: -1
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    _require(whole and 0 <= value < 2**63, name, "a whole number of 0 or more", value)


def number(value: Any, name: str) -> None:
    """Refuses a value that is not a number. NaN and infinity are numbers."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number and (isinstance(value, float) or abs(value) < 2**63)
    _require(fits, name, "a number", value)


def finite(value: Any, name: str) -> None:
    """Refuses a value that is not a finite number."""
    number(value, name)
    _require(math.isfinite(value), name, "a finite number", value)


def flag(value: Any, name: str) -> None:
    """Refuses a value that is not true or false."""
    _require(isinstance(value, bool), name, "true or false", value)


def text(value: Any, name: str) -> None:
    """Refuses a value that is not a string."""
    _require(isinstance(value, str), name, "a string", value)


def optional(check: Check) -> Check:
    """Returns a check that accepts None too.

    Example:

    >>> optional(count)(None, "stopped")
    """

    def of_optional(value, name):
        if value is not None:
            check(value, name)

    return of_optional


def mapping(check: Check = accept) -> Check:
    """Returns a check of a dict from any string to values of one kind.

    Args:
        check: The check of each value.

    Example:

    >>> mapping(number)({"loss": 0.5, "accuracy": "high"}, "metrics")
    Traceback (most recent call last):
    ValueError: `metrics.accuracy` must be a number. Received: 'high'
    """

    def of_mapping(value, name):
        _require(isinstance(value, dict), name, "a dict", value)
        for key, part in value.items():
            check(part, f"{name}.{key}")

    return of_mapping


def items(check: Check, length: int | None = None) -> Check:
    """Returns a check of a list.

    Args:
        check: The check of each item.
        length: Its length; any by default.

    Example:

    >>> items(count, length=2)([1], "shape")
    Traceback (most recent call last):
    ValueError: `shape` must be a list of length 2. Received: [1]
    """
    expected = "a list" if length is None else f"a list of length {length}"

    def of_items(value, name):
        fits = isinstance(value, list) and length in (None, len(value))
        _require(fits, name, expected, value)
        for index, part in enumerate(value):
            check(part, f"{name}[{index}]")

    return of_items


def fields(
    required: Mapping[str, Check],
    known: Mapping[str, Check] | None = None,
    others: bool = False,
) -> Check:
    """Returns a check of a dict with known keys.

    Args:
        required: The check of each field that must be there.
        known: The check of each field that may be missing.
        others: Whether there may be other fields.

    Example:

    >>> check = fields({"round": count}, {"note": text})
    >>> check({"round": 1}, "state")
    >>> check({"note": "x"}, "state")
    Traceback (most recent call last):
    ValueError: `state` must have the fields 'round'. Missing: 'round'. Received:
        {'note': 'x'}
    """
    checks = {**required, **(known or {})}

    def of_fields(value, name):
        _require(isinstance(value, dict), name, "a dict", value)
        unexpected = set() if others else set(value) - set(checks)
        _check_names(set(required), unexpected, name, value)
        for key in checks.keys() & value.keys():
            checks[key](value[key], f"{name}.{key}")

    return of_fields


def _check_names(required, unexpected, name, value):
    missing = required - set(value)
    for word, names in (("Missing", missing), ("Unexpected", unexpected)):
        if names:
            raise ValueError(
                f"`{name}` must have the fields {_list(required)}. {word}: "
                f"{_list(names)}. Received: {reprlib.repr(value)}"
            )


def _list(names):
    return ", ".join(repr(name) for name in sorted(names))


def _require(fits, name, expected, value):
    if not fits:
        raise ValueError(
            f"`{name}` must be {expected}. Received: {reprlib.repr(value)}"
        )
