"""Converts networks from quantization-aware training to Keras 3 models."""

from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.tfmot import (
    layer_tables,
    network_configs,
    networks,
    tf_keras_models,
    weights,
)
from tf_tickets.tfmot.from_keras_2 import TOLERANCE, check_equal

_WRAPPERS = ("QuantizeWrapper", "QuantizeWrapperV2")


def from_qat(model: Any, data: Any = None, tolerance: float = TOLERANCE) -> keras.Model:
    """Converts a tf_keras model from tfmot's quantization-aware training to Keras 3.

    The kernels of the result are the dequantized weights: exactly those with which the
    given model predicts, multiples of the step of their int8 channel, with the zeros
    that it preserved. Activations are neither rounded nor clipped in the result, so
    its predictions differ from those of the given model; evaluate it. They are compared
    with those of a tf_keras model with the same weights. Convert the given model itself
    to int8 by TFLite's converter; the result is for everything else, such as
    `tf_tickets.export`, `compact` and tickets.

    Args:
        model: A Sequential or functional model from `quantize_apply`, trained.
        data: As in `from_tf_keras`.
        tolerance: As in `from_tf_keras`.

    Returns:
        A plain Keras 3 model that is not compiled.

    Example:

    >>> from_qat(keras.Sequential(name="net"))
    Traceback (most recent call last):
    TypeError: `model` must be a tf_keras model from tfmot's quantize_apply. ...
    """
    arguments.check_positive(tolerance=tolerance)
    if not tf_keras_models.is_model(model) or not _wrappers(model):
        raise TypeError(
            "`model` must be a tf_keras model from tfmot's quantize_apply. Received: "
            f"{arguments.shown(model)}. Convert other models by from_tf_keras."
        )
    config = tf_keras_models.configuration(model)
    network = network_configs.from_legacy(config, quantized=True)
    layer_tables.check(network)
    layer_tables.with_states_apart(network)
    result, layers = networks.build(
        network, keras, lambda spec: layer_tables.make_layer(spec, keras)
    )
    library = tf_keras_models.imported("from_qat")
    plain, their_layers = networks.build(
        network, library, lambda spec: _without_quantizers(spec, library)
    )
    by_name = {layer.name: layer for layer in model.layers}
    for path, spec in networks.leaves(network):
        arrays, _ = weights.separated(spec, _arrays(by_name[path[-1]]))
        weights.assign(layers[path], arrays, {})
        weights.assign_to_tf_keras(their_layers[path], arrays)
    inputs, expected = tf_keras_models.predicted(plain, network, data)
    check_equal(result, network, inputs, expected, tolerance)
    return result


def _wrappers(model):
    return [layer for layer in model.layers if type(layer).__name__ in _WRAPPERS]


def _without_quantizers(spec, library):
    """Returns the layer of tf_keras, without what rounds its activations."""
    config = {
        key: layer_tables.activation_of(value) for key, value in spec.config.items()
    }
    return getattr(library.layers, spec.class_name).from_config(config)


def _arrays(layer):
    """Returns the weights of a layer as it uses them, with their names."""
    if type(layer).__name__ not in _WRAPPERS:
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        return [(weights.base_name(v.name), np.asarray(v)) for v in variables]
    # A wrapper replaces the kernel in its layer, but keeps the variables in order.
    variables = [*layer.trainable_weights, *layer.layer.non_trainable_weights]
    dequantized = {
        id(variable): quantizer(variable, False, weights=ranges)
        for variable, quantizer, ranges in layer._weight_vars
    }
    return [
        (weights.base_name(v.name), np.asarray(dequantized.get(id(v), v)))
        for v in variables
    ]
