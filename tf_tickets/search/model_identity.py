"""The identity of a model: what its results depend on, except the names of layers."""

import base64
import contextlib
import hashlib
import json
import marshal
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.wrapping.kernels import to_numpy

_COMPILED = ("loss", "loss_weights", "metrics", "weighted_metrics")
# Values whose repr is the same in every process.
_SIMPLE = (str, bytes, int, float, complex, types.NoneType, types.EllipsisType)
# What objects raise that cannot be serialized.
_NOT_SERIALIZABLE = (NotImplementedError, TypeError, ValueError)


def identity_of_model(model: keras.Model) -> dict[str, Any]:
    """Returns a dict of a model's layers, first weights, loss and metrics.

    Two builds of one model give equal dicts, although Keras counts layer names up. The
    weights are represented by their norms, which other machines reproduce.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> identity = identity_of_model(model)
    >>> identity["loss"], list(identity["layers"]["layers"])
    ('mse', ['0 InputLayer', '1 Dense'])
    """
    identity = {
        "floatx": keras.config.floatx(),
        "layers": _described(model),
        "weights": [float(np.linalg.norm(to_numpy(v))) for v in model.weights],
        "steps_per_execution": model.steps_per_execution,
        **_compiled(model),
    }
    return _keyed(_renumbered(_simplified(as_json(identity))))


def as_json(content: Any) -> Any:
    """Returns content after a round trip through JSON; other objects become names.

    Example:

    >>> as_json({"f": len, "at": (1, 2)})
    {'f': 'len', 'at': [1, 2]}
    """
    return json.loads(json.dumps(content, default=_in_json))


def _in_json(value):
    """Returns a NumPy number as one of Python, and the name of anything else."""
    return value.item() if isinstance(value, np.generic) else name_of(value)


def name_of(value: Any) -> str:
    """Returns the name of a function or class, or else that of a value's class.

    Example:

    >>> name_of(print), name_of(1.5)
    ('print', 'float')
    """
    return getattr(value, "__name__", type(value).__name__)


def _described(layer):
    """Returns a layer's configuration, with the sublayers that it does not contain."""
    config = _serialized(layer)
    config = dict(config["config"]) if isinstance(config, dict) else {}
    text = json.dumps(config, default=_in_json)
    missing = {
        f"{index} {type(sublayer).__name__}": _described(sublayer)
        for index, sublayer in enumerate(keras_internals.tracked_layers(layer))
        if json.dumps(sublayer.name) not in text
    }
    return {**config, "class": type(layer).__name__, **_if_any(sublayers=missing)}


def _compiled(model):
    """Returns the serialized losses and metrics of a compiled model."""
    arguments = keras_internals.compile_arguments(model)
    return {name: _serialized(arguments.get(name)) for name in _COMPILED}


def _serialized(value):
    """Returns a value's configuration, or names if it cannot be serialized."""
    with warnings.catch_warnings(), contextlib.suppress(*_NOT_SERIALIZABLE):
        warnings.filterwarnings("ignore", ".*lambda", UserWarning)
        return keras.saving.serialize_keras_object(value)
    return keras.tree.map_structure(name_of, value)


def _if_any(**parts):
    return {name: part for name, part in parts.items() if part}


def _simplified(content):
    """Replaces a dtype policy by its name, and a lambda by the digest of its code."""
    if isinstance(content, list):
        return [_simplified(item) for item in content]
    if not isinstance(content, dict):
        return content
    if content.get("class_name") == "DTypePolicy":
        return content["config"]["name"]
    if content.get("class_name") == "__lambda__":
        config = content["config"]
        # A `Lambda` layer names the parts, a function that Keras serializes does not.
        parts = config.get("value") or [
            config[name] for name in ("code", "defaults", "closure")
        ]
        code, *values = parts
        loaded = marshal.loads(base64.b64decode(code))  # noqa: S302
        return [digest_of(loaded), *values]
    return {key: _simplified(value) for key, value in content.items()}


def digest_of(value: Any) -> str:
    """Returns a digest of a function or its code, wherever it is defined.

    It covers bytecode, constants, defaults and the variables of an enclosing function,
    but not file, line numbers and global variables.

    Example:

    >>> digest_of(lambda x: x + 1) == digest_of(lambda x: x + 2)
    False
    """
    return hashlib.sha256(repr(_stable(value, ())).encode()).hexdigest()[:16]


def _stable(value, above):
    """Returns nested lists and texts that are equal in every process.

    Args:
        value: A function, its code, or a value that they refer to.
        above: The functions that the value is a part of: one may refer to itself.
    """
    if isinstance(value, types.FunctionType) and value not in above:
        closure = [_content(cell) for cell in value.__closure__ or ()]
        parts = value.__code__, value.__defaults__, value.__kwdefaults__, closure
        return [_stable(part, (*above, value)) for part in parts]
    if isinstance(value, types.CodeType):
        value = value.co_code, value.co_names, value.co_consts
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple):
        return [_stable(part, above) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_stable(part, above)) for part in value)
    if isinstance(value, np.ndarray):
        return repr(value.dtype), value.shape, hashlib.sha256(value.tobytes()).digest()
    return repr(value) if isinstance(value, _SIMPLE) else name_of(value)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # It is empty.
        return None


def _renumbered(content):
    """Replaces the names of layers by their numbers."""
    names: dict[str, str] = {}
    for name in _layer_names(content):
        names.setdefault(name, f"layer {len(names)}")

    def replace(part):
        if isinstance(part, list):
            return [replace(item) for item in part]
        if isinstance(part, dict):
            return {names.get(key, key): replace(value) for key, value in part.items()}
        return names.get(part, part) if isinstance(part, str) else part

    return replace(content)


def _layer_names(content) -> Iterator[str]:
    if isinstance(content, list):
        for item in content:
            yield from _layer_names(item)
    elif isinstance(content, dict):
        for layer in content.get("layers", ()):
            if isinstance(layer, dict) and isinstance(layer.get("config"), dict):
                yield str(layer["config"].get("name"))
        for value in content.values():
            yield from _layer_names(value)


def _keyed(content):
    """Turns lists of serialized objects into dicts, whose differences can be named."""
    if isinstance(content, dict):
        return {key: _keyed(value) for key, value in content.items()}
    if not isinstance(content, list):
        return content
    items = [_keyed(item) for item in content]
    if items and all(isinstance(i, dict) and "class_name" in i for i in items):
        return {f"{n} {item['class_name']}": item for n, item in enumerate(items)}
    return items
