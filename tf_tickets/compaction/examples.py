"""Inputs on which a smaller model is compared with the model it was made from."""

from typing import Any

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.units import registry
from tf_tickets.wrapping import signature

_COUNT = 8
_SEED = 0


def of_model(model: keras.Model, data: Any = None) -> Any:
    """Returns a few examples in the structure of the model's inputs.

    Args:
        model: A functional or Sequential model.
        data: Inputs to take them from. By default they are random: floating-point
            inputs are normally distributed, and integers are below the number of rows
            of the embeddings that look them up.

    Example:

    >>> model = keras.Sequential([keras.Input((9,)), keras.layers.Embedding(5, 2)])
    >>> numbers = of_model(model)
    >>> numbers.shape, set(np.unique(numbers).tolist())
    ((8, 9), {0.0, 1.0, 2.0, 3.0, 4.0})
    """
    interface = signature.of_model(model)
    if data is not None:
        arrays = interface.named(data)
        count = interface.batch or _COUNT
        return interface.nested({name: x[:count] for name, x in arrays.items()})
    arrays = interface.examples(_COUNT, _SEED, model)
    limits = embedding_sizes(model)
    rng = np.random.default_rng(_SEED)
    for spec, tensor in zip(interface.inputs, model.inputs, strict=True):
        if id(tensor) in limits:
            array = arrays[spec.name]
            numbers = rng.integers(0, limits[id(tensor)], size=array.shape)
            arrays[spec.name] = numbers.astype(array.dtype)
    return interface.nested(arrays)


def embedding_sizes(model: keras.Model) -> dict[int, int]:
    """Returns how many rows there are to look up by the inputs of a model.

    Args:
        model: A functional or Sequential model.

    Returns:
        Dict from the id of an input that embeddings look up to their smallest number
        of rows.

    Example:

    >>> model = keras.Sequential([keras.Input((9,)), keras.layers.Embedding(5, 2)])
    >>> list(embedding_sizes(model).values())
    [5]
    """
    return _embedding_sizes(model, {id(x): id(x) for x in model.inputs})


def _embedding_sizes(model, origins):
    """As `embedding_sizes`; `origins` has the id of the input that a tensor is."""
    found: dict[int, int] = {}
    for call in keras_internals.calls(model):
        layer = registry.unwrapped(call.operation)
        leaves = keras.tree.flatten((call.args, call.kwargs))
        given = [origins[id(leaf)] for leaf in leaves if id(leaf) in origins]
        sizes: dict[int, int] = {}
        if isinstance(layer, keras.layers.Embedding):
            sizes = {origin: layer.input_dim for origin in given}
        elif registry.is_graph(layer) and len(given) == len(layer.inputs):
            pairs = zip(layer.inputs, given, strict=True)
            inner = {id(tensor): origin for tensor, origin in pairs}
            sizes = _embedding_sizes(layer, inner)
        for origin, size in sizes.items():
            found[origin] = min(size, found.get(origin, size))
    return found
