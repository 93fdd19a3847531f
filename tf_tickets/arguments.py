"""Checks of arguments that many classes and functions share.

A message names the argument, the received value and what is expected.
"""

import functools
import inspect
import math
import os
import pathlib
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import keras
import numpy as np

# Messages show at most so many characters of a value.
_SHOWN = 200
# Number of texts that a message shows.
_FEW = 3
_KINDS: dict[type, str] = {
    bool: "True or False",
    dict: "a dict",
    list: "a list",
    str: "a string",
    Mapping: "a dict",
}


def shown(value: Any) -> str:
    """Returns a value as messages show it; a long one is cut off.

    Example:

    >>> shown("x" * 300)[-6:]
    'xxx...'
    """
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def plain(value: Any) -> Any:
    """Returns a NumPy number as one of Python, for `json.dumps(..., default=plain)`.

    Example:

    >>> plain(np.int64(3))
    3
    """
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"It must be stored as JSON. Received: {shown(value)}")


def check_counts(**counts: Any) -> None:
    """Refuses counts that are not whole numbers of 1 or more.

    Example:

    >>> check_counts(rounds=3)
    """
    for name, count in counts.items():
        if not is_whole(count) or not 1 <= count < 2**63:
            raise ValueError(
                f"`{name}` must be a whole number of 1 or more. Received: "
                f"{shown(count)}"
            )


def check_not_negative(**counts: Any) -> None:
    """Refuses counts that are not whole numbers of 0 or more.

    Example:

    >>> check_not_negative(epochs=0)
    """
    for name, count in counts.items():
        if not is_whole(count) or not 0 <= count < 2**63:
            raise ValueError(
                f"`{name}` must be a whole number of 0 or more. Received: "
                f"{shown(count)}"
            )


def check_seed(seed: Any) -> None:
    """Refuses seeds that the random generators of NumPy and Keras do not take.

    Example:

    >>> check_seed(0)
    """
    if not is_whole(seed) or not 0 <= seed < 2**32:
        raise ValueError(
            "`seed` must be a whole number from 0 to 2**32 - 1. Received: "
            f"{shown(seed)}"
        )


def seed_or_none(seed: Any) -> int | None:
    """Returns a seed as Keras takes it, also from an integer of NumPy; None stays None.

    Example:

    >>> seed_or_none(np.int64(3)), seed_or_none(None)
    (3, None)
    """
    if seed is None:
        return None
    check_seed(seed)
    return int(seed)


def check_fraction(**fractions: Any) -> None:
    """Refuses sparsities and rates outside [0, 1).

    Example:

    >>> check_fraction(final_sparsity=0.9)
    >>> check_fraction(rate=20)
    Traceback (most recent call last):
    ValueError: `rate` must lie in [0, 1). Received: rate=20. For percent, divide by
        100.
    """
    for name, fraction in fractions.items():
        _check_fraction(fraction, name, fraction)


def check_fractions(**fractions: Any) -> None:
    """Refuses sparsities and rates outside [0, 1), and patterns of them.

    A value may also be a dict from regular expressions over kernel paths to numbers.

    Example:

    >>> check_fractions(rate={"output": 0.1, ".": 0.2})
    """
    for name, value in fractions.items():
        if isinstance(value, Mapping):
            check_patterns(**{name: value})
        for number in value.values() if isinstance(value, Mapping) else [value]:
            _check_fraction(number, name, value)


def _check_fraction(number, name, value):
    if not is_number(number) or not 0.0 <= number < 1.0:
        hint = is_number(number) and number >= 1.0
        raise ValueError(
            f"`{name}` must lie in [0, 1). Received: {name}={shown(value)}."
            + (" For percent, divide by 100." if hint else "")
        )


def check_patterns(**tables: Any) -> None:
    """Refuses what is no dict from regular expressions to values, or is empty.

    Example:

    >>> check_patterns(rate={"output": 0.1, ".": 0.2})
    """
    for name, table in tables.items():
        if not isinstance(table, Mapping) or not table:
            raise ValueError(
                f"`{name}` must be a dict from a regular expression to a value, with "
                f"at least one entry. Received: {shown(table)}"
            )
        for pattern in table:
            check_pattern(**{name: pattern})


