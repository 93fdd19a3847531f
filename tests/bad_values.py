"""Bad values for arguments, and the judgement of what a callable does with them.

`judge` calls a public callable with one value in place of a good argument. The value
must be accepted, if the annotation of the argument allows it, or refused by a check of
this package: a ValueError or TypeError with the received value and what is expected.
"""

import collections
import contextlib
import decimal
import functools
import inspect
import json
import math
import os
import pathlib
import re
import traceback
import types
import typing
import unittest.mock
import warnings

import calls
import keras
import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike

import tf_tickets as tt
from tf_tickets.exporting import exporter
from tf_tickets.masks.base import Tensor
from tf_tickets.tfmot import from_keras_2, tf_keras_models

PACKAGE = str(pathlib.Path(tt.__file__).parent)
KERAS = str(pathlib.Path(keras.__file__).parent)

HUGE = 10**9


def of_nothing():
    """Takes no argument."""


def of_five(a, b, c, d, e):
    """Takes more arguments than any function that this package calls."""


# Functions without arguments, since some values change while they are used.
POOL = {
    **{repr(v): functools.partial(lambda v: v, v) for v in (None, True, False)},
    **{
        repr(v): functools.partial(lambda v: v, v)
        for v in (-1, 0, 1, 2, HUGE, -0.5, 0.0, 0.5, 1.5, 1e300, 1j)
    },
    "10**400": lambda: 10**400,
    "-10**400": lambda: -(10**400),
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "a decimal": lambda: decimal.Decimal("0.5"),
    **{
        repr(v): functools.partial(lambda v: v, v)
        for v in ("", "x", "0.5", "3 epoch", "é/\0", b"", b"x", (), (1, 2))
    },
    "[]": list,
    "[None]": lambda: [None],
    "['x']": lambda: ["x"],
    "[nan]": lambda: [math.nan],
    "[[]]": lambda: [[]],
    "{}": dict,
    "{'x': None}": lambda: {"x": None},
    "{1: 2}": lambda: {1: 2},
    "{'(': 0.5}": lambda: {"(": 0.5},
    "{'.': 'x'}": lambda: {".": "x"},
    "a set": set,
    "a generator": lambda: (i for i in range(2)),
    "a range": lambda: range(2),
    "an object": object,
    "a function of nothing": lambda: of_nothing,
    "a function of five": lambda: of_five,
    "a builtin": lambda: callable,
    "a module": lambda: math,
    "int": lambda: int,
    "a path": lambda: pathlib.Path("x"),
    "np.bool_": lambda: np.bool_(True),
    "np.int64": lambda: np.int64(3),
    "np.float32": lambda: np.float32(0.5),
    "np.float64 nan": lambda: np.float64("nan"),
    "np.str_": lambda: np.str_("x"),
    "an empty array": lambda: np.zeros(0),
    "an array": lambda: np.zeros((2, 3)),
    "an array of nan": lambda: np.full((4, 2), math.nan),
    "an array of text": lambda: np.array(["x", "y"]),
    "an array of objects": lambda: np.array([object(), None]),
    "an array without axes": lambda: np.array(0.5),
    "an array of complex numbers": lambda: np.zeros((4, 2), complex),
    "a layer": lambda: keras.layers.Dense(1),
    "a class of layers": lambda: keras.layers.Dense,
    "an unbuilt model": lambda: keras.Sequential(name="unbuilt"),
    "a built model": calls.plain,
    "a wrapped model": calls.wrapped,
    "an optimizer": keras.optimizers.SGD,
    "a class of optimizers": lambda: keras.optimizers.SGD,
    "a loss": keras.losses.MeanSquaredError,
    "a metric": lambda: keras.metrics.Mean(name="m"),
    "an initializer": keras.initializers.Ones,
    "a variable": lambda: keras.Variable([1.0]),
    "a callback": keras.callbacks.Callback,
    "a search": calls.imp,
    "a class of searches": lambda: tt.IMP,
    "a ticket": calls.ticket,
    "a class of tickets": lambda: tt.Ticket,
    "a mask": tt.masks.SoftMask,
    "a class of masks": lambda: tt.masks.SoftMask,
    "a rewind": tt.Rewind,
    "a monitor": tt.Monitor,
    "a schedule": lambda: tt.schedules.ConstantSparsity(0.5, 1),
    "a class of schedules": lambda: tt.schedules.ExponentialTemperature,
    "a distillation loss": tt.distillation.LogitsDistillation,
}

# Arguments for which a legal, huge number would take hours or all memory.
SIZES = {"classes", "draws", "input_shape", "passes", "steps_per_epoch", "width"}


