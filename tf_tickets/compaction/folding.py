"""Adds constants to the biases of layers, or to the batch normalization after them."""

import collections

import keras
import numpy as np

from tf_tickets import keras_internals, wrapping
from tf_tickets.wrapping import transforming

Folds = list[tuple[keras.layers.Layer, np.ndarray]]


def fold(model: keras.Model, folds: Folds) -> keras.Model:
    """Adds constants to what layers compute.

    A layer without a bias passes the constant on to the moving mean of a batch
    normalization that reads nothing else. Otherwise it gets a bias.

    Args:
        model: A plain functional or Sequential model. Its variables change.
        folds: Pairs of a Dense or convolutional layer of the model, and the constant
            for each of its outputs.

    Returns:
        The model, or one with other layers if some had no bias.

    Example:

    >>> layer = keras.layers.Dense(2, use_bias=False)
    >>> model = keras.Sequential([keras.Input((3,)), layer])
    >>> fold(model, [(layer, np.array([1.0, 2.0]))]).get_weights()[1].tolist()
    [1.0, 2.0]
    """
    without_bias = []
    following = _normalizations(model)
    for layer, constants in folds:
        if layer.bias is not None:
            _add(layer.bias, constants)
        elif id(layer) in following:
            _add(following[id(layer)].moving_mean, -constants)
        else:
            without_bias.append((layer, constants))
    return _with_biases(model, without_bias) if without_bias else model


def _add(variable, constants):
    value = wrapping.to_numpy(variable)
    variable.assign((value.astype(float) + constants).astype(value.dtype))


def _normalizations(model):
    """Dict from the id of a layer to the batch normalization that alone reads it."""
    calls = list(_all_calls(model))
    times = collections.Counter(id(call.operation) for call in calls)
    consumers = collections.defaultdict(list)
    for call in calls:
        for leaf in keras.tree.flatten((call.args, call.kwargs)):
            if isinstance(leaf, keras.KerasTensor):
                consumers[id(leaf)].append(call.operation)
    # Nested models pass their outputs on.
    ends = {id(tensor) for part in _graphs(model) for tensor in part.outputs}
    found = {}
    for call in calls:
        readers = consumers[id(call.outputs[0])]
        if (
            times[id(call.operation)] == 1
            and id(call.outputs[0]) not in ends
            and [type(reader) for reader in readers]
            == [keras.layers.BatchNormalization]
            and times[id(readers[0])] == 1
            and getattr(call.operation, "activation", None) is keras.activations.linear
        ):
            found[id(call.operation)] = readers[0]
    return found


def _all_calls(model):
    for call in keras_internals.calls(model):
        yield call
        if isinstance(call.operation, keras.Sequential | keras.Function):
            yield from _all_calls(call.operation)


def _graphs(model):
    inner = [call.operation for call in _all_calls(model)]
    kinds = keras.Sequential | keras.Function
    return [model, *(part for part in inner if isinstance(part, kinds))]


def _with_biases(model, folds):
    """Returns a model in which some layers have a bias; other layers are shared."""
    constants = {id(layer): values for layer, values in folds}

    def change(layer):
        if id(layer) not in constants:
            return layer
        return _with_bias(layer, constants[id(layer)])

    return transforming.transform(model, change)


def _with_bias(layer, constants):
    kind = type(layer)
    new = kind.from_config({**layer.get_config(), "use_bias": True})
    new.build_from_config(layer.get_build_config())
    new.kernel.assign(layer.kernel)
    new.kernel.trainable = layer.kernel.trainable
    new.bias.assign(constants)
    return new