def check_pattern(**patterns: Any) -> None:
    """Refuses strings that are not regular expressions.

    Example:

    >>> check_pattern(filters="^conv")
    """
    for name, pattern in patterns.items():
        check_type(str, **{name: pattern})
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{name}` must be a regular expression. Received: {shown(pattern)}, "
                f"which is not one: {error}. Escape characters such as '(' by '\\('."
            ) from None


def check_between(low: float, high: float, **values: Any) -> None:
    """Refuses numbers outside [low, high]; NaN too.

    Example:

    >>> check_between(0.0, 1.0, until=0.75)
    """
    for name, value in values.items():
        if not is_number(value) or not low <= value <= high:
            raise ValueError(
                f"`{name}` must lie in [{_bound(low)}, {_bound(high)}]. Received: "
                f"{name}={shown(value)}"
            )


def _bound(number):
    return str(int(number)) if is_whole(number) else f"{number:g}"


def check_positive(**values: Any) -> None:
    """Refuses what is not a finite number above 0.

    Example:

    >>> check_positive(width=0.5)
    """
    for name, value in values.items():
        if not _is_finite(value) or value <= 0:
            raise ValueError(
                f"`{name}` must be a finite number above 0. Received: "
                f"{name}={shown(value)}"
            )


def check_numbers(**values: Any) -> None:
    """Refuses values that are not numbers; NaN and infinity too.

    Example:

    >>> check_numbers(power=3)
    """
    for name, value in values.items():
        if not _is_finite(value):
            raise ValueError(
                f"`{name}` must be a finite number. Received: {name}={shown(value)}"
            )


def check_choice(choices: Collection[Any], **values: Any) -> None:
    """Refuses values that are not among the choices.

    Example:

    >>> check_choice(["step", "epoch"], per="step")
    """
    for name, value in values.items():
        if not is_one_of(value, choices):
            known = ", ".join(repr(choice) for choice in choices)
            raise ValueError(
                f"`{name}` must be one of {known}. Received: {shown(value)}"
            )


def check_flags(**flags: Any) -> None:
    """Refuses values other than True and False, and 1 and 0.

    Example:

    >>> check_flags(rewind=True)
    """
    for name, flag in flags.items():
        is_flag = isinstance(flag, bool | np.bool_) or is_whole(flag)
        if not is_flag or flag not in (0, 1):
            raise ValueError(f"`{name}` must be True or False. Received: {shown(flag)}")


def check_type(kind: type, **values: Any) -> None:
    """Refuses values of another type.

    Example:

    >>> check_type(str, title=3)
    Traceback (most recent call last):
    TypeError: `title` must be a string. Received: 3
    """
    for name, value in values.items():
        if not isinstance(value, kind):
            is_class = inspect.isclass(value) and issubclass(value, kind)
            raise TypeError(
                f"`{name}` must be {_described(kind)}. Received: {shown(value)}"
                + (". Pass an instance, not the class." if is_class else "")
            )


def check_table(keys: type, values: type, **tables: Any) -> None:
    """Refuses what is no dict from keys to values of some types.

    Example:

    >>> check_table(str, float, metrics={"loss": 0.3})
    """
    for name, table in tables.items():
        check_type(dict, **{name: table})
        is_good = is_real if values is float else functools.partial(_is_of, values)
        if not all(_is_of(keys, k) and is_good(v) for k, v in table.items()):
            raise TypeError(
                f"`{name}` must be a dict from {keys.__name__} to {values.__name__}. "
                f"Received: {shown(table)}"
            )


def _is_of(kind, value):
    return is_whole(value) if kind is int else isinstance(value, kind)


def _described(kind):
    if kind in _KINDS:
        return _KINDS[kind]
    return f"an instance of {kind.__module__.partition('.')[0]}'s {kind.__name__}"


def check_functions(count: int, **functions: Any) -> None:
    """Refuses what cannot be called with so many arguments, and classes.

    Example:

    >>> check_functions(1, watch=lambda: [])
    Traceback (most recent call last):
    TypeError: `watch` must be a function of 1 argument. Received: <function ...
    """
    for name, function in functions.items():
        if inspect.isclass(function) or not is_callable(function, count):
            plural = "" if count == 1 else "s"
            raise TypeError(
                f"`{name}` must be a function of {count or 'no'} argument{plural}. "
                f"Received: {shown(function)}"
            )


def is_callable(function: Any, count: int) -> bool:
    """Returns whether a function can be called with so many arguments.

    Example:

    >>> is_callable(lambda step: step, 1), is_callable(lambda: 0, 1)
    (True, False)
    """
    # Layers and metrics take any arguments until they are called.
    of_keras = isinstance(function, keras.layers.Layer | keras.metrics.Metric)
    if not callable(function) or of_keras:
        return False
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # Some functions of C have no signature.
        return True
    return True


def check_build(build_model: Any) -> None:
    """Refuses what cannot be called without arguments, such as a model itself.

    Example:

    >>> check_build(lambda: keras.Sequential())
    """
    if not is_callable(build_model, 0):
        raise TypeError(
            "`build_model` must be a function without arguments that returns a new "
            f"Keras model. Received: {shown(build_model)}"
        )


def check_path(**paths: Any) -> pathlib.Path:
    """Returns a path; refuses what names no file or folder.

    Example:

    >>> check_path(directory="results").name
    'results'
    """
    [(name, path)] = paths.items()
    is_path = isinstance(path, str | os.PathLike)
    text = os.fspath(path) if is_path else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise TypeError(
            f"`{name}` must be a path: a string that is not empty, or a "
            f"pathlib.Path. Received: {shown(path)}"
        )
    return pathlib.Path(text)


def listed(kind: type, **values: Any) -> list:
    """Returns the items of an iterable; refuses items of another type.

    Example:

    >>> listed(str, names=("a", "b"))
    ['a', 'b']
    """
    [(name, items)] = values.items()
    single = isinstance(items, str | bytes | Mapping) or inspect.isclass(items)
    scalar = isinstance(items, np.ndarray) and not items.ndim
    if single or scalar or not isinstance(items, Iterable):
        raise TypeError(
            f"`{name}` must be a list. Each item must be {_described(kind)}. "
            f"Received: {shown(items)}"
        )
    found = list(items)
    for item in found:
        check_type(kind, **{name: item})
    return found


def array(**values: Any) -> np.ndarray:
    """Returns numbers as an array; refuses everything else.

    Example:

    >>> array(x=[1.0, 2.0])
    array([1., 2.])
    """
    [(name, value)] = values.items()
    try:
        found = np.asarray(value)
    except Exception:
        found = np.asarray(None)
    if found.dtype.kind not in "biufV" or isinstance(value, Mapping):
        raise TypeError(
            f"`{name}` must be an array of numbers. Received: {_texts(value, found)}"
        )
    return found


def _texts(value, found):
    """Describes what is not an array of numbers; shows the first of many texts."""
    if found.dtype.kind in "US" and found.ndim and len(found) > _FEW:
        few = ", ".join(repr(row.tolist()) for row in found[:_FEW])
        return (
            f"[{few}, ...], texts of shape {found.shape}. If they are labels, number "
            "the classes: numpy.unique(y, return_inverse=True)"
        )
    kind = f" of type {found.dtype}" if isinstance(value, np.ndarray) else ""
    return f"{shown(value)}{kind}"


def have_equal_rows(shapes: Iterable[tuple[int, ...]]) -> bool:
    """Returns whether arrays of some shapes have as many rows, at least one.

    Example:

    >>> have_equal_rows([(4, 2), (4,)]), have_equal_rows([(4, 2), (3,)])
    (True, False)
    """
    rows = {shape[:1] for shape in shapes}
    return len(rows) == 1 and not rows & {(), (0,)}


def is_one_of(value: Any, choices: Collection[Any]) -> bool:
    """Returns whether a value is among the choices; it need not be hashable.

    Example:

    >>> is_one_of([], ["a", "b"])
    False
    """
    kinds = tuple({type(choice) for choice in choices})
    # A bool is an int, but no number.
    fits = type(value) in kinds if isinstance(value, bool) else isinstance(value, kinds)
    return fits and any(value == choice for choice in choices)


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number, not a float or a bool.

    Example:

    >>> is_whole(3), is_whole(3.0)
    (True, False)
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Returns whether a value is a real number that a float can hold, and not NaN.

    Example:

    >>> is_number(0.5), is_number(float("nan")), is_number(10**400)
    (True, False, False)
    """
    return is_real(value) and not math.isnan(value)


def is_real(value: Any) -> bool:
    """Returns whether a value is a real number that a float can hold, or NaN.

    Example:

    >>> is_real(0.5), is_real(float("nan")), is_real("0.5")
    (True, True, False)
    """
    if is_whole(value):
        return abs(int(value)) <= sys.float_info.max
    return isinstance(value, float | np.floating)


def _is_finite(value):
    return is_number(value) and not math.isinf(value)