def values(argument, good):
    """Returns a strategy of functions that make a value: of the pool, or drawn.

    Keras draws random numbers when it makes models, which no strategy may do.
    """
    names = [name for name in POOL if not (argument in SIZES and name == repr(HUGE))]
    small = argument in SIZES
    numbers = st.integers(-50, 50) if small else st.integers()
    floats = st.floats(-3, 3) if small else st.floats()
    drawn = st.one_of(
        numbers,
        floats,
        st.text(max_size=8),
        st.binary(max_size=4),
        st.complex_numbers(),
        st.lists(floats, max_size=3),
        st.dictionaries(st.text(max_size=3), floats, max_size=2),
    )
    near = st.sampled_from(_near(good)) if isinstance(good, str) else st.nothing()
    ready = st.one_of(drawn, near).map(lambda value: lambda: value)
    return st.one_of(st.sampled_from(names).map(POOL.__getitem__), ready)


def _near(text):
    """Returns strings that are mistyped."""
    return [text.upper(), f"{text}s", f" {text}", f"{text}\n", text[:-1], f"{text}x"]


def every_value(argument, good):
    """Yields all values of the pool and, for a string, those near it."""
    for name, make in POOL.items():
        if not (argument in SIZES and name == repr(HUGE)):
            yield make()
    yield from _near(good) if isinstance(good, str) else ()


Outcome = collections.namedtuple("Outcome", "kind message")
ACCEPTED, REFUSED = "accepted", "refused"
WRONG, UNCLEAR, LAX = "wrong exception", "unclear message", "accepted by mistake"
UNUSABLE = "unusable result"


def judge(name, argument, value):
    """Calls a callable with one argument replaced; returns the `Outcome`."""
    function, arguments = calls.CALLS[name]()
    annotation = _annotations(function).get(argument, typing.Any)
    legal = fits(value, annotation) or _is_verbosity(argument, value)
    arguments[argument] = [value] if _is_variadic(function, argument) else value
    try:
        with stopped():
            result = invoke(function, arguments)
            if not legal:
                return Outcome(LAX, f"{annotation}")
            # A model is saved with shapes, which are not in its own configuration.
            is_model = isinstance(value, keras.Model)
            return Outcome(ACCEPTED, "") if is_model else _usable(result)
    except calls.Began:
        return Outcome(ACCEPTED if legal else LAX, f"{annotation}")
    except OSError as error:
        is_path = legal and isinstance(value, str | os.PathLike)
        return Outcome(REFUSED if is_path else WRONG, _text(error))
    except (ValueError, TypeError) as error:
        of_user = legal and callable(value) and not _is_own(error, value)
        clear = of_user or is_clear(error, argument, value)
        return Outcome(REFUSED if clear else UNCLEAR, _text(error))
    except Exception as error:
        return Outcome(WRONG, _text(error))


def _is_verbosity(argument, value):
    """Whether it is a verbosity, which may be a bool as in Keras."""
    return argument == "verbose" and isinstance(value, bool)


def invoke(function, arguments):
    """Calls a function by keywords; a list stands for its variadic arguments."""
    positional = [
        value
        for argument, values_ in arguments.items()
        if _is_variadic(function, argument)
        for value in values_
    ]
    keywords = {k: v for k, v in arguments.items() if not _is_variadic(function, k)}
    return function(*positional, **keywords)


def _is_variadic(function, argument):
    parameter = inspect.signature(function).parameters.get(argument)
    return parameter is not None and parameter.kind is parameter.VAR_POSITIONAL


@contextlib.contextmanager
def stopped():
    """Raises `Began` where a training or the writing of an export would begin."""

    def began(*args, **kwargs):
        raise calls.Began

    patch = unittest.mock.patch.object
    with (
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        # Some values are paths.
        contextlib.chdir(calls.HERE),
        patch(keras.Model, "fit", began),
        patch(exporter, "_perform", began),
        patch(from_keras_2, "_described", began),
        patch(tf_keras_models, "imported", began),
    ):
        warnings.simplefilter("ignore")
        yield


def _text(error):
    return f"{type(error).__name__}: {error}"


# Python's own complaints, from inside of a function.
PYTHONS = re.compile(
    "not supported between|positional argument|is not iterable|unhashable|has no len"
    "|object is not|unsupported operand|bad operand|has no attribute|keyword argument"
    "|not subscriptable|could not convert|cannot convert|invalid literal|too large"
    "|ambiguous|not defined for|can't multiply|must be real number|must be str"
    "|cannot be interpreted|truth value|broadcast|cannot reshape|inhomogeneous"
)
RECEIVED = re.compile("[Rr]eceived|Logged: |Only in |Model '")
EXPECTED = re.compile(
    "must|[Ee]xpected|[Nn]eeds? |[Pp]ass |[Cc]hoose|[Kk]nown|Use |Set |Give |Call |Wrap"
)


