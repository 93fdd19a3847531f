"""Converts Keras 3 models and tickets to tf_keras models."""

import copy
from typing import Any

import keras

from tf_tickets import arguments, wrapping
from tf_tickets.tfmot import (
    layer_tables,
    network_configs,
    networks,
    tf_keras_models,
    weights,
)
from tf_tickets.tfmot.from_keras_2 import TOLERANCE, check_equal
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.wrapping import graphs, rebuilding


def to_tf_keras(
    source: keras.Model | Ticket,
    model: keras.Model | None = None,
    data: Any = None,
    tolerance: float = TOLERANCE,
) -> Any:
    """Converts a Keras 3 model or a ticket to a tf_keras model.

    The result can be given to tensorflow-model-optimization, such as its quantization-
    aware training that preserves pruning. Pruned weights are exact zeros. Both models
    are run on the same inputs, and a model that predicts other values is refused.
    Requires tf_keras.

    Args:
        source: A Sequential or functional Keras 3 model, plain or wrapped, or a
            `Ticket`, which gives the masks and start weights. To convert a network that
            was trained from a ticket, pass the trained network.
        model: The Keras 3 model of the ticket. It is not changed. Not required if the
            ticket was found by `find_tickets`, which stores its configuration.
        data: Inputs for the comparison, as in `from_tf_keras`.
        tolerance: As in `from_tf_keras`.

    Returns:
        A plain tf_keras model that is not compiled, with the layer names of the model.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="fc")])
    >>> theirs = to_tf_keras(model)
    >>> type(theirs).__module__.partition(".")[0], theirs.layers[0].name
    ('tf_keras', 'fc')
    """
    arguments.check_positive(tolerance=tolerance)
    plain = _plain(source, model)
    network = network_configs.from_current(plain)
    layer_tables.check(network)
    library = tf_keras_models.imported("to_tf_keras")
    result, layers = networks.build(
        network, library, lambda spec: layer_tables.make_layer(spec, library)
    )
    own = _layers(plain, network)
    for path, layer in layers.items():
        if path in own:  # An addition of two tensors is no layer in Keras 3.
            weights.assign_to_tf_keras(layer, weights.of_layer(own[path]))
    inputs, outputs = tf_keras_models.predicted(result, network, data)
    check_equal(graphs.graph_of(plain), network, inputs, outputs, tolerance)
    return result


def _plain(source, model):
    if isinstance(source, Ticket):
        wrapped = source.apply(_unshared(source, model))
        return wrapping.stripped_copy(wrapped)
    if not isinstance(source, keras.Model):
        raise TypeError(
            "`source` must be a Keras 3 model or a Ticket. Received: "
            f"{arguments.shown(source)} of type {type(source).__module__}."
            f"{type(source).__name__}."
        )
    if model is not None:
        raise TypeError(
            "`model` is only valid with a Ticket. Received: source="
            f"{arguments.shown(source)}, model={arguments.shown(model)}. Omit `model`."
        )
    _check_built(source)
    if not graphs.is_graph(source):
        return source  # Refused by its configuration.
    if wrapping.prunables(source):
        return wrapping.stripped_copy(source)
    return wrapping.without_augmentation(source)


def _check_built(model):
    if not model.built:
        raise ValueError(
            f"The model must be built. Received: {arguments.shown(model)}. Call it "
            "once, or begin it with a keras.Input."
        )


def _unshared(ticket, model):
    """Returns a plain model of the ticket whose variables belong to nobody else."""
    config = ticket.provenance.get("model")
    if model is None and config is None:
        raise TypeError(
            "A ticket is converted with its model: to_tf_keras(ticket, model). "
            f"Received: {ticket!r} without `model`. It does not come from "
            "find_tickets, so it does not know its model."
        )
    if model is None:
        return keras.saving.deserialize_keras_object(copy.deepcopy(config))
    arguments.check_type(keras.Model, model=model)
    _check_built(model)
    if not graphs.is_graph(model):
        network_configs.from_current(model)
    if wrapping.prunables(model):
        return wrapping.stripped_copy(model)
    return rebuilding.copy(model)


def _layers(model, network, path=()):
    """Returns the layers of a Keras 3 model by the paths of a description."""
    by_name = {layer.name: layer for layer in graphs.graph_of(model).layers}
    layers: dict[networks.Path, keras.layers.Layer] = {}
    for spec in network.layers:
        if spec.network is not None:
            inner = (*path, spec.name)
            layers |= _layers(by_name[spec.name], spec.network, inner)
        elif spec.class_name != "InputLayer" and spec.name in by_name:
            layers[(*path, spec.name)] = by_name[spec.name]
    return layers
