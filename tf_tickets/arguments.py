"""Checks of constructor arguments that many classes share."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np


def check_counts(**counts: Any) -> None:
    """Refuses counts that are not whole numbers of 1 or more.

    Example:

    >>> check_counts(rounds=3)
    """
    for name, count in counts.items():
        if not is_whole(count) or count < 1:
            raise ValueError(
                f"`{name}` must be a whole number of 1 or more. Received: {count!r}"
            )


def check_not_negative(**counts: Any) -> None:
    """Refuses counts that are not whole numbers of 0 or more.

    Example:

    >>> check_not_negative(epochs=0)
    """
    for name, count in counts.items():
        if not is_whole(count) or count < 0:
            raise ValueError(
                f"`{name}` must be a whole number of 0 or more. Received: {count!r}"
            )


def check_seed(seed: Any) -> None:
    """Refuses seeds that NumPy's generators do not take.

    Example:

    >>> check_seed(0)
    """
    check_not_negative(seed=seed)


def check_fraction(**fractions: Any) -> None:
    """Refuses sparsities and rates outside [0, 1), and patterns of them.

    A value may also be a dict from regular expressions over kernel paths to numbers.

    Example:

    >>> check_fraction(final_sparsity=0.9)
    >>> check_fraction(rate=20)
    Traceback (most recent call last):
    ValueError: `rate` must lie in [0, 1). Received: rate=20. For percent, divide by
        100.
    """
    for name, value in fractions.items():
        numbers = value.values() if isinstance(value, Mapping) else [value]
        for number in numbers:
            if not _is_number(number) or not 0.0 <= number < 1.0:
                hint = _is_number(number) and number >= 1.0
                raise ValueError(
                    f"`{name}` must lie in [0, 1). Received: {name}={value!r}."
                    + (" For percent, divide by 100." if hint else "")
                )


def check_between(low: float, high: float, **values: Any) -> None:
    """Refuses numbers outside [low, high]; NaN too.

    Example:

    >>> check_between(0.0, 1.0, until=0.75)
    """
    for name, value in values.items():
        if not _is_number(value) or not low <= value <= high:
            raise ValueError(
                f"`{name}` must lie in [{low:g}, {high:g}]. Received: {name}={value!r}"
            )


def check_numbers(**values: Any) -> None:
    """Refuses values that are not numbers; NaN and infinity too.

    Example:

    >>> check_numbers(power=3)
    """
    for name, value in values.items():
        if not _is_number(value) or math.isinf(value):
            raise ValueError(
                f"`{name}` must be a finite number. Received: {name}={value!r}"
            )


def check_choice(choices: Collection[Any], **values: Any) -> None:
    """Refuses values that are not among the choices.

    Example:

    >>> check_choice(["step", "epoch"], per="step")
    """
    for name, value in values.items():
        if value not in choices:
            known = ", ".join(repr(choice) for choice in choices)
            raise ValueError(f"`{name}` must be one of {known}. Received: {value!r}")


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number, not a float or a bool.

    Example:

    >>> is_whole(3), is_whole(3.0)
    (True, False)
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value):
    numeric = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return numeric and not math.isnan(value)