def is_clear(error, argument, value):
    """Whether an error tells the received value, and what is expected."""
    message = str(error)
    place = _place(error)
    if not place.startswith((PACKAGE, KERAS)) or not message:
        return False
    if PYTHONS.match(message) or len(message) > 3000:
        return False
    received = RECEIVED.search(message) is not None and _is_shown(value, message)
    if place.startswith(KERAS):
        return received or repr(value)[:40] in message
    # With these, another argument may be at fault.
    words = argument.replace("_", " ")
    named = argument in message.lower() or words in message
    chosen = value is None or (_PLAIN[bool](value) and named)
    if received or chosen or f"={value}" in message:
        return named or EXPECTED.search(message) is not None
    return f"`{argument}(" in message  # The function that was passed is at fault.


def _place(error):
    return traceback.extract_tb(error.__traceback__)[-1].filename


def _is_own(error, function):
    """Whether an error was raised in this package, not by a function passed to it."""
    code = getattr(type(function).__call__, "__code__", None)
    frames = traceback.walk_tb(error.__traceback__)
    passed = any(frame.f_code is code for frame, _ in frames)
    return _place(error).startswith(PACKAGE) and not passed


def _is_shown(value, message):
    """Whether a message has a value, its type, or the shape of an array."""
    parts = [repr(value)[:20], str(value)[:20], type(value).__name__]
    if isinstance(value, types.GeneratorType | keras.Model):
        return True  # Its items, or its weights, are shown.
    if isinstance(value, list | tuple | dict | set | range):
        parts += [repr(part)[:20] for part in value]
        parts.append("[]")
    if isinstance(value, dict):
        parts += [repr(part)[:20] for part in value.values()]
    if _is_array(value):
        parts += [str(np.shape(value)), str(np.unique(value)[:5])[:20]]
    if isinstance(value, np.ndarray) and value.ndim and value.size:
        parts.append(repr(value[0])[:20])
    if isinstance(value, keras.layers.Layer):
        parts.append(repr(value.name))
    if callable(value):
        parts.append(getattr(value, "__name__", ""))
    return any(part and part in message for part in parts)


def _annotations(function):
    """Returns the types of a callable's arguments."""
    target = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(getattr(target, "__func__", target))
    parameters = inspect.signature(function).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    others = hints.pop(keywords[0], typing.Any) if keywords else typing.Any
    return collections.defaultdict(lambda: others, hints)


def fits(value, annotation):
    """Whether a value has the type that an annotation demands, or a similar one."""
    if annotation in (typing.Any, object, Tensor, typing.Self):
        return True
    if annotation in (ArrayLike, np.ndarray):
        return _is_array(value)
    if annotation in _PLAIN:
        return _PLAIN[annotation](value)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, kind) for kind in inner)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is not None:
        return _fits_parts(value, origin, inner)
    return isinstance(value, annotation)


def _fits_parts(value, origin, inner):
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, collections.abc.Mapping) and all(
            fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items()
        )
    if origin is type:
        return inspect.isclass(value) and issubclass(value, inner[0])
    return _are_items(value, inner[0])


def _are_items(value, kind):
    if isinstance(value, types.GeneratorType):
        return True
    known = (list, tuple, range, set, dict, np.ndarray)
    scalar = isinstance(value, np.ndarray) and not value.ndim
    iterable = isinstance(value, known) and not scalar
    return iterable and all(fits(item, kind) for item in value)


def _is_array(value):
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (TypeError, ValueError):
        return False


def _is_whole(value):
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value):
    real = isinstance(value, float | np.floating) or _is_whole(value)
    return real and value == value


_PLAIN = {
    type(None): lambda value: value is None,
    bool: lambda value: (
        isinstance(value, bool | np.bool_) or (_is_whole(value) and value in (0, 1))
    ),
    int: _is_whole,
    float: _is_number,
    str: lambda value: isinstance(value, str),
    dict: lambda value: isinstance(value, dict),
}


def _usable(result):
    """Checks that an accepted object can be shown, saved and made again."""
    if type(result) is tt.TicketSearch:  # Subclasses have the settings to show.
        return Outcome(ACCEPTED, "")
    try:
        repr(result)
        if isinstance(result, keras.Model) or not hasattr(result, "get_config"):
            return Outcome(ACCEPTED, "")
        content = json.dumps(keras.saving.serialize_keras_object(result))
        again = keras.saving.deserialize_keras_object(json.loads(content))
        equal = again.get_config() == result.get_config()
        return Outcome(ACCEPTED if equal else UNUSABLE, f"{again.get_config()}")
    except Exception as error:
        # Functions of users must be registered before they are saved.
        known = "regist" in str(error) or "lambda" in str(error)
        return Outcome(ACCEPTED if known else UNUSABLE, _text(error))
