"""The identity of a search: only the same search resumes from a directory."""

import inspect
import json
import math
import re
import types
from collections.abc import Iterable

import keras

from tf_tickets import arguments, distribution, keras_internals, wrapping
from tf_tickets.configuration import Configured, argument_names
from tf_tickets.search.inputs import Inputs
from tf_tickets.search.model_identity import (
    as_json,
    digest_of,
    identity_of_model,
    name_of,
)
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.training.sources import Source

_LOGGERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.History,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)

# A message has at most so many differences.
_SHOWN = 4
# Where the settings of a search, a layer or another object are.
_PLACE = re.compile(r"^(settings\.|.*\b\d+ \w+\.config\.)")


def identity_of(
    search: TicketSearch,
    model: keras.Model,
    opened: Inputs,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> dict:
    """Returns a dict that identifies a search.

    Args:
        search: The search.
        model: Its wrapped model.
        opened: The data, with seed and batch size.
        callbacks: Further callbacks. Loggers do not count.
    """
    identity = {
        **search.engine.origin(),
        **identity_of_training(model, opened),
        "dataset": opened.data.name,
        "examples": {name: s.examples for name, s in opened.sources.items()},
        # Without their names, which differ in the next build.
        "kernels": [list(v.shape) for v in wrapping.kernels(model).variables.values()],
        "functions": _functions(search, model),
        "callbacks": _described(callbacks),
        "callbacks in rounds": _described(search.engine.callbacks),
    }
    return without_names(identity)


def identity_of_training(
    model: keras.Model, opened: Inputs, parts: Iterable[str] | None = None
) -> dict:
    """Returns a dict of what the result of a training depends on.

    Args:
        model: The compiled model.
        opened: The data, with seed and batch size.
        parts: Names of the parts that matter; all by default.
    """
    optimizer = keras.saving.serialize_keras_object(model.optimizer)
    sources = opened.sources
    names = sources if parts is None else parts
    weights = opened.data.class_weight
    return {
        "seed": opened.seed,
        "batch_size": opened.batch_size,
        "data": {name: _data(sources[name]) for name in names},
        "backend": keras.config.backend(),
        "optimizer": as_json(optimizer["config"]),
        "model": identity_of_model(model),
        # Not in searches that older versions have stored.
        **({"class_weight": as_json(weights)} if weights else {}),
        **distribution.identity(model),
    }


def _data(source: Source):
    """Returns what identifies a part of the data; of a function also its code."""
    function = getattr(source, "function", None)
    known = source.identity()
    if not isinstance(function, types.FunctionType):
        return known
    return {**known, "code": digest_of(function)}


def _functions(search, model):
    """Returns digests of functions, which are otherwise described by their names."""
    values = {**_values(search), **keras_internals.compile_arguments(model)}
    return {
        name: digest_of(value)
        for name, value in values.items()
        if isinstance(value, types.FunctionType)
    }


def _values(configured):
    """Returns the settings by name, with those of a setting that has its own."""
    values = {n: getattr(configured, n) for n in argument_names(type(configured))}
    inner = [_values(v) for v in values.values() if isinstance(v, Configured)]
    return values | {name: value for part in inner for name, value in part.items()}


def _described(callbacks):
    """Returns the classes and settings of callbacks that may change a training."""
    callbacks = [each for each in callbacks if may_change_results(each)]
    return {f"{n} {name_of(each)}": _settings(each) for n, each in enumerate(callbacks)}


def may_change_results(callback: keras.callbacks.Callback) -> bool:
    """Returns whether a callback belongs to the identity of a search.

    Keras's own loggers do not, nor do callbacks with the attribute
    `changes_results = False`.

    Example:

    >>> may_change_results(keras.callbacks.CSVLogger("log.csv"))
    False
    """
    is_logger = isinstance(callback, _LOGGERS)
    return not is_logger and getattr(callback, "changes_results", True)


def _settings(callback):
    """Returns the constructor's arguments that the callback keeps as attributes."""
    names = inspect.signature(type(callback).__init__).parameters
    kept = {name: vars(callback)[name] for name in names if name in vars(callback)}
    # Keras's callbacks that watch a metric change the sign of `min_delta`.
    if isinstance(kept.get("min_delta"), int | float):
        kept["min_delta"] = abs(kept["min_delta"])
    return as_json(kept)


def without_names(content: dict) -> dict:
    """Returns a dict after a round trip through JSON, without names.

    Keras counts names up: `adam_3` is `adam_4` in the next build.

    Example:

    >>> without_names({"optimizer": {"name": "adam_3", "epsilon": 1e-7}})
    {'optimizer': {'epsilon': 1e-07}}
    """

    def drop_name(config):
        return {key: value for key, value in config.items() if key != "name"}

    text = json.dumps(content, default=arguments.plain)
    return json.loads(text, object_hook=drop_name)


def differences(there: dict, here: dict, above: str = "") -> list[str]:
    """Returns what differs between two nested dicts, each with its path.

    Example:

    >>> differences({"settings": {"rate": 0.2}}, {"settings": {"rate": 0.3}})
    ['settings.rate: 0.2 there, 0.3 here']
    """
    rows = []
    for key in [*here, *(k for k in there if k not in here)]:
        old, new = there.get(key), here.get(key)
        if _class(old) != _class(new):
            rows.append(f"{above}{key}: {_short(old)} there, {_short(new)} here")
        elif isinstance(old, dict) and isinstance(new, dict):
            rows += differences(old, new, f"{above}{key}.")
        elif not _same(old, new):
            rows.append(f"{above}{key}: {_short(old)} there, {_short(new)} here")
    return rows


def in_short(rows: Iterable[str]) -> str:
    """Returns differences as one text: each only once, and the first few of them.

    Example:

    >>> in_short(["settings.s: 1 there, 2 here", "a.0 Dense.config.s: 1 there, 2 here"])
    'settings.s: 1 there, 2 here (in 2 places)'
    """
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(_PLACE.sub("", row), []).append(row)
    texts = [
        found[0] + (f" (in {len(found)} places)" if len(found) > 1 else "")
        for found in places.values()
    ]
    more = len(texts) - _SHOWN
    ending = [f"and {more} more that may follow from these"] if more > 0 else []
    return "; ".join(texts[:_SHOWN] + ending)


def _class(value):
    """Returns the class of a serialized object, None of other values."""
    return value.get("class_name") if isinstance(value, dict) else None


def _same(old, new):
    """Compares values; numbers as far as other machines reproduce them."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(map(_same, old, new))
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-5)
    return old == new


def _short(value):
    text = repr(value)
    if _class(value) is not None:
        settings = value["config"] if isinstance(value.get("config"), dict) else {}
        shown = {k: v for k, v in settings.items() if not isinstance(v, dict | list)}
        text = ", ".join(f"{name}={setting!r}" for name, setting in shown.items())
        text = f"{_class(value)}({text if len(text) <= 60 else '...'})"
    return text if len(text) <= 100 else f"{text[:100]} ..."
